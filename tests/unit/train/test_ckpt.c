#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "worker/fsutil.h"
#include "worker/train/ckpt.h"

#define N 1000
#define M 33

/* A run of one rank with two groups, in a directory of its own. */
struct fixture {
    char dir[64];
    struct kern *k;
    struct comm comm;
    struct optim o;
    struct kern_buf *p, *g, *p2, *g2;
    int warnings;
};

static void fill(struct kern *k, struct kern_buf *b, size_t n, float seed)
{
    float x[N];
    for (size_t i = 0; i < n; i++)
        x[i] = sinf(seed + (float)i);
    k->ops->upload(k, kern_at(b, 0), x, n);
}

static struct kern_buf *buffer(struct fixture *f, size_t n)
{
    struct kern_buf *b = f->k->ops->alloc(f->k, KERN_F32, n);
    assert_non_null(b);
    return b;
}

static int set_up(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    struct dha_err e = {0};
    struct optim_span all = {0, N, 0, 1}, all2 = {0, M, 0, 1};
    strcpy(f->dir, "/tmp/dha-test-ckpt-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    comm_alone(&f->comm);
    f->k = kern_open("reference", 1, NULL);
    assert_non_null(f->k);
    f->p = buffer(f, N);
    f->g = buffer(f, N);
    f->p2 = buffer(f, M);
    f->g2 = buffer(f, M);
    optim_init(&f->o, f->k, &f->comm, 0);
    assert_int_equal(optim_add(&f->o, f->p, f->g, N, 1e-2, &all, 1, &e), 0);
    assert_int_equal(optim_add(&f->o, f->p2, f->g2, M, 1e-2, &all2, 1, &e), 0);
    *state = f;
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;
    optim_finish(&f->o);
    f->k->ops->free(f->k, f->p);
    f->k->ops->free(f->k, f->g);
    f->k->ops->free(f->k, f->p2);
    f->k->ops->free(f->k, f->g2);
    kern_close(f->k);
    fs_remove_tree(f->dir, NULL);
    free(f);
    return 0;
}

static void randomise(struct fixture *f, float seed)
{
    fill(f->k, f->p, N, seed);
    fill(f->k, f->o.group[0].m, N, seed + 1);
    fill(f->k, f->o.group[0].v, N, seed + 2);
    fill(f->k, f->p2, M, seed + 3);
    fill(f->k, f->o.group[1].m, M, seed + 4);
    fill(f->k, f->o.group[1].v, M, seed + 5);
}

static bool holds(struct fixture *f, float seed)
{
    struct kern_buf *b[6] = {f->p,  f->o.group[0].m, f->o.group[0].v,
                             f->p2, f->o.group[1].m, f->o.group[1].v};
    for (int i = 0; i < 6; i++) {
        size_t n = i < 3 ? N : M;
        float got[N];
        f->k->ops->download(f->k, got, kern_at(b[i], 0), n);
        for (size_t j = 0; j < n; j++) {
            float want = sinf(seed + (float)i + (float)j);
            if (memcmp(&want, &got[j], sizeof want))
                return false;
        }
    }
    return true;
}

static void save(struct fixture *f, int64_t step, float seed, struct ckpt_info *info)
{
    struct dha_err e = {0};
    struct ckpt_state s = {.step = step,
                           .tokens = step * 10,
                           .lambda = 1.0 / 3,
                           .fusion_loss = NAN,
                           .valid_loss = NAN};
    randomise(f, seed);
    if (ckpt_save(f->dir, &f->o, &s, "id", info, &e))
        fail_msg("%s", e.msg);
    ckpt_retain(f->dir, &(struct ckpt_keep){.last = 2});
}

static void count(void *arg, const char *text)
{
    (void)text;
    ((struct fixture *)arg)->warnings++;
}

static int load(struct fixture *f, struct ckpt_state *s, const char *identity)
{
    struct dha_err e = {0};
    randomise(f, -100);
    return ckpt_load(f->dir, &f->o, s, identity, count, f, &e);
}

static void loads_what_was_saved_bit_for_bit(void **state)
{
    struct fixture *f = *state;
    struct ckpt_info info;
    struct ckpt_state s = {0};
    save(f, 7, 5, &info);
    assert_int_equal(info.bytes, (N + M) * 3 * 4);
    assert_int_equal(strlen(info.digest), 64);
    assert_int_equal(load(f, &s, "id"), 1);
    assert_int_equal(s.step, 7);
    assert_int_equal(s.tokens, 70);
    assert_true(s.lambda == 1.0 / 3);
    assert_true(isnan(s.fusion_loss));
    assert_true(holds(f, 5));
}

static void nothing_to_load_is_no_error(void **state)
{
    struct ckpt_state s = {0};
    assert_int_equal(load(*state, &s, "id"), 0);
}

static void keeps_the_newest_two(void **state)
{
    struct fixture *f = *state;
    char path[128];
    for (int i = 1; i <= 4; i++)
        save(f, i, (float)i, NULL);
    for (int i = 1; i <= 4; i++) {
        snprintf(path, sizeof path, "%s/step-%08d", f->dir, i);
        assert_int_equal(fs_exists(path), i >= 3);
    }
}

/* Damage each byte region of the newest one: the older one is taken, with a warning, and holds its own values. */
static void damaged_checkpoint_is_passed_over_for_the_one_before(void **state)
{
    struct fixture *f = *state;
    static const char *const files[] = {"shard-0000.bin", "manifest.json"};
    for (size_t i = 0; i < 2; i++) {
        for (int truncate_it = 0; truncate_it < 2; truncate_it++) {
            char path[128];
            struct stat st;
            struct ckpt_state s = {0};
            int64_t step = 10 + (int64_t)i * 4 + truncate_it * 2;
            save(f, step, 1, NULL);
            save(f, step + 1, 2, NULL);
            snprintf(path, sizeof path, "%s/step-%08d/%s", f->dir, (int)step + 1, files[i]);
            assert_int_equal(stat(path, &st), 0);
            int fd = open(path, O_RDWR);
            assert_true(fd >= 0);
            if (truncate_it) {
                assert_int_equal(ftruncate(fd, st.st_size / 2), 0);
            } else {
                char c;
                assert_int_equal(pread(fd, &c, 1, st.st_size / 2), 1);
                c = (char)(c ^ 0x40);
                assert_int_equal(pwrite(fd, &c, 1, st.st_size / 2), 1);
            }
            close(fd);
            f->warnings = 0;
            assert_int_equal(load(f, &s, "id"), 1);
            assert_int_equal(s.step, step);
            assert_true(f->warnings >= 1);
            assert_true(holds(f, 1));
        }
    }
}

/* Each byte of a manifest in turn: no value of it may come back changed. */
static void a_manifest_with_any_byte_changed_is_not_taken(void **state)
{
    struct fixture *f = *state;
    char path[128], text[4096];
    struct ckpt_state s = {0};
    save(f, 5, 1, NULL);
    snprintf(path, sizeof path, "%s/step-%08d/manifest.json", f->dir, 5);
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    ssize_t n = read(fd, text, sizeof text);
    assert_true(n > 100 && n < (ssize_t)sizeof text);
    int taken = 0;
    for (ssize_t i = 0; i < n; i++) {
        char c = (char)(text[i] ^ 1);
        assert_int_equal(pwrite(fd, &c, 1, i), 1);
        if (load(f, &s, "id") == 1) { /* white space, and the name of the digest itself */
            assert_int_equal(s.step, 5);
            assert_int_equal(s.tokens, 50);
            assert_true(s.lambda == 1.0 / 3);
            assert_true(holds(f, 1));
            taken++;
        }
        assert_int_equal(pwrite(fd, text + i, 1, i), 1);
    }
    close(fd);
    assert_in_range(taken, 0, 20);
    assert_int_equal(load(f, &s, "id"), 1);
}

static void checkpoint_of_another_run_is_not_taken(void **state)
{
    struct ckpt_state s = {0};
    save(*state, 3, 1, NULL);
    assert_int_equal(load(*state, &s, "another"), 0);
}

static void half_a_save_is_removed_and_never_loaded(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    char path[128];
    struct ckpt_state s = {0};
    save(f, 3, 1, NULL);
    snprintf(path, sizeof path, "%s/step-%08d.tmp", f->dir, 4);
    assert_int_equal(fs_make_dirs(path, &e), 0);
    assert_int_equal(load(f, &s, "id"), 1);
    assert_int_equal(s.step, 3);
    assert_false(fs_exists(path));
}

static void failed_save_says_why_and_keeps_the_old_one(void **state)
{
    struct fixture *f = *state;
    struct dha_err e = {0};
    struct ckpt_state s = {.step = 9};
    char path[128];
    save(f, 3, 1, NULL);
    /* a file where the next save wants its directory */
    snprintf(path, sizeof path, "%s/blocked", f->dir);
    assert_int_equal(fs_write_file(path, "x", 1, &e), 0);
    assert_int_equal(ckpt_save(path, &f->o, &s, "id", NULL, &e), -1);
    assert_non_null(strstr(e.msg, "step 9"));
    assert_int_equal(load(f, &s, "id"), 1);
    assert_int_equal(s.step, 3);
}

/* A letter a saved step of 10, 20 ... as they are written, oldest first; capital: it stays. */
static void chooses(const struct ckpt_keep *keep, const double *loss, size_t n, const char *want)
{
    int64_t steps[16];
    double newest_first[16];
    bool stay[16];
    char got[17] = "";
    for (size_t i = 0; i < n; i++) {
        steps[i] = (int64_t)(n - i) * 10;
        newest_first[i] = loss ? loss[n - 1 - i] : NAN;
    }
    ckpt_choose(keep, steps, newest_first, n, stay);
    for (size_t i = 0; i < n; i++)
        got[i] = (char)((stay[n - 1 - i] ? 'A' : 'a') + (int)i);
    got[n] = '\0';
    assert_string_equal(got, want);
}

static void keeps_the_last_every_nth_and_the_best(void **state)
{
    (void)state;
    const double loss[] = {3, NAN, 2, 4, 2, NAN};
    chooses(&(struct ckpt_keep){.last = 2}, loss, 6, "abcdEF");
    chooses(&(struct ckpt_keep){.last = 9}, loss, 6, "ABCDEF");
    chooses(&(struct ckpt_keep){.last = 1}, loss, 6, "abcdeF");
    chooses(&(struct ckpt_keep){.last = 0}, loss, 6, "abcdeF"); /* the newest in any case */
    chooses(&(struct ckpt_keep){.last = 1, .every = 20}, loss, 6, "aBcDeF");
    chooses(&(struct ckpt_keep){.last = 1, .every = 7}, loss, 6, "abcdeF");
    chooses(&(struct ckpt_keep){.last = 1, .best = 1}, loss, 6, "abCdeF"); /* of equals the older */
    chooses(&(struct ckpt_keep){.last = 1, .best = 2}, loss, 6, "abCdEF");
    chooses(&(struct ckpt_keep){.last = 1, .best = 9}, loss, 6,
            "AbCDEF"); /* a loss that is not known is no best one */
    chooses(&(struct ckpt_keep){.last = 1, .every = 40, .best = 1}, loss, 6, "abCDeF");
    chooses(&(struct ckpt_keep){.last = 1, .best = 1}, NULL, 6, "abcdeF");
    chooses(&(struct ckpt_keep){.last = 1, .best = 1}, NULL, 1, "A");
    ckpt_choose(&(struct ckpt_keep){.last = 1, .best = 1}, NULL, NULL, 0, NULL);
}

static void save_only(struct fixture *f, int64_t step, double loss)
{
    struct dha_err e = {0};
    struct ckpt_state s = {.step = step, .fusion_loss = NAN, .valid_loss = loss};
    randomise(f, (float)step);
    assert_int_equal(ckpt_save(f->dir, &f->o, &s, "id", NULL, &e), 0);
}

static bool there(const struct fixture *f, int64_t step)
{
    char path[256];
    snprintf(path, sizeof path, "%s/step-%08d", f->dir, (int)step);
    return fs_exists(path);
}

static void the_best_is_known_from_its_manifest_and_nothing_goes_before_it_is_told_to(void **state)
{
    struct fixture *f = *state;
    struct ckpt_state s = {0};
    const struct ckpt_keep keep = {.last = 1, .every = 50, .best = 1};
    for (int64_t step = 10; step <= 60; step += 10)
        save_only(f, step, step == 20 ? 1.25 : step == 40 ? NAN : 2);
    for (int64_t step = 10; step <= 60; step += 10)
        assert_true(there(f, step));
    ckpt_retain(f->dir, &keep);
    for (int64_t step = 10; step <= 60; step += 10)
        assert_int_equal(there(f, step), step == 20 || step == 50 || step == 60);
    assert_int_equal(load(f, &s, "id"), 1);
    assert_int_equal(s.step, 60); /* the newest, not the best */
    assert_true(s.valid_loss == 2);
    save_only(f, 70, 1.0);
    ckpt_retain(f->dir, &keep);
    assert_true(there(f, 50) && there(f, 70) && !there(f, 20) && !there(f, 60));
}

/* At any instant of a removal what is left is whole or does not look whole. */
static void a_removal_that_is_cut_off_leaves_nothing_that_looks_complete(void **state)
{
    struct fixture *f = *state;
    char path[256], to[256];
    struct ckpt_state s = {0};
    struct dha_err e = {0};
    save_only(f, 10, NAN);
    save_only(f, 20, NAN);
    snprintf(path, sizeof path, "%s/step-%08d/manifest.json", f->dir, 10);
    assert_int_equal(unlink(path), 0); /* died after the first step of it */
    snprintf(path, sizeof path, "%s/step-%08d", f->dir, 10);
    assert_int_equal(ckpt_verify(path, "id", &e), -1);
    snprintf(path, sizeof path, "%s/step-%08d/manifest.json", f->dir, 20);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(load(f, &s, "id"), 0);
    snprintf(path, sizeof path, "%s/step-%08d", f->dir, 10);
    snprintf(to, sizeof to, "%s/step-%08d.del", f->dir, 10);
    assert_int_equal(rename(path, to), 0); /* after the second */
    save_only(f, 30, NAN);
    ckpt_retain(f->dir, &(struct ckpt_keep){.last = 1});
    assert_false(fs_exists(to));
    assert_false(there(f, 20));
    assert_int_equal(load(f, &s, "id"), 1);
    assert_int_equal(s.step, 30);
}

/* More than any fixed table holds. */
static void many_checkpoints_are_all_known(void **state)
{
    struct fixture *f = *state;
    char path[256];
    for (int i = 1; i <= 300; i++) {
        snprintf(path, sizeof path, "%s/step-%08d", f->dir, i);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    ckpt_retain(f->dir, &(struct ckpt_keep){.last = 1, .every = 100});
    for (int i = 1; i <= 300; i++)
        assert_int_equal(there(f, i), i % 100 == 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        T(loads_what_was_saved_bit_for_bit),
        T(nothing_to_load_is_no_error),
        T(keeps_the_newest_two),
        T(damaged_checkpoint_is_passed_over_for_the_one_before),
        T(checkpoint_of_another_run_is_not_taken),
        T(half_a_save_is_removed_and_never_loaded),
        T(failed_save_says_why_and_keeps_the_old_one),
        cmocka_unit_test_setup_teardown(a_manifest_with_any_byte_changed_is_not_taken, set_up,
                                        tear_down),
        cmocka_unit_test(keeps_the_last_every_nth_and_the_best),
        cmocka_unit_test_setup_teardown(
            the_best_is_known_from_its_manifest_and_nothing_goes_before_it_is_told_to, set_up,
            tear_down),
        cmocka_unit_test_setup_teardown(
            a_removal_that_is_cut_off_leaves_nothing_that_looks_complete, set_up, tear_down),
        cmocka_unit_test_setup_teardown(many_checkpoints_are_all_known, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
