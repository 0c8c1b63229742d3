"""The local launcher with the real mpirun: first with the fake worker as its ranks, then with dha-worker."""
import glob
import os
import shutil
import signal
import sys
import time
import unittest

import harness

if not shutil.which("mpirun"):
    print("skipped: mpirun is not installed")
    sys.exit(77)


class MpirunWithFakeRanks(harness.Case):
    launcher, args = "local", ("--worker", harness.FAKE)

    def test_a_job_of_two_ranks_is_done_and_leaves_nothing_in_tmp(self):
        d = self.dhad
        before = set(glob.glob("/tmp/dha-??????"))
        job = d.submit("train.sleep=0.5")
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * 5)
        d.until(lambda: not set(glob.glob("/tmp/dha-??????")) - before)
        self.assertEqual(d.stray(), [])

    def test_cancel_reaches_the_ranks_as_checkpoint_and_stop(self):
        d = self.dhad
        job = d.submit("train.sleep=60")
        d.until_running(job, "train", seconds=60)
        begin = time.time()
        d.post(f"/v1/jobs/{job}/cancel")
        d.until_state(job, "cancelled")
        self.assertLess(time.time() - begin, 10)
        c = d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
        self.assertEqual([x["stage"] for x in c], ["fuse", "train"])
        self.assertEqual(d.stray(), [])

    def test_ranks_outlive_the_daemon_and_are_adopted(self):
        d = self.dhad
        job = d.submit("train.sleep=3")
        d.until_running(job, "train", seconds=60)
        d.kill()
        time.sleep(0.5)
        self.assertGreaterEqual(len(d.of_attempt(job, "train")), 4, "shim, mpirun, two ranks")
        d.start()
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 1))
        self.assertEqual(len(d.launches(job, "train")), 1)

    def test_a_killed_rank_is_another_attempt(self):
        d = self.dhad
        job = d.submit("train.sleep=2")
        d.until_running(job, "train", seconds=60)
        pid = int(d.launches(job, "train")[0].split()[1])
        os.kill(pid, signal.SIGKILL)
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 2), j)

    def test_a_killed_mpirun_is_another_attempt_and_its_ranks_are_gone_first(self):
        d = self.dhad
        job = d.submit("train.sleep=2")
        d.until_running(job, "train", seconds=60)
        rank0 = int(d.launches(job, "train")[0].split()[1])
        with open(f"/proc/{rank0}/stat") as f:
            mpirun = int(f.read().rsplit(")", 1)[1].split()[1])
        os.kill(mpirun, signal.SIGKILL)
        d.until(lambda: d.stage(job, "train")["attempts"] == 2)
        self.assertFalse(os.path.exists(f"/proc/{rank0}"))
        self.assertEqual(d.until_state(job, *harness.FINAL, seconds=60)["state"], "done")

    def test_a_worker_that_is_not_executable_says_so(self):
        d = self.dhad
        d.stop()
        d.args = ["--worker", d.data]
        d.start()
        job = d.submit()
        d.until(lambda: d.stage(job, "search")["attempts"] >= 2)
        err = d.get(f"/v1/jobs/{job}/logs?attempt=1").raw.decode()
        self.assertIn(d.data, err)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})


if __name__ == "__main__":
    harness.main()
