"""Event streams as their readers see them, and the limits of connections, streams and headers."""
import json
import os
import resource
import socket
import time
import unittest

import harness

SSE, NDJSON = "text/event-stream", "application/x-ndjson"


class Stream:
    """A stream that is read as it comes."""

    def __init__(self, d, accept, query="", **headers):
        self.c = harness.UnixConnection(d.socket)
        self.c.request("GET", "/v1/events" + query, headers={"Accept": accept, **headers})
        self.reply = self.c.getresponse()
        self.sock = self.c.sock

    def lines(self, n):
        """The next n lines that are not empty."""
        found = []
        while len(found) < n:
            line = self.reply.readline()
            if not line:
                raise EOFError(found)
            if line.strip():
                found.append(line.decode().rstrip("\n"))
        return found

    def events(self, n):
        return [json.loads(x) for x in self.lines(n)]

    def messages(self, n):
        """SSE: [(id, type, data)]"""
        got = []
        for _ in range(n):
            fields = dict(x.split(": ", 1) for x in self.lines(3))
            got.append((fields["id"], fields["event"], json.loads(fields["data"])))
        return got

    def close(self):
        self.reply.close()
        self.c.close()


def fill(d, n, reason="x"):
    """n events, quickly."""
    node = d.get("/v1/nodes").json["nodes"][0]["name"]
    c = harness.UnixConnection(d.socket)
    for i in range(n):
        c.request("POST", f"/v1/nodes/{node}/drain", json.dumps({"reason": f"{reason} {i}"}))
        assert c.getresponse().read()
    c.close()


def metric(d, name):
    text = d.get("/metrics").raw.decode()
    return float(next(x for x in text.splitlines() if x.startswith(name + " ")).split()[1])


class Streams(harness.Case):
    def stream(self, accept, query="", **headers):
        s = Stream(self.dhad, accept, query, **headers)
        self.addCleanup(s.close)
        return s

    def test_sse_is_the_log_and_goes_on_with_what_happens(self):
        d = self.dhad
        s = self.stream(SSE)
        self.assertEqual((s.reply.status, s.reply.headers["Content-Type"]), (200, SSE))
        job = d.submit()
        d.until_state(job, "done")
        log = d.events()
        got = s.messages(len(log))
        self.assertEqual([(m[0], m[1]) for m in got], [(e["seq"], e["type"]) for e in log])
        self.assertEqual([m[2] for m in got], log)
        fill(d, 1)
        self.assertEqual(s.messages(1)[0][1], "node.drain")

    def test_ndjson_is_a_line_an_event(self):
        d = self.dhad
        s = self.stream(NDJSON)
        self.assertEqual(s.reply.headers["Content-Type"], NDJSON)
        d.until_state(d.submit(), "done")
        log = d.events()
        self.assertEqual(s.events(len(log)), log)

    def test_a_reader_that_comes_back_goes_on_where_it_was(self):
        d = self.dhad
        d.until_state(d.submit(), "done")
        log = d.events()
        at = log[len(log) // 2]["seq"]
        rest = [e for e in log if int(e["seq"]) > int(at)]
        self.assertEqual(self.stream(NDJSON, f"?after={at}").events(len(rest)), rest)
        s = self.stream(SSE, "?after=1", **{"Last-Event-ID": at})
        self.assertEqual([m[2] for m in s.messages(len(rest))], rest)
        d.stop()
        d.start()
        s = self.stream(SSE, **{"Last-Event-ID": at})
        self.assertEqual([m[2] for m in s.messages(len(rest))], rest)

    def test_filters_hold_for_all_three_forms(self):
        d = self.dhad
        a, b = d.submit("a", seed=1), d.submit("b", seed=2)
        d.until_state(a, "done")
        d.until_state(b, "done")
        log = d.events()
        for query, want in ((f"job={b}", [e for e in log if e["job"] == b]),
                            ("type=job.", [e for e in log if e["type"].startswith("job.")]),
                            (f"job={a}&type=stage.state",
                             [e for e in log if e["job"] == a and e["type"] == "stage.state"])):
            with self.subTest(query=query):
                self.assertGreater(len(want), 1)
                self.assertEqual(d.get(f"/v1/events?{query}").json["events"], want)
                self.assertEqual(self.stream(NDJSON, "?" + query).events(len(want)), want)
                s = self.stream(SSE, "?" + query)
                self.assertEqual([m[2] for m in s.messages(len(want))], want)
        page = d.get(f"/v1/events?job={b}&limit=1").json
        rest = d.get(f"/v1/events?job={b}&after={page['last']}").json["events"]
        self.assertEqual(page["events"] + rest, [e for e in log if e["job"] == b])

    def test_a_long_poll_with_a_filter_is_not_woken_by_others(self):
        d = self.dhad
        last = d.events()[-1]["seq"]
        c = harness.UnixConnection(d.socket)
        c.request("GET", f"/v1/events?after={last}&wait=30&type=job.submit")
        fill(d, 5)
        job = d.submit()
        got = json.loads(c.getresponse().read())
        c.close()
        self.assertEqual([(e["type"], e["job"]) for e in got["events"]], [("job.submit", job)])

    def test_an_event_longer_than_any_buffer_comes_whole(self):
        d = self.dhad
        last = int(d.events()[-1]["seq"])
        for i in range(3):
            d.post("/v1/jobs/%s/cancel" % d.submit("sleep=30", seed=i + 1),
                   {"reason": "because " + "x\u00e9" * 60000})
        log = d.events(after=last)
        self.assertGreater(max(len(json.dumps(e)) for e in log), 120000)
        self.assertEqual(self.stream(NDJSON, f"?after={last}").events(len(log)), log)
        s = self.stream(SSE, f"?after={last}")
        self.assertEqual([m[2] for m in s.messages(len(log))], log)

    def test_many_readers_from_many_places_get_all_of_a_long_log(self):
        d = self.dhad
        fill(d, 3000)
        log = d.events()
        starts = [0, 1, 255, 256, 257, 511, 1500, 2500, len(log) - 1, len(log)]
        streams = [(at, self.stream(NDJSON, f"?after={at}")) for at in starts * 3]
        fill(d, 10, "later")
        log = d.events()
        for at, s in streams:
            self.assertEqual(s.events(len(log) - at), log[at:])

    def test_a_reader_that_does_not_read_costs_the_others_nothing(self):
        d = self.dhad
        deaf = [self.stream(NDJSON) for _ in range(20)]
        for s in deaf:
            s.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        good = self.stream(NDJSON)
        fill(d, 4000, "y" * 200)  # some 1.4 MB for each: more than all buffers on the way
        log = d.events()
        before = time.time()
        self.assertEqual(good.events(len(log)), log)
        d.get("/livez")
        self.assertLess(time.time() - before, 10)
        with open(f"/proc/{d.process.pid}/status") as f:
            rss = next(int(x.split()[1]) for x in f if x.startswith("VmRSS"))
        self.assertLess(rss, 400 * 1024, "KiB, sanitizers included")
        self.assertEqual(deaf[0].events(len(log)), log)  # nothing was thrown away

    def test_a_stream_whose_client_left_is_forgotten_at_once(self):
        d = self.dhad
        streams = [Stream(d, SSE) for _ in range(50)]
        self.assertEqual(metric(d, "dha_event_streams"), 50)
        for s in streams:
            s.close()
        d.until(lambda: metric(d, "dha_event_streams") == 0, 5)

    def test_signs_of_life_come_when_nothing_else_does(self):
        last = self.dhad.events()[-1]["seq"]
        a, b = self.stream(SSE, f"?after={last}"), self.stream(NDJSON, f"?after={last}")
        for s, want in ((a, b": keep-alive\n"), (b, b"\n")):
            s.sock.settimeout(25)
            lines = []
            while not lines or lines[-1] != want:  # the first backup of a new daemon may say something meanwhile
                lines.append(s.reply.readline())
                self.assertLess(len(lines), 20, lines)
                self.assertTrue(lines[-1], lines)

    def test_streams_end_in_good_order_at_shutdown(self):
        d = self.dhad
        streams = [self.stream(NDJSON), self.stream(SSE)]
        log = d.events()
        self.assertEqual(d.stop(), 0)
        self.assertEqual(len(streams[0].reply.read().splitlines()), len(log))
        self.assertIn(b"id: 1\n", streams[1].reply.read())  # read() checks the last chunk

    def test_what_a_stream_does_not_know_is_refused(self):
        for query, headers in (("?wait=5", {}), ("?limit=5", {}), ("?after=x", {}), ("?job=0", {}),
                               ("?type=Job", {}), ("?type=" + "a" * 32, {}),
                               ("", {"Last-Event-ID": "yesterday"}), ("", {"Last-Event-ID": "-1"})):
            with self.subTest(query=query, headers=headers):
                s = self.stream(SSE, query, **headers)
                r = harness.Reply(s.reply.status, s.reply.headers, s.reply.read())
                self.assert_error(r, 400, "usage")


class Limits(harness.Case):
    def setUp(self):
        super().setUp()
        self.limits = self.dhad.get("/v1/version").json["limits"]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        want = self.limits["connections_per_user"] + 100
        if hard < want:
            self.skipTest(f"this process may open {hard} files only")
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, want), hard))

    def test_a_user_may_have_so_many_streams(self):
        d = self.dhad
        streams = [Stream(d, NDJSON) for _ in range(self.limits["streams_per_user"])]
        self.assertEqual({s.reply.status for s in streams}, {200})
        r = d.request("GET", "/v1/events", headers={"Accept": NDJSON})
        self.assert_error(r, 503, "transient")
        self.assertIn(str(len(streams)), r.json["error"]["message"])
        self.assertIn("wait=30", r.json["error"]["hint"])
        self.assertEqual(d.get("/v1/events").status, 200, "the other form still answers")
        streams.pop().close()
        d.until(lambda: metric(d, "dha_event_streams") == len(streams), 5)
        s = Stream(d, NDJSON)
        self.assertEqual(s.reply.status, 200)
        for s in [s, *streams]:
            s.close()

    def test_a_user_may_have_so_many_connections(self):
        d = self.dhad
        idle = []
        for _ in range(self.limits["connections_per_user"]):
            s = socket.socket(socket.AF_UNIX)
            s.connect(d.socket)
            idle.append(s)
        r = d.until(lambda: d.get("/livez"))
        self.assert_error(r, 503, "transient")
        self.assertIn(str(self.limits["connections_per_user"]), r.json["error"]["message"])
        self.assertIn("keep-alive", r.json["error"]["hint"])
        for text in b"", b"GET /livez HTTP/1.1\r\nX-Slow: ":  # one too many that says nothing, or does not end, is told and ended
            s = socket.socket(socket.AF_UNIX)
            s.settimeout(20)
            s.connect(d.socket)
            s.sendall(text)
            answer = b""
            while more := s.recv(4096):
                answer += more
            self.assertIn(b" 503 ", answer)
            s.close()
        for s in idle[:10]:
            s.close()
        self.assertTrue(d.until(lambda: (r := d.get("/livez")).status == 200 and r))
        for s in idle:
            s.close()

    def test_headers_are_bounded_in_number_and_size(self):
        d = self.dhad
        few = {f"X-A{i}": "b" for i in range(self.limits["headers"] - 10)}
        self.assertEqual(d.request("GET", "/livez", headers=few).status, 200)
        many = {f"X-A{i}": "b" for i in range(self.limits["headers"] + 1)}
        r = d.request("GET", "/livez", headers=many)
        self.assert_error(r, 413, "too_large")
        self.assertIn(str(self.limits["headers"]), r.json["error"]["message"])
        r = d.request("GET", "/livez", headers={"X-A": "b" * self.limits["header_bytes"]})
        self.assert_error(r, 413, "too_large")
        self.assertIn("header", r.json["error"]["message"])
        r = d.request("GET", "/livez", headers={"X-A": "b" * 100000})  # the HTTP library's own answer
        self.assertIn(r.status, (413, 431))
        self.assertEqual(d.get("/livez").status, 200)

    def test_a_body_is_bounded(self):
        r = self.dhad.post("/v1/jobs", b"x" * (self.limits["body_bytes"] + 1))
        self.assert_error(r, 413, "too_large")
        self.assertIn(str(self.limits["body_bytes"]), r.json["error"]["message"])


if __name__ == "__main__":
    harness.main()
