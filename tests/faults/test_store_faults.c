/* test_store_faults.c: each turn of the scenario with each file operation and each allocation failing, one after
 * the other, until a run gets through without the fault. After each fault:
 *   - the call that failed said so, with a code and a text
 *   - on disk, as kill -9 would leave it, is what was acknowledged: the calls that succeeded of a turn whose
 *     commit said 0; nothing of a turn whose commit failed, or all of it (a sync that failed may have worked)
 *   - when the fault is over, the same process does the rest of the turn
 *   - fsck finds nothing, and nothing is set aside as damaged that was not
 * What must be there is not described a second time: the same calls are made without a fault, and all tables
 * compared. The same for opening (a new directory, a present one, one of each earlier version, a damaged one) and
 * for closing.
 *
 *   test_store_faults [files|memory|FAMILY] [TURN]      DHA_TORTURE=1: every point, no pool of memory
 */
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "faulty.h"
#include "scenario.h"
#include "store/db.h"

#define PATH     128
#define NOW_TEXT "1700000000000000" /* SCENARIO_NOW */

static const struct family {
    const char *group;
    enum faulty_op op;
    int rc;
    bool forever;
    bool torture; /* too much like another one for each day */
} families[] = {
    {"files", FAULTY_OPEN, SQLITE_CANTOPEN, false, false},
    {"files", FAULTY_OPEN, SQLITE_CANTOPEN, true, false},
    {"files", FAULTY_DELETE, SQLITE_IOERR_DELETE, false, false},
    {"files", FAULTY_DELETE, SQLITE_IOERR_DELETE, true, false},
    {"files", FAULTY_ACCESS, SQLITE_IOERR_ACCESS, false, false},
    {"files", FAULTY_PATH, SQLITE_CANTOPEN, false, false},
    {"files", FAULTY_READ, SQLITE_IOERR_READ, false, false},
    {"files", FAULTY_READ, SQLITE_IOERR_READ, true, false},
    {"files", FAULTY_WRITE, SQLITE_FULL, false, false},
    {"files", FAULTY_WRITE, SQLITE_FULL, true, false},
    {"files", FAULTY_WRITE, SQLITE_IOERR_WRITE, false, false},
    {"files", FAULTY_WRITE, SQLITE_IOERR_WRITE, true, true},
    {"files", FAULTY_TRUNCATE, SQLITE_IOERR_TRUNCATE, false, false},
    {"files", FAULTY_SYNC, SQLITE_IOERR_FSYNC, false, false},
    {"files", FAULTY_SYNC, SQLITE_IOERR_FSYNC, true, false},
    {"files", FAULTY_SIZE, SQLITE_IOERR_FSTAT, false, false},
    {"files", FAULTY_SIZE, SQLITE_IOERR_FSTAT, true, true},
    {"files", FAULTY_LOCK, SQLITE_BUSY, false, false},
    {"files", FAULTY_LOCK, SQLITE_IOERR_LOCK, false, false},
    {"files", FAULTY_UNLOCK, SQLITE_IOERR_UNLOCK, false, false},
    {"files", FAULTY_SHM_MAP, SQLITE_IOERR_SHMMAP, false, false},
    {"files", FAULTY_SHM_MAP, SQLITE_NOMEM, true, false},
    {"files", FAULTY_SHM_LOCK, SQLITE_BUSY, false, false},
    {"files", FAULTY_SHM_LOCK, SQLITE_BUSY, true, false},
    {"files", FAULTY_SHM_LOCK, SQLITE_IOERR_SHMLOCK, false, false},
    {"memory", FAULTY_ALLOC, SQLITE_NOMEM, false, false},
    {"memory", FAULTY_ALLOC, SQLITE_NOMEM, true, false},
};

static char top[64]; /* everything lies below it */
static char at[256]; /* what is being tested: for the message of a failure */
static long injected, failures;

__attribute__((format(printf, 1, 2))) static void complain(const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "%s: ", at);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    if (++failures >= (getenv("DHA_ALL") ? 1000 : 20))
        exit(1);
}

/* ---- directories ---- */

static void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *fmt, ...)
{
    char cmd[512];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(cmd, sizeof cmd, fmt, ap);
    va_end(ap);
    if (system(cmd) != 0) {
        fprintf(stderr, "%s\n", cmd);
        exit(1);
    }
}

static void empty_dir(const char *name)
{
    char path[PATH];
    snprintf(path, sizeof path, "%s/%s", top, name);
    DIR *d = mkdir(path, 0700) == 0 || errno == EEXIST ? opendir(path) : NULL;
    if (!d) {
        perror(path);
        exit(1);
    }
    for (struct dirent *f; (f = readdir(d));)
        if (f->d_name[0] != '.')
            unlinkat(dirfd(d), f->d_name, 0);
    closedir(d);
}

static void copy_file(const char *from, const char *to)
{
    static char buf[1 << 16];
    FILE *in = fopen(from, "rb");
    if (!in && errno == ENOENT) {
        unlink(to);
        return;
    }
    FILE *out = fopen(to, "wb");
    for (size_t n; in && out && (n = fread(buf, 1, sizeof buf, in)) > 0;)
        if (fwrite(buf, 1, n, out) != n)
            break;
    if (!in || !out || ferror(in) || fclose(out) != 0) {
        perror(to);
        exit(1);
    }
    fclose(in);
}

static const char *const files[] = {"state.db",
                                    "state.db-wal",
                                    "metrics.db",
                                    "metrics.db-wal",
                                    "state.db.damaged-" NOW_TEXT,
                                    "metrics.db.damaged-" NOW_TEXT};
enum { FILES_KEPT = 4 };

/* A state directory as it is this moment, less the lock and the shared memory: what kill -9 leaves. */
static void image(const char *from, const char *to)
{
    char a[PATH], b[PATH];
    empty_dir(to);
    for (size_t i = 0; i < FILES_KEPT; i++) {
        snprintf(a, sizeof a, "%s/%s/%s", top, from, files[i]);
        snprintf(b, sizeof b, "%s/%s/%s", top, to, files[i]);
        copy_file(a, b);
    }
}

/* ---- all that a store holds, as text ---- */

static void dump_query(sqlite3 *db, const char *sql, FILE *out)
{
    sqlite3_stmt *q;
    int rc;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", sql, sqlite3_errmsg(db));
        exit(1);
    }
    while ((rc = sqlite3_step(q)) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            const char *text = (const char *)sqlite3_column_text(q, i);
            fprintf(out, "%s|", text ? text : "~");
        }
        fputc('\n', out);
    }
    if (rc != SQLITE_DONE)
        complain("%s: %s", sql, sqlite3_errmsg(db));
    sqlite3_finalize(q);
}

/* Events by their order, not their number: one that says that points were lost may be among them. */
static char *dump(struct store *s)
{
    static const char *const tables[] = {
        "job",        "stage",       "attempt", "allocation", "node",        "slot",  "outbox",
        "checkpoint", "head_budget", "eval",    "lost_found", "idempotency", "sweep", "sweep_key"};
    char *text = NULL, sql[96];
    size_t size;
    FILE *out = open_memstream(&text, &size);
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
        fprintf(out, "== %s\n", tables[i]);
        snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY 1, 2, 3", tables[i]);
        dump_query(s->db, sql, out);
    }
    fprintf(out, "== event\n");
    dump_query(s->db,
               "SELECT time_us, type, job, stage, attempt, data FROM event"
               " WHERE type <> 'store.metrics_lost' ORDER BY seq",
               out);
    fclose(out);
    return text;
}

static char *dump_metrics(struct store *s)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    dump_query(s->metrics, "SELECT attempt, name, step, tokens, value FROM metric", out);
    fclose(out);
    return text;
}

static int count(struct store *s, const char *sql)
{
    sqlite3_stmt *q;
    int n = -1;
    if (sqlite3_prepare_v2(s->db, sql, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
        n = sqlite3_column_int(q, 0);
    sqlite3_finalize(q);
    return n;
}

struct problems {
    int n;
    char first[512];
};

static void on_problem(void *arg, const char *problem)
{
    struct problems *p = arg;
    if (p->n++ == 0)
        snprintf(p->first, sizeof p->first, "%s", problem);
}

/* Is every line of `some` one of `all`? */
static bool lines_in(const char *some, const char *all)
{
    while (*some) {
        size_t n = strcspn(some, "\n") + 1;
        const char *p = all;
        while (*p && strncmp(p, some, n) != 0)
            p += strcspn(p, "\n") + 1;
        if (!*p)
            return false;
        some += n;
    }
    return true;
}

static void differ(const char *when, const char *is, const char *want)
{
    size_t i = 0, line = 0;
    for (; is[i] && is[i] == want[i]; i++)
        if (is[i] == '\n')
            line = i + 1;
    complain("%s:\n  is   %.*s\n  want %.*s", when, (int)strcspn(is + line, "\n"), is + line,
             (int)strcspn(want + line, "\n"), want + line);
}

/* ---- what must be there ---- */

struct outcome {
    char *key; /* "turn:first calls:rest" */
    char *state, *metrics;
    unsigned ok;  /* which of the calls succeeded */
    int problems; /* that fsck finds: some calls make no sense without others */
};
static struct outcome outcomes[1024];
static size_t n_outcomes;

static struct store *open_dir(const char *name)
{
    char path[PATH];
    struct store *s;
    struct dha_err e = {0};
    snprintf(path, sizeof path, "%s/%s", top, name);
    if (store_open(path, STORE_ALLOW_NETWORK_FS, SCENARIO_NOW, &s, &e) != 0) {
        complain("%s cannot be opened without a fault: %s", name, e.msg);
        exit(1);
    }
    return s;
}

/* The calls of `mask`; returns those that succeeded. A failure without a word is one of ours. */
static unsigned run_calls(struct store *s, int turn, unsigned mask)
{
    unsigned ok = 0;
    for (unsigned i = 0; i < SCENARIO_CALLS && scenario[turn].call[i].name; i++) {
        struct dha_err e = {0};
        if (!(mask & 1u << i))
            continue;
        if (scenario[turn].call[i].run(s, &e) == 0)
            ok |= 1u << i;
        else if (e.code == DHA_E_OK || e.msg[0] == '\0')
            complain("%s failed without saying why", scenario[turn].call[i].name);
    }
    return ok;
}

static unsigned all_calls(int turn)
{
    unsigned mask = 0;
    for (unsigned i = 0; i < SCENARIO_CALLS && scenario[turn].call[i].name; i++)
        mask |= 1u << i;
    return mask;
}

/* First some of the calls, then a commit, then the rest (0 = none) and a commit, without a fault. */
static const struct outcome *expected(int turn, unsigned first, unsigned rest)
{
    char key[64], from[32];
    struct dha_err e = {0};
    snprintf(key, sizeof key, "%d:%x:%x", turn, first, rest);
    for (size_t i = 0; i < n_outcomes; i++)
        if (strcmp(outcomes[i].key, key) == 0)
            return &outcomes[i];
    if (n_outcomes == sizeof outcomes / sizeof outcomes[0]) {
        fprintf(stderr, "too many outcomes\n");
        exit(1);
    }
    snprintf(from, sizeof from, "snap%d", turn);
    image(from, "model");
    struct store *s = open_dir("model");
    struct outcome *o = &outcomes[n_outcomes++];
    o->key = strdup(key);
    o->ok = run_calls(s, turn, first);
    if (store_commit(s, &e) != 0)
        complain("the model: %s", e.msg);
    if (rest)
        o->ok |= run_calls(s, turn, rest);
    if (store_commit(s, &e) != 0)
        complain("the model: %s", e.msg);
    o->state = dump(s);
    o->metrics = dump_metrics(s);
    o->problems = store_fsck(s, NULL, NULL, &e);
    store_close(s);
    return o;
}

/* Most faults leave byte for byte what another one left: that needs no second look. */
static uint64_t digest(const char *name, const void *a, const void *b, const void *c)
{
    const void *with[] = {a, b, c};
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    char path[PATH], buf[4096];
    for (size_t i = 0; i < sizeof with; i++)
        h = (h ^ ((const unsigned char *)with)[i]) * UINT64_C(0x100000001b3);
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", top, name, files[i]);
        FILE *f = fopen(path, "rb");
        for (size_t n; f && (n = fread(buf, 1, sizeof buf, f)) > 0;)
            for (size_t j = 0; j < n; j++)
                h = (h ^ (unsigned char)buf[j]) * UINT64_C(0x100000001b3);
        if (f)
            fclose(f);
        h = (h ^ (f ? 1 : 2)) * UINT64_C(0x100000001b3);
    }
    return h;
}

static bool seen_before(uint64_t id, bool keep)
{
    static uint64_t ids[1 << 14];
    size_t at_ = id % (sizeof ids / sizeof ids[0]);
    if (keep)
        ids[at_] = id;
    return ids[at_] == id;
}

/* The states of a directory that may be; NULL = there is no second one. Points of records that are taken down in the next
 * try may be there already. */
static void check_dir(const char *name, const char *when, const struct outcome *a,
                      const struct outcome *b, const char *more_points)
{
    char dir[PATH];
    struct dha_err e = {0};
    struct problems found = {0};
    long before = failures;
    uint64_t id = digest(name, a, b, more_points);
    if (seen_before(id, false))
        return;
    struct store *s = open_dir(name);
    if (store_fsck(s, on_problem, &found, &e) < 0)
        complain("%s: fsck: %s", when, e.msg);
    if (found.n != a->problems && (!b || found.n != b->problems))
        complain("%s: fsck finds %d problems, not %d: %s", when, found.n, a->problems, found.first);
    char *is = dump(s), *metrics = dump_metrics(s);
    if (strcmp(is, a->state) != 0 && (!b || strcmp(is, b->state) != 0))
        differ(when, is, a->state);
    if (!b && !lines_in(metrics, more_points ? more_points : a->metrics))
        differ("points that nobody made", metrics, a->metrics);
    if (!b && !lines_in(a->metrics, metrics) &&
        count(s, "SELECT count(*) FROM event WHERE type = 'store.metrics_lost'") == 0)
        differ("points are lost, and nobody said it", metrics, a->metrics);
    free(is);
    free(metrics);
    store_close(s);
    snprintf(dir, sizeof dir, "%s/%s/state.db.damaged-%lld", top, name, (long long)SCENARIO_NOW);
    if (access(dir, F_OK) == 0)
        complain("%s: a sound database was put aside", when);
    if (failures == before)
        seen_before(id, true);
}

/* ---- one fault in a turn ---- */

static void remove_copies(void)
{
    char dir[PATH];
    snprintf(dir, sizeof dir, "%s/work/backup", top);
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));)
        if (f->d_name[0] != '.')
            unlinkat(dirfd(d), f->d_name, 0);
    if (d)
        closedir(d);
}

static bool fault_in_turn(int turn, const struct faulty *f)
{
    char from[32];
    struct dha_err e = {0};
    unsigned all = all_calls(turn);
    snprintf(from, sizeof from, "snap%d", turn);
    image(from, "work");
    struct store *s = open_dir("work");
    faulty_arm(f);
    unsigned ok = run_calls(s, turn, all);
    bool committed = store_commit(s, &e) == 0;
    bool fired = faulty_disarm();
    if (!committed && (e.code == DHA_E_OK || !e.msg[0]))
        complain("the commit failed without saying why");
    image("work", "killed");
    /* the fault is over: the same process goes on */
    unsigned rest = committed ? all & ~ok : all;
    unsigned ok_rest = run_calls(s, turn, rest);
    struct dha_err later = {0};
    if (store_commit(s, &later) != 0)
        complain("it does not go on after the fault: %s", later.msg);
    store_close(s);
    const struct outcome *done = expected(turn, ok, 0), *none = expected(turn, 0, 0);
    check_dir("killed", "after kill -9", committed ? done : none, committed ? NULL : done,
              expected(turn, all, 0)->metrics);
    const struct outcome *end = committed ? expected(turn, ok, rest) : expected(turn, all, 0);
    if ((committed ? ok | ok_rest : ok_rest) != end->ok)
        complain("after the fault calls %x succeed, not %x", ok | ok_rest, end->ok);
    check_dir("work", "in the end", end, NULL, NULL);
    return fired;
}

/* ---- one fault while opening or closing ---- */

static bool fault_in_close(int turn, const struct faulty *f)
{
    char from[32];
    struct dha_err e = {0};
    snprintf(from, sizeof from, "snap%d", turn);
    image(from, "work");
    struct store *s = open_dir("work");
    unsigned ok = run_calls(s, turn, all_calls(turn));
    if (store_commit(s, &e) != 0)
        complain("commit: %s", e.msg);
    faulty_arm(f);
    store_close(s);
    bool fired = faulty_disarm();
    check_dir("work", "closed", expected(turn, ok, 0), NULL, NULL);
    return fired;
}

static struct outcome opened; /* what opening leaves without a fault */

static void open_once(const char *from, struct outcome *o)
{
    image(from, "work");
    struct store *s = open_dir("work");
    free(o->state);
    free(o->metrics);
    o->state = dump(s);
    o->metrics = dump_metrics(s);
    o->problems = store_fsck(s, NULL, NULL, NULL);
    store_close(s);
}

/* A damaged file may be repaired in the second try: then the note about it has that time. */
static bool fault_in_open(const char *from, bool damaged, const struct faulty *f)
{
    char path[PATH];
    struct dha_err e = {0};
    struct store *s = NULL;
    image(from, "work");
    snprintf(path, sizeof path, "%s/work", top);
    faulty_arm(f);
    int rc = store_open(path, STORE_ALLOW_NETWORK_FS, SCENARIO_NOW, &s, &e);
    bool fired = faulty_disarm();
    if ((rc == 0) != (s != NULL))
        complain("store_open() says %d and gives %p", rc, (void *)s);
    if (rc != 0 && (e.code == DHA_E_OK || !e.msg[0]))
        complain("opening failed without saying why");
    image("work", "killed");
    store_close(s);
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "work" : "killed";
        if (damaged) {
            /* two repairs a point took most of the time: what is byte for byte what was looked at needs none */
            uint64_t id = digest(name, &opened, NULL, NULL);
            long before = failures;
            if (seen_before(id, false))
                continue;
            s = open_dir(name);
            char *is = dump(s);
            if (strcmp(is, opened.state) != 0)
                differ(i ? "repaired" : "repaired after kill -9", is, opened.state);
            free(is);
            store_close(s);
            if (failures == before)
                seen_before(id, true);
        } else {
            check_dir(name, i ? "opened again" : "opened after kill -9", &opened, NULL, NULL);
        }
    }
    return fired;
}

/* The version and the jobs in a state.db as it lies there, without opening it as a store. */
static void look_at(const char *path, int *version, int *jobs)
{
    sqlite3 *db;
    sqlite3_stmt *q = NULL;
    *version = *jobs = -1;
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(db,
                           "SELECT (SELECT user_version FROM pragma_user_version),"
                           " (SELECT count(*) FROM job)"
                           " WHERE (SELECT quick_check FROM pragma_quick_check) = 'ok'",
                           -1, &q, NULL) == SQLITE_OK &&
        sqlite3_step(q) == SQLITE_ROW) {
        *version = sqlite3_column_int(q, 0);
        *jobs = sqlite3_column_int(q, 1);
    }
    sqlite3_finalize(q);
    sqlite3_close(db);
}

/* What is kept of the version before is whole, or not there. */
static void check_copies(int version, int jobs)
{
    char dir[PATH], path[PATH + 300];
    int is_version, is_jobs, copies = 0;
    snprintf(dir, sizeof dir, "%s/work/backup", top);
    DIR *d = opendir(dir);
    for (struct dirent *f; d && (f = readdir(d));) {
        if (f->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
        look_at(path, &is_version, &is_jobs);
        if (is_version != version || is_jobs != jobs)
            complain("the copy %s is of version %d and has %d jobs", f->d_name, is_version,
                     is_jobs);
        copies++;
    }
    if (d)
        closedir(d);
    if (copies > 1)
        complain("%d copies of one upgrade", copies);
}

/* Opening a directory of an earlier version. At any point there is that version or a later one, whole; and the next try
 * makes of it what an upgrade without a fault does. */
static bool fault_in_upgrade(const char *from, int version, const struct faulty *f)
{
    char path[PATH];
    int jobs, is_version, is_jobs;
    remove_copies();
    snprintf(path, sizeof path, "%s/%s/state.db", top, from);
    look_at(path, &is_version, &jobs);
    bool fired = fault_in_open(from, false, f);
    check_copies(version, jobs);
    if (is_version != version)
        complain("%s is of version %d", from, is_version);
    /* fault_in_open() opened "killed" and compared it; here it is made again and only looked at */
    struct dha_err e = {0};
    struct store *s = NULL;
    remove_copies();
    image(from, "work");
    snprintf(path, sizeof path, "%s/work", top);
    faulty_arm(f);
    int rc = store_open(path, STORE_ALLOW_NETWORK_FS, SCENARIO_NOW, &s, &e);
    faulty_disarm();
    image("work", "killed");
    store_close(s);
    snprintf(path, sizeof path, "%s/killed/state.db", top);
    look_at(path, &is_version, &is_jobs);
    if (is_version < version || is_version > STORE_SCHEMA || is_jobs != jobs ||
        (rc == 0 && is_version != STORE_SCHEMA))
        complain("what a kill leaves is of version %d and has %d jobs, not %d", is_version, is_jobs,
                 jobs);
    return fired;
}

/* ---- enumeration ---- */

enum where { TURN, CLOSE, EMPTY, PRESENT, OLD_1, OLD_2, OLD_3, DAMAGED, WHERES };
static const char *const where_names[] = {
    [TURN] = "turn",     [CLOSE] = "close",   [EMPTY] = "open-new", [PRESENT] = "open",
    [OLD_1] = "open-v1", [OLD_2] = "open-v2", [OLD_3] = "open-v3",  [DAMAGED] = "open-damaged",
};
_Static_assert(sizeof where_names / sizeof where_names[0] == WHERES, "a name for each place");

static long enumerate(const struct family *fam, enum where where, int turn)
{
    long n = 1;
    for (bool fired = true; fired; n++) {
        sqlite3_randomness(0, NULL);
        const struct faulty f = {.op = fam->op, .rc = fam->rc, .n = n, .forever = fam->forever};
        snprintf(at, sizeof at, "%s%s%s, %s %ld (%s) fails%s", where_names[where],
                 where <= CLOSE ? " " : "", where <= CLOSE ? scenario[turn].name : "",
                 faulty_op_name(fam->op), n, sqlite3_errstr(fam->rc),
                 fam->forever ? " from then on" : "");
        switch (where) {
        case TURN: fired = fault_in_turn(turn, &f); break;
        case CLOSE: fired = fault_in_close(turn, &f); break;
        case EMPTY: fired = fault_in_open("empty", false, &f); break;
        case PRESENT: fired = fault_in_open("last", false, &f); break;
        case OLD_1: fired = fault_in_upgrade("v1", 1, &f); break;
        case OLD_2: fired = fault_in_upgrade("v2", 2, &f); break;
        case OLD_3: fired = fault_in_upgrade("v3", 3, &f); break;
        case DAMAGED: fired = fault_in_open("damaged", true, &f); break;
        case WHERES: break;
        }
        injected += fired;
        if (n % 5000 == 0)
            fprintf(stderr, "%s ...\n", at); /* long runs: how far */
    }
    return n - 2;
}

/* snap0, snap1 ... : what each turn begins with; "last": all of it. */
static void take_snapshots(void)
{
    char name[32], next[32];
    struct dha_err e = {0};
    shell("mkdir %s/empty", top);
    image("empty", "work");
    store_close(open_dir("work"));
    image("work", "snap0");
    for (int i = 0; i < scenario_turns; i++) {
        snprintf(name, sizeof name, "snap%d", i);
        snprintf(next, sizeof next, "snap%d", i + 1);
        image(name, "work");
        struct store *s = open_dir("work");
        if (run_calls(s, i, all_calls(i)) != all_calls(i) || store_commit(s, &e) != 0)
            complain("turn %s fails without a fault: %s", scenario[i].name, e.msg);
        store_close(s);
        image("work", next);
    }
    image(next, "last");
}

/* One page in the middle, so that some of the rows are gone and most are not. */
static void damage(void)
{
    char path[PATH], junk[4096];
    sqlite3 *db;
    sqlite3_stmt *q;
    long page = 0;
    image("last", "damaged");
    snprintf(path, sizeof path, "%s/damaged/state.db", top);
    if (sqlite3_open(path, &db) == SQLITE_OK &&
        sqlite3_prepare_v2(db, "SELECT rootpage FROM sqlite_schema WHERE name = 'checkpoint'", -1,
                           &q, NULL) == SQLITE_OK) {
        if (sqlite3_step(q) == SQLITE_ROW)
            page = sqlite3_column_int(q, 0);
        sqlite3_finalize(q);
    }
    sqlite3_close(db);
    memset(junk, 0x5a, sizeof junk);
    FILE *f = fopen(path, "r+b");
    if (!f || page == 0 || fseek(f, (page - 1) * 4096, SEEK_SET) != 0 ||
        fwrite(junk, sizeof junk, 1, f) != 1 || fclose(f) != 0) {
        perror(path);
        exit(1);
    }
}

/* A directory as that version left it. */
static void make_old(int version)
{
    char name[16], path[PATH];
    sqlite3 *db = NULL;
    snprintf(name, sizeof name, "v%d", version);
    empty_dir(name);
    snprintf(path, sizeof path, "%s/state-v%d.sql", STATE_DIR, version);
    FILE *in = fopen(path, "r");
    char *sql = calloc(1, 1 << 20);
    size_t n = in && sql ? fread(sql, 1, (1 << 20) - 1, in) : 0;
    snprintf(path, sizeof path, "%s/%s/state.db", top, name);
    if (n < 10000 || sqlite3_open(path, &db) != SQLITE_OK ||
        sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
        fprintf(stderr, "%s: %s\n", path, db ? sqlite3_errmsg(db) : "no dump of it");
        exit(1);
    }
    sqlite3_close(db);
    free(sql);
    fclose(in);
}

/* Every day: each allocation once everywhere but where there are thousands that are SQLite's own (the schema, the repair);
 * from then on only where something changes. */
static bool each_day(const struct family *fam, enum where where, int turn)
{
    bool reads = where == TURN && strcmp(scenario[turn].name, "read") == 0;
    if (fam->op != FAULTY_ALLOC)
        return !fam->torture;
    return fam->forever ? where == TURN && !reads : where <= CLOSE || where == PRESENT;
}

int main(int argc, char **argv)
{
    const char *only = argc > 1 ? argv[1] : "", *only_turn = argc > 2 ? argv[2] : "";
    bool torture = getenv("DHA_TORTURE");
    const char *base = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";
    snprintf(top, sizeof top, "%s/dha-faults-XXXXXX", base);
    if (!mkdtemp(top)) {
        perror(top);
        return 1;
    }
    faulty_install();
    take_snapshots();
    damage();
    for (int v = 1; v <= 3; v++)
        make_old(v);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const struct family *fam = &families[i];
        long n = 0;
        if ((*only && strcmp(only, fam->group) != 0 &&
             strcmp(only, faulty_op_name(fam->op)) != 0) ||
            (fam->torture && !torture))
            continue;
        for (int turn = 0; turn < scenario_turns; turn++)
            if (*only_turn ? strcmp(only_turn, scenario[turn].name) == 0
                           : torture || each_day(fam, TURN, turn))
                n += enumerate(fam, TURN, turn);
        for (enum where w = CLOSE; w < WHERES; w++) {
            if (*only_turn ? strcmp(only_turn, where_names[w]) != 0
                           : !torture && !each_day(fam, w, 4))
                continue;
            if (w >= EMPTY)
                open_once(w == EMPTY     ? "empty"
                          : w == PRESENT ? "last"
                          : w == DAMAGED ? "damaged"
                                         : where_names[w] + strlen("open-"),
                          &opened);
            n += enumerate(fam, w, 4);
        }
        printf("%-8s %-28s %-12s %6ld points\n", faulty_op_name(fam->op), sqlite3_errstr(fam->rc),
               fam->forever ? "from then on" : "once", n);
        fflush(stdout);
    }
    printf("%ld faults, %ld failures\n", injected, failures);
    if (!getenv("DHA_KEEP"))
        shell("rm -rf %s", top);
    return failures != 0;
}
