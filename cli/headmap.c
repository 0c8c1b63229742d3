#include "cli/headmap.h"

#include <stdlib.h>
#include <string.h>

#define MAX_HEADS 1024

static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";

int headmap_row(FILE *out, const struct fmt *f, const int *map, int n)
{
    /* Colours that stay readable on light and dark grounds; letters still tell groups apart beyond six. */
    static const int hues[] = {31, 32, 33, 34, 35, 36};
    int seen[MAX_HEADS];
    int distinct = 0;

    for (int q = 0; q < n; q++) {
        int g = 0;
        while (g < distinct && seen[g] != map[q]) {
            g++;
        }
        if (g == distinct && distinct < MAX_HEADS) {
            seen[distinct++] = map[q];
        }
        if (q) {
            fputc(' ', out);
        }
        if (f->colour) {
            fprintf(out, "\033[%dm", hues[g % 6]);
        }
        if (g < (int)sizeof letters - 1) {
            fputc(letters[g], out);
        } else {
            fprintf(out, "%d", g);
        }
        fputs(fmt_off(f), out);
    }
    return distinct;
}

static int read_map(const cJSON *row, int *map)
{
    const cJSON *v;
    int n = 0;

    cJSON_ArrayForEach(v, row)
    {
        int64_t head;
        if (n == MAX_HEADS || !json_to_int(v, &head) || head < 0 || head > MAX_HEADS) {
            return -1;
        }
        map[n++] = (int)head;
    }
    return n;
}

int headmap_print(FILE *out, const struct fmt *f, const cJSON *result, const char *indent)
{
    static const char *const names[] = {"key_of", "value_of"};
    int layers = cJSON_GetArraySize(json_get(result, names[0]));
    int map[MAX_HEADS];

    if (layers <= 0 || cJSON_GetArraySize(json_get(result, names[1])) != layers) {
        return -1;
    }
    for (int l = 0; l < layers; l++) {
        for (int k = 0; k < 2; k++) {
            int n = read_map(cJSON_GetArrayItem(json_get(result, names[k]), l), map);
            int heads;
            if (n < 0) {
                return -1;
            }
            if (k == 0) {
                fprintf(out, "%slayer %-3d K  ", indent, l);
            } else {
                fprintf(out, "%s          V  ", indent);
            }
            heads = headmap_row(out, f, map, n);
            fprintf(out, "   %d of %d\n", heads, n);
        }
    }
    return 0;
}
