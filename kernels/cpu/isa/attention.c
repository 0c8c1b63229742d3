/* attention.c: fused causal attention under two head maps; the formulas are in
 * reference/attention.c.
 *
 * Work is cut into tasks: a query head of a sequence (forward: cut further into interleaved blocks
 * of query rows where there would be too few tasks). A task packs its K (backward: and V) transposed
 * once, then takes BQ query rows against a block of keys at a time: scores into a buffer that stays
 * in the first-level cache, exp in place, products with V (and in the backward pass the four others)
 * straight from there. Forward keeps a running maximum and sum a row (online softmax); backward
 * recomputes p from lse. Register tiles that lie above the diagonal are left out: a tile of MR rows
 * ends at the column `lim` just after its last row's diagonal.
 *
 * dK and dV. A task sums them over its rows in order. A K (V) head with one query head gets the sum
 * as it is; shared heads' sums are kept a query head apart and added in ascending order of the query
 * heads by one owner. So the bits do not depend on the number of threads, and K and V may be shared
 * in any two patterns. The sums are kept for `together` sequences at a time, just enough to give
 * every thread work, not for the whole batch.
 *
 * Padding: buffers are `wide` = dim rounded up to whole vectors; padded lanes hold zeros or are
 * computed and dropped. Nothing is read past the end of a tensor.
 */
#include "isa.h"
#include "tile.h"

#include <math.h>
#include <string.h>

enum {
    BQ = 32,               /* query rows at a time; a multiple of MR */
    FORWARD_KEYS = 8 * NB, /* keys at a time; multiples of NB */
    BACKWARD_KEYS = 3 * NB,
};

/* One (sequence, query head): where its rows begin, and the padded sizes. */
struct head {
    const float *q, *key, *v;
    size_t T, dim, wide;
    size_t ldq, ldk, ldv, ldo;
    float scale;
};

static struct head head_at(const struct kern_attn *a, struct kern_view q, struct kern_view key,
                           struct kern_view v, size_t b, size_t h)
{
    size_t T = (size_t)a->seq, d = (size_t)a->dim;
    return (struct head){
        .q = host_f32(q) + b * T * a->ldq + h * d,
        .key = host_f32(key) + b * T * a->ldk + (size_t)a->maps->key_of[h] * d,
        .v = v.buf ? host_f32(v) + b * T * a->ldv + (size_t)a->maps->value_of[h] * d : NULL,
        .T = T,
        .dim = d,
        .wide = round_up(d, V),
        .ldq = a->ldq,
        .ldk = a->ldk,
        .ldv = a->ldv,
        .ldo = a->ldo,
        .scale = a->scale};
}

static size_t min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* x as the right-hand side of strip(): itself if its rows are whole vectors, else a padded copy. */
static const float *whole_rows(float *room, const float *x, size_t ld, const struct head *h,
                               size_t *ld_out)
{
    if (h->dim == h->wide) {
        *ld_out = ld;
        return x;
    }
    copy_padded(room, h->wide, h->T, x, ld, h->T, h->dim, 1.0F);
    *ld_out = h->wide;
    return room;
}

/* ---- forward ---- */

struct forward {
    float *kt; /* K packed */
    float *v;  /* V padded, if it must be */
    float *q;  /* [BQ, wide], times scale */
    float *s;  /* [BQ, FORWARD_KEYS] */
    float *o;  /* [BQ, wide] */
    float max[BQ], sum[BQ];
};

static size_t forward_floats(size_t T, size_t dim)
{
    size_t wide = round_up(dim, V);
    return round_up(T, NB) * dim + T * wide + 2 * BQ * wide + BQ * FORWARD_KEYS;
}

static struct forward forward_room(float *room, const struct head *h)
{
    struct forward f = {.kt = room};
    f.v = f.kt + round_up(h->T, NB) * h->dim;
    f.q = f.v + h->T * h->wide;
    f.o = f.q + BQ * h->wide;
    f.s = f.o + BQ * h->wide;
    return f;
}

/* Row of scores s[0..valid), zero-filled to n: running maximum and sum, s = exp(s - maximum);
 * o is rescaled when the maximum rises. */
static void softmax_row(float *s, size_t valid, size_t n, float *max, float *sum, float *o,
                        size_t wide)
{
    vf top = v_set(*max);
    for (size_t c = 0; c < valid; c += V) {
        v_mask m = v_first(valid - c);
        top = v_max(v_pick(m, v_read(s + c), top), top);
    }
    float now = valid ? v_top(top) : *max;
    vf total = v_zero(), shift = v_set(now);
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(c < valid ? valid - c : 0);
        vf e = v_pick(m, v_exp(v_read(s + c) - shift), v_zero());
        v_write(s + c, e);
        total += e;
    }
    if (now > *max) {
        float shrink = expf(*max - now);
        *sum *= shrink;
        for (size_t c = 0; c < wide; c += V)
            v_write(o + c, v_read(o + c) * shrink);
        *max = now;
    }
    *sum += v_sum(total);
}

/* Query rows [i0, i0 + rows) against all their keys. */
static void forward_block(const struct head *h, struct forward *f, const float *v, size_t ldv,
                          size_t i0, size_t rows, float *O, float *lse)
{
    size_t padded = round_up(rows, MR);
    copy_padded(f->q, h->wide, padded, h->q + i0 * h->ldq, h->ldq, rows, h->dim, h->scale);
    memset(f->o, 0, padded * h->wide * sizeof *f->o);
    for (size_t r = 0; r < rows; r++) {
        f->max[r] = -INFINITY;
        f->sum[r] = 0;
    }
    for (size_t j0 = 0; j0 < i0 + rows; j0 += FORWARD_KEYS)
        for (size_t r0 = 0; r0 < rows; r0 += MR) {
            size_t end = min(i0 + r0 + MR, h->T);
            if (end <= j0)
                continue;
            size_t lim = min(end - j0, FORWARD_KEYS), n = round_up(lim, V);
            float *s = f->s + r0 * FORWARD_KEYS;
            strip_packed(s, FORWARD_KEYS, f->q + r0 * h->wide, h->wide, f->kt + j0 * h->dim, n,
                         h->dim);
            for (size_t r = 0; r < MR; r++) {
                size_t i = i0 + r0 + r;
                if (r0 + r >= rows)
                    memset(s + r * FORWARD_KEYS, 0, n * sizeof *s);
                else
                    softmax_row(s + r * FORWARD_KEYS, i >= j0 ? min(i + 1 - j0, lim) : 0, n,
                                &f->max[r0 + r], &f->sum[r0 + r], f->o + (r0 + r) * h->wide,
                                h->wide);
            }
            strip(f->o + r0 * h->wide, h->wide, s, FORWARD_KEYS, 1, v + j0 * ldv, ldv, h->wide, lim,
                  true);
        }
    for (size_t r = 0; r < rows; r++) {
        float inv = 1.0F / f->sum[r];
        for (size_t c = 0; c < h->dim; c += V) {
            v_mask m = v_first(h->dim - c);
            v_store(m, O + (i0 + r) * h->ldo + c, v_read(f->o + r * h->wide + c) * inv);
        }
        lse[i0 + r] = f->max[r] + logf(f->sum[r]);
    }
}

void CPU(attn_fwd)(struct kern *k, struct kern_view o, struct kern_view lse, struct kern_view q,
                   struct kern_view key, struct kern_view v, const struct kern_attn *a)
{
    if (!kern_ok(k))
        return;
    size_t B = (size_t)a->batch, H = (size_t)a->heads, T = (size_t)a->seq, d = (size_t)a->dim;
    size_t threads = (size_t)cpu_threads(k), blocks = (T + BQ - 1) / BQ;
    size_t cut = min((4 * threads + B * H - 1) / (B * H), blocks); /* pieces of a head */
    size_t floats = round_up(forward_floats(T, d), 16);
    float *room = cpu_scratch(k, threads * floats * sizeof *room);
    if (!room)
        return;
    float *O = host_f32(o), *L = host_f32(lse);
    size_t tasks = B * H * cut;
    size_t next = 0; /* tasks differ in length: first come, first served; the bits do not care */
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (size_t thread = 0; thread < threads; thread++) {
        for (;;) {
            size_t task;
#pragma omp atomic capture
            task = next++;
            if (task >= tasks)
                break;
            size_t bh = task / cut, b = bh / H, h = bh % H;
            struct head head = head_at(a, q, key, v, b, h);
            struct forward f = forward_room(room + thread * floats, &head);
            size_t ldv;
            pack(f.kt, head.key, head.ldk, T, d);
            const float *vh = whole_rows(f.v, head.v, head.ldv, &head, &ldv);
            for (size_t block = task % cut; block < blocks; block += cut)
                forward_block(&head, &f, vh, ldv, block * BQ, min(BQ, T - block * BQ),
                              O + b * T * a->ldo + h * d, L + bh * T);
        }
    }
}

/* ---- backward ---- */

struct backward {
    float *kt, *vt;       /* K and V packed */
    float *key;           /* K padded, if it must be */
    float *q, *dout, *dq; /* [BQ, wide]; q times scale */
    float *p, *ds;        /* [BQ, BACKWARD_KEYS] */
    float *dk, *dv;       /* [round_up(T, V), wide] */
    float lse[BQ], delta[BQ];
};

static size_t backward_floats(size_t T, size_t dim)
{
    size_t wide = round_up(dim, V);
    return 2 * round_up(T, NB) * dim + T * wide + 3 * BQ * wide + 2 * BQ * BACKWARD_KEYS +
           2 * round_up(T, V) * wide;
}

static struct backward backward_room(float *room, const struct head *h)
{
    struct backward w = {.kt = room};
    w.vt = w.kt + round_up(h->T, NB) * h->dim;
    w.key = w.vt + round_up(h->T, NB) * h->dim;
    w.q = w.key + h->T * h->wide;
    w.dout = w.q + BQ * h->wide;
    w.dq = w.dout + BQ * h->wide;
    w.p = w.dq + BQ * h->wide;
    w.ds = w.p + BQ * BACKWARD_KEYS;
    w.dk = w.ds + BQ * BACKWARD_KEYS;
    w.dv = w.dk + round_up(h->T, V) * h->wide;
    return w;
}

/* s -> p = exp(s - lse), dp -> ds = p (dp - delta); zero from valid to n. */
static void backward_row(float *s, float *dp, size_t valid, size_t n, float lse, float delta)
{
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(c < valid ? valid - c : 0);
        vf p = v_pick(m, v_exp(v_read(s + c) - lse), v_zero());
        v_write(s + c, p);
        v_write(dp + c, v_pick(m, p * (v_read(dp + c) - delta), v_zero()));
    }
}

/* Query rows [i0, i0 + rows) against the keys [j0, j0 + keys). */
static void backward_keys(const struct head *h, struct backward *w, const float *key, size_t ldk,
                          size_t i0, size_t rows, size_t j0)
{
    const size_t ld = BACKWARD_KEYS;
    size_t widest = 0; /* the columns of the longest row */
    for (size_t r0 = 0; r0 < rows; r0 += MR) {
        size_t end = min(i0 + r0 + MR, h->T);
        if (end <= j0)
            continue;
        size_t lim = min(end - j0, BACKWARD_KEYS), n = round_up(lim, V);
        float *p = w->p + r0 * ld, *ds = w->ds + r0 * ld;
        strip_packed(p, ld, w->q + r0 * h->wide, h->wide, w->kt + j0 * h->dim, n, h->dim);
        strip_packed(ds, ld, w->dout + r0 * h->wide, h->wide, w->vt + j0 * h->dim, n, h->dim);
        for (size_t r = 0; r < MR; r++) {
            size_t i = i0 + r0 + r;
            size_t valid = r0 + r < rows && i >= j0 ? min(i + 1 - j0, lim) : 0;
            backward_row(p + r * ld, ds + r * ld, valid, n, w->lse[r0 + r], w->delta[r0 + r]);
        }
        strip(w->dq + r0 * h->wide, h->wide, ds, ld, 1, key + j0 * ldk, ldk, h->wide, lim, true);
        widest = n;
    }
    for (size_t j = 0; j < widest; j += MR) {
        /* Rows above the tile's diagonal have no weight on these keys, and their tiles may not
         * have been computed. */
        size_t from = j0 + j > i0 ? (j0 + j - i0) / MR * MR : 0;
        if (from >= rows)
            break;
        size_t at = (j0 + j) * h->wide;
        strip(w->dv + at, h->wide, w->p + from * ld + j, 1, ld, w->dout + from * h->wide, h->wide,
              h->wide, rows - from, true);
        strip(w->dk + at, h->wide, w->ds + from * ld + j, 1, ld, w->q + from * h->wide, h->wide,
              h->wide, rows - from, true);
    }
}

static float dot(const float *a, const float *b, size_t n)
{
    vf s = v_zero();
    for (size_t c = 0; c < n; c += V) {
        v_mask m = v_first(n - c);
        s += v_load(m, a + c) * v_load(m, b + c);
    }
    return v_sum(s);
}

/* One query head: DQ written, its shares of dK and dV left in w->dk and w->dv. */
static void backward_head(const struct head *h, struct backward *w, const float *O, const float *DO,
                          const float *lse, float *DQ)
{
    size_t ldk, padded_T = round_up(h->T, V);
    pack(w->kt, h->key, h->ldk, h->T, h->dim);
    pack(w->vt, h->v, h->ldv, h->T, h->dim);
    const float *key = whole_rows(w->key, h->key, h->ldk, h, &ldk);
    memset(w->dk, 0, padded_T * h->wide * sizeof *w->dk);
    memset(w->dv, 0, padded_T * h->wide * sizeof *w->dv);
    for (size_t i0 = 0; i0 < h->T; i0 += BQ) {
        size_t rows = min(BQ, h->T - i0), padded = round_up(rows, MR);
        copy_padded(w->q, h->wide, padded, h->q + i0 * h->ldq, h->ldq, rows, h->dim, h->scale);
        copy_padded(w->dout, h->wide, padded, DO + i0 * h->ldo, h->ldo, rows, h->dim, 1.0F);
        memset(w->dq, 0, padded * h->wide * sizeof *w->dq);
        for (size_t r = 0; r < padded; r++) {
            size_t at = (i0 + r) * h->ldo;
            w->delta[r] = r < rows ? dot(DO + at, O + at, h->dim) : 0;
            w->lse[r] = r < rows ? lse[i0 + r] : 0;
        }
        for (size_t j0 = 0; j0 < i0 + rows; j0 += BACKWARD_KEYS)
            backward_keys(h, w, key, ldk, i0, rows, j0);
        for (size_t r = 0; r < rows; r++)
            for (size_t c = 0; c < h->dim; c += V) {
                v_mask m = v_first(h->dim - c);
                v_store(m, DQ + (i0 + r) * h->ldq + c, v_read(w->dq + r * h->wide + c) * h->scale);
            }
    }
}

/* dst [T, dim] = src [T, wide], or += */
static void put(float *dst, size_t ld, const float *src, const struct head *h, bool add)
{
    for (size_t r = 0; r < h->T; r++)
        for (size_t c = 0; c < h->dim; c += V) {
            v_mask m = v_first(h->dim - c);
            vf x = v_read(src + r * h->wide + c);
            float *to = dst + r * ld + c;
            if (add)
                x = v_load(m, to) + x;
            v_store(m, to, x);
        }
}

/* One side, K or V, of the sums over query heads. */
struct side {
    float *grad; /* dk or dv of the first sequence of the batch */
    size_t ld;
    const int *map; /* query head -> head */
    int heads;      /* heads of this side */
    float *shares;  /* [together, H, T, wide]; NULL: no head is shared */
};

static bool shared_head(const struct side *s, size_t H, size_t h)
{
    int users = 0;
    for (size_t i = 0; i < H; i++)
        users += s->map[i] == s->map[h];
    return users > 1;
}

static bool any_shared(const struct side *s, size_t H)
{
    for (size_t h = 0; h < H; h++)
        if (shared_head(s, H, h))
            return true;
    return false;
}

/* A finished query head's sum goes to its place in the tensor, or to the shares. */
static void hand_over(const struct side *s, const struct head *head, const float *sum, size_t H,
                      size_t b, size_t slot, size_t h)
{
    size_t T = head->T;
    if (shared_head(s, H, h))
        memcpy(s->shares + (slot * H + h) * T * head->wide, sum, T * head->wide * sizeof *sum);
    else
        put(s->grad + b * T * s->ld + (size_t)s->map[h] * head->dim, s->ld, sum, head, false);
}

/* Head x of sequence b: its query heads' shares in ascending order; a head nobody uses gets 0. */
static void gather(const struct side *s, const struct head *head, size_t H, size_t b, size_t slot,
                   int x)
{
    size_t T = head->T, users = 0;
    float *to = s->grad + b * T * s->ld + (size_t)x * head->dim;
    for (size_t h = 0; h < H; h++) {
        if (s->map[h] != x)
            continue;
        if (shared_head(s, H, h))
            put(to, s->ld, s->shares + (slot * H + h) * T * head->wide, head, users > 0);
        users++;
    }
    for (size_t r = 0; users == 0 && r < T; r++)
        memset(to + r * s->ld, 0, head->dim * sizeof *to);
}

void CPU(attn_bwd)(struct kern *k, struct kern_view dq, struct kern_view dk, struct kern_view dv,
                   struct kern_view dout, struct kern_view q, struct kern_view key,
                   struct kern_view v, struct kern_view o, struct kern_view lse,
                   const struct kern_attn *a)
{
    if (!kern_ok(k))
        return;
    size_t B = (size_t)a->batch, H = (size_t)a->heads, T = (size_t)a->seq, d = (size_t)a->dim;
    size_t threads = (size_t)cpu_threads(k), wide = round_up(d, V);
    size_t together = min((4 * threads + H - 1) / H, B);
    struct side sides[2] = {
        {host_f32(dk), a->ldk, a->maps->key_of, a->key_heads, NULL},
        {host_f32(dv), a->ldv, a->maps->value_of, a->value_heads, NULL},
    };
    size_t floats = round_up(backward_floats(T, d), 16), shares = together * H * T * wide;
    bool shared[2] = {any_shared(&sides[0], H), any_shared(&sides[1], H)};
    float *room = cpu_scratch(
        k, (threads * floats + ((size_t)shared[0] + (size_t)shared[1]) * shares) * sizeof *room);
    if (!room)
        return;
    sides[0].shares = room + threads * floats;
    sides[1].shares = sides[0].shares + (shared[0] ? shares : 0);

    for (size_t b0 = 0; b0 < B; b0 += together) {
        size_t n = min(together, B - b0), tasks = n * H, next = 0;
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
        for (size_t thread = 0; thread < threads; thread++) {
            for (;;) {
                size_t task;
#pragma omp atomic capture
                task = next++;
                if (task >= tasks)
                    break;
                size_t slot = task / H, b = b0 + slot, h = task % H, at = b * T * a->ldo + h * d;
                struct head head = head_at(a, q, key, v, b, h);
                struct backward w = backward_room(room + thread * floats, &head);
                backward_head(&head, &w, host_f32(o) + at, host_f32(dout) + at,
                              host_f32(lse) + (b * H + h) * T,
                              host_f32(dq) + b * T * a->ldq + h * d);
                hand_over(&sides[0], &head, w.dk, H, b, slot, h);
                hand_over(&sides[1], &head, w.dv, H, b, slot, h);
            }
        }
        struct head any = head_at(a, q, key, v, b0, 0);
        size_t both = (size_t)(a->key_heads + a->value_heads);
#pragma omp parallel for num_threads((int)threads) schedule(static)
        for (size_t i = 0; i < n * both; i++) {
            int x = (int)(i % both);
            if (x < a->key_heads)
                gather(&sides[0], &any, H, b0 + i / both, i / both, x);
            else
                gather(&sides[1], &any, H, b0 + i / both, i / both, x - a->key_heads);
        }
    }
}

/* ---- the matrix itself, for calibration ---- */

void CPU(attn_weights)(struct kern *k, struct kern_view p, struct kern_view q, struct kern_view key,
                       const struct kern_attn *a, int b, int h)
{
    if (!kern_ok(k))
        return;
    size_t T = (size_t)a->seq, blocks = (T + MR - 1) / MR, keys = round_up(T, NB);
    size_t threads = (size_t)cpu_threads(k);
    struct head head = head_at(a, q, key, (struct kern_view){NULL, 0}, (size_t)b, (size_t)h);
    size_t own = MR * (head.wide + keys); /* a thread's q and scores */
    float *kt = cpu_scratch(k, (keys * head.dim + threads * own) * sizeof *kt);
    if (!kt)
        return;
    pack(kt, head.key, head.ldk, T, head.dim);
    float *P = host_f32(p);
#pragma omp parallel for num_threads((int)threads) schedule(static, 1)
    for (size_t thread = 0; thread < threads; thread++) {
        float *qs = kt + keys * head.dim + thread * own, *s = qs + MR * head.wide;
        for (size_t block = thread; block < blocks; block += threads) {
            size_t i0 = block * MR, rows = min(MR, T - i0);
            copy_padded(qs, head.wide, MR, head.q + i0 * head.ldq, head.ldq, rows, head.dim,
                        head.scale);
            strip_packed(s, keys, qs, head.wide, kt, round_up(i0 + rows, V), head.dim);
            for (size_t r = 0; r < rows; r++) {
                float *row = s + r * keys, max = -INFINITY, sum = 0, nothing[V];
                size_t valid = i0 + r + 1;
                softmax_row(row, valid, round_up(valid, V), &max, &sum, nothing, 0);
                float inv = 1.0F / sum, *to = P + (i0 + r) * T;
                for (size_t j = 0; j < T; j++)
                    to[j] = j < valid ? row[j] * inv : 0.0F;
            }
        }
    }
}
