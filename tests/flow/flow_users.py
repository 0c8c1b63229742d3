"""A daemon of root that serves several users: each job runs as who submitted it, and whatever such a user puts into the
directories that are theirs, the daemon does there only what they could do themselves."""
import glob
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import time
import unittest

import flow_access
import harness
from flow_access import ALICE, BOB, TEAM

# Runs as the job: says who and where it is, then is the usual worker.
PROBE = """#!/bin/sh
dir=$(dirname "$1")
{ id -u; id -g; id -G; umask; } > "$dir/who"
env -0 > "$dir/env"
grep -E '^(Uid|Gid|NoNewPrivs):' /proc/self/status > "$dir/status"
/usr/bin/python3 -c 'import os
for f in (lambda: os.setuid(0), lambda: os.seteuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):
    try:
        f()
        print("got back")
    except PermissionError:
        print("no")' > "$dir/back"
exec /usr/bin/python3 %s "$@"
"""


class Users(flow_access.Case):
    settings = {"group": TEAM}

    def setUp(self):
        super().setUp()
        d = self.dhad
        d.end()
        probe = os.path.join(d.dir, "probe")
        with open(probe, "w") as f:
            f.write(PROBE % d.launcher.partition(":")[2])
        os.chmod(probe, 0o755)
        d.launcher = "fake:" + probe
        d.start(SECRET_OF_THE_DAEMON="x", LD_PRELOAD="")

    def attempt(self, job, kind="search", number=1):
        return os.path.join(self.dhad.stage_dir(job, kind), f"a{number}")

    def read(self, job, name, kind="search"):
        with open(os.path.join(self.attempt(job, kind), name)) as f:
            return f.read()

    def as_user(self, uid, code, *args):
        """Runs Python as that user."""
        pw = pwd.getpwuid(uid)
        code = "import os, sys\n" + code
        r = subprocess.run(["/usr/bin/python3", "-c", f"import os; os.setgroups([]); os.setgid({pw.pw_gid}); os.setuid({uid})\n{code}",
                            *map(str, args)], capture_output=True, text=True, timeout=30, cwd="/")
        self.assertEqual(r.returncode, 0, r.stderr)
        return r.stdout

    def secret(self, text="the secret of root\n", mode=0o600):
        path = os.path.join(self.dhad.dir, "secret")
        with open(path, "w") as f:
            f.write(text)
        os.chmod(path, mode)
        return path


class Running(Users):
    def test_a_job_runs_as_who_submitted_it_and_cannot_get_back(self):
        d = self.dhad
        job = self.submit_as(ALICE)
        d.until_state(job, "done")
        pw = pwd.getpwuid(ALICE)
        uid, gid, groups, umask = self.read(job, "who").splitlines()
        self.assertEqual((int(uid), int(gid)), (ALICE, pw.pw_gid))
        self.assertEqual(set(map(int, groups.split())), set(os.getgrouplist(pw.pw_name, pw.pw_gid)))
        self.assertEqual(int(umask, 8), 0o077)
        self.assertEqual(self.read(job, "status").split(), ["Uid:"] + [str(ALICE)] * 4 + ["Gid:"] + [str(pw.pw_gid)] * 4 +
                         ["NoNewPrivs:", "1"])
        self.assertEqual(self.read(job, "back").split("\n"), ["no"] * 4 + [""])

    def test_the_environment_is_the_users_and_not_the_daemons(self):
        job = self.submit_as(ALICE)
        self.dhad.until_state(job, "done")
        env = dict(e.split("=", 1) for e in self.read(job, "env").split("\0") if e)
        pw = pwd.getpwuid(ALICE)
        self.assertEqual({k: env[k] for k in ("HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG")},
                         {"HOME": pw.pw_dir, "USER": pw.pw_name, "LOGNAME": pw.pw_name, "SHELL": pw.pw_shell,
                          "PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"})
        self.assertLessEqual(set(env), {"HOME", "USER", "LOGNAME", "SHELL", "PATH", "LANG", "PWD", "OLDPWD", "SHLVL", "_",
                                        "DHA_ATTEMPT", "DHA_RANKS", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"})

    def test_each_users_files_are_closed_to_the_others(self):
        d = self.dhad
        a, b = self.submit_as(ALICE, "a"), self.submit_as(BOB, "b", seed=2)
        d.until_state(a, "done")
        d.until_state(b, "done")
        for path, uid, mode in ((d.state, 0, 0o711), (os.path.join(d.state, "jobs"), 0, 0o711),
                                (os.path.join(d.state, "jobs", a), ALICE, 0o700), (os.path.join(d.state, "jobs", b), BOB, 0o700),
                                (os.path.join(d.state, "cache", f"uid-{ALICE}"), ALICE, 0o700)):
            st = os.stat(path)
            self.assertEqual((st.st_uid, stat.S_IMODE(st.st_mode)), (uid, mode), path)
        for root, dirs, files in os.walk(os.path.join(d.state, "jobs", a)):
            for name in dirs + files:
                self.assertEqual(os.lstat(os.path.join(root, name)).st_uid, ALICE, name)
        for name in os.listdir(d.state):
            self.assertFalse(os.stat(os.path.join(d.state, name)).st_mode & 0o066, name)
        out = self.as_user(BOB, """
for path in sys.argv[1:]:
    try:
        os.listdir(path) if os.path.isdir(path) else open(path)
        print("got", path)
    except PermissionError:
        print("no")
""", os.path.join(d.state, "jobs", a), os.path.join(d.state, "jobs"), d.state, os.path.join(d.state, "state.db"))
        self.assertEqual(out.split(), ["no"] * 4)

    def test_another_users_result_is_not_reused(self):
        d = self.dhad
        jobs = [self.submit_as(u, "same") for u in (ALICE, BOB, ALICE)]
        done = [d.until_state(j, "done") for j in jobs]
        self.assertEqual([{s["state"] for s in j["stages"]} for j in done], [{"done"}, {"done"}, {"reused"}])

    def test_who_is_no_user_of_the_host_and_root_do_not_run_jobs(self):
        d = self.dhad
        nobody = 54321
        with self.assertRaises(KeyError):
            pwd.getpwuid(nobody)
        for dry in (True, False):
            status, doc = self.call(nobody, "POST", "/v1/jobs", {"spec": d.spec(), "dry_run": dry}, groups=[TEAM])
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"))
            self.assertIn(f"getent passwd {nobody}", doc["error"]["hint"])
        r = d.post("/v1/jobs", {"spec": d.spec()})
        self.assert_forbidden(r, "allow_root_jobs")
        self.reload({"group": TEAM, "allow_root_jobs": 1})
        job = d.submit("sleep=30 root")
        d.until_running(job, "search")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")
        self.reload({"group": TEAM})
        # what was allowed once is not for ever
        r = d.post(f"/v1/jobs/{job}/retry", {})
        j = d.until_state(job, "failed")
        self.assertEqual(j["error"]["code"], "forbidden")

    def assert_forbidden(self, reply, hint):
        self.assertEqual((reply.status, reply.json["error"]["code"]), (403, "forbidden"))
        self.assertIn(hint, reply.json["error"]["hint"])

    def test_what_an_attempt_leaves_is_killed_and_a_cancel_reaches_it(self):
        d = self.dhad
        job = self.submit_as(ALICE, "litter=1 sleep=60")
        d.until_running(job, "search")
        with open(os.path.join(self.attempt(job), "spec.json")) as f:
            tag = "DHA_ATTEMPT=" + json.load(f)["uuid"]
        self.assertTrue(harness.processes_with(tag))
        self.assertEqual(self.call(ALICE, "POST", f"/v1/jobs/{job}/cancel", {"now": True}, groups=[TEAM])[0], 200)
        d.until_state(job, "cancelled")
        self.assertEqual(harness.processes_with(tag), [])

    def test_a_daemon_that_was_killed_finds_it_again(self):
        d = self.dhad
        job = self.submit_as(ALICE, "sleep=4")
        d.until_running(job, "search")
        d.kill()
        d.start()
        j = d.until_state(job, "done")
        self.assertEqual({s["attempts"] for s in j["stages"]}, {1})


class Mpirun(flow_access.Case):
    settings = {"group": TEAM}

    @unittest.skipUnless(shutil.which("mpirun", path="/usr/local/bin:/usr/bin:/bin"), "mpirun is not installed")
    def test_the_real_mpirun_runs_as_the_user(self):
        d = self.dhad
        d.end()
        d.args += ["--worker", d.launcher.partition(":")[2]]
        d.launcher = "local"
        d.start()
        job = self.submit_as(ALICE, "train.sleep=0.3")
        j = d.until_state(job, *harness.FINAL, seconds=90)
        self.assertEqual((j["state"], [s["attempts"] for s in j["stages"]]), ("done", [1] * 5), j)
        self.assertEqual(os.stat(os.path.join(d.stage_dir(job, "search"), "out", "launches")).st_uid, ALICE)


class Files(Users):
    """Paths of a spec, and what a user puts where the daemon reads, writes and removes."""

    def test_a_spec_names_only_what_its_user_may_see(self):
        d = self.dhad
        closed = os.path.join(d.dir, "closed")
        os.mkdir(closed, 0o700)
        inside = os.path.join(closed, "train.u16")
        with open(inside, "wb") as f:
            f.write(bytes(2000))
        model = os.path.join(closed, "model")
        os.mkdir(model)
        with open(os.path.join(model, "config.json"), "w") as f:
            json.dump({"num_hidden_layers": 2, "num_attention_heads": 4}, f)
        for change in ({"model": model}, {"data": {"train": [inside], "seq_len": 16}}):
            status, doc = self.call(ALICE, "POST", "/v1/jobs", {"spec": d.spec("x", **change)}, groups=[TEAM])
            self.assertEqual((status, doc["error"]["code"]), (422, "invalid_spec"), doc)
            self.assertIn("Permission denied", doc["error"]["message"])
        # a group of the user is enough
        gid = pwd.getpwuid(ALICE).pw_gid
        os.chown(closed, 0, gid)
        os.chmod(closed, 0o750)
        self.assertEqual(self.call(ALICE, "POST", "/v1/jobs", {"spec": d.spec("x", model=model), "dry_run": True},
                                   groups=[TEAM])[0], 200)

    def test_logs_lead_nowhere(self):
        d = self.dhad
        secret = self.secret()
        job = self.submit_as(ALICE, "sleep=30")
        d.until_running(job, "search")
        log = os.path.join(self.attempt(job), "stderr.log")
        for how in ("os.symlink(sys.argv[2], sys.argv[1])", "os.mkfifo(sys.argv[1])", "os.symlink('/etc/shadow', sys.argv[1])",
                    "os.symlink('/proc/self/environ', sys.argv[1])", "os.mkdir(sys.argv[1])"):
            self.as_user(ALICE, f"""
p = sys.argv[1]
os.rmdir(p) if os.path.isdir(p) and not os.path.islink(p) else os.path.lexists(p) and os.unlink(p)
{how}""", log, secret)
            begin = time.monotonic()
            for uid in (ALICE, 0):
                status, doc = self.call(uid, "GET", f"/v1/jobs/{job}/logs?stage=search", groups=[TEAM])
                self.assertNotIn("secret of root", str(doc), how)
                self.assertNotIn("SECRET_OF", str(doc), how)
                self.assertGreaterEqual(status, 400, (how, doc))
            self.assertLess(time.monotonic() - begin, 15, "nothing waits for a pipe's other end")
        self.as_user(ALICE, "os.rmdir(sys.argv[1])", log)
        self.call(ALICE, "POST", f"/v1/jobs/{job}/cancel", {"now": True}, groups=[TEAM])
        d.until_state(job, "cancelled")

    def test_pipes_in_the_way_do_not_stop_the_daemon(self):
        d = self.dhad
        job = self.submit_as(ALICE, "sleep=60")
        d.until_running(job, "search")
        jobs = os.path.join(d.state, "jobs")
        self.addCleanup(subprocess.run, ["find", jobs, "-type", "p", "-delete"])  # else our own cleaning waits at them
        # in this attempt: what is read at its end; in the next one: what is written at its beginning
        self.as_user(ALICE, """
here, pid = sys.argv[1:3]
os.mkdir(here[:-1] + "2")
for path in (here + "/status.json", here + "/exit.json", here + "/tmp.name", here[:-1] + "2/hostfile",
             here[:-1] + "2/spec.json", here[:-1] + "2/spec.json.tmp-" + pid, here[:-1] + "2/launcher.log",
             here[:-1] + "2/attempt.lock", here[:-1] + "2/shim.json", here[:-1] + "2/journal.ndjson"):
    if os.path.lexists(path):
        os.unlink(path)
    os.mkfifo(path)
os.unlink(here + "/journal.ndjson"); os.mkfifo(here + "/journal.ndjson")
os.kill(int(sys.argv[3]), 9)""", self.attempt(job), d.process.pid, d.shim(job, "search"))
        end = time.monotonic() + 12
        while time.monotonic() < end:
            self.assertEqual(d.get("/livez").status, 200)
            time.sleep(0.1)
        # the attempt's pipes are the user's own trouble; a cancel still ends it
        self.call(ALICE, "POST", f"/v1/jobs/{job}/cancel", {"now": True}, groups=[TEAM])
        d.until(lambda: d.job(job)["state"] in harness.FINAL, 60)

    def test_a_log_that_is_cut_is_not_another_file(self):
        d = self.dhad
        big = os.path.join(d.dir, "big")
        with open(big, "wb") as f:
            f.write(b"x" * (8 << 20))
        self.reload({"group": TEAM, "log_mib": 1})
        job = self.submit_as(ALICE, "search.sleep=8")
        d.until_running(job, "search")
        log = os.path.join(self.attempt(job), "stderr.log")
        self.as_user(ALICE, "os.unlink(sys.argv[1]); os.symlink(sys.argv[2], sys.argv[1])", log, big)
        d.until_state(job, "done")
        self.assertGreaterEqual(os.stat(big).st_blocks * 512, 8 << 20)

    def test_a_forged_shim_does_not_make_the_daemon_kill_others(self):
        d = self.dhad
        victim = subprocess.Popen(["sleep", "300"])
        self.addCleanup(victim.wait)
        self.addCleanup(victim.kill)
        with open(f"/proc/{victim.pid}/stat") as f:
            start = f.read().rsplit(")", 1)[1].split()[19]
        with open("/proc/sys/kernel/random/boot_id") as f:
            boot = f.read().strip()
        job = self.submit_as(ALICE, "sleep=60")
        d.until_running(job, "search")
        shim = d.shim(job, "search")
        d.kill()
        tmp = os.path.join("/tmp", "dha-" + "vict1m")
        os.mkdir(tmp, 0o700)
        self.addCleanup(lambda: os.path.isdir(tmp) and os.rmdir(tmp))
        self.as_user(ALICE, """
import json, signal
p = sys.argv[1] + "/shim.json"
doc = {"pid": int(sys.argv[2]), "start": sys.argv[3], "boot_id": sys.argv[4], "tmp": sys.argv[5]}
os.unlink(p); open(p, "w").write(json.dumps(doc))
open(sys.argv[1] + "/exit.json", "w").write(json.dumps({"signal": 9, "swept": 1, "left": 1, "pids": [
    {"pid": int(sys.argv[2]), "start": sys.argv[3]}]}))
os.kill(int(sys.argv[6]), signal.SIGKILL)""", self.attempt(job), victim.pid, start, boot, tmp, shim)
        d.start()
        self.call(ALICE, "POST", f"/v1/jobs/{job}/cancel", {"now": True}, groups=[TEAM])
        d.until(lambda: d.job(job)["state"] in harness.FINAL)
        self.assertIsNone(victim.poll(), "root's process lives")
        self.assertTrue(os.path.isdir(tmp), "and so does a directory that is not the user's")

    def test_what_is_removed_is_the_users_own(self):
        d = self.dhad
        mine = os.path.join(d.dir, "mine")
        os.makedirs(os.path.join(mine, "step-1"))
        with open(os.path.join(mine, "step-1", "manifest.json"), "w") as f:
            f.write("{}")
        job = self.submit_as(ALICE, "ckpts=3")
        d.until_state(job, "done")
        ckpt = sorted(glob.glob(os.path.join(d.stage_dir(job, "train"), "out", "ckpt", "*")))
        self.assertTrue(ckpt)
        # the directory of the checkpoints becomes a link to what is root's
        parent = os.path.dirname(ckpt[0])
        names = [os.path.basename(c) for c in ckpt]
        for n in names:
            os.makedirs(os.path.join(mine, n), exist_ok=True)
            with open(os.path.join(mine, n, "manifest.json"), "w") as f:
                f.write("{}")
        self.as_user(ALICE, "os.rename(sys.argv[1], sys.argv[1] + '.away'); os.symlink(sys.argv[2], sys.argv[1])", parent, mine)
        chore = d.post("/v1/admin/prune", {"keep_last": 0}).json["chore"]["id"]
        c = d.until(lambda: (c := d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"])["state"] != "running" and c)
        if c["state"] == "planned":
            d.post(f"/v1/admin/chores/{chore}/apply")
            d.until(lambda: d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"]["state"] in ("done", "failed"))
        for n in names:
            self.assertTrue(os.path.exists(os.path.join(mine, n, "manifest.json")), n)

    def test_what_root_takes_of_a_job_is_what_the_job_made(self):
        d = self.dhad
        self.secret()
        closed = os.path.join(d.dir, "closed")
        os.mkdir(closed, 0o700)
        for name in ("config.json", "model.safetensors", "secret"):
            with open(os.path.join(closed, name), "w") as f:
                f.write("the secret of root\n")
        bob = os.path.join(d.dir, "of-bob")
        with open(bob, "w") as f:
            f.write("the secret of bob\n")
        os.chown(bob, BOB, BOB)
        job = self.submit_as(ALICE)
        checkpoint = d.until_state(job, "done")["result"]["checkpoint"]
        out = os.path.dirname(checkpoint)
        to = os.path.join(d.dir, "taken")

        def take(*more):
            return subprocess.run([os.path.join(harness.BIN, "dha"), "--socket", d.socket, "export", job, "--out", to, *more],
                                  capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)

        def refused(said):
            for more in ((), ("--dtype", "float32")):
                r = take(*more)
                self.assertNotEqual(r.returncode, 0, r)
                self.assertIn(said, r.stderr)
                self.assertEqual([n for n in os.listdir(d.dir) if n.startswith("taken")], [])

        # another file beside the model's own is left where it is
        self.as_user(ALICE, "open(sys.argv[1] + '/model/unlisted', 'w').write('x')", out)
        r = take()
        self.assertEqual(r.returncode, 0, r.stderr)
        self.assertEqual(sorted(os.listdir(to)), ["config.json", "model.safetensors"])
        shutil.rmtree(to)

        # a link in a file's place, and another user's file in it
        self.as_user(ALICE, "os.rename(sys.argv[1] + '/config.json', sys.argv[1] + '/c'); os.symlink(sys.argv[2], sys.argv[1] + '/config.json')",
                     checkpoint, closed + "/config.json")
        refused("a link?")
        os.unlink(os.path.join(checkpoint, "config.json"))
        os.link(bob, os.path.join(checkpoint, "config.json"))
        refused("does not belong to the owner")
        os.unlink(os.path.join(checkpoint, "config.json"))
        self.as_user(ALICE, "os.mkfifo(sys.argv[1])", os.path.join(checkpoint, "config.json"))
        refused("is no file")
        os.unlink(os.path.join(checkpoint, "config.json"))
        self.as_user(ALICE, "os.rename(sys.argv[1] + '/c', sys.argv[1] + '/config.json')", checkpoint)
        self.assertEqual(take().returncode, 0)
        shutil.rmtree(to)

        # a link in the model's place, whatever the list says, and in the place of what is above
        self.as_user(ALICE, """out, closed = sys.argv[1:]
os.rename(out + '/model', out + '/model.bak'); os.symlink(closed, out + '/model')
os.rename(out + '/output.json', out + '/was.json')""", out, closed)
        refused("a link?")
        listing = os.path.join(out, "output.json")
        self.as_user(ALICE, "open(sys.argv[1], 'w').write('{\"files\":[],\"format\":\"dha-output-1\"}')", listing)
        refused("does not list model/config.json")
        self.as_user(ALICE, "open(sys.argv[1], 'w').write('{\"files\":[{\"path\":\"model.bak/config.json\",\"bytes\":\"%d\"}],"
                     "\"format\":\"dha-output-1\"}' % os.stat(sys.argv[2]).st_size)", listing, out + "/model.bak/config.json")
        refused("does not list model/config.json")
        self.as_user(ALICE, """out, closed = sys.argv[1:]
os.unlink(out + '/model'); os.rename(out, out + '.bak'); os.symlink(closed, out)""", out, closed)
        refused("a link?")

    def test_a_link_out_of_a_job_is_neither_exported_nor_moved_away(self):
        d = self.dhad
        secret = self.secret()
        job = self.submit_as(ALICE)
        d.until_state(job, "done")
        out = os.path.join(d.stage_dir(job, "search"), "out")
        closed = os.path.join(d.dir, "closed")
        os.mkdir(closed, 0o700)
        os.rename(secret, os.path.join(closed, "secret"))
        self.as_user(ALICE, "os.symlink(sys.argv[2], sys.argv[1] + '/sub'); os.mkdir(sys.argv[1] + '/x.tmp')", out, closed)
        to = os.path.join(d.dir, "exported")
        chore = d.post("/v1/admin/export", {"job": job, "out": to}).json["chore"]["id"]
        d.until(lambda: d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"]["state"] in ("done", "failed"))
        for root, _, names in os.walk(to):
            for name in names:
                with open(os.path.join(root, name), errors="replace") as f:
                    self.assertNotIn("secret of root", f.read(), name)

        def fsck():
            chore = d.post("/v1/admin/fsck", {}).json["chore"]["id"]
            return chore, d.until(lambda: (c := d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"])["state"] != "running"
                                  and c)
        # what will be left alone is not in the plan
        _, c = fsck()
        (f,) = c["result"]["findings"]
        left = f"it is in a directory of uid {ALICE} and is left there"
        self.assertEqual((c["state"], f["path"], f["repair"]), ("done", os.path.join(out, "x.tmp"), None))
        self.assertIn(left, f["hint"])
        r = subprocess.run([os.path.join(harness.BIN, "dha"), "--socket", d.socket, "admin", "fsck", "--repair", "--dry-run"],
                           capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
        self.assertIn(left, r.stdout)
        self.assertNotIn("will", r.stdout)
        d.end()
        for more in (["--dry-run"], []):
            r = subprocess.run([os.path.join(harness.BIN, "dhad"), "fsck", "--state", d.state, "--repair", *more],
                               capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
            self.assertEqual(r.returncode, 1, r)
            self.assertIn(left, r.stdout)
            self.assertNotIn("will", r.stdout)
        d.start()
        # nor is it moved where it became theirs after the plan was made
        os.chown(os.path.join(d.state, "jobs", job), 0, 0)
        chore, c = fsck()
        self.assertEqual(c["state"], "planned", c)
        os.chown(os.path.join(d.state, "jobs", job), ALICE, ALICE)
        d.post(f"/v1/admin/chores/{chore}/apply")
        c = d.until(lambda: (c := d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"])["state"] == "done" and c)
        self.assertTrue(c["result"]["failed"])
        self.assertIn("is left there", c["result"]["failed"][0]["message"])
        self.assertTrue(os.path.isdir(os.path.join(out, "x.tmp")))

    def test_a_job_directory_of_somebody_else_is_not_taken(self):
        d = self.dhad
        r = self.call(ALICE, "POST", "/v1/jobs", {"spec": d.spec("x"), "hold": True}, groups=[TEAM])
        job = r[1]["job"]["id"]
        path = os.path.join(d.state, "jobs", job)
        os.mkdir(path)
        os.mkdir(os.path.join(path, "search"))
        self.call(ALICE, "POST", f"/v1/jobs/{job}/release", {}, groups=[TEAM])
        j = d.until_state(job, "failed", seconds=60)
        self.assertIn("uid 0's", j["error"]["message"])
        self.assertEqual(os.stat(path).st_uid, 0)


class Moved(Users):
    """Jobs as directories (dha admin export, import) that go from one uid's daemon to another's."""
    NOBODYS = 54321

    def chore(self, name, body, dhad=None):
        d = dhad or self.dhad
        chore = d.post(f"/v1/admin/{name}", body).json["chore"]["id"]
        return d.until(lambda: (c := d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"])["state"] != "running" and c)

    def exported(self):
        job = self.submit_as(ALICE, "ckpts=1")
        self.dhad.until_state(job, "done")
        to = os.path.join(self.dhad.dir, "exported")
        self.assertEqual(self.chore("export", {"job": job, "out": to})["state"], "done")
        return job, to

    def give(self, path, uid):
        subprocess.run(["chown", "-R", f"{uid}:{uid}", path], check=True)

    def refused(self, to, code, *said, dhad=None):
        d = dhad or self.dhad
        before = len(d.get("/v1/jobs").json["jobs"])
        c = self.chore("import", {"dir": to}, d)
        self.assertEqual((c["state"], c["error"]["code"]), ("failed", code), c)
        for text in said:
            self.assertIn(text, c["error"]["message"] + " " + c["error"]["hint"])
        self.assertEqual(len(d.get("/v1/jobs").json["jobs"]), before)
        self.assertEqual([n for n in os.listdir(os.path.join(d.state, "jobs")) if n.startswith(".")], [])

    def test_an_export_of_another_uids_daemon_is_taken_by_who_can_read_it(self):
        _, to = self.exported()
        sys.path.insert(0, os.path.join(harness.HERE, "..", "crash"))
        import crash_unkillable
        other = crash_unkillable.Dhad()
        self.addCleanup(other.clean)
        other.start()
        self.addCleanup(other.end)
        self.refused(to, "io_error", "Permission denied", f"uid {crash_unkillable.UID}, who runs this daemon, has to be able to read",
                     "chown -R", dhad=other)
        os.chmod(to, 0o755)  # the directory alone is not enough
        self.refused(to, "io_error", "Permission denied", "chown -R", dhad=other)
        self.give(to, crash_unkillable.UID)
        c = self.chore("import", {"dir": to}, other)
        self.assertEqual(c["state"], "done", c)
        j = other.job(c["result"]["job"])
        self.assertEqual((j["state"], j["owner_uid"]), ("done", "0"), "the job belongs to who imported it, the files the daemon's")
        self.assertEqual(os.stat(os.path.join(other.state, "jobs", j["id"])).st_uid, crash_unkillable.UID)

    def test_what_a_uid_that_is_no_user_exported_becomes_the_importers(self):
        d = self.dhad
        job, to = self.exported()
        self.give(to, self.NOBODYS)
        c = self.chore("import", {"dir": to})
        self.assertEqual(c["state"], "done", c)
        new = c["result"]["job"]
        j = d.job(new)
        self.assertEqual((j["state"], j["owner_uid"], d.job(job)["owner_uid"]), ("done", "0", str(ALICE)))
        for root, dirs, files in os.walk(os.path.join(d.state, "jobs", new)):
            for name in dirs + files:
                self.assertEqual(os.lstat(os.path.join(root, name)).st_uid, 0, name)
        self.assertEqual(self.chore("fsck", {"deep": True})["result"]["findings"], [])

    def test_no_link_in_an_export_makes_root_read_anothers_file(self):
        """Even one whose digest its maker knows, or guessed."""
        import hashlib
        d = self.dhad
        _, to = self.exported()
        self.give(to, ALICE)
        secret = self.secret()
        name = "files/search/out/secret"
        manifest = os.path.join(to, "manifest.json")
        with open(manifest) as f:
            doc = json.load(f)

        def put(digest):
            listed = {"path": name, "bytes": str(os.stat(secret).st_size), "sha256": digest}
            with open(manifest, "w") as f:
                json.dump({**doc, "files": doc["files"] + [listed]}, f)
        with open(secret, "rb") as f:
            right = hashlib.sha256(f.read()).hexdigest()
        os.link(secret, os.path.join(to, name))
        for digest in ("0" * 64, right):
            put(digest)
            self.refused(to, "forbidden", f"secret is uid 0's, and {to}/manifest.json uid {ALICE}'s", "an export has one owner")
        os.unlink(os.path.join(to, name))
        os.symlink(secret, os.path.join(to, name))
        self.refused(to, "io_error", "Too many levels of symbolic links")
        os.unlink(os.path.join(to, name))
        # a link to the directory that it is in
        closed = os.path.join(d.dir, "closed")
        os.mkdir(closed, 0o700)
        os.rename(secret, os.path.join(closed, "secret"))
        secret = os.path.join(closed, "secret")
        name = "files/link/secret"
        os.symlink(closed, os.path.join(to, "files", "link"))
        put(right)
        self.refused(to, "forbidden", "secret is uid 0's")
        os.unlink(os.path.join(to, "files", "link"))
        # and what would make it wait
        os.mkdir(os.path.join(to, "files", "link"))
        os.mkfifo(os.path.join(to, name))
        self.refused(to, "bad_input", "is not a regular file")
        os.unlink(manifest)
        os.mkfifo(manifest)
        self.refused(to, "bad_input", "manifest.json is not a regular file")

    def test_a_hard_link_in_a_job_is_exported_as_far_as_its_user_may_read(self):
        d = self.dhad
        job = self.submit_as(ALICE)
        d.until_state(job, "done")
        out = os.path.join(d.stage_dir(job, "search"), "out")
        os.link(self.secret(), os.path.join(out, "taken"))
        to = os.path.join(d.dir, "exported")
        c = self.chore("export", {"job": job, "out": to})
        self.assertEqual((c["state"], c["error"]["code"]), ("failed", "io_error"), c)
        self.assertIn("out/taken: Permission denied", c["error"]["message"])
        self.assertEqual([n for n in os.listdir(d.dir) if n.startswith("exported")], [])
        os.unlink(os.path.join(out, "taken"))
        os.link(self.secret("for all\n", 0o644), os.path.join(out, "taken"))
        self.assertEqual(self.chore("export", {"job": job, "out": to})["state"], "done")


@unittest.skipUnless(shutil.which("setpriv"), "setpriv (util-linux) takes capabilities away")
class LessThanRoot(Users):
    """A container's root may lack what it takes to become others (docker run --cap-drop, a unit's CapabilityBoundingSet=)."""

    def setUp(self):
        super().setUp()
        self.whole = self.dhad.command

    def without(self, *caps):
        """The next daemon lacks these."""
        drop = ",".join("-" + c for c in caps)
        words = ["setpriv", "--bounding-set", drop, "--inh-caps", drop] if caps else []
        self.dhad.command = lambda: words + self.whole()

    def dhad_log(self):
        return harness.read(os.path.join(self.dhad.state, "dhad.log"))

    def test_a_request_of_another_user_does_not_end_it(self):
        d = self.dhad
        d.end()
        for cap in ("setgid", "setuid", "kill"):
            self.without(cap)
            d.start()
            for path, body in (("/v1/jobs", {"spec": d.spec()}), ("/v1/jobs", {"spec": d.spec(), "dry_run": True}),
                               ("/v1/jobs", {"spec": {"model": d.model}}),
                               ("/v1/sweeps", {"spec": d.spec(), "budgets": [0.5]})):
                status, doc = self.call(ALICE, "POST", path, body, groups=[TEAM])
                self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), (cap, path, doc))
                self.assertIn("lacks CAP_" + cap.upper(), doc["error"]["message"])
                self.assertIn("--cap-add", doc["error"]["hint"])
            self.assertIn("lacks CAP_" + cap.upper(), d.get("/v1/version").json["notice"])
            self.assertIn("lacks CAP_" + cap.upper(), self.dhad_log())
            self.assertEqual(d.get("/readyz").status, 200)
            d.end()

    def test_roots_own_jobs_run_and_nobody_is_told_of_others(self):
        d = self.dhad
        d.end()
        self.without("setgid", "setuid", "kill", "chown")
        self.write({})
        d.start()
        self.assertIsNone(d.get("/v1/version").json["notice"])
        job = d.submit()
        d.until_state(job, "done")
        self.assertNotIn("lacks", self.dhad_log())
        # a group that it cannot give its socket to is no use
        self.assertIn("CAP_CHOWN", self.reload({"group": TEAM}))
        self.assertEqual(d.get("/readyz").status, 200)

    @unittest.skipUnless(subprocess.run(["unshare", "-r", "true"], capture_output=True).returncode == 0, "no user namespaces")
    def test_so_does_the_root_of_a_user_namespace(self):
        """It has every capability there, and may be nobody else."""
        d = self.dhad
        d.end()
        d.command = lambda: ["unshare", "-r"] + self.whole()
        d.start(wait=False)
        self.assertEqual(d.wait_dead(), 74)
        self.assertIn("no part of its user namespace", d.console())
        self.write({"group": "0"})
        d.start()
        for said in (d.get("/v1/version").json["notice"], self.dhad_log()):
            self.assertIn("it is root, but lacks setgroups(2)", said)
        d.end()
        self.write({})
        d.start()
        self.assertIsNone(d.get("/v1/version").json["notice"])
        d.until_state(d.submit(), "done")

    def test_jobs_of_others_that_have_not_ended_are_not_taken_over(self):
        d = self.dhad
        job = self.submit_as(ALICE, "search.sleep=8")
        d.until_running(job, "search")
        d.kill()
        self.without("setgid", "kill")
        d.start(wait=False)
        self.assertEqual(d.wait_dead(), 68)  # forbidden
        said = d.console()
        self.assertIn(f"1 job(s) of others (uid {ALICE}) have not ended", said)
        self.assertIn("lacks CAP_KILL, CAP_SETGID", said)
        self.assertIn("hint: give it to the container", said)
        self.without()
        d.start()
        j = d.until_state(job, "done", seconds=60)
        self.assertEqual({s["attempts"] for s in j["stages"]}, {1})

    def test_what_others_left_is_not_touched_with_roots_rights(self):
        d = self.dhad
        secret = self.secret()
        job, other = self.submit_as(ALICE, "ckpts=3"), self.submit_as(ALICE, "search.sleep=60", seed=2)
        d.until_state(job, "done")
        self.call(ALICE, "POST", f"/v1/jobs/{other}/cancel", {"now": True}, groups=[TEAM])
        d.until_state(other, "cancelled")
        log = os.path.join(self.attempt(job), "stderr.log")
        self.as_user(ALICE, "os.unlink(sys.argv[1]); os.symlink(sys.argv[2], sys.argv[1])", log, secret)
        manifests = os.path.join(d.stage_dir(job, "train"), "out", "ckpt", "step-*", "manifest.json")
        there = glob.glob(manifests)
        self.assertTrue(there)
        d.end()
        self.without("setgid")
        d.start()
        r = d.get(f"/v1/jobs/{job}/logs?stage=search")
        self.assertGreaterEqual(r.status, 400)
        self.assertNotIn(b"secret of root", r.raw)
        to = os.path.join(d.dir, "exported")
        for name, body in (("export", {"job": job, "out": to}), ("prune", {"keep_last": 0}), ("fsck", {})):
            chore = d.post(f"/v1/admin/{name}", body).json["chore"]["id"]
            c = d.until(lambda: (c := d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"])["state"] != "running" and c)
            if c["state"] == "planned":
                d.post(f"/v1/admin/chores/{chore}/apply")
                d.until(lambda: d.get(f"/v1/admin/chores/{chore}?wait=5").json["chore"]["state"] in ("done", "failed"))
            elif name == "export":
                self.assertEqual(c["state"], "failed", c)
        self.assertFalse(os.path.exists(to))
        self.assertEqual(glob.glob(manifests), there)
        self.assertEqual(d.get(f"/v1/jobs/{job}").status, 200)
        for uid in (ALICE, 0):
            status, doc = self.call(uid, "POST", f"/v1/jobs/{other}/retry", {}, groups=[TEAM])
            self.assertEqual((status, doc["error"]["code"]), (403, "forbidden"), doc)

    def test_processes_of_others_are_found_by_their_tag(self):
        """Docker's own root has none of these, and may not read others' environments."""
        d = self.dhad
        d.end()
        self.without("sys_ptrace", "perfmon", "sys_admin")
        d.start()
        job = self.submit_as(ALICE, "litter=1 search.sleep=60")
        d.until_running(job, "search")
        shim, left = d.shim(job, "search"), d.of_attempt(job, "search")
        litter = [p for p in left if os.getsid(p) == p and p != shim]
        self.assertEqual(len(litter), 1, left)
        os.kill(d.process.pid, signal.SIGSTOP)  # it looks when all but the one in a session of its own are gone
        for pid in left:
            if pid not in litter:
                os.kill(pid, signal.SIGKILL)
        d.until(lambda: d.of_attempt(job, "search") == litter)
        os.kill(d.process.pid, signal.SIGCONT)
        d.until(lambda: d.stage(job, "search")["attempts"] == 2)
        self.assertEqual(d.of_attempt(job, "search"), [])
        self.call(ALICE, "POST", f"/v1/jobs/{job}/cancel", {"now": True}, groups=[TEAM])
        d.until_state(job, "cancelled")


if __name__ == "__main__":
    harness.main()
