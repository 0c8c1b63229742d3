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


if __name__ == "__main__":
    main()
