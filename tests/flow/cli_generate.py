"""`dha generate` through the built programs: the demo checkpoint, a job that converts it, a terminal, bad input."""
import json
import os
import pty
import select
import shutil
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


if __name__ == "__main__":
    harness.main()
