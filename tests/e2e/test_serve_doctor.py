"""`ds4 serve --doctor`: settings of every client, and a look at what runs. That the settings are right is shown by
tests/clients, which runs the clients with them."""

import http.server
import json
import threading

import pytest

from cli import run
from test_serve import start, user  # noqa: F401

WELL, WRONG = 0, 1


def doctor(*args):
    result = run("serve", "--doctor", *args)
    return result.returncode, result.stdout.decode()


def free_port():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        return str(server.server_port)


def test_the_doctor_names_every_client_also_when_nothing_runs():
    port = free_port()
    status, out = doctor("--port", port, "--alias", "my-model", "--ctx", "40960")
    assert status == WELL and f"nothing answers at http://127.0.0.1:{port}" in out
    for word in ("Claude Code (", "Codex (", "opencode (", "Pi (", "OpenAI SDK (", "Anthropic SDK (", "40960"):
        assert word in out
    assert "deepseek-v4-flash" not in out and out.count("my-model") > 10


def test_the_doctor_reads_the_context_of_the_server_that_runs(start):  # noqa: F811
    status, out = doctor("--port", str(start(ctx=170000).port))
    assert status == WELL and "Running: ds4 at" in out and "health   fine" in out and "none asked for" in out
    assert "CLAUDE_CODE_AUTO_COMPACT_WINDOW=170000" in out and "model_context_window = 170000" in out


def test_the_doctor_says_when_the_context_is_too_short_for_agents(start):  # noqa: F811
    status, out = doctor("--port", str(start(ctx=4096).port))
    assert status == WRONG and "4096 tokens: TOO FEW" in out


def test_the_doctor_never_shows_a_key(start, tmp_path):  # noqa: F811
    key = tmp_path / "key"
    key.write_text("secret-one\n")
    key.chmod(0o600)
    port = str(start("--api-key-file", str(key), ctx=70000).port)
    status, out = doctor("--port", port)
    assert status == WRONG and "asks for a key" in out
    status, out = doctor("--port", port, "--api-key-file", str(key))
    assert status == WELL and "key      asked for" in out and "YOUR-KEY" in out and "secret-one" not in out


@pytest.mark.parametrize("body", [b"{}", b"[[", b'{"data":[{"owned_by":"other","context_length":5}]}', b""])
def test_the_doctor_tells_ds4_from_other_servers(body):
    class Other(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        status, out = doctor("--port", str(server.server_port))
        server.shutdown()
    assert status == WRONG and "something else than ds4" in out


def test_what_the_doctor_prints_for_a_file_is_well_formed():
    tomllib = pytest.importorskip("tomllib", reason="this Python has no tomllib (3.11)")
    out = doctor("--port", free_port())[1]
    sections = {part.split(" (")[0]: "\n".join(line[2:] for line in part.split("\n")[1:]) for part in out.split("\n\n")}
    assert tomllib.loads(sections["Codex"])["model_providers"]["ds4"]["wire_api"] == "responses"
    assert json.loads(sections["opencode"])["model"] == "ds4/deepseek-v4-flash"
    assert json.loads(sections["Pi"])["providers"]["ds4"]["api"] == "openai-completions"
    assert all(line.startswith("export ") and "=" in line for line in sections["Claude Code"].split("\n"))
