/* cores.c: see cores.h. */
#include "proto/cores.h"

#include <stdio.h>
#include <stdlib.h>

/* A number at *p, which moves behind it; -1 if there is none. */
static int number(const char **p)
{
    int v = 0, digits = 0;
    for (; **p >= '0' && **p <= '9'; ++*p) {
        v = v * 10 + (**p - '0');
        if (++digits > 4) {
            return -1;
        }
    }
    return digits && v < CORES_MAX ? v : -1;
}

int cores_read(const char *text, int *out, size_t cap)
{
    size_t n = 0;
    int last = -1;
    for (const char *p = text;;) {
        int from = number(&p), to = from;
        if (from >= 0 && *p == '-') {
            p++;
            to = number(&p);
        }
        if (from <= last || to < from) {
            return -1;
        }
        for (int c = from; c <= to; c++) {
            if (n == cap) {
                return -1;
            }
            out[n++] = c;
        }
        last = to;
        if (*p == '\0') {
            return (int)n;
        }
        if (*p++ != ',') {
            return -1;
        }
    }
}

int cores_write(const int *cores, size_t n, char *out, size_t size)
{
    size_t len = 0;
    out[0] = '\0';
    for (size_t i = 0; i < n;) {
        size_t k = i;
        while (k + 1 < n && cores[k + 1] == cores[k] + 1) {
            k++;
        }
        const char *comma = len ? "," : "";
        int w = k > i ? snprintf(out + len, size - len, "%s%d-%d", comma, cores[i], cores[k])
                      : snprintf(out + len, size - len, "%s%d", comma, cores[i]);
        if (w < 0 || (size_t)w >= size - len) {
            out[0] = '\0';
            return -1;
        }
        len += (size_t)w;
        i = k + 1;
    }
    return 0;
}

void cores_of_slot(const int *cores, size_t n, size_t i, size_t n_slots, char out[CORES_TEXT])
{
    out[0] = '\0';
    if (n_slots > 0 && n >= n_slots) {
        size_t from = i * n / n_slots, to = (i + 1) * n / n_slots;
        cores_write(cores + from, to - from, out, CORES_TEXT);
    }
}
