/* Token files, text and JSONL, the cache, and the order of draws. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>
#include <cmocka.h>

#include "tests/unit/worker/scratch.h"
#include "worker/data/corpus.h"
#include "worker/data/documents.h"

#define TOKENIZER DHA_DEMO "/hf/tokenizer.model"

static void put_file(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static struct corpus_options u16_options(void)
{
    return (struct corpus_options){.format = "u16", .vocab = 512, .bos = -1};
}

static struct corpus_options text_options(const char *format)
{
    static char cache[512];
    snprintf(cache, sizeof cache, "%s/cache/deep", scratch_dir());
    return (struct corpus_options){
        .format = format, .tokenizer = TOKENIZER, .cache_dir = cache, .vocab = 512, .bos = 1};
}

static struct corpus *open_one(const char *path, struct corpus_options o)
{
    struct dha_err e = {0};
    struct corpus *c;
    char *p = (char *)(uintptr_t)path;
    if (corpus_open(&c, &p, 1, &o, &e) < 0)
        fail_msg("%s", e.msg);
    return c;
}

static void refuse(const char *path, struct corpus_options o, const char *says, struct dha_err *e)
{
    struct corpus *c;
    char *p = (char *)(uintptr_t)path;
    memset(e, 0, sizeof *e);
    assert_int_equal(corpus_open(&c, &p, 1, &o, e), -1);
    assert_null(c);
    if (!strstr(e->msg, says) && !strstr(e->hint, says))
        fail_msg("\"%s\" does not say \"%s\"", e->msg, says);
}

static void counting_file(const char *path, int n, int from)
{
    uint16_t t[4096];
    for (int i = 0; i < n; i++)
        t[i] = (uint16_t)(from + i);
    put_file(path, t, (size_t)n * 2);
}

static void reads_u16_and_u32_files(void **state)
{
    (void)state;
    int32_t ids[4], targets[4];
    struct dha_err e;
    uint32_t wide[6] = {7, 8, 9, 10, 11, 12};
    counting_file(scratch("a.u16"), 10, 0);
    put_file(scratch("a.u32"), wide, sizeof wide);

    struct corpus *c = open_one(scratch("a.u16"), u16_options());
    assert_int_equal(corpus_tokens(c), 10);
    assert_int_equal(corpus_windows(c, 4), 2);
    assert_int_equal(corpus_window(c, 1, 4, ids, targets, &e), 0);
    assert_int_equal(ids[0], 4);
    assert_int_equal(targets[3], 8);
    assert_int_equal(corpus_window(c, 2, 4, ids, targets, &e), -1);
    corpus_close(c);

    struct corpus_options o = u16_options();
    o.format = "u32";
    c = open_one(scratch("a.u32"), o);
    assert_int_equal(corpus_window(c, 0, 4, ids, targets, &e), 0);
    assert_int_equal(ids[0], 7);
    assert_int_equal(targets[3], 11);
    corpus_close(c);
}

static void llmc_file(const char *path, uint32_t magic, uint32_t version, uint32_t count,
                      int tokens)
{
    uint8_t buf[1024 + 512] = {0};
    uint32_t head[3] = {magic, version, count};
    memcpy(buf, head, sizeof head);
    for (int i = 0; i < tokens; i++)
        buf[1024 + 2 * i] = (uint8_t)i;
    put_file(path, buf, 1024 + 2 * (size_t)tokens);
}

static void skips_llmc_headers_and_believes_no_lie(void **state)
{
    (void)state;
    struct dha_err e;
    llmc_file(scratch("h.bin"), 20240520, 1, 100, 100);
    struct corpus *c = open_one(scratch("h.bin"), u16_options());
    assert_int_equal(corpus_tokens(c), 100);
    corpus_close(c);
    llmc_file(scratch("short.bin"), 20240520, 1, 101, 100);
    refuse(scratch("short.bin"), u16_options(), "says 101 tokens", &e);
    assert_int_equal(e.code, DHA_E_INPUT);
    llmc_file(scratch("wide.bin"), 20240801, 7, 50, 100);
    refuse(scratch("wide.bin"), u16_options(), "u32", &e);
}

static void refuses_files_that_cannot_be_tokens(void **state)
{
    (void)state;
    struct dha_err e;
    uint16_t outside[5] = {1, 2, 3, 512, 5};
    put_file(scratch("empty"), "", 0);
    refuse(scratch("empty"), u16_options(), "holds no tokens", &e);
    put_file(scratch("odd"), "abc", 3);
    refuse(scratch("odd"), u16_options(), "3 bytes", &e);
    put_file(scratch("outside"), outside, sizeof outside);
    refuse(scratch("outside"), u16_options(), "token 3 is 512", &e);
    assert_string_equal(e.path, scratch("outside"));
    refuse(scratch("absent"), u16_options(), "absent", &e);
    assert_int_equal(e.code, DHA_E_NOT_FOUND);
    refuse(scratch_dir(), u16_options(), "not a file", &e);
}

static void says_what_a_short_file_lacks(void **state)
{
    (void)state;
    struct dha_err e = {0};
    int32_t ids[16], targets[16];
    counting_file(scratch("ten"), 10, 0);
    struct corpus *c = open_one(scratch("ten"), u16_options());
    assert_int_equal(corpus_check(c, 9, &e), 0);
    assert_int_equal(corpus_check(c, 10, &e), -1);
    assert_int_equal(e.code, DHA_E_INPUT);
    assert_non_null(strstr(e.msg, "10 tokens"));
    assert_non_null(strstr(e.msg, "needs 11"));
    assert_int_equal(corpus_draw(c, 1, STREAM_TRAIN, 0, 0, 10, ids, targets, &e), -1);
    corpus_close(c);
}

static void crosses_file_borders_and_splits_a_tail(void **state)
{
    (void)state;
    struct dha_err e;
    int32_t ids[8], targets[8];
    char a[512], b[512], *paths[2] = {a, b};
    struct corpus *c, *tail;
    struct corpus_options o = u16_options();
    snprintf(a, sizeof a, "%s", scratch("first"));
    snprintf(b, sizeof b, "%s", scratch("second"));
    counting_file(a, 10, 0);
    counting_file(b, 10, 10);
    assert_int_equal(corpus_open(&c, paths, 2, &o, &e), 0);
    assert_int_equal(corpus_window(c, 1, 8, ids, targets, &e), 0);
    for (int i = 0; i < 8; i++) {
        assert_int_equal(ids[i], 8 + i);
        assert_int_equal(targets[i], 9 + i);
    }
    assert_int_equal(corpus_hold_out(c, 20, &tail, &e), -1);
    assert_int_equal(corpus_hold_out(c, 9, &tail, &e), 0);
    assert_int_equal(corpus_tokens(c), 11);
    corpus_close(c); /* the tail stays */
    assert_int_equal(corpus_window(tail, 0, 8, ids, targets, &e), 0);
    assert_int_equal(ids[0], 11);
    assert_int_equal(targets[7], 19);
    corpus_close(tail);
}

static void draws_are_a_pure_function_that_reaches_every_place(void **state)
{
    (void)state;
    struct dha_err e;
    int32_t ids[4], again[4], targets[4];
    bool seen[32] = {false};
    int differ = 0;
    counting_file(scratch("thirty"), 30, 0);
    struct corpus *c = open_one(scratch("thirty"), u16_options());
    for (int step = 0; step < 400; step++) {
        corpus_draw(c, 5, STREAM_TRAIN, step, 3, 4, ids, targets, &e);
        corpus_draw(c, 5, STREAM_TRAIN, step, 3, 4, again, targets, &e);
        assert_memory_equal(ids, again, sizeof ids);
        assert_in_range(ids[0], 0, 25); /* 26 places hold 5 tokens */
        assert_int_equal(targets[3], ids[0] + 4);
        seen[ids[0]] = true;
        corpus_draw(c, 5, STREAM_CALIB, step, 3, 4, again, targets, &e);
        differ += again[0] != ids[0];
    }
    for (int i = 0; i <= 25; i++)
        assert_true(seen[i]);
    assert_true(differ > 300);
    corpus_close(c);
}

static void random_bits_depend_on_every_argument(void **state)
{
    (void)state;
    uint64_t x = corpus_random(1, 2, 3, 4, 5);
    assert_true(x == corpus_random(1, 2, 3, 4, 5));
    assert_true(x != corpus_random(2, 2, 3, 4, 5) && x != corpus_random(1, 3, 3, 4, 5));
    assert_true(x != corpus_random(1, 2, 4, 4, 5) && x != corpus_random(1, 2, 3, 5, 5));
    assert_true(x != corpus_random(1, 2, 3, 4, 6));
    double mean = 0;
    for (uint64_t n = 0; n < 10000; n++)
        mean += (double)corpus_random(9, 0, 0, 0, n) / 18446744073709551616.0 / 10000;
    assert_true(mean > 0.485 && mean < 0.515); /* 5 sigma of 0.289 / 100 */
}

static void write_gz(const char *path, const char *text)
{
    gzFile g = gzopen(path, "wb");
    gzwrite(g, text, (unsigned)strlen(text));
    gzclose(g);
}

static void write_zst(const char *path, const char *text)
{
    char buf[4096];
    size_t n = ZSTD_compress(buf, sizeof buf, text, strlen(text), 3);
    assert_false(ZSTD_isError(n));
    put_file(path, buf, n);
}

static void same_tokens(struct corpus *a, struct corpus *b)
{
    struct dha_err e;
    int32_t x[64], y[64], t[64];
    assert_int_equal(corpus_tokens(a), corpus_tokens(b));
    int seq = (int)corpus_tokens(a) - 1;
    assert_in_range(seq, 1, 63);
    assert_int_equal(corpus_window(a, 0, seq, x, t, &e), 0);
    assert_int_equal(corpus_window(b, 0, seq, y, t, &e), 0);
    assert_memory_equal(x, y, (size_t)seq * sizeof *x);
}

static void text_tokens_are_bos_and_the_encoding_of_the_whole_file(void **state)
{
    (void)state;
    struct dha_err e;
    struct spm *s;
    int32_t *ids, have[64], targets[64];
    size_t n;
    const char *text = "First Citizen:\nBefore we proceed any further, hear me speak.\n";
    put_file(scratch("t.txt"), text, strlen(text));
    struct corpus *c = open_one(scratch("t.txt"), text_options("text"));
    assert_int_equal(spm_open(&s, TOKENIZER, &e), 0);
    assert_int_equal(spm_bos(s), 1);
    assert_int_equal(spm_vocab(s), 512);
    assert_int_equal(spm_encode(s, text, strlen(text), &ids, &n, &e), 0);
    assert_int_equal(corpus_tokens(c), (int64_t)n + 1);
    assert_int_equal(corpus_window(c, 0, (int)n, have, targets, &e), 0);
    assert_int_equal(have[0], 1);
    assert_memory_equal(targets, ids, n * sizeof *ids);
    char *back;
    assert_int_equal(spm_decode(s, ids, n, &back, &e), 0);
    assert_string_equal(back, text);
    free(back);
    free(ids);
    spm_close(s);
    corpus_close(c);
}

static void compressed_text_gives_the_same_tokens(void **state)
{
    (void)state;
    const char *text = "To be, or not to be.\n";
    put_file(scratch("p.txt"), text, strlen(text));
    write_gz(scratch("p.gz"), text);
    write_zst(scratch("p.zst"), text);
    struct corpus *a = open_one(scratch("p.txt"), text_options("text"));
    struct corpus *b = open_one(scratch("p.gz"), text_options("text"));
    struct corpus *c = open_one(scratch("p.zst"), text_options("text"));
    same_tokens(a, b);
    same_tokens(a, c);
    corpus_close(a);
    corpus_close(b);
    corpus_close(c);
}

static void truncated_compressed_text_is_refused(void **state)
{
    (void)state;
    struct dha_err e;
    char buf[4096];
    const char *text =
        "A text that is long enough to lose its end: 0123456789 abcdefghijklmnopqrst\n";
    write_gz(scratch("cut.gz"), text);
    write_zst(scratch("cut.zst"), text);
    for (int i = 0; i < 2; i++) {
        const char *path = scratch(i ? "cut.zst" : "cut.gz");
        FILE *f = fopen(path, "rb");
        size_t n = fread(buf, 1, sizeof buf, f);
        fclose(f);
        put_file(path, buf, n - 12);
        refuse(path, text_options("text"), "truncated", &e);
        assert_int_equal(e.code, DHA_E_INPUT);
    }
}

static void jsonl_documents_begin_with_bos(void **state)
{
    (void)state;
    struct dha_err e;
    int32_t ids[32], targets[32];
    const char *lines =
        "{\"text\": \"ab\", \"meta\": [1]}\n\n{\"content\": \"\\u00e9\"}\r\n{\"text\": \"ab\"}";
    put_file(scratch("d.jsonl"), lines, strlen(lines));
    struct corpus *c = open_one(scratch("d.jsonl"), text_options("jsonl"));
    int n = (int)corpus_tokens(c), documents = 0;
    assert_in_range(n, 6, 32);
    assert_int_equal(corpus_window(c, 0, n - 1, ids, targets, &e), 0);
    for (int i = 0; i < n - 1; i++)
        documents += ids[i] == 1;
    assert_int_equal(documents, 3);
    corpus_close(c);
}

static void bad_jsonl_lines_are_named(void **state)
{
    (void)state;
    struct dha_err e;
    const char *bad[] = {"{\"text\": \"ok\"}\n[1]\n", "{\"text\": \"ok\"}\n{\"body\": \"x\"}\n",
                         "{\"text\": \"ok\"}\n{\"text\": 3}\n",
                         "{\"text\": \"ok\"}\n{\"text\": \"x\n",
                         "{\"text\": \"ok\"}\n{\"text\": \"a\\u0000b\"}\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        put_file(scratch("bad.jsonl"), bad[i], strlen(bad[i]));
        refuse(scratch("bad.jsonl"), text_options("jsonl"), "line 2", &e);
        assert_int_equal(e.code, DHA_E_INPUT);
        assert_string_equal(e.path, scratch("bad.jsonl"));
    }
    put_file(scratch("bad.jsonl"), "", 0);
    refuse(scratch("bad.jsonl"), text_options("jsonl"), "holds no text", &e);
}

/* The one cache file of a directory that holds only one. */
static void cache_file(const char *dir, char *path, size_t cap)
{
    DIR *d = opendir(dir);
    assert_non_null(d);
    path[0] = 0;
    for (struct dirent *x; (x = readdir(d));)
        if (strncmp(x->d_name, "tokens-", 7) == 0 && !strchr(x->d_name, '.'))
            snprintf(path, cap, "%s/%s", dir, x->d_name);
    closedir(d);
    assert_true(path[0] != 0);
}

static void a_damaged_cache_is_made_again_and_a_whole_one_is_used(void **state)
{
    (void)state;
    char dir[600], file[1200];
    struct stat before, after;
    struct corpus_options o = text_options("text");
    snprintf(dir, sizeof dir, "%s", scratch("once"));
    o.cache_dir = dir;
    put_file(scratch("x.txt"), "Some words to count.", 20);
    struct corpus *a = open_one(scratch("x.txt"), o);
    cache_file(dir, file, sizeof file);
    assert_int_equal(stat(file, &before), 0);
    struct corpus *b = open_one(scratch("x.txt"), o);
    assert_int_equal(stat(file, &after), 0);
    assert_true(before.st_ino == after.st_ino);
    corpus_close(b);
    for (long at = 0; at < (long)before.st_size; at++) { /* every byte matters */
        FILE *f = fopen(file, "r+b");
        fseek(f, at, SEEK_SET);
        int c = fgetc(f);
        fseek(f, at, SEEK_SET);
        fputc(c ^ 0x40, f);
        fclose(f);
        b = open_one(scratch("x.txt"), o);
        assert_int_equal(corpus_tokens(b), corpus_tokens(a));
        corpus_close(b);
        assert_int_equal(stat(file, &after), 0);
        assert_int_equal(after.st_size, before.st_size);
    }
    corpus_close(a);
}

static void long_texts_are_cut_at_newlines_and_nothing_is_lost(void **state)
{
    (void)state;
    struct dha_err e;
    size_t n = 3 * DOCUMENT_PIECE + 12345, at = 0;
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++)
        text[i] = i % 61 == 60 ? '\n' : (char)('a' + i % 7);
    memset(text + DOCUMENT_PIECE + 100, 'x',
           DOCUMENT_PIECE + 50); /* more than a piece without newline */
    put_file(scratch("long.txt"), text, n);
    struct documents *d;
    struct piece p;
    int pieces = 0, rc;
    assert_int_equal(documents_open(&d, scratch("long.txt"), "text", &e), 0);
    while ((rc = documents_next(d, &p, &e)) > 0) {
        assert_true(p.len <= DOCUMENT_PIECE);
        assert_int_equal(p.first, pieces == 0);
        assert_memory_equal(p.text, text + at, p.len);
        at += p.len;
        pieces++;
        free(p.text);
    }
    assert_int_equal(rc, 0);
    assert_int_equal(at, n);
    assert_in_range(pieces, 4, 6);
    documents_close(d);
    free(text);
}

static void only_tokenizer_json_says_how_to_tokenise(void **state)
{
    (void)state;
    struct dha_err e;
    struct corpus_options o = text_options("text");
    put_file(scratch("y.txt"), "hello", 5);
    put_file(scratch("tokenizer.json"), "{}", 2);
    o.tokenizer = NULL;
    o.model_dir = scratch_dir();
    refuse(scratch("y.txt"), o, "tokenizers.Tokenizer.from_file", &e);
    assert_non_null(strstr(e.hint, "tofile(\"train.u16\")"));
    assert_int_equal(e.code, DHA_E_INPUT);
    o.model_dir = "/nonexistent";
    refuse(scratch("y.txt"), o, "no tokenizer.model", &e);
    o.tokenizer = scratch("y.txt");
    refuse(scratch("y.txt"), o, "no SentencePiece model", &e);
}

static void a_foreign_tokenizer_is_refused(void **state)
{
    (void)state;
    struct dha_err e;
    struct corpus_options o = text_options("text");
    put_file(scratch("z.txt"), "hello", 5);
    o.vocab = 20;
    refuse(scratch("z.txt"), o, "outside the model's vocabulary of 20", &e);
    assert_int_equal(e.code, DHA_E_INPUT);
    o.vocab = 511; /* "hello" has none of the tokens beyond: told all the same */
    refuse(scratch("z.txt"), o, "has 512 tokens", &e);
    assert_string_equal(e.path, TOKENIZER);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_u16_and_u32_files),
        cmocka_unit_test(skips_llmc_headers_and_believes_no_lie),
        cmocka_unit_test(refuses_files_that_cannot_be_tokens),
        cmocka_unit_test(says_what_a_short_file_lacks),
        cmocka_unit_test(crosses_file_borders_and_splits_a_tail),
        cmocka_unit_test(draws_are_a_pure_function_that_reaches_every_place),
        cmocka_unit_test(random_bits_depend_on_every_argument),
        cmocka_unit_test(text_tokens_are_bos_and_the_encoding_of_the_whole_file),
        cmocka_unit_test(compressed_text_gives_the_same_tokens),
        cmocka_unit_test(truncated_compressed_text_is_refused),
        cmocka_unit_test(jsonl_documents_begin_with_bos),
        cmocka_unit_test(bad_jsonl_lines_are_named),
        cmocka_unit_test(a_damaged_cache_is_made_again_and_a_whole_one_is_used),
        cmocka_unit_test(long_texts_are_cut_at_newlines_and_nothing_is_lost),
        cmocka_unit_test(only_tokenizer_json_says_how_to_tokenise),
        cmocka_unit_test(a_foreign_tokenizer_is_refused),
    };
    return cmocka_run_group_tests_name("corpus", tests, scratch_make, scratch_remove);
}
