/* kern.c: opening, forking and closing of queues. What a backend does is behind its table.
 *
 * A fork is an open() that finds the parent's impl in k->impl; a fresh open() finds NULL there.
 */
#include "kern.h"
#include "cpu/cpu.h"
#include "reference/reference.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct kern_ops *const backends[] = {&reference_ops, &cpu_ops_generic, NULL};

const struct kern_ops *const *kern_backends(void)
{
    return backends;
}

static void tell(struct kern_err *err, struct kern_err what)
{
    if (err)
        *err = what;
}

static const struct kern_ops *find(const char *name)
{
    for (int i = 0; backends[i]; i++)
        if (strcmp(backends[i]->name, name) == 0)
            return backends[i];
    return NULL;
}

static struct kern_err unknown_backend(const char *name)
{
    struct kern_err e = {.code = KERN_E_UNSUPPORTED};
    int used = snprintf(e.msg, sizeof e.msg,
                        "no compute backend '%.64s' in this build; there is:", name);
    for (int i = 0; backends[i] && used > 0 && (size_t)used < sizeof e.msg; i++)
        used += snprintf(e.msg + used, sizeof e.msg - (size_t)used, " %s", backends[i]->name);
    return e;
}

struct kern *kern_open(const char *name, int threads, struct kern_err *err)
{
    const struct kern_ops *ops = find(name);
    if (!ops) {
        tell(err, unknown_backend(name));
        return NULL;
    }
    struct kern *k = calloc(1, sizeof *k);
    if (!k) {
        tell(err, (struct kern_err){KERN_E_NOMEM, "cannot allocate a compute queue"});
        return NULL;
    }
    k->ops = ops;
    if (ops->open(k, threads) != 0) {
        tell(err, k->err);
        free(k);
        return NULL;
    }
    tell(err, (struct kern_err){0});
    return k;
}

struct kern *kern_fork(struct kern *k)
{
    struct kern *child = calloc(1, sizeof *child);
    if (!child) {
        k->err = (struct kern_err){KERN_E_NOMEM, "cannot allocate a compute queue"};
        return NULL;
    }
    child->ops = k->ops;
    child->impl = k->impl;
    if (k->ops->open(child, 0) != 0) {
        if (kern_ok(k))
            k->err = child->err;
        free(child);
        return NULL;
    }
    return child;
}

void kern_close(struct kern *k)
{
    if (!k)
        return;
    k->ops->close(k);
    free(k);
}

int kern_sync(struct kern *k, struct kern_err *err)
{
    k->ops->sync(k);
    tell(err, k->err);
    return kern_ok(k) ? 0 : -1;
}
