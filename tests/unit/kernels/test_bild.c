/* BiLD on two backends. The losses are sums over pairs in double on both, of float differences (logits of size 8 over
 * temperature 3): 1e-6 a pair at most. Where logits are equal both rank by index, so the places must be equal, too. */
#include "support.h"

#include <stdlib.h>

static void check_shape(struct duo *d, size_t rows, size_t vocab, int top, bool ties)
{
    size_t n = rows * vocab, places = rows * 2 * (size_t)top;
    float *z = malloc(n * sizeof *z), *w = malloc(rows * sizeof *w);
    fill_random(z, n, 1, 8, 0);
    for (size_t i = 0; ties && i < n; i++)
        z[i] = (float)(int)(z[i] / 4); /* a few values only */
    for (size_t r = 0; r < rows; r++)
        w[r] = r % 3 == 1 ? 0 : 1.0F / (float)(r + 1);
    struct arr a = arr_from(d, z, n), t = arr_random(d, n, 2, 8, 0), weight = arr_from(d, w, rows);
    struct arr loss = arr_random(d, rows, 3, 1, 0), value = arr_random(d, places, 4, 1, 0);
    struct arr sum = arr_random(d, n, 5, 1, 0);
    int32_t *zero = calloc(places, sizeof *zero);
    struct arr index = arr_ints(d, zero, places);
    for (int b = 0; b < BACKENDS; b++) {
        struct kern *k = d->k[b];
        k->ops->bild(k, a.v[b], t.v[b], weight.v[b], rows, vocab, top, 3, 0.5F, loss.v[b],
                     index.v[b], value.v[b]);
        k->ops->scatter_add(k, sum.v[b], index.v[b], value.v[b], rows, vocab, 2 * (size_t)top);
    }
    arr_same(d, &loss, 4e-6, 1e-6, "bild");
    arr_same(d, &value, 1e-6, 1e-6, "bild gradient");
    arr_same(d, &sum, 2e-6, 1e-6, "bild gradient in place");
    int32_t *place[BACKENDS];
    for (int b = 0; b < BACKENDS; b++) {
        place[b] = malloc(places * sizeof *place[b]);
        d->k[b]->ops->download(d->k[b], place[b], index.v[b], places);
    }
    assert_memory_equal(place[REF], place[CPU], places * sizeof *place[0]);
    struct arr *all[] = {&a, &t, &weight, &loss, &value, &sum, &index};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        arr_free(d, all[i]);
    free(place[REF]);
    free(place[CPU]);
    free(zero);
    free(z);
    free(w);
}

static void check(struct duo *d)
{
    for (int ties = 0; ties < 2; ties++) {
        check_shape(d, 1, 2, 2, ties);
        check_shape(d, 5, 17, 16, ties);
        check_shape(d, 7, 33, 5, ties);
        check_shape(d, 4, 4999, 16, ties);
        check_shape(d, 3, 600, 32, ties);
    }
}

static void bild_agrees_with_reference_also_where_logits_are_equal(void **state)
{
    (void)state;
    with_every_cpu(check);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bild_agrees_with_reference_also_where_logits_are_equal),
    };
    return cmocka_run_group_tests_name("kernels: bild", tests, NULL, NULL);
}
