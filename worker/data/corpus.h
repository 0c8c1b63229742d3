/* corpus.h: tokens, in an order that is a pure function of (seed, stream, step, index): nothing but the
 * step is needed to resume, and the order does not depend on the number of ranks (DESIGN section 9, D6).
 *
 * A corpus is opened from token files (u16, u32 little endian, headerless or with llm.c's 1024-byte
 * header) or from text/JSONL (plain, .gz, .zst), which is tokenised once with a SentencePiece model
 * into a cache file named by the digest of the input and the tokenizer (published atomically;
 * a damaged cache file is made again).
 *
 * Format "instruct" is JSONL of prompts and answers (worker/data/instruct.h). Every token then has a class, and a
 * sequence is made of whole examples, one after another as long as they fit; what is left of the row is text of the
 * next example that counts for nothing.
 *
 * A mixture is several corpora with weights: a sequence first draws its domain by them, then its place in that
 * domain, both as functions of the same (seed, stream, step, index). Its domains are read one by one for evaluation.
 */
#ifndef DHA_WORKER_CORPUS_H
#define DHA_WORKER_CORPUS_H

#include <stdbool.h>
#include <stdint.h>
#include "proto/err.h"

struct corpus;
struct corpus_options {
    const char *format;    /* "u16" "u32" "text" "jsonl" "instruct" */
    const char *tokenizer; /* SentencePiece model; needed for text, jsonl and instruct */
    const char *model_dir; /* for the error when only tokenizer.json is there; may be NULL */
    const char *cache_dir; /* needed for text and jsonl; created */
    int vocab;             /* every token must be below */
    int bos;               /* put before each document of text/jsonl/instruct; -1: none */
    int eos;               /* put after each answer of instruct; -1: none */
};
/* Streams keep calibration, training and evaluation draws apart. */
enum corpus_stream {
    STREAM_TRAIN = 0,
    STREAM_SEARCH = 1,
    STREAM_CALIB = 2,
    STREAM_COST = 3,
    STREAM_REFIT = 4
};

/* text: one document a file. jsonl: one a line, field "text" (or "content"). */
int corpus_open(struct corpus **c, char *const *paths, int n_paths, const struct corpus_options *o,
                struct dha_err *e);
void corpus_close(struct corpus *c);
int64_t corpus_tokens(const struct corpus *c);
/* Splits off the last n tokens as a corpus of its own; both stay valid, close both. */
int corpus_hold_out(struct corpus *c, int64_t n, struct corpus **tail, struct dha_err *e);
/* Sequence `index` of step `step`: seq + 1 consecutive tokens from a random place -> ids[seq], targets[seq]. */
int corpus_draw(const struct corpus *c, int64_t seed, enum corpus_stream stream, int64_t step,
                int64_t index, int seq, int32_t *ids, int32_t *targets, struct dha_err *e);
/* What a row is to losses that treat prompts and answers apart (METHODS 2.7). Rows whose target is < 0 count for nothing,
 * whatever their class. */
enum corpus_class { CORPUS_TEXT = 0, CORPUS_PROMPT = 1, CORPUS_ANSWER = 2, CORPUS_CLASSES };
/* Whether its rows have classes (format "instruct") or are all CORPUS_TEXT. */
bool corpus_has_classes(const struct corpus *c);
/* Classes of the rows that corpus_draw() fills for the same arguments -> classes[seq]: what the token that the row predicts
 * belongs to. Instruct data: targets are >= 0 on prompts and answers, < 0 (and the class CORPUS_TEXT) on the rest. */
int corpus_draw_classes(const struct corpus *c, int64_t seed, enum corpus_stream stream,
                        int64_t step, int64_t index, int seq, uint8_t *classes, struct dha_err *e);
/* Examples longer than a sequence of seq, whose prompt is cut from the left in it (0 without classes). */
int64_t corpus_overlong(const struct corpus *c, int seq);
/* Evaluation windows (DESIGN 13): window i = tokens i*seq .. i*seq+seq inclusive; of instruct data the i-th row of whole
 * examples, where only answers have targets (a loss is over answers). A mixture has none: its domains have. */
int64_t corpus_windows(const struct corpus *c, int seq);
int corpus_window(const struct corpus *c, int64_t i, int seq, int32_t *ids, int32_t *targets,
                  struct dha_err *e);

/* ---- mixtures ------------------------------------------------------------------------------------------ */
struct corpus_domain {
    const char *name;
    double weight; /* of all: the weights are divided by their sum */
    struct corpus *corpus;
};
/* Takes the corpora over (also on failure), copies the names. No domain may be a mixture itself. */
int corpus_mix(struct corpus **c, const struct corpus_domain *d, int n, struct dha_err *e);
/* 0 for a corpus that is no mixture. */
int corpus_domains(const struct corpus *c);
/* Borrowed until corpus_close(c). */
struct corpus_domain corpus_domain_at(const struct corpus *c, int i);

/* Too short for seq? Clear error naming the file, its tokens and what is needed. */
int corpus_check(const struct corpus *c, int seq, struct dha_err *e);
/* That error, of n_files from `path` on. */
int corpus_too_short(const char *path, int n_files, int64_t tokens, int seq, struct dha_err *e);
/* Counter-based generator: 64 uniform bits of (seed, stream, step, index, n). */
uint64_t corpus_random(int64_t seed, uint64_t stream, int64_t step, int64_t index, uint64_t n);

/* SentencePiece behind a C face (spm.cc). */
struct spm;
int spm_open(struct spm **s, const char *model, struct dha_err *e);
void spm_close(struct spm *s);
int spm_vocab(const struct spm *s);
int spm_bos(const struct spm *s);
/* An error if it has tokens that a model of `vocab` tokens does not have. */
int spm_fits(const struct spm *s, const char *path, int vocab, struct dha_err *e);
/* *ids is malloc'ed. */
int spm_encode(const struct spm *s, const char *text, size_t len, int32_t **ids, size_t *n,
               struct dha_err *e);
int spm_decode(const struct spm *s, const int32_t *ids, size_t n, char **text, struct dha_err *e);

#endif
