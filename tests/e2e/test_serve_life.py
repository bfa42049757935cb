"""What may never happen to `ds4 serve`, on the scripted engine: clients that are slow, leave or come in crowds. Short
forms; soak_serve.py has the long ones."""

import concurrent.futures
import json
import os
import re
import resource
import socket

import serve_life as life
from cli import DS4
from serve_life import CHAT, connect, request_bytes, resources
from test_serve import TOOLS, Server, joined, start, user, wait_for  # noqa: F401

SANITIZED = any(name in os.path.basename(os.path.dirname(DS4)) for name in ("address", "thread"))


def test_slow_clients_go_at_their_deadline_and_good_ones_are_served(start):  # noqa: F811
    server = start("--time-scale", "20", "--parallel", "3")
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


def test_a_client_that_never_reads_is_dropped_and_the_others_read_on(start):  # noqa: F811
    answers = [{"when": "flood", "say": "0123456789 " * 400, "endless": True}, {"when": "hello", "say": "hi"}]
    server = start("--time-scale", "20", "--parallel", "3", "--no-loop-guard", answers=answers, ctx=32768)
    with connect(server) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(request_bytes(CHAT, {"messages": user("flood"), "stream": True, "thinking": False,
                                            "logprobs": True, "top_logprobs": 20}))
        wait_for(lambda: server.metric("requests_processing"))
        for _ in range(4):
            assert joined(server.events(CHAT, messages=user("hello"), thinking=False), "content") == "hi"
        server.wait_idle()
    assert server.metric("cancelled_total") == 1


def test_a_withheld_tool_call_is_no_silence(start):  # noqa: F811
    answers = [{"say": "", "calls": [{"name": "get_weather", "arguments": {"city": "x" * 300}}], "token_ms": 8}]
    server = start("--time-scale", "20", answers=answers)
    body = {"messages": user("go"), "tools": TOOLS, "stream": True, "thinking": False}
    data = server.request("POST", CHAT, body)[2]
    assert data.count(b": working\n\n") >= 2 and b"xxx" in data and data.rstrip().endswith(b"[DONE]")


def test_a_crowd_is_served_or_told_to_come_again(start):  # noqa: F811
    life.overload(start("--parallel", "1", "--max-queue", "8", "--grace", "0"), 30, 8)


def test_waiting_requests_are_begun_in_order(start, tmp_path):  # noqa: F811
    server = start("--parallel", "1", "--trace", str(tmp_path / "trace"))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        with server.held():
            for i in range(12):
                pool.submit(server.post, CHAT, messages=user(f"hello {i}"), thinking=False)
                wait_for(lambda n=i: server.metric("requests_total") + server.metric("requests_deferred") > n)
    traced = [json.loads(line)["prompt"] for line in (tmp_path / "trace").read_text().splitlines()]
    ended = [int(re.search(r"hello (\d+)", prompt).group(1)) for prompt in traced]
    assert sorted(ended) == list(range(12))
    assert all(abs(place - i) <= 2 for place, i in enumerate(ended))  # two are computed at a time


def test_no_client_sees_anothers_words(start, tmp_path):  # noqa: F811
    server = start("--parallel", "2", "--kv-dir", str(tmp_path / "kv"), "--grace", "0", answers=[])
    assert life.privacy(server, 16, 2, 1)["foreign"] == 0


def test_memory_descriptors_and_threads_stay_what_they_were(start, tmp_path):  # noqa: F811
    server = start("--parallel", "2", "--kv-dir", str(tmp_path / "kv"), "--kv-bytes", "300k")
    life.mixed_load(server, 600, 40, 1)
    before = resources(server)
    got = life.mixed_load(server, 600, 80, 2)
    wait_for(lambda: life.is_back(server, before))
    assert got["ok"] > 60
    if not SANITIZED:  # a sanitizer keeps what is freed
        assert resources(server)[2] - before[2] < 8 << 20
