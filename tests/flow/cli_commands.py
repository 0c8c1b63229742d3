"""Help, usage errors and exit statuses: what dha says before and without any job."""
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import threading

import cli_harness
import harness


class Help(cli_harness.Case):
    def commands(self):
        text = self.ok("--help").out
        return re.findall(r"^  (\w+) +\S", text, re.M)

    def test_every_command_of_the_contract_is_there(self):
        self.assertLessEqual(
            {"demo", "convert", "inspect", "submit", "list", "show", "watch", "explain", "logs",
             "metrics", "cancel", "hold", "release", "retry", "prio", "sweep", "nodes", "export",
             "compare", "events", "up", "down"}, set(self.commands()))

    def test_the_help_of_every_command_has_an_example_that_it_would_accept(self):
        for name in self.commands():
            with self.subTest(name):
                text = self.ok(name, "--help").out
                self.assertTrue(text.startswith(f"usage: dha {name}"), text)
                example = text.split("example:\n")[1]
                self.assertIn(f"dha {name}", example)
                self.assertEqual(self.ok("help", name).out, text)
                # Every long option of the example is an option of the command.
                for line in example.replace("\\\n", " ").splitlines():
                    if f"dha {name}" in line:
                        mine = line.split(f"dha {name}")[1].split("&&")[0].split("|")[0]
                        for option in re.findall(r"--[a-z-]+", mine):
                            self.assertIn(option, text, line)

    def test_help_needs_no_daemon(self):
        self.dhad.stop()
        self.ok("submit", "--help")
        self.assertRegex(self.ok("--version").out, r"^dha \d+\.\d+")

    def test_completion_is_valid_bash_and_completes(self):
        path = os.path.join(self.dhad.dir, "completion")
        with open(path, "w") as f:
            f.write(self.ok("completion", "bash").out)
        subprocess.run(["bash", "-n", path], check=True)
        script = (f". {path}; COMP_WORDS=(dha sub); COMP_CWORD=1; _dha; echo ${{COMPREPLY[@]}};"
                  f"COMP_WORDS=(dha submit --dr); COMP_CWORD=2; _dha; echo ${{COMPREPLY[@]}}")
        out = subprocess.run(["bash", "-c", script], check=True, capture_output=True, text=True).stdout
        self.assertEqual(out, "submit\n--dry-run\n")

    def test_the_manual_page_names_every_command(self):
        page = self.ok("man").out
        self.assertTrue(page.startswith(".TH DHA 1"))
        for name in self.commands():
            self.assertIn(f".SS dha {name}", page)


class Usage(cli_harness.Case):
    def test_no_command_is_a_usage_error_with_the_list(self):
        r = self.dha()
        self.assertEqual(r.rc, 2)
        self.assertEqual(r.out, "")
        self.assertIn("usage: dha", r.err)

    def test_slips_are_answered_with_what_was_meant(self):
        self.assertIn("dha submit", self.fails(2, "submti").err)
        self.assertIn("--wait", self.fails(2, "submit", "--wiat", "x").err)

    def test_missing_and_superfluous_arguments(self):
        self.fails(2, "show")
        self.fails(2, "show", "1", "2")
        self.fails(2, "export", "1")
        self.fails(2, "prio", "1", "high")
        self.assertIn("dha prio ID -- -5", self.fails(2, "prio", "1", "-5").err)
        self.assertIn("No such file", self.fails(66, "compare", "a", "b", "--data", "/nope").err)
        self.assertIn("DHA_DEMO", self.fails(66, "demo", env={**self.env, "DHA_DEMO": "/nope"}).err)
        self.fails(2, "nodes", "paint", "here")
        self.fails(2, "nodes", "drain")
        self.fails(2, "sweep", "create", "spec.json")
        self.fails(2, "logs", "1", "--stream", "nothing")
        self.fails(2, "compare", "a", "b")
        self.fails(2, "convert", "m", "--data", "d", "--out", "o")
        self.fails(2, "completion", "fish")

    def test_an_empty_word_names_no_job_and_no_node(self):
        job = self.submit("slow train.sleep=120")
        self.dhad.until_running(job, "train")
        before = self.dhad.get("/v1/events").json
        spec = os.path.join(self.dhad.dir, "spec.json")
        for args in (("cancel", ""), ("cancel", "", "--now"), ("hold", ""), ("release", ""), ("prio", "", "7"), ("retry", ""),
                     ("show", ""), ("explain", ""), ("logs", ""), ("watch", job, ""), ("metrics", ""), ("export", "", "--out", "o"),
                     ("admin", "export", "", "--out", "o"), ("submit", spec, "--after", "ok:")):
            r = self.fails(2, *args)
            self.assertIn("the job's id is empty", r.err, r)
            self.assertIn("`dha list`", r.err, r)
        for verb in ("drain", "resume", "show"):
            self.assertIn("the node's name is empty", self.fails(2, "nodes", verb, "").err)
        self.assertIn("the token's name is empty", self.fails(2, "admin", "token", "revoke", "").err)
        for none in ("0", "00"):
            for args in (("show", none), ("cancel", none), ("submit", spec, "--after", f"any:{none}")):
                r = self.fails(66, *args)
                self.assertIn("there is no job '0'", r.err, r)
                self.assertIn("`dha list`", r.err, r)
        self.assertEqual(self.dhad.get("/v1/events").json, before, "nothing was done")
        self.assertEqual(self.dhad.job(job)["state"], "running")
        self.ok("cancel", job, "--now")

    def test_json_may_stand_before_the_command(self):
        self.assertEqual(self.ok("--json", "list").json, self.ok("list", "--json").json)
        self.assertEqual(self.ok("--json", "--socket", self.dhad.socket, "nodes").json["nodes"][0]["state"], "up")
        self.assertIn("is not an option of `dha completion`", self.fails(2, "--json", "completion", "bash").err)

    def test_list_and_show_count_the_time_from_the_start(self):
        """Not what it waited before: both say how long the same thing took."""
        blocker = self.dhad.submit("search.sleep=2", resources={"ranks": 4})
        job = self.dhad.submit("short", seed=2, resources={"ranks": 4})
        row = [line for line in self.ok("list").out.splitlines() if " short " in line]
        self.assertEqual(row[0].split()[-1], "-", "it has not begun")
        self.dhad.until_state(blocker, "done")
        j = self.dhad.until_state(job, "done")
        took = [line.split()[1:] for line in self.ok("show", job).out.splitlines() if line.split()[:1] == ["time"]]
        row = [line for line in self.ok("list").out.splitlines() if " short " in line]
        self.assertEqual(row[0].split()[-len(took[0]):], took[0], j)

    def test_the_socket_may_be_named_before_or_after_the_command(self):
        env = cli_harness.environment(HOME=self.dhad.dir)
        self.ok("--socket", self.dhad.socket, "nodes", env=env)
        self.ok("nodes", "--socket", self.dhad.socket, env=env)


class Output(cli_harness.Case):
    def test_a_full_disk_is_said_as_such(self):
        for args in (("events",), ("man",), ("list", "--json")):
            with self.subTest(args), open("/dev/full", "w") as full:
                p = subprocess.run([cli_harness.DHA, *args], stdout=full, stderr=subprocess.PIPE, text=True,
                                   env=self.env, cwd=self.dhad.dir)
                self.assertEqual((p.returncode, p.stderr),
                                 (73, "dha: writing to stdout: No space left on device\n"))

    def test_a_reader_that_has_seen_enough_is_no_failure(self):
        for args in (("events",), ("events", "-f"), ("man",)):
            with self.subTest(args):
                r, w = os.pipe()
                os.close(r)
                p = subprocess.run([cli_harness.DHA, *args], stdout=w, stderr=subprocess.PIPE, text=True,
                                   env=self.env, cwd=self.dhad.dir, timeout=20)
                os.close(w)
                self.assertEqual((p.returncode, p.stderr), (0, ""))


class Worker(cli_harness.Case):
    """What dha-worker says is said once, and by it."""
    model = os.path.realpath(os.path.join(harness.HERE, "..", "..", "deploy", "demo", "hf"))

    def copy(self, name):
        path = os.path.join(self.dhad.dir, name)
        shutil.copytree(self.model, path)
        return path

    def compare(self, other, *more):
        return self.dha("compare", self.model, other, "--data", os.path.dirname(self.model) + "/valid.txt",
                        "--windows", "1", "--seq-len", "16", *more)

    def cut_vocabulary(self, path, rows):
        with open(path + "/model.safetensors", "rb") as f:
            n, = struct.unpack("<Q", f.read(8))
            head, data = json.loads(f.read(n)), f.read()
        head.pop("__metadata__", None)
        kept = b""
        for name, t in sorted(head.items(), key=lambda x: x[1]["data_offsets"]):
            start, end = t["data_offsets"]
            if t["shape"][0] == 512:
                end = start + (end - start) // 512 * rows
                t["shape"][0] = rows
            t["data_offsets"] = [len(kept), len(kept) + end - start]
            kept += data[start:end]
        head = json.dumps(head).encode()
        with open(path + "/model.safetensors", "wb") as f:
            f.write(struct.pack("<Q", len(head)) + head + kept)
        with open(path + "/config.json") as f:
            config = json.load(f)
        with open(path + "/config.json", "w") as f:
            json.dump({**config, "vocab_size": rows}, f)

    def test_a_directory_that_is_not_there_is_said_to_be_that(self):
        for args in (("inspect", "nosuch"), ("compare", "nosuch", self.model, "--data", "train.u16")):
            r = self.dha(*args)
            self.assertEqual(r.rc, 66, r)
            self.assertTrue(r.err.startswith("dha-worker inspect: there is no directory nosuch\n"), r)
            self.assertNotIn("exit status", r.err)

    def test_losses_over_different_tokens_are_not_compared(self):
        other = self.copy("other")
        with open(other + "/tokenizer.model", "ab") as f:
            f.write(b"\0")
        r = self.compare(other)
        self.assertEqual((r.rc, r.out), (65, ""), r)
        self.assertIn(other + "/tokenizer.model", r.err)
        self.assertIn("--tokenizer FILE", r.err)
        r = self.compare(other, "--tokenizer", self.model + "/tokenizer.model")
        self.assertEqual(r.rc, 0, r)
        self.assertEqual(self.compare(self.copy("same")).rc, 0)

    def test_vocabularies_of_other_sizes_are_not_compared(self):
        small = self.copy("small")
        self.cut_vocabulary(small, 300)
        r = self.compare(small)
        self.assertEqual((r.rc, r.out), (65, ""), r)
        self.assertIn("512 tokens", r.err)
        self.assertIn("300", r.err)


class NoDaemon(cli_harness.Case):
    def test_a_named_socket_that_is_dead_is_said_and_nothing_is_started(self):
        nowhere = os.path.join(self.dhad.dir, "nowhere")
        r = self.fails(69, "list", env={**self.env, "DHA_SOCKET": nowhere})
        self.assertIn(nowhere, r.err)
        self.assertIn(f"dha up --socket {nowhere}", r.err)
        self.assertEqual(r.out, "")
        self.assertFalse(os.path.exists(nowhere))
        self.assertFalse(os.path.exists(os.path.join(self.dhad.dir, ".dha")))

    def test_a_socket_path_that_does_not_fit_is_said(self):
        r = self.fails(2, "list", env={**self.env, "DHA_SOCKET": "/tmp/" + "x" * 120})
        self.assertIn("125 bytes", r.err)

    def test_what_is_no_daemon_is_not_believed(self):
        path = os.path.join(self.dhad.dir, "liar")
        with socket.socket(socket.AF_UNIX) as s:
            s.bind(path)
            s.listen()

            def lie():
                while True:
                    try:
                        c, _ = s.accept()
                    except OSError:
                        return
                    c.recv(4096)
                    c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{\"a\":1}{}")
                    c.close()
            threading.Thread(target=lie, daemon=True).start()
            self.fails(76, "list", env={**self.env, "DHA_SOCKET": path})
            s.shutdown(socket.SHUT_RDWR)


class NoRoom(cli_harness.Case):
    """A daemon whose queue of connections is full."""

    def full(self, path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        s = socket.socket(socket.AF_UNIX)
        self.addCleanup(s.close)
        s.bind(path)
        s.listen(0)
        holder = socket.socket(socket.AF_UNIX)
        self.addCleanup(holder.close)
        holder.connect(path)
        with socket.socket(socket.AF_UNIX) as one_more:
            one_more.setblocking(False)
            with self.assertRaises(BlockingIOError):
                one_more.connect(path)
        return s

    def test_room_is_waited_for(self):
        path = os.path.join(self.dhad.dir, "full", "sock")
        s = self.full(path)
        asked = []

        def answer():
            s.accept()[0].close()  # who held it
            while not asked:  # who only waited for room, and who asks
                with s.accept()[0] as c:
                    while data := c.recv(4096):
                        asked.append(data.split()[1])
                        c.sendall(b'HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{"jobs":[]}')
        t = threading.Timer(1, answer)
        t.daemon = True
        t.start()
        r = self.ok("list", env={**self.env, "DHA_SOCKET": path})
        self.assertIn("no jobs", r.err)
        self.assertEqual(asked[0], b"/livez")

    def test_no_room_is_said_and_no_other_daemon_is_started(self):
        env = {k: v for k, v in self.env.items() if k != "DHA_SOCKET"}
        self.full(os.path.join(self.dhad.dir, ".dha", "run", "sock"))
        for command in ("list", "up"):
            r = self.fails(69, command, env=env)
            self.assertIn("has no room for another connection", r.err)
            self.assertIn("dhad.log", r.err)
            self.assertNotIn("`dha up`", r.err)
        self.assertEqual(os.listdir(os.path.join(self.dhad.dir, ".dha")), ["run"])


class Nodes(cli_harness.Case):
    def test_a_node_is_drained_and_resumed(self):
        node = self.ok("nodes", "--json").json["nodes"][0]["name"]
        self.assertIn(node, self.ok("nodes").out)
        self.ok("nodes", "drain", node, "--reason", "fan broken")
        self.assertIn("fan broken", self.ok("nodes").out)
        self.ok("nodes", "resume", node)
        self.assertNotIn("fan broken", self.ok("nodes").out)
        self.fails(66, "nodes", "drain", "no such node")

    def test_up_says_where_a_running_daemon_is(self):
        self.assertIn(self.dhad.state, self.ok("up").out)
        self.assertEqual(self.ok("up", "--json").json["state_dir"], self.dhad.state)

    def test_down_stops_the_daemon_and_can_be_repeated(self):
        self.ok("down")
        self.assertEqual(self.dhad.wait_dead(), 0)
        r = self.ok("down")
        self.assertIn("no daemon", r.err)


if __name__ == "__main__":
    harness.main()
