/* export.h: the directory a user takes away (DESIGN sections 9 and 13). */
#ifndef DHA_WORKER_EXPORT_H
#define DHA_WORKER_EXPORT_H

#include "worker/card.h"
#include "worker/model/model.h"

/* from: a model directory. files_from: where the tokenizer files are copied from (may equal from).
 * to: must not exist, or be an empty directory; it appears complete, by rename, or not at all.
 * format: "auto" (plain LLaMA GQA where the maps allow it, else dha), "dha" (with configuration_dha.py and
 *   modeling_dha.py beside the weights), "gqa" (plain; refused where the maps do not allow it), "expand" (K/V heads repeated
 *   back to MHA: a stock LLaMA with the same logits).
 * dtype: "float32" | "bfloat16" | "float16" | NULL = as in from's config.json.
 * facts: how the model was made and what it scores (card.h), for its README.md; NULL: those that lie beside `from`, if any. */
int export_model(struct kern *k, const char *from, const char *files_from, const char *to,
                 const char *format, const char *dtype, const cJSON *facts, struct dha_err *e);

#endif
