"""kill -9 at every failpoint of the daemon (daemon/failpoint.h), taken from the daemon's own list: a new
point is tested as soon as it exists. At each: the job still gets where it should, and each stage ran once.
And every function that commits, renames, removes, starts or kills has a point (Sites)."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import fakessh
import harness

PROGRAM = "dhad-failpoints"


def points():
    out = subprocess.run([os.path.join(harness.BIN, PROGRAM), "--list-failpoints"],
                         capture_output=True, text=True, check=True).stdout
    return [line.split("\t")[0] for line in out.splitlines()]


class Failpoints(unittest.TestCase):
    def daemon(self, point, shim="dha-shim"):
        d = harness.Dhad(program=PROGRAM, shim=shim)
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
            d.post(f"/v1/jobs/{job}/cancel", {"reason": "r", "now": "kill" in point})
        except (OSError, harness.http.client.HTTPException):
            pass
        self.revive(d)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        j = d.until_state(job, "cancelled", seconds=20)
        self.assertEqual(j["cancel_reason"], "r")
        self.assertEqual(len(d.launches(job, "search")), 1)
        self.assertEqual(d.stray(), [])


    def run_sweep_of_attempt(self, point):
        """The daemon dies over what a dead shim left; the next one finds it and kills it."""
        d = self.daemon(point)
        d.wait_ready()
        job = d.submit("search.sleep=2 search.litter=1")
        d.until_running(job, "search")
        before = d.of_attempt(job, "search")
        os.kill(d.shim(job, "search"), signal.SIGKILL)
        self.revive(d)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], j["stages"][0]["attempts"]), ("done", 2))
        self.assertEqual([p for p in before if p in d.of_attempt(job, "search")], [])
        self.assertEqual(d.stray(), [])

    def run_remote(self, point):
        """Nodes are asked again by the next daemon; one that was to be given up is given up by that."""
        d = harness.Dhad("hosts", program=PROGRAM)
        self.addCleanup(d.clean)
        fakessh.install(d)
        config = os.path.join(d.dir, "dhad.json")
        with open(config, "w") as f:
            json.dump({"nodes": [{"name": n, "address": "10.9.9." + n, "slots": 2, "memory_gib": 1} for n in "ab"],
                       "unreachable_s": 1}, f)
        d.args = ["--config", config]
        gives_up = point.endswith("drain")
        if gives_up:
            fakessh.sign(d, "down", "10.9.9.a")
            fakessh.sign(d, "down", "10.9.9.b")
        d.start(wait=False, DHA_FAILPOINT=point)
        d.wait_ready()
        try:
            job = d.submit("search.die=9:1" if gives_up else "all", resources={"ranks": 2})
        except (OSError, harness.http.client.HTTPException):
            job = "1"
        self.revive(d)
        if not gives_up:
            j = d.until_state(job, *harness.FINAL)
            self.assertEqual([(s["attempts"], len(d.launches(job, s["kind"]))) for s in j["stages"]], [(1, 1)] * 5)
        else:
            gone = d.until(lambda: [n["name"] for n in d.get("/v1/nodes").json["nodes"] if n["state"] == "drained"])
            self.assertEqual(len(gone), 1)
            fakessh.sign(d, "down", "10.9.9." + ("b" if gone == ["a"] else "a"), False)
            j = d.until_state(job, *harness.FINAL, seconds=60)
            self.assertEqual(j["stages"][0]["attempts"], 2)
        self.assertEqual(j["state"], "done")
        self.assertEqual({s["attempt"] for n in d.get("/v1/nodes").json["nodes"] for s in n["slots"]}, {None})
        self.assertEqual(d.stray(), [])

    def run_remove(self, point):
        d = self.daemon(point)
        d.wait_ready()
        job = d.submit("eval.fail=diverged:1")
        d.until_state(job, "failed")
        weights = os.path.join(d.stage_dir(job, "train"), "out", "model", "model.safetensors")
        os.truncate(weights, 3000)
        try:
            d.post(f"/v1/jobs/{job}/retry")
        except (OSError, harness.http.client.HTTPException):
            pass
        self.revive(d)
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual(j["state"], "done", j)
        self.assertEqual(os.path.getsize(weights), 5000, "made again")

    def run_stop(self, point):
        d = self.daemon(point)
        d.wait_ready()
        job = d.submit("sleep=0.3")
        d.process.send_signal(signal.SIGTERM)
        self.revive(d)
        self.assert_ran_once(d, job)

    def run_shim(self, point):
        """The shim of the first attempt dies there, no other; the daemon lives."""
        d = harness.Dhad(shim="dha-shim-failpoints")
        self.addCleanup(d.clean)
        once = os.path.join(d.dir, "once")
        d.start(DHA_SHIM_FAILPOINT=point, DHA_FAILPOINT_ONCE=once)
        job = d.submit("sleep=0.3")
        j = d.until_state(job, *harness.FINAL)
        self.assertTrue(os.path.exists(once), "the point was never reached")
        self.assertEqual(j["state"], "done", j)
        # With shim.json there it counts as started: then it is lost, and another attempt runs.
        lost = point in ("shim_after_rename", "shim_before_fork")
        self.assertEqual([s["attempts"] for s in j["stages"]], [1 + lost, 1, 1, 1, 1])
        self.assertEqual([len(d.launches(job, s["kind"])) for s in j["stages"]], [1] * 5)
        self.assertEqual(d.stray(), [])
        self.assert_no_tmp(d, sum(s["attempts"] for s in j["stages"]))

    def assert_no_tmp(self, d, attempts):
        names = glob.glob(os.path.join(d.state, "jobs", "*", "*", "a*", "tmp.name"))
        self.assertEqual(len(names), attempts)
        for path in names:
            with open(path) as f:
                name = f.read()
            self.assertRegex(name, r"^/tmp/dha-\w{6}$")
            self.assertFalse(os.path.exists(name), name)

    def test_shims_that_never_get_to_shim_json_leave_no_temporary_directories(self):
        d = harness.Dhad(shim="dha-shim-failpoints")
        self.addCleanup(d.clean)
        d.start(DHA_SHIM_FAILPOINT="shim_tmp_made")
        job = d.submit()
        j = d.until_state(job, *harness.FINAL)
        self.assertEqual((j["state"], j["stages"][0]["attempts"]), ("failed", 4))
        self.assert_no_tmp(d, 4)


    # ---- what an administrator asks for ----

    def admin(self, d, verb, **body):
        """`dha admin VERB`, done when it was planned: the chore as it ends."""
        r = d.post(f"/v1/admin/{verb}", body)
        self.assertEqual(r.status, 202, r)
        c = r.json["chore"]
        while c["state"] in ("running", "planned"):
            if c["state"] == "planned":
                d.post(f"/v1/admin/chores/{c['id']}/apply")
            c = d.get(f"/v1/admin/chores/{c['id']}?wait=5").json["chore"]
        return c

    def admin_done(self, d, verb, **body):
        c = self.admin(d, verb, **body)
        self.assertEqual(c["state"], "done", c)
        return c["result"]

    def admin_killed(self, d, verb, **body):
        try:
            c = self.admin(d, verb, **body)
        except (OSError, harness.http.client.HTTPException):
            c = None
        self.assertIsNone(c, "the point was never reached")
        self.revive(d)

    def found(self, d):
        """What fsck sees, and would only say: kind -> paths below the state directory."""
        c = d.post("/v1/admin/fsck", {"deep": True}).json["chore"]
        while c["state"] == "running":
            c = d.get(f"/v1/admin/chores/{c['id']}?wait=5").json["chore"]
        self.assertIn(c["state"], ("done", "planned"), c)
        kinds = {}
        for f in c["result"]["findings"]:
            kinds.setdefault(f["kind"], set()).add(os.path.relpath(f["path"], d.state))
        return kinds

    def with_checkpoints(self, point):
        """A daemon that dies at the point, with a job that has ended and kept five checkpoints of its training."""
        d = self.daemon(point)
        d.wait_ready()
        job = d.submit("train.ckpts=5 train.sleep=0.5")
        self.assertEqual(d.until_state(job, *harness.FINAL)["state"], "done")
        self.assertEqual(self.steps(d, job), [2, 4, 6, 8, 10])
        return d, job

    def steps(self, d, job):
        return [c["step"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]
                if c["state"] == "complete" and "/train/" in c["path"]]

    def run_admin(self, point):
        getattr(self, "run_admin_" + point.split("_")[1])(point)

    def run_admin_export(self, point):
        """DIR is whole or not there; what was cut short is DIR.tmp, which the next export takes away."""
        d, job = self.with_checkpoints(point)
        out = os.path.join(d.dir, "out")
        self.admin_killed(d, "export", job=job, out=out)
        self.assertEqual(os.path.exists(out), point == "admin_export_after_rename")
        self.assertEqual(os.path.exists(out + ".tmp"), not os.path.exists(out))
        self.assertEqual(self.found(d), {}, "an export changes nothing here")
        if not os.path.exists(out):
            self.admin_done(d, "export", job=job, out=out)
            self.assertFalse(os.path.exists(out + ".tmp"))
        imported = self.admin_done(d, "import", dir=out)["job"]  # compares each file with the manifest
        self.assertEqual(self.steps(d, imported), [2, 4, 6, 8, 10])
        self.assertEqual(self.found(d), {})

    def run_admin_import(self, point):
        """No job; or, between its rows and its files, a job without files that fsck tells; or all of it."""
        d, job = self.with_checkpoints(point)
        out = os.path.join(d.dir, "out")
        self.admin_done(d, "export", job=job, out=out)
        self.admin_killed(d, "import", dir=out)
        jobs = [j["id"] for j in d.get("/v1/jobs").json["jobs"] if j["id"] != job]
        made = point.split("_")[-2:] in (["before", "rename"], ["after", "rename"])
        self.assertEqual(len(jobs), made)
        found = self.found(d)
        if point == "admin_import_after_rename":
            self.assertEqual(found, {})
        elif made:
            self.assertEqual(set(found), {"output", "removed", "unknown"})
            self.assertTrue(all(p.startswith(f"jobs/{jobs[0]}/") for p in found["output"] | found["removed"]))
        else:
            self.assertEqual(set(found), {"unknown"})
        for path in found.get("unknown", ()):
            self.assertRegex(path, r"^jobs/\.import-[0-9]+$")
        again = self.admin_done(d, "import", dir=out)["job"]
        self.assertNotIn(again, jobs + [job])
        for j in [job, again] + (jobs if not found else []):
            self.assertEqual(self.steps(d, j), [2, 4, 6, 8, 10])
        self.admin(d, "fsck", deep=True)
        left = self.found(d)
        self.assertLessEqual(set(left), {"output"}, "only the files that never became the job's")
        # What is not there is not taken: the same job again makes or takes what is whole.
        new = d.submit("train.ckpts=5 train.sleep=0.5")
        self.assertEqual(d.until_state(new, *harness.FINAL)["state"], "done")
        self.assertEqual(self.found(d), left)

    def run_admin_prune(self, point):
        """What was to stay is whole, what was to go is listed as gone or goes the next time."""
        d, job = self.with_checkpoints(point)
        self.admin_killed(d, "prune", keep_last=1)
        found = self.found(d)
        self.assertEqual(set(found), {"admin_prune_no_manifest": {"checkpoint"},
                                      "admin_prune_retired": {"leftover", "removed"},
                                      "admin_prune_before_remove": {"leftover"}}[point])
        kept = os.path.join("jobs", str(job), "train", "out", "ckpt", "step-10")
        self.assertFalse([p for paths in found.values() for p in paths if p.startswith(kept)])
        self.assertIn(10, self.steps(d, job))
        self.admin_done(d, "prune", keep_last=1)
        self.assertEqual(self.steps(d, job), [10])
        self.admin(d, "fsck", deep=True)
        self.assertEqual(self.found(d), {})
        self.assertEqual(os.listdir(os.path.join(d.state, os.path.dirname(kept))), ["step-10"])

    def damage(self, d, job):
        """Something strange and a damaged checkpoint: paths below the state directory."""
        strange, ckpt = "jobs/4711/notes.txt", f"jobs/{job}/train/out/ckpt/step-4"
        os.mkdir(os.path.join(d.state, "jobs", "4711"))
        with open(os.path.join(d.state, strange), "w") as f:
            f.write("kept")
        with open(os.path.join(d.state, ckpt, "shard-0000.bin"), "r+") as f:
            f.write("S")
        self.assertEqual(self.found(d), {"unknown": {"jobs/4711"}, "checkpoint": {ckpt}})
        return strange, ckpt

    def assert_repaired(self, d, job, strange, ckpt):
        self.assertEqual(self.found(d), {})
        self.assertEqual(self.steps(d, job), [2, 6, 8, 10])
        self.assertTrue(os.path.exists(os.path.join(d.state, ckpt, "manifest.json.bad")))
        lost, = glob.glob(os.path.join(d.state, "lost+found", "*", strange))
        with open(lost) as f:
            self.assertEqual(f.read(), "kept")

    def run_admin_fsck(self, point):
        """Nothing is lost half-way, and the rest is repaired the next time."""
        d, job = self.with_checkpoints(point)
        strange, ckpt = self.damage(d, job)
        self.admin_killed(d, "fsck", deep=True)
        self.assertLessEqual(set(self.found(d)), {"unknown", "checkpoint"})
        self.admin(d, "fsck", deep=True)
        self.assert_repaired(d, job, strange, ckpt)

    def run_admin_offline(self, point):
        d, job = self.with_checkpoints(point)
        strange, ckpt = self.damage(d, job)
        self.assertEqual(d.stop(), 0)

        def fsck(**env):
            return subprocess.run([os.path.join(harness.BIN, PROGRAM), "fsck", "--state", d.state, "--deep",
                                   "--repair"], env={**os.environ, **env}, capture_output=True, text=True)
        self.assertEqual(fsck(DHA_FAILPOINT=point).returncode, -9, "the point was never reached")
        r = fsck()
        self.assertEqual(r.returncode, 0, r)
        d.start()
        self.assert_repaired(d, job, strange, ckpt)


# What a point needs to be reached, by its first word, and how often; others: a job, the 1st time in a daemon's
# life and later, between two stages.
SCENARIOS = {"cancel": (Failpoints.run_cancel, (1,)), "sweep": (Failpoints.run_sweep_of_attempt, (1,)),
             "remove": (Failpoints.run_remove, (1,)), "stop": (Failpoints.run_stop, (1,)),
             "start": (Failpoints.run_job, (1,)), "shim": (Failpoints.run_shim, (1,)),
             "admin": (Failpoints.run_admin, (1,)), "remote": (Failpoints.run_remote, (1,))}


def make(point, n):
    run = SCENARIOS.get(point.split("_")[0], (Failpoints.run_job,))[0]
    return lambda self: run(self, point if n == 1 else f"{point}:{n}")


class Sites(unittest.TestCase):
    """A function that does what a crash may cut in two has a failpoint, or a reason here why another one's does."""
    CALLS = re.compile(r"\b(store_commit|fsync|renameat|rename|unlink|tree_remove|tmpdir_remove|uv_spawn|fork|"
                       r"procs_kill|attempt_kill|SYS_pidfd_send_signal|json_write_file)\b")
    ELSEWHERE = {
        "attempt.c:attempt_kill": "its callers have them",
        "launch.c:write_spec": "launch_before_spec and launch_before_spawn lie around it",
        "launch.c:spawn_shim": "launch_before_spawn and launch_after_spawn lie around it",
        "statedir.c:sync_names": "before a database is there; killed there the next start does it",
        "statedir.c:clear_stale": "a dead daemon's socket is removed again or found gone",
        "checkpoint.c:checkpoint_remove": "admin_prune_before_remove lies before it",
        "statedir.c:statedir_listen": "a socket without a daemon is replaced by the next one, at whatever mode it stopped",
        "main.c:main": "--detach forks before anything is open",
        "shim.c:sweep": "shim_swept; killed earlier it is a lost shim, as after shim_before_fork",
        "shim.c:sweep_node": "on another node, over ssh: cut off it is no answer, and asked again (remote_before_ask)",
        "probing.c:spawn": "asks what a node has and changes nothing; the next daemon asks again",
        "tmpdir.c:tmpdir_remove": "its callers have them",
        "files.c:files_copy": "export's and import's points lie around it; a file half copied is in DIR.tmp, .import-N",
        "files.c:files_sync_dir": "its callers have them",
        "chore_backup.c:drop_old": "an old copy is still there or gone; the next backup removes it",
        "chore_export.c:close_own": "admin_export_before_records and admin_export_before_manifest lie around it",
        "chore_export.c:remove_leftover": "takes away what a point before left; without its mark the rest is refused by name",
        "chore_export.c:work": "takes away what failed: killed there some of DIR.tmp is left, as at the points before",
    }

    def test_every_commit_and_side_effect_has_a_failpoint(self):
        root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "daemon")
        without = set()
        for path in glob.glob(os.path.join(root, "*.c")) + glob.glob(os.path.join(root, "shim", "*.c")):
            if os.path.basename(path) == "failpoint.c":
                continue
            with open(path) as f:
                text = re.sub(r"/\*.*?\*/", "", f.read(), flags=re.S)
            for head, body in re.findall(r"^(\w[^;{}]*?)\n\{\n(.*?)^\}", text, flags=re.S | re.M):
                name = re.search(r"(\w+)\(", head)
                if name and self.CALLS.search(body) and "FAILPOINT(" not in body:
                    without.add(f"{os.path.basename(path)}:{name.group(1)}")
        self.assertEqual(without, set(self.ELSEWHERE), "give it a FAILPOINT, or say here why it needs none")



def make_sweep(point):
    return lambda self: self.run_sweep(point)


if os.path.exists(os.path.join(harness.BIN, PROGRAM)):
    for _p in points():
        _known = SCENARIOS.get(_p.split("_")[0])
        for _n in _known[1] if _known else (1, 4):
            setattr(Failpoints, f"test_killed_at_{_p}_{_n}", make(_p, _n))
        if _p.startswith("shim_") and _p.endswith("_rename"):  # the 1st is shim.json, the 2nd exit.json
            setattr(Failpoints, f"test_killed_at_{_p}_2", make(_p, 2))
        if not _known:
            setattr(Failpoints, f"test_a_sweep_survives_{_p}", make_sweep(_p))

if __name__ == "__main__":
    harness.main()
