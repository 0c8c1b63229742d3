"""Mixtures, instruct data and tasks through a whole job: neither the number of ranks nor a kill changes what is drawn, each domain
has its losses, and tasks are scored for both models."""
import os, random, signal, subprocess, sys, time
from lib import *

worker, demo = sys.argv[1:3]
base = work_dir()
text = open(f"{demo}/train.txt", encoding="utf-8").read()
parts = [text[i * 60000:(i + 1) * 60000] for i in range(3)]
for i, p in enumerate(parts):
    open(f"{base}/d{i}.txt", "w", encoding="utf-8").write(p)
random.seed(1)
lines = [l for l in text.splitlines() if 40 < len(l) < 160]
with open(f"{base}/pairs.jsonl", "w", encoding="utf-8") as f:
    for l in lines[:300]:
        at = l.index(" ", len(l) // 2) if " " in l[len(l) // 2:] else len(l) // 2
        f.write(json.dumps({"prompt": l[:at], "answer": l[at:]}) + "\n")
with open(f"{base}/q.jsonl", "w", encoding="utf-8") as f:
    for l in lines[300:340]:
        right, wrong = l[len(l) // 2:], random.choice(lines)[:30]
        f.write(json.dumps({"input_question": l[:len(l) // 2], "options": [wrong, right], "answer": right}) + "\n")

def evals(d, stage, name):
    return [r for r in journal(d, stage) if r["t"] == "eval" and r["name"] == name]

# ---- a mixture: one domain has its own validation, the others' is held out
mixed = spec(demo, method="spectral", tokens={"search": 2048, "train": 8 * 512})
mixed["data"] = {"format": "text", "seq_len": 64, "mixture": [
    {"domain": "first", "weight": 0.5, "train": [f"{base}/d0.txt"], "valid": f"{demo}/valid.txt"},
    {"domain": "second", "weight": 0.3, "train": [f"{base}/d1.txt"]},
    {"domain": "third", "weight": 0.2, "train": [f"{base}/d2.txt"]}]}
mixed["eval"] = {"windows": 12, "tasks": [{"task": "openbookqa", "path": f"{base}/q.jsonl"}], "shots": 1}
for n in (1, 2):
    run(worker, n, mixed, f"{base}/mix{n}")
one, two = losses(f"{base}/mix1"), losses(f"{base}/mix2")
worst = max(abs(one[k] - two[k]) for k in one)
check(len(one) == 8 and worst < 1e-4, f"mixture: losses of 2 ranks differ from 1 rank's by at most {worst:.1e}")
names = {"": 1.0, ":first": 0.5, ":second": 0.3, ":third": 0.2}
for stage, name in ("fuse", "parent"), ("fuse", "converted"), ("train", "valid"), ("eval", "final"):
    last = {s: evals(f"{base}/mix2", stage, name + s)[-1] for s in names}
    mean = sum(w * last[s]["loss"] for s, w in names.items() if s)
    check(abs(mean - last[""]["loss"]) < 1e-9, f"mixture: the loss of {name} is its domains' weighted mean")
    check(last[""]["windows"] == 12 and all(last[s]["windows"] == 4 for s in names if s), f"{name}: domains share the windows")
out = json.load(open(f"{base}/mix2/eval/out/eval.json"))
check(set(out["domains"]) == {"first", "second", "third"}, "eval.json has the domains")
check(json.load(open(f"{base}/mix2/result.json"))["tasks"] == out["tasks"], "result.json has the scores")
check([t["model"] for t in out["tasks"]] == ["parent", "final"], "eval.json scores the parent and the final model")
check(all(t["questions"] == 40 and t["acc"] > 0.5 for t in out["tasks"]), f"both beat guessing: {[t['acc'] for t in out['tasks']]}")
details = [json.loads(l) for l in open(f"{base}/mix2/eval/out/details.jsonl")]
check(len(details) == 80 and details[0]["model"] == "parent", "details.jsonl has a line a question and model")
tasks = [r for r in journal(f"{base}/mix2", "eval") if r["t"] == "task"]
check([t["acc"] for t in tasks] == [t["acc"] for t in out["tasks"]], "the journal has the scores")

def killed(name, s, steps):
    d = f"{base}/{name}"
    for k in steps:
        p = start(worker, 2, s, d)
        while not any(r["t"] == "progress" and r["step"] >= k for r in journal(d, "train")):
            if p.poll() is not None:
                sys.exit("ended early: " + p.communicate()[1])
            time.sleep(0.002)
        subprocess.run(["pkill", "-9", "-s", str(p.pid)], check=False)
        p.communicate(timeout=60)
    run(worker, 2, s, d)
    return d

d = killed("mix-killed", mixed, [2, 5])
check(losses(d) == two and weights(d) == weights(f"{base}/mix2"), "mixture: two kills change no bit")

# ---- instruct data: prompts by KL, answers by BiLD
pairs = spec(demo, data={"train": [f"{base}/pairs.jsonl"], "valid": f"{base}/pairs.jsonl", "format": "instruct"})
for n in (1, 2):
    run(worker, n, pairs, f"{base}/pairs{n}")
one, two = losses(f"{base}/pairs1"), losses(f"{base}/pairs2")
worst = max(abs(one[k] - two[k]) for k in one)
check(len(one) == 8 and worst < 1e-4, f"instruct: losses of 2 ranks differ from 1 rank's by at most {worst:.1e}")
d = killed("pairs-killed", pairs, [3])
check(losses(d) == two and weights(d) == weights(f"{base}/pairs2"), "instruct: a kill changes no bit")
answers = evals(f"{base}/pairs2", "eval", "final")[0]
check(0 < answers["tokens"] < 64 * answers["windows"], "instruct: only answers are evaluated")
out, err = run(worker, 1, spec(demo, data={"train": [f"{base}/pairs.jsonl"], "valid": f"{base}/pairs.jsonl",
                                            "format": "instruct", "seq_len": 16}), f"{base}/cut")
check("warning:" in err and "more than 17 tokens" in err, "instruct: examples that do not fit are counted, and said")
