#!/usr/bin/env python3
"""Scheduling passes as the daemon makes them, snapshot, decisions and transactions: bench_pass.py BIN_DIR [QUEUED [NODES [JOBS]]]

NODES nodes of 8 slots. Gangs under the fake launcher hold all of them but one; QUEUED more gangs of 2 to 8 nodes wait, with walltimes
from 1 to 24 hours, so that the most promises are made, and every hundredth names its nodes. On the node that is left one-slot jobs of
four stages come and go, four at a time: each of their submissions, starts and ends asks for a pass that finds free slots and looks at
the whole queue. Of those passes the times are the daemon's own (dha_schedule_seconds of /metrics: this run only, the daemon is started
anew after the queue was filled). Then the holders are cancelled, and the queue takes their slots.
"""
import os
import random
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from load import Load
from prometheus import histogram, quantile, value

harness.BIN = os.path.realpath(sys.argv[1])
QUEUED = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
NODES = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
JOBS = int(sys.argv[4]) if len(sys.argv) > 4 else 100
SLOTS, HOLDERS = 8, 9

# Who holds slots sleeps; what comes and goes works through its stages.
LAUNCHER = """#!/bin/sh
if grep -q "come-and-go" "$1"; then exec python3 %s "$@"; fi
echo '{"t":"hello","time":1,"stage":"search","backend":"fake","version":"0","host":"here","attempt":1,"ranks":1,"threads":1,"pid":1,"steps":1,"resumed_from":-1}'
exec sleep 1000
""" % harness.FAKE
NAME = "dha_schedule_seconds"


def wait_of(i):
    r = random.Random(i)
    nodes = r.randint(2, 8)
    names = {"node_names": [f"node-{k}" for k in r.sample(range(NODES), nodes)]} if i % 100 == 0 else {}
    return {"nodes": nodes, "ranks": nodes * SLOTS, "walltime": f"{r.randint(1, 24)}h", **names}


def metrics(d):
    return d.get("/metrics").raw.decode()


def passes(before, after):
    """Of the passes between two readings: how many, mean, p50 and p99 in ms."""
    p50, n = quantile(histogram(before, NAME), histogram(after, NAME), 0.5)
    p99, _ = quantile(histogram(before, NAME), histogram(after, NAME), 0.99)
    mean = (value(after, NAME + "_sum") - value(before, NAME + "_sum")) / max(1, n) * 1e3
    return n, mean, p50, p99


def come_and_go(d, first):
    for i in range(first, JOBS, 4):
        job = d.submit(f"come-and-go-{i}", seed=10 ** 7 + i, priority=9, resources={"ranks": 1, "walltime": "10m"})
        d.until_state(job, "done", seconds=120)


d = harness.DhadWithFile({"nodes": [{"name": f"node-{i}", "address": "127.0.0.1", "slots": SLOTS, "cores": f"0-{SLOTS - 1}",
                                     "memory_gib": 64} for i in range(NODES)]})
try:
    script = os.path.join(d.dir, "launcher.sh")
    with open(script, "w") as f:
        f.write(LAUNCHER)
    os.chmod(script, 0o755)
    d.launcher = "fake:" + script
    d.start()
    part, holders = (NODES - 1) // HOLDERS, []
    for i in range(HOLDERS):
        nodes = part + (i < (NODES - 1) % HOLDERS)
        holders.append(d.submit(f"holder-{i}", seed=10 ** 8 + i, priority=10,
                                resources={"nodes": nodes, "ranks": nodes * SLOTS, "walltime": f"{i + 1}h"}))
    d.until(lambda: value(metrics(d), 'dha_slots{use="free"}') == SLOTS, 120)
    Load(d, QUEUED, 64, resources=wait_of)
    d.stop()
    d.start()
    waiting = value(metrics(d), 'dha_jobs{state="queued"}')
    assert waiting == QUEUED, waiting
    time.sleep(1)
    before = metrics(d)
    threads = [threading.Thread(target=come_and_go, args=(d, k)) for k in range(4)]
    begin = time.time()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    after = metrics(d)
    n, mean, p50, p99 = passes(before, after)
    queued = value(after, 'dha_jobs{state="queued"}')
    assert queued == QUEUED, queued
    print(f"pass     {n} passes over {QUEUED} queued and {NODES * SLOTS} slots in {time.time() - begin:.0f} s ({JOBS * 4} stages): mean "
          f"{mean:.1f} ms, p50 <= {p50:g} ms, p99 <= {p99:g} ms (goal 20), max "
          f"{value(after, 'dha_schedule_max_seconds') * 1e3:.1f} ms; load {os.getloadavg()[0]:.1f}", flush=True)
    launched = value(after, "dha_launches_total")
    for job in holders:
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
    d.until(lambda: value(metrics(d), 'dha_slots{use="free"}') < 2 * SLOTS * SLOTS and
            value(metrics(d), 'dha_jobs{state="cancelled"}') == HOLDERS, 120)
    before, after = after, metrics(d)
    n, mean, p50, p99 = passes(before, after)
    print(f"pass     all slots given anew, {value(after, 'dha_launches_total') - launched:.0f} gangs started: {n} passes, mean {mean:.1f} ms, "
          f"p99 <= {p99:g} ms, max {value(after, 'dha_schedule_max_seconds') * 1e3:.1f} ms")
finally:
    d.clean()
