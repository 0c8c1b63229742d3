"""What api_contract.py runs inside schemathesis' venv; $DHA_CONTRACT_DIR is a directory of the test's own.

As its hooks: an absolute path in a request becomes one in that directory, whatever was made up, so that no backup, export or import
gets out of it; and each answer's status is noted in its file `seen`.

  contract_hooks.py CONTRACT URL FACTS   asks what only makes sense in order (a chore, its result, its apply; jobs that wait for others)
                                         and holds each answer to the document. FACTS: JSON of api_contract.py's walk_facts().
"""
import hashlib
import json
import os
import sys

import schemathesis

DIR = os.environ["DHA_CONTRACT_DIR"]
PATHS = {"POST /v1/admin/backup": "file", "POST /v1/admin/export": "out", "POST /v1/admin/import": "dir"}


@schemathesis.hook
def before_call(context, case, kwargs):
    key = PATHS.get(case.operation.label)
    path = case.body.get(key) if key and isinstance(case.body, dict) else None
    if isinstance(path, str) and path.startswith("/") and not path.startswith(DIR + "/walk/"):
        name = hashlib.sha256(path.encode(errors="surrogatepass")).hexdigest()[:12]
        case.body = {**case.body, key: f"{DIR}/{name}"}


@schemathesis.hook
def after_call(context, case, response):
    with open(os.path.join(DIR, "seen"), "a") as f:
        f.write(f"{case.operation.label} {response.status_code}\n")


def walk(contract, url, facts):
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks
    with open(contract) as f:
        schema = schemathesis.openapi.from_dict(json.load(f))
    held_to = [not_a_server_error, checks.status_code_conformance, checks.content_type_conformance,
               checks.response_headers_conformance, checks.response_schema_conformance]

    def ask(method, path, status, body=None, query=None, **parts):
        more = {} if body is None else {"body": body, "media_type": "application/json"}
        case = schema[path][method].Case(path_parameters=parts, query=query, **more)
        r = case.call_and_validate(base_url=url, checks=held_to)
        assert r.status_code == status, (method, path, parts, body, r.status_code, r.text)
        return r.json() if r.text.startswith("{") else None

    def submit(status=201, changes=None, **body):
        spec = {**facts["spec"], **(changes or {})}
        return ask("POST", "/v1/jobs", status, {"spec": spec, **body})

    def explain(job):
        return ask("GET", "/v1/jobs/{id}/explain", 200, id=int(job))

    # jobs that wait, and what is said of it
    assert ask("GET", "/v1/version", 200)["notice"] is None
    running, done = facts["running"], facts["done"]
    held = submit(changes={"seed": 21}, hold=True, after=[f"any:{running}", f"ok:{done}"])["job"]
    assert held["state"] == "held" and explain(held["id"])["verdict"] is None
    waits = {(a["job"], a["when"], a["state"]) for a in held["after"]}
    assert waits == {(done, "ok", "done"), (running, "any", "running")}, held["after"]
    later = submit(changes={"seed": 22}, after=[f"ok:{running}"])["job"]["id"]
    assert explain(later)["verdict"] == "depends"
    submit(404, after=["ok:999999"])
    submit(404, after=["ok:999999"], dry_run=True)
    for wrong in ("ok:0", "done:1", "ok:", f"ok:{done} ", 1):
        submit(400, after=[wrong])
    submit(400, after=[f"ok:{done}"] * 65)
    submit(400, hold="yes")
    plan = submit(200, changes={"seed": 23}, dry_run=True)
    assert plan["fits"] and plan["now"]["verdict"] == "start" and len(plan["now"]["slots"]) == 2 and int(plan["disk_free"]) > 0, plan
    plan = submit(200, changes={"seed": 23}, dry_run=True, after=[f"any:{running}"])
    assert plan["now"]["verdict"] == "depends" and plan["now"]["slots"] == [], plan
    plan = submit(200, changes={"seed": 23, "resources": {"ranks": 100}}, dry_run=True)
    assert not plan["fits"] and plan["reason"] and plan["now"]["verdict"] == "never_fits", plan
    wide = submit(changes={"seed": 24, "resources": {"ranks": 4}})["job"]["id"]
    x = explain(wide)
    assert x["verdict"] == "slots_busy" and int(x["starts_by_us"]) > 0 and x["walltime_to_start_s"] is None, x
    plan = submit(200, changes={"seed": 25}, dry_run=True)
    assert plan["now"]["verdict"] == "behind" and plan["now"]["walltime_to_start_s"] > 0, plan
    for action, body in (("hold", {}), ("release", {}), ("priority", {"priority": 3}), ("cancel", {}), ("retry", {})):
        ask("POST", f"/v1/jobs/{{id}}/{action}", 200, body, id=int(later))
    for job in (held["id"], later, wide):
        ask("POST", "/v1/jobs/{id}/cancel", 200, {}, id=int(job))

    # the rest, so that a success of each route comes, whatever the fuzzer finds
    for path in ("/livez", "/readyz", "/metrics", "/v1/jobs", "/v1/sweeps", "/v1/events"):
        ask("GET", path, 200)
    for what in ("metrics", "metrics/names", "checkpoints", "logs"):
        ask("GET", f"/v1/jobs/{{id}}/{what}", 200, id=int(done))
    node = ask("GET", "/v1/nodes", 200)["nodes"][0]["name"]
    # nothing of the sweep starts: what is cancelled in the middle of a write leaves something for fsck to find
    ask("POST", "/v1/nodes/{name}/drain", 200, {}, name=node)
    sweep = {"spec": {**facts["spec"], "seed": 26}, "budgets": [0.5], "name": "w"}
    w = ask("POST", "/v1/sweeps", 201, sweep)["sweep"]
    ask("POST", "/v1/sweeps", 200, sweep)
    ask("POST", "/v1/sweeps", 200, {**sweep, "dry_run": True})
    ask("GET", "/v1/sweeps/{id}", 200, id=int(w["id"]))
    for job in w["jobs"]:
        ask("POST", "/v1/jobs/{id}/cancel", 200, {"now": True}, id=int(job["id"]))
    ask("POST", "/v1/nodes/{name}/resume", 200, {}, name=node)

    # chores
    def chore(what, body, state):
        c = ask("POST", "/v1/admin/" + what, 202, body)["chore"]
        c = ask("GET", "/v1/admin/chores/{id}", 200, query={"wait": 30}, id=int(c["id"]))["chore"]
        assert (c["kind"], c["state"]) == (what, state), c
        return c

    def apply(c):
        ask("POST", "/v1/admin/chores/{id}/apply", 202, id=int(c["id"]))
        c = ask("GET", "/v1/admin/chores/{id}", 200, query={"wait": 30}, id=int(c["id"]))["chore"]
        assert c["state"] == "done", c
        return c["result"]

    ask("GET", "/v1/admin/chores/{id}", 404, id=999)
    c = chore("fsck", {"deep": True}, "planned")
    assert [f["kind"] for f in c["result"]["findings"]] == ["unknown"], c
    r = apply(c)
    assert (r["repaired"], r["skipped"], r["failed"]) == (1, 0, []) and os.path.isdir(r["lost"]), r
    ask("POST", "/v1/admin/chores/{id}/apply", 409, id=int(c["id"]))
    c = chore("fsck", {}, "done")
    assert c["result"]["findings"] == [] and c["result"]["seen"]["jobs"] > 0, c
    ask("POST", "/v1/admin/chores/{id}/apply", 409, id=int(c["id"]))
    ask("POST", "/v1/admin/chores/{id}/apply", 404, id=999)

    os.mkdir(f"{DIR}/walk")
    c = chore("backup", {"file": f"{DIR}/walk/b.db"}, "done")
    assert int(c["result"]["bytes"]) == os.path.getsize(f"{DIR}/walk/b.db"), c
    assert chore("backup", {"file": f"{DIR}/walk/b.db"}, "failed")["error"]["code"] == "conflict"
    c = chore("export", {"job": done, "out": f"{DIR}/walk/x"}, "done")
    assert c["result"]["files"] > 0 and c["result"]["job"] == done, c
    assert chore("export", {"job": int(done), "out": f"{DIR}/walk/x"}, "failed")["error"]["code"] == "conflict"
    assert chore("export", {"job": running, "out": f"{DIR}/walk/y"}, "failed")["error"]["code"] == "conflict"
    assert chore("export", {"job": "999999", "out": f"{DIR}/walk/y"}, "failed")["error"]["code"] == "not_found"
    c = chore("import", {"dir": f"{DIR}/walk/x"}, "done")
    ask("GET", "/v1/jobs/{id}", 200, id=int(c["result"]["job"]))
    assert chore("import", {"dir": f"{DIR}/walk/none"}, "failed")["error"]["code"] == "not_found"
    with open(f"{DIR}/walk/x/job.json", "a") as f:
        f.write(" ")
    assert chore("import", {"dir": f"{DIR}/walk/x"}, "failed")["error"]["code"] == "bad_input"
    for what, key, more in (("backup", "file", {}), ("export", "out", {"job": done}), ("import", "dir", {})):
        for wrong in ({key: "walk/here"}, {key: ""}, {key: 1}, {}, {key: f"{DIR}/walk/z", "x": 1}):
            ask("POST", "/v1/admin/" + what, 400, {**more, **wrong})
    for wrong in (0, -1, "0", "-1", "x", 1.5, None):
        ask("POST", "/v1/admin/export", 400, {"job": wrong, "out": f"{DIR}/walk/z"})

    c = chore("prune", {"keep_last": 1, "keep_best": True, "keep_every": 1000, "metrics_older_than_s": 0}, "planned")
    assert c["result"]["checkpoints"] and c["result"]["metrics"], c
    r = apply(c)
    assert r["removed"] == len(c["result"]["checkpoints"]) and r["freed"] == c["result"]["bytes"] and r["points_removed"] > 0, r
    c = chore("prune", {"metrics_older_than_s": 1000000}, "done")
    assert c["result"]["checkpoints"] == [] == c["result"]["metrics"], c
    for wrong in ({}, {"keep_best": True}, {"keep_every": 5}, {"keep_last": -1}, {"keep_last": 1, "keep_every": 0},
                  {"metrics_older_than_s": 5, "keep_best": True}, {"keep_last": 1.5}, {"keep_last": 1, "keep_best": 1}):
        ask("POST", "/v1/admin/prune", 400, wrong)
    assert os.listdir(f"{DIR}/walk") and not os.path.exists(f"{DIR}/walk/y") and not os.path.exists(f"{DIR}/walk/z")


if __name__ == "__main__":
    walk(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
