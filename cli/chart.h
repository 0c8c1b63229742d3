/* chart.h: losses against what they cost, where less of both is better: as characters, and as SVG. Several series belong
 * to one group (a method): one letter, one colour, one line of the legend. The Pareto front over all points of a chart is marked: those
 * that no other is below and left of. Pure: numbers in, text out.
 */
#ifndef DHA_CLI_CHART_H
#define DHA_CLI_CHART_H

#include "cli/fmt.h"
#include "cli/plot.h"

#define CHART_GROUPS 16

struct chart {
    const char *title, *x_label, *y_label;
    struct plot_series *series; /* title: what stands at the line's end in the SVG; may be empty */
    const int *group;           /* of each series, < n_names */
    int n;
    const char *const *names; /* of the groups */
    int n_names;
    double level; /* a horizontal line; NaN = none */
    const char *level_title;
};

/* Is (x, y) on the front: is there no point with less of one and no more of the other? */
bool chart_on_front(const struct chart *c, double x, double y);
/* A grid of characters with axes and legend, f->width columns at most. A letter a point, capital on the front. Nothing without points. */
void chart_text(FILE *out, const struct fmt *f, const struct chart *c);
/* A whole SVG file with the charts beside each other; no scripts, no fonts, nothing from elsewhere. */
void chart_svg(FILE *out, const struct chart *charts, int n, const char *heading);

#endif
