"""What a daemon says of itself on /metrics: its histograms, before and after a run."""
import re


def histogram(text, name):
    """[(upper bound in seconds, how many were not above it)]"""
    rows = re.findall(rf'^{name}_bucket{{le="([^"]+)"}} (\d+)$', text, re.M)
    return [(float(le), int(n)) for le, n in rows]


def quantile(before, after, q):
    """Upper bound in ms of the bucket that holds the quantile, and how many were counted."""
    counts = [(le, n - m) for (le, n), (_, m) in zip(after, before)]
    total = counts[-1][1]
    for le, n in counts:
        if n >= q * total:
            return le * 1e3, total
    return float("inf"), total


def value(text, name):
    return float(re.search(rf"^{name} (\S+)$", text, re.M)[1])
