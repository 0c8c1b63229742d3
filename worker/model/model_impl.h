/* model_impl.h: what the files of this folder share and nobody else needs. */
#ifndef DHA_WORKER_MODEL_IMPL_H
#define DHA_WORKER_MODEL_IMPL_H

#include "worker/model/model.h"

/* The table, its indices and n_params for m->cfg. Names and offsets only, no memory for parameters. */
int model_table_build(struct model *m, struct dha_err *e);
/* Rows 0..positions-1 of the rotary table exist on the device (positions <= cfg.max_positions). */
int model_rope_need(struct model *m, int positions, struct dha_err *e);
/* out [positions * head_dim], cos | sin, computed in double. */
void model_rope_table(const struct model_config *c, int positions, float *out);
/* The queue's sticky error, turned into ours. 0 if there is none. */
int model_check(struct kern *k, const char *doing, struct dha_err *e);
int model_fail_kern(const struct kern_err *k, const char *doing, struct dha_err *e);

#endif
