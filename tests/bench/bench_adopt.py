#!/usr/bin/env python3
"""How long a daemon takes to find its attempts after kill -9: bench_adopt.py BIN_DIR [ATTEMPTS]

So many one-rank stages run under the fake launcher (a shell that says hello and sleeps). The daemon is killed; the next one is ready
(/readyz) when it knows which of them run. None may be lost or started again.
"""
import os
import resource
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness

harness.BIN = sys.argv[1]
N = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))

d = harness.Dhad(slots=N)
try:
    script = os.path.join(d.dir, "launcher.sh")
    with open(script, "w") as f:
        f.write("""#!/bin/sh
echo '{"t":"hello","time":1,"stage":"search","backend":"fake","version":"0","host":"here","attempt":1,"ranks":1,"threads":1,"pid":1,"steps":1,"resumed_from":-1}'
exec sleep 1000
""")
    os.chmod(script, 0o755)
    d.launcher = "fake:" + script
    d.start()
    for i in range(N):
        d.submit(f"job-{i}", seed=i, resources={"ranks": 1})
    busy = lambda: sum(s["attempt"] is not None for s in d.get("/v1/nodes").json["nodes"][0]["slots"])
    d.until(lambda: busy() == N, seconds=120)
    d.until(lambda: len(harness.processes_with(d.tag)) > 2 * N, seconds=120)
    time.sleep(5)
    attempts = {s["attempt"] for s in d.get("/v1/nodes").json["nodes"][0]["slots"]}
    d.kill()
    begin = time.perf_counter()
    d.start()
    took = time.perf_counter() - begin
    time.sleep(3)
    after = {s["attempt"] for s in d.get("/v1/nodes").json["nodes"][0]["slots"]}
    print(f"adopt    {N} live attempts after kill -9: ready after {took:.2f} s (goal 5), {len(attempts - after)} lost, "
          f"{len(after - attempts)} started again")
finally:
    d.clean()
