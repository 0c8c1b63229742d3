#include "cli/chart.h"

#include <math.h>
#include <string.h>

#define ROWS    16
#define MAX_COL 100
#define LEFT    10 /* columns of the y labels */

bool chart_on_front(const struct chart *c, double x, double y)
{
    for (int i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->series[i].n; k++) {
            double px = c->series[i].x[k];
            double py = c->series[i].y[k];
            if (isfinite(px) && isfinite(py) && px <= x && py <= y && (px < x || py < y)) {
                return false;
            }
        }
    }
    return isfinite(x) && isfinite(y);
}

struct range {
    double x0, x1, y0, y1;
    int n;
};

static struct range range_of(const struct chart *c)
{
    struct range r = {INFINITY, -INFINITY, INFINITY, -INFINITY, 0};

    for (int i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->series[i].n; k++) {
            double x = c->series[i].x[k];
            double y = c->series[i].y[k];
            if (!isfinite(x) || !isfinite(y)) {
                continue;
            }
            r.x0 = fmin(r.x0, x);
            r.x1 = fmax(r.x1, x);
            r.y0 = fmin(r.y0, y);
            r.y1 = fmax(r.y1, y);
            r.n++;
        }
    }
    if (r.n && !(r.x1 > r.x0)) {
        r.x0 -= 1;
        r.x1 += 1;
    }
    if (r.n && !(r.y1 > r.y0)) {
        r.y0 -= 0.01;
        r.y1 += 0.01;
    }
    return r;
}

static void put(char grid[ROWS][MAX_COL], int cols, const struct range *r, double x, double y,
                char mark)
{
    int col = (int)lround((x - r->x0) / (r->x1 - r->x0) * (cols - 1));
    int row = (int)lround((r->y1 - y) / (r->y1 - r->y0) * (ROWS - 1));
    char *at = &grid[row][col];

    /* a capital stays: the front is what the picture is for */
    if (*at == ' ' || (mark >= 'A' && mark <= 'Z')) {
        *at = mark;
    }
}

void chart_text(FILE *out, const struct fmt *f, const struct chart *c)
{
    char grid[ROWS][MAX_COL];
    char a[FMT_BUF];
    char b[FMT_BUF];
    struct range r = range_of(c);
    int cols = f->width - LEFT - 3;

    if (r.n == 0) {
        return;
    }
    cols = cols > MAX_COL ? MAX_COL : cols < 20 ? 20 : cols;
    memset(grid, ' ', sizeof grid);
    for (int i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->series[i].n; k++) {
            double x = c->series[i].x[k];
            double y = c->series[i].y[k];
            if (isfinite(x) && isfinite(y)) {
                put(grid, cols, &r, x, y,
                    (char)((chart_on_front(c, x, y) ? 'A' : 'a') + c->group[i] % 26));
            }
        }
    }
    fprintf(out, "%s%s%s\n", fmt_on(f, FMT_BOLD), c->title, fmt_off(f));
    for (int row = 0; row < ROWS; row++) {
        int len = cols;
        while (len > 0 && grid[row][len - 1] == ' ') {
            len--;
        }
        if (row % 5 == 0) {
            fprintf(out, "%*.4f |%.*s\n", LEFT, r.y1 - (r.y1 - r.y0) * row / (ROWS - 1), len,
                    grid[row]);
        } else {
            fprintf(out, "%*s |%.*s\n", LEFT, "", len, grid[row]);
        }
    }
    fprintf(out, "%*s +", LEFT, c->y_label);
    for (int i = 0; i < cols; i++) {
        fputc('-', out);
    }
    fmt_count(a, r.x0);
    fmt_count(b, r.x1);
    fprintf(out, "\n%*s  %s%*s\n", LEFT, "", a, cols - (int)strlen(a), b);
    fprintf(out, "%*s  %s;", LEFT, "", c->x_label);
    for (int i = 0; i < c->n_names; i++) {
        fprintf(out, "  %c %s", 'a' + i % 26, c->names[i]);
    }
    fputs("  (capital: on the Pareto front)\n", out);
}
