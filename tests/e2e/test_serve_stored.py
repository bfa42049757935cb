"""The list of stored conversations over HTTP: what it shows, and to whom."""

import http.client
import json
import time

import pytest

from test_serve import start, user  # noqa: F401

LIST = "/v1/ds4/conversations"
ANSWERS = [{"when": "second", "say": "Again."}, {"think": "Hm.", "say": "One \u20ac."}]


@pytest.fixture
def keep(start, tmp_path):  # noqa: F811
    (tmp_path / "kv").mkdir(mode=0o700)
    return lambda *args: start("--kv-dir", str(tmp_path / "kv"), *args, answers=ANSWERS)


def listed(server, wanted):
    """The list, once the store has written so many."""
    end = time.monotonic() + 240
    while True:
        reply = json.loads(server.request("GET", LIST)[2])
        if len(reply["data"]) == wanted:
            return reply
        assert time.monotonic() < end, reply
        time.sleep(0.05)


def test_stored_conversations_are_listed_youngest_first_and_read_as_messages(keep):
    server = keep("--show-stored")
    assert listed(server, 0) == {"object": "list", "available": True, "data": []}
    messages = [{"role": "system", "content": "Be \u20acrude.\n"}] + user("first \u20ac\nline two")
    reply = server.post("/v1/chat/completions", messages=messages)[1]["choices"][0]["message"]
    entry = listed(server, 1)["data"][0]
    assert entry["title"] == "first \u20ac" and entry["n_tokens"] > 20
    opened = json.loads(server.request("GET", f"{LIST}/{entry['key']}")[2])["messages"]
    assert opened == messages + [reply]
    # What goes on from it takes its place; another one stands beside it.
    server.post("/v1/chat/completions", messages=opened + user("second"))
    server.post("/v1/chat/completions", messages=user("other"))
    titles = [e["title"] for e in listed(server, 2)["data"]]
    assert sorted(titles) == ["first \u20ac", "other"]


@pytest.mark.parametrize("key", ["0", "zz", "0" * 32, "0" * 33, "x" * 5000, "..", "../../etc/passwd", "%2e%2e", "a/b"])
def test_a_key_that_names_nothing_finds_nothing(keep, key):
    server = keep("--show-stored")
    server.post("/v1/chat/completions", messages=user("first"))
    listed(server, 1)
    status, _, body = server.request("GET", f"{LIST}/{key}")
    assert status == 404 and b"messages" not in body and server.request("GET", "/health")[0] == 200


def test_stored_conversations_are_shown_to_nobody_unless_told(keep, start, tmp_path):  # noqa: F811
    server = keep()
    server.post("/v1/chat/completions", messages=user("first"))
    nothing = {"object": "list", "available": False, "data": []}
    assert json.loads(server.request("GET", LIST)[2]) == nothing
    assert json.loads(server.request("GET", LIST + "/0")[2]) == nothing
    assert json.loads(start("--show-stored").request("GET", LIST)[2]) == nothing  # no store at all
    key = tmp_path / "key"
    key.write_text("secret-one\n")
    key.chmod(0o600)
    server.stop()
    locked = keep("--api-key-file", str(key))
    assert locked.request("GET", LIST)[0] == 401
    assert json.loads(locked.request("GET", LIST, headers={"x-api-key": "secret-one"})[2])["available"]


def test_the_list_is_shown_while_every_session_is_busy(keep):
    server = keep("--show-stored", "--parallel", "1")
    server.post("/v1/chat/completions", messages=user("first"))
    listed(server, 1)
    busy = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
    busy.request("POST", "/v1/completions", json.dumps({"prompt": "x", "stream": True, "max_tokens": 4000}),
                 {"Content-Type": "application/json"})
    assert json.loads(server.request("GET", LIST)[2])["data"]
    busy.close()
