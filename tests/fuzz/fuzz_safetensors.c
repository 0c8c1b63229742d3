/* Header validation: whatever is accepted must be readable to the last byte. */
#include <stdlib.h>

#include "worker/model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct st_file *f;
    struct dha_err e;
    if (st_parse(&f, data, size, &e) < 0)
        return 0;
    volatile uint8_t sink = 0;
    for (size_t i = 0; i < st_count(f); i++) {
        const struct st_tensor *t = st_at(f, i);
        const uint8_t *p = t->data;
        for (size_t b = 0; b < t->bytes; b++)
            sink = (uint8_t)(sink + p[b]);
        size_t n = 1;
        for (int d = 0; d < t->n_dims; d++)
            n *= (size_t)t->dims[d];
        if (n <= size) {
            float *dst = malloc((n ? n : 1) * sizeof *dst);
            if (dst && st_read_f32(t, dst, n, &e) == 0 && n)
                sink = (uint8_t)(sink + (dst[n - 1] > 0));
            free(dst);
        }
        if (st_find(f, t->name) != t)
            abort();
    }
    st_close(f);
    return 0;
}
