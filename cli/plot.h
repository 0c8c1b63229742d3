/* plot.h: curves through gnuplot: a PNG file, or characters on the terminal. */
#ifndef DHA_CLI_PLOT_H
#define DHA_CLI_PLOT_H

#include "cli/fmt.h"
#include "cli/cli.h"

struct plot_series {
    char title[64];
    double *x, *y; /* owned by the series */
    size_t n, cap;
};

struct plot {
    const char *title, *x_label, *y_label;
    struct plot_series *series;
    int n;
    bool level; /* draw a horizontal line */
    double level_at;
    const char *level_title;
    const char *note; /* NULL, or words beside the point (note_x, note_y); not on the terminal */
    double note_x, note_y;
};

int plot_add(struct plot_series *s, double x, double y); /* -1: out of memory */
void plot_series_finish(struct plot_series *s);
/* gnuplot's script for the plot, with its data in it. file "-": the terminal, f->width wide. */
void plot_script(FILE *out, const struct plot *p, const char *file, const struct fmt *f);
/* Runs gnuplot. A missing gnuplot is DHA_E_NOT_FOUND with the package's name. */
int plot_draw(const struct plot *p, const char *file, const struct fmt *f, struct dha_err *e);

#endif
