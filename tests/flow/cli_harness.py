"""`dha` against a private dhad of a test (harness.py)."""
import json
import os
import pty
import select
import subprocess
import time

import harness

DHA = os.path.join(harness.BIN, "dha")


class Ran:
    def __init__(self, args, rc, out, err):
        self.args, self.rc, self.out, self.err = args, rc, out, err

    @property
    def json(self):
        return json.loads(self.out)

    def __repr__(self):
        return f"dha {' '.join(self.args)}: exit status {self.rc}\nstdout: {self.out}\nstderr: {self.err}"


def environment(**changes):
    """What a user has; without what would lead dha to a daemon of the user's own."""
    env = {k: v for k, v in os.environ.items()
           if k not in ("DHA_SOCKET", "DHA_STATE", "XDG_RUNTIME_DIR", "NO_COLOR")}
    env["DHA_NO_CHECK"] = "1"  # the fake launcher's model is none that dha-worker could read
    env.update(changes)
    return env


class Case(harness.Case):
    def setUp(self):
        super().setUp()
        self.env = environment(DHA_SOCKET=self.dhad.socket, HOME=self.dhad.dir)

    def dha(self, *args, stdin=None, timeout=60, cwd=None, env=None):
        p = subprocess.run([DHA, *args], input=stdin, capture_output=True, text=True, timeout=timeout,
                           cwd=cwd or self.dhad.dir, env=env or self.env)
        return Ran(args, p.returncode, p.stdout, p.stderr)

    def ok(self, *args, **more):
        r = self.dha(*args, **more)
        self.assertEqual(r.rc, 0, r)
        return r

    def fails(self, rc, *args, **more):
        r = self.dha(*args, **more)
        self.assertEqual(r.rc, rc, r)
        self.assertTrue(r.err.startswith("dha: ") or "\ndha: " in r.err, r)
        return r

    def start(self, *args):
        """A dha that goes on while the test does; killed at the end."""
        p = subprocess.Popen([DHA, *args], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.PIPE, text=True, cwd=self.dhad.dir, env=self.env)
        self.addCleanup(self.end, p)
        return p

    def end(self, p):
        if p.poll() is None:
            p.kill()
        p.communicate()

    def spec_file(self, name="job", path=None, **changes):
        path = path or os.path.join(self.dhad.dir, "spec.json")
        with open(path, "w") as f:
            json.dump(self.dhad.spec(name, **changes), f)
        return path

    def submit(self, name="job", **changes):
        return self.ok("submit", self.spec_file(name, **changes)).out.strip()

    def on_terminal(self, *args, columns=100, timeout=30):
        """Runs dha on a pseudo-terminal; returns (exit status, what it wrote)."""
        import fcntl
        import struct
        import termios
        pid, fd = pty.fork()
        if pid == 0:
            os.execve(DHA, [DHA, *args], {**self.env, "TERM": "xterm", "LC_ALL": "C.UTF-8"})
        fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        data, end = b"", time.time() + timeout
        while time.time() < end:
            if select.select([fd], [], [], 0.5)[0]:
                try:
                    more = os.read(fd, 65536)
                except OSError:
                    break
                if not more:
                    break
                data += more
        os.close(fd)
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), data.decode()
