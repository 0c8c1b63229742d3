/* faulty.h: the n-th call fails: SQLite's file operations (a VFS in front of the real one) and memory (SQLite's,
 * cJSON's and that of objects linked with --wrap, see CMakeLists.txt).
 *
 * Life cycle: faulty_install() once, before SQLite is used. Then, as often as wanted: faulty_arm(), what is to be
 * tested, faulty_disarm(). Calls are only counted while armed. One thread.
 */
#ifndef DHA_TESTS_FAULTY_H
#define DHA_TESTS_FAULTY_H

#include <stdbool.h>

enum faulty_op {
    FAULTY_OPEN,
    FAULTY_DELETE,
    FAULTY_ACCESS,
    FAULTY_PATH,
    FAULTY_READ,
    FAULTY_WRITE,
    FAULTY_TRUNCATE,
    FAULTY_SYNC,
    FAULTY_SIZE,
    FAULTY_LOCK,
    FAULTY_UNLOCK,
    FAULTY_SHM_MAP,
    FAULTY_SHM_LOCK,
    FAULTY_ALLOC,
    FAULTY_OPS
};

struct faulty {
    enum faulty_op op;
    int rc;       /* what SQLite is told; of no meaning for FAULTY_ALLOC */
    long n;       /* the n-th call, from 1 */
    bool forever; /* and all calls of this kind after it */
};

/* What is about to be done to a file, for who looks on (no fault has to be armed): WRITE, TRUNCATE (`at` is the size),
 * SYNC, DELETE (`n` is 1 if the directory is to be synced as well). path: as SQLite gave it; NULL for a file without
 * a name. */
struct faulty_sight {
    enum faulty_op op;
    const char *path;
    const void *data;
    int n;
    long long at;
};
extern void (*faulty_look)(const struct faulty_sight *s); /* NULL: nobody does */

void faulty_install(void);
void faulty_arm(const struct faulty *f);
/* Did it fire? A fault that did not lies behind the last call: the enumeration is over. */
bool faulty_disarm(void);
const char *faulty_op_name(enum faulty_op op);

#endif
