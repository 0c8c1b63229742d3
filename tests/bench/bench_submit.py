#!/usr/bin/env python3
"""How fast the daemon takes jobs: bench_submit.py BIN_DIR [JOBS [LISTED]]

One keep-alive connection on the unix socket, one request after the other, then 16 and 64 of them: each 201 means
committed and synced (bench_load sends them). Then GET /v1/jobs (what `dha list` asks) with LISTED jobs in the database.
Beside it, in the same run: what one small append + fdatasync costs in the same directory, which no
durable submission can be faster than.
"""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from load import Load, fdatasync_rate
from uds import Client, percentile

harness.BIN = sys.argv[1]
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
LISTED = int(sys.argv[3]) if len(sys.argv) > 3 else 10000


d = harness.Dhad(slots=2)
try:
    d.start()
    client = Client(d.socket)
    blocker = d.submit("sleep=3600")
    d.until_running(blocker, "search")
    Load(d, 50, 1, 10 ** 7)  # warm
    one = Load(d, JOBS, 1)
    rate = fdatasync_rate(d.state)
    print(f"submit   {JOBS} jobs, one connection, in sequence: {one}; append+fdatasync alone: {rate:.0f}/s, "
          f"ratio {one.rate / rate:.2f}")
    for clients in (16, 64):
        print(f"submit   {JOBS} jobs, {clients} connections at once (group commit): {Load(d, JOBS, clients, clients * 10 ** 6)}")
    print(f"submit   the same 64, answered with the id alone: {Load(d, JOBS, 64, 10 ** 8, minimal=True)}")
    if LISTED > 4 * JOBS:
        Load(d, LISTED - 4 * JOBS, 64, JOBS)
    times = []
    for _ in range(50):
        begin = time.perf_counter()
        status, text = client.request("GET /v1/jobs HTTP/1.1")
        times.append(time.perf_counter() - begin)
        assert status == 200
    print(f"list     newest 100 of {LISTED}: p50 {percentile(times, 50):.2f} ms, "
          f"p99 {percentile(times, 99):.2f} ms")
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        client.request("GET /v1/jobs?limit=1000 HTTP/1.1")
        times.append(time.perf_counter() - begin)
    print(f"list     newest 1000 of {LISTED}: p50 {percentile(times, 50):.2f} ms")
    times = []
    for _ in range(21):
        begin = time.perf_counter()
        status, text = client.request(f"GET /v1/jobs/{int(blocker) + 5}/explain HTTP/1.1")
        times.append(time.perf_counter() - begin)
        assert status == 200 and b"slots_busy" in text, text
    print(f"explain  a pass over {LISTED} waiting stages: {times[0] * 1e3:.1f} ms when it reads them all, then p50 "
          f"{percentile(times[1:], 50):.1f} ms")
finally:
    d.clean()
