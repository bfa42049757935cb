"""What may never happen to `ds4 serve`, on the scripted engine: clients that are slow, leave, come in crowds or mean
harm; signals; an engine that hangs. Short forms; soak_serve.py has the long ones."""

import concurrent.futures
import copy
import json
import os
import re
import resource
import signal
import socket
import threading
import time

import pytest

import serve_life as life
from cli import DS4, run, script
from serve_life import CHAT, connect, request_bytes, resources, wait_for
from test_serve import TOOLS, Server, joined, start, user  # noqa: F401
from test_serve_clients import RECORDED

SANITIZED = any(name in os.path.basename(os.path.dirname(DS4)) for name in ("address", "thread"))


def test_slow_clients_go_at_their_deadline_and_good_ones_are_served(start):  # noqa: F811
    server = start("--time-scale", "10", "--parallel", "3")
    got = life.slow_clients(server, 30, 10, 3, 10)
    assert got["grown_bytes"] < 64 << 20


def test_health_answers_when_descriptors_are_exhausted(tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (48, 48))

    server = Server(tmp_path, preexec_fn=few)
    before = resources(server)
    life.flood(server, 200)
    wait_for(lambda: life.is_back(server, before))
    assert server.stop()[0] == 0


@pytest.mark.parametrize("grace", ["0", "30"])
def test_clients_may_leave_at_any_instant_in_any_way(start, grace):  # noqa: F811
    server = start("--parallel", "2", "--grace", grace)
    if grace == "30":  # what nobody asks for again makes room, so that the others are served; it ends with the server
        server.wait_idle = lambda seconds: None
    life.disconnects(server, 60, 1)
    del start


def test_a_queued_client_that_leaves_changes_nothing_for_the_active_one(start):  # noqa: F811
    life.queued_client_leaves(start("--parallel", "1", token_ms=1), 20)


def test_a_client_that_never_reads_is_dropped_and_the_others_read_on(start):  # noqa: F811
    answers = [{"when": "flood", "say": "0123456789 " * 400, "endless": True}, {"when": "hello", "say": "hi"}]
    server = start("--time-scale", "60", "--parallel", "3", "--no-loop-guard", answers=answers, ctx=32768)
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(request_bytes(CHAT, {"messages": user("flood"), "stream": True, "thinking": False,
                                            "logprobs": True, "top_logprobs": 20}))
        wait_for(lambda: server.metric("requests_processing"))
        for _ in range(4):
            assert joined(server.events(CHAT, messages=user("hello"), thinking=False), "content") == "hi"
        server.wait_idle(60)
    assert server.metric("cancelled_total") == 1


def test_a_withheld_tool_call_is_no_silence(start):  # noqa: F811
    answers = [{"say": "", "calls": [{"name": "get_weather", "arguments": {"city": "x" * 300}}], "token_ms": 4}]
    server = start("--time-scale", "100", answers=answers)
    body = {"messages": user("go"), "tools": TOOLS, "stream": True, "thinking": False}
    data = server.request("POST", CHAT, body)[2]
    assert data.count(b": working\n\n") >= 3 and b"xxx" in data and data.rstrip().endswith(b"[DONE]")


def test_a_crowd_is_served_or_told_to_come_again(start):  # noqa: F811
    life.overload(start("--parallel", "1", "--max-queue", "8", "--grace", "0"), 30, 8)


def test_waiting_requests_are_begun_in_order(start):  # noqa: F811
    server = start("--parallel", "1", answers=[{"say": "ok " * 5, "token_ms": 2}])
    ended, lock = [], threading.Lock()

    def ask(i):
        server.post(CHAT, messages=user(f"number {i}"), thinking=False)
        with lock:
            ended.append(i)

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        for i in range(12):
            pool.submit(ask, i)
            wait_for(lambda n=i: server.metric("requests_total") + server.metric("requests_deferred") > n)
    assert all(abs(place - i) <= 3 for place, i in enumerate(ended))  # two are computed at a time


def test_no_client_sees_anothers_words(start, tmp_path):  # noqa: F811
    server = start("--parallel", "2", "--kv-dir", str(tmp_path / "kv"), "--grace", "0", answers=[])
    assert life.privacy(server, 16, 2, 1)["foreign"] == 0


def said(reply_or_events):
    """Text, thinking and calls, whatever the dialect, streamed or not."""
    text, think, calls = "", "", []
    events = reply_or_events if isinstance(reply_or_events, list) else [reply_or_events]
    for event in events:
        if event == "[DONE]":
            continue
        for choice in event.get("choices", []):
            part = choice.get("delta") or choice.get("message") or {}
            text += part.get("content") or ""
            think += part.get("reasoning_content") or ""
            for call in part.get("tool_calls", []):
                if call["function"].get("name"):
                    calls.append([call["function"]["name"], ""])
                calls[-1][1] += call["function"]["arguments"]
        for block in event.get("content", []):
            text += block.get("text", "")
            think += block.get("thinking", "")
            if block["type"] == "tool_use":
                calls.append([block["name"], json.dumps(block["input"])])
        delta, kind = event.get("delta"), event.get("type")
        if kind == "content_block_start" and event["content_block"]["type"] == "tool_use":
            calls.append([event["content_block"]["name"], ""])
        if kind == "content_block_delta":
            text += delta.get("text", "")
            think += delta.get("thinking", "")
            if "partial_json" in delta:
                calls[-1][1] += delta["partial_json"]
        if event.get("object") == "response" or kind in ("response.completed", "response.incomplete"):
            for item in (event.get("response") or event)["output"]:
                think += "".join(p["text"] for p in item.get("summary", []))
                text += "".join(p["text"] for p in item.get("content") or [])
                if "arguments" in item:
                    calls.append([item["name"], item["arguments"]])
    return text, think, [(name, json.loads(arguments)) for name, arguments in calls]


def test_every_recorded_request_is_answered_alike_streamed_and_not(start):  # noqa: F811
    answers = [{"think": "Th\u00efnk \u20ac.", "say": "Say \u00e9\u20ac\U0001f600."}]  # calls: test_serve_clients.py
    server = start("--parallel", "1", answers=answers, ctx=200000, chunk=8192)
    n = 0
    for name, recorded in RECORDED.items():
        for request in recorded["requests"] if "_sdk" not in name else []:  # constrained: sampled anew
            body, path = request["body"], request["url"].split("?")[0]
            if request["method"] != "POST" or "count" in path or "embed" in path or path.endswith("/v1/completions"):
                continue
            body = {k: v for k, v in copy.deepcopy(body).items() if k not in ("response_format", "stream", "n")}
            status, whole = server.post(path, **body)
            if status == 400 and "unsupported_value" in json.dumps(whole):
                continue
            assert status == 200, (name, whole)
            assert said(whole) == said(server.events(path, **body)), name
            n += 1
    assert n >= 18


@pytest.mark.parametrize("number,state", [
    (signal.SIGTERM, "idle"), (signal.SIGTERM, "prefill"), (signal.SIGTERM, "decode"), (signal.SIGTERM, "queued"),
    (signal.SIGINT, "decode"), (signal.SIGHUP, "idle")])
def test_a_signal_ends_the_server_in_any_state_with_its_store_whole(tmp_path, number, state):
    members = {"chunk_ms": 20} if state == "prefill" else {}
    kept = str(tmp_path / "kv")
    server = Server(tmp_path, "--parallel", "1", "--kv-dir", kept, **members)
    texts = {"idle": [], "prefill": ["x" * 3000], "decode": ["slow"], "queued": ["slow"] * 6}[state]
    sockets = [connect(server) for _ in texts]
    for s, text in zip(sockets, texts):
        s.sendall(request_bytes(CHAT, {"messages": user(text)}))
    if texts:
        wait_for(lambda: server.metric("requests_processing"))
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.process.wait(30) == 0 and time.monotonic() - began < 12
    for s in sockets:
        head = s.recv(4096)
        assert not head or re.match(rb"HTTP/1.1 (200|500|503) ", head)
        s.close()
    again = Server(tmp_path, "--kv-dir", kept)
    life.say_hello(again)
    assert again.stop()[0] == 0


def test_a_second_signal_ends_the_server_at_once(start):  # noqa: F811
    server = start("--parallel", "1")
    with connect(server) as s:
        s.sendall(request_bytes(CHAT, {"messages": user("endless")}))
        wait_for(lambda: server.metric("requests_processing"))
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.process.poll() is not None or b"shutting" in health(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def health(server):
    try:
        return server.request("GET", "/health")[2]
    except OSError:
        return b"shutting"


def test_an_engine_that_hangs_is_told_by_health_and_ends_the_server_with_75(start):  # noqa: F811
    server = start("--parallel", "1", "--watchdog", "3", answers=[{"say": "ab", "token_ms": 3600000}])
    with connect(server) as s:
        s.sendall(request_bytes(CHAT, {"messages": user("go")}))
        wait_for(lambda: b"too long" in server.request("GET", "/health")[2])
        assert server.process.wait(30) == 75
    assert "--watchdog" in server.log()


# ---- who may speak ----------------------------------------------------------------------------------------------

STRANGERS = [
    ({"Origin": "http://evil.com"}, 403), ({"Origin": "null"}, 403), ({"Origin": "http://localhost.evil.com"}, 403),
    ({"Origin": "https://localhost:1"}, 403), ({"Origin": "file://"}, 403), ({"Origin": "http://127.0.0.1"}, 403),
    ({"Sec-Fetch-Site": "cross-site"}, 403), ({"Sec-Fetch-Site": "same-site"}, 403),
    ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
    ({"Content-Type": "multipart/form-data; boundary=x"}, 415), ({"Content-Type": "application/jsonp"}, 415),
    ({"Content-Type": "text/json"}, 415), ({"Content-Type": ""}, 415),
    ({"Content-Type": "application/json, text/plain"}, 415), ({"Host": "evil.com"}, 403),
    ({"Host": "localhost.evil.com"}, 403), ({"Host": "2130706433"}, 403), ({"Host": "127.1"}, 403),
    ({"Host": "127.0.0.1.nip.io"}, 403)]


def test_strangers_of_every_kind_obtain_nothing(start):  # noqa: F811
    server = start()
    for headers, wanted in STRANGERS:
        status, got, data = server.request("POST", CHAT, {"messages": user("hello")}, headers)
        assert status == wanted and b"Hi there" not in data, headers
        assert not any(name.lower().startswith("access-control") for name in got), headers
    preflight = {"Origin": "http://evil.com", "Access-Control-Request-Method": "POST"}
    status, got, _ = server.request("OPTIONS", CHAT, headers=preflight)
    assert status == 403 and not any(name.lower().startswith("access-control") for name in got)
    assert server.metric("requests_total") == 0 and server.metric("requests_deferred") == 0


def test_a_key_is_known_only_whole_and_shows_nowhere(tmp_path):
    key = "sesame-0123456789abcdef"
    keys = tmp_path / "keys"
    keys.write_text(key + "\n")
    os.chmod(keys, 0o600)
    trace = tmp_path / "trace"
    server = Server(tmp_path, "--api-key-file", str(keys), "--trace", str(trace))

    def status(headers):
        return server.request("POST", CHAT, {"messages": user("hello")}, headers)[0]

    wrong = [{}, {"Authorization": "Bearer"}, {"Authorization": key}, {"Authorization": "Bearer " + key[:-1]},
             {"Authorization": "Bearer " + key[1:]}, {"Authorization": "Bearer " + key.upper()},
             {"Authorization": "Bearer " + key + "x"}, {"Authorization": "Basic " + key}, {"x-api-key": key[:5]},
             {"Authorization": "Bearer x", "x-api-key": key}, {"x-api-key": "x" * 30000}]
    assert [status(headers) for headers in wrong] == [401] * len(wrong)
    assert status({"Authorization": "Bearer " + key}) == 200 and status({"x-api-key": key}) == 200
    with open(f"/proc/{server.process.pid}/cmdline", "rb") as cmdline:
        assert key.encode() not in cmdline.read()
    twice = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nx-api-key: {key}\r\nX-Api-Key: {key}\r\n\r\n"
    assert server.raw(twice.encode()).startswith(b"HTTP/1.1 400")
    code, log = server.stop()
    assert code == 0 and key not in log and key not in trace.read_text()


def test_what_comes_from_clients_cannot_forge_a_line_of_the_log(tmp_path):
    server = Server(tmp_path)
    for path in (b"/a\x1b[2J", b"/a\rb", b"/a\tb", "/\u202eevil".encode(), b"/%0a%1b[2J", b"/" + b"a" * 3000):
        server.raw(b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    for model in ("a\nb", "\x1b[2J", "\u202e", "x" * 1000):
        server.post(CHAT, messages=user("hello"), model=model)
    _, log = server.stop()
    lines = log.splitlines()
    assert len(lines) == 10 and all(re.fullmatch(r"\d+ [\x20-\x7e]+", line) for line in lines), lines


def test_a_request_can_name_no_file_and_no_address(start, tmp_path):  # noqa: F811
    canary = tmp_path / "canary"
    canary.write_text("tweet")
    with socket.create_server(("127.0.0.1", 0)) as trap:
        trap.settimeout(0.2)
        url = f"http://127.0.0.1:{trap.getsockname()[1]}/x"
        server = start()
        for where in (url, str(canary), f"file://{canary}", "${HOME}", "$(id)", "@" + str(canary)):
            for part in ({"type": "image_url", "image_url": {"url": where}}, {"type": "input_file", "file_url": where},
                         {"type": "text", "text": where}, {"type": "document", "source": {"url": where}}):
                for path, member in ((CHAT, "messages"), ("/v1/messages", "messages"), ("/v1/responses", "input")):
                    _, _, data = server.request("POST", path, {member: [{"role": "user", "content": [part]}]})
                    assert b"tweet" not in data
            server.post("/apply-template", messages=user(where), chat_template=where)
            server.request("GET", where if where.startswith("/") else "/" + where.replace(" ", ""))
        with pytest.raises(TimeoutError):
            trap.accept()


def test_memory_descriptors_and_threads_stay_what_they_were(start, tmp_path):  # noqa: F811
    server = start("--parallel", "2", "--kv-dir", str(tmp_path / "kv"), "--kv-bytes", "300k")
    life.mixed_load(server, 60, 40, 1)
    before = resources(server)
    got = life.mixed_load(server, 60, 80, 2)
    wait_for(lambda: life.is_back(server, before))
    assert got["ok"] > 60
    if not SANITIZED:  # a sanitizer keeps what is freed
        assert resources(server)[2] - before[2] < 8 << 20
