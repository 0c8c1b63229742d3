"""Who may do what: other users of this machine, for real (root starts processes with their uids and groups)."""
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import threading
import unittest

import api_contract
import harness

TEAM = 23456  # a group needs no name
ALONE = 23457  # nor does a user


def uid_of(*names):
    """The first of these users that this host has."""
    for name in names:
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            pass
    raise unittest.SkipTest(f"this host has none of the users {names}")


ALICE, BOB, STRANGER = uid_of("games", "daemon"), uid_of("mail", "bin"), uid_of("nobody")

CALL = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import harness
uid, gid, groups, socket, calls = json.loads(sys.argv[2])
os.setgroups(groups); os.setgid(gid); os.setuid(uid)
out = []
for method, path, body, headers in calls:
    try:
        c = harness.UnixConnection(socket)
        if isinstance(body, int):
            body = "x" * body
        c.request(method, path, body, headers)
        r = c.getresponse()
        out.append([r.status, r.read().decode("utf-8", "replace")])
    except OSError as e:
        out.append([type(e).__name__, str(e)])
print(json.dumps(out))
"""


@unittest.skipUnless(os.geteuid() == 0, "needs root, to be several users")
class Case(unittest.TestCase):
    settings = {}

    def setUp(self):
        d = self.dhad = harness.Dhad()
        self.addCleanup(d.clean)
        os.chmod(d.dir, 0o755)
        # what other users run must be where they can get at it
        d.launcher = "fake:" + shutil.copy(harness.FAKE, d.dir)
        d.shim_program = shutil.copy(os.path.join(harness.BIN, "dha-shim"), d.dir)
        os.mkdir(os.path.join(d.dir, "run"), 0o755)
        d.socket = os.path.join(d.dir, "run", "sock")
        self.file = os.path.join(d.dir, "dhad.json")
        self.write(self.settings)
        d.args += ["--config", self.file]
        d.start()
        self.addCleanup(self.kill_jobs)  # users' jobs have no tag of the test in their environment
        self.addCleanup(d.end)

    def kill_jobs(self):
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    ours = self.dhad.dir.encode() in f.read()
                if ours and any(e.startswith(b"DHA_ATTEMPT=") for e in harness.environ_of(pid)):
                    os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass

    def write(self, settings):
        with open(self.file, "w") as f:
            json.dump(settings, f)

    def reload(self, settings):
        self.write(settings)
        with open(os.path.join(self.dhad.state, "dhad.log")) as f:
            f.seek(0, 2)
            self.dhad.process.send_signal(signal.SIGHUP)
            text = ""

            def settled():
                nonlocal text
                text += f.read()
                return "settings: " in text or "stay as they were" in text
            self.dhad.until(settled)
        return text

    def calls(self, uid, calls, gid=None, groups=()):
        """[(status, document or text)] of (method, path[, body]) as that user; an OSError's name if it cannot connect.
        A body that is text goes as it is; a number is that many bytes."""
        full = [[c[0], c[1], json.dumps(c[2]) if isinstance(c[2:] and c[2], (dict, list)) else (c + (None,))[2], c[3] if len(c) > 3 else {}]
                for c in map(tuple, calls)]
        who = json.dumps([uid, uid if gid is None else gid, list(groups), self.dhad.socket, full])
        r = subprocess.run([sys.executable, "-c", CALL, harness.HERE, who], capture_output=True, text=True, timeout=60)
        self.assertEqual(r.returncode, 0, r.stderr)
        out = []
        for status, text in json.loads(r.stdout):
            try:
                out.append((status, json.loads(text)))
            except ValueError:
                out.append((status, text))
        return out

    def call(self, uid, method, path, body=None, gid=None, groups=(), headers=None):
        return self.calls(uid, [(method, path, {} if body is None and method == "POST" else body, headers or {})],
                          gid, groups)[0]

    def submit_as(self, uid, name="job", **changes):
        status, doc = self.call(uid, "POST", "/v1/jobs", {"spec": self.dhad.spec(name, **changes)}, groups=[TEAM])
        self.assertEqual(status, 201, doc)
        self.assertEqual(doc["job"]["owner_uid"], str(uid))
        return doc["job"]["id"]

    def mode(self, path):
        return stat.S_IMODE(os.stat(path).st_mode)


READS = ("/v1/version", "/livez", "/readyz", "/metrics", "/v1/jobs", "/v1/jobs/1", "/v1/jobs/1/explain",
         "/v1/jobs/1/metrics", "/v1/jobs/1/metrics/names", "/v1/jobs/1/checkpoints", "/v1/events", "/v1/nodes",
         "/v1/sweeps")
CHANGES = ("/v1/jobs/1/cancel", "/v1/jobs/1/hold", "/v1/jobs/1/release", "/v1/jobs/1/retry", "/v1/jobs/1/priority")
ADMIN = ("/v1/shutdown", "/v1/nodes/x/drain", "/v1/nodes/x/resume", "/v1/admin/fsck", "/v1/admin/backup",
         "/v1/admin/export", "/v1/admin/import", "/v1/admin/prune", "/v1/admin/chores/1/apply")


class Nobody(Case):
    """As it comes: the daemon's user and root only."""

    def test_nobody_else_gets_through_the_door_or_past_it(self):
        d = self.dhad
        self.assertEqual(self.mode(d.socket), 0o600)
        self.assertEqual(self.call(ALICE, "GET", "/livez", groups=[TEAM])[0], "PermissionError")
        d.submit("sleep=30")
        os.chmod(d.socket, 0o666)
        calls = [("GET", p) for p in READS] + [("POST", p, {}) for p in CHANGES + ADMIN] + [
            ("POST", "/v1/jobs", {"spec": d.spec()}), ("POST", "/v1/sweeps", {}), ("GET", "/v1/jobs/1/logs"),
            ("GET", "/v1/admin/chores/1")]
        for call, (status, doc) in zip(calls, self.calls(ALICE, calls, groups=[TEAM, 0])):
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call, doc))
            self.assertTrue(doc["error"]["hint"])


class Group(Case):
    settings = {"group": TEAM, "allow_root_jobs": 1}

    def test_the_socket_is_the_groups_and_nobody_elses(self):
        d = self.dhad
        st = os.stat(d.socket)
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_gid), (0o660, TEAM))
        self.assertEqual(self.call(STRANGER, "GET", "/livez")[0], "PermissionError")
        os.chmod(d.socket, 0o666)
        self.assertEqual(self.call(STRANGER, "GET", "/livez")[0], 403)

    def test_the_primary_group_and_a_supplementary_one_count(self):
        self.assertEqual(self.call(ALICE, "GET", "/livez", gid=TEAM)[0], 200)
        self.assertEqual(self.call(ALICE, "GET", "/livez", groups=[1, 2, 3, TEAM, 5])[0], 200)
        os.chmod(self.dhad.socket, 0o666)
        self.assertEqual(self.call(ALICE, "GET", "/livez", groups=[TEAM + 1, TEAM - 1])[0], 403)

    def test_a_member_submits_and_changes_its_own_jobs_and_reads_the_others(self):
        d = self.dhad
        a = self.submit_as(ALICE, "sleep=30 a")
        b = self.submit_as(BOB, "sleep=30 b", seed=2)
        mine = d.submit("sleep=30 c", seed=3)
        d.until_running(a, "search")
        calls = [("GET", f"/v1/jobs/{a}"), ("GET", f"/v1/jobs/{a}/explain"), ("GET", f"/v1/jobs/{b}/logs"),
                 ("POST", f"/v1/jobs/{b}/priority", {"priority": -2}), ("POST", f"/v1/jobs/{b}/cancel", {"now": True})]
        self.assertEqual([s for s, _ in self.calls(BOB, calls, groups=[TEAM])], [200] * 5)
        others = [("GET", f"/v1/jobs/{i}/logs") for i in (a, mine)] + [
            ("POST", f"/v1/jobs/{i}/{what}", {}) for i in (a, mine) for what in ("cancel", "hold", "release", "retry",
                                                                                "priority")]
        for call, (status, doc) in zip(others, self.calls(BOB, others, groups=[TEAM])):
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call, doc))
            self.assertIn("is not yours", doc["error"]["message"])
        self.assertFalse(d.job(a)["cancelling"])
        self.assertEqual(self.call(BOB, "POST", "/v1/jobs/999/cancel", groups=[TEAM])[0], 404)
        admin = [("POST", p, {}) for p in ADMIN] + [("GET", "/v1/admin/chores/1")]
        for call, (status, doc) in zip(admin, self.calls(BOB, admin, groups=[TEAM])):
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call, doc))
        # the daemon's owner may
        self.assertEqual(d.post(f"/v1/jobs/{a}/cancel", {"now": True}).status, 200)
        d.until_state(a, "cancelled")

    def test_explain_says_who_may_do_what_would_help(self):
        d = self.dhad
        a = self.submit_as(ALICE, "sleep=30 a", resources={"ranks": 4})
        d.until_running(a, "search")
        b = self.submit_as(BOB, "b", seed=2)
        b2 = self.submit_as(BOB, "b2", seed=3)
        held = self.submit_as(ALICE, "held", seed=4)
        self.call(ALICE, "POST", f"/v1/jobs/{held}/hold", groups=[TEAM])

        def unblock(job, uid=None):
            if uid is None:
                return d.get(f"/v1/jobs/{job}/explain").json["unblock"]
            return self.call(uid, "GET", f"/v1/jobs/{job}/explain", groups=[TEAM])[1]["unblock"]
        alices = f" (only uid {ALICE}, whose job %s is, and uid 0, who runs this daemon, may)"
        # each line: the job, what would help, who may not, and what they are told beside it
        gives_way = f"the end of what runs: job {a} (dha watch {a}); or dha hold {a}: it checkpoints and gives way"
        prio = f"the start of job {b}, or a higher priority: dha prio {b2} N"
        for job, what, who, more in (
                (held, f"dha release {held}", BOB, alices % held), (b, gives_way, BOB, alices % a),
                (b2, prio, BOB, " (over 0 only uid 0 may give, who runs this daemon)"),
                (b2, prio, ALICE, f" (only uid {BOB}, whose job {b2} is, and uid 0, who runs this daemon, may)")):
            self.assertEqual(unblock(job), what)
            self.assertEqual(unblock(job, who), what + more)
        for job, what in ((held, f"dha release {held}"), (b, gives_way)):
            self.assertEqual(unblock(job, ALICE), what)
        self.call(BOB, "POST", f"/v1/jobs/{b2}/priority", {"priority": -1}, groups=[TEAM])
        self.assertEqual(unblock(b2, BOB), prio, "as far as 0 they may")
        dry = self.call(BOB, "POST", "/v1/jobs", {"spec": d.spec("x", seed=9), "dry_run": True}, groups=[TEAM])[1]["now"]
        self.assertEqual(dry["unblock"], f"the start of job {b}, or a higher priority (over 0 only uid 0 may give, who runs"
                         " this daemon)")
        d.post(f"/v1/nodes/{d.get('/v1/nodes').json['nodes'][0]['name']}/drain", {"reason": "fan"})
        self.assertTrue(unblock(b, BOB).endswith(" (only uid 0, who runs this daemon, may)"), unblock(b, BOB))
        self.assertNotIn("only", unblock(b))
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        d.until_state(a, "cancelled")
        self.assertEqual(unblock(a, BOB), f"dha retry {a}" + alices % a)
        self.assertEqual(unblock(a, ALICE), f"dha retry {a}")

    def test_what_was_done_says_who_did_it(self):
        d = self.dhad
        a = self.submit_as(ALICE, "sleep=30 a")
        d.post(f"/v1/jobs/{a}/priority", {"priority": 3})
        self.call(ALICE, "POST", f"/v1/jobs/{a}/cancel", {"now": True}, groups=[TEAM])
        d.until_state(a, "cancelled")
        d.post("/v1/admin/fsck", {})
        d.until(lambda: d.events(type="admin.fsck"))
        d.post(f"/v1/nodes/{d.get('/v1/nodes').json['nodes'][0]['name']}/drain", {"reason": "x"})
        by = {e["type"]: e["data"].get("by") for e in d.events()
              if e["type"] in ("job.submit", "job.priority", "job.cancel", "admin.fsck", "node.drain")}
        self.assertEqual(by, {"job.submit": str(ALICE), "job.priority": "0", "job.cancel": str(ALICE), "admin.fsck": "0",
                              "node.drain": "0"})
        ended, = (e for e in d.events(type="stage.state") if e["data"]["to"] == "running")
        self.assertNotIn("by", ended["data"], "what the daemon does by itself is nobody's word")

    def test_only_the_daemons_owner_lets_a_job_go_before_those_of_others(self):
        d = self.dhad
        a = self.submit_as(ALICE, "sleep=30 a")
        too_high = [("POST", f"/v1/jobs/{a}/priority", {"priority": 1}),
                    ("POST", "/v1/jobs", {"spec": d.spec("b", seed=2, priority=1)}),
                    ("POST", "/v1/jobs", {"spec": d.spec("b", seed=2, priority=1), "dry_run": True}),
                    ("POST", "/v1/sweeps", {"spec": d.spec("c", seed=3, priority=1), "budgets": [0.5]})]
        for call, (status, doc) in zip(too_high, self.calls(ALICE, too_high, groups=[TEAM])):
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call, doc))
            self.assertIn("up to 0, not 1", doc["error"]["message"])
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), 1)
        self.assertEqual(d.get("/v1/sweeps").json["sweeps"], [])
        self.assertEqual(d.post(f"/v1/jobs/{a}/priority", {"priority": 7}).status, 200)

    def test_keys_and_names_are_each_users_own(self):
        d = self.dhad
        key = {"Idempotency-Key": "k"}
        body = {"spec": d.spec("x")}
        ids = {self.call(u, "POST", "/v1/jobs", body, groups=[TEAM], headers=key)[1]["job"]["id"] for u in (ALICE, BOB)}
        self.assertEqual(len(ids), 2)
        again = self.call(BOB, "POST", "/v1/jobs", body, groups=[TEAM], headers=key)
        self.assertEqual((again[0], again[1]["job"]["owner_uid"]), (200, str(BOB)))

    def test_it_can_be_changed_while_it_runs(self):
        d = self.dhad
        self.reload({"group": TEAM + 1, "others": "read"})
        st = os.stat(d.socket)
        self.assertEqual((stat.S_IMODE(st.st_mode), st.st_gid), (0o666, TEAM + 1))
        self.assertEqual(self.call(ALICE, "POST", "/v1/jobs", {"spec": d.spec()}, groups=[TEAM])[0], 403)
        self.assertEqual(self.call(ALICE, "POST", "/v1/jobs", {"spec": d.spec()}, groups=[TEAM + 1])[0], 201)
        text = self.reload({"group": "there-is-no-such-group"})
        self.assertIn("there is no group", text)
        self.assertEqual(self.mode(d.socket), 0o666)
        self.reload({})
        self.assertEqual(self.mode(d.socket), 0o600)
        self.assertEqual(self.call(ALICE, "GET", "/livez", groups=[TEAM + 1])[0], "PermissionError")

    def test_a_socket_file_that_is_not_ours_is_left_alone(self):
        d = self.dhad
        victim = os.path.join(d.dir, "victim")
        with open(victim, "w"):
            pass
        os.chmod(victim, 0o600)
        os.rename(d.socket, d.socket + ".away")
        os.symlink(victim, d.socket)
        self.assertIn("stay as they were", self.reload({"group": TEAM, "others": "read"}))
        self.assertEqual(self.mode(victim), 0o600)
        os.unlink(d.socket)
        os.rename(d.socket + ".away", d.socket)


class Others(Case):
    settings = {"others": "read"}

    def test_everybody_reads_and_nobody_changes(self):
        d = self.dhad
        self.assertEqual(self.mode(d.socket), 0o666)
        job = d.submit("sleep=30 a")
        self.assertEqual(job, "1")
        d.until_running(job, "search")
        for path, (status, doc) in zip(READS, self.calls(STRANGER, [("GET", p) for p in READS])):
            self.assertEqual(status, 200, (path, doc))
        calls = [("POST", p, {}) for p in CHANGES + ADMIN] + [("GET", "/v1/jobs/1/logs"), ("GET", "/v1/admin/chores/1"),
                                                              ("POST", "/v1/jobs", {"spec": d.spec(), "dry_run": True}),
                                                              ("POST", "/v1/sweeps", {})]
        for call, (status, doc) in zip(calls, self.calls(STRANGER, calls)):
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call, doc))
        self.assertFalse(d.job(job)["cancelling"])

    def test_a_viewer_is_not_told_to_submit_or_release(self):
        d = self.dhad
        bad, held = d.submit("search.fail=bad_input"), d.submit("h", seed=2)
        d.post(f"/v1/jobs/{held}/hold")
        d.until_state(bad, "failed")
        (_, x), (_, y) = self.calls(STRANGER, [("GET", f"/v1/jobs/{i}/explain") for i in (bad, held)])
        self.assertIn(" (you may not; uid 0, who runs this daemon, can let you in)", x["unblock"])
        self.assertEqual(y["unblock"], f"dha release {held} (only uid 0, who runs this daemon, may)")


def routes():
    """(method, path) of all routes, of job 1, which is somebody else's."""
    return [(m, p.replace("ID", "1").replace("NAME", "x")) for m, p in sorted(api_contract.daemon_routes())]


# what nobody would answer 200 to: no JSON, no object, an unknown member, too long, an unknown argument
RUBBISH = ("{", "[1]", "\0\xff", '{"rubbish": 1}', '{"a": 1, "a": 2}', (1 << 20) + 1)


class Order(Case):
    """Who may not is told so before anything is said of what they sent; a method that a path does not know even before."""
    settings = {"others": "read", "group": TEAM, "allow_root_jobs": 1}

    def setUp(self):
        super().setUp()
        self.assertEqual(self.dhad.submit("sleep=30"), "1")

    def rubbish(self, method, path):
        return [(method, path + more, body, {"If-Match": '"0"', **headers}) for more in ("", "?rubbish=1") for body in RUBBISH
                for headers in ({}, {"Content-Type": "text/plain"}, {"Idempotency-Key": "x" * 200})]

    def check(self, refused, uid, groups=()):
        for method, path in refused:
            calls = self.rubbish(method, path)
            for call, (status, doc) in zip(calls, self.calls(uid, calls, groups=groups)):
                self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (call[0], call[1], str(call[2])[:40], doc))
        for method, path in set(routes()) - set(refused):
            status, doc = self.calls(uid, [(method, path, "{")], groups=groups)[0]
            self.assertNotEqual(status, 403, (method, path, doc))

    def test_a_reader_with_rubbish(self):
        refused = [r for r in routes() if r[0] == "POST"]
        self.assertGreater(len(refused), 15)
        self.check(refused + [("GET", "/v1/jobs/1/logs"), ("GET", "/v1/admin/tokens"), ("GET", "/v1/admin/chores/1")], STRANGER)

    def test_a_member_with_rubbish(self):
        refused = [r for r in routes() if "admin" in r[1] or r[0] == "POST" and r[1] not in ("/v1/jobs", "/v1/sweeps")]
        self.check(refused + [("GET", "/v1/jobs/1/logs")], BOB, [TEAM])

    def test_who_may_not_run_jobs_with_rubbish(self):
        """Of a group that may submit, but no user of the host, whom jobs could run as."""
        uid = next(u for u in range(60000, 65000) if not any(p.pw_uid == u for p in pwd.getpwall()))
        self.check([r for r in routes() if "admin" in r[1] or r[0] == "POST"] + [("GET", "/v1/jobs/1/logs")], uid, [TEAM])

    def test_a_method_that_a_path_does_not_know(self):
        known = {}
        for method, path in routes():
            known.setdefault(path, set()).add(method)
        for uid in (STRANGER, 0):
            calls = [(m, p, body, {"Content-Type": "text/plain"}) for p, has in known.items()
                     for m in {"GET", "POST", "PUT", "DELETE", "PATCH"} - has for body in RUBBISH[1:4]]
            for call, (status, doc) in zip(calls, self.calls(uid, calls)):
                self.assertEqual((status, doc["error"]["code"]), (405, "method_not_allowed"), (call, doc))


# As that user: so many connections, and another for each that is ended; "ready" when they are open.
FLOOD = """
import os, resource, socket, sys, time
uid, n, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_NOFILE, (4 * n, 4 * n))
os.setgroups([]); os.setgid(uid); os.setuid(uid)
held, said = [], False
while True:
    full = False
    while len(held) < n and not full:
        s = socket.socket(socket.AF_UNIX)
        s.setblocking(False)
        try:
            s.connect(path)
            held.append(s)
        except OSError:
            full = True
    for s in held[:]:
        try:
            if not s.recv(65536):
                held.remove(s)
        except BlockingIOError:
            pass
        except OSError:
            held.remove(s)
    if not said:
        said = print("ready", flush=True) or True
    time.sleep(0.01)
"""


class Flood(Case):
    settings = {"others": "read"}

    def test_who_opens_a_connection_for_each_that_is_ended_keeps_nobody_else_out(self):
        limit = self.dhad.get("/v1/version").json["limits"]["connections"]
        flood = subprocess.Popen([sys.executable, "-c", FLOOD, str(STRANGER), str(limit + 200), self.dhad.socket],
                                 stdout=subprocess.PIPE, text=True)
        try:
            self.assertEqual(flood.stdout.readline(), "ready\n")
            for _ in range(30):
                self.assertEqual(self.dhad.get("/livez").status, 200)
                self.assertEqual(self.call(ALICE, "GET", "/v1/nodes")[0], 200)
            self.assertIsNone(flood.poll())
        finally:
            flood.kill()
            flood.wait()
            flood.stdout.close()


class Directory(Case):
    def test_a_directory_made_for_the_socket_lets_in_whom_the_settings_let_in(self):
        for settings, want in (({}, 0o700), ({"group": TEAM}, 0o750), ({"others": "read"}, 0o755)):
            self.dhad.end()
            self.write(settings)
            run = os.path.join(self.dhad.dir, f"run{want:o}")
            self.dhad.socket = os.path.join(run, "sock")
            self.dhad.start()
            self.assertEqual(self.mode(run), want)
        with open(os.path.join(self.dhad.state, "dhad.log")) as f:
            self.assertNotIn("keeps users", f.read())

    def test_a_directory_that_was_there_is_left_as_it_is_and_said(self):
        d = self.dhad
        d.end()
        self.write({"group": TEAM})
        os.chmod(os.path.dirname(d.socket), 0o700)
        d.start()
        self.assertEqual(self.mode(os.path.dirname(d.socket)), 0o700)
        with open(os.path.join(d.state, "dhad.log")) as f:
            self.assertIn(f"{os.path.dirname(d.socket)} (mode 0700) keeps users", f.read())


class Queue(Case):
    settings = {"group": TEAM, "queue_per_user": 3, "allow_root_jobs": 1}

    def refused(self, reply):
        status, doc = reply
        self.assertEqual((status, doc["error"]["code"]), (429, "queue_full"), doc)
        self.assertIn("limit of 3", doc["error"]["message"])
        self.assertIn("queue_per_user", doc["error"]["hint"])

    def submit(self, uid, n, **more):
        return self.call(uid, "POST", "/v1/jobs", {"spec": self.dhad.spec(f"j{n}", seed=n), "hold": True, **more},
                         groups=[TEAM])

    def test_a_user_has_so_many_jobs_that_have_not_ended(self):
        d = self.dhad
        jobs = [self.submit(ALICE, n)[1]["job"]["id"] for n in (1, 2, 3)]
        self.refused(self.submit(ALICE, 4))
        self.assertEqual(self.submit(ALICE, 4, dry_run=True)[0], 200, "a plan takes no place")
        self.assertEqual(self.submit(BOB, 4)[0], 201, "another user's are not counted")
        self.call(ALICE, "POST", f"/v1/jobs/{jobs[0]}/cancel", {"now": True}, groups=[TEAM])
        d.until_state(jobs[0], "cancelled")
        self.assertEqual(self.submit(ALICE, 5)[0], 201)
        self.refused(self.submit(ALICE, 6))
        self.refused(self.call(ALICE, "POST", f"/v1/jobs/{jobs[0]}/retry", groups=[TEAM]))
        self.assertEqual(d.job(jobs[0])["state"], "cancelled", "what is refused leaves nothing")

    def test_a_repeat_is_no_new_job(self):
        headers = {"Idempotency-Key": "k"}
        body = {"spec": self.dhad.spec("a"), "hold": True}
        first = self.call(ALICE, "POST", "/v1/jobs", body, groups=[TEAM], headers=headers)
        self.submit(ALICE, 2), self.submit(ALICE, 3)
        again = self.call(ALICE, "POST", "/v1/jobs", body, groups=[TEAM], headers=headers)
        self.assertEqual((again[0], again[1]["job"]["id"]), (200, first[1]["job"]["id"]))

    def test_a_sweep_is_counted_whole_and_the_daemons_owner_too(self):
        d = self.dhad
        sweep = {"spec": d.spec("s"), "budgets": [0.5, 0.25], "methods": ["gqa"], "seeds": [1, 2]}
        r = d.post("/v1/sweeps", sweep)
        self.refused((r.status, r.json))
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [])
        self.assertEqual(d.get("/v1/sweeps").json["sweeps"], [])
        r = d.post("/v1/sweeps", {**sweep, "seeds": [1]})
        self.assertEqual(r.status, 201, r)

    def test_the_limit_holds_after_a_restart_and_may_be_lifted(self):
        d = self.dhad
        for n in (1, 2, 3):
            self.submit(ALICE, n)
        d.end()
        d.start()
        self.refused(self.submit(ALICE, 4))
        self.reload({"group": TEAM, "queue_per_user": 0})
        self.assertEqual(self.submit(ALICE, 4)[0], 201)


class FewProcesses(Case):
    """A limit on the processes of the daemon's user, who is not root: for root there is none. Jobs count as well, and what other
    tests run: so a user whom nobody else takes."""
    def setUp(self):
        super().setUp()
        d = self.dhad
        d.end()
        shutil.rmtree(d.state)
        for path in (d.dir, os.path.join(d.dir, "run")):
            os.chown(path, ALONE, -1)

    def limited(self, n):
        d, command = self.dhad, self.dhad.command()
        d.command = lambda: ["setpriv", f"--reuid={ALONE}", f"--regid={ALONE}", "--clear-groups", "prlimit", f"--nproc={n}",
                             *command]

    def test_a_daemon_that_runs_needs_no_more_of_them(self):
        d = self.dhad
        self.limited(6)  # five of its own; one of a sanitizer
        d.start(ASAN_OPTIONS="detect_leaks=0")  # looking for them takes a process more
        start, got = threading.Barrier(24), []

        def submit(i):
            start.wait(30)
            got.append(d.post("/v1/jobs", {"spec": d.spec(f"job {i}", seed=i)}).status)
        threads = [threading.Thread(target=submit, args=(i,)) for i in range(24)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(60)
        self.assertEqual(got, [201] * 24)
        self.assertEqual(d.post("/v1/admin/fsck", {}).status, 202)

    def test_one_that_has_too_few_does_not_start(self):
        d = self.dhad
        self.limited(3)
        d.start(wait=False, ASAN_OPTIONS="detect_leaks=0")
        self.assertEqual(d.wait_dead(), 75)
        self.assertRegex(d.console(), r"dhad needs 5 threads and got [123]: ")
        self.assertIn("TasksMax=", d.console())


if __name__ == "__main__":
    harness.main()
