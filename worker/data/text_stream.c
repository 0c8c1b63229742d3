/* text_stream.c: see text_stream.h. zlib's gz* functions read plain files, too. */
#include "worker/data/text_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

struct text_stream {
    char *path;
    gzFile gz; /* plain and gzip */
    int fd;    /* zstd: the file; -1 otherwise */
    ZSTD_DStream *z;
    ZSTD_inBuffer in;
    char *in_buf;
    bool in_frame; /* zstd: the last frame has not ended */
};

static int fail_at(const struct text_stream *s, struct dha_err *e)
{
    if (e)
        snprintf(e->path, sizeof e->path, "%.255s", s->path);
    return -1;
}

static int open_zstd(struct text_stream *s, struct dha_err *e)
{
    s->z = ZSTD_createDStream();
    s->in_buf = malloc(ZSTD_DStreamInSize());
    if (!s->z || !s->in_buf)
        return dha_fail(e, DHA_E_NO_MEMORY, "%s: no memory to decompress", s->path);
    ZSTD_initDStream(s->z);
    s->in.src = s->in_buf;
    return 0;
}

int text_stream_open(struct text_stream **out, const char *path, struct dha_err *e)
{
    static const unsigned char zstd_magic[4] = {0x28, 0xb5, 0x2f, 0xfd};
    unsigned char magic[4] = {0};
    struct stat st;
    *out = NULL;
    struct text_stream *s = calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
    }
    s->fd = open(path, O_RDONLY | O_CLOEXEC);
    if (s->fd < 0) {
        dha_fail_errno(e, errno, "opening %s", path);
        goto fail;
    }
    if (fstat(s->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        dha_fail(e, DHA_E_INPUT, "%s is not a file", path);
        goto fail;
    }
    ssize_t got = pread(s->fd, magic, sizeof magic, 0);
    if (got < 0) {
        dha_fail_errno(e, errno, "reading %s", path);
        goto fail;
    }
    if (got == 4 && memcmp(magic, zstd_magic, 4) == 0) {
        if (open_zstd(s, e) < 0)
            goto fail;
    } else {
        s->gz = gzdopen(s->fd, "rb");
        if (!s->gz) {
            dha_fail(e, DHA_E_NO_MEMORY, "no memory to read %s", path);
            goto fail;
        }
        s->fd = -1; /* gz closes it */
        gzbuffer(s->gz, 1u << 17);
    }
    *out = s;
    return 0;
fail:
    fail_at(s, e);
    text_stream_close(s);
    return -1;
}

void text_stream_close(struct text_stream *s)
{
    if (!s)
        return;
    if (s->gz)
        gzclose_r(s->gz);
    if (s->fd >= 0)
        close(s->fd);
    ZSTD_freeDStream(s->z);
    free(s->in_buf);
    free(s->path);
    free(s);
}

static ssize_t read_gz(struct text_stream *s, char *buf, size_t n, struct dha_err *e)
{
    size_t done = 0;
    while (done < n) {
        size_t want = n - done < 1u << 30 ? n - done : 1u << 30;
        int k = gzread(s->gz, buf + done, (unsigned)want);
        int status;
        const char *why = gzerror(s->gz, &status);
        /* a truncated gzip file gives its bytes and Z_BUF_ERROR */
        if (k < 0 || (status != Z_OK && status != Z_STREAM_END)) {
            if (status == Z_ERRNO)
                dha_fail_errno(e, errno, "reading %s", s->path);
            else
                dha_fail(e, DHA_E_INPUT, "%s: damaged or truncated gzip data (%.80s)", s->path,
                         why);
            return fail_at(s, e);
        }
        if (k == 0)
            break;
        done += (size_t)k;
    }
    return (ssize_t)done;
}

/* 1: more input is there, 0: the end of the file, -1 */
static int refill(struct text_stream *s, struct dha_err *e)
{
    ssize_t k;
    do
        k = read(s->fd, s->in_buf, ZSTD_DStreamInSize());
    while (k < 0 && errno == EINTR);
    if (k < 0) {
        dha_fail_errno(e, errno, "reading %s", s->path);
        return fail_at(s, e);
    }
    s->in.size = (size_t)k;
    s->in.pos = 0;
    return k > 0;
}

static ssize_t read_zstd(struct text_stream *s, char *buf, size_t n, struct dha_err *e)
{
    ZSTD_outBuffer out = {buf, n, 0};
    while (out.pos < n) {
        size_t made = out.pos, used = s->in.pos;
        size_t left = ZSTD_decompressStream(s->z, &out, &s->in);
        if (ZSTD_isError(left)) {
            dha_fail(e, DHA_E_INPUT, "%s: damaged zstd data (%s)", s->path,
                     ZSTD_getErrorName(left));
            return fail_at(s, e);
        }
        if (left == 0)
            s->in_frame = false;
        else if (out.pos > made || s->in.pos > used)
            s->in_frame = true;
        if (s->in.pos < s->in.size || out.pos > made)
            continue;
        int more = refill(s, e);
        if (more < 0)
            return -1;
        if (more == 0)
            break;
    }
    if (out.pos < n && s->in_frame) {
        dha_fail(e, DHA_E_INPUT, "%s: truncated zstd data", s->path);
        return fail_at(s, e);
    }
    return (ssize_t)out.pos;
}

ssize_t text_stream_read(struct text_stream *s, char *buf, size_t n, struct dha_err *e)
{
    return s->gz ? read_gz(s, buf, n, e) : read_zstd(s, buf, n, e);
}
