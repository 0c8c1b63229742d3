/* The CUDA driver of a host with two GPUs, as far as `dha-worker probe` asks it. */
#include <stdio.h>
#include <string.h>

int cuInit(unsigned flags);
int cuDeviceGetCount(int *n);
int cuDeviceGet(int *device, int i);
int cuDeviceGetName(char *name, int len, int device);
int cuDeviceGetUuid(unsigned char *uuid, int device);
int cuDeviceTotalMem_v2(size_t *bytes, int device);

static int ready;

int cuInit(unsigned flags)
{
    ready = flags == 0;
    return !ready;
}

int cuDeviceGetCount(int *n)
{
    *n = 2;
    return ready ? 0 : 3;
}

int cuDeviceGet(int *device, int i)
{
    *device = 10 + i;
    return 0;
}

int cuDeviceGetName(char *name, int len, int device)
{
    snprintf(name, (size_t)len, "Fake GPU %d", device);
    return 0;
}

int cuDeviceGetUuid(unsigned char *uuid, int device)
{
    for (int i = 0; i < 16; i++)
        uuid[i] = (unsigned char)(16 * i + device);
    return 0;
}

int cuDeviceTotalMem_v2(size_t *bytes, int device)
{
    *bytes = (size_t)device << 30;
    return 0;
}
