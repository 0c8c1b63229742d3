#!/usr/bin/env python3
"""A daemon with a long past: bench_many.py BIN_DIR [JOBS]

One job runs through its stages; its rows (job, stages, attempts, allocations, evaluations, events) are then multiplied in the state database
while no daemon has it. How long a daemon takes until it answers over that, and how much memory it has then, and after lists;
what submissions cost over it, whose rows go to any page of its indexes.
"""
import os
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from load import Load

harness.BIN = sys.argv[1]
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 100000


def columns(db, table):
    return [r[1] for r in db.execute(f"PRAGMA table_info({table})")]


def multiply(db, table, shifted, unique=()):
    """Copies of the rows of job 1, ids and references moved by so much a copy."""
    cols = columns(db, table)
    rows = db.execute(f"SELECT count(*), coalesce(max({cols[0]}), 0) FROM {table}").fetchone()
    def value(c):
        if c in shifted:
            return f"{c} + n.i * {shifted[c]}"
        return f"{c} || '-' || n.i" if c in unique else c
    db.execute(f"INSERT INTO {table}({', '.join(cols)}) SELECT {', '.join(value(c) for c in cols)} FROM {table}, "
               "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) SELECT i FROM n) AS n "
               f"WHERE {cols[0]} <= ?", (JOBS - 1, rows[1]))


def memory(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(next(line.split()[1] for line in f if line.startswith("VmRSS"))) / 1024


d = harness.Dhad(slots=2)
try:
    d.start()
    d.until_state(d.submit("one"), "done")
    d.stop()
    db = sqlite3.connect(os.path.join(d.state, "state.db"))
    db.execute("PRAGMA foreign_keys = OFF")
    count = {t: db.execute(f"SELECT max(id) FROM {t}").fetchone()[0] or 0 for t in ("stage", "attempt", "allocation", "eval", "checkpoint")}
    events = db.execute("SELECT max(seq) FROM event").fetchone()[0]
    ref = {"id": 1, "job": 1}
    multiply(db, "allocation", {"id": count["allocation"], "attempt": count["attempt"]})
    multiply(db, "eval", {"id": count["eval"], "stage": count["stage"]})
    multiply(db, "checkpoint", {"id": count["checkpoint"], "stage": count["stage"]})
    multiply(db, "attempt", {"id": count["attempt"], "stage": count["stage"]}, ("uuid",))
    multiply(db, "stage", {"id": count["stage"], "job": 1}, ("key",))
    multiply(db, "event", {"seq": events, "job": 1, "stage": count["stage"]})
    multiply(db, "job", {"id": 1})
    db.commit()
    db.close()
    size = os.path.getsize(os.path.join(d.state, "state.db")) / 2**20
    begin = time.perf_counter()
    d.start()
    took = time.perf_counter() - begin
    at_start = memory(d.process.pid)
    assert len(d.get("/v1/jobs?limit=1000").json["jobs"]) == 1000
    d.until_state(d.submit("another"), "done")
    print(f"past     {JOBS} finished jobs, state.db {size:.0f} MiB: answers after {took:.2f} s (goal 2), memory {at_start:.0f} MiB, "
          f"{memory(d.process.pid):.0f} MiB after a list of 1000 and another job (goal 200)")
    for clients in (1, 64):
        print(f"submit   2000 jobs over that past, {clients} at once: {Load(d, 2000, clients, 10 ** 6 * clients, minimal=True)}")
finally:
    d.clean()
