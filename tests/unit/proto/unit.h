/* unit.h: what every test of proto includes. */
#ifndef DHA_TESTS_PROTO_UNIT_H
#define DHA_TESTS_PROTO_UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "proto/spec.h"

static inline cJSON *parse(const char *text)
{
    struct dha_err e = {0};
    cJSON *j = json_parse(text, strlen(text), NULL, &e);
    if (!j)
        fail_msg("%s: %s", text, e.msg);
    return j;
}

/* Spec from text with single quotes for double ones, which C would have to escape. */
static inline cJSON *parse_quoted(const char *text)
{
    char *copy = strdup(text);
    assert_non_null(copy);
    for (char *p = copy; *p; p++)
        if (*p == '\'')
            *p = '"';
    cJSON *j = parse(copy);
    free(copy);
    return j;
}

#endif
