/* host.h: buffers, head maps and groups in host memory, shared by the backends that compute there.
 *
 * Life cycle. host_alloc() gives a zeroed buffer aligned for any vector unit; host_free() takes it
 * back. Nothing here keeps a list: what is not freed leaks, as kern.h says (the caller owns it).
 *
 * Everything runs when it is called, so sync has nothing to wait for and wait only hands the sticky
 * error on: a queue ordered behind a failed one must not compute from what was never made.
 */
#ifndef DHA_KERNELS_HOST_H
#define DHA_KERNELS_HOST_H

#include "../kern.h"

struct kern_buf {
    enum kern_dtype type;
    size_t n;     /* elements */
    size_t bytes; /* as allocated */
    void *data;
};

struct kern_maps {
    int heads, key_heads, value_heads; /* the latter two: 1 + the largest entry */
    int *key_of, *value_of;
};

/* The heads of group g are member[start[g]] .. member[start[g + 1] - 1], ascending. */
struct kern_groups {
    int heads, n;
    int *group_of;
    int *start, *member;
};

static inline float *host_f32(struct kern_view v)
{
    return v.buf ? (float *)v.buf->data + v.off : NULL;
}
static inline int32_t *host_i32(struct kern_view v)
{
    return v.buf ? (int32_t *)v.buf->data + v.off : NULL;
}

/* Sets the queue's sticky error; the first one stays. */
void host_fail(struct kern *k, enum kern_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The entries of struct kern_ops that are the same for every backend in host memory. */
void host_sync(struct kern *k);
void host_wait(struct kern *k, struct kern *other);
struct kern_buf *host_alloc(struct kern *k, enum kern_dtype t, size_t n);
void host_free(struct kern *k, struct kern_buf *b);
void host_upload(struct kern *k, struct kern_view dst, const void *src, size_t n);
void host_download(struct kern *k, void *dst, struct kern_view src, size_t n);
void host_copy(struct kern *k, struct kern_view dst, struct kern_view src, size_t n);
void host_zero(struct kern *k, struct kern_view dst, size_t n);
void *host_address(struct kern *k, struct kern_view v);
struct kern_maps *host_maps_new(struct kern *k, int heads, const int *key_of, const int *value_of);
void host_maps_free(struct kern *k, struct kern_maps *m);
struct kern_groups *host_groups_new(struct kern *k, int heads, const int *group_of);
void host_groups_free(struct kern *k, struct kern_groups *g);

#endif
