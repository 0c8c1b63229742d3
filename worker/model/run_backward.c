/* run_backward.c: the gradient of everything below the output layer, layer by layer from the top.
 *
 * dx is the gradient of the residual stream. A norm's backward adds to it (dx +=), which is the residual
 * connection: nothing is copied. Norm outputs and swiglu's output are computed again from what
 * forward kept; gate|up is overwritten by its gradient, so a forward pass serves one backward pass.
 * Weight gradients go straight into the gradient arena with beta = 1.
 */
#include "worker/model/run_impl.h"

static struct kern_view grad_of(const struct run *r, struct kern_buf *grads, int l,
                                enum layer_param p)
{
    return kern_at(grads, model_param(r->m, l, p)->off - r->grad_base);
}

static void mlp_backward(struct run *r, int l, struct kern_buf *grads)
{
    const struct kern_ops *ops = r->k->ops;
    size_t rows = r->rows, hidden = r->hidden, ffn = r->ffn;
    struct kern_view dx = kern_at(r->dx, 0), dh = kern_at(r->dh, 0), dact = kern_at(r->back, 0);
    struct kern_view h2 = kern_at(r->h2, 0), act = kern_at(r->act, 0);
    struct kern_view gu = run_slot(r, r->gu, l, rows * 2 * ffn);

    ops->swiglu_fwd(r->k, act, gu, rows, ffn);
    run_linear_dw(r, grad_of(r, grads, l, P_DOWN), dx, hidden, act, ffn, rows, hidden, ffn);
    run_linear_dx(r, dact, ffn, dx, hidden, run_weight(r, l, P_DOWN), rows, hidden, ffn, 0.0f);
    ops->swiglu_bwd(r->k, gu, dact, gu, rows, ffn); /* gu is its own gradient from here */
    ops->rmsnorm_fwd(r->k, h2, run_rstd(r, l, 1), run_x(r, l, 1), run_weight(r, l, P_MLP_NORM),
                     rows, hidden, r->m->cfg.rms_eps);
    run_linear_dw(r, grad_of(r, grads, l, P_GATE), gu, 2 * ffn, h2, hidden, rows, 2 * ffn, hidden);
    run_linear_dx(r, dh, hidden, gu, 2 * ffn, run_weight(r, l, P_GATE), rows, 2 * ffn, hidden,
                  0.0f);
    ops->rmsnorm_bwd(r->k, dx, grad_of(r, grads, l, P_MLP_NORM), dh, run_x(r, l, 1),
                     run_weight(r, l, P_MLP_NORM), run_rstd(r, l, 1), rows, hidden);
}

/* dq|dk|dv -> dh and the projections' gradients. */
static void qkv_backward(struct run *r, int l, const struct layer_shape *s, struct kern_view dqkv,
                         struct kern_buf *grads)
{
    const struct kern_ops *ops = r->k->ops;
    const struct model_oper *o = r->m->oper;
    struct kern_view dh = kern_at(r->dh, 0), h1 = kern_at(r->h1, 0);
    size_t rows = r->rows, hidden = r->hidden, width = r->width;
    bool bias = r->m->cfg.attn_bias;
    if (!o) {
        run_linear_dw(r, grad_of(r, grads, l, P_Q), dqkv, s->qkv, h1, hidden, rows, s->qkv, hidden);
        run_linear_dx(r, dh, hidden, dqkv, s->qkv, run_weight(r, l, P_Q), rows, s->qkv, hidden,
                      0.0f);
        if (bias)
            ops->bias_grad(r->k, grad_of(r, grads, l, P_Q_BIAS), dqkv, s->qkv, rows, s->qkv);
        return;
    }
    struct kern_view dkv = kern_plus(dqkv, width);
    size_t at = 2 * (size_t)l * width;
    run_linear_dw(r, grad_of(r, grads, l, P_Q), dqkv, s->qkv, h1, hidden, rows, width, hidden);
    run_linear_dw(r, kern_at(o->deff, at * hidden), dkv, s->qkv, h1, hidden, rows, 2 * width,
                  hidden);
    run_linear_dx(r, dh, hidden, dqkv, s->qkv, run_weight(r, l, P_Q), rows, width, hidden, 0.0f);
    run_linear_dx(r, dh, hidden, dkv, s->qkv, kern_at(o->eff, at * hidden), rows, 2 * width, hidden,
                  1.0f);
    if (bias) {
        ops->bias_grad(r->k, grad_of(r, grads, l, P_Q_BIAS), dqkv, s->qkv, rows, width);
        ops->bias_grad(r->k, kern_at(o->deff_bias, at), dkv, s->qkv, rows, 2 * width);
    }
}

static void attention_backward(struct run *r, int l, struct kern_buf *grads)
{
    const struct kern_ops *ops = r->k->ops;
    struct layer_shape s = run_shape(r, l);
    size_t rows = r->rows, hidden = r->hidden, width = r->width, dim = (size_t)s.attn.dim;
    struct kern_view dx = kern_at(r->dx, 0), dh = kern_at(r->dh, 0);
    struct kern_view datt = kern_at(r->back, 0), dq = kern_plus(datt, rows * width);
    struct kern_view dk = kern_plus(dq, width), dv = kern_plus(dk, s.keys * dim);
    struct kern_view q = run_qkv_of(r, l), key = kern_plus(q, width);
    struct kern_view value = kern_plus(key, s.keys * dim);
    struct kern_view att = run_slot(r, r->att, l, rows * width);

    if (r->m->cfg.attn_bias)
        ops->bias_grad(r->k, grad_of(r, grads, l, P_O_BIAS), dx, hidden, rows, hidden);
    run_linear_dw(r, grad_of(r, grads, l, P_O), dx, hidden, att, width, rows, hidden, width);
    run_linear_dx(r, datt, width, dx, hidden, run_weight(r, l, P_O), rows, hidden, width, 0.0f);
    ops->attn_bwd(r->k, dq, dk, dv, datt, q, key, value, att,
                  run_slot(r, r->lse, l, rows * (size_t)s.attn.heads), &s.attn);
    ops->rope(r->k, dq, s.qkv, kern_at(r->m->rope, 0), rows, r->seq,
              s.attn.heads + s.attn.key_heads, s.attn.dim, true);
    ops->rmsnorm_fwd(r->k, kern_at(r->h1, 0), run_rstd(r, l, 0), run_x(r, l, 0),
                     run_weight(r, l, P_ATTN_NORM), rows, hidden, r->m->cfg.rms_eps);
    qkv_backward(r, l, &s, dq, grads);
    ops->rmsnorm_bwd(r->k, dx, grad_of(r, grads, l, P_ATTN_NORM), dh, run_x(r, l, 0),
                     run_weight(r, l, P_ATTN_NORM), run_rstd(r, l, 0), rows, hidden);
}

void run_backward(struct run *r, struct kern_buf *grads)
{
    const struct kern_ops *ops = r->k->ops;
    const struct param *norm = &r->m->table[r->m->norm];
    int layers = r->m->cfg.layers;
    struct kern_view dx = kern_at(r->dx, 0);
    /* run_loss() left the gradient of the final norm's output in dh */
    ops->zero(r->k, dx, r->rows * r->hidden);
    ops->rmsnorm_bwd(r->k, dx, kern_at(grads, norm->off), kern_at(r->dh, 0), run_x(r, layers, 0),
                     model_view(r->m, norm), run_rstd(r, layers, 0), r->rows, r->hidden);
    for (int l = layers - 1; l >= 0; l--) {
        mlp_backward(r, l, grads);
        attention_backward(r, l, grads);
    }
    ops->embed_bwd(r->k, kern_at(grads, r->m->table[r->m->embed].off), dx, kern_at(r->ids, 0),
                   r->rows, r->hidden);
}

/* ---- one attention block alone ------------------------------------------------------------------ */

void run_attention_span(const struct model *m, int layer, size_t *from, size_t *projections,
                        size_t *to)
{
    const struct param *norm = model_param(m, layer, P_ATTN_NORM);
    *from = norm->off;
    *projections = norm->off + norm->n;
    *to = model_param(m, layer, P_MLP_NORM)->off; /* model.h: order in the arena */
}

struct kern_view run_attention_dout(struct run *r)
{
    return kern_at(r->dx, 0);
}

void run_attention_output(struct run *r, struct kern_view dst)
{
    run_linear(r, dst, r->hidden, run_attn_out(r), r->width, run_weight(r, r->last, P_O), r->rows,
               r->hidden, r->width, 0.0f);
    if (r->m->cfg.attn_bias)
        r->k->ops->bias_add(r->k, dst, r->hidden, run_weight(r, r->last, P_O_BIAS), r->rows,
                            r->hidden);
}

void run_attention_backward(struct run *r, int layer, struct kern_buf *grads)
{
    size_t from, projections, to;
    run_attention_span(r->m, layer, &from, &projections, &to);
    r->grad_base = from;
    attention_backward(r, layer, grads);
    r->grad_base = 0;
}
