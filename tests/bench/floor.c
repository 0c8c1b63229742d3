/* floor.c: what no durable answer to one client can be faster than on this machine. floor DIR
 * A process asks another over a unix socket, one request after the other, of the size of a submission; the other answers
 *   - at once: two wakes of a process;
 *   - after one page was written over in a file of DIR and synced: the least that is durable;
 *   - after this build's store has taken a job and committed: what the rest of the daemon adds to.
 * Prints one line each: answers a second. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "store/store.h"

enum { N = 3000, REQUEST = 800, ANSWER = 300, PAGE = 4096, PAGES = 1000 };

struct floor {
    int file;
    struct store *store;
    int at;
};

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void nothing(struct floor *f)
{
    (void)f;
}

static void write_page(struct floor *f)
{
    static const char page[PAGE];
    off_t at = (off_t)(f->at++ % PAGES) * PAGE;
    if (pwrite(f->file, page, sizeof page, at) != (ssize_t)sizeof page || fdatasync(f->file) != 0)
        die("writing a page");
}

static void take_job(struct floor *f)
{
    static const char spec[] =
        "{\"model\":\"/a/model\",\"data\":{\"train\":[\"/a/train.u16\"]},\"method\":\"spectral\"}";
    struct dha_err e = {0};
    char name[32], key[5][STORE_KEY_SIZE];
    struct store_new_stage stages[5];
    bool existed;
    int64_t id;
    for (int i = 0; i < 5; i++) {
        snprintf(key[i], sizeof key[i], "%08x%08x%08x%08x", (unsigned)rand(), (unsigned)rand(),
                 (unsigned)rand(), (unsigned)i);
        stages[i] = (struct store_new_stage){.kind = (enum stage_kind)i, .key = key[i]};
    }
    snprintf(name, sizeof name, "job-%d", f->at++);
    struct store_new_job job = {.name = name,
                                .spec = spec,
                                .method = "spectral",
                                .budget = 0.25,
                                .slots = 2,
                                .device = "cpu",
                                .owner_uid = 1000,
                                .stages = stages,
                                .n_stages = 5,
                                .now_us = 1};
    if (store_job_submit(f->store, &job, &id, &existed, &e) != 0 ||
        store_commit(f->store, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
}

static void ask(int fd)
{
    static char request[REQUEST], answer[ANSWER];
    for (int i = 0; i < N; i++)
        if (write(fd, request, sizeof request) != REQUEST ||
            read(fd, answer, sizeof answer) != ANSWER)
            die("asking");
    _exit(0);
}

static void measure(const char *what, void (*work)(struct floor *), struct floor *f)
{
    static char request[REQUEST], answer[ANSWER];
    int fd[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, fd) != 0)
        die("socketpair");
    pid_t pid = fork();
    if (pid < 0)
        die("fork");
    if (pid == 0)
        ask(fd[1]);
    double begin = now();
    for (int i = 0; i < N; i++) {
        if (read(fd[0], request, sizeof request) != REQUEST)
            die("a request");
        work(f);
        if (write(fd[0], answer, sizeof answer) != ANSWER)
            die("an answer");
    }
    printf("%-60s %.0f\n", what, N / (now() - begin));
    waitpid(pid, NULL, 0);
    close(fd[0]);
    close(fd[1]);
}

int main(int argc, char **argv)
{
    static const char page[PAGE];
    struct floor f = {0};
    struct dha_err e = {0};
    char path[4200];
    if (argc != 2) {
        fprintf(stderr, "usage: bench_floor DIR (an empty one)\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/page", argv[1]);
    f.file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (int i = 0; f.file >= 0 && i < PAGES; i++)
        if (write(f.file, page, sizeof page) != PAGE)
            die(path);
    if (f.file < 0 || fsync(f.file) != 0)
        die(path);
    snprintf(path, sizeof path, "%s/store", argv[1]);
    if (store_open(path, 0, 1, &f.store, &e) != 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    measure("a request and its answer, nothing else", nothing, &f);
    measure("one page written over and synced before the answer", write_page, &f);
    measure("a job in the store, committed, before the answer", take_job, &f);
    store_close(f.store);
    close(f.file);
    return 0;
}
