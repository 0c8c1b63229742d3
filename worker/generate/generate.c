#include "worker/generate/generate.h"

#include <stdlib.h>
#include <time.h>

const char *generate_end_name(enum generate_end end)
{
    static const char *const names[] = {"eos", "max-tokens", "context", "stopped"};
    return names[end];
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* The tokens after the prompt, whose last logits are in `logits`. */
static int go_on(struct decode *d, const struct sampler *s, int max_tokens, int eos,
                 generate_each each, void *arg, float *logits, int vocab, struct generation *out,
                 struct dha_err *e)
{
    out->end = END_TOKENS;
    while (out->n < max_tokens) {
        int32_t token;
        if (sample(s, logits, vocab, out->n, &token, e))
            return -1;
        if (token == eos) {
            out->end = END_EOS;
            break;
        }
        out->tokens[out->n++] = token;
        int said = each ? each(arg, token, e) : 0;
        if (said < 0)
            return -1;
        if (said > 0) {
            out->end = END_STOPPED;
            break;
        }
        if (out->n == max_tokens)
            break;
        if (decode_length(d) == decode_room(d)) {
            out->end = END_CONTEXT;
            break;
        }
        if (decode_feed(d, &token, 1, logits, 1, e))
            return -1;
    }
    return 0;
}

int generate(struct decode *d, const int32_t *prompt, int n_prompt, const struct sampler *s,
             int max_tokens, int eos, generate_each each, void *arg, struct generation *out,
             struct dha_err *e)
{
    int vocab = decode_vocab(d), rc = -1;
    double started = now(), prompted;
    *out = (struct generation){0};
    if (n_prompt < 1)
        return dha_fail(e, DHA_E_INPUT, "the prompt has no tokens");
    if (n_prompt > decode_room(d)) {
        dha_fail(e, DHA_E_INPUT, "the prompt has %d tokens, the model's context holds %d", n_prompt,
                 decode_room(d));
        return dha_err_hint(e, "shorten the prompt");
    }
    float *logits = malloc((size_t)vocab * sizeof *logits);
    out->tokens = malloc((size_t)(max_tokens > 0 ? max_tokens : 1) * sizeof *out->tokens);
    if (!logits || !out->tokens) {
        dha_fail(e, DHA_E_NO_MEMORY, "no memory to generate %d tokens", max_tokens);
        goto out;
    }
    decode_reset(d);
    if (decode_feed(d, prompt, n_prompt, logits, 1, e))
        goto out;
    prompted = now();
    out->prompt_seconds = prompted - started;
    rc = go_on(d, s, max_tokens, eos, each, arg, logits, vocab, out, e);
    out->seconds = now() - prompted;
out:
    free(logits);
    return rc;
}
