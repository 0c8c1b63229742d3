#!/usr/bin/env python3
"""run.py BIN_DIR SHARED OUT [--only GROUP,...] [--match TEXT] [--without TEXT] [--seeds 1,2] [--list] [--collect]

Runs the matrix through the product itself: a private daemon below OUT with two slots, one job a cell, submitted under its
name. Run it again after anything (Ctrl-C, a reboot): finished cells are kept, running ones are adopted by the daemon,
stages that cells share (a search for all budgets) run once. Finished cells are written to OUT/results.json, which
report.py turns into docs/RESULTS.md.
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
REPO = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path.insert(0, HERE)
import matrix  # noqa: E402


class Daemon:
    def __init__(self, bin_dir, out):
        self.dha = os.path.join(os.path.abspath(bin_dir), "dha")
        self.env = dict(os.environ, HOME=out, DHA_STATE=os.path.join(out, "state"), DHA_NO_CHECK="1")
        for name in ("DHA_SOCKET", "XDG_RUNTIME_DIR"):
            self.env.pop(name, None)

    def call(self, *args, stdin=None):
        p = subprocess.run([self.dha, *args], env=self.env, input=stdin, capture_output=True, text=True)
        if p.returncode != 0:
            raise SystemExit(f"dha {' '.join(args)}: {p.stderr.strip()}")
        return p.stdout

    def jobs(self):
        """Newest job of each name."""
        found, doc = {}, json.loads(self.call("list", "--json", "-n", "1000"))
        for job in doc["jobs"]:
            found.setdefault(job["name"], job)
        return found

    def show(self, job):
        return json.loads(self.call("show", job, "--json"))


def row_of(cell, job):
    r = job["result"]
    seconds = {s["kind"]: s["seconds"] for s in job["stages"]}
    return {**{k: cell[k] for k in ("name", "group", "model", "label", "budget", "steps", "seed")},
            "spec": job["spec"], "loss": r["loss"], "head_budget": r["head_budget"],
            "key_heads": r["key_heads"], "value_heads": r["value_heads"], "curve": r["curve"],
            "tokens_spent": r["tokens_spent"], "kv_bytes_per_token": r["kv_bytes_per_token"], "seconds": seconds,
            "tokens": {s["kind"]: s["tokens"] for s in job["stages"]}}


def load(path):
    try:
        with open(path, encoding="utf-8") as f:
            return {row["name"]: row for row in json.load(f)["cells"]}
    except FileNotFoundError:
        return {}


def save(path, rows):
    tmp = path + ".tmp"
    with open(tmp, "w", encoding="utf-8") as f:
        json.dump({"format": "dha-quality-1", "cells": [rows[k] for k in sorted(rows)]}, f, indent=1)
        f.write("\n")
    os.replace(tmp, path)


def plain(doc):
    """Paths of this machine do not belong into a published file."""
    text = json.dumps(doc)
    for root in (REPO + "/", os.path.abspath(os.path.join(REPO, "..", "shared")) + "/"):
        text = text.replace(root, "")
    return json.loads(text)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bin_dir")
    p.add_argument("shared")
    p.add_argument("out")
    p.add_argument("--only", default="")
    p.add_argument("--match", default="")
    p.add_argument("--without", default="", help="leave out the cells whose name contains this")
    p.add_argument("--seeds", default="")
    p.add_argument("--list", action="store_true", help="print the cells and stop")
    p.add_argument("--collect", action="store_true", help="write results of what is finished and stop")
    a = p.parse_args()
    wanted = [c for c in matrix.cells(REPO, os.path.abspath(a.shared))
              if (not a.only or c["group"] in a.only.split(",")) and a.match in c["name"]
              and not (a.without and a.without in c["name"])
              and (not a.seeds or str(c["seed"]) in a.seeds.split(","))]
    if a.list:
        for c in wanted:
            print(f"{c['group']:10} {c['name']}")
        return 0
    if not wanted:
        raise SystemExit("no cell matches (are the checkpoints of SHARED there?)")
    out = os.path.abspath(a.out)
    os.makedirs(out, exist_ok=True)
    results = os.path.join(out, "results.json")
    rows, daemon = load(results), Daemon(a.bin_dir, out)
    there = daemon.jobs()
    for c in wanted:
        if a.collect or c["name"] in rows or (c["name"] in there and there[c["name"]]["state"] not in ("failed", "cancelled")):
            continue
        daemon.call("submit", "-", "--no-check", stdin=json.dumps(c["spec"]))
    # Ctrl-C leaves the daemon running: the next call goes on
    signal.signal(signal.SIGINT, lambda *_: sys.exit("stopped watching; the daemon goes on. Run it again to collect."))
    failed, begun = set(), time.time()
    while True:
        there = daemon.jobs()
        open_cells = 0
        for c in wanted:
            job = there.get(c["name"])
            if c["name"] in rows or c["name"] in failed or not job:
                continue
            if job["state"] == "done":
                row = rows[c["name"]] = plain(row_of(c, daemon.show(job["id"])))
                save(results, rows)
                loss = row["loss"]
                print(f"{time.time() - begun:6.0f} s  {c['name']:38} {loss['parent']:.4f} -> {loss['converted']:.4f} -> "
                      f"{loss['final']:.4f}", flush=True)
            elif job["state"] in ("failed", "cancelled"):
                failed.add(c["name"])
                print(f"{c['name']}: {job['state']}: {(job.get('error') or {}).get('message', '')}", flush=True)
            else:
                open_cells += 1
        if a.collect or not open_cells:
            break
        time.sleep(2)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
