/* Numbers, bars, sparklines and tables as text. */
#include "tests/unit/cli/capture.h"

#include <math.h>

static void numbers_are_short_and_unknown_ones_are_a_dash(void **state)
{
    (void)state;
    char b[FMT_BUF];
    assert_string_equal(fmt_count(b, 999), "999");
    assert_string_equal(fmt_count(b, 12345), "12.3k");
    assert_string_equal(fmt_count(b, 999999), "1.00M");
    assert_string_equal(fmt_count(b, NAN), "-");
    assert_string_equal(fmt_bytes(b, 512), "512 B");
    assert_string_equal(fmt_bytes(b, 1536), "1.5 KiB");
    assert_string_equal(fmt_bytes(b, (int64_t)1 << 30), "1.0 GiB");
    assert_string_equal(fmt_bytes(b, -1), "-");
    assert_string_equal(fmt_loss(b, 2.63012), "2.6301");
    assert_string_equal(fmt_loss(b, INFINITY), "-");
    assert_string_equal(fmt_percent(b, 0.25), "25.0 %");
}

static void times_change_their_unit(void **state)
{
    (void)state;
    char b[FMT_BUF];
    assert_string_equal(fmt_seconds(b, 0.44), "0.4 s");
    assert_string_equal(fmt_seconds(b, 9.96), "10 s");
    assert_string_equal(fmt_seconds(b, 59.6), "1m00s");
    assert_string_equal(fmt_seconds(b, 185), "3m05s");
    assert_string_equal(fmt_seconds(b, 7620), "2h07m");
    assert_string_equal(fmt_seconds(b, 3 * 86400), "3d00h");
    assert_string_equal(fmt_seconds(b, -1), "-");
    assert_string_equal(fmt_time(b, 0), "-");
}

static void a_bar_is_as_full_as_the_work_is_done(void **state)
{
    (void)state;
    struct capture c;
    capture_begin(&c);
    fmt_bar(c.out, &ascii, 0.5, 10);
    fmt_bar(c.out, &ascii, 0, 6);
    fmt_bar(c.out, &ascii, 1, 6);
    fmt_bar(c.out, &ascii, 7, 6);
    fmt_bar(c.out, &ascii, NAN, 6);
    capture_is(&c, "[####....][....][####][####][....]");
}

static void colours_are_ended_wherever_the_bar_ends(void **state)
{
    (void)state;
    static const double done[] = {0, 0.5, 1};
    for (int i = 0; i < 3; i++) {
        struct capture c;
        int on = 0;
        int off = 0;
        capture_begin(&c);
        fmt_bar(c.out, &colour, done[i], 10);
        fclose(c.out);
        for (const char *s = c.text; (s = strchr(s, '\033')); s++) {
            if (!strncmp(s, "\033[0m", 4)) {
                off++;
            } else {
                on++;
            }
        }
        assert_int_equal(on, 1);
        assert_int_equal(off, 1);
        assert_int_equal(fmt_width(c.text), 10);
        free(c.text);
    }
}

static void a_sparkline_falls_with_the_loss(void **state)
{
    (void)state;
    static const double v[] = {8, 7, 6, 5, 4, 3, 2, 1};
    struct capture c;
    capture_begin(&c);
    fmt_spark(c.out, &utf8, v, 8, 20);
    capture_is(&c, "█▇▆▅▄▃▂▁");
    capture_begin(&c);
    fmt_spark(c.out, &ascii, v, 8, 8);
    capture_is(&c, "#*+=~-._");
}

static void a_long_series_is_averaged_into_the_room_there_is(void **state)
{
    (void)state;
    double v[1000];
    struct capture c;
    for (int i = 0; i < 1000; i++) {
        v[i] = i < 500 ? 2 : 1;
    }
    capture_begin(&c);
    fmt_spark(c.out, &ascii, v, 1000, 4);
    capture_is(&c, "##__");
}

static void a_sparkline_leaves_out_what_is_not_finite_and_keeps_a_flat_one_low(void **state)
{
    (void)state;
    static const double v[] = {NAN, 1, INFINITY, 1};
    struct capture c;
    capture_begin(&c);
    fmt_spark(c.out, &ascii, v, 4, 10);
    capture_is(&c, "__");
    capture_begin(&c);
    fmt_spark(c.out, &ascii, v, 0, 10);
    capture_is(&c, "");
}

static void width_counts_characters_not_bytes_nor_escapes(void **state)
{
    (void)state;
    assert_int_equal(fmt_width("abc"), 3);
    assert_int_equal(fmt_width("▁▂▃"), 3);
    assert_int_equal(fmt_width("\033[31mred\033[0m"), 3);
}

static void clipping_keeps_escapes_whole_so_that_colours_end(void **state)
{
    (void)state;
    struct capture c;
    capture_begin(&c);
    assert_int_equal(fmt_clip(c.out, "\033[31mabcdef\033[0m", 3), 3);
    capture_is(&c, "\033[31mabc\033[0m");
    capture_begin(&c);
    assert_int_equal(fmt_clip(c.out, "█░█", 2), 2);
    capture_is(&c, "█░");
}

static void columns_are_as_wide_as_their_longest_cell(void **state)
{
    (void)state;
    static const char *const heads[] = {"name", "loss"};
    static const enum fmt_align align[] = {FMT_LEFT, FMT_RIGHT};
    struct table *t = table_create(2, heads, align);
    struct capture c;
    table_cell(t, "%s", "spectral");
    table_cell(t, "%.2f", 2.63);
    table_cell(t, "é");
    table_cell(t, "%d", 12345678);
    capture_begin(&c);
    table_print(t, c.out, &ascii, "  ");
    capture_is(&c, "  name          loss\n"
                   "  spectral      2.63\n"
                   "  é         12345678\n");
    table_destroy(t);
    table_destroy(NULL);
}

static void a_word_for_the_shell_is_quoted_only_where_it_must_be(void **state)
{
    (void)state;
    static const char *const cases[][2] = {{"out/my-model_25", "out/my-model_25"},
                                           {"a b", "'a b'"},
                                           {"it's", "'it'\\''s'"},
                                           {"", "''"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct capture c;
        capture_begin(&c);
        fmt_shell(c.out, cases[i][0]);
        capture_is(&c, cases[i][1]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_short_and_unknown_ones_are_a_dash),
        cmocka_unit_test(times_change_their_unit),
        cmocka_unit_test(a_bar_is_as_full_as_the_work_is_done),
        cmocka_unit_test(colours_are_ended_wherever_the_bar_ends),
        cmocka_unit_test(a_sparkline_falls_with_the_loss),
        cmocka_unit_test(a_long_series_is_averaged_into_the_room_there_is),
        cmocka_unit_test(a_sparkline_leaves_out_what_is_not_finite_and_keeps_a_flat_one_low),
        cmocka_unit_test(width_counts_characters_not_bytes_nor_escapes),
        cmocka_unit_test(clipping_keeps_escapes_whole_so_that_colours_end),
        cmocka_unit_test(columns_are_as_wide_as_their_longest_cell),
        cmocka_unit_test(a_word_for_the_shell_is_quoted_only_where_it_must_be),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
