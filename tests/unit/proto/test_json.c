/* Strict JSON: what is refused, with where; look-ups; builders; files. */
#include <math.h>
#include <sys/stat.h>
#include <unistd.h>

#include "unit.h"

static void what_is_json_is_accepted(void **state)
{
    (void)state;
    static const char *const good[] = {
        "{}",
        "[]",
        "null",
        "true",
        "false",
        "0",
        "-0",
        "-1.5e-3",
        "1E+2",
        "\"\"",
        " \t\r\n[1 , 2]\n",
        "\"\\u00e9\\ud83d\\ude00\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
        "\"\xf0\x9f\x98\x80\"",
        "{\"a\":{\"a\":1},\"b\":[{\"a\":2}]}", /* the same name at two levels */
        "{\"a\":1,\"A\":2}",
        "1e-400" /* 0, not an error */,
        "9007199254740993"};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        cJSON_Delete(parse(good[i]));
}

static void what_is_not_json_is_refused_with_its_place(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "the end where a value should be at byte 0"},
        {" ", "at byte 1"},
        {"{} x", "bytes after the end of the document at byte 3"},
        {"{}{}", "bytes after the end"},
        {"nul", "unexpected character at byte 0"},
        {"NaN", "unexpected character"},
        {"Infinity", "unexpected character"},
        {"-", "malformed number"},
        {"+1", "unexpected character"},
        {"01", "malformed number"},
        {"1.", "malformed number"},
        {".5", "unexpected character"},
        {"1e", "malformed number"},
        {"0x10", "bytes after the end"},
        {"1e999", "out of range"},
        {"-1e999", "out of range"},
        {"1234567890123456789012345678901234567890123456789012345678901", "more than 60"},
        {"[1,]", "unexpected character at byte 3"},
        {"[1 2]", "neither ',' nor ']'"},
        {"[", "the end where a value"},
        {"[1", "array without its end"},
        {"{\"a\":1", "object without its end"},
        {"{\"a\":1,}", "no member name"},
        {"{a:1}", "no member name"},
        {"{\"a\" 1}", "no ':'"},
        {"{\"a\":1]", "neither ',' nor '}'"},
        {"'a'", "unexpected character"},
        {"\"a", "string without its end"},
        {"\"\\", "string without its end"},
        {"\"\\x\"", "unknown escape"},
        {"\"\\u12g4\"", "four hex digits"},
        {"\"\\u0000\"", "NUL character"},
        {"{\"a\\u0000b\":1}", "NUL character"},
        {"\"\\ud800\"", "high surrogate"},
        {"\"\\ud800\\u0041\"", "high surrogate"},
        {"\"\\udc00\"", "low surrogate"},
        {"\"a\tb\"", "control character"},
        {"\"\xc0\x80\"", "not UTF-8"},
        {"\"\xed\xa0\x80\"", "not UTF-8"},
        {"\"\xff\"", "not UTF-8"},
        {"\"\xe2\x82\"", "not UTF-8"},
        {"\xef\xbb\xbf{}", "unexpected character at byte 0"}, /* a byte order mark */
        {"/* c */ 1", "unexpected character"},
        {"{\"a\":1,\"a\":1}", "\"a\" is given twice"},
        {"[{\"x\":{\"b\":1,\"c\":2,\"b\":3}}]", "\"b\" is given twice"},
        {"{\"a\":1,\"\\u0061\":2}", "given twice"}, /* the same name written in two ways */
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct dha_err e = {0};
        assert_null(json_parse(bad[i].text, strlen(bad[i].text), NULL, &e));
        assert_int_equal(e.code, DHA_E_PROTOCOL);
        if (!strstr(e.msg, bad[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, e.msg, bad[i].says);
    }
    struct dha_err e = {0};
    assert_null(json_parse("\"a\0b\"", 5, NULL, &e)); /* a raw NUL */
    assert_non_null(strstr(e.msg, "NUL"));
    assert_null(json_parse("{}\0", 3, NULL, &e));
    assert_null(json_parse("{", 1, NULL, NULL)); /* no error wanted */
}

static char *nested(int depth)
{
    char *t = malloc((size_t)depth * 2 + 1);
    assert_non_null(t);
    memset(t, '[', (size_t)depth);
    memset(t + depth, ']', (size_t)depth);
    t[2 * depth] = '\0';
    return t;
}

static void depth_and_size_have_limits(void **state)
{
    (void)state;
    struct dha_err e = {0};
    char *ok = nested(64), *deep = nested(65), *huge = nested(400000);
    cJSON_Delete(parse(ok));
    assert_null(json_parse(deep, strlen(deep), NULL, &e));
    assert_non_null(strstr(e.msg, "more than 64 levels"));
    assert_null(json_parse(huge, strlen(huge), NULL, &e)); /* and no stack was needed to see it */
    struct json_limits shallow = {.max_depth = 2}, endless = {.max_depth = 1 << 30};
    assert_null(json_parse("[[[1]]]", 7, &shallow, &e));
    assert_non_null(strstr(e.msg, "more than 2 levels"));
    assert_null(json_parse(huge, strlen(huge), &endless, &e));
    struct json_limits small = {.max_bytes = 4};
    assert_null(json_parse("[1,2]", 5, &small, &e));
    assert_int_equal(e.code, DHA_E_TOO_LARGE);
    cJSON *j = json_parse("[12]", 4, &small, &e);
    assert_non_null(j);
    cJSON_Delete(j);
    free(huge);
    free(deep);
    free(ok);
}

static void many_members_do_not_take_for_ever(void **state)
{
    (void)state;
    /* 100,000 members: comparing each with each would be 5e9 comparisons */
    char *t = malloc(1 << 20), *p = t;
    assert_non_null(t);
    *p++ = '{';
    for (int i = 0; i < 80000; i++)
        p += sprintf(p, "\"%x\":0,", i);
    p[-1] = '}';
    cJSON *j = json_parse(t, (size_t)(p - t), NULL, NULL);
    assert_non_null(j);
    cJSON_Delete(j);
    free(t);
}

static void lookups_are_exact(void **state)
{
    (void)state;
    cJSON *j = parse_quoted("{'a':1,'b':'x','c':true,'id':'9007199254740993','f':1.5,'n':null,"
                            "'big':1e300,'neg':'-5','bad':'5x','o':{'l':[10,{'k':'v'}]}}");
    int64_t v;
    double d;
    const char *s;
    struct dha_err e = {0};
    assert_null(json_get(j, "A"));
    assert_null(json_get(NULL, "a"));
    assert_null(json_get(json_get(j, "a"), "x"));
    assert_string_equal(json_str(j, "b", "-"), "x");
    assert_string_equal(json_str(j, "a", "-"), "-");
    assert_true(json_num(j, "f", 0) == 1.5);
    assert_true(json_num(j, "b", 7) == 7);
    assert_true(json_bool(j, "c", false));
    assert_true(json_bool(j, "a", true));
    assert_int_equal(json_int(j, "id", 0), 9007199254740993);
    assert_int_equal(json_int(j, "neg", 0), -5);
    assert_int_equal(json_int(j, "f", 3), 3);
    assert_int_equal(json_int(j, "big", 3), 3);
    assert_int_equal(json_int(j, "bad", 3), 3);
    assert_int_equal(json_int(j, "none", 3), 3);
    assert_false(json_to_int(NULL, &v));
    cJSON *over = cJSON_CreateString("9223372036854775808"), *empty = cJSON_CreateString("-");
    assert_false(json_to_int(over, &v));
    assert_false(json_to_int(empty, &v));
    cJSON_Delete(over);
    cJSON_Delete(empty);
    assert_string_equal(json_at(j, "o.l.1.k")->valuestring, "v");
    assert_int_equal(json_at(j, "o.l.0")->valueint, 10);
    assert_null(json_at(j, "o.l.2"));
    assert_null(json_at(j, "o.l.x"));
    assert_null(json_at(j, "o.l.-1"));
    assert_null(json_at(j, "o.l.99999999999999"));
    assert_null(json_at(j, "a.b"));
    assert_ptr_equal(json_at(j, ""), j);
    assert_int_equal(json_need_str(j, "b", &s, &e), 0);
    assert_int_equal(json_need_num(j, "f", &d, &e), 0);
    assert_int_equal(json_need_int(j, "a", &v, &e), 0);
    assert_int_equal(json_need_int(j, "f", &v, &e), -1);
    assert_string_equal(e.msg, "\"f\" is not an integer");
    assert_string_equal(e.path, "f");
    assert_int_equal(json_need_str(j, "zz", &s, &e), -1);
    assert_string_equal(e.msg, "\"zz\" is missing (a string)");
    assert_int_equal(json_need_num(j, "b", &d, &e), -1);
    cJSON_Delete(j);
}

static void numbers_come_back_as_they_went(void **state)
{
    (void)state;
    const int64_t ints[] = {0,
                            -1,
                            1 << 20,
                            999999999999999,
                            1000000000000000,
                            9007199254740993,
                            -9007199254740993,
                            INT64_MAX,
                            INT64_MIN};
    for (size_t i = 0; i < sizeof ints / sizeof ints[0]; i++) {
        cJSON *j = cJSON_CreateObject();
        assert_int_equal(json_put_int(j, "v", ints[i]), 0);
        assert_int_equal(json_put_id(j, "id", ints[i]), 0);
        char *t = json_text(j);
        cJSON *k = parse(t);
        assert_true(json_int(k, "v", 77) == ints[i]);
        assert_true(json_int(k, "id", 77) == ints[i]);
        assert_true(cJSON_IsString(json_get(k, "id")));
        cJSON_Delete(k);
        free(t);
        cJSON_Delete(j);
    }
}

static void builders_replace_and_never_lose_silently(void **state)
{
    (void)state;
    cJSON *j = cJSON_CreateObject();
    assert_int_equal(json_put_str(j, "a", "x"), 0);
    assert_int_equal(json_put_num(j, "a", 2), 0); /* replaced, not doubled */
    assert_int_equal(json_put_num(j, "nan", NAN), 0);
    assert_int_equal(json_put_num(j, "inf", INFINITY), 0);
    assert_int_equal(json_put_bool(j, "t", true), 0);
    char *t = json_text(j);
    assert_string_equal(t, "{\"a\":2,\"nan\":null,\"inf\":null,\"t\":true}");
    free(t);
    assert_int_equal(json_put(j, "b", NULL), -1);
    assert_int_equal(json_put_num(NULL, "b", 1), -1);
    assert_int_equal(json_put_str(j, "b", NULL), -1);
    cJSON_Delete(j);
}

static void same_as_cjson(cJSON *j)
{
    char *ours = json_text(j), *theirs = cJSON_PrintUnformatted(j);
    assert_string_equal(ours, theirs);
    free(ours);
    free(theirs);
    cJSON_Delete(j);
}

static void text_is_what_cjson_writes(void **state)
{
    (void)state;
    static const double numbers[] = {0,
                                     -0.0,
                                     1,
                                     -7,
                                     0.25,
                                     3e-4,
                                     1e-4,
                                     9.9999e-5,
                                     -0.1,
                                     0.1 + 0.2,
                                     1.0 / 3,
                                     1e14,
                                     1e15,
                                     999999999999999,
                                     123456.789012345,
                                     99999.9999999999,
                                     2147483648.5,
                                     0.000123456789,
                                     1e-300,
                                     1.7976931348623157e308,
                                     5e-324,
                                     4.35,
                                     1.005,
                                     (double)INT64_MAX,
                                     NAN,
                                     -INFINITY};
    static const char *const strings[] = {
        "", "a", "\"\\/\b\f\n\r\t\x01\x1f\x7f", "gr\xc3\xbc\xc3\x9f", "\xf0\x9f\x99\x82", "end\\"};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        same_as_cjson(cJSON_CreateNumber(numbers[i]));
    for (size_t i = 0; i < sizeof strings / sizeof strings[0]; i++) {
        cJSON *j = cJSON_CreateObject();
        assert_int_equal(json_put_str(j, strings[i], strings[i]), 0);
        same_as_cjson(j);
    }
    same_as_cjson(parse("{\"a\":[],\"b\":{},\"c\":[1,[true,false,null],{\"d\":\"x\"}]}"));
    uint64_t x = 88172645463325252u; /* xorshift: any bits, decimals of few digits, both signs */
    for (int i = 0; i < 300000; i++) {
        double d;
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        if (i % 2)
            memcpy(&d, &x, sizeof d);
        else
            d = (double)(int64_t)(x >> (14 + x % 40)) / pow(10, (double)(x % 13)) *
                (x & 4 ? 1 : -1);
        same_as_cjson(cJSON_CreateNumber(d));
    }
}

/* Without these members the text is that of a tree that never had them. */
static void less(const char *text, const char *const *names, const char *expected)
{
    cJSON *j = parse(text);
    char *whole, *t = json_text_less(j, names, &whole), *all = json_text(j);
    assert_string_equal(t, expected);
    assert_string_equal(whole, all);
    cJSON_Delete(parse(t));
    free(all);
    free(whole);
    free(t);
    cJSON_Delete(j);
}

static void members_can_be_left_out(void **state)
{
    (void)state;
    static const char *const ad[] = {"a", "d", NULL}, *const b[] = {"b", NULL};
    static const char text[] =
        "{\"a\":1,\"b\":{\"a\":2,\"c\":[{\"b\":3,\"d\":4}]},\"e\":{\"a\":5}}";
    less(text, ad, "{\"b\":{\"c\":[{\"b\":3}]},\"e\":{}}");
    less(text, b, "{\"a\":1,\"e\":{\"a\":5}}");
    less("{\"a\":{\"d\":1},\"d\":2,\"x\":[1,2],\"a2\":3,\"d2\":{\"a\":1,\"d\":1,\"y\":2,\"z\":3}}",
         ad, "{\"x\":[1,2],\"a2\":3,\"d2\":{\"y\":2,\"z\":3}}");
    less("{\"a\":1,\"d\":2}", ad, "{}");
    less("{\"x\":1,\"a\":2,\"y\":3,\"d\":4}", ad, "{\"x\":1,\"y\":3}");
    less("[{\"a\":1},{\"b\":{\"a\":1,\"b\":[{\"a\":1}]},\"a\":1}]", ad,
         "[{},{\"b\":{\"b\":[{}]}}]");
    cJSON *j = parse("{\"e\":{}}");
    assert_int_equal(json_put(j, "raw", cJSON_CreateRaw("{\"a\": 1}")), 0);
    char *t = json_text_less(j, ad, NULL);
    assert_string_equal(t, "{\"e\":{},\"raw\":{\"a\": 1}}");
    free(t);
    assert_null(json_text(NULL));
    cJSON_Delete(j);
}

static void trees_come_from_the_pool(void **state)
{
    (void)state;
    cJSON *early = parse("{\"made\":[\"before\",1,2]}");
    json_pool_start();
    for (int i = 0; i < 50; i++) { /* each in blocks of the one before */
        cJSON *j = cJSON_CreateObject();
        for (int k = 0; k < 100; k++) {
            char name[120];
            snprintf(name, sizeof name, "%0*d", 1 + (k * 7 + i) % 110, k);
            assert_int_equal(json_put_str(j, name, name), 0);
        }
        for (const cJSON *c = j->child; c; c = c->next)
            assert_string_equal(c->string, c->valuestring);
        same_as_cjson(j);
    }
    cJSON_Delete(early);
    char *t = cJSON_Print(NULL);
    assert_null(t);
    early = parse("{\"a\":1}");
    t = json_text_pretty(early);
    assert_string_equal(t, "{\n\t\"a\":\t1\n}");
    free(t);
    cJSON_Delete(early);
    cJSON_InitHooks(NULL);
}

static void files_are_read_whole_and_written_atomically(void **state)
{
    (void)state;
    char dir[] = "/tmp/dha-json-XXXXXX", path[64], cmd[64];
    struct dha_err e = {0};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/f.json", dir);
    cJSON *j = parse_quoted("{'a':[1,2]}");
    assert_int_equal(json_write_file(path, j, &e), 0);
    cJSON *k = json_parse_file(path, 0, &e);
    assert_true(cJSON_Compare(j, k, true));
    cJSON_Delete(k);
    assert_null(json_parse_file(path, 4, &e));
    assert_int_equal(e.code, DHA_E_TOO_LARGE);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"a\":", f);
    fclose(f);
    assert_null(json_parse_file(path, 0, &e));
    assert_int_equal(e.code, DHA_E_PROTOCOL);
    assert_non_null(strstr(e.msg, path));
    assert_string_equal(e.path, path);
    assert_null(json_parse_file(dir, 0, &e));
    assert_int_equal(e.code, DHA_E_INPUT);
    char pipe_path[300];
    snprintf(pipe_path, sizeof pipe_path, "%s/pipe", dir);
    assert_int_equal(mkfifo(pipe_path, 0600), 0);
    assert_null(json_parse_file(pipe_path, 0, &e)); /* and returns */
    assert_int_equal(e.code, DHA_E_INPUT);
    unlink(pipe_path);
    assert_null(json_parse_file("/no/such/file", 0, &e));
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    assert_non_null(strstr(e.msg, "/no/such/file"));
    assert_int_equal(json_write_file("/no/such/dir/f", j, &e), -1);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    /* a directory in the way: the rename fails, and nothing is left lying about */
    snprintf(path, sizeof path, "%s/d", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(json_write_file(path, j, &e), -1);
    snprintf(cmd, sizeof cmd, "test -z \"$(ls %s | grep tmp)\"", dir);
    assert_int_equal(system(cmd), 0);
    cJSON_Delete(j);
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_json_is_accepted),
        cmocka_unit_test(what_is_not_json_is_refused_with_its_place),
        cmocka_unit_test(depth_and_size_have_limits),
        cmocka_unit_test(many_members_do_not_take_for_ever),
        cmocka_unit_test(lookups_are_exact),
        cmocka_unit_test(numbers_come_back_as_they_went),
        cmocka_unit_test(builders_replace_and_never_lose_silently),
        cmocka_unit_test(text_is_what_cjson_writes),
        cmocka_unit_test(members_can_be_left_out),
        cmocka_unit_test(trees_come_from_the_pool),
        cmocka_unit_test(files_are_read_whole_and_written_atomically),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
