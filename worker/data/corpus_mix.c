/* corpus_mix.c: corpora with weights. */
#include <stdlib.h>
#include <string.h>

#include "worker/data/corpus_impl.h"

int corpus_mix(struct corpus **out, const struct corpus_domain *d, int n, struct dha_err *e)
{
    struct corpus *c = calloc(1, sizeof *c);
    double sum = 0, so_far = 0;
    *out = NULL;
    if (c)
        c->domains = calloc((size_t)(n > 0 ? n : 1), sizeof *c->domains);
    if (!c || !c->domains) {
        for (int i = 0; i < n; i++)
            corpus_close(d[i].corpus);
        free(c);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory for a mixture");
    }
    bool named = true;
    c->n_domains = n;
    for (int i = 0; i < n; i++) {
        c->domains[i] = (struct corpus_domain){strdup(d[i].name), d[i].weight, d[i].corpus};
        named = named && c->domains[i].name;
        sum += d[i].weight;
    }
    if (!named || n < 1 || !(sum > 0)) {
        corpus_close(c);
        return named ? dha_fail(e, DHA_E_INTERNAL, "a mixture of nothing")
                     : dha_fail(e, DHA_E_NO_MEMORY, "no memory for a mixture");
    }
    for (int i = 0; i < n; i++) {
        so_far += c->domains[i].weight;
        c->domains[i].weight = i + 1 < n ? so_far / sum : 1.0;
    }
    *out = c;
    return 0;
}

int corpus_domains(const struct corpus *c)
{
    return c->n_domains;
}

struct corpus_domain corpus_domain_at(const struct corpus *c, int i)
{
    struct corpus_domain d = c->domains[i];
    if (i > 0)
        d.weight -= c->domains[i - 1].weight;
    return d;
}

const struct corpus *corpus_pick(const struct corpus *c, int64_t seed, enum corpus_stream stream,
                                 int64_t step, int64_t index)
{
    /* draws of places use n = 0; 53 bits are what a double holds */
    uint64_t bits = corpus_random(seed, (uint64_t)stream, step, index, 1);
    double u = (double)(bits >> 11) * 0x1p-53;
    for (int i = 0; i < c->n_domains; i++)
        if (u < c->domains[i].weight)
            return c->domains[i].corpus;
    return c->domains[c->n_domains - 1].corpus; /* u < 1 = the last weight: not reached */
}
