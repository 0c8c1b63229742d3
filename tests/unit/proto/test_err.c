/* Errors: one table, fixed buffers, context in front; and the text helpers they rest on. */
#include <errno.h>

#include "proto/text.h"
#include "unit.h"

static void every_code_goes_to_its_names_and_back(void **state)
{
    (void)state;
    for (int i = 0; i < DHA_E_COUNT; i++) {
        enum dha_code c = (enum dha_code)i;
        assert_int_equal(dha_code_from_name(dha_code_name(c)), c);
        assert_int_equal(dha_code_from_exit(dha_code_exit(c)), c); /* exit codes differ, too */
        assert_true(dha_code_meaning(c)[0] != '\0');
        assert_true(dha_code_http(c) >= 200 && dha_code_http(c) < 600);
    }
    assert_string_equal(dha_code_name(DHA_E_SPEC), "invalid_spec");
    assert_int_equal(dha_code_http(DHA_E_SPEC), 422);
    assert_int_equal(dha_code_exit(DHA_E_SPEC), 64);
    assert_int_equal(dha_code_retry(DHA_E_SPEC), DHA_RETRY_USER);
    assert_int_equal(dha_code_retry(DHA_E_COMM), DHA_RETRY_INFRA);
    assert_int_equal(dha_code_retry(DHA_E_STOPPED), DHA_RETRY_FREE);
    assert_int_equal(dha_code_retry(DHA_E_OK), DHA_RETRY_NONE);
    assert_int_equal(dha_code_from_name("nonsense"), DHA_E_COUNT);
    assert_int_equal(dha_code_from_name(NULL), DHA_E_COUNT);
    assert_int_equal(dha_code_from_exit(255), DHA_E_COUNT);
    assert_string_equal(dha_code_name((enum dha_code)4711), "internal");
}

static void context_stands_in_front_and_hints_stay(void **state)
{
    (void)state;
    struct dha_err e = {0};
    assert_int_equal(dha_fail(&e, DHA_E_INPUT, "no %s", "head"), -1);
    assert_int_equal(dha_err_hint(&e, "give one"), -1);
    assert_int_equal(dha_err_context(&e, "loading %d", 7), -1);
    assert_string_equal(e.msg, "loading 7: no head");
    assert_string_equal(e.hint, "give one");
    assert_int_equal(e.code, DHA_E_INPUT);
    dha_fail(&e, DHA_E_IO, "again: %s", e.msg); /* its own text as an argument */
    assert_string_equal(e.msg, "again: loading 7: no head");
    assert_string_equal(e.hint, "");
    assert_int_equal(dha_fail(NULL, DHA_E_IO, "x"), -1);
    assert_int_equal(dha_fail_errno(NULL, EIO, "x"), -1);
    assert_int_equal(dha_err_hint(NULL, "x"), -1);
    assert_int_equal(dha_err_context(NULL, "x"), -1);
}

static void errno_becomes_a_code(void **state)
{
    (void)state;
    const struct {
        int errnum;
        enum dha_code code;
    } want[] = {{ENOSPC, DHA_E_NO_SPACE},  {EDQUOT, DHA_E_NO_SPACE}, {ENOMEM, DHA_E_NO_MEMORY},
                {ENOENT, DHA_E_NOT_FOUND}, {EIO, DHA_E_IO},          {EACCES, DHA_E_IO}};
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        struct dha_err e = {0};
        assert_int_equal(dha_fail_errno(&e, want[i].errnum, "opening %s", "/x"), -1);
        assert_int_equal(e.code, want[i].code);
        assert_memory_equal(e.msg, "opening /x: ", 12);
        assert_true(strlen(e.msg) > 12);
    }
}

static void no_room_for_bytes_is_told_from_no_room_for_files(void **state)
{
    (void)state;
    const struct {
        struct statvfs fs;
        const char *begins, *says;
    } want[] = {
        {{.f_frsize = 4096, .f_bavail = 0, .f_files = 9, .f_favail = 5}, "free space", "had 0 MiB"},
        {{.f_frsize = 4096, .f_bavail = 512, .f_files = 9, .f_favail = 0},
         "remove files",
         "(inodes), and 2 MiB free"},
        {{.f_frsize = 4096, .f_bavail = 512},
         "free space",
         "had 2 MiB free"}}; /* counts no files */
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        char text[200];
        dha_space_words(&want[i].fs, "/x", text, sizeof text);
        assert_memory_equal(text, want[i].begins, strlen(want[i].begins));
        assert_non_null(strstr(text, want[i].says));
        assert_non_null(strstr(text, "the disk of /x "));
    }
    struct dha_err e = {0};
    dha_fail(&e, DHA_E_NO_SPACE, "x");
    assert_int_equal(dha_err_hint_space(&e, "/"), -1);
    assert_non_null(strstr(e.hint, "the disk of / had"));
    assert_int_equal(dha_err_hint_space(&e, "/is/not/there"), -1);
    assert_string_equal(e.hint, "free space in /is/not/there");
}

static void long_texts_are_cut_at_a_character(void **state)
{
    (void)state;
    char text[2000];
    for (size_t i = 0; i + 3 < sizeof text; i += 3)
        memcpy(text + i, "\xe2\x82\xac", 4); /* euro signs; 3 does not divide the buffer */
    struct dha_err e = {0};
    dha_fail(&e, DHA_E_IO, "%s", text);
    assert_int_equal(strlen(e.msg), (sizeof e.msg - 1) / 3 * 3);
    dha_err_context(&e, "ab");
    assert_int_equal((strlen(e.msg) - 4) % 3, 0);
    dha_err_hint(&e, "%s", text);
    assert_int_equal(strlen(e.hint) % 3, 0);
    dha_fail(&e, DHA_E_IO, "short");
    for (int i = 0; i < 100; i++)
        dha_err_context(&e, "layer %d", i);
    assert_memory_equal(e.msg, "layer 99: layer 98", 18);
}

static void bytes_that_are_no_characters_become_question_marks(void **state)
{
    (void)state;
    char text[] = "a\xe2\x82\xac \xff\xe2\x82 \xc3";
    text_clean_utf8(text);
    assert_string_equal(text, "a\xe2\x82\xac ??? ?");
    char empty[] = "";
    text_clean_utf8(empty);
    assert_string_equal(empty, "");
}

static void utf8_is_judged_by_the_standard(void **state)
{
    (void)state;
    const struct {
        const char *bytes;
        size_t len;
    } cases[] = {
        {"a", 1},
        {"\xc3\xa9", 2},
        {"\xe2\x82\xac", 3},
        {"\xf0\x9f\x98\x80", 4},
        {"\xf4\x8f\xbf\xbf", 4}, /* U+10FFFF */
        {"\xc0\x80", 0},         /* overlong NUL */
        {"\xc1\xbf", 0},         /* overlong */
        {"\xe0\x9f\xbf", 0},     /* overlong */
        {"\xf0\x8f\xbf\xbf", 0}, /* overlong */
        {"\xed\xa0\x80", 0},     /* a surrogate */
        {"\xed\x9f\xbf", 3},     /* just before the surrogates */
        {"\xee\x80\x80", 3},     /* just after */
        {"\xf4\x90\x80\x80", 0}, /* over U+10FFFF */
        {"\xf5\x80\x80\x80", 0},
        {"\x80", 0},
        {"\xe2\x82", 0}, /* cut */
        {"\xe2\x28\xa1", 0},
        {"", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(
            text_utf8_len((const unsigned char *)cases[i].bytes, strlen(cases[i].bytes)),
            cases[i].len);
}

static void slips_are_recognised(void **state)
{
    (void)state;
    static const char *const names[] = {"lr", "lr_omega", "warmup", "weight_decay", "seed"};
    const struct {
        const char *word, *want;
    } cases[] = {
        {"lr_omgea", "lr_omega"},
        {"weigth_decay", "weight_decay"},
        {"warm_up", "warmup"},
        {"sed", "seed"},
        {"ls", "lr"},
        {"momentum", NULL},
        {"", NULL},
        {"x", NULL},
        {"a-very-long-word-that-is-nothing-like-any-of-the-names-at-all", NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const char *got = text_nearest(cases[i].word, names, 5);
        if (cases[i].want)
            assert_string_equal(got, cases[i].want);
        else
            assert_null(got);
    }
}

static void copies_hold_no_control_characters(void **state)
{
    (void)state;
    char buf[8];
    text_copy(buf, sizeof buf, "a\nb\x7f\033");
    assert_string_equal(buf, "a?b??");
    text_copy(buf, sizeof buf, "123456\xc3\xa9");
    assert_string_equal(buf, "123456"); /* the character did not fit whole */
    text_copy(buf, 1, "x");
    assert_string_equal(buf, "");
}

static void a_terminal_gets_no_commands(void **state)
{
    (void)state;
    static const struct {
        const char *text, *shown, *lines;
    } cases[] = {
        {"plain, \xc3\xa9 \xe2\x82\xac \xc2\xa0", "plain, \xc3\xa9 \xe2\x82\xac \xc2\xa0",
         "plain, \xc3\xa9 \xe2\x82\xac \xc2\xa0"},
        {"\033]0;pwn\007", "\\x1b]0;pwn\\x07", "\\x1b]0;pwn\\x07"},
        {"a\nb\r\t\x7f", "a\\x0ab\\x0d\\x09\\x7f", "a\nb\\x0d\\x09\\x7f"},
        {"\xc2\x9b"
         "2J\xc2\x80",
         "\\x9b2J\\x80", "\\x9b2J\\x80"},
        {"\x9b"
         "2J\xff",
         "\\x9b2J\\xff", "\\x9b2J\\xff"},
        {"", "", ""},
    };
    char buf[64];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        assert_int_equal(text_shown(buf, sizeof buf, cases[i].text, false), strlen(cases[i].shown));
        assert_string_equal(buf, cases[i].shown);
        assert_int_equal(text_shown(buf, sizeof buf, cases[i].text, true), strlen(cases[i].lines));
        assert_string_equal(buf, cases[i].lines);
        assert_int_equal(text_shown(NULL, 0, cases[i].text, false), strlen(cases[i].shown));
    }
    assert_int_equal(text_shown(buf, 6, "abc\033d", false), 8);
    assert_string_equal(buf, "abc"); /* not half an escape, and nothing behind it */
    assert_int_equal(text_shown(buf, 5, "abc\xc3\xa9", false), 5);
    assert_string_equal(buf, "abc");
    assert_int_equal(text_shown(buf, 1, "x", false), 1);
    assert_string_equal(buf, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_goes_to_its_names_and_back),
        cmocka_unit_test(context_stands_in_front_and_hints_stay),
        cmocka_unit_test(errno_becomes_a_code),
        cmocka_unit_test(no_room_for_bytes_is_told_from_no_room_for_files),
        cmocka_unit_test(long_texts_are_cut_at_a_character),
        cmocka_unit_test(bytes_that_are_no_characters_become_question_marks),
        cmocka_unit_test(utf8_is_judged_by_the_standard),
        cmocka_unit_test(slips_are_recognised),
        cmocka_unit_test(copies_hold_no_control_characters),
        cmocka_unit_test(a_terminal_gets_no_commands),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
