"""Jobs by the command line: what is submitted, shown, changed and taken away."""
import json
import os
import unittest

import cli_harness
import harness


class Wild(cli_harness.Case):
    def test_what_a_job_says_sends_the_terminal_nothing(self):
        job = self.submit("bad train.fail=diverged train.wild=1")
        self.dhad.until_state(job, "failed")
        for command in ("show", "explain"):
            r = self.ok(command, job)
            self.assertIn("told to fail\\x1b]0;pwn\\x07\\x0aforged line\\x7f\\x9b2J", r.out)
        for args in (("show", job), ("explain", job), ("list",), ("watch", job), ("events",), ("logs", job), ("show", job, "--json"),
                     ("events", "--json"), ("list", "--json")):
            r = self.dha(*args)
            self.assertNotRegex(r.out + r.err, "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]", args)
            self.assertNotRegex(r.out + r.err, "(?m)^forged", args)
        self.assertEqual(self.ok("show", job, "--json").json["error"]["message"], self.dhad.job(job)["error"]["message"])
        self.assertIn("fail\033]0;pwn\007\nforged line\x7f\u009b2J", self.dhad.job(job)["error"]["message"])
        with open(os.path.join(self.dhad.state, "dhad.log"), newline="") as f:
            text = f.read()
        self.assertIn("told to fail\\x1b]0;pwn\\x07 forged line\\x7f\\x9b2J", text)
        self.assertNotRegex(text, "[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")


class Submit(cli_harness.Case):
    def test_the_id_alone_goes_to_stdout(self):
        r = self.ok("submit", self.spec_file())
        self.assertRegex(r.out, r"^\d+\n$")
        self.assertEqual(r.err, "")
        self.dhad.until_state(r.out.strip(), "done")

    def test_what_the_nodes_that_take_work_do_not_hold_is_taken_and_said(self):
        node = self.dhad.get("/v1/nodes").json["nodes"][0]["name"]
        path = self.spec_file()
        sweep = ("sweep", "create", path, "--budget", "0.5,0.25", "--method", "gqa")
        for args in (("submit", path, "--dry-run"), (*sweep, "--dry-run")):
            self.assertNotIn("as things are", (r := self.ok(*args)).err, r)
            self.assertNotIn("not on the nodes", r.out)
        self.ok("nodes", "drain", node, "--reason", "fan broken")
        help = f"what would help: when the node is fit again: dha nodes resume {node}"
        for args, whose in ((("submit", path), "job 1"), (("submit", path, "--json"), "job 2"), (sweep, "job 3"),
                            ((*sweep, "--dry-run"), "the sweep")):
            r = self.ok(*args)
            self.assertRegex(r.err, f"^dha: {whose} cannot start as things are: .* needs 2 slots, and every node that has them is")
            self.assertIn(f"drained: {node} (fan broken)\n{help}\n", r.err)
            self.assertEqual(r.err.count("\n"), 2, "once for all")
        self.assertIn("(there is a place for it, but not on the nodes that take work now)", self.ok("submit", path, "--dry-run").out)
        self.assertEqual(self.ok("submit", path, "--hold").err, "")
        self.ok("nodes", "resume", node)
        self.assertEqual(self.ok("submit", path).err, "")

    def test_relative_paths_are_relative_to_the_spec(self):
        folder = os.path.join(self.dhad.dir, "specs")
        os.mkdir(folder)
        path = self.spec_file(path=os.path.join(folder, "s.json"), model="../model",
                              data={"train": ["../train.u16"], "seq_len": 16})
        for where, name in ((folder, "s.json"), (self.dhad.dir, "specs/s.json"), ("/", path)):
            job = self.ok("submit", name, cwd=where).out.strip()
            spec = self.dhad.job(job)["spec"]
            self.assertTrue(os.path.samefile(spec["model"], self.dhad.model))
            self.assertTrue(os.path.samefile(spec["data"]["train"][0], self.dhad.data))

    def test_a_spec_may_come_from_standard_input(self):
        text = json.dumps(self.dhad.spec("piped", model="model"))
        job = self.ok("submit", "-", stdin=text).out.strip()
        self.assertEqual(self.dhad.job(job)["name"], "piped")

    def test_set_changes_fields_and_their_types(self):
        job = self.ok("submit", self.spec_file(), "--set", "budget=0.5", "--set", "optim.lr=1e-4",
                      "--set", "name=other").out.strip()
        j = self.dhad.job(job)
        self.assertEqual((j["name"], j["spec"]["budget"], j["spec"]["optim"]["lr"]), ("other", 0.5, 1e-4))

    def test_all_errors_of_a_spec_are_printed_at_once(self):
        r = self.fails(64, "submit", self.spec_file(budget=7, bugdet=1, optim={"lr": "x"}))
        for path in ("$.budget", "$.bugdet", "$.optim.lr"):
            self.assertIn(path, r.err)
        self.assertIn('did you mean "budget"', r.err)
        self.assertEqual(r.out, "")
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])

    def test_wrong_paths_are_named(self):
        r = self.fails(64, "submit", self.spec_file(model="nowhere"))
        self.assertIn("$.model", r.err)
        self.assertIn(os.path.join(self.dhad.dir, "nowhere"), r.err)
        self.assertIn("absent.json", self.fails(66, "submit", "absent.json").err)

    def test_what_is_no_json_is_refused_with_the_place(self):
        path = os.path.join(self.dhad.dir, "bad.json")
        with open(path, "w") as f:
            f.write('{"model": "m", "model": "n"}')
        self.assertIn("bad.json", self.fails(76, "submit", path).err)
        self.assertIn("standard input", self.fails(76, "submit", "-", stdin="{").err)

    def test_a_dry_run_shows_the_stages_and_submits_nothing(self):
        r = self.ok("submit", self.spec_file(), "--dry-run")
        for kind in ("search", "fuse", "train", "eval", "export"):
            self.assertIn(kind, r.out)
        self.assertEqual(len(self.ok("submit", self.spec_file(), "--dry-run", "--json").json["stages"]), 5)
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])

    def test_a_dry_run_says_what_would_be_reused(self):
        job = self.submit()
        self.dhad.until_state(job, "done")
        self.assertIn(f"reused from job {job}", self.ok("submit", self.spec_file(), "--dry-run").out)

    @unittest.skipUnless(os.path.exists(os.path.join(harness.BIN, "dha-worker")), "no dha-worker was built")
    def test_a_model_that_cannot_be_read_is_said_before_the_queue(self):
        env = {**self.env, "DHA_NO_CHECK": ""}
        for r in (self.fails(65, "submit", self.spec_file(), env=env),
                  self.fails(65, "submit", self.spec_file(), "--dry-run", env=env),
                  self.fails(65, "sweep", "create", self.spec_file(), "--budget", "0.5", env=env),
                  self.fails(65, "convert", "model", "--data", "train.u16", "--budget", "0.5", "--out", "x",
                             env=env)):
            self.assertIn("config.json", r.err)
            self.assertEqual(r.out, "")
        # What the daemon refuses too is its to say: all errors at once.
        self.assertIn("$.bugdet", self.fails(64, "submit", self.spec_file(budget=7, bugdet=1), env=env).err)
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])
        self.ok("submit", self.spec_file(), "--no-check", env=env)

    def test_the_same_idempotency_key_is_the_same_job(self):
        one = self.ok("submit", self.spec_file(), "--idempotency-key", "k").out
        self.assertEqual(self.ok("submit", self.spec_file(), "--idempotency-key", "k").out, one)

    def test_wait_ends_with_the_job_and_its_outcome(self):
        r = self.ok("submit", self.spec_file(), "--wait")
        self.assertRegex(r.out, r"^\d+\n$")
        self.assertIn("done", r.err)
        r = self.fails(80, "submit", self.spec_file("bad train.fail=diverged", seed=2), "--wait")
        self.assertIn("told to fail", r.err)
        self.assertIn("do not tell it to", r.err)
        self.assertIn("dha logs", r.err)


class Show(cli_harness.Case):
    def test_the_json_is_the_job_document_of_the_contract(self):
        job = self.submit()
        self.dhad.until_state(job, "done")
        j = self.ok("show", job, "--json").json
        self.assertEqual(j, self.dhad.job(job))
        self.assertLessEqual({"id", "name", "state", "spec", "stages", "result"}, j.keys())
        for s in j["stages"]:
            self.assertLessEqual({"id", "kind", "state", "attempt", "reused_from", "progress"}, s.keys())
            self.assertLessEqual({"step", "steps", "tokens", "tokens_per_s", "loss", "eta_s"},
                                 s["progress"].keys())
        self.assertLessEqual({"loss", "tokens_spent", "kv_bytes_per_token", "head_budget", "key_heads",
                              "value_heads", "checkpoint", "error"}, j["result"].keys())

    def test_a_person_reads_losses_cache_and_head_map(self):
        job = self.submit()
        self.dhad.until_state(job, "done")
        text = self.ok("show", job).out
        for part in ("parent 2.5000", "right after conversion 3.5000  (+1.0000)", "final  2.7500  (+0.2500)",
                     "1024 bytes a token, was 4096: 25.0 %", "tokens spent       500",
                     "layer 0   K  a a a a   1 of 4", "          V  a b a b   2 of 4"):
            self.assertIn(part, text)

    def test_reused_stages_say_from_which_job(self):
        first = self.submit()
        self.dhad.until_state(first, "done")
        second = self.submit()
        self.dhad.until_state(second, "done")
        text = self.ok("show", second).out
        self.assertIn(f"search  reused    from job {first}", text)
        self.assertIn("every stage reused", self.ok("watch", second).out)

    def test_a_job_has_a_name_too_and_the_newest_of_that_name_is_meant(self):
        self.submit("mine")
        newest = self.submit("mine")
        self.assertEqual(self.ok("show", "mine", "--json").json["id"], newest)
        self.fails(66, "show", "nobody's")
        self.fails(66, "show", "4711")

    def test_list_shows_and_filters(self):
        self.assertIn("no jobs", self.ok("list").err)
        a = self.submit("good")
        b = self.submit("bad fuse.fail=bad_input", seed=2)
        self.dhad.until_state(a, "done")
        self.dhad.until_state(b, "failed")
        text = self.ok("list").out
        self.assertRegex(text, r"good .* done +2\.7500", "the loss of what is finished")
        self.assertRegex(text, r"failed +bad_input")
        self.assertEqual([j["id"] for j in self.ok("list", "--state", "failed", "--json").json["jobs"]], [b])
        self.assertEqual([j["id"] for j in self.ok("list", "--name", "good", "--json").json["jobs"]], [a])
        r = self.ok("list", "-n", "1")
        self.assertEqual(len(r.out.splitlines()), 2)
        self.assertEqual(r.err, "")
        self.assertIn("older", self.on_terminal("list", "-n", "1")[1])


class Change(cli_harness.Case):
    slots = 2

    def test_a_running_job_is_cancelled_with_a_reason(self):
        job = self.submit("slow train.sleep=30")
        self.dhad.until_running(job, "train")
        r = self.ok("cancel", job, "--reason", "wrong corpus")
        self.assertEqual(r.out, "")
        j = self.dhad.until_state(job, "cancelled")
        self.assertEqual(j["cancel_reason"], "wrong corpus")
        r = self.fails(85, "watch", job)
        self.assertIn("wrong corpus", r.err)
        self.fails(67, "cancel", job)

    def test_a_failed_job_is_retried_from_what_is_finished(self):
        job = self.submit("once train.fail=bad_input:1")
        self.dhad.until_state(job, "failed")
        self.fails(65, "watch", job)
        self.ok("retry", job)
        self.dhad.until_state(job, "done")
        self.assertEqual(len(self.dhad.launches(job, "search")), 1)
        self.assertEqual(len(self.dhad.launches(job, "train")), 2)

    def test_a_job_is_held_released_and_moved_in_the_queue(self):
        running = self.submit("slow search.sleep=30")
        self.dhad.until_running(running, "search")
        waiting = self.submit("waits", seed=2)
        text = self.ok("explain", waiting).out
        self.assertIn("queued", text)
        self.ok("hold", waiting)
        self.assertEqual(self.ok("explain", waiting, "--json").json["state"], "held")
        self.ok("prio", waiting, "7")
        self.ok("prio", "--", waiting, "-3")
        self.assertEqual(self.dhad.job(waiting)["priority"], -3)
        self.ok("release", waiting)
        self.ok("cancel", running, "--now")
        self.dhad.until_state(waiting, "done")


    def test_of_several_jobs_of_a_name_none_is_changed_by_chance(self):
        name = "slow search.sleep=30"
        old, new = self.submit(name), self.submit(name, seed=2)
        for args in (("cancel", name), ("hold", name), ("release", name), ("prio", name, "3"), ("retry", name)):
            r = self.fails(67, *args)
            self.assertIn(f"2 jobs are called '{name}': {new}, {old}\n", r.err)
            self.assertIn("give the id", r.err)
        self.assertEqual([(j["state"] in harness.FINAL, j["priority"]) for j in self.dhad.get("/v1/jobs").json["jobs"]],
                         [(False, 0)] * 2)
        self.assertEqual(self.ok("show", name, "--json").json["id"], new)
        self.ok("cancel", new, "--now")
        self.dhad.until_state(new, "cancelled")
        self.ok("prio", name, "3")
        self.assertEqual(self.dhad.job(old)["priority"], 3, "the one that has not ended")
        self.assertIn("2 jobs", self.fails(67, "retry", name).err)
        self.ok("cancel", name, "--now")
        self.dhad.until_state(old, "cancelled")
        for i in range(4):
            self.submit(name, seed=3 + i)
        self.assertRegex(self.fails(67, "cancel", name).err, "6 jobs .*: 6, 5, 4, 3, 2, \\.\\.\\.\n")
        self.assertEqual({j["state"] in harness.FINAL for j in self.dhad.get("/v1/jobs?limit=4").json["jobs"]}, {False})

    def test_a_job_waits_for_another_one_by_name(self):
        first = self.submit("first search.sleep=30")
        self.dhad.until_running(first, "search")
        spec = self.spec_file("then", seed=2)
        r = self.ok("submit", spec, "--after", "ok:first search.sleep=30", "--dry-run")
        self.assertIn(f"waits for the end of job {first}", r.out)
        job = self.ok("submit", spec, "--after", "ok:first search.sleep=30", "--hold").out.strip()
        self.assertEqual(self.dhad.job(job)["state"], "held")
        self.assertEqual(self.dhad.job(job)["after"][0]["job"], first)
        self.ok("release", job)
        self.assertIn(f"waits for the end of job {first}", self.ok("explain", job).out)
        for wrong in ("first", "done:1", ":1"):
            self.assertIn("ok:ID", self.fails(2, "submit", spec, "--after", wrong).err)
        self.fails(66, "submit", spec, "--after", "any:nobody")
        self.ok("cancel", first, "--now")
        self.dhad.until_state(first, "cancelled")
        self.assertIn(f"dha retry {first}", self.ok("explain", job).out)
        last = self.ok("submit", self.spec_file("last", seed=3), "--after", f"ok:{job}").out.strip()  # through one that never comes: what helps is the same
        said = self.ok("explain", last).out
        self.assertIn(f"waits in the end for job {first}, which is cancelled", said)
        self.assertIn(f"dha retry {first}", said)
        self.ok("hold", job)
        self.assertIn(f"dha release {job}", self.ok("explain", last).out)
        self.ok("cancel", job)


class Records(cli_harness.Case):
    def setUp(self):
        super().setUp()
        self.job = self.submit("some train.sleep=0.31")
        self.dhad.until_state(self.job, "done")

    def test_metrics_are_listed(self):
        points = self.ok("metrics", self.job, "--stage", "train", "--json").json["points"]
        self.assertEqual([p["step"] for p in points], list(range(1, 7)))
        self.assertRegex(self.ok("metrics", self.job, "--name", "loss").out, r"train +1 +6 +600 +loss +0\.8333")
        names = self.ok("metrics", self.job).out
        self.assertRegex(names, r"train +loss +6 +6 +0\.8333")
        self.assertRegex(names, r"train +eval_valid +2 ")
        self.assertEqual(len(self.ok("metrics", self.job, "--name", "eval_valid", "--json").json["points"]), 2)

    def test_a_job_without_points_says_so(self):
        held = self.ok("submit", self.spec_file("none"), "--hold").out.strip()
        self.assertIn(f"job {held} has no points yet", self.ok("metrics", held).err)
        self.assertEqual(self.ok("metrics", self.job).err, "")

    def test_a_metric_that_there_is_not_is_answered_with_those_there_are(self):
        self.assertIn("eval_valid", self.fails(66, "metrics", self.job, "--name", "nosuch").err)

    def test_metrics_are_drawn(self):
        picture = os.path.join(self.dhad.dir, "a picture's.png")
        self.assertEqual(self.ok("metrics", self.job, "--plot", picture).out.strip(), picture)
        with open(picture, "rb") as f:
            self.assertEqual(f.read(8), b"\x89PNG\r\n\x1a\n")
        self.assertIn("train: loss", self.ok("metrics", self.job, "--plot", "-").out)
        self.fails(66, "metrics", self.job, "--name", "lambda", "--plot", "-")

    def test_a_missing_gnuplot_is_said(self):
        r = self.fails(66, "metrics", self.job, "--plot", "-", env={**self.env, "PATH": "/nowhere"})
        self.assertIn("gnuplot-nox", r.err)

    def test_logs_of_all_ranks_say_who_said_what(self):
        job = self.submit("train.ranklog=3 train.chat=hello eval.ranklog=1 eval.chat=alone", seed=5)
        self.dhad.until_state(job, "done")
        self.assertEqual(self.ok("logs", job, "--stage", "train").out,
                         "[0] hello 0\n[0] more of 0\n[0] fake train attempt 1\n[1] hello 1\n[1] more of 1\n[2] hello 2\n[2] more of 2\n")
        self.assertEqual(self.ok("logs", job, "--stage", "train", "--rank", "2").out, "hello 2\nmore of 2\n")
        self.assertEqual(self.ok("logs", job, "--stage", "eval").out, "alone 0\nmore of 0\nfake eval attempt 1\n")
        path = os.path.join(self.dhad.stage_dir(job, "train"), "a1", "stderr.log")
        with open(path, "a") as f:
            f.write("mpirun noticed\nand its last line has no end")
        self.assertTrue(self.ok("logs", job, "--stage", "train").out.startswith(
            "[mpirun] mpirun noticed\n[mpirun] and its last line has no end\n[0] hello 0\n"))
        self.assertIn("[2] more of 2\n", self.ok("logs", job, "-f", "--stage", "train").out)
        self.fails(2, "logs", job, "--rank", "1", "--stream", "journal")
        self.fails(2, "logs", job, "--rank", "-1")
        self.assertIn("there is no rank 7: the attempt had 3", self.fails(66, "logs", job, "--stage", "train", "--rank", "7").err)

    def test_logs_are_the_files_bytes(self):
        self.assertEqual(self.ok("logs", self.job, "--stage", "fuse").out, "fake fuse attempt 1\n")
        journal = self.ok("logs", self.job, "--stage", "train", "--stream", "journal").out
        with open(os.path.join(self.dhad.stage_dir(self.job, "train"), "a1", "journal.ndjson")) as f:
            self.assertEqual(journal, f.read())
        self.fails(66, "logs", self.job, "--stage", "train", "--attempt", "9")

    def test_events_are_numbered_and_can_be_read_on(self):
        lines = self.ok("events", "--json").out.splitlines()
        seqs = [int(json.loads(line)["seq"]) for line in lines]
        self.assertEqual(seqs, sorted(set(seqs)))
        rest = self.ok("events", "--json", "--after", str(seqs[4])).out.splitlines()
        self.assertEqual(rest, lines[5:])
        self.assertIn(f"job {self.job}", self.ok("events").out)

    def test_the_checkpoint_is_taken_whole_and_never_over_something(self):
        out = os.path.join(self.dhad.dir, "new", "mine")
        self.assertEqual(self.ok("export", self.job, "--out", out).out.strip(), out)
        self.assertEqual(sorted(os.listdir(out)), ["config.json", "model.safetensors"])
        self.assertEqual(os.listdir(os.path.dirname(out)), ["mine"])
        self.fails(67, "export", self.job, "--out", out)
        self.fails(2, "export", self.job, "--out", out + "2", "--format", "gguf")
        r = self.dha("export", self.job, "--out", out + "2", "--format", "gqa")
        self.assertIn("dha-worker export: ", r.err, "the fake job's checkpoint is none")
        self.assertNotIn("exit status", r.err)
        self.assertEqual((r.rc, r.out), (65, ""), r)
        self.fails(2, "export", self.job, "--out", "")

    def test_a_job_without_a_checkpoint_has_nothing_to_export(self):
        job = self.submit("bad search.fail=bad_input", seed=2)
        self.dhad.until_state(job, "failed")
        r = self.fails(67, "export", job, "--out", os.path.join(self.dhad.dir, "x"))
        self.assertIn("dha retry", r.err)


class Sweep(cli_harness.Case):
    def test_a_sweep_makes_a_job_a_point_and_searches_once(self):
        r = self.ok("sweep", "create", self.spec_file(), "--budget", "0.5,0.25", "--method", "spectral,gqa")
        sweep = r.out.strip()
        self.assertRegex(sweep, r"^\d+$")
        jobs = self.ok("sweep", "show", sweep, "--json").json["jobs"]
        self.assertEqual(sorted((j["method"], j["budget"]) for j in jobs),
                         [("gqa", 0.25), ("gqa", 0.5), ("spectral", 0.25), ("spectral", 0.5)])
        for j in jobs:
            self.dhad.until_state(j["id"], "done")
        text = self.ok("sweep", "show", sweep).out
        self.assertIn("spectral *", text)
        self.assertIn("+0.2500", text)
        self.assertIn("reused stages:", text)
        spectral = [j["id"] for j in jobs if j["method"] == "spectral"]
        self.assertEqual(sum(len(self.dhad.launches(i, "search")) for i in spectral), 1)
        self.assertIn(sweep, self.ok("sweep", "list").out)

    def test_wait_follows_to_the_end_and_shows_the_table(self):
        r = self.ok("sweep", "create", self.spec_file(), "--budget", "0.5,0.25", "--wait")
        self.assertIn("ABOVE PARENT", r.out)

    def test_bad_sweeps_are_refused_whole(self):
        self.fails(2, "sweep", "create", self.spec_file(), "--budget", "0.5,,0.25")
        self.fails(2, "sweep", "create", self.spec_file(), "--budget", "half")
        r = self.fails(64, "sweep", "create", self.spec_file(), "--budget", "0.5", "--method", "gqa,magic")
        self.assertTrue(r.err.startswith("dha: the sweep has 1 error:\n"), r)
        self.assertTrue(r.err.endswith("dha: nothing was submitted\n"), "the remedy once, with the error\n" + r.err)
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])


if __name__ == "__main__":
    harness.main()
