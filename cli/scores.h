/* scores.h: the part of a result that is not one number: losses of a mixture's domains and scores on tasks. */
#ifndef DHA_CLI_SCORES_H
#define DHA_CLI_SCORES_H

#include <stdio.h>
#include "proto/json.h"

/* Nothing where the result has neither. */
void scores_show(FILE *out, const cJSON *result);

#endif
