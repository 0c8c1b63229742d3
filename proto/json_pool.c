/* json_pool.c: see json.h. Lists of freed blocks by their size, as malloc itself keeps them, but for hundreds of each instead
 * of seven: a document is some hundred nodes and names of a few sizes, that come and go together. All blocks are malloc's:
 * what one thread took another may give back, and what is printed may be given to free(). */
#include <malloc.h>
#include <stdlib.h>

#include "proto/json.h"

/* A sanitizer is to see each block come and go. */
#ifdef __SANITIZE_ADDRESS__
enum { SANITIZED = 1 };
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
enum { SANITIZED = 1 };
#else
enum { SANITIZED = 0 };
#endif
#else
enum { SANITIZED = 0 };
#endif

enum { STEP = 16, SIZES = 6, KEPT_MAX = 2048 }; /* up to 88 bytes: 64 is a node */

struct freed {
    struct freed *next;
};

static bool hooked;
static _Thread_local bool here; /* only threads that asked for it */
static _Thread_local struct {
    struct freed *first;
    size_t n;
} kept[SIZES];

/* Which list has blocks of at least n bytes; malloc's sizes are 24, 40, 56 ... */
static size_t list_of(size_t n)
{
    return n <= 24 ? 0 : (n - 24 + STEP - 1) / STEP;
}

static void *take(size_t n)
{
    size_t i = list_of(n);
    if (!here || i >= SIZES)
        return malloc(n);
    struct freed *f = kept[i].first;
    if (!f)
        return malloc(24 + i * STEP);
    kept[i].first = f->next;
    kept[i].n--;
    return f;
}

static void give(void *p)
{
    size_t size = here && p ? malloc_usable_size(p) : 0;
    size_t i = size >= 24 ? (size - 24) / STEP : SIZES;
    if (i >= SIZES || kept[i].n >= KEPT_MAX) {
        free(p);
        return;
    }
    struct freed *f = p;
    f->next = kept[i].first;
    kept[i].first = f;
    kept[i].n++;
}

void json_pool_start(void)
{
    cJSON_Hooks hooks = {take, give};
    if (!SANITIZED) {
        here = hooked = true;
        cJSON_InitHooks(&hooks);
    }
}

void json_pool_join(void)
{
    here = hooked;
}

void json_pool_leave(void)
{
    here = false;
    for (size_t i = 0; i < SIZES; i++) {
        for (struct freed *f; (f = kept[i].first);) {
            kept[i].first = f->next;
            free(f);
        }
        kept[i].n = 0;
    }
}
