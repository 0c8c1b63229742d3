/* calib.h: the calibration sums of METHODS section 6 for one layer at a time. */
#ifndef DHA_WORKER_METHOD_CALIB_H
#define DHA_WORKER_METHOD_CALIB_H

#include "worker/method/spectral.h"
#include "worker/method/walk.h"

/* Advances the walk by layer `layer` and gathers its sums over the sequences of all ranks (each rank's walk holds
 * its share of total_seqs): C, w and, for heads with need[h], C_h. Every rank gets the same sums.
 * MHA models only (method_expand()). */
int calib_layer(struct calib_layer *out, struct walk *w, struct comm *comm, int layer,
                int total_seqs, const bool *need, struct dha_err *e);

#endif
