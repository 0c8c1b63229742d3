/* The container: what is refused, with which words, and that writing is all or nothing. */
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "tests/unit/worker/scratch.h"
#include "worker/model/dtype.h"
#include "worker/model/safetensors.h"

/* header + `bytes` zero bytes of data; claimed header length = its own + lie */
static size_t build(uint8_t *buf, size_t cap, const char *header, size_t bytes, long long lie)
{
    size_t n = strlen(header);
    uint64_t len = (uint64_t)((long long)n + lie);
    assert_true(8 + n + bytes <= cap);
    for (int i = 0; i < 8; i++)
        buf[i] = (uint8_t)(len >> 8 * i);
    memcpy(buf + 8, header, n);
    memset(buf + 8 + n, 0, bytes);
    return 8 + n + bytes;
}

static void refuse(const char *header, size_t bytes, long long lie, const char *says)
{
    uint8_t buf[4096];
    struct dha_err e = {0};
    struct st_file *f;
    size_t n = build(buf, sizeof buf, header, bytes, lie);
    assert_int_equal(st_parse(&f, buf, n, &e), -1);
    assert_null(f);
    assert_int_equal(e.code, DHA_E_INPUT);
    if (!strstr(e.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
}

#define ONE(dtype, shape, span)                                                                    \
    "{\"a\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" span "}}"

static void refuses_lying_headers(void **state)
{
    (void)state;
    refuse(ONE("F32", "[2]", "[0,8]"), 8, 1000, "header claims");
    refuse(ONE("F32", "[2]", "[0,8]"), 8, 1LL << 40, "header claims");
    refuse(ONE("F32", "[2]", "[0,8]"), 8, -20, "safetensors header");
    refuse("{\"a\":", 8, 0, "not valid JSON");
    refuse("[]", 0, 0, "no JSON object");
    refuse("{\"a\":3}", 0, 0, "no object");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[0]}}", 0, 0,
           "needs dtype, shape and data_offsets");
    refuse(ONE("F33", "[2]", "[0,8]"), 8, 0, "unknown dtype \"F33\"");
}

static void refuses_spans_that_do_not_fit(void **state)
{
    (void)state;
    refuse(ONE("F32", "[2]", "[0,8]"), 4, 0, "truncated");
    refuse(ONE("F32", "[2]", "[8,0]"), 8, 0, "bytes 8..0");
    refuse(ONE("F32", "[2]", "[-8,0]"), 8, 0, "bytes -8..0");
    refuse(ONE("F32", "[2]", "[0,9007199254740993]"), 8, 0, "truncated");
    refuse(ONE("F32", "[3]", "[0,8]"), 8, 0, "shape needs 12 bytes, its data_offsets give 8");
    refuse(ONE("F32", "[2.5]", "[0,8]"), 8, 0, "shape");
    refuse(ONE("F32", "[-2]", "[0,8]"), 8, 0, "shape");
    refuse(ONE("F32", "[4294967296,4294967296]", "[0,0]"), 0, 0, "shape");
    refuse(ONE("F32", "[1,1,1,1,2]", "[0,8]"), 8, 0, "shape");
    refuse(ONE("F32", "[2]", "[0,8]"), 12, 0, "4 bytes at the end");
    refuse(ONE("F32", "[2]", "[4,12]"), 12, 0, "4 bytes before");
}

static void refuses_overlaps_and_duplicates(void **state)
{
    (void)state;
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
           "\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}",
           12, 0, "overlap");
    refuse("{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
           "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}",
           16, 0, "\"a\"");
}

static void accepts_what_the_format_allows(void **state)
{
    (void)state;
    uint8_t buf[1024];
    struct dha_err e;
    struct st_file *f;
    /* metadata, an empty tensor, a scalar, spans out of order, spaces behind the JSON */
    const char *h = "{\"__metadata__\":{\"format\":\"pt\"},"
                    "\"z\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[4,8]},"
                    "\"e\":{\"dtype\":\"F16\",\"shape\":[0,7],\"data_offsets\":[4,4]},"
                    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[0,4]}}    ";
    size_t n = build(buf, sizeof buf, h, 8, 0);
    assert_int_equal(st_parse(&f, buf, n, &e), 0);
    assert_int_equal(st_count(f), 3);
    assert_int_equal(st_find(f, "z")->n_dims, 0);
    assert_int_equal(st_find(f, "e")->bytes, 0);
    assert_null(st_find(f, "__metadata__"));
    st_close(f);
}

static void no_prefix_of_a_file_passes(void **state)
{
    (void)state;
    uint8_t buf[1024];
    struct dha_err e;
    struct st_file *f;
    size_t n = build(buf, sizeof buf, ONE("F32", "[2]", "[0,8]"), 8, 0);
    for (size_t len = 0; len < n; len++)
        assert_int_equal(st_parse(&f, buf, len, &e), -1);
    assert_int_equal(st_parse(&f, buf, n, &e), 0);
    st_close(f);
}

static void sixteen_bit_floats_are_exact_both_ways(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        uint16_t in = (uint16_t)h, out;
        float f;
        dtype_f32_from_f16(&f, &in, 1);
        dtype_f16_from_f32(&out, &f, 1);
        if (f != f) /* NaN stays NaN */
            assert_true((out & 0x7c00) == 0x7c00 && (out & 0x3ff));
        else
            assert_int_equal(out, in);
#ifdef __FLT16_MAX__
        _Float16 native;
        memcpy(&native, &in, sizeof native);
        float want = (float)native;
        assert_true(want != want ? f != f : memcmp(&f, &want, sizeof f) == 0);
#endif
        dtype_f32_from_bf16(&f, &in, 1);
        dtype_bf16_from_f32(&out, &f, 1);
        if (f == f)
            assert_int_equal(out, in);
    }
}

static void narrowing_rounds_to_nearest_even(void **state)
{
    (void)state;
    static const struct {
        float f;
        uint16_t f16, bf16;
    } known[] = {
        {1.0f, 0x3c00, 0x3f80},
        {1.0f + 0x1p-11f, 0x3c00, 0x3f80}, /* tie to even, down */
        {1.0f + 0x3p-11f, 0x3c02, 0x3f80}, /* tie to even, up */
        {1.0f + 0x1p-8f, 0x3c04, 0x3f80},  /* bf16: tie, down */
        {1.0f + 0x3p-8f, 0x3c0c, 0x3f82},  /* bf16: tie, up */
        {65519.0f, 0x7bff, 0x4780},        /* largest f16 */
        {65520.0f, 0x7c00, 0x4780},        /* rounds to infinity */
        {-0x1p-24f, 0x8001, 0xb380},       /* smallest f16 subnormal */
        {0x1p-25f, 0x0000, 0x3300},        /* tie with zero */
        {0x1.8p-25f, 0x0001, 0x3340},      /* above the tie */
        {3.4028235e38f, 0x7c00, 0x7f80},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint16_t out;
        dtype_f16_from_f32(&out, &known[i].f, 1);
        assert_int_equal(out, known[i].f16);
        dtype_bf16_from_f32(&out, &known[i].f, 1);
        assert_int_equal(out, known[i].bf16);
    }
#ifdef __FLT16_MAX__
    uint32_t x = 12345;
    for (int i = 0; i < 200000; i++) { /* against the compiler's conversion */
        x = x * 1664525 + 1013904223;
        float f;
        uint32_t bits = (x & 0x8fffffff) | 0x30000000;
        memcpy(&f, &bits, sizeof f);
        _Float16 native = (_Float16)f;
        uint16_t want, out;
        memcpy(&want, &native, sizeof want);
        dtype_f16_from_f32(&out, &f, 1);
        assert_int_equal(out, want);
    }
#endif
}

static void write_some(const char *dir, size_t shard, int tensors, enum st_dtype dtype,
                       size_t expect)
{
    struct dha_err e = {0};
    struct st_writer *w;
    float data[12];
    int64_t dims[2] = {3, 4};
    if (st_writer_open(&w, dir, shard, &e) < 0)
        fail_msg("%s", e.msg);
    if (expect)
        st_writer_expect(w, expect);
    for (int t = 0; t < tensors; t++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.some.quite.long.tensor.name", t);
        for (int i = 0; i < 12; i++)
            data[i] = (float)(t % 100 + i);
        assert_int_equal(st_writer_add(w, name, dtype, 2, dims, data, &e), 0);
    }
    if (st_writer_finish(w, &e) < 0)
        fail_msg("%s", e.msg);
}

static void read_some(const char *dir, int tensors)
{
    struct dha_err e = {0};
    struct st_file *f;
    float data[12];
    if (st_open_dir(&f, dir, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(st_count(f), tensors);
    for (int t = 0; t < tensors; t++) {
        char name[64];
        snprintf(name, sizeof name, "model.layers.%d.some.quite.long.tensor.name", t);
        const struct st_tensor *x = st_find(f, name);
        assert_non_null(x);
        assert_int_equal(x->n_dims, 2);
        assert_int_equal(x->dims[1], 4);
        assert_int_equal(st_read_f32(x, data, 12, &e), 0);
        for (int i = 0; i < 12; i++)
            assert_true(data[i] == (float)(t % 100 + i));
        assert_int_equal(st_read_f32(x, data, 11, &e), -1);
    }
    st_close(f);
}

static const char *new_dir(const char *name)
{
    assert_int_equal(mkdir(scratch(name), 0755), 0);
    return scratch(name);
}

static void reads_back_what_was_written(void **state)
{
    (void)state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", new_dir("one"));
    write_some(dir, 0, 5, ST_F32, 0);
    read_some(dir, 5);
    write_some(dir, 0, 300, ST_BF16, 0); /* replaces, and its header outgrows the room */
    read_some(dir, 300);
    write_some(dir, 0, 300, ST_F16, 300);
    read_some(dir, 300);
}

static void shards_come_with_an_index(void **state)
{
    (void)state;
    char dir[512], path[600];
    struct stat s;
    struct dha_err e;
    struct st_writer *w;
    snprintf(dir, sizeof dir, "%s", new_dir("shards"));
    write_some(dir, 100, 5, ST_F32, 0); /* 48 bytes a tensor: two a shard */
    snprintf(path, sizeof path, "%s/model-00003-of-00003.safetensors", dir);
    assert_int_equal(stat(path, &s), 0);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_int_equal(stat(path, &s), -1);
    read_some(dir, 5);
    assert_int_equal(st_writer_open(&w, dir, 100, &e), -1);
    assert_int_equal(e.code, DHA_E_CONFLICT);
}

static void rewrite(const char *path, const char *text)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void refuse_index(const char *dir, const char *index, const char *says)
{
    char path[600];
    struct dha_err e = {0};
    struct st_file *f;
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    rewrite(path, index);
    assert_int_equal(st_open_dir(&f, dir, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    if (!strstr(e.msg, says))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, says);
}

static void an_index_must_agree_with_its_shards(void **state)
{
    (void)state;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", new_dir("index"));
    write_some(dir, 60, 2, ST_F32, 0);
#define T(n) "\"model.layers." #n ".some.quite.long.tensor.name\":"
#define S(n) "\"model-0000" #n "-of-00002.safetensors\""
    refuse_index(dir, "{\"weight_map\":{" T(0) S(1) "," T(1) S(3) "}}", "model-00003-of-00002");
    refuse_index(dir, "{\"weight_map\":{" T(0) S(1) "," T(1) S(2) "," T(2) S(2) "}}",
                 "layers.2.some.quite.long.tensor.name\" is in no shard");
    refuse_index(dir, "{\"weight_map\":{" T(0) S(1) ",\"model.x\":" S(2) "}}", "model.x");
    refuse_index(dir, "{\"weight_map\":{}}", "weight_map");
    refuse_index(dir, "{\"weight_map\":{" T(0) "\"../secret\"}}", "beside the index");
    refuse_index(dir, "{", "not valid JSON");
}

static void surplus_in_a_shard_is_told(void **state)
{
    (void)state;
    char dir[512], path[700];
    struct dha_err e;
    struct st_file *f;
    snprintf(dir, sizeof dir, "%s", new_dir("surplus"));
    write_some(dir, 1000, 2, ST_F32, 0);
    snprintf(path, sizeof path, "%s/model.safetensors.index.json", dir);
    rewrite(path, "{\"weight_map\":{\"model.layers.0.some.quite.long.tensor.name\":"
                  "\"model-00001-of-00001.safetensors\"}}");
    assert_int_equal(st_open_dir(&f, dir, &e), -1);
    assert_non_null(strstr(e.msg, "names 1 tensors, the shards hold 2"));
}

static void an_empty_directory_says_what_is_looked_for(void **state)
{
    (void)state;
    struct dha_err e;
    struct st_file *f;
    assert_int_equal(st_open_dir(&f, new_dir("nothing"), &e), -1);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    assert_non_null(strstr(e.msg, "neither model.safetensors nor"));
    assert_non_null(strstr(e.hint, "save_pretrained"));
}

/* A limit on file size makes write() fail as a full disk does (EFBIG instead of ENOSPC). */
static void a_failed_write_leaves_the_old_model(void **state)
{
    (void)state;
    char dir[512];
    struct dha_err e = {0};
    struct st_writer *w;
    struct rlimit old, small;
    snprintf(dir, sizeof dir, "%s", new_dir("full"));
    write_some(dir, 0, 5, ST_F32, 0);
    float *big = calloc(1 << 16, sizeof *big);
    int64_t dims[1] = {1 << 16};
    assert_non_null(big);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 100000;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    int rc = st_writer_open(&w, dir, 0, &e);
    if (rc == 0) {
        rc = st_writer_add(w, "a", ST_F32, 1, dims, big, &e);
        st_writer_abort(w);
    }
    setrlimit(RLIMIT_FSIZE, &old);
    free(big);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, DHA_E_IO);
    assert_non_null(strstr(e.msg, "unchanged"));
    read_some(dir, 5);
    char list[700];
    snprintf(list, sizeof list, "test $(ls -A %s | wc -l) = 1", dir);
    assert_int_equal(system(list), 0);
}

static void a_full_disk_is_no_space_and_the_old_model_stays(void **state)
{
    (void)state;
    char dir[512], cmd[700];
    struct dha_err e = {0};
    struct st_writer *w;
    snprintf(dir, sizeof dir, "%s", new_dir("disk"));
    snprintf(cmd, sizeof cmd, "mount -t tmpfs -o size=128k tmpfs %s 2>/dev/null", dir);
    if (system(cmd) != 0) {
        print_message("skipped: cannot mount a tmpfs here\n");
        skip();
    }
    write_some(dir, 0, 5, ST_F32, 0);
    float *big = calloc(1 << 16, sizeof *big);
    int64_t dims[1] = {1 << 16};
    int rc = st_writer_open(&w, dir, 0, &e);
    if (rc == 0) {
        rc = st_writer_add(w, "a", ST_F32, 1, dims, big, &e);
        st_writer_abort(w);
    }
    free(big);
    read_some(dir, 5);
    snprintf(cmd, sizeof cmd, "umount %s", dir);
    assert_int_equal(system(cmd), 0);
    assert_int_equal(rc, -1);
    assert_int_equal(e.code, DHA_E_NO_SPACE);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refuses_lying_headers),
        cmocka_unit_test(refuses_spans_that_do_not_fit),
        cmocka_unit_test(refuses_overlaps_and_duplicates),
        cmocka_unit_test(accepts_what_the_format_allows),
        cmocka_unit_test(no_prefix_of_a_file_passes),
        cmocka_unit_test(sixteen_bit_floats_are_exact_both_ways),
        cmocka_unit_test(narrowing_rounds_to_nearest_even),
        cmocka_unit_test(reads_back_what_was_written),
        cmocka_unit_test(shards_come_with_an_index),
        cmocka_unit_test(an_index_must_agree_with_its_shards),
        cmocka_unit_test(surplus_in_a_shard_is_told),
        cmocka_unit_test(an_empty_directory_says_what_is_looked_for),
        cmocka_unit_test(a_failed_write_leaves_the_old_model),
        cmocka_unit_test(a_full_disk_is_no_space_and_the_old_model_stays),
    };
    return cmocka_run_group_tests_name("safetensors", tests, scratch_make, scratch_remove);
}
