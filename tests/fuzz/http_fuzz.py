#!/usr/bin/env python3
"""Raw bytes to a running dhad: valid requests of every route, damaged, cut, joined, sent in pieces and slowly,
over the unix socket and over TCP.

  http_fuzz.py [--seconds 20] [--seed N] [--first I] [--count N] [--program dhad]

Case I depends on the seed and I alone, so a failure is run again with --seed and --first (--count 1 for it
alone; what the daemon holds by then is another matter). After each batch the daemon must answer /livez; no answer
may be a 5xx but 503 and 507 (and the HTTP library's own 501 and 505); JSON must be JSON; its memory and its
descriptors may not grow without bound; at the end it stops in good order, without a complaint of a sanitizer.
"""
import argparse
import http.client
import json
import os
import random
import re
import select
import socket
import struct
import subprocess
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness  # noqa: E402

BATCH, LINGER_MAX = 50, 24
# 503: limits, shutting down; 507: a full disk; 501, 505: the HTTP library, of codings and versions it does not know
ALLOWED_5XX = (501, 503, 505, 507)
WORDS = [b"", b"0", b"-1", b"1", b"99999999999999999999", b"9223372036854775807", b"-9223372036854775808", b"1e309",
         b"null", b"true", b"[]", b"{}", b'""', b"[[[[", b'{"a":', b"%", b"%00", b"%zz", b"%ff%fe", b"%2e%2e%2f", b"%0d%0a",
         b"\0", b"\xff", b"\xc2\x9b", b"\xed\xa0\x80", b"\r\n", b"\n", b"\r\n\r\n", b" ", b"\t", b"&", b"=", b"?", b"#",
         b"+", b"/", b"//", b"..", b";", b":", b",", b'"', b"\\", b"\\u0000", b"\\ud800", b"chunked", b"gzip", b"close",
         b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n",
         b"Expect: 100-continue\r\n", b"Upgrade: h2c\r\n", b"Last-Event-ID: 3\r\n", b"Accept: text/event-stream\r\n",
         b"Idempotency-Key: k\r\n", b"Host: \r\n", b"A" * 300]


class Generator:
    def __init__(self, dhad):
        self.dhad = dhad
        ids = ["1", "2", "3", "7", "999"]
        spec = dhad.spec("fuzz")
        sweep = {"spec": spec, "budgets": [0.25, 0.5], "methods": ["gqa", "spectral"], "name": "s", "dry_run": True}
        pipe = os.path.join(dhad.dir, "pipe")  # as a model: nobody ever writes into its config.json
        os.mkdir(pipe)
        os.mkfifo(os.path.join(pipe, "config.json"))
        inside = lambda name: os.path.join(dhad.dir, name)  # noqa: E731
        self.routes = [("GET", p, None) for p in (
            "/v1/version", "/livez", "/readyz", "/metrics", "/v1/jobs?state=done,failed&name=a&limit=3&before=9", "/v1/jobs",
            "/v1/jobs/ID", "/v1/jobs/ID/explain", "/v1/jobs/ID/metrics?stage=train&name=loss&after_step=0&limit=10",
            "/v1/jobs/ID/metrics/names?stage=train", "/v1/jobs/ID/checkpoints?limit=2&after=0",
            "/v1/jobs/ID/logs?stage=train&attempt=1&stream=stderr&offset=0", "/v1/events?after=0&limit=5",
            "/v1/events?after=0&limit=5&wait=1&job=1&type=job.", "/v1/nodes", "/v1/sweeps?limit=2&before=9&name=s",
            "/v1/sweeps/ID", "/v1/admin/tokens", "/v1/admin/chores/ID?wait=1")]
        self.routes += [("POST", p, b) for p, b in (
            ("/v1/jobs", {"spec": spec, "hold": True}), ("/v1/jobs", {"spec": spec, "dry_run": True}),
            ("/v1/jobs", {"spec": spec, "hold": True, "after": ["1"]}), ("/v1/jobs/ID/cancel", {"reason": "x", "now": False}),
            ("/v1/jobs/ID/hold", {}), ("/v1/jobs/ID/release", {}), ("/v1/jobs/ID/retry", {}),
            ("/v1/jobs/ID/priority", {"priority": 3}), ("/v1/nodes/NAME/drain", {"reason": "x"}), ("/v1/nodes/NAME/resume", {}),
            ("/v1/sweeps", sweep), ("/v1/sweeps", {**sweep, "spec": {**spec, "model": pipe}}), ("/v1/admin/fsck", {"deep": False}), ("/v1/admin/backup", {"file": inside("b.db")}),
            ("/v1/admin/export", {"job": "1", "out": inside("exported")}), ("/v1/admin/import", {"dir": inside("exported")}),
            ("/v1/admin/prune", {"keep_last": 1, "keep_every": 10, "keep_best": True, "metrics_older_than_s": 1}),
            ("/v1/admin/tokens", {"name": "fuzzed", "role": "viewer", "uid": 7}), ("/v1/admin/tokens/fuzzed/revoke", {}),
            ("/v1/admin/chores/ID/apply", {}), ("/v1/shutdown", {"no": 1}))]
        self.ids = ids

    def request(self, r):
        """A valid one, but for the ids that may not be there, and sometimes its way of sending the body."""
        method, path, body = r.choice(self.routes)
        path = path.replace("ID", r.choice(self.ids)).replace("NAME", r.choice(("local", "x", os.uname().nodename)))
        head = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        raw = b""
        if body is not None:
            raw = json.dumps(body).encode()
            if r.random() < 0.3:
                raw = self.damage_body(r, raw)
            if r.random() < 0.2:
                head.append("Transfer-Encoding: chunked")
                raw = self.chunked(r, raw)
            else:
                n = len(raw) if r.random() < 0.85 else r.choice((0, len(raw) - 1, len(raw) + 1, -1, 2 ** 20 + 1, 2 ** 63, 2 ** 64))
                head.append(f"Content-Length: {n}")
            head.append("Content-Type: application/json")
            if r.random() < 0.2:
                head.append(f"Idempotency-Key: k{r.randrange(5)}")
        if "events" in path and r.random() < 0.3:
            head += ["Accept: text/event-stream", f"Last-Event-ID: {r.choice(['0', '3', '-1', 'x'])}"]
        if r.random() < 0.05:
            head += [f"X-{i}: {'v' * r.choice((1, 100, 1000))}" for i in range(r.choice((10, 70, 300)))]
        if r.random() < 0.8:
            head.append("Connection: close")
        return "\r\n".join(head).encode() + b"\r\n\r\n" + raw

    @staticmethod
    def damage_body(r, raw):
        kind = r.randrange(6)
        if kind == 0:
            depth = r.choice((10, 64, 65, 1000, 100000))
            return b'{"spec":' + b"[" * depth + b"]" * depth + b"}"
        if kind == 1:
            return raw[:r.randrange(len(raw))]
        if kind == 2:
            return raw[:-1] + b"," + raw[1:]  # members twice
        if kind == 3:
            return b'{"x":"' + b"y" * r.choice((1000, 2 ** 20 - 8, 2 ** 20 - 9, 2 ** 20, 3 * 2 ** 20)) + b'"}'
        if kind == 4:
            return re.sub(rb'(\d+|"[a-z]*")', lambda m: r.choice(WORDS) if r.random() < 0.2 else m.group(0), raw)
        return b"\xef\xbb\xbf" + raw

    @staticmethod
    def chunked(r, raw):
        out = b""
        while raw:
            n = r.randrange(1, len(raw) + 1)
            size = b"%x" % (n if r.random() < 0.95 else r.choice((0, n + 1, 2 ** 64, 2 ** 63)))
            out += size + r.choice((b"", b";a=b")) + b"\r\n" + raw[:n] + b"\r\n"
            raw = raw[n:]
        return out + b"0\r\n" + r.choice((b"\r\n", b"X-Trailer: y\r\n\r\n", b""))

    def mutate(self, r, data):
        for _ in range(r.choice((1, 1, 1, 2, 3, 8))):
            if not data:
                break
            # where requests are parsed, mostly, and not in a megabyte of filling
            at = r.randrange(min(len(data), r.choice((60, 600, len(data)))))
            kind = r.randrange(7)
            if kind == 0:
                data = data[:at] + bytes([r.randrange(256)]) + data[at + 1:]
            elif kind == 1:
                data = data[:at] + r.choice(WORDS) + data[at:]
            elif kind == 2:
                data = data[:at] + data[at + r.randrange(1, 20):]
            elif kind == 3:
                data = data[:at]
            elif kind == 4:
                other = r.randrange(len(data))
                data = data[:at] + data[other:other + r.randrange(1, 100)] + data[at:]
            elif kind == 5:
                data = data[:at] + r.choice(WORDS) * r.choice((2, 50, 1000)) + data[at:]
            else:
                data = data[:at] + bytes([data[at] ^ (1 << r.randrange(8))]) + data[at + 1:]
        return data

    def harmless(self, data):
        """Paths stay within the test's directory: the daemon writes where export and backup say."""
        own = self.dhad.dir.encode() + b"/"
        return all(p.startswith(own) for p in re.findall(rb'"(/[^"]*)', data)) and b"/.." not in data

    def case(self, r):
        data = b"".join(self.request(r) for _ in range(r.choice((1, 1, 1, 2, 5))))
        if r.random() < 0.7:
            changed = self.mutate(r, data)
            data = changed if self.harmless(changed) else data
        return data


class Failure(Exception):
    pass


def answers(raw):
    """(status, is json, body) of each answer that is there whole."""
    at = 0
    while True:
        end = raw.find(b"\r\n\r\n", at)
        if end < 0:
            return
        head = raw[at:end]
        m = re.match(rb"HTTP/1\.[01] (\d{3}) ", head)
        if not m:
            raise Failure(f"an answer begins with {head[:80]!r}")
        status, at = int(m.group(1)), end + 4
        length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
        if status == 100:
            continue
        if not length:
            yield status, False, b""
            return
        body = raw[at:at + int(length.group(1))]
        whole = len(body) == int(length.group(1))
        yield status, whole and b"application/json" in head, body
        at += len(body)


class Fuzzer:
    def __init__(self, dhad, seed):
        self.dhad, self.seed = dhad, seed
        self.gen = Generator(dhad)
        self.tcp = (-1, "")
        self.token = dhad.post("/v1/admin/tokens", {"name": "fuzz", "role": "owner"}).json["token"]["secret"].encode()
        self.lingering, self.recent, self.statuses, self.stops = [], [], {}, 0

    def send(self, r, sock, data):
        """In one piece, in a few, or byte by byte; a server that closes while we send is in its right."""
        pieces = [data]
        if r.random() < 0.4 and len(data) > 1:
            cuts = sorted(r.randrange(len(data)) for _ in range(r.choice((1, 3, 10))))
            pieces = [data[a:b] for a, b in zip([0] + cuts, cuts + [len(data)])]
        elif r.random() < 0.05:
            pieces = [data[i:i + 1] for i in range(min(len(data), 400))]
        pause = r.choice((0, 0, 0, 0.001, 0.003)) if len(pieces) > 1 else 0
        try:
            for p in pieces:
                sock.sendall(p)
                if pause and len(pieces) < 12:
                    time.sleep(pause)
            if r.random() < 0.1:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    @staticmethod
    def read(sock, seconds):
        raw, end = b"", time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([sock], [], [], left)[0]:
            try:
                more = sock.recv(65536)
            except ConnectionResetError:
                break
            if not more:
                break
            raw += more
        return raw

    def close(self, r, sock):
        if r.random() < 0.2:  # a reset instead of an end
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()

    def connect(self, r, data):
        """To the unix socket, or (some of them) over TCP with the Host that is wanted there, with or without a token."""
        if r.random() < 0.7:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(5)
            sock.connect(self.dhad.socket)
            return sock, data
        if self.tcp[0] != self.stops:
            self.tcp = (self.stops, self.dhad.get("/v1/version").json["tcp"])
        host, port = self.tcp[1].split(":")
        lines = b"Host: " + self.tcp[1].encode() + b"\r\n"
        if r.random() < 0.8:
            lines += b"Authorization: Bearer " + (self.token if r.random() < 0.9 else self.token[:-1]) + b"\r\n"
        sock = socket.create_connection((host, int(port)), timeout=5)
        return sock, data.replace(b"Host: localhost\r\n", lines)

    def one(self, index):
        r = random.Random(f"{self.seed}:{index}")
        data = self.gen.case(r)
        self.last = data
        sock, data = self.connect(random.Random(f"tcp:{self.seed}:{index}"), data)
        self.send(r, sock, data)
        raw = self.read(sock, 0.015)
        for status, is_json, body in answers(raw):
            self.statuses[status] = self.statuses.get(status, 0) + 1
            if status >= 500 and status not in ALLOWED_5XX:
                raise Failure(f"status {status}: {body[:400]!r}")
            if is_json:
                try:
                    doc = json.loads(body.decode("utf-8"))
                except ValueError as e:
                    raise Failure(f"status {status}, no JSON ({e}): {body[:400]!r}") from None
                if status >= 400 and not doc["error"]["message"]:
                    raise Failure(f"status {status} without a message")
        self.lingering.append((sock, r))  # what waits for more bytes waits a little longer
        while len(self.lingering) > LINGER_MAX:
            old, rr = self.lingering.pop(0)
            self.close(rr, old)

    def look(self):
        d = self.dhad
        if b"shutdown" in b"".join(self.recent):  # it may be on its way out
            try:
                d.process.wait(timeout=0.5 if os.path.exists(d.socket) and self.answers_ready() else 20)
            except subprocess.TimeoutExpired:
                pass
        if (code := d.process.poll()) is not None:
            # a request to shut down that was left whole is obeyed
            if code != 0 or b"shutdown" not in b"".join(self.recent):
                raise Failure(f"dhad ended with {code}: {d.console()}")
            self.stops += 1
            d.start()
        c = harness.UnixConnection(d.socket)
        c.timeout = 20
        c.request("GET", "/livez")
        if c.getresponse().status != 200:
            raise Failure("/livez does not answer 200")
        c.close()

    def answers_ready(self):
        try:
            return self.dhad.get("/readyz").status == 200
        except (OSError, http.client.HTTPException):
            return False

    def endless_line(self):
        """A line of a chunk that never ends: the HTTP library ran on and on for it, and the loop with it (case 1738 of
        seed 2). It may cost a little, until the client goes."""
        def ticks():
            with open(f"/proc/{self.dhad.process.pid}/stat") as f:
                return sum(map(int, f.read().rsplit(")", 1)[1].split()[11:13]))
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(self.dhad.socket)
        sock.setblocking(False)
        sock.send(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;" + b"x" * 100000)
        self.look()
        time.sleep(1)
        before = ticks()
        time.sleep(1)
        if ticks() - before > 0.3 * os.sysconf("SC_CLK_TCK"):
            raise Failure(f"a chunk's endless line costs {ticks() - before} ticks a second")
        self.look()
        sock.close()

    def usage(self):
        with open(f"/proc/{self.dhad.process.pid}/status") as f:
            kib = int(re.search(r"VmRSS:\s*(\d+)", f.read()).group(1))
        return kib / 1024, len(os.listdir(f"/proc/{self.dhad.process.pid}/fd"))

    def run(self, first, count, seconds, rss_mib):
        end, index, before = time.monotonic() + seconds, first, None
        while (time.monotonic() < end if count is None else index < first + count):
            self.recent, start, gone = [], index, False
            while not gone and index < start + BATCH and (count is None or index < first + count):
                try:
                    self.one(index)
                except Failure as e:
                    raise Failure(f"case {index}: {e}\nsent: {self.last[:3000]!r}") from None
                except (ConnectionRefusedError, FileNotFoundError):
                    gone = True  # look() says whether it may be
                self.recent.append(self.last)
                index += 1
            try:
                self.look()
            except (Failure, OSError, http.client.HTTPException) as e:
                raise Failure(f"after cases {start} to {index - 1}: {e}") from None
            if before is None and index - first >= 10 * BATCH or self.stops and before and before[2] != self.stops:
                before = (*self.usage(), self.stops)
        for sock, r in self.lingering:
            self.close(r, sock)
        self.lingering, self.recent = [], [b"shutdown"]
        time.sleep(0.3)
        self.look()
        if before and before[2] == self.stops:
            mib, fds = self.usage()
            print(f"memory {before[0]:.0f} -> {mib:.0f} MiB, descriptors {before[1]} -> {fds}")
            if mib > before[0] + rss_mib:
                raise Failure(f"memory grew from {before[0]:.0f} to {mib:.0f} MiB")
            if fds > before[1] + 16:
                raise Failure(f"descriptors grew from {before[1]} to {fds}")
        return index - first


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--seconds", type=float, default=20)
    p.add_argument("--seed", default=os.environ.get("DHA_FUZZ_SEED", "1"))
    p.add_argument("--first", type=int, default=0)
    p.add_argument("--count", type=int)
    p.add_argument("--program", default="dhad")
    p.add_argument("--rss-mib", type=float, help="how far memory may grow after the first 500 cases")
    a = p.parse_args()
    with open(os.path.join(harness.BIN, a.program), "rb") as f:
        asan = b"__asan_init" in f.read()  # keeps what is freed for a while
    dhad = harness.Dhad(slots=2, program=a.program, args=["--tcp", "127.0.0.1:0"])
    print(f"seed {a.seed}", flush=True)
    try:
        dhad.start()
        dhad.until_state(dhad.submit("first"), "done")
        dhad.submit("second", tokens={"train": 1000})
        fuzzer = Fuzzer(dhad, a.seed)
        fuzzer.endless_line()
        start = time.monotonic()
        n = fuzzer.run(a.first, a.count, a.seconds, a.rss_mib or (400 if asan else 64))
        dhad.end()
        print(f"{n} cases in {time.monotonic() - start:.0f} s, statuses {dict(sorted(fuzzer.statuses.items()))}, "
              f"{fuzzer.stops} restarts after a request to stop: no finding")
    except (Failure, AssertionError) as e:
        print(f"FAILED with seed {a.seed}: {e}", file=sys.stderr)
        return 1
    finally:
        dhad.clean()
    return 0


if __name__ == "__main__":
    sys.exit(main())
