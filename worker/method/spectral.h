/* spectral.h: the closed forms of METHODS section 6 for one layer, apart from models, tokens and ranks.
 *
 * A layer's calibration sums (struct calib_layer, filled by calib.c) and its weights (struct attn_layer) become
 * the blocks of all pairs of heads (struct key_blocks, struct value_blocks). From the blocks a group costs one small
 * eigenproblem; a merge is applied to an attn_layer in place.
 *
 * Groups are lists of member heads in ascending order.
 */
#ifndef DHA_WORKER_METHOD_SPECTRAL_H
#define DHA_WORKER_METHOD_SPECTRAL_H

#include <complex.h>
#include "worker/method/layer.h"

/* Means over the calibration tokens of one layer; x = input of the attention block after its RMSNorm, A_h = attention
 * matrix of head h. With attention biases x is extended by a constant 1, so that a key's bias is one more row of its
 * projection; ext = width + 1 then, else ext = width. Values need no such row: the rows of A_h sum to one, so a
 * value bias is a constant at the output and moves into o's bias exactly. */
struct calib_layer {
    int heads, dim, width, ext;
    double *c; /* C = E[x^T x] [ext, ext] */
    double *
        *c_head; /* [heads] C_h = E[(A_h x)^T (A_h x)] [width, width]; NULL where not asked for */
    bool plain;  /* C stands for every C_h (wide models) */
    double *energy; /* w_{h,p} = E|q_{h,p}|^2 [heads, dim/2] */
    double *angle;  /* of each plane, a position [dim/2] */
    int slow; /* key planes to merge as one block, from the slowest; 0 unless set by the owner */
};
/* Above this width values are merged by C: H second moments and H block matrices of attended inputs are H times the memory
 * and the time (METHODS section 6 found no clear difference between the two). */
#define CALIB_ATTENDED_WIDTH 2048
void calib_layer_finish(struct calib_layer *c);

/* --- values: joint low rank of the products W_v^h o_h ---------------------------------------------- */
/* Also of the products of queries and keys in slow planes (struct key_blocks): there W_k stands for W_v, W_q for o, R_h is
 * sqrt(W_q C W_q^T), and dim, width are 2 * slow, ext. */
struct value_blocks {
    int heads, dim, width;
    double *p;      /* [heads*dim, width] P_h = R_h W_v^h, R_h = sqrt(o_h^T o_h) */
    double *t;      /* [heads*dim, width] T_h = R_h^-1 o_h: R_h T_h = o_h */
    double **m;     /* [heads] M_h = P C_h P^T [heads*dim, heads*dim]; NULL where C_h was */
    double *common; /* plain: P C P^T, instead of all M_h */
};
/* Takes c->c_head: each second moment is freed as soon as its block matrix exists, so that only one set of
 * H matrices lives at a time. */
int value_blocks_make(struct value_blocks *b, const struct attn_layer *a, struct calib_layer *c,
                      struct dha_err *e);
void value_blocks_finish(struct value_blocks *b);
/* P C P^T [heads*dim, heads*dim], C [width, width] of row distance ld. */
double *value_block_matrix(const struct value_blocks *b, const double *c, int ld,
                           struct dha_err *e);
/* The factors of a group's best rank-dim approximation: shared [dim, width], its rows scaled to norm `target` over their first
 * `cols` columns, weakest first; own [n][dim, width]: row r of member i's other factor. lead (or NULL): v [dim, n*dim] the
 * eigenvectors; lambda, scale [dim]: row r is scale_r v_r^T P, 0 where there is no signal. */
struct value_lead {
    double *v, *lambda, *scale;
};
int value_share(const struct value_blocks *b, const int *members, int n, double target, int cols,
                double *shared, double *own, struct value_lead *lead, struct dha_err *e);
int value_residual(const struct value_blocks *b, const int *members, int n, double *residual,
                   struct dha_err *e);
/* Makes the members' value rows equal; each keeps output columns of its own. */
int value_merge(struct attn_layer *a, const struct value_blocks *b, const int *members, int n,
                struct dha_err *e);

/* --- keys: complex rank one per RoPE plane ------------------------------------------------------- */
struct key_blocks {
    int heads, planes;
    double complex *gram; /* [planes][heads*heads] kappa_i^* C kappa_j */
    double complex *flat; /* the same with C = 1 and without biases: norms of mixtures */
    double *root;         /* [heads*planes] sqrt(w_{h,p}) */
    /* The last `slow` planes hardly turn within the context: they are merged as one block, by joint low rank. */
    int slow;
    struct value_blocks block;
    double *turn;  /* [heads][2*slow, 2*slow] R_h Omega R_h^-1, Omega = how the planes turn */
    double *angle; /* [slow] a position */
};
int key_blocks_make(struct key_blocks *b, const struct attn_layer *a, const struct calib_layer *c,
                    struct dha_err *e);
void key_blocks_finish(struct key_blocks *b);
/* The shared key plane is kappa_p = sum_h mix[h,p] kappa_{h,p}, member h uses factor[h,p] times it, so its
 * query plane is multiplied by conj(factor[h,p]). mix, factor [n, planes]; residual: sum of what rank one
 * leaves of sum_h w_{h,p} E|k_{h,p}|^2 over the planes (may be NULL). */
int key_solve(const struct key_blocks *b, const int *members, int n, double complex *mix,
              double complex *factor, double *residual, struct dha_err *e);
/* Makes the members' key rows (and biases) equal and folds the factors into their query rows; in slow planes both are made
 * anew. */
int key_merge(struct attn_layer *a, const struct key_blocks *b, const int *members, int n,
              struct dha_err *e);

/* Merges every group of more than one head in a partition (key: 0, value: 1). */
int spectral_merge_keys(struct attn_layer *a, const struct key_blocks *b, const int *group_of,
                        struct dha_err *e);
int spectral_merge_values(struct attn_layer *a, const struct value_blocks *b, const int *group_of,
                          struct dha_err *e);
/* Members of group g in ascending order; returns their number. */
int group_members(const int *group_of, int heads, int g, int *members);
/* Bits of a subset likewise (heads <= 32). */
int subset_members(unsigned mask, int heads, int *members);

#endif
