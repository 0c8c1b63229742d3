#include "cli/fmt.h"

#include <langinfo.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define NO_TERMINAL_WIDTH 100

struct fmt fmt_for(FILE *out)
{
    struct fmt f = {.width = NO_TERMINAL_WIDTH};
    const char *term = getenv("TERM");
    struct winsize ws;
    int fd = fileno(out);

    f.utf8 = !strcmp(nl_langinfo(CODESET), "UTF-8");
    f.tty = fd >= 0 && isatty(fd) && term && strcmp(term, "dumb") != 0;
    f.colour = f.tty && !getenv("NO_COLOR");
    if (fd >= 0 && !ioctl(fd, TIOCGWINSZ, &ws) && ws.ws_col > 0) {
        f.width = ws.ws_col;
    }
    return f;
}

const char *fmt_on(const struct fmt *f, enum fmt_colour c)
{
    static const char *const codes[] = {
        [FMT_PLAIN] = "",        [FMT_BOLD] = "\033[1m",   [FMT_DIM] = "\033[2m",
        [FMT_RED] = "\033[31m",  [FMT_GREEN] = "\033[32m", [FMT_YELLOW] = "\033[33m",
        [FMT_BLUE] = "\033[34m", [FMT_CYAN] = "\033[36m",
    };

    return f->colour ? codes[c] : "";
}

const char *fmt_off(const struct fmt *f)
{
    return f->colour ? "\033[0m" : "";
}

static const char *unknown(char *buf)
{
    strcpy(buf, "-");
    return buf;
}

const char *fmt_count(char buf[FMT_BUF], double n)
{
    if (!isfinite(n) || n < 0) {
        return unknown(buf);
    }
    if (n < 1000) {
        snprintf(buf, FMT_BUF, "%.0f", n);
    } else if (n < 999950) {
        snprintf(buf, FMT_BUF, "%.1fk", n / 1e3);
    } else if (n < 999.995e6) {
        snprintf(buf, FMT_BUF, "%.2fM", n / 1e6);
    } else {
        snprintf(buf, FMT_BUF, "%.2fG", n / 1e9);
    }
    return buf;
}

const char *fmt_bytes(char buf[FMT_BUF], int64_t bytes)
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    double v = (double)bytes / 1024;
    size_t u = 0;

    if (bytes < 0) {
        return unknown(buf);
    }
    if (bytes < 1024) {
        snprintf(buf, FMT_BUF, "%d B", (int)bytes);
        return buf;
    }
    while (v >= 1023.95 && u + 1 < sizeof units / sizeof *units) {
        v /= 1024;
        u++;
    }
    snprintf(buf, FMT_BUF, "%.1f %s", v, units[u]);
    return buf;
}

const char *fmt_seconds(char buf[FMT_BUF], double s)
{
    long long whole;

    if (!isfinite(s) || s < 0) {
        return unknown(buf);
    }
    if (s < 9.95) {
        snprintf(buf, FMT_BUF, "%.1f s", s);
        return buf;
    }
    whole = llround(s);
    if (whole < 60) {
        snprintf(buf, FMT_BUF, "%lld s", whole);
    } else if (whole < 3600) {
        snprintf(buf, FMT_BUF, "%lldm%02llds", whole / 60, whole % 60);
    } else if (whole < 48 * 3600) {
        snprintf(buf, FMT_BUF, "%lldh%02lldm", whole / 3600, whole / 60 % 60);
    } else {
        snprintf(buf, FMT_BUF, "%lldd%02lldh", whole / 86400, whole / 3600 % 24);
    }
    return buf;
}

const char *fmt_loss(char buf[FMT_BUF], double loss)
{
    if (!isfinite(loss)) {
        return unknown(buf);
    }
    snprintf(buf, FMT_BUF, "%.4f", loss);
    return buf;
}

const char *fmt_percent(char buf[FMT_BUF], double share)
{
    if (!isfinite(share) || share < 0) {
        return unknown(buf);
    }
    snprintf(buf, FMT_BUF, "%.1f %%", share * 100);
    return buf;
}

const char *fmt_time(char buf[FMT_BUF], int64_t us)
{
    time_t t = (time_t)(us / 1000000);
    struct tm tm;

    if (us <= 0 || !localtime_r(&t, &tm) || !strftime(buf, FMT_BUF, "%F %T", &tm)) {
        return unknown(buf);
    }
    return buf;
}

/* Length in bytes of the escape sequence at s, 0 if none is there. */
static size_t escape_len(const char *s)
{
    size_t n = 2;

    if (s[0] != '\033' || s[1] != '[') {
        return 0;
    }
    while (s[n] && !((s[n] >= 'A' && s[n] <= 'Z') || (s[n] >= 'a' && s[n] <= 'z'))) {
        n++;
    }
    return s[n] ? n + 1 : n;
}

static size_t char_len(const char *s)
{
    size_t n = 1;

    while (((unsigned char)s[n] & 0xc0) == 0x80) {
        n++;
    }
    return n;
}

size_t fmt_width(const char *s)
{
    size_t cols = 0;

    while (*s) {
        size_t esc = escape_len(s);
        cols += esc ? 0 : 1;
        s += esc ? esc : char_len(s);
    }
    return cols;
}

size_t fmt_clip(FILE *out, const char *s, size_t cols)
{
    size_t done = 0;

    while (*s) {
        size_t esc = escape_len(s);
        size_t len = esc ? esc : char_len(s);
        if (esc || done < cols) {
            fwrite(s, 1, len, out);
        }
        if (!esc && done < cols) {
            done++;
        }
        s += len;
    }
    return done;
}

void fmt_bar(FILE *out, const struct fmt *f, double done, int cols)
{
    int inner = cols - 2;
    int full;

    if (!isfinite(done) || done < 0) {
        done = 0;
    }
    full = (int)floor((done > 1 ? 1 : done) * inner + 1e-9);
    fprintf(out, "[%s", fmt_on(f, FMT_GREEN));
    for (int i = 0; i < inner; i++) {
        if (i == full) {
            fputs(fmt_off(f), out);
        }
        fputs(i < full ? (f->utf8 ? "█" : "#") : (f->utf8 ? "░" : "."), out);
    }
    fprintf(out, "%s]", full >= inner ? fmt_off(f) : "");
}

void fmt_spark(FILE *out, const struct fmt *f, const double *v, size_t n, int cols)
{
    static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
    static const char *const ascii[] = {"_", ".", "-", "~", "=", "+", "*", "#"};
    double lo = INFINITY;
    double hi = -INFINITY;
    double mean[256];
    int m = 0;

    if (cols > 256) {
        cols = 256;
    }
    if (n < (size_t)(cols > 0 ? cols : 0)) {
        cols = (int)n;
    }
    for (int b = 0; b < cols; b++) {
        size_t from = n * (size_t)b / (size_t)cols;
        size_t to = n * ((size_t)b + 1) / (size_t)cols;
        double sum = 0;
        int count = 0;
        for (size_t i = from; i < to; i++) {
            if (isfinite(v[i])) {
                sum += v[i];
                count++;
            }
        }
        if (count) {
            mean[m] = sum / count;
            lo = fmin(lo, mean[m]);
            hi = fmax(hi, mean[m]);
            m++;
        }
    }
    for (int b = 0; b < m; b++) {
        /* A flat line is drawn at the bottom, not at a random height. */
        int level = hi > lo ? (int)((mean[b] - lo) / (hi - lo) * 7.999) : 0;
        fputs(f->utf8 ? blocks[level] : ascii[level], out);
    }
}

struct table {
    int columns;
    enum fmt_align *align;
    char **cells; /* row by row, the heads first */
    size_t n, cap;
    bool broken; /* out of memory: prints what it has and says so */
};

static void add(struct table *t, char *cell)
{
    if (t->n == t->cap) {
        size_t cap = t->cap ? t->cap * 2 : 64;
        char **grown = realloc(t->cells, cap * sizeof *grown);
        if (!grown) {
            t->broken = true;
            free(cell);
            return;
        }
        t->cells = grown;
        t->cap = cap;
    }
    t->cells[t->n++] = cell;
}

struct table *table_create(int columns, const char *const *heads, const enum fmt_align *align)
{
    struct table *t = calloc(1, sizeof *t);

    if (!t) {
        return NULL;
    }
    t->columns = columns;
    t->align = calloc((size_t)columns, sizeof *t->align);
    if (!t->align) {
        free(t);
        return NULL;
    }
    memcpy(t->align, align, (size_t)columns * sizeof *align);
    for (int i = 0; i < columns; i++) {
        table_cell(t, "%s", heads[i]);
    }
    return t;
}

void table_cell(struct table *t, const char *fmt, ...)
{
    char *cell = NULL;
    va_list ap;

    if (!t || t->broken) {
        return;
    }
    va_start(ap, fmt);
    if (vasprintf(&cell, fmt, ap) < 0) {
        cell = NULL;
        t->broken = true;
    }
    va_end(ap);
    if (cell) {
        add(t, cell);
    }
}

static void pad(FILE *out, size_t n)
{
    while (n--) {
        fputc(' ', out);
    }
}

void table_print(const struct table *t, FILE *out, const struct fmt *f, const char *indent)
{
    size_t cols = t ? (size_t)t->columns : 0;
    size_t *width = cols ? calloc(cols, sizeof *width) : NULL;

    if (!width) {
        return;
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t w = fmt_width(t->cells[i]);
        width[i % cols] = w > width[i % cols] ? w : width[i % cols];
    }
    for (size_t i = 0; i < t->n; i++) {
        size_t c = i % cols;
        size_t gap = width[c] - fmt_width(t->cells[i]);
        bool last = c + 1 == cols || i + 1 == t->n;
        if (c == 0) {
            fputs(indent, out);
        }
        if (i < cols) {
            fputs(fmt_on(f, FMT_BOLD), out);
        }
        if (t->align[c] == FMT_RIGHT) {
            pad(out, gap);
        }
        fputs(t->cells[i], out);
        if (i < cols) {
            fputs(fmt_off(f), out);
        }
        if (last) {
            fputc('\n', out);
        } else {
            pad(out, (t->align[c] == FMT_LEFT ? gap : 0) + 2);
        }
    }
    if (t->broken) {
        fprintf(out, "%s(out of memory: the rest is not shown)\n", indent);
    }
    free(width);
}

void table_destroy(struct table *t)
{
    if (!t) {
        return;
    }
    for (size_t i = 0; i < t->n; i++) {
        free(t->cells[i]);
    }
    free(t->cells);
    free(t->align);
    free(t);
}

void fmt_shell(FILE *out, const char *s)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "@%+=:,./-_";

    if (*s && strspn(s, plain) == strlen(s)) {
        fputs(s, out);
        return;
    }
    fputc('\'', out);
    for (; *s; s++) {
        if (*s == '\'') {
            fputs("'\\''", out);
        } else {
            fputc(*s, out);
        }
    }
    fputc('\'', out);
}
