#include "worker/train/recovery.h"

#include "worker/data/corpus.h"

_Static_assert((int)RUN_CLASSES == (int)CORPUS_CLASSES, "a weight for each class of row");

static bool lm_is_over(int c)
{
    return c != CORPUS_PROMPT;
}

static bool kl_is_over(const struct recovery *w, int c)
{
    return c != CORPUS_ANSWER || !(w->bild > 0);
}

/* Sums over the classes that LM (and BiLD), or KL, is over. */
static double over_lm(const double x[RUN_CLASSES])
{
    double sum = 0;
    for (int c = 0; c < RUN_CLASSES; c++)
        sum += lm_is_over(c) ? x[c] : 0;
    return sum;
}

static double over_kl(const struct recovery *w, const double x[RUN_CLASSES])
{
    double sum = 0;
    for (int c = 0; c < RUN_CLASSES; c++)
        sum += kl_is_over(w, c) ? x[c] : 0;
    return sum;
}

static double part(double x, double rows)
{
    return rows > 0 ? x / rows : 0;
}

void recovery_weigh(const struct recovery *w, const double rows[RUN_CLASSES],
                    struct run_objective *out)
{
    double n_lm = over_lm(rows), n_kl = over_kl(w, rows);
    for (int c = 0; c < RUN_CLASSES; c++) {
        out->lm[c] = lm_is_over(c) ? part(w->lm, n_lm) : 0;
        out->bild[c] = lm_is_over(c) ? part(w->bild, n_lm) : 0;
        out->kl[c] = kl_is_over(w, c) ? part(w->kl, n_kl) : 0;
    }
}

struct recovery_loss recovery_mean(const struct recovery *w, const double rows[RUN_CLASSES],
                                   const struct run_sums *sums)
{
    double n_lm = over_lm(rows), n_kl = over_kl(w, rows);
    struct recovery_loss m = {.lm = part(over_lm(sums->lm), n_lm),
                              .kl = part(over_kl(w, sums->kl), n_kl),
                              .bild = part(over_lm(sums->bild), n_lm)};
    m.all = w->lm * m.lm + w->kl * m.kl + w->bild * m.bild;
    return m;
}
