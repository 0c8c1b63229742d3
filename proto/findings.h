/* findings.h: a report of fsck (daemon/fsck.h: fsck_doc(), also in API.md) as text for people: one way for dha and dhad. */
#ifndef DHA_PROTO_FINDINGS_H
#define DHA_PROTO_FINDINGS_H

#include <stdio.h>

#include "proto/json.h"

/* The findings, each with what a repair does about it ("will", or "--repair would"), and a line of totals. Returns how
 * many findings there are. */
int findings_print(FILE *out, const cJSON *report, bool repair);

#endif
