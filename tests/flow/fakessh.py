"""Scripts in the places of mpirun and ssh, found in PATH as the real ones are: the worker is the fake one and runs here; a
node does what the test wants."""
import functools
import os

import harness

MPIRUN = """#!/bin/sh
# the last argument is the spec: rank 0 does the work
for last; do :; done
exec {worker} "$last"
"""
SSH = """#!/bin/sh
while [ "$1" = -o ] || [ "$1" = -F ]; do shift 2; done
node=$1; shift
echo "$node $*" >> {dir}/ssh.log
if [ -e {dir}/hang-$node ]; then exec sleep 1000; fi
if [ -e {dir}/down-$node ]; then echo "ssh: connect to host $node port 22: No route to host" >&2; exit 255; fi
if [ -e {dir}/left-$node ]; then echo "1 left: 4711"; exit 4; fi
exec sh -c "$*"
"""


def install(d):
    """For all daemons of this state directory."""
    path = os.path.join(d.dir, "bin")
    os.mkdir(path)
    for name, text in (("mpirun", MPIRUN), ("ssh", SSH)):
        with open(os.path.join(path, name), "w") as f:
            f.write(text.format(dir=d.dir, worker=harness.FAKE))
        os.chmod(os.path.join(path, name), 0o755)
    d.start = functools.partial(d.start, PATH=path + ":" + os.environ["PATH"])


def sign(d, kind, address, on=True):
    """kind: down (no route), hang (never answers), left (a process will not die)."""
    path = os.path.join(d.dir, f"{kind}-{address}")
    if on:
        open(path, "w").close()
    else:
        os.remove(path)
