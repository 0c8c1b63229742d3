#include "host.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum {
    ALIGN_SMALL = 64,     /* a cache line and a 512-bit vector */
    ALIGN_HUGE = 2 << 20, /* large buffers start on a huge page: fewer TLB misses in GEMM */
    HUGE_FROM = 4 << 20,
};

void host_fail(struct kern *k, enum kern_code code, const char *fmt, ...)
{
    if (k->err.code != KERN_OK)
        return;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(k->err.msg, sizeof k->err.msg, fmt, ap);
    va_end(ap);
    k->err.code = (int)code;
}

void host_sync(struct kern *k)
{
    (void)k;
}

void host_wait(struct kern *k, struct kern *other)
{
    if (kern_ok(k) && !kern_ok(other))
        k->err = other->err;
}

static size_t element_size(enum kern_dtype t)
{
    return t == KERN_BF16 ? 2 : 4;
}

struct kern_buf *host_alloc(struct kern *k, enum kern_dtype t, size_t n)
{
    if (!kern_ok(k))
        return NULL;
    if (t == KERN_BF16) {
        host_fail(k, KERN_E_UNSUPPORTED, "backend %s has no bf16 buffers yet: use dtype f32",
                  k->ops->name);
        return NULL;
    }
    if (n > (SIZE_MAX - ALIGN_HUGE) / element_size(t)) {
        host_fail(k, KERN_E_NOMEM, "cannot allocate %zu elements: more than the address space", n);
        return NULL;
    }
    size_t align = n * element_size(t) >= HUGE_FROM ? ALIGN_HUGE : ALIGN_SMALL;
    size_t bytes = (n * element_size(t) + align - 1) / align * align;
    if (bytes == 0)
        bytes = align;

    struct kern_buf *b = malloc(sizeof *b);
    void *data = NULL;
    if (!b || posix_memalign(&data, align, bytes) != 0) {
        free(b);
        host_fail(k, KERN_E_NOMEM, "cannot allocate a buffer of %zu bytes", bytes);
        return NULL;
    }
    if (align == ALIGN_HUGE)
        (void)madvise(data, bytes, MADV_HUGEPAGE); /* only a hint: without it we are slower */
    memset(data, 0, bytes);
    *b = (struct kern_buf){.type = t, .n = n, .bytes = bytes, .data = data};
    return b;
}

void host_free(struct kern *k, struct kern_buf *b)
{
    (void)k;
    if (!b)
        return;
    free(b->data);
    free(b);
}

static char *byte_at(struct kern_view v, size_t n)
{
    assert(v.off + n <= v.buf->n);
    (void)n;
    return (char *)v.buf->data + v.off * element_size(v.buf->type);
}

void host_upload(struct kern *k, struct kern_view dst, const void *src, size_t n)
{
    if (!kern_ok(k) || n == 0)
        return;
    memcpy(byte_at(dst, n), src, n * element_size(dst.buf->type));
}

void host_download(struct kern *k, void *dst, struct kern_view src, size_t n)
{
    if (!kern_ok(k) || n == 0)
        return;
    memcpy(dst, byte_at(src, n), n * element_size(src.buf->type));
}

void host_copy(struct kern *k, struct kern_view dst, struct kern_view src, size_t n)
{
    if (!kern_ok(k) || n == 0)
        return;
    assert(dst.buf->type == src.buf->type);
    memmove(byte_at(dst, n), byte_at(src, n), n * element_size(src.buf->type));
}

void host_zero(struct kern *k, struct kern_view dst, size_t n)
{
    if (!kern_ok(k) || n == 0)
        return;
    memset(byte_at(dst, n), 0, n * element_size(dst.buf->type));
}

void *host_address(struct kern *k, struct kern_view v)
{
    (void)k;
    return v.buf ? byte_at(v, 0) : NULL;
}

static int largest(const int *x, int n)
{
    int max = -1;
    for (int i = 0; i < n; i++)
        max = x[i] > max ? x[i] : max;
    return max;
}

struct kern_maps *host_maps_new(struct kern *k, int heads, const int *key_of, const int *value_of)
{
    if (!kern_ok(k))
        return NULL;
    assert(heads > 0);
    struct kern_maps *m = malloc(sizeof *m);
    int *both = malloc(2 * (size_t)heads * sizeof *both);
    if (!m || !both) {
        free(m);
        free(both);
        host_fail(k, KERN_E_NOMEM, "cannot allocate head maps of %d heads", heads);
        return NULL;
    }
    memcpy(both, key_of, (size_t)heads * sizeof *both);
    memcpy(both + heads, value_of, (size_t)heads * sizeof *both);
    *m = (struct kern_maps){.heads = heads,
                            .key_heads = largest(key_of, heads) + 1,
                            .value_heads = largest(value_of, heads) + 1,
                            .key_of = both,
                            .value_of = both + heads};
    return m;
}

void host_maps_free(struct kern *k, struct kern_maps *m)
{
    (void)k;
    if (!m)
        return;
    free(m->key_of); /* one block with value_of */
    free(m);
}

struct kern_groups *host_groups_new(struct kern *k, int heads, const int *group_of)
{
    if (!kern_ok(k))
        return NULL;
    assert(heads > 0);
    int n = largest(group_of, heads) + 1;
    struct kern_groups *g = malloc(sizeof *g);
    int *block = calloc(2 * (size_t)heads + (size_t)n + 1, sizeof *block);
    if (!g || !block) {
        free(g);
        free(block);
        host_fail(k, KERN_E_NOMEM, "cannot allocate groups of %d heads", heads);
        return NULL;
    }
    *g = (struct kern_groups){.heads = heads,
                              .n = n,
                              .group_of = block,
                              .member = block + heads,
                              .start = block + 2 * heads};
    memcpy(g->group_of, group_of, (size_t)heads * sizeof *group_of);
    int filled = 0;
    for (int i = 0; i < n; i++) {
        g->start[i] = filled;
        for (int h = 0; h < heads; h++)
            if (group_of[h] == i)
                g->member[filled++] = h;
    }
    g->start[n] = filled;
    return g;
}

void host_groups_free(struct kern *k, struct kern_groups *g)
{
    (void)k;
    if (!g)
        return;
    free(g->group_of); /* one block with member and start */
    free(g);
}
