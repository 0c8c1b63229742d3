/* permute.h: the heads of a layer in another order: q, k and v rows and o columns together, which changes nothing
 * (METHODS 2.2). So that groups found by similarity become contiguous and the result is plain GQA.
 */
#ifndef DHA_WORKER_METHOD_PERMUTE_H
#define DHA_WORKER_METHOD_PERMUTE_H

#include "worker/method/method.h"

/* order[i] = the head that comes to place i: the groups by their numbers, in each its heads ascending. */
void permute_order(int heads, const int *group_of, int *order);

/* A model with the function of `from` (MHA) whose groups are contiguous. group_of [2*layers*heads], keys and values of a layer
 * alike, becomes that of the new order. */
int permute_heads(struct model *from, int *group_of, struct model **out, struct dha_err *e);

#endif
