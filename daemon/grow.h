/* grow.h: arrays that grow by one. */
#ifndef DHA_DAEMON_GROW_H
#define DHA_DAEMON_GROW_H

#include <stdlib.h>
#include <string.h>

/* One more element of `size` bytes, zeroed, or NULL (no memory). p_to_array: the address of a pointer to any type, NULL at
 * first; it holds room for the next power of two of *n, so elements may be taken off its end in between, but not
 * added by anybody else. */
static inline void *grow(void *p_to_array, size_t *n, size_t size)
{
    char *at;
    memcpy(&at, p_to_array, sizeof at);
    if ((*n & (*n - 1)) == 0) { /* full at 0, 1, 2, 4, 8 ... */
        at = realloc(at, (*n ? 2 * *n : 1) * size);
        if (!at) {
            return NULL;
        }
        memcpy(p_to_array, &at, sizeof at);
    }
    return memset(at + (*n)++ * size, 0, size);
}

#endif
