/* documents.h: the documents of a text or JSONL file (plain, gzip or zstd, told by its first bytes), streamed in
 * pieces that fit in memory.
 *
 * text: the file is one document. jsonl: one object a line, its "text" (or "content") is the document; empty lines are
 * skipped. instruct: one object a line as in question.h; a document is prompt and answer together and is never cut.
 * A document of at most DOCUMENT_PIECE bytes is one piece. A longer one is cut into pieces of at most that,
 * each right after its last newline (or, without a newline, anywhere between characters). Every piece is
 * tokenised alone, so a cut costs what a document's start costs: at most the tokenizer's dummy prefix and a
 * merge across that newline.
 */
#ifndef DHA_WORKER_DOCUMENTS_H
#define DHA_WORKER_DOCUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include "proto/err.h"

/* SentencePiece needs about 140 bytes of memory a byte of text, and its time grows faster than the text:
 * 0.8 s for 1.6 MB, 6.6 s for 6.5 MB. */
#define DOCUMENT_PIECE ((size_t)2 << 20)

struct documents;
struct piece {
    char *text; /* malloc'ed: the caller frees it */
    size_t len;
    bool first;    /* of its document */
    size_t prompt; /* instruct: bytes of text that are the prompt */
};

int documents_open(struct documents **d, const char *path, const char *format, struct dha_err *e);
void documents_close(struct documents *d);
/* 1 and a piece, 0 at the end, -1 on an error (which names file and line). */
int documents_next(struct documents *d, struct piece *p, struct dha_err *e);

#endif
