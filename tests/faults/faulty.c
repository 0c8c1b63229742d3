/* faulty.c: see faulty.h. */
#include "faulty.h"

#include <cjson/cJSON.h>
#include <sqlite3.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct faulty armed;
static bool is_armed, has_fired;
static long calls;

static const char *const names[] = {
    [FAULTY_OPEN] = "open",         [FAULTY_DELETE] = "delete", [FAULTY_ACCESS] = "access",
    [FAULTY_PATH] = "path",         [FAULTY_READ] = "read",     [FAULTY_WRITE] = "write",
    [FAULTY_TRUNCATE] = "trunc",    [FAULTY_SYNC] = "sync",     [FAULTY_SIZE] = "size",
    [FAULTY_LOCK] = "lock",         [FAULTY_UNLOCK] = "unlock", [FAULTY_SHM_MAP] = "shm-map",
    [FAULTY_SHM_LOCK] = "shm-lock", [FAULTY_ALLOC] = "alloc",
};
_Static_assert(sizeof names / sizeof names[0] == FAULTY_OPS, "a name for each operation");

const char *faulty_op_name(enum faulty_op op)
{
    return names[op];
}

static bool fails(enum faulty_op op)
{
    if (!is_armed || op != armed.op)
        return false;
    calls++;
    bool now = armed.forever ? calls >= armed.n : calls == armed.n;
    has_fired |= now;
    return now;
}

void faulty_arm(const struct faulty *f)
{
    armed = *f;
    calls = 0;
    has_fired = false;
    is_armed = true;
}

bool faulty_disarm(void)
{
    is_armed = false;
    return has_fired;
}

/* ---- files ---- */

struct faulty_file {
    sqlite3_file base;
    sqlite3_file *real; /* behind this struct */
    const char *path;   /* SQLite's, for as long as the file is open */
};

void (*faulty_look)(const struct faulty_sight *s);

static void show(struct faulty_sight s)
{
    if (faulty_look)
        faulty_look(&s);
}

static const char *path_of(sqlite3_file *f)
{
    return ((struct faulty_file *)(void *)f)->path;
}

static sqlite3_file *real_of(sqlite3_file *f)
{
    return ((struct faulty_file *)(void *)f)->real;
}

#define THROUGH(op, call)                                                                          \
    do {                                                                                           \
        if (fails(op))                                                                             \
            return armed.rc;                                                                       \
        sqlite3_file *real = real_of(f);                                                           \
        return real->pMethods->call;                                                               \
    } while (0)

static int f_close(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xClose(real);
}
static int f_read(sqlite3_file *f, void *to, int n, sqlite3_int64 at)
{
    THROUGH(FAULTY_READ, xRead(real, to, n, at));
}
/* A disk that is full takes a part of what it is given. */
static int f_write(sqlite3_file *f, const void *from, int n, sqlite3_int64 at)
{
    sqlite3_file *real = real_of(f);
    show((struct faulty_sight){FAULTY_WRITE, path_of(f), from, n, at});
    if (fails(FAULTY_WRITE)) {
        if (n > 1)
            real->pMethods->xWrite(real, from, n / 2, at);
        return armed.rc;
    }
    return real->pMethods->xWrite(real, from, n, at);
}
static int f_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    show((struct faulty_sight){.op = FAULTY_TRUNCATE, .path = path_of(f), .at = size});
    THROUGH(FAULTY_TRUNCATE, xTruncate(real, size));
}
/* The process lives on and so does the page cache: a real sync would only cost time. */
static int f_sync(sqlite3_file *f, int flags)
{
    (void)flags;
    show((struct faulty_sight){.op = FAULTY_SYNC, .path = path_of(f)});
    return fails(FAULTY_SYNC) ? armed.rc : SQLITE_OK;
}
static int f_size(sqlite3_file *f, sqlite3_int64 *size)
{
    THROUGH(FAULTY_SIZE, xFileSize(real, size));
}
static int f_lock(sqlite3_file *f, int level)
{
    THROUGH(FAULTY_LOCK, xLock(real, level));
}
static int f_unlock(sqlite3_file *f, int level)
{
    sqlite3_file *real = real_of(f);
    int rc = real->pMethods->xUnlock(real, level);
    return fails(FAULTY_UNLOCK) ? armed.rc : rc;
}
static int f_check(sqlite3_file *f, int *out)
{
    THROUGH(FAULTY_LOCK, xCheckReservedLock(real, out));
}
static int f_control(sqlite3_file *f, int op, void *arg)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xFileControl(real, op, arg);
}
static int f_sector(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xSectorSize(real);
}
static int f_traits(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xDeviceCharacteristics(real);
}
static int f_shm_map(sqlite3_file *f, int page, int size, int extend, void volatile **out)
{
    THROUGH(FAULTY_SHM_MAP, xShmMap(real, page, size, extend, out));
}
/* Letting go cannot fail: SQLite looks at no answer. */
static int f_shm_lock(sqlite3_file *f, int at, int n, int flags)
{
    sqlite3_file *real = real_of(f);
    if (!(flags & SQLITE_SHM_UNLOCK) && fails(FAULTY_SHM_LOCK))
        return armed.rc;
    return real->pMethods->xShmLock(real, at, n, flags);
}
static void f_shm_barrier(sqlite3_file *f)
{
    sqlite3_file *real = real_of(f);
    real->pMethods->xShmBarrier(real);
}
static int f_shm_unmap(sqlite3_file *f, int del)
{
    sqlite3_file *real = real_of(f);
    return real->pMethods->xShmUnmap(real, del);
}

static const sqlite3_io_methods methods = {
    .iVersion = 2, /* no memory-mapped reads: they would pass us by */
    .xClose = f_close,
    .xRead = f_read,
    .xWrite = f_write,
    .xTruncate = f_truncate,
    .xSync = f_sync,
    .xFileSize = f_size,
    .xLock = f_lock,
    .xUnlock = f_unlock,
    .xCheckReservedLock = f_check,
    .xFileControl = f_control,
    .xSectorSize = f_sector,
    .xDeviceCharacteristics = f_traits,
    .xShmMap = f_shm_map,
    .xShmLock = f_shm_lock,
    .xShmBarrier = f_shm_barrier,
    .xShmUnmap = f_shm_unmap,
};

static sqlite3_vfs *under, vfs;

static int v_open(sqlite3_vfs *v, const char *name, sqlite3_file *f, int flags, int *out)
{
    (void)v;
    struct faulty_file *ff = (struct faulty_file *)(void *)f;
    ff->real = (sqlite3_file *)(void *)(ff + 1);
    ff->path = name;
    f->pMethods = NULL;
    if (fails(FAULTY_OPEN))
        return armed.rc;
    int rc = under->xOpen(under, name, ff->real, flags, out);
    f->pMethods = ff->real->pMethods ? &methods : NULL;
    return rc;
}
static int v_delete(sqlite3_vfs *v, const char *name, int sync_dir)
{
    (void)v;
    show((struct faulty_sight){.op = FAULTY_DELETE, .path = name, .n = sync_dir});
    return fails(FAULTY_DELETE) ? armed.rc : under->xDelete(under, name, 0);
}
static int v_access(sqlite3_vfs *v, const char *name, int flags, int *out)
{
    (void)v;
    return fails(FAULTY_ACCESS) ? armed.rc : under->xAccess(under, name, flags, out);
}
static int v_path(sqlite3_vfs *v, const char *name, int n, char *out)
{
    (void)v;
    return fails(FAULTY_PATH) ? armed.rc : under->xFullPathname(under, name, n, out);
}
/* The same for each run: two that write the same leave the same bytes (salts of the log). */
static int v_random(sqlite3_vfs *v, int n, char *out)
{
    (void)v;
    memset(out, 7, (size_t)n);
    return n;
}
/* A busy handler that waits five seconds gives up at once. */
static int v_sleep(sqlite3_vfs *v, int us)
{
    (void)v;
    return us;
}

/* ---- memory ---- */

static sqlite3_mem_methods mem;

static void *m_malloc(int n)
{
    return fails(FAULTY_ALLOC) ? NULL : mem.xMalloc(n);
}
static void *m_realloc(void *p, int n)
{
    return fails(FAULTY_ALLOC) ? NULL : mem.xRealloc(p, n);
}
/* Linked with -Wl,--wrap=malloc and so on: the objects of ours call these instead. */
void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
char *__real_strdup(const char *s);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
char *__wrap_strdup(const char *s);
int __wrap_asprintf(char **out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

void *__wrap_malloc(size_t n)
{
    return fails(FAULTY_ALLOC) ? NULL : __real_malloc(n);
}
static void *j_malloc(size_t n)
{
    return __wrap_malloc(n);
}
void *__wrap_calloc(size_t n, size_t size)
{
    return fails(FAULTY_ALLOC) ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *p, size_t n)
{
    return fails(FAULTY_ALLOC) ? NULL : __real_realloc(p, n);
}
char *__wrap_strdup(const char *s)
{
    return fails(FAULTY_ALLOC) ? NULL : __real_strdup(s);
}
int __wrap_asprintf(char **out, const char *fmt, ...)
{
    if (fails(FAULTY_ALLOC)) {
        *out = NULL;
        return -1;
    }
    va_list ap;
    va_start(ap, fmt);
    int n = vasprintf(out, fmt, ap);
    va_end(ap);
    return n;
}

static void must(int rc, const char *what)
{
    if (rc != SQLITE_OK) {
        fprintf(stderr, "faulty: %s: %s\n", what, sqlite3_errstr(rc));
        exit(1);
    }
}

void faulty_install(void)
{
    must(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &mem), "asking for the allocator");
    sqlite3_mem_methods mine = mem;
    mine.xMalloc = m_malloc;
    mine.xRealloc = m_realloc;
    must(sqlite3_config(SQLITE_CONFIG_MALLOC, &mine), "setting the allocator");
    /* Small blocks come from a pool that never fails; without it each of them is a fault point. */
    if (getenv("DHA_TORTURE"))
        must(sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0), "no pool");
    must(sqlite3_initialize(), "starting");
    cJSON_Hooks hooks = {.malloc_fn = j_malloc, .free_fn = free};
    cJSON_InitHooks(&hooks);
    under = sqlite3_vfs_find(NULL);
    vfs = *under;
    vfs.zName = "faulty";
    vfs.szOsFile = (int)sizeof(struct faulty_file) + under->szOsFile;
    vfs.xOpen = v_open;
    vfs.xDelete = v_delete;
    vfs.xAccess = v_access;
    vfs.xFullPathname = v_path;
    vfs.xRandomness = v_random;
    vfs.xSleep = v_sleep;
    must(sqlite3_vfs_register(&vfs, 1), "registering the file layer");
}
