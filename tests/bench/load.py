"""Submissions to a private dhad by bench_load (load.c), built beforehand: what a client costs must not count."""
import json
import os
import subprocess
import tempfile
import time

import harness


class Load:
    def __init__(self, d, n, clients, first=0, after=(), minimal=False, resources=lambda i: {"ranks": 2}):
        """n jobs by so many connections at once; each 201 is committed and synced. minimal: it names the job and no more."""
        prefer = b"Prefer: return=minimal\r\n" if minimal else b""
        text = b""
        for i in range(first, first + n):
            body = json.dumps({"spec": d.spec(f"job-{i}", seed=i, resources=resources(i)), "after": list(after)}).encode()
            one = b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n" % (prefer, len(body)) + body
            text += b"%d\n" % len(one) + one
        before = cpu_seconds(d.process.pid)
        out = subprocess.run([os.path.join(harness.BIN, "bench_load"), d.socket, str(clients)], input=text,
                             stdout=subprocess.PIPE, check=True).stdout
        self.daemon_cpu = (cpu_seconds(d.process.pid) - before) / n * 1e3  # ms each
        wall, self.p50, self.p99, cpu, _ = map(float, out.split())
        self.rate, self.client_cpu = n / wall, cpu / n * 1e3

    def __str__(self):
        return (f"{self.rate:.0f}/s (p50 {self.p50:.2f} ms, p99 {self.p99:.2f} ms; CPU each: daemon "
                f"{self.daemon_cpu:.3f} ms, client {self.client_cpu:.3f} ms)")


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def fdatasync_rate(directory, n=500):
    with tempfile.TemporaryFile(dir=directory) as f:
        begin = time.perf_counter()
        for _ in range(n):
            os.write(f.fileno(), bytes(4096))
            os.fdatasync(f.fileno())
        return n / (time.perf_counter() - begin)
