/* Opening, forking, waiting, buffers and the sticky error, on every backend. */
#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Under AddressSanitizer a failing malloc aborts unless told to fail like the C library's. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void each_backend(void (*check)(struct kern *k))
{
    const struct kern_ops *const *table = kern_backends();
    assert_non_null(table[0]);
    for (int i = 0; table[i]; i++) {
        struct kern_err err;
        struct kern *k = kern_open(table[i]->name, 1, &err);
        assert_non_null(k);
        assert_int_equal(err.code, KERN_OK);
        check(k);
        kern_close(k);
    }
}

static void unknown_backend_names_those_there_are(void **state)
{
    (void)state;
    struct kern_err err;
    assert_null(kern_open("abacus", 1, &err));
    assert_int_equal(err.code, KERN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "abacus"));
    assert_non_null(strstr(err.msg, "reference"));
    assert_non_null(strstr(err.msg, "cpu"));
    assert_null(kern_open("abacus", 1, NULL));
}

static void unknown_instruction_set_is_refused(void **state)
{
    (void)state;
    struct kern_err err;
    assert_int_equal(setenv("DHA_CPU_ISA", "mmx", 1), 0);
    assert_null(kern_open("cpu", 1, &err));
    unsetenv("DHA_CPU_ISA");
    assert_int_equal(err.code, KERN_E_UNSUPPORTED);
    assert_non_null(strstr(err.msg, "DHA_CPU_ISA"));
    struct kern *k = kern_open("cpu", 0, &err); /* and nothing of it stays */
    assert_non_null(k);
    kern_close(k);
}

static void check_describe(struct kern *k)
{
    char text[128] = "";
    k->ops->describe(k, text, sizeof text);
    assert_true(strlen(text) > 5);
}
static void describes_itself(void **state)
{
    (void)state;
    each_backend(check_describe);
    struct kern *k = kern_open("cpu", 3, NULL);
    char text[128];
    k->ops->describe(k, text, sizeof text);
    assert_non_null(strstr(text, "3 threads"));
    kern_close(k);
}

static void check_sticky(struct kern *k)
{
    float one = 1, got = 0;
    struct kern_err err;
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, 4);
    k->ops->upload(k, kern_at(b, 0), &one, 1);
    assert_null(k->ops->alloc(k, KERN_F32, SIZE_MAX / 2)); /* overflows when counted in bytes */
    assert_false(kern_ok(k));
    assert_int_equal(kern_sync(k, &err), -1);
    assert_int_equal(err.code, KERN_E_NOMEM);
    struct kern_err first = err;
    assert_null(k->ops->alloc(k, KERN_BF16, 4)); /* fails for another reason */
    assert_int_equal(kern_sync(k, &err), -1);
    assert_string_equal(err.msg, first.msg); /* the first one stays */
    /* later work does nothing */
    k->ops->scale(k, kern_at(b, 0), 5, 1);
    k->ops->zero(k, kern_at(b, 0), 1);
    k->ops->download(k, &got, kern_at(b, 0), 1);
    assert_true(got == 0);
    assert_true(*(float *)k->ops->host(k, kern_at(b, 0)) == 1);
    assert_null(k->ops->alloc(k, KERN_F32, 1));
    k->ops->free(k, b);
}
static void first_error_sticks_and_stops_the_queue(void **state)
{
    (void)state;
    each_backend(check_sticky);
}

static void check_absurd(struct kern *k)
{
    assert_null(k->ops->alloc(k, KERN_F32, (size_t)1 << 58)); /* fits in 64 bits, in no machine */
    assert_int_equal(k->err.code, KERN_E_NOMEM);
    assert_true(strlen(k->err.msg) > 10);
}
static void absurd_allocation_is_an_error(void **state)
{
    (void)state;
    each_backend(check_absurd);
}

static void check_bf16(struct kern *k)
{
    assert_null(k->ops->alloc(k, KERN_BF16, 8));
    assert_int_equal(k->err.code, KERN_E_UNSUPPORTED);
    assert_non_null(strstr(k->err.msg, "bf16"));
}
static void bf16_is_refused_with_a_reason(void **state)
{
    (void)state;
    each_backend(check_bf16);
}

static void check_fork(struct kern *k)
{
    struct kern *side = kern_fork(k);
    assert_non_null(side);
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, 2);
    const float x[2] = {1, 2};
    float got[2];
    k->ops->upload(k, kern_at(b, 0), x, 2);
    side->ops->wait(side, k);
    side->ops->scale(side, kern_at(b, 0), 3, 2); /* the same buffer, the other queue */
    k->ops->wait(k, side);
    k->ops->download(k, got, kern_at(b, 0), 2);
    assert_true(got[0] == 3 && got[1] == 6);
    /* an error stays in its queue until somebody waits for it */
    assert_null(side->ops->alloc(side, KERN_BF16, 2));
    assert_int_equal(kern_sync(k, NULL), 0);
    k->ops->wait(k, side);
    struct kern_err err;
    assert_int_equal(kern_sync(k, &err), -1);
    assert_int_equal(err.code, KERN_E_UNSUPPORTED);
    k->ops->free(k, b);
    kern_close(side);
}
static void fork_shares_buffers_and_wait_hands_errors_on(void **state)
{
    (void)state;
    each_backend(check_fork);
}

static void check_memory(struct kern *k)
{
    enum { N = 1100000 }; /* large enough for huge pages */
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, N), *ids = k->ops->alloc(k, KERN_I32, 3);
    float *x = malloc(N * sizeof *x);
    k->ops->download(k, x, kern_at(b, 0), N);
    for (size_t i = 0; i < N; i++)
        assert_true(x[i] == 0);
    fill_random(x, 100, 1, 1, 0);
    k->ops->upload(k, kern_at(b, 5), x, 100);
    k->ops->copy(k, kern_at(b, 55), kern_at(b, 5), 100); /* overlapping */
    float y[100];
    k->ops->download(k, y, kern_plus(kern_at(b, 50), 5), 100);
    assert_memory_equal(x, y, sizeof y);
    k->ops->zero(k, kern_at(b, 60), 10);
    k->ops->download(k, y, kern_at(b, 55), 100);
    assert_true(y[4] == x[4] && y[5] == 0 && y[14] == 0 && y[15] == x[15]);
    const int32_t in[3] = {-1, 7, 1 << 30};
    int32_t out[3];
    k->ops->upload(k, kern_at(ids, 0), in, 3);
    k->ops->download(k, out, kern_at(ids, 0), 3);
    assert_memory_equal(in, out, sizeof in);
    k->ops->free(k, b);
    k->ops->free(k, ids);
    k->ops->free(k, NULL);
    k->ops->maps_free(k, NULL);
    k->ops->groups_free(k, NULL);
    free(x);
}
static void buffers_start_zeroed_and_copy(void **state)
{
    (void)state;
    each_backend(check_memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unknown_backend_names_those_there_are),
        cmocka_unit_test(unknown_instruction_set_is_refused),
        cmocka_unit_test(describes_itself),
        cmocka_unit_test(first_error_sticks_and_stops_the_queue),
        cmocka_unit_test(absurd_allocation_is_an_error),
        cmocka_unit_test(bf16_is_refused_with_a_reason),
        cmocka_unit_test(fork_shares_buffers_and_wait_hands_errors_on),
        cmocka_unit_test(buffers_start_zeroed_and_copy),
    };
    return cmocka_run_group_tests_name("kernels: queue", tests, NULL, NULL);
}
