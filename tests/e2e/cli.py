"""Helpers for tests of the command line: the binaries, scripts for the scripted engine, a terminal to type into.

DS4 names the program; ds4-fake, the same program on the scripted engine (tests/lib/fake), lies beside it. Its model
files are JSON scripts.
"""

import json
import os
import pty
import random
import re
import select
import signal
import struct
import subprocess
import fcntl
import termios
import time

DS4 = os.path.abspath(os.environ.get("DS4", "build/cc/ds4"))
FAKE = os.path.join(os.path.dirname(DS4), "ds4-fake")
TIMEOUT_S = 300  # a program hangs; sanitizers and busy machines are slow


def seed():
    """Where a random test begins, the same each time unless DS4_TEST_SEED is a number or "new"; it is printed."""
    wanted = os.environ.get("DS4_TEST_SEED", "1")
    number = random.randrange(1 << 30) if wanted == "new" else int(wanted)
    print(f"seed {number} (replay with DS4_TEST_SEED)")
    return number


def run(*args, binary=FAKE, stdin=b"", **more):
    """Runs a command with pipes; the result has bytes in stdout and stderr."""
    return subprocess.run([binary, *args], input=stdin, stdout=more.pop("stdout", subprocess.PIPE),
                          stderr=subprocess.PIPE, timeout=TIMEOUT_S, **more)


def script(tmp_path, **members):
    """A model file of the scripted engine. Files are not synced, unless told: others may keep the disk busy."""
    path = tmp_path / "script.json"
    path.write_text(json.dumps(dict({"quick_disk": True}, **members)))
    return str(path)


class Terminal:
    """A program on a pseudo terminal of its own."""

    def __init__(self, *args, binary=FAKE, columns=100, stdout_path=None):
        if args[0] == "run" and not {"--kv", "--no-kv"} & set(args):
            args = (*args, "--no-kv")  # nothing of a test gets into the person's own store
        self.output = b""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # a runner in the background ignores some
                signal.signal(number, signal.SIG_DFL)
            if stdout_path:
                os.dup2(os.open(stdout_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), 1)
            try:
                os.execve(binary, [binary, *args], dict(os.environ, TERM="xterm"))
            finally:
                os._exit(127)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def read_some(self, timeout_s):
        ready, _, _ = select.select([self.fd], [], [], timeout_s)
        if not ready:
            return False
        try:
            got = os.read(self.fd, 65536)
        except OSError:
            return False
        self.output += got
        return bool(got)

    def expect(self, pattern, timeout_s=TIMEOUT_S):
        """Waits until the output since the last match holds the pattern; returns what came up to its end."""
        if isinstance(pattern, str):
            pattern = re.escape(pattern.encode())
        deadline = time.monotonic() + timeout_s
        while True:
            match = re.search(pattern, self.output, re.S)
            if match:
                seen, self.output = self.output[: match.end()], self.output[match.end():]
                return seen
            left = deadline - time.monotonic()
            assert left > 0 and (self.read_some(left) or self.alive()), f"no {pattern!r} in {self.output!r}"
            if not self.alive() and not self.read_some(0.1):
                assert re.search(pattern, self.output, re.S), f"ended without {pattern!r}: {self.output!r}"

    def alive(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def type(self, text):
        os.write(self.fd, text if isinstance(text, bytes) else text.encode())

    def line(self, text):
        self.type(text + "\r")

    def prompt(self):
        return self.expect(">>> ")

    def wait(self, timeout_s=TIMEOUT_S):
        """Reads to the end; the exit status."""
        deadline = time.monotonic() + timeout_s
        while self.alive():
            assert time.monotonic() < deadline, f"still running: {self.output!r}"
            self.read_some(0.05)
        while self.read_some(0.05):
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = None
        return os.waitstatus_to_exitcode(status)

    def close(self):
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
