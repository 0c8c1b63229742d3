"""Sweeps from the command line: the grid, what cannot be, seeds, early stops, the best model, kill -9."""
import csv
import io
import json
import os
import subprocess
import time
import unittest
import xml.etree.ElementTree

import cli_harness
import harness

# Losses after each third of the training, by method; bytes a token by method (else 1024).
CURVES = "evals=gqa=4.4:4.2:4.1,spectral=3.9:3.8:3.75 kv=spectral=1000"


class Case(cli_harness.Case):
    def create(self, *more, name="sw", spec="", **changes):
        return self.ok("sweep", "create", self.spec_file(spec or "s", **changes), "--name", name, *more)

    def jobs(self, name="sw"):
        return self.ok("sweep", "show", name, "--json").json["jobs"]

    def until_ended(self, name="sw", seconds=60):
        return self.dhad.until(lambda: all(j["state"] in harness.FINAL for j in self.sweep(name)["jobs"]) and
                               self.sweep(name), seconds)

    def sweep(self, name="sw"):
        found = self.dhad.get(f"/v1/sweeps?name={name}").json["sweeps"][0]
        return self.dhad.get(f"/v1/sweeps/{found['id']}").json["sweep"]

    def model_of(self, heads, layers=2):
        with open(os.path.join(self.dhad.model, "config.json"), "w") as f:
            json.dump({"num_attention_heads": heads, "num_hidden_layers": layers}, f)


class Grid(Case):
    def test_methods_budgets_and_seeds_make_a_job_each_and_a_method_searches_once_a_seed(self):
        self.create("--budget", "0.5,0.25", "--method", "gqa,dha,spectral", "--seed", "1,2")
        jobs = self.until_ended()["jobs"]
        self.assertEqual({(j["method"], j["budget"], j["seed"]) for j in jobs},
                         {(m, b, s) for m in ("gqa", "dha", "spectral") for b in (0.5, 0.25) for s in (1, 2)})
        self.assertEqual(len(jobs), 12)
        self.assertIn("sw-dha-25-s2", [j["name"] for j in jobs])
        self.assertEqual({j["state"] for j in jobs}, {"done"})
        for method in ("dha", "spectral"):
            for seed in (1, 2):
                mine = [j["id"] for j in jobs if (j["method"], j["seed"]) == (method, seed)]
                self.assertEqual(sum(len(self.dhad.launches(i, "search")) for i in mine), 1,
                                 "one search for all budgets of a method")

    def test_budgets_that_cannot_be_are_refused_at_once_each_with_the_remedy(self):
        self.model_of(8)
        r = self.fails(64, "sweep", "create", self.spec_file(), "--budget", "0.5,0.375,0.3,0.05",
                       "--method", "gqa,spectral,spectral-gqa")
        for cell in ("gqa at 0.375", "gqa at 0.3", "gqa at 0.05", "spectral at 0.05", "spectral-gqa at 0.375"):
            self.assertIn(cell, r.err)
        self.assertIn("no divisor", r.err)
        self.assertIn("budgets that can: 0.125, 0.25, 0.5, 1", r.err)
        self.assertIn("--skip-impossible", r.err)
        self.assertNotIn("spectral at 0.375", r.err, "spectral takes any count")
        self.assertEqual(self.dhad.get("/v1/jobs").json["jobs"], [])
        self.assertEqual(self.dhad.get("/v1/sweeps").json["sweeps"], [])

    def test_what_cannot_be_may_be_left_out_and_is_said(self):
        self.model_of(8)
        r = self.create("--budget", "0.5,0.375", "--method", "gqa,spectral", "--skip-impossible", "--seed", "1,2")
        self.assertIn("left out: gqa at 37.5 %: a budget of 0.375 cannot be met by method gqa", r.err)
        self.assertEqual(len(r.err.splitlines()), 1, "once for all seeds")
        r = self.ok("sweep", "create", self.spec_file(), "--budget", "0.5,0.05", "--method", "spectral",
                    "--skip-impossible", "--dry-run")
        self.assertIn("dha: left out: spectral at 5 %: a budget of 0.05 cannot be met", r.err)
        self.assertEqual({(j["method"], j["budget"]) for j in self.jobs()},
                         {("gqa", 0.5), ("spectral", 0.5), ("spectral", 0.375)})
        self.assertIn("left out: gqa at 37.5 %", self.ok("sweep", "show", "sw").out)
        r = self.fails(64, "sweep", "create", self.spec_file(), "--budget", "0.375", "--method", "gqa",
                       "--skip-impossible")
        self.assertIn("none of the points can be", r.err)

    def test_one_head_a_layer_is_one_point_at_any_budget(self):
        r = self.create("--budget", "0.5,0.25,0.125", "--method", "mqa,gqa", "--dry-run")
        self.assertEqual(len(r.out.splitlines()), 4, r.out)
        self.assertEqual(r.out.count("mqa"), 2, r.out)

    def test_a_dry_run_lists_the_jobs_and_makes_none(self):
        r = self.create("--budget", "0.5,0.25", "--seed", "3", "--dry-run")
        self.assertEqual(r.out.splitlines(), ["sw-spectral-50-s3  spectral at 50 %, seed 3",
                                              "sw-spectral-25-s3  spectral at 25 %, seed 3"])
        self.assertEqual(self.dhad.get("/v1/sweeps").json["sweeps"], [])

    def test_the_same_sweep_again_is_the_same_one_and_another_of_its_name_is_refused(self):
        first = self.create("--budget", "0.5").out
        self.assertEqual(self.create("--budget", "0.5").out, first)
        self.assertEqual(len(self.jobs()), 1)
        r = self.fails(67, "sweep", "create", self.spec_file("s"), "--name", "sw", "--budget", "0.25")
        self.assertIn("another request", r.err)
        self.fails(2, "sweep", "create", self.spec_file("s"), "--name", "17", "--budget", "0.25")
        self.fails(66, "sweep", "show", "nobody's")

    def test_an_idempotency_key_is_one_sweep(self):
        one = self.ok("sweep", "create", self.spec_file(), "--budget", "0.5", "--idempotency-key", "k").out
        self.assertEqual(self.ok("sweep", "create", self.spec_file(), "--budget", "0.5", "--idempotency-key",
                                 "k").out, one)
        self.fails(67, "sweep", "create", self.spec_file(), "--budget", "0.25", "--idempotency-key", "k")
        two = self.ok("sweep", "create", self.spec_file(), "--budget", "0.5").out
        self.assertNotEqual(two, one, "without name and key it is a new one")

    def test_kill_9_at_any_moment_loses_no_point_and_runs_none_twice(self):
        path = self.spec_file("sleep=0.2")
        p = subprocess.Popen([cli_harness.DHA, "sweep", "create", path, "--name", "sw", "--budget", "0.5,0.25",
                              "--method", "gqa,spectral"], env=self.env, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        for wait in (0.01, 0.05, 0.2, 0.4, 0.8, 1.6):
            time.sleep(wait)
            self.dhad.kill()
            self.dhad.start()
        p.wait()
        self.ok("sweep", "create", path, "--name", "sw", "--budget", "0.5,0.25", "--method", "gqa,spectral")
        jobs = self.until_ended()["jobs"]
        self.assertEqual([j["state"] for j in jobs], ["done"] * 4)
        self.assertEqual(len(self.dhad.get("/v1/jobs").json["jobs"]), 4)
        for j in jobs:
            for kind in ("train", "eval", "export"):
                self.assertEqual(len(self.dhad.launches(j["id"], kind)), 1, (j["id"], kind))


class Shown(Case):
    def setUp(self):
        super().setUp()
        self.create("--budget", "0.5,0.25", "--method", "gqa,spectral", "--seed", "1,2",
                    spec=CURVES + " train.sleep=0.3 s", name=CURVES + " train.sleep=0.3 s")
        self.name = CURVES + " train.sleep=0.3 s"
        self.id = self.dhad.get("/v1/sweeps").json["sweeps"][0]["id"]
        self.dhad.until(lambda: all(j["state"] in harness.FINAL for j in
                                    self.dhad.get(f"/v1/sweeps/{self.id}").json["sweep"]["jobs"]), 60)

    def test_the_table_the_plots_and_the_files(self):
        text = self.ok("sweep", "show", self.name).out
        self.assertRegex(text, r"50\.0 % +gqa +1024 +3\.5000 +4\.1000 \+- 0\.0000 +\+1\.6000 +\d+ +done +1,2")
        self.assertRegex(text, r"spectral \* +1000 +3\.5000 +3\.7500")
        self.assertIn("Loss against the cache", text)
        self.assertIn("Loss against tokens read", text)
        self.assertIn("capital: on the Pareto front", text)
        rows = list(csv.DictReader(io.StringIO(self.ok("sweep", "show", self.id, "--csv").out)))
        self.assertEqual(len(rows), 8)
        self.assertEqual({(r["method"], float(r["loss_final"])) for r in rows}, {("gqa", 4.1), ("spectral", 3.75)})
        self.assertEqual({r["seed"] for r in rows}, {"1", "2"})
        svg = os.path.join(self.dhad.dir, "s.svg")
        self.ok("sweep", "show", self.id, "--svg", svg)
        root = xml.etree.ElementTree.parse(svg).getroot()
        ns = "{http://www.w3.org/2000/svg}"
        self.assertEqual(root.tag, ns + "svg")
        words = " ".join(t.text or "" for t in root.iter(ns + "text"))
        for word in ("gqa", "spectral", "KV bytes a token", "tokens", "on the Pareto front", "parent"):
            self.assertIn(word, words)
        self.assertTrue([c for c in root.iter(ns + "circle") if c.get("class") == "front"])
        with open(svg) as f:
            self.assertNotRegex(f.read(), r"href|<script|url\(")

    def test_the_list_has_the_losses_without_asking_for_each_job(self):
        jobs = self.dhad.get("/v1/jobs").json["jobs"]
        self.assertEqual({(j["method"], j["result"]["loss"]["final"]) for j in jobs},
                         {("gqa", 4.1), ("spectral", 3.75)})
        self.assertEqual({j["result"]["loss"]["parent"] for j in jobs if j["method"] == "spectral"}, {2.5})
        self.assertIn("3.7500", self.ok("list").out)

    def test_the_best_under_a_loss_or_a_size(self):
        r = self.ok("sweep", "best", self.id, "--under", "3.80")
        self.assertRegex(r.out, r"spectral at .*\n +loss +3\.7500 ")
        self.assertIn("1000 bytes a token", r.out)
        self.assertIn("/export/out/model", r.out)
        self.assertEqual(self.ok("sweep", "best", self.id, "--under", "1.5KiB", "--json").json["method"], "spectral")
        self.assertEqual(self.ok("sweep", "show", self.id, "--best-under", "4.2").out.split()[1],
                         self.ok("sweep", "best", self.id, "--best-under", "3.8").out.split()[1])
        self.assertIn("lowest is 3.7500", self.fails(1, "sweep", "best", self.id, "--under", "3.1").err)
        self.assertIn("fewest are 1000", self.fails(1, "sweep", "best", self.id, "--under", "512B").err)
        self.fails(2, "sweep", "best", self.id, "--under", "512 bananas")
        self.fails(2, "sweep", "best", self.id)


class Dominated(Case):
    slots = 4

    def run_sweep(self, *more, seconds="train.sleep=4"):
        name = f"{CURVES} {seconds} s"
        self.id = self.ok("sweep", "create", self.spec_file(name), "--budget", "0.5", "--method",
                          "spectral,gqa", *more).out.strip()
        return self.dhad.until(lambda: (s := self.dhad.get(f"/v1/sweeps/{self.id}").json["sweep"]) and
                               all(j["state"] in harness.FINAL for j in s["jobs"]) and s["jobs"], 60)

    def test_a_dominated_job_is_stopped_and_keeps_what_it_has(self):
        spectral, gqa = self.run_sweep("--stop-dominated")
        self.assertEqual((spectral["state"], gqa["state"]), ("done", "cancelled"))
        self.assertRegex(gqa["cancel_reason"], rf"^dominated by job {spectral['id']}: loss 4\.\d+ after \d+ tokens, "
                                               r"against 3\.\d+ after \d+$")
        said = f"dominated by job {spectral['id']}"
        self.assertIn(said, self.ok("list").out)
        self.assertIn(said, self.ok("show", gqa["id"]).out)
        self.assertIn(said, self.ok("explain", gqa["id"]).out)
        self.assertIn(said, self.ok("sweep", "show", self.id).out)
        self.assertTrue(self.dhad.job(gqa["id"])["result"]["curve"], "its evaluations stay")
        self.assertTrue(self.dhad.get(f"/v1/jobs/{gqa['id']}/checkpoints").json["checkpoints"])

    def test_a_user_may_have_it_go_on_all_the_same(self):
        _, gqa = self.run_sweep("--stop-dominated", seconds="train.sleep=2")
        self.assertEqual(gqa["state"], "cancelled")
        self.ok("retry", gqa["id"])
        self.dhad.until_state(gqa["id"], "done")

    def test_a_margin_for_nothing_is_refused(self):
        r = self.fails(2, "sweep", "create", self.spec_file(), "--budget", "0.5", "--margin", "0.1")
        self.assertIn("--stop-dominated", r.err)

    def test_without_the_option_or_within_the_margin_nothing_is_stopped(self):
        self.assertEqual({j["state"] for j in self.run_sweep(seconds="train.sleep=1")}, {"done"})
        self.assertEqual({j["state"] for j in self.run_sweep("--stop-dominated", "--margin", "0.5",
                                                             seconds="train.sleep=1.1")}, {"done"})

    def test_a_daemon_killed_after_the_evaluation_stops_it_just_as_well(self):
        name = f"{CURVES} train.sleep=5 s"
        self.id = self.ok("sweep", "create", self.spec_file(name), "--budget", "0.5", "--method",
                          "spectral,gqa", "--stop-dominated").out.strip()
        spectral, gqa = (j["id"] for j in self.dhad.get(f"/v1/sweeps/{self.id}").json["sweep"]["jobs"])
        self.dhad.until_running(gqa, "train")
        self.dhad.until_running(spectral, "train")
        self.dhad.kill()
        time.sleep(2.5)  # both reach their first evaluation with nobody there
        self.dhad.start()
        j = self.dhad.until_state(gqa, "cancelled")
        self.assertIn(f"dominated by job {spectral}", j["cancel_reason"])
        self.dhad.until_state(spectral, "done")


class Future(Case):
    def test_records_of_a_type_to_come_are_skipped_with_one_note(self):
        job = self.submit("train.newtype=1")
        self.dhad.until_state(job, "done")
        notes = [e for e in self.dhad.events() if e["type"] == "record.unknown"]
        self.assertEqual([e["data"] for e in notes], [{"type": "hologram"}])
        self.assertEqual(notes[0]["job"], job)


if __name__ == "__main__":
    harness.main()
