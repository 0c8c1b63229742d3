/* gpus.h: which GPUs this host has, by the driver's own library, opened at run time: a host without one has none. NVML is
 * not needed. Respects CUDA_VISIBLE_DEVICES, as the driver does. */
#ifndef DHA_WORKER_GPUS_H
#define DHA_WORKER_GPUS_H

#include "proto/probe.h"

/* Adds them to p; *why: in a few words why there are none ("" if there are some). */
void gpus_find(struct probe *p, char *why, size_t size);

#endif
