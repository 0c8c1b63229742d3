/* Lists of cores, and what of a node's cores each slot gets. */
#include "proto/cores.h"

#include <string.h>

#include "unit.h"

static void lists_of_cores_are_read_and_written(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int n;
    } good[] = {{"0", 1}, {"0-3", 4}, {"0-3,8", 5}, {"4095", 1}, {"1,3,5", 3}};
    static const char *const bad[] = {"",   "-1", "3-1", "1,1",  "2,1",  "1,",    "a",
                                      "0-", " 1", "1 ",  "4096", "0,,1", "00001", "1-2-3"};
    int cores[CORES_MAX];
    char text[CORES_TEXT];
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(cores_read(good[i].text, cores, CORES_MAX), good[i].n);
        assert_int_equal(cores_write(cores, (size_t)good[i].n, text, sizeof text), 0);
        assert_string_equal(text, good[i].text);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (cores_read(bad[i], cores, CORES_MAX) >= 0)
            fail_msg("\"%s\" was taken", bad[i]);
    assert_int_equal(cores_read("0-9", cores, 9), -1);
    assert_int_equal(cores_write((int[]){1, 3, 5}, 3, text, 5), -1);
}

static void slots_get_disjoint_cores_that_are_all_of_them(void **state)
{
    (void)state;
    int cores[64];
    char text[CORES_TEXT];
    for (size_t n = 1; n <= 64; n++) {
        for (size_t i = 0; i < n; i++)
            cores[i] = (int)(i < 8 ? i : i + 8);
        for (size_t slots = 1; slots <= n; slots++) {
            size_t used = 0;
            for (size_t i = 0; i < slots; i++) {
                int own[64];
                cores_of_slot(cores, n, i, slots, text);
                int got = cores_read(text, own, 64);
                assert_true(got >= (int)(n / slots) && got <= (int)(n / slots) + 1);
                assert_memory_equal(own, cores + used, (size_t)got * sizeof *own);
                used += (size_t)got;
            }
            assert_int_equal(used, n);
        }
        cores_of_slot(cores, n, 0, n + 1, text);
        assert_string_equal(text, "");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_of_cores_are_read_and_written),
        cmocka_unit_test(slots_get_disjoint_cores_that_are_all_of_them),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
