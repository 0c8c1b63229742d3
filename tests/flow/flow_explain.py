"""What `dha explain` says of each state that a job can be in: what is the matter, and which command or setting comes next."""
import os
import re
import signal
import subprocess
import unittest

import harness

HELD = "a user holds it"
GANG = {"resources": {"ranks": 4}}  # all slots of the daemon


class Case(harness.Case):
    commands = {}

    def explain(self, job):
        return self.dhad.get(f"/v1/jobs/{job}/explain").json

    def is_command(self, word):
        if word not in self.commands:
            self.commands[word] = subprocess.run([os.path.join(harness.BIN, "dha"), word, "--help"],
                                                 capture_output=True).returncode == 0
        return self.commands[word]

    def said(self, job, reason, advice, x=None):
        """Both are what the texts must have (a regular expression); the advice names a command that there is, or a setting."""
        x = x or self.explain(job)
        self.assertRegex(x["reason"], reason)
        self.assertRegex(x["unblock"], advice)
        named = re.findall(r"\bdha ([a-z]+)", x["unblock"])
        self.assertTrue(named or re.search(r"resources\.\w+|setting \w+|--slots", x["unblock"]), x)
        self.assertEqual([w for w in named if not self.is_command(w)], [], x)
        for text in (x["reason"], x["unblock"]):
            self.assertFalse(re.search(r"^\W|[;,:] *$|; ;|%", text), text)
            self.assertLess(len(text), 500, "nothing was cut")
        return x

    def until_said(self, job, reason, advice, seconds=30):
        """When the reason is that."""
        return self.said(job, reason, advice, self.dhad.until(
            lambda: (x := self.explain(job)) and re.search(reason, x["reason"]) and x, seconds))

    def submit_with(self, after=None, hold=False, **spec):
        r = self.dhad.post("/v1/jobs", {"spec": self.dhad.spec(**spec), "hold": hold, **({"after": after} if after else {})})
        self.assertEqual(r.status, 201, r)
        return r.json["job"]["id"]

    def logs_refused(self, job, query, message):
        r = self.dhad.get(f"/v1/jobs/{job}/logs{query}")
        self.assert_error(r, 404, "not_found")
        self.assertRegex(r.json["error"]["message"], message)
        return r.json["error"]["hint"]


class Waiting(Case):
    def test_what_waits_for_a_user_another_job_or_slots(self):
        d = self.dhad
        held = self.submit_with(hold=True, name="held")
        self.said(held, f"^{HELD}$", f"^dha release {held}$")
        a = d.submit("search.sleep=120", seed=2, **GANG)
        d.until_running(a, "search")
        self.said(a, r"^its processes are at work: it has been at step .* counts as frozen after .* \(setting stall_s\)$", f"dha watch {a}")
        b, c = d.submit("b", seed=3, **GANG), d.submit("c", seed=4, **GANG)
        self.said(b, "^search is first in line: it needs 4 slots, 0 of 4 are free", f"dha watch {a}.*dha hold {a}")
        self.said(c, f"^search is behind job {b}, which waits for slots", f"dha prio {c} N")
        equal = d.submit("search.sleep=120", seed=2, **GANG)
        self.said(equal, f"^search waits for job {a}, which is running an equal one", f"dha watch {a}")
        then = self.submit_with([f"ok:{a}"], name="then", seed=5)
        self.said(then, f"^search waits for the end of job {a}, which is running$", f"dha watch {a}")
        on_held = self.submit_with([f"ok:{held}"], name="on held", seed=6)
        self.said(on_held, f"^search waits for the end of job {held}, which is held$", f"dha release {held}")
        last = self.submit_with([f"any:{on_held}"], name="last", seed=7)
        self.said(last, f"waits in the end for job {held}, which is held$", f"dha release {held}")
        # why there are no logs is the same, and so is what helps
        for job, query, message in ((held, "", f"^nothing of job {held} has started yet: {HELD}$"),
                                    (b, "", f"^nothing of job {b} has started yet: search is first in line"),
                                    (b, "?stage=train", f"^train of job {b} has not started yet: search is first in line"),
                                    (a, "?stage=train", f"^train of job {a} has not started: it comes after search, which is running$")):
            self.assertIn(f"dha explain {job}", self.logs_refused(job, query, message))
        self.assertEqual(self.logs_refused(a, "?attempt=9", f"^search of job {a} has no attempt 9$"), "the newest is 1")
        # and when those that it waits for do not come
        d.post(f"/v1/jobs/{a}/cancel", {"now": True})
        d.until_state(a, "cancelled")
        self.said(a, "^cancelled by a user$", f"^dha retry {a}$")
        self.said(then, f"^search waits for the success of job {a}, which is cancelled$", f"dha retry {a}; or cancel this one")
        d.post(f"/v1/jobs/{held}/cancel", {"reason": "not needed"})
        self.said(held, "^cancelled: not needed$", f"^dha retry {held}$")
        self.logs_refused(held, "", f"^nothing of job {held} was ever started, and the job is cancelled: cancelled: not needed$")
        self.logs_refused(held, "?stage=eval", f"^eval of job {held} was never started, and the job is cancelled")

    def test_what_waits_for_a_node(self):
        d = self.dhad
        node = d.get("/v1/nodes").json["nodes"][0]["name"]
        d.post(f"/v1/nodes/{node}/drain", {"reason": "fan"})
        job = d.submit("a", **GANG)
        self.said(job, rf"^search needs 4 slots, and every node that has them is drained: {node} \(fan\)$", f"dha nodes resume {node}$")
        d.stop()
        d.slots = 2
        d.start()
        self.said(job, "^search needs 4 slots; the largest node has 2$", "resources.ranks .*--slots 4")


class Stopping(Case):
    def test_a_cancel_says_what_is_waited_for_and_when_it_is_killed(self):
        d = self.dhad
        job = d.submit("deaf=1 search.sleep=120")
        d.until_running(job, "search")

        def cancel(*more):
            r = subprocess.run([os.path.join(harness.BIN, "dha"), "cancel", job, *more], capture_output=True, text=True, timeout=60,
                               env={**os.environ, "DHA_SOCKET": d.socket})
            self.assertEqual((r.returncode, r.stdout), (0, ""), r.stderr)
            return r.stderr
        said = cancel("--reason", "wrong corpus")
        self.assertRegex(said, rf"^dha: job {job} is being cancelled \(asked \d+ s ago\): wrong corpus; ")
        self.assertNotIn("already", said)
        x = self.explain(job)
        if "SIGKILL) if it does not" in x["reason"]:  # 20 s are not over yet, as busy as this machine is
            self.said(job, rf"^it is being cancelled \(asked \d+ s ago\): wrong corpus; told to checkpoint and stop; killed in \d+ s"
                      r" \(SIGKILL\) if it does not$", f"dha watch {job}.*dha cancel {job} --now", x)
            self.assertRegex(cancel(), rf"^dha: job {job} is being cancelled already \(asked \d+ s ago\): wrong corpus; ")
            self.assertRegex(cancel("--now"), f"^dha: job {job} is (being cancelled already|cancelled)")
        d.until_state(job, "cancelled")
        self.said(job, "^cancelled: wrong corpus$", f"^dha retry {job}$")

    def test_what_is_killed_says_so(self):
        d = self.dhad
        job = d.submit("deaf=1 search.sleep=120")
        d.until_running(job, "search")
        os.kill(d.shim(job, "search"), signal.SIGSTOP)  # it cannot end before that goes on
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        self.until_said(job, r"^it is being cancelled \(asked .*; its processes are being killed \(SIGKILL\); it ends with the last one$",
                        f"^nothing to do but wait .dha watch {job}.$")

    def test_a_hold_says_what_runs_on(self):
        d = self.dhad
        job = d.submit("deaf=1 search.sleep=120")
        d.until_running(job, "search")
        d.post(f"/v1/jobs/{job}/hold")
        self.until_said(job, f"^{HELD}; what runs of it: told to checkpoint and stop$", f"^dha release {job}$")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")


# how an attempt ends, and what is said of it: (directive, again, reason, advice)
ENDS = [("exit=3", True, "the launcher ended with status 3 and the worker said nothing", "dha logs"),
        ("exit=127", True, "could not be executed", "mpirun in the daemon's PATH"),
        ("exit=139", True, r"a rank was killed by signal 11 \(Segmentation fault\)", "dha logs"),
        ("exit=137", True, r"a rank was killed by signal 9 \(Killed\)", "want of memory .* resources.ranks"),
        ("die=9", True, "the launcher was killed by signal 9", "want of memory")]
ENDS += [(f"fail={code}", True, "told to fail", "do not tell it to") for code in
         ("no_memory", "no_space", "timeout", "bad_checkpoint", "io_error", "communication", "lost")]
ENDS += [(f"fail={code}", False, "told to fail", "do not tell it to; ") for code in
         ("bad_input", "diverged", "newer_version", "protocol", "not_found", "internal", "failed")]


class Ends(Case):
    slots = 8

    def test_how_an_attempt_ends_and_what_then(self):
        d = self.dhad
        jobs = [(d.submit("search." + how, seed=i), again, reason, advice) for i, (how, again, reason, advice) in enumerate(ENDS)]
        waits = {job: (rf"^nothing of it runs just now: attempt \d of search failed \(.*{reason}.*\); the next begins in \d+ s"
                       r" \(\d of 3 that may follow a failure\)$", f"^nothing to do: it starts by itself.*{advice}")
                 for job, again, reason, advice in jobs if again}
        seen = set()

        def look():
            """Those that wait for their next attempt now; a busy machine may miss some."""
            for job in set(waits) - seen:
                x = self.explain(job)
                if x["verdict"] == "backoff":
                    self.said(job, *waits[job], x)
                    seen.add(job)
                elif x["state"] == "failed":
                    del waits[job]
            return not set(waits) - seen
        d.until(look, 120)
        self.assertGreater(len(seen), 5)
        for job, again, reason, advice in jobs:
            d.until_state(job, "failed", seconds=120)
            x = self.said(job, rf"^search failed{' .attempt 4.' if again else ''}: .*{reason}", advice)
            self.assertRegex(x["unblock"], f"; then dha retry {job}$" if again or "dha retry" in x["unblock"] else r"\(dha submit\)$")
            if "retry" in x["unblock"]:
                self.assertRegex(x["unblock"], f"dha logs( {job} --stage search)?")
        self.logs_refused(jobs[0][0], "?stage=train", "^train of job 1 was never started, and the job is failed: search failed")

    def test_walltime_and_done(self):
        d = self.dhad
        slow = d.submit("search.sleep=120", seed=1, resources={"ranks": 1, "walltime": "1s"})
        done = d.submit("done", seed=2)
        d.until_state(slow, "failed", seconds=60)
        self.said(slow, "^search failed: the stage ran for longer than its walltime of 1 s$",
                  f"^dha logs {slow} --stage search .*newest checkpoint.*; then dha retry {slow}$")
        d.until_state(done, "done")
        x = self.explain(done)
        self.assertEqual((x["reason"], x["unblock"]), ("all its stages are complete", ""))


class Frozen(Case):
    args = ("--stall", "2")

    def test_what_is_frozen_says_so(self):
        job = self.dhad.submit("search.sleep=120 search.freeze=1:1 deaf=1")
        self.until_said(job, "^its processes are at work: told to checkpoint and stop, because it counts as frozen; killed in .* does not$",
                        f"dha watch {job}", 60)
        self.until_said(job, r"^nothing of it runs just now: attempt 1 of search failed \(step .* made no progress for .*begins in",
                        "starts by itself.*stall_s", 60)
        self.dhad.post(f"/v1/jobs/{job}/cancel", {"now": True})
        self.dhad.until_state(job, "cancelled")


if __name__ == "__main__":
    harness.main()
