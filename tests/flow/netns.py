"""A head and two nodes on this machine (TOOLCHAIN, appendix A): namespaces of network, host name, mounts and processes, so
that none sees another's processes, and an sshd on each node. Needs root, ip, unshare, nsenter and sshd."""
import os
import shutil
import signal
import subprocess
import tempfile
import time

# pid 1 of a namespace: collects orphans, as init does
INIT = "import os,time\nwhile True:\n    try: os.wait()\n    except ChildProcessError: time.sleep(0.05)\n"


def missing():
    """Why it cannot be used here; None if it can."""
    if os.geteuid() != 0:
        return "not root"
    for program in ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "mpirun"):
        if not shutil.which(program):
            return f"there is no {program}"
    if not os.path.exists("/usr/sbin/sshd"):
        return "there is no sshd (openssh-server)"
    probe = f"dhaprobe{os.getpid()}"
    r = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True)
    if r.returncode == 0:
        r = subprocess.run(["ip", "netns", "exec", probe, "unshare", "--uts", "--pid", "--mount", "--fork",
                            "--mount-proc", "true"], capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", probe], capture_output=True)
    return None if r.returncode == 0 else "no namespaces: " + r.stderr.strip()


class Cluster:
    NAMES = ("head", "a", "b")

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="dha-ns-")
        self.tag = f"dha{os.getpid()}"
        self.net = f"10.231.{os.getpid() % 250}"
        self.address = {"head": self.net + ".254", "a": self.net + ".1", "b": self.net + ".2"}
        self.init, self.sshd = {}, {}

    def sh(self, *words):
        subprocess.run(words, check=True, capture_output=True, text=True)

    def ns(self, name):
        return f"{self.tag}{name}"

    def up(self):
        for name in self.NAMES:
            self.sh("ip", "netns", "add", self.ns(name))
            self.sh("ip", "-n", self.ns(name), "link", "set", "lo", "up")
        head = self.ns("head")
        self.sh("ip", "-n", head, "link", "add", "br0", "type", "bridge")
        self.sh("ip", "-n", head, "link", "set", "br0", "up")
        self.sh("ip", "-n", head, "addr", "add", self.address["head"] + "/24", "dev", "br0")
        for name in ("a", "b"):
            self.sh("ip", "-n", head, "link", "add", "to" + name, "type", "veth", "peer", "name", "eth0", "netns",
                    self.ns(name))
            self.sh("ip", "-n", head, "link", "set", "to" + name, "master", "br0", "up")
            self.sh("ip", "-n", self.ns(name), "addr", "add", self.address[name] + "/24", "dev", "eth0")
            self.sh("ip", "-n", self.ns(name), "link", "set", "eth0", "up")
        for name in self.NAMES:
            self.start_init(name)
        os.makedirs("/run/sshd", exist_ok=True)
        for key in ("hostkey", "id"):
            self.sh("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", f"{self.dir}/{key}")
        shutil.copy(f"{self.dir}/id.pub", f"{self.dir}/authorized_keys")
        for name in ("a", "b"):
            self.start_sshd(name)
        with open(f"{self.dir}/ssh_config", "w") as f:
            f.write(f"Host {self.net}.*\n Port 2222\n User root\n IdentityFile {self.dir}/id\n IdentitiesOnly yes\n"
                    " StrictHostKeyChecking no\n UserKnownHostsFile /dev/null\n LogLevel ERROR\n")
        return self

    def start_init(self, name):
        p = subprocess.Popen(["ip", "netns", "exec", self.ns(name), "unshare", "--uts", "--pid", "--mount", "--fork",
                              "--mount-proc", "--kill-child", "sh", "-c",
                              f"hostname {name} && exec python3 -c '{INIT}'"], start_new_session=True)
        end = time.time() + 10
        while time.time() < end:
            child = children(p.pid)
            try:
                if child and "python" in os.path.basename(os.readlink(f"/proc/{child[0]}/exe")):
                    self.init[name] = (p, child[0])
                    return
            except OSError:
                pass
            time.sleep(0.02)
        raise AssertionError("no init in " + name)

    def inside(self, name, *words):
        """Words that run words on a node; the caller's process stays their parent."""
        return ["nsenter", "-t", str(self.init[name][1]), "--net", "--uts", "--pid", "--mount", "--", *words]

    def start_sshd(self, name):
        with open(f"{self.dir}/sshd-{name}.conf", "w") as f:
            f.write(f"Port 2222\nListenAddress {self.address[name]}\nHostKey {self.dir}/hostkey\n"
                    f"AuthorizedKeysFile {self.dir}/authorized_keys\nPidFile none\nPermitRootLogin prohibit-password\n"
                    "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nStrictModes no\n")
        self.sshd[name] = subprocess.Popen(self.inside(name, "/usr/sbin/sshd", "-D", "-e", "-f",
                                                       f"{self.dir}/sshd-{name}.conf"),
                                           stderr=subprocess.DEVNULL, start_new_session=True)

    def link(self, name, up):
        """The cable of a node in or out: its processes live on."""
        self.sh("ip", "-n", self.ns("head"), "link", "set", "to" + name, "up" if up else "down")

    def crash(self, name):
        """The node loses power and comes back: all its processes are gone."""
        init, _ = self.init[name]
        os.kill(init.pid, signal.SIGKILL)
        init.wait()
        self.sshd[name].wait()
        self.start_init(name)

    def hang(self, name, on=True):
        """Every process on a node stops (a kernel that hangs, a paused machine), or goes on; its network answers pings, and
        takes connections that nobody serves. The last ones to stop are first to go on: parents see their children stop.
        Its first process is let be: it is what we enter the node by."""
        skip = {self.init[name][1]}
        for _ in range(20):
            pids = [p for p in self.pids(name) if p not in skip and (self.state(p) != "T") == on]
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGSTOP if on else signal.SIGCONT)
                except ProcessLookupError:
                    pass
            if not pids:
                break
            time.sleep(0.05)
        else:
            raise AssertionError(f"{name}: {pids} would not {'stop' if on else 'go on'}")
        if not on:  # nsenter stops with what it runs
            self.sshd[name].send_signal(signal.SIGCONT)

    def state(self, pid):
        try:
            with open(f"/proc/{pid}/stat") as f:
                return f.read().rsplit(")", 1)[1].split()[0].upper()
        except OSError:
            return "X"

    def pids(self, name):
        """Processes on a node, by its own process namespace."""
        want = os.readlink(f"/proc/{self.init[name][1]}/ns/pid")
        found = []
        for pid in os.listdir("/proc"):
            try:
                if pid.isdigit() and os.readlink(f"/proc/{pid}/ns/pid") == want:
                    found.append(int(pid))
            except OSError:
                pass
        return found

    def down(self):
        for init, child in self.init.values():
            for pid in (child, init.pid):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            init.wait()
        for p in self.sshd.values():
            p.kill()
            p.wait()
        for name in self.NAMES:
            subprocess.run(["ip", "netns", "del", self.ns(name)], capture_output=True)
        shutil.rmtree(self.dir, ignore_errors=True)


def children(pid):
    try:
        with open(f"/proc/{pid}/task/{pid}/children") as f:
            return [int(x) for x in f.read().split()]
    except OSError:
        return []
