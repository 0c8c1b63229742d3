/* pool.c: see pool.h. */
#include "daemon/pool.h"

#include <stdlib.h>
#include <sys/stat.h>

/* Of libuv's pool: two for chore.c, and one more: whatever the environment says, none of them waits for another. */
#define POOL_TEXT "3"
/* Those, and draft.c's reader. */
enum { THREADS = 4, GONE_MS = 2000 };

static void wait_there(void *arg)
{
    uv_sem_wait(arg);
}

/* How many threads there are, and something on top. */
static nlink_t n_threads(void)
{
    struct stat st;
    return stat("/proc/self/task", &st) == 0 ? st.st_nlink : 0;
}

/* Can so many be made? */
static int try_threads(struct dha_err *e)
{
    nlink_t before = n_threads();
    uv_thread_t thread[THREADS];
    uv_sem_t go;
    int n = 0, err = uv_sem_init(&go, 0);
    if (err != 0) {
        return dha_fail_errno(e, -err, "cannot make threads");
    }
    while (n < THREADS && (err = uv_thread_create(&thread[n], wait_there, &go)) == 0) {
        n++;
    }
    for (int i = 0; i < n; i++) {
        uv_sem_post(&go);
    }
    for (int i = 0; i < n; i++) {
        uv_thread_join(&thread[i]);
    }
    uv_sem_destroy(&go);
    /* One that was joined counts against the limit for a moment longer. */
    for (int ms = 0; ms < GONE_MS && n_threads() > before; ms++) {
        uv_sleep(1);
    }
    if (err == 0) {
        return 0;
    }
    dha_fail(e, DHA_E_TRANSIENT, "dhad needs %d threads and got %d: %s", THREADS + 1, n + 1,
             uv_strerror(err));
    return dha_err_hint(e, "let it have more: `ulimit -u` of its user, TasksMax= of its unit, "
                           "--pids-limit of its container");
}

static void nothing(uv_work_t *w)
{
    (void)w;
}

int pool_start(uv_loop_t *loop, struct dha_err *e)
{
    static const char variable[] = "UV_THREADPOOL_SIZE";
    static uv_work_t first;
    if (try_threads(e) != 0) {
        return -1;
    }
    setenv(variable, POOL_TEXT, 1);
    int err = uv_queue_work(loop, &first, nothing, NULL);
    unsetenv(variable); /* not for what we start */
    return err == 0 ? 0 : dha_fail_errno(e, -err, "cannot start the threads");
}
