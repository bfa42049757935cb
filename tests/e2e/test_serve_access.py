"""Who may speak to `ds4 serve`, and what strangers obtain: nothing."""

import os
import re
import socket

import pytest

import cli
from serve_life import CHAT
from test_serve import Server, start, user  # noqa: F401

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


def test_an_address_that_cannot_be_listened_on_is_named_with_the_cause(tmp_path):
    model = cli.script(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = cli.run("serve", "-m", model, "--port", str(port))
    assert done.returncode == 1
    assert f"cannot listen on 127.0.0.1, port {port}: Address already in use\n".encode() in done.stderr
    for host in ("example", "127.0.0.1.2", "127.0.0.1:80", ""):
        done = cli.run("serve", "-m", model, "--host", host, "--port", "0")
        assert done.returncode == 2 and b"--host %s: must be a numeric address" % host.encode() in done.stderr


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


