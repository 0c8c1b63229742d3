"""The number of ranks does not change the data order, only rounding: loss curves of 1, 2 and 3 ranks agree to 1e-4; a run stopped
with 2 ranks goes on with 1."""
import os, signal, sys, time
from lib import *

worker, demo = sys.argv[1:3]
base = work_dir()
curves = {}
for n in (1, 2, 3):
    # 8 sequences a step: 3 ranks do not divide them
    s = spec(demo, resources={"ranks": n, "threads": 1}, recovery={"kl": 0.5, "lm": 0.5})
    run(worker, n, s, f"{base}/r{n}")
    curves[n] = losses(f"{base}/r{n}")
for n in (2, 3):
    worst = max(abs(curves[1][k] - curves[n][k]) for k in curves[1])
    check(len(curves[n]) == 8 and worst < 1e-4, f"{n} ranks: losses differ from 1 rank's by at most {worst:.1e}")

s = spec(demo)
d = f"{base}/change"
p = start(worker, 2, s, d)
while not any(r["t"] == "progress" and r["step"] >= 3 for r in journal(d, "train")):
    if p.poll() is not None:
        sys.exit("ended early: " + p.communicate()[1])
    time.sleep(0.002)
os.kill(p.pid, signal.SIGUSR2)
p.communicate(timeout=60)
run(worker, 1, s, d)
run(worker, 2, s, f"{base}/whole")
a, b = losses(d), losses(f"{base}/whole")
worst = max(abs(a[k] - b[k]) for k in b)
check(worst < 1e-4, f"stopped with 2 ranks, resumed with 1: losses within {worst:.1e}")

# what trains in the fuse stage: noise, masks' gradients and levels are the same whatever the number of ranks
for name, method in (("contract", {"preset": "dha", "tie": "contract", "norm_restore": True}),
                     ("progressive", {"preset": "dha", "progressive": True}),
                     ("hard-concrete", {"preset": "align-gqa", "alignment": "none", "masks": "hard-concrete"}),
                     ("released", {"preset": "align-gqa", "alignment": "none", "masks": "released"}),
                     ("aligned", {"preset": "align-gqa"}), ("aligned-dha", {"preset": "aligned-dha"}),
                     ("aligned-value", {"preset": "align-gqa", "grouping": "aligned-value"}),
                     ("aligned-key", {"preset": "align-gqa", "grouping": "aligned-key", "criterion": "cos", "annealing": True}),
                     ("greedy", {"preset": "dha", "allocation": "greedy", "annealing": True})):
    got = {}
    for n in (1, 2):
        tokens = {"fuse": 6 * 512, "train": 512}
        if method.get("alignment") != "none":
            tokens["search"] = 2 * 512
        run(worker, n, spec(demo, method=method, tokens=tokens, recovery={"kl": 0.5, "lm": 0.5}), f"{base}/{name}-{n}")
        got[n] = losses(f"{base}/{name}-{n}", "fuse")
    worst = max(abs(got[1][k] - got[2][k]) for k in got[1])
    check(worst < 1e-5, f"{name}: fusion losses of 1 and 2 ranks differ by at most {worst:.1e}")
    if name.startswith("aligned-") and name != "aligned-dha":
        plans = [json.load(open(f"{base}/{name}-{n}/search/out/plan.json")) for n in (1, 2)]
        groups = [[[c["groups"] for c in e["choices"]] for e in p["entries"]] for p in plans]
        check(groups[0] == groups[1] and groups[0][0::2] == groups[0][1::2],
              f"{name}: 1 and 2 ranks find the same groups, keys and values of a layer share them")
        two = [e["choices"][1]["groups"] for e in plans[0]["entries"]]
        check(any(g != sorted(g) for g in two), f"{name}: not all groups are neighbours ({two[0]} ...)")
        config = json.load(open(f"{base}/{name}-2/export/out/model/config.json"))
        check(config["architectures"] == ["LlamaForCausalLM"] and config["num_key_value_heads"] == 2,
              f"{name}: exported as plain GQA")
