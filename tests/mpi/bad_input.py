"""Bad input to the worker: one clear error (what, where, what to do), the right exit code, nothing lost."""
import gzip, json, os, shutil, struct, subprocess, sys, time
from lib import *

worker, demo = sys.argv[1:3]
base = work_dir()

def fails(name, s, code, *words):
    d = f"{base}/{name}"
    out, err = run(worker, 0, s, d, code)
    last = [l for l in err.splitlines() if "dha-worker run:" in l]
    check(len(last) == 1, f"{name}: one error line: {last}")
    for w in words:
        check(w in err, f"{name}: says {w!r}")
    return d

def copy_model(name):
    d = f"{base}/{name}-model"
    shutil.copytree(f"{demo}/hf", d)
    return d

# 64 spec, 65 input, 66 not found, 73 no space, 80 diverged
fails("no model", spec(demo, model="/nowhere"), 66, "/nowhere")
fails("unknown field", spec(demo, bugdet=0.5), 64, "$.bugdet", "budget")
fails("budget of gqa", spec(demo, budget=0.3), 64, "0.25", "spectral")
fails("budget below one head a layer", spec(demo, method="spectral", budget=0.01, tokens={"search": 2048}), 64, "0.01", "0.125")
fails("sequence too long", spec(demo, data={"seq_len": 256}), 64, "256", "128")

m = copy_model("truncated")
with open(f"{m}/model.safetensors", "r+b") as f:
    f.truncate(1000)
fails("truncated weights", spec(demo, model=m), 65, "model.safetensors")
m = copy_model("lying")
with open(f"{m}/model.safetensors", "r+b") as f:
    f.write(struct.pack("<Q", 1 << 60))
fails("lying header", spec(demo, model=m), 65, "model.safetensors")
m = copy_model("mismatch")
c = json.load(open(f"{m}/config.json")); c["intermediate_size"] = 345
json.dump(c, open(f"{m}/config.json", "w"))
fails("config against tensors", spec(demo, model=m), 65, "345")
m = copy_model("unknown")
c = json.load(open(f"{m}/config.json")); c["hidden_act"] = "gelu"
json.dump(c, open(f"{m}/config.json", "w"))
fails("another activation", spec(demo, model=m), 65, "hidden_act", "gelu")

t = f"{base}/t.u16"
def tokens(*v):
    with open(t, "wb") as f:
        f.write(struct.pack(f"<{len(v)}H", *v))
def u16(**kw):
    return spec(demo, data={"train": [t], "valid": t, "seq_len": 64}, **kw)
tokens()
fails("empty tokens", u16(), 65, "t.u16")
tokens(*[5] * 20)
fails("too few tokens", u16(), 65, "t.u16", "20")
tokens(*[5] * 500, 512, *[5] * 500)
fails("token outside vocabulary", u16(), 65, "t.u16", "512")
with open(t, "wb") as f:
    f.write(b"abc" * 333)
fails("odd size", u16(), 65, "t.u16")

# a parent whose weights are not finite (training that diverges: tests/unit/train/test_trainer.c)
m = copy_model("poisoned")
with open(f"{m}/model.safetensors", "r+b") as f:
    n, = struct.unpack("<Q", f.read(8))
    at = json.loads(f.read(n))["model.layers.1.mlp.down_proj.weight"]["data_offsets"][0]
    f.seek(8 + n + at)
    f.write(b"\xc0\x7f" * 64)  # bf16 NaN
d = fails("weights not finite", spec(demo, model=m), 65, "model.layers.1.mlp.down_proj.weight", "NaN", "damaged")
check(not os.path.exists(f"{d}/fuse/out/model"), "weights not finite: no model was published")

# tokens that are another tokenizer's: the parent does worse on them than guessing
import random
random.seed(7)
tokens(*[random.randrange(512) for _ in range(20000)])
fails("tokens of another tokenizer", u16(), 65, "parent", "worse than guessing", "tokenizer")

# mixtures and tasks
def mixture(*weights):
    s = spec(demo)
    s["data"] = {"format": "text", "seq_len": 64, "mixture": [
        {"domain": f"d{i}", "weight": w, "train": [f"{demo}/train.txt"], "valid": f"{demo}/valid.txt"}
        for i, w in enumerate(weights)]}
    return s
fails("weights that do not sum to 1", mixture(0.5, 0.4), 64, "$.data.mixture", "sum to 0.9")
fails("a negative weight", mixture(1.5, -0.5), 64, "$.data.mixture[1].weight")
fails("an unknown task", spec(demo, eval={"tasks": [{"task": "ark-e", "path": "/x"}]}), 64, "ark-e", "did you mean")
q = f"{base}/q.jsonl"
open(q, "w").write('{"task_name":"arc-e","input_question":"Who?","options":["he","she"],"answer":"they"}\n')
fails("a question without its answer", spec(demo, eval={"tasks": [{"task": "arc-e", "path": q}]}), 65, "stage fuse", "q.jsonl, line 1", "they")
open(q, "w").write('{"prompt":"Who?"}\n')
fails("an example without an answer", spec(demo, data={"train": [q], "valid": q, "format": "instruct", "seq_len": 64}), 65,
      "q.jsonl, line 1", "answer")

# calibration on fewer tokens than the model is wide goes on, but says so
s = spec(demo, method="spectral", tokens={"search": 32, "train": 0}, data={"seq_len": 16})
out, err = run(worker, 0, s, f"{base}/short-calibration", 0)
check("warning: 32 tokens to calibrate with" in err, "short calibration: warned")

# bytes of a finished stage's output change on the disk: said, and made anew
s = spec(demo, method="gqa", budget=0.5, tokens={"train": 0})
d = f"{base}/rot"
run(worker, 0, s, d)
weights = f"{d}/fuse/out/model/model.safetensors"
before = open(weights, "rb").read()
with open(weights, "r+b") as f:
    f.seek(len(before) // 2); f.write(b"ROTTEN")
p = subprocess.run([worker, "verify", f"{d}/fuse/out"], capture_output=True, text=True)
check(p.returncode == 78 and weights in p.stderr, f"verify names the file: {p}")
out, err = run(worker, 0, s, d)
check("fuse   is made anew" in err and weights in err, "a damaged output is made anew")
check(open(weights, "rb").read() == before, "and is what it was")
p = subprocess.run([worker, "verify", f"{d}/fuse/out"], capture_output=True, text=True)
check(p.returncode == 0, "verify is content")
os.remove(weights)
os.mkfifo(weights)
p = subprocess.run([worker, "verify", f"{d}/fuse/out"], capture_output=True, text=True, timeout=20)
check(p.returncode == 78 and "no regular file" in p.stderr, f"verify waits for no pipe: {p}")
# nor is text that is read over and over a reason to stop
with open(f"{demo}/train.txt") as f, open(f"{base}/few.txt", "w") as few:
    few.write(f.read(1200))
s = spec(demo, method="spectral", tokens={"search": 1024, "train": 0}, data={"train": [f"{base}/few.txt"], "seq_len": 16})
out, err = run(worker, 0, s, f"{base}/repeated-calibration", 0)
check(" distinct tokens for 1024 of calibration: they are read " in err and "more text gives a better plan" in err,
      "repeated calibration: warned")
check("distinct tokens" not in run(worker, 0, spec(demo, method="spectral", tokens={"search": 1024, "train": 0}, data={"seq_len": 16}),
                                   f"{base}/calibration", 0)[1], "enough to calibrate with: not warned")

# a full disk while a checkpoint is written: tmpfs of 6 MiB for the stage's directory
d = f"{base}/full"
os.makedirs(f"{d}/train")
if os.geteuid() == 0 and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", f"{d}/train"]).returncode == 0:
    try:
        s = spec(demo)
        p = run(worker, 0, s, d, 73)
        check("No space left" in p[1] or "full" in p[1], "full disk: said as such")
        left = os.listdir(f"{d}/train/out/ckpt") if os.path.exists(f"{d}/train/out/ckpt") else []
        check(not any(x.endswith(".tmp") for x in left), f"full disk: no half checkpoint is left ({left})")
    finally:
        subprocess.run(["umount", f"{d}/train"])
else:
    print("skipped: full disk (needs root and mount)")

# `check` says the same before any work, and costs no weights
def check_says(name, s, code, *words):
    f = f"{base}/check.json"
    json.dump(s, open(f, "w"))
    p = subprocess.run([worker, "check", f], capture_output=True, text=True, timeout=60)
    check(p.returncode == code and all(w in p.stdout + p.stderr for w in words), f"check, {name}: exit {code}, says {words}")

check_says("a good spec", spec(demo), 0, "ok")
check_says("a budget of gqa", spec(demo, budget=0.3), 64, "0.25")
check_says("too small a budget", spec(demo, method="spectral", budget=0.01), 64, "0.125")
check_says("positions", spec(demo, data={"seq_len": 256}), 64, "128")
check_says("a tensor of another shape", spec(demo, model=f"{base}/mismatch-model"), 65, "345")
check_says("a truncated file", spec(demo, model=f"{base}/truncated-model"), 65, "truncated")
check_says("a question without its answer", spec(demo, eval={"tasks": [{"task": "arc-e", "path": q}]}), 65, "q.jsonl, line 1")
check_says("no such data", spec(demo, data={"train": ["/nope.txt"]}), 66, "/nope.txt")
check_says("text without a tokenizer", spec(demo, data={"tokenizer": "/nope.model"}), 65, "/nope.model")
check_says("an example without an answer", spec(demo, data={"train": [q], "valid": q, "format": "instruct"}), 65, "q.jsonl, line 1", "answer")
def text(name, content):
    with open(f"{base}/{name}", "w") as f:
        f.write(content)
    return f"{base}/{name}"
lines = text("lines.jsonl", '{"text": "Once upon a time"}\n\n{"txet": "there was"}\n')
check_says("a line without text", spec(demo, data={"train": [lines], "valid": lines}), 65, "lines.jsonl, line 3", '"text"')
short = text("short.txt", "the end")
check_says("too little text", spec(demo, data={"train": [short], "seq_len": 128}), 65, "short.txt: ", " tokens, but a sequence of 128 needs 129")
check_says("too little text to validate", spec(demo, data={"valid": short}), 65, "data.valid: ", "short.txt: ")
check_says("little text in many files", spec(demo, data={"train": [short, f"{demo}/train.txt"]}), 0, "ok")
check_says("no text at all", spec(demo, data={"train": [text("blank.jsonl", "\n\n")], "valid": lines}), 65, "blank.jsonl: holds no text")
with gzip.open(f"{base}/big.jsonl.gz", "wt", compresslevel=1) as f:
    f.write((json.dumps({"text": "Once upon a time there was a king. " * 30}) + "\n") * 100000 + "{}\n")
before = time.time()
check_says("the beginning of a big file", spec(demo, data={"train": [f"{base}/big.jsonl.gz"], "valid": f"{base}/big.jsonl.gz"}), 0, "ok")
print("ok: in", round(time.time() - before, 2), "s")
open(f"{base}/bin.txt", "wb").write(b"\0\1\2" * 1000)
fails("binary as text", spec(demo, data={"train": [f"{base}/bin.txt"]}), 65, "binary")
