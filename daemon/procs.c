/* procs.c: see procs.h. One pass over /proc builds a table; membership is decided on the table, so
 * that a process that moves while we look is seen at the latest by the caller's next pass (callers
 * repeat until nothing is left). */
#include "daemon/procs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static ssize_t read_small(const char *path, char *buf, size_t cap)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return -1;
    }
    size_t n = 0;
    while (n + 1 < cap) {
        ssize_t r = read(fd, buf + n, cap - 1 - n);
        if (r < 0 && errno == EINTR) {
            continue;
        }
        if (r <= 0) {
            break;
        }
        n += (size_t)r;
    }
    close(fd);
    buf[n] = '\0';
    return (ssize_t)n;
}

int proc_stat_read(pid_t pid, struct proc_stat *st)
{
    char path[64], buf[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    if (read_small(path, buf, sizeof buf) <= 0) {
        return -1;
    }
    /* The command name may hold blanks and parentheses: fields start after the last ')'. */
    char *p = strrchr(buf, ')');
    if (!p) {
        return -1;
    }
    int ppid, pgrp, session;
    unsigned long long start;
    char state;
    int n = sscanf(p + 1,
                   " %c %d %d %d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
                   &state, &ppid, &pgrp, &session, &start);
    if (n != 5) {
        return -1;
    }
    st->state = state;
    st->ppid = ppid;
    st->session = session;
    st->start = start;
    return 0;
}

void proc_boot_id(char out[PROC_BOOT_ID_SIZE])
{
    if (read_small("/proc/sys/kernel/random/boot_id", out, PROC_BOOT_ID_SIZE) < 0) {
        out[0] = '\0';
    }
    out[strcspn(out, "\n")] = '\0';
}

static int64_t clock_us(clockid_t clock)
{
    struct timespec ts;
    return clock_gettime(clock, &ts) == 0 ? (int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000 : -1;
}

int64_t proc_age_us(unsigned long long start)
{
    long hz = sysconf(_SC_CLK_TCK);
    int64_t now = clock_us(CLOCK_BOOTTIME);
    if (hz <= 0 || now < 0 || start > (unsigned long long)INT64_MAX / 1000000) {
        return -1;
    }
    int64_t at = (int64_t)(start * 1000000 / (unsigned long long)hz);
    return now > at ? now - at : 0;
}

int64_t proc_suspended_ms(void)
{
    int64_t ms = (clock_us(CLOCK_BOOTTIME) - clock_us(CLOCK_MONOTONIC)) / 1000;
    return ms > 0 ? ms : 0;
}

bool proc_is(pid_t pid, unsigned long long start, const char *boot_id)
{
    struct proc_stat st;
    char now[PROC_BOOT_ID_SIZE];
    proc_boot_id(now);
    return pid > 0 && strcmp(now, boot_id) == 0 && proc_stat_read(pid, &st) == 0 &&
           st.state != 'Z' && st.state != 'X' && st.start == start;
}

bool proc_is_another(pid_t pid, unsigned long long start, const char *boot_id)
{
    struct proc_stat st;
    char now[PROC_BOOT_ID_SIZE];
    proc_boot_id(now);
    return strcmp(now, boot_id) != 0 || (proc_stat_read(pid, &st) == 0 && st.start != start);
}

struct entry {
    pid_t pid, ppid;
    bool in;
};

/* A process that ended meanwhile cannot be read; one that we have no descriptor or memory for can be anything. */
static bool cannot_look(int err)
{
    return err == EMFILE || err == ENFILE || err == ENOMEM;
}

/* Does /proc/PID/environ hold "DHA_ATTEMPT=<uuid>" as one whole variable? *blind = true if that cannot be asked. */
static bool has_tag(pid_t pid, const char *uuid, bool *blind)
{
    char path[64], want[96];
    int want_len = snprintf(want, sizeof want, "DHA_ATTEMPT=%s", uuid);
    if (want_len < 0 || (size_t)want_len >= sizeof want) {
        return false;
    }
    snprintf(path, sizeof path, "/proc/%d/environ", (int)pid);
    size_t cap = 256 * 1024; /* twice the kernel's usual limit for one argument string */
    char *buf = malloc(cap);
    if (!buf) {
        *blind = true;
        return false;
    }
    ssize_t n = read_small(path, buf, cap);
    bool found = false;
    *blind |= n < 0 && cannot_look(errno);
    for (ssize_t i = 0; i < n && !found; i += (ssize_t)strlen(buf + i) + 1) {
        found = strcmp(buf + i, want) == 0;
    }
    free(buf);
    return found;
}

/* -1: there may be processes that could not be looked at. */
static int snapshot(pid_t shim, const char *uuid, struct entry **out, size_t *count)
{
    *out = NULL;
    *count = 0;
    DIR *d = opendir("/proc");
    if (!d) {
        return -1;
    }
    struct entry *all = NULL;
    size_t n = 0, cap = 0;
    bool blind = false;
    for (struct dirent *e; (e = readdir(d));) {
        char *end;
        long v = strtol(e->d_name, &end, 10);
        if (*end || v <= 0) {
            continue;
        }
        pid_t pid = (pid_t)v;
        struct proc_stat st;
        errno = 0;
        if (proc_stat_read(pid, &st) != 0) {
            blind |= cannot_look(errno);
            continue;
        }
        if (n == cap) {
            cap = cap ? 2 * cap : 256;
            struct entry *more = realloc(all, cap * sizeof *all);
            if (!more) {
                blind = true;
                break;
            }
            all = more;
        }
        bool dead = st.state == 'Z' || st.state == 'X';
        /* Zombies stay in the table only as links of a chain of descent. */
        all[n] = (struct entry){.pid = dead ? -pid : pid, .ppid = st.ppid};
        all[n].in = !dead && ((shim > 0 && (st.session == shim || st.ppid == shim)) ||
                              (uuid && uuid[0] && has_tag(pid, uuid, &blind)));
        n++;
    }
    closedir(d);
    *out = all;
    *count = n;
    return blind ? -1 : 0;
}

bool proc_is_of(pid_t pid, uid_t uid)
{
    char path[64], text[2048];
    unsigned real;
    if (uid == PROCS_ANY) {
        return true;
    }
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    const char *line = read_small(path, text, sizeof text) > 0 ? strstr(text, "\nUid:") : NULL;
    return line && sscanf(line, "\nUid: %u", &real) == 1 && real == uid;
}

size_t procs_find(pid_t shim, const char *uuid, uid_t uid, pid_t self, pid_t *pids, size_t cap)
{
    size_t n, found = 0;
    struct entry *all;
    bool blind = snapshot(shim, uuid, &all, &n) != 0;
    /* Children of members are members; a chain of length k needs k rounds. */
    for (bool again = true; again;) {
        again = false;
        for (size_t i = 0; i < n; i++) {
            if (all[i].in || all[i].pid <= 0) {
                continue;
            }
            for (size_t j = 0; j < n; j++) {
                if (all[j].in && all[j].pid == all[i].ppid) {
                    all[i].in = again = true;
                    break;
                }
            }
        }
    }
    for (size_t i = 0; i < n; i++) {
        if (all[i].in && all[i].pid != self && all[i].pid != shim && proc_is_of(all[i].pid, uid)) {
            if (found < cap) {
                pids[found] = all[i].pid;
            }
            found++;
        }
    }
    free(all);
    return found == 0 && blind ? PROCS_UNKNOWN : found;
}

size_t procs_kill(pid_t shim, const char *uuid, uid_t uid, pid_t self)
{
    pid_t pids[4096];
    size_t n = procs_find(shim, uuid, uid, self, pids, sizeof pids / sizeof *pids);
    for (size_t i = 0; n != PROCS_UNKNOWN && i < n && i < sizeof pids / sizeof *pids; i++) {
        kill(pids[i], SIGKILL);
    }
    return n;
}
