/* gpus.c: see gpus.h. The few functions of the CUDA driver's interface that it takes, declared here: cuda.h need not be
 * installed (docs: CUDA Driver API, "Device Management"; the ABI of these has not changed since CUDA 4). */
#include "worker/gpus.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

#include "proto/text.h"

enum { CUDA_OK = 0 };

struct cu_uuid {
    unsigned char bytes[16];
};

struct driver {
    int (*init)(unsigned flags);
    int (*count)(int *n);
    int (*get)(int *device, int i);
    int (*name)(char *name, int len, int device);
    int (*uuid)(struct cu_uuid *uuid, int device);
    int (*memory)(size_t *bytes, int device);
};

/* POSIX has dlsym return an object pointer; ISO C has no cast from that to a function's. */
static bool symbol(void *lib, const char *name, void *function)
{
    void *at = dlsym(lib, name);
    memcpy(function, &at, sizeof at);
    return at != NULL;
}

static bool load(void *lib, struct driver *d)
{
    return symbol(lib, "cuInit", &d->init) && symbol(lib, "cuDeviceGetCount", &d->count) &&
           symbol(lib, "cuDeviceGet", &d->get) && symbol(lib, "cuDeviceGetName", &d->name) &&
           /* _v2 tells instances of one GPU apart (MIG) */
           (symbol(lib, "cuDeviceGetUuid_v2", &d->uuid) ||
            symbol(lib, "cuDeviceGetUuid", &d->uuid)) &&
           symbol(lib, "cuDeviceTotalMem_v2", &d->memory);
}

/* As nvidia-smi writes it, and CUDA_VISIBLE_DEVICES reads it. */
static void write_uuid(const struct cu_uuid *u, char *out, size_t size)
{
    size_t n = (size_t)snprintf(out, size, "GPU");
    for (int i = 0; i < 16 && n < size; i++) {
        bool dash = i == 0 || i == 4 || i == 6 || i == 8 || i == 10;
        n += (size_t)snprintf(out + n, size - n, "%s%02x", dash ? "-" : "", u->bytes[i]);
    }
}

static void ask(const struct driver *d, struct probe *p, char *why, size_t size)
{
    int n = 0, rc = d->init(0);
    if (rc != CUDA_OK || (rc = d->count(&n)) != CUDA_OK) {
        snprintf(why, size, "the CUDA driver answers with error %d", rc);
        return;
    }
    for (int i = 0; i < n && p->n_gpus < PROBE_GPUS; i++) {
        struct cu_uuid uuid;
        char name[256] = "";
        size_t bytes = 0;
        int device;
        if (d->get(&device, i) != CUDA_OK || d->uuid(&uuid, device) != CUDA_OK ||
            d->name(name, sizeof name - 1, device) != CUDA_OK ||
            d->memory(&bytes, device) != CUDA_OK) {
            snprintf(why, size, "GPU %d does not answer", i);
            continue;
        }
        write_uuid(&uuid, p->gpu[p->n_gpus].uuid, sizeof p->gpu[0].uuid);
        text_copy(p->gpu[p->n_gpus].name, sizeof p->gpu[0].name, name);
        p->gpu[p->n_gpus++].memory = (int64_t)bytes;
    }
}

void gpus_find(struct probe *p, char *why, size_t size)
{
    struct driver d;
    why[0] = '\0';
    void *lib = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!lib) {
        snprintf(why, size, "there is no CUDA driver (libcuda.so.1)");
        return;
    }
    if (load(lib, &d)) {
        ask(&d, p, why, size);
    } else {
        snprintf(why, size, "the CUDA driver is too old");
    }
    /* It stays loaded: the driver does not like to be unloaded, and we end soon. */
}
