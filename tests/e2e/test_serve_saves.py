"""What `ds4 serve` stores of answers that end, or are left, inside a tool call: no conversation can be gone on with
from there, so there is no tip; what was computed is kept all the same."""

import http.client
import json

import pytest

from cli import run
from test_serve import TOOLS, start, user  # noqa: F401

MARK = "\uff5cDSML\uff5c"
OPEN, CLOSE = f"<{MARK}tool_calls>", f"</{MARK}tool_calls>"
ANSWERS = [{"when": "weather", "say": "Checking.", "calls": [{"name": "get_weather", "arguments": {"city": "Roma"}}]},
           {"when": "slow", "say": "So.", "calls": [{"name": "now", "arguments": {"text": "x" * 20000}}],
            "token_ms": 3}]


@pytest.fixture
def keep(start, tmp_path):  # noqa: F811
    (tmp_path / "kv").mkdir(mode=0o700)
    return lambda: start("--kv-dir", str(tmp_path / "kv"), "--parallel", "1", answers=ANSWERS, ctx=30000)


def stored_texts(server, tmp_path):
    """Stops the server. Texts of all tips, and the number of stored spans."""
    assert server.stop()[0] == 0
    model = server.process.args[server.process.args.index("-m") + 1]

    def kv(*args):
        done = run("kv", *args, "--dir", str(tmp_path / "kv"), "-m", model)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode().rstrip("\n")

    entries = json.loads(kv("list", "--all", "--json"))["entries"]
    tips = [e["key"] for e in entries if e["kind"] == "tip"]
    return [kv("show", key) for key in tips], len(entries) - len(tips)


def test_an_answer_cut_at_any_token_is_not_saved_inside_a_call(keep, tmp_path):
    server = keep()
    whole = server.post("/v1/chat/completions", messages=user("weather"), tools=TOOLS, thinking=False)[1]
    n_tokens, ended = whole["usage"]["completion_tokens"], set()
    assert whole["choices"][0]["finish_reason"] == "tool_calls" and n_tokens > 100
    for n in [1, 5, *range(8, n_tokens, 9), n_tokens - 2]:
        reply = server.post("/v1/chat/completions", messages=user(f"weather {n}"), tools=TOOLS, thinking=False,
                            max_tokens=n)[1]
        ended.add(reply["choices"][0]["finish_reason"])
    assert ended == {"length"}
    texts, _ = stored_texts(server, tmp_path)
    # The last token of an answer is not computed, so a whole call lacks its last byte, and nothing else of it.
    assert [t for t in texts if OPEN in t and not t.endswith(CLOSE[:-1])] == []
    assert len([t for t in texts if OPEN in t]) == 1 and len(texts) > 1


@pytest.mark.parametrize("leave", ["and another takes the session", "and the server ends"])
def test_a_client_that_leaves_inside_a_call_leaves_rows_and_no_tip(keep, tmp_path, leave):
    server = keep()
    client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    client.request("POST", "/v1/chat/completions", headers={"Content-Type": "application/json"}, body=json.dumps(
        {"messages": user("slow"), "tools": TOOLS, "thinking": False, "stream": True}))
    reply = client.getresponse()
    seen = b""
    while b"xxxx" not in seen:  # arguments are on their way
        seen += reply.read1(100)
    client.close()
    server.wait_idle()
    for i in range(3 if "another" in leave else 0):
        server.post("/v1/chat/completions", messages=user(f"weather {i}"), thinking=False, max_tokens=3)
    texts, n_spans = stored_texts(server, tmp_path)
    assert n_spans > 0 and not [t for t in texts if "xxxx" in t]
