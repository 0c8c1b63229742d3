"""A disk that fails, a state directory that cannot be written and no descriptors left, under a daemon that runs: it
answers, says what is wrong, keeps what it promised, and goes on by itself when it is over."""
import errno
import json
import os
import pwd
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import flow_access
import harness
from flow_access import ALICE, BOB, STRANGER, TEAM

LIBRARY = os.environ.get("DHA_FAULTIO_LIBRARY", "")


class DiskFails(unittest.TestCase):
    def setUp(self):
        self.dhad = d = harness.Dhad()
        self.addCleanup(d.clean)
        self.switch = os.path.join(d.dir, "fault")
        self.env = {"LD_PRELOAD": LIBRARY, "DHA_FAULTIO": self.switch, "DHA_FAULTIO_DIR": d.state}
        d.start(**self.env)
        self.addCleanup(d.end)

    def fail(self, code):
        with open(self.switch + ".new", "w") as f:
            f.write(str(code))
        os.rename(self.switch + ".new", self.switch)

    def heal(self):
        os.remove(self.switch)

    def submissions(self, code, status):
        d = self.dhad
        first = d.submit("sleep=60")
        d.until_running(first, "search")
        self.fail(code)
        taken, refused = {first}, []
        for i in range(10):
            r = d.post("/v1/jobs", {"spec": d.spec(f"j{i}", seed=i + 2)}, {"Idempotency-Key": f"k{i}"})
            if r.status == 201:
                taken.add(r.json["job"]["id"])
            else:
                refused.append(r)
        self.assertTrue(refused, "nothing can be written")
        self.assertEqual({r.status for r in refused}, {status}, refused)
        self.assertEqual(d.get("/livez").status, 200)
        self.assertTrue(d.get("/v1/version").json["trouble"])
        self.assertEqual({j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}, taken)
        self.heal()
        for i in range(10):
            r = d.until(lambda: (r := d.post("/v1/jobs", {"spec": d.spec(f"j{i}", seed=i + 2)},
                                             {"Idempotency-Key": f"k{i}"})).status in (200, 201) and r)
            taken.add(r.json["job"]["id"])
        self.assertEqual(len(taken), 11, "each once")
        d.until(lambda: d.get("/v1/version").json["trouble"] is None)
        d.kill()
        d.start()
        self.assertEqual({j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}, taken)
        self.assertEqual(len(d.launches(first, "search")), 1, "what ran was left alone")

    def test_submissions_while_the_disk_gives_errors(self):
        self.submissions(errno.EIO, 500)

    def test_submissions_while_the_disk_is_full(self):
        self.submissions(errno.ENOSPC, 507)

    def test_submissions_while_the_directory_is_read_only(self):
        self.submissions(errno.EROFS, 500)

    def stage_ends(self, code):
        """Its end, and the start of the next one, fall into the time when nothing can be written."""
        d = self.dhad
        job = d.submit("search.sleep=1")
        d.until_running(job, "search")
        self.fail(code)
        d.until(lambda: os.path.exists(os.path.join(d.stage_dir(job, "search"), "a1", "exit.json")))
        d.until(lambda: d.get("/v1/version").json["trouble"])
        time.sleep(2.5)
        self.assertEqual(d.job(job)["state"], "running")
        self.heal()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([len(d.launches(job, s["kind"])) for s in j["stages"]], [1] * 5)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * 5)

    def test_a_stage_that_ends_while_the_disk_gives_errors(self):
        self.stage_ends(errno.EIO)

    def test_a_stage_that_ends_while_the_directory_is_read_only(self):
        self.stage_ends(errno.EROFS)

    def test_does_not_start_on_a_directory_that_cannot_be_written_and_says_so(self):
        d = self.dhad
        job = d.submit("sleep=60")
        d.stop()
        self.fail(errno.EROFS)
        d.start(wait=False, **self.env)
        self.assertNotIn(d.wait_dead(), (0, -6, -11))
        self.assertIn("Read-only file system", d.console())
        self.heal()
        d.start(**self.env)
        self.assertEqual(d.job(job)["id"], job)
        self.assertEqual([n for n in os.listdir(d.state) if "damaged" in n], [])


class DeadMount(DiskFails):
    """STATE/jobs is a mount whose server died ("Transport endpoint is not connected"), until it is mounted again."""

    def setUp(self):
        self.dhad = d = harness.Dhad()
        self.addCleanup(d.clean)
        self.switch = os.path.join(d.dir, "fault")
        self.jobs = os.path.join(d.state, "jobs")
        d.start(LD_PRELOAD=LIBRARY, DHA_FAULTIO=self.switch, DHA_FAULTIO_DEAD=self.jobs)
        self.addCleanup(d.end)

    def dies(self, job):
        d = self.dhad
        self.fail(errno.ENOTCONN)
        said = f"{self.jobs} cannot be read (Transport endpoint is not connected)"
        d.until(lambda: said in str(d.get("/v1/version").json["trouble"]))
        r = d.get("/readyz")
        self.assertEqual((r.status, said in r.raw.decode()), (503, True), r)
        self.assertIn(said, d.get(f"/v1/jobs/{job}/explain").json["reason"])

    def test_what_runs_is_let_be_and_adopted_when_it_is_back(self):
        d = self.dhad
        job = d.submit("search.sleep=8")
        d.until_running(job, "search")
        self.dies(job)
        time.sleep(2.5)
        self.assertEqual(d.stage(job, "search")["state"], "running")
        self.heal()
        d.wait_ready()
        step = d.stage(job, "search")["progress"]["step"]
        d.until(lambda: d.stage(job, "search")["progress"]["step"] > step)
        self.assertEqual(d.until_state(job, "done")["state"], "done")
        self.assertEqual([(s["attempts"], len(d.launches(job, s["kind"]))) for s in d.job(job)["stages"]], [(1, 1)] * 5)

    def test_what_ends_meanwhile_keeps_its_slots_and_ends_well(self):
        d = self.dhad
        job = d.submit("search.sleep=1")
        d.until_running(job, "search")
        self.dies(job)
        d.until(lambda: os.path.exists(os.path.join(d.stage_dir(job, "search"), "a1", "exit.json")))
        time.sleep(1.5)
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual(len({s["attempt"] for s in node["slots"]} - {None}), 1)
        self.heal()
        j = d.until_state(job, "done")
        self.assertEqual([(s["attempts"], len(d.launches(job, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)

    def test_nothing_is_started_there_and_no_job_fails_for_it(self):
        d = self.dhad
        self.fail(errno.ENOTCONN)
        jobs = [d.submit(f"j{i}", seed=i + 1) for i in range(3)]
        self.dies(jobs[0])
        time.sleep(2)
        self.assertEqual({d.job(j)["state"] for j in jobs}, {"queued"})
        self.heal()
        for job in jobs:
            self.assertEqual([s["attempts"] for s in d.until_state(job, "done")["stages"]], [1] * 5)

    def test_the_next_daemon_does_not_start_on_it_and_says_why(self):
        d = self.dhad
        job = d.submit("search.sleep=8")
        d.until_running(job, "search")
        d.kill()
        env = {"LD_PRELOAD": LIBRARY, "DHA_FAULTIO": self.switch, "DHA_FAULTIO_DEAD": self.jobs}
        self.fail(errno.ENOTCONN)
        d.start(wait=False, **env)
        self.assertNotIn(d.wait_dead(), (0, -6, -11))
        self.assertIn(f"cannot look at {self.jobs}: Transport endpoint is not connected", d.console())
        self.assertIn("hint: is its file system mounted", d.console())
        self.heal()
        d.start(**env)
        self.assertEqual([s["attempts"] for s in d.until_state(job, "done")["stages"]], [1] * 5)


for _name in [n for n in dir(DiskFails) if n.startswith("test_")]:
    setattr(DeadMount, _name, None)  # the base's


class NoLocks(unittest.TestCase):
    """A file system without flock(), or whose flock() grants everything: nothing would keep a second daemon out."""

    def refused(self, how):
        d = harness.Dhad()
        self.addCleanup(d.clean)
        d.start(wait=False, LD_PRELOAD=LIBRARY, DHA_FAULTIO_DIR=d.state, DHA_FAULTIO_FLOCK=str(how))
        self.assertEqual(d.wait_dead(), 65, d.console())
        self.assertIn(f"{d.state} does not keep locks", d.console())
        self.assertIn("hint: use a local disk for the state (DHA_STATE, --state)", d.console())
        self.assertFalse(os.path.exists(os.path.join(d.state, "state.db")), "nothing was written without a lock")
        d.start()
        self.assertEqual(d.stop(), 0)

    def test_a_state_that_cannot_be_locked_is_refused(self):
        for code in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL, errno.ENOSYS):
            with self.subTest(errno.errorcode[code]):
                self.refused(code)

    def test_locks_that_are_always_granted_are_seen(self):
        self.refused(0)

    def attempts(self, how, said):
        """STATE/jobs may be another file system: the shim's lock tells a daemon whether an attempt runs."""
        d = harness.Dhad()
        self.addCleanup(d.clean)
        d.start(LD_PRELOAD=LIBRARY, DHA_FAULTIO_DIR=os.path.join(d.state, "jobs"), DHA_FAULTIO_OFD=str(how))
        self.addCleanup(d.end)
        job = d.submit()
        end = d.until(lambda: [e["data"] for e in d.events(job=job, type="attempt.end")])[0]
        self.assertEqual(end["code"], "lost")
        self.assertRegex(end["message"], "the shim did not start 3 times: .*" + said)
        self.assertRegex(d.get(f"/v1/jobs/{job}/explain").json["reason"], said)
        self.assertEqual(d.launches(job, "search"), [], "nothing ran without its lock")

    def test_an_attempt_that_cannot_be_locked_does_not_start(self):
        self.attempts(errno.ENOLCK, "cannot lock .*/search/a1/attempt.lock: No locks available")

    def test_nor_does_one_whose_lock_nobody_sees(self):
        self.attempts(0, "grants a lock that is held")


class Hanging:
    """What hangs while self.switch is there."""
    def start_hanging(self, **env):
        d = self.dhad
        box = os.path.join(d.dir, "switch")
        self.switch = os.path.join(box, "hang")
        self.hung = os.path.join(d.dir, "hung")
        if not os.path.exists(self.hung):
            shutil.copytree(d.model, self.hung)
            os.mkdir(box)
            os.chmod(box, 0o777)  # who waits says so, with a user's rights
        # a sanitizer wants to come first, but not into the memory of what the daemon starts
        d.start(LD_PRELOAD=LIBRARY, DHA_FAULTIO=self.switch, DHA_FAULTIO_HUNG=self.hung,
                ASAN_OPTIONS=os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0", **env)
        self.addCleanup(d.end)
        self.addCleanup(lambda: os.path.exists(self.switch) and self.go_on())

    def hang(self):
        with open(self.switch + ".new", "w") as f:
            f.write("1")
        os.rename(self.switch + ".new", self.switch)

    def go_on(self):
        os.remove(self.switch)

    def until_it_hangs(self):
        self.dhad.until(lambda: os.path.exists(self.switch + ".waits"))

    def in_thread(self, what):
        """What is called in a thread, and [what it returns], once that is there."""
        got = []
        t = threading.Thread(target=lambda: got.append(what()))
        t.start()
        self.addCleanup(t.join)
        return t, got


class HungFiles(Hanging, unittest.TestCase):
    """A file system that does not answer (NFS, automount), which a submission names; or a slow one below the state directory."""
    def start(self, **env):
        d = self.dhad = harness.Dhad()
        self.addCleanup(d.clean)
        self.start_hanging(**env)
        return d

    def ask(self, **changes):
        d = self.dhad
        return self.in_thread(lambda: d.post("/v1/jobs", {"spec": d.spec(**changes)}))

    def test_only_who_named_them_waits(self):
        d = self.start()
        self.hang()
        one, first = self.ask(name="hung", model=self.hung)
        self.until_it_hangs()
        others = [self.ask(name=f"other {i}", seed=i) for i in range(20)]
        self.assertEqual(d.get("/livez").status, 200)
        for t, got in others:
            t.join(60)
            self.assertEqual(got[0].status, 503, got)
            self.assertEqual(got[0].json["error"]["code"], "transient")
            self.assertRegex(got[0].json["error"]["message"], rf"uid {os.geteuid()} .*{self.hung}.* have not answered for \d+ s$")
        self.assertEqual(d.post("/v1/jobs", {"spec": d.spec("late")}).status, 503)
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [])
        self.assertEqual(first, [])
        self.go_on()
        one.join(60)
        self.assertEqual(first[0].status, 201, first)
        self.assertEqual(d.post("/v1/jobs", {"spec": d.spec("late")}).status, 201)

    def test_a_stage_whose_files_hang_waits_for_them_and_nobody_else_does(self):
        d = self.start()
        job = d.post("/v1/jobs", {"spec": d.spec("hung", model=self.hung), "hold": True}).json["job"]["id"]
        self.hang()
        d.post(f"/v1/jobs/{job}/release")
        d.until(lambda: "does not answer" in d.get(f"/v1/jobs/{job}/explain").json["reason"])
        x = d.get(f"/v1/jobs/{job}/explain").json
        self.assertIn(self.hung, x["reason"])
        self.assertRegex(x["unblock"], "starts by itself.*NFS")
        begin = time.time()
        self.assertEqual(d.get("/livez").status, 200)
        self.assertLess(time.time() - begin, 1.5)  # nobody asks the files any more
        d.until_state(d.submit("other", seed=2), "done")
        self.assertEqual(d.job(job)["state"], "running")
        self.go_on()
        d.until_state(job, "done", seconds=90)
        search = d.stage(job, "search")
        self.assertEqual(search["attempts"], 2)

    def test_a_sweep_over_files_that_hang_is_refused(self):
        d = self.start()
        self.hang()
        body = {"spec": d.spec("sweep", model=self.hung), "budgets": [0.5, 0.25], "methods": ["gqa"]}
        for body in (body, {**body, "dry_run": True}):
            r = d.post("/v1/sweeps", body)
            self.assertEqual((r.status, r.json["error"]["code"]), (503, "transient"))
            self.assertIn(self.hung, r.json["error"]["message"])
        self.assertEqual(d.get("/livez").status, 200)
        self.go_on()
        d.until(lambda: d.post("/v1/sweeps", body).status == 200)
        self.assertEqual(d.get("/v1/sweeps").json["sweeps"], [])

    def test_a_daemon_that_is_told_to_stop_answers_first(self):
        d = self.start()
        self.hang()
        one, first = self.ask(name="hung", model=self.hung)
        self.until_it_hangs()
        d.process.send_signal(signal.SIGTERM)
        one.join(60)
        self.assertEqual(first[0].status, 503, first)
        self.ends_while_they_hang()
        d.start()
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [])

    def ends_while_they_hang(self):
        d = self.dhad
        self.assertEqual(d.wait_dead(60), 0)
        self.assertTrue(os.path.exists(self.switch))
        self.assertNotIn("Sanitizer", d.console())
        self.assertFalse(os.path.exists(os.path.join(d.state, "state.db-wal")), "the database was closed in good order")
        with open(os.path.join(d.state, "dhad.log")) as f:
            self.assertIn("left threads to themselves", f.read())

    def test_it_ends_while_threads_wait_for_the_files_of_a_stage_and_of_a_submission(self):
        d = self.start()
        job = d.post("/v1/jobs", {"spec": d.spec("hung", model=self.hung), "hold": True}).json["job"]["id"]
        self.hang()
        d.post(f"/v1/jobs/{job}/release")
        d.until(lambda: "does not answer" in d.get(f"/v1/jobs/{job}/explain").json["reason"])
        one, first = self.ask(name="other", model=self.hung, seed=2)
        time.sleep(1)
        d.process.send_signal(signal.SIGTERM)
        self.ends_while_they_hang()
        one.join(60)
        self.assertEqual(first[0].status, 503, first)
        self.go_on()
        d.start()
        d.until_state(job, "done", seconds=90)

    def test_it_ends_while_an_import_waits_for_files(self):
        d = self.start()
        self.hang()
        self.assertEqual(d.post("/v1/admin/import", {"dir": self.hung}).status, 202)
        self.until_it_hangs()
        d.process.send_signal(signal.SIGTERM)
        self.ends_while_they_hang()

    def test_files_that_answer_while_it_ends(self):
        """The thread comes back in the middle of what the daemon does at its end."""
        d = self.start()
        for ms in (0, 1, 3, 10, 30, 100, 300, 500, 510, 520):
            self.hang()
            if os.path.exists(self.switch + ".waits"):
                os.remove(self.switch + ".waits")
            one, first = self.ask(name="hung", model=self.hung)
            self.until_it_hangs()
            d.process.send_signal(signal.SIGTERM)
            time.sleep(ms / 1000)
            self.go_on()
            self.assertEqual(d.wait_dead(60), 0, d.console())
            one.join(60)
            self.assertEqual(first[0].status, 503, first)
            self.assertNotIn("Sanitizer", d.console())
            self.start_hanging()
            self.assertEqual(d.get("/v1/jobs").json["jobs"], [])

    def test_what_is_read_while_a_commit_takes_long_is_bounded(self):
        d = self.start(DHA_FAULTIO_SYNC="1")
        tree = b'{"x":[' + b"[]," * 340000 + b"[]]}"  # some 30 MB, once it is read
        good = json.dumps({"spec": d.spec()}).encode()
        open_ = []
        for body in [tree, good] + [tree] * 40:
            c = socket.socket(socket.AF_UNIX)
            c.settimeout(90)
            c.connect(d.socket)
            self.addCleanup(c.close)
            c.sendall(b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:-1])
            open_.append(c)
        d.get("/livez")
        self.hang()
        for c in open_:
            c.sendall(b"}")
        self.until_it_hangs()
        time.sleep(3)
        with open(f"/proc/{d.process.pid}/status") as f:
            peak = int(f.read().split("VmHWM:")[1].split()[0]) // 1024
        self.go_on()
        self.assertEqual([c.recv(12)[9:] for c in open_], [b"400", b"201"] + [b"400"] * 40)
        self.assertLess(peak, 400)


class HungUsers(Hanging, flow_access.Case):
    """Files of one of several users."""
    settings = {"group": TEAM}

    def setUp(self):
        super().setUp()
        self.dhad.end()
        self.start_hanging()

    def post(self, uid, **changes):
        return self.call(uid, "POST", "/v1/jobs", {"spec": self.dhad.spec(**changes)}, groups=[TEAM])

    def ask(self, uid, **changes):
        return self.in_thread(lambda: self.post(uid, **changes))

    def others(self, n):
        found = [p.pw_uid for p in pwd.getpwall() if 0 < p.pw_uid < 65534 and p.pw_uid not in (ALICE, BOB)]
        if len(found) < n:
            self.skipTest(f"this host has fewer than {n + 2} users")
        return found[:n]

    def assert_refused(self, answer, text):
        status, doc = answer
        self.assertEqual((status, doc["error"]["code"]), (503, "transient"), doc)
        self.assertRegex(doc["error"]["message"], text)
        self.assertIn("NFS", doc["error"]["hint"])

    def test_only_submissions_of_who_named_them_are_refused(self):
        d = self.dhad
        self.hang()
        users = [ALICE, *self.others(2)]
        hung = [self.ask(u, model=self.hung) for u in users]
        self.until_it_hangs()
        for seed in range(3):
            d.until(lambda: self.post(BOB, seed=seed)[0] == 201)  # never 503 for long
        for u in users:
            self.assert_refused(self.post(u, seed=10), rf"^no submission of uid {u} can be read: .*{self.hung}")
        self.assertEqual(self.post(BOB, seed=4)[0], 201)
        self.assertEqual([got for _, got in hung], [[]] * 3)
        self.go_on()
        for u, (t, got) in zip(users, hung):
            t.join(60)
            self.assertEqual(got[0][0], 201, got)
            d.until(lambda: self.post(u, seed=11)[0] == 201)

    def test_what_one_user_sent_while_files_were_slow_is_read_then(self):
        self.hang()
        slow = [self.ask(ALICE, model=self.hung, seed=i) for i in range(4)]
        self.until_it_hangs()
        self.assertEqual(self.post(BOB)[0], 201)  # in another thread, well before it is given up
        self.go_on()
        for t, got in slow:
            t.join(60)
            self.assertEqual(got[0][0], 201, got)

    def test_where_no_thread_is_to_be_had_all_wait_until_there_is_one(self):
        d = self.dhad
        d.end()
        shutil.rmtree(d.state)
        for path in (d.dir, os.path.dirname(d.socket)):
            os.chown(path, STRANGER, -1)  # for root there is no limit
        command, stranger = d.command(), ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", f"--groups={TEAM}"]
        d.command = lambda: stranger + command
        self.start_hanging()

        def limit(n):
            subprocess.run([*stranger, "prlimit", f"--pid={d.process.pid}", f"--nproc={n}:"], check=True)
        before = resource.getrlimit(resource.RLIMIT_NPROC)[0]  # the daemon's, too
        limit(1)
        self.hang()
        one, first = self.ask(ALICE, model=self.hung)
        self.until_it_hangs()
        self.assert_refused(self.post(BOB), rf"^no submission can be read: .* uid {ALICE} .*{self.hung}")
        self.assertEqual(d.get("/livez").status, 200)
        limit("unlimited" if before == resource.RLIM_INFINITY else before)
        d.until(lambda: self.post(BOB)[0] == 201)
        self.assertEqual(first, [])
        self.go_on()
        one.join(60)
        self.assertEqual(first[0][0], 201, first)

    def test_so_many_threads_wait_at_most(self):
        d = self.dhad
        users = self.others(8)
        hung = [f"{self.hung}{i}" for i in range(4)]
        for path in hung:
            shutil.copytree(d.model, path)
        self.hang()
        # what the daemon itself waits for: four threads a user, which makes 32
        for t, got in [self.in_thread(lambda u=u: self.calls(u, [
                ("POST", "/v1/sweeps", {"spec": d.spec("sweep", model=path), "budgets": [0.5], "methods": ["gqa"]}) for path in hung + hung],
                groups=[TEAM])) for u in users]:
            t.join(90)
            self.assertEqual({status for status, _ in got[0]}, {503}, got)
        threads = len(os.listdir(f"/proc/{d.process.pid}/task"))
        self.assertEqual(self.post(BOB)[0], 201)
        one, first = self.ask(ALICE, model=self.hung)
        d.until(lambda: self.post(BOB, seed=2)[0] == 503)
        self.assert_refused(self.post(BOB, seed=2), rf"^no submission can be read: .* uid {ALICE} .*{self.hung}")
        self.assertEqual(len(os.listdir(f"/proc/{d.process.pid}/task")), threads)
        self.go_on()
        one.join(60)
        self.assertEqual(first[0][0], 201, first)
        for u in (ALICE, BOB, *users):
            d.until(lambda: self.post(u, seed=3)[0] == 201)
        d.until(lambda: len(os.listdir(f"/proc/{d.process.pid}/task")) <= threads - 32)


class ClockJumps(unittest.TestCase):
    def daemon(self):
        d = harness.Dhad()
        self.addCleanup(d.clean)
        clock = os.path.join(d.dir, "clock")
        self.env = {"LD_PRELOAD": LIBRARY, "DHA_FAULTIO_CLOCK": clock, "DHA_FAULTIO_BOOT": clock + ".boot",
                    "DHA_FAULTIO_MONOTONIC": clock + ".monotonic"}
        d.start(**self.env)
        self.addCleanup(d.end)
        return d, clock

    def undisturbed(self, d, job):
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * 5)
        self.assertEqual([e["data"] for e in d.events() if e["type"] in ("attempt.state", "attempt.stalled")], [])

    def jump_and_kill_9(self, seconds, *clocks):
        """The next daemon has only the clocks to know how long an attempt has run."""
        d, clock = self.daemon()
        job = d.submit("search.sleep=5", resources={"ranks": 2, "walltime": "30m"})
        d.until_running(job, "search")
        d.kill()
        for name in clocks:
            with open(clock + name, "w") as f:
                f.write(str(seconds))
        d.start(**self.env)
        self.assertEqual(d.stage(job, "search")["state"], "running")
        self.undisturbed(d, job)

    def test_an_hour_ahead_ends_no_walltime_in_the_next_daemon(self):
        self.jump_and_kill_9(3600, "")

    def test_nor_do_three_hours_of_suspend(self):
        self.jump_and_kill_9(3 * 3600, "", ".boot")

    def test_all_of_it_stopped_for_three_hours_is_not_taken_for_frozen(self):
        """A container that was frozen, a virtual machine that was paused: the clocks went on, and nothing could work. (Not the
        one by which the kernel tells how old later stages' shims are: that cannot be moved.)"""
        d, clock = self.daemon()
        job = d.submit("search.sleep=5", resources={"ranks": 2, "walltime": "30m"})
        d.until_running(job, "search")
        pids = [d.process.pid, *d.of_attempt(job, "search")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for name in ("", ".monotonic"):
            with open(clock + name, "w") as f:
                f.write(str(3 * 3600))
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
        self.undisturbed(d, job)
        self.assertIn("the daemon was stopped for 108", d.console())

    def test_the_daemon_alone_stopped_gives_no_more_walltime(self):
        d, clock = self.daemon()
        job = d.submit("search.sleep=60", resources={"ranks": 2, "walltime": "4s"})
        d.until_running(job, "search")
        d.process.send_signal(signal.SIGSTOP)
        time.sleep(9)
        d.process.send_signal(signal.SIGCONT)
        begin = time.time()
        j = d.until_state(job, *harness.FINAL)
        self.assertIn("longer than its walltime of 4 s", j["error"]["message"])
        self.assertLess(time.time() - begin, 5, "it worked meanwhile: not 9 s more")

    def jump(self, hours):
        d, clock = self.daemon()
        job = d.submit("search.sleep=3", resources={"ranks": 2, "walltime": "30m"})
        d.until_running(job, "search")
        with open(clock, "w") as f:
            f.write(str(3600 * hours))
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * 5)
        told = [e["data"] for e in d.events() if e["type"] == "attempt.state"]
        self.assertEqual(told, [], "nobody was told to stop")
        d.kill()
        d.start()
        self.assertEqual(d.job(job)["state"], "done")

    def test_an_hour_ahead_ends_no_walltime(self):
        self.jump(1)

    def test_an_hour_back_stops_nothing(self):
        self.jump(-1)

    def test_an_hour_back_makes_no_back_off_an_hour_long(self):
        d, clock = self.daemon()
        job = d.submit("search.exit=9:3")
        # after the third attempt it waits for 4 s, which leaves time for this:
        d.until(lambda: (s := d.stage(job, "search"))["attempts"] == 3 and s["state"] == "ready")
        with open(clock, "w") as f:
            f.write("-3600")
        self.assertEqual(d.until_state(job, *harness.FINAL, seconds=15)["state"], "done")
        self.assertEqual(d.stage(job, "search")["attempts"], 4)


class NoDescriptors(harness.Case):
    def limit(self, n):
        hard = resource.prlimit(self.dhad.process.pid, resource.RLIMIT_NOFILE)[1]
        resource.prlimit(self.dhad.process.pid, resource.RLIMIT_NOFILE, (n, hard))
        return hard

    def leave(self, n):
        """So many descriptors are free from now on; returns the limit that there was."""
        used = {int(f) for f in os.listdir(f"/proc/{self.dhad.process.pid}/fd")}
        return self.limit(sorted(set(range(1000)) - used)[n])

    def over(self, job):
        d = self.dhad
        return os.path.exists(os.path.join(d.stage_dir(job, "search"), "a1", "exit.json"))

    def stage_ends(self, free):
        d = self.dhad
        job = d.submit("search.sleep=1")
        d.until_running(job, "search")
        hard = self.leave(free)
        d.until(lambda: self.over(job))
        time.sleep(3)
        self.limit(hard)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([len(d.launches(job, s["kind"])) for s in j["stages"]], [1] * 5)
        self.assertEqual([e for e in d.events() if e["type"] in ("lost_found", "stage.damaged")], [])

    def test_a_stage_that_ends_without_a_descriptor_left_ends_well(self):
        self.stage_ends(0)

    def test_a_stage_that_ends_with_one_descriptor_left_ends_well(self):
        self.stage_ends(1)

    def shim_dies(self, free):
        """Nobody can look at /proc then: the slots must not be given away while the worker lives."""
        d = self.dhad
        job = d.submit("search.sleep=30 search.litter=1")
        d.until_running(job, "search")
        alive = [p for p in d.of_attempt(job, "search") if p != d.shim(job, "search")]
        hard = self.leave(free)
        os.kill(d.shim(job, "search"), 9)
        time.sleep(3)
        left = [p for p in alive if p in d.of_attempt(job, "search")]
        self.limit(hard)
        s = d.stage(job, "search")
        if left:
            self.assertEqual((s["state"], s["attempts"]), ("running", 1), "not over while something lives")
        d.until(lambda: d.stage(job, "search")["attempts"] == 2)
        self.assertEqual([p for p in alive if p in d.of_attempt(job, "search")], [])

    def test_what_a_dead_shim_left_is_not_taken_for_gone_without_a_descriptor(self):
        self.shim_dies(0)

    def test_what_a_dead_shim_left_is_not_taken_for_gone_with_one_descriptor(self):
        self.shim_dies(1)

    def test_clients_are_served_again(self):
        d = self.dhad
        hard = self.limit(3)
        for _ in range(3):
            c = harness.UnixConnection(d.socket)
            self.addCleanup(c.close)
            c.timeout = 1
            with self.assertRaises(OSError):
                c.request("GET", "/livez")
                c.getresponse()
        self.limit(hard)
        d.until(lambda: d.get("/livez").status == 200)


if __name__ == "__main__":
    harness.main()
