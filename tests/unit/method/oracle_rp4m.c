/* oracle_rp4m: the untrained losses of METHODS section 6 on shared/data/rp4m (4.2 M parameters, 8 heads, 4 layers), held
 * against an independent PyTorch implementation (shared/oracle/conv.py) in two ways:
 *
 *   METHODS   the published figures, within 0.005. They depend on which calibration tokens were drawn: over our seeds
 *             1..4 "25 % spectral" is 3.8395, 3.8276, 3.8295, 3.8376 and "25 % spectral-gqa, without refit" 3.9201,
 *             3.9321, 3.9245, 3.9191. SEED is a draw near the published one, not a tuned method.
 *   conv.py   what that implementation computes from the very same tokens (oracle_compare.py), within 5e-4. This is the
 *             sharp test: groups and measured costs of all 64 entries agree to 1e-5 there.
 *
 *   oracle_rp4m DIR [SEED [DUMP]]     exit 0: all within the tolerances; 1: not; 77: DIR is not there (skipped)
 *     with another seed only METHODS is compared; DUMP: directory for tokens.i32 and plan.json, which
 *     oracle_compare.py reads.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "worker/method/method.h"
#include "worker/train/evaluate.h"

#define SEED           3
#define METHODS_WITHIN 0.005
#define SAME_TOKENS    5e-4
#define WINDOWS        256
#define SEQ            256

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double cpu(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int die(const char *doing, const struct dha_err *e)
{
    fprintf(stderr, "%s: %s: %s %s\n", doing, dha_code_name(e->code), e->msg, e->hint);
    exit(1);
}

/* Mean loss over the first WINDOWS windows. */
static double loss_of(struct model *m, const struct corpus *valid)
{
    struct dha_err e = {0};
    struct comm alone;
    struct eval_result v;
    comm_alone(&alone);
    if (evaluate(m, valid, SEQ, WINDOWS, &alone, &v, &e))
        die("evaluating", &e);
    return v.loss;
}

static bool same_tokens; /* the seed is SEED: conv.py's figures hold */

static int check(const char *what, double loss, double methods, double conv)
{
    bool near = fabs(loss - methods) <= METHODS_WITHIN;
    bool same = !same_tokens || fabs(loss - conv) <= SAME_TOKENS;
    printf("%-34s %.4f   METHODS %.4f %+.4f%s", what, loss, methods, loss - methods,
           near ? "" : " TOO FAR");
    if (same_tokens)
        printf("   conv.py %.4f %+.5f%s", conv, loss - conv, same ? "" : " TOO FAR");
    printf("\n");
    fflush(stdout);
    return near && same ? 0 : 1;
}

static void open_tokens(struct corpus **c, const char *dir, const char *name)
{
    char path[1024];
    struct dha_err e = {0};
    struct corpus_options o = {.format = "u16", .vocab = 2048, .bos = -1};
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (corpus_open(c, (char *[]){path}, 1, &o, &e))
        die(path, &e);
}

typedef int merge_fn(const struct method_env *, const int *, struct model **, struct dha_err *);

static double merged_loss(struct method_env *env, merge_fn *merge, bool refit, const int *group_of,
                          const struct corpus *valid)
{
    struct dha_err e = {0};
    struct method method = *env->method;
    struct method_env with = *env;
    struct model *m;
    double start = now(), busy = cpu();
    method.refit = refit;
    with.method = &method;
    if (merge(&with, group_of, &m, &e))
        die("merge", &e);
    printf("  merge: %.1f s, %.1f s of CPU\n", now() - start, cpu() - busy);
    double loss = loss_of(m, valid);
    model_free(m);
    return loss;
}

/* The sequences that the search and the merges draw, ids then targets, as conv.py's batches want them. */
static void dump(const struct method_env *env, const struct plan *p, const char *dir)
{
    static const struct {
        enum corpus_stream stream;
        int n;
    } draws[] = {{STREAM_CALIB, 64}, {STREAM_COST, 32}, {STREAM_REFIT, 128}};
    static int32_t ids[SEQ], targets[SEQ];
    char path[1024];
    struct dha_err e = {0};
    snprintf(path, sizeof path, "%s/tokens.i32", dir);
    FILE *f = fopen(path, "wb");
    if (!f) {
        perror(path);
        exit(1);
    }
    for (size_t d = 0; d < sizeof draws / sizeof *draws; d++)
        for (int i = 0; i < draws[d].n; i++) {
            if (corpus_draw(env->train, env->seed, draws[d].stream, 0, i, SEQ, ids, targets, &e))
                die("draw", &e);
            fwrite(ids, sizeof ids, 1, f);
            fwrite(targets, sizeof targets, 1, f);
        }
    if (fclose(f)) {
        perror(path);
        exit(1);
    }
    snprintf(path, sizeof path, "%s/plan.json", dir);
    cJSON *j = plan_to_json(p);
    if (!j || json_write_file(path, j, &e))
        die(path, &e);
    cJSON_Delete(j);
}

static void chosen(const struct plan *p, double budget, int *group_of)
{
    int pick[64];
    double cost;
    struct dha_err e = {0};
    if (plan_choose(p, plan_total(budget, p->layers, p->heads), pick, &cost, &e))
        die("budget", &e);
    printf("  budget %.2f: heads", budget);
    for (int i = 0; i < 2 * p->layers; i++) {
        printf(" %d", p->entries[i].choices[pick[i]].n);
        memcpy(group_of + i * p->heads, p->entries[i].choices[pick[i]].group_of,
               (size_t)p->heads * sizeof *group_of);
    }
    printf("  predicted %+.4f\n", cost);
}

int main(int argc, char **argv)
{
    const char *dir = argc > 1 ? argv[1] : "../shared/data/rp4m";
    char path[1024];
    struct kern_err ke;
    struct dha_err e = {0};
    struct model *parent;
    struct corpus *train, *valid;
    struct comm alone;
    struct method method;
    struct plan plan;
    int group_of[2 * 4 * 8], bad = 0;
    snprintf(path, sizeof path, "%s/hf", dir);
    if (access(path, R_OK)) {
        printf("skipped: %s is not there\n", path);
        return 77;
    }
    struct kern *k = kern_open("cpu", 0, &ke);
    if (!k) {
        fprintf(stderr, "%s\n", ke.msg);
        return 1;
    }
    if (model_load(&parent, k, path, &e) || method_preset("spectral", &method))
        die(path, &e);
    method.regress = method.slow_planes =
        false; /* METHODS section 6 has the closed forms and the refit */
    open_tokens(&train, dir, "train.u16");
    open_tokens(&valid, dir, "valid.u16");
    comm_alone(&alone);
    struct method_env env = {.parent = parent,
                             .train = train,
                             .comm = &alone,
                             .method = &method,
                             .seq = SEQ,
                             .seed = argc > 2 ? atoll(argv[2]) : SEED,
                             .calib_tokens = 32768};
    same_tokens = env.seed == SEED;
    bad += check("parent", loss_of(parent, valid), 3.7352, 3.73517);
    double start = now(), busy = cpu();
    if (spectral_plan(&env, &plan, &e))
        die("search", &e);
    printf("  search: %.1f s, %.1f s of CPU\n", now() - start, cpu() - busy);
    if (argc > 3)
        dump(&env, &plan, argv[3]);
    bad += check("parent after the search", loss_of(parent, valid), 3.7352, 3.73517);

    chosen(&plan, 0.25, group_of);
    bad += check("25 % spectral, without refit",
                 merged_loss(&env, spectral_merge, false, group_of, valid), 3.8686, 3.86550);
    bad += check("25 % spectral", merged_loss(&env, spectral_merge, true, group_of, valid), 3.827,
                 3.82945);
    chosen(&plan, 0.5, group_of);
    bad += check("50 % spectral", merged_loss(&env, spectral_merge, true, group_of, valid), 3.755,
                 3.75616);
    for (int i = 0; i < 8; i++)
        groups_adjacent(8, 2, group_of + i * 8);
    bad += check("25 % spectral-gqa, without refit",
                 merged_loss(&env, spectral_merge, false, group_of, valid), 3.9266, 3.92448);
    bad += check("25 % spectral-gqa", merged_loss(&env, spectral_merge, true, group_of, valid),
                 3.872, 3.87170);
    bad += check("25 % gqa (mean pool)", merged_loss(&env, meanpool_merge, false, group_of, valid),
                 5.1451, 5.14476);
    plan_finish(&plan);
    corpus_close(valid);
    corpus_close(train);
    model_free(parent);
    kern_close(k);
    return bad ? 1 : 0;
}
