/* Mixtures and evaluation tasks of a job spec: what they must be, what they imply, where their files are named. */
#include "unit.h"

#define WIKI  "{'domain':'wiki','weight':0.25,'train':['w1.jsonl','w2.jsonl'],'valid':'wv.jsonl'}"
#define BOOK  "{'domain':'book','weight':0.75,'train':['b.jsonl'],'valid':null}"
#define MIXED "'data':{'mixture':[" WIKI "," BOOK "]}"

static struct job_spec good(const char *text)
{
    struct job_spec s;
    struct spec_errors errs;
    cJSON *j = parse_quoted(text);
    if (spec_parse(j, "/d", &s, &errs) != 0)
        fail_msg("%s: %s %s", text, errs.at[0].path, errs.at[0].msg);
    cJSON_Delete(j);
    return s;
}

/* The only error that a spec has. */
static void bad(const char *text, const char *path, const char *says, const char *hints)
{
    struct job_spec s;
    struct spec_errors e;
    cJSON *j = parse_quoted(text);
    assert_int_equal(spec_parse(j, "/d", &s, &e), -1);
    cJSON_Delete(j);
    if (e.n != 1 || strcmp(e.at[0].path, path) != 0 || !strstr(e.at[0].msg, says) ||
        !strstr(e.at[0].hint, hints))
        fail_msg("%s: %d errors, %s: %s (%s)", text, e.n, e.at[0].path, e.at[0].msg, e.at[0].hint);
}

static void a_mixture_is_read_and_written(void **state)
{
    (void)state;
    struct job_spec s = good("{'model':'m'," MIXED "}");
    assert_int_equal(s.data.n_mixture, 2);
    assert_int_equal(s.data.n_train, 0);
    assert_string_equal(s.data.mixture[0].name, "wiki");
    assert_true(s.data.mixture[0].weight == 0.25);
    assert_int_equal(s.data.mixture[0].n_train, 2);
    assert_string_equal(s.data.mixture[0].train[1], "/d/w2.jsonl");
    assert_string_equal(s.data.mixture[0].valid, "/d/wv.jsonl");
    assert_null(s.data.mixture[1].valid);
    assert_string_equal(s.data.format, "jsonl"); /* from the domains' files */

    cJSON *doc = spec_to_json(&s);
    struct job_spec back;
    struct spec_errors e;
    assert_int_equal(spec_parse(doc, NULL, &back, &e), 0);
    cJSON *again = spec_to_json(&back);
    assert_true(cJSON_Compare(doc, again, true));
    cJSON_Delete(again);
    cJSON_Delete(doc);
    spec_finish(&back);
    spec_finish(&s);
}

static void a_mixture_must_be_one(void **state)
{
    (void)state;
    static const struct {
        const char *list, *path, *says, *hint;
    } cases[] = {
        {"{}", "$.data.mixture", "must be a list", "domain"},
        {"[]", "$.data.mixture", "at least one domain", "domain"},
        {"[7]", "$.data.mixture[0]", "must be an object", ""},
        {"[" WIKI "]", "$.data.mixture", "sum to 0.25, but must sum to 1", "divide"},
        {"[" WIKI ",{'domain':'b','weight':0.7501,'train':['b.jsonl']}]", "$.data.mixture",
         "sum to 1.0001", ""},
        {"[{'domain':'b','weight':-1,'train':['b.jsonl']}]", "$.data.mixture[0].weight", "above 0",
         ""},
        {"[{'domain':'b','weight':0,'train':['b.jsonl']}]", "$.data.mixture[0].weight", "above 0",
         ""},
        {"[{'domain':'b','train':['b.jsonl']}]", "$.data.mixture[0].weight", "above 0", ""},
        {"[{'domain':'b c','weight':1,'train':['b.jsonl']}]", "$.data.mixture[0].domain",
         "must be a name", "wiki"},
        {"[{'domain':'a-name-of-more-than-24-bytes','weight':1,'train':['b.jsonl']}]",
         "$.data.mixture[0].domain", "1 to 24", ""},
        {"[{'weight':1,'train':['b.jsonl']}]", "$.data.mixture[0].domain", "must be a name", ""},
        {"[{'domain':'b','weight':1,'train':[]}]", "$.data.mixture[0].train", "at least one file",
         ""},
        {"[{'domain':'b','weight':1,'train':['a.jsonl',3]}]", "$.data.mixture[0].train[1]",
         "string", ""},
        {"[{'domain':'b','weight':1,'train':['b.jsonl'],'valid':3}]", "$.data.mixture[0].valid",
         "string", ""},
        {"[{'domain':'b','weigth':1,'weight':1,'train':['b.jsonl']}]", "$.data.mixture[0].weigth",
         "unknown", "weight"},
        {"[" WIKI "," WIKI ",{'domain':'b','weight':0.5,'train':['b.jsonl']}]",
         "$.data.mixture[1].domain", "name of entry 0", "one entry"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[512];
        snprintf(text, sizeof text, "{'model':'/m','data':{'mixture':%s}}", cases[i].list);
        bad(text, cases[i].path, cases[i].says, cases[i].hint);
    }
    /* weights rounded to six places */
    struct job_spec s = good("{'model':'/m','data':{'mixture':["
                             "{'domain':'a','weight':0.333333,'train':['a.u16']},"
                             "{'domain':'b','weight':0.333333,'train':['b.u16']},"
                             "{'domain':'c','weight':0.333333,'train':['c.u16']}]}}");
    spec_finish(&s);
}

static void a_mixture_stands_alone(void **state)
{
    (void)state;
    bad("{'model':'/m','data':{'train':['/a.jsonl'],'mixture':[" WIKI "," BOOK "]}}",
        "$.data.mixture", "beside data.train", "each domain");
    bad("{'model':'/m','data':{'valid':'/a.jsonl','mixture':[" WIKI "," BOOK "]}}",
        "$.data.mixture", "beside data.valid", "each domain");
    bad("{'model':'/m','data':{'mixture':[{'domain':'a','weight':0.5,'train':['a.u16']},"
        "{'domain':'b','weight':0.5,'train':['b.txt']}]}}",
        "$.data.format", "looks like text", "one format");
}

static void tasks_are_read_and_checked(void **state)
{
    (void)state;
#define WITH(tasks) "{'model':'/m','data':{'train':['/a.u16']},'eval':{" tasks "}}"
    struct job_spec s = good(WITH("'tasks':[{'task':'arc-e','path':'e.jsonl'},"
                                  "{'task':'boolq','path':'/b.jsonl'}],'shots':5,'limit':100"));
    assert_int_equal(s.n_eval_tasks, 2);
    assert_string_equal(s.eval_tasks[0].name, "arc-e");
    assert_string_equal(s.eval_tasks[0].path, "/d/e.jsonl");
    assert_string_equal(s.eval_tasks[1].path, "/b.jsonl");
    assert_int_equal(s.eval_shots, 5);
    assert_int_equal(s.eval_limit, 100);
    cJSON *doc = spec_to_json(&s);
    struct job_spec back;
    struct spec_errors e;
    assert_int_equal(spec_parse(doc, NULL, &back, &e), 0);
    assert_string_equal(back.eval_tasks[0].path, "/d/e.jsonl");
    cJSON_Delete(doc);
    spec_finish(&back);
    spec_finish(&s);

    s = good(WITH("'tasks':[]")); /* none */
    assert_int_equal(s.n_eval_tasks, 0);
    spec_finish(&s);

    bad(WITH("'tasks':[{'task':'ark-e','path':'e'}]"), "$.eval.tasks[0].task", "no task \"ark-e\"",
        "did you mean \"arc-");
    bad(WITH("'tasks':[{'task':'mmlu','path':'e'}]"), "$.eval.tasks[0].task", "no task",
        "winogrande");
    bad(WITH("'tasks':[{'path':'e'}]"), "$.eval.tasks[0].task", "must be the name", "arc-e");
    bad(WITH("'tasks':[{'task':'piqa'}]"), "$.eval.tasks[0].path", "required", "");
    bad(WITH("'tasks':[{'task':'piqa','path':'a','shots':3}]"), "$.eval.tasks[0].shots", "unknown",
        "");
    bad(WITH("'tasks':[{'task':'piqa','path':'a'},{'task':'piqa','path':'b'}]"),
        "$.eval.tasks[1].task", "entry 0", "");
    bad(WITH("'tasks':'piqa'"), "$.eval.tasks", "list", "arc-e");
    bad(WITH("'shots':65"), "$.eval.shots", "out of range", "");
    bad(WITH("'limit':-1"), "$.eval.limit", "out of range", "");
}

static void instruct_data_recover_by_kl_and_bild(void **state)
{
    (void)state;
    struct job_spec s = good("{'model':'/m','data':{'train':['/a.jsonl'],'format':'instruct'}}");
    assert_true(s.w_kl == 1 && s.w_bild == 1 && s.w_lm == 0);
    spec_finish(&s);
    s = good("{'model':'/m','data':{'train':['/a.jsonl'],'format':'instruct'},"
             "'recovery':{'lm':1}}");
    assert_true(s.w_kl == 0 && s.w_bild == 0 && s.w_lm == 1);
    spec_finish(&s);
    s = good("{'model':'/m','data':{'train':['/a.jsonl']}}");
    assert_true(s.w_bild == 0);
    spec_finish(&s);
}

static int list_file(void *arg, cJSON *item, const char *where)
{
    char *text = arg;
    snprintf(text + strlen(text), 512 - strlen(text), "%s=%s ", where, item->valuestring);
    return 0;
}

static void every_file_of_a_document_is_found_once(void **state)
{
    (void)state;
    char text[512] = "";
    cJSON *j = parse_quoted(
        "{'model':'/m','data':{'train':['a',7,'b'],'valid':'v','tokenizer':'t','mixture':[" WIKI
        ",7," BOOK "]},'eval':{'tasks':[{'task':'x','path':'p'},{'task':'y'}]}}");
    assert_int_equal(spec_each_file(j, list_file, text), 0);
    assert_string_equal(text,
                        "$.data.train[0]=a $.data.train[2]=b $.data.valid=v $.data.tokenizer=t "
                        "$.data.mixture[0].train[0]=w1.jsonl $.data.mixture[0].train[1]=w2.jsonl "
                        "$.data.mixture[2].train[0]=b.jsonl $.data.mixture[0].valid=wv.jsonl "
                        "$.eval.tasks[0].path=p ");
    cJSON_Delete(j);
    text[0] = '\0';
    j = parse_quoted("{'data':[],'eval':{'tasks':{'path':'x'}}}");
    assert_int_equal(spec_each_file(j, list_file, text), 0);
    assert_string_equal(text, "");
    cJSON_Delete(j);
}

/* Stages (one letter each) whose inputs two specs have in different. */
static void differ(const char *one, const char *two, const char *want)
{
    static const char letters[] = "sftex";
    struct job_spec a = good(one), b = good(two);
    char got[8] = "", *g = got;
    for (int k = 0; k < STAGE_KINDS; k++) {
        cJSON *x = spec_stage_inputs(&a, (enum stage_kind)k);
        cJSON *y = spec_stage_inputs(&b, (enum stage_kind)k);
        if (!cJSON_Compare(x, y, true))
            *g++ = letters[k];
        cJSON_Delete(x);
        cJSON_Delete(y);
    }
    *g = '\0';
    assert_string_equal(got, want);
    spec_finish(&a);
    spec_finish(&b);
}

static void stages_depend_on_what_they_read_of_them(void **state)
{
    (void)state;
    differ("{'model':'/m'," MIXED "}", "{'model':'/m'," MIXED ",'priority':3}", "");
    differ("{'model':'/m'," MIXED "}",
           "{'model':'/m','data':{'mixture':[" WIKI
           ",{'domain':'book','weight':0.75,'train':['c.jsonl']}]}}",
           "sfte");
    differ(WITH("'shots':3"), WITH("'limit':9"), ""); /* without tasks they say nothing */
    differ(WITH("'tasks':[{'task':'piqa','path':'a'}]"), WITH(""), "e");
    differ(WITH("'tasks':[{'task':'piqa','path':'a'}]"),
           WITH("'tasks':[{'task':'piqa','path':'a'}],'limit':9"), "e");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_mixture_is_read_and_written),
        cmocka_unit_test(a_mixture_must_be_one),
        cmocka_unit_test(a_mixture_stands_alone),
        cmocka_unit_test(tasks_are_read_and_checked),
        cmocka_unit_test(instruct_data_recover_by_kl_and_bild),
        cmocka_unit_test(every_file_of_a_document_is_found_once),
        cmocka_unit_test(stages_depend_on_what_they_read_of_them),
    };
    return cmocka_run_group_tests_name("lists", tests, NULL, NULL);
}
