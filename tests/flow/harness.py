"""A private dhad for a test: its own state directory and socket, killed with everything it started.

Every process below it carries DHA_TEST_TAG in its environment; tearDown kills by that tag and fails the
test if something of an attempt was still running that should not have been (Dhad.stray()).
"""
import glob
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import uuid

BIN = os.environ.get("DHA_BIN", "")
HERE = os.path.dirname(os.path.abspath(__file__))
FAKE = os.path.join(HERE, "fake_worker.py")
FINAL = ("done", "failed", "cancelled")


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=90)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Reply:
    def __init__(self, status, headers, raw):
        self.status, self.headers, self.raw = status, headers, raw
        try:
            self.json = json.loads(raw)
        except ValueError:
            self.json = None

    def __repr__(self):
        return f"<{self.status} {self.raw[:300]!r}>"


def read(path):
    """A file's text, "" where there is none (yet)."""
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def environ_of(pid):
    try:
        with open(f"/proc/{pid}/environ", "rb") as f:
            return f.read().split(b"\0")
    except OSError:
        return []


def processes_with(entry):
    """Living processes with that environment entry."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and entry.encode() in environ_of(name):
            try:
                with open(f"/proc/{name}/stat") as f:
                    state = f.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if state not in "ZX" and int(name) != os.getpid():
                found.append(int(name))
    return found


class Dhad:
    """One state directory and the daemons that run on it, one after the other."""

    def __init__(self, launcher=None, slots=4, program="dhad", args=(), shim="dha-shim"):
        self.tag = "DHA_TEST_TAG=" + uuid.uuid4().hex
        self.dir = tempfile.mkdtemp(prefix="dha-test-")
        self.state = os.path.join(self.dir, "state")
        self.socket = os.path.join(self.dir, "sock")
        self.launcher = launcher or "fake:" + FAKE
        self.slots, self.program, self.args = slots, program, list(args)
        self.shim_program = shim
        self.process = None
        self.model = os.path.join(self.dir, "model")
        os.mkdir(self.model)
        with open(os.path.join(self.model, "config.json"), "w") as f:
            f.write("{}")
        self.data = os.path.join(self.dir, "train.u16")
        with open(self.data, "wb") as f:
            f.write(bytes(2000))

    def command(self):
        return [os.path.join(BIN, self.program), "--state", self.state, "--socket", self.socket,
                "--slots", str(self.slots), "--launcher", self.launcher, "--shim",
                os.path.join(BIN, self.shim_program), *self.args]

    def start(self, wait=True, **env):
        key, value = self.tag.split("=")
        with open(os.path.join(self.dir, "console.log"), "ab") as log:
            self.process = subprocess.Popen(self.command(), env={**os.environ, key: value, **env},
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if wait:
            self.wait_ready()
        return self

    def wait_ready(self, seconds=20):
        end = time.time() + seconds
        while time.time() < end:
            if self.process.poll() is not None:
                raise AssertionError("dhad ended: " + self.console())
            try:
                if self.get("/readyz").status == 200:
                    return
            except OSError:
                pass
            time.sleep(0.01)
        raise AssertionError("dhad does not answer: " + self.console())

    def console(self):
        with open(os.path.join(self.dir, "console.log")) as f:
            return f.read()[-3000:]

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)

    def wait_dead(self, seconds=20):
        return self.process.wait(timeout=seconds)

    # ---- requests ----

    def request(self, method, path, body=None, headers=None):
        c = UnixConnection(self.socket)
        try:
            if body is not None and not isinstance(body, (bytes, str)):
                body = json.dumps(body)
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return Reply(r.status, r.headers, r.read())
        finally:
            c.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, path, body=None, headers=None):
        return self.request("POST", path, {} if body is None else body, headers)

    def spec(self, name="job", **changes):
        return {"name": name, "model": self.model,
                "data": {"train": [self.data], "seq_len": 16},
                "resources": {"ranks": 2}, **changes}

    def submit(self, name="job", **changes):
        r = self.post("/v1/jobs", {"spec": self.spec(name, **changes)})
        assert r.status == 201, r
        return r.json["job"]["id"]

    def job(self, job):
        r = self.get(f"/v1/jobs/{job}")
        assert r.status == 200, r
        return r.json["job"]

    def stage(self, job, kind):
        return next(s for s in self.job(job)["stages"] if s["kind"] == kind)

    def events(self, **query):
        q = "&".join(f"{k}={v}" for k, v in {"limit": 10000, **query}.items())
        return self.get("/v1/events?" + q).json["events"]

    # ---- waiting ----

    def until(self, what, seconds=30):
        """The first true value of what(); the daemon may be away meanwhile."""
        end = time.time() + seconds
        while time.time() < end:
            try:
                value = what()
            except (OSError, http.client.HTTPException):
                value = None
            if value:
                return value
            time.sleep(0.02)
        raise AssertionError("it did not happen within %d s\n%s" % (seconds, self.console()))

    def until_state(self, job, *states, seconds=30):
        try:
            return self.until(lambda: (j := self.job(job))["state"] in states and j, seconds)
        except AssertionError as e:
            raise AssertionError(f"job {job} is not {states}: {self.job(job)}\n{e}") from None

    def until_running(self, job, kind, seconds=30):
        """The stage's worker has said that it works."""
        def works():
            s = self.stage(job, kind)
            p = s["progress"]  # a step alone may be that of the checkpoint that it will go on from
            return s["state"] == "running" and p["step"] > 0 and p["tokens_per_s"] is not None and s
        return self.until(works, seconds)

    # ---- on disk ----

    def stage_dir(self, job, kind):
        return os.path.join(self.state, "jobs", str(job), kind)

    def launches(self, job, kind):
        """Lines that the worker's starts left: how often it really ran."""
        try:
            with open(os.path.join(self.stage_dir(job, kind), "out", "launches")) as f:
                return f.read().split("\n")[:-1]
        except FileNotFoundError:
            return []

    def of_attempt(self, job, kind, number=1):
        """Living processes of an attempt, by its tag."""
        with open(os.path.join(self.stage_dir(job, kind), f"a{number}", "spec.json")) as f:
            return processes_with("DHA_ATTEMPT=" + json.load(f)["uuid"])

    def shim(self, job, kind, number=1):
        with open(os.path.join(self.stage_dir(job, kind), f"a{number}", "shim.json")) as f:
            return json.load(f)["pid"]

    def stray(self):
        return [p for p in processes_with(self.tag)
                if any(e.startswith(b"DHA_ATTEMPT=") for e in environ_of(p))]

    def end(self):
        """The daemon, if it still runs, goes in good order: status 0 and no complaint of a sanitizer."""
        if self.process and self.process.poll() is None:
            code = self.stop()
            assert code == 0, (code, self.console())
        text = self.console()
        assert "Sanitizer" not in text and "runtime error" not in text, text

    def clean(self):
        for _ in range(100):
            left = processes_with(self.tag)
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            time.sleep(0.02)
        if self.process:
            self.process.wait()
        # A shim that is killed cannot remove its temporary directory.
        for path in glob.glob(os.path.join(self.state, "jobs", "*", "*", "a*", "shim.json")):
            try:
                with open(path) as f:
                    shutil.rmtree(json.load(f)["tmp"], ignore_errors=True)
            except (OSError, ValueError, KeyError):
                pass
        if os.environ.get("DHA_KEEP"):
            print("kept", self.dir, file=sys.stderr)
        else:
            shutil.rmtree(self.dir, ignore_errors=True)


class DhadWithFile(Dhad):
    """What it is told stands in a file, --slots as well."""

    def __init__(self, settings, launcher=None):
        super().__init__(launcher)
        self.file = os.path.join(self.dir, "dhad.json")
        self.write(settings)

    def write(self, settings):
        with open(self.file, "w") as f:
            json.dump(settings, f)

    def hup(self, settings):
        self.write(settings)
        self.process.send_signal(signal.SIGHUP)

    def command(self):
        words = super().command()
        i = words.index("--slots")
        return words[:i] + words[i + 2:] + ["--config", self.file]


class Case(unittest.TestCase):
    """self.dhad is running at the start of each test."""
    launcher, slots, program, args = None, 4, "dhad", ()

    def setUp(self):
        self.dhad = Dhad(self.launcher, self.slots, self.program, self.args)
        self.addCleanup(self.dhad.clean)
        self.dhad.start()
        self.addCleanup(self.dhad.end)  # runs before clean

    def assert_error(self, reply, status, code):
        self.assertEqual(reply.status, status, reply)
        self.assertEqual(reply.json["api"], 1)
        self.assertEqual(reply.json["error"]["code"], code, reply)
        self.assertTrue(reply.json["error"]["message"])


def main():
    if not os.path.exists(os.path.join(BIN, "dhad")):
        print("set DHA_BIN to the folder of dhad", file=sys.stderr)
        sys.exit(1)
    unittest.main(verbosity=2)
