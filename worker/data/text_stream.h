/* text_stream.h: bytes of a file, decompressed on the way if it is gzip or zstd (told by the magic number, not by the
 * name). A truncated or damaged stream is an error, never a short read. */
#ifndef DHA_WORKER_TEXT_STREAM_H
#define DHA_WORKER_TEXT_STREAM_H

#include <stddef.h>
#include <sys/types.h>
#include "proto/err.h"

struct text_stream;
int text_stream_open(struct text_stream **s, const char *path, struct dha_err *e);
void text_stream_close(struct text_stream *s);
/* Fills buf unless the end comes first; returns the bytes, or -1. */
ssize_t text_stream_read(struct text_stream *s, char *buf, size_t n, struct dha_err *e);

#endif
