"""`ds4 serve` on the scripted engine, over real sockets: Python's own HTTP client and raw bytes."""

import concurrent.futures
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from cli import DS4, FAKE, run, script

TRAINED = "models/ds4-tiny.gguf"
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
         for name in ("get_weather", "now")]
ANSWERS = [
    {"when": "weather", "think": "Need it.", "say": "Checking.",
     "calls": [{"name": "get_weather", "arguments": {"city": 'Roma "c"', "days": 2}},
               {"name": "now", "arguments": {}}]},
    {"when": "endless", "say": "word ", "endless": True, "token_ms": 2},
    {"when": "slow", "say": "s" * 40, "token_ms": 20},
    {"when": "breaks", "say": "abcdefgh", "fail_after": 4},
    {"when": "nan", "say": "abcdefgh", "nan_after": 0},
    {"when": "stop here", "think": "END in thought", "say": "one two END three"},
    {"when": "hello", "think": "Hm, \u00e4.", "say": "Hi there, \u20ac friend."},
]


# For a server whose endless answers last until somebody ends them, however long the test stands still in between: no
# guard against circles, and a context for minutes of tokens.
WITHOUT_END = {"guard": False, "ctx": 200000}


def wait_for(what, seconds=240):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class OneSend(http.client.HTTPConnection):
    """Sends a request as one piece: between two of them a busy machine may let a short deadline pass."""

    def request(self, *args, **more):
        self.pieces = []
        super().request(*args, **more)
        super().send(b"".join(self.pieces))

    def send(self, data):
        self.pieces.append(data)


class Server:
    def __init__(self, tmp_path, *args, preexec_fn=None, guard=True, **members):
        args = args if guard else (*args, "--no-loop-guard")
        self.hold = tmp_path / "hold"
        members = dict({"answers": ANSWERS, "ctx": 4096, "chunk": 64, "rewind": 64, "sessions": 4,
                        "hold": str(self.hold)}, **members)
        self.process = subprocess.Popen([FAKE, "serve", "-m", script(tmp_path, **members), "--port", "0", *args],
                                        stderr=subprocess.PIPE, text=True, bufsize=1, preexec_fn=preexec_fn)
        self.listen()

    def listen(self):
        """Waits until the server says its port; its log is read from then on: a full pipe would stop it."""
        for line in self.process.stderr:
            if match := re.search(r"http://[^ ]*:(\d+)", line):
                self.port = int(match.group(1))
                break
        self.lines = []
        self.reader = threading.Thread(target=lambda: self.lines.extend(self.process.stderr), daemon=True)
        self.reader.start()

    @contextlib.contextmanager
    def held(self):
        """Meanwhile the engine stands still at its next step."""
        self.hold.touch()
        try:
            yield
        finally:
            self.hold.unlink()

    def raw(self, data, timeout=300):
        with socket.create_connection(("127.0.0.1", self.port), timeout) as s:
            s.sendall(data)
            got = b""
            while part := s.recv(65536):
                got += part
            return got

    def request(self, method, path, body=None, headers=None):
        """One answer. Where deadlines are short, a machine that stands still makes this client one that is cut off."""
        for _ in range(20 if "--time-scale" in self.process.args else 0):
            with contextlib.suppress(ConnectionError):
                return self.request_once(method, path, body, headers)
        return self.request_once(method, path, body, headers)

    def request_once(self, method, path, body, headers):
        connection = OneSend("127.0.0.1", self.port, timeout=300)
        headers = dict({"Content-Type": "application/json"} if method == "POST" else {}, **(headers or {}))
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        data = reply.read()
        connection.close()
        return reply.status, dict(reply.getheaders()), data

    def post(self, path, **body):
        status, _, data = self.request("POST", path, body)
        return status, json.loads(data)

    def events(self, path, patient=False, **body):
        """The events of a stream; patient: asks again while the queue is full."""
        status, headers, data = self.request("POST", path, dict(body, stream=True))
        while patient and status == 503:
            time.sleep(0.1)
            status, headers, data = self.request("POST", path, dict(body, stream=True))
        assert status == 200 and headers["Content-Type"] == "text/event-stream", data
        lines = [line[6:] for line in data.decode().split("\n") if line.startswith("data: ")]
        return [line if line == "[DONE]" else json.loads(line) for line in lines]

    def metric(self, name):
        return float(re.search(rf"^ds4:{name} (\S+)", self.request("GET", "/metrics")[2].decode(), re.M).group(1))

    def wait_queued(self, n=1):
        """Until n requests wait for the engine: counted, and (requests are read one after the other) read."""
        wait_for(lambda: self.metric("requests_deferred") >= n)
        assert self.post("/tokenize", content="")[0] == 200

    def wait_idle(self):
        wait_for(lambda: not self.metric("requests_processing") and not self.metric("requests_deferred"))

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(240)
        return code, self.log()

    def log(self):
        """What it wrote on standard error after its first line; it has ended."""
        self.reader.join(60)
        return "".join(self.lines)


class TrainedServer(Server):
    """`ds4 serve` itself, on the model that ships."""

    def __init__(self, *args):
        self.process = subprocess.Popen([DS4, "serve", "-m", TRAINED, "--port", "0", *args], stderr=subprocess.PIPE,
                                        text=True, bufsize=1)
        self.listen()


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(*args, **members):
        servers.append(Server(tmp_path, *args, **members))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            assert server.stop()[0] == 0


def user(text):
    return [{"role": "user", "content": text}]


def joined(events, name):
    deltas = [e["choices"][0]["delta"] for e in events if e != "[DONE]" and e["choices"]]
    return "".join(d.get(name) or "" for d in deltas)


def test_streamed_chat_says_what_unstreamed_chat_says(start):
    server = start()
    for text in ("hello", "weather", "stop here"):
        more = {"messages": user(text), "tools": TOOLS, "stop": ["END"], "temperature": 0}
        status, whole = server.post("/v1/chat/completions", **more)
        assert status == 200
        events = server.events("/v1/chat/completions", stream_options={"include_usage": True}, **more)
        message, choice = whole["choices"][0]["message"], whole["choices"][0]
        assert events[-1] == "[DONE]"
        assert events[-2]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
        assert joined(events, "content") == (message["content"] or "")
        assert joined(events, "reasoning_content") == message["reasoning_content"]
        calls = {}
        for event in events[:-2]:
            for call in event["choices"][0]["delta"].get("tool_calls", []):
                entry = calls.setdefault(call["index"], {"name": "", "arguments": ""})
                entry["name"] += call["function"].get("name", "")
                entry["arguments"] += call["function"]["arguments"]
        assert list(calls.values()) == [c["function"] for c in message.get("tool_calls", [])]
        assert events[-3]["choices"][0]["finish_reason"] == choice["finish_reason"]
    assert message["content"] == "one two " and message["reasoning_content"] == "END in thought"


@pytest.mark.parametrize("stream", [True, False])
def test_thinking_that_is_not_shown_comes_back_in_its_signature(start, stream):
    server = start()
    body = {"messages": user("weather"), "thinking": {"type": "adaptive", "display": "omitted"},
            "tools": [{"name": name, "input_schema": {}} for name in ("get_weather", "now")]}
    if stream:
        events = server.events("/v1/messages", **body)
        blocks = [dict(e["content_block"]) for e in events if e["type"] == "content_block_start"]
        deltas = [e["delta"] for e in events if e["type"] == "content_block_delta" and e["index"] == 0]
        assert [d["type"] for d in deltas] == ["signature_delta"]
        blocks[0]["signature"] = deltas[0]["signature"]
        blocks[1]["text"] = "Checking."
        inputs = [e["delta"].get("partial_json", "") for e in events if e["type"] == "content_block_delta"]
        blocks[2]["input"] = json.loads("".join(inputs).removesuffix("{}"))
    else:
        blocks = server.post("/v1/messages", **body)[1]["content"]
    assert blocks[0]["type"] == "thinking" and blocks[0]["thinking"] == "" and blocks[0]["signature"]
    results = [{"type": "tool_result", "tool_use_id": b["id"], "content": "sunny"} for b in blocks[2:]]
    body["messages"] += [{"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
    before = server.metric("prompt_tokens_total")
    _, reply = server.post("/v1/messages", **body)
    assert reply["usage"]["cache_read_input_tokens"] >= before + len("Need it.") + len("Checking.")


def test_messages_give_blocks_in_order_streamed_or_not(start):
    server = start()
    body = {"messages": user("weather"), "max_tokens": 500,
            "tools": [{"name": name, "input_schema": {}} for name in ("get_weather", "now")]}
    status, whole = server.post("/v1/messages?beta=true", **body)
    assert status == 200 and whole["stop_reason"] == "tool_use"
    assert [b["type"] for b in whole["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert whole["content"][2]["input"] == {"city": 'Roma "c"', "days": 2} and whole["content"][3]["input"] == {}
    events = server.events("/v1/messages", **body)
    assert [e["type"] for e in events[:2]] == ["message_start", "ping"]
    assert [e["type"] for e in events[-2:]] == ["message_delta", "message_stop"]
    blocks, n_open = [], 0
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(blocks) and n_open == 0
            blocks.append(dict(event["content_block"], json=""))
            n_open = 1
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            blocks[-1]["json"] += delta.get("partial_json", "")
            for name in ("text", "thinking"):
                blocks[-1][name] = blocks[-1].get(name, "") + delta.get(name, "")
        elif event["type"] == "content_block_stop":
            n_open = 0
    assert blocks[0]["thinking"] == "Need it." and blocks[1]["text"] == "Checking."
    assert [json.loads(b["json"]) for b in blocks[2:]] == [b["input"] for b in whole["content"][2:]]
    status, count = server.post("/v1/messages/count_tokens", **body)
    assert count["input_tokens"] == sum(v for k, v in whole["usage"].items() if "input" in k)


def test_a_second_turn_computes_only_what_is_new(start):
    server = start("--parallel", "1")
    messages = user("weather " + "x" * 500)
    _, first = server.post("/v1/chat/completions", messages=messages, tools=TOOLS)
    answer = first["choices"][0]["message"]
    messages += [answer] + [{"role": "tool", "tool_call_id": c["id"], "content": "sunny"} for c in answer["tool_calls"]]
    _, second = server.post("/v1/chat/completions", messages=messages, tools=TOOLS)
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= known - 1


def test_what_cannot_be_honoured_is_refused_by_name(start):
    server = start()
    for name, value in (("response_format", {"type": "yaml"}), ("tool_choice", "sometimes"), ("n", 2),
                        ("reasoning_effort", "huge"), ("temperature", "hot"), ("stop", [1])):
        status, reply = server.post("/v1/chat/completions", messages=user("hello"), tools=TOOLS, **{name: value})
        assert status == 400 and reply["error"]["param"] == name
    status, reply = server.post("/v1/chat/completions", messages=user("x" * 5000))
    assert status == 400 and reply["error"]["code"] == "context_length_exceeded"
    assert "maximum context length is 4096 tokens" in reply["error"]["message"]
    status, reply = server.post("/v1/messages", messages=user("x" * 5000))
    assert status == 400 and re.search(r"prompt is too long: \d+ tokens > 4096 maximum", reply["error"]["message"])


def test_a_refusal_says_which_item_and_which_bound(start):
    server = start()
    picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
    good = user("hello")
    for path, body, wanted in (
            ("/v1/chat/completions", {"messages": good + [{"role": "robot"}]}, "messages[1]: "),
            ("/v1/chat/completions", {"messages": good + user("so") + user(picture)}, "messages[2]: "),
            ("/v1/chat/completions", {"messages": good, "tools": TOOLS + [{"type": "function"}]}, "tools[2]: "),
            ("/v1/messages", {"messages": good + [{"role": "robot", "content": "a"}]}, "messages[1]: "),
            ("/v1/messages", {"messages": good, "tools": [{"description": "nameless"}]}, "tools[0]: "),
            ("/v1/responses", {"input": good + [{"type": "message", "role": "robot"}]}, "input[1]: "),
            ("/v1/chat/completions", {"messages": good, "temperature": -1}, "temperature must be a number from 0 to ")):
        status, reply = server.post(path, **body)
        assert status == 400 and reply["error"]["message"].startswith(wanted), reply


def test_errors_of_the_engine_reach_the_client_and_leave_the_server_well(start):
    server = start()
    for text in ("breaks", "nan"):
        assert server.post("/v1/chat/completions", messages=user(text))[0] == 500
    events = server.events("/v1/chat/completions", messages=user("breaks"))
    assert events[-1] == "[DONE]" and events[-2]["error"]["type"] == "server_error"
    assert server.post("/v1/chat/completions", messages=user("hello"))[0] == 200


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(start, stream):
    server = start("--parallel", "1", "--grace", "0", **WITHOUT_END)
    body = json.dumps({"messages": user("endless"), "stream": stream}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        wait_for(lambda: server.metric("requests_processing"))
    server.wait_idle()
    assert server.metric("cancelled_total") == 1
    assert server.post("/v1/chat/completions", messages=user("hello"))[0] == 200


def test_a_long_prompt_does_not_silence_a_short_request(start, tmp_path):
    server = start("--parallel", "2", "--trace", str(tmp_path / "trace"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with server.held():
            long = pool.submit(server.post, "/v1/chat/completions", messages=user("x" * 3500 + " hello"))
            wait_for(lambda: server.metric("requests_processing"))
            short = pool.submit(server.post, "/v1/chat/completions", messages=user("hello"))
            server.wait_queued()
        assert short.result()[0] == long.result()[0] == 200
    lines = (tmp_path / "trace").read_text().splitlines()  # in the order of their ends
    assert [len(json.loads(line)["prompt"]) > 3500 for line in lines] == [False, True]


def test_bytes_that_drip_and_silence_end_at_their_deadline(start):
    server = start("--time-scale", "20")
    with socket.create_connection(("127.0.0.1", server.port), 300) as s:
        with pytest.raises(OSError):
            for byte in (b"GET / HTTP/1.1\r\nHost: localhost\r\n" * 1000)[:250]:  # for ten deadlines
                s.send(bytes([byte]))
                time.sleep(0.02)
    assert server.request("GET", "/health")[0] == 200


def test_silence_of_a_stream_is_filled_with_comments(start):
    server = start("--time-scale", "20")
    body = json.dumps({"messages": user("hello"), "stream": True}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", server.port), 300) as s:
        data = b""
        with server.held():
            s.sendall(head + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            while data.count(b": working\n\n") < 3:
                data += s.recv(4096)
            assert data.split(b"\r\n\r\n")[0].startswith(b"HTTP/1.1 200") and b"data:" not in data
        while part := s.recv(65536):
            data += part
    assert b"data: [DONE]" in data


def test_access_is_as_tabled(start, tmp_path):
    server = start()
    assert server.request("GET", "/v1/models", headers={"Host": "evil.com"})[0] == 403
    assert server.request("GET", "/v1/models", headers={"Origin": "http://evil.com"})[0] == 403
    assert server.request("GET", "/v1/models", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert server.request("POST", "/tokenize", {"content": "a"}, {"Content-Type": "text/plain"})[0] == 415
    assert server.request("GET", "/nothing")[0] == 404
    assert server.request("GET", "/v1/messages")[0] == 405
    assert server.request("HEAD", "/")[:1] == (200,) and server.request("HEAD", "/")[2] == b""
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    result = run("serve", "-m", script(tmp_path), "--port", "0", "--api-key-file", str(keys))
    assert result.returncode == 1 and b"chmod 600" in result.stderr
    os.chmod(keys, 0o600)
    guarded = start("--api-key-file", str(keys))
    assert guarded.request("GET", "/v1/models")[0] == 401
    assert guarded.request("GET", "/v1/models", headers={"Authorization": "Bearer sesame"})[0] == 200
    assert guarded.request("GET", "/v1/models", headers={"x-api-key": "sesame"})[0] == 200
    assert run("serve", "-m", script(tmp_path), "--host", "0.0.0.0", "--port", "0").returncode == 1
    code, log = guarded.stop()
    assert code == 0 and "sesame" not in log


def test_two_requests_in_one_packet_are_answered_in_order(start):
    server = start()
    get = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    last = get.replace(b"/health", b"/x").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    data = server.raw(get + get.replace(b"/health", b"/nothing") + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"404", b"404"]


def test_sigterm_lets_an_answer_finish_and_exits_with_0(start):
    server = start()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with server.held():
            job = pool.submit(server.post, "/v1/chat/completions", messages=user("hello"))
            wait_for(lambda: server.metric("requests_processing"))
            server.process.send_signal(signal.SIGTERM)
        assert job.result()[0] == 200
    assert server.process.wait(240) == 0
    assert re.search(r"POST /v1/chat/completions 200 .* stop$", server.log(), re.M)


def test_tokens_and_templates_are_told(start):
    server = start()
    assert server.post("/tokenize", content="hi")[1] == {"tokens": [104, 105]}
    assert server.post("/detokenize", tokens=[104, 105])[1] == {"content": "hi"}
    _, reply = server.post("/apply-template", messages=user("hello"))
    assert "hello" in reply["prompt"] and len(reply["tokens"]) > 5
    status, reply = server.post("/v1/completions", prompt="abc", max_tokens=5)
    assert status == 200 and reply["usage"]["completion_tokens"] <= 5
