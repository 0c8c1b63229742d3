/* chore_backup.c: a copy of the database while it is in use. */
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/chores.h"

static int work(struct chore *c, struct dha_err *e)
{
    struct store *s;
    if (store_open_reader(c->state_dir, &s, e) != 0) {
        return -1;
    }
    progress_phase(&c->progress, "copying and checking the database", 0);
    store_interrupt(s, progress_stopped, &c->progress);
    int rc = store_backup(s, c->arg, e);
    store_close(s);
    return rc;
}

static int step(struct chore *c, enum chore_next *next, struct dha_err *e)
{
    struct stat st;
    *next = CHORE_DONE;
    if (stat(c->arg, &st) != 0) {
        return dha_fail(e, DHA_E_IO, "%s was made, but is not there any more", (char *)c->arg);
    }
    c->result = cJSON_CreateObject();
    if ((json_put_str(c->result, "file", c->arg) |
         json_put_id(c->result, "bytes", (int64_t)st.st_size)) != 0) {
        return dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
    }
    return 0;
}

static const struct chore_ops ops = {.name = "backup", .work = work, .step = step, .destroy = free};

int chore_backup(struct daemon *d, const char *file, struct dha_err *e)
{
    char *copy = strdup(file);
    return copy ? chore_start(d, &ops, copy, e) : dha_fail(e, DHA_E_NO_MEMORY, "out of memory");
}
