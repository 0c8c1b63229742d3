"""matrix.py: what `make quality` runs. A cell is one conversion: a name and a job spec. Everything that a number in
docs/RESULTS.md depends on is in the spec; the seed is one of its fields, and names tell cells apart.

Groups (choose with --only): headline, orderings, sweep, ablation. They are ordered so that an interrupted run has the
most wanted numbers first.
"""
import os

STEP = 4096
SEEDS = (1, 2, 3)


def models(repo, shared):
    """Checkpoints and their text: name -> fields of the spec. Only the demo ships with the project."""
    data = os.path.join(shared, "data")
    demo = os.path.join(repo, "deploy", "demo")
    return {
        "rp4m": {
            "model": f"{data}/rp4m/hf",
            "data": {"train": [f"{data}/rp4m/train.u16"], "valid": f"{data}/rp4m/valid.u16", "seq_len": 256},
        },
        "zh-poem": {
            "model": f"{data}/zh-poem/hf",
            "data": {"train": [f"{data}/zh-poem/train.u16"], "valid": f"{data}/zh-poem/val.u16"},
        },
        "demo": {
            "model": f"{demo}/hf",
            "data": {"train": [f"{demo}/train.txt"], "valid": f"{demo}/valid.txt", "seq_len": 128},
        },
    }


# Rates. All methods but the spectral ones: the oracle's 6e-4 (METHODS 6). The spectral ones start so near the parent that a
# high rate throws away what the closed forms gained: a rate that grows with the root of the steps, down to 0 at the end. Fusion rates
# follow the number of fusion steps (the product's default).
LR = 6e-4


def spectral_optim(steps):
    return {"lr": round(3.1e-5 * steps ** 0.5, 6), "final_lr": 0}


def recipe(method, steps, lr=None, recovery=None, **more):
    """One conversion that trains on `steps` steps in all: what a method searches and fuses with by gradient counts."""
    spec = {"method": method, "batch_tokens": STEP, "optim": {"warmup": round(min(0.5, 10 / max(steps, 1)), 4)}}
    if lr:
        spec["optim"]["lr"] = lr
    preset = method if isinstance(method, str) else method["preset"]
    if preset.startswith("spectral"):
        spec["optim"].update(spectral_optim(steps))
    search, fuse = 0, 0
    if preset in ("dha", "aligned-dha"):
        search, fuse = max(steps // 10, 2), steps // 3
    elif preset == "align-gqa":
        fuse = steps // 3
        if isinstance(method, dict) and method.get("merge") == "mean":
            fuse = 0
    tokens = {"train": (steps - search - fuse) * STEP}
    if search:
        tokens["search"] = search * STEP
    if fuse:
        tokens["fuse"] = fuse * STEP
    spec["tokens"] = tokens
    if recovery:
        spec["recovery"] = recovery
    spec.update(more)
    return spec


LM, KL = {"lm": 1, "kl": 0}, {"lm": 0, "kl": 1}


def cells(repo, shared):
    known = models(repo, shared)
    out = []

    def add(group, model, label, seed, budget, steps, spec):
        fields = known[model]
        if not os.path.isdir(fields["model"]):
            return
        doc = {k: (dict(v) if isinstance(v, dict) else v) for k, v in fields.items()}
        doc.update(spec)
        doc["budget"] = budget
        doc["seed"] = seed
        doc["eval"] = {"windows": 256}
        doc["resources"] = {"ranks": 1, "threads": 1, "device": "cpu"}
        name = f"{model}.{label}.{round(100 * budget, 2):g}.{steps}.s{seed}"
        doc["name"] = name
        out.append({"name": name, "group": group, "model": model, "label": label, "budget": budget,
                    "steps": steps, "seed": seed, "spec": doc})

    full = 240  # steps of 4096 tokens: 0.98 M, 7 % of rp4m's pre-training
    for s in SEEDS:
        add("headline", "rp4m", "gqa", s, 0.25, full, recipe("gqa", full, LR, LM))
    for s in SEEDS:
        for method in ("spectral", "spectral-gqa"):
            add("headline", "rp4m", method, s, 0.25, 24, recipe(method, 24))
            add("headline", "rp4m", method, s, 0.5, 24, recipe(method, 24))
    for s in SEEDS:
        for method in ("spectral", "spectral-gqa"):
            add("headline", "rp4m", method, s, 0.25, full, recipe(method, full))
    add("headline", "rp4m", "gqa-kl", 1, 0.25, full, recipe("gqa", full, LR, KL))
    for s in SEEDS:
        add("orderings", "rp4m", "dha", s, 0.25, full, recipe("dha", full, LR, LM))
        add("orderings", "rp4m", "align-gqa", s, 0.25, full, recipe("align-gqa", full, LR, LM))
        add("orderings", "rp4m", "align-gqa-mean", s, 0.25, full,
            recipe({"preset": "align-gqa", "merge": "mean"}, full, LR, LM))
        add("orderings", "rp4m", "aligned-dha", s, 0.25, full, recipe("aligned-dha", full, LR, LM))
    add("orderings", "rp4m", "dha-uniform", 1, 0.25, full,
        recipe({"preset": "dha", "budget": "uniform"}, full, LR, LM))
    add("orderings", "rp4m", "align-gqa-value", 1, 0.25, full,
        recipe({"preset": "align-gqa", "grouping": "aligned-value"}, full, LR, LM))
    add("orderings", "rp4m", "align-gqa-kl", 1, 0.25, full, recipe("align-gqa", full, LR, KL))
    aligned_mean = {"preset": "align-gqa", "merge": "mean"}
    apart = {**aligned_mean, "grouping": "aligned"}
    for s in SEEDS:
        add("orderings", "rp4m", "aligned-adaptive", s, 0.25, full,
            recipe({**apart, "budget": "adaptive"}, full, LR, LM))
        add("orderings", "rp4m", "aligned-apart", s, 0.25, full, recipe(apart, full, LR, LM))
    add("orderings", "rp4m", "align-gqa-mean-kl", 1, 0.25, full, recipe(aligned_mean, full, LR, KL))

    # the sweep: every preset at every budget it can meet, at equal tokens
    short = 60
    plan = {
        "rp4m": (8, (0.75, 0.5, 0.375, 0.25, 0.125)),
        "zh-poem": (6, (0.6667, 0.5, 0.3333, 0.25, 0.1667)),
        "demo": (8, (0.75, 0.5, 0.375, 0.25, 0.125)),
    }
    for model, (heads, budgets) in plan.items():
        for b in budgets:
            n = b * heads
            uniform = abs(n - round(n)) < 0.01 and heads % round(n) == 0
            budget = round(n) / heads if abs(n - round(n)) < 0.01 else b
            for method in ("gqa", "align-gqa", "dha", "aligned-dha", "spectral", "spectral-gqa"):
                if not uniform and method in ("gqa", "align-gqa", "spectral-gqa"):
                    continue
                own = method.startswith("spectral")
                add("sweep", model, method, 1, budget, short,
                    recipe(method, short, None if own else LR, None if own else LM))
            if uniform:
                add("sweep", model, "gqa-kl", 1, budget, short, recipe("gqa", short, LR, KL))
                add("sweep", model, "align-gqa-mean-kl", 1, budget, short, recipe(aligned_mean, short, LR, KL))
    return out
