/* output.h: is what a finished stage left still what it left?
 *
 * A worker that ends a stage well writes OUT/output.json last:
 *   { "format": "dha-output-1", "files": [{ "path": "model/config.json", "bytes": "712", "xxh3_128": HEX }, ...] }
 * with paths relative to OUT. The output is whole while each of them is there with that size; a stage without
 * output.json (made before there was one) is whole while its main file is there (proto/stage.h). Contents are
 * not read: a cut-off or lost file is what crashes, full disks and people leave; who wants to know about the rest has
 * output_compare().
 */
#ifndef DHA_DAEMON_OUTPUT_H
#define DHA_DAEMON_OUTPUT_H

#include "daemon/progress.h"
#include "proto/stage.h"

/* 0 = whole; -1 = not, *why says which file differs and how (why->path is the file). */
int output_check(enum stage_kind kind, const char *out_dir, struct dha_err *why);
/* The same for contents: reads every file that output.json lists with a digest ("xxh3_128"; lists of older workers have
 * none). For an output that output_check() called whole. -1 with DHA_E_STOPPED: p was told to stop. */
int output_compare(const char *out_dir, struct progress *p, struct dha_err *why);
/* It was not, because nobody could look (no descriptor, no memory, an I/O error): that is not damage. */
bool output_is_unknown(const struct dha_err *why);
/* Before a stage runs into out_dir: takes a finished but damaged output away, or the worker would take it for
 * a finished one. Anything else (nothing yet, checkpoints to go on from, a whole output) is left alone. */
int output_clear_damaged(enum stage_kind kind, const char *out_dir, struct dha_err *e);

#endif
