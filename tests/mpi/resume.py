"""kill -9 of a training gang at every step boundary it can be seen at, then resume: the same losses and the same final weights,
bit for bit (G6). Also for an orderly checkpoint-and-stop, and for all that trains in the fuse stage."""
import os, signal, subprocess, sys, time
from lib import *

worker, demo = sys.argv[1:3]
base = work_dir()

def killed_run(name, s, stage, steps_to_kill_at, how):
    """Starts, waits until `stage` has journalled step k, kills; again for each k; then runs to the end."""
    d = f"{base}/{name}"
    for k in steps_to_kill_at:
        p = start(worker, 2, s, d)
        limit = time.time() + 120
        while not any(r["t"] == "progress" and r["step"] >= k for r in journal(d, stage)):
            if p.poll() is not None or time.time() > limit:
                out, err = p.communicate()
                sys.exit(f"ended before step {k}: {p.returncode}\n{out}\n{err}")
            time.sleep(0.002)
        if how == "kill":
            # mpirun and every rank of its session, at once
            subprocess.run(["pkill", "-9", "-s", str(p.pid)], check=False)
        else:
            os.kill(p.pid, signal.SIGUSR2)
        p.communicate(timeout=60)
        if how == "stop":
            check(p.returncode == 79, f"checkpoint-and-stop ends with exit code 79 ({p.returncode})")
    run(worker, 2, s, d)
    return d

s = spec(demo, tokens={"train": 8 * 512})
run(worker, 2, s, f"{base}/whole")
want, w = losses(f"{base}/whole"), weights(f"{base}/whole")
check(len(want) == 8, "the whole run has 8 steps")
d = killed_run("killed", s, "train", [1, 2, 3, 4, 5, 6, 7], "kill")
check(losses(d) == want, "losses after seven kills equal those of the whole run")
check(weights(d) == w, "final weights after seven kills equal, bit for bit")
d = killed_run("stopped", s, "train", [2, 5], "stop")
check(losses(d) == want and weights(d) == w, "checkpoint-and-stop, then resume: the same, bit for bit")

s = spec(demo, method="dha", tokens={"search": 2 * 512, "fuse": 6 * 512, "train": 512})
run(worker, 2, s, f"{base}/dha")
for stage in "search", "fuse":
    told = {(r["layer"], r["kind"], r["name"]): r["value"] for r in journal(f"{base}/dha", stage)
            if r["t"] == "layer" and r["name"].startswith("share.")}
    entries = json.load(open(f"{base}/dha/{stage}/out/shares.json"))["entries"]
    want_shares = {(x["layer"], x["kind"], f"share.{j}"): sum(row[j] for row in x["shares"]) / len(x["shares"])
                   for x in entries for j in range(len(x["shares"]))}
    check(told.keys() == want_shares.keys() and all(abs(told[k] - v) < 1e-6 for k, v in want_shares.items()) and len(told) > 8,
          f"{stage}: each head's share in each layer is a metric")
d = killed_run("dha-killed", s, "fuse", [2, 4], "kill")
check(losses(d, "fuse") == losses(f"{base}/dha", "fuse"), "fusion stage: losses equal after kills (omega, lambda restored)")
check(weights(d) == weights(f"{base}/dha"), "fusion stage: final weights equal, bit for bit")

def same_after_kills(name, steps, **over):
    """A fuse stage killed at these steps leaves what one that was not killed leaves."""
    s = spec(demo, **over)
    run(worker, 2, s, f"{base}/{name}")
    d = killed_run(f"{name}-killed", s, "fuse", steps, "kill")
    check(losses(d, "fuse") == losses(f"{base}/{name}", "fuse"), f"{name}: losses equal after kills")
    check(weights(d, "fuse") == weights(f"{base}/{name}", "fuse"), f"{name}: the same heads, bit for bit")

tokens = {"search": 2 * 512, "fuse": 6 * 512, "train": 512}
same_after_kills("contract", [2, 5], method={"preset": "dha", "tie": "contract", "norm_restore": True}, tokens=tokens)
same_after_kills("progressive", [1, 4, 5], method={"preset": "dha", "progressive": True, "scalar_omega": True}, tokens=tokens)
heads = [r for r in journal(f"{base}/progressive", "fuse") if r["t"] == "head_budget"]
check(sum(r["heads"] for r in heads) <= 0.25 * sum(len(r["map"]) for r in heads), "progressive: ends within the budget")
check(os.path.exists(f"{base}/progressive/fuse/out/level-1/model/config.json"), "progressive: a finished level is a model")

def jump(name):
    """loss after fusing - loss of the last fusion step, over the same windows"""
    e = [r for r in journal(f"{base}/{name}", "fuse") if r["t"] == "eval"]
    return [r["loss"] for r in e if r["name"] == "converted"][0] - [r["loss"] for r in e if r["name"] == "valid"][-1]
check(abs(jump("contract")) < 1e-5, "contract: fusing changes nothing")
masks = {"fuse": 8 * 512, "train": 512}
for kind in "linear", "hard-concrete", "released":
    same_after_kills(f"masks {kind}", [2, 4, 7], method={"preset": "align-gqa", "alignment": "none", "masks": kind},
                     tokens=masks, recovery={"kl": 1})
    check(abs(jump(f"masks {kind}")) < 1e-5, f"masks {kind}: dropping the old heads changes nothing")

# instruction data: KL on prompts, BiLD on answers; the same draws and classes after a kill, and on one rank as on two
words = open(f"{demo}/train.txt", encoding="utf-8").read().split()[:20000]
with open(f"{base}/pairs.jsonl", "w") as f:
    for i in range(0, len(words) - 40, 36):
        f.write(json.dumps({"prompt": " ".join(words[i:i + 20]), "answer": " ".join(words[i + 20:i + 36])}) + "\n")
s = spec(demo, data={"train": [f"{base}/pairs.jsonl"], "valid": f"{base}/pairs.jsonl", "format": "instruct"}, tokens={"train": 6 * 512})
run(worker, 2, s, f"{base}/instruct")
d = killed_run("instruct-killed", s, "train", [2, 4], "kill")
check(losses(d) == losses(f"{base}/instruct") and weights(d) == weights(f"{base}/instruct"), "instruct: the same after kills, bit for bit")
check(all(r["bild"] > 0 for r in journal(d, "train") if r["t"] == "progress"), "instruct: BiLD is part of every step's loss")
run(worker, 1, s, f"{base}/instruct-alone")
one, two = losses(f"{base}/instruct-alone"), losses(f"{base}/instruct")
check(all(abs(one[k] - two[k]) < 1e-4 * two[k] for k in two), "instruct: one rank and two give the same losses")
