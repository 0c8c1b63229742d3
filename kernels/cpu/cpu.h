#ifndef DHA_KERNELS_CPU_H
#define DHA_KERNELS_CPU_H

#include "../kern.h"

extern const struct kern_ops cpu_ops;

#endif
