#!/usr/bin/env python3
"""report.py RESULTS_JSON DOCS_DIR: docs/RESULTS.md and docs/results/*.svg from what run.py measured. Every number on the
page is computed here from the file; sentences that depend on numbers are chosen by them."""
import json
import os
import platform
import statistics
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import svg  # noqa: E402

PRESETS = ("gqa", "gqa-kl", "align-gqa", "align-gqa-mean-kl", "dha", "aligned-dha", "spectral-gqa", "spectral")
MODELS = ("rp4m", "zh-poem", "demo")


class Results:
    def __init__(self, path):
        with open(path, encoding="utf-8") as f:
            self.cells = json.load(f)["cells"]

    def find(self, model, label, budget, steps):
        return [c for c in self.cells if c["model"] == model and c["label"] == label and c["steps"] == steps
                and abs(c["budget"] - budget) < 2e-3]


def above(cells, which):
    return [c["loss"][which] - c["loss"]["parent"] for c in cells]


def mean_spread(values, sign=True):
    if not values:
        return "not measured"
    m = f"{statistics.mean(values):+.4f}" if sign else f"{statistics.mean(values):.4f}"
    return m if len(values) == 1 else f"{m} ({min(values):+.4f} .. {max(values):+.4f})" if sign \
        else f"{m} ({min(values):.4f} .. {max(values):.4f})"


TRAINS = ("search", "fuse", "train")


def curve_of(cell):
    """[(tokens trained on in all stages, loss)] from the converted model on; closed forms train on nothing before."""
    trained = learned_tokens(cell)
    points = [(trained["before"], cell["loss"]["converted"])]
    points += [(trained["before"] + p["trained_tokens"], p["loss"]) for p in cell["curve"] if p["stage"] == "train"]
    return points


def learned_tokens(cell):
    t = {k: int(v or 0) for k, v in cell["tokens"].items()}
    closed = cell["label"].startswith("spectral")
    before = 0 if closed else t.get("search", 0) + t.get("fuse", 0)
    return {"before": before, "calibration": t.get("search", 0) + t.get("fuse", 0) if closed else 0}


def tokens_to(cell, loss):
    """Tokens of training until the validation loss is at most `loss`, by straight lines between evaluations."""
    last = None
    for tokens, y in curve_of(cell):
        if y <= loss:
            if last is None:
                return float(tokens)
            (t0, y0) = last
            return t0 + (tokens - t0) * (y0 - loss) / (y0 - y)
        last = (tokens, y)
    return None


def table(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(out + ["| " + " | ".join(str(x) for x in r) + " |" for r in rows])


def verdict(values, limit):
    if not values:
        return "not measured"
    return "reached" if statistics.mean(values) <= limit else f"**missed** by {statistics.mean(values) - limit:.4f}"


def headline(r):
    s25, s24 = r.find("rp4m", "spectral", 0.25, 240), r.find("rp4m", "spectral", 0.25, 24)
    s50 = r.find("rp4m", "spectral", 0.5, 24)
    g25, g24 = r.find("rp4m", "spectral-gqa", 0.25, 240), r.find("rp4m", "spectral-gqa", 0.25, 24)
    base = r.find("rp4m", "gqa", 0.25, 240)
    rows = []

    def line(what, cells, which, limit):
        v = above(cells, which)
        rows.append((what, f"{limit:+.3f}", mean_spread(v), len(v), verdict(v, limit)))

    line("`spectral` 50 %, untrained", s50, "converted", 0.018)
    line("`spectral` 25 %, untrained", s25 or s24, "converted", 0.085)
    line("`spectral` 25 %, 0.1 M tokens", s24, "final", 0.050)
    line("`spectral` 25 %, 1 M tokens", s25, "final", 0.012)
    line("`spectral-gqa` 25 %, untrained", g25 or g24, "converted", 0.13)
    line("`spectral-gqa` 25 %, 1 M tokens", g25, "final", 0.016)
    if base:
        target = statistics.mean(c["loss"]["final"] for c in base)
        spent = statistics.mean(int(c["tokens_spent"]) for c in base)
        for label, cells, share in (("spectral", s25 or s24, 30), ("spectral-gqa", g25 or g24, 10)):
            got = [tokens_to(c, target) for c in cells]
            if cells and all(x is not None for x in got):
                m = statistics.mean(got)
                ratio = "at once, untrained" if m == 0 else f"{m:,.0f} tokens, 1/{spent / m:.0f}"
                ok = m * share <= spent
                rows.append((f"`{label}`: tokens to `gqa`'s {target:.4f} ({spent / 1e6:.2f} M)", f"1/{share}", ratio, len(got),
                             "reached" if ok else "**missed**"))
    return table(("rp4m, above the parent (3.7352)", "at most", "mean (lowest .. highest)", "seeds", ""), rows)


def comparison(r):
    rows = []
    labels = ("gqa", "gqa-kl", "align-gqa-mean", "align-gqa", "align-gqa-value", "align-gqa-kl",
              "align-gqa-mean-kl", "aligned-apart", "aligned-adaptive", "dha-uniform", "dha", "aligned-dha", "spectral-gqa", "spectral")
    for label in labels:
        cells = r.find("rp4m", label, 0.25, 240)
        if not cells:
            continue
        c = cells[0]
        heads = "uniform" if len(set(c["key_heads"] + c["value_heads"])) == 1 else \
            "k " + ",".join(map(str, c["key_heads"])) + " v " + ",".join(map(str, c["value_heads"]))
        rows.append((f"`{label}`", heads, mean_spread([x["loss"]["converted"] for x in cells], False),
                     mean_spread([x["loss"]["final"] for x in cells], False),
                     f"{statistics.mean(above(cells, 'final')):+.4f}", len(cells)))
    return table(("method", "heads kept a layer (seed 1)", "converted", "after 240 steps", "above the parent", "seeds"), rows)


def short(r):
    rows = []
    for budget in (0.5, 0.25):
        for label in ("spectral-gqa", "spectral"):
            cells = r.find("rp4m", label, budget, 24)
            if cells:
                rows.append((f"{100 * budget:g} %", f"`{label}`", mean_spread([c["loss"]["converted"] for c in cells], False),
                             mean_spread([c["loss"]["final"] for c in cells], False), f"{statistics.mean(above(cells, 'final')):+.4f}",
                             len(cells)))
    return table(("budget", "method", "converted", "after 24 steps", "above the parent", "seeds"), rows) if rows else "Not measured yet."


def measured(r, model):
    """A model's sweep at the budgets that all methods have been through: `spectral*` and the KL baselines come last."""
    cells = [c for c in r.cells if c["model"] == model and c["group"] == "sweep"]
    whole = set()
    for b in {c["budget"] for c in cells}:
        here = {c["label"] for c in cells if c["budget"] == b}
        if "spectral" in here and ("gqa" not in here or "align-gqa-mean-kl" in here):
            whole.add(b)
    return [c for c in cells if c["budget"] in whole]


def sweep_tables(r):
    out = []
    for model in MODELS:
        cells = measured(r, model)
        if not cells:
            out.append(f"### {model}\n\nNot measured yet.\n")
            continue
        budgets = sorted({round(c["budget"], 3) for c in cells}, reverse=True)
        rows = []
        for label in PRESETS:
            line = [f"`{label}`"]
            for b in budgets:
                found = [c for c in cells if c["label"] == label and abs(c["budget"] - b) < 2e-3]
                best = min((c["loss"]["final"] for c in cells if abs(c["budget"] - b) < 2e-3), default=None)
                text = "-"
                if found:
                    c = found[0]
                    text = f"{c['loss']['converted']:.3f} → {c['loss']['final']:.4f}"
                    if c["loss"]["final"] == best:
                        text = f"**{text}**"
                line.append(text)
            if any(x != "-" for x in line[1:]):
                rows.append(line)
        parent = cells[0]["loss"]["parent"]
        steps = cells[0]["steps"]
        out.append(f"### {model}\n\nParent {parent:.4f}; {steps} steps of 4,096 tokens for every method (search and fusion included where they "
                   f"train); converted → final loss; the best of each column in bold; `-`: the method cannot meet that budget. Budgets that not all methods have been through yet are left out.\n\n"
                   + table(["budget"] + [f"{100 * b:g} %" for b in budgets], rows)
                   + f"\n\n![loss against KV bytes](results/{model}-bytes.svg)\n")
        out.append(dominance(model, cells, budgets))
    return "\n".join(out)


def dominance(model, cells, budgets):
    lost, met = [], 0
    for b in budgets:
        here = [c for c in cells if abs(c["budget"] - b) < 2e-3]
        own = [c for c in here if c["label"] == "spectral"]
        others = [c for c in here if c["label"] not in ("spectral",)]
        if not own or not others:
            continue
        best = min(others, key=lambda c: c["loss"]["final"])
        if own[0]["loss"]["final"] <= best["loss"]["final"]:
            met += 1
        else:
            both = max(own[0]["loss"]["final"], best["loss"]["final"]) < own[0]["loss"]["parent"]
            lost.append(f"at {100 * b:g} % `{best['label']}` is better by {own[0]['loss']['final'] - best['loss']['final']:.4f}"
                        + (" (both end below the parent: training goes on where its own ended)" if both else ""))
    if not met and not lost:
        return ""
    if lost:
        return f"`spectral` is the best at {met} of {met + len(lost)} budgets on {model}; not so " + "; ".join(lost) + ".\n"
    return f"`spectral` is the best at all {met} budgets on {model}.\n"


def ordering(r, rows, text, a, b, which="final"):
    """One claim: a's loss is below b's, over the seeds that both have."""
    x, y = r.find("rp4m", a, 0.25, 240), r.find("rp4m", b, 0.25, 240)
    both = {c["seed"] for c in x} & {c["seed"] for c in y}
    x, y = [c for c in x if c["seed"] in both], [c for c in y if c["seed"] in both]
    if not both:
        return
    mx = statistics.mean(c["loss"][which] for c in x)
    my = statistics.mean(c["loss"][which] for c in y)
    if [(c["key_heads"], c["value_heads"], c["loss"][which]) for c in x] == \
            [(c["key_heads"], c["value_heads"], c["loss"][which]) for c in y]:
        said = "**no difference**: it chose the same heads"
    else:
        said = f"holds ({mx - my:+.4f})" if mx < my else f"**does not hold** ({mx - my:+.4f})"
    rows.append((text, f"`{a}` {mx:.4f}", f"`{b}` {my:.4f}", said, ", ".join(map(str, sorted(both)))))


def orderings(r):
    rows = []
    ordering(r, rows, "adaptive budget against uniform, learned distances (DHA Table 2)", "dha", "dha-uniform")
    ordering(r, rows, "the same, distances of aligned heads, converted", "aligned-adaptive", "aligned-apart", "converted")
    ordering(r, rows, "the same, trained", "aligned-adaptive", "aligned-apart")
    ordering(r, rows, "K and V apart against one adjacent grouping, both uniform", "aligned-apart", "align-gqa-mean")
    ordering(r, rows, "K and V apart and adaptive against one adjacent grouping", "aligned-adaptive", "align-gqa-mean")
    ordering(r, rows, "fusion against mean pooling at equal tokens (DHA Fig. 5-7)", "dha", "gqa")
    ordering(r, rows, "aligned against unaligned, converted (A2G 2.8)", "align-gqa-mean", "gqa", "converted")
    ordering(r, rows, "aligned against unaligned, trained", "align-gqa-mean", "gqa")
    ordering(r, rows, "masks against the aligned mean at equal tokens", "align-gqa", "align-gqa-mean")
    ordering(r, rows, "regrouped by value against adjacent", "align-gqa-value", "align-gqa")
    ordering(r, rows, "both papers joined against each: `dha`", "aligned-dha", "dha")
    ordering(r, rows, "both papers joined against each: `align-gqa`", "aligned-dha", "align-gqa")
    return table(("ordering (240 steps, LM, lr 6e-4, 25 %)", "", "", "", "seeds"), rows) if rows else "Not measured yet."


def plots(r, out):
    os.makedirs(out, exist_ok=True)
    made = []
    for model in MODELS:
        cells = measured(r, model)
        if not cells:
            continue
        series = []
        for label in PRESETS:
            pts = [(int(c["kv_bytes_per_token"]["converted"]), c["loss"]["final"]) for c in cells if c["label"] == label]
            if pts:
                series.append((label, pts))
        every = sorted({p for _, pts in series for p in pts})
        front = [p for p in every if not any(q[0] <= p[0] and q[1] < p[1] for q in every)]
        parent = cells[0]["loss"]["parent"]
        write(os.path.join(out, f"{model}-bytes.svg"),
              svg.chart(f"{model}: loss against KV cache, {cells[0]['steps']} steps each (rings: Pareto front)",
                        "KV cache bytes a token", "validation loss, nats a token", series, [("parent", parent)], None, front), made)
    series, parent = [], None
    for label in PRESETS:
        cells = r.find("rp4m", label, 0.25, 240)
        if cells:
            series.append((label, [(t / 1e6, y) for t, y in curve_of(cells[0])]))
            parent = cells[0]["loss"]["parent"]
    if series:
        write(os.path.join(out, "rp4m-tokens.svg"),
              svg.chart("rp4m at 25 %: loss against tokens trained on (seed 1)", "M tokens", "validation loss, nats a token",
                        series, [("parent", parent)], parent + 0.3), made)
    return made


def write(path, text, made=None):
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)
    if made is not None:
        made.append(path)


def main():
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    r, docs = Results(sys.argv[1]), sys.argv[2]
    made = plots(r, os.path.join(docs, "results"))
    with open(os.path.join(HERE, "page.md"), encoding="utf-8") as f:
        page = f.read()
    spent = sum(sum(s or 0 for s in c["seconds"].values()) for c in r.cells)
    parts = {
        "CELLS": f"{len(r.cells)}", "HOURS": f"{spent / 3600:.1f}", "MACHINE": f"{platform.machine()}, {os.cpu_count()} cores",
        "HEADLINE": headline(r), "COMPARISON": comparison(r), "SHORT": short(r), "SWEEPS": sweep_tables(r), "ORDERINGS": orderings(r),
        "TOKENS": "![loss against tokens](results/rp4m-tokens.svg)" if any("tokens" in m for m in made) else "",
    }
    for key, text in parts.items():
        page = page.replace("{{" + key + "}}", text)
    write(os.path.join(docs, "RESULTS.md"), page)
    print(f"{docs}/RESULTS.md, {len(made)} plots, {len(r.cells)} cells")
    return 0


if __name__ == "__main__":
    sys.exit(main())
