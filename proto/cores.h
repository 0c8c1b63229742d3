/* cores.h: lists of cores as the kernel writes them, "0-3,8", and their division among slots. Pure. */
#ifndef DHA_PROTO_CORES_H
#define DHA_PROTO_CORES_H

#include <stddef.h>

enum { CORES_MAX = 4096, CORES_TEXT = 128 };

/* Cores 0..CORES_MAX-1 in ascending order, each once: how many, or -1 if the text is no such list. */
int cores_read(const char *text, int *out, size_t cap);
/* "0-3,8". -1 if it does not fit. */
int cores_write(const int *cores, size_t n, char *out, size_t size);
/* Slot i of n_slots gets its share of the cores: neighbours, equal to within one. "" where there are fewer cores than
 * slots (nobody is pinned then), or the share cannot be written down. */
void cores_of_slot(const int *cores, size_t n, size_t i, size_t n_slots, char out[CORES_TEXT]);

#endif
