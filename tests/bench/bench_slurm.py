#!/usr/bin/env python3
"""Submissions side by side with Slurm on this machine: bench_slurm.py BIN_DIR [JOBS [SBATCHES]]

A private slurmctld and slurmd (Debian's slurm-wlm and munge; docs/TOOLCHAIN.md has the recipe) whose one node is full, and
a private dhad whose slots are: so both only take jobs and queue them. sbatch by one client and by four; jobs through
dhad's API by one connection and by 64 (bench_load), every 201 committed and synced, answered with the job's id as sbatch
does (Prefer: return=minimal) and with the whole job. slurmctld saves its state every few
seconds, not before it answers: what is compared is less durable there. bench_floor says what no single client can exceed. Needs root; what is not installed is said (exit status 77).
"""
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness
from load import Load, fdatasync_rate

harness.BIN = sys.argv[1]
JOBS = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
SBATCHES = int(sys.argv[3]) if len(sys.argv) > 3 else 100


class Slurm:
    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="dha-slurm-")
        os.chmod(self.dir, 0o755)
        for name in ("munge", "state", "log", "spool", "tmp"):
            os.mkdir(f"{self.dir}/{name}")
        with open(f"{self.dir}/munge/key", "wb") as f:
            f.write(os.urandom(1024))
        os.chmod(f"{self.dir}/munge/key", 0o600)
        subprocess.run(["chown", "-R", "munge:munge", f"{self.dir}/munge"], check=True)
        host = socket.gethostname()
        self.conf = f"{self.dir}/slurm.conf"
        with open(self.conf, "w") as f:
            f.write(f"""ClusterName=bench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
AuthType=auth/munge
AuthInfo=socket={self.dir}/munge/sock
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
SlurmctldPidFile={self.dir}/ctld.pid
SlurmdPidFile={self.dir}/slurmd.pid
SlurmctldLogFile={self.dir}/log/ctld.log
SlurmdLogFile={self.dir}/log/slurmd.log
StateSaveLocation={self.dir}/state
SlurmdSpoolDir={self.dir}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerType=sched/backfill
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 Port=16821 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
TmpFS={self.dir}/tmp
""")
        self.env = {**os.environ, "SLURM_CONF": self.conf}
        self.script = f"{self.dir}/job.sh"
        with open(self.script, "w") as f:
            f.write("#!/bin/sh\nsleep 3600\n")

    def start(self):
        m = f"{self.dir}/munge"
        subprocess.run(["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups", "munged", f"--key-file={m}/key",
                        f"--socket={m}/sock", f"--pid-file={m}/pid", f"--log-file={m}/log", f"--seed-file={m}/seed"], check=True)
        subprocess.run(["slurmctld", "-f", self.conf], check=True, env=self.env)
        subprocess.run(["slurmd", "-f", self.conf], check=True, env=self.env)
        end = time.time() + 30
        while b"idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=self.env, capture_output=True).stdout:
            if time.time() > end:
                raise SystemExit("slurm's node does not come up: see " + self.dir)
            time.sleep(0.2)
        self.sbatch("-n", "2")  # the node is full from here on
        time.sleep(1)

    def sbatch(self, *args):
        subprocess.run(["sbatch", "--parsable", "-o", "/dev/null", *args, self.script], env=self.env, check=True,
                       stdout=subprocess.DEVNULL)

    def stop(self):
        subprocess.run(["scancel", "-u", "root"], env=self.env, capture_output=True)
        for _ in range(100):  # its steps must end before their daemons do
            if not subprocess.run(["squeue", "-h"], env=self.env, capture_output=True).stdout.strip():
                break
            time.sleep(0.2)
        for name in ("slurmd.pid", "ctld.pid", "munge/pid"):
            try:
                with open(f"{self.dir}/{name}") as f:
                    os.kill(int(f.read()), 15)
            except (OSError, ValueError):
                pass
        time.sleep(1)
        shutil.rmtree(self.dir, ignore_errors=True)


def many(n, clients, work):
    """work(i) for i < n by so many threads; the rate."""
    def one(k):
        for _ in range(k, n, clients):
            work()
    threads = [threading.Thread(target=one, args=(k,)) for k in range(clients)]
    begin = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return n / (time.perf_counter() - begin)


missing = [w for w in ("sbatch", "slurmctld", "slurmd", "munged") if not shutil.which(w)]
if missing or os.geteuid() != 0:
    print("left out: " + (", ".join(missing) + " not installed (slurm-wlm, munge)" if missing else "needs root"))
    sys.exit(77)


def dhad(where=None):
    """A daemon whose slots are taken, its state below that directory."""
    tempfile.tempdir = where
    d = harness.Dhad(slots=2)
    tempfile.tempdir = None
    daemons.append(d)
    d.start()
    blocker = d.submit("sleep=3600")
    d.until_running(blocker, "search")
    Load(d, 100, 1, 10 ** 6)  # warm
    return d


slurm, daemons = Slurm(), []
try:
    slurm.start()
    one = many(SBATCHES, 1, slurm.sbatch)
    four = many(2 * SBATCHES, 4, slurm.sbatch)
    d = dhad()
    for minimal, what in (True, "the job's id, as sbatch does"), (False, "the whole job"):
        first = (2 + minimal) * 10 ** 7
        api = Load(d, JOBS, 1, first, minimal=minimal)
        print(f"submit   1 client: sbatch {one:.1f}/s, API (answering {what}) {api}: {api.rate / one:.1f} times (goal 20; p99 5 ms)")
        api = Load(d, 2 * JOBS, 64, first + 10 ** 6, minimal=minimal)
        print(f"submit   sbatch by 4 clients {four:.1f}/s, API by 64 {api}: {api.rate / four:.1f} times (goal 20; p99 20 ms)")
    print(f"disk     append + fdatasync alone: {fdatasync_rate(d.state):.0f}/s")
    with tempfile.TemporaryDirectory() as empty:
        for line in subprocess.run([os.path.join(harness.BIN, "bench_floor"), empty], check=True, capture_output=True,
                                   text=True).stdout.splitlines():
            what, rate = line.rsplit(None, 1)
            print(f"floor    two processes and a socket: {what}: {rate}/s, {int(rate) / one:.1f} times sbatch")
    api = Load(dhad("/dev/shm"), JOBS, 1, minimal=True)
    print(f"no disk  1 client, the state on a tmpfs, where a sync costs nothing (and nothing is durable): {api}: {api.rate / one:.1f} times")
    print(f"machine  {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
finally:
    slurm.stop()
    for d in daemons:
        d.clean()
