/* cmd_generate.c: `generate`: a prompt's continuation by one checkpoint, or by two to compare them.
 *
 * The text goes to stdout as it comes; what it cost goes to stderr. Without a prompt and with a terminal on stdin, a line is a
 * prompt, until the end of input. Signals are blocked (control.h): a stop is looked for after every token, and while a line
 * is waited for they do what they always do.
 */
#include <errno.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "worker/cmd.h"
#include "worker/control.h"
#include "worker/fsutil.h"
#include "worker/generate/generate.h"

#define MAX_PROMPT ((size_t)16 << 20) /* bytes */

struct settings {
    struct sampler sampler;
    int max_tokens;
    bool bos, json, ids_only, ignore_eos;
    struct comm *comm;
};

/* One model with all it needs. */
struct speaker {
    const char *dir;
    struct model *m;
    struct decode *d;
    struct spm *spm; /* NULL: it speaks token ids */
};

/* What a prompt is given as. */
struct prompt {
    const char *text; /* or NULL */
    int32_t *ids;     /* where there is no text */
    size_t n;
};

static int speaker_open(struct speaker *s, struct kern *k, const char *dir, const char *tokenizer,
                        bool need_text, struct dha_err *e)
{
    char path[PATH_MAX];
    s->dir = dir;
    if (model_load(&s->m, k, dir, e))
        return -1;
    if (fs_path(path, sizeof path, e, "%s/tokenizer.model", dir))
        return -1;
    if (!tokenizer && fs_exists(path))
        tokenizer = path;
    if (tokenizer)
        return spm_open(&s->spm, tokenizer, e) || spm_fits(s->spm, tokenizer, s->m->cfg.vocab, e)
                   ? -1
                   : 0;
    if (!need_text)
        return 0;
    dha_fail(e, DHA_E_INPUT, "%.400s has no tokenizer.model (a SentencePiece model)", dir);
    return dha_err_hint(e, "name one with --tokenizer FILE, or give token ids with --ids 1,2,3");
}

static void speaker_close(struct speaker *s)
{
    decode_free(s->d);
    spm_close(s->spm);
    model_free(s->m);
}

/* The prompt as this model's tokens; malloc'ed. */
static int prompt_tokens(const struct speaker *s, const struct prompt *p, bool bos, int32_t **out,
                         int *n, struct dha_err *e)
{
    int32_t *ids = NULL;
    size_t text = p->n, before = 0;
    *out = NULL;
    if (p->text) {
        if (spm_encode(s->spm, p->text, strlen(p->text), &ids, &text, e))
            return -1;
        before = bos && s->m->cfg.bos >= 0;
    }
    if (text + before == 0 || text > INT_MAX / 2) {
        free(ids);
        return dha_fail(e, DHA_E_INPUT, text ? "the prompt is too long" : "the prompt is empty");
    }
    int32_t *all = malloc((text + before) * sizeof *all);
    if (!all) {
        free(ids);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a prompt of %zu tokens", text);
    }
    if (before)
        all[0] = s->m->cfg.bos;
    if (text)
        memcpy(all + before, p->text ? ids : p->ids, text * sizeof *all);
    free(ids);
    *out = all;
    *n = (int)(text + before);
    return 0;
}

/* The cache is made for what is asked for, and never smaller than needed by a later prompt: remade when it must grow. */
static int room_for(struct speaker *s, int n_prompt, int max_tokens, struct dha_err *e)
{
    int64_t need = (int64_t)n_prompt + max_tokens, most = s->m->cfg.max_positions;
    int room = (int)(need < most ? need : most);
    if (s->d && decode_room(s->d) >= room)
        return 0;
    decode_free(s->d);
    s->d = NULL;
    return decode_new(&s->d, s->m, room, e);
}

struct printing {
    struct stream *stream; /* NULL: ids */
    const struct settings *set;
    bool quiet, first;
};

static int print_token(void *arg, int32_t token, struct dha_err *e)
{
    struct printing *p = arg;
    char *piece = NULL;
    if (p->stream && stream_token(p->stream, token, &piece, e))
        return -1;
    if (!p->quiet && p->stream)
        fputs(piece, stdout);
    else if (!p->quiet)
        printf(p->first ? "%d" : ",%d", (int)token);
    free(piece);
    p->first = false;
    if (!p->quiet && fflush(stdout))
        return dha_fail_errno(e, errno, "writing the text");
    return control_agree(p->set->comm, CONTROL_NONE) == CONTROL_STOP;
}

static double speed(const struct generation *g)
{
    return g->n > 1 && g->seconds > 0 ? (g->n - 1) / g->seconds : NAN;
}

static int elem_size(const struct model *m)
{
    return strcmp(m->cfg.dtype, "float32") ? 2 : 4;
}

static cJSON *as_json(const struct speaker *s, const struct generation *g, int n_prompt,
                      const char *text)
{
    cJSON *o = cJSON_CreateObject();
    int64_t f32 = (int64_t)(decode_cache_bytes(s->d) / (size_t)decode_room(s->d));
    int bad = json_put_str(o, "model", s->dir) | json_put_int(o, "prompt_tokens", n_prompt) |
              json_put(o, "tokens", cJSON_CreateIntArray(g->tokens, g->n)) |
              (text ? json_put_str(o, "text", text) : 0) |
              json_put_str(o, "end", generate_end_name(g->end)) |
              json_put_num(o, "tokens_per_second", speed(g)) |
              json_put_num(o, "prompt_seconds", g->prompt_seconds) |
              json_put_id(o, "kv_bytes_per_token",
                          model_config_kv_bytes(&s->m->cfg, elem_size(s->m))) |
              json_put_str(o, "dtype", s->m->cfg.dtype) |
              json_put_id(o, "kv_bytes_per_token_in_memory", f32) |
              json_put_id(o, "kv_cache_bytes", f32 * decode_length(s->d));
    if (!bad)
        return o;
    cJSON_Delete(o);
    return NULL;
}

static void say_cost(const struct speaker *s, const struct generation *g, int n_prompt)
{
    static const char *const why[] = {"the model ended the text", "as many tokens as asked for",
                                      "the model's context is full", "stopped"};
    fprintf(stderr, "[%d tokens after %d of prompt: %s", g->n, n_prompt, why[g->end]);
    if (isfinite(speed(g)))
        fprintf(stderr, "; %.1f tokens/s", speed(g));
    fprintf(stderr, "; KV cache %zu bytes in f32 here, %lld bytes a token in %s]\n",
            decode_cache_bytes(s->d) / (size_t)decode_room(s->d) * (size_t)decode_length(s->d),
            (long long)model_config_kv_bytes(&s->m->cfg, elem_size(s->m)), s->m->cfg.dtype);
}

/* One prompt to one model. *doc: with set->json, what to print (NULL else). */
static int answer(struct speaker *s, const struct prompt *p, const struct settings *set,
                  bool *stopped, cJSON **doc, struct dha_err *e)
{
    struct generation g = {0};
    struct stream stream = {0};
    int32_t *ids = NULL;
    char *text = NULL;
    int n = 0, rc = -1;
    bool words = s->spm && !set->ids_only;
    struct printing out = {
        .stream = words ? &stream : NULL, .set = set, .quiet = set->json, .first = true};
    if (prompt_tokens(s, p, set->bos, &ids, &n, e) || room_for(s, n, set->max_tokens, e) ||
        (words && stream_begin(&stream, s->spm, ids, (size_t)n, e)))
        goto out;
    if (generate(s->d, ids, n, &set->sampler, set->max_tokens, set->ignore_eos ? -1 : s->m->cfg.eos,
                 print_token, &out, &g, e))
        goto out;
    *stopped = g.end == END_STOPPED;
    if (set->json) {
        if (words && stream_text(&stream, &text, e))
            goto out;
        *doc = as_json(s, &g, n, text);
        rc = *doc ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for the result");
        goto out;
    }
    if (words) {
        if (stream_last(&stream, &text, e))
            goto out;
        fputs(text, stdout);
    }
    putchar('\n');
    if (fflush(stdout)) {
        dha_fail_errno(e, errno, "writing the text");
        goto out;
    }
    say_cost(s, &g, n);
    rc = 0;
out:
    stream_end(&stream);
    free(text);
    free(ids);
    free(g.tokens);
    return rc;
}

/* One prompt to all. */
static int round_of(struct speaker *s, int n, const struct prompt *p, const struct settings *set,
                    bool *stopped, struct dha_err *e)
{
    cJSON *doc = NULL, *all = set->json && n > 1 ? cJSON_CreateObject() : NULL;
    cJSON *list = all ? cJSON_AddArrayToObject(all, "models") : NULL;
    int rc = all && !list ? dha_fail(e, DHA_E_NO_MEMORY, "no memory for the result") : 0;
    *stopped = false;
    for (int i = 0; rc == 0 && !*stopped && i < n; i++) {
        if (n > 1 && !set->json) {
            printf("%s== %s (KV cache: %lld bytes a token in %s)\n", i ? "\n" : "", s[i].dir,
                   (long long)model_config_kv_bytes(&s[i].m->cfg, elem_size(s[i].m)),
                   s[i].m->cfg.dtype);
            fflush(stdout);
        }
        doc = NULL;
        rc = answer(&s[i], p, set, stopped, &doc, e);
        if (rc == 0 && list && !cJSON_AddItemToArray(list, doc)) {
            cJSON_Delete(doc);
            rc = dha_fail(e, DHA_E_NO_MEMORY, "no memory for the result");
        }
    }
    if (rc == 0 && set->json) {
        char *text = json_text_pretty(n > 1 ? all : doc);
        rc = text ? 0 : dha_fail(e, DHA_E_NO_MEMORY, "no memory for the result");
        if (text && (puts(text) < 0 || fflush(stdout)))
            rc = dha_fail_errno(e, errno, "writing the result");
        free(text);
    }
    if (n == 1)
        cJSON_Delete(doc);
    cJSON_Delete(all);
    return rc;
}

/* A line with the signals' usual meaning while it is waited for. -1: no more. */
static ssize_t read_line(char **line, size_t *cap)
{
    sigset_t stop, before;
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    sigprocmask(SIG_UNBLOCK, &stop, &before);
    ssize_t n = getline(line, cap, stdin);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (n > 0 && (*line)[n - 1] == '\n')
        (*line)[--n] = '\0';
    return n;
}

static int talk(struct speaker *s, int n, const struct settings *set, struct dha_err *e)
{
    char *line = NULL;
    size_t cap = 0;
    bool stopped = false;
    int rc = 0;
    fprintf(stderr, "Each line is a prompt of its own; Ctrl-D ends, Ctrl-C stops.\n");
    while (rc == 0 && !stopped) {
        fputs("> ", stderr);
        ssize_t len = read_line(&line, &cap);
        if (len < 0)
            break;
        struct prompt p = {.text = line};
        if (len == 0)
            continue;
        rc = round_of(s, n, &p, set, &stopped, e);
        if (rc && e->code == DHA_E_INPUT) { /* this line's fault: the next may be better */
            fprintf(stderr, "%s\n", e->msg);
            *e = (struct dha_err){0};
            rc = 0;
        }
    }
    if (!stopped)
        fputc('\n', stderr);
    free(line);
    return rc;
}

/* All of stdin, without its last newline; malloc'ed. */
static int read_stdin(char **out, struct dha_err *e)
{
    size_t len = 0, cap = 4096;
    char *buf = malloc(cap);
    while (buf) {
        len += fread(buf + len, 1, cap - len - 1, stdin);
        if (len + 1 < cap || cap > MAX_PROMPT)
            break;
        char *grown = realloc(buf, cap *= 2);
        if (!grown)
            free(buf);
        buf = grown;
    }
    *out = buf;
    if (!buf)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the prompt");
    if (ferror(stdin))
        return dha_fail_errno(e, errno, "reading the prompt");
    if (len > MAX_PROMPT)
        return dha_fail(e, DHA_E_INPUT, "the prompt is over %zu MiB", MAX_PROMPT >> 20);
    if (memchr(buf, 0, len))
        return dha_fail(e, DHA_E_INPUT, "the prompt is not text: it has a zero byte");
    len -= len > 0 && buf[len - 1] == '\n';
    buf[len] = '\0';
    return 0;
}

/* "1,2,3" -> ids, malloc'ed */
static int read_ids(const char *text, struct prompt *p, struct dha_err *e)
{
    p->ids = malloc((strlen(text) / 2 + 1) * sizeof *p->ids);
    if (!p->ids)
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for the prompt");
    for (const char *at = text;;) {
        char *end;
        errno = 0;
        long v = strtol(at, &end, 10);
        if (end == at || errno || v < 0 || v > INT32_MAX || (*end && *end != ',')) {
            dha_fail(e, DHA_E_USAGE, "--ids: \"%.60s\" is no list of token ids", text);
            return dha_err_hint(e, "for example --ids 1,15,3");
        }
        p->ids[p->n++] = (int32_t)v;
        if (!*end)
            return 0;
        at = end + 1;
    }
}

static int read_real(const char *name, const char *text, double *out, struct dha_err *e)
{
    char *end;
    if (!text)
        return 0;
    *out = strtod(text, &end);
    return *end || end == text
               ? dha_fail(e, DHA_E_USAGE, "--%s takes a number, not \"%.60s\"", name, text)
               : 0;
}

struct arguments {
    const char *model, *compare, *text, *ids, *tokenizer, *backend;
    long long threads;
    bool loop;
};

static int read_arguments(int argc, char **argv, struct arguments *a, struct settings *set,
                          struct dha_err *e)
{
    const char *temperature = NULL, *top_p = NULL;
    long long max_tokens = 100, top_k = 0, seed = 0;
    bool no_bos = false;
    const struct option_spec options[] = {{.name = "compare", .str = &a->compare},
                                          {.name = "ids", .str = &a->ids},
                                          {.name = "ids-out", .flag = &set->ids_only},
                                          {.name = "tokenizer", .str = &a->tokenizer},
                                          {.name = "max-tokens", .num = &max_tokens},
                                          {.name = "temperature", .str = &temperature},
                                          {.name = "top-k", .num = &top_k},
                                          {.name = "top-p", .str = &top_p},
                                          {.name = "seed", .num = &seed},
                                          {.name = "no-bos", .flag = &no_bos},
                                          {.name = "ignore-eos", .flag = &set->ignore_eos},
                                          {.name = "threads", .num = &a->threads},
                                          {.name = "backend", .str = &a->backend},
                                          {.name = "json", .flag = &set->json},
                                          {0}};
    int first = cmd_options(argc, argv, options, e);
    if (first < 0)
        return -1;
    if (argc - first < 1 || argc - first > 2)
        return dha_fail(e, DHA_E_USAGE, "generate takes a model directory and a prompt");
    a->model = argv[first];
    a->text = argc - first == 2 ? argv[first + 1] : NULL;
    a->loop = !a->text && !a->ids && isatty(STDIN_FILENO);
    if (a->text && a->ids)
        return dha_fail(e, DHA_E_USAGE, "a prompt is text or --ids, not both");
    if (!a->text && !a->ids && !a->loop) {
        dha_fail(e, DHA_E_USAGE, "there is no prompt");
        return dha_err_hint(e, "give one as an argument, - to read it from stdin, or --ids 1,2,3");
    }
    if (cmd_range("max-tokens", max_tokens, 1, 1 << 24, e) ||
        cmd_range("top-k", top_k, 0, INT_MAX, e) || cmd_range("threads", a->threads, 0, 1024, e))
        return -1;
    set->max_tokens = (int)max_tokens;
    set->bos = !no_bos;
    set->sampler = (struct sampler){.top_k = (int)top_k, .top_p = 1, .seed = seed};
    return read_real("temperature", temperature, &set->sampler.temperature, e) ||
                   read_real("top-p", top_p, &set->sampler.top_p, e) ||
                   sampler_check(&set->sampler, e)
               ? -1
               : 0;
}

int cmd_generate(int argc, char **argv, struct comm *comm, struct dha_err *e)
{
    struct arguments a = {.backend = "cpu"};
    struct settings set = {.comm = comm};
    struct speaker s[2] = {0};
    struct prompt p = {0};
    struct kern_err ke = {0};
    struct kern *k = NULL;
    char *text = NULL;
    bool stopped;
    int n = 0, rc = -1;
    if (read_arguments(argc, argv, &a, &set, e))
        return -1;
    if (comm->size > 1)
        return dha_fail(e, DHA_E_USAGE, "generate runs as one process, not under mpirun -n %d",
                        comm->size);
    if ((a.ids && read_ids(a.ids, &p, e)) ||
        (a.text && !strcmp(a.text, "-") && read_stdin(&text, e)))
        goto out;
    p.text = text ? text : a.text;
    if (!(k = kern_open(a.backend, (int)a.threads, &ke))) {
        dha_fail(e, DHA_E_INTERNAL, "backend %s: %s", a.backend, ke.msg);
        goto out;
    }
    const char *dirs[] = {a.model, a.compare};
    for (; n < 2 && dirs[n]; n++)
        if (speaker_open(&s[n], k, dirs[n], a.tokenizer, !a.ids, e))
            goto out;
    rc = a.loop ? talk(s, n, &set, e) : round_of(s, n, &p, &set, &stopped, e);
out:
    for (int i = 0; i < 2; i++)
        speaker_close(&s[i]);
    if (k)
        kern_close(k);
    free(p.ids);
    free(text);
    return rc;
}
