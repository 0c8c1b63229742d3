"""kill -9 of the daemon, of the shim and of the launcher, and damaged files: what runs goes on, what was
promised is kept, nothing starts twice."""
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness


# migration 4 of store/schema.c, undone
BEFORE_4 = """
ALTER TABLE node DROP COLUMN address; ALTER TABLE node DROP COLUMN gone; ALTER TABLE slot DROP COLUMN uuid;
ALTER TABLE slot DROP COLUMN cores; ALTER TABLE slot DROP COLUMN memory; ALTER TABLE job DROP COLUMN nodes;
ALTER TABLE job DROP COLUMN slot_memory; ALTER TABLE job DROP COLUMN node_names;
ALTER TABLE attempt DROP COLUMN unreachable_us; DROP TABLE token; PRAGMA user_version = 3;
"""


class DaemonKilled(harness.Case):
    def test_adopts_a_running_attempt_after_kill_9(self):
        d = self.dhad
        job = d.submit("train.sleep=3")
        d.until_running(job, "train")
        shim = d.shim(job, "train")
        d.kill()
        time.sleep(0.5)
        alive = d.of_attempt(job, "train")
        self.assertIn(shim, alive, "the attempt goes on without a daemon")
        begin = time.time()
        d.start()
        before = d.stage(job, "train")["progress"]["step"]
        d.until(lambda: d.stage(job, "train")["progress"]["step"] > before, seconds=5)
        self.assertLess(time.time() - begin, 5, "adopted within 5 s")
        self.assertEqual(d.shim(job, "train"), shim, "the same shim")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done")
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 1, 1, 1, 1])
        self.assertEqual(len(d.launches(job, "train")), 1)
        points = d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss").json["points"]
        self.assertEqual([p["step"] for p in points], list(range(1, 61)),
                         "every record once, also those written while no daemon was there")

    def test_an_upgrade_with_a_stage_running_stops_nothing(self):
        """The state directory is made what the version before would have left; this one migrates it and adopts."""
        d = self.dhad
        job = d.submit("search.sleep=3")
        d.until_running(job, "search")
        d.kill()
        for name, undo in (("state.db", BEFORE_4), ("metrics.db", "PRAGMA user_version = 3;")):
            db = sqlite3.connect(os.path.join(d.state, name))
            db.executescript(undo)
            db.close()
        self.assertTrue(d.of_attempt(job, "search"))
        d.start()
        d.until_state(job, "done")
        self.assertEqual(len(d.launches(job, "search")), 1)
        self.assertEqual(d.stage(job, "search")["attempt"], 1)
        self.assertTrue(any(n.startswith("state-v3-") for n in os.listdir(os.path.join(d.state, "backup"))))

    def test_finishes_an_attempt_that_ended_while_it_was_away(self):
        d = self.dhad
        job = d.submit("search.sleep=1")
        d.until_running(job, "search")
        d.kill()
        d.until(lambda: os.path.exists(os.path.join(d.stage_dir(job, "search"), "a1", "exit.json")))
        d.start()
        j = d.until_state(job, "done")
        self.assertEqual(len(d.launches(job, "search")), 1)
        self.assertEqual(j["stages"][0]["attempts"], 1)

    def test_survives_being_killed_over_and_over(self):
        d = self.dhad
        job = d.submit("sleep=1")
        for _ in range(12):
            time.sleep(0.3)
            d.kill()
            d.start()
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual(j["state"], "done", j)
        for s in j["stages"]:
            self.assertEqual((s["attempts"], len(d.launches(job, s["kind"]))), (1, 1), s)
        seqs = [int(e["seq"]) for e in d.events()]
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))

    def test_every_acknowledged_job_is_there_after_kill_9(self):
        d = self.dhad
        acknowledged = []
        d.submit("sleep=60 first", resources={"ranks": 4})
        try:
            end = time.time() + 1.0
            while time.time() < end:
                acknowledged.append(d.submit(f"j{len(acknowledged)}", seed=len(acknowledged)))
                if len(acknowledged) == 40:
                    os.kill(d.process.pid, signal.SIGKILL)
        except OSError:
            pass
        d.process.wait()
        self.assertGreaterEqual(len(acknowledged), 40)
        d.start()
        there = {j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertLessEqual(set(acknowledged), there)

    def test_a_cancel_outlives_the_daemon_that_heard_it(self):
        d = self.dhad
        job = d.submit("search.sleep=90 search.deaf=1")
        d.until_running(job, "search")
        d.post(f"/v1/jobs/{job}/cancel", {"reason": "enough", "now": True})
        d.kill()
        d.start()
        j = d.until_state(job, "cancelled", seconds=15)
        self.assertEqual(j["cancel_reason"], "enough")
        self.assertEqual(d.stray(), [])


class ShimKilled(harness.Case):
    def test_what_a_dead_shim_leaves_is_swept_and_tried_again(self):
        d = self.dhad
        job = d.submit("train.sleep=3 train.litter=1")
        d.until_running(job, "train")
        before = d.of_attempt(job, "train")
        with open(os.path.join(d.stage_dir(job, "train"), "a1", "shim.json")) as f:
            tmp = json.load(f)["tmp"]
        self.assertTrue(os.path.isdir(tmp))
        os.kill(d.shim(job, "train"), signal.SIGKILL)
        d.until(lambda: d.stage(job, "train")["attempts"] == 2)
        self.assertEqual([p for p in before if p in d.of_attempt(job, "train")], [])
        self.assertFalse(os.path.exists(tmp), "its temporary directory, too")
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][2]["attempts"], 2)
        ends = [e["data"] for e in d.events() if e["type"] == "attempt.end"]
        self.assertIn("lost", str(ends))

    def test_shim_and_daemon_killed_together(self):
        d = self.dhad
        job = d.submit("train.sleep=3")
        d.until_running(job, "train")
        d.kill()
        os.kill(d.shim(job, "train"), signal.SIGKILL)
        d.start()
        d.until(lambda: d.stage(job, "train")["attempts"] == 2)
        self.assertEqual(d.of_attempt(job, "train", 1), [])
        d.until_state(job, "done")

    def test_a_killed_launcher_is_lost_and_tried_again(self):
        d = self.dhad
        job = d.submit("train.sleep=2")
        d.until_running(job, "train")
        shim = d.shim(job, "train")
        for pid in d.of_attempt(job, "train"):
            if pid != shim:
                os.kill(pid, signal.SIGKILL)
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][2]["attempts"], 2)


class Damage(harness.Case):
    def end_while_away(self, name="search.sleep=1"):
        """A job whose search attempt ended while no daemon ran; returns job and attempt directory."""
        d = self.dhad
        job = d.submit(name)
        d.until_running(job, "search")
        d.kill()
        adir = os.path.join(d.stage_dir(job, "search"), "a1")
        d.until(lambda: os.path.exists(os.path.join(adir, "exit.json")))
        return job, adir

    def test_a_damaged_exit_json_is_set_aside_and_the_worker_believed(self):
        d = self.dhad
        job, adir = self.end_while_away()
        with open(os.path.join(adir, "exit.json"), "w") as f:
            f.write("{\"exited\":")
        d.start()
        d.until_state(job, "done")
        self.assertIn("dha_lost_found_total 1\n", d.get("/metrics").raw.decode())

    def test_without_any_word_the_attempt_is_lost_and_tried_again(self):
        d = self.dhad
        job, adir = self.end_while_away()
        with open(os.path.join(adir, "exit.json"), "wb") as f:
            f.write(b"\0" * 50)
        os.remove(os.path.join(adir, "status.json"))
        d.start()
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][0]["attempts"], 2)

    def test_a_torn_journal_line_costs_that_line_only(self):
        d = self.dhad
        job, adir = self.end_while_away()
        with open(os.path.join(adir, "journal.ndjson"), "ab") as f:
            f.write(b"{\"t\":\"progress\",\"time\":1,\"st")
        d.start()
        d.until_state(job, "done")
        points = d.get(f"/v1/jobs/{job}/metrics?stage=search&name=loss").json["points"]
        self.assertEqual([p["step"] for p in points], list(range(1, 21)))

    def test_garbage_in_the_middle_of_a_journal_costs_that_line_only(self):
        d = self.dhad
        job, adir = self.end_while_away()
        path = os.path.join(adir, "journal.ndjson")
        with open(path, "rb") as f:
            lines = f.read().split(b"\n")
        # behind what the dead daemon can have read, whatever that was: the last lines
        lines.insert(len(lines) - 2, bytes(range(256)).replace(b"\n", b"") * 8)
        with open(path, "wb") as f:
            f.write(b"\n".join(lines))
        d.start()
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][0]["attempts"], 1)

    def test_lines_that_are_there_twice_count_once(self):
        d = self.dhad
        job, adir = self.end_while_away()
        path = os.path.join(adir, "journal.ndjson")
        with open(path, "rb") as f:
            lines = f.read().splitlines(keepends=True)
        with open(path, "ab") as f:
            f.write(b"".join(lines[-6:-1]) + lines[-1])
        d.start()
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][0]["attempts"], 1)
        points = d.get(f"/v1/jobs/{job}/metrics?stage=search&name=loss").json["points"]
        self.assertEqual([p["step"] for p in points], list(range(1, 21)))

    def test_a_damaged_shim_json_of_a_live_attempt_does_not_start_it_again(self):
        d = self.dhad
        job = d.submit("search.sleep=2")
        d.until_running(job, "search")
        d.kill()
        with open(os.path.join(d.stage_dir(job, "search"), "a1", "shim.json"), "w") as f:
            f.write("{}")
        d.start()
        d.until_state(job, "done")
        self.assertEqual(len(d.launches(job, "search")), 1)

    def test_a_journal_that_vanished_fails_nothing(self):
        d = self.dhad
        job, adir = self.end_while_away()
        os.remove(os.path.join(adir, "journal.ndjson"))
        d.start()
        d.until_state(job, "done")


class DiskFull(unittest.TestCase):
    """The state directory on a file system of its own, which is filled up."""

    def setUp(self):
        self.dhad = d = harness.Dhad()
        self.addCleanup(d.clean)
        mount = os.path.join(d.dir, "mnt")
        os.mkdir(mount)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", mount],
                          capture_output=True).returncode != 0:
            self.skipTest("may not mount a tmpfs")
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        d.state = os.path.join(mount, "state")
        self.ballast = os.path.join(mount, "ballast")
        d.start()
        self.addCleanup(d.end)

    def fill(self):
        with open(self.ballast, "wb", buffering=0) as f:
            try:
                while f.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def test_a_submission_is_refused_and_taken_again_when_there_is_room(self):
        d = self.dhad
        first = d.submit("sleep=60")
        d.until_running(first, "search")
        self.fill()
        taken, refused = [], None
        for i in range(200):  # the log of the database has some room of its own
            r = d.post("/v1/jobs", {"spec": d.spec(f"j{i}", seed=i + 2)})
            if r.status != 201:
                refused = r
                break
            taken.append(r.json["job"]["id"])
        self.assertIsNotNone(refused, "the disk is full")
        self.assertEqual((refused.status, refused.json["error"]["code"]), (507, "no_space"))
        os.remove(self.ballast)
        after = d.until(lambda: (r := d.post("/v1/jobs", {"spec": d.spec("after", seed=999)})
                                 ).status == 201 and r.json["job"]["id"])
        there = {j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertEqual(there, {first, after, *taken}, "no more and no less than was promised")
        self.assertEqual(d.stage(first, "search")["attempts"], 1)
        self.assertEqual(len(d.launches(first, "search")), 1, "what ran was left alone")
        d.kill()
        d.start()
        there = {j["id"] for j in d.get("/v1/jobs?limit=1000").json["jobs"]}
        self.assertEqual(there, {first, after, *taken})

    def test_a_stage_that_ends_on_a_full_disk_is_not_lost(self):
        d = self.dhad
        job = d.submit("search.sleep=1.5")
        d.until_running(job, "search")
        self.fill()
        x = d.until(lambda: (x := d.get(f"/v1/jobs/{job}/explain").json)["reason"].startswith(
            "the state disk is full: ") and x)
        self.assertIn(f"bytes free in {d.state}; free space", x["reason"])
        for there in (d.get("/v1/version"), d.get("/v1/jobs")):
            self.assertIn("the state disk is full", there.json["trouble"])
        self.assertIn("the state disk is full", d.job(job)["trouble"])
        time.sleep(4)
        self.assertEqual(d.get("/livez").status, 200)
        os.remove(self.ballast)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertIsNone(d.get("/v1/version").json["trouble"])


class StateDirectory(harness.Case):
    def refused(self, *args, socket=None):
        d = self.dhad
        cmd = d.command()
        if socket:
            cmd[cmd.index("--socket") + 1] = socket
        return subprocess.run([*cmd, *args], capture_output=True, text=True, timeout=20)

    def test_a_second_daemon_is_refused(self):
        d = self.dhad
        r = self.refused(socket=os.path.join(d.dir, "other"))
        self.assertEqual(r.returncode, 67, r.stderr)
        self.assertIn(str(d.process.pid), r.stderr)
        self.assertEqual(d.get("/livez").status, 200, "the first one is not disturbed")

    def test_a_socket_that_somebody_listens_on_is_not_taken(self):
        d = self.dhad
        other = harness.Dhad()
        self.addCleanup(other.clean)
        other.socket = d.socket
        r = subprocess.run(other.command(), capture_output=True, text=True, timeout=20)
        self.assertEqual(r.returncode, 67, r.stderr)
        self.assertEqual(d.get("/livez").status, 200)
        self.assertTrue(os.path.exists(d.socket))

    def test_a_dead_daemons_socket_is_replaced_but_no_other_file(self):
        d = self.dhad
        d.kill()
        self.assertTrue(os.path.exists(d.socket), "kill -9 leaves it")
        d.start()
        d.stop()
        self.assertFalse(os.path.exists(d.socket), "SIGTERM does not")
        with open(d.socket, "w") as f:
            f.write("mine")
        r = self.refused()
        self.assertEqual(r.returncode, 67, r.stderr)
        with open(d.socket) as f:
            self.assertEqual(f.read(), "mine")

    def test_a_socket_path_that_is_too_long_is_refused(self):
        self.dhad.stop()
        r = self.refused(socket=os.path.join(self.dhad.dir, "x" * 120))
        self.assertEqual(r.returncode, 2, r.stderr)
        self.assertIn("107", r.stderr)

    def test_a_newer_state_directory_is_refused_and_not_touched(self):
        d = self.dhad
        d.stop()
        path = os.path.join(d.state, "state.db")
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 999")
        db.commit()
        db.close()
        with open(path, "rb") as f:
            before = f.read()
        r = self.refused()
        self.assertEqual(r.returncode, 72, r.stderr)
        with open(path, "rb") as f:
            self.assertEqual(f.read(), before)

    def half_made(self, when):
        """For some seconds an attempt's row can be made, but not all that belongs to it: then there is none."""
        d = self.dhad
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        until = int(time.time()) + 4
        db.execute(f"CREATE TRIGGER half_made BEFORE UPDATE OF {when} WHEN CAST(strftime('%s', 'now') AS INTEGER)"
                   f" < {until} BEGIN SELECT RAISE(ABORT, 'told to fail'); END")
        db.commit()
        db.close()
        d.start()
        job = d.submit()
        d.until(lambda: "told to fail" in d.console())
        self.assertLess(time.time(), until)
        self.assertEqual((d.job(job)["state"], d.stage(job, "search")["state"]), ("queued", "ready"))
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual({s["attempt"] for s in node["slots"]}, {None}, "nobody holds slots for what is not there")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", "tried again by itself")
        self.assertEqual([(s["attempts"], len(d.launches(job, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)

    def test_an_attempt_whose_directory_cannot_be_recorded_leaves_no_row(self):
        self.half_made("dir ON attempt")

    def test_an_attempt_whose_job_cannot_be_moved_leaves_no_row(self):
        self.half_made("state ON job")

    def test_detach_returns_when_the_socket_answers_and_says_why_it_cannot(self):
        d = self.dhad
        r = self.refused("--detach", socket=os.path.join(d.dir, "other"))
        self.assertEqual(r.returncode, 67, r.stderr)
        self.assertIn("in use by process", r.stderr)
        d.stop()
        key, value = d.tag.split("=")
        r = subprocess.run([*d.command(), "--detach"], capture_output=True, text=True, timeout=20,
                           env={**os.environ, key: value})
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(d.get("/livez").status, 200, "at once, without waiting")
        self.assertEqual(oct(os.stat(d.socket).st_mode & 0o777), "0o600")
        self.assertEqual(oct(os.stat(d.state).st_mode & 0o777), "0o700")
        d.post("/v1/shutdown")
        d.until(lambda: not os.path.exists(d.socket))


if __name__ == "__main__":
    harness.main()
