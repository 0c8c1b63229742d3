"""What dhad is told: by the command line, by a file, by SIGHUP; and what it tells systemd."""
import json
import os
import signal
import socket
import unittest

import harness


class Settings(unittest.TestCase):
    def daemon(self, settings, more=()):
        """A daemon with a file of settings instead of --slots."""
        d = harness.Dhad()
        self.addCleanup(d.clean)
        self.file = os.path.join(d.dir, "dhad.json")
        self.write(settings)
        command = d.command
        d.command = lambda: self.without_slots(command()) + ["--config", self.file, *more]
        return d

    @staticmethod
    def without_slots(words):
        i = words.index("--slots")
        return words[:i] + words[i + 2:]

    def write(self, settings):
        with open(self.file, "w") as f:
            f.write(settings if isinstance(settings, str) else json.dumps(settings))

    def slots(self, d):
        return len(d.get("/v1/nodes").json["nodes"][0]["slots"])

    def log(self, d):
        with open(os.path.join(d.state, "dhad.log")) as f:
            return f.read()

    def test_a_file_is_read_and_read_again(self):
        d = self.daemon({"slots": 3, "stall_s": 10})
        d.start()
        self.assertEqual(self.slots(d), 3)
        self.write({"slots": 5, "ageing_s": 60})
        d.process.send_signal(signal.SIGHUP)
        d.until(lambda: self.slots(d) == 5)
        self.assertIn("slots 5, stall 3600 s, ageing 60 s", self.log(d))
        d.end()

    def test_a_sighup_that_comes_while_it_starts_ends_nothing(self):
        d = self.daemon({"slots": 3})
        for _ in range(3):
            d.start(wait=False)
            while d.process.poll() is None and not self.catches(d.process.pid, signal.SIGTERM):
                pass
            self.assertTrue(self.catches(d.process.pid, signal.SIGHUP))
            d.process.send_signal(signal.SIGHUP)
            d.wait_ready()
            self.assertEqual(d.stop(), 0)

    @staticmethod
    def catches(pid, signo):
        with open(f"/proc/{pid}/status") as f:
            caught = next(line.split()[1] for line in f if line.startswith("SigCgt"))
        return int(caught, 16) >> (signo - 1) & 1 == 1

    def test_more_slots_start_what_waited(self):
        d = self.daemon({"slots": 2})
        d.start()
        a = d.submit("search.sleep=20")
        d.until_running(a, "search")
        b = d.submit("b", seed=2)
        self.assertEqual(d.job(b)["state"], "queued")
        self.write({"slots": 4})
        d.process.send_signal(signal.SIGHUP)
        d.until_state(b, "done")
        self.assertEqual(d.job(a)["state"], "running")
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        d.until_state(a, "cancelled")
        d.end()

    def test_a_file_that_cannot_be_used_changes_nothing(self):
        d = self.daemon({"slots": 3})
        d.start()
        for bad in ("{", "[]", {"slots": 0}, {"slots": "4"}, {"slots": 2.5}, {"slotz": 4}, {"slots": 4, "stall_s": -1},
                    '{"slots": 4, "slots": 5}', "x" * 70000):
            self.write(bad)
            n = self.log(d).count("the settings stay as they were")
            d.process.send_signal(signal.SIGHUP)
            d.until(lambda: self.log(d).count("the settings stay as they were") == n + 1)
            self.assertEqual(self.slots(d), 3)
        self.assertIn('did you mean "slots"?', self.log(d))
        os.remove(self.file)
        d.process.send_signal(signal.SIGHUP)
        d.until(lambda: "cannot open" in self.log(d) or "No such file" in self.log(d))
        self.assertEqual(self.slots(d), 3)
        d.end()

    def test_a_higher_priority_makes_a_lower_one_checkpoint_and_wait(self):
        d = self.daemon({"slots": 2, "preempt": 1})
        d.start()
        low = d.submit("train.sleep=3")
        d.until_running(low, "train")
        equal = d.submit("equal", seed=2)
        high = d.submit("search.sleep=1", seed=3, priority=5)
        d.until_state(high, "done")
        self.assertEqual(d.job(equal)["state"], "queued")
        j = d.until_state(low, "done")
        d.until_state(equal, "done")
        train, = (s for s in j["stages"] if s["kind"] == "train")
        self.assertEqual((train["attempts"], train["error"]), (2, None))
        e, = (e for e in d.events() if e["type"] == "job.preempt")
        self.assertEqual((e["job"], e["data"]), (low, {"to": high}))
        starts = [e["job"] for e in d.events() if e["type"] == "job.state" and e["data"].get("to") == "running"]
        self.assertEqual(starts, [low, high, equal])
        d.end()

    def test_explain_says_who_gives_way_or_why_nobody_does(self):
        for preempt in (0, 1):
            d = self.daemon({"slots": 2, "preempt": preempt})
            d.start()
            low = d.submit("train.sleep=60 train.deaf=1", priority=1)
            d.until_running(low, "train")
            equal = d.submit("equal", seed=2, priority=1)
            x = d.get(f"/v1/jobs/{equal}/explain").json
            self.assertIn("first in line", x["reason"])
            self.assertEqual("; nothing that runs there has a priority under its 1, so nothing gives way" in x["reason"], bool(preempt), x)
            dry = d.post("/v1/jobs", {"spec": d.spec("dry", seed=3, priority=5), "dry_run": True}).json["now"]
            high = d.submit("high", seed=3, priority=5)
            if not preempt:
                for x in (dry, d.get(f"/v1/jobs/{high}/explain").json):
                    self.assertIn(f"; job {low} has a lower priority, but the setting preempt is off: it goes on", x["reason"])
                    self.assertIn(f"or dha hold {low}", x["unblock"])
            else:
                self.assertIn(f"; job {low} has a lower priority, and gives way if that makes room enough", dry["reason"])
                d.until(lambda: "told to checkpoint" in d.get(f"/v1/jobs/{low}/explain").json["reason"])
                x = d.get(f"/v1/jobs/{high}/explain").json
                self.assertIn(f"; job {low} of lower priority checkpoints and gives way to it", x["reason"])
                self.assertEqual(x["unblock"], f"nothing to do: it starts when job {low} has stopped (dha watch {low})")
                self.assertIn(f", to give way to job {high} of higher priority; killed in",
                              d.get(f"/v1/jobs/{low}/explain").json["reason"])
            for job in (low, equal, high):
                d.post(f"/v1/jobs/{job}/cancel", {"now": True})
            d.until_state(low, "cancelled")
            d.end()

    def test_it_does_not_start_with_a_file_that_cannot_be_used(self):
        d = self.daemon({"slots": 3, "stall": 4})
        d.start(wait=False)
        self.assertEqual(d.wait_dead(), 65)
        self.assertIn('no setting "stall"', d.console())
        self.assertIn('did you mean "stall_s"?', d.console())

    def test_the_command_line_goes_before_the_file(self):
        d = self.daemon({"slots": 3, "stall_s": 7}, ("--slots", "2"))
        d.start()
        self.assertEqual(self.slots(d), 2)
        self.assertIn("stall 7 s", self.log(d))
        d.end()

    def test_a_worker_that_talks_without_end_does_not_fill_the_disk(self):
        d = self.daemon({"slots": 2, "log_mib": 1})
        d.start()
        job = d.submit("search.spew=8 search.sleep=6")
        d.until_running(job, "search")
        path = os.path.join(d.stage_dir(job, "search"), "a1", "stderr.log")
        d.until(lambda: os.path.getsize(path) > 8 << 20 and os.stat(path).st_blocks * 512 < 1 << 20)
        d.until(lambda: "the middle of its log is dropped" in self.log(d))
        text, offset = b"", 0
        while True:
            r = d.get(f"/v1/jobs/{job}/logs?stage=search&offset={offset}")
            offset = int(r.headers["X-Dha-Offset"])
            text += r.raw
            if not r.raw:
                break
        self.assertEqual(offset, os.path.getsize(path))
        self.assertIn(b"line         0 ", text)
        self.assertIn(b"line %9d " % (8 * 16384 - 1), text)
        self.assertIn(b"bytes of the log were dropped here", text)
        self.assertLess(len(text), 1 << 20)
        self.assertNotIn(0, text)
        d.until_state(job, "done")
        d.end()

    def test_each_rank_has_a_share_of_the_disk_for_logs(self):
        d = self.daemon({"slots": 2, "log_mib": 3})
        d.start()
        job = d.submit("search.ranklog=2 search.chat=hello search.spew=8 search.sleep=6")
        d.until_running(job, "search")
        of = {n: os.path.join(d.stage_dir(job, "search"), "a1", n) for n in ("stderr.log", "rank-0.log", "rank-1.log")}
        d.until(lambda: os.path.getsize(of["rank-0.log"]) > 8 << 20 and os.stat(of["rank-0.log"]).st_blocks * 512 < 1 << 20)
        self.assertIn("attempt 1 writes more than 1024 KiB to rank-0.log; the middle of its log is dropped", self.log(d))
        with open(of["rank-1.log"]) as f:
            self.assertEqual(f.read(), "hello 1\nmore of 1\n")
        d.kill()  # an adopted attempt's logs are kept to their size as well
        with open(of["rank-1.log"], "a") as f:
            f.write("line\n" * (4 << 20))
        d.start()
        d.until(lambda: os.stat(of["rank-1.log"]).st_blocks * 512 < 1 << 20)
        d.until_state(job, "done")
        d.end()



class Systemd(unittest.TestCase):
    def test_it_says_when_it_is_ready_that_it_lives_and_when_it_ends(self):
        d = harness.Dhad()
        self.addCleanup(d.clean)
        path = os.path.join(d.dir, "notify")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.bind(path)
            s.settimeout(20)
            d.start(NOTIFY_SOCKET=path, WATCHDOG_USEC="200000")
            heard = [s.recv(100) for _ in range(4)]
            self.assertEqual(heard.count(b"READY=1"), 1, heard)
            self.assertGreaterEqual(heard.count(b"WATCHDOG=1"), 2, heard)
            job = d.submit("search.sleep=20")
            d.until_running(job, "search")
            for pid in d.of_attempt(job, "search"):
                names = [e.split(b"=")[0] for e in harness.environ_of(pid)]
                self.assertNotIn(b"NOTIFY_SOCKET", names)
            d.post(f"/v1/jobs/{job}/cancel", {"now": True})
            d.until_state(job, "cancelled")
            d.process.send_signal(signal.SIGTERM)
            while (word := s.recv(100)) != b"STOPPING=1":
                self.assertEqual(word, b"WATCHDOG=1")
        self.assertEqual(d.wait_dead(), 0)


if __name__ == "__main__":
    harness.main()
