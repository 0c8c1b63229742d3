/* card.h: what a converted checkpoint says of itself, beside its weights:
 *   README.md            for people: how it was made, what it scores, heads and cache, how to load it
 *   dha_conversion.json  the same facts for programs, so that exporting the directory once more keeps them
 *
 * dha_conversion.json:
 *   {"format": "dha-conversion-1", "version", "method", "budget", "tokens": {"search", "fuse", "train"}, "batch_tokens", "seed",
 *    "recovery": {"lm", "kl", "bild"}, "data": {"format", "seq_len", "domains": [NAME, ...]},
 *    "lr", "parent": {"name", "key_heads": [a layer], "value_heads": [...]},
 *    "scores": {"windows", "seq_len", "tokens", "parent": LOSS, "converted": LOSS, "final": LOSS,
 *               "domains": {"parent": {NAME: LOSS}, ...}, "tasks": as in eval.json}}
 * What is not known is left out, in both.
 */
#ifndef DHA_WORKER_CARD_H
#define DHA_WORKER_CARD_H

#include "proto/json.h"
#include "worker/model/config.h"

#define CARD_FACTS "dha_conversion.json"

/* The facts that lie beside a checkpoint, or *facts = NULL where there are none. */
int card_read(const char *dir, cJSON **facts, struct dha_err *e);
/* Writes both files (only README.md where facts are NULL: an export of a model that dha did not convert). cfg, dtype: of the
 * checkpoint there; plain: it is a stock LLaMA to transformers. */
int card_write(const char *dir, const struct model_config *cfg, bool plain, const char *dtype,
               const cJSON *facts, struct dha_err *e);

#endif
