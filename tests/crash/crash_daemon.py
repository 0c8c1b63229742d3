"""kill -9 of the daemon, of the shim and of the launcher, and damaged files: what runs goes on, what was
promised is kept, nothing starts twice."""
import contextlib
import glob
import json
import os
import shutil
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
    options = "size=8m"

    def setUp(self):
        self.dhad = d = harness.Dhad()
        self.addCleanup(d.clean)
        mount = os.path.join(d.dir, "mnt")
        os.mkdir(mount)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", self.options, "none", mount],
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


    def test_a_queue_waits_for_room_and_loses_no_job(self):
        self.fill()
        os.truncate(self.ballast, os.stat(self.ballast).st_size - 128 * 1024)
        self.waits_for_room("bytes free in ")

    def waits_for_room(self, said):
        """What is submitted is taken, as the database has room. Started it would fail, again and again."""
        d = self.dhad
        r = d.post("/v1/jobs", {"spec": d.spec("search.sleep=0.2")})
        self.assertEqual(r.status, 201, r)
        job = r.json["job"]["id"]
        time.sleep(10)  # for as long as three attempts and what lies between them took
        x = d.get(f"/v1/jobs/{job}/explain").json
        self.assertIn("the state disk is full: ", x["reason"])
        self.assertIn(said, x["reason"])
        self.assertIn("dha admin prune", x["unblock"])
        self.assertEqual(d.get("/readyz").status, 503)
        self.assertIn(said, d.get("/v1/version").json["trouble"])
        self.assertEqual((d.job(job)["state"], d.stage(job, "search")["attempts"]), ("queued", 0))
        self.empty()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], [s["attempts"] for s in j["stages"]]), ("done", [1] * 5), j)
        self.assertEqual(d.get("/readyz").status, 200)
        self.assertIsNone(d.get("/v1/version").json["trouble"])
        log = harness.read(os.path.join(d.state, "dhad.log"))
        self.assertEqual((log.count("nothing is started: the state disk is full"), log.count("has room again")), (1, 1))

    def empty(self):
        os.remove(self.ballast)


class NoInodes(DiskFull):
    """The same where there are bytes, but no file more."""
    options = "size=64m,nr_inodes=400"

    def fill(self):
        os.mkdir(self.ballast)
        for i in range(400):
            try:
                open(os.path.join(self.ballast, str(i)), "x").close()
            except OSError:
                return
        self.fail("there are files without end")

    def empty(self):
        shutil.rmtree(self.ballast)

    def test_a_queue_waits_for_room_and_loses_no_job(self):
        self.fill()
        self.waits_for_room("it has room for 0 more files (inodes) in ")

    def test_a_submission_is_refused_and_taken_again_when_there_is_room(self):
        self.skipTest("a database that is open needs no file more")

    def test_a_stage_that_ends_on_a_full_disk_is_not_lost(self):
        """It cannot say how it ended; a retry that could not start either is not counted."""
        d = self.dhad
        job = d.submit("search.sleep=1.5")
        d.until_running(job, "search")
        self.fill()
        d.until(lambda: not d.of_attempt(job, "search"))
        time.sleep(10)
        self.assertEqual(d.job(job)["state"], "running")
        self.empty()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertLessEqual(next(s["attempts"] for s in j["stages"]), 2)


class DirectoryTakenAway(harness.Case):
    """The directory of an attempt that runs is gone, or closed, when the next daemon starts: what runs is found by its
    tag and by what the store has of its shim, ended, and only then does its stage go on with another attempt."""

    def running(self, name="train.sleep=8"):
        """A job that trains, no daemon, the tag of its attempt and its processes."""
        d = self.dhad
        job = d.submit(name)
        d.until_running(job, "train")
        with open(os.path.join(d.stage_dir(job, "train"), "a1", "spec.json")) as f:
            tag = "DHA_ATTEMPT=" + json.load(f)["uuid"]
        d.kill()
        pids = harness.processes_with(tag)
        self.assertGreaterEqual(len(pids), 2, "shim and worker")
        return job, tag, pids

    def parent(self, pid):
        try:
            with open(f"/proc/{pid}/stat") as f:
                return int(f.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            return 0

    def watch_end(self, job, tag, before):
        """Until attempt 1 is over: while something of it is there, nothing else is, and its slots are held."""
        d = self.dhad

        def over():
            # what one of them forks is none of another gang: a sanitizer looks for leaks that way
            here = [p for p in harness.processes_with(tag) if self.parent(p) not in before]
            self.assertLessEqual(set(here), set(before), "a second gang of one attempt")
            node, = d.get("/v1/nodes").json["nodes"]
            holders = {x["attempt"] for x in node["slots"]} - {None}
            s = d.stage(job, "train")  # after its slots were looked at: if it runs on, it ran on then
            if s["attempts"] == 1 and s["state"] == "running":
                self.assertTrue(holders)
                return False
            return True
        d.until(over, 60)
        self.assertEqual(harness.processes_with(tag), [])

    def assert_lost_and_done(self, job, said="the attempt ran, and "):
        d = self.dhad
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual(j["state"], "done", j)
        end = next(e["data"] for e in d.events() if e["type"] == "attempt.end" and "lost" in str(e["data"]))
        self.assertEqual(end["code"], "lost", "of the infrastructure, not the user's mistake")
        self.assertIn(said, end["message"])
        self.assertEqual({n["state"] for n in d.get("/v1/nodes").json["nodes"]}, {"up"})
        return j

    def start_and_watch(self, job, tag, before):
        self.dhad.start()
        self.watch_end(job, tag, before)
        return self.assert_lost_and_done(job)

    def test_a_removed_directory_is_not_started_twice(self):
        d = self.dhad
        job, tag, before = self.running()
        shutil.rmtree(os.path.join(d.stage_dir(job, "train"), "a1"))
        j = self.start_and_watch(job, tag, before)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 1, 2, 1, 1])
        # one start each: they say so in the file of their stage, which both share
        self.assertEqual(len(d.launches(job, "train")), 2)

    def test_nor_is_one_whose_worker_alone_is_left(self):
        d = self.dhad
        job, tag, before = self.running("train.sleep=60:1 train.litter=1")
        os.kill(d.shim(job, "train"), signal.SIGKILL)
        shutil.rmtree(os.path.join(d.stage_dir(job, "train"), "a1"))
        self.start_and_watch(job, tag, before)

    def test_a_removed_directory_of_the_whole_job_is_made_again(self):
        d = self.dhad
        job, tag, before = self.running()
        os.mkdir(os.path.join(d.state, "jobs", "other"))
        shutil.rmtree(os.path.join(d.state, "jobs", job))
        self.start_and_watch(job, tag, before)

    def test_one_that_the_store_knows_no_shim_of_is_found_by_its_tag(self):
        d = self.dhad
        job, tag, before = self.running()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        db.execute("UPDATE attempt SET pid = NULL, pid_start = NULL, boot_id = NULL, hello_us = NULL WHERE ended_us IS NULL")
        db.commit()
        db.close()
        shutil.rmtree(os.path.join(d.stage_dir(job, "train"), "a1"))
        self.start_and_watch(job, tag, before)

    def test_a_cancel_frees_no_slot_before_it_is_gone(self):
        d = self.dhad
        job, tag, before = self.running("train.sleep=60 train.deaf=1")
        d.start()
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.kill()
        shutil.rmtree(os.path.join(d.stage_dir(job, "train"), "a1"))
        d.start()
        self.watch_end(job, tag, before)
        d.until_state(job, "cancelled")

    def watched(self, name):
        d = self.dhad
        job, tag, before = self.running(name)
        d.start()
        step = d.stage(job, "train")["progress"]["step"]
        d.until(lambda: d.stage(job, "train")["progress"]["step"] > step)
        return job, tag, before

    def removed_while_watched(self, what, name="train.sleep=60:1"):
        """It is said at once, ended by the ladder, and its stage goes on with a second attempt."""
        d = self.dhad
        job, tag, before = self.watched(name)
        shutil.rmtree(os.path.join(d.state, what.format(job=job)))
        data, = d.until(lambda: [e["data"] for e in d.events() if e["type"] == "attempt.gone"])
        self.assertEqual(data["dir"], os.path.join(d.stage_dir(job, "train"), "a1"))
        if "deaf" in name:
            self.assertIn("told to checkpoint and stop, because its files were removed; killed in ",
                          d.get(f"/v1/jobs/{job}/explain").json["reason"])
        self.watch_end(job, tag, before)
        j = self.assert_lost_and_done(job, "/train/a1 was removed while the attempt ran")
        self.assertEqual(next(s for s in j["stages"] if s["kind"] == "train")["attempts"], 2)
        with contextlib.closing(sqlite3.connect(f"file:{d.state}/state.db?mode=ro", uri=True)) as db:
            self.assertEqual(db.execute("SELECT retries FROM stage WHERE kind = 'train'").fetchall(), [(1,)], "it counts")

    def test_removed_while_the_daemon_watches_it_is_ended_and_goes_on_from_its_checkpoint(self):
        self.removed_while_watched("jobs/{job}/train/a1")

    def test_so_is_a_deaf_one(self):
        self.removed_while_watched("jobs/{job}/train/a1", "train.sleep=60:1 train.deaf=1:1 train.litter=1:1")

    def test_so_is_one_of_a_job_that_was_removed_whole(self):
        self.removed_while_watched("jobs/{job}")

    def test_a_cancel_meanwhile_is_a_cancel(self):
        d = self.dhad
        job, tag, before = self.watched("train.sleep=60 train.deaf=1")
        shutil.rmtree(os.path.join(d.stage_dir(job, "train"), "a1"))
        d.until(lambda: [e for e in d.events() if e["type"] == "attempt.gone"])
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        self.watch_end(job, tag, before)
        d.until_state(job, "cancelled")

    def test_jobs_that_are_unmounted_while_it_watches_are_waited_for(self):
        """Another directory is where STATE/jobs was: what runs is let be, and nothing is started into it."""
        d = self.dhad
        job, tag, before = self.watched("train.sleep=4")
        jobs, aside = os.path.join(d.state, "jobs"), os.path.join(d.dir, "jobs-aside")
        os.rename(jobs, aside)
        os.mkdir(jobs)
        d.until(lambda: "is it mounted?" in str(d.get("/v1/version").json["trouble"]))
        self.assertEqual(d.get("/readyz").status, 503)
        self.assertIn("is it mounted?", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        other = d.submit("other", seed=2)
        self.assertEqual(d.post(f"/v1/jobs/{job}/cancel", {"now": True}).status, 503)
        time.sleep(1.5)
        self.assertEqual((os.listdir(jobs), d.job(other)["state"]), ([], "queued"))
        os.rmdir(jobs)
        os.rename(aside, jobs)
        d.wait_ready()
        for n in (job, other):
            j = d.until_state(n, *harness.FINAL, seconds=60)
            self.assertEqual(j["state"], "done", j)
            self.assertEqual([(s["attempts"], len(d.launches(n, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)
        self.assertEqual([e for e in d.events() if e["type"] == "attempt.gone"], [])

    def away(self, empty):
        d = self.dhad
        job, tag, before = self.running("train.sleep=4")
        jobs, aside = os.path.join(d.state, "jobs"), os.path.join(d.dir, "jobs-aside")
        os.rename(jobs, aside)
        if empty:
            os.mkdir(jobs)
        d.start(wait=False)
        r = d.until(lambda: (r := d.get("/readyz")).status == 503 and r)
        self.assertIn(f"{d.state}/jobs is empty while stages run: is it mounted?", r.raw.decode())
        self.assertIn("is it mounted?", d.get("/v1/version").json["trouble"])
        self.assertIn("is it mounted?", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        for path, body in (("fsck", {}), ("prune", {"keep_last": 1}), ("chores/1/apply", {})):
            r = d.post("/v1/admin/" + path, body)
            self.assertEqual((r.status, "is it mounted?" in r.raw.decode()), (503, True), r)
        other = d.submit("other", seed=2)
        time.sleep(1.5)
        self.assertEqual(os.listdir(jobs), [], "nothing is started there")
        self.assertEqual((d.job(other)["state"], d.stage(job, "train")["attempts"]), ("queued", 1))
        self.assertLessEqual(set(harness.processes_with(tag)), set(before))
        return job, other, jobs, aside, tag, before

    def back(self, empty):
        d = self.dhad
        job, other, jobs, aside, _, _ = self.away(empty)
        os.rmdir(jobs)
        os.rename(aside, jobs)
        d.wait_ready()
        for n in (job, other):
            j = d.until_state(n, *harness.FINAL, seconds=60)
            self.assertEqual(j["state"], "done", j)
            self.assertEqual([(s["attempts"], len(d.launches(n, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)
        self.assertIsNone(d.get("/v1/version").json["trouble"])

    def test_jobs_that_are_not_mounted_are_waited_for(self):
        self.back(True)

    def test_so_are_jobs_that_are_missing(self):
        self.back(False)

    def test_jobs_that_are_said_to_be_gone_are_lost_and_run_again(self):
        d = self.dhad
        job, other, jobs, aside, tag, before = self.away(True)
        os.mkdir(os.path.join(jobs, "gone"))
        d.wait_ready()
        self.watch_end(job, tag, before)
        self.assert_lost_and_done(job)
        self.assertEqual(d.until_state(other, *harness.FINAL, seconds=60)["state"], "done")


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv")
class DirectoryClosed(unittest.TestCase):
    """chmod 000 of a job's directory while its attempt runs, and kill -9 of the daemon."""

    def test_a_private_daemon_waits_until_it_may_read_again(self):
        import crash_unkillable
        d = crash_unkillable.Dhad()
        self.addCleanup(d.clean)
        d.start()
        self.addCleanup(d.end)
        job = d.submit("train.sleep=8")
        d.until_running(job, "train")
        shim = d.shim(job, "train")
        top = os.path.join(d.state, "jobs", job)
        os.chmod(top, 0)
        d.kill()
        d.start()
        time.sleep(2)
        s = d.stage(job, "train")
        self.assertEqual((s["state"], s["attempts"]), ("running", 1))
        self.assertIn(shim, d.of_attempt(job, "train"))
        os.chmod(top, 0o700)
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([(s["attempts"], len(d.launches(job, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)


@unittest.skipUnless(os.geteuid() == 0, "needs root, to be several users")
class UsersDirectoryClosed(DirectoryTakenAway):
    """The same where the daemon is root's and the job another user's, who closes the directory that is theirs."""

    def setUp(self):
        import flow_access
        self.alice = flow_access.ALICE
        self.base = flow_access.Case("setUp")
        self.base.settings = {"group": flow_access.TEAM}
        self.base.setUp()
        self.addCleanup(self.base.doCleanups)
        self.dhad = self.base.dhad
        self.dhad.submit = lambda name="job", **kw: self.base.submit_as(self.alice, name, **kw)

    def test_a_closed_directory_is_not_started_twice(self):
        d = self.dhad
        job, tag, before = self.running("train.sleep=60:1")
        top = os.path.join(d.state, "jobs", job)
        os.chmod(top, 0)
        self.addCleanup(lambda: os.path.isdir(top) and os.chmod(top, 0o700))
        d.start()
        self.watch_end(job, tag, before)
        os.chmod(top, 0o700)
        self.assert_lost_and_done(job)


class StateDirectory(harness.Case):
    def test_the_longest_path_works_and_a_longer_one_is_told(self):
        d = self.dhad
        d.end()
        top = os.path.join(d.dir, "x" * 255)
        d.state = os.path.join(top, "y" * (440 - len(top) - 1))
        d.start()
        job = d.submit("litter=1")
        self.assertEqual(d.until_state(job, *harness.FINAL)["state"], "done")
        chore = d.post("/v1/admin/backup", {"file": os.path.join(d.dir, "copy.db")}).json["chore"]["id"]
        d.until(lambda: d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"]["state"] == "done")
        d.end()
        for size in (441, 700, 3900):
            d.state = top + ("/" + "z" * 99) * 40
            d.state = d.state[:size].rstrip("/")
            r = self.refused()
            self.assertEqual(r.returncode, 65, (size, r))
            self.assertIn("the path of the state directory has", r.stderr)
            self.assertIn("--state", r.stderr)

    def test_files_with_dates_in_the_future_are_as_good(self):
        d = self.dhad
        job = d.submit("train.sleep=3")
        d.until_running(job, "train")
        d.kill()
        for root, dirs, files in os.walk(d.state):
            for name in dirs + files:
                os.utime(os.path.join(root, name), (4e9, 4e9))
        d.start()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], [s["attempts"] for s in j["stages"]]), ("done", [1] * 5))
        self.assertEqual({s["state"] for s in d.job(d.submit("train.sleep=3"))["stages"]}, {"reused"})
        d.until(lambda: glob.glob(os.path.join(d.state, "backup", "auto-*.db")))

    @unittest.skipUnless(os.geteuid() == 0, "needs root, to mount")
    def test_an_overlay_over_a_state_is_one(self):
        """A container's image with a state in it: locks hold, and what was there goes on."""
        d = self.dhad
        done, job = d.submit("first"), None
        d.until_state(done, *harness.FINAL)
        d.end()
        lower, upper = os.path.join(d.dir, "lower"), os.path.join(d.dir, "upper")
        os.rename(d.state, lower)
        for path in (d.state, upper):
            os.mkdir(path)
        self.addCleanup(subprocess.run, ["umount", "-l", upper], capture_output=True)
        self.addCleanup(subprocess.run, ["umount", "-l", d.state], capture_output=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", upper], check=True)
        for name in ("up", "work"):
            os.mkdir(os.path.join(upper, name))
        r = subprocess.run(["mount", "-t", "overlay", "none", "-o",
                            f"lowerdir={lower},upperdir={upper}/up,workdir={upper}/work", d.state], capture_output=True)
        if r.returncode != 0:
            self.skipTest("there is no overlay here")
        d.start()
        self.assertEqual(self.refused(socket=os.path.join(d.dir, "other")).returncode, 67, "its lock holds")
        job = d.submit("train.sleep=3", seed=2)
        d.until_running(job, "train")
        d.kill()
        d.start()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], [s["attempts"] for s in j["stages"]]), ("done", [1] * 5))
        self.assertEqual({s["state"] for s in d.job(d.submit("first"))["stages"]}, {"reused"})
        d.end()

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
