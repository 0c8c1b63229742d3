"""The API as a client sees it: jobs in, documents out, every error said."""
import http.client
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import unittest

import harness


class Submission(harness.Case):
    def test_a_job_runs_all_its_stages_and_is_done(self):
        d = self.dhad
        job = d.submit("first", priority=3)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["kind"] for s in j["stages"]],
                         ["search", "fuse", "train", "eval", "export"])
        self.assertEqual({s["state"] for s in j["stages"]}, {"done"})
        self.assertEqual(j["priority"], 3)
        self.assertEqual(j["spec"]["seed"], 1, "defaults are written into the stored spec")
        self.assertEqual(j["owner_uid"], str(os.geteuid()))

    def test_the_result_is_what_the_records_said(self):
        d = self.dhad
        r = d.until_state(d.submit(), *harness.FINAL)["result"]
        self.assertEqual(r["loss"], {"parent": 2.5, "converted": 3.5, "final": 2.75})
        self.assertEqual(r["kv_bytes_per_token"], {"parent": "4096", "converted": "1024"})
        self.assertEqual(r["key_heads"], [1, 1])
        self.assertEqual(r["value_heads"], [1, 2])
        self.assertEqual(r["value_of"], [[0, 0, 0, 0], [0, 1, 0, 1]])
        self.assertEqual(r["head_budget"], 5 / 16)
        self.assertEqual([(p["step"], p["loss"]) for p in r["curve"]], [(1, 3.25), (2, 3.0)])
        self.assertEqual(r["tokens_spent"], 500)
        self.assertTrue(r["checkpoint"].endswith("/export/out/model"))
        self.assertIsNone(r["error"])

    def test_all_errors_of_a_spec_come_at_once_with_their_paths(self):
        r = self.dhad.post("/v1/jobs", {"spec": {"model": "/", "budget": 7, "bugdet": 1,
                                                 "data": {"train": []}, "optim": {"lr": "x"}}})
        self.assert_error(r, 422, "invalid_spec")
        paths = {e["path"] for e in r.json["error"]["errors"]}
        self.assertLessEqual({"$.budget", "$.bugdet", "$.data.train", "$.optim.lr"}, paths)

    def test_missing_files_are_errors_of_the_spec(self):
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec(model="/nonexistent/m", data={
            "train": [d.data, "/nonexistent/t.u16"], "valid": "/nonexistent/v.u16",
            "seq_len": 16})})
        self.assert_error(r, 422, "invalid_spec")
        self.assertEqual([e["path"] for e in r.json["error"]["errors"]],
                         ["$.model", "$.data.train[1]", "$.data.valid"])
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [], "nothing was stored")

    def test_wrong_values_and_missing_files_are_said_together(self):
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec(model="/nonexistent/m", budget=7, data={
            "train": ["/nonexistent/t.u16"], "valid": 5, "seq_len": 16})})
        self.assert_error(r, 422, "invalid_spec")
        self.assertEqual(sorted(e["path"] for e in r.json["error"]["errors"]),
                         ["$.budget", "$.data.train[0]", "$.data.valid", "$.model"])
        r = d.post("/v1/jobs", {"spec": {"data": {"train": [3, ""]}, "model": ""}})
        self.assert_error(r, 422, "invalid_spec")
        r = d.post("/v1/jobs", {"spec": [1]})
        self.assert_error(r, 422, "invalid_spec")

    def test_relative_paths_are_refused(self):
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec(model="model")})
        self.assert_error(r, 422, "invalid_spec")
        self.assertIn("absolute", r.json["error"]["message"])

    def test_a_gang_that_no_node_could_hold_is_refused(self):
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 5})})
        self.assert_error(r, 422, "no_slot")
        self.assertIn("--slots 5", r.json["error"]["hint"])
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 5}), "dry_run": True})
        self.assertEqual((r.status, r.json["fits"]), (200, False))
        self.assertIn("5 slots", r.json["reason"])
        r = d.post("/v1/sweeps", {"spec": d.spec(resources={"ranks": 5}), "budgets": [0.5]})
        self.assert_error(r, 422, "no_slot")

    def test_what_the_nodes_can_never_give_is_refused_in_words(self):
        d = self.dhad
        node = d.get("/v1/nodes").json["nodes"][0]["name"]
        for asks, says, hint in (
                ({"ranks": 2, "nodes": 2}, "1 slots on each of 2 nodes; 1 node could hold its part", "lower"),
                ({"ranks": 2, "memory_gib": 1e6}, "GiB of memory; 0 nodes", "memory_gib"),
                ({"ranks": 5, "node_names": [node]}, f"on {node} only", "node_names"),
                ({"ranks": 2, "node_names": ["nobody"]}, "none of those is there", "dha nodes")):
            r = d.post("/v1/jobs", {"spec": d.spec(resources=asks)})
            self.assert_error(r, 422, "no_slot")
            self.assertIn(says, r.json["error"]["message"])
            self.assertIn(hint, r.json["error"]["hint"])
            r = d.post("/v1/jobs", {"spec": d.spec(resources=asks), "dry_run": True})
            self.assertEqual((r.json["fits"], r.json["now"]["verdict"]), (False, "never_fits"))
            self.assertIn(says, r.json["reason"])
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 4, "nodes": 3, "node_names": ["a b"]})})
        self.assert_error(r, 422, "invalid_spec")
        self.assertEqual(sorted(x["path"] for x in r.json["error"]["errors"]),
                         ["$.resources.node_names[0]", "$.resources.nodes"])
        job = d.submit(resources={"ranks": 2, "node_names": [node, "nobody"]})
        d.until_state(job, "done")

    def test_a_dry_run_plans_and_stores_nothing(self):
        d = self.dhad
        first = d.submit()
        d.until_state(first, "done")
        r = d.post("/v1/jobs", {"spec": d.spec(seed=2), "dry_run": True})
        self.assertEqual(r.status, 200)
        self.assertEqual(r.json["slots"], 2)
        self.assertTrue(r.json["fits"])
        self.assertEqual(r.json["spec"]["seed"], 2)
        self.assertEqual([s["kind"] for s in r.json["stages"]],
                         ["search", "fuse", "train", "eval", "export"])
        self.assertEqual({s["reused_from"] for s in r.json["stages"]}, {None})
        r = d.post("/v1/jobs", {"spec": d.spec(tokens={"train": 5000}), "dry_run": True})
        self.assertEqual(r.json["stages"][0]["reused_from"]["job"], first)
        self.assertIsNone(r.json["stages"][2]["reused_from"])
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), 1)

    def test_the_same_idempotency_key_gives_the_same_job(self):
        d = self.dhad
        key = {"Idempotency-Key": "abc"}
        a = d.post("/v1/jobs", {"spec": d.spec()}, key)
        b = d.post("/v1/jobs", {"spec": d.spec()}, key)
        c = d.post("/v1/jobs", {"spec": d.spec("another")}, key)
        self.assertEqual((a.status, b.status), (201, 200))
        self.assertEqual(a.json["job"]["id"], b.json["job"]["id"])
        self.assert_error(c, 409, "conflict")
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), 1)

    def test_many_clients_at_once_get_a_job_each(self):
        d = self.dhad
        d.submit("sleep=60", resources={"ranks": 4})
        got, lock = [], threading.Lock()

        def client(n):
            c = harness.UnixConnection(d.socket)
            for i in range(20):  # on one connection each
                c.request("POST", "/v1/jobs", json.dumps({"spec": d.spec(f"{n}-{i}", seed=20 * n + i)}))
                r = c.getresponse()
                text = json.loads(r.read())
                with lock:
                    got.append((r.status, text["job"]["id"], text["job"]["name"]))
            c.close()
        threads = [threading.Thread(target=client, args=(n,)) for n in range(12)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual({g[0] for g in got}, {201})
        self.assertEqual(len({g[1] for g in got}), 240)
        listed = {j["id"]: j["name"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertEqual({i: listed[i] for _, i, _ in got}, {i: name for _, i, name in got})

    def test_a_client_that_leaves_without_its_answer_does_no_harm(self):
        d = self.dhad
        for i in range(20):
            c = harness.UnixConnection(d.socket)
            c.request("POST", "/v1/jobs", json.dumps({"spec": d.spec(f"j{i}", seed=i)}))
            c.close()
            c = harness.UnixConnection(d.socket)
            c.request("GET", "/v1/events?after=1000000&wait=1")
            c.close()
        time.sleep(1.2)  # the long polls come to their end with nobody there
        # Without an answer nothing was promised: a request may be there or not, but never by half.
        jobs = d.get("/v1/jobs").json["jobs"]
        self.assertLessEqual(len(jobs), 20)
        for j in jobs:
            self.assertEqual(len(d.job(j["id"])["stages"]), 5)
        d.submit("after", seed=99)

    def test_clients_that_leave_do_not_fill_the_log(self):
        d = self.dhad
        for i in range(200):
            with socket.socket(socket.AF_UNIX) as s:
                s.connect(d.socket)
                s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{" if i % 2 else
                          b"GET /v1/jobs HTTP/1.1\r\nHo")
                d.get("/livez")  # by now it has read that
        time.sleep(1)
        d.end()
        with open(os.path.join(d.state, "dhad.log")) as f:
            said = [line for line in f if " http: " in line]
        more = sum(int(line.split(" http: ")[1].split()[0]) for line in said if "more messages of the HTTP library" in line)
        self.assertLess(len(said), 10, said)
        self.assertGreater(more, 50, said)

    def test_a_body_over_a_mebibyte_is_413_and_the_daemon_lives(self):
        d = self.dhad
        r = d.post("/v1/jobs", json.dumps({"spec": {"name": "x" * (1 << 20)}}))
        self.assert_error(r, 413, "too_large")
        r = d.post("/v1/jobs", b"x" * (20 << 20))
        self.assert_error(r, 413, "too_large")
        self.assertEqual(d.get("/livez").json["ok"], True)


class Crowd(harness.Case):
    """Submissions that come together are read in a thread beside the loop: each gets its own answer all the same."""
    CLIENTS, ROUNDS = 24, 6

    def together(self, questions):
        """One connection each, all sent before the first answer is read; [(question, status or None, document)]."""
        d, got = self.dhad, []
        start = threading.Barrier(len(questions))

        def ask(q):
            c = harness.UnixConnection(d.socket)
            answer = (q, None, None)
            try:
                try:
                    c.connect()
                    start.wait(30)
                except threading.BrokenBarrierError:
                    pass  # another one found nobody there any more
                except OSError:
                    start.abort()
                    raise
                body, headers = q[1:]
                c.request("POST", "/v1/jobs", body if isinstance(body, bytes) else json.dumps(body), headers)
                r = c.getresponse()
                answer = (q, r.status, json.loads(r.read()))
            except (OSError, http.client.HTTPException):
                pass
            finally:
                c.close()
                got.append(answer)
        threads = [threading.Thread(target=ask, args=(q,)) for q in questions]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        self.assertEqual(len(got), len(questions), "every request was answered")
        return got

    def questions(self, i):
        d = self.dhad
        key = {"Idempotency-Key": f"k{i}"}
        for n in range(self.CLIENTS):
            name = f"{i}-{n}"
            spec = d.spec(name, seed=100 * i + n)
            yield (("good", name), {"spec": spec}, {}), (("same", name), {"spec": d.spec(f"same-{i}", seed=i)}, key)
            yield ((("budget", name), {"spec": {**spec, "budget": 7}}, {}), (("broken", name), b'{"spec": {', {}),
                   (("file", name), {"spec": {**spec, "data": {"train": [f"/nonexistent/{name}.u16"], "seq_len": 16}}}, {}),
                   (("none", name), {}, {}), (("dry", name), {"spec": spec, "dry_run": True}, {}),
                   (("wait", name), {"spec": spec, "after": ["ok:999999"]}, {}))[n % 6],

    def check(self, kind, name, status, doc):
        say = (kind, name, status, doc)
        errors = [(e["path"], e["message"]) for e in doc.get("error", {}).get("errors", [])]
        if kind == "good":
            self.assertEqual((status, doc.get("job", {}).get("name")), (201, name), say)
        elif kind == "same":
            self.assertIn(status, (200, 201), say)
        elif kind == "budget":
            self.assertEqual((status, [p for p, _ in errors]), (422, ["$.budget"]), say)
        elif kind == "file":
            self.assertEqual((status, [p for p, _ in errors]), (422, ["$.data.train[0]"]), say)
            self.assertIn(f"/nonexistent/{name}", errors[0][1])
        elif kind == "dry":
            self.assertEqual((status, doc.get("spec", {}).get("name")), (200, name), say)
        else:
            self.assertEqual(status, {"broken": 400, "none": 400, "wait": 404}[kind], say)

    def test_each_gets_the_answer_to_its_own_question(self):
        d = self.dhad
        d.submit("sleep=60", resources={"ranks": 4})
        for i in range(self.ROUNDS):
            got = self.together([q for pair in self.questions(i) for q in pair])
            for (what, *_), status, doc in got:
                self.assertIsNotNone(status, what)
                self.check(*what, status, doc)
            same = [(status, doc["job"]["id"]) for ((kind, _), *_), status, doc in got if kind == "same"]
            self.assertEqual(len({job for _, job in same}), 1, same)
            self.assertEqual(sum(status == 201 for status, _ in same), 1, same)
        self.assertEqual(len(d.get("/v1/jobs?limit=1000").json["jobs"]), 1 + self.ROUNDS * (self.CLIENTS + 1))

    def test_those_who_leave_hold_nobody_up(self):
        d = self.dhad
        d.submit("sleep=60", resources={"ranks": 4})
        for i in range(self.ROUNDS):
            for n in range(self.CLIENTS):  # gone before it is read
                c = harness.UnixConnection(d.socket)
                c.request("POST", "/v1/jobs", json.dumps({"spec": d.spec(f"left-{i}-{n}", seed=1000 * i + n)}))
                c.close()
            got = self.together([(("good", f"{i}-{n}"), {"spec": d.spec(f"{i}-{n}", seed=5000 + 100 * i + n)}, {})
                                 for n in range(self.CLIENTS)])
            self.assertEqual([status for _, status, _ in got], [201] * self.CLIENTS)
        for j in d.get("/v1/jobs?limit=1000").json["jobs"]:
            self.assertEqual(len(d.job(j["id"])["stages"]), 5)

    def test_what_is_read_when_the_daemon_stops_is_done_or_refused(self):
        d = self.dhad
        d.submit("sleep=60", resources={"ranks": 4})
        done = []
        for i in range(self.ROUNDS):
            stop = threading.Timer(0.002 * i, lambda: d.process.send_signal(signal.SIGTERM))
            questions = [(("good", f"{i}-{n}"), {"spec": d.spec(f"{i}-{n}", seed=100 * i + n)}, {})
                         for n in range(self.CLIENTS)]
            stop.start()
            got = self.together(questions)
            self.assertEqual(d.wait_dead(), 0)
            self.assertLessEqual({status for _, status, _ in got}, {201, 503, None})
            done += [doc["job"]["id"] for _, status, doc in got if status == 201]
            d.start()
        listed = {j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertLessEqual(set(done), listed)

    def test_a_short_answer_for_who_prefers_it(self):
        d = self.dhad
        for n, (prefer, short) in enumerate((("return=minimal", True), ("respond-async, Return=Minimal; x", True), ("return=minimalist", False),
                              ('wait=5, return = "minimal"', True), ("return=representation, return=minimal", False), ("return", False),
                              ("return=representation", False), ("", False), (" ,;=", False))):
            with self.subTest(prefer=prefer):
                r = d.post("/v1/jobs", {"spec": d.spec(f"n{n}", seed=n)}, {"Prefer": prefer})
                self.assertEqual(r.status, 201)
                job = r.json["job_id"] if short else r.json["job"]["id"]
                self.assertEqual(r.headers["Location"], f"/v1/jobs/{job}")
                self.assertEqual(r.headers["Preference-Applied"], "return=minimal" if short else None)
                self.assertEqual(set(r.json), {"api", "job_id" if short else "job"})
                self.assertEqual(d.get(r.headers["Location"]).json["job"]["name"], f"n{n}")


class BadRequests(harness.Case):
    def test_what_is_not_known_is_refused(self):
        d = self.dhad
        for reply, status, code in (
                (d.post("/v1/jobs", {"spec": d.spec(), "dryrun": True}), 400, "usage"),
                (d.post("/v1/jobs", {"spec": d.spec(), "dry_run": 1}), 400, "usage"),
                (d.post("/v1/jobs", {}), 400, "usage"),
                (d.post("/v1/jobs", []), 400, "usage"),
                (d.post("/v1/jobs", b"{\"spec\": "), 400, "protocol"),
                (d.post("/v1/jobs", b"{\"spec\":{},\"spec\":{}}"), 400, "protocol"),
                (d.get("/v1/jobs?stat=done"), 400, "usage"),
                (d.get("/v1/jobs?state=finished"), 400, "usage"),
                (d.get("/v1/jobs?limit=0"), 400, "usage"),
                (d.get("/v1/jobs?limit=x"), 400, "usage"),
                (d.get("/v1/jobs/77"), 404, "not_found"),
                (d.get("/v1/jobs/0"), 404, "not_found"),
                (d.get("/v1/jobs/99999999999999999999"), 404, "not_found"),
                (d.get("/v1/jobs/77/logs"), 404, "not_found"),
                (d.get("/v2/jobs"), 404, "not_found"),
                (d.post("/v1/events"), 405, "method_not_allowed"),
                (d.request("DELETE", "/v1/jobs/1"), 405, "method_not_allowed"),
                (d.request("DELETE", "/v2/jobs/1"), 404, "not_found"),
                (d.post("/v1/jobs/77/cancel"), 404, "not_found"),
                (d.post("/v1/jobs/77/retry"), 404, "not_found"),
                (d.post("/v1/nodes/nowhere/drain"), 404, "not_found"),
                (d.get("/v1/sweeps/5"), 404, "not_found")):
            with self.subTest(reply=reply):
                self.assert_error(reply, status, code)

    def test_a_nul_does_not_end_a_path_or_an_argument(self):
        d = self.dhad
        job = d.submit("sleep=20")
        c = harness.UnixConnection(d.socket)  # one connection: of each request alone it is said
        self.addCleanup(c.close)
        for method, path in (("GET", f"/v1/jobs/{job}%00zzz"), ("POST", f"/v1/jobs/{job}%00/cancel"), ("POST", f"/v1/jobs/{job}/cancel%00"),
                             ("GET", "/v1/jobs?limit=1%00x"), ("GET", "/v1/jobs?limit%00=1"), ("GET", "/v1/jobs?name=a%00"), ("GET", "/%00")):
            for ask, status in ((path, 400), (path.replace("%00", "%2500"), None), ("/v1/jobs?limit=1", 200)):
                c.request(method if "limit=1" not in ask else "GET", ask)
                r = c.getresponse()
                reply = harness.Reply(r.status, r.headers, r.read())
                if status == 400:
                    self.assert_error(reply, 400, "usage")
                    self.assertIn("NUL (%00)", reply.json["error"]["message"], ask)
                elif status:
                    self.assertEqual(reply.status, 200, reply)
                else:
                    self.assertNotIn("NUL", reply.raw.decode(), ask)
        self.assertFalse(d.job(job)["cancelling"])

    def test_nor_does_one_that_is_not_encoded(self):
        d = self.dhad
        job = d.submit("sleep=20").encode()

        def ask(line):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                s.connect(d.socket)
                s.sendall(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
                r = http.client.HTTPResponse(s)
                r.begin()
                return harness.Reply(r.status, r.headers, r.read())
        for line in (b"GET /v1/jobs/%s\0zzz HTTP/1.1", b"POST /v1/jobs/%s/cancel\0 HTTP/1.1", b"POST /v1/jobs/%s/cancel\0zzz HTTP/1.1",
                     b"POST /v1/jobs/%s/cancel\0?x=1 HTTP/1.1", b"GET /v1/jobs?limit=1\0%s HTTP/1.1", b"GET /v1/jobs?limit\0%s=1 HTTP/1.1",
                     b"GET /v1/jobs\0/%s?limit=1 HTTP/1.1", b"GET \0/v1/jobs/%s HTTP/1.1", b"GET\0X /v1/jobs/%s HTTP/1.1",
                     b"GET  /v1/jobs/%s HTTP/1.1"):
            r = ask(line % job)
            self.assert_error(r, 400, "usage")
            self.assertIn("NUL", r.json["error"]["message"], line)
        for line in (b"GET /v1/jobs/%s HTTP/1.1", b"GET /v1/jobs/%%3%s HTTP/1.0", b"GET /v1/jobs?limit=%%31&name=%s%%20%%2500 HTTP/1.1"):
            self.assertEqual(ask(line % job).status, 200, line)
        self.assertFalse(d.job(job.decode())["cancelling"])

    def test_a_body_has_one_length(self):
        second = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"

        def ask(headers, body):
            with socket.socket(socket.AF_UNIX) as s:
                s.settimeout(20)
                s.connect(self.dhad.socket)
                s.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n" + body + second)
                answer = b""
                while answer.count(b"HTTP/1.1 ") < 2 and (more := s.recv(65536)):
                    answer += more
                return answer
        both = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
        for headers, body in ((both, b"2\r\n{}\r\n0\r\n\r\n"), (b"Content-Length: 2\r\ncontent-length: 5\r\n", b"{}   "),
                              (b"Content-Length: 2\r\nContent-Length: 2\r\n", b"{}")):
            answer = ask(headers, body)
            self.assertEqual(answer.count(b"HTTP/1.1 "), 1, answer)  # and what comes behind is not taken for a request
            self.assertIn(b" 400 ", answer)
            self.assertIn(b"more than once how long", answer)
        self.assertEqual(ask(b"Content-Length: 2\r\n", b"{}").count(b"HTTP/1.1 "), 2)

    def test_a_path_says_which_methods_it_answers_to(self):
        for method, path, allow in (("POST", "/v1/events", {"GET"}), ("GET", "/v1/jobs/1/cancel", {"POST"}),
                                    ("PUT", "/v1/jobs", {"GET", "POST"}), ("DELETE", "/v1/jobs/7", {"GET"}),
                                    ("OPTIONS", "/livez", {"GET"}), ("PATCH", "/v1/nodes/x/drain", {"POST"})):
            with self.subTest(method=method, path=path):
                r = self.dhad.request(method, path)
                self.assert_error(r, 405, "method_not_allowed")
                self.assertEqual([set(v.split(", ")) for v in r.headers.get_all("Allow")], [allow])

    def test_an_error_that_quotes_strange_bytes_is_still_json(self):
        for path in ("/v1/jobs?%FF%FE=1", "/v1/jobs?state=%F0%9F%98", "/v1/jobs?x" + "%E2%82%AC" * 40 + "=1",
                     "/v1/%80%80", "/v1/jobs?limit=%C3"):
            with self.subTest(path=path):
                r = self.dhad.get(path)
                self.assertIn(r.status, (400, 404))
                self.assertTrue(json.loads(r.raw.decode("utf-8"))["error"]["message"])

    def test_actions_refuse_what_they_do_not_know(self):
        d = self.dhad
        job = d.submit("sleep=20")
        for path, body in (("cancel", {"why": "x"}), ("cancel", {"now": "yes"}),
                           ("hold", {"x": 1}), ("priority", {}), ("priority", {"priority": 2.5}),
                           ("priority", {"priority": 100000})):
            with self.subTest(path=path, body=body):
                self.assert_error(d.post(f"/v1/jobs/{job}/{path}", body), 400, "usage")


class Lists(harness.Case):
    slots = 2

    def test_pages_go_from_newest_to_oldest_without_a_gap(self):
        d = self.dhad
        ids = [d.submit(f"j{i} sleep=30", seed=i) for i in range(7)]
        seen, before, pages = [], "", 0
        while True:
            r = d.get(f"/v1/jobs?limit=3{before}").json
            seen += [j["id"] for j in r["jobs"]]
            pages += 1
            if r["next"] is None:
                break
            before = "&before=" + r["next"]
        self.assertEqual(seen, ids[::-1])
        self.assertEqual(pages, 3)

    def test_filters_by_state_and_name(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        b = d.submit("sleep=30", seed=5)
        c = d.submit("c", seed=6)
        d.post(f"/v1/jobs/{c}/hold")
        d.until_running(b, "search")
        ids = lambda q: [j["id"] for j in d.get("/v1/jobs?" + q).json["jobs"]]
        self.assertEqual(ids("state=done"), [a])
        self.assertEqual(ids("state=held,done"), [c, a])
        self.assertEqual(ids("state=running"), [b])
        self.assertEqual(ids("name=c"), [c])
        short = d.get("/v1/jobs?state=running").json["jobs"][0]
        self.assertEqual(short["stage"], "search")
        self.assertGreater(short["progress"]["step"], 0)
        self.assertEqual(short["method"], "spectral")


    def test_sweeps_and_checkpoints_come_in_pages_too(self):
        d = self.dhad
        ids = [d.post("/v1/sweeps", {"spec": d.spec(seed=i + 1), "budgets": [0.5], "name": f"s{i}"}).json["sweep"]["id"]
               for i in range(5)]
        seen, query = [], "?limit=2"
        while query:
            r = d.get("/v1/sweeps" + query).json
            seen.append([w["id"] for w in r["sweeps"]])
            query = r["next"] and "?limit=2&before=" + r["next"]
        self.assertEqual(seen, [ids[:2:-1], ids[2:0:-1], ids[:1]])
        self.assertIsNone(d.get("/v1/sweeps?limit=5").json["next"])
        job = d.submit("c", seed=99)
        d.until_state(job, "done")
        whole = d.get(f"/v1/jobs/{job}/checkpoints").json
        self.assertEqual((len(whole["checkpoints"]), whole["next"]), (2, None))
        one = d.get(f"/v1/jobs/{job}/checkpoints?limit=1").json
        two = d.get(f"/v1/jobs/{job}/checkpoints?limit=1&after={one['next']}").json
        self.assertEqual(one["checkpoints"] + two["checkpoints"], whole["checkpoints"])
        self.assertIsNone(two["next"])


class Tags(harness.Case):
    def test_a_tag_changes_with_every_change_and_only_then(self):
        d = self.dhad
        job = d.submit("sleep=30")
        d.until_running(job, "search")
        tag = lambda: d.get(f"/v1/jobs/{job}").headers["ETag"]
        a, step = tag(), d.stage(job, "search")["progress"]["step"]
        d.until(lambda: d.stage(job, "search")["progress"]["step"] > step + 2)
        self.assertEqual(tag(), a, "progress is no change")
        seen = [a]
        for action, body in (("priority", {"priority": 3}), ("hold", {}), ("release", {}),
                             ("cancel", {"now": True})):
            r = d.post(f"/v1/jobs/{job}/{action}", body)
            self.assertEqual(r.status, 200)
            seen.append(r.headers["ETag"])
        d.until_state(job, "cancelled")
        seen.append(tag())
        self.assertEqual(seen[1:3] + seen[4:], list(dict.fromkeys(seen[1:3] + seen[4:])))
        self.assertNotEqual(seen[2], seen[3])
        self.assertRegex(a, r'^"[0-9a-f]{32}"$')

    def test_an_action_on_a_job_that_has_changed_is_refused(self):
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec("sleep=30")})
        job, old = r.json["job"]["id"], r.headers["ETag"]
        d.until_running(job, "search")
        for action, body in (("cancel", {}), ("hold", {}), ("release", {}), ("retry", {}),
                             ("priority", {"priority": 3})):
            r = d.post(f"/v1/jobs/{job}/{action}", body, {"If-Match": old})
            self.assert_error(r, 412, "precondition")
            self.assertIn(old, r.json["error"]["message"])
            self.assertIn(f"/v1/jobs/{job}", r.json["error"]["hint"])
        now = d.get(f"/v1/jobs/{job}").headers["ETag"]
        self.assertIn(now, r.json["error"]["message"])
        r = d.post(f"/v1/jobs/{job}/priority", {"priority": 4}, {"If-Match": f"W/{now}"})
        self.assert_error(r, 412, "precondition")
        for wanted in (now.strip('"'), "", f"{now} {now}", f"{now[:-1]}", f"*, {now}"):
            r = d.post(f"/v1/jobs/{job}/priority", {"priority": 4}, {"If-Match": wanted})
            self.assert_error(r, 400, "usage")
        r = d.post(f"/v1/jobs/{job}/priority", {"priority": 5}, {"If-Match": f"{old}, {now}"})
        self.assertEqual((r.status, r.json["job"]["priority"]), (200, 5))
        self.assertEqual(d.post(f"/v1/jobs/{job}/hold", {}, {"If-Match": "*"}).status, 200)
        self.assert_error(d.post("/v1/jobs/77/hold", {}, {"If-Match": "*"}), 404, "not_found")


class Records(harness.Case):
    def test_logs_are_bytes_of_the_file_from_an_offset(self):
        d = self.dhad
        job = d.submit()
        d.until_state(job, "done")
        r = d.get(f"/v1/jobs/{job}/logs")
        self.assertEqual(r.raw, b"fake export attempt 1\n")
        self.assertEqual(r.headers["X-Dha-End"], "1")
        self.assertEqual(r.headers["X-Dha-Offset"], str(len(r.raw)))
        with open(r.headers["X-Dha-Path"], "rb") as f:
            self.assertEqual(f.read(), r.raw)
        r = d.get(f"/v1/jobs/{job}/logs?stage=train&offset=5")
        self.assertEqual(r.raw, b"train attempt 1\n")
        r = d.get(f"/v1/jobs/{job}/logs?stage=search&stream=journal")
        self.assertEqual(json.loads(r.raw.split(b"\n")[0])["t"], "hello")
        r = d.get(f"/v1/jobs/{job}/logs?offset={2**63 - 1}")
        self.assertEqual((r.status, r.raw), (200, b""), "behind the end there is nothing")
        self.assert_error(d.get(f"/v1/jobs/{job}/logs?stage=train&attempt=2"), 404, "not_found")
        self.assert_error(d.get(f"/v1/jobs/{job}/logs?stream=stdout"), 400, "usage")

    def test_logs_of_each_rank(self):
        d = self.dhad
        job = d.submit("train.ranklog=12 train.chat=hello")
        d.until_state(job, "done")
        where = os.path.join(d.stage_dir(job, "train"), "a1")
        for name in ("rank-x.log", "rank-99.log.old", "rank-007.log", "rank-99999999999.log"):  # none of ours
            open(os.path.join(where, name), "w").close()
        r = d.get(f"/v1/jobs/{job}/logs?stage=train&rank=11")
        self.assertEqual((r.raw, r.headers["X-Dha-Ranks"], r.headers["X-Dha-End"]), (b"hello 11\nmore of 11\n", "12", "1"))
        self.assertEqual(r.headers["X-Dha-Path"], os.path.join(where, "rank-11.log"))
        self.assertEqual(d.get(f"/v1/jobs/{job}/logs?stage=train&rank=1&offset=6").raw, b"1\nmore of 1\n")
        self.assertEqual(d.get(f"/v1/jobs/{job}/logs?stage=train").raw, b"")  # mpirun said nothing
        self.assertEqual(d.get(f"/v1/jobs/{job}/logs?stage=train&rank=12").raw, b"")
        self.assertEqual(d.get(f"/v1/jobs/{job}/logs?stage=fuse").headers["X-Dha-Ranks"], "0")
        for bad in ("-1", "x", "2147483648", "1/../../x"):
            self.assert_error(d.get(f"/v1/jobs/{job}/logs?rank={bad}"), 400, "usage")
        self.assert_error(d.get(f"/v1/jobs/{job}/logs?rank=0&stream=journal"), 400, "usage")

    def test_the_end_of_a_log_is_not_said_while_its_attempt_lives(self):
        d = self.dhad
        job = d.submit("sleep=30")
        d.until_running(job, "search")
        r = d.get(f"/v1/jobs/{job}/logs")
        self.assertEqual(r.raw, b"fake search attempt 1\n")
        self.assertNotIn("X-Dha-End", r.headers)

    def test_metrics_and_checkpoints_are_those_of_the_journal(self):
        d = self.dhad
        job = d.submit("train.sleep=0.25")
        d.until_state(job, "done")
        p = d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss").json["points"]
        self.assertEqual([(x["step"], x["value"]) for x in p],
                         [(i, 5.0 / i) for i in range(1, 6)])
        p = d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss&after_step=3").json["points"]
        self.assertEqual([x["step"] for x in p], [4, 5])
        names = {x["name"] for x in d.get(f"/v1/jobs/{job}/metrics").json["points"]}
        self.assertLessEqual({"loss", "lm", "lr", "grad_norm", "tokens_per_s"}, names)
        c = d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
        self.assertEqual([(x["stage"], x["step"], x["bytes"]) for x in c],
                         [("fuse", 1, "1000"), ("train", 5, "1000")])

    def test_checkpoints_that_the_worker_removed_are_not_listed_as_complete(self):
        d = self.dhad
        job = d.submit("train.sleep=0.25 train.ckpts=5 train.ckptkeep=2")
        d.until_state(job, "done")
        c = d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
        self.assertEqual([(x["step"], x["state"]) for x in c if x["stage"] == "train"],
                         [(1, "deleted"), (2, "deleted"), (3, "deleted"), (4, "complete"), (5, "complete")])

    def test_a_checkpoint_of_another_stage_is_not_believed(self):
        """What a worker names elsewhere is another job's, or anybody's: prune and fsck --repair would remove it."""
        d = self.dhad
        first = d.submit("first")
        d.until_state(first, "done")
        theirs = d.get(f"/v1/jobs/{first}/checkpoints").json["checkpoints"][-1]["path"]
        out = os.path.dirname(os.path.dirname(theirs))
        for i, path in enumerate((theirs, f"{out}/ckpt/../ckpt/{os.path.basename(theirs)}", d.model, "/", "..")):
            job = d.submit(f"search.foreign={path}", seed=10 + i)
            d.until_state(job, "done")
            paths = [c["path"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]]
            self.assertNotIn(path, paths)
            self.assertEqual(len(paths), 2, paths)
        asked = d.post("/v1/admin/fsck", {}).json["chore"]["id"]
        report = d.get(f"/v1/admin/chores/{asked}?wait=20").raw.decode()
        self.assertEqual(report.count("is not one of its own stage"), 5, report)

    def test_a_journal_of_rubbish_holds_nobody_up_and_is_not_kept_whole(self):
        d = self.dhad
        jobs = [d.submit("search.badflood=8"), d.submit("search.sleep=2", seed=2)]
        d.until_running(jobs[1], "search")
        journal = os.path.join(d.stage_dir(jobs[1], "search"), "a1", "journal.ndjson")
        os.truncate(journal, os.path.getsize(journal) + (2 << 30))  # a hole: it costs whoever makes it nothing
        slowest = 0
        while any(d.job(j)["state"] not in harness.FINAL for j in jobs):
            begin = time.time()
            d.get("/livez")
            slowest = max(slowest, time.time() - begin)
            time.sleep(0.05)
        self.assertEqual([d.job(j)["state"] for j in jobs], ["done", "done"])
        self.assertLess(slowest, 5)
        self.assertLess(os.path.getsize(os.path.join(d.state, "dhad.log")), 1 << 20)
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        rows, kept = db.execute("SELECT count(*), sum(length(content)) FROM lost_found").fetchone()
        db.close()
        self.assertLessEqual(rows, 202)
        self.assertLess(kept, 4 << 20)
        d.start()

    def test_a_checkpoint_without_its_manifest_is_not_listed(self):
        d = self.dhad
        job = d.submit("train.nomanifest=1")
        d.until_state(job, "done")
        c = d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
        self.assertNotIn("nowhere", " ".join(x["path"] for x in c))
        self.assertEqual(len(c), 2)

    def test_no_record_is_lost_in_a_flood(self):
        d = self.dhad
        job = d.submit("search.flood=9000")  # some 1.3 MB: many reads, lines across their borders
        self.assertEqual(d.until_state(job, *harness.FINAL)["state"], "done")
        p = d.get(f"/v1/jobs/{job}/metrics?stage=search&name=loss&limit=100000").json["points"]
        self.assertEqual([(x["step"], x["value"]) for x in p],
                         [(i + 1, i / 2) for i in range(9000)])
        self.assertIn("dha_lost_found_total 0\n", d.get("/metrics").raw.decode())

    def test_a_line_of_any_length_costs_that_line_only(self):
        d = self.dhad
        for n in (65536, 65537, 262143, 262144, 400000, 1000000):
            with self.subTest(bytes=n):
                job = d.submit(f"search.longline={n} search.flood=10", seed=n)
                self.assertEqual(d.until_state(job, *harness.FINAL)["state"], "done")
                p = d.get(f"/v1/jobs/{job}/metrics?stage=search&name=loss").json["points"]
                self.assertEqual([x["step"] for x in p], list(range(1, 11)))

    def test_lines_that_are_no_records_are_set_aside(self):
        d = self.dhad
        job = d.submit("train.badline=1 train.torn=1")
        self.assertEqual(d.until_state(job, *harness.FINAL)["state"], "done")
        text = d.get("/metrics").raw.decode()
        self.assertIn("dha_lost_found_total 3\n", text)


class Events(harness.Case):
    def test_one_sequence_without_a_gap_tells_a_jobs_whole_life(self):
        d = self.dhad
        job = d.submit()
        d.until_state(job, "done")
        ev = d.events()
        self.assertEqual([int(e["seq"]) for e in ev], list(range(1, len(ev) + 1)))
        to = [e["data"].get("to") for e in ev if e["type"] == "job.state" and e["job"] == job]
        self.assertEqual(to[-2:], ["running", "done"])
        self.assertEqual(len([e for e in ev if e["type"] == "attempt.end"]), 5)
        self.assertEqual(d.events(after=ev[3]["seq"])[0]["seq"], ev[4]["seq"])

    def test_a_long_poll_ends_with_the_first_new_event(self):
        d = self.dhad
        d.submit("sleep=30")
        time.sleep(0.5)
        last = d.events()[-1]["seq"]
        got = []
        t = threading.Thread(target=lambda: got.append(
            d.get(f"/v1/events?after={last}&wait=30").json))
        begin = time.time()
        t.start()
        time.sleep(0.3)
        self.assertEqual(got, [], "nothing has happened yet")
        job = d.submit("second", seed=9)
        t.join(20)
        self.assertLess(time.time() - begin, 20)
        self.assertIn(job, [e["job"] for e in got[0]["events"]])

    def test_a_long_poll_that_hears_nothing_answers_in_time(self):
        d = self.dhad
        last = (d.events() or [{"seq": "0"}])[-1]["seq"]
        begin = time.time()
        r = d.get(f"/v1/events?after={last}&wait=1").json
        self.assertEqual((r["events"], r["last"]), ([], last))
        self.assertGreater(time.time() - begin, 0.9)


class Daemon(harness.Case):
    def test_version_says_where_it_lives(self):
        v = self.dhad.get("/v1/version").json
        self.assertEqual(v["pid"], self.dhad.process.pid)
        self.assertEqual(v["state_dir"], self.dhad.state)
        self.assertEqual(v["schema"], 4)

    @unittest.skipIf(os.geteuid() != 0, "needs two users")
    def test_other_users_are_refused(self):
        d = self.dhad
        job = d.submit("sleep=30")
        os.chmod(d.dir, 0o755)
        os.chmod(d.socket, 0o666)  # even if somebody opens the door
        code = ("import os, sys; sys.path.insert(0, sys.argv[1]); import harness;"
                "os.setgid(65534); os.setuid(65534); c = harness.UnixConnection(sys.argv[2]);"
                "c.request(*sys.argv[3:]); r = c.getresponse(); print(r.status, r.read().decode())")
        for method, path in (("GET", f"/v1/jobs/{job}"), ("POST", f"/v1/jobs/{job}/cancel"),
                             ("POST", "/v1/shutdown")):
            r = subprocess.run([sys.executable, "-c", code, harness.HERE, d.socket, method, path],
                               capture_output=True, text=True, timeout=20)
            self.assertTrue(r.stdout.startswith("403 "), r)
            self.assertIn("forbidden", r.stdout)
        self.assertFalse(d.job(job)["cancelling"])

    def test_a_host_that_was_renamed_does_not_count_twice(self):
        d = self.dhad
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        db.execute("UPDATE node SET name = 'called-otherwise'")
        db.commit()
        db.close()
        d.start()
        slots = [s for n in d.get("/v1/nodes").json["nodes"] for s in n["slots"]]
        self.assertEqual(len(slots), 4)

    def test_metrics_are_prometheus_text(self):
        d = self.dhad
        d.until_state(d.submit(), "done")
        text = d.get("/metrics").raw.decode()
        self.assertIn('dha_jobs{state="done"} 1\n', text)
        self.assertIn('dha_slots{use="free"} 4\n', text)
        for line in text.splitlines():
            self.assertRegex(line, r'^(# (HELP|TYPE) dha_\w+ .+|dha_\w+(\{\w+="[\w.+-]+"\})? [-+.e\d]+)$')
        for name in ("dha_turn_seconds", "dha_commit_seconds", "dha_schedule_seconds"):
            counts = [int(x.split()[1]) for x in text.splitlines() if x.startswith(name + "_bucket")]
            self.assertEqual(counts, sorted(counts))
            self.assertGreater(counts[-1], 0)
            self.assertIn(f"{name}_count {counts[-1]}\n", text)

    def test_every_answer_says_which_api_it_is(self):
        d = self.dhad
        for r in (d.get("/livez"), d.get("/metrics"), d.get("/v1/jobs"), d.get("/nowhere"),
                  d.get("/v1/jobs?x=1"), d.post("/v1/jobs", b"{"), d.request("DELETE", "/v1/jobs")):
            self.assertEqual(r.headers["X-Dha-Api"], "1", r)

    def test_it_is_alive_but_not_ready_where_it_cannot_write(self):
        d = self.dhad
        self.assertEqual(d.get("/readyz").json["ok"], True)
        away = d.state + "-away"
        os.rename(d.state, away)
        r = d.get("/readyz")
        os.rename(away, d.state)
        self.assert_error(r, 503, "transient")
        self.assertIn(d.state, r.json["error"]["message"])
        self.assertEqual(d.get("/livez").json["ok"], True)
        self.assertEqual(d.get("/readyz").status, 200)

    def test_nodes_show_who_holds_which_slot(self):
        d = self.dhad
        job = d.submit("sleep=30")
        d.until_running(job, "search")
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual([s["job"] for s in node["slots"]].count(job), 2)
        self.assertEqual([s["job"] for s in node["slots"]].count(None), 2)

    def test_shutdown_answers_then_ends_and_leaves_the_stage_running(self):
        d = self.dhad
        job = d.submit("sleep=30")
        d.until_running(job, "search")
        self.assertTrue(d.post("/v1/shutdown").json["ok"])
        self.assertEqual(d.wait_dead(), 0)
        self.assertTrue(d.of_attempt(job, "search"))

    def test_waiting_requests_are_answered_at_shutdown(self):
        d = self.dhad
        got = []
        t = threading.Thread(target=lambda: got.append(d.get("/v1/events?after=10000&wait=30")))
        t.start()
        time.sleep(0.3)
        self.assertEqual(d.stop(), 0)
        t.join(10)
        self.assert_error(got[0], 503, "unreachable")


if __name__ == "__main__":
    harness.main()
