/* Domains and tasks of a result as lines for people. */
#include "tests/unit/cli/capture.h"

#include "cli/scores.h"

static void shows(const char *result, const char *want)
{
    struct dha_err e = {0};
    struct capture c;
    cJSON *j = json_parse(result, strlen(result), NULL, &e);
    if (!j) {
        fail_msg("%s", e.msg);
    }
    capture_begin(&c);
    scores_show(c.out, j);
    capture_is(&c, want);
    cJSON_Delete(j);
}

static void a_result_without_domains_and_tasks_says_nothing(void **state)
{
    (void)state;
    shows("{\"loss\":{\"parent\":3},\"domains\":null,\"tasks\":null}", "");
    shows("{}", "");
    shows("{\"domains\":[],\"tasks\":{}}", ""); /* of another version */
}

static void domains_compare_the_last_model_with_the_parent(void **state)
{
    (void)state;
    shows("{\"domains\":{\"wiki\":{\"parent\":3,\"converted\":3.5,\"final\":3.25},"
          "\"book\":{\"parent\":2,\"converted\":2.5}}}",
          "  domains            wiki             parent 3.0000  final  3.2500  (+0.2500)\n"
          "                     book             parent 2.0000  converted  2.5000  (+0.5000)\n");
}

static void tasks_show_the_final_model_beside_the_parent(void **state)
{
    (void)state;
    shows("{\"tasks\":[{\"model\":\"parent\",\"task\":\"piqa\",\"questions\":100,\"acc\":0.5,"
          "\"acc_stderr\":0.05},"
          "{\"model\":\"final\",\"task\":\"piqa\",\"questions\":100,\"acc\":0.25,\"acc_stderr\":"
          "null},"
          "{\"model\":\"final\",\"task\":\"siqa\",\"questions\":3,\"acc\":1}]}",
          "  tasks              piqa             parent 50.0 % +- 5.0  final 25.0 %  of 100 "
          "questions\n"
          "                     siqa             final 100.0 %  of 3 questions\n");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_result_without_domains_and_tasks_says_nothing),
        cmocka_unit_test(domains_compare_the_last_model_with_the_parent),
        cmocka_unit_test(tasks_show_the_final_model_beside_the_parent),
    };
    return cmocka_run_group_tests_name("scores", tests, NULL, NULL);
}
