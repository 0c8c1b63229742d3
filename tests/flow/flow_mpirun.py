"""The local launcher with the real mpirun: first with the fake worker as its ranks, then with dha-worker."""
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
        job = d.submit("train.sleep=0.5")
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * 5)
        r = d.get(f"/v1/jobs/{job}/logs?rank=0")
        log = r.raw.decode()
        self.assertEqual(r.headers["X-Dha-Ranks"], "2")
        self.assertRegex(log, r"\ntmp /tmp/dha-\w{6}\n")
        self.assertFalse(os.path.exists(log.split("\ntmp ")[1].split("\n")[0]))
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

    def test_a_killed_shim_takes_mpirun_and_the_ranks_with_it(self):
        d = self.dhad
        job = d.submit("train.sleep=2")
        d.until_running(job, "train", seconds=60)
        before = d.of_attempt(job, "train")
        os.kill(d.shim(job, "train"), signal.SIGKILL)
        d.until(lambda: d.stage(job, "train")["attempts"] == 2)
        self.assertEqual(set(before) & set(d.of_attempt(job, "train", 1)), set())
        self.assertEqual(d.until_state(job, *harness.FINAL, seconds=60)["state"], "done")

    def test_cancel_now_kills_deaf_ranks_and_their_children(self):
        d = self.dhad
        job = d.submit("search.sleep=90 search.deaf=1 search.litter=1")
        d.until_running(job, "search", seconds=60)
        self.assertGreaterEqual(len(d.of_attempt(job, "search")), 5, "shim, mpirun, 2 ranks, litter")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=15)
        self.assertEqual(d.stray(), [])

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

WORKER = os.path.join(harness.BIN, "dha-worker")
MODEL = os.path.join(harness.HERE, "..", "..", "deploy", "demo", "hf")


@unittest.skipUnless(os.path.exists(WORKER) and os.path.isdir(MODEL), "dha-worker is not built")
class WithTheWorker(harness.Case):
    """The real worker on the demo's checkpoint, with a piece of the demo's text: what it learns is no matter here."""
    launcher, args = "local", ("--worker", WORKER)

    def spec(self, name="job", tokens=8192, **changes):
        path = os.path.join(self.dhad.dir, "piece.txt")
        if not os.path.exists(path):
            with open(os.path.join(MODEL, "..", "train.txt"), "rb") as whole, open(path, "wb") as f:
                f.write(whole.read(60000))
        return {"name": name, "model": os.path.realpath(MODEL), "method": "gqa", "budget": 0.25,
                "data": {"train": [path], "seq_len": 32}, "tokens": {"train": tokens},
                "batch_tokens": 256, "eval": {"windows": 4}, "checkpoint": {"every": 4},
                "resources": {"ranks": 2}, **changes}

    def submit(self, *args, **changes):
        r = self.dhad.post("/v1/jobs", {"spec": self.spec(*args, **changes)})
        self.assertEqual(r.status, 201, r)
        return r.json["job"]["id"]

    def test_converts_a_checkpoint(self):
        d = self.dhad
        job = self.submit()
        j = d.until_state(job, *harness.FINAL, seconds=120)
        self.assertEqual(j["state"], "done", j)
        r = j["result"]
        self.assertEqual(r["head_budget"], 0.25)
        self.assertTrue(all(r["loss"][k] > 0 for k in ("parent", "converted", "final")))
        self.assertEqual(int(r["kv_bytes_per_token"]["parent"]),
                         4 * int(r["kv_bytes_per_token"]["converted"]))
        self.assertTrue(os.path.exists(os.path.join(r["checkpoint"], "config.json")))
        steps = [p["step"] for p in
                 d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss").json["points"]]
        self.assertEqual(steps[-1], 32)
        self.assertEqual(len(steps), len(set(steps)))
        self.assertEqual(d.stray(), [])

    def test_goes_on_through_kill_9_of_the_daemon(self):
        d = self.dhad
        job = self.submit(tokens=32768)
        d.until_running(job, "train", seconds=120)
        shim = d.shim(job, "train")
        d.kill()
        time.sleep(1)
        d.start()
        self.assertEqual(d.shim(job, "train"), shim)
        j = d.until_state(job, *harness.FINAL, seconds=120)
        self.assertEqual((j["state"], [s["attempts"] for s in j["stages"]]), ("done", [1] * 4), j)

    def test_checkpoints_stay_as_the_spec_says(self):
        d = self.dhad
        keep = {"every": 4, "keep": 1, "keep_every": 12, "keep_best": 1}
        job = self.submit(checkpoint=keep)
        j = d.until_state(job, *harness.FINAL, seconds=120)
        self.assertEqual(j["state"], "done", j)
        train = next(s for s in j["stages"] if s["kind"] == "train")
        self.assertEqual(j["spec"]["checkpoint"], keep)
        listed = [c for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"] if c["stage"] == "train"]
        whole = [c for c in listed if c["state"] == "complete"]
        for c in whole:
            self.assertTrue(os.path.exists(os.path.join(c["path"], "manifest.json")), c)
        there = sorted(int(n.split("-")[1]) for n in os.listdir(os.path.join(train["out_dir"], "ckpt")))
        self.assertEqual(sorted(c["step"] for c in whole), there, "listed as complete and on the disk are the same")
        losses = {e["data"]["step"]: e["data"]["loss"] for e in d.events()
                  if e["type"] == "eval" and e["stage"] == train["id"] and e["data"]["name"] == "valid"}
        best = min(losses, key=lambda s: (losses[s], s))
        self.assertGreater(len(losses), 3)
        self.assertEqual(there, sorted({12, 24, 32, best}))
        told = {e["data"]["step"]: e["data"].get("valid_loss") for e in d.events()
                if e["type"] == "checkpoint" and e["stage"] == train["id"]}
        self.assertEqual({s: v for s, v in told.items() if v is not None}, losses, "a checkpoint's record says its loss")
        other = self.submit(checkpoint={"keep": 7})
        self.assertEqual([s["state"] for s in d.until_state(other, *harness.FINAL, seconds=60)["stages"]], ["reused"] * 4)

    def test_hold_checkpoints_and_release_resumes_at_that_step(self):
        d = self.dhad
        job = self.submit(tokens=32768)
        d.until_running(job, "train", seconds=120)
        d.post(f"/v1/jobs/{job}/hold")
        d.until(lambda: d.stage(job, "train")["state"] == "ready", seconds=60)
        step = max(c["step"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
                   if c["stage"] == "train")
        d.post(f"/v1/jobs/{job}/release")
        j = d.until_state(job, *harness.FINAL, seconds=120)
        self.assertEqual((j["state"], j["stages"][1]["attempts"]), ("done", 2), j)
        hello = [e["data"] for e in d.events() if e["type"] == "attempt.hello"
                 and e["stage"] == j["stages"][1]["id"]]
        self.assertEqual(hello[1]["resumed_from"], step)

    def test_a_model_that_cannot_be_used_fails_once_and_says_what(self):
        d = self.dhad
        model = os.path.join(d.dir, "bad")
        shutil.copytree(MODEL, model)
        with open(os.path.join(model, "model.safetensors"), "r+b") as f:
            f.truncate(1000)
        job = self.submit(model=model)
        j = d.until_state(job, *harness.FINAL, seconds=60)
        self.assertEqual((j["state"], j["error"]["code"]), ("failed", "bad_input"), j["error"])
        self.assertIn("model.safetensors", j["error"]["message"])
        r = d.get(f"/v1/jobs/{job}/logs?rank=0")
        self.assertIn(b"model.safetensors", r.raw)  # in its own file, not in mpirun's
        self.assertEqual(r.headers["X-Dha-Ranks"], "2")
        self.assertNotIn(b"model.safetensors", d.get(f"/v1/jobs/{job}/logs").raw)
        self.assertEqual(j["stages"][0]["attempts"], 1)


if __name__ == "__main__":
    harness.main()
