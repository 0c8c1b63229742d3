/* budget.h: moved to proto/, where the controller sees it too. */
#ifndef DHA_WORKER_BUDGET_H
#define DHA_WORKER_BUDGET_H

#include "proto/budget.h"

#endif
