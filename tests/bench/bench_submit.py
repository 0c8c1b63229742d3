#!/usr/bin/env python3
"""How fast the daemon takes jobs: bench_submit.py BIN_DIR [JOBS [LISTED]]

One client, one keep-alive connection on the unix socket, one request after the other: each 201 means
committed and synced. Then GET /v1/jobs (what `dha list` asks) with LISTED jobs in the database.
Beside it, in the same run: what one small append + fdatasync costs in the same directory, which no
durable submission can be faster than.
"""
import json
import os
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from uds import Client, percentile

harness.BIN = sys.argv[1]
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
LISTED = int(sys.argv[3]) if len(sys.argv) > 3 else 10000


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


def submit_many(client, d, first, n):
    times = []
    for i in range(first, first + n):
        body = json.dumps({"spec": d.spec(f"job-{i}", seed=i)}).encode()
        begin = time.perf_counter()
        status, text = client.request("POST /v1/jobs HTTP/1.1", body)
        times.append(time.perf_counter() - begin)
        assert status == 201, text
    return times


d = harness.Dhad(slots=2)
try:
    d.start()
    client = Client(d.socket)
    blocker = d.submit("sleep=3600")
    d.until_running(blocker, "search")
    submit_many(client, d, 1000000, 50)  # warm
    begin, cpu = time.perf_counter(), cpu_seconds(d.process.pid)
    times = submit_many(client, d, 0, JOBS)
    wall, cpu = time.perf_counter() - begin, cpu_seconds(d.process.pid) - cpu
    rate = fdatasync_rate(d.state)
    print(f"submit   {JOBS} jobs, one connection, in sequence: {JOBS / wall:.0f}/s "
          f"(p50 {percentile(times, 50):.2f} ms, p99 {percentile(times, 99):.2f} ms); "
          f"append+fdatasync alone: {rate:.0f}/s; ratio {JOBS / wall / rate:.2f}; "
          f"daemon CPU {cpu / JOBS * 1e3:.3f} ms each")
    many = [Client(d.socket) for _ in range(16)]
    begin = time.perf_counter()
    for i in range(0, JOBS, len(many)):
        for k, c in enumerate(many):
            c.send("POST /v1/jobs HTTP/1.1", json.dumps({"spec": d.spec(f"job-{i + k}", seed=10 ** 7 + i + k)}).encode())
        for c in many:
            assert c.receive()[0] == 201
    print(f"submit   {JOBS} jobs, 16 connections at once (group commit): "
          f"{JOBS / (time.perf_counter() - begin):.0f}/s")
    submit_many(client, d, JOBS, max(0, LISTED - 2 * JOBS))
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
    begin = time.perf_counter()
    client.request(f"GET /v1/jobs/{int(blocker) + 5}/explain HTTP/1.1")
    print(f"explain  one pass over {LISTED} waiting stages: {(time.perf_counter() - begin) * 1e3:.1f} ms")
finally:
    d.clean()
