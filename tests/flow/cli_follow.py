"""Following jobs: watch, convert, logs -f; Ctrl-C; a daemon that goes away and comes back."""
import os
import re
import signal
import time

import cli_harness
import harness


class Watch(cli_harness.Case):
    def test_off_a_terminal_it_prints_a_line_when_something_changes(self):
        job = self.submit("some train.sleep=1")
        lines = self.ok("watch", job).out.splitlines()
        self.assertLess(len(lines), 10)
        self.assertTrue(all(line.startswith(f"job {job} some") for line in lines), lines)
        self.assertIn("done", lines[-1])
        self.assertNotIn("\033", "".join(lines))

    def test_on_a_terminal_it_redraws_in_place_and_ends_with_the_job(self):
        job = self.submit("some train.sleep=2")
        rc, text = self.on_terminal("watch", job, columns=60)
        self.assertEqual(rc, 0, text)
        self.assertRegex(text, r"\033\[\d+A")
        self.assertIn("█", text)
        for line in re.sub(r"\033\[[0-9;]*[A-Za-z]", "", text).split("\r\n"):
            self.assertLess(len(line), 60, "a line must not wrap")

    def test_several_jobs_are_watched_together(self):
        a, b = self.submit("a"), self.submit("b", seed=2)
        text = self.ok("watch", a, b).out
        self.assertRegex(text, rf"job {a} a: done")
        self.assertRegex(text, rf"job {b} b: done")

    def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(self):
        job = self.submit("slow train.sleep=30")
        self.dhad.until_running(job, "train")
        p = self.start("watch", job)
        self.assertIn("running", p.stdout.readline())
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=10)
        self.assertEqual(p.returncode, 130)
        self.assertIn(f"dha watch {job}", err)
        time.sleep(0.2)
        self.assertEqual(self.dhad.stage(job, "train")["state"], "running")
        self.assertTrue(self.dhad.of_attempt(job, "train"))

    def test_a_daemon_that_is_killed_and_comes_back_is_waited_for(self):
        job = self.submit("slow train.sleep=3")
        self.dhad.until_running(job, "train")
        p = self.start("watch", job)
        p.stdout.readline()
        self.dhad.kill()
        self.assertIn("does not answer", p.stderr.readline())
        self.dhad.start()
        out, err = p.communicate(timeout=40)
        self.assertEqual(p.returncode, 0, err)
        self.assertIn("answers again", err)
        self.assertIn("done", out)

    def test_logs_follow_the_stages_until_the_job_ends(self):
        job = self.submit("some search.sleep=0.5 train.sleep=0.5")
        p = self.start("logs", job, "-f")
        out, err = p.communicate(timeout=40)
        self.assertEqual(p.returncode, 0, err)
        for kind in ("train", "export"):
            self.assertIn(f"fake {kind} attempt 1\n", out)

    def test_logs_follow_every_rank_over_the_attempts(self):
        job = self.submit("some sleep=0.7 ranklog=2 chat=hello train.fail=transient:1")
        p = self.start("logs", job, "-f")
        out, err = p.communicate(timeout=60)
        self.assertEqual(p.returncode, 0, err)
        for kind, attempt in (("train", 1), ("train", 2), ("export", 1)):
            self.assertIn(f"[0] fake {kind} attempt {attempt}\n", out)
        self.assertGreaterEqual(out.count("[1] hello 1\n[1] more of 1\n"), 3)


class Convert(cli_harness.Case):
    def convert(self, *more, out="out"):
        return ("convert", "model", "--data", "train.u16", "--budget", "0.25", "--seq-len", "16",
                "--out", out, *more)

    def test_it_submits_watches_and_puts_the_checkpoint_there(self):
        r = self.ok(*self.convert("--name", "mine", "--tokens", "5k"))
        self.assertEqual(sorted(os.listdir(os.path.join(self.dhad.dir, "out"))),
                         ["config.json", "model.safetensors"])
        for part in ("parent 2.5000", "1024 bytes a token", "layer 0   K  a a a a", "written to         out"):
            self.assertIn(part, r.out)
        j = self.dhad.get("/v1/jobs?name=mine").json["jobs"][0]
        spec = self.dhad.job(j["id"])["spec"]
        self.assertEqual(spec["tokens"]["train"], 5000)
        self.assertEqual(spec["data"]["train"], [self.dhad.data])

    def test_the_json_is_the_job_with_where_it_went(self):
        j = self.ok(*self.convert("--json")).json
        self.assertEqual((j["state"], j["out"]), ("done", "out"))

    def test_a_directory_with_something_in_it_is_refused_before_any_work(self):
        os.mkdir(os.path.join(self.dhad.dir, "out"))
        with open(os.path.join(self.dhad.dir, "out", "mine"), "w") as f:
            f.write("keep")
        r = self.fails(67, *self.convert())
        self.assertIn("not empty", r.err)
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])

    def test_a_directory_that_cannot_be_made_is_refused_before_any_work(self):
        for out in ("train.u16/out", "train.u16/a/b"):
            self.assertIn("train.u16 is no directory", self.fails(67, *self.convert(out=out)).err)
        os.mkdir(os.path.join(self.dhad.dir, "others"), 0o555)
        if os.geteuid():  # root may write anywhere
            self.assertIn("Permission denied", self.fails(74, *self.convert(out="others/a/out")).err)
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])
        self.ok(*self.convert(out="a/b/out"))

    def test_wrong_paths_budgets_and_methods_are_refused_before_any_work(self):
        r = self.fails(64, "convert", "nowhere", "--data", "absent.u16", "--budget", "0.25", "--out", "out")
        self.assertIn(os.path.join(self.dhad.dir, "nowhere"), r.err)
        self.assertIn("absent.u16", r.err)
        self.fails(2, "convert", "model", "--data", "train.u16", "--budget", "4", "--out", "out")
        self.fails(64, *self.convert("--method", "magic"))
        self.fails(64, *self.convert("--set", "optim.lrr=1"))
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])
        self.assertFalse(os.path.exists(os.path.join(self.dhad.dir, "out")))

    def test_a_failure_has_its_error_its_logs_and_its_exit_status(self):
        r = self.fails(80, *self.convert("--name", "bad train.fail=diverged"))
        self.assertIn("told to fail", r.err)
        self.assertRegex(r.err, r"dha logs \d+")
        self.assertFalse(os.path.exists(os.path.join(self.dhad.dir, "out")))

    def test_a_result_that_finds_its_place_taken_says_how_to_get_it(self):
        p = self.start(*self.convert("--name", "slow train.sleep=1"))
        job = re.search(r"job (\d+) submitted", p.stderr.readline()).group(1)
        out = os.path.join(self.dhad.dir, "out")
        os.mkdir(out)
        with open(os.path.join(out, "mine"), "w") as f:
            f.write("keep")
        _, err = p.communicate(timeout=30)
        self.assertEqual(p.returncode, 67, err)
        self.assertIn(f"dha export {job} --out OTHER", err)
        self.assertEqual(os.listdir(out), ["mine"])

    def test_ctrl_c_leaves_the_job_and_says_how_to_take_the_result_later(self):
        p = self.start(*self.convert("--name", "slow train.sleep=2"))
        job = re.search(r"job (\d+) submitted", p.stderr.readline()).group(1)
        self.dhad.until_running(job, "train")
        p.send_signal(signal.SIGINT)
        _, err = p.communicate(timeout=10)
        self.assertEqual(p.returncode, 130)
        self.assertIn(f"dha watch {job}", err)
        self.assertIn(f"dha export {job} --out out", err)
        said = [line for line in err.splitlines() if line.startswith("     dha ")]
        columns = {re.search(r"  (comes|takes|stops) ", line).start() for line in said}
        self.assertEqual((len(said), len(columns)), (3, 1), said)
        self.dhad.until_state(job, "done")
        self.ok("export", job, "--out", "out")


if __name__ == "__main__":
    harness.main()
