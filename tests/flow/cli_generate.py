"""`dha generate` through the built programs: the demo checkpoint, a job that converts it, a terminal, bad input."""
import json
import os
import pty
import select
import shutil
import subprocess
import time

import cli_harness
import harness

DEMO = os.path.join(os.path.dirname(harness.HERE), "..", "deploy", "demo")
PROMPT = "Once upon a time"


class Generate(cli_harness.Case):
    def setUp(self):
        super().setUp()
        self.model = os.path.join(os.path.realpath(DEMO), "hf")
        self.env["OMP_NUM_THREADS"] = "1"

    def tokens(self, *args, **more):
        return self.ok("generate", self.model, *args, "--json", **more).json

    def test_the_text_is_the_tokens_and_the_bytes_are_the_promised_ones(self):
        r = self.tokens(PROMPT, "-n", "20")
        self.assertEqual((len(r["tokens"]), r["end"]), (20, "max-tokens"))
        self.assertEqual((r["kv_bytes_per_token"], r["kv_bytes_per_token_in_memory"]), ("2048", "4096"))
        # the last token is not in the cache yet: nothing has been asked after it
        self.assertEqual(r["kv_cache_bytes"], str(4096 * (r["prompt_tokens"] + 19)))
        plain = self.ok("generate", self.model, PROMPT, "-n", "20")
        self.assertEqual(plain.out, r["text"] + "\n")
        self.assertIn("20 tokens after", plain.err)

    def test_a_prompt_may_come_from_stdin_or_as_token_ids(self):
        want = self.tokens(PROMPT, "-n", "8")
        self.assertEqual(self.tokens("-", "-n", "8", stdin=PROMPT + "\n")["tokens"], want["tokens"])
        given = self.tokens("--ids", "1,5,9", "-n", "8")
        self.assertEqual(given["prompt_tokens"], 3)
        bare = os.path.join(self.dhad.dir, "bare")
        shutil.copytree(self.model, bare)
        os.remove(bare + "/tokenizer.model")
        r = self.ok("generate", bare, "--ids", "1,5,9", "-n", "8")
        self.assertEqual(r.out, ",".join(map(str, given["tokens"])) + "\n")
        self.assertIn("--ids", self.fails_in_worker(65, bare, PROMPT).err)

    def test_a_seed_is_a_text(self):
        draw = ("-n", "30", "--temperature", "1", "--top-p", "0.95", "--top-k", "200")
        a, b, c = (self.tokens(PROMPT, *draw, "--seed", s)["tokens"] for s in ("1", "1", "2"))
        self.assertEqual(a, b)
        self.assertNotEqual(a, c)

    def test_a_full_context_is_an_end_and_a_prompt_beyond_it_an_error(self):
        r = self.tokens("--ids", "1,5,9", "-n", "1000", "--ignore-eos")
        self.assertEqual((r["end"], len(r["tokens"])), ("context", 128 - 3 + 1))
        self.assertEqual(self.tokens("--ids", ",".join(["7"] * 128), "-n", "5")["end"], "context")
        r = self.fails_in_worker(65, self.model, "--ids", ",".join(["7"] * 129))
        self.assertIn("129 tokens, the model's context holds 128", r.err)

    def test_the_end_of_text_token_ends_it(self):
        all_of_it = self.tokens("--ids", "1,5,9", "-n", "12", "--ignore-eos")["tokens"]
        ends = os.path.join(self.dhad.dir, "ends")
        shutil.copytree(self.model, ends)
        with open(ends + "/config.json") as f:
            config = json.load(f)
        config["eos_token_id"] = all_of_it[6]
        with open(ends + "/config.json", "w") as f:
            json.dump(config, f)
        r = self.ok("generate", ends, "--ids", "1,5,9", "-n", "12", "--json").json
        self.assertEqual(r["end"], "eos")
        self.assertEqual(r["tokens"], all_of_it[:all_of_it.index(all_of_it[6])])

    def test_two_models_are_asked_the_same(self):
        r = self.ok("generate", self.model, PROMPT, "-c", self.model, "-n", "10")
        one, two = r.out.split("\n\n")
        self.assertEqual(one.strip(), two.strip())
        self.assertTrue(one.startswith(f"== {self.model} (KV cache: 2048 bytes a token in bfloat16)"), one)
        both = self.tokens(PROMPT, "-c", self.model, "-n", "10")["models"]
        self.assertEqual(both[0]["tokens"], both[1]["tokens"])

    def fails_in_worker(self, rc, *args, **more):
        r = self.dha("generate", *args, **more)
        self.assertEqual(r.rc, rc, r)
        self.assertIn("dha-worker generate: ", r.err)
        return r

    def test_bad_requests_say_what_to_do(self):
        for rc, args, says in (
                (2, (PROMPT, "--top-p", "0.5"), "--temperature 0.8"),
                (2, (PROMPT, "--temperature", "warm"), "not \"warm\""),
                (2, (PROMPT, "--temperature", "nan"), "0 to 100"),
                (2, (PROMPT, "--max-tokens", "0"), "--max-tokens"),
                (2, (PROMPT, "-n", "99999999999"), "99999999999 is outside 1 to 16777216"),
                (2, (PROMPT, "-n", "9" * 30), "too many digits"),
                (2, (PROMPT, "--ids", "1"), "not both"),
                (2, ("--ids", "1,,2"), "--ids 1,15,3"),
                (65, ("--ids", "1,99999"), "99999"),
                (2, (), "stdin")):
            with self.subTest(args):
                r = self.fails_in_worker(rc, self.model, *args, stdin="")
                self.assertIn(says, r.err)
        self.fails_in_worker(66, self.dhad.dir + "/nothing", PROMPT)
        self.assertIn("dha list", self.fails(66, "generate", "nothing", PROMPT).err)
        job = self.submit("search.sleep=30")
        self.assertIn("no checkpoint yet", self.fails(67, "generate", job, PROMPT).err)

    def test_a_terminal_gives_a_prompt_a_line(self):
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(cli_harness.DHA, ["dha", "generate", self.model, "-n", "6"], self.env)
        text, asked, end = b"", 0, time.time() + 60
        while time.time() < end:
            if asked < 3 and text.count(b"> ") > asked:
                os.write(fd, (PROMPT.encode() + b"\n", b"The king\n", b"\x04")[asked])
                asked += 1
            if select.select([fd], [], [], 0.5)[0]:
                try:
                    more = os.read(fd, 65536)
                except OSError:
                    break
                if not more:
                    break
                text += more
        os.close(fd)
        self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), 0, text)
        self.assertEqual(text.count(b"[6 tokens after"), 2, text)
        want = self.tokens("The king", "-n", "6")["text"]
        self.assertIn(want.replace("\n", "\r\n").encode(), text)


class Card(cli_harness.Case):
    """README.md and dha_conversion.json of what the worker exports."""

    def worker(self, *args):
        return subprocess.run([os.path.join(harness.BIN, "dha-worker"), *args], capture_output=True, text=True,
                              timeout=300, env={**self.env, "OMP_NUM_THREADS": "1"})

    def setUp(self):
        super().setUp()
        self.demo = os.path.realpath(DEMO)
        # a name that Markdown, a table and YAML would all act on
        self.parent = os.path.join(self.dhad.dir, "a|b`c`\n---\n# d: [x](y)")
        shutil.copytree(self.demo + "/hf", self.parent)

    def convert(self, name, **changes):
        spec = {"model": self.parent, "method": "dha", "budget": 0.5, "batch_tokens": 512, "seed": 7,
                "tokens": {"search": 512, "fuse": 1024, "train": 512}, "eval": {"windows": 4},
                "data": {"train": [self.demo + "/train.txt"], "valid": self.demo + "/valid.txt",
                         "format": "text", "seq_len": 64}, **changes}
        path = os.path.join(self.dhad.dir, name)
        with open(path + ".json", "w") as f:
            json.dump(spec, f)
        r = self.worker("run", path + ".json", "--dir", path)
        self.assertEqual(r.returncode, 0, r)
        with open(path + "/result.json") as f:
            return path + "/export/out/model", json.load(f)

    def read(self, model):
        with open(model + "/README.md") as f:
            text = f.read()
        front, body = text.split("---\n", 2)[1:]
        self.assertTrue(text.startswith("---\n"))
        for line in front.splitlines():  # nothing but keys, plain words and list items: valid YAML
            self.assertRegex(line, r"^([a-z_]+: [a-z-]+|[a-z_]+:|- [a-z-]+)$")
        return body

    def test_the_card_says_how_it_was_made_and_what_it_scores(self):
        model, result = self.convert("job")
        text = self.read(model)
        for part in ("| method | `dha` |", "50 %", "| tokens for searching | 512 |", "| tokens for fusing heads | 1024 |",
                     "| tokens for training after that | 512 |", "| seed | 7 |", "the parent's licence applies",
                     "trust_remote_code=True", "the parent's is 2048 (50 %)", "**1024 bytes a token** in bfloat16",
                     "1 x next token"):
            self.assertIn(part, text)
        self.assertIn("| all | " + " | ".join(f"{result[k]:.4f}" for k in ("parent", "converted", "final")) + " |", text)
        # the parent's name is on one line, in one cell, in one code span
        row, = [n for n in text.splitlines() if n.startswith("| parent |")]
        self.assertEqual(row, "| parent | `a b'c' --- # d: [x](y)` |")
        heads = [n for n in text.splitlines() if n.startswith(tuple(f"| {i} |" for i in range(4)))]
        self.assertEqual(len(heads), 4)
        kept = [[int(c) for c in n.split("|")[2:4]] for n in heads]
        self.assertEqual(sum(map(sum, kept)), 4 * 16 // 2)
        self.assertTrue(all(n.endswith("| 8, 8 |") for n in heads), heads)

    def test_what_only_calibrates_is_not_called_training(self):
        model, _ = self.convert("job", method="spectral", tokens={"search": 2048, "train": 0})
        text = self.read(model)
        # moments 1024, costs 512, fits 2048; the regression's 4096 begin with those
        self.assertIn("| tokens read to calibrate | 5632 |", text)
        self.assertNotIn("tokens for", text)
        # and what its regression did is a metric of each layer
        with open(os.path.join(self.dhad.dir, "job", "fuse", "journal.ndjson")) as f:
            errors = [r for r in map(json.loads, f) if r["t"] == "layer" and r["name"] == "regression_error"]
        for layer in range(4):
            before, after = [r for r in errors if r["layer"] == layer]
            self.assertEqual((before["kind"], before["step"]), ("block", 0))
            self.assertLess(after["value"], before["value"])

    def test_an_export_of_an_export_keeps_it_and_unknown_is_left_out(self):
        model, _ = self.convert("job", method="gqa", tokens={"search": 0, "fuse": 0, "train": 0})
        text = self.read(model)
        self.assertNotIn("tokens for", text)
        self.assertNotIn("loss it was trained on", text)
        self.assertNotIn("trust_remote_code", text)
        again = self.dhad.dir + "/again"
        r = self.worker("export", "--model", model, "--out", again, "--format", "dha")
        self.assertEqual(r.returncode, 0, r)
        other = self.read(again)
        self.assertIn("trust_remote_code", other)
        self.assertEqual(other.split("## Use")[0], text.split("## Use")[0])
        os.remove(model + "/dha_conversion.json")
        bare = self.dhad.dir + "/bare"
        self.assertEqual(self.worker("export", "--model", model, "--out", bare).returncode, 0)
        unknown = self.read(bare)
        for part in ("How it was made", "What it scores", "parent's is"):
            self.assertNotIn(part, unknown)
        self.assertIn("not recorded here", unknown)
        with open(model + "/dha_conversion.json", "w") as f:
            f.write('{"format": "something else"}')
        r = self.worker("export", "--model", model, "--out", self.dhad.dir + "/no")
        self.assertEqual(r.returncode, 65, r)
        self.assertIn("dha_conversion.json is not of format", r.stderr)

    def test_domains_and_tasks_are_in_it(self):
        mixture = [{"domain": d, "weight": 0.5, "train": [self.demo + "/train.txt"], "valid": self.demo + "/valid.txt"}
                   for d in ("books", "web")]
        questions = self.dhad.dir + "/boolq.jsonl"
        with open(questions, "w") as f:
            for i in range(3):
                f.write(json.dumps({"passage": "The king came home.", "question": "did he come home",
                                    "labelKey": "true", "answerKey": "yes"}) + "\n")
        model, _ = self.convert("job", method="gqa", tokens={"search": 0, "fuse": 0, "train": 512},
                                data={"mixture": mixture, "format": "text", "seq_len": 64},
                                eval={"windows": 4, "tasks": [{"task": "boolq", "path": questions}]})
        text = self.read(model)
        self.assertIn("| domains of the data | `books`, `web` |", text)
        for d in ("books", "web"):
            self.assertRegex(text, rf"\| `{d}` \| \d\.\d{{4}} \| \d\.\d{{4}} \| \d\.\d{{4}} \|")
        self.assertRegex(text, r"\| `boolq` \| parent \| 3 \| \d+\.\d\d \|")
        self.assertRegex(text, r"\| `boolq` \| this one \| 3 \| \d+\.\d\d \|")


if __name__ == "__main__":
    harness.main()
