/* capture.h: what a renderer writes, as a string. */
#ifndef DHA_TEST_CLI_CAPTURE_H
#define DHA_TEST_CLI_CAPTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/fmt.h"

struct capture {
    FILE *out;
    char *text;
    size_t len;
};

static inline void capture_begin(struct capture *c)
{
    c->text = NULL;
    c->out = open_memstream(&c->text, &c->len);
    assert_non_null(c->out);
}

static inline void capture_is(struct capture *c, const char *want)
{
    fclose(c->out);
    assert_string_equal(c->text, want);
    free(c->text);
}

static inline void capture_has(struct capture *c, const char *part)
{
    fflush(c->out);
    if (!strstr(c->text, part)) {
        fail_msg("'%s' is not in:\n%s", part, c->text);
    }
}

static inline void capture_has_not(struct capture *c, const char *part)
{
    fflush(c->out);
    if (strstr(c->text, part)) {
        fail_msg("'%s' is in:\n%s", part, c->text);
    }
}

static inline void capture_end(struct capture *c)
{
    fclose(c->out);
    free(c->text);
}

static const struct fmt ascii = {.width = 80};
static const struct fmt utf8 = {.width = 80, .utf8 = true};
static const struct fmt colour = {.width = 80, .colour = true};

#endif
