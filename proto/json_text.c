/* json_text.c: a tree as text, byte for byte as cJSON's unformatted printer writes it (stages' keys are digests of such
 * text; tests/unit/proto/test_json.c and tests/fuzz/fuzz_json.c hold the two together), without what is slow in that: a
 * number through printf and back through scanf, and every piece measured before it is written. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/json.h"

#define EXACT 1e15 /* below, an integral value is written with all its digits, as %1.15g would */

/* Part of the text: [from, to). */
struct cut {
    size_t from, to;
};

struct out {
    char *text;
    size_t n, cap;
    const char *const *less; /* members to leave out; NULL-terminated */
    struct cut *cuts;        /* where they stand, in order */
    size_t n_cuts, cap_cuts;
    bool failed;
};

/* Room for n more bytes; NULL when there is none. */
static char *room(struct out *o, size_t n)
{
    if (o->failed)
        return NULL;
    if (o->cap - o->n < n) {
        size_t cap = 2 * o->cap + n + 256;
        char *more = realloc(o->text, cap);
        if (!more) {
            o->failed = true;
            return NULL;
        }
        o->text = more;
        o->cap = cap;
    }
    return o->text + o->n;
}

static void put(struct out *o, const char *s, size_t n)
{
    char *at = room(o, n);
    if (at) {
        memcpy(at, s, n);
        o->n += n;
    }
}

static void put_char(struct out *o, char c)
{
    char *at = room(o, 1);
    if (at) {
        *at = c;
        o->n++;
    }
}

/* ---- numbers ---- */

/* The digits of x in front of `end`; returns where they begin. */
static char *digits_before(char *end, uint64_t x)
{
    do {
        *--end = (char)('0' + x % 10);
        x /= 10;
    } while (x);
    return end;
}

/* `value` / 10^point, with its sign. */
static void put_decimal(struct out *o, bool minus, uint64_t value, int point)
{
    char text[48], *end = text + sizeof text, *at = digits_before(end, value);
    while (end - at <= point) /* a digit in front of the point, at least */
        *--at = '0';
    if (minus)
        put_char(o, '-');
    put(o, at, (size_t)(end - at - point));
    if (point) {
        put_char(o, '.');
        put(o, end - point, (size_t)point);
    }
}

/* Values that are an integer over a small power of ten. A decimal of up to 15 digits that is read as d is what %.15g makes
 * of d, and the quotient of two integers that are exact is what reading it gives. */
static bool put_short(struct out *o, double d)
{
    double abs = fabs(d), power = 1;
    if (d == 0 ? signbit(d) : abs < 1e-4) /* "-0"; an exponent */
        return false;
    for (int point = 0; point <= 9; point++, power *= 10) {
        double whole = nearbyint(abs * power);
        if (whole >= EXACT)
            return false;
        if (whole / power == abs) {
            put_decimal(o, signbit(d), (uint64_t)whole, point);
            return true;
        }
    }
    return false;
}

static void put_number(struct out *o, double d)
{
    char text[40];
    if (!isfinite(d)) {
        put(o, "null", 4);
    } else if (!put_short(o, d)) {
        snprintf(text, sizeof text, "%1.15g", d);
        double back = strtod(text, NULL), larger = fmax(fabs(back), fabs(d));
        if (fabs(back - d) > larger * DBL_EPSILON)
            snprintf(text, sizeof text, "%1.17g", d);
        put(o, text, strlen(text));
    }
}

/* ---- strings ---- */

enum { ESCAPED_MAX = 6 }; /* \u001f */

static char *escape(char *at, unsigned char c)
{
    static const char named[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const char *k = strchr(named, c);
    *at++ = '\\';
    if (k) {
        *at++ = letter[k - named];
        return at;
    }
    memcpy(at, "u00", 3);
    at[3] = (char)('0' + (c >> 4));
    at[4] = "0123456789abcdef"[c & 15];
    return at + 5;
}

/* The top bit of every byte of w below `limit`; a byte above one that is may have it as well. */
static uint64_t below(uint64_t w, unsigned char limit)
{
    const uint64_t ones = 0x0101010101010101;
    return (w - ones * limit) & ~w & (ones << 7);
}

/* None of eight bytes is a control character, a quote or a backslash. */
static bool eight_plain(const char *s)
{
    const uint64_t ones = 0x0101010101010101;
    uint64_t w;
    memcpy(&w, s, sizeof w);
    return !(below(w, 0x20) | below(w ^ ones * '"', 1) | below(w ^ ones * '\\', 1));
}

static void put_string(struct out *o, const char *s)
{
    size_t n = s ? strlen(s) : 0;
    char *from = room(o, ESCAPED_MAX * n + 2), *at = from;
    if (!from)
        return;
    *at++ = '"';
    for (size_t i = 0; i < n;) {
        if (n - i >= 8 && eight_plain(s + i)) {
            memcpy(at, s + i, 8);
            at += 8;
            i += 8;
            continue;
        }
        unsigned char c = (unsigned char)s[i++];
        if (c >= 0x20 && c != '"' && c != '\\')
            *at++ = (char)c;
        else
            at = escape(at, c);
    }
    *at++ = '"';
    o->n += (size_t)(at - from);
}

/* ---- trees ---- */

static bool left_out(const struct out *o, const char *name)
{
    for (const char *const *p = o->less; p && *p; p++)
        if (strcmp(*p, name) == 0)
            return true;
    return false;
}

/* From there to the end of what is written so far. */
static void cut_out(struct out *o, size_t from)
{
    while (o->n_cuts && o->cuts[o->n_cuts - 1].from >= from)
        o->n_cuts--; /* it is within this one */
    if (o->n_cuts == o->cap_cuts) {
        size_t cap = 2 * o->cap_cuts + 16;
        struct cut *more = realloc(o->cuts, cap * sizeof *more);
        if (!more) {
            o->failed = true;
            return;
        }
        o->cuts = more;
        o->cap_cuts = cap;
    }
    o->cuts[o->n_cuts++] = (struct cut){from, o->n};
}

/* What is left of the text without the cuts, in place. */
static void close_cuts(const struct out *o)
{
    size_t at = o->n_cuts ? o->cuts[0].from : 0;
    for (size_t i = 0; i < o->n_cuts; i++) {
        size_t from = o->cuts[i].to, to = i + 1 < o->n_cuts ? o->cuts[i + 1].from : o->n;
        memmove(o->text + at, o->text + from, to - from);
        at += to - from;
    }
}

/* As deep as the tree is: json_parse() bounds that, as it does for cJSON's own recursion. */
static void put_value(struct out *o, const cJSON *v)
{
    bool object = cJSON_IsObject(v), none_stays = true;
    if (!object && !cJSON_IsArray(v)) {
        switch (v->type & 0xff) {
        case cJSON_NULL: put(o, "null", 4); break;
        case cJSON_False: put(o, "false", 5); break;
        case cJSON_True: put(o, "true", 4); break;
        case cJSON_Number: put_number(o, v->valuedouble); break;
        case cJSON_String: put_string(o, v->valuestring); break;
        case cJSON_Raw: put(o, v->valuestring, strlen(v->valuestring)); break;
        default: o->failed = true;
        }
        return;
    }
    put_char(o, object ? '{' : '[');
    for (const cJSON *c = v->child; c && !o->failed; c = c->next) {
        bool out = object && left_out(o, c->string);
        size_t from = o->n;
        if (c != v->child)
            put_char(o, ',');
        if (c != v->child && !out && none_stays)
            cut_out(o, from); /* a comma behind nothing */
        if (object) {
            put_string(o, c->string);
            put_char(o, ':');
        }
        put_value(o, c);
        if (out)
            cut_out(o, from);
        none_stays = none_stays && out;
    }
    put_char(o, object ? '}' : ']');
}

char *json_text_less(const cJSON *j, const char *const *less, char **whole)
{
    struct out o = {.less = less};
    if (whole)
        *whole = NULL;
    if (!j)
        return NULL;
    put_value(&o, j);
    put(&o, "", 1);
    if (!o.failed && whole && !(*whole = strdup(o.text)))
        o.failed = true;
    if (!o.failed)
        close_cuts(&o);
    free(o.cuts);
    if (o.failed) {
        free(o.text);
        return NULL;
    }
    return o.text;
}

char *json_text(const cJSON *j)
{
    return json_text_less(j, NULL, NULL);
}
