"""A small sweep with real workers: the demo checkpoint, two methods at two budgets, a few thousand tokens."""
import os
import subprocess
import sys
import unittest

import cli_harness
import harness

DEMO = os.path.join(harness.HERE, "..", "..", "deploy", "demo")


def main():
    if not os.path.exists(os.path.join(harness.BIN, "dha-worker")):
        print("no dha-worker was built", file=sys.stderr)
        sys.exit(77)
    harness.main()


class Real(cli_harness.Case):
    launcher, slots = "local", 2

    def test_two_methods_at_two_budgets_are_compared_and_the_best_is_taken(self):
        del self.env["DHA_NO_CHECK"]
        path = self.spec_file("real", model=os.path.join(os.path.abspath(DEMO), "hf"),
                              data={"train": [os.path.join(os.path.abspath(DEMO), "train.txt")],
                                    "valid": os.path.join(os.path.abspath(DEMO), "valid.txt"), "seq_len": 64},
                              tokens={"search": 4096, "fuse": 1024, "train": 8192}, batch_tokens=1024,
                              eval={"windows": 16}, resources={"ranks": 1})
        needs = self.ok("submit", path, "--dry-run", "--json").json["needs"]
        files = os.path.getsize(os.path.join(DEMO, "hf", "model.safetensors"))
        n = int(needs["parameters"])
        self.assertTrue(1.9 * n < files < 4.1 * n, needs)
        self.assertEqual(int(needs["disk_bytes"]["checkpoints"]), 3 * 12 * n)
        self.assertEqual(int(needs["disk_bytes"]["models"]), 3 * 4 * n)
        self.assertIn("for checkpoints", self.ok("submit", path, "--dry-run").out)
        r = self.ok("sweep", "create", path, "--name", "real", "--budget", "0.5,0.25", "--method", "gqa,spectral",
                    "--wait", timeout=300)
        self.assertRegex(r.out, r"50\.0 % +spectral \* +\d+ ")
        sweep = self.ok("sweep", "show", "real", "--json").json
        jobs = {(j["method"], j["budget"]): j for j in sweep["jobs"]}
        self.assertEqual({j["state"] for j in jobs.values()}, {"done"})
        for method in ("gqa", "spectral"):
            big, small = jobs[method, 0.5]["result"], jobs[method, 0.25]["result"]
            self.assertEqual(int(big["kv_bytes_per_token"]["converted"]),
                             2 * int(small["kv_bytes_per_token"]["converted"]))
            self.assertEqual(big["loss"]["parent"], small["loss"]["parent"])
            self.assertLess(big["loss"]["final"], small["loss"]["final"])
        half = int(jobs["gqa", 0.5]["result"]["kv_bytes_per_token"]["converted"])
        best = self.ok("sweep", "best", "real", "--under", f"{half}B", "--json").json
        self.assertEqual((best["method"], best["budget"]), ("spectral", 0.5))
        self.assertTrue(os.path.exists(os.path.join(best["result"]["checkpoint"], "config.json")))
        r = self.fails(64, "sweep", "create", path, "--budget", "0.5,0.375", "--method", "gqa")
        self.assertIn("gqa at 0.375", r.err)

    def test_what_changed_on_the_disk_is_not_taken_but_made_anew(self):
        path = self.spec_file("rot", model=os.path.join(os.path.abspath(DEMO), "hf"), method="gqa", budget=0.5,
                              data={"train": [os.path.join(os.path.abspath(DEMO), "train.txt")],
                                    "valid": os.path.join(os.path.abspath(DEMO), "valid.txt"), "seq_len": 64},
                              tokens={"train": 2048}, batch_tokens=1024, eval={"windows": 4},
                              resources={"ranks": 1})
        first = self.ok("submit", path).out.strip()
        d = self.dhad
        d.until_state(first, "done", seconds=60)

        def rot(kind):
            weights = os.path.join(d.stage_dir(first, kind), "out", "model", "model.safetensors")
            with open(weights, "r+b") as f:
                f.seek(100000)
                f.write(b"ROTTEN")
            return weights

        weights = rot("export")
        out = os.path.join(d.dir, "taken")
        self.assertIn(weights, self.fails(78, "export", first, "--out", out).err)
        self.assertFalse(os.path.exists(out))
        self.assertIn(weights, self.fails(78, "generate", first, "Once").err)
        # a job that would reuse the damaged fusion: it is found by the worker, made anew, and the job ends well
        rot("fuse")
        second = self.ok("submit", path, "--set", "tokens.train=3072").out.strip()
        j = d.until_state(second, "done", seconds=90)
        self.assertEqual([s["state"] for s in j["stages"] if s["kind"] == "fuse"], ["done"])
        self.assertTrue(any(e["type"] == "stage.damaged" for e in d.events(after=0)))
        self.ok("export", second, "--out", out)


if __name__ == "__main__":
    main()
