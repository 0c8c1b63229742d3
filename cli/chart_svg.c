/* chart_svg.c: the SVG of chart.h. */
#include "cli/chart.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define PANEL_W 560
#define PANEL_H 430
#define PLOT_X  70 /* of the axes within a panel */
#define PLOT_Y  56
#define PLOT_W  410
#define PLOT_H  300
#define LABEL_H 11 /* of a label at a line's end */
#define MAX_END 64

/* Okabe and Ito's colours, which the colour-blind tell apart; then darker ones. */
static const char *const colours[CHART_GROUPS] = {
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f6a00", "#444444",
    "#004b76", "#8c3d00", "#00664a", "#8a4f70", "#966700", "#2f7ba0", "#4c3f00", "#888888"};

struct scale {
    double x0, x1, y0, y1;
};

static void escape(FILE *out, const char *s)
{
    for (; *s; s++) {
        switch (*s) {
        case '<': fputs("&lt;", out); break;
        case '>': fputs("&gt;", out); break;
        case '&': fputs("&amp;", out); break;
        case '"': fputs("&quot;", out); break;
        default:
            if ((unsigned char)*s >= 0x20) { /* XML has no others */
                fputc(*s, out);
            }
        }
    }
}

static double px(const struct scale *s, double x)
{
    return PLOT_X + (x - s->x0) / (s->x1 - s->x0) * PLOT_W;
}

static double py(const struct scale *s, double y)
{
    return PLOT_Y + (s->y1 - y) / (s->y1 - s->y0) * PLOT_H;
}

/* 1, 2 or 5 times a power of ten, so that about five of them span the range. */
static double tick_of(double span)
{
    double unit = pow(10, floor(log10(span / 5)));
    double n = span / 5 / unit;

    return unit * (n < 1.5 ? 1 : n < 3.5 ? 2 : n < 7.5 ? 5 : 10);
}

static void widen(double *lo, double *hi)
{
    double room = (*hi - *lo) * 0.06;

    if (!(room > 0)) {
        room = fabs(*hi) > 0 ? fabs(*hi) * 0.05 : 1;
    }
    *lo -= room;
    *hi += room;
}

static bool scale_of(const struct chart *c, struct scale *s)
{
    bool any = false;

    *s = (struct scale){INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (int i = 0; i < c->n; i++) {
        for (size_t k = 0; k < c->series[i].n; k++) {
            double x = c->series[i].x[k];
            double y = c->series[i].y[k];
            if (isfinite(x) && isfinite(y)) {
                *s = (struct scale){fmin(s->x0, x), fmax(s->x1, x), fmin(s->y0, y), fmax(s->y1, y)};
                any = true;
            }
        }
    }
    if (any && isfinite(c->level)) {
        s->y0 = fmin(s->y0, c->level);
        s->y1 = fmax(s->y1, c->level);
    }
    if (any) {
        widen(&s->x0, &s->x1);
        widen(&s->y0, &s->y1);
        s->x0 = s->x0 < 0 ? 0 : s->x0; /* bytes and tokens are not negative */
    }
    return any;
}

static void axes(FILE *out, const struct chart *c, const struct scale *s)
{
    char a[FMT_BUF];
    double step = tick_of(s->x1 - s->x0);

    fprintf(out, "<rect x='%d' y='%d' width='%d' height='%d' fill='none' stroke='#999'/>\n", PLOT_X,
            PLOT_Y, PLOT_W, PLOT_H);
    for (double x = ceil(s->x0 / step) * step; x <= s->x1; x += step) {
        fprintf(out,
                "<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='#eee'/>"
                "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>\n",
                px(s, x), px(s, x), PLOT_Y, PLOT_Y + PLOT_H, px(s, x), PLOT_Y + PLOT_H + 16,
                fmt_count(a, fabs(x) < step / 2 ? 0 : x));
    }
    step = tick_of(s->y1 - s->y0);
    int digits = (int)fmax(0, ceil(-log10(step) - 1e-9));
    for (double y = ceil(s->y0 / step) * step; y <= s->y1; y += step) {
        fprintf(out,
                "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#eee'/>"
                "<text x='%d' y='%.1f' text-anchor='end'>%.*f</text>\n",
                PLOT_X, PLOT_X + PLOT_W, py(s, y), py(s, y), PLOT_X - 6, py(s, y) + 4, digits, y);
    }
    fprintf(out, "<text x='%d' y='%d' text-anchor='middle'>", PLOT_X + PLOT_W / 2,
            PLOT_Y + PLOT_H + 36);
    escape(out, c->x_label);
    fprintf(out, "</text>\n<text transform='translate(16 %d) rotate(-90)' text-anchor='middle'>",
            PLOT_Y + PLOT_H / 2);
    escape(out, c->y_label);
    fprintf(out, "</text>\n<text x='%d' y='%d' font-size='14' font-weight='bold'>", PLOT_X,
            PLOT_Y - 34);
    escape(out, c->title);
    fputs("</text>\n", out);
}

static void lines(FILE *out, const struct chart *c, const struct scale *s)
{
    for (int i = 0; i < c->n; i++) {
        const struct plot_series *p = &c->series[i];
        const char *colour = colours[c->group[i] % CHART_GROUPS];
        fprintf(out, "<polyline fill='none' stroke='%s' stroke-width='1.6' points='", colour);
        for (size_t k = 0; k < p->n; k++) {
            if (isfinite(p->x[k]) && isfinite(p->y[k])) {
                fprintf(out, "%.1f,%.1f ", px(s, p->x[k]), py(s, p->y[k]));
            }
        }
        fputs("'/>\n", out);
        for (size_t k = 0; k < p->n; k++) {
            if (!isfinite(p->x[k]) || !isfinite(p->y[k])) {
                continue;
            }
            bool front = chart_on_front(c, p->x[k], p->y[k]);
            fprintf(out, "<circle cx='%.1f' cy='%.1f' r='%s' fill='%s'%s><title>", px(s, p->x[k]),
                    py(s, p->y[k]), front ? "4.5" : "2.5", colour,
                    front ? " stroke='#000' stroke-width='1.5' class='front'" : "");
            escape(out, c->names[c->group[i]]);
            fprintf(out, " %.9g, %.4f</title></circle>\n", p->x[k], p->y[k]);
        }
    }
}

struct end {
    double y, at; /* of the line's end; where its label goes */
    int series;
};

static int by_y(const void *a, const void *b)
{
    double d = ((const struct end *)a)->y - ((const struct end *)b)->y;

    return (d > 0) - (d < 0);
}

/* Labels at the lines' ends, pushed down where they would cover each other, then up from the bottom. */
static void end_labels(FILE *out, const struct chart *c, const struct scale *s)
{
    struct end ends[MAX_END];
    int n = 0;

    for (int i = 0; i < c->n && n < MAX_END; i++) {
        const struct plot_series *p = &c->series[i];
        if (p->n && p->title[0] && isfinite(p->y[p->n - 1])) {
            double y = py(s, p->y[p->n - 1]);
            ends[n++] = (struct end){y, y, i};
        }
    }
    qsort(ends, (size_t)n, sizeof *ends, by_y);
    for (int i = 1; i < n; i++) {
        ends[i].at = fmax(ends[i].at, ends[i - 1].at + LABEL_H);
    }
    double limit = PLOT_Y + PLOT_H;
    for (int i = n - 1; i >= 0 && ends[i].at > limit; i--) {
        ends[i].at = limit;
        limit -= LABEL_H;
    }
    for (int i = 0; i < n; i++) {
        const struct plot_series *p = &c->series[ends[i].series];
        const char *colour = colours[c->group[ends[i].series] % CHART_GROUPS];
        fprintf(out,
                "<line x1='%.1f' y1='%.1f' x2='%d' y2='%.1f' stroke='%s' stroke-width='0.5'/>"
                "<text x='%d' y='%.1f' font-size='10' fill='%s'>",
                px(s, p->x[p->n - 1]) + 3, ends[i].y, PLOT_X + PLOT_W + 8, ends[i].at, colour,
                PLOT_X + PLOT_W + 10, ends[i].at + 3.5, colour);
        escape(out, p->title);
        fputs("</text>\n", out);
    }
}

static void legend(FILE *out, const struct chart *c)
{
    double x = PLOT_X;

    for (int i = 0; i < c->n_names; i++) {
        fprintf(out, "<circle cx='%.0f' cy='%d' r='4' fill='%s'/><text x='%.0f' y='%d' fill='%s'>",
                x + 4, PLOT_Y - 13, colours[i % CHART_GROUPS], x + 12, PLOT_Y - 9,
                colours[i % CHART_GROUPS]);
        escape(out, c->names[i]);
        fputs("</text>\n", out);
        x += 24 + 6.8 * (double)strlen(c->names[i]);
    }
    fprintf(out,
            "<circle cx='%d' cy='%d' r='4.5' fill='none' stroke='#000' stroke-width='1.5'/>"
            "<text x='%d' y='%d'>on the Pareto front</text>\n",
            PLOT_X + 4, PLOT_Y + PLOT_H + 52, PLOT_X + 14, PLOT_Y + PLOT_H + 56);
}

static void panel(FILE *out, const struct chart *c, int at)
{
    struct scale s;

    fprintf(out, "<g transform='translate(%d 24)'>\n", at * PANEL_W);
    if (scale_of(c, &s)) {
        axes(out, c, &s);
        if (isfinite(c->level)) {
            fprintf(out,
                    "<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#000' "
                    "stroke-dasharray='5 4'/><text x='%d' y='%.1f' font-size='10'>",
                    PLOT_X, PLOT_X + PLOT_W, py(&s, c->level), py(&s, c->level), PLOT_X + 4,
                    py(&s, c->level) - 4);
            escape(out, c->level_title);
            fputs("</text>\n", out);
        }
        lines(out, c, &s);
        end_labels(out, c, &s);
        legend(out, c);
    } else {
        fprintf(out, "<text x='%d' y='%d'>", PLOT_X, PLOT_Y);
        escape(out, c->title);
        fputs(": no points yet</text>\n", out);
    }
    fputs("</g>\n", out);
}

void chart_svg(FILE *out, const struct chart *charts, int n, const char *heading)
{
    int w = n * PANEL_W;
    int h = PANEL_H + 24;

    fprintf(out,
            "<?xml version='1.0' encoding='UTF-8'?>\n"
            "<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' viewBox='0 0 %d %d' "
            "font-family='sans-serif' font-size='12'>\n<rect width='%d' height='%d' "
            "fill='#fff'/>\n<text x='%d' y='20' font-size='16' font-weight='bold'>",
            w, h, w, h, w, h, PLOT_X);
    escape(out, heading);
    fputs("</text>\n", out);
    for (int i = 0; i < n; i++) {
        panel(out, &charts[i], i);
    }
    fputs("</svg>\n", out);
}
