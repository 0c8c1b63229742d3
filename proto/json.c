/* json.c: a scanner that accepts exactly RFC 8259 (and less: see json.h) runs over the bytes first;
 * only then does cJSON build the tree. The scanner keeps one bit a level, so nesting costs no stack;
 * cJSON recurses, but never deeper than the limit that the scanner has already checked.
 */
#include "proto/json.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "proto/text.h"

#define DEPTH_CEILING 512 /* cJSON's own recursion: 512 levels are about 100 KiB of stack */
#define NUMBER_MAX    60  /* cJSON 1.7.15 cuts a number at 63 bytes and reads on behind the cut */
#define EXACT_INT     999999999999999 /* cJSON prints 15 digits; more would not come back exactly */
#define TWO_53        9007199254740992.0

struct scan {
    const unsigned char *p; /* whole input */
    size_t n, i;            /* length, next byte */
    struct dha_err *e;
};

static int bad(struct scan *s, const char *what)
{
    return dha_fail(s->e, DHA_E_PROTOCOL, "not valid JSON: %s at byte %zu", what, s->i);
}

static void skip_space(struct scan *s)
{
    while (s->i < s->n &&
           (s->p[s->i] == ' ' || s->p[s->i] == '\t' || s->p[s->i] == '\n' || s->p[s->i] == '\r'))
        s->i++;
}

static int hex4(struct scan *s, unsigned *out)
{
    unsigned v = 0;
    if (s->n - s->i < 4)
        return -1;
    for (int k = 0; k < 4; k++) {
        unsigned char c = s->p[s->i + (size_t)k];
        unsigned d;
        if (c >= '0' && c <= '9')
            d = (unsigned)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            d = (unsigned)((c | 0x20) - 'a') + 10;
        else
            return -1;
        v = v * 16 + d;
    }
    s->i += 4;
    *out = v;
    return 0;
}

static int scan_escape(struct scan *s)
{
    static const char simple[] = "\"\\/bfnrt";
    if (s->i >= s->n)
        return bad(s, "a string without its end");
    unsigned char c = s->p[s->i];
    if (c && strchr(simple, c)) {
        s->i++;
        return 0;
    }
    if (c != 'u')
        return bad(s, "an unknown escape");
    s->i++;
    unsigned u, low;
    if (hex4(s, &u) != 0)
        return bad(s, "a \\u escape without four hex digits");
    if (u == 0)
        return bad(s, "a NUL character in a string");
    if (u >= 0xdc00 && u <= 0xdfff)
        return bad(s, "a low surrogate without the high one");
    if (u < 0xd800 || u > 0xdbff)
        return 0;
    if (s->n - s->i < 2 || s->p[s->i] != '\\' || s->p[s->i + 1] != 'u')
        return bad(s, "a high surrogate without the low one");
    s->i += 2;
    if (hex4(s, &low) != 0 || low < 0xdc00 || low > 0xdfff)
        return bad(s, "a high surrogate without the low one");
    return 0;
}

/* s->i is behind the opening quote. */
static int scan_string(struct scan *s)
{
    while (s->i < s->n) {
        unsigned char c = s->p[s->i];
        if (c == '"') {
            s->i++;
            return 0;
        }
        if (c == '\\') {
            s->i++;
            if (scan_escape(s) != 0)
                return -1;
        } else if (c < 0x20) {
            return bad(s, c == 0 ? "a NUL character in a string"
                                 : "a raw control character in a string");
        } else {
            size_t len = text_utf8_len(s->p + s->i, s->n - s->i);
            if (len == 0)
                return bad(s, "bytes that are not UTF-8");
            s->i += len;
        }
    }
    return bad(s, "a string without its end");
}

static size_t digits(struct scan *s)
{
    size_t from = s->i;
    while (s->i < s->n && s->p[s->i] >= '0' && s->p[s->i] <= '9')
        s->i++;
    return s->i - from;
}

static int scan_number(struct scan *s)
{
    size_t from = s->i;
    char text[NUMBER_MAX + 1];
    if (s->p[s->i] == '-')
        s->i++;
    bool zero = s->i < s->n && s->p[s->i] == '0';
    size_t whole = digits(s);
    if (whole == 0 || (zero && whole > 1))
        return bad(s, "a malformed number");
    if (s->i < s->n && s->p[s->i] == '.') {
        s->i++;
        if (digits(s) == 0)
            return bad(s, "a malformed number");
    }
    if (s->i < s->n && (s->p[s->i] | 0x20) == 'e') {
        s->i++;
        if (s->i < s->n && (s->p[s->i] == '+' || s->p[s->i] == '-'))
            s->i++;
        if (digits(s) == 0)
            return bad(s, "a malformed number");
    }
    if (s->i - from > NUMBER_MAX)
        return bad(s, "a number of more than 60 characters");
    memcpy(text, s->p + from, s->i - from);
    text[s->i - from] = '\0';
    if (!isfinite(strtod(text, NULL)))
        return bad(s, "a number that is out of range");
    return 0;
}

static int scan_word(struct scan *s, const char *word)
{
    size_t len = strlen(word);
    if (s->n - s->i < len || memcmp(s->p + s->i, word, len) != 0)
        return bad(s, "an unexpected character");
    s->i += len;
    return 0;
}

/* One value without children, or the opening of one with. *opened: '{', '[' or 0. */
static int scan_value(struct scan *s, char *opened)
{
    *opened = 0;
    if (s->i >= s->n)
        return bad(s, "the end where a value should be");
    unsigned char c = s->p[s->i];
    switch (c) {
    case '{':
    case '[':
        *opened = (char)c;
        s->i++;
        return 0;
    case '"': s->i++; return scan_string(s);
    case 't': return scan_word(s, "true");
    case 'f': return scan_word(s, "false");
    case 'n': return scan_word(s, "null");
    default:
        if (c == '-' || (c >= '0' && c <= '9'))
            return scan_number(s);
        return bad(s, "an unexpected character");
    }
}

/* "key" and ':'; leaves s->i at the value. */
static int scan_key(struct scan *s)
{
    skip_space(s);
    if (s->i >= s->n || s->p[s->i] != '"')
        return bad(s, "no member name");
    s->i++;
    if (scan_string(s) != 0)
        return -1;
    skip_space(s);
    if (s->i >= s->n || s->p[s->i] != ':')
        return bad(s, "no ':' after a member name");
    s->i++;
    return 0;
}

static int scan_document(struct scan *s, int max_depth)
{
    unsigned char is_object[DEPTH_CEILING]; /* the containers that are open */
    int depth = 0;
    for (;;) {
        /* a value is due here */
        char opened;
        skip_space(s);
        if (scan_value(s, &opened) != 0)
            return -1;
        if (opened) {
            if (depth >= max_depth)
                return dha_fail(s->e, DHA_E_PROTOCOL,
                                "not accepted: more than %d levels of nesting at byte %zu",
                                max_depth, s->i);
            is_object[depth++] = opened == '{';
            skip_space(s);
            bool empty = s->i < s->n && s->p[s->i] == (opened == '{' ? '}' : ']');
            if (!empty) {
                if (opened == '{' && scan_key(s) != 0)
                    return -1;
                continue;
            }
        }
        /* a value ends here: close what closes, until a comma or the end */
        for (;;) {
            skip_space(s);
            if (depth == 0)
                return s->i == s->n ? 0 : bad(s, "bytes after the end of the document");
            bool object = is_object[depth - 1];
            if (s->i >= s->n)
                return bad(s, object ? "an object without its end" : "an array without its end");
            unsigned char c = s->p[s->i];
            if (c == (object ? '}' : ']')) {
                s->i++;
                depth--;
                continue;
            }
            if (c != ',')
                return bad(s, object ? "neither ',' nor '}'" : "neither ',' nor ']'");
            s->i++;
            if (object && scan_key(s) != 0)
                return -1;
            break;
        }
    }
}

static int by_text(const void *a, const void *b)
{
    const char *const *x = a;
    const char *const *y = b;
    return strcmp(*x, *y);
}

/* Sorted, not pairwise: a megabyte of members must not take minutes. Recursion is bounded by the
 * depth limit. */
static int refuse_duplicates(const cJSON *j, struct dha_err *e)
{
    size_t n = 0;
    const cJSON *c;
    cJSON_ArrayForEach(c, j)
    {
        n++;
        if ((cJSON_IsObject(c) || cJSON_IsArray(c)) && refuse_duplicates(c, e) != 0)
            return -1;
    }
    if (!cJSON_IsObject(j) || n < 2)
        return 0;
    const char **keys = malloc(n * sizeof *keys);
    if (!keys)
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory reading JSON");
    n = 0;
    cJSON_ArrayForEach(c, j) keys[n++] = c->string;
    qsort(keys, n, sizeof *keys, by_text);
    int rc = 0;
    for (size_t i = 1; i < n && rc == 0; i++) {
        if (strcmp(keys[i - 1], keys[i]) == 0) {
            char name[64];
            text_copy(name, sizeof name, keys[i]);
            rc = dha_fail(e, DHA_E_PROTOCOL, "not accepted: member \"%s\" is given twice", name);
        }
    }
    free(keys);
    return rc;
}

cJSON *json_parse(const char *buf, size_t len, const struct json_limits *lim, struct dha_err *e)
{
    size_t max_bytes = lim && lim->max_bytes ? lim->max_bytes : (size_t)1 << 20;
    int max_depth = lim && lim->max_depth > 0 ? lim->max_depth : 64;
    if (max_depth > DEPTH_CEILING)
        max_depth = DEPTH_CEILING;
    if (len > max_bytes) {
        dha_fail(e, DHA_E_TOO_LARGE, "a JSON document of %zu bytes; the limit is %zu", len,
                 max_bytes);
        return NULL;
    }
    struct scan s = {.p = (const unsigned char *)buf, .n = len, .e = e};
    if (scan_document(&s, max_depth) != 0)
        return NULL;
    cJSON *j = cJSON_ParseWithLength(buf, len);
    if (!j) {
        /* the text is valid and within cJSON's limits: only memory is left */
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory reading %zu bytes of JSON", len);
        return NULL;
    }
    if (refuse_duplicates(j, e) != 0) {
        cJSON_Delete(j);
        return NULL;
    }
    return j;
}

int json_check(const char *buf, size_t len, struct dha_err *e)
{
    struct scan s = {.p = (const unsigned char *)buf, .n = len, .e = e};
    return scan_document(&s, 64);
}

cJSON *json_parse_file(const char *path, size_t max_bytes, struct dha_err *e)
{
    cJSON *j = NULL;
    char *buf = NULL;
    struct stat st;
    if (max_bytes == 0)
        max_bytes = (size_t)64 << 20;
    /* not blocking: a pipe without a writer is refused below, and not waited for */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        dha_fail_errno(e, errno, "cannot open %s", path);
        return NULL;
    }
    if (fstat(fd, &st) != 0) {
        dha_fail_errno(e, errno, "cannot stat %s", path);
        goto close_file;
    }
    if (!S_ISREG(st.st_mode)) {
        dha_fail(e, DHA_E_INPUT, "%s is not a regular file", path);
        goto close_file;
    }
    if ((uintmax_t)st.st_size > max_bytes) {
        dha_fail(e, DHA_E_TOO_LARGE, "%s has %jd bytes; the limit for a JSON file is %zu", path,
                 (intmax_t)st.st_size, max_bytes);
        goto close_file;
    }
    size_t size = (size_t)st.st_size, got = 0;
    buf = malloc(size + 1);
    if (!buf) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory reading %s", path);
        goto close_file;
    }
    while (got < size) {
        ssize_t r = read(fd, buf + got, size - got);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            dha_fail_errno(e, errno, "cannot read %s", path);
            goto free_buf;
        }
        if (r == 0)
            break; /* shorter than it was: what is there must parse */
        got += (size_t)r;
    }
    struct json_limits lim = {.max_bytes = max_bytes};
    j = json_parse(buf, got, &lim, e);
    if (!j) {
        dha_err_context(e, "%s", path);
        if (e)
            text_copy(e->path, sizeof e->path, path);
    }
free_buf:
    free(buf);
close_file:
    close(fd);
    return j;
}

char *json_text_pretty(const cJSON *j)
{
    return cJSON_Print(j);
}

static int write_all(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t w = write(fd, p, n);
        if (w < 0 && errno == EINTR)
            continue;
        if (w < 0)
            return -1;
        p += w;
        n -= (size_t)w;
    }
    return 0;
}

static int sync_parent(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    size_t n = !slash ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (n >= sizeof dir) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(dir, path, n);
    dir[n] = '\0';
    int fd = open(n ? dir : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -1;
    int rc = fsync(fd), saved = errno;
    close(fd);
    errno = saved;
    return rc;
}

int json_write_file(const char *path, const cJSON *j, struct dha_err *e)
{
    int rc = -1;
    char *tmp = NULL, *text = cJSON_Print(j);
    if (!text || asprintf(&tmp, "%s.tmp-%ld", path, (long)getpid()) < 0) {
        free(text);
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory writing %s", path);
    }
    /* A file of this name can only be left by a dead process that had our pid, or put there by somebody who wants us to
     * wait at a pipe: we do not. */
    int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW, 0666);
    if (fd < 0) {
        dha_fail_errno(e, errno, "cannot create %s", tmp);
        goto free_text;
    }
    if (write_all(fd, text, strlen(text)) != 0 || write_all(fd, "\n", 1) != 0 || fsync(fd) != 0) {
        dha_fail_errno(e, errno, "cannot write %s", tmp);
        close(fd);
        goto remove_tmp;
    }
    if (close(fd) != 0) {
        dha_fail_errno(e, errno, "cannot write %s", tmp);
        goto remove_tmp;
    }
    if (rename(tmp, path) != 0) {
        dha_fail_errno(e, errno, "cannot rename %s to %s", tmp, path);
        goto remove_tmp;
    }
    if (sync_parent(path) != 0) {
        dha_fail_errno(e, errno, "cannot sync the directory of %s", path);
        goto free_text;
    }
    rc = 0;
    goto free_text;
remove_tmp:
    unlink(tmp);
free_text:
    free(tmp);
    free(text);
    return rc;
}

const cJSON *json_get(const cJSON *obj, const char *key)
{
    const cJSON *c = cJSON_IsObject(obj) ? obj->child : NULL;
    while (c && (!c->string || c->string[0] != key[0] || strcmp(c->string, key) != 0))
        c = c->next;
    return c;
}

const cJSON *json_at(const cJSON *obj, const char *path)
{
    char part[256];
    while (obj && *path) {
        size_t n = strcspn(path, ".");
        if (n >= sizeof part)
            return NULL;
        memcpy(part, path, n);
        part[n] = '\0';
        if (cJSON_IsArray(obj)) {
            if (n == 0 || n > 9 || strspn(part, "0123456789") != n)
                return NULL;
            obj = cJSON_GetArrayItem(obj, (int)strtol(part, NULL, 10));
        } else {
            obj = json_get(obj, part);
        }
        path += n;
        if (*path == '.')
            path++;
    }
    return obj;
}

const char *json_str(const cJSON *obj, const char *key, const char *dflt)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsString(v) ? v->valuestring : dflt;
}

double json_num(const cJSON *obj, const char *key, double dflt)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsNumber(v) ? v->valuedouble : dflt;
}

bool json_bool(const cJSON *obj, const char *key, bool dflt)
{
    const cJSON *v = json_get(obj, key);
    return cJSON_IsBool(v) ? cJSON_IsTrue(v) : dflt;
}

bool json_to_int(const cJSON *v, int64_t *out)
{
    if (cJSON_IsNumber(v)) {
        double d = v->valuedouble;
        if (!(d >= -TWO_53 && d <= TWO_53) || d != trunc(d))
            return false;
        *out = (int64_t)d;
        return true;
    }
    if (!cJSON_IsString(v))
        return false;
    const char *s = v->valuestring;
    size_t sign = s[0] == '-', n = strspn(s + sign, "0123456789");
    if (n == 0 || s[sign + n] != '\0')
        return false;
    errno = 0;
    long long x = strtoll(s, NULL, 10);
    if (errno != 0)
        return false;
    *out = x;
    return true;
}

int64_t json_int(const cJSON *obj, const char *key, int64_t dflt)
{
    int64_t v;
    return json_to_int(json_get(obj, key), &v) ? v : dflt;
}

static int need(const cJSON *v, bool right, const char *key, const char *type, struct dha_err *e)
{
    if (right)
        return 0;
    dha_fail(e, DHA_E_PROTOCOL, v ? "\"%s\" is not %s" : "\"%s\" is missing (%s)", key, type);
    if (e)
        text_copy(e->path, sizeof e->path, key);
    return -1;
}

int json_need_str(const cJSON *obj, const char *key, const char **out, struct dha_err *e)
{
    const cJSON *v = json_get(obj, key);
    if (need(v, cJSON_IsString(v), key, "a string", e) != 0)
        return -1;
    *out = v->valuestring;
    return 0;
}

int json_need_num(const cJSON *obj, const char *key, double *out, struct dha_err *e)
{
    const cJSON *v = json_get(obj, key);
    if (need(v, cJSON_IsNumber(v), key, "a number", e) != 0)
        return -1;
    *out = v->valuedouble;
    return 0;
}

int json_need_int(const cJSON *obj, const char *key, int64_t *out, struct dha_err *e)
{
    const cJSON *v = json_get(obj, key);
    int64_t x = 0;
    if (need(v, json_to_int(v, &x), key, "an integer", e) != 0)
        return -1;
    *out = x;
    return 0;
}

int json_put(cJSON *obj, const char *key, cJSON *v)
{
    if (!v)
        return -1;
    /* a member is replaced, never doubled: what we write, json_parse() must accept */
    if (json_get(obj, key)) {
        if (cJSON_ReplaceItemInObjectCaseSensitive(obj, key, v))
            return 0;
    } else if (cJSON_AddItemToObject(obj, key, v)) {
        return 0;
    }
    cJSON_Delete(v);
    return -1;
}

int json_put_str(cJSON *obj, const char *key, const char *v)
{
    return json_put(obj, key, cJSON_CreateString(v));
}

int json_put_num(cJSON *obj, const char *key, double v)
{
    return json_put(obj, key, isfinite(v) ? cJSON_CreateNumber(v) : cJSON_CreateNull());
}

int json_put_id(cJSON *obj, const char *key, int64_t v)
{
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)v);
    return json_put_str(obj, key, text);
}

int json_put_int(cJSON *obj, const char *key, int64_t v)
{
    if (v > EXACT_INT || v < -EXACT_INT)
        return json_put_id(obj, key, v);
    return json_put_num(obj, key, (double)v);
}

int json_put_bool(cJSON *obj, const char *key, bool v)
{
    return json_put(obj, key, cJSON_CreateBool(v));
}
