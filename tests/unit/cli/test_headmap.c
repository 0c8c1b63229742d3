/* Head maps as letters. */
#include "tests/unit/cli/capture.h"

#include "cli/headmap.h"

static void equal_letters_share_a_head_in_order_of_first_use(void **state)
{
    (void)state;
    static const int map[] = {2, 2, 0, 1, 0, 2, 1, 1};
    struct capture c;
    capture_begin(&c);
    assert_int_equal(headmap_row(c.out, &ascii, map, 8), 3);
    capture_is(&c, "a a b c b a c c");
}

static void more_heads_than_letters_are_numbered(void **state)
{
    (void)state;
    int map[64];
    struct capture c;
    for (int i = 0; i < 64; i++) {
        map[i] = i;
    }
    capture_begin(&c);
    assert_int_equal(headmap_row(c.out, &ascii, map, 64), 64);
    capture_has(&c, "a b c ");
    capture_has(&c, " 9 62 63");
    capture_end(&c);
}

static void each_layer_has_a_row_for_keys_and_one_for_values(void **state)
{
    (void)state;
    static const char text[] =
        "{\"key_of\":[[0,0,1,1],[0,1,2,3]],\"value_of\":[[0,0,0,0],[1,1,0,0]]}";
    struct dha_err e = {0};
    cJSON *r = json_parse(text, sizeof text - 1, NULL, &e);
    struct capture c;
    assert_non_null(r);
    capture_begin(&c);
    assert_int_equal(headmap_print(c.out, &ascii, r, ""), 0);
    capture_is(&c, "layer 0   K  a a b b   2 of 4\n"
                   "          V  a a a a   1 of 4\n"
                   "layer 1   K  a b c d   4 of 4\n"
                   "          V  a a b b   2 of 4\n");
    cJSON_Delete(r);
}

static void a_map_that_is_none_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "{}", "{\"key_of\":null,\"value_of\":null}", "{\"key_of\":[[0]],\"value_of\":[]}",
        "{\"key_of\":[[-1]],\"value_of\":[[0]]}", "{\"key_of\":[[\"x\"]],\"value_of\":[[0]]}"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        cJSON *r = json_parse(bad[i], strlen(bad[i]), NULL, NULL);
        struct capture c;
        assert_non_null(r);
        capture_begin(&c);
        assert_int_equal(headmap_print(c.out, &ascii, r, ""), -1);
        capture_end(&c);
        cJSON_Delete(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(equal_letters_share_a_head_in_order_of_first_use),
        cmocka_unit_test(more_heads_than_letters_are_numbered),
        cmocka_unit_test(each_layer_has_a_row_for_keys_and_one_for_values),
        cmocka_unit_test(a_map_that_is_none_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
