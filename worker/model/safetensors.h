/* safetensors.h: reading and writing the safetensors container, one file or shards with an index.
 *
 * Reading maps the files; st_open() has validated every header (sizes, overlaps, dtypes, shapes,
 * offsets against the file's length) before it returns, so that later calls cannot run off the end.
 * Writing goes to a temp file and is renamed into place after fsync; nothing is replaced by half a
 * file.
 */
#ifndef DHA_WORKER_SAFETENSORS_H
#define DHA_WORKER_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>
#include "proto/err.h"

enum st_dtype { ST_F32, ST_F16, ST_BF16, ST_F64, ST_I32, ST_I64, ST_U8, ST_OTHER };

struct st_tensor {
    const char *name;
    enum st_dtype dtype;
    int n_dims;
    int64_t dims[4];
    const void *data; /* in the map; may be unaligned */
    size_t bytes;
};
struct st_file;

/* dir: model.safetensors or model.safetensors.index.json + shards. */
int st_open_dir(struct st_file **f, const char *dir, struct dha_err *e);
int st_open(struct st_file **f, const char *path, struct dha_err *e);
/* Only the header, from memory: for the fuzz target. len = bytes of the whole file at hand. */
int st_parse(struct st_file **f, const uint8_t *data, size_t len, struct dha_err *e);
void st_close(struct st_file *f);
size_t st_count(const struct st_file *f);
const struct st_tensor *st_at(const struct st_file *f, size_t i);
const struct st_tensor *st_find(const struct st_file *f, const char *name);
/* F32, F16, BF16 (F64 too) -> f32. n must be the tensor's element count. */
int st_read_f32(const struct st_tensor *t, float *dst, size_t n, struct dha_err *e);

struct st_writer;
/* max_shard_bytes 0: one file model.safetensors in dir; otherwise shards with an index. */
int st_writer_open(struct st_writer **w, const char *dir, size_t max_shard_bytes,
                   struct dha_err *e);
/* How many tensors will come, before the first: makes the header's room fit at once. Optional. */
void st_writer_expect(struct st_writer *w, size_t n_tensors);
/* f32 values, stored as dtype (F32, BF16 round-to-nearest-even, or F16). Data is borrowed for the call. */
int st_writer_add(struct st_writer *w, const char *name, enum st_dtype dtype, int n_dims,
                  const int64_t *dims, const float *data, struct dha_err *e);
/* Header, data, fsync, rename. On any failure nothing in dir has changed. Frees w in any case. */
int st_writer_finish(struct st_writer *w, struct dha_err *e);
void st_writer_abort(struct st_writer *w);

#endif
