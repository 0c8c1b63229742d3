"""The same training step in PyTorch, side by side with bench_step: 15M-parameter LLaMA shape of DESIGN section 12.

  torch_step.py BENCH_STEP [--threads 2] [--rounds 3] [--seconds 8] [--no-compile] [--bf16]

SDPA, fused AdamW, tied embedding, f32 (or autocast to bf16), eager and torch.compile. Each round runs ours, eager
and compiled one after the other on the same cores; the ratio is between medians over the rounds.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time

args = argparse.ArgumentParser()
args.add_argument("bench_step")
args.add_argument("--threads", type=int, default=2)
args.add_argument("--rounds", type=int, default=3)
args.add_argument("--seconds", type=float, default=8)
args.add_argument("--no-compile", action="store_true")
args.add_argument("--bf16", action="store_true")
args = args.parse_args()
os.environ["OMP_NUM_THREADS"] = str(args.threads)
try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError as why:
    print("skipped:", why)
    sys.exit(77)
torch.set_num_threads(args.threads)
torch.manual_seed(0)
DIM, LAYERS, HEADS, FFN, VOCAB, SEQ, BATCH = 288, 6, 6, 768, 32000, 256, 4


def rms(x, w):
    return F.rms_norm(x, (DIM,), w, 1e-6)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.ones(DIM)), nn.Parameter(torch.ones(DIM))
        self.qkv, self.o = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.gu, self.d = nn.Linear(DIM, 2 * FFN, bias=False), nn.Linear(FFN, DIM, bias=False)

    def forward(self, x, cos, sin):
        n, t, _ = x.shape
        q, k, v = self.qkv(rms(x, self.a)).view(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)

        def rope(y):
            y1, y2 = y.chunk(2, -1)
            return y * cos + torch.cat((-y2, y1), -1) * sin

        y = F.scaled_dot_product_attention(rope(q).to(v.dtype), rope(k).to(v.dtype), v, is_causal=True)
        x = x + self.o(y.transpose(1, 2).reshape(n, t, DIM))
        g, u = self.gu(rms(x, self.b)).chunk(2, -1)
        return x + self.d(F.silu(g) * u)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = nn.Parameter(torch.ones(DIM))
        for p in self.parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02)
        d = DIM // HEADS
        angle = torch.outer(torch.arange(SEQ), 10000.0 ** (-torch.arange(0, d, 2) / d))
        self.register_buffer("cos", torch.cat((angle.cos(), angle.cos()), -1))
        self.register_buffer("sin", torch.cat((angle.sin(), angle.sin()), -1))

    def forward(self, ids, targets):
        x = self.embed(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        logits = F.linear(rms(x, self.norm), self.embed.weight)
        return F.cross_entropy(logits.view(-1, VOCAB).float(), targets.view(-1))


ids, targets = torch.randint(0, VOCAB, (BATCH, SEQ)), torch.randint(0, VOCAB, (BATCH, SEQ))


def stepper(compiled):
    model = Llama()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    run = torch.compile(model) if compiled else model

    def step():
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16):
            loss = run(ids, targets)
        loss.backward()
        optimiser.step()

    for _ in range(3):
        step()
    return step


def rate(step):
    took, begin = [], time.monotonic()
    while time.monotonic() - begin < args.seconds:
        t = time.monotonic()
        step()
        took.append(time.monotonic() - t)
    return BATCH * SEQ / statistics.median(took)


def ours():
    command = [args.bench_step, "--threads", str(args.threads), "--seconds", str(args.seconds)]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(re.search(r": (\d+) tokens/s", text).group(1)), text


steps = {"eager": stepper(False)}
if not args.no_compile:
    steps["compiled"] = stepper(True)
rates = {"dha": [], **{name: [] for name in steps}}
for round in range(args.rounds):
    mine, text = ours()
    rates["dha"].append(mine)
    for name, step in steps.items():
        rates[name].append(rate(step))
    print(f"round {round + 1}: " + ", ".join(f"{name} {r[-1]:.0f}" for name, r in rates.items()), flush=True)
print(text.strip())
median = {name: statistics.median(r) for name, r in rates.items()}
kind = "bf16 autocast" if args.bf16 else "f32"
print(f"PyTorch {torch.__version__}, {kind}, {args.threads} threads: " + ", ".join(f"{name} {median[name]:.0f} tokens/s" for name in steps))
for name in steps:
    print(f"ratio dha / {name}: {median['dha'] / median[name]:.2f}")
