#!/usr/bin/env python3
"""Random operations and kill -9 against a daemon with the fake launcher, for so many seconds; after each round, of a
copy of the database as kill -9 left it: every acknowledged change is there, no attempt number and no slot is given
twice, what the events tell is what the tables say. In the end every job ends as it may and nothing is left running.

    DHA_BIN=build/bin SECONDS=60 [SEED=n] tests/soak/soak.py        the seed is printed; SEED= replays its choices
"""
import http.client
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import sys
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness

NAMES = ("sleep=0.2", "sleep=0.5", "train.sleep=1.5", "search.sleep=1 search.litter=1", "fuse.fail=lost:1",
         "train.die=9:1", "eval.fail=diverged", "search.torn=1", "search.badline=1", "train.sleep=2 train.deaf=1",
         "fuse.exit=3:1", "train.flood=500")
MAY_FAIL = ("die", "fail", "exit", "torn", "badline")
KINDS = ("search", "fuse", "train", "eval", "export")


class Soak:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.dhad = harness.Dhad(slots=3)
        self.jobs = {}  # id -> {"name", "cancelled", "priority"}: what was acknowledged
        self.count = {}
        self.keys = 0

    def did(self, what):
        self.count[what] = self.count.get(what, 0) + 1

    def ask(self, path, body=None, headers=None):
        """A request that may meet a dead daemon: None then."""
        try:
            return self.dhad.post(path, body, headers)
        except (OSError, http.client.HTTPException):
            return None

    # ---- operations ----

    def submit_after(self):
        self.submit(after=True)

    def new_job(self):
        """Name, body and headers of the next submission."""
        self.keys += 1
        name = self.random.choice(NAMES)
        # half of them are new work, the others find something to reuse or to wait for
        spec = self.dhad.spec(f"{name} n{self.keys}", seed=self.random.randrange(max(6, len(self.jobs))),
                              resources={"ranks": self.random.choice((1, 2, 3))})
        return name, {"spec": spec}, {"Idempotency-Key": f"k{self.keys}"}

    def submitted(self, name, r):
        if r and r.status in (200, 201):
            self.jobs[r.json["job"]["id"]] = {"name": name, "cancelled": False, "priority": None}

    def submit(self, after=False):
        name, body, key = self.new_job()
        if after and self.jobs:
            body["after"] = ["any:" + self.random.choice(sorted(self.jobs, key=int))]
        self.submitted(name, self.ask("/v1/jobs", body, key))

    def crowd(self):
        """Submissions at once, which the daemon reads in a thread beside its loop; half the time it is killed among them. Who got
        no answer asks again with the same key: one job, whichever of the two was heard."""
        jobs = [self.new_job() for _ in range(self.random.randrange(3, 9))]
        kill, moment = self.random.random() < 0.5, self.random.random() * 0.02
        answers = [None] * len(jobs)

        def one(i):
            answers[i] = self.ask("/v1/jobs", *jobs[i][1:])
        threads = [threading.Thread(target=one, args=(i,)) for i in range(len(jobs))]
        for t in threads:
            t.start()
        if kill:
            time.sleep(moment)
            self.dhad.kill()
        for t in threads:
            t.join()
        for (name, *_), r in zip(jobs, answers):
            self.submitted(name, r)
        if kill:
            self.check_disk()
            self.dhad.start()
        for (name, *request), r in zip(jobs, answers):
            if r is None:
                self.submitted(name, self.ask("/v1/jobs", *request))
        if kill:
            self.check_answers()

    def on_job(self, verb, body=None):
        if not self.jobs:
            return
        job = self.random.choice(sorted(self.jobs, key=int))
        r = self.ask(f"/v1/jobs/{job}/{verb}", body)
        if r is None:
            if verb in ("cancel", "retry", "priority"):  # it may or may not have been heard
                self.jobs[job].update(cancelled=False, priority=None)
        elif r.status == 200:
            if verb in ("cancel", "retry"):
                self.jobs[job]["cancelled"] = verb == "cancel"
            if verb == "priority":
                self.jobs[job]["priority"] = body["priority"]
        else:
            assert r.status in (409, 503), (verb, job, r)

    def cancel(self):
        self.on_job("cancel", {"now": self.random.random() < 0.5, "reason": "soak"})

    def hold(self):
        self.on_job("hold")

    def release(self):
        self.on_job("release")

    def retry(self):
        self.on_job("retry")

    def priority(self):
        self.on_job("priority", {"priority": self.random.randrange(-5, 6)})

    def node(self, verb):
        name = self.dhad.get("/v1/nodes").json["nodes"][0]["name"]
        self.ask(f"/v1/nodes/{name}/{verb}", {"reason": "soak"} if verb == "drain" else {})

    def drain(self):
        self.node("drain")

    def resume(self):
        self.node("resume")

    def kill_attempt(self, shim):
        """A shim, or one of what it runs."""
        found = [p for p in self.dhad.stray() if (self.is_shim(p)) == shim]
        if found:
            try:
                os.kill(self.random.choice(sorted(found)), signal.SIGKILL)
            except ProcessLookupError:
                pass

    @staticmethod
    def is_shim(pid):
        try:
            with open(f"/proc/{pid}/comm") as f:
                return f.read().strip() == "dha-shim"
        except OSError:
            return False

    def kill_shim(self):
        self.kill_attempt(True)

    def kill_launcher(self):
        self.kill_attempt(False)

    def kill_daemon(self):
        self.dhad.kill()
        self.check_disk()
        self.dhad.start()
        self.check_answers()

    def wait(self):
        time.sleep(self.random.random() * 0.4)

    # ---- checks ----

    def check_answers(self):
        there, before = {}, ""
        while True:
            page = self.dhad.get("/v1/jobs?limit=1000" + before).json["jobs"]
            there.update((j["id"], j) for j in page)
            if len(page) < 1000:
                break
            before = "&before=" + page[-1]["id"]
        for job, told in self.jobs.items():
            assert job in there, f"job {job} was acknowledged and is gone"
            if told["priority"] is not None:
                assert there[job]["priority"] == told["priority"], (there[job], told)

    def check_disk(self):
        copy = os.path.join(self.dhad.dir, "copy.db")
        for end in ("", "-wal"):
            if os.path.exists(os.path.join(self.dhad.state, "state.db" + end)):
                shutil.copy(os.path.join(self.dhad.state, "state.db" + end), copy + end)
        db = sqlite3.connect(copy)

        def none(sql, what):
            rows = db.execute(sql).fetchall()
            assert not rows, f"{what}: {rows}"
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        none("PRAGMA foreign_key_check", "foreign keys")
        none("SELECT stage, number FROM attempt GROUP BY 1, 2 HAVING count(*) > 1", "a number twice")
        none("SELECT a.slot FROM allocation a JOIN allocation b ON a.slot = b.slot AND a.id < b.id"
             " WHERE b.from_us < a.until_us OR a.until_us = 0", "a slot twice")
        none("SELECT s.id FROM stage s WHERE s.state = 'running' AND NOT EXISTS(SELECT 1 FROM attempt a WHERE"
             " a.stage = s.id AND a.number = s.attempt AND a.state <> 'ended')", "a stage of nobody")
        none("SELECT a.id FROM attempt a JOIN stage s ON s.id = a.stage WHERE a.state <> 'ended' AND"
             " s.state <> 'running'", "an attempt of nothing")
        none("SELECT id FROM job WHERE damaged UNION SELECT id FROM stage WHERE damaged", "damaged")
        job_state, stage_state = {}, {}
        seqs = []
        for seq, kind, job, stage, data in db.execute("SELECT seq, type, job, stage, data FROM event ORDER BY seq"):
            seqs.append(seq)
            data = json.loads(data)
            if kind == "job.submit":
                job_state[job] = data["state"]
            elif kind == "job.state":
                assert job_state[job] == data["from"], (seq, job, job_state[job], data)
                job_state[job] = data["to"]
            elif kind == "stage.state":
                was = stage_state.get(stage)
                assert was in (None, data["from"]), (seq, stage, was, data)
                stage_state[stage] = data["to"]
        assert seqs == list(range(1, len(seqs) + 1)), "events are missing"
        assert job_state == dict(db.execute("SELECT id, state FROM job")), "jobs are not what their events say"
        for stage, state, order in db.execute("SELECT id, state, ord FROM stage"):
            told = stage_state.get(stage, "pending" if order else "ready")
            assert told == state, f"stage {stage} is {state}; its events say {told}"
        db.close()
        for job in self.jobs:
            for kind in KINDS:
                uuids = [line.split()[0] for line in self.dhad.launches(job, kind)]
                assert len(uuids) == len(set(uuids)), f"an attempt of {kind} of job {job} ran twice: {uuids}"

    def until_all_ended(self):
        """However long the queue is: as long as something happens."""
        last, since = None, time.time()
        while jobs := self.dhad.get("/v1/jobs?state=queued,held,running&limit=1").json["jobs"]:
            now = re.search(rb"^dha_events_total (\S+)$", self.dhad.get("/metrics").raw, re.M).group(1)
            if now != last:
                last, since = now, time.time()
            assert time.time() - since < 180, ("nothing happens any more", jobs, self.dhad.get(f"/v1/jobs/{jobs[0]['id']}/explain").json)
            time.sleep(0.2)

    def end(self):
        d = self.dhad
        self.resume()
        for job in self.jobs:
            self.ask(f"/v1/jobs/{job}/release")
        self.until_all_ended()
        for job, told in self.jobs.items():
            j = d.job(job)
            if told["cancelled"]:
                assert j["state"] in harness.FINAL, j
            elif j["state"] == "failed":
                lost = self.count.get("kill_shim", 0) + self.count.get("kill_launcher", 0)
                assert lost or any(w in told["name"] for w in MAY_FAIL), j
        assert d.stray() == [], "something is left running"
        node, = d.get("/v1/nodes").json["nodes"]
        assert {s["attempt"] for s in node["slots"]} == {None}, node
        self.check_answers()
        d.kill()
        self.check_disk()
        d.start()
        d.end()

    def run(self, seconds):
        menu = {self.submit: 6, self.submit_after: 2, self.crowd: 1, self.wait: 10, self.cancel: 2, self.hold: 2, self.release: 3, self.retry: 3,
                self.priority: 2, self.drain: 1, self.resume: 3, self.kill_shim: 1, self.kill_launcher: 2,
                self.kill_daemon: 2}
        stop = time.time() + seconds
        self.dhad.start()
        while time.time() < stop:
            what = self.random.choices(list(menu), menu.values())[0]
            if what in (self.submit, self.submit_after, self.crowd) and len(self.jobs) >= 4 + 2 * seconds // 3:
                continue
            self.did(what.__name__)
            what()
        self.end()


def main():
    seed = int(os.environ.get("SEED") or random.randrange(1 << 31))
    seconds = int(os.environ.get("SECONDS") or 60)
    print(f"soak: seed {seed}, {seconds} s", flush=True)
    soak = Soak(seed)
    try:
        soak.run(seconds)
    except BaseException:
        print(f"soak: failed; again with SEED={seed} SECONDS={seconds}\n" + soak.dhad.console(), file=sys.stderr)
        raise
    finally:
        soak.dhad.clean()
    print(f"soak: {len(soak.jobs)} jobs; " + ", ".join(f"{n} {w}" for w, n in sorted(soak.count.items())))


if __name__ == "__main__":
    main()
