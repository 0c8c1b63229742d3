/* test_store_power.c: the power goes at every write, sync, truncation and removal of the scenario. What is then on the
 * disk: all that was synced, and of what was not any part, down to sectors of 512 bytes. Whatever it is:
 *   - the store opens, sets nothing aside that anybody was told of, and fsck finds nothing
 *   - state.db holds what was acknowledged (turns whose commit said 0), or that and the turn that was being
 *     committed; nothing in between
 *   - metrics.db (synchronous=NORMAL) opens; it may lack the newest points, it has none twice and none that never was
 *
 * One run is recorded as a log of operations (faulty.h, with nothing armed); the disks are made from the log
 * afterwards. A file's name is taken to be on the disk once the file was synced (SQLite syncs the directory for it); a
 * removal may be undone unless the directory was to be synced with it.
 *
 *   test_store_power [normal]     normal: state.db with synchronous=NORMAL, which must be found out
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "faulty.h"
#include "scenario.h"
#include "store/db.h"

enum { SECTOR = 512, RANDOM_DISKS = 6, FILES = 4, TURNS = 32 };

static char top[64];
static const char *const names[FILES] = {"state.db", "state.db-wal", "metrics.db",
                                         "metrics.db-wal"};

/* ---- the log ---- */

struct op {
    enum faulty_op kind; /* WRITE, TRUNCATE, SYNC, DELETE */
    int file;
    sqlite3_int64 at; /* TRUNCATE: the size */
    int n;            /* DELETE: 1 = with a sync of the directory */
    unsigned char *data;
};
static struct op *ops;
static size_t n_ops, cap_ops;
static bool recording;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void record_op(struct op o, const void *data)
{
    if (!recording || o.file < 0)
        return;
    if (n_ops == cap_ops) {
        cap_ops = cap_ops ? 2 * cap_ops : 1024;
        ops = realloc(ops, cap_ops * sizeof *ops);
        if (!ops)
            fail("log");
    }
    if (data) {
        o.data = malloc((size_t)o.n);
        if (!o.data)
            fail("log");
        memcpy(o.data, data, (size_t)o.n);
    }
    ops[n_ops++] = o;
}

static int file_of(const char *path)
{
    const char *name = path ? strrchr(path, '/') : NULL;
    for (int i = 0; name && i < FILES; i++)
        if (strcmp(name + 1, names[i]) == 0)
            return i;
    return -1;
}

static void look(const struct faulty_sight *s)
{
    record_op((struct op){.kind = s->op, .file = file_of(s->path), .at = s->at, .n = s->n},
              s->data);
}

/* ---- a disk after the power went ---- */

struct content {
    unsigned char *at;
    sqlite3_int64 size;
    bool there;
};

static unsigned long long random_state;
static unsigned next_random(void)
{
    random_state = random_state * 6364136223846793005ULL + 1442695040888963407ULL;
    return (unsigned)(random_state >> 33);
}

static void resize(struct content *c, sqlite3_int64 size)
{
    unsigned char *more = realloc(c->at, (size_t)size + 1);
    if (!more)
        fail("disk");
    c->at = more;
    if (size > c->size)
        memset(c->at + c->size, 0, (size_t)(size - c->size));
    c->size = size;
}

/* chance: of 100 that a sector reaches the disk. */
static void apply(struct content *c, const struct op *o, unsigned chance)
{
    if (o->kind == FAULTY_TRUNCATE && next_random() % 100 < chance && o->at < c->size)
        resize(c, o->at);
    for (sqlite3_int64 at = o->at; o->kind == FAULTY_WRITE && at < o->at + o->n;) {
        sqlite3_int64 end = at - at % SECTOR + SECTOR;
        end = end < o->at + o->n ? end : o->at + o->n;
        if (next_random() % 100 < chance) {
            if (end > c->size)
                resize(c, end);
            memcpy(c->at + at, o->data + (at - o->at), (size_t)(end - at));
            c->there = true;
        }
        at = end;
    }
}

/* The files after the first `cut` operations. What was not synced by then comes with that chance. */
static void make_disk(size_t cut, unsigned chance)
{
    char path[224];
    snprintf(path, sizeof path, "rm -rf %s/disk && mkdir -m 700 %s/disk", top, top);
    if (system(path) != 0)
        fail("disk");
    for (int f = 0; f < FILES; f++) {
        struct content c = {0};
        size_t synced = 0;
        for (size_t i = 0; i < cut; i++)
            if (ops[i].file == f &&
                (ops[i].kind == FAULTY_SYNC || (ops[i].kind == FAULTY_DELETE && ops[i].n)))
                synced = i + 1;
        for (size_t i = 0; i < cut; i++) {
            if (ops[i].file != f)
                continue;
            unsigned with = i < synced ? 100 : chance;
            if (ops[i].kind == FAULTY_DELETE && next_random() % 100 < with) {
                c.size = 0;
                c.there = false;
            }
            if (ops[i].kind == FAULTY_SYNC)
                c.there = true;
            apply(&c, &ops[i], with);
        }
        snprintf(path, sizeof path, "%s/disk/%s", top, names[f]);
        FILE *out = c.there ? fopen(path, "wb") : NULL;
        if (c.there &&
            (!out || fwrite(c.at, 1, (size_t)c.size, out) != (size_t)c.size || fclose(out) != 0))
            fail(path);
        free(c.at);
    }
}

/* ---- what a store holds ---- */

static void dump_table(sqlite3 *db, const char *name, FILE *out)
{
    char sql[128];
    sqlite3_stmt *q;
    snprintf(sql, sizeof sql, "SELECT * FROM %s ORDER BY 1, 2, 3", name);
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        fail(sqlite3_errmsg(db));
    fprintf(out, "== %s\n", name);
    while (sqlite3_step(q) == SQLITE_ROW) {
        for (int i = 0; i < sqlite3_column_count(q); i++) {
            const char *text = (const char *)sqlite3_column_text(q, i);
            fprintf(out, "%s|", text ? text : "~");
        }
        fputc('\n', out);
    }
    sqlite3_finalize(q);
}

/* Every table there is. That points were lost is said by an event, which is none of the scenario's. */
static char *dump(sqlite3 *db)
{
    char *text = NULL;
    size_t size;
    sqlite3_stmt *q;
    FILE *out = open_memstream(&text, &size);
    if (!out || sqlite3_prepare_v2(db,
                                   "SELECT name FROM sqlite_schema WHERE type = 'table'"
                                   " AND name NOT LIKE 'sqlite_%' ORDER BY 1",
                                   -1, &q, NULL) != SQLITE_OK)
        fail("tables");
    while (sqlite3_step(q) == SQLITE_ROW)
        dump_table(db, (const char *)sqlite3_column_text(q, 0), out);
    sqlite3_finalize(q);
    fclose(out);
    return text;
}

static sqlite3_int64 number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *q;
    if (sqlite3_prepare_v2(db, sql, -1, &q, NULL) != SQLITE_OK)
        fail(sqlite3_errmsg(db));
    sqlite3_int64 v = sqlite3_step(q) == SQLITE_ROW ? sqlite3_column_int64(q, 0) : -1;
    sqlite3_finalize(q);
    return v;
}

/* ---- the run, and the disks ---- */

static struct point {
    size_t at;   /* operations when its commit was acknowledged */
    char *state; /* what state.db held then */
    sqlite3_int64 events, points;
} acked[TURNS];
static int n_acked;

static void acknowledge(struct store *s)
{
    if (n_acked == TURNS)
        fail("more turns than expected");
    acked[n_acked++] = (struct point){.at = n_ops,
                                      .state = dump(s->db),
                                      .events = number(s->db, "SELECT count(*) FROM event"),
                                      .points = number(s->metrics, "SELECT count(*) FROM metric")};
}

static void die(const char *what, const struct dha_err *e)
{
    fprintf(stderr, "%s: %s\n", what, e->msg);
    exit(1);
}

static void run(bool normal)
{
    char dir[96];
    struct store *s;
    struct dha_err e = {0};
    snprintf(dir, sizeof dir, "%s/run", top);
    recording = true;
    if (store_open(dir, 0, SCENARIO_NOW, &s, &e) != 0)
        die("opening", &e);
    if (normal)
        sqlite3_exec(s->db, "PRAGMA synchronous=NORMAL", NULL, NULL, NULL);
    /* So that the log is carried over and begun again, many times. */
    sqlite3_wal_autocheckpoint(s->db, 20);
    sqlite3_wal_autocheckpoint(s->metrics, 4);
    acknowledge(s);
    for (int t = 0; t < scenario_turns; t++) {
        for (int c = 0; c < SCENARIO_CALLS && scenario[t].call[c].name; c++)
            if (scenario[t].call[c].run(s, &e) != 0)
                die(scenario[t].call[c].name, &e);
        if (store_commit(s, &e) != 0)
            die("commit", &e);
        acknowledge(s);
    }
    store_close(s);
    recording = false;
}

static long disks, failures;

static void complain(size_t cut, unsigned chance, const char *what)
{
    fprintf(stderr, "power cut before operation %zu of %zu, %u %% of the unsynced kept: %s\n", cut,
            n_ops, chance, what);
    failures++;
}

/* The scenario sets a line of a journal aside itself. */
static void found(void *arg, const char *problem)
{
    if (strcmp(problem, "lost and found: journal: no record") != 0) {
        fprintf(stderr, "fsck: %s\n", problem);
        ++*(int *)arg;
    }
}

static void check_disk(size_t cut, unsigned chance)
{
    char dir[96];
    struct store *s;
    struct dha_err e = {0};
    int problems = 0, last = -1; /* the newest turn that was acknowledged */
    for (int i = 0; i < n_acked; i++)
        if (acked[i].at <= cut)
            last = i;
    make_disk(cut, chance);
    disks++;
    snprintf(dir, sizeof dir, "%s/disk", top);
    if (store_open(dir, 0, SCENARIO_NOW, &s, &e) != 0) {
        complain(cut, chance, e.msg);
        return;
    }
    char *now = dump(s->db);
    bool old = last < 0 || strcmp(now, acked[last].state) == 0;
    bool one_more = last + 1 < n_acked && strcmp(now, acked[last + 1].state) == 0;
    if (!old && !one_more)
        complain(cut, chance, "state.db is neither what was acknowledged nor the next turn");
    /* Half of the very first page of a new directory is set aside, with nothing in it. */
    if (last >= 0 && (store_fsck(s, found, &problems, &e) < 0 || problems))
        complain(cut, chance, "fsck finds something");
    if (last >= 0 && number(s->metrics, "SELECT count(*) FROM metric") > acked[n_acked - 1].points)
        complain(cut, chance, "more points than there ever were");
    free(now);
    store_close(s);
}

int main(int argc, char **argv)
{
    bool normal = argc > 1 && strcmp(argv[1], "normal") == 0;
    snprintf(top, sizeof top, "/dev/shm/dha-power-XXXXXX");
    if (!mkdtemp(top))
        fail(top);
    faulty_install();
    faulty_look = look;
    run(normal);
    for (size_t cut = 0; cut <= n_ops && failures < 20; cut++) {
        check_disk(cut, 0);
        check_disk(cut, 100);
        for (int i = 0; i < RANDOM_DISKS; i++) {
            random_state = cut * RANDOM_DISKS + (unsigned)i;
            check_disk(cut, 15 + (unsigned)i * 14);
        }
    }
    char cmd[96];
    snprintf(cmd, sizeof cmd, "rm -rf %s", top);
    int rc = system(cmd);
    printf("%zu operations, %ld disks, %d turns: %ld failure(s)\n", n_ops, disks, n_acked - 1,
           failures);
    for (int i = 0; i < n_acked; i++)
        free(acked[i].state);
    for (size_t i = 0; i < n_ops; i++)
        free(ops[i].data);
    free(ops);
    if (normal)
        return rc != 0 || failures == 0; /* a test that cannot find this finds nothing */
    return rc != 0 || failures != 0;
}
