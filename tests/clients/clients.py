"""How each client is started against a server, with the settings that `ds4 serve --doctor` prints and nothing else: an
environment and a home folder of its own, a workspace, one prompt, no terminal."""

import glob
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))

from cli import FAKE  # noqa: E402

CLIENTS = os.environ.get("DS4_CLIENTS") or os.path.expanduser("~/.cache/ds4/clients")
PATIENCE_S = 240
AGENTS = ["pi", "pi-responses", "pi-messages"]
if os.environ.get("DS4_ALL_CLIENTS"):
    AGENTS += ["claude", "codex", "opencode"]

PROGRAMS = {
    "pi": ["node", "pi/node_modules/@mariozechner/pi-coding-agent/dist/cli.js"],
    "claude": ["claude/node_modules/@anthropic-ai/claude-code-*[!l]/claude"],  # not the builds for musl
    "codex": ["node", "codex/node_modules/@openai/codex/bin/codex.js"],
    "opencode": ["opencode/node_modules/opencode-[ld]*[!el]/bin/opencode"],  # nor those for old processors
}
ARGUMENTS = {
    "pi": ["--provider", "ds4", "--model", "deepseek-v4-flash", "--thinking", "high", "-p"],
    "claude": ["--dangerously-skip-permissions", "-p"],
    "codex": ["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox"],
    "opencode": ["run"],
}
# With a model that may call anything: the tools that write and run are not given, or refused by the client.
READING_ONLY = {
    "pi": ["--tools", "read", *ARGUMENTS["pi"]],
    "claude": ["-p"],
    "codex": ["exec", "--skip-git-repo-check", "--sandbox", "read-only"],
    "opencode": ["run"],
}
DENIED = {"bash": "deny", "edit": "deny", "webfetch": "deny", "external_directory": "deny"}  # opencode's
# Beside the settings: no look at the network for updates, and the word of the person that this is a sandbox.
QUIET = {
    "pi": {"PI_OFFLINE": "1", "PI_SKIP_VERSION_CHECK": "1"},
    "claude": {"IS_SANDBOX": "1"},
    "codex": {},
    "opencode": {"OPENCODE_DISABLE_AUTOUPDATE": "1", "OPENCODE_DISABLE_MODELS_FETCH": "1"},
}
FILES = {"pi": ".pi/agent/models.json", "codex": ".codex/config.toml", "opencode": ".config/opencode/opencode.json"}
HEADINGS = {"pi": "Pi", "claude": "Claude Code", "codex": "Codex", "opencode": "opencode"}


def need(name):
    """The folder of an installed client; without it the test is skipped, and says how to get it."""
    folder = os.path.join(CLIENTS, name)
    if not os.path.exists(os.path.join(folder, "installed")):
        pytest.skip(f"{name} is not installed (scripts/clients install {name})")
    return folder


def sections(port):
    """What the doctor prints: {client: (heading line, text without its indentation)}."""
    out = subprocess.run([FAKE, "serve", "--doctor", "--port", str(port)], capture_output=True, text=True, timeout=300)
    found = {}
    for part in out.stdout.split("\n\n"):
        first, *lines = part.split("\n")
        found[first.split(" (")[0]] = (first, "\n".join(line[2:] for line in lines) + "\n")
    return found


class Client:
    def __init__(self, name, port, folder, reading_only=False):
        self.arguments = (READING_ONLY if reading_only else ARGUMENTS)[name.split("-")[0]]
        self.name, self.kind = name, name.split("-")[0]
        need(self.kind)
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()
        heading, text = sections(port)[HEADINGS[self.kind]]
        self.env = {"PATH": os.environ["PATH"], "HOME": str(self.home), "TERM": "dumb", **QUIET[self.kind]}
        self.env.update(re.findall(r"export (\w+)=([^\s):]+)[):]", heading))
        self.env.update(re.findall(r"export (\w+)=(\S+)", text))
        if self.kind in FILES:
            path = self.home / FILES[self.kind]
            path.parent.mkdir(parents=True)
            path.write_text(self.in_dialect(text))
            if reading_only and self.kind == "opencode":
                path.write_text(json.dumps({**json.loads(text), "permission": DENIED}))

    def in_dialect(self, text):
        """Pi speaks three; the doctor shows one."""
        if "-" not in self.name:
            return text
        settings = json.loads(text)
        provider = settings["providers"]["ds4"]
        provider["api"] = {"pi-responses": "openai-responses", "pi-messages": "anthropic-messages"}[self.name]
        if self.name == "pi-messages":
            provider["baseUrl"] = provider["baseUrl"].removesuffix("/v1")
        del provider["compat"]
        return json.dumps(settings)

    def ask(self, prompt):
        """(exit status, standard output, standard error) of one turn without a terminal."""
        *runner, program = PROGRAMS[self.kind]
        paths = sorted(glob.glob(os.path.join(CLIENTS, program)))
        assert paths, f"{program} is missing in {CLIENTS}"
        result = subprocess.run([*runner, paths[0], *self.arguments, prompt], cwd=self.work, env=self.env,
                                stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
        print("$", shlex.join([self.name, prompt]), "\n", result.stdout, result.stderr)
        return result.returncode, result.stdout, result.stderr


def answers(log):
    """(path, status, reused, computed, finish) of every answer in the server's log."""
    found = re.findall(r"POST (\S+) (\d+) .*?(?:prompt (\d+)\+(\d+) .* ([a-z_]+))?(?: \(client left\))?$", log, re.M)
    return [(path, int(status), int(reused or 0), int(computed or 0), finish)
            for path, status, reused, computed, finish in found]
