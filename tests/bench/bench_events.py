#!/usr/bin/env python3
"""How many can listen: bench_events.py BIN_DIR [READERS [EVENTS_PER_SECOND [SECONDS [SLOW]]]]

READERS streams of GET /v1/events (NDJSON) on one daemon, while EVENTS_PER_SECOND changes a second are committed
through the API by 64 connections; SLOW more readers (default 8) open a stream and never read from it. Every reader
must get every event once and in order: what each received is compared, byte for byte, with what the log says afterwards.

Said at the end: readers, events, lost, how late the last of them was, the daemon's CPU, memory, and how long its loop was
busy in a turn (from dha_turn_seconds of /metrics: the turns of this run only), commits apart. Exit status 1 if one
event was lost.
"""
import json
import multiprocessing
import os
import re
import resource
import selectors
import socket
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from prometheus import histogram, quantile

harness.BIN = sys.argv[1]
READERS = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
RATE = int(sys.argv[3]) if len(sys.argv) > 3 else 1000
SECONDS = float(sys.argv[4]) if len(sys.argv) > 4 else 10
SLOW = int(sys.argv[5]) if len(sys.argv) > 5 else 8
WRITERS = 64

HISTOGRAMS = ("dha_turn_seconds", "dha_turn_cpu_seconds", "dha_commit_seconds")


class Stream:
    """One reader: takes the chunks apart, keeps a checksum of what was in them and the end of it."""

    def __init__(self, path, after):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.connect(path)
        self.s.sendall(b"GET /v1/events?after=%d HTTP/1.1\r\nHost: x\r\n"
                       b"Accept: application/x-ndjson\r\n\r\n" % after)
        self.buf, self.left, self.head = b"", 0, True
        self.crc, self.bytes, self.tail = 0, 0, b""

    def take(self, body):
        if body != b"\n":  # a sign of life
            self.crc = zlib.crc32(body, self.crc)
            self.bytes += len(body)
            self.tail = (self.tail + body)[-600:] if len(body) < 600 else body[-600:]

    def receive(self):
        data = self.s.recv(1 << 18)
        if not data:
            return False
        data = self.buf + data
        at = 0
        if self.head:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buf = data
                return True
            assert data.startswith(b"HTTP/1.1 200"), data[:300]
            self.head, at = False, end + 4
        while True:
            end = data.find(b"\r\n", at)
            if end < 0:
                break
            n = int(data[at:end], 16)
            if len(data) < end + 2 + n + 2:
                break
            self.take(data[end + 2:end + 2 + n])
            at = end + 2 + n + 2
        self.buf = data[at:]
        return True

    def last(self):
        lines = [x for x in self.tail.split(b"\n") if x]
        return int(json.loads(lines[-1])["seq"]) if lines else 0


def listen(path, after, pipe):
    """The reading process: all streams, until the parent says which event is the last and all have it, or 30 s more."""
    streams = [Stream(path, after) for _ in range(READERS)]
    sel = selectors.DefaultSelector()
    for s in streams:
        s.s.setblocking(False)
        sel.register(s.s, selectors.EVENT_READ, s)
    sel.register(pipe, selectors.EVENT_READ, None)
    while any(s.head for s in streams):
        for key, _ in sel.select():
            if key.data:
                key.data.receive()
    pipe.send("ready")
    want, give_up, done = None, None, set()
    while want is None or (len(done) < len(streams) and time.time() < give_up):
        for key, _ in sel.select(0.2):
            if key.data is None:
                want = pipe.recv()
                give_up = time.time() + 30
                sel.unregister(pipe)
                done = {s for s in streams if s.last() >= want}
                continue
            s = key.data
            if not s.receive():
                sel.unregister(s.s)
            if want and s.last() >= want:
                done.add(s)
    pipe.send([time.time(), [(s.crc, s.bytes, s.last()) for s in streams]])


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mib(pid):
    with open(f"/proc/{pid}/status") as f:
        return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1]) / 1024


def write(path, node, n, begin, latencies):
    """n changes from here on, each at its time."""
    c = harness.UnixConnection(path)
    for i in range(n):
        at = begin + i * WRITERS / RATE
        wait = at - time.time()
        if wait > 0:
            time.sleep(wait)
        asked = time.time()
        c.request("POST", f"/v1/nodes/{node}/drain", json.dumps({"reason": f"benchmark, change {i}"}))
        r = c.getresponse()
        r.read()
        assert r.status == 200
        latencies.append(time.time() - asked)
    c.close()


def percentile(xs, p):
    return sorted(xs)[min(len(xs) - 1, int(len(xs) * p / 100))] * 1e3


def main():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    d = harness.Dhad(slots=2)
    try:
        d.start()
        node = d.get("/v1/nodes").json["nodes"][0]["name"]
        first = int(d.events()[-1]["seq"])
        slow = [Stream(d.socket, 0) for _ in range(SLOW)]
        here, there = multiprocessing.Pipe()
        reader = multiprocessing.Process(target=listen, args=(d.socket, first, there), daemon=True)
        reader.start()
        there.close()
        assert here.recv() == "ready"
        text = d.get("/metrics").raw.decode()
        before = {name: histogram(text, name) for name in HISTOGRAMS}
        cpu, mem, begin = cpu_seconds(d.process.pid), rss_mib(d.process.pid), time.time() + 0.1
        latencies = []
        writers = [threading.Thread(target=write, args=(d.socket, node, int(RATE * SECONDS / WRITERS),
                                                        begin + k / RATE, latencies))
                   for k in range(WRITERS)]
        for t in writers:
            t.start()
        for t in writers:
            t.join()
        wrote = time.time()
        last = int(d.get("/v1/events?after=%d&limit=10000" % (first + len(latencies) - 10)).json["last"])
        here.send(last)
        ended, got = here.recv()
        reader.join()
        cpu, text = cpu_seconds(d.process.pid) - cpu, d.get("/metrics").raw.decode()
        # the truth: the log, read again
        lines, after = [], first
        while after < last:
            page = d.get(f"/v1/events?after={after}&limit=10000").json
            lines += page["events"]
            after = int(page["last"])
        assert [int(e["seq"]) for e in lines] == list(range(first + 1, last + 1))
        truth = "".join(json.dumps(e, separators=(",", ":"), ensure_ascii=False) + "\n" for e in lines).encode()
        right = (zlib.crc32(truth), len(truth), last)
        lost = sum(1 for g in got if g != right)
        (p99, n_turns), (cpu99, _), (c99, n_commits) = (
            quantile(before[name], histogram(text, name), 0.99) for name in HISTOGRAMS)
        p50, cpu50, c50 = (quantile(before[name], histogram(text, name), 0.5)[0] for name in HISTOGRAMS)
        print(f"events   {len(got)} readers (and {len(slow)} that never read), {len(lines)} events in {wrote - begin:.1f} s "
              f"({len(lines) / (wrote - begin):.0f}/s), {len(lines) * len(got)} deliveries; "
              f"readers with an event lost, doubled or out of order: {lost}; "
              f"last delivery {max(0, ended - wrote) * 1e3:.0f} ms after the last change")
        print(f"turn     {n_turns} turns: p50 <= {p50:g} ms, p99 <= {p99:g} ms (goal: 10 ms), "
              f"of CPU p50 <= {cpu50:g} ms, p99 <= {cpu99:g} ms; "
              f"{n_commits} commits: p50 <= {c50:g} ms, p99 <= {c99:g} ms; changes: p50 {percentile(latencies, 50):.1f} ms, "
              f"p99 {percentile(latencies, 99):.1f} ms")
        print(f"daemon   CPU {100 * cpu / (ended - begin):.0f} %, memory {mem:.0f} -> {rss_mib(d.process.pid):.0f} MiB")
        return 1 if lost else 0
    finally:
        d.clean()


sys.exit(main())
