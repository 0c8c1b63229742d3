"""The API over TCP: shut as it comes; open, read-only without a token; and what an attacker tries against that."""
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import threading
import unittest

import api_contract
import harness


class Tcp(unittest.TestCase):
    settings = {"tcp": "127.0.0.1:0"}

    def setUp(self):
        d = self.dhad = harness.Dhad()
        self.addCleanup(d.clean)
        self.file = os.path.join(d.dir, "dhad.json")
        self.write(self.settings)
        d.args += ["--config", self.file]
        d.start()
        self.addCleanup(d.end)
        self.where = d.get("/v1/version").json["tcp"]
        self.port = int(self.where.rpartition(":")[2])

    def write(self, settings):
        with open(self.file, "w") as f:
            json.dump(settings, f)

    def raw(self, text):
        """(status, document) of a request as bytes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
            s.sendall(text)
            r = http.client.HTTPResponse(s)
            r.begin()
            body = r.read()
        return r.status, json.loads(body) if body else None

    def send(self, method, path, body=None, host=None, token=None, headers=()):
        lines = [f"{method} {path} HTTP/1.1", "Connection: close"]
        lines += [f"Host: {h}" for h in ([self.where] if host is None else host)]
        data = b""
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            lines.append(f"Content-Length: {len(data)}")
            if not any(h.lower().startswith("content-type") for h in headers):
                lines.append("Content-Type: application/json")
        if token:
            lines.append(f"Authorization: Bearer {token}")
        return self.raw("\r\n".join([*lines, *headers]).encode() + b"\r\n\r\n" + data)

    def refused(self, answer, status, code):
        self.assertEqual((answer[0], answer[1]["error"]["code"]), (status, code), answer)
        self.assertTrue(answer[1]["error"]["message"])

    def token(self, name, role, **more):
        r = self.dhad.post("/v1/admin/tokens", {"name": name, "role": role, **more})
        self.assertEqual(r.status, 201, r)
        return r.json["token"]["secret"]


class Shut(harness.Case):
    def test_as_it_comes_nothing_listens_on_tcp(self):
        self.assertIsNone(self.dhad.get("/v1/version").json["tcp"])
        ours = {os.readlink(f"/proc/{self.dhad.process.pid}/fd/{f}") for f in os.listdir(f"/proc/{self.dhad.process.pid}/fd")}
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            with open(table) as f:
                inodes = {f"socket:[{line.split()[9]}]" for line in f.readlines()[1:]}
            self.assertFalse(ours & inodes)


class Reading(Tcp):
    def test_reading_needs_no_token_but_logs_do(self):
        d = self.dhad
        job = d.submit("sleep=30")
        d.until_running(job, "search")
        for path in ("/v1/version", "/livez", "/readyz", "/v1/jobs", f"/v1/jobs/{job}", "/v1/events", "/v1/nodes"):
            self.assertEqual(self.send("GET", path)[0], 200, path)
        self.assertEqual(self.send("GET", "/v1/version")[1]["role"], "viewer")
        self.refused(self.send("GET", f"/v1/jobs/{job}/logs"), 401, "unauthenticated")
        self.refused(self.send("GET", "/v1/admin/tokens"), 401, "unauthenticated")
        self.refused(self.send("GET", "/v1/admin/chores/1"), 401, "unauthenticated")

    def test_nothing_is_said_to_other_pages(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as s:
            s.sendall(f"GET /v1/jobs HTTP/1.1\r\nHost: {self.where}\r\nOrigin: http://evil.example\r\n\r\n".encode())
            r = http.client.HTTPResponse(s)
            r.begin()
            names = [k.lower() for k, _ in r.getheaders()]
        self.assertEqual([n for n in names if n.startswith("access-control")], [])

    def test_the_preflight_of_a_browser_gets_no(self):
        status, doc = self.send("OPTIONS", "/v1/jobs", headers=["Origin: http://evil.example",
                                                                "Access-Control-Request-Method: POST"])
        self.assertGreaterEqual(status, 400, doc)


class Crowd(Tcp):
    """Clients that open all they can: each address of 127/8 is another one to the daemon."""

    def setUp(self):
        super().setUp()
        self.limits = self.dhad.get("/v1/version").json["limits"]
        self.all, self.share = self.limits["tcp_connections"], self.limits["tcp_connections_per_address"]
        self.assertLess(self.share, self.all)

    def connect(self, address, text=b""):
        s = socket.create_connection(("127.0.0.1", self.port), timeout=20, source_address=(address, 0))
        self.addCleanup(s.close)
        if text:
            s.sendall(text)
        return s

    def answer(self, s):
        """(status, document) of the next answer on that connection."""
        r = http.client.HTTPResponse(s)
        r.begin()
        return r.status, json.loads(r.read())

    def ask(self, s, headers=""):
        s.sendall(f"GET /livez HTTP/1.1\r\nHost: {self.where}\r\n{headers}\r\n".encode())
        return self.answer(s)[0]

    def served(self, address):
        """A connection of that address that got an answer; None where there was no room."""
        s = self.connect(address)
        try:
            if self.ask(s) == 200:
                return s
        except OSError:  # it was closed while we wrote
            pass
        s.close()
        return None

    def turned_away_after(self, sent):
        """Does who is not let in, and has sent so much, see the connection closed (True) or reset: what it sent was not all taken?"""
        os.kill(self.dhad.process.pid, signal.SIGSTOP)
        s = socket.socket()
        self.addCleanup(s.close)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        s.settimeout(20)
        s.bind(("127.0.0.2", 0))
        s.connect(("127.0.0.1", self.port))
        s.sendall(bytes(sent))
        os.kill(self.dhad.process.pid, signal.SIGCONT)
        try:
            while s.recv(1 << 16):
                pass
        except ConnectionResetError:
            return False
        self.served("127.0.0.3")  # by now it is closed
        return s.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == b"\x08"  # CLOSE_WAIT; 7: it was reset

    def test_who_is_turned_away_and_sends_without_end_keeps_nobody(self):
        head = f"GET /v1/events?wait=60&after=100000 HTTP/1.1\r\nHost: {self.where}\r\n\r\n"
        held = [self.connect("127.0.0.2", head.encode()) for _ in range(self.share)]
        self.assertIsNotNone(self.served("127.0.0.3"))  # they were let in before it
        self.assertTrue(self.turned_away_after(10000))
        self.assertFalse(self.turned_away_after(50000))
        self.assertIsNotNone(self.served("127.0.0.3"))
        self.assertEqual(len(held), self.share)

    def still_open(self, s):
        s.setblocking(False)
        try:
            s.recv(1, socket.MSG_PEEK)
            return False  # its end, or what it is told before
        except BlockingIOError:
            return True
        except OSError:
            return False

    def crowd(self, address, n):
        """Half of them say nothing, half of them are in the middle of a request."""
        return [self.connect(address, b"GET /livez HTTP/1.1\r\nX-Slow: " if i % 2 else b"") for i in range(n)]

    def rest(self):
        """All that 127.0.0.2 may not have."""
        return self.crowd("127.0.0.3", self.share) + self.crowd("127.0.0.5", self.all - 2 * self.share)

    def test_who_holds_all_that_one_address_may_have_keeps_nobody_else_out(self):
        d, end = self.dhad, threading.Event()
        held = self.crowd("127.0.0.2", self.share + 20)

        def dribble():
            while not end.wait(0.2):
                for s in held[1::2]:
                    try:
                        s.send(b"x")
                    except OSError:
                        pass  # it was pushed out
        slow = threading.Thread(target=dribble)
        slow.start()
        try:
            status, doc = self.answer(held[-2])  # told before it asks
            self.refused((status, doc), 503, "transient")
            self.assertIn(f"your address has {self.share} connections", doc["error"]["message"])
            self.assertLessEqual(sum(map(self.still_open, held)), self.share)
            for _ in range(20):
                self.assertEqual(self.send("GET", "/livez")[0], 200)
                self.assertEqual(d.get("/livez").status, 200)
            # who never ends a request makes room for that address's own requests, though it goes on sending
            before = sum(map(self.still_open, held))
            d.until(lambda: self.served("127.0.0.2"), 60)
            d.until(lambda: sum(map(self.still_open, held)) < before)
        finally:
            end.set()
            slow.join()

    def test_what_is_of_use_is_not_pushed_out(self):
        d = self.dhad
        token = self.token("t", "viewer")
        stream, poll = self.connect("127.0.0.2"), self.connect("127.0.0.2")
        last = d.get("/v1/events").json["last"]
        stream.sendall(f"GET /v1/events?after={last} HTTP/1.1\r\nHost: {self.where}\r\nAccept: application/x-ndjson\r\n\r\n".encode())
        self.assertIn(b"200 OK", stream.recv(4096))
        known = self.connect("127.0.0.2")
        self.assertEqual(self.ask(known, f"Authorization: Bearer {token}\r\n"), 200)
        silent = self.crowd("127.0.0.2", self.share - 3)
        others = self.rest()
        poll.sendall(f"GET /v1/events?after={last}&type=job.submit&wait=60 HTTP/1.1\r\nHost: {self.where}\r\n\r\n".encode())
        self.assertIsNone(self.served("127.0.0.4"), "there is no room for anybody")
        self.assertEqual(d.get("/livez").status, 200)
        # all who are of no use are pushed out, one for each that is let in
        kept = [d.until(lambda: self.served("127.0.0.2"), 60) for _ in silent]
        self.assertFalse([s for s in silent if self.still_open(s)])
        self.assertTrue(all(map(self.still_open, kept)))
        d.until(lambda: self.served("127.0.0.4"), 60)
        self.assertLess(sum(map(self.still_open, others)), len(others))
        self.assertEqual(self.ask(known), 200)
        d.submit("sleep=1")
        status, doc = self.answer(poll)
        self.assertEqual((status, doc["events"][0]["type"]), (200, "job.submit"))
        stream.settimeout(20)
        text = b""
        while b"job.submit" not in text:
            text += stream.recv(4096) or self.fail("the stream has ended")

    def test_all_who_come_over_tcp_leave_the_socket_room(self):
        held = self.crowd("127.0.0.2", self.share) + self.rest()
        s = self.connect("127.0.0.4")
        status, doc = self.answer(s)
        self.refused((status, doc), 503, "transient")
        self.assertIn(f"clients over TCP have {self.all} connections", doc["error"]["message"])
        self.assertEqual(self.dhad.get("/livez").status, 200)
        for s in held[:5]:
            s.close()
        self.dhad.until(lambda: self.served("127.0.0.4"))

    def test_an_address_has_so_many_streams(self):
        text = f"GET /v1/events HTTP/1.1\r\nHost: {self.where}\r\nAccept: application/x-ndjson\r\n\r\n".encode()
        n = self.limits["tcp_streams_per_address"]
        streams = [self.connect("127.0.0.2", text) for _ in range(n)]
        for s in streams:
            self.assertIn(b"200 OK", s.recv(4096))
        status, doc = self.answer(self.connect("127.0.0.2", text))
        self.refused((status, doc), 503, "transient")
        self.assertIn(f"your address has {n} event streams", doc["error"]["message"])
        self.assertIn(b"200 OK", self.connect("127.0.0.3", text).recv(4096))
        self.assertIsNotNone(self.served("127.0.0.2"), "other requests are still answered")


class Rebinding(Tcp):
    settings = {"tcp": "127.0.0.1:0", "tcp_hosts": ["proxy.example.org", "other.example:81"]}

    def test_the_host_is_one_of_ours_to_the_letter(self):
        port = self.port
        for good in (f"127.0.0.1:{port}", f"localhost:{port}", f"LOCALHOST:{port}", "proxy.example.org",
                     f"proxy.example.org:{port}", "other.example:81"):
            self.assertEqual(self.send("GET", "/livez", host=[good])[0], 200, good)
        for bad in ("", "evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}", "127.0.0.1", "localhost",
                    f"127.0.0.1:{port}.evil.example", f"127.0.0.1:{port}0", f"127.0.0.1:{port // 10}", f"127.0.0.1:0{port}",
                    f"localhost.evil.example:{port}", f"evil.localhost:{port}", f"127.0.0.2:{port}", f"127.1:{port}",
                    f"2130706433:{port}", f"0.0.0.0:{port}", f"[::1]:{port}", f"user@127.0.0.1:{port}", "other.example",
                    f"other.example:{port}", "proxy.example.org.evil.example", "xproxy.example.org", "proxy.example.org ",
                    f"127.0.0.1:{port} evil", f"127.0.0.1:{port},evil", "proxy.example.org:81"):
            self.refused(self.send("GET", "/v1/jobs", host=[bad]), 403, "forbidden")

    def test_no_host_and_two_hosts_are_refused(self):
        for host in ([], [self.where, "evil.example"], ["evil.example", self.where], [self.where, self.where]):
            status, doc = self.send("GET", "/v1/jobs", host=host)
            self.assertIn(status, (400, 403), (host, doc))
        status, _ = self.raw(f"GET http://{self.where}/v1/jobs HTTP/1.1\r\nHost: evil.example\r\n\r\n".encode())
        self.assertEqual(status, 403)

    def test_a_token_does_not_help_the_wrong_host(self):
        token = self.token("t", "owner")
        self.refused(self.send("POST", "/v1/shutdown", {}, host=["evil.example"], token=token), 403, "forbidden")


class Writing(Tcp):
    CHANGES = (("/v1/jobs/1/cancel", {}), ("/v1/jobs/1/hold", {}), ("/v1/jobs/1/priority", {"priority": 3}),
               ("/v1/nodes/x/drain", {}), ("/v1/admin/fsck", {}), ("/v1/admin/backup", {"file": "/tmp/never"}),
               ("/v1/admin/tokens", {"name": "x", "role": "owner"}), ("/v1/admin/tokens/x/revoke", {}),
               ("/v1/sweeps", {}), ("/v1/shutdown", {}))

    def all_refused(self, status, code, **how):
        d = self.dhad
        for path, body in (*self.CHANGES, ("/v1/jobs", {"spec": d.spec()}), ("/v1/jobs", {"spec": d.spec(), "dry_run": True})):
            self.refused(self.send("POST", path, body, **how), status, code)

    def test_without_a_token_nothing_is_changed(self):
        d = self.dhad
        d.submit("sleep=30")
        before = d.get("/v1/events?limit=10000").json["last"]
        d.until_running("1", "search")
        self.all_refused(401, "unauthenticated")
        self.assertFalse([e for e in d.events(after=before) if "by" in e["data"]])
        self.assertEqual(d.get("/v1/admin/tokens").json["tokens"], [])

    def test_a_token_that_is_none_lets_nobody_in(self):
        good = self.token("good", "owner")
        for bad in ("x", good[:-1], good + "0", good[:-1] + ("0" if good[-1] != "0" else "1"), good.upper() + "Z", "0" * 64,
                    self.digest("good")):
            self.refused(self.send("GET", "/v1/jobs", token=bad), 401, "unauthenticated")
            self.refused(self.send("POST", "/v1/shutdown", {}, token=bad), 401, "unauthenticated")
        for header in (f"Authorization: Basic {good}", f"Authorization: {good}", "Authorization: Bearer", "Authorization: Bearer ",
                       f"Authorization: Bearer{good}"):
            self.refused(self.send("POST", "/v1/shutdown", {}, headers=[header]), 401, "unauthenticated")
        self.refused(self.send("POST", "/v1/shutdown", {}, token=good, headers=["Authorization: Bearer x"]), 401, "unauthenticated")
        self.assertEqual(self.send("GET", "/v1/version", token=good)[1]["role"], "owner")

    def digest(self, name):
        db = sqlite3.connect(os.path.join(self.dhad.state, "state.db"))
        try:
            return db.execute("SELECT digest FROM token WHERE name = ?", [name]).fetchone()[0]
        finally:
            db.close()

    def test_a_token_is_kept_as_a_digest_and_shown_once(self):
        d = self.dhad
        secret = self.token("laptop", "operator")
        self.assertEqual(len(secret), 64)
        self.assertNotEqual(secret, self.token("other", "operator"))
        listed = d.get("/v1/admin/tokens")
        self.assertEqual([(t["name"], t["role"], t["uid"]) for t in listed.json["tokens"]],
                         [("laptop", "operator", str(os.geteuid())), ("other", "operator", str(os.geteuid()))])
        d.stop()
        for root, _, names in os.walk(d.state):
            for name in names:
                with open(os.path.join(root, name), "rb") as f:
                    self.assertNotIn(secret.encode(), f.read(), name)
        self.assertNotIn(secret, listed.raw.decode())
        d.start()
        self.port = int(d.get("/v1/version").json["tcp"].rpartition(":")[2])
        self.where = f"127.0.0.1:{self.port}"
        self.assertEqual(self.send("GET", "/v1/version", token=secret)[1]["role"], "operator", "it outlives the daemon")

    def test_a_revoked_token_is_known_no_more(self):
        d = self.dhad
        token = self.token("t", "owner")
        self.assertEqual(self.send("POST", "/v1/jobs", {"spec": d.spec()}, token=token)[0], 201)
        self.assertEqual(d.post("/v1/admin/tokens/t/revoke").status, 200)
        self.refused(self.send("POST", "/v1/jobs", {"spec": d.spec()}, token=token), 401, "unauthenticated")
        self.assertEqual(d.post("/v1/admin/tokens/t/revoke").status, 404)
        again = self.token("t", "viewer")
        self.refused(self.send("GET", "/v1/jobs", token=token), 401, "unauthenticated")
        self.assertEqual(self.send("GET", "/v1/jobs", token=again)[0], 200)

    def test_a_viewers_token_changes_nothing(self):
        self.dhad.submit("sleep=30")
        token = self.token("v", "viewer", uid=4711)
        self.all_refused(403, "forbidden", token=token)
        self.refused(self.send("GET", "/v1/jobs/1/logs", token=token), 403, "forbidden")

    def test_an_operators_token_speaks_for_its_user_only(self):
        d = self.dhad
        mine = d.submit("sleep=30")
        os.chmod(d.dir, 0o755)  # the user is to see the model
        token = self.token("op", "operator", uid=5)
        status, doc = self.send("POST", "/v1/jobs", {"spec": d.spec("x", seed=2), "hold": True}, token=token)
        self.assertEqual((status, doc["job"]["owner_uid"]), (201, "5"))
        job = doc["job"]["id"]
        self.assertEqual(self.send("POST", f"/v1/jobs/{job}/cancel", {"now": True}, token=token)[0], 200)
        self.refused(self.send("POST", f"/v1/jobs/{mine}/cancel", {}, token=token), 403, "forbidden")
        self.refused(self.send("POST", "/v1/admin/tokens", {"name": "me", "role": "owner"}, token=token), 403, "forbidden")
        by = [e["data"]["by"] for e in d.events(job=job) if "by" in e["data"]]
        self.assertEqual(set(by), {"5"})

    def test_a_form_of_another_page_is_refused(self):
        d = self.dhad
        token = self.token("t", "owner")
        body = json.dumps({"spec": d.spec()}).encode()
        for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonx",
                     "text/plain; application/json", ""):
            self.refused(self.send("POST", "/v1/jobs", body, token=token, headers=[f"Content-Type: {kind}"]), 400, "usage")
        for two in (["Content-Type: application/json", "Content-Type: text/plain"],):
            self.refused(self.send("POST", "/v1/jobs", body, token=token, headers=two), 400, "usage")
        for origin in ("http://evil.example", "null", "", f"http://127.0.0.1.evil:{self.port}", f"{self.where}",
                       f"http://{self.where}.evil", "http://127.0.0.1", f"file://{self.where}", f"http://{self.where}/"):
            self.refused(self.send("POST", "/v1/jobs", body, token=token, headers=[f"Origin: {origin}"]), 403, "forbidden")
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [])
        ok = self.send("POST", "/v1/jobs", body, token=token,
                       headers=[f"Origin: http://{self.where}", "Content-Type: application/json; charset=utf-8"])
        self.assertEqual(ok[0], 201, ok)

    def test_who_may_not_is_told_so_before_what_is_wrong_with_the_body(self):
        token = self.token("v", "viewer")
        for method, path in sorted(api_contract.daemon_routes()):
            path = path.replace("ID", "1").replace("NAME", "x")
            for body in (b"{", b"[1]", b'{"rubbish": 1}') if method == "POST" else ():
                for kind in ("application/json", "text/plain"):
                    headers = [f"Content-Type: {kind}"]
                    self.refused(self.send("POST", path, body, headers=headers), 401, "unauthenticated")
                    self.refused(self.send("POST", path, body, token=token, headers=headers), 403, "forbidden")
                    self.refused(self.send("PUT", path, body, token=token, headers=headers), 405, "method_not_allowed")

    def test_a_row_that_was_damaged_lets_nobody_in(self):
        d = self.dhad
        token = self.token("t", "owner")
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        db.execute("UPDATE token SET role = 'emperor'")
        db.commit()
        db.close()
        d.start()
        self.where = d.get("/v1/version").json["tcp"]
        self.port = int(self.where.rpartition(":")[2])
        self.refused(self.send("GET", "/livez", token=token), 401, "unauthenticated")

    def test_bad_requests_for_tokens_are_told_why(self):
        d = self.dhad
        for bad in ({}, {"name": "x"}, {"name": "x", "role": "none"}, {"name": "", "role": "owner"}, {"name": "a/b", "role": "owner"},
                    {"name": "x" * 64, "role": "owner"}, {"name": "x", "role": "owner", "uid": -1},
                    {"name": "x", "role": "owner", "uid": 4294967295}, {"name": "x", "role": "owner", "digest": "0"}):
            r = d.post("/v1/admin/tokens", bad)
            self.assertEqual(r.status, 400, (bad, r))
        self.token("x", "owner")
        self.assertEqual(d.post("/v1/admin/tokens", {"name": "x", "role": "viewer"}).status, 409)

    @unittest.skipUnless(os.geteuid() == 0, "only root's daemon runs jobs as others")
    def test_a_token_that_submits_is_for_a_user_of_the_host(self):
        d = self.dhad
        for role in ("operator", "owner"):
            r = d.post("/v1/admin/tokens", {"name": "x", "role": role, "uid": 54321})
            self.refused((r.status, r.json), 403, "forbidden")
            self.assertIn("uid 54321 is no user of this host", r.json["error"]["message"])
            self.assertIn("getent passwd", r.json["error"]["hint"])
        self.assertEqual(d.get("/v1/admin/tokens").json["tokens"], [])
        self.token("v", "viewer", uid=54321)


class Door(Tcp):
    def test_it_is_not_moved_while_the_daemon_runs(self):
        d = self.dhad
        self.write({"tcp": "127.0.0.1:1", "slots": 3})
        d.process.send_signal(signal.SIGHUP)
        d.until(lambda: "needs a restart" in d.console())
        self.assertEqual(len(d.get("/v1/nodes").json["nodes"][0]["slots"]), 4, "nothing of that file holds")
        self.assertEqual(self.send("GET", "/livez")[0], 200)

    def test_the_network_needs_a_word_more(self):
        d = self.dhad
        d.end()
        for bad, why in (({"tcp": "0.0.0.0:0"}, "tcp_hosts"), ({"tcp": "[::]:0"}, "tcp_hosts"), ({"tcp": "127.0.0.1"}, "ADDRESS:PORT"),
                         ({"tcp": "localhost:80"}, "ADDRESS:PORT"), ({"tcp": "127.0.0.1:65536"}, "ADDRESS:PORT"),
                         ({"tcp": "::1:80"}, "ADDRESS:PORT"), ({"tcp": "127.0.0.1:0", "tcp_hosts": "x"}, "list")):
            self.write(bad)
            d.start(wait=False)
            self.assertEqual(d.wait_dead(), 65, bad)
            self.assertIn(why, d.console()[-400:])
            self.assertFalse(os.path.exists(d.socket))
        self.write({"tcp": "0.0.0.0:0", "tcp_hosts": ["cluster.example"]})
        d.start()
        self.port = int(d.get("/v1/version").json["tcp"].rpartition(":")[2])
        self.assertEqual(self.send("GET", "/livez", host=["cluster.example"])[0], 200)
        self.refused(self.send("GET", "/livez", host=[f"0.0.0.0:{self.port}"]), 403, "forbidden")


class Client(Tcp):
    def dha(self, *words, **env):
        return subprocess.run([os.path.join(harness.BIN, "dha"), *words], capture_output=True, text=True, timeout=60,
                              env={**os.environ, **env})

    def test_the_client_reads_and_with_a_token_changes(self):
        d = self.dhad
        job = d.submit("sleep=30")
        r = self.dha("admin", "token", "create", "cli", "--role", "operator", DHA_SOCKET=d.socket)
        self.assertEqual(r.returncode, 0, r.stderr)
        secret = r.stdout.strip()
        url = {"DHA_URL": f"http://{self.where}"}
        self.assertEqual(self.dha("list", **url).returncode, 0)
        self.assertEqual(self.dha("list", DHA_URL=url["DHA_URL"] + "//").returncode, 0)
        r = self.dha("cancel", job, **url)
        self.assertEqual(r.returncode, 88, r)
        self.assertIn("token", r.stderr)
        r = self.dha("cancel", job, **url, DHA_TOKEN=secret)
        self.assertEqual(r.returncode, 0, r.stderr)
        r = self.dha("admin", "token", "list", DHA_SOCKET=d.socket)
        self.assertIn("cli", r.stdout)
        self.assertNotIn(secret, r.stdout)
        self.assertEqual(self.dha("admin", "token", "revoke", "cli", DHA_SOCKET=d.socket).returncode, 0)
        self.assertEqual(self.dha("list", **url, DHA_TOKEN=secret).returncode, 88)
        for bad in ({"DHA_URL": "ftp://x"}, {"DHA_URL": "http://"}, {"DHA_URL": "https:///"}, {**url, "DHA_TOKEN": "a\r\nHost: evil"}):
            self.assertEqual(self.dha("list", **bad).returncode, 2, bad)
        self.assertEqual(self.dha("list", DHA_URL="http://127.0.0.1:1").returncode, 69)


if __name__ == "__main__":
    harness.main()
