"""What the daemon does for its state directory without being asked: backups, old metrics."""
import glob
import json
import os
import shutil
import sqlite3
import subprocess
import unittest

import harness


class Upkeep(unittest.TestCase):
    def daemon(self, **settings):
        d = harness.Dhad()
        self.addCleanup(d.clean)
        path = os.path.join(d.dir, "dhad.json")
        with open(path, "w") as f:
            json.dump(settings, f)
        d.args = ["--config", path]
        return d.start()

    def copies(self, d):
        return sorted(glob.glob(os.path.join(d.state, "backup", "auto-2*Z-*.db")))

    def jobs_in(self, path):
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            self.assertEqual(db.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            return [row[0] for row in db.execute("SELECT id FROM job")]
        finally:
            db.close()

    def test_what_changed_is_copied_and_only_the_newest_copies_stay(self):
        d = self.daemon(backup_hours=1, backup_keep=3)
        self.assertEqual(d.get("/v1/version").json["backup"], {"last_us": "0", "every_hours": 1, "error": None})
        job = d.submit()
        d.until_state(job, "done")
        d.until(lambda: any(e["type"] == "upkeep.backup" for e in d.events()), seconds=60)
        first, = self.copies(d)
        self.assertEqual(self.jobs_in(first), [int(job)])
        self.assertNotEqual(d.get("/v1/version").json["backup"]["last_us"], "0")
        self.assertIn("dha_backups_total 1\n", d.get("/metrics").raw.decode())
        d.stop()
        folder = os.path.dirname(first)
        old = [f"auto-2020010{i}T000000Z-{i}.db" for i in range(1, 6)]
        others = ["auto-mine.db", "auto-20200101T000000Z-07.db", "auto-20200101T000000Z-7.db.old", "state-v2-20200101T000000Z.db"]
        for name in old + others:
            shutil.copy(first, os.path.join(folder, name))
        os.remove(first)
        for begun in (".tmp", ".tmp-journal"):  # a daemon was killed over it
            shutil.copy(os.path.join(folder, old[0]), os.path.join(folder, old[0] + begun))
        d.start()
        d.until(lambda: self.copies(d)[-1] > first, seconds=60)
        d.until(lambda: not os.path.exists(os.path.join(folder, old[2])))
        left = set(os.listdir(folder)) - {os.path.basename(self.copies(d)[-1])}
        self.assertEqual(left, {*old[3:], *others})
        d.end()

    def test_a_backup_that_fails_is_told(self):
        d = self.daemon(backup_hours=1)
        with open(os.path.join(d.state, "backup"), "w") as f:
            f.write("in the way\n")
        d.submit()
        said = d.until(lambda: d.get("/v1/version").json["notice"], seconds=60)
        self.assertIn("the last backup failed: ", said)
        self.assertIn("/backup", d.get("/v1/version").json["backup"]["error"])
        e = d.until(lambda: [e["data"] for e in d.events() if e["type"] == "upkeep.backup"])
        self.assertEqual((e[0]["state"], e[0]["code"]), ("failed", "io_error"))
        self.assertIn("dha_backup_failures_total 1\n", d.get("/metrics").raw.decode())
        self.assertEqual(d.get("/readyz").status, 200)
        d.end()

    def test_on_a_disk_that_is_nearly_full_none_is_made(self):
        d = harness.Dhad()
        self.addCleanup(d.clean)
        mount = os.path.join(d.dir, "mnt")
        os.mkdir(mount)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", mount], capture_output=True).returncode != 0:
            self.skipTest("may not mount a tmpfs")
        self.addCleanup(subprocess.run, ["umount", "-l", mount])
        d.state = os.path.join(mount, "state")
        ballast = os.path.join(mount, "ballast")
        with open(ballast, "wb") as f:
            f.write(bytes(62 << 20))
        d.start()
        job = d.submit()
        said = d.until(lambda: d.get("/v1/version").json["notice"], seconds=60)
        self.assertRegex(said, r"the last backup failed: the backup is left out: the disk of .* is nearly full: \d+ of 64 MiB are free")
        self.assertEqual(self.copies(d), [])
        d.until_state(job, "done")  # the disk is the jobs'
        d.end()

    def test_series_of_jobs_that_ended_long_ago_are_thinned(self):
        d = self.daemon(backup_hours=0, metrics_days=7)
        old, new = d.submit("train.flood=30000"), d.submit("train.flood=3000", seed=2)
        for job in (old, new):
            d.until_state(job, "done", seconds=120)
        d.stop()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        db.execute("UPDATE job SET ended_us = ended_us - 8 * 86400 * 1000000 WHERE id = ?", (old,))
        db.commit()
        db.close()
        d.start()

        def points(job):
            return d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss&limit=100000").json["points"]
        before = points(old)
        self.assertGreaterEqual(len(before), 30000)
        e = d.until(lambda: [e for e in d.events() if e["type"] == "metrics.thin"], seconds=60)
        after = points(old)
        self.assertLessEqual(len(after), 400)
        self.assertEqual((after[0], after[-1]), (before[0], before[-1]))
        self.assertEqual(max(p["value"] for p in after), max(p["value"] for p in before))
        self.assertEqual([x["job"] for x in e], [old])
        self.assertLess(e[0]["data"]["after"], e[0]["data"]["before"])
        self.assertGreaterEqual(len(points(new)), 3000, "it ended a moment ago")
        self.assertEqual(os.listdir(d.state).count("backup"), 0, "backup_hours 0: none")
        d.end()

    def test_a_damaged_database_names_the_newest_copy_and_how_to_go_back(self):
        d = self.daemon(backup_hours=0)
        job = d.submit("precious")
        d.until_state(job, "done")
        d.stop()
        state = os.path.join(d.state, "state.db")
        copy = os.path.join(d.state, "backup", "auto-20260101T000000Z-9.db")
        os.mkdir(os.path.dirname(copy))
        db = sqlite3.connect(state)
        to = sqlite3.connect(copy)
        db.backup(to)
        to.close()
        db.close()
        with open(state, "r+b") as f:
            f.truncate(4096 * 3)
        d.start()
        notice = d.get("/v1/version").json["notice"]
        self.assertIn("found damaged", notice)
        command = notice.split("dha down, then ")[1]
        self.assertEqual(command, f"cp {copy} {state}")
        self.assertEqual(d.get(f"/v1/jobs/{job}").status, 404)
        d.stop()
        subprocess.run(command.split(), check=True)
        d.start()
        self.assertEqual(d.job(job)["name"], "precious")
        d.end()


if __name__ == "__main__":
    harness.main()
