/* fmt.h: numbers, times, bars and tables as text. Everything renders into a FILE (a frame of the live view is an
 * open_memstream), so it can be tested as a string. Whether colour and characters outside ASCII are used is said by
 * a struct fmt, decided once from the terminal and the locale.
 */
#ifndef DHA_CLI_FMT_H
#define DHA_CLI_FMT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct fmt {
    bool tty;    /* out is a terminal: live redraw */
    bool colour; /* and it takes colours ($NO_COLOR, TERM=dumb) */
    bool utf8;   /* the locale's characters are UTF-8 */
    int width;   /* columns; 100 where there is no terminal */
};

struct fmt fmt_for(FILE *out);

enum fmt_colour {
    FMT_PLAIN,
    FMT_BOLD,
    FMT_DIM,
    FMT_RED,
    FMT_GREEN,
    FMT_YELLOW,
    FMT_BLUE,
    FMT_CYAN
};
const char *fmt_on(const struct fmt *f, enum fmt_colour c); /* "" without colour */
const char *fmt_off(const struct fmt *f);

/* Each writes into buf and returns it. NaN and negative "unknown" values become "-". */
#define FMT_BUF 32
const char *fmt_count(char buf[FMT_BUF], double n);       /* 950, 12.3k, 1.20M */
const char *fmt_bytes(char buf[FMT_BUF], int64_t bytes);  /* 512 B, 1.5 KiB */
const char *fmt_seconds(char buf[FMT_BUF], double s);     /* 0.4 s, 12 s, 3m05s, 2h07m */
const char *fmt_loss(char buf[FMT_BUF], double loss);     /* 2.6301 */
const char *fmt_percent(char buf[FMT_BUF], double share); /* 25.0 % */
const char *fmt_time(char buf[FMT_BUF], int64_t us);      /* local time, 2026-11-23 07:15:02 */

/* Writes s as one word of a shell's command line. */
void fmt_shell(FILE *out, const char *s);

/* Columns a string takes: a UTF-8 character is one, an escape sequence none. */
size_t fmt_width(const char *s);
/* Writes s cut to `cols` columns (an escape sequence is kept whole). Returns the columns written. */
size_t fmt_clip(FILE *out, const char *s, size_t cols);

/* [######......] of `cols` columns in all, done in 0..1. */
void fmt_bar(FILE *out, const struct fmt *f, double done, int cols);
/* One row of block characters: v[0..n) averaged into at most cols buckets, lowest to highest. Values that are not
 * finite are left out. */
void fmt_spark(FILE *out, const struct fmt *f, const double *v, size_t n, int cols);

/* A table whose columns take the room of their longest cell. Cells are copied; a table is filled row by row. */
struct table;
enum fmt_align { FMT_LEFT, FMT_RIGHT };
/* n columns; NULL when out of memory (every other function takes NULL and does nothing). */
struct table *table_create(int columns, const char *const *heads, const enum fmt_align *align);
void table_cell(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void table_print(const struct table *t, FILE *out, const struct fmt *f, const char *indent);
void table_destroy(struct table *t);

#endif
