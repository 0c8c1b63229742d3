/* bench_spectral_layer.c: what each step of the spectral search and merge takes for one layer of a large model.
 *   bench_spectral_layer [--heads 32] [--dim 128] [--seq 256] [--sequences 4] [--value-heads 4] [--threads 2]
 * The default is a layer of the 7B shape (H = 32, d = 128, D = 4096) with random weights: only shapes matter for time and
 * memory. Each step prints its seconds, its processor time (on a busy machine the two differ), the peak of resident
 * memory while it ran and what was left of it.
 *
 * The second moments of attended inputs and their blocks are the same work for every head, so only the first --value-heads
 * heads do it; the last lines multiply that up to all heads, and say so. Everything else is done for all heads. Wider than
 * CALIB_ATTENDED_WIDTH there are no such moments: what is measured is what all heads take.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tests/bench/bench_model.h"

#include "worker/method/calib.h"
#include "worker/method/key_error.h"
#include "worker/method/refit.h"
#include "worker/method/regress.h"

enum { VOCAB = 32000, FFN = 11008, TOKENS = 1 << 16, GIB_SHIFT = 30 };

struct bench {
    int heads, dim, seq, sequences, value_heads, threads;
    struct kern *k;
    struct model *m;
    struct corpus *train;
    struct comm comm;
    struct method method;
    struct method_env env;
};

/* VmHWM or VmRSS of /proc/self/status, in MiB. */
static double memory_mib(const char *field)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, field, strlen(field)) == 0)
            kib = strtod(line + strlen(field), NULL);
    if (f)
        fclose(f);
    return kib / 1024;
}

/* Makes the peak what is resident now (proc(5), clear_refs 5). */
static void reset_peak(void)
{
    FILE *f = fopen("/proc/self/clear_refs", "we");
    int failed = !f || fputs("5", f) < 0;
    if (f)
        failed |= fclose(f) != 0;
    if (failed)
        die("/proc/self/clear_refs", "cannot be written: peaks could not be told apart");
}

struct step {
    const char *name;
    double since, busy; /* wall clock, processor time of all threads */
};

static struct step begin(const char *name)
{
    reset_peak();
    return (struct step){name, seconds_of(CLOCK_MONOTONIC), seconds_of(CLOCK_PROCESS_CPUTIME_ID)};
}

static double end(const struct step *s, const char *unit, double units)
{
    double took = seconds_of(CLOCK_MONOTONIC) - s->since;
    double busy = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - s->busy;
    printf("%-48s %8.3f s, cpu %8.3f s; peak %6.0f MiB, left %6.0f MiB", s->name, took, busy,
           memory_mib("VmHWM:"), memory_mib("VmRSS:"));
    if (units > 0)
        printf("; %.3g ms a %s", took / units * 1e3, unit);
    printf("\n");
    fflush(stdout);
    return took;
}

static void open_tokens(struct bench *b)
{
    char path[] = "/tmp/dha-bench-XXXXXX", *paths[] = {path};
    static uint16_t tokens[TOKENS];
    struct corpus_options o = {.format = "u16", .vocab = VOCAB, .bos = -1};
    struct dha_err e = {0};
    int fd = mkstemp(path);
    if (fd < 0)
        die(path, "cannot be made");
    for (size_t i = 0; i < TOKENS; i++)
        tokens[i] = (uint16_t)(corpus_random(2, 0, 0, 0, i) % VOCAB);
    if (write(fd, tokens, sizeof tokens) != sizeof tokens)
        die(path, "cannot be written");
    close(fd);
    if (corpus_open(&b->train, paths, 1, &o, &e))
        die("tokens", e.msg);
    unlink(path);
}

static void set_up(struct bench *b)
{
    char text[512];
    struct dha_err e = {0};
    struct kern_err ke;
    struct model_config c;
    snprintf(text, sizeof text,
             "{\"model_type\":\"llama\",\"hidden_size\":%d,\"intermediate_size\":%d,"
             "\"num_hidden_layers\":1,\"num_attention_heads\":%d,\"vocab_size\":%d,"
             "\"max_position_embeddings\":%d,\"tie_word_embeddings\":true}",
             b->heads * b->dim, FFN, b->heads, VOCAB, b->seq > 4096 ? b->seq : 4096);
    b->k = kern_open("cpu", b->threads, &ke);
    if (!b->k)
        die("cpu", ke.msg);
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j || model_config_parse(j, "bench", &c, &e) || model_create(&b->m, b->k, &c, &e))
        die("model", e.msg);
    cJSON_Delete(j);
    model_config_finish(&c);
    fill(b->m);
    open_tokens(b);
    comm_alone(&b->comm);
    if (method_preset("spectral", &b->method))
        die("spectral", "no such preset");
    b->env = (struct method_env){.parent = b->m,
                                 .train = b->train,
                                 .comm = &b->comm,
                                 .method = &b->method,
                                 .seq = b->seq,
                                 .seed = 1,
                                 .calib_tokens = (int64_t)b->sequences * b->seq};
}

static void gather(struct bench *b, struct calib_layer *c, const bool *need)
{
    struct walk w;
    struct dha_err e = {0};
    if (walk_open(&w, &b->env, b->m, STREAM_CALIB, 0, b->sequences, &e) ||
        calib_layer(c, &w, &b->comm, 0, b->sequences, need, &e))
        die("calibration sums", e.msg);
    walk_close(&w);
}

static void first_heads(int *members, int n)
{
    for (int i = 0; i < n; i++)
        members[i] = i;
}

static void key_groups(struct bench *b, const struct attn_layer *a, const struct key_blocks *kb)
{
    struct key_error x;
    struct dha_err e = {0};
    int members[MODEL_MAX_HEADS];
    double error;
    struct step s = begin("key errors: one layer's queries, keys");
    if (key_error_open(&x, &b->env, b->m, b->sequences, &e) || key_error_load(&x, a, 0, &e))
        die("key errors", e.msg);
    end(&s, "token", (double)b->sequences * b->seq);
    for (int n = 2; n <= b->heads; n *= 4) {
        char name[64];
        snprintf(name, sizeof name, "cost of one group of %d key heads", n);
        first_heads(members, n);
        s = begin(name);
        if (key_error_group(&x, kb, members, n, &error, &e))
            die(name, e.msg);
        end(&s, "token", (double)b->sequences * b->seq);
    }
    key_error_close(&x);
}

static void value_groups(struct bench *b, const struct value_blocks *vb)
{
    struct dha_err e = {0};
    int members[MODEL_MAX_HEADS];
    double residual;
    for (int n = 2; n <= b->value_heads; n *= 2) {
        char name[64];
        snprintf(name, sizeof name, "cost of one group of %d value heads", n);
        first_heads(members, n);
        struct step s = begin(name);
        if (value_residual(vb, members, n, &residual, &e))
            die(name, e.msg);
        end(&s, "", 0);
    }
}

/* Keys into groups of four; values: the heads whose moments are there into one group, the others alone. */
static void groups_of(const struct bench *b, int *keys, int *values)
{
    groups_adjacent(b->heads, (b->heads + 3) / 4, keys);
    for (int h = 0; h < b->heads; h++)
        values[h] = h < b->value_heads ? 0 : h - b->value_heads + 1;
}

static void refit_and_regress(struct bench *b, const struct attn_layer *merged, const int *group_of)
{
    struct model *child;
    struct dha_err e = {0};
    if (method_with_maps(b->m, group_of, &child, &e) || layer_store(merged, child, 0, &e))
        die("the merged layer", e.msg);
    struct step s = begin("refit of o_proj");
    if (refit_outputs(&b->env, b->m, child, &e))
        die(s.name, e.msg);
    end(&s, "token", (double)b->sequences * b->seq);
    s = begin("regression, all its steps");
    if (regress_attention(&b->env, b->m, child, NULL, &e))
        die(s.name, e.msg);
    end(&s, "token", (double)b->sequences * b->seq);
    model_free(child);
}

/* What every trial of the measured costs takes: this layer (and as long for each behind it), then the head. */
static void trial_loss(struct bench *b)
{
    struct walk w;
    struct dha_err e = {0};
    double loss;
    if (walk_open(&w, &b->env, b->m, STREAM_COST, 0, b->sequences, &e))
        die("measured costs", e.msg);
    struct step s = begin("a trial's pass through one layer");
    if (walk_advance(&w, 0, &e))
        die(s.name, e.msg);
    end(&s, "token", (double)b->sequences * b->seq);
    s = begin("a trial's loss, head only");
    if (walk_loss(&w, 1, &loss, &e))
        die(s.name, e.msg);
    end(&s, "token", (double)b->sequences * b->seq);
    walk_close(&w);
}

static void measure(struct bench *b)
{
    struct calib_layer c;
    struct attn_layer a = {0};
    struct key_blocks kb;
    struct value_blocks vb;
    struct dha_err e = {0};
    bool none[MODEL_MAX_HEADS] = {false}, some[MODEL_MAX_HEADS] = {false};
    int group_of[2 * MODEL_MAX_HEADS], *keys = group_of, *values = group_of + b->heads;
    double tokens = (double)b->sequences * b->seq;
    for (int h = 0; h < b->value_heads; h++)
        some[h] = true;
    groups_of(b, keys, values);

    struct step s = begin("second moment of inputs, query energies");
    gather(b, &c, none);
    double plain = end(&s, "token", tokens);
    calib_layer_finish(&c);
    s = begin("the same with second moments of attended inputs");
    gather(b, &c, some);
    double attended = end(&s, "token", tokens) - plain;

    s = begin("weights of the layer in f64");
    if (layer_load(&a, b->m, 0, &e))
        die(s.name, e.msg);
    end(&s, "", 0);
    c.slow = model_slow_planes(&b->m->cfg);
    s = begin("key blocks");
    if (key_blocks_make(&kb, &a, &c, &e))
        die(s.name, e.msg);
    end(&s, "", 0);
    s = begin("value blocks");
    if (value_blocks_make(&vb, &a, &c, &e))
        die(s.name, e.msg);
    double blocks = end(&s, "", 0);
    bool plain_moments = c.plain; /* wide: one second moment stands for all heads */
    calib_layer_finish(&c);

    key_groups(b, &a, &kb);
    value_groups(b, &vb);
    s = begin("merge of the keys, groups of 4");
    if (spectral_merge_keys(&a, &kb, keys, &e))
        die(s.name, e.msg);
    end(&s, "", 0);
    s = begin("merge of one value group");
    if (spectral_merge_values(&a, &vb, values, &e))
        die(s.name, e.msg);
    end(&s, "", 0);
    value_blocks_finish(&vb);
    key_blocks_finish(&kb);
    trial_loss(b);
    refit_and_regress(b, &a, group_of);
    layer_finish(&a);

    if (plain_moments) {
        printf("values by the second moment of inputs: nothing to multiply by heads\n");
        return;
    }
    double width = (double)b->heads * b->dim, each = width * width * 8 / (1 << GIB_SHIFT);
    printf("computed, not measured, for all %d value heads:\n", b->heads);
    printf("  attended moments %.3g ms a token; value blocks at most %.1f s (the part that all "
           "heads share counted "
           "again)\n",
           attended / tokens / b->value_heads * b->heads * 1e3, blocks / b->value_heads * b->heads);
    printf("  moments or blocks: %d x %.3f GiB = %.2f GiB at a time, one more while they turn into "
           "each other\n",
           b->heads, each, b->heads * each);
}

static int number(const char *s, const char *what, int max)
{
    char *rest;
    long v = strtol(s, &rest, 10);
    if (*rest || v < 1 || v > max)
        die(what, "a number out of range");
    return (int)v;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {{"heads", required_argument, 0, 'H'},
                                            {"dim", required_argument, 0, 'd'},
                                            {"seq", required_argument, 0, 's'},
                                            {"sequences", required_argument, 0, 'n'},
                                            {"value-heads", required_argument, 0, 'v'},
                                            {"threads", required_argument, 0, 't'},
                                            {0, 0, 0, 0}};
    struct bench b = {
        .heads = 32, .dim = 128, .seq = 256, .sequences = 4, .value_heads = 4, .threads = 2};
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'H')
            b.heads = number(optarg, "--heads", MODEL_MAX_HEADS);
        else if (c == 'd')
            b.dim = number(optarg, "--dim", 512);
        else if (c == 's')
            b.seq = number(optarg, "--seq", 4096);
        else if (c == 'n')
            b.sequences = number(optarg, "--sequences", 1024);
        else if (c == 'v')
            b.value_heads = number(optarg, "--value-heads", MODEL_MAX_HEADS);
        else if (c == 't')
            b.threads = number(optarg, "--threads", 1024);
        else
            return 2;
    }
    if (b.value_heads > b.heads)
        b.value_heads = b.heads;
    set_up(&b);
    char what[128];
    b.k->ops->describe(b.k, what, sizeof what);
    printf("H %d, d %d, D %d, %d sequences of %d tokens, %d value heads; %s; %.0f MiB before\n",
           b.heads, b.dim, b.heads * b.dim, b.sequences, b.seq, b.value_heads, what,
           memory_mib("VmRSS:"));
    measure(&b);
    corpus_close(b.train);
    model_free(b.m);
    kern_close(b.k);
    return 0;
}
