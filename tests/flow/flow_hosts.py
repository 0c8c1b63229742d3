"""The launcher `hosts`: what an attempt leaves on other nodes, nodes that do not answer, and real gangs over ssh.

AskedOverSsh has scripts in the places of mpirun and ssh (both found in PATH, as the real ones are): the worker runs here,
a node answers or does not as the test wants. RealNodes has two nodes in network and process namespaces of their own, with
their own sshd, real mpirun and the real worker; it needs root, ip and sshd, and is skipped without them."""
import json
import os
import shutil
import signal
import subprocess
import time
import unittest

import fakessh
import harness
import netns

DEMO = os.path.join(harness.HERE, "..", "..", "deploy", "demo")
WORKER = os.path.join(harness.BIN, "dha-worker")
WHY_NOT = netns.missing() or (None if os.path.exists(WORKER) else "there is no dha-worker")
if WHY_NOT:
    print("skipped, RealNodes:", WHY_NOT)

class Hosts(unittest.TestCase):
    def dhad_with(self, settings, launcher="hosts"):
        d = harness.DhadWithFile(settings, launcher)
        self.addCleanup(d.clean)
        return d

    def node(self, d, name):
        return next(n for n in d.get("/v1/nodes").json["nodes"] if n["name"] == name)

    def attempt_states(self, d, job):
        return [e["data"]["to"] for e in d.events() if e["type"] == "attempt.state" and e["job"] == job]


class AskedOverSsh(Hosts):
    def daemon(self, unreachable_s=600, nodes=("a", "b")):
        d = self.dhad_with({"nodes": [{"name": n, "address": "10.9.9." + n, "slots": 2, "memory_gib": 1} for n in nodes],
                            "unreachable_s": unreachable_s, "ssh_args": "-F /etc/none"})
        fakessh.install(d)
        d.start()
        self.addCleanup(d.end)
        return d

    def sign(self, d, kind, node, on=True):
        fakessh.sign(d, kind, "10.9.9." + node, on)

    def asked(self, d):
        try:
            with open(os.path.join(d.dir, "ssh.log")) as f:
                return f.read().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def test_every_node_is_asked_before_the_slots_are_free(self):
        d = self.daemon()
        job = d.submit(resources={"ranks": 2, "nodes": 2})
        j = d.until_state(job, "done")
        asked = self.asked(d)
        self.assertEqual(len(asked), 2 * len(j["stages"]))
        with open(os.path.join(d.stage_dir(job, "search"), "a1", "spec.json")) as f:
            uuid = json.load(f)["uuid"]
        shim = os.path.join(harness.BIN, "dha-shim")
        for line in asked[:2]:
            self.assertRegex(line, rf"^10\.9\.9\.[ab] '{shim}' --sweep '{uuid}' '/tmp/dha")
        self.assertEqual({s["attempt"] for n in "ab" for s in self.node(d, n)["slots"]}, {None})

    def test_a_node_that_does_not_answer_keeps_the_attempt_and_gets_no_work(self):
        d = self.daemon()
        self.sign(d, "down", "b")
        job = d.submit(resources={"ranks": 1, "node_names": ["b"]})
        d.until(lambda: self.attempt_states(d, job)[-1:] == ["unreachable"])
        self.assertEqual(d.job(job)["state"], "running")
        self.assertEqual(self.node(d, "b")["state"], "unreachable")
        x = d.get(f"/v1/jobs/{job}/explain").json
        self.assertRegex(x["reason"], r"node b does not answer \(ssh: connect .*given up in \d+ s")
        waits = d.submit("w", seed=2, resources={"ranks": 1, "node_names": ["b"]})
        x = d.get(f"/v1/jobs/{waits}/explain").json
        self.assertEqual(x["verdict"], "drained")
        self.assertIn("does not answer", x["reason"])
        other = d.submit("o", seed=3, resources={"ranks": 2, "node_names": ["a"]})
        d.until_state(other, "done")
        d.kill()
        d.start()
        d.until(lambda: self.node(d, "b")["state"] == "unreachable")
        self.sign(d, "down", "b", False)
        j = d.until_state(job, "done")
        d.until_state(waits, "done")
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * len(j["stages"]))
        self.assertEqual(len(d.launches(job, "search")), 1)
        self.assertEqual(self.node(d, "b")["state"], "up")

    def test_given_up_it_is_drained_and_the_stage_goes_on_elsewhere(self):
        d = self.daemon(unreachable_s=2)
        self.sign(d, "down", "a")
        self.sign(d, "down", "b")
        job = d.submit("search.die=9:1", resources={"ranks": 2, "nodes": 1})
        first = d.until(lambda: (e := [e for e in d.events() if e["type"] == "attempt.state"
                                       and e["data"]["to"] == "unreachable"]) and e[0])
        gone = "a" if "node a" in first["data"]["reason"] else "b"
        rest = "b" if gone == "a" else "a"
        self.sign(d, "down", rest, False)
        j = d.until_state(job, "done", seconds=60)
        self.assertEqual(j["stages"][0]["attempts"], 2)
        n = self.node(d, gone)
        self.assertEqual(n["state"], "drained")
        self.assertRegex(n["reason"], r"no answer for 2 s .*may still run there")
        end, = (e for e in d.events() if e["type"] == "attempt.end" and e["data"].get("code") == "lost")
        self.assertIn(f"node {gone} vanished", end["data"]["message"])
        with open(os.path.join(d.stage_dir(job, "search"), "a2", "hostfile")) as f:
            self.assertEqual(f.read(), f"10.9.9.{rest} slots=2\n")

    def test_an_answer_that_never_comes_is_none(self):
        d = self.daemon(nodes=("b",))
        self.sign(d, "hang", "b")
        job = d.submit(resources={"ranks": 1})
        d.until(lambda: self.asked(d))
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        time.sleep(0.5)
        self.assertEqual(d.job(job)["state"], "running")
        self.sign(d, "hang", "b", False)
        d.until(lambda: self.attempt_states(d, job)[-1:] == ["unreachable"], seconds=90)
        d.until_state(job, "cancelled", seconds=30)

    def test_nodes_are_asked_where_the_attempts_directory_is_gone(self):
        d = self.daemon()
        job = d.submit("search.sleep=60:1", resources={"ranks": 2, "nodes": 2})
        d.until_running(job, "search")
        before = len(self.asked(d))
        shutil.rmtree(os.path.join(d.stage_dir(job, "search"), "a1"))
        d.until(lambda: len(self.asked(d)) == before + 2)
        j = d.until_state(job, "done", seconds=60)
        self.assertEqual(j["stages"][0]["attempts"], 2)
        end = next(e["data"] for e in d.events() if e["type"] == "attempt.end" and e["data"].get("code") == "lost")
        self.assertIn("/search/a1 was removed while the attempt ran", end["message"])

    def test_what_will_not_die_there_drains_that_node(self):
        d = self.daemon()
        self.sign(d, "left", "b")
        job = d.submit("search.die=9:1", resources={"ranks": 2, "nodes": 2})
        n = d.until(lambda: (n := self.node(d, "b"))["state"] == "drained" and n, seconds=90)
        self.assertIn("will not die: 1 left: 4711", n["reason"])
        self.assertEqual(self.node(d, "a")["state"], "up")
        d.until(lambda: d.stage(job, "search")["state"] == "ready")
        self.sign(d, "left", "b", False)
        d.post("/v1/nodes/b/resume")
        d.until_state(job, "done")


@unittest.skipIf(WHY_NOT, WHY_NOT)
class RealNodes(Hosts):
    """A job's ranks on two nodes, each with its own network, processes and sshd; the daemon on a third."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = netns.Cluster()
        cls.addClassCleanup(cls.cluster.down)
        cls.cluster.up()

    def daemon(self, slots=1, **settings):
        c = self.cluster
        d = self.dhad_with({"nodes": [{"name": n, "address": c.address[n], "slots": slots, "memory_gib": 2}
                                      for n in "ab"],
                            "ssh_args": f"-F {c.dir}/ssh_config", "mpi_interface": c.net + ".0/24", **settings})
        command = d.command
        d.command = lambda: c.inside("head", *command())

        def real():
            return netns.children(d.process.pid)[0]

        def stop():
            os.kill(real(), signal.SIGTERM)
            return d.process.wait(timeout=20)

        def kill():
            os.kill(real(), signal.SIGKILL)
            d.process.wait()
        d.stop, d.kill = stop, kill
        d.start()
        self.addCleanup(d.end)
        return d

    def spec(self, d, tokens=4096, **resources):
        return {"name": "two nodes", "model": os.path.join(DEMO, "hf"), "method": "spectral", "budget": 0.25,
                "data": {"train": [os.path.join(DEMO, "train.txt")], "valid": os.path.join(DEMO, "valid.txt"),
                         "seq_len": 64},
                "tokens": {"search": 4096, "train": tokens}, "batch_tokens": 512, "eval": {"windows": 8},
                "checkpoint": {"every": 2}, "optim": {"lr": 6e-4},
                "resources": {"ranks": 2, "nodes": 2, **resources}}

    def submit(self, d, **more):
        r = d.post("/v1/jobs", {"spec": self.spec(d, **more)})
        self.assertEqual(r.status, 201, r)
        return r.json["job"]["id"]

    def uuid(self, d, job, kind, number=1):
        with open(os.path.join(d.stage_dir(job, kind), f"a{number}", "spec.json")) as f:
            return json.load(f)["uuid"]

    def on(self, node, uuid):
        """Living processes of an attempt on a node."""
        return sorted(set(harness.processes_with("DHA_ATTEMPT=" + uuid)) & set(self.cluster.pids(node)))

    def test_a_conversion_over_two_nodes_gives_the_losses_of_two_ranks_here(self):
        d = self.daemon()
        job = self.submit(d)
        d.until(lambda: d.stage(job, "train")["state"] == "running", seconds=120)
        uuid = self.uuid(d, job, "train")
        d.until(lambda: self.on("a", uuid) and self.on("b", uuid))
        j = d.until_state(job, *harness.FINAL, seconds=240)
        self.assertEqual(j["state"], "done", (j["result"], d.console()))
        self.assertEqual([s["attempts"] for s in j["stages"]], [1] * len(j["stages"]))
        points = d.get(f"/v1/jobs/{job}/metrics?stage=train&name=loss").json["points"]
        there = {p["step"]: p["value"] for p in points}
        alone = os.path.join(d.dir, "alone")
        os.mkdir(alone)
        with open(os.path.join(alone, "spec.json"), "w") as f:
            json.dump(self.spec(d, nodes=1), f)
        env = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
               "OMP_NUM_THREADS": "1"}
        r = subprocess.run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", "2", WORKER, "run", "spec.json",
                            "--dir", alone], cwd=alone, env=env, capture_output=True, text=True, timeout=240)
        self.assertEqual(r.returncode, 0, r.stderr)
        here = {}
        with open(os.path.join(alone, "train", "journal.ndjson")) as f:
            for line in f:
                record = json.loads(line)
                if record["t"] == "progress":
                    here[record["step"]] = record["loss"]
        self.assertEqual(set(there), set(here))
        self.assertLess(max(abs(there[s] - here[s]) for s in here), 1e-4)
        for name in "ab":
            self.assertEqual(self.on(name, uuid), [])

    @unittest.skipIf(len(os.sched_getaffinity(0)) < 2, "one core")
    def test_nodes_tell_what_they_have_and_ranks_stay_on_their_cores(self):
        c = self.cluster
        cores = sorted(os.sched_getaffinity(0))[:2]
        d = self.daemon(nodes=[{"name": n, "address": c.address[n]} for n in "ab"])
        slots = d.until(lambda: (s := [self.node(d, n)["slots"] for n in "ab"]) and all(s) and s)
        self.assertEqual([s["cores"] for s in slots[1]], [str(i) for i in sorted(os.sched_getaffinity(0))])
        self.assertTrue(all(int(s["memory"]) > 1 << 20 for s in slots[0]))
        d.write({"nodes": [{"name": n, "address": c.address[n], "cores": str(i)} for n, i in zip("ab", cores)],
                    "ssh_args": f"-F {c.dir}/ssh_config", "mpi_interface": c.net + ".0/24"})
        os.kill(netns.children(d.process.pid)[0], signal.SIGHUP)
        d.until(lambda: len(self.node(d, "b")["slots"]) == 1)
        job, uuid = self.start_long(d)
        for name, core in zip("ab", cores):
            ranks = [p for p in self.on(name, uuid) if self.program(p) == "dha-worker"]
            self.assertEqual([os.sched_getaffinity(p) for p in ranks], [{core}])
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=60)

    def program(self, pid):
        with open(f"/proc/{pid}/cmdline") as f:
            return os.path.basename(f.read().split("\0")[0])

    def start_long(self, d, **more):
        """A job that trains for long; the uuid of its training's attempt, once it has made a step on both nodes."""
        job = self.submit(d, tokens=5000000, **more)
        d.until_running(job, "train", seconds=240)
        return job, self.uuid(d, job, "train")

    def test_cancel_ends_the_ranks_on_both_nodes(self):
        d = self.daemon()
        job, uuid = self.start_long(d)
        self.assertTrue(self.on("a", uuid) and self.on("b", uuid))
        # one that neither mpirun nor its daemon knows, in a session of its own, as a rank's child may be
        stray = subprocess.Popen(self.cluster.inside("b", "env", "DHA_ATTEMPT=" + uuid, "setsid", "sleep", "1000"))
        d.post(f"/v1/jobs/{job}/cancel")
        d.until_state(job, "cancelled", seconds=60)
        self.assertEqual((self.on("a", uuid), self.on("b", uuid)), ([], []))
        stray.wait()
        kinds = {c["stage"] for c in d.get(f"/v1/jobs/{job}/checkpoints").json["checkpoints"]}
        self.assertIn("train", kinds)

    def test_cancel_now_kills_them_at_once(self):
        d = self.daemon()
        job, uuid = self.start_long(d)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=60)
        self.assertEqual((self.on("a", uuid), self.on("b", uuid)), ([], []))

    def after_a_death(self, d, job, uuid):
        """The stage goes on with another attempt, from its checkpoint, and nothing of the first is left."""
        d.until(lambda: d.stage(job, "train")["attempts"] == 2, seconds=120)
        self.assertEqual((self.on("a", uuid), self.on("b", uuid)), ([], []))
        d.until_running(job, "train", seconds=120)
        hello = [e["data"] for e in d.events() if e["type"] == "attempt.hello" and e["job"] == job]
        self.assertGreaterEqual(hello[-1]["resumed_from"], 2)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=60)

    def kill_one(self, node, uuid, program):
        for pid in self.on(node, uuid):
            if self.program(pid) == program:
                os.kill(pid, signal.SIGKILL)
                return
        self.fail(f"no {program} on {node}")

    def test_a_killed_remote_rank_orted_or_mpirun_is_another_attempt(self):
        d = self.daemon()
        for node, program in (("b", "dha-worker"), ("b", "orted"), ("head", "mpirun")):
            with self.subTest(program=program):
                job, uuid = self.start_long(d)
                d.until(lambda: int(d.stage(job, "train")["progress"]["step"]) > 4, seconds=60)
                self.kill_one(node, uuid, program)
                self.after_a_death(d, job, uuid)

    def test_a_node_out_of_reach_holds_its_attempt_until_it_is_back(self):
        d = self.daemon()
        job, uuid = self.start_long(d)
        d.until(lambda: int(d.stage(job, "train")["progress"]["step"]) > 4, seconds=60)
        self.cluster.link("b", False)
        self.addCleanup(self.cluster.link, "b", True)
        d.until(lambda: self.attempt_states(d, job)[-1:] == ["unreachable"], seconds=120)
        self.assertEqual(d.stage(job, "train")["attempts"], 1)
        self.assertEqual(self.node(d, "b")["state"], "unreachable")
        self.assertEqual(self.on("a", uuid), [])
        d.kill()
        d.start()
        self.assertEqual(d.stage(job, "train")["attempts"], 1)
        self.cluster.link("b", True)
        self.after_a_death(d, job, uuid)

    def test_a_node_that_vanishes_is_given_up_and_the_stage_goes_on_elsewhere(self):
        d = self.daemon(slots=2, unreachable_s=5)
        job, uuid = self.start_long(d, ranks=2, nodes=1)
        node = "b" if self.on("b", uuid) else "a"
        rest = "a" if node == "b" else "b"
        d.until(lambda: int(d.stage(job, "train")["progress"]["step"]) > 4, seconds=60)
        self.cluster.crash(node)
        d.until(lambda: self.node(d, node)["state"] == "drained", seconds=120)
        self.assertIn("may still run there", self.node(d, node)["reason"])
        d.until(lambda: d.stage(job, "train")["attempts"] == 2, seconds=60)
        d.until_running(job, "train", seconds=120)
        self.assertTrue(self.on(rest, self.uuid(d, job, "train", 2)))
        self.cluster.start_sshd(node)
        d.post(f"/v1/nodes/{node}/resume")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled", seconds=60)

    def hung_in_training(self, slots=1, **settings):
        """A gang over both nodes, and node b stops: sshd, orted and ranks there; what of the attempt is there."""
        d = self.daemon(slots, stall_min_s=5, stall_train_s=20, **settings)
        job, uuid = self.start_long(d)
        d.until(lambda: int(d.stage(job, "train")["progress"]["step"]) > 12, seconds=120)
        self.cluster.hang("b")
        self.addCleanup(self.cluster.hang, "b", False)
        return d, job, uuid, self.on("b", uuid)

    def watch(self, d, job, uuid, seconds, until):
        """Until it is so; meanwhile the slots of b are the attempt's, or nobody gets them."""
        def look():
            if d.stage(job, "train")["attempts"] > 1 and self.on("b", uuid):
                self.assertEqual(self.node(d, "b")["state"], "drained", "a second gang beside the first")
            return until()
        return d.until(look, seconds=seconds)

    def explain(self, d, job):
        return d.get(f"/v1/jobs/{job}/explain").json

    def test_a_node_that_hangs_is_noticed_by_the_step_and_held_until_it_goes_on(self):
        d, job, uuid, there = self.hung_in_training()
        self.assertTrue(there)
        self.assertIn("counts as frozen after", self.explain(d, job)["reason"])
        self.watch(d, job, uuid, 120, lambda: [e for e in d.events() if e["type"] == "attempt.stalled"])
        self.watch(d, job, uuid, 60, lambda: "because it counts as frozen" in self.explain(d, job)["reason"])
        self.watch(d, job, uuid, 180, lambda: self.attempt_states(d, job)[-1:] == ["unreachable"])
        x = self.explain(d, job)
        self.assertIn("node b does not answer", x["reason"])
        self.assertIn("it is given up in", x["reason"])
        self.assertIn("mend it or its network", x["unblock"])
        self.assertEqual((self.node(d, "b")["state"], d.stage(job, "train")["attempts"]), ("unreachable", 1))
        self.assertEqual(self.on("a", uuid), [])
        d.kill()
        d.start()
        self.assertEqual(d.stage(job, "train")["attempts"], 1)
        self.assertEqual(self.on("b", uuid), there, "as it was: stopped")
        self.cluster.hang("b", False)
        self.after_a_death(d, job, uuid)

    def test_a_node_that_hangs_for_good_is_given_up_and_what_wakes_there_later_is_its_resumers(self):
        d, job, uuid, there = self.hung_in_training(slots=2, unreachable_s=10)
        self.watch(d, job, uuid, 240, lambda: self.node(d, "b")["state"] == "drained")
        self.assertIn("may still run there", self.node(d, "b")["reason"])
        self.assertIn(uuid, self.node(d, "b")["reason"])
        # its gang needs two nodes: there is one
        x = d.until(lambda: "drained" in (x := self.explain(d, job))["reason"] and x, seconds=60)
        self.assertIn("dha-shim --sweep UUID", x["unblock"])
        self.assertEqual(d.stage(job, "train")["attempts"], 1)
        self.cluster.hang("b", False)
        # orted and the ranks there have lost mpirun: what of them is left is ended by who resumes the node
        r = subprocess.run(self.cluster.inside("b", os.path.join(harness.BIN, "dha-shim"), "--sweep", uuid),
                           capture_output=True, text=True, timeout=60)
        self.assertEqual((r.returncode, self.on("b", uuid)), (0, []), r)
        d.post("/v1/nodes/b/resume")
        self.after_a_death(d, job, uuid)

    def test_a_cancel_of_what_hangs_waits_for_the_node(self):
        d, job, uuid, there = self.hung_in_training()
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        self.watch(d, job, uuid, 180, lambda: self.node(d, "b")["state"] == "unreachable")
        self.assertEqual(d.job(job)["state"], "running")
        x = self.explain(d, job)
        self.assertIn("node b does not answer", x["reason"], x)
        self.assertIn("(dha nodes): mend it or its network; given up, it is drained, and the job is cancelled", x["unblock"])
        self.cluster.hang("b", False)
        d.until_state(job, "cancelled", seconds=120)
        self.assertEqual((self.on("a", uuid), self.on("b", uuid)), ([], []))


if __name__ == "__main__":
    harness.main()
