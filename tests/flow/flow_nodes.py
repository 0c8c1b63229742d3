"""Several nodes: which there are, what runs where, what is said of it. The daemon is the real one, the launcher the fake
one: it starts its script here, whatever nodes the attempt has (flow_hosts.py starts real ranks on real nodes)."""
import json
import os
import subprocess
import unittest

import harness


class Cluster(unittest.TestCase):
    def daemon(self, settings, launcher=None, start=True):
        d = harness.DhadWithFile(settings, launcher)
        self.addCleanup(d.clean)
        if start:
            d.start()
            self.addCleanup(d.end)
        return d

    def nodes(self, d):
        return {n["name"]: n for n in d.get("/v1/nodes").json["nodes"]}

    def log(self, d):
        with open(os.path.join(d.state, "dhad.log")) as f:
            return f.read()

    def place(self, d, job, kind="search", number=1):
        """The nodes of an attempt by its hostfile, and its ranks' places."""
        where = os.path.join(d.stage_dir(job, kind), f"a{number}")
        with open(os.path.join(where, "hostfile")) as f:
            hosts = f.read().split("\n")[:-1]
        with open(os.path.join(where, "spec.json")) as f:
            return hosts, json.load(f)["places"]


class Nodes(Cluster):
    TWO = {"nodes": [{"name": "a", "address": "10.9.9.1", "slots": 4, "cores": "0-3", "memory_gib": 4},
                     {"name": "b", "address": "10.9.9.2", "slots": 4, "cores": "8-15", "memory_gib": 32}]}

    def test_a_gang_gets_the_same_part_of_each_of_its_nodes(self):
        d = self.daemon(self.TWO)
        job = d.submit("search.sleep=30", resources={"ranks": 4, "nodes": 2, "threads": 2})
        d.until_running(job, "search")
        hosts, places = self.place(d, job)
        self.assertEqual(hosts, ["10.9.9.1 slots=2", "10.9.9.2 slots=2"])
        self.assertEqual([(p["node"], p["cores"]) for p in places],
                         [("a", "0-1"), ("a", "2-3"), ("b", "8-11"), ("b", "12-15")])
        busy = {n: sum(s["job"] == job for s in v["slots"]) for n, v in self.nodes(d).items()}
        self.assertEqual(busy, {"a": 4, "b": 4})
        other = d.submit("other", seed=2)
        x = d.get(f"/v1/jobs/{other}/explain").json
        self.assertEqual(x["verdict"], "slots_busy", x)
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")
        d.until_state(other, "done")

    def test_memory_and_names_choose_the_node(self):
        d = self.daemon(self.TWO)
        big = d.submit("search.sleep=30", resources={"ranks": 2, "memory_gib": 6})
        d.until_running(big, "search")
        self.assertEqual(self.place(d, big)[0], ["10.9.9.2 slots=2"])
        named = d.submit("search.sleep=30", seed=2, resources={"ranks": 4, "node_names": ["a"]})
        d.until_running(named, "search")
        self.assertEqual(self.place(d, named)[0], ["10.9.9.1 slots=4"])
        waits = d.submit("w", seed=3, resources={"ranks": 2, "node_names": ["a"]})
        x = d.get(f"/v1/jobs/{waits}/explain").json
        self.assertIn("on a only", x["reason"])
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 4, "memory_gib": 9})})
        self.assertEqual((r.status, r.json["error"]["code"]), (422, "no_slot"))
        self.assertIn("each with 9 GiB of memory; 0 nodes", r.json["error"]["message"])
        r = d.post("/v1/jobs", {"spec": d.spec(seed=4, resources={"ranks": 2, "memory_gib": 8}), "dry_run": True})
        self.assertEqual(r.json["now"]["slots"], ["b:2", "b:3"])
        for job in (big, named):
            d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(waits, "done")

    def test_a_short_job_fills_the_gap_that_a_gang_on_both_nodes_leaves(self):
        d = self.daemon(self.TWO)
        first = d.submit("search.sleep=300", resources={"ranks": 4, "walltime": "1h"})
        d.until_running(first, "search")
        gang = d.submit("gang", seed=2, resources={"ranks": 8, "nodes": 2, "walltime": "1h"})
        x = d.get(f"/v1/jobs/{gang}/explain").json
        self.assertIn("4 slots on each of 2 nodes", x["reason"])
        self.assertIsNotNone(x["starts_by_us"])
        long = d.submit("long", seed=3, resources={"ranks": 4, "walltime": "2h"})
        short = d.submit("short", seed=4, resources={"ranks": 4, "walltime": "10m"})
        d.until_state(short, "done")
        self.assertEqual(d.job(long)["state"], "queued")
        self.assertEqual(d.get(f"/v1/jobs/{long}/explain").json["verdict"], "behind")
        d.post(f"/v1/jobs/{first}/cancel", {"now": True})
        d.until_state(gang, "done")
        d.until_state(long, "done")

    def test_a_drained_node_keeps_a_gang_waiting_and_says_so(self):
        d = self.daemon(self.TWO)
        d.post("/v1/nodes/b/drain", {"reason": "fan"})
        gang = d.submit("gang", resources={"ranks": 2, "nodes": 2})
        x = d.get(f"/v1/jobs/{gang}/explain").json
        self.assertEqual(x["verdict"], "drained")
        self.assertIn("1 slots on each of 2 nodes", x["reason"])
        one = d.submit("one", seed=2)
        d.until_state(one, "done")
        d.post("/v1/nodes/b/resume")
        d.until_state(gang, "done")

    def test_a_higher_priority_gang_on_two_nodes_makes_room_on_both(self):
        d = self.daemon({**self.TWO, "preempt": 1})
        low = [d.submit("train.sleep=60", seed=i, resources={"ranks": 4}) for i in (1, 2)]
        for job in low:
            d.until_running(job, "train", 60)
        high = d.submit("high", seed=3, priority=5, resources={"ranks": 8, "nodes": 2})
        d.until_state(high, "done", seconds=60)
        self.assertEqual(sorted(e["job"] for e in d.events() if e["type"] == "job.preempt"), sorted(low))
        for job in low:
            d.post(f"/v1/jobs/{job}/cancel", {"now": True})
            d.until_state(job, "cancelled")

    def test_nodes_come_and_go_while_it_runs(self):
        d = self.daemon(self.TWO)
        job = d.submit("search.sleep=30", resources={"ranks": 2, "node_names": ["b"]})
        d.until_running(job, "search")
        gang = d.submit("gang", seed=2, resources={"ranks": 6, "nodes": 2})
        d.hup({"nodes": [self.TWO["nodes"][0], {"name": "c", "slots": 4}]})
        d.until_state(gang, "done")  # on a and c
        self.assertEqual([h.split()[0] for h in self.place(d, gang)[0]], ["10.9.9.1", "c"])
        n = self.nodes(d)
        self.assertEqual((n["b"]["state"], len(n["b"]["slots"])), ("gone", 2))
        self.assertEqual(d.job(job)["state"], "running")
        d.kill()
        d.start()
        self.assertEqual(self.nodes(d)["b"]["state"], "gone")
        d.post(f"/v1/jobs/{job}/cancel", {"now": True})
        d.until_state(job, "cancelled")
        self.assertEqual(set(self.nodes(d)), {"a", "c"})
        d.hup(self.TWO)
        d.until(lambda: set(self.nodes(d)) == {"a", "b"})
        self.assertEqual({s["job"] for s in self.nodes(d)["b"]["slots"]}, {None})
        self.assertEqual([e["data"]["node"] for e in d.events() if e["type"] == "node.gone"][-2:], ["b", "c"])

    def test_settings_that_cannot_be_used_change_nothing(self):
        d = self.daemon(self.TWO)
        before = self.nodes(d)
        for bad, says in (
                ({"nodes": [{"name": "a b"}]}, "nodes[0]"),
                ({"nodes": [{"name": "a"}, {"name": "a"}]}, "already"),
                ({"nodes": [{"name": "a", "address": "-oProxyCommand=sh"}]}, "address"),
                ({"nodes": [{"name": "a", "address": "x;reboot"}]}, "address"),
                ({"nodes": [{"name": "a", "cores": "3-1"}]}, "ascending"),
                ({"nodes": [{"name": "a", "slot": 3}]}, 'did you mean \\"slots\\"?'),
                ({"nodes": [{"name": "a", "device": "tpu"}]}, "cuda"),
                ({"nodes": {}}, "list"), ({"nodes": [3]}, "object"),
                ({**self.TWO, "ssh_args": "-o x=$(reboot)"}, "ssh_args"),
                ({**self.TWO, "mpi_interface": "eth0 --mca"}, "mpi_interface"),
                ({**self.TWO, "unreachable_s": 0}, "unreachable_s"),
                ({**self.TWO, "unreachable": 5}, "unreachable_s")):
            n = self.log(d).count("the settings stay as they were")
            d.hup(bad)
            d.until(lambda: self.log(d).count("the settings stay as they were") == n + 1)
            last = [line for line in self.log(d).split("\n") if "the settings stay" in line][-1]
            self.assertIn(says.replace("\\", ""), last)
            self.assertEqual(self.nodes(d), before)

    def test_a_launcher_that_knows_one_host_refuses_others(self):
        d = self.daemon(self.TWO, "local", start=False)
        d.start(wait=False)
        self.assertEqual(d.wait_dead(), 65)
        self.assertIn("--launcher hosts", d.console())
        d = self.daemon({}, "hosts", start=False)
        d.start(wait=False)
        self.assertEqual(d.wait_dead(), 65)
        self.assertIn('"nodes"', d.console())

    def test_the_example_of_the_documentation_is_taken(self):
        with open(os.path.join(harness.HERE, "..", "..", "deploy", "dhad-nodes.json")) as f:
            d = self.daemon(json.load(f), "hosts")
        self.assertEqual({n: len(v["slots"]) for n, v in self.nodes(d).items()}, {"node-1": 16, "node-2": 16})

    def test_dha_nodes_shows_what_there_is(self):
        d = self.daemon(self.TWO)
        dha = [os.path.join(harness.BIN, "dha"), "--socket", d.socket, "nodes"]
        text = subprocess.run(dha, capture_output=True, text=True, check=True).stdout
        self.assertRegex(text, r"a +10\.9\.9\.1 +up +cpu +4 +4 +4 GiB")
        self.assertRegex(text, r"b +10\.9\.9\.2 +up +cpu +4 +4 +32 GiB")
        text = subprocess.run(dha + ["show", "b"], capture_output=True, text=True, check=True).stdout
        self.assertRegex(text, r"b:3 +cpu +14-15 +- +8 GiB")
        r = subprocess.run(dha + ["show", "z"], capture_output=True, text=True)
        self.assertEqual(r.returncode, 66)


class Gpus(Cluster):
    """GPUs as the nodes' worker tells: here the fake one says what the test wants."""
    GPUS = [{"uuid": f"GPU-{i}", "name": "Fake", "memory": str(80 << 30)} for i in range(2)]

    def probe(self, gpus, backends=("cpu", "cuda")):
        return json.dumps({"format": "dha-probe-1", "cores": "0-7", "n_cores": 8, "memory": str(64 << 30),
                           "backends": list(backends), "gpus": gpus})

    def daemon_with(self, gpus, **more):
        d = self.daemon({"nodes": [{"name": "g", "device": "cuda"}, {"name": "c"}]}, start=False)
        d.start(DHA_FAKE_PROBE=self.probe(gpus, **more))
        self.addCleanup(d.end)
        d.until(lambda: self.nodes(d)["c"]["slots"])
        return d

    def test_each_attempt_sees_its_own_gpu_and_others_none(self):
        d = self.daemon_with(self.GPUS)
        slots = d.until(lambda: self.nodes(d)["g"]["slots"])
        self.assertEqual([(s["name"], s["device"], s["gpu"]) for s in slots],
                         [("g:gpu0", "cuda", "GPU-0"), ("g:gpu1", "cuda", "GPU-1")])
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 1, "device": "cuda", "memory_gib": 81})})
        self.assertIn("with 81 GiB of memory", r.json["error"]["message"])
        big = d.submit("search.sleep=30", resources={"ranks": 1, "device": "cuda", "memory_gib": 50})
        d.until_running(big, "search")
        small = d.submit("search.sleep=30", seed=2, resources={"ranks": 1, "device": "cuda"})
        d.until_running(small, "search")
        cpu = d.submit("search.sleep=30", seed=3, resources={"ranks": 2})
        d.until_running(cpu, "search")
        for job, gpu in ((big, "GPU-0"), (small, "GPU-1"), (cpu, "")):
            self.assertEqual({p["gpu"] for p in self.place(d, job)[1]}, {gpu})
            env = [e for p in d.of_attempt(job, "search") for e in harness.environ_of(p)
                   if e.startswith(b"CUDA_VISIBLE_DEVICES=")]
            self.assertEqual(set(env), {b"CUDA_VISIBLE_DEVICES=" + gpu.encode()})
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 3, "device": "cuda"})})
        self.assertEqual((r.status, r.json["error"]["code"]), (422, "no_slot"))
        for job in (big, small, cpu):
            d.post(f"/v1/jobs/{job}/cancel", {"now": True})
            d.until_state(job, "cancelled")

    def test_a_gpu_keeps_its_slot_when_another_is_taken_out(self):
        d = self.daemon_with(self.GPUS)
        d.until(lambda: len(self.nodes(d)["g"]["slots"]) == 2)
        d.kill()
        d.start(DHA_FAKE_PROBE=self.probe(self.GPUS[1:]))
        d.until(lambda: [s["name"] for s in self.nodes(d)["g"]["slots"]] == ["g:gpu1"])
        d.kill()
        d.start(DHA_FAKE_PROBE=self.probe([{"uuid": "GPU-new", "name": "N", "memory": "1"}] + self.GPUS))
        d.until(lambda: [(s["name"], s["gpu"]) for s in self.nodes(d)["g"]["slots"]]
                == [("g:gpu0", "GPU-0"), ("g:gpu1", "GPU-1"), ("g:gpu2", "GPU-new")])

    def test_gpus_of_a_worker_that_cannot_use_them_are_not_given_out(self):
        d = self.daemon_with(self.GPUS, backends=("cpu",))
        d.until(lambda: "no CUDA backend" in self.log(d))
        self.assertEqual(self.nodes(d)["g"]["slots"], [])
        r = d.post("/v1/jobs", {"spec": d.spec(resources={"ranks": 1, "device": "cuda"})})
        self.assertIn("GPU", r.json["error"]["message"])
        self.assertIn('"cpu"', r.json["error"]["hint"])

    def test_an_answer_that_is_none_is_said_and_the_rest_goes_on(self):
        d = self.daemon({"nodes": [{"name": "g", "device": "cuda"}, {"name": "c", "slots": 2, "memory_gib": 1}]},
                        start=False)
        d.start(DHA_FAKE_PROBE='{"format": "dha-probe-1"}')
        self.addCleanup(d.end)
        d.until(lambda: "asking node g what it has" in self.log(d))
        job = d.submit()
        d.until_state(job, "done")


class ThisHost(unittest.TestCase):
    """Without nodes in the settings: slots have cores of their own as long as there are as many cores."""

    def test_two_jobs_have_disjoint_cores_where_there_are_enough(self):
        cores = sorted(os.sched_getaffinity(0))
        one = harness.Dhad(slots=len(cores))
        self.addCleanup(one.clean)
        one.start()
        self.addCleanup(one.end)
        slots = one.get("/v1/nodes").json["nodes"][0]["slots"]
        self.assertEqual([s["cores"] for s in slots], [str(c) for c in cores])
        self.assertTrue(all(int(s["memory"]) > 1 << 20 for s in slots))

    def places(self, settings):
        d = harness.DhadWithFile(settings)
        self.addCleanup(d.clean)
        d.start()
        self.addCleanup(d.end)
        job = d.submit(resources={"ranks": 1})
        d.until_state(job, "done")
        return json.loads(harness.read(os.path.join(d.stage_dir(job, "search"), "a1", "spec.json")))["places"]

    def test_ranks_are_kept_on_them_only_where_that_is_wanted(self):
        """Others may be using a host that nobody gave to dha alone."""
        self.assertFalse(self.places({})[0].get("cores"))
        self.assertIn(self.places({"pin": 1})[0]["cores"], [str(c) for c in os.sched_getaffinity(0)])

    def test_with_more_slots_than_cores_nobody_is_pinned(self):
        many = harness.Dhad(slots=len(os.sched_getaffinity(0)) + 1)
        self.addCleanup(many.clean)
        many.start()
        self.addCleanup(many.end)
        self.assertEqual({s["cores"] for s in many.get("/v1/nodes").json["nodes"][0]["slots"]}, {None})


if __name__ == "__main__":
    harness.main()
