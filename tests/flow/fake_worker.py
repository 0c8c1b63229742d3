#!/usr/bin/env python3
"""What tests launch instead of mpirun + dha-worker: fake_worker.py ATTEMPT_DIR/spec.json
(or in dha-worker's place, under the real mpirun: fake_worker.py stage SPEC; rank 0 then does the work)

Writes a journal, the stage's files and status.json as proto/record.h and proto/stage.h say, in no time,
and misbehaves on request: the job's name may hold directives `[kind.]key=value`, blank-separated:
  sleep=S         take S seconds (in steps of 50 ms, one progress record each)
  wild=1          with terminal commands in what fail= says
  fail=CODE[:N]   end with that code in status.json (only the first N attempts)
  exit=RC[:N]     leave no status.json, exit with RC
  die=SIG[:N]     leave no status.json, end by that signal
  freeze=1[:N]    make no progress after the first step
  freezeat=K[:N]  make none after step K-1
  late=S          say nothing for S seconds
  pace=S          steps of S seconds instead of 50 ms (as many as sleep= says in all)
  dielate=1[:N]   end by SIGKILL after the first checkpoint of this attempt (steps go on where the last one died)
  deaf=1          ignore SIGUSR2
  litter=1        leave a process behind in a session of its own
  rootchild=1|setsid  leave a process that is root's (setsid: in a session of its own), by the set-user-ID program $DHA_TEST_TO_ROOT
  badline=1       write a line that is no record
  torn=1          end the journal in the middle of a line
  flood=N         write N progress records at once
  longline=N      write a line of N bytes
  spew=N          write N MiB of numbered lines to stderr
  nomanifest=1    announce a checkpoint that is not there
  ckptkeep=N      remove all but the newest N of them, like the real one without a word
  ckpts=N         checkpoints after N equal parts of the steps, not only at the end
  evals=M=L:L:..,..  while training with method M (or *), an evaluation of loss L after each of so many equal parts of
                  the steps; `final` is the last of them (tokens: 100 a step)
  kv=M=N,..       KV bytes a token of what method M makes
  badflood=N      write N MiB of lines that are no record to the journal
  foreign=PATH    announce a checkpoint at PATH
  newtype=1       write records of a type of a future worker
  ranklog=N       print into files of N ranks, as the real one does (under mpirun it always does)
  chat=TEXT       each of these ranks prints two lines: TEXT and its number, the number ("_" is a blank)
"""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time

# XXH3-128 of what is left here, as output.json carries it
DIGESTS = {'{"fake": true}': "4996c74da9ea866f7ac02e0ecba2e4c9", '{"loss": 2.75}': "5814e52df9a61415e40ec45370448864",
           '{"model_type": "dha"}': "0b869eb00d8683dbbda87d81d1ed88ed", "w" * 5000: "884b4fe92e96dacedc1153da57f4abe9"}
SHARD, SHARD_XXH3 = "s" * 1000, "fc51338d3d96389d799d4be0cde62e53"

if sys.argv[1:2] == ["probe"]:  # what DHA_FAKE_PROBE says, or the contents of the file that it names
    said = os.environ.get("DHA_FAKE_PROBE", "")
    print(open(said).read() if said.startswith("/") else said)
    sys.exit(0 if said else 1)
spec_path = sys.argv[-1]
rank = int(os.environ.get("OMPI_COMM_WORLD_RANK", "0"))
with open(spec_path) as f:
    spec = json.load(f)
kind, attempt, out, adir = spec["kind"], spec["attempt"], spec["out"], spec["dir"]

directives = {}
for word in spec["spec"]["name"].split():
    if "=" in word:
        key, value = word.split("=", 1)
        if "." not in key or key.split(".", 1)[0] == kind:
            directives[key.split(".")[-1]] = value


def active(name):
    """The directive's value if it holds for this attempt."""
    value = directives.get(name)
    if value is None:
        return None
    if name == "evals":
        return value
    value, _, times = value.partition(":")
    return value if not times or attempt <= int(times) else None


def by_method(name):
    """The value for this method in a directive M=V,M=V; "*" is any."""
    said = dict(p.split("=", 1) for p in (active(name) or "").split(",") if "=" in p)
    m = spec["spec"]["method"]
    return said.get(m if isinstance(m, str) else m["preset"], said.get("*"))


stop = False


def on_stop(_sig, _frame):
    global stop
    stop = True


signal.signal(signal.SIGUSR2, signal.SIG_IGN if active("deaf") else on_stop)
signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def record(t, **fields):
    line = json.dumps({"t": t, "time": time.time(), **fields}) + "\n"
    os.write(1, line.encode())


def put(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path + ".tmp", "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.rename(path + ".tmp", path)


WILD = "\033]0;pwn\007\nforged line\x7f\u009b2J"


def status(code, message="", hint=""):
    put(os.path.join(adir, "status.json"),
        json.dumps({"code": code, "message": message, "hint": hint, "rank": 0}))


def checkpoint(at):
    """Like worker/train/ckpt.c: manifest last; its digest is what is announced."""
    where = os.path.join(out, "ckpt", f"step-{at}")
    put(os.path.join(where, "shard-0000.bin"), SHARD)
    manifest = json.dumps({"format": "dha-checkpoint-1", "step": at, "shards": [
        {"file": "shard-0000.bin", "bytes": len(SHARD), "xxh3_128": SHARD_XXH3}]})
    put(os.path.join(where, "manifest.json"), manifest)
    if active("ckptkeep"):
        steps_there = sorted(int(n.split("-")[1]) for n in os.listdir(os.path.join(out, "ckpt")))
        for old in steps_there[:-int(active("ckptkeep"))]:
            shutil.rmtree(os.path.join(out, "ckpt", f"step-{old}"))
    record("checkpoint", step=at, bytes=len(SHARD), path=where,
           digest=hashlib.sha256(manifest.encode()).hexdigest())




def own_log(number):
    """Like worker/rank_log.c."""
    fd = os.open(os.path.join(adir, f"rank-{number}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 2)
    os.close(fd)


mine = [rank] if "OMPI_COMM_WORLD_RANK" in os.environ else list(range(int(active("ranklog") or 0)))
for other in reversed(mine):
    own_log(other)
    if active("chat"):
        os.write(2, (active("chat").replace("_", " ") + f" {other}\nmore of {other}\n").encode())
if rank > 0:
    while not stop and not os.path.exists(os.path.join(adir, "status.json")):
        time.sleep(0.02)
    sys.exit(0)

with open(os.path.join(out, "launches"), "a") as f:
    f.write(f"{spec['uuid']} {os.getpid()}\n")

print(f"fake {kind} attempt {attempt}", file=sys.stderr, flush=True)
if "OMPI_MCA_orte_tmpdir_base" in os.environ:
    print("tmp " + os.environ["OMPI_MCA_orte_tmpdir_base"], file=sys.stderr, flush=True)
time.sleep(float(active("late") or 0))
pace = float(active("pace") or 0.05)
steps = max(1, int(float(active("sleep") or 0) / pace))
resumed = -1
if "dielate" in directives and os.path.isdir(os.path.join(out, "ckpt")):
    resumed = max(int(n.split("-")[1]) for n in os.listdir(os.path.join(out, "ckpt")))
record("hello", stage=kind, backend="fake", version="0", host="here", attempt=attempt,
       ranks=int(os.environ["DHA_RANKS"]), threads=int(os.environ["OMP_NUM_THREADS"]),
       pid=os.getpid(), steps=steps, resumed_from=resumed)
record("phase", name="work", done=0, total=steps)
if active("litter"):
    subprocess.Popen(["sleep", "1000"], start_new_session=True, stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
if active("rootchild"):
    child = subprocess.Popen([os.environ["DHA_TEST_TO_ROOT"], "--reuid=0", "--regid=0", "--clear-groups",
                              *(["setsid"] if active("rootchild") == "setsid" else []), "sleep", "1000"], stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while "sleep" not in open(f"/proc/{child.pid}/comm").read():
        time.sleep(0.01)
    put(os.path.join(out, "root.pid"), str(child.pid))
if active("newtype"):
    record("hologram", shape="torus")
    record("hologram", shape="sphere")
if active("badline"):
    os.write(1, b"this is no record\n{\"t\": 5}\n")
if active("badflood"):
    for _ in range(int(active("badflood"))):
        os.write(1, b"x\n" * 524288)
if active("foreign"):
    record("checkpoint", step=7, bytes=1, path=directives["foreign"], digest="0" * 64)
if active("longline"):
    os.write(1, b"x" * int(active("longline")) + b"\n")
if active("spew"):
    for i in range(int(active("spew")) * 16384):
        sys.stderr.write(f"line {i:9d} " + "." * 48 + "\n")
    sys.stderr.flush()
if active("flood"):
    n = int(active("flood"))
    text = "".join(json.dumps({"t": "progress", "time": time.time(), "step": i + 1, "steps": n,
                               "tokens": i, "loss": i / 2, "lm": 0, "kl": 0, "lr": 0, "grad_norm": 0,
                               "tokens_per_s": 0, "comm_ms": 0, "eta_s": 0}) + "\n" for i in range(n))
    sys.stdout.write(text)
    sys.stdout.flush()
if active("exit"):
    sys.exit(int(active("exit")))
if active("die"):
    os.kill(os.getpid(), int(active("die")))
    time.sleep(10)
if active("fail"):
    told = "told to fail" + (WILD if active("wild") else "")
    hint = "do not tell it to" + (WILD if active("wild") else "")
    record("error", code=active("fail"), message=told, hint=hint)
    status(active("fail"), told, hint)
    sys.exit(1)

losses = [float(x) for x in (by_method("evals") or "").split(":") if x]
begin = time.time()
for step in range(max(1, resumed + 1), steps + 1):
    if active("sleep"):
        time.sleep(pace)
    while (active("freeze") and step == 2 or step == int(active("freezeat") or 0)) and not stop:
        time.sleep(0.05)
    if kind == "train" or steps > 1:
        record("progress", step=step, steps=steps, tokens=step * 100, loss=5.0 / step, lm=5.0 / step,
               kl=0.0, lr=1e-3, grad_norm=1.0, tokens_per_s=1000.0, comm_ms=0.1,
               eta_s=0.05 * (steps - step))
    if kind == "train":
        parts = len(losses)
        if parts and step * parts % steps < parts:
            record("eval", name="valid", loss=losses[step * parts // steps - 1], tokens=10, windows=1, step=step,
                   trained_tokens=step * 100)
    parts = int(active("ckpts") or 0)
    if stop:
        break
    if kind == "train" and step < steps and parts and step * parts % steps < parts:
        checkpoint(step)
        if active("dielate"):
            os.kill(os.getpid(), signal.SIGKILL)

if kind in ("fuse", "train"):
    checkpoint(step)
if active("nomanifest"):
    record("checkpoint", step=step, bytes=2, path=os.path.join(out, "nowhere"), digest="00")
if stop:
    record("bye", code="stopped", tokens=step * 100, seconds=time.time() - begin, peak_rss=1,
           kv_parent=0, kv_converted=0, output="")
    status("stopped", "stopped on request")
    sys.exit(0)

if kind == "search":
    put(os.path.join(out, "plan.json"), "{\"fake\": true}")
    record("eval", name="parent", loss=2.5, tokens=10, windows=1, step=0, trained_tokens=0)
if kind == "fuse":
    for layer in range(2):
        for which, heads in (("key", 1), ("value", 1 + layer)):
            record("head_budget", layer=layer, kind=which, heads=heads,
                   map=[h % heads for h in range(4)])
    record("eval", name="converted", loss=3.5, tokens=10, windows=1, step=0, trained_tokens=0)
if kind == "train" and not losses:
    for at in (1, 2):
        record("eval", name="valid", loss=3.5 - at / 4, tokens=10, windows=1, step=at,
               trained_tokens=at * 100)
if kind == "eval":
    put(os.path.join(out, "eval.json"), "{\"loss\": 2.75}")
    record("eval", name="final", loss=losses[-1] if losses else 2.75, tokens=10, windows=1, step=0, trained_tokens=0)
output = os.path.join(out, "plan.json")
if kind in ("fuse", "train", "export"):
    put(os.path.join(out, "model", "config.json"), "{\"model_type\": \"dha\"}")
    weights = os.path.join(out, "model", "model.safetensors")
    if not os.path.exists(weights):  # like the real one: what is there is taken for finished
        put(weights, "w" * 5000)
    output = os.path.join(out, "model")
left = [n for n in ("plan.json", "eval.json", "model/config.json", "model/model.safetensors")
        if os.path.exists(os.path.join(out, n))]


def listed(name):
    with open(os.path.join(out, name)) as f:
        text = f.read()
    return {"path": name, "bytes": str(len(text)), **({"xxh3_128": DIGESTS[text]} if text in DIGESTS else {})}


put(os.path.join(out, "output.json"),
    json.dumps({"format": "dha-output-1", "files": [listed(n) for n in left]}))
record("bye", code="ok", tokens=step * 100, seconds=time.time() - begin, peak_rss=1000,
       kv_parent=4096, kv_converted=int(by_method("kv") or 1024), output=output)
if active("torn"):
    os.write(1, b"{\"t\": \"phase\", \"na")
status("ok")
