"""What shared/oracle/conv.py (PyTorch, independent of the C code) makes of the tokens that oracle_rp4m drew.

    oracle_rp4m ../shared/data/rp4m 3 /tmp/dump; python oracle_compare.py ../shared /tmp/dump

Prints, for every layer, kind and number of heads, whether the groups are the same, both measured costs and their
difference; then the losses that oracle_rp4m.c lists under "conv.py". About two minutes on two cores.
"""
import sys

shared, dump = sys.argv[1:3]
sys.path.insert(0, shared + "/oracle")
import conv
from conv import M, best_any, evaluate, inputs, json, k_out, meanpool, np, refit, spectral, stats, subset_costs, torch

conv.BF = False  # f32, as the C code computes
H, L, BATCH = 8, 4, 16
KEYS = [f"{l}.{t}" for l in range(L) for t in "kv"]


class Draws:
    """conv.py asks for batch(stream * 10**6 + i, B): moments, costs and refit are streams 1, 2 and 3."""

    def __init__(self, path):
        a = np.fromfile(path, dtype=np.int32).astype(np.int64).reshape(-1, 2, 256)
        self.part, self.T = {1: a[:64], 2: a[64:96], 3: a[96:]}, 256

    def batch(self, step, n):
        a = self.part[step // 10**6][step % 10**6 * n :][:n]
        return torch.from_numpy(a[:, 0].copy()), torch.from_numpy(a[:, 1].copy())


def groups(map_):
    return [[h for h in range(H) if map_[h] == g] for g in range(max(map_) + 1)]


data_dir = shared + "/data/rp4m"
m, d = M(data_dir + "/hf"), Draws(dump + "/tokens.i32")
valid = np.fromfile(data_dir + "/valid.u16", dtype=np.uint16).astype(np.int64)
entries = [{c["n"]: c for c in e["choices"]} for e in json.load(open(dump + "/plan.json"))["entries"]]
st, X = stats(m, d, B=BATCH, n=4), inputs(m, d)
costs = [d.batch(2 * 10**6 + i, BATCH) for i in range(2)]


def cost_loss(x):
    with torch.no_grad():
        return sum(x.forward(a, b).item() for a, b in costs) / len(costs)


base = cost_loss(m)
for e, key in enumerate(KEYS):
    l, t = e // 2, key[-1]
    if t == "k":
        c = {s: k_out(m, l, [h for h in range(H) if s >> h & 1], st, X) for s in range(1, 1 << H)}
    else:
        c = subset_costs(m, l, t, st)
    for n, (g, _) in best_any(c, H).items():
        ours = entries[e][n]
        theirs = 0.0 if n == H else cost_loss(spectral(m, {key: g}, st)) - base
        same = "same groups" if groups(ours["groups"]) == g else "OTHER GROUPS"
        print(f"{key} {n} {same} {theirs:.5f} {ours['cost']:.5f} {ours['cost'] - theirs:+.6f}", flush=True)


def choose(total):
    """conv.py's knapsack over our costs, but at most total."""
    best = {0: (0.0, [])}
    for e in entries:
        new = {}
        for used, (cost, sel) in best.items():
            for n, c in e.items():
                if used + n <= total and cost + c["cost"] < new.get(used + n, (1e9,))[0]:
                    new[used + n] = (cost + c["cost"], sel + [n])
        best = new
    return min(best.values())[1]


def losses(name, grouping):
    x = spectral(m, grouping, st)
    print(f"{name}, without refit {evaluate(x, valid, 256, 256):.5f}")
    print(f"{name} {evaluate(refit(m, x, d, B=BATCH), valid, 256, 256):.5f}", flush=True)


for budget in (0.25, 0.5):
    sel = choose(round(budget * 2 * L * H))
    losses(f"{budget:.0%} spectral {sel}", {k: groups(e[n]["groups"]) for k, e, n in zip(KEYS, entries, sel)})
adjacent = {k: [[0, 1, 2, 3], [4, 5, 6, 7]] for k in KEYS}
losses("25% spectral-gqa", adjacent)
print(f"25% gqa {evaluate(meanpool(m, adjacent), valid, 256, 256):.5f}")
print(f"parent {evaluate(m, valid, 256, 256):.5f}")
