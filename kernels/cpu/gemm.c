/* gemm.c: matrix products through oneDNN's C API.
 *
 * Two roads, chosen by what was measured (oneDNN 2.6.3, Sapphire Rapids, 2 cores, GFLOP/s at
 * beta = 0; peak about 400, buffers on huge pages; sgemm / cached matmul primitive):
 *
 *   forward  x W^T     1024 x 288 x 864   382 / 358      gradient of x     1024 x 864 x 288  390 / 361
 *                      1024 x 288 x 1536  340 / 339                        1024 x 1536 x 288 387 / 347
 *                      1024 x 768 x 288   379 / 366                        256 x 32000 x 288 354 / 275
 *                      256 x 288 x 32000  312 / 311
 *   gradient of W      864 x 1024 x 288   350 / 335      1536 x 1024 x 288                 296 / 327
 *   (A transposed)     288 x 1024 x 768   347 / 332      32000 x 256 x 288                 276 / 311
 *
 * (m x k x n.) So dnnl_sgemm everywhere, except A transposed with many rows (m >= 1024), where the
 * matmul primitive is 10 % faster. Making a primitive takes milliseconds: they are kept in a hash
 * table by shape. Cutting the product into blocks of columns, rows or k made neither faster.
 */
#include "../host/host.h"
#include "cpu.h"

#include <oneapi/dnnl/dnnl.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

struct key {
    dnnl_dim_t m, n, kk, lda, ldb, ldc;
    int32_t tb, add; /* add: beta = 1 */
};

struct entry {
    struct key key;
    dnnl_primitive_t primitive; /* NULL: free place */
    dnnl_memory_t a, b, c;      /* made once; the addresses are set before each use */
};

struct gemm_cache {
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    size_t size, used; /* size is a power of two, at most half is used */
    struct entry *table;
};

enum { FIRST_SIZE = 64, MATMUL_FROM_ROWS = 1024 };

int gemm_open(struct kern *k)
{
    struct cpu *cpu = k->impl;
    struct gemm_cache *g = calloc(1, sizeof *g);
    if (!g)
        goto no_memory;
    g->size = FIRST_SIZE;
    g->table = calloc(g->size, sizeof *g->table);
    if (!g->table)
        goto free_cache;
    dnnl_status_t s = dnnl_engine_create(&g->engine, dnnl_cpu, 0);
    if (s != dnnl_success) {
        host_fail(k, KERN_E_BACKEND, "oneDNN has no CPU engine here: status %d", (int)s);
        goto free_table;
    }
    s = dnnl_stream_create(&g->stream, g->engine, dnnl_stream_default_flags);
    if (s != dnnl_success) {
        host_fail(k, KERN_E_BACKEND, "oneDNN cannot make a stream: status %d", (int)s);
        goto destroy_engine;
    }
    cpu->gemm = g;
    return 0;

destroy_engine:
    dnnl_engine_destroy(g->engine);
free_table:
    free(g->table);
free_cache:
    free(g);
no_memory:
    host_fail(k, KERN_E_NOMEM, "cannot allocate the table of GEMM primitives");
    return -1;
}

static void entry_destroy(struct entry *e)
{
    if (e->c)
        dnnl_memory_destroy(e->c);
    if (e->b)
        dnnl_memory_destroy(e->b);
    if (e->a)
        dnnl_memory_destroy(e->a);
    if (e->primitive)
        dnnl_primitive_destroy(e->primitive);
    *e = (struct entry){0};
}

void gemm_close(struct gemm_cache *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->size; i++)
        entry_destroy(&g->table[i]);
    dnnl_stream_destroy(g->stream);
    dnnl_engine_destroy(g->engine);
    free(g->table);
    free(g);
}

/* The place of key in the table: its entry, or the free one where it belongs. */
static struct entry *place(const struct gemm_cache *g, const struct key *key)
{
    uint64_t hash = 1469598103934665603ULL; /* FNV-1a */
    const unsigned char *p = (const unsigned char *)key;
    for (size_t i = 0; i < sizeof *key; i++)
        hash = (hash ^ p[i]) * 1099511628211ULL;
    size_t i = (size_t)hash & (g->size - 1);
    while (g->table[i].primitive && memcmp(&g->table[i].key, key, sizeof *key) != 0)
        i = (i + 1) & (g->size - 1);
    return &g->table[i];
}

static bool grow(struct gemm_cache *g)
{
    struct gemm_cache bigger = {.size = 2 * g->size};
    bigger.table = calloc(bigger.size, sizeof *bigger.table);
    if (!bigger.table)
        return false;
    for (size_t i = 0; i < g->size; i++)
        if (g->table[i].primitive)
            *place(&bigger, &g->table[i].key) = g->table[i];
    free(g->table);
    g->table = bigger.table;
    g->size = bigger.size;
    return true;
}

/* C[m,n] = A^T op(B) (+ C): A is stored [kk,m]. */
static dnnl_status_t entry_create(struct entry *e, const struct key *key, dnnl_engine_t engine)
{
    dnnl_dims_t a_dims = {key->m, key->kk}, a_strides = {1, key->lda};
    dnnl_dims_t b_dims = {key->kk, key->n};
    dnnl_dims_t b_strides = {key->tb ? 1 : key->ldb, key->tb ? key->ldb : 1};
    dnnl_dims_t c_dims = {key->m, key->n}, c_strides = {key->ldc, 1};
    dnnl_memory_desc_t a, b, c;
    dnnl_matmul_desc_t matmul;
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t post = NULL;
    dnnl_primitive_desc_t desc = NULL;
    dnnl_status_t s;

    *e = (struct entry){.key = *key};
    if ((s = dnnl_memory_desc_init_by_strides(&a, 2, a_dims, dnnl_f32, a_strides)) ||
        (s = dnnl_memory_desc_init_by_strides(&b, 2, b_dims, dnnl_f32, b_strides)) ||
        (s = dnnl_memory_desc_init_by_strides(&c, 2, c_dims, dnnl_f32, c_strides)) ||
        (s = dnnl_matmul_desc_init(&matmul, &a, &b, NULL, &c)) ||
        (s = dnnl_primitive_attr_create(&attr)))
        goto out;
    if (key->add &&
        ((s = dnnl_post_ops_create(&post)) || (s = dnnl_post_ops_append_sum(post, 1.0F)) ||
         (s = dnnl_primitive_attr_set_post_ops(attr, post))))
        goto out;
    if ((s = dnnl_primitive_desc_create(&desc, &matmul, attr, engine, NULL)) ||
        (s = dnnl_memory_create(&e->a, &a, engine, DNNL_MEMORY_NONE)) ||
        (s = dnnl_memory_create(&e->b, &b, engine, DNNL_MEMORY_NONE)) ||
        (s = dnnl_memory_create(&e->c, &c, engine, DNNL_MEMORY_NONE)))
        goto out;
    s = dnnl_primitive_create(&e->primitive, desc);
out:
    if (desc)
        dnnl_primitive_desc_destroy(desc);
    if (post)
        dnnl_post_ops_destroy(post);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    if (s != dnnl_success)
        entry_destroy(e);
    return s;
}

static dnnl_status_t matmul(struct gemm_cache *g, const struct key *key, float *a, float *b,
                            float *c)
{
    struct entry *e = place(g, key);
    dnnl_status_t s;
    if (!e->primitive) {
        if (2 * (g->used + 1) > g->size) {
            if (!grow(g))
                return dnnl_out_of_memory;
            e = place(g, key);
        }
        if ((s = entry_create(e, key, g->engine)))
            return s;
        g->used++;
    }
    if ((s = dnnl_memory_set_data_handle(e->a, a)) || (s = dnnl_memory_set_data_handle(e->b, b)) ||
        (s = dnnl_memory_set_data_handle(e->c, c)))
        return s;
    dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, e->a}, {DNNL_ARG_WEIGHTS, e->b}, {DNNL_ARG_DST, e->c}};
    s = dnnl_primitive_execute(e->primitive, g->stream, 3, args);
    return s ? s : dnnl_stream_wait(g->stream);
}

static void scale_rows(float *c, size_t ldc, size_t m, size_t n, float beta)
{
    for (size_t i = 0; i < m; i++)
        for (size_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0 ? 0 : beta * c[i * ldc + j];
}

void cpu_gemm(struct kern *k, bool ta, bool tb, size_t m, size_t n, size_t kk, float alpha,
              struct kern_view a, size_t lda, struct kern_view b, size_t ldb, float beta,
              struct kern_view c, size_t ldc)
{
    if (!kern_ok(k) || m == 0 || n == 0)
        return;
    struct cpu *cpu = k->impl;
    float *A = host_f32(a), *B = host_f32(b), *C = host_f32(c);
    if (kk == 0) { /* oneDNN has no empty sum */
        scale_rows(C, ldc, m, n, beta);
        return;
    }
    dnnl_dim_t M = (dnnl_dim_t)m, N = (dnnl_dim_t)n, K = (dnnl_dim_t)kk;
    dnnl_dim_t LA = (dnnl_dim_t)lda, LB = (dnnl_dim_t)ldb, LC = (dnnl_dim_t)ldc;
    dnnl_status_t s;
    omp_set_num_threads(cpu->threads);
    if (ta && m >= MATMUL_FROM_ROWS && alpha == 1.0F && (beta == 0.0F || beta == 1.0F)) {
        struct key key = {M, N, K, LA, LB, LC, tb, beta == 1.0F};
        s = matmul(cpu->gemm, &key, A, B, C);
    } else {
        s = dnnl_sgemm(ta ? 'T' : 'N', tb ? 'T' : 'N', M, N, K, alpha, A, LA, B, LB, beta, C, LC);
    }
    if (s != dnnl_success)
        host_fail(k, s == dnnl_out_of_memory ? KERN_E_NOMEM : KERN_E_BACKEND,
                  "oneDNN product of %s[%zu,%zu] and %s[%zu,%zu] failed: status %d",
                  ta ? "transposed " : "", m, kk, tb ? "transposed " : "", kk, n, (int)s);
}
