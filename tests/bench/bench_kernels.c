/* bench_kernels: what each operation of a backend costs in one training step.
 *
 *   bench_kernels [backend [threads]]          (default: cpu, all threads)
 *
 * The step is the 15M-parameter LLaMA of docs/DESIGN.md section 12: dim 288, 6 layers, 6 heads of 48,
 * ffn 768, vocab 32000, seq 256, batch 4, f32. Each line is one operation with its shape: the best of
 * some repetitions in ms, how often the step has it, the sum, and GFLOP/s (products) or GB/s (the
 * rest: every tensor read or written once). The end says what is not GEMM.
 * With one thread the thread's CPU time is measured, which other work on the machine disturbs less;
 * with more, wall time. Buffers are reused from one repetition to the next, as in a step, but they are hotter in the cache
 * than a step's: figures of small operations are optimistic.
 */
#include "kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    DIM = 288,
    LAYERS = 6,
    HEADS = 6,
    HEAD = 48,
    FFN = 768,
    VOCAB = 32000,
    SEQ = 256,
    BATCH = 4,
    ROWS = SEQ * BATCH,
    CHUNK = 256, /* rows of logits at a time */
    CHUNKS = ROWS / CHUNK,
    QKV = 3 * DIM,
};

struct bench {
    struct kern *k;
    struct kern_buf *x, *y, *z, *w, *logits, *teacher, *small, *ids, *cs, *ones, *places;
    struct kern_attn attn;
    struct kern_groups *groups;
    double gemm_s, gemm_flop, other_s;
};

static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct kern_view at(struct kern_buf *b)
{
    return kern_at(b, 0);
}

/* One line. work: flops if gemm-like, bytes otherwise. */
struct line {
    const char *name;
    int times; /* in one step */
    bool gemm, flops;
    double work;
};

static double measure(struct bench *b, void (*run)(struct bench *b, const void *arg),
                      const void *arg)
{
    double best = INFINITY, spent = 0;
    run(b, arg);
    kern_sync(b->k, NULL);
    for (int i = 0; i < 200 && (i < 5 || spent < 0.25); i++) {
        double t = now();
        run(b, arg);
        kern_sync(b->k, NULL);
        t = now() - t;
        spent += t;
        best = t < best ? t : best;
    }
    return best;
}

static void report(struct bench *b, struct line l, double s)
{
    printf("%-34s %9.3f ms  x %2d = %8.2f ms  %7.1f %s\n", l.name, s * 1e3, l.times,
           s * 1e3 * l.times, l.work / s * 1e-9, l.flops ? "GFLOP/s" : "GB/s");
    if (l.gemm) {
        b->gemm_s += s * l.times;
        b->gemm_flop += l.work * l.times;
    } else {
        b->other_s += s * l.times;
    }
}

struct gemm {
    const char *name;
    int times;
    bool ta, tb;
    size_t m, n, kk;
    float beta;
};

static void run_gemm(struct bench *b, const void *arg)
{
    const struct gemm *g = arg;
    bool from_logits = g->ta ? g->m == VOCAB : g->kk == VOCAB;
    bool to_logits = !g->ta && g->n == VOCAB;
    struct kern_buf *A = from_logits ? b->logits : b->x, *C = to_logits ? b->logits : b->z;
    b->k->ops->gemm(b->k, g->ta, g->tb, g->m, g->n, g->kk, 1, at(A), g->ta ? g->m : g->kk, at(b->w),
                    g->tb ? g->kk : g->n, g->beta, at(C), g->n);
}

static const struct gemm gemms[] = {
    {"q|k|v           1024 x 288 x 864", LAYERS, false, true, ROWS, QKV, DIM, 0},
    {"o               1024 x 288 x 288", LAYERS, false, true, ROWS, DIM, DIM, 1},
    {"gate|up        1024 x 288 x 1536", LAYERS, false, true, ROWS, 2 * FFN, DIM, 0},
    {"down            1024 x 768 x 288", LAYERS, false, true, ROWS, DIM, FFN, 1},
    {"head          256 x 288 x 32000", CHUNKS, false, true, CHUNK, VOCAB, DIM, 0},
    {"d x of q|k|v", LAYERS, false, false, ROWS, DIM, QKV, 0},
    {"d x of o", LAYERS, false, false, ROWS, DIM, DIM, 0},
    {"d x of gate|up", LAYERS, false, false, ROWS, DIM, 2 * FFN, 0},
    {"d x of down", LAYERS, false, false, ROWS, FFN, DIM, 0},
    {"d x of head", CHUNKS, false, false, CHUNK, DIM, VOCAB, 0},
    {"d W of q|k|v", LAYERS, true, false, QKV, DIM, ROWS, 1},
    {"d W of o", LAYERS, true, false, DIM, DIM, ROWS, 1},
    {"d W of gate|up", LAYERS, true, false, 2 * FFN, DIM, ROWS, 1},
    {"d W of down", LAYERS, true, false, DIM, FFN, ROWS, 1},
    {"d W of head", CHUNKS, true, false, VOCAB, DIM, CHUNK, 1},
};

static void run_norm_fwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->rmsnorm_fwd(b->k, at(b->y), at(b->small), at(b->x), at(b->w), ROWS, DIM, 1e-5F);
}
static void run_norm_bwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->rmsnorm_bwd(b->k, at(b->z), kern_at(b->small, ROWS), at(b->y), at(b->x), at(b->w),
                           at(b->small), ROWS, DIM);
}
static void run_rope(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->rope(b->k, at(b->x), QKV, at(b->cs), ROWS, SEQ, HEADS, HEAD, false);
}
static void run_attn_fwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->attn_fwd(b->k, at(b->y), kern_at(b->small, ROWS), at(b->x), kern_at(b->x, DIM),
                        kern_at(b->x, (size_t)2 * DIM), &b->attn);
}
static void run_attn_bwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->attn_bwd(b->k, at(b->z), kern_at(b->z, DIM), kern_at(b->z, (size_t)2 * DIM),
                        at(b->y), at(b->x), kern_at(b->x, DIM), kern_at(b->x, (size_t)2 * DIM),
                        at(b->y), kern_at(b->small, ROWS), &b->attn);
}
static void run_swiglu_fwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->swiglu_fwd(b->k, at(b->y), at(b->x), ROWS, FFN);
}
static void run_swiglu_bwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->swiglu_bwd(b->k, at(b->z), at(b->y), at(b->x), ROWS, FFN);
}
static void run_embed_fwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->embed_fwd(b->k, at(b->y), at(b->w), at(b->ids), ROWS, DIM);
}
static void run_embed_bwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->embed_bwd(b->k, at(b->w), at(b->y), at(b->ids), ROWS, DIM);
}
static void run_axpy(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->axpy(b->k, at(b->y), 1, at(b->x), (size_t)ROWS * DIM);
}
static void run_loss(struct bench *b, const void *arg)
{
    const bool *teacher = arg;
    b->k->ops->loss(b->k, at(b->logits), *teacher ? at(b->teacher) : (struct kern_view){NULL, 0},
                    at(b->ids), (struct kern_view){NULL, 0}, CHUNK, VOCAB, 1, *teacher ? 1.0F : 0,
                    1e-3F, true, at(b->small), kern_at(b->small, CHUNK));
}
static const size_t parameters = (size_t)VOCAB * DIM +
                                 LAYERS * (4 * DIM * DIM + 3 * DIM * FFN + 2 * DIM) + DIM;
static void run_adamw(struct bench *b, const void *arg)
{
    (void)arg;
    const struct kern_adamw a = {.lr = 1e-6F,
                                 .beta1 = 0.9F,
                                 .beta2 = 0.95F,
                                 .eps = 1e-8F,
                                 .weight_decay = 0.1F,
                                 .bias1 = 0.5F,
                                 .bias2 = 0.5F,
                                 .grad_scale = 1};
    /* four stretches of the logits buffers: as large as p, g, m and v, and nothing of them cached */
    b->k->ops->adamw(b->k, at(b->w), at(b->teacher), kern_at(b->teacher, parameters), at(b->logits),
                     parameters, &a);
}
static void run_sumsq(struct bench *b, const void *arg)
{
    (void)arg;
    volatile double sum = b->k->ops->sumsq(b->k, at(b->teacher), parameters);
    (void)sum;
}
static void run_zero(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->zero(b->k, at(b->teacher), parameters);
}
static void run_fusion_fwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->fusion_fwd(b->k, at(b->y), at(b->small), at(b->w), b->groups, HEADS, HEAD, DIM);
}
static void run_fusion_bwd(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->fusion_bwd(b->k, at(b->z), at(b->x), at(b->y), at(b->small), at(b->w), b->groups,
                          HEADS, HEAD, DIM);
}

static void run_fusion_tie(struct bench *b, const void *arg)
{
    static const float pull[HEADS] = {0.5F, 0.5F, 0.5F, 0.5F, 0.5F, 0.5F};
    (void)arg;
    b->k->ops->zero(b->k, at(b->x), (size_t)HEADS * HEADS * HEAD);
    b->k->ops->fusion_tie(b->k, at(b->x), at(b->small), b->groups, HEADS, HEAD, 1, 0.5F, pull);
}
static void run_dot(struct bench *b, const void *arg)
{
    (void)arg;
    volatile double sum = b->k->ops->dot(b->k, at(b->w), at(b->z), (size_t)DIM * DIM);
    (void)sum;
}
enum { TOP = 16 };
static void run_bild(struct bench *b, const void *arg)
{
    (void)arg;
    b->k->ops->bild(b->k, at(b->logits), at(b->teacher), at(b->ones), CHUNK, VOCAB, TOP, 3, 1e-3F,
                    at(b->small), at(b->places), at(b->x));
    b->k->ops->scatter_add(b->k, at(b->logits), at(b->places), at(b->x), CHUNK, VOCAB, 2 * TOP);
}

static struct kern_buf *filled(struct kern *k, size_t n)
{
    float *x = malloc(n * sizeof *x);
    struct kern_buf *b = k->ops->alloc(k, KERN_F32, n);
    if (!x || !b) {
        fprintf(stderr, "bench_kernels: %s\n", kern_ok(k) ? "no memory" : k->err.msg);
        exit(1);
    }
    uint32_t state = 1;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525U + 1013904223U;
        x[i] = (float)(state >> 8) / 16777216.0F - 0.5F;
    }
    k->ops->upload(k, at(b), x, n);
    free(x);
    return b;
}

static void bench_gemms(struct bench *b)
{
    for (size_t i = 0; i < sizeof gemms / sizeof *gemms; i++) {
        const struct gemm *g = &gemms[i];
        report(b,
               (struct line){g->name, g->times, true, true,
                             2.0 * (double)g->m * (double)g->n * (double)g->kk},
               measure(b, run_gemm, g));
    }
}

static void bench_rest(struct bench *b)
{
    static const bool no = false, yes = true;
    const double f = sizeof(float), act = f * ROWS * DIM, wide = f * ROWS * FFN;
    const double logits = f * CHUNK * VOCAB, par = f * (double)parameters;
    const double weight = f * DIM * DIM;
    /* causal: half of seq^2; forward 2 products of 2 flops, backward 5 */
    const double attn = (double)BATCH * HEADS * SEQ * (SEQ + 1) / 2 * HEAD * 4;
    report(b, (struct line){"rmsnorm_fwd", 2 * LAYERS + 1, false, false, 2 * act},
           measure(b, run_norm_fwd, NULL));
    report(b, (struct line){"rmsnorm_bwd", 2 * LAYERS + 1, false, false, 4 * act},
           measure(b, run_norm_bwd, NULL));
    report(b, (struct line){"rope, 6 heads", 4 * LAYERS, false, false, 2 * act},
           measure(b, run_rope, NULL));
    report(b, (struct line){"attn_fwd", LAYERS, false, true, attn}, measure(b, run_attn_fwd, NULL));
    report(b, (struct line){"attn_bwd", LAYERS, false, true, 2.5 * attn},
           measure(b, run_attn_bwd, NULL));
    report(b, (struct line){"swiglu_fwd", LAYERS, false, false, 3 * wide},
           measure(b, run_swiglu_fwd, NULL));
    report(b, (struct line){"swiglu_bwd", LAYERS, false, false, 5 * wide},
           measure(b, run_swiglu_bwd, NULL));
    report(b, (struct line){"axpy (a residual)", LAYERS, false, false, 3 * act},
           measure(b, run_axpy, NULL));
    report(b, (struct line){"embed_fwd", 1, false, false, 2 * act},
           measure(b, run_embed_fwd, NULL));
    report(b, (struct line){"embed_bwd", 1, false, false, 3 * act},
           measure(b, run_embed_bwd, NULL));
    report(b, (struct line){"loss, 256 rows", CHUNKS, false, false, 2 * logits},
           measure(b, run_loss, &no));
    report(b, (struct line){"zero gradients", 1, false, false, par}, measure(b, run_zero, NULL));
    report(b, (struct line){"sumsq", 1, false, false, par}, measure(b, run_sumsq, NULL));
    report(b, (struct line){"adamw", 1, false, false, 7 * par}, measure(b, run_adamw, NULL));
    printf("%-34s not GEMM: %.1f ms = %.0f %% on top of GEMM\n", "", b->other_s * 1e3,
           100 * b->other_s / b->gemm_s);
    printf("only with a teacher or a fusion operator:\n");
    report(b, (struct line){"loss + KL, 256 rows", CHUNKS, false, false, 3 * logits},
           measure(b, run_loss, &yes));
    report(b, (struct line){"fusion_fwd, one group of 6", 2 * LAYERS, false, false, 2 * weight},
           measure(b, run_fusion_fwd, NULL));
    report(b, (struct line){"fusion_bwd, one group of 6", 2 * LAYERS, false, false, 4 * weight},
           measure(b, run_fusion_bwd, NULL));
    const double omega = f * HEADS * HEADS * HEAD;
    report(b, (struct line){"fusion_tie, one group of 6", 4 * LAYERS, false, false, 3 * omega},
           measure(b, run_fusion_tie, NULL));
    report(b, (struct line){"bild, 256 rows", CHUNKS, false, false, 2 * logits},
           measure(b, run_bild, NULL));
    report(b, (struct line){"dot, a key projection (masks)", 4 * LAYERS, false, false, 2 * weight},
           measure(b, run_dot, NULL));
}

int main(int argc, char **argv)
{
    struct kern_err err;
    struct bench b = {
        .k = kern_open(argc > 1 ? argv[1] : "cpu", argc > 2 ? atoi(argv[2]) : 0, &err)};
    if (!b.k) {
        fprintf(stderr, "bench_kernels: %s\n", err.msg);
        return 1;
    }
    if (argc > 2 && atoi(argv[2]) == 1)
        bench_clock = CLOCK_THREAD_CPUTIME_ID;
    char what[128];
    b.k->ops->describe(b.k, what, sizeof what);
    printf("%s: %s\n", b.k->ops->name, what);
    b.x = filled(b.k, (size_t)ROWS * 2 * FFN);
    b.y = filled(b.k, (size_t)ROWS * 2 * FFN);
    b.z = filled(b.k, (size_t)VOCAB * DIM);
    b.w = filled(b.k, parameters);
    b.logits = filled(b.k, parameters);
    b.teacher = filled(b.k, 2 * parameters);
    b.small = filled(b.k, (size_t)ROWS * (HEADS + 2) + (size_t)HEADS * HEADS * HEAD);
    b.places = b.k->ops->alloc(b.k, KERN_I32, (size_t)CHUNK * 2 * TOP);
    b.ones = b.k->ops->alloc(b.k, KERN_F32, CHUNK);
    float ones[CHUNK];
    for (int i = 0; i < CHUNK; i++)
        ones[i] = 1;
    b.cs = b.k->ops->alloc(b.k, KERN_F32, (size_t)SEQ * HEAD);
    if (b.ones)
        b.k->ops->upload(b.k, at(b.ones), ones, CHUNK);
    float cs[SEQ * HEAD]; /* true rotations: others would let x shrink to denormals or grow */
    for (int t = 0; t < SEQ; t++)
        for (int i = 0; i < HEAD / 2; i++) {
            double angle = t * pow(1e4, -2.0 * i / HEAD);
            cs[t * HEAD + i] = (float)cos(angle);
            cs[t * HEAD + HEAD / 2 + i] = (float)sin(angle);
        }
    b.k->ops->upload(b.k, at(b.cs), cs, (size_t)SEQ * HEAD);
    b.ids = b.k->ops->alloc(b.k, KERN_I32, ROWS);
    int32_t ids[ROWS];
    for (int i = 0; i < ROWS; i++)
        ids[i] = i * 37 % VOCAB;
    b.k->ops->upload(b.k, at(b.ids), ids, ROWS);
    int map[HEADS], group_of[HEADS] = {0};
    for (int h = 0; h < HEADS; h++)
        map[h] = h;
    struct kern_maps *maps = b.k->ops->maps_new(b.k, HEADS, map, map);
    b.groups = b.k->ops->groups_new(b.k, HEADS, group_of);
    b.attn = (struct kern_attn){.batch = BATCH,
                                .seq = SEQ,
                                .heads = HEADS,
                                .key_heads = HEADS,
                                .value_heads = HEADS,
                                .dim = HEAD,
                                .scale = 1 / sqrtf(HEAD),
                                .ldq = QKV,
                                .ldk = QKV,
                                .ldv = QKV,
                                .ldo = DIM,
                                .maps = maps};
    bench_gemms(&b);
    printf("%-34s GEMM: %.1f ms, %.0f GFLOP/s\n", "", b.gemm_s * 1e3,
           b.gemm_flop / b.gemm_s * 1e-9);
    bench_rest(&b);
    if (kern_sync(b.k, &err) != 0) {
        fprintf(stderr, "bench_kernels: %s\n", err.msg);
        return 1;
    }
    b.k->ops->maps_free(b.k, maps);
    b.k->ops->groups_free(b.k, b.groups);
    struct kern_buf *all[] = {b.x,     b.y,   b.z,  b.w,    b.logits, b.teacher,
                              b.small, b.ids, b.cs, b.ones, b.places};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b.k->ops->free(b.k, all[i]);
    kern_close(b.k);
    return 0;
}
