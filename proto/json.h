/* json.h: cJSON, made strict.
 *
 * json_parse() is the only way in for bytes that we did not write ourselves. It refuses what cJSON
 * lets through: trailing bytes, duplicate keys, embedded NUL (raw or \u0000), bad UTF-8, depth over
 * the limit, size over the limit, numbers that are not finite or not JSON. Look-ups are
 * case-sensitive. Trees are cJSON's own and are freed with cJSON_Delete().
 */
#ifndef DHA_PROTO_JSON_H
#define DHA_PROTO_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cjson/cJSON.h>

#include "proto/err.h"

struct json_limits {
    size_t max_bytes; /* 0 = 1 MiB */
    int max_depth;    /* 0 = 64 */
};

/* Whole input consumed or error DHA_E_PROTOCOL with the byte offset in msg. lim may be NULL. */
cJSON *json_parse(const char *buf, size_t len, const struct json_limits *lim, struct dha_err *e);
/* Whether json_parse() would take it, whatever its size and members that are given twice; nothing is built. 0 / -1. */
int json_check(const char *buf, size_t len, struct dha_err *e);
/* Reads a file of at most max_bytes (0 = 64 MiB) and parses it. The error names the file. */
cJSON *json_parse_file(const char *path, size_t max_bytes, struct dha_err *e);
/* Unformatted / formatted text; free() the result; NULL when out of memory. */
char *json_text(const cJSON *j);
/* Without the members of these names, wherever they stand (NULL-terminated). *whole: the text with them, unless NULL. */
char *json_text_less(const cJSON *j, const char *const *less, char **whole);
char *json_text_pretty(const cJSON *j);
/* Writes pretty text + newline atomically: temp file in the same directory, fsync, rename, fsync of
 * the directory. */
int json_write_file(const char *path, const cJSON *j, struct dha_err *e);

/* Case-sensitive member or NULL. */
const cJSON *json_get(const cJSON *obj, const char *key);
/* Dotted path "a.b.2.c" or NULL. */
const cJSON *json_at(const cJSON *obj, const char *path);
/* Typed members; return `dflt` when absent or of another type. */
const char *json_str(const cJSON *obj, const char *key, const char *dflt);
double json_num(const cJSON *obj, const char *key, double dflt);
bool json_bool(const cJSON *obj, const char *key, bool dflt);
/* Integers: number with an integral value in +-2^53, or a decimal string ("64-bit ids are strings"). */
int64_t json_int(const cJSON *obj, const char *key, int64_t dflt);
bool json_to_int(const cJSON *v, int64_t *out);
/* Required typed members: -1 and DHA_E_PROTOCOL naming the key if missing or of the wrong type. */
int json_need_str(const cJSON *obj, const char *key, const char **out, struct dha_err *e);
int json_need_num(const cJSON *obj, const char *key, double *out, struct dha_err *e);
int json_need_int(const cJSON *obj, const char *key, int64_t *out, struct dha_err *e);

/* Builders that cannot lose a failure silently: each returns NULL/-1 when out of memory. */
int json_put_str(cJSON *obj, const char *key, const char *v);
int json_put_num(cJSON *obj, const char *key, double v); /* non-finite -> null */
int json_put_int(cJSON *obj, const char *key, int64_t v);
int json_put_id(cJSON *obj, const char *key, int64_t v); /* as a decimal string */
int json_put_bool(cJSON *obj, const char *key, bool v);
int json_put(cJSON *obj, const char *key, cJSON *v); /* takes v; NULL v = -1 */

/* From here on this thread keeps blocks of trees that are freed for the next trees; what other threads do is as before. For a
 * program that makes and drops trees all the time; call it before there are threads. */
void json_pool_start(void);
/* The same for another thread of such a program. */
void json_pool_join(void);
/* Before a thread that joined ends. */
void json_pool_leave(void);

#endif
