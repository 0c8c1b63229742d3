#!/usr/bin/env python3
"""How long it takes from a stage's last rank's exit to the next stage's first rank in main(): bench_handover.py BIN_DIR [JOBS [QUEUED]]

Real jobs of four stages on the demo's checkpoint, one after the other, with the real mpirun and worker. libbench_stamp.so,
preloaded into shim, mpirun and ranks, writes when each comes to main() and exits. Beside them, in turn, the same command
line of mpirun by itself: what it takes to its first rank's main() is mpirun's, and what is over that is ours. QUEUED other jobs wait all the while.
"""
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from load import Load

harness.BIN = BIN = os.path.realpath(sys.argv[1])
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 10
QUEUED = int(sys.argv[3]) if len(sys.argv) > 3 else 0
DEMO = os.path.join(harness.HERE, "..", "..", "deploy", "demo")
STAMP = os.path.join(BIN, "libbench_stamp.so")
WORKER = os.path.join(BIN, "dha-worker")
RANKS = 2


def read(path):
    """[(nanoseconds, program, "begin" or "end")], in order."""
    with open(path) as f:
        return sorted((int(t), name, what) for name, _, what, t in map(str.split, f))


def one(events, what, program, last=False):
    found = [t for t, p, w in events if (p, w) == (program, what)]
    return (max if last else min)(found)


def attempts(events):
    """The events of each attempt: they follow one another."""
    for e in events:
        if e[1:] == ("dha-shim", "begin"):
            each = []
        each.append(e)
        if e[1:] == ("dha-shim", "end"):
            yield each


def alone(directory):
    """mpirun by itself: (to the first rank's main(), from the last rank's exit to its own), in ms."""
    path = os.path.join(directory, "alone")
    if os.path.exists(path):
        os.unlink(path)
    with open(os.path.join(directory, "hostfile"), "w") as f:
        f.write(f"localhost slots={RANKS}\n")
    env = {**os.environ, "LD_PRELOAD": STAMP, "DHA_STAMPS": path, "OMPI_ALLOW_RUN_AS_ROOT": "1",
           "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    mca = [("orte_tmpdir_base", directory), ("btl_vader_backing_directory", directory), ("oob_tcp_keepalive_time", "3"),
           ("oob_tcp_keepalive_intvl", "2"), ("oob_tcp_keepalive_probes", "3")]
    command = ["mpirun", "-n", str(RANKS), "--hostfile", f.name, "--bind-to", "none", "--oversubscribe",
               *(w for k, v in mca for w in ("--mca", k, v)), WORKER, "--version"]
    begin = time.monotonic_ns()
    subprocess.run(command, env=env, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    e = read(path)
    return ((one(e, "begin", "dha-worker") - begin) / 1e6,
            (one(e, "end", "mpirun") - one(e, "end", "dha-worker", last=True)) / 1e6)


def spec(d, seed):
    path = os.path.join(d.dir, "piece.txt")
    if not os.path.exists(path):
        with open(os.path.join(DEMO, "train.txt"), "rb") as whole, open(path, "wb") as f:
            f.write(whole.read(60000))
    return {"name": "handover", "model": os.path.realpath(os.path.join(DEMO, "hf")), "method": "gqa", "budget": 0.25,
            "data": {"train": [path], "seq_len": 32}, "tokens": {"train": 1024}, "batch_tokens": 256, "seed": seed,
            "eval": {"windows": 4}, "resources": {"ranks": RANKS}}


def handovers(events):
    """What lies between one attempt's end and the next one's beginning, in ms, piece by piece."""
    of = list(attempts(events))
    for a, b in zip(of, of[1:]):
        at = [one(a, "end", "dha-worker", last=True), one(a, "end", "mpirun"), one(a, "end", "dha-shim"),
              one(b, "begin", "dha-shim"), one(b, "begin", "mpirun"), one(b, "begin", "dha-worker")]
        yield [(y - x) / 1e6 for x, y in zip(at, at[1:])]


def shown(name, xs):
    xs = sorted(xs)
    print(f"{name:52} {xs[len(xs) // 2]:7.1f} {xs[len(xs) * 9 // 10]:7.1f}")


missing = [p for p in (STAMP, WORKER) if not os.path.exists(p)] + ([] if shutil.which("mpirun") else ["mpirun"])
if missing:
    print("left out: " + ", ".join(missing) + " not there")
    sys.exit(77)
d = harness.Dhad(launcher="local", slots=RANKS, args=("--worker", WORKER))
stamps = os.path.join(d.dir, "stamps")
shim = os.path.join(d.dir, "shim")  # the daemon itself is not measured from within
with open(shim, "w") as f:
    f.write(f'#!/bin/sh\nLD_PRELOAD={STAMP} DHA_STAMPS={stamps} exec {BIN}/dha-shim "$@"\n')
os.chmod(shim, stat.S_IRWXU)
d.shim_program = shim
try:
    pieces, start, stop = [], [], []
    d.start()
    if QUEUED:
        held = d.post("/v1/jobs", {"spec": spec(d, 10 ** 6), "hold": True}).json["job"]["id"]
        Load(d, QUEUED, 64, after=[f"ok:{held}"])
    for seed in range(JOBS):
        if os.path.exists(stamps):
            os.unlink(stamps)
        r = d.post("/v1/jobs", {"spec": spec(d, seed)})
        assert r.status == 201, r
        job = d.until_state(r.json["job"]["id"], *harness.FINAL, seconds=120)
        assert job["state"] == "done", job
        time.sleep(0.3)  # its last shim is gone
        pieces += handovers(read(stamps))
        for _ in range(3):
            with tempfile.TemporaryDirectory(prefix="dha-", dir="/tmp") as t:
                begin, end = alone(t)
                start.append(begin)
                stop.append(end)
    own = sorted(start)[len(start) // 2]
    print(f"{len(pieces)} hand-overs, {len(start)} runs of mpirun alone; load {os.getloadavg()[0]:.1f}"
          f"{'':24} median     p90  (ms)")
    names = ("last rank's exit to mpirun's", "mpirun's exit to the shim's", "the shim's exit to the next shim's main()",
             "its main() to mpirun's", "mpirun's main() to the first rank's main()")
    for i, name in enumerate(names):
        shown("  " + name, [p[i] for p in pieces])
    shown("last rank's exit to the next stage's first main()", [sum(p) for p in pieces])
    shown("mpirun alone: its start to the first rank's main()", start)
    shown("mpirun alone: the last rank's exit to its own", stop)
    shown("over mpirun's own start-up (goal 50)", [sum(p) - own for p in pieces])
finally:
    d.clean()
