/* headmap.h: which query heads share a key or value head, drawn: one letter a query head, equal letters share.
 *
 *   layer 0  K  a a b b a a c b   3
 *            V  a b b b a a a b   2
 */
#ifndef DHA_CLI_HEADMAP_H
#define DHA_CLI_HEADMAP_H

#include "cli/fmt.h"
#include "proto/json.h"

/* Letters are given in order of first use, so that equal groupings look equal however heads are numbered.
 * map: n entries. Returns the number of distinct heads. */
int headmap_row(FILE *out, const struct fmt *f, const int *map, int n);
/* All layers from a job's result (key_of, value_of). Prints nothing and returns -1 where there is no such map. */
int headmap_print(FILE *out, const struct fmt *f, const cJSON *result, const char *indent);

#endif
