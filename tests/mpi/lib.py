"""What the gang tests share: running dha-worker under mpirun on the demo checkpoint, and reading what it left."""
import json, os, shutil, subprocess, sys, tempfile, atexit

def work_dir():
    d = tempfile.mkdtemp(prefix="dha-mpi-")
    atexit.register(shutil.rmtree, d, True)
    return d

def spec(demo, **over):
    s = {"name": "t", "model": f"{demo}/hf", "method": "gqa", "budget": 0.25,
         "data": {"train": [f"{demo}/train.txt"], "valid": f"{demo}/valid.txt", "seq_len": 64},
         "tokens": {"train": 8 * 512}, "batch_tokens": 512, "eval": {"windows": 8},
         "checkpoint": {"every": 1}, "optim": {"lr": 6e-4}, "resources": {"ranks": 2, "threads": 1}}
    for k, v in over.items():
        if isinstance(v, dict) and isinstance(s.get(k), dict):
            s[k].update(v)
        else:
            s[k] = v
    return s

def command(worker, ranks, *args):
    head = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(ranks)] if ranks else []
    return head + [worker, *map(str, args)]

def start(worker, ranks, spec_doc, d, **kw):
    os.makedirs(d, exist_ok=True)
    with open(f"{d}/spec.json", "w") as f:
        json.dump(spec_doc, f)
    return subprocess.Popen(command(worker, ranks, "run", f"{d}/spec.json", "--dir", d), stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **kw)

def run(worker, ranks, spec_doc, d, code=0):
    p = start(worker, ranks, spec_doc, d)
    out, err = p.communicate(timeout=300)
    if p.returncode != code:
        sys.exit(f"expected exit {code}, got {p.returncode}\nstdout: {out}\nstderr: {err}")
    return out, err

def journal(d, stage):
    r = []
    try:
        with open(f"{d}/{stage}/journal.ndjson") as f:
            for line in f:
                if line.endswith("\n"):
                    r.append(json.loads(line))
    except FileNotFoundError:
        pass
    return r

def losses(d, stage="train"):
    """loss by step; a step that was done twice (after a kill) must have given the same number twice"""
    got = {}
    for r in journal(d, stage):
        if r["t"] != "progress":
            continue
        if r["step"] in got and got[r["step"]] != r["loss"]:
            sys.exit(f"step {r['step']} gave {got[r['step']]} and then {r['loss']}")
        got[r["step"]] = r["loss"]
    return got

def weights(d, stage="train"):
    with open(f"{d}/{stage}/out/model/model.safetensors", "rb") as f:
        return f.read()

def check(ok, text):
    if not ok:
        sys.exit("FAILED: " + text)
    print("ok:", text)
