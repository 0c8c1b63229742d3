/* generate.h: a prompt's continuation, and its text as it grows. */
#ifndef DHA_WORKER_GENERATE_H
#define DHA_WORKER_GENERATE_H

#include "worker/data/corpus.h"
#include "worker/generate/sample.h"
#include "worker/model/model.h"

enum generate_end {
    END_EOS,     /* the model said that it is done; the token is not part of the result */
    END_TOKENS,  /* as many as asked for */
    END_CONTEXT, /* the model's context is full */
    END_STOPPED, /* the caller's function said so */
};
const char *generate_end_name(enum generate_end end); /* "eos" "max-tokens" "context" "stopped" */

struct generation {
    int32_t *tokens; /* [n], malloc'ed */
    int n;
    enum generate_end end;
    double prompt_seconds, seconds; /* of the prompt; of the tokens after the first */
};
/* Called with every token as it comes: 0 go on, 1 stop, -1 failed (*e is set). */
typedef int (*generate_each)(void *arg, int32_t token, struct dha_err *e);

/* eos: the token to stop at, -1 none. The decoder's past is forgotten first. The caller frees out->tokens, also on failure. */
int generate(struct decode *d, const int32_t *prompt, int n_prompt, const struct sampler *s,
             int max_tokens, int eos, generate_each each, void *arg, struct generation *out,
             struct dha_err *e);

/* Text of a growing list of tokens, given out in whole UTF-8 characters. A character may be spread over several tokens (byte
 * pieces), and SentencePiece decodes what is incomplete as U+FFFD: such an end is held back until it is complete, or until the
 * text ends. Blanks between words are right because the prompt is decoded, too. */
struct stream {
    const struct spm *spm;
    int32_t *ids;
    size_t n, cap;
    size_t start, sent; /* bytes of the prompt's text, and of what has been given out */
};
int stream_begin(struct stream *t, const struct spm *spm, const int32_t *prompt, size_t n,
                 struct dha_err *e);
void stream_end(struct stream *t);
/* *piece: what is new and complete, malloc'ed, may be empty. last: all of the rest. */
int stream_token(struct stream *t, int32_t token, char **piece, struct dha_err *e);
int stream_last(struct stream *t, char **piece, struct dha_err *e);
/* All of the continuation, malloc'ed. */
int stream_text(const struct stream *t, char **text, struct dha_err *e);

#endif
