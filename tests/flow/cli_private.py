"""The private daemon: started when it is needed, found again, stopped; and the demo, with the real worker."""
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import cli_harness
import harness


class Base(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.mkdtemp(prefix="dha-home-")
        self.env = cli_harness.environment(HOME=self.home)
        self.addCleanup(self.clean)

    def clean(self):
        self.dha("down")
        shutil.rmtree(self.home)

    def dha(self, *args, **env):
        p = subprocess.run([cli_harness.DHA, *args], capture_output=True, text=True, timeout=560,
                           env={**self.env, **env})
        return cli_harness.Ran(args, p.returncode, p.stdout, p.stderr)


class Private(Base):
    def test_it_is_started_once_with_its_state_in_the_home_directory(self):
        r = self.dha("nodes")
        self.assertEqual(r.rc, 0, r)
        self.assertIn(f"state in {self.home}/.dha", r.err)
        r = self.dha("nodes")
        self.assertEqual(r.err, "")
        self.assertEqual(self.dha("up", "--json").json["state_dir"], self.home + "/.dha")
        self.assertEqual(os.stat(self.home + "/.dha/run/sock").st_mode & 0o077, 0)

    def test_the_runtime_directory_is_used_where_there_is_one(self):
        run = self.home + "/run"
        os.mkdir(run)
        self.env["XDG_RUNTIME_DIR"] = run
        self.assertEqual(self.dha("nodes").rc, 0)
        self.assertTrue(os.path.exists(run + "/dha/sock"))
        self.dha("down")
        self.env["XDG_RUNTIME_DIR"] = "/nonexistent"
        self.assertEqual(self.dha("nodes").rc, 0)
        self.assertTrue(os.path.exists(self.home + "/.dha/run/sock"))

    def test_another_state_directory_is_respected_and_never_mixed_up(self):
        state = self.home + "/elsewhere"
        self.assertEqual(self.dha("nodes", DHA_STATE=state).rc, 0)
        self.assertTrue(os.path.exists(state))
        self.assertFalse(os.path.exists(self.home + "/.dha/dhad.log"))
        self.assertEqual(self.dha("nodes", DHA_STATE=state).rc, 0)
        r = self.dha("nodes", DHA_STATE=self.home + "/third")
        self.assertEqual(r.rc, 67, r)
        self.assertIn(state, r.err)

    def test_many_first_commands_at_once_find_one_daemon(self):
        ps = [subprocess.Popen([cli_harness.DHA, "up", "--json"], env=self.env, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True) for _ in range(6)]
        outs = [p.communicate(timeout=60) for p in ps]
        self.assertEqual([p.returncode for p in ps], [0] * 6, outs)
        import json
        self.assertEqual(len({json.loads(out)["pid"] for out, _ in outs}), 1)

    def test_a_damaged_database_is_not_kept_quiet(self):
        self.assertEqual(self.dha("up").rc, 0)
        self.assertEqual(self.dha("down").rc, 0)
        with open(self.home + "/.dha/state.db", "r+b") as f:
            f.write(os.urandom(100))
        r = self.dha("up")
        self.assertEqual(r.rc, 0, r)
        self.assertIn("state.db was found damaged", r.err)
        self.assertIn("found damaged", self.dha("list").err)
        self.assertIn("store.salvaged", self.dha("events").out)
        with open(self.home + "/.dha/dhad.log") as f:
            self.assertIn("export/out/model", f.read())

    def test_a_dhad_that_cannot_start_is_said(self):
        with open(self.home + "/file", "w"):
            pass
        r = self.dha("nodes", DHA_STATE=self.home + "/file/below")
        self.assertNotEqual(r.rc, 0)
        self.assertIn("file", r.err)


class Demo(Base):
    """With the real worker, on a copy of the demo's model with hardly any tokens: every part, not every step."""

    def setUp(self):
        super().setUp()
        source = os.path.join(harness.HERE, "..", "..", "deploy", "demo")
        if not os.path.exists(os.path.join(harness.BIN, "dha-worker")) or not shutil.which("mpirun"):
            self.skipTest("no dha-worker or no mpirun")
        self.demo = self.home + "/demo"
        shutil.copytree(source, self.demo)
        import json
        for name in os.listdir(self.demo):
            if name.endswith(".json"):
                path = os.path.join(self.demo, name)
                with open(path) as f:
                    spec = json.load(f)
                spec["tokens"] = {k: 2048 for k in spec["tokens"]}
                spec["batch_tokens"] = 1024
                spec["eval"]["windows"] = 4
                with open(path, "w") as f:
                    json.dump(spec, f)
        self.env["DHA_DEMO"] = self.demo

    def test_it_converts_four_ways_reports_and_reuses_everything_the_second_time(self):
        r = self.dha("demo")
        self.assertEqual(r.rc, 0, r)
        for part in ("MHA parent", "gqa", "dha", "spectral", "spectral-gqa", "2048", "512", "25.0 %",
                     "layer 3   K", "training tokens", "Nothing: every stage ran now", "dha export"):
            self.assertIn(part, r.out)
        picture = self.home + "/.dha/demo/loss.png"
        self.assertIn(picture, r.out)
        with open(picture, "rb") as f:
            self.assertEqual(f.read(4), b"\x89PNG")
        first = self.dha("demo", "--json").json
        self.assertEqual([m["method"] for m in first["methods"]], ["gqa", "dha", "spectral", "spectral-gqa"])
        for m in first["methods"]:
            self.assertEqual(m["state"], "done")
            self.assertGreaterEqual(len(m["reused"]), 4, "the second run reuses every stage")
            self.assertLess(first["parent"]["loss"], m["loss"]["converted"] + 0.1)
            self.assertTrue([f for f in os.listdir(m["checkpoint"]) if f.endswith(".safetensors")])
            self.assertEqual(m["kv_bytes_per_token"], {"parent": "2048", "converted": "512"})
        self.assertIn("reused", self.dha("demo").out.split("Reused")[1])
        # The parts that ask the worker.
        best = next(m for m in first["methods"] if m["method"] == first["best"])
        text = self.dha("compare", self.demo + "/hf", best["job"], "--data", self.demo + "/valid.txt",
                        "--seq-len", "128", "--windows", "4")
        self.assertEqual(text.rc, 0, text)
        self.assertRegex(text.out, r"KV bytes a token +2048 +512 +25\.0 %")
        self.assertIn("predicts the text better", text.out)
        facts = self.dha("inspect", best["checkpoint"], "--json")
        self.assertEqual(facts.json["kv_bytes_per_token"], "512", facts)
        gqa = first["methods"][0]["job"]
        for format, kind in (("dha", "dha"), ("gqa", "llama"), ("expand", "llama")):
            out = f"{self.home}/as-{format}"
            r = self.dha("export", gqa, "--out", out, "--format", format)
            self.assertEqual(r.rc, 0, r)
            import json
            with open(out + "/config.json") as f:
                self.assertEqual(json.load(f)["model_type"], kind)


if __name__ == "__main__":
    harness.main()
