"""What an attempt has on the disk is taken from it while it runs, or made something else: two ranks of the real worker under
the real mpirun. After each: no attempt twice, no slot twice, and the job ends as if nothing had happened or with the right cause,
which `explain` says, too; all weights are those of the undisturbed job, bit for bit.

`watched`: a daemon looks on. `adopted`: it was killed before, and the next one finds what is there."""
import glob
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import crash_matrix
import harness
from crash_matrix import Gang, read, strike

JOURNAL = "journal.ndjson"


class FilesTaken(crash_matrix.Trained):
    args = ("--stall", "20")

    def setUp(self):
        for _ in range(crash_matrix.TRIES):
            self.held = self.hold()
            if self.held:
                break
        else:
            self.fail("each was over before it could be held")
        self.d.until(lambda: self.d.stage(self.job, "train")["progress"]["step"] > 0)  # it was read from
        self.tag = "DHA_ATTEMPT=" + json.loads(read(os.path.join(self.gang.dir, "spec.json")))["uuid"]
        self.told = []

    def hold(self):
        """A job whose ranks are stopped after a checkpoint; [] if it was over by then."""
        self.job = self.submit(self.id().rsplit(".", 1)[-1])
        self.gang = Gang(self.d, self.job)
        self.d.until(lambda: self.gang.said("checkpoint"), seconds=120)
        ranks = [p for p in (self.gang.rank(0), self.gang.rank(1)) if p and strike(p, signal.SIGSTOP)]
        if len(ranks) == 2 and not self.gang.said("bye"):
            return ranks
        for pid in ranks:
            strike(pid, signal.SIGCONT)
        return []

    def aside(self, path):
        os.rename(path, os.path.join(self.d.dir, f"aside-{self.job}-{os.path.basename(path)}"))

    def path(self, name):
        return os.path.join(self.gang.dir, name)

    def go_on(self, adopted):
        """The ranks go on; while something of the attempt lives its stage has no other, and nobody its slots."""
        d = self.d
        if adopted:
            d.kill()
            d.start()
        for pid in self.held:
            strike(pid, signal.SIGCONT)

        def over():
            x = d.get(f"/v1/jobs/{self.job}/explain").json
            self.told.append(x.get("reason") or "")
            alive = harness.processes_with(self.tag)
            slots = [s["job"] for n in d.get("/v1/nodes").json["nodes"] for s in n["slots"] if s["attempt"]]
            train = d.stage(self.job, "train")  # last: what is said of a first attempt now held when they were looked at
            if train["attempts"] == 1 and train["state"] == "running":
                self.assertEqual(slots.count(self.job), 2)
                return False
            self.assertEqual([p for p in alive if p in harness.processes_with(self.tag)], [])
            return train["attempts"] == 2 or train["state"] != "ready"  # until then explain tells of the first
        d.until(over, seconds=90)
        return d.until_state(self.job, *harness.FINAL, seconds=90)

    def ended(self):
        """How the first attempt to train did."""
        train = self.d.stage(self.job, "train")["id"]
        return next(e["data"] for e in self.d.events(job=self.job, type="attempt.end") if e["stage"] == train)

    def as_if_nothing_had_happened(self, adopted, attempts=1):
        j = self.go_on(adopted)
        self.assertEqual(j["state"], "done", j["error"])
        self.assertEqual(self.weights(self.job), self.want)
        n = self.d.stage(self.job, "train")["attempts"]
        if attempts == 2 and n == 1:
            self.skipTest("it came to its end before it could be told to stop")
        self.assertEqual(n, attempts)
        for folder in glob.glob(os.path.join(self.d.stage_dir(self.job, "train"), "a[0-9]")):
            if os.path.isfile(os.path.join(folder, JOURNAL)):  # not a pipe
                self.assertLessEqual(read(os.path.join(folder, JOURNAL)).count(b'"t":"hello"'), 1, folder)

    def lost(self, adopted, cause, told=None):
        self.as_if_nothing_had_happened(adopted, 2)
        end = self.ended()
        self.assertEqual(end["code"], "lost")
        self.assertRegex(end["message"], cause)
        self.assertTrue([t for t in self.told if re.search(told or cause, t)], set(self.told))

    # ---- its directory ----

    def a_file(self):
        self.aside(self.gang.dir)
        with open(self.gang.dir, "w") as f:
            f.write("x")

    def test_a_file_where_its_directory_was_watched(self):
        self.a_file()
        self.lost(False, "was removed while the attempt ran: something else is in its place",
                  "told to checkpoint and stop, because its files were removed")

    def test_a_file_where_its_directory_was_adopted(self):
        self.a_file()
        self.lost(True, "the attempt ran, and .*/train/a1 (cannot be read any more|has lost its files)")

    def a_link(self, to):
        self.aside(self.gang.dir)
        os.symlink(to, self.gang.dir)

    def another_running(self):
        other = self.submit("other")
        gang = Gang(self.d, other)
        self.d.until(lambda: gang.said("progress"), seconds=120)
        self.addCleanup(self.not_disturbed, other)
        return gang.dir

    def not_disturbed(self, job):
        j = self.d.until_state(job, *harness.FINAL, seconds=90)
        self.assertEqual((j["state"], {s["attempts"] for s in j["stages"]}), ("done", {1}))
        self.assertEqual(self.weights(job), self.want)

    def test_a_link_to_another_that_runs_watched(self):
        self.a_link(self.another_running())
        self.lost(False, "another attempt's is in its place", "because its files were removed")

    def test_a_link_to_another_that_runs_adopted(self):
        self.a_link(self.another_running())
        self.lost(True, "the attempt ran, and .*/train/a1 is another attempt's")

    def test_a_link_to_another_that_is_done_adopted(self):
        """Its last words are not this one's: nothing is done because they say so."""
        self.a_link(os.path.join(self.d.stage_dir("1", "train"), "a1"))
        self.lost(True, "the attempt ran, and .*/train/a1 is another attempt's")

    # ---- its journal ----

    def test_a_journal_that_was_cut_watched(self):
        os.truncate(self.path(JOURNAL), 0)
        self.d.until(lambda: [e for e in self.d.events(type="lost_found") if "the journal was cut" in str(e["data"])])
        self.as_if_nothing_had_happened(False)

    def test_a_journal_that_was_cut_adopted(self):
        os.truncate(self.path(JOURNAL), os.path.getsize(self.path(JOURNAL)) - 10)
        self.as_if_nothing_had_happened(True)

    def test_a_journal_that_was_removed_watched(self):
        os.remove(self.path(JOURNAL))
        self.as_if_nothing_had_happened(False)

    def test_a_journal_that_was_removed_adopted(self):
        """What it does cannot be seen any more: it is told to stop, and not taken for frozen later."""
        os.remove(self.path(JOURNAL))
        self.lost(True, JOURNAL + " was removed while the attempt ran", "because its files were removed")

    def test_a_journal_that_is_a_pipe_adopted(self):
        os.remove(self.path(JOURNAL))
        os.mkfifo(self.path(JOURNAL))
        self.lost(True, JOURNAL + " was removed while the attempt ran", "because its files were removed")

    # ---- its last words ----

    def test_a_directory_where_its_end_would_be_told(self):
        os.mkdir(self.path("exit.json"))
        self.as_if_nothing_had_happened(False)

    def test_a_pipe_where_its_lock_was_adopted(self):
        os.remove(self.path("attempt.lock"))
        os.mkfifo(self.path("attempt.lock"))
        self.lost(True, "attempt.lock was removed while the attempt ran", "because its files were removed")

    # ---- what it makes ----

    def test_its_checkpoints(self):
        shutil.rmtree(os.path.join(self.gang.out, "ckpt"))
        self.as_if_nothing_had_happened(False, self.d.stage(self.job, "train")["attempts"])

    def test_zz_no_slot_was_held_twice(self):
        """(setUp's job is one more that is held and goes on.)"""
        self.as_if_nothing_had_happened(False)
        self.d.until(lambda: self.d.stray() == [])
        db = sqlite3.connect(os.path.join(self.d.state, "state.db"))
        twice = db.execute("SELECT a.slot, a.attempt, b.attempt FROM allocation a JOIN allocation b ON b.slot = a.slot AND b.id > a.id"
                           " WHERE a.until_us = 0 OR a.until_us > b.from_us").fetchall()
        db.close()
        self.assertEqual(twice, [])


if __name__ == "__main__":
    harness.main()
