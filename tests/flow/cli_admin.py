"""dha admin: what is damaged or strange on disk is found, said and, when told to, set right; nothing is deleted."""
import fcntl
import glob
import json
import os
import shutil
import sqlite3
import subprocess
import time

import cli_harness
import harness

FAILED, USAGE, NOT_FOUND, CONFLICT = 1, 2, 66, 67


class AdminCase(cli_harness.Case):
    def done(self, name="job", **changes):
        job = self.dhad.submit(name, **changes)
        self.dhad.until_state(job, "done")
        return job

    def checkpoints(self, job, state="complete"):
        return [c for c in self.dhad.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
                if c["state"] == state]

    def fsck(self, *args, rc=FAILED):
        r = self.dha("admin", "fsck", "--json", *args)
        self.assertEqual(r.rc, rc, r)
        return r.json

    def kinds(self, report):
        return sorted(f["kind"] for f in report["findings"])

    def put(self, path, text="x"):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(text)
        return path

    def state(self, *parts):
        return os.path.join(self.dhad.state, *parts)

    def lost(self, relative):
        return glob.glob(os.path.join(self.dhad.state, "lost+found", "*", relative))

    def events_of(self, kind):
        return [e for e in self.dhad.events() if e["type"] == kind]


class Fsck(AdminCase):
    def test_a_sound_state_is_said_to_be_sound(self):
        job = self.done("a train.ckpts=3 train.sleep=0.3")
        r = self.ok("admin", "fsck", "--deep")
        self.assertIn("all as it should be", r.out)
        self.assertEqual(len(self.checkpoints(job)), 4)  # fuse's and three of train
        seen = self.fsck("--deep", rc=0)["seen"]
        self.assertEqual((seen["jobs"], seen["checkpoints"]), (1, 4))
        self.assertEqual([e["data"]["code"] for e in self.events_of("admin.fsck")], ["ok", "ok"])

    def test_what_nobody_knows_is_moved_to_lost_and_found_and_each_move_is_an_event(self):
        job = self.done()
        strange = {
            "jobs/4711/train/out/model.bin": "jobs/4711",
            f"jobs/{job}/notes.txt": f"jobs/{job}/notes.txt",
            f"jobs/{job}/train/a9/stderr.log": f"jobs/{job}/train/a9",
            f"jobs/{job}/train/out/ckpt/step-77/manifest.json": f"jobs/{job}/train/out/ckpt/step-77",
            f"jobs/{job}/train/out/ckpt/step-88.tmp/shard": f"jobs/{job}/train/out/ckpt/step-88.tmp",
            f"jobs/{job}/train/out/model.tmp/config.json": f"jobs/{job}/train/out/model.tmp",
            "cache/tokens.tmp": "cache/tokens.tmp",
        }
        for path in strange:
            self.put(self.state(path), path)
        report = self.fsck()
        self.assertEqual(sorted(f["path"] for f in report["findings"]),
                         sorted(self.state(p) for p in strange.values()))
        self.assertEqual(self.kinds(report), ["leftover"] * 3 + ["unknown"] * 4)
        # said, but not done
        r = self.dha("admin", "fsck", "--repair", "--dry-run")
        self.assertEqual(r.rc, FAILED)
        self.assertEqual(r.out.count("will move it to lost+found"), len(strange))
        self.assertFalse(os.path.exists(self.state("lost+found")))
        r = self.ok("admin", "fsck", "--repair")
        self.assertIn("7 repaired, 0 left", r.err)
        for path, moved in strange.items():
            self.assertFalse(os.path.exists(self.state(moved)), path)
            (found,) = self.lost(path)
            with open(found) as f:
                self.assertEqual(f.read(), path)
        self.assertEqual(sorted(e["data"]["path"] for e in self.events_of("fsck.repair")),
                         sorted(self.state(p) for p in strange.values()))
        self.ok("admin", "fsck")

    def test_names_of_files_send_the_terminal_nothing(self):
        job = self.done()
        out = os.path.join(self.dhad.stage_dir(job, "search"), "out")
        os.mkdir(os.path.join(out, "x\033]0;pwn\007\nforged\u009b2J.tmp"))
        r = self.dha("admin", "fsck")
        self.assertIn("x\\x1b]0;pwn\\x07\\x0aforged\\x9b2J.tmp", r.out + r.err)
        self.assertNotRegex(r.out + r.err, "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")
        r = self.dha("admin", "fsck", "--json")
        self.assertTrue(any("x\033]0;pwn\007\nforged\u009b2J.tmp" in f["path"] for f in r.json["findings"]), r.out)
        self.assertNotRegex(r.out, "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")

    def test_damaged_checkpoints_are_marked_bad_and_no_worker_goes_on_from_them(self):
        job = self.done("a train.ckpts=3 train.sleep=0.3")
        last, middle, first = [c["path"] for c in self.checkpoints(job)][:0:-1]
        with open(os.path.join(last, "shard-0000.bin"), "r+") as f:
            f.write("S")  # same size: only its digest tells
        os.unlink(os.path.join(middle, "manifest.json"))
        with open(os.path.join(first, "shard-0000.bin"), "a") as f:
            f.write("more")
        messages = " ".join(f["message"] for f in self.fsck()["findings"])
        self.assertIn("has no manifest.json", messages)
        self.assertIn("has 1004 bytes, its manifest says 1000", messages)
        self.assertNotIn("digest", messages)
        report = self.fsck("--deep")
        self.assertEqual(self.kinds(report), ["checkpoint"] * 3)
        self.assertIn("does not have the digest", " ".join(f["message"] for f in report["findings"]))
        self.ok("admin", "fsck", "--deep", "--repair")
        self.assertEqual({c["path"] for c in self.checkpoints(job, "bad")}, {last, middle, first})
        for path in (last, middle, first):
            self.assertTrue(os.path.exists(os.path.join(path, "shard-0000.bin")))  # nothing is deleted
            self.assertFalse(os.path.exists(os.path.join(path, "manifest.json")))
        self.ok("admin", "fsck", "--deep")

    def test_a_manifest_that_was_changed_is_seen_without_reading_shards(self):
        job = self.done()
        manifest = os.path.join(self.checkpoints(job)[-1]["path"], "manifest.json")
        with open(manifest) as f:
            text = f.read()
        self.put(manifest, text.replace("dha-checkpoint-1", "dha-checkpoint-2"))
        (f,) = self.fsck()["findings"]
        self.assertIn("does not have the digest that was recorded", f["message"])

    def test_a_checkpoint_that_its_worker_removed_is_recorded_as_removed(self):
        job = self.done("a train.ckpts=3 train.sleep=0.3")
        first = self.checkpoints(job)[1]
        shutil.rmtree(first["path"])
        (f,) = self.fsck()["findings"]
        self.assertEqual((f["kind"], f["path"]), ("removed", first["path"]))
        self.ok("admin", "fsck", "--repair")
        self.assertEqual([c["id"] for c in self.checkpoints(job, "deleted")], [first["id"]])

    def test_finished_outputs_that_lost_files_are_told(self):
        job = self.done()
        weights = os.path.join(self.dhad.stage_dir(job, "train"), "out", "model", "model.safetensors")
        os.truncate(weights, 17)
        (f,) = self.fsck()["findings"]
        self.assertEqual((f["kind"], f["path"], f["job"]), ("output", weights, job))
        self.assertIn("has 17 bytes; it had 5000", f["message"])
        self.assertIsNone(f["repair"])
        r = self.dha("admin", "fsck", "--repair")
        self.assertEqual(r.rc, FAILED)  # told, not repaired

    def test_finished_outputs_with_other_contents_are_told_when_they_are_read(self):
        job = self.done()
        weights = os.path.join(self.dhad.stage_dir(job, "train"), "out", "model", "model.safetensors")
        with open(weights, "r+") as f:
            f.seek(4000)
            f.write("W")  # same size: only its digest tells
        self.fsck(rc=0)
        (f,) = self.fsck("--deep")["findings"]
        self.assertEqual((f["kind"], f["path"], f["job"]), ("output", weights, job))
        self.assertIn("does not have the digest", f["message"])
        self.assertIsNone(f["repair"])
        with open(weights, "w") as f:
            f.write("w" * 5000)
        self.fsck("--deep", rc=0)

    def test_stages_that_run_are_left_alone(self):
        job = self.dhad.submit("slow train.sleep=60")
        self.dhad.until_running(job, "train")
        self.put(self.state("jobs", job, "train", "out", "model.tmp", "x"))
        self.put(self.state("cache", "tokens.tmp"))
        self.fsck(rc=0)
        self.ok("cancel", job, "--now")
        self.dhad.until_state(job, "cancelled")
        self.assertEqual(self.kinds(self.fsck()), ["leftover", "leftover"])

    def test_a_whole_checkpoint_that_was_not_recorded_stays_while_the_stage_may_go_on(self):
        job = self.dhad.submit("a train.fail=diverged")
        self.dhad.until_state(job, "failed")
        step = os.path.join(self.dhad.stage_dir(job, "train"), "out", "ckpt", "step-5")
        self.put(os.path.join(step, "manifest.json"), '{"shards": []}')
        self.fsck(rc=0)
        self.put(os.path.join(step, "manifest.json"), "not a manifest")
        self.assertEqual(self.kinds(self.fsck()), ["unknown"])

    def test_other_requests_are_answered_while_it_looks_and_a_second_one_is_refused(self):
        for i in range(3):
            self.done(f"n{i}")
        first = self.dhad.post("/v1/admin/fsck", {"deep": True})
        self.assertEqual(first.status, 202, first)
        second = self.dhad.post("/v1/admin/fsck", {})
        if second.status != 202:  # it may have been quick
            self.assert_error(second, 409, "conflict")
        self.assertEqual(self.dhad.get("/v1/jobs").status, 200)
        chore = self.dhad.until(lambda: (c := self.dhad.get(
            f"/v1/admin/chores/{self.last_chore()}?wait=5").json["chore"])["state"] == "done" and c)
        self.assertEqual(chore["kind"], "fsck")
        self.assert_error(self.dhad.post(f"/v1/admin/chores/{chore['id']}/apply"), 409, "conflict")
        self.assert_error(self.dhad.get("/v1/admin/chores/4711"), 404, "not_found")

    def last_chore(self):
        return max(i for i in range(1, 9)
                   if self.dhad.get(f"/v1/admin/chores/{i}").status == 200)

    def test_the_daemon_ends_in_good_order_while_a_check_runs(self):
        self.done()
        self.dhad.post("/v1/admin/fsck", {"deep": True})
        self.assertEqual(self.dhad.stop(), 0)


class Offline(AdminCase):
    def offline(self, *args, rc):
        r = self.dha("admin", "fsck", "--state", self.dhad.state, *args)
        self.assertEqual(r.rc, rc, r)
        return r

    def sql(self, text):
        with sqlite3.connect(self.state("state.db")) as db:
            db.executescript(text)
        db.close()

    def test_a_daemon_that_runs_is_asked_instead(self):
        r = self.offline(rc=CONFLICT)
        self.assertIn("a daemon uses the state directory", r.err)
        self.assertIn("without --state", r.err)

    def test_without_a_daemon_the_same_is_found_and_repaired(self):
        job = self.done()
        self.dhad.stop()
        self.offline(rc=0)
        self.put(self.state("jobs", "99", "x"))
        bad = self.put(self.state("jobs", job, "train", "out", "ckpt", "step-1", "shard-0000.bin"), "cut")
        r = self.offline("--repair", "--dry-run", rc=FAILED)
        self.assertIn("will move it to lost+found", r.out)
        self.assertIn("will mark it bad", r.out)
        self.assertTrue(os.path.exists(self.state("jobs", "99")))
        self.assertEqual(len(self.offline("--json", rc=FAILED).json["findings"]), 2)
        self.offline("--repair", rc=0)
        self.assertEqual(len(self.lost("jobs/99/x")), 1)
        self.assertTrue(os.path.exists(bad))
        self.offline(rc=0)
        self.dhad.start()
        self.assertEqual(len(self.events_of("fsck.repair")), 2)
        self.assertEqual([c["step"] for c in self.checkpoints(job, "bad")], [1])

    def test_what_does_not_hold_in_the_database_is_told(self):
        self.done()
        self.dhad.stop()
        self.sql("DELETE FROM event WHERE seq = 3; UPDATE job SET state = 'done';"
                 "UPDATE stage SET state = 'ready' WHERE kind = 'eval';"
                 "UPDATE allocation SET until_us = 0 WHERE id = 1")
        r = self.offline(rc=FAILED)
        for what in ("events are missing", "is done, but its stage", "which has ended"):
            self.assertIn(what, r.out)

    def test_a_database_that_cannot_be_read_is_said_and_salvaged_when_told_to(self):
        self.done()
        self.dhad.stop()
        with open(self.state("state.db"), "r+b") as f:
            f.write(b"x" * 100)
        self.assertIn("state.db", self.offline(rc=74).err)
        r = self.offline("--repair", "--dry-run", rc=74)
        self.assertIn("will put what can be read of it into a new one", r.out)
        self.assertEqual(glob.glob(self.state("state.db.damaged-*")), [])
        self.offline("--repair", rc=FAILED)  # what was in it is lost: its directories are unknown now
        self.assertEqual(len([p for p in glob.glob(self.state("state.db.damaged-*"))
                              if not p.endswith("wal")]), 1)

    def test_a_directory_without_a_state_is_named(self):
        r = self.dha("admin", "fsck", "--state", self.dhad.model)
        self.assertEqual(r.rc, NOT_FOUND)
        self.assertIn("no state directory", r.err)
        self.assertFalse(os.path.exists(os.path.join(self.dhad.model, "lock")))


class Backup(AdminCase):
    def test_a_copy_taken_while_jobs_run_is_a_whole_state(self):
        job = self.done()
        running = self.dhad.submit("slow train.sleep=60", seed=2)
        self.dhad.until_running(running, "train")
        r = self.ok("admin", "backup", "copy.db")
        path = os.path.join(self.dhad.dir, "copy.db")
        self.assertEqual(r.out, path + "\n")
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)
        self.assertEqual(glob.glob(path + "-*"), [])  # one file
        db = sqlite3.connect(path)
        self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)])
        self.assertEqual(dict(db.execute("SELECT id, state FROM job")), {int(job): "done", int(running): "running"})
        db.close()
        r = self.fails(CONFLICT, "admin", "backup", path)
        self.assertIn("overwrites nothing", r.err)
        self.fails(NOT_FOUND, "admin", "backup", "/nowhere/at/all.db")
        self.assertEqual([e["data"]["code"] for e in self.events_of("admin.backup")],
                         ["ok", "conflict", "not_found"])
        self.ok("cancel", running, "--now")
        self.dhad.until_state(running, "cancelled")

    def test_a_state_is_restored_from_it(self):
        job = self.done()
        self.ok("admin", "backup", "copy.db")
        self.dhad.stop()
        for path in glob.glob(self.state("state.db*")):
            os.unlink(path)
        shutil.copy(os.path.join(self.dhad.dir, "copy.db"), self.state("state.db"))
        self.dhad.start()
        self.assertEqual(self.dhad.job(job)["state"], "done")
        self.ok("admin", "fsck", "--deep")


class Transfer(AdminCase):
    def setUp(self):
        super().setUp()
        self.other = harness.Dhad()
        self.addCleanup(self.other.clean)
        self.other.start()
        self.addCleanup(self.other.end)
        self.there = {**self.env, "DHA_SOCKET": self.other.socket}
        self.out = os.path.join(self.dhad.dir, "exported")

    def export(self, job):
        self.assertEqual(self.ok("admin", "export", job, "--out", self.out).out, self.out + "\n")
        self.assertFalse(os.path.exists(self.out + ".tmp"))
        return self.out

    def take_in(self, **more):
        return self.ok("admin", "import", self.out, env=self.there, **more).out.strip()

    def comparable(self, job):
        """What must be the same on both sides."""
        for s in job["stages"]:
            for key in ("id", "dir", "out_dir", "output", "reused_from"):
                s[key] = None
            s["progress"] = {k: s["progress"][k] for k in ("step", "steps", "tokens", "loss", "lm", "kl")}
        if job["result"]:
            job["result"]["checkpoint"] = None
        return {k: v for k, v in job.items() if k not in ("id", "dir")}

    def points(self, dhad, job):
        return dhad.get(f"/v1/jobs/{job}/metrics").json["points"]

    def test_a_job_is_the_same_there_with_files_metrics_and_checkpoints(self):
        job = self.done("a train.ckpts=3 train.sleep=0.3")
        self.export(job)
        with open(os.path.join(self.out, "manifest.json")) as f:
            names = {f["path"] for f in json.load(f)["files"]}
        self.assertLessEqual({"job.json", "metrics.ndjson", "events.ndjson",
                              "files/train/out/model/model.safetensors", "files/train/a1/journal.ndjson",
                              "files/train/out/ckpt/step-2/shard-0000.bin"}, names)
        with open(os.path.join(self.out, "events.ndjson")) as f:
            self.assertEqual({json.loads(line)["job"] for line in f}, {job})
        self.other.submit("takes id 1")
        new = self.take_in()
        self.assertEqual(new, "2")
        self.assertEqual(self.comparable(self.other.job(new)), self.comparable(self.dhad.job(job)))
        self.assertTrue(self.points(self.other, new))
        self.assertEqual(self.points(self.other, new), self.points(self.dhad, job))
        ck = self.other.get(f"/v1/jobs/{new}/checkpoints").json["checkpoints"]
        self.assertEqual([c["state"] for c in ck], ["complete"] * 4)
        self.ok("admin", "fsck", "--deep", env=self.there)
        self.assertIn("fake train attempt 1", self.ok("logs", new, "--stage", "train", env=self.there).out)
        (e,) = [e for e in self.other.events() if e["type"] == "job.import"]
        self.assertEqual((e["job"], e["data"]["was_job"], e["data"]["from"]), (new, job, self.out))

    def test_finished_stages_that_came_along_are_reused(self):
        job = self.done()
        spec = self.dhad.job(job)["spec"]
        self.export(job)
        new = self.take_in()
        again = self.other.post("/v1/jobs", {"spec": spec}).json["job"]["id"]
        self.other.until_state(again, "done")
        self.assertEqual({s["reused_from"]["job"] for s in self.other.job(again)["stages"]}, {new})

    def test_what_a_job_had_taken_from_another_one_comes_along(self):
        first, job = self.done("first"), self.done("second")
        self.assertEqual({s["state"] for s in self.dhad.job(job)["stages"]}, {"reused"})
        self.export(job)
        new = self.take_in()
        there, here = self.other.job(new), self.dhad.job(job)
        self.assertEqual({s["state"] for s in there["stages"]}, {"done"})
        self.assertEqual(self.comparable(there)["result"], self.comparable(here)["result"])
        self.assertEqual(self.points(self.other, new), self.points(self.dhad, first))
        self.assertTrue(os.path.exists(os.path.join(self.other.stage_dir(new, "export"), "out", "model",
                                                    "config.json")))
        self.ok("admin", "fsck", "--deep", env=self.there)

    def test_failed_and_cancelled_jobs_stay_what_they_were_and_can_go_on(self):
        job = self.dhad.submit("b train.fail=diverged:1")
        self.dhad.until_state(job, "failed")
        self.export(job)
        new = self.take_in()
        j = self.other.job(new)
        self.assertEqual((j["state"], j["error"]["code"]), ("failed", "diverged"))
        self.ok("retry", new, env=self.there)
        self.other.until_state(new, "done")

    def test_it_comes_back_to_where_it_ran(self):
        job = self.done()
        self.export(job)
        new = self.ok("admin", "import", self.out).out.strip()
        self.assertEqual(self.dhad.job(new)["state"], "done")
        self.ok("admin", "fsck", "--deep")

    def test_nothing_is_overwritten(self):
        job = self.done()
        self.export(job)
        self.assertIn("overwrites nothing", self.fails(CONFLICT, "admin", "export", job, "--out", self.out).err)
        os.mkdir(self.out + "2.tmp")
        mine = os.path.join(self.out + "2.tmp", "mine")
        open(mine, "w").close()
        self.assertIn(f"{self.out}2.tmp is there: it is no export that was cut short",
                      self.fails(CONFLICT, "admin", "export", job, "--out", self.out + "2").err)
        self.assertTrue(os.path.exists(mine))

    def test_what_a_killed_export_left_is_replaced_and_what_another_writes_is_not(self):
        job = self.done()
        tmp = self.out + ".tmp"
        os.mkdir(tmp)  # killed before it wrote anything
        self.export(job)
        os.rename(self.out, tmp)  # all of it, and its mark
        with open(os.path.join(tmp, ".dha-export"), "w") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            self.assertIn("another export is writing it", self.fails(CONFLICT, "admin", "export", job, "--out", self.out).err)
        self.assertTrue(os.path.exists(os.path.join(tmp, "manifest.json")))
        self.export(job)
        self.assertFalse(os.path.exists(os.path.join(self.out, ".dha-export")))
        self.take_in()

    def test_jobs_that_go_on_are_not_copied(self):
        running = self.dhad.submit("slow train.sleep=60", seed=2)
        r = self.fails(CONFLICT, "admin", "export", running, "--out", self.out + "3")
        self.assertIn("only a job that has ended", r.err)
        self.assertFalse(os.path.exists(self.out + "3.tmp"))
        self.fails(NOT_FOUND, "admin", "export", "4711", "--out", self.out + "3")
        self.ok("cancel", running, "--now")
        self.dhad.until_state(running, "cancelled")

    def refused(self, rc, *texts):
        r = self.fails(rc, "admin", "import", self.out, env=self.there)
        for text in texts:
            self.assertIn(text, r.err)
        self.assertEqual(self.other.get("/v1/jobs").json["jobs"], [])
        self.assertEqual(os.listdir(os.path.join(self.other.state, "jobs")), [])

    def rewrite(self, name, change):
        """As somebody would who knows the format: the digest is made right again."""
        import hashlib
        path, manifest = os.path.join(self.out, name), os.path.join(self.out, "manifest.json")
        with open(path) as f:
            text = change(f.read())
        self.put(path, text)
        with open(manifest) as f:
            doc = json.load(f)
        for f in doc["files"]:
            if f["path"] == name:
                f.update(bytes=str(len(text)), sha256=hashlib.sha256(text.encode()).hexdigest())
        self.put(manifest, json.dumps(doc))

    def test_damaged_exports_are_refused_whole(self):
        self.export(self.done())
        weights = os.path.join(self.out, "files/train/out/model/model.safetensors")
        with open(weights, "r+") as f:
            f.write("W")
        self.refused(65, "is not what was exported", weights)
        os.truncate(weights, 10)
        self.refused(65, "10 bytes of 5000")
        os.unlink(weights)
        self.refused(NOT_FOUND, weights)
        self.put(weights, "w" * 5000)
        with open(os.path.join(self.out, "job.json")) as f:
            job = f.read()
        for change, said in ((lambda t: t.replace("dha-job-1", "dha-job-9"), "no dha-job-1 document"),
                             (lambda t: t.replace('"state":\t"done"', '"state":\t"running"'), "running"),
                             (lambda t: t.replace("train/out", "../../1/train/out"), "not below it"),
                             (lambda t: t[:len(t) // 2], "job.json")):
            self.rewrite("job.json", lambda _: change(job))
            self.assertNotEqual(change(job), job)
            self.refused(65 if said != "job.json" else 76, said)
        self.rewrite("job.json", lambda _: job)
        self.rewrite("metrics.ndjson", lambda t: t + "{\"stage\": 1}\n")
        self.refused(65, "metrics.ndjson", "line")
        self.rewrite("metrics.ndjson", lambda t: t.rsplit("{", 1)[0])
        with open(os.path.join(self.out, "manifest.json")) as f:
            manifest = f.read()
        self.put(os.path.join(self.out, "manifest.json"), manifest.replace("files/search", "../search"))
        self.refused(65, "not below it")
        self.put(os.path.join(self.out, "manifest.json"), manifest[:100])
        self.refused(76, "manifest.json")
        os.unlink(os.path.join(self.out, "manifest.json"))
        self.refused(NOT_FOUND, "no finished export")
        self.put(os.path.join(self.out, "manifest.json"), manifest)
        os.rename(self.out, self.out + ".away")
        self.refused(NOT_FOUND, self.out + ": No such file or directory")
        os.rename(self.out + ".away", self.out)
        self.take_in()


class Prune(AdminCase):
    NAME = "train.ckpts=5 train.sleep=0.5"

    def steps(self, job, state="complete"):
        return [c["step"] for c in self.checkpoints(job, state) if "/train/" in c["path"]]

    def on_disk(self, job):
        return sorted(os.listdir(os.path.join(self.dhad.stage_dir(job, "train"), "out", "ckpt")))

    def test_the_newest_stay_and_the_rest_is_removed_once_it_was_said(self):
        job = self.done(self.NAME)
        self.assertEqual(self.steps(job), [2, 4, 6, 8, 10])
        r = self.ok("admin", "prune", "--keep-last", "2", "--dry-run")
        self.assertEqual(r.out.count("would remove"), 3)
        self.assertIn("3 checkpoints of jobs that have ended: 2.9 KiB; 3 stay", r.out)
        self.assertEqual(len(self.on_disk(job)), 5)
        r = self.ok("admin", "prune", "--keep-last", "2")
        self.assertEqual(r.out.count("will remove"), 3)
        self.assertIn("3 checkpoints removed, 2.9 KiB freed", r.err)
        self.assertEqual((self.steps(job), self.steps(job, "deleted")), ([8, 10], [2, 4, 6]))
        self.assertEqual(self.on_disk(job), ["step-10", "step-8"])
        self.assertEqual(len(self.events_of("checkpoint.state")), 3)
        self.ok("admin", "fsck", "--deep")
        self.assertIn("0 checkpoints", self.ok("admin", "prune", "--keep-last", "2").out)
        self.ok("admin", "prune", "--keep-last", "0")
        self.assertEqual(self.checkpoints(job), [])  # it is done: nothing goes on from them
        self.ok("admin", "fsck", "--deep")

    def test_the_best_and_every_nth_stay_when_asked_for(self):
        best = self.done("train.ckpts=5 train.sleep=0.5 evals=*=5:1:4:3:2")
        self.ok("admin", "prune", "--keep-last", "1", "--keep-best")
        self.assertEqual(self.steps(best), [4, 10])
        every = self.done("n " + self.NAME, seed=2)
        self.ok("admin", "prune", "--keep-last", "0", "--keep-every", "4")
        self.assertEqual(self.steps(every), [4, 8])

    def test_a_job_that_may_go_on_keeps_its_newest_and_one_that_runs_keeps_all(self):
        failed = self.dhad.submit(self.NAME + " eval.fail=diverged")
        self.dhad.until_state(failed, "failed")
        running = self.dhad.submit("train.ckpts=5 train.sleep=0.5 eval.sleep=60", seed=2)
        self.dhad.until_running(running, "eval")
        self.ok("admin", "prune", "--keep-last", "0")
        self.assertEqual(self.steps(failed), [10])
        self.assertEqual(self.steps(running), [2, 4, 6, 8, 10])
        self.ok("cancel", running, "--now")
        self.dhad.until_state(running, "cancelled")

    def test_a_job_that_goes_on_between_plan_and_deed_is_left_alone(self):
        job = self.dhad.submit(self.NAME + " eval.fail=diverged:1 eval.sleep=60")
        self.dhad.until_state(job, "failed")
        self.dhad.post("/v1/admin/prune", {"keep_last": 1})
        chore = self.dhad.until(lambda: (c := self.dhad.get("/v1/admin/chores/1?wait=5").json["chore"])[
            "state"] == "planned" and c)
        self.assertEqual(len(chore["result"]["checkpoints"]), 4)
        self.ok("retry", job)
        self.dhad.until_running(job, "eval")
        self.dhad.post("/v1/admin/chores/1/apply")
        chore = self.dhad.until(lambda: (c := self.dhad.get("/v1/admin/chores/1?wait=5").json["chore"])[
            "state"] == "done" and c)
        self.assertEqual((chore["result"]["removed"], chore["result"]["skipped"]), (0, 4))
        self.assertEqual(self.steps(job), [2, 4, 6, 8, 10])
        self.ok("cancel", job, "--now")
        self.dhad.until_state(job, "cancelled")

    def test_old_series_are_thinned_and_never_lost(self):
        job = self.done("train.flood=3000 " + self.NAME)

        def loss():
            return self.dhad.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss&limit=100000").json["points"]
        before = loss()
        self.assertEqual(len(before), 3000)
        self.assertIn("nothing to do", self.dhad.post("/v1/admin/prune", {}).json["error"]["message"])
        r = self.ok("admin", "prune", "--metrics-older-than", "1d")
        self.assertNotIn("thin", r.out)
        self.assertIn("would thin", self.ok("admin", "prune", "--metrics-older-than", "0s", "--dry-run").out)
        self.assertEqual(loss(), before)
        self.ok("admin", "prune", "--metrics-older-than", "0s")
        after = loss()
        self.assertLess(len(after), 500)
        self.assertEqual((after[0], after[-1]), (before[0], before[-1]))
        self.assertTrue(all(p in before for p in after))
        self.assertIn(min(before, key=lambda p: p["value"]), after)
        self.assertIn(max(before, key=lambda p: p["value"]), after)
        self.assertEqual(len(self.steps(job)), 5)  # checkpoints were not asked for
        self.assertEqual(len(self.events_of("metrics.thin")), 1)
        self.ok("admin", "prune", "--metrics-older-than", "0s")
        self.assertEqual(loss(), after)

    def test_slips_are_answered(self):
        self.assertIn("30d", self.fails(USAGE, "admin", "prune", "--metrics-older-than", "soon").err)
        self.fails(USAGE, "admin", "prune", "--keep-last", "-1")
        self.fails(USAGE, "admin", "prune", "--keep-every", "0")
        self.assert_error(self.dhad.post("/v1/admin/prune", {"keep_best": True}), 400, "usage")
        for job in (0, "-1", "x", 1.5, None):
            self.assert_error(self.dhad.post("/v1/admin/export", {"job": job, "out": "/nowhere/x"}), 400, "usage")
        for what, body in (("backup", {"file": "b.db"}), ("export", {"job": "1", "out": "x"}), ("import", {"dir": ""})):
            self.assert_error(self.dhad.post("/v1/admin/" + what, body), 400, "usage")


class Usage(AdminCase):
    def test_slips_are_answered(self):
        self.assertIn("there is no `dha admin fcsk`", self.fails(USAGE, "admin", "fcsk").err)
        self.assertIn("takes FILE", self.fails(USAGE, "admin", "backup").err)
        self.assertIn("takes no argument", self.fails(USAGE, "admin", "fsck", "x").err)
        self.assertIn("needs --out DIR", self.fails(USAGE, "admin", "export", "1").err)
        self.assertIn("--state goes with fsck", self.fails(USAGE, "admin", "backup", "f", "--state", "x").err)
        self.assert_error(self.dhad.post("/v1/admin/backup", {"file": "relative.db"}), 400, "usage")
        self.assert_error(self.dhad.post("/v1/admin/fsck", {"deep": 1}), 400, "usage")


if __name__ == "__main__":
    harness.main()
