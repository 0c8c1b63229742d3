/* token_cache.h: text tokenised once.
 *
 * A cache file is named by the SHA-256 of (format version, SHA-256 of the input file, SHA-256 of the tokenizer model,
 * text or jsonl, BOS), so it is never stale: another input is another name.
 *   64 bytes: "DHATOK1\n", u32 bytes a token, u32 0, u64 tokens, u64 XXH3 of the tokens, 32 bytes of the key's digest
 *   then the tokens, u16 or u32 little endian
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

/* Is there a tokenizer that can be used? The error says what to do when there is only a tokenizer.json. */
int token_cache_check(const struct corpus_options *o, struct dha_err *e);
/* Tokens of the text or jsonl file `path`, mapped; *s points into *m, which the caller closes. */
int token_cache_open(const char *path, const struct corpus_options *o, struct mapped_file *m,
                     struct token_span *s, struct dha_err *e);

#endif
