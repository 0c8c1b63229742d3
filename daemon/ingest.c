/* ingest.c: see ingest.h. */
#include "daemon/ingest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/failpoint.h"
#include "daemon/log.h"
#include "daemon/runas.h"

/* Enough for a second of the chattiest worker; a longer line than a record may be ends up split, and
 * both halves in lost_found. */
enum { CHUNK = 4 * RECORD_MAX, BATCH = 128 };
/* Lines set aside for one attempt by one daemon, and bytes kept of each. */
enum { ASIDE_MAX = 100, ASIDE_BYTES = 16384 };
/* So long one journal may keep a turn; the next tick goes on. */
#define SLICE_NS UINT64_C(20000000)

static int open_journal(struct ingest *in, struct dha_err *e)
{
    char path[4200];
    if (in->fd >= 0 || in->closed) {
        return 0;
    }
    int n = snprintf(path, sizeof path, "%s/" JOURNAL_FILE, in->dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return dha_fail(e, DHA_E_INTERNAL, "the attempt's path is too long");
    }
    in->fd = runas_open(path, O_RDONLY);
    if (in->fd < 0 && errno != ENOENT && !runas_spoiled(path, errno)) {
        return dha_fail_errno(e, errno, "cannot open %s", path);
    }
    in->lost = in->fd < 0 && (in->offset > 0 || errno != ENOENT);
    return 0;
}

/* Is the path below the stage's own OUT_DIR? A worker may say anything; what it names elsewhere is somebody else's. */
static bool is_own(const struct ingest *in, const char *path)
{
    const char *last = strrchr(in->dir, '/'); /* .../KIND/aN; beside it: out */
    size_t n = last ? (size_t)(last - in->dir) : 0, len = strlen(path);
    return n > 0 && strncmp(path, in->dir, n) == 0 && strncmp(path + n, "/out/", 5) == 0 &&
           !strstr(path, "/../") && !(len >= 3 && strcmp(path + len - 3, "/..") == 0);
}

/* A checkpoint is only believed when its manifest is where the record says, or nothing is any more: the worker may have
 * removed it before we came to read of it. NULL: it is believed; else why not. */
static const char *checkpoint_fault(const struct ingest *in, const struct record *r)
{
    char path[600];
    struct stat st;
    if (!is_own(in, r->checkpoint.path)) {
        return "the checkpoint it announces is not one of its own stage";
    }
    snprintf(path, sizeof path, "%s/manifest.json", r->checkpoint.path);
    if (runas_stat(path, &st) == 0 && S_ISREG(st.st_mode)) {
        return NULL;
    }
    const char *name = strrchr(r->checkpoint.path, '/');
    bool removed = runas_stat(r->checkpoint.path, &st) != 0 && errno == ENOENT &&
                   strncmp(name, "/step-", 6) == 0;
    return removed ? NULL : "the checkpoint it announces has no manifest.json";
}

/* A worker that has told of a checkpoint then removes older ones (worker/train/ckpt.c) and does not say so. What is listed
 * as complete must be there, so who is gone is looked for when a newer one comes, with the first record after it (the same
 * process writes it, so by then they are gone), and at the end. */
static int note_removed(struct daemon *d, int64_t attempt, struct dha_err *e)
{
    struct store_attempt a;
    struct store_checkpoint *ck;
    size_t n;
    if (store_attempt_get(d->store, attempt, &a, e) != 0) {
        return -1;
    }
    int rc = store_checkpoints(d->store, 0, a.stage, &ck, &n, e);
    store_attempt_finish(&a);
    if (rc != 0) {
        return -1;
    }
    for (size_t i = 0; i < n && rc == 0; i++) {
        struct stat st;
        if (strcmp(ck[i].state, "complete") == 0 && runas_stat(ck[i].path, &st) != 0 &&
            errno == ENOENT) {
            rc = store_checkpoint_mark(d->store, ck[i].id, "deleted", now_us(), e);
        }
    }
    free(ck);
    return rc;
}

/* A worker (or a library that prints to stdout) may write without end: some of it is kept, the rest passed over. */
static void set_aside(struct daemon *d, struct ingest *in, const char *line, size_t len, int64_t at,
                      const char *why)
{
    char origin[96];
    struct dha_err e = {0};
    if (in->aside > ASIDE_MAX) {
        return;
    }
    if (in->aside++ == ASIDE_MAX) {
        why = "more lines that are no records: they are passed over and not kept";
    }
    len = len < ASIDE_BYTES ? len : ASIDE_BYTES;
    snprintf(origin, sizeof origin, "attempt %lld, journal byte %lld", (long long)in->attempt,
             (long long)at);
    log_warn("%s: set aside: %s", origin, why);
    if (store_lost_found_add(d->store, origin, line, len, why, now_us(), &e) != 0) {
        log_fail("lost_found", &e);
    }
}

/* Of a newer worker: nothing is lost by skipping it but what it says. Said once an attempt. */
static void note_unknown(struct daemon *d, struct ingest *in, const char *line, size_t len)
{
    struct dha_err e = {0};
    struct store_attempt a;
    if (in->said_unknown) {
        return;
    }
    in->said_unknown = true;
    cJSON *doc = json_parse(line, len, NULL, &e), *data = cJSON_CreateObject();
    const char *type = json_str(doc, "t", "?");
    log_warn(
        "attempt %lld: records of type \"%.40s\" are not known to this version and are skipped",
        (long long)in->attempt, type);
    char *text = json_put_str(data, "type", type) == 0 ? json_text(data) : NULL;
    if (text && store_attempt_get(d->store, in->attempt, &a, &e) == 0) {
        if (store_event_add(d->store, "record.unknown", a.job, a.stage, a.number, text, now_us(),
                            NULL, &e) != 0) {
            log_fail("event", &e);
        }
        store_attempt_finish(&a);
    }
    free(text);
    cJSON_Delete(data);
    cJSON_Delete(doc);
}

/* One batch: whole lines of buf[0..len) from *pos on, at most BATCH records. `whole` is where the last whole
 * line ends. */
static int ingest_batch(struct daemon *d, struct ingest *in, const char *buf, size_t whole,
                        size_t *pos, struct record *batch, struct dha_err *e)
{
    size_t n = 0, at = *pos;
    bool checkpoints = false;
    while (at < whole && n < BATCH) {
        const char *nl = memchr(buf + at, '\n', whole - at);
        size_t len = (size_t)(nl - (buf + at));
        struct dha_err bad = {0};
        const char *fault;
        if (len > 0) {
            int parsed = record_parse(buf + at, len, &batch[n], &bad);
            in->worked |= parsed == 0 && batch[n].time > in->away_from &&
                          batch[n].time < in->away_to;
            if (parsed != 0) {
                set_aside(d, in, buf + at, len, in->offset + (int64_t)(at - *pos), bad.msg);
            } else if (batch[n].type == REC_CHECKPOINT &&
                       (fault = checkpoint_fault(in, &batch[n])) != NULL) {
                set_aside(d, in, buf + at, len, in->offset + (int64_t)(at - *pos), fault);
            } else if (batch[n].type != REC_UNKNOWN) {
                checkpoints |= batch[n].type == REC_CHECKPOINT;
                d->want_watch |= batch[n].type == REC_EVAL &&
                                 strcmp(batch[n].eval.name, "valid") == 0;
                n++;
            } else {
                note_unknown(d, in, buf + at, len);
            }
        }
        at += len + 1;
    }
    int64_t to = in->offset + (int64_t)(at - *pos);
    bool stale = false;
    if (store_ingest(d->store, in->attempt, in->offset, to, batch, n, now_us(), &stale, e) != 0) {
        return -1;
    }
    if (stale) {
        struct store_attempt a;
        if (store_attempt_get(d->store, in->attempt, &a, e) != 0) {
            return -1;
        }
        log_warn("attempt %lld: the journal had been read to %lld, not %lld",
                 (long long)in->attempt, (long long)a.journal_offset, (long long)in->offset);
        in->offset = a.journal_offset;
        store_attempt_finish(&a);
        return 1;
    }
    in->offset = to;
    *pos = at;
    if (checkpoints || (in->retaining && n > 0)) {
        in->retaining = checkpoints;
        return note_removed(d, in->attempt, e);
    }
    return 0;
}

/* The lines of one chunk. Returns bytes consumed, or -1. */
static ssize_t ingest_chunk(struct daemon *d, struct ingest *in, char *buf, size_t len, bool final,
                            struct record *batch, struct dha_err *e)
{
    size_t whole = len;
    while (whole > 0 && buf[whole - 1] != '\n') {
        whole--;
    }
    size_t pos = 0;
    while (pos < whole) {
        int rc = ingest_batch(d, in, buf, whole, &pos, batch, e);
        if (rc != 0) {
            return rc < 0 ? -1 : 0;
        }
    }
    bool too_long = whole == 0 && len > RECORD_MAX;
    if (pos < len && (too_long || final)) {
        bool stale;
        set_aside(d, in, buf + pos, len - pos, in->offset,
                  too_long ? "a line longer than a record may be" : "the last line has no end");
        int64_t to = in->offset + (int64_t)(len - pos);
        if (store_ingest(d->store, in->attempt, in->offset, to, NULL, 0, now_us(), &stale, e) !=
            0) {
            return -1;
        }
        in->offset = to;
        pos = len;
    }
    return (ssize_t)pos;
}

/* Somebody cut it. Who writes it appends: what comes next is behind what is left. */
static int note_cut(struct daemon *d, struct ingest *in, int64_t size, struct dha_err *e)
{
    bool stale;
    char why[128];
    snprintf(why, sizeof why, "the journal was cut to %lld bytes: records may be lost",
             (long long)size);
    set_aside(d, in, "", 0, in->offset, why);
    if (store_ingest_back(d->store, in->attempt, in->offset, size, &stale, e) != 0) {
        return -1;
    }
    in->offset = stale ? in->offset : size;
    return 0;
}

static int read_on(struct daemon *d, struct ingest *in, bool final, struct dha_err *e)
{
    uint64_t end = uv_hrtime() + SLICE_NS;
    bool more = false;
    struct stat st;
    if (open_journal(in, e) != 0) {
        return -1;
    }
    if (in->fd < 0) {
        return 0;
    }
    if (fstat(in->fd, &st) != 0) {
        dha_fail_errno(e, errno, "cannot look at the journal in %s", in->dir);
        ingest_finish(in); /* of a file system that is gone: it may be mounted again */
        return -1;
    }
    if (st.st_size <= in->offset) {
        return st.st_size < in->offset ? note_cut(d, in, st.st_size, e) : 0;
    }
    int rc = -1;
    char *buf = malloc(CHUNK);
    struct record *batch = calloc(BATCH, sizeof *batch);
    if (!buf || !batch) {
        dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
        goto out;
    }
    for (;;) {
        ssize_t n = pread(in->fd, buf, CHUNK, in->offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            dha_fail_errno(e, errno, "cannot read the journal in %s", in->dir);
            ingest_finish(in);
            goto out;
        }
        /* Nothing is behind a short read: only there may a line be unfinished for good. */
        bool at_end = n < CHUNK;
        ssize_t used = n > 0 ? ingest_chunk(d, in, buf, (size_t)n, final && at_end, batch, e) : 0;
        if (used < 0) {
            goto out;
        }
        FAILPOINT(ingest_before_commit);
        if (used == 0 || at_end) {
            break;
        }
        if (uv_hrtime() >= end) {
            more = true;
            break;
        }
    }
    rc = more ? INGEST_MORE : 0;
out:
    free(batch);
    free(buf);
    return rc >= 0
               ? rc
               : dha_err_context(e, "reading the journal of attempt %lld", (long long)in->attempt);
}

int ingest_journal(struct daemon *d, struct ingest *in, bool final, struct dha_err *e)
{
    int rc = read_on(d, in, final, e);
    if (rc != 0) {
        return rc;
    }
    if (final && in->retaining) {
        in->retaining = false;
        return note_removed(d, in->attempt, e);
    }
    return 0;
}

void ingest_finish(struct ingest *in)
{
    if (in->fd >= 0) {
        close(in->fd);
    }
    in->fd = -1;
}
