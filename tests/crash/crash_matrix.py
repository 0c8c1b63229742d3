"""kill -9 (and SIGSTOP) of each process of an attempt in each state of it: real mpirun, two ranks of the real worker on the
demo's model. The cells are enumerated below; the last test fails if one was not hit.

A cell is hit for certain: the ranks are stopped (SIGSTOP) where a moment has to be held, what is on the disk says which moment it
is, and only then the victim is struck; a moment that had passed is tried again with another job. All jobs train the same
(only how much of `valid` they look at differs, which makes them other stages), so that the weights of each must be those
of the undisturbed one, bit for bit.

    DHA_TORTURE=1: all stopped ranks too (each waits for the watchdog), not only two of them
"""
import glob
import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import time
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness

WORKER = os.path.join(harness.BIN, "dha-worker")
MODEL = os.path.join(harness.HERE, "..", "..", "deploy", "demo", "hf")
VICTIMS = ("daemon", "shim", "mpirun", "rank0", "rank1")
STATES = ("starting", "running", "checkpoint", "stopping", "transition")
KILLED = [(v, s, "KILL") for v in VICTIMS for s in STATES]
STOPPED = [(v, s, "STOP") for v in ("rank0", "rank1") for s in STATES]
SHORT = [("rank1", "running", "STOP"), ("rank0", "checkpoint", "STOP")]
TRIES = 12

if not shutil.which("mpirun") or not os.path.exists(WORKER) or not os.path.isdir(MODEL):
    print("skipped: mpirun, dha-worker or the demo's model is not there")
    sys.exit(77)


def read(path):
    try:
        with open(path, "rb") as f:
            return f.read()
    except OSError:
        return b""


def children(pid):
    return [int(p) for p in read(f"/proc/{pid}/task/{pid}/children").split()]


def strike(pid, sig):
    try:
        os.kill(pid, sig)
        return True
    except ProcessLookupError:
        return False


class Missed(Exception):
    """The moment was over before it could be held."""


class Gang:
    """The processes of a train attempt, as far as they are there."""

    def __init__(self, d, job, number=1):
        self.dir = os.path.join(d.state, "jobs", str(job), "train", f"a{number}")
        self.out = os.path.join(d.state, "jobs", str(job), "train", "out")

    def journal(self):
        return read(os.path.join(self.dir, "journal.ndjson"))

    def said(self, what):
        return b'"t":"%s"' % what.encode() in self.journal()

    def over(self):
        return os.path.exists(os.path.join(self.dir, "exit.json"))

    def writing(self):
        return bool(glob.glob(os.path.join(self.out, "ckpt", "step-*.tmp")))

    def shim(self):
        try:
            return json.loads(read(os.path.join(self.dir, "shim.json")))["pid"]
        except ValueError:
            return None

    def mpirun(self):
        for pid in children(self.shim() or 0):
            if read(f"/proc/{pid}/comm") == b"mpirun\n":
                return pid
        return None

    def rank(self, n):
        for pid in children(self.mpirun() or 0):
            if (b"OMPI_COMM_WORLD_RANK=%d" % n) in read(f"/proc/{pid}/environ").split(b"\0") and \
                    b"dha-worker" in read(f"/proc/{pid}/cmdline").split(b"\0")[0]:
                return pid
        return None

    def pid(self, victim):
        return self.rank(int(victim[4:])) if victim.startswith("rank") else getattr(self, victim)()


class Trained(unittest.TestCase):
    """Jobs of two real ranks that all train the same, one daemon's state directory for all of them."""
    args = ()

    @classmethod
    def setUpClass(cls):
        cls.used = 0
        cls.d = d = harness.Dhad("local", 4, "dhad", ("--worker", WORKER, *cls.args))
        cls.addClassCleanup(d.clean)
        with open(os.path.join(MODEL, "..", "train.txt"), "rb") as whole, open(os.path.join(d.dir, "piece.txt"), "wb") as f:
            f.write(whole.read(60000))
        d.start()
        job = cls.submit("undisturbed")
        j = d.until_state(job, *harness.FINAL, seconds=180)
        assert j["state"] == "done", j
        cls.want = cls.weights(job)

    @classmethod
    def submit(cls, name):
        cls.used += 1
        spec = {"name": name, "model": os.path.realpath(MODEL), "method": "gqa", "budget": 0.25,
                "data": {"train": [os.path.join(cls.d.dir, "piece.txt")], "seq_len": 32}, "tokens": {"train": 6144},
                "batch_tokens": 256, "eval": {"windows": cls.used}, "checkpoint": {"every": 2}, "resources": {"ranks": 2}}
        r = cls.d.post("/v1/jobs", {"spec": spec})
        assert r.status == 201, r
        return r.json["job"]["id"]

    @classmethod
    def weights(cls, job):
        return hashlib.sha256(read(os.path.join(cls.d.stage_dir(job, "train"), "out", "model", "model.safetensors"))).hexdigest()


class Matrix(Trained):
    """A job's evaluation and export go on beside the next cell."""
    cells = KILLED

    @classmethod
    def setUpClass(cls):
        cls.hit, cls.jobs = set(), {}
        super().setUpClass()

    def until(self, what, gang, seconds=60):
        """As fast as can be: moments are short."""
        end = time.time() + seconds
        while time.time() < end:
            if value := what():
                return value
            if gang.over():
                raise Missed
        self.fail(f"it did not happen: {gang.dir}")

    def hold(self, gang, so):
        """Both ranks stopped, and it is still so."""
        ranks = [self.until(lambda n=n: gang.rank(n), gang) for n in (0, 1)]
        for pid in ranks:
            strike(pid, signal.SIGSTOP)
        if gang.over() or not so():
            for pid in ranks:
                strike(pid, signal.SIGCONT)
            raise Missed
        return ranks

    def reach(self, gang, job, victim, state):
        """Returns the ranks that are held (they go on when the blow has fallen)."""
        if state == "starting":
            first = (lambda: os.path.exists(os.path.join(gang.dir, "spec.json"))) if victim == "daemon" else lambda: gang.pid(victim)
            self.until(first, gang)
            if gang.said("hello"):
                raise Missed
            return []
        if state == "transition":
            self.until(lambda: gang.said("bye"), gang)
            ranks = [p for p in (gang.rank(0), gang.rank(1)) if p and strike(p, signal.SIGSTOP)]
            if gang.over():
                raise Missed
            return ranks
        moment = gang.writing if state == "checkpoint" else lambda: gang.said("progress")
        for _ in range(200):  # a checkpoint takes milliseconds: stop, look, go on
            self.until(moment, gang)
            try:
                ranks = self.hold(gang, lambda: moment() and not gang.said("bye"))
                break
            except Missed:
                if gang.over() or gang.said("bye"):
                    raise
        else:
            raise Missed
        if state == "stopping":
            self.assertEqual(self.d.post(f"/v1/jobs/{job}/cancel", {"reason": "matrix"}).status, 200)
            self.d.until(lambda: [e for e in self.d.events(job=job, type="attempt.state") if e["data"].get("to") == "stopping"])
        return ranks

    def blow(self, gang, victim, sig, ranks):
        """True if it fell on one who lived."""
        if victim == "daemon":
            self.d.kill()
        else:
            pid = gang.pid(victim)
            if not pid or not strike(pid, getattr(signal, "SIG" + sig)):
                return False
            ranks = [p for p in ranks if p != pid or sig == "KILL"]
        for pid in ranks:
            strike(pid, signal.SIGCONT)
        if victim == "daemon":
            time.sleep(0.3)
            self.d.start()
        return True

    def once(self, victim, state, sig):
        d = self.d
        job = self.submit(f"{victim} {state} {sig}")
        gang = Gang(d, job)
        d.until(lambda: os.path.isdir(gang.dir), seconds=120)
        ranks = []
        try:
            ranks = self.reach(gang, job, victim, state)
            fell = self.blow(gang, victim, sig, ranks)
        except Missed:
            fell = False
        if not fell:
            for pid in ranks:
                strike(pid, signal.SIGCONT)
        self.jobs[job] = (victim, state, sig, fell)
        return job, fell

    def check(self, job, victim, state):
        d = self.d
        if state == "stopping":
            j = d.until_state(job, *harness.FINAL, seconds=120)
            self.assertEqual((j["state"], j["cancel_reason"]), ("cancelled", "matrix"))
        else:
            d.until(lambda: d.stage(job, "train")["state"] not in ("pending", "ready", "running"), seconds=180)
        train = d.stage(job, "train")
        if state != "stopping":
            self.assertEqual(train["state"], "done", train)
            self.assertEqual(self.weights(job), self.want, "as if nothing had happened")
            self.assertLessEqual(train["attempts"], 1 if victim == "daemon" else 2, train)
        hello = [e["attempt"] for e in d.events(job=job, type="attempt.hello") if e["stage"] == train["id"]]
        self.assertEqual(len(hello), len(set(hello)), "an attempt starts once")
        for folder in glob.glob(os.path.join(d.stage_dir(job, "train"), "a*")):
            self.assertLessEqual(read(os.path.join(folder, "journal.ndjson")).count(b'"t":"hello"'), 1, folder)
            with open(os.path.join(folder, "spec.json")) as f:
                tag = "DHA_ATTEMPT=" + json.load(f)["uuid"]
            d.until(lambda t=tag: not harness.processes_with(t))

    def cell(self, victim, state, sig):
        for _ in range(TRIES):
            job, fell = self.once(victim, state, sig)
            self.check(job, victim, state)
            if fell:
                self.hit.add((victim, state, sig))
                return
        self.fail(f"{TRIES} jobs, and {state} was over each time before {victim} could be struck")

    def test_zz_every_cell_was_hit_and_all_is_as_it_was_told(self):
        self.assertEqual(self.hit, set(self.cells))
        d = self.d
        for job, what in self.jobs.items():
            j = d.until_state(job, *harness.FINAL, seconds=180)
            self.assertEqual(j["state"], "cancelled" if j["cancel_reason"] == "matrix" else "done", (what, j["error"]))
        seqs = [int(e["seq"]) for e in d.events()]
        self.assertEqual(seqs, list(range(1, len(seqs) + 1)))
        node, = d.get("/v1/nodes").json["nodes"]
        self.assertEqual({s["attempt"] for s in node["slots"]}, {None})
        d.until(lambda: d.stray() == [])
        d.end()
        db = sqlite3.connect(os.path.join(d.state, "state.db"))
        twice = db.execute("SELECT a.slot, a.attempt, b.attempt FROM allocation a JOIN allocation b ON b.slot = a.slot AND b.id > a.id"
                           " WHERE a.until_us = 0 OR a.until_us > b.from_us").fetchall()
        db.close()
        self.assertEqual(twice, [], "a slot in two attempts at once")


class Stopped(Matrix):
    """Nobody dies: the watchdog (or the grace of a cancel) has to end it."""
    cells, args = (STOPPED if os.environ.get("DHA_TORTURE") else SHORT), ("--stall", "10")


def add(case):
    for cell in case.cells:
        setattr(case, "test_%s_%s_%s" % cell, lambda self, c=cell: self.cell(*c))


add(Matrix)
add(Stopped)
for _name in [n for n in dir(Stopped) if n.endswith("_KILL")]:
    setattr(Stopped, _name, None)  # the base's

if __name__ == "__main__":
    harness.main()
