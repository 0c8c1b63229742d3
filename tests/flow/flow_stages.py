"""Stages as functions of their inputs, and what becomes of them when things go wrong or users step in."""
import json
import os
import shutil
import time
import unittest

import harness


def events_of(dhad, job, *types):
    return [e for e in dhad.events() if e["job"] == job and e["type"] in types]


class Reuse(harness.Case):
    def test_an_equal_job_runs_nothing_again(self):
        d = self.dhad
        a = d.submit("a")
        ja = d.until_state(a, "done")
        b = d.submit("b")  # the name is no input
        jb = d.until_state(b, *harness.FINAL)
        self.assertEqual(jb["state"], "done")
        for sa, sb in zip(ja["stages"], jb["stages"]):
            self.assertEqual(sb["state"], "reused")
            self.assertEqual(sb["reused_from"], {"job": a, "stage": sa["id"]})
            self.assertEqual(sb["key"], sa["key"])
        same = ("loss", "key_heads", "checkpoint", "curve", "kv_bytes_per_token")
        self.assertEqual({k: ja["result"][k] for k in same}, {k: jb["result"][k] for k in same})

    def test_changing_train_tokens_starts_at_train(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        b = d.submit("b", tokens={"train": 5000})
        j = d.until_state(b, "done")
        self.assertEqual([s["state"] for s in j["stages"]],
                         ["reused", "reused", "done", "done", "done"])

    def test_a_file_that_was_rewritten_is_another_input(self):
        d = self.dhad
        d.until_state(d.submit("a"), "done")
        with open(d.data, "wb") as f:
            f.write(bytes(2000))
        j = d.until_state(d.submit("b"), "done")
        self.assertEqual(j["stages"][0]["state"], "done")

    def test_a_file_that_changes_while_its_job_waits_fails_the_job(self):
        d = self.dhad
        a = d.submit("search.sleep=30", resources={"ranks": 4})
        d.until_running(a, "search")
        b = d.submit("b", seed=2)
        with open(d.data, "ab") as f:
            f.write(b"more")
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        j = d.until_state(b, *harness.FINAL)
        self.assertEqual((j["state"], j["error"]["code"]), ("failed", "bad_input"))
        self.assertIn("submit the job again", j["error"]["hint"])
        self.assertEqual(d.launches(b, "search"), [])

    def test_a_file_that_is_gone_when_its_job_starts_is_named(self):
        d = self.dhad
        shard, index, other = (os.path.join(d.model, n) for n in ("model-2.safetensors", "model.safetensors.index.json", "t.model"))
        config = os.path.join(d.model, "config.json")

        def fail(path, seed, hide=os.unlink):
            for f, text in ((shard, "w"), (other, "t"), (config, "{}"), (d.data, "x" * 2000),
                            (index, json.dumps({"weight_map": {"a": os.path.basename(shard)}}))):
                with open(f, "w") as out:
                    out.write(text)
            time.sleep(0.05)  # times of files are not as fine as the clock
            job = d.post("/v1/jobs", {"spec": d.spec("gone", seed=seed), "hold": True}).json["job"]["id"]
            time.sleep(0.05)
            hide(path)
            d.post(f"/v1/jobs/{job}/release")
            j = d.until_state(job, *harness.FINAL)
            self.assertEqual((j["state"], j["error"]["code"]), ("failed", "bad_input"))
            self.assertEqual(d.get(f"/v1/jobs/{job}/explain").json["unblock"], j["error"]["hint"], "and is said once")
            return j["error"]["message"], j["error"]["hint"]
        for seed, path in enumerate((d.data, config, shard), 2):
            message, hint = fail(path, seed)
            self.assertEqual(message, f"{path} is gone; it was there when the job was submitted")
            self.assertEqual(hint, "put it back and submit the job again")
        self.assertEqual(fail(config, 5, lambda p: open(p, "a").close() or os.utime(p))[0],
                         f"{config} was changed after the job was submitted")
        self.assertIn(f"a file of the model directory {d.model} was removed", fail(other, 6)[0])
        self.assertIn(f"the model directory {d.model} is gone", fail(d.model, 7, shutil.rmtree)[0])

    def test_output_that_is_gone_is_made_again(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        shutil.rmtree(os.path.join(d.stage_dir(a, "fuse"), "out"))
        b = d.submit("b")
        j = d.until_state(b, "done")
        self.assertEqual([s["state"] for s in j["stages"]],
                         ["reused", "done", "reused", "reused", "reused"])

    def weights(self, job, kind):
        return os.path.join(self.dhad.stage_dir(job, kind), "out", "model", "model.safetensors")

    def assert_said(self, job, path):
        """An event of the job and one line of the log name the file."""
        ev, = events_of(self.dhad, job, "stage.damaged")
        self.assertEqual(ev["data"]["file"], path)
        self.assertIn("has 3000 bytes; it had 5000", ev["data"]["message"])
        with open(os.path.join(self.dhad.state, "dhad.log")) as f:
            lines = [n for n in f if path in n and f"job {job}: the output of" in n]
        self.assertEqual(len(lines), 1, lines)

    def test_damaged_output_is_not_reused(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        os.truncate(self.weights(a, "fuse"), 3000)
        dry = d.post("/v1/jobs", {"spec": d.spec("b", tokens={"train": 5000}), "dry_run": True})
        self.assertEqual([bool(s["reused_from"]) for s in dry.json["stages"]],
                         [True, False, False, False, False])
        b = d.submit("b", tokens={"train": 5000})
        j = d.until_state(b, *harness.FINAL)
        self.assertEqual([s["state"] for s in j["stages"]],
                         ["reused", "done", "done", "done", "done"])
        self.assertEqual(os.path.getsize(self.weights(b, "fuse")), 5000)
        self.assert_said(b, self.weights(a, "fuse"))
        c = d.submit("c", tokens={"train": 6000})
        j = d.until_state(c, "done")
        self.assertEqual(j["stages"][1]["reused_from"]["job"], b, "the whole one is taken")

    def test_a_retry_makes_its_own_damaged_input_again(self):
        d = self.dhad
        job = d.submit("train.fail=bad_input:1")
        d.until_state(job, "failed")
        os.truncate(self.weights(job, "fuse"), 3000)
        self.assertEqual(d.post(f"/v1/jobs/{job}/retry").status, 200)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 2, 2, 1, 1])
        self.assertEqual(os.path.getsize(self.weights(job, "fuse")), 5000)
        self.assert_said(job, self.weights(job, "fuse"))

    def test_a_retry_runs_what_it_reused_if_that_was_damaged_since(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        b = d.submit("train.fail=bad_input:1", tokens={"train": 5000})
        d.until_state(b, "failed")
        os.truncate(self.weights(a, "fuse"), 3000)
        d.post(f"/v1/jobs/{b}/retry")
        j = d.until_state(b, *harness.FINAL)
        self.assertEqual([s["state"] for s in j["stages"]],
                         ["reused", "done", "done", "done", "done"])
        self.assertEqual(os.path.getsize(self.weights(a, "fuse")), 3000, "another job's is left alone")

    def test_what_lies_between_a_damaged_stage_and_its_reader_runs_again(self):
        d = self.dhad
        job = d.submit("export.fail=bad_input:1")
        d.until_state(job, "failed")
        os.truncate(self.weights(job, "train"), 3000)
        d.post(f"/v1/jobs/{job}/retry")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 1, 2, 2, 2])

    def test_two_jobs_share_one_running_search(self):
        d = self.dhad
        a = d.submit("search.sleep=1.5")
        d.until_running(a, "search")
        b = d.submit("second", budget=0.5)
        s = d.stage(b, "search")
        self.assertEqual((s["state"], s["waits_for"]), ("ready", a))
        x = d.get(f"/v1/jobs/{b}/explain").json
        self.assertIn(f"job {a}", x["reason"])
        self.assertTrue(x["unblock"])
        jb = d.until_state(b, "done")
        d.until_state(a, "done")
        self.assertEqual(jb["stages"][0]["state"], "reused")
        self.assertEqual(jb["stages"][0]["reused_from"]["job"], a)
        self.assertEqual(jb["stages"][1]["state"], "done")
        self.assertEqual(len(d.launches(a, "search")) + len(d.launches(b, "search")), 1)

    def test_who_waited_for_a_stage_that_fails_runs_its_own(self):
        d = self.dhad
        a = d.submit("search.sleep=30")
        d.until_running(a, "search")
        b = d.submit("second", budget=0.5)
        self.assertEqual(d.stage(b, "search")["waits_for"], a)
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        d.until_state(a, "cancelled")
        jb = d.until_state(b, "done")
        self.assertEqual(jb["stages"][0]["state"], "done")


class Sweep(harness.Case):
    def test_a_sweep_of_budgets_runs_one_search(self):
        d = self.dhad
        r = d.post("/v1/sweeps", {"spec": d.spec("s"), "name": "five",
                                  "budgets": [0.5, 0.375, 0.25], "methods": ["spectral", "gqa"]})
        self.assertEqual(r.status, 201, r)
        sweep = r.json["sweep"]
        self.assertEqual([(j["method"], j["budget"]) for j in sweep["jobs"]],
                         [(m, b) for m in ("spectral", "gqa") for b in (0.5, 0.375, 0.25)])
        self.assertEqual(len({j["name"] for j in sweep["jobs"]}), 6)
        for j in sweep["jobs"]:
            self.assertEqual(d.until_state(j["id"], *harness.FINAL)["state"], "done")
            self.assertEqual(d.job(j["id"])["sweep"], sweep["id"])
        runs = [j["id"] for j in sweep["jobs"] if d.launches(j["id"], "search")]
        self.assertEqual(len(runs), 1, "one search for all budgets")
        got = d.get(f"/v1/sweeps/{sweep['id']}").json["sweep"]
        self.assertEqual({j["result"]["loss"]["final"] for j in got["jobs"]}, {2.75})
        self.assertEqual([s["name"] for s in d.get("/v1/sweeps").json["sweeps"]], ["five"])

    def test_equal_points_are_one_job_and_names_are_the_sweeps(self):
        d = self.dhad
        r = d.post("/v1/sweeps", {"spec": d.spec("s"), "name": "five", "methods": ["gqa", "gqa"],
                                  "budgets": [0.5, 1 / 3, 0.5]})
        self.assertEqual(r.status, 201, r)
        self.assertEqual([j["name"] for j in r.json["sweep"]["jobs"]],
                         ["five-gqa-50", "five-gqa-33.3"])
        r = d.post("/v1/sweeps", {"spec": d.spec("s"), "budgets": [0.25]})
        self.assertEqual([j["name"] for j in r.json["sweep"]["jobs"]], ["s-25"])

    def test_one_bad_point_submits_nothing(self):
        d = self.dhad
        r = d.post("/v1/sweeps", {"spec": d.spec("s"), "budgets": [0.5, 7]})
        self.assert_error(r, 422, "invalid_spec")
        self.assertIn("point 2 of 2", r.json["error"]["message"])
        self.assertEqual(d.get("/v1/jobs").json["jobs"], [])
        self.assertEqual(d.get("/v1/sweeps").json["sweeps"], [])


class Failure(harness.Case):
    def test_the_users_fault_is_not_retried(self):
        d = self.dhad
        job = d.submit("fuse.fail=bad_input")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "failed")
        s = j["stages"][1]
        self.assertEqual((s["state"], s["attempts"]), ("failed", 1))
        self.assertEqual(s["error"], {"code": "bad_input", "message": "told to fail",
                                      "hint": "do not tell it to"})
        self.assertEqual(j["result"]["error"]["code"], "bad_input")
        self.assertEqual(j["stages"][2]["state"], "pending")

    def test_explain_advises_a_retry_only_where_it_helps(self):
        d = self.dhad
        user, spent, good = (d.submit(n, seed=i) for i, n in enumerate(
            ("search.fail=bad_input", "search.sleep=60", "good"), 1))
        slow = d.submit("search.sleep=60", seed=9, resources={"ranks": 1, "walltime": "1s"})
        d.post(f"/v1/jobs/{spent}/cancel", {"now": True})
        for job in (user, spent, good, slow):
            d.until_state(job, *harness.FINAL)
        x = {j: d.get(f"/v1/jobs/{j}/explain").json for j in (user, spent, good, slow)}
        self.assertEqual(x[user]["reason"], "search failed: told to fail")
        self.assertEqual(x[user]["unblock"],
                         "do not tell it to; submit it again with the mistake mended (dha submit)")
        self.assertEqual(x[spent]["unblock"], f"dha retry {spent}")
        self.assertTrue(x[slow]["unblock"].endswith(f"; then dha retry {slow}"), x[slow])
        self.assertEqual((x[good]["reason"], x[good]["unblock"]),
                         ("all its stages are complete", ""))

    def test_an_infrastructure_fault_gets_another_attempt(self):
        d = self.dhad
        job = d.submit("fuse.fail=io_error:1")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual(j["stages"][1]["attempts"], 2)
        self.assertIsNone(j["stages"][1]["error"])
        self.assertEqual(len(d.launches(job, "fuse")), 2)

    def test_infrastructure_faults_end_after_three_more_attempts(self):
        d = self.dhad
        job = d.submit("search.fail=io_error")
        d.until(lambda: d.stage(job, "search")["attempts"] == 2)
        x = {}

        def explained():
            x.update(d.get(f"/v1/jobs/{job}/explain").json)
            return "told to fail" in x["reason"]
        d.until(explained)
        j = d.until_state(job, *harness.FINAL, seconds=40)
        self.assertEqual(j["state"], "failed")
        self.assertEqual(j["stages"][0]["attempts"], 4)
        times = [int(e["time_us"]) for e in d.events()
                 if e["type"] == "attempt.end" and e["job"] == job]
        gaps = [(b - a) / 1e6 for a, b in zip(times, times[1:])]
        self.assertTrue(all(g > w for g, w in zip(gaps, (1, 2, 4))), gaps)

    def test_a_stage_that_found_the_disk_full_says_where_and_how_full(self):
        d = self.dhad
        job = d.submit("search.fail=no_space")
        told = d.until(lambda: (x := d.get(f"/v1/jobs/{job}/explain").json)["verdict"] == "backoff" and x)
        where = os.path.join(d.stage_dir(job, "search"), "a")
        self.assertIn(f"if it fails again: free space first: the disk of {where}", told["unblock"])
        j = d.until_state(job, "failed", seconds=60)
        self.assertRegex(j["error"]["hint"], f"^free space first: the disk of {where}4 had [0-9]+ MiB free when it ended; do not tell it to$")
        fs = os.statvfs(d.state)
        free = int(j["error"]["hint"].split(" MiB")[0].split()[-1])
        self.assertTrue(free <= fs.f_blocks * fs.f_frsize >> 20, free)
        self.assertEqual(d.get(f"/v1/jobs/{job}/explain").json["unblock"],
                         f"dha logs {job} --stage search shows what was said; {j['error']['hint']}; then dha retry {job}")

    def test_a_worker_that_dies_without_a_word_is_an_infrastructure_fault(self):
        d = self.dhad
        job = d.submit("search.die=11:1 train.exit=1:1 eval.exit=0:1")
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual([s["attempts"] for s in j["stages"]], [2, 1, 2, 2, 1])
        ends = [e["data"] for e in events_of(d, job, "attempt.end")]
        self.assertIn("signal 11", str(ends))

    def test_an_exit_status_of_our_table_is_understood(self):
        d = self.dhad
        j = d.until_state(d.submit("search.exit=80"), *harness.FINAL)
        self.assertEqual(j["error"]["code"], "diverged")
        self.assertEqual(j["stages"][0]["attempts"], 1)

    def test_what_an_attempt_leaves_running_is_killed_before_its_slots_are_free(self):
        d = self.dhad
        job = d.submit("search.litter=1")
        d.until_state(job, "done")
        self.assertEqual(d.stray(), [])
        with open(os.path.join(d.stage_dir(job, "search"), "a1", "exit.json")) as f:
            self.assertIn('"swept":1', f.read())

    def test_retry_goes_on_where_it_failed(self):
        d = self.dhad
        job = d.submit("train.fail=bad_input:1")
        d.until_state(job, "failed")
        r = d.post(f"/v1/jobs/{job}/retry")
        self.assertEqual(r.status, 200)
        self.assertIn(r.json["job"]["state"], ("queued", "running"))
        j = d.until_state(job, "done")
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 1, 2, 1, 1])
        self.assert_error(d.post(f"/v1/jobs/{job}/retry"), 409, "conflict")

    def test_walltime_ends_a_stage_with_a_checkpoint(self):
        d = self.dhad
        job = d.submit("train.sleep=60", resources={"ranks": 2, "walltime": "1s"})
        j = d.until_state(job, *harness.FINAL, seconds=40)
        self.assertEqual((j["state"], j["error"]["code"]), ("failed", "timeout"))
        self.assertEqual(j["stages"][2]["attempts"], 1)
        stages = [c["stage"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]]
        self.assertIn("train", stages)


class Watchdog(harness.Case):
    args = ("--stall", "2")

    def test_a_frozen_step_is_another_attempt(self):
        d = self.dhad
        job = d.submit("train.sleep=3 train.freeze=1:1")  # attempt 2 takes longer than the limit, but moves
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 2))
        ends = [e["data"] for e in events_of(d, job, "attempt.end")]
        self.assertIn("the limit is 2 s (setting stall_s)", str(ends))

    def test_a_frozen_and_deaf_worker_is_killed(self):
        d = self.dhad
        job = d.submit("train.sleep=0.3 train.freeze=1:1 train.deaf=1:1 train.litter=1:1")
        j = d.until_state(job, *harness.FINAL, seconds=40)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 2))
        self.assertEqual(d.stray(), [])


class LearnedWatchdog(harness.Case):
    """The bound is an hour: who is ended within a test was ended by what was learned of its pace."""
    args = ("--stall-min", "1")

    def test_a_frozen_step_is_ended_by_the_pace_of_those_before_it(self):
        d = self.dhad
        job = d.submit("train.sleep=9 train.freezeat=160:1")
        d.until_running(job, "train")
        said = d.until(lambda: (r := d.get(f"/v1/jobs/{job}/explain").json["reason"]) and
                       "10 times the longest before it" in r and r)
        self.assertRegex(said, r"its processes are at work: it has been at step \d+ of 180 for \d+ s, and counts as frozen after \d+ s")
        j = d.until_state(job, *harness.FINAL, seconds=200)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 2))
        e, = (e["data"] for e in events_of(d, job, "attempt.stalled"))
        self.assertEqual(e["what"], "step 160 of 180")
        self.assertGreater(e["frozen_s"], e["limit_s"])
        self.assertLess(e["limit_s"], 3600)
        self.assertIn("10 times the longest before it", e["limit_from"])
        ends = [e["data"] for e in events_of(d, job, "attempt.end")]
        self.assertIn("step 160 of 180 made no progress for", str(ends))

    def test_slow_and_steady_steps_are_let_be(self):
        d = self.dhad
        job = d.submit("train.sleep=24 train.pace=2")
        j = d.until_state(job, *harness.FINAL, seconds=120)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 1))
        self.assertEqual(events_of(d, job, "attempt.stalled"), [])


class WatchdogByKind(harness.Case):
    def setUp(self):
        super().setUp()
        self.dhad.stop()
        path = os.path.join(self.dhad.dir, "dhad.json")
        with open(path, "w") as f:
            json.dump({"stall_s": 0, "stall_train_s": 2}, f)
        self.dhad.args = ["--config", path]
        self.dhad.start()

    def test_each_kind_of_stage_has_its_limit(self):
        d = self.dhad
        job = d.submit("search.sleep=6 search.freeze=1 train.sleep=3 train.freeze=1:1")
        d.until_running(job, "search")
        self.assertIn("(setting stall_s is 0)", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        time.sleep(4)  # longer than the limit of the other kind
        self.assertEqual(d.stage(job, "search")["state"], "running")
        self.assertEqual(events_of(d, job, "attempt.stalled"), [])
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")
        job = d.submit("train.sleep=3 train.freeze=1:1", seed=2)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], j["stages"][2]["attempts"]), ("done", 2))
        e, = (e["data"] for e in events_of(d, job, "attempt.stalled"))
        self.assertEqual((e["limit_s"], e["limit_from"]), (2, "setting stall_train_s"))


class Cancel(harness.Case):
    slots = 2

    def test_a_queued_job_is_cancelled_at_once(self):
        d = self.dhad
        a = d.submit("sleep=30")
        b = d.submit("b", seed=2)
        d.until_running(a, "search")
        j = d.post(f"/v1/jobs/{b}/cancel", {"reason": "not needed"}).json["job"]
        self.assertEqual((j["state"], j["cancel_reason"]), ("cancelled", "not needed"))
        self.assertEqual({s["state"] for s in j["stages"]}, {"cancelled"})
        self.assert_error(d.post(f"/v1/jobs/{b}/cancel"), 409, "conflict")

    def test_a_running_job_is_asked_to_checkpoint_and_leaves_nothing(self):
        d = self.dhad
        job = d.submit("train.sleep=60")
        d.until_running(job, "train")
        begin = time.time()
        j = d.post(f"/v1/jobs/{job}/cancel").json["job"]
        self.assertTrue(j["cancelling"] or j["state"] == "cancelled")
        j = d.until_state(job, "cancelled")
        self.assertLess(time.time() - begin, 10, "no need to wait for the grace")
        self.assertEqual(d.stray(), [])
        self.assertEqual([s["state"] for s in j["stages"]],
                         ["done", "done", "cancelled", "cancelled", "cancelled"])
        c = d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
        self.assertEqual([x["stage"] for x in c], ["fuse", "train"])

    def test_a_deaf_worker_with_litter_is_killed_now(self):
        d = self.dhad
        job = d.submit("search.sleep=60 search.deaf=1 search.litter=1")
        d.until_running(job, "search")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=10)
        self.assertEqual(d.stray(), [])
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual({s["attempt"] for s in node["slots"]}, {None})

    def test_the_grace_ends_a_deaf_worker(self):
        d = self.dhad
        job = d.submit("search.sleep=90 search.deaf=1")
        d.until_running(job, "search")
        begin = time.time()
        d.post(f"/v1/jobs/{job}/cancel")
        self.assertIn("cancelled", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        d.until_state(job, "cancelled", seconds=35)
        self.assertGreater(time.time() - begin, 15)

    def test_cancel_now_overtakes_a_cancel_in_grace(self):
        d = self.dhad
        job = d.submit("search.sleep=90 search.deaf=1")
        d.until_running(job, "search")
        d.post(f"/v1/jobs/{job}/cancel")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=10)

    def test_a_cancelled_job_can_be_retried(self):
        d = self.dhad
        job = d.submit("train.sleep=1.5")
        d.until_running(job, "train")
        d.post(f"/v1/jobs/{job}/cancel")
        d.until_state(job, "cancelled")
        d.post(f"/v1/jobs/{job}/retry")
        j = d.until_state(job, "done")
        self.assertEqual([s["attempts"] for s in j["stages"]], [1, 1, 2, 1, 1])


class Hold(harness.Case):
    slots = 2

    def test_a_held_job_waits_and_a_released_one_runs(self):
        d = self.dhad
        a = d.submit("sleep=30")
        b = d.submit("b", seed=2)
        self.assertEqual(d.post(f"/v1/jobs/{b}/hold").json["job"]["state"], "held")
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        d.until_state(a, "cancelled")
        time.sleep(0.5)
        self.assertEqual(d.job(b)["state"], "held")
        self.assertIn("release", d.get(f"/v1/jobs/{b}/explain").json["unblock"])
        self.assertEqual(d.post(f"/v1/jobs/{b}/release").status, 200)
        d.until_state(b, "done")

    def test_holding_a_running_job_checkpoints_it_and_counts_no_retry(self):
        d = self.dhad
        job = d.submit("train.sleep=2")
        d.until_running(job, "train")
        self.assertEqual(d.post(f"/v1/jobs/{job}/hold").json["job"]["state"], "held")
        d.until(lambda: d.stage(job, "train")["state"] == "ready")
        self.assertEqual(d.job(job)["state"], "held")
        self.assertEqual(d.stray(), [])
        d.post(f"/v1/jobs/{job}/release")
        j = d.until_state(job, "done")
        self.assertEqual(j["stages"][2]["attempts"], 2)


    def test_what_goes_on_from_a_checkpoint_is_not_at_step_1(self):
        d = self.dhad
        job = d.submit("train.sleep=60 train.late=4")
        d.until_running(job, "train")
        self.assertIn("step ", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        d.post(f"/v1/jobs/{job}/hold")
        d.until(lambda: d.stage(job, "train")["state"] == "ready")
        ckpt, = [c["step"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"] if c["stage"] == "train"]
        d.post(f"/v1/jobs/{job}/release")
        s = d.until(lambda: (s := d.stage(job, "train"))["state"] == "running" and s)
        self.assertEqual((s["progress"]["step"], s["progress"]["steps"], s["progress"]["tokens_per_s"]), (ckpt, 1200, None))
        self.assertIn("it has been at its start for", d.get(f"/v1/jobs/{job}/explain").json["reason"])
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")


class LongRun(harness.Case):
    def test_faults_between_which_it_got_further_do_not_add_up(self):
        """One killed rank a week must not end a stage of months: only those in a row count."""
        d = self.dhad
        job = d.submit("train.sleep=1 train.ckpts=6 train.dielate=1:5")
        j = d.until_state(job, *harness.FINAL, seconds=90)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual(next(s for s in j["stages"] if s["kind"] == "train")["attempts"], 6)
        stuck = d.submit("train.die=9:5", seed=2)  # nothing between them
        j = d.until_state(stuck, *harness.FINAL, seconds=90)
        self.assertEqual((j["state"], next(s for s in j["stages"] if s["kind"] == "train")["attempts"]), ("failed", 4))


class Order(harness.Case):
    slots = 2

    def test_priority_goes_before_age_and_explain_says_who_is_before(self):
        d = self.dhad
        a = d.submit("search.sleep=1.5")
        d.until_running(a, "search")
        b = d.submit("b", seed=2)
        c = d.submit("c", seed=3, priority=5)
        e = d.submit("e", seed=4)
        d.post(f"/v1/jobs/{e}/priority", {"priority": 9})
        xb, xe = (d.get(f"/v1/jobs/{i}/explain").json for i in (b, e))
        self.assertIn(f"behind job {e}", xb["reason"])
        self.assertIn("first in line", xe["reason"])
        self.assertEqual(xe["unblock"], f"the end of what runs: job {a} (dha watch {a}); or dha hold {a}: it checkpoints"
                         " and gives way")
        for i in (a, b, c, e):
            d.until_state(i, "done")
        starts = {}
        for ev in d.events():
            if ev["type"] == "job.state" and ev["data"].get("to") == "running":
                starts[ev["job"]] = int(ev["seq"])
        self.assertLess(starts[e], starts[c])
        self.assertLess(starts[c], starts[b])

    def test_a_short_job_overtakes_where_it_delays_nobody(self):
        d = self.dhad
        a = d.submit("search.sleep=3", resources={"ranks": 1, "walltime": "5m"})
        d.until_running(a, "search")
        b = d.submit("b", seed=2, resources={"ranks": 2, "walltime": "1h"})  # first in line
        long = d.submit("long", seed=3, resources={"ranks": 1, "walltime": "1h"})
        free = d.submit("free", seed=4, resources={"ranks": 1})
        short = d.submit("short", seed=5, resources={"ranks": 1, "walltime": "2m"})
        d.until_state(short, "running", "done")
        self.assertEqual([d.job(i)["state"] for i in (b, long, free)], ["queued"] * 3)
        xb, xl, xf = (d.get(f"/v1/jobs/{i}/explain").json for i in (b, long, free))
        self.assertEqual(xb["verdict"], "slots_busy")
        self.assertIn("first in line", xb["reason"])
        # a started at most seconds ago: its five minutes and the half one that its stop may take
        in_s = int(xb["starts_by_us"]) / 1e6 - time.time()
        self.assertTrue(300 < in_s <= 331, in_s)
        self.assertIn("at the latest", xb["reason"])
        self.assertEqual(xl["verdict"], "slots_busy")  # while `short` runs
        d.until_state(short, "done")
        xl, xf = (d.get(f"/v1/jobs/{i}/explain").json for i in (long, free))
        for x in (xl, xf):
            self.assertEqual(x["verdict"], "behind", x)
            self.assertIn(f"behind job {b}", x["reason"])
            self.assertIn("walltime", x["unblock"])
            self.assertTrue(240 < x["walltime_to_start_s"] <= 300, x)
        # what it says is so
        plan = d.post("/v1/jobs", {"dry_run": True, "spec": d.spec("p", seed=6, resources={
            "ranks": 1, "walltime": xl["walltime_to_start_s"] - 5})}).json
        self.assertEqual(plan["now"]["verdict"], "start", plan)
        self.assertEqual(len(plan["now"]["slots"]), 1, plan)
        self.assertGreater(int(plan["disk_free"]), 0)
        plan = d.post("/v1/jobs", {"dry_run": True, "spec": d.spec("p", seed=6, resources={
            "ranks": 1, "walltime": xl["walltime_to_start_s"] + 5})}).json
        self.assertEqual((plan["now"]["verdict"], plan["now"]["slots"]), ("behind", []), plan)
        for i in (a, b, long, free):
            d.until_state(i, "done")

    def test_a_job_waits_for_another_ones_end(self):
        d = self.dhad
        bad = d.submit("search.fail=spec", seed=8)
        d.until_state(bad, "failed")
        a = d.submit("search.sleep=1")
        def after(name, seed, *conditions, **more):
            return d.post("/v1/jobs", {"spec": d.spec(name, seed=seed), "after": conditions, **more})
        b = after("b", 2, f"ok:{a}", f"any:{bad}").json["job"]
        self.assertEqual(b["after"], [{"job": bad, "when": "any", "state": "failed"},
                                      {"job": a, "when": "ok", "state": d.job(a)["state"]}])
        never = after("never", 3, f"ok:{bad}").json["job"]["id"]
        held = after("held", 4, hold=True).json["job"]
        self.assertEqual(held["state"], "held")
        x = d.get(f"/v1/jobs/{b['id']}/explain").json
        self.assertEqual(x["verdict"], "depends", x)
        self.assertIn(f"end of job {a}", x["reason"])
        d.until_state(a, "done")
        d.until_state(b["id"], "done")
        self.assertEqual(d.job(never)["state"], "queued")
        self.assertIn(f"dha retry {bad}", d.get(f"/v1/jobs/{never}/explain").json["unblock"])
        plan = after("p", 5, f"ok:{never}", dry_run=True).json
        self.assertEqual(plan["now"]["verdict"], "depends")
        # what is no condition is refused, and nothing is left of it
        n = len(d.get("/v1/jobs").json["jobs"])
        for dry in ({}, {"dry_run": True}):  # a condition that is not met hides no other, and all are told at once
            r = after("p", 6, "ok:999", f"ok:{never}", "any:998", **dry)
            self.assert_error(r, 404, "not_found")
            self.assertEqual([x["path"] for x in r.json["error"]["errors"]], ["$.after[0]", "$.after[2]"])
            self.assertIn("998", r.json["error"]["errors"][1]["message"])
        for what in ("1", "ok:", "ok:x", "all:1", "ok:-1", 1, None, "any:1.5", "ok:99999999999999999999"):
            self.assert_error(after("p", 6, what), 400, "usage")
        self.assert_error(d.post("/v1/jobs", {"spec": d.spec("p", seed=6), "after": "ok:1"}), 400,
                          "usage")
        self.assert_error(after("p", 6, hold=1), 400, "usage")
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), n)
        for job in (never, held["id"]):
            d.post(f"/v1/jobs/{job}/cancel")

    def test_a_job_that_waits_takes_nothing_before_it_may(self):
        """What is done already is taken when the conditions are met, and not before: until then it is queued like any other."""
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        b = d.submit("search.sleep=2", seed=2)

        def after(name, *conditions, **changes):
            r = d.post("/v1/jobs", {"spec": d.spec(name, **changes), "after": conditions})
            self.assertEqual(r.status, 201, r)
            return r.json["job"]["id"]
        same = after("same", f"ok:{a}", f"ok:{b}")
        chain = after("chain", f"any:{same}")
        half = after("half", f"ok:{b}", optim={"lr": 0.5})  # of another training, but of the same search
        at_once = after("at once", f"ok:{a}")
        self.assertEqual(d.job(at_once)["state"], "done")
        for job in (same, chain, half):
            j = d.job(job)
            self.assertEqual((j["state"], {s["state"] for s in j["stages"]}), ("queued", {"pending", "ready"}), j)
            self.assertEqual(d.get(f"/v1/jobs/{job}/explain").json["verdict"], "depends")
        d.post(f"/v1/jobs/{same}/hold")  # what looks again does not take anything, either
        d.post(f"/v1/jobs/{same}/release")
        self.assertEqual({s["state"] for s in d.job(same)["stages"]}, {"pending", "ready"})
        self.assertEqual(d.job(b)["state"], "running")
        d.until_state(b, "done")
        for job in (same, chain):
            j = d.until_state(job, "done")
            self.assertEqual({(s["state"], s["attempts"]) for s in j["stages"]}, {("reused", 0)}, j)
        events = d.get(f"/v1/events?limit=1000").json["events"]
        ends = [e["job"] for e in events if e["type"] == "job.state" and e["data"].get("to") == "done"]
        self.assertEqual(ends.index(b) + 1, ends.index(same))
        self.assertEqual(ends.index(same) + 1, ends.index(chain))
        j = d.until_state(half, "done")
        self.assertEqual(j["stages"][0]["state"], "reused")
        self.assertIn("done", {s["state"] for s in j["stages"]})

    def test_what_waited_for_a_failed_or_cancelled_job_takes_then(self):
        d = self.dhad
        a = d.submit("a")
        d.until_state(a, "done")
        fails, stopped = [d.post("/v1/jobs", {"spec": d.spec(name, seed=seed), "hold": True}).json["job"]["id"]
                          for name, seed in (("search.fail=spec", 2), ("stopped", 3))]
        jobs = [d.post("/v1/jobs", {"spec": d.spec("same"), "after": [f"any:{x}"]}).json["job"]["id"] for x in (fails, stopped)]
        self.assertEqual([d.job(j)["state"] for j in jobs], ["queued"] * 2)
        d.post(f"/v1/jobs/{fails}/release")
        d.until_state(fails, "failed")
        d.until_state(jobs[0], "done")
        d.post(f"/v1/jobs/{stopped}/cancel", {"now": True})
        d.until_state(jobs[1], "done")

    def test_a_drained_node_takes_no_new_work(self):
        d = self.dhad
        name = d.get("/v1/nodes").json["nodes"][0]["name"]
        n = d.post(f"/v1/nodes/{name}/drain", {"reason": "fan"}).json["node"]
        self.assertEqual((n["state"], n["reason"]), ("drained", "fan"))
        job = d.submit()
        time.sleep(0.5)
        self.assertEqual(d.job(job)["state"], "queued")
        x = d.get(f"/v1/jobs/{job}/explain").json
        self.assertIn(f"drained: {name} (fan)", x["reason"])
        self.assertIn(f"dha nodes resume {name}", x["unblock"])
        d.post(f"/v1/nodes/{name}/resume")
        d.until_state(job, "done")


if __name__ == "__main__":
    harness.main()
