"""The wire of `ds4 serve`: what HTTP clients of every age do, on the scripted engine, over raw sockets."""

import concurrent.futures
import contextlib
import json
import urllib.request

from serve_life import connect
from test_serve import TOOLS, joined, start, user, wait_for  # noqa: F401

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
JSON = "Content-Type: application/json\r\n"


def post_bytes(path, body, *headers, version="1.1", close=True):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "Host: localhost", JSON.strip(), f"Content-Length: {len(data)}", *headers]
    return "\r\n".join(lines + ["Connection: close"] * close + ["", ""]).encode() + data


def parted(reply):
    """Status, headers in lower case, and the body of one reply without chunks."""
    head, _, body = reply.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    return int(first.split()[1]), dict(line.lower().split(": ", 1) for line in rest), body


def unchunked(body):
    whole = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        n = int(size, 16)
        if n == 0:
            return whole
        whole, body = whole + body[:n], body[n + 2:]


def test_a_body_may_come_in_chunks_of_any_size(start):  # noqa: F811
    server = start()
    data = json.dumps({"messages": user("hello"), "thinking": False}).encode()
    for size in (1, 7, 1000):
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(data[i:i + size]), data[i:i + size])
                          for i in range(0, len(data), size))
        head = (f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n"
                "Connection: close\r\n\r\n")
        status, _, body = parted(server.raw(head.encode() + chunks + b"0\r\n\r\n"))
        assert status == 200 and json.loads(body)["choices"][0]["message"]["content"] == "Hi there, \u20ac friend."


def test_extensions_of_chunks_are_ignored_and_too_long_ones_refused(start):  # noqa: F811
    server = start()
    data = json.dumps({"messages": user("hello"), "thinking": False}).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    for line, wanted in ((b";chunk-signature=0123abcd", 200), (b' ; name = "a;b" ; other', 200),
                         (b";" + b"a" * 40000, 431), (b";a\nb", 400)):
        chunks = b"%x%s\r\n%s\r\n0;last\r\n\r\n" % (len(data), line, data)
        status, _, body = parted(server.raw(head.encode() + chunks))
        assert status == wanted, (line[:30], body)
        assert wanted != 200 or json.loads(body)["choices"][0]["message"]["content"] == "Hi there, \u20ac friend."


def test_a_target_in_absolute_form_stands_for_the_host_header(start):  # noqa: F811
    server = start()
    for authority, host, wanted in ((f"localhost:{server.port}", "localhost", 200), ("127.0.0.1", "evil.com", 200),
                                    ("evil.com", "localhost", 403), ("evil.com:80", f"127.0.0.1:{server.port}", 403),
                                    ("localhost@evil.com", "localhost", 400), ("", "localhost", 400)):
        url = f"http://{authority}{CHAT}?a=b"
        status, _, body = server.request("POST", url, {"messages": user("hello"), "thinking": False}, {"Host": host})
        assert status == wanted and (b"Hi there" in body) == (wanted == 200), (authority, body)
        assert server.request("GET", f"http://{authority}", headers={"Host": host})[0] == wanted, authority
    # What a client does that takes the server for a proxy.
    proxy = urllib.request.ProxyHandler({"http": f"http://127.0.0.1:{server.port}"})
    with urllib.request.build_opener(proxy).open("http://localhost/health", timeout=300) as reply:
        assert json.load(reply) == {"status": "ok"}


def test_who_expects_100_is_told_to_continue_and_a_refusal_comes_without_it(start):  # noqa: F811
    server = start("--max-body-mb", "1")
    whole = post_bytes(CHAT, {"messages": user("hello")}, "Expect: 100-continue")
    head, _, body = whole.partition(b"\r\n\r\n")
    with connect(server) as s:
        s.sendall(head + b"\r\n\r\n")
        assert s.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        s.sendall(body)
        assert s.recv(4096).startswith(b"HTTP/1.1 200 ")
    for path, length in (("/nothing", 5), (CHAT, 2 << 20)):
        reply = server.raw(f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {length}\r\n"
                           "Expect: 100-continue\r\n\r\n".encode())
        assert parted(reply)[0] == (404 if path == "/nothing" else 413)


def test_requests_behind_a_stream_wait_for_its_end(start):  # noqa: F811
    server = start()
    body = {"messages": user("hello"), "stream": True, "thinking": False}
    last = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    reply = server.raw(post_bytes(CHAT, body, close=False) * 2 + last)
    heads = reply.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [h.count(b"data: [DONE]") for h in heads] == [1, 1, 0] and heads[2].endswith(b'{"status":"ok"}')
    assert all(b"Connection: keep-alive" in h for h in heads[:2]) and b"Connection: close" in heads[2]
    assert unchunked(heads[0].split(b"\r\n\r\n", 1)[1]).rstrip().endswith(b"data: [DONE]")


def test_http_1_0_gets_one_answer_that_the_close_ends(start):  # noqa: F811
    server = start()
    plain = {"messages": user("hello"), "thinking": False}
    status, headers, body = parted(server.raw(post_bytes(CHAT, plain, version="1.0", close=False)))
    assert status == 200 and headers["connection"] == "close" and int(headers["content-length"]) == len(body)
    status, headers, body = parted(server.raw(post_bytes(CHAT, dict(plain, stream=True), version="1.0", close=False)))
    assert status == 200 and "transfer-encoding" not in headers and "content-length" not in headers
    lines = [line[6:] for line in body.decode().split("\n") if line.startswith("data: ")]
    assert body.startswith(b"data: ") and lines[-1] == "[DONE]"
    assert joined([json.loads(line) for line in lines[:-1]], "content") == "Hi there, \u20ac friend."


def test_silence_of_an_http_1_0_stream_is_filled_without_chunks(start):  # noqa: F811
    server = start("--time-scale", "20")
    data = b""
    while not data:  # a machine that stands still for the deadline of a head makes this client one that is cut off
        with connect(server) as s, contextlib.suppress(ConnectionError):
            with server.held():
                s.sendall(post_bytes(CHAT, {"messages": user("hello"), "stream": True}, version="1.0"))
                while data.count(b": working\n\n") < 2 and (part := s.recv(4096)):
                    data += part
            while part := s.recv(65536):
                data += part
    assert parted(data)[2].startswith(b": working\n\n: working\n\n") and data.endswith(b"data: [DONE]\n\n")


def test_refusals_before_the_body_is_read_have_the_shape_of_their_dialect(start):  # noqa: F811
    server = start("--max-body-mb", "1")
    big = b"x" * (2 << 20)
    wrong = [(post_bytes("{}", b"", "Content-Encoding: gzip"), 415, "invalid_request_error"),
             (f"POST {{}} HTTP/1.1\r\nHost: localhost\r\n{JSON}Content-Length: {len(big)}\r\n\r\n".encode(), 413,
              "request_too_large"),
             (f"POST {{}} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n200000\r\n".encode(),
              413, "request_too_large"),
             (f"POST {{}} HTTP/1.1\r\nHost: localhost\r\n{JSON}Transfer-Encoding: chunked\r\n\r\nzz\r\n".encode(), 400,
              "invalid_request_error"),
             (b"DELETE {} HTTP/1.1\r\nHost: localhost\r\n\r\n", 405, "invalid_request_error"),
             (b"POST {} HTTP/1.1\r\nHost: localhost\r\n\r\n", 411, "invalid_request_error"),
             (b"GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", 405, "invalid_request_error"),
             (b"POST {} HTTP/1.1\r\nHost: evil.com\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", 403,
              "permission_error")]
    for data, wanted, kind in wrong:
        for path in (CHAT, MESSAGES):
            status, headers, body = parted(server.raw(data.replace(b"{}", path.encode(), 1)))
            error = json.loads(body)
            assert status == wanted and error["error"]["type"] == kind, (data[:90], body)
            assert (error.get("type") == "error" and error["request_id"].startswith("req_")) == (path == MESSAGES)
            assert headers["connection"] == "close"
            assert status != 405 or headers["allow"]


def test_what_a_model_is_called_and_which_it_is_not(start):  # noqa: F811
    server = start("--alias", "mine")
    models = json.loads(server.request("GET", "/v1/models")[2])
    one = models["data"][0]
    assert models["object"] == "list" and models["has_more"] is False and models["first_id"] == one["id"] == "mine"
    assert one["object"] == one["type"] == "model" and one["context_length"] == one["max_model_len"] == 4096
    assert one["top_provider"] == {"context_length": 4096, "max_completion_tokens": 4096, "is_moderated": False}
    status, _, data = server.request("GET", "/v1/models/other")
    assert status == 404 and json.loads(data)["error"]["code"] == "model_not_found"
    head = server.request("HEAD", "/v1/models")
    assert head[0] == 200 and head[2] == b"" and int(head[1]["Content-Length"]) > 100
    assert server.request("HEAD", "/nothing")[0] == 404 and server.request("HEAD", CHAT)[0] == 405


def test_allowed_pages_may_send_keys_and_read_every_reply(start):  # noqa: F811
    origin = "http://localhost:3000"
    server = start("--allow-origin", origin)
    status, headers, body = server.request("OPTIONS", CHAT, headers={
        "Origin": origin, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"})
    allowed = [name.strip().lower() for name in headers["Access-Control-Allow-Headers"].split(",")]
    assert status == 204 and body == b"" and {"authorization", "*"} <= set(allowed)
    for path, more, wanted in ((CHAT, {"messages": user("hello")}, 200), (CHAT, {"messages": []}, 400),
                               (CHAT, {"messages": user("hello"), "stream": True}, 200), ("/nothing", {}, 404)):
        status, headers, _ = server.request("POST", path, more, {"Origin": origin})
        assert status == wanted and headers["Access-Control-Allow-Origin"] == origin and headers["Vary"] == "Origin"
    status, headers, _ = server.request("OPTIONS", "/anything")
    assert status == 204 and not any(name.lower().startswith("access-control") for name in headers)


def test_an_id_of_a_last_event_changes_nothing(start):  # noqa: F811
    server = start()
    body = {"messages": user("hello"), "stream": True, "thinking": False}
    _, _, data = server.request("POST", CHAT, body, {"Last-Event-ID": "7", "Accept": "application/json"})
    assert data.count(b"Hi") or data.count(b'"content":"H"')
    assert data.rstrip().endswith(b"[DONE]") and b"\nid:" not in data


def test_questions_about_text_are_answered_while_the_queue_of_answers_is_full(start):  # noqa: F811
    server = start("--parallel", "1", "--max-queue", "2")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        with server.held():
            jobs = [pool.submit(server.post, CHAT, messages=user("hello"))]
            wait_for(lambda: server.metric("requests_processing"))
            for n in (1, 2):
                jobs.append(pool.submit(server.post, CHAT, messages=user("hello")))
                wait_for(lambda n=n: server.metric("requests_deferred") >= n)
            assert server.request("POST", CHAT, {"messages": user("hello")})[0] == 503
            assert server.request("POST", MESSAGES, {"messages": user("hello")})[0] == 529
            assert server.post(MESSAGES + "/count_tokens", messages=user("hello"))[1]["input_tokens"] > 5
            assert server.post("/v1/responses/input_tokens", input="hello")[0] == 200
            assert server.post("/tokenize", content="hi")[1] == {"tokens": [104, 105]}
            assert server.post("/apply-template", messages=user("hello"), tools=TOOLS)[0] == 200
        assert [job.result()[0] for job in jobs] == [200] * 3


def test_the_metrics_count_what_is_stored_and_how_fast_it_went(start, tmp_path):  # noqa: F811
    folder = tmp_path / "kv"
    server = start("--kv-dir", str(folder), answers=[{"say": "w" * 50, "token_ms": 1}])
    assert server.metric("kv_disk_files") == server.metric("kv_disk_bytes") == 0
    for i in range(3):
        assert server.post(CHAT, messages=user(f"conversation {i} " + "x" * 400), thinking=False)[0] == 200
    for rate, tokens, seconds in (("prompt_tokens_seconds", "prompt_tokens_total", "prompt_seconds_total"),
                                  ("predicted_tokens_seconds", "tokens_predicted_total",
                                   "tokens_predicted_seconds_total")):
        total = server.metric(tokens)
        assert total > 0 and abs(server.metric(rate) * server.metric(seconds) - total) <= 0.01 * total + 1, rate
    wait_for(lambda: server.metric("kv_disk_files") >= 6)  # the rows and the tip of each
    n_files, n_bytes = server.metric("kv_disk_files"), server.metric("kv_disk_bytes")
    assert server.stop()[0] == 0
    there = [path.stat().st_size for path in folder.iterdir() if path.suffix in (".seg", ".tip")]
    assert len(there) >= n_files and sum(there) >= n_bytes > 0
    again = start("--kv-dir", str(folder))
    assert again.metric("kv_disk_files") == len(there) and again.metric("kv_disk_bytes") == sum(there)
