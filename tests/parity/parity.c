/* parity.c: one golden folder on one backend against what transformers computed in float64.
 *   parity BACKEND FOLDER        alone, or under mpirun: the batch is split over the ranks, gradients are summed
 * Bounds (shared by all folders; f32 arithmetic over three small layers): logits 1e-5 in relative Frobenius norm,
 * loss 1e-6 relative, every gradient 1e-4 relative. Exit 0, or 1 with every violation told.
 */
#include <math.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "worker/model/model.h"
#include "worker/model/safetensors.h"

#define LOGITS_BOUND 1e-5
#define LOSS_BOUND   1e-6
#define GRAD_BOUND   1e-4

static int rank, ranks, failures;

static void die(const char *what, const struct dha_err *e)
{
    fprintf(stderr, "%s: %s\n", what, e ? e->msg : "");
    MPI_Abort(MPI_COMM_WORLD, 1);
    exit(1);
}

static const struct st_tensor *need(const struct st_file *f, const char *name)
{
    const struct st_tensor *t = st_find(f, name);
    if (!t)
        die(name, NULL);
    return t;
}

static void judge(const char *what, double error, double bound)
{
    if (rank == 0 && error <= bound) /* NaN is not <= */
        printf("ok   %-60s %.2e\n", what, error);
    if (!(error <= bound)) {
        failures++;
        if (rank == 0)
            printf("FAIL %-60s %.2e > %.0e\n", what, error, bound);
    }
}

/* |a - b| / |b| in Frobenius norm, over all ranks when summed */
static double distance(const float *a, const float *b, size_t n, bool sum_over_ranks)
{
    double s[2] = {0, 0};
    for (size_t i = 0; i < n; i++) {
        s[0] += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        s[1] += (double)b[i] * (double)b[i];
    }
    if (sum_over_ranks)
        MPI_Allreduce(MPI_IN_PLACE, s, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    return sqrt(s[0] / s[1]);
}

struct share {
    int batch, seq;
    size_t first, rows; /* in rows of the whole batch */
    const int32_t *ids, *labels;
};

static void check_logits(struct run *r, const struct share *s, const struct st_file *golden)
{
    struct model *m = run_model(r);
    size_t vocab = (size_t)m->cfg.vocab, n = s->rows * vocab;
    float *have = malloc(n * sizeof *have);
    struct kern_buf *buf = m->k->ops->alloc(m->k, KERN_F32, n);
    if (!have || !buf)
        die("no memory", NULL);
    run_logits(r, 0, s->rows, kern_at(buf, 0));
    m->k->ops->download(m->k, have, kern_at(buf, 0), n);
    const float *want = (const float *)need(golden, "logits")->data + s->first * vocab;
    judge("logits", distance(have, want, n, true), LOGITS_BOUND);
    m->k->ops->free(m->k, buf);
    free(have);
}

static void check_grads(struct model *m, struct kern_buf *grads, const struct st_file *golden)
{
    float *host = malloc(m->n_params * sizeof *host);
    if (!host)
        die("no memory", NULL);
    m->k->ops->download(m->k, host, kern_at(grads, 0), m->n_params);
    MPI_Allreduce(MPI_IN_PLACE, host, (int)m->n_params, MPI_FLOAT, MPI_SUM, MPI_COMM_WORLD);
    size_t seen = 0;
    for (int i = 0; i < m->n_table; i++) {
        char name[112];
        snprintf(name, sizeof name, "grad.%s", m->table[i].name);
        const struct st_tensor *t = need(golden, name);
        if (t->bytes != m->table[i].n * sizeof(float))
            die(name, NULL);
        judge(name, distance(host + m->table[i].off, t->data, m->table[i].n, false), GRAD_BOUND);
        seen++;
    }
    for (size_t i = 0; i < st_count(golden); i++)
        seen -= strncmp(st_at(golden, i)->name, "grad.", 5) == 0;
    judge("golden gradients without a parameter", (double)seen, 0);
    free(host);
}

int main(int argc, char **argv)
{
    struct dha_err e = {0};
    struct kern_err ke;
    struct st_file *golden;
    struct model *m;
    struct run *r;
    char path[4096];
    MPI_Init(&argc, &argv);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if (argc != 3) {
        fprintf(stderr, "usage: parity BACKEND GOLDEN_FOLDER\n");
        MPI_Abort(MPI_COMM_WORLD, 2);
    }
    struct kern *k = kern_open(argv[1], 0, &ke);
    if (!k) {
        fprintf(stderr, "%s: %s\n", argv[1], ke.msg);
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    snprintf(path, sizeof path, "%s/golden.safetensors", argv[2]);
    if (st_open(&golden, path, &e) < 0 || model_load(&m, k, argv[2], &e) < 0)
        die("loading", &e);

    const struct st_tensor *ids = need(golden, "input_ids"), *labels = need(golden, "labels");
    int all = (int)ids->dims[0];
    if (all < ranks)
        die("more ranks than sequences", NULL);
    struct share s = {.seq = (int)ids->dims[1]};
    s.batch = all / ranks + (rank < all % ranks);
    s.first = (size_t)(rank * (all / ranks) + (rank < all % ranks ? rank : all % ranks)) *
              (size_t)s.seq;
    s.rows = (size_t)s.batch * (size_t)s.seq;
    s.ids = (const int32_t *)ids->data + s.first;
    s.labels = (const int32_t *)labels->data + s.first;

    struct kern_buf *grads = model_grads_new(m, &e);
    if (!grads || run_new(&r, m, s.batch, s.seq, RUN_TRAIN, &e) < 0)
        die("setting up", &e);
    double sums[2] = {0, 0}, tokens = (double)all * s.seq;
    run_forward(r, s.ids);
    check_logits(r, &s, golden);
    if (run_loss(r, s.labels, NULL, 1.0f, 0.0f, (float)(1.0 / tokens), grads, &sums[0], &sums[1],
                 &e) < 0)
        die("loss", &e);
    run_backward(r, grads);
    MPI_Allreduce(MPI_IN_PLACE, sums, 2, MPI_DOUBLE, MPI_SUM, MPI_COMM_WORLD);
    double want = (double)*(const float *)need(golden, "loss")->data;
    judge("loss", fabs(sums[0] / tokens - want) / want, LOSS_BOUND);
    check_grads(m, grads, golden);

    /* an inference run keeps one layer only and must not differ */
    struct run *infer;
    if (run_new(&infer, m, s.batch, s.seq, RUN_INFER, &e) < 0)
        die("setting up", &e);
    run_forward(infer, s.ids);
    check_logits(infer, &s, golden);
    if (kern_sync(k, &ke) < 0)
        die(ke.msg, NULL);

    run_free(infer);
    run_free(r);
    k->ops->free(k, grads);
    model_free(m);
    st_close(golden);
    kern_close(k);
    MPI_Finalize();
    return failures ? 1 : 0;
}
