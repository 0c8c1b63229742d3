"""kill -9 at every failpoint of the daemon (daemon/failpoint.h), taken from the daemon's own list: a new
point is tested as soon as it exists. At each: the job still gets where it should, and each stage ran once."""
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness

PROGRAM = "dhad-failpoints"


def points():
    out = subprocess.run([os.path.join(harness.BIN, PROGRAM), "--list-failpoints"],
                         capture_output=True, text=True, check=True).stdout
    return [line.split("\t")[0] for line in out.splitlines()]


class Failpoints(unittest.TestCase):
    def daemon(self, point):
        d = harness.Dhad(program=PROGRAM)
        self.addCleanup(d.clean)
        d.start(wait=False, DHA_FAILPOINT=point)
        return d

    def revive(self, d):
        """The failpoint must have been reached: a point that is never hit tests nothing."""
        self.assertEqual(d.wait_dead(), -9)
        d.start()

    def assert_ran_once(self, d, job):
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        for s in j["stages"]:
            self.assertEqual((s["attempts"], len(d.launches(job, s["kind"]))), (1, 1), s)
        seqs = [int(e["seq"]) for e in d.events()]
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual({s["attempt"] for s in node["slots"]}, {None})
        self.assertEqual(d.stray(), [])

    def run_job(self, point):
        """A job through a daemon that dies at the point, then through one that does not."""
        d = self.daemon(point)
        job = None
        try:
            d.wait_ready()
            r = d.post("/v1/jobs", {"spec": d.spec("sleep=0.3")}, {"Idempotency-Key": "k"})
            job = r.json["job"]["id"]
        except (OSError, harness.http.client.HTTPException, AssertionError):
            pass
        self.revive(d)
        # What a client does that got no answer: asks again with its key.
        r = d.post("/v1/jobs", {"spec": d.spec("sleep=0.3")}, {"Idempotency-Key": "k"})
        self.assertIn(r.status, (200, 201))
        if job:
            self.assertEqual((r.status, r.json["job"]["id"]), (200, job), "what was promised is there")
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), 1)
        self.assert_ran_once(d, r.json["job"]["id"])

    def run_sweep(self, point):
        """All of a sweep or nothing, whatever the moment; the same request again is the same sweep."""
        d = self.daemon(point)
        body = {"spec": d.spec(), "name": "sleep=0.3 sw", "budgets": [0.5, 0.25], "methods": ["spectral"],
                "stop_dominated": True}
        sweep = None
        try:
            d.wait_ready()
            sweep = d.post("/v1/sweeps", body).json["sweep"]["id"]
        except (OSError, harness.http.client.HTTPException, AssertionError):
            pass
        self.revive(d)
        r = d.post("/v1/sweeps", body)
        self.assertIn(r.status, (200, 201))
        if sweep:
            self.assertEqual((r.status, r.json["sweep"]["id"]), (200, sweep), "what was promised is there")
        self.assertEqual(len(r.json["sweep"]["jobs"]), 2)
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), 2)
        jobs = [d.until_state(j["id"], *harness.FINAL) for j in r.json["sweep"]["jobs"]]
        self.assertEqual([(j["state"], j["cancel_reason"]) for j in jobs], [("done", None)] * 2)
        self.assertEqual(sum(len(d.launches(j["id"], "search")) for j in jobs), 1, "one search for both budgets")
        self.assertEqual([len(d.launches(j["id"], "train")) for j in jobs], [1, 1])
        self.assertEqual(d.stray(), [])

    def run_cancel(self, point):
        d = self.daemon(point)
        d.wait_ready()
        job = d.submit("search.sleep=60 search.deaf=1 search.litter=1")
        d.until_running(job, "search")
        try:
            d.post(f"/v1/jobs/{job}/cancel", {"reason": "r", "now": point == "cancel_before_kill"})
        except (OSError, harness.http.client.HTTPException):
            pass
        self.revive(d)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        j = d.until_state(job, "cancelled", seconds=20)
        self.assertEqual(j["cancel_reason"], "r")
        self.assertEqual(len(d.launches(job, "search")), 1)
        self.assertEqual(d.stray(), [])


def make(point, n):
    def test(self):
        (self.run_cancel if point.startswith("cancel") else self.run_job)(
            point if n == 1 else f"{point}:{n}")
    return test


def make_sweep(point):
    return lambda self: self.run_sweep(point)


if os.path.exists(os.path.join(harness.BIN, PROGRAM)):
    for _p in points():
        # The first time in a daemon's life and later, between two stages.
        for _n in (1,) if _p.startswith("cancel") else (1, 4):
            setattr(Failpoints, f"test_killed_at_{_p}_{_n}", make(_p, _n))
        if not _p.startswith("cancel"):
            setattr(Failpoints, f"test_a_sweep_survives_{_p}", make_sweep(_p))

if __name__ == "__main__":
    harness.main()
