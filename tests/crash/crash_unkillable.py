#!/usr/bin/env python3
"""What SIGKILL of the daemon does not end (G7): a process of an attempt that became another user's.

The daemon runs as a user of no name; its worker leaves a child that went through a set-user-ID program and is root's:
kill() answers EPERM. That needs root to set up; else the test is skipped.
"""
import os
import shutil
import signal
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "flow"))
import harness

UID = 12345


class Dhad(harness.Dhad):
    """Everything it runs is copied to where that user can reach it."""

    def __init__(self, *args, **kw):
        super().__init__(*args, **kw)
        self.programs = os.path.join(self.dir, "bin")
        os.mkdir(self.programs)
        for name in ("dhad", "dha-shim"):
            shutil.copy(os.path.join(harness.BIN, name), self.programs)
        shutil.copy(harness.FAKE, self.programs)
        self.launcher = "fake:" + os.path.join(self.programs, os.path.basename(harness.FAKE))
        self.to_root = os.path.join(self.programs, "to-root")
        shutil.copy(shutil.which("setpriv"), self.to_root)
        os.chmod(self.to_root, 0o4755)
        os.chmod(self.dir, 0o755)
        self.state = os.path.join(self.dir, "home", "state")
        self.socket = os.path.join(self.dir, "home", "sock")
        os.mkdir(os.path.dirname(self.state), 0o700)
        os.chown(os.path.dirname(self.state), UID, UID)

    def command(self):
        return ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups",
                os.path.join(self.programs, "dhad"), "--state", self.state, "--socket", self.socket, "--slots", "4",
                "--launcher", self.launcher, "--shim", os.path.join(self.programs, "dha-shim")]

    def start(self, wait=True, **env):
        return super().start(wait, PATH="/usr/bin:/bin", DHA_TEST_TO_ROOT=self.to_root, **env)


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv")
class Unkillable(unittest.TestCase):
    def setUp(self):
        if os.statvfs("/tmp").f_flag & os.ST_NOSUID:
            self.skipTest("/tmp is mounted nosuid")
        self.dhad = Dhad()
        self.addCleanup(self.dhad.clean)
        self.dhad.start()
        self.addCleanup(self.dhad.end)

    def drained(self):
        node = self.dhad.get("/v1/nodes").json["nodes"][0]
        return node if node["state"] == "drained" else None

    def child(self):
        """The process that is root's: it wrote its pid into its stage's directory."""
        path = os.path.join(self.dhad.stage_dir(1, "search"), "out", "root.pid")
        return self.dhad.until(lambda: int(harness.read(path) or 0))

    def is_there(self, pid):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        return True

    def end_child(self, pid):
        os.kill(pid, signal.SIGKILL)

    def test_a_cancel_drains_the_node_and_names_the_process(self):
        d = self.dhad
        job = d.submit("search.sleep=60 rootchild=1 deaf=1")
        pid = self.child()
        self.addCleanup(self.end_child, pid)
        self.assertEqual(d.post(f"/v1/jobs/{job}/cancel", {"now": True}).status, 200)
        node = d.until(self.drained, 60)
        self.assertIn(str(pid), node["reason"])
        self.assertIn("will not die", node["reason"])
        d.until_state(job, "cancelled", seconds=60)
        self.assertTrue(self.is_there(pid))
        # its slots are nobody's until a person has looked
        other = d.submit("other")
        why = d.get(f"/v1/jobs/{other}/explain").json
        self.assertIn("drained", why["reason"])
        self.assertEqual(d.job(other)["state"], "queued")
        self.assertEqual(d.launches(other, "search"), [])

    # out of the shim's session, its environment not to be read: only the shim, as its reaper, could name it
    def test_so_does_the_end_of_its_stage_and_a_restart_forgets_nothing(self):
        d = self.dhad
        job = d.submit("search.rootchild=setsid")
        pid = self.child()
        self.addCleanup(self.end_child, pid)
        node = d.until(self.drained, 60)
        self.assertIn(str(pid), node["reason"])
        d.kill()
        d.start()
        self.assertIn(str(pid), self.drained()["reason"])
        self.assertNotIn(d.job(job)["state"], harness.FINAL)  # its next stage waits
        self.end_child(pid)
        self.assertEqual(d.post(f"/v1/nodes/{node['name']}/resume").status, 200)
        d.until_state(job, "done", seconds=60)


if __name__ == "__main__":
    harness.main()
