#!/usr/bin/env python3
"""proto/openapi.yaml is what the daemon does.

  api_contract.py routes    every route of the daemon's table (daemon/api.c) with its arguments and members is in the document,
                            and the other way round; every code of proto/err.h, too. Needs PyYAML (Debian: python3-yaml).
  api_contract.py run       schemathesis from PyPI asks the real daemon (fake launcher) thousands of right and wrong questions
                            and holds each answer to the document: status, content type, headers, schema, no 5xx. Before that it walks through
                            what only makes sense in order (contract_hooks.py); each success of the document must have come. Paths that
                            are made up stay in a directory of the test's own. In a venv outside
                            the tree: $DHA_CONTRACT_VENV (default ~/.cache/dha/contract), made when it is not there (95 MB).

  api_contract.py metrics   promtool finds nothing wrong with /metrics, in syntax or style. Needs promtool (Debian: prometheus,
                            94 MB with a server that nobody needs here: so deploy/install-deps.sh does not bring it).

Without what it needs it says so and ends with 77 (skipped). Seed and number of questions are fixed.
"""
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

import harness

ROOT = os.path.dirname(os.path.dirname(harness.HERE))
CONTRACT = os.path.join(ROOT, "proto", "openapi.yaml")
VENV = os.environ.get("DHA_CONTRACT_VENV") or os.path.join(
    os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "dha", "contract")
PACKAGES = ["schemathesis==4.*", "pyyaml"]
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_headers_conformance", "response_schema_conformance", "negative_data_rejection"]
EXAMPLES, SEED = 20, 20260
SECONDS = 400  # it takes 20 s on an idle machine with two cores; the sanitized daemon on a busy one needs minutes


def skip(why):
    print("api_contract: SKIPPED:", why)
    sys.exit(77)


def fail(what):
    print("api_contract: FAILED:", what)
    sys.exit(1)


# ---- routes ----

def daemon_routes():
    """{(method, path): (arguments, members or None)} out of the table in daemon/api.c."""
    with open(os.path.join(ROOT, "daemon", "api.c")) as f:
        table = re.search(r"routes\[\] = \{\n(.*?)\n\};", f.read(), re.S)[1]
    rows = re.findall(r'\{"(\w+)",\s*"([^"]+)",\s*"([^"]*)",\s*(NULL|"[^"]*"),\s*(\w+),\s*ACCESS_\w+\}', table)
    assert len(rows) == table.count("{"), "the table in daemon/api.c is written otherwise than this test reads it"
    return {(m, p): (set(q.split()), None if b == "NULL" else set(b.strip('"').split()))
            for m, p, q, b, _ in rows}


def contract_routes(doc):
    def resolve(x):
        while "$ref" in x:
            at = doc
            for part in x["$ref"].split("/")[1:]:
                at = at[part]
            x = at
        return x

    found = {}
    for path, item in doc["paths"].items():
        for method in set(item) & {"get", "post", "put", "delete", "patch", "head", "options"}:
            op = item[method]
            params = [resolve(p) for p in item.get("parameters", []) + op.get("parameters", [])]
            args = {p["name"] for p in params if p["in"] == "query"}
            body = None
            if "requestBody" in op:
                schema = resolve(resolve(op["requestBody"])["content"]["application/json"]["schema"])
                assert schema["additionalProperties"] is False, (path, "unknown members are errors")
                body = set(schema.get("properties", {}))
            found[method.upper(), path.replace("{id}", "ID").replace("{name}", "NAME")] = (args, body)
    return found


def error_codes():
    with open(os.path.join(ROOT, "proto", "err.h")) as f:
        return {(name, int(http)) for name, http in re.findall(r'X\(\w+, "(\w+)", (\d+),', f.read())}


def check_routes():
    try:
        import yaml
    except ImportError:
        skip("this python3 has no PyYAML (Debian: python3-yaml)")
    with open(CONTRACT) as f:
        doc = yaml.safe_load(f)
    ours, theirs = daemon_routes(), contract_routes(doc)
    wrong = [f"{m} {p}: only in daemon/api.c" for m, p in sorted(set(ours) - set(theirs))]
    wrong += [f"{m} {p}: only in openapi.yaml" for m, p in sorted(set(theirs) - set(ours))]
    for key in sorted(set(ours) & set(theirs)):
        for what, a, b in zip(("arguments", "members"), ours[key], theirs[key]):
            if a != b:
                wrong.append(f"{' '.join(key)}: {what} {sorted(a or [])} in daemon/api.c, {sorted(b or [])} in openapi.yaml")
    codes = {name for name, _ in error_codes()} - {"ok"}
    said = set(doc["components"]["schemas"]["Code"]["enum"])
    wrong += [f"error code {c}: only in {'proto/err.h' if c in codes else 'openapi.yaml'}" for c in sorted(codes ^ said)]
    if wrong:
        fail("\n  " + "\n  ".join(wrong))
    print(f"api_contract: {len(ours)} routes and {len(codes)} error codes are the same in the daemon and in openapi.yaml")


# ---- the running daemon ----

def make_venv():
    """The venv's schemathesis; made once, whole or not at all."""
    program, stamp = os.path.join(VENV, "bin", "schemathesis"), os.path.join(VENV, "complete-1")
    if os.path.exists(stamp):
        return program
    try:
        urllib.request.urlopen("https://pypi.org/simple/pip/", timeout=5).close()
    except OSError as e:
        skip(f"PyPI does not answer within 5 s ({e}), and there is no {VENV}")
    shutil.rmtree(VENV, ignore_errors=True)
    os.makedirs(os.path.dirname(VENV), exist_ok=True)
    begin = time.time()
    try:
        subprocess.run([sys.executable, "-m", "venv", VENV], check=True, timeout=60)
        subprocess.run([os.path.join(VENV, "bin", "python"), "-m", "pip", "install", "-q", "--no-input",
                        "--disable-pip-version-check", *PACKAGES], check=True, timeout=300)
    except (subprocess.SubprocessError, OSError) as e:
        shutil.rmtree(VENV, ignore_errors=True)
        skip(f"schemathesis could not be installed from PyPI: {e}")
    open(stamp, "w").close()
    print(f"api_contract: installed into {VENV} in {time.time() - begin:.0f} s")
    return program


class Proxy:
    """127.0.0.1:port -> the daemon's socket. Long polls do not wait: nothing happens that they could wait for."""

    def __init__(self, path):
        self.path = path
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = "http://127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            here = self.listener.accept()[0]
            there = socket.socket(socket.AF_UNIX)
            try:
                there.connect(self.path)
            except OSError:
                here.close()
                continue
            threading.Thread(target=self.pump, args=(here, there, True), daemon=True).start()
            threading.Thread(target=self.pump, args=(there, here, False), daemon=True).start()

    @staticmethod
    def pump(src, dst, requests):
        try:
            while data := src.recv(1 << 16):
                if requests:
                    data = re.sub(rb"^(GET /v1/events\?\S*?wait=)([1-9]|[1-5]\d|60)\b", rb"\g<1>0", data)
                dst.sendall(data)
            dst.shutdown(socket.SHUT_WR)
        except OSError:
            for s in (src, dst):
                try:
                    s.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass


CONFIG = """[checks]
negative_data_rejection.expected-statuses = [400, 404, 409, 412, 413, 422]
"""


def contract_json(venv_python):
    with open(CONTRACT) as f:
        return json.loads(subprocess.run(
            [venv_python, "-c", "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin), sys.stdout)"],
            stdin=f, capture_output=True, check=True).stdout)


def walk_facts(d):
    """A done job with checkpoints and points to prune, one at work until its walltime is over, and a file that nobody knows."""
    running = d.submit("long train.sleep=600", seed=20, resources={"ranks": 2, "walltime": "1h"})
    done = d.submit("done train.ckpts=3 train.sleep=0.3 train.flood=500")
    d.until_state(done, "done")
    d.until_running(running, "train")
    os.mkdir(os.path.join(d.state, "jobs", "4711"))
    return {"spec": d.spec("walk"), "running": running, "done": done}


def walk(d, venv_python, doc, url, env):
    path = os.path.join(d.dir, "whole.json")
    with open(path, "w") as f:
        json.dump(doc, f)
    facts = walk_facts(d)
    r = subprocess.run([venv_python, os.path.join(harness.HERE, "contract_hooks.py"), path, url, json.dumps(facts)],
                       env=env, cwd=d.dir, capture_output=True, text=True, timeout=SECONDS)
    if r.returncode != 0:
        print(r.stdout[-3000:], r.stderr[-8000:], d.console())
        fail("an answer of the walk is not as openapi.yaml says")
    d.post(f"/v1/jobs/{facts['running']}/cancel", {"now": True})
    d.until_state(facts["running"], "cancelled")


def never_seen(doc, seen):
    """Successes in the document that no answer had: what it says of them would be tested by nothing."""
    want = {f"{method.upper()} {path} {status}" for path, item in doc["paths"].items() for method, op in item.items()
            if method != "parameters" and op["operationId"] != "shutdown" for status in op["responses"] if status[0] == "2"}
    return sorted(want - seen)


def narrowed(d, doc):
    """The contract as a file, its ids and names narrowed to some that exist, so that most answers are not 404."""
    d.post("/v1/sweeps", {"spec": d.spec("sleep=600", seed=7), "budgets": [0.5, 0.25], "name": "s"})
    failed = d.submit("search.fail=bad_input", seed=8)
    d.until_state(failed, "failed")
    held = d.submit("held", seed=9)
    d.post(f"/v1/jobs/{held}/hold")
    schemas, params = doc["components"]["schemas"], doc["components"]["parameters"]
    params["JobId"]["schema"] = {"type": "integer", "minimum": 1, "maximum": 1000}
    params["ChoreId"]["schema"] = {"type": "integer", "minimum": 1, "maximum": 100}
    params["NodeName"]["schema"] = {"type": "string", "enum": [d.get("/v1/nodes").json["nodes"][0]["name"], "nowhere"]}
    doc["paths"]["/v1/sweeps/{id}"]["parameters"][0]["schema"] = {"type": "integer", "minimum": 1, "maximum": 1000}
    for path in ("/v1/jobs", "/v1/sweeps"):
        body = doc["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        body["examples"] = {"plan": {"value": {"spec": d.spec("again"), "dry_run": True}},
                            "real": {"value": {"spec": d.spec("real", seed=11)}}}
        if path == "/v1/jobs":
            body["examples"]["later"] = {"value": {"spec": d.spec("later", seed=12), "hold": True, "after": [f"any:{held}"]}}
    assert "Spec" in schemas
    path = os.path.join(d.dir, "openapi.json")
    with open(path, "w") as f:
        json.dump(doc, f)
    return path


def check_daemon():
    if not os.path.exists(os.path.join(harness.BIN, "dhad")):
        fail("set DHA_BIN to the folder of dhad")
    program = make_venv()
    d, scratch = harness.Dhad(), tempfile.mkdtemp(prefix="dha-contract-")
    try:
        d.start()
        python, url = os.path.join(VENV, "bin", "python"), Proxy(d.socket).url
        doc = contract_json(python)
        env = {**os.environ, "DHA_CONTRACT_DIR": scratch,
               "SCHEMATHESIS_HOOKS": os.path.join(harness.HERE, "contract_hooks.py")}
        walk(d, python, doc, url, env)
        contract = narrowed(d, doc)
        config = os.path.join(scratch, "schemathesis.toml")
        with open(config, "w") as f:
            f.write(CONFIG)
        asked = d.get("/metrics").raw.decode()
        begin = time.time()
        r = subprocess.run(
            [program, "--no-color", "--config-file", config, "run", contract, "--url", url, "--checks", ",".join(CHECKS), "--phases",
             "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--seed", str(SEED), "--generation-database", "none",
             "--exclude-operation-id", "shutdown", "--request-timeout", "20", "--suppress-health-check", "all", "--no-shrink",
             "--continue-on-failure", "--warnings", "off"],
            cwd=scratch, env=env, capture_output=True, text=True, timeout=SECONDS)
        count = lambda text: int(re.search(r"^dha_requests_total (\d+)$", text, re.M)[1])
        n = count(d.get("/metrics").raw.decode()) - count(asked)
        if r.returncode != 0:
            print(r.stdout[-12000:], r.stderr[-3000:])
            fail(f"schemathesis found answers that are not as openapi.yaml says (status {r.returncode})")
        if n < 500:
            fail(f"only {n} requests came to the daemon: this has tested nothing\n{r.stdout[-3000:]}")
        with open(os.path.join(scratch, "seen")) as f:
            missing = never_seen(doc, set(f.read().splitlines()))
        if missing:
            fail("no answer was one of these:\n  " + "\n  ".join(missing))
        bye = d.post("/v1/shutdown")
        assert bye.status == 200 and bye.json == {"ok": True, "api": 1}, bye
        assert d.wait_dead() == 0
        d.end()
        print(f"api_contract: {n} requests in {time.time() - begin:.0f} s, every answer as openapi.yaml says")
    except subprocess.TimeoutExpired:
        fail(f"schemathesis did not end within {SECONDS} s")
    finally:
        d.clean()
        shutil.rmtree(scratch, ignore_errors=True)


def check_metrics():
    if not shutil.which("promtool"):
        skip("promtool is not here (Debian: prometheus)")
    d = harness.Dhad()
    try:
        d.start()
        d.until_state(d.submit(), "done")
        r = subprocess.run(["promtool", "check", "metrics"], input=d.get("/metrics").raw, capture_output=True)
        if r.returncode != 0 or r.stdout or r.stderr:
            fail(f"promtool: {(r.stdout + r.stderr).decode()}")
        d.end()
        print("api_contract: promtool finds nothing wrong with /metrics")
    finally:
        d.clean()


if __name__ == "__main__":
    {"metrics": check_metrics, "routes": check_routes, "run": check_daemon}[sys.argv[1]]()
