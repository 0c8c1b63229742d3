#!/usr/bin/env python3
"""What dha makes, in transformers: conversions are run here, and the same checkpoints are asked on both sides.

usage: interop.py BIN_DIR DEMO_DIR GOLDEN_DIR HF_FILES [RP4M_DIR]      exit 77: no transformers

For the demo parent and conversions of it (heads that differ from layer to layer; plain GQA), and for rp4m where it is there:
logits, greedy continuations, the bytes of the cache, a round trip through save_pretrained, one fine-tuning step, --expand. Then
every golden folder (hf.py).
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)
import hf

BIN, DEMO, GOLDEN, FILES = map(os.path.abspath, sys.argv[1:5])
RP4M = os.path.abspath(sys.argv[5]) if len(sys.argv) > 5 else ""
LOGITS = 1e-4  # the largest difference of any logit, f32 on both sides
failures = 0


def say(good, what):
    global failures
    failures += not good
    print(("ok    " if good else "FAIL  ") + what, flush=True)


def worker(*args, out=subprocess.PIPE):
    return subprocess.run([os.path.join(BIN, "dha-worker"), *args], check=True, stdout=out, text=True,
                          stderr=subprocess.DEVNULL).stdout


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, trust_remote_code=True, dtype=torch.float32).eval()


def logits_of(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def ours(path, ids, scratch):
    out = os.path.join(scratch, "logits")
    subprocess.run([os.path.join(BIN, "parity_logits"), path, ",".join(map(str, ids)), out], check=True)
    with open(out, "rb") as f:
        return torch.frombuffer(bytearray(f.read()), dtype=torch.float32).view(len(ids), -1)


def convert(scratch, name, model, data, **changes):
    spec = {"model": model, "data": data, "batch_tokens": 512, "eval": {"windows": 4}, **changes}
    path = os.path.join(scratch, name)
    with open(path + ".json", "w") as f:
        json.dump(spec, f)
    worker("run", path + ".json", "--dir", path, out=subprocess.DEVNULL)
    return path + "/export/out/model"


def check_model(name, path, kind, scratch):
    model = load(path)
    say(type(model).__name__ == kind, f"{name}: loads as {type(model).__name__}")
    ids = [1] + [(7 * i * i + 3 * i) % model.config.vocab_size for i in range(40)]
    theirs = logits_of(model, ids)
    error = (theirs - ours(path, ids, scratch)).abs().max().item()
    say(error <= LOGITS, f"{name}: logits differ by at most {error:.1e}")

    for prompt in (ids[:1], ids[:9]):
        n = 48
        said = json.loads(worker("generate", path, "--ids", ",".join(map(str, prompt)), "--max-tokens", str(n),
                                 "--ignore-eos", "--json"))
        with torch.no_grad():
            batch = torch.tensor([prompt])  # with a mask: a prompt may hold the token that pads
            answer = model.generate(batch, attention_mask=torch.ones_like(batch), max_new_tokens=n, do_sample=False,
                                    eos_token_id=None, pad_token_id=0)
        have = answer[0, len(prompt):].tolist()
        say(have == said["tokens"], f"{name}: {len(have)} greedy tokens after {len(prompt)}"
            + ("" if have == said["tokens"] else f": {have} != {said['tokens']}"))

    with torch.no_grad():
        cache = model(torch.tensor([ids]), use_cache=True).past_key_values
    held = sum(t.numel() * t.element_size() for layer in cache.layers for t in (layer.keys, layer.values))
    promised = int(said["kv_bytes_per_token_in_memory"]) * len(ids)
    say(held == promised, f"{name}: the cache has {held} bytes, promised are {promised}")

    again = os.path.join(scratch, "again")
    shutil.rmtree(again, ignore_errors=True)
    model.save_pretrained(again)
    same = torch.equal(theirs, logits_of(load(again), ids))
    say(same, f"{name}: save_pretrained and back, the same logits")
    error = (theirs - ours(again, ids, scratch)).abs().max().item()
    say(error <= LOGITS, f"{name}: dha reads what save_pretrained wrote, logits differ by at most {error:.1e}")
    check_step(name, model, ids)


def check_step(name, model, ids):
    model.train()
    batch = torch.tensor([ids])
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    before = model(batch, labels=batch).loss
    before.backward()
    grads = [p.grad for n, p in model.named_parameters() if "k_proj" in n or "v_proj" in n]
    say(len(grads) >= 2 * model.config.num_hidden_layers and all(g is not None and g.norm() > 0 for g in grads),
        f"{name}: every k_proj and v_proj has a gradient")
    optimiser.step()
    after = model(batch, labels=batch).loss
    say(after.item() < before.item(), f"{name}: a step of training: loss {before.item():.4f} -> {after.item():.4f}")


def check_expand(name, path, scratch):
    out = os.path.join(scratch, name + "-expand")
    worker("export", "--model", path, "--out", out, "--format", "expand")
    stock, model = load(out), load(path)
    ids = list(range(3, 60))
    error = (logits_of(stock, ids) - logits_of(model, ids)).abs().max().item()
    say(type(stock).__name__ == "LlamaForCausalLM" and stock.config.num_key_value_heads ==
        stock.config.num_attention_heads and error <= LOGITS,
        f"{name}: --expand is a stock LlamaForCausalLM, logits differ by at most {error:.1e}")


def check_golden(scratch):
    for name, form in (("headmap", "dha"), ("headmap-uneven", "dha"), ("headmap", "expand"), ("attention-bias", "dha"),
                       ("llama3-rope", "gqa"), ("llama3-rope", "dha"), ("mha-tied", "dha"), ("gqa", "gqa")):
        saved = os.path.join(scratch, f"golden-{name}-{form}")
        os.mkdir(saved)
        subprocess.run([os.path.join(BIN, "parity_save"), os.path.join(GOLDEN, name), saved, form, "20000"], check=True)
        if form == "dha":
            for f in os.listdir(FILES):
                if f.endswith(".py"):
                    shutil.copy(os.path.join(FILES, f), saved)
        try:
            hf.check(os.path.join(GOLDEN, name), saved, "dha" if form == "dha" else "llama")
            say(True, f"golden {name} as {form}")
        except AssertionError as why:
            say(False, f"golden {name} as {form}: {why}")


def main():
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}", flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        text = {"train": [DEMO + "/train.txt"], "valid": DEMO + "/valid.txt", "format": "text", "seq_len": 64}
        parent = DEMO + "/hf"
        check_model("demo parent", parent, "LlamaForCausalLM", scratch)
        uneven = convert(scratch, "uneven", parent, text, method="spectral", budget=0.375,
                         tokens={"search": 4096, "train": 1024})
        check_model("demo, spectral", uneven, "DhaForCausalLM", scratch)
        check_expand("demo, spectral", uneven, scratch)
        plain = convert(scratch, "plain", parent, text, method="gqa", budget=0.25, tokens={"train": 1024})
        check_model("demo, gqa", plain, "LlamaForCausalLM", scratch)
        check_expand("demo, gqa", plain, scratch)
        if os.path.isdir(RP4M):
            check_model("rp4m parent", RP4M + "/hf", "LlamaForCausalLM", scratch)
            tokens = {"train": [RP4M + "/train.u16"], "valid": RP4M + "/valid.u16", "format": "u16", "seq_len": 128}
            uneven = convert(scratch, "rp4m", RP4M + "/hf", tokens, method="spectral", budget=0.5,
                             tokens={"search": 4096, "train": 0})
            check_model("rp4m, spectral", uneven, "DhaForCausalLM", scratch)
        else:
            print("no rp4m checkpoint: not compared")
        check_golden(scratch)
    print(f"{failures} failures")
    return failures != 0


if __name__ == "__main__":
    sys.exit(main())
