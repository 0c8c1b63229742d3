/* A journal line that is accepted is written back, and that line is a fixed point. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "proto/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char a[2 * RECORD_MAX], b[2 * RECORD_MAX];
    struct record r, again;
    struct dha_err e = {0};
    if (record_parse((const char *)data, size, &r, &e) != 0) {
        if (e.code == DHA_E_OK || e.msg[0] == '\0')
            abort();
        return 0;
    }
    int n = record_format(&r, a, sizeof a);
    if (n < 0)
        abort(); /* what fits in one line fits again: no field grows */
    if (record_parse(a, (size_t)n - 1, &again, &e) != 0)
        abort();
    int m = record_format(&again, b, sizeof b);
    if (m != n || memcmp(a, b, (size_t)n) != 0)
        abort();
    return 0;
}
