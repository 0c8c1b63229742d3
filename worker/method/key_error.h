/* key_error.h: what merging the keys of a group does to the attention block's output (METHODS section 6, "Groups"):
 *     E || sum_{h in g} (A'_h - A_h) x W_v^h o_h ||^2      mean over the tokens, softmax included
 * It needs only one layer's queries, keys and values: no forward pass.
 *
 * Life cycle. key_error_open() once a search; for each layer key_error_load() takes the layer's queries, keys, values and
 * attention outputs from a walk (which it advances); then key_error_group() for as many groups as wanted.
 */
#ifndef DHA_WORKER_METHOD_KEY_ERROR_H
#define DHA_WORKER_METHOD_KEY_ERROR_H

#include "worker/method/spectral.h"
#include "worker/method/walk.h"

struct key_error {
    struct walk walk; /* the same sequences on every rank */
    size_t rows, ld;  /* n * seq tokens; row distance of qkv = 3*H*d */
    int heads, dim, width;
    struct kern_buf *qkv;   /* [rows, ld], RoPE applied to q and k */
    struct kern_buf *y;     /* [rows, H*d] the parent's attention outputs */
    struct kern_buf *o;     /* [H*d, D] rows of W_O by head */
    struct kern_buf *q, *k; /* [rows, H*d], [rows, d]: merged queries and the shared keys */
    struct kern_buf *y2;    /* [rows, H*d]: outputs with them, then the difference to y */
    struct kern_buf *o2;    /* [H*d, D]: rows of o for the members */
    struct kern_buf *out;   /* [rows, D] */
    struct kern_buf *lse;   /* [n, H, seq] */
    struct kern_buf *turn;  /* [2*H + 1, d, d]: members' query maps, key maps; the identity */
    float *turn_host;
};

int key_error_open(struct key_error *x, const struct method_env *env, struct model *mha, int n,
                   struct dha_err *e);
void key_error_close(struct key_error *x);
int key_error_load(struct key_error *x, const struct attn_layer *a, int layer, struct dha_err *e);
int key_error_group(struct key_error *x, const struct key_blocks *b, const int *members, int n,
                    double *error, struct dha_err *e);

#endif
