"""How `ds4 serve` ends, on the scripted engine: signals in every state, and an engine that hangs."""

import re
import signal
import socket

import pytest

import serve_life as life
from cli import run
from serve_life import CHAT, connect, request_bytes
from test_serve import WITHOUT_END, Server, start, user, wait_for  # noqa: F401


@pytest.mark.parametrize("number,state", [
    (signal.SIGTERM, "idle"), (signal.SIGTERM, "prefill"), (signal.SIGTERM, "decode"), (signal.SIGTERM, "queued"),
    (signal.SIGINT, "decode"), (signal.SIGHUP, "idle")])
def test_a_signal_ends_the_server_in_any_state_with_its_store_whole(tmp_path, number, state):
    texts = {"idle": [], "prefill": ["x" * 2500 + " hello"], "decode": ["hello"], "queued": ["hello"] * 6}[state]
    kept = str(tmp_path / "kv")
    server = Server(tmp_path, "--parallel", "1", "--kv-dir", kept, hold_answers=state == "decode")
    with server.held():
        sockets = [connect(server) for _ in texts]
        for s, text in zip(sockets, texts):
            s.sendall(request_bytes(CHAT, {"messages": user(text)}))
        if texts:
            wait_for(lambda: server.metric("requests_processing"))
        if state == "decode":
            wait_for(lambda: server.metric("prompt_tokens_total"))
        if state == "queued":
            server.wait_queued(4)
        server.process.send_signal(number)
    assert server.process.wait(240) == 0
    for s in sockets:
        head = s.recv(4096)
        assert not head or re.match(rb"HTTP/1.1 (200|500|503) ", head)
        s.close()
    again = Server(tmp_path, "--kv-dir", kept)
    life.say_hello(again)
    assert again.stop()[0] == 0


@pytest.mark.parametrize("again", [False, True])
def test_a_signal_ends_the_server_though_its_disk_does_not_answer(tmp_path, again):
    kept, hang = str(tmp_path / "kv"), tmp_path / "hang"
    # A second signal does not wait; without one the deadline is a twentieth of the real one.
    server = Server(tmp_path, "--kv-dir", kept, "--time-scale", "1" if again else "20", hang_disk=str(hang))
    life.say_hello(server)
    hang.touch()  # and stays, so that the server can end only by giving up
    for i in range(8):
        assert server.post(CHAT, messages=user(f"{i} " * 300))[0] == 200
    server.process.send_signal(signal.SIGTERM)
    if again:
        wait_for(lambda: server.process.poll() is not None or refuses(server))
        server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(240) == 0
    hang.unlink()
    checked = run("kv", "verify", "--dir", kept, "-m", str(tmp_path / "script.json"))
    assert checked.returncode == 0, checked.stderr
    server = Server(tmp_path, "--kv-dir", kept)
    life.say_hello(server)
    assert server.stop()[0] == 0


def refuses(server):
    try:
        socket.create_connection(("127.0.0.1", server.port), 5).close()
    except OSError:
        return True
    return False


def test_a_second_signal_ends_the_server_at_once(start):  # noqa: F811
    server = start("--parallel", "1", **WITHOUT_END)
    with connect(server) as s:
        s.sendall(request_bytes(CHAT, {"messages": user("endless")}))
        wait_for(lambda: server.metric("requests_processing"))
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.process.poll() is not None or b"shutting" in health(server))
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(240) == 0


def health(server):
    try:
        return server.request("GET", "/health")[2]
    except OSError:
        return b"shutting"


def test_an_engine_that_hangs_is_told_by_health(tmp_path):
    server = Server(tmp_path, "--parallel", "1", "--watchdog", "25")
    with server.held(), connect(server) as s:
        s.sendall(request_bytes(CHAT, {"messages": user("hello")}))
        wait_for(lambda: b"too long" in server.request("GET", "/health")[2])
    wait_for(lambda: server.request("GET", "/health")[0] == 200)
    assert server.stop()[0] == 0


def test_an_engine_that_hangs_ends_the_server_with_75(start):  # noqa: F811
    server = start("--parallel", "1", "--watchdog", "1")
    with server.held(), connect(server) as s:
        s.sendall(request_bytes(CHAT, {"messages": user("hello")}))
        assert server.process.wait(240) == 75
    assert "--watchdog" in server.log()
