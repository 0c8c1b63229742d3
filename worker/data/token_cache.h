/* token_cache.h: text tokenised once.
 *
 * A cache file is named by the SHA-256 of (format version, SHA-256 of the input file, SHA-256 of the tokenizer model,
 * text, jsonl or instruct, BOS, EOS), so it is never stale: another input is another name.
 *   64 bytes: "DHATOK1\n", u32 bytes a token, u32 bytes a token's class (instruct: 1, else 0), u64 tokens, u64 XXH3 of
 *   all that follows, 32 bytes of the key's digest
 *   then the tokens, u16 or u32 little endian, then their classes
 * It is written to KEY.tmp under an exclusive lock on KEY.lock (other ranks of this host wait, then find it done),
 * synced and renamed. A kill leaves a KEY.tmp that the next maker overwrites. A file that does not
 * verify is made again.
 */
#ifndef DHA_WORKER_TOKEN_CACHE_H
#define DHA_WORKER_TOKEN_CACHE_H

#include "worker/data/corpus.h"
#include "worker/data/token_file.h"

struct mapped_file {
    void *data; /* NULL: an empty file */
    size_t len;
};
int mapped_file_open(struct mapped_file *m, const char *path, struct dha_err *e);
void mapped_file_close(struct mapped_file *m);

/* A token's class byte: enum corpus_class, and whether the token is the first of an example. */
#define TOKEN_CLASS  3
#define TOKEN_STARTS 4

/* Whether files of this format are tokenised (text, jsonl, instruct). */
bool token_cache_format(const char *format);
/* Is there a tokenizer that can be used? The error says what to do when there is only a tokenizer.json. */
int token_cache_check(const struct corpus_options *o, struct dha_err *e);
/* Before any work: the first documents of a file as token_cache_open() would read it, of big files in a moment. They must
 * parse; they are tokenised until there are `want` tokens, or less of them where that would take long. */
struct token_look {
    int64_t want, tokens; /* tokens: added to */
    bool whole;           /* `tokens` counts all of the file, if it is below `want` */
};
int token_cache_look(const char *path, const struct corpus_options *o, const struct spm *spm,
                     struct token_look *look, struct dha_err *e);
/* Tokens of the file `path`, mapped; *s and *classes (instruct, else NULL) point into *m, which the caller closes. */
int token_cache_open(const char *path, const struct corpus_options *o, struct mapped_file *m,
                     struct token_span *s, const uint8_t **classes, struct dha_err *e);

#endif
