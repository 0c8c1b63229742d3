/* bench_step.c: one training step after the other, and where its time goes.
 *   bench_step [--backend cpu] [--threads 2] [--steps 20] [--seconds 0] [--fusion]
 * The shape is the 15M-parameter LLaMA of DESIGN section 12: dim 288, 6 layers, 6 heads, ffn 768, vocab 32000 (tied), seq
 * 256, batch 4. A step: gradients to zero, forward, loss and its gradient, backward, AdamW on all parameters.
 * --fusion: the same step with fusion operators in adjacent groups of three (what the fusion stage adds).
 * Prints one line of tokens/s (median step), the share of each part, the rate over the model's FLOPs and peak memory
 * against the account of run_bytes() and parameters x 16 bytes.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tests/bench/bench_model.h"

#include "worker/data/corpus.h"
#include "worker/model/model.h"

enum { BATCH = 4, SEQ = 256, ROWS = BATCH * SEQ, MAX_STEPS = 10000 };
enum part { ZERO, FORWARD, LOSS, BACKWARD, OPER, ADAMW, PARTS };
static const char *const part_name[PARTS] = {"zero",     "forward",   "loss",
                                             "backward", "operators", "adamw"};

static const char config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":288,\"intermediate_size\":768,"
    "\"num_hidden_layers\":6,\"num_attention_heads\":6,\"vocab_size\":32000,"
    "\"max_position_embeddings\":256,\"tie_word_embeddings\":true}";

struct bench {
    struct kern *k;
    struct model *m;
    struct run *r;
    struct kern_buf *grads, *mom, *var, *omega_mom, *omega_var;
    size_t n_omega;
    int32_t ids[ROWS], targets[ROWS];
    double seconds[PARTS];
    double loss;
};

static void set_up(struct bench *b, const char *backend, int threads, bool fusion)
{
    struct dha_err e = {0};
    struct kern_err ke;
    struct model_config c;
    b->k = kern_open(backend, threads, &ke);
    if (!b->k)
        die(backend, ke.msg);
    cJSON *j = json_parse(config, strlen(config), NULL, &e);
    if (!j || model_config_parse(j, "bench", &c, &e) < 0 || model_create(&b->m, b->k, &c, &e) < 0)
        die("model", e.msg);
    cJSON_Delete(j);
    model_config_finish(&c);
    fill(b->m);
    if (fusion) {
        int group_of[12 * 6];
        for (int i = 0; i < 12 * 6; i++)
            group_of[i] = i % 6 / 3;
        if (model_oper_attach(b->m, group_of, &e) < 0)
            die("operators", e.msg);
        b->n_omega = 12 * 6 * 6 * 48;
        b->omega_mom = b->k->ops->alloc(b->k, KERN_F32, b->n_omega);
        b->omega_var = b->k->ops->alloc(b->k, KERN_F32, b->n_omega);
    }
    b->grads = model_grads_new(b->m, &e);
    b->mom = model_grads_new(b->m, &e);
    b->var = model_grads_new(b->m, &e);
    if (!b->grads || !b->mom || !b->var || run_new(&b->r, b->m, BATCH, SEQ, RUN_TRAIN, &e) < 0)
        die("memory", e.msg);
    for (size_t i = 0; i < ROWS; i++) {
        b->ids[i] = (int32_t)(corpus_random(2, 0, 0, 0, i) % 32000);
        b->targets[i] = (int32_t)(corpus_random(2, 1, 0, 0, i) % 32000);
    }
}

static void lap(struct bench *b, enum part p, double *since)
{
    struct kern_err ke;
    if (kern_sync(b->k, &ke) < 0)
        die(part_name[p], ke.msg);
    double t = seconds_of(CLOCK_MONOTONIC);
    b->seconds[p] += t - *since;
    *since = t;
}

static void step(struct bench *b, int n)
{
    const struct kern_ops *ops = b->k->ops;
    struct dha_err e = {0};
    double t = seconds_of(CLOCK_MONOTONIC), lm = 0, kl = 0, p1 = 1, p2 = 1;
    for (int i = 0; i < n; i++) {
        p1 *= 0.9;
        p2 *= 0.95;
    }
    struct kern_adamw a = {1e-4f, 0.9f, 0.95f, 1e-8f, 0.1f, (float)(1 - p1), (float)(1 - p2), 1.0f};
    ops->zero(b->k, kern_at(b->grads, 0), b->m->n_params);
    if (b->m->oper)
        ops->zero(b->k, kern_at(b->m->oper->domega, 0), b->n_omega);
    lap(b, ZERO, &t);
    if (b->m->oper)
        model_oper_apply(b->m);
    lap(b, OPER, &t);
    run_forward(b->r, b->ids);
    lap(b, FORWARD, &t);
    if (run_loss(b->r, b->targets, NULL, 1, 0, 1.0f / ROWS, b->grads, &lm, &kl, &e) < 0)
        die("loss", e.msg);
    lap(b, LOSS, &t);
    run_backward(b->r, b->grads);
    lap(b, BACKWARD, &t);
    if (b->m->oper)
        model_oper_backward(b->m, b->grads);
    lap(b, OPER, &t);
    ops->adamw(b->k, kern_at(b->m->params, 0), kern_at(b->grads, 0), kern_at(b->mom, 0),
               kern_at(b->var, 0), b->m->n_params, &a);
    if (b->m->oper)
        ops->adamw(b->k, kern_at(b->m->oper->omega, 0), kern_at(b->m->oper->domega, 0),
                   kern_at(b->omega_mom, 0), kern_at(b->omega_var, 0), b->n_omega, &a);
    lap(b, ADAMW, &t);
    b->loss = lm / ROWS;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Multiply-adds a token: every weight once, and attention over half a sequence on average; x 2 FLOPs x 3 (forward,
 * and both products of backward). */
static double step_flops(const struct model *m)
{
    double weights = (double)m->n_params; /* tied: the head's matrix is the embedding's */
    double attention = 6.0 * 288 * 2 * (SEQ + 1) / 2;
    return 6.0 * ROWS * (weights + attention);
}

/* Not getrusage(): its maximum survives exec() and would be that of the program that started us. */
static double peak_mib(void)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0)
            kib = strtod(line + 6, NULL);
    if (f)
        fclose(f);
    return kib / 1024;
}

static void report(struct bench *b, double *took, int n, double base)
{
    char what[128];
    double total = 0, mib = 1.0 / (1 << 20);
    b->k->ops->describe(b->k, what, sizeof what);
    qsort(took, (size_t)n, sizeof *took, ascending);
    double median = took[n / 2];
    for (int p = 0; p < PARTS; p++)
        total += b->seconds[p];
    printf(
        "dha %s%s: %.0f tokens/s (median of %d steps, best %.0f), %.0f GFLOP/s, loss %.3f\n  %s\n ",
        b->k->ops->name, b->m->oper ? " with fusion operators" : "", ROWS / median, n,
        ROWS / took[0], step_flops(b->m) / median * 1e-9, b->loss, what);
    for (int p = 0; p < PARTS; p++)
        if (b->seconds[p] > 0.0005 * total)
            printf(" %s %.1f%%", part_name[p], 100 * b->seconds[p] / total);
    double state = 16.0 * (double)b->m->n_params;
    double runs = (double)run_bytes(b->m, BATCH, SEQ, RUN_TRAIN);
    printf("\n  peak memory %.0f MiB, of which %.0f before the model (program and libraries); "
           "accounted: parameters "
           "x 16 bytes %.0f MiB + activations %.0f MiB = %.0f MiB\n",
           peak_mib(), base, state * mib, runs * mib, (state + runs) * mib);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"backend", 1, NULL, 'b'}, {"threads", 1, NULL, 't'},
                                            {"steps", 1, NULL, 'n'},   {"seconds", 1, NULL, 's'},
                                            {"fusion", 0, NULL, 'f'},  {0}};
    static struct bench b;
    static double took[MAX_STEPS];
    const char *backend = "cpu";
    int threads = 2, steps = 20, c, n = 0;
    double seconds = 0;
    bool fusion = false;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'b': backend = optarg; break;
        case 't': threads = atoi(optarg); break;
        case 'n': steps = atoi(optarg); break;
        case 's': seconds = atof(optarg); break;
        case 'f': fusion = true; break;
        default: return 2;
        }
    }
    double base = peak_mib();
    set_up(&b, backend, threads, fusion);
    for (int i = 1; i <= 3; i++) /* primitives made, pages touched */
        step(&b, i);
    memset(b.seconds, 0, sizeof b.seconds);
    double begin = seconds_of(CLOCK_MONOTONIC);
    while (n < MAX_STEPS &&
           (seconds > 0 ? seconds_of(CLOCK_MONOTONIC) - begin < seconds : n < steps)) {
        double t = seconds_of(CLOCK_MONOTONIC);
        step(&b, n + 4);
        took[n++] = seconds_of(CLOCK_MONOTONIC) - t;
    }
    report(&b, took, n, base);
    run_free(b.r);
    struct kern_buf *bufs[] = {b.grads, b.mom, b.var, b.omega_mom, b.omega_var};
    for (size_t i = 0; i < sizeof bufs / sizeof *bufs; i++)
        b.k->ops->free(b.k, bufs[i]);
    model_free(b.m);
    kern_close(b.k);
    return 0;
}
