#include "cli/plot.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "cli/locate.h"

#define TERMINAL_ROWS     22
#define TERMINAL_MAX_COLS 110

int plot_add(struct plot_series *s, double x, double y)
{
    if (s->n == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 64;
        double *gx = realloc(s->x, cap * sizeof *gx);
        if (gx) {
            s->x = gx;
        }
        double *gy = gx ? realloc(s->y, cap * sizeof *gy) : NULL;
        if (!gy) {
            return -1;
        }
        s->y = gy;
        s->cap = cap;
    }
    s->x[s->n] = x;
    s->y[s->n++] = y;
    return 0;
}

void plot_series_finish(struct plot_series *s)
{
    free(s->x);
    free(s->y);
    memset(s, 0, sizeof *s);
}

/* A gnuplot string in single quotes; control characters are dropped. */
static void quoted(FILE *out, const char *s)
{
    fputc('\'', out);
    for (; *s; s++) {
        if (*s == '\'') {
            fputs("''", out);
        } else if ((unsigned char)*s >= 0x20) {
            fputc(*s, out);
        }
    }
    fputc('\'', out);
}

void plot_script(FILE *out, const struct plot *p, const char *file, const struct fmt *f)
{
    bool terminal = !strcmp(file, "-");
    int cols = f->width > TERMINAL_MAX_COLS ? TERMINAL_MAX_COLS : f->width < 40 ? 40 : f->width;
    const char *sep = "plot ";

    if (terminal) {
        fprintf(out, "set term dumb mono noenhanced size %d,%d\n", cols - 1, TERMINAL_ROWS);
    } else {
        fputs("set term pngcairo noenhanced size 1000,620\nset output ", out);
        quoted(out, file);
        fputs("\nset grid\n", out);
    }
    fputs("set title ", out);
    quoted(out, p->title);
    fputs("\nset xlabel ", out);
    quoted(out, p->x_label);
    fputs("\nset ylabel ", out);
    quoted(out, p->y_label);
    if (p->note && !terminal) {
        fputs("\nset label ", out);
        quoted(out, p->note);
        fprintf(out, " at %.9g,%.9g left offset 1,0.5", p->note_x, p->note_y);
    }
    fputs("\nset key right top\nset format x '%.0s%c'\n", out);
    for (int i = 0; i < p->n; i++) {
        fprintf(out, "$d%d << EOD\n", i);
        for (size_t k = 0; k < p->series[i].n; k++) {
            if (isfinite(p->series[i].x[k]) && isfinite(p->series[i].y[k])) {
                fprintf(out, "%.9g %.9g\n", p->series[i].x[k], p->series[i].y[k]);
            }
        }
        fputs("EOD\n", out);
    }
    for (int i = 0; i < p->n; i++) {
        if (p->series[i].n == 0) {
            continue;
        }
        fprintf(out, "%s$d%d using 1:2 with %s title ", sep, i,
                p->series[i].n > 60 && !terminal ? "lines lw 2" : "linespoints");
        quoted(out, p->series[i].title);
        sep = ", ";
    }
    if (p->level && isfinite(p->level_at)) {
        fprintf(out, "%s%.9g with lines dt 2%s title ", sep, p->level_at,
                terminal ? "" : " lw 2 lc rgb '#202020'");
        quoted(out, p->level_title);
    }
    fputc('\n', out);
}

int plot_draw(const struct plot *p, const char *file, const struct fmt *f, struct dha_err *e)
{
    char program[LOCATE_MAX];
    bool any = false;
    FILE *pipe;
    int status;

    for (int i = 0; i < p->n; i++) {
        any = any || p->series[i].n > 0;
    }
    if (!any) {
        return dha_fail(e, DHA_E_CONFLICT, "there are no points to plot yet");
    }
    if (locate_program("gnuplot", program, sizeof program, e)) {
        dha_fail(e, DHA_E_NOT_FOUND, "gnuplot is not installed: no plot");
        return dha_err_hint(e, "apt-get install gnuplot-nox");
    }
    fflush(stdout);
    pipe = popen("exec gnuplot -", "w");
    if (!pipe) {
        return dha_fail_errno(e, errno, "running gnuplot");
    }
    plot_script(pipe, p, file, f);
    status = pclose(pipe);
    if (status) {
        dha_fail(e, DHA_E_IO, "gnuplot did not draw %s (exit status %d)",
                 strcmp(file, "-") ? file : "the plot",
                 WIFEXITED(status) ? WEXITSTATUS(status) : status);
        return dha_err_hint(e, "what it said is above; is the directory there and writable?");
    }
    return 0;
}
