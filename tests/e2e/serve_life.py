"""What may never happen to `ds4 serve`, as functions over a running server and a number of repetitions: the short forms
are tests (test_serve_life.py), the long ones are run by `make soak` (soak_serve.py). Each returns what it measured."""

import concurrent.futures
import json
import os
import random
import socket
import struct
import threading
import time

from test_serve import joined, user, wait_for

HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
CHAT = "/v1/chat/completions"
DIALECTS = {CHAT: lambda text: {"messages": user(text)}, "/v1/messages": lambda text: {"messages": user(text)},
            "/v1/responses": lambda text: {"input": text}, "/v1/completions": lambda text: {"prompt": text,
                                                                                           "max_tokens": 40}}


def resources(server):
    """Descriptors, threads, and bytes of memory that are the process's own, once it has begun to serve."""
    server.request("GET", "/health")
    wait_for(lambda: len(os.listdir(f"/proc/{server.process.pid}/task")) >= 4)
    pid = server.process.pid
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        fields = dict(line.split(":", 1) for line in status if ":" in line)
    kib = sum(int(fields.get(name, "0 kB").split()[0]) for name in ("RssAnon", "VmSwap"))
    return len(os.listdir(f"/proc/{pid}/fd")), int(fields["Threads"]), kib << 10


def is_back(server, before):
    """No more descriptors and threads than there were; that of the last question may take a moment to close."""
    fds, threads, _ = resources(server)
    return fds <= before[0] + 1 and threads <= before[1]


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def request_bytes(path, body):
    data = json.dumps(body).encode()
    return HEAD.format(path, len(data)).encode() + data


def connect(server):
    return socket.create_connection(("127.0.0.1", server.port), 300)


def say_hello(server):
    start = time.monotonic()
    status, reply = server.post(CHAT, messages=user("hello"), thinking=False)
    assert status == 200 and reply["choices"][0]["message"]["content"] == "Hi there, \u20ac friend."
    return time.monotonic() - start


# ---- slow and greedy clients ------------------------------------------------------------------------------------


def slow_clients(server, n_heads, n_bodies, n_deaf, n_good):
    """Clients that drip heads or bodies or never read, beside good ones. Latencies of the good ones alone and beside
    them, bytes grown, and until when the slow ones were all gone."""
    before = resources(server)
    alone = [say_hello(server) for _ in range(n_good)]
    sockets = [connect(server) for _ in range(n_heads + n_bodies + n_deaf)]
    for s in sockets[:n_heads]:
        s.sendall(b"GET / HTTP/1.1\r\n")
    for s in sockets[n_heads:n_heads + n_bodies]:
        s.sendall(HEAD.format(CHAT, 100000).encode())
    for s in sockets[n_heads + n_bodies:]:
        s.sendall(request_bytes(CHAT, {"messages": user("hello"), "stream": True}))
    server.wait_idle()  # these are answered, and nobody reads it
    stop = threading.Event()

    def drip():
        while not stop.is_set():
            for s in sockets[:n_heads + n_bodies]:
                try:
                    s.send(b"x")
                except OSError:
                    pass
            time.sleep(0.1)

    thread = threading.Thread(target=drip)
    began = time.monotonic()
    thread.start()
    try:
        latencies = [say_hello(server) for _ in range(n_good)]
        grown = resources(server)[2] - before[2]
        wait_for(lambda: is_back(server, before))
        gone_s = time.monotonic() - began
    finally:
        stop.set()
        thread.join()
        for s in sockets:
            s.close()
    server.wait_idle()
    return {"alone_p50_ms": percentile(alone, 0.5) * 1e3, "alone_p99_ms": percentile(alone, 0.99) * 1e3,
            "p50_ms": percentile(latencies, 0.5) * 1e3, "p99_ms": percentile(latencies, 0.99) * 1e3,
            "gone_after_s": gone_s, "grown_bytes": grown}


def flood(server, n):
    """Connections that say nothing, one behind another; then /health. Processor time of the server for each."""
    sockets = []
    begin, before = time.monotonic(), processor_s(server)
    for _ in range(n):
        sockets.append(connect(server))
        if len(sockets) > 4000:
            sockets.pop(0).close()
    assert server.request("GET", "/health")[0] == 200
    rate = n / (time.monotonic() - begin)
    each_us = (processor_s(server) - before) / n * 1e6
    for s in sockets:
        s.close()
    return {"connections": n, "per_second": rate, "processor_us_each": each_us}


def processor_s(server):
    """Seconds of processor time that the server has used."""
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as stat:
        fields = stat.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def slow_reader(server, n_streams, n_events):
    """Gaps between the events of endless streams, alone and beside one that takes a byte a second."""

    def gaps(_):
        body = request_bytes(CHAT, {"messages": user("endless"), "stream": True, "thinking": False})
        with connect(server) as s:
            s.sendall(body)
            times = []
            while len(times) < n_events and s.recv(4096):
                times.append(time.monotonic())
        return [b - a for a, b in zip(times[5:], times[6:])]

    def measure(n):
        with concurrent.futures.ThreadPoolExecutor(n) as pool:
            return percentile([gap for stream in pool.map(gaps, range(n)) for gap in stream], 0.99) * 1e3

    alone = measure(n_streams)
    with connect(server) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(request_bytes(CHAT, {"messages": user("endless"), "stream": True, "thinking": False}))
        stop = threading.Event()
        thread = threading.Thread(target=lambda: [slow.recv(1) for _ in iter(lambda: stop.wait(1), True)])
        thread.start()
        beside = measure(n_streams - 1)
        stop.set()
        thread.join()
    server.wait_idle()
    return {"alone_p99_ms": alone, "beside_p99_ms": beside}


# ---- clients that leave ---------------------------------------------------------------------------------------


def leave(s, how):
    if how == "reset":
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if how == "half":
        s.shutdown(socket.SHUT_WR)
        s.settimeout(30)
        try:
            while s.recv(65536):
                pass
        except OSError:
            pass
    s.close()


def disconnects(server, n, seed):
    """Clients leave at random instants in three ways while one stream is read; how long the server was not free."""
    rng = random.Random(seed)
    before = resources(server)
    texts = ["endless", "slow", "x" * 2500 + " hello", "weather", "hello"]
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        body = {"messages": user("slow"), "thinking": False}
        witness = pool.submit(lambda: [joined(server.events(CHAT, patient=True, **body), "content")
                                       for _ in range(1 + n // 50)])
        for _ in range(n):
            path = rng.choice(list(DIALECTS))
            data = request_bytes(path, dict(DIALECTS[path](rng.choice(texts)), stream=rng.random() < 0.5))
            s = connect(server)
            s.sendall(data[:rng.randrange(1, len(data))] if rng.random() < 0.2 else data)
            time.sleep(rng.random() * 0.01)
            leave(s, rng.choice(["close", "reset", "half"]))
        assert all(text == "s" * 40 for text in witness.result())
    start = time.monotonic()
    server.wait_idle()
    free_ms = (time.monotonic() - start) * 1e3
    wait_for(lambda: is_back(server, before))
    say_hello(server)
    return {"n": n, "free_after_ms": free_ms}


def queued_client_leaves(server, n):
    """The same stream, n times, each with a client that waits behind it and leaves: always the same text."""
    for _ in range(n):
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            stream = pool.submit(server.events, CHAT, messages=user("hello"), thinking=False)
            with connect(server) as s:
                s.sendall(request_bytes(CHAT, {"messages": user("hello")}))
            assert joined(stream.result(), "content") == "Hi there, \u20ac friend."
    return {"n": n}


# ---- many clients ---------------------------------------------------------------------------------------------


def overload(server, n, queue):
    """n requests while the first is computed: as many as the queue holds are admitted, and all those answered."""
    refused = server.metric("requests_refused_total")
    data = request_bytes(CHAT, {"messages": user("hello")})
    sockets = []
    with server.held():
        for i in range(n):
            sockets.append(connect(server))
            sockets[-1].sendall(data)
            if i == 0:
                wait_for(lambda: server.metric("requests_processing"))
        wait_for(lambda: server.metric("requests_refused_total") - refused == n - 1 - queue)
    heads = []
    for s in sockets:
        heads.append(s.recv(4096))
        s.close()
    codes = [int(head.split(b" ", 2)[1]) for head in heads]
    assert codes.count(503) == n - 1 - queue and codes.count(200) == 1 + queue
    assert all(b"Retry-After" in head for head, code in zip(heads, codes) if code == 503)
    server.wait_idle()
    assert server.metric("requests_refused_total") - refused == n - 1 - queue
    return {"n": n, "admitted": codes.count(200), "refused": codes.count(503)}


def privacy(server, n_clients, n_each, seed):
    """Clients with marks of their own, in conversations that evict each other; none sees another's mark."""

    def client(i):
        rng = random.Random(seed * 1000 + i)
        mark, foreign = f"<mark-{i}-{seed}>", 0
        turns = []
        for k in range(n_each):
            turns = turns[-4:] + user(f"{mark} {k} " + "pad " * rng.randrange(30))
            body = {"messages": turns, "thinking": False}
            if rng.random() < 0.1:
                with connect(server) as s:
                    s.sendall(request_bytes(CHAT, dict(body, stream=True)))
            status, reply = server.post(CHAT, **body)
            assert status == 200
            text = reply["choices"][0]["message"]["content"]
            assert mark in text
            foreign += text.count("<mark-") - text.count(mark)
            turns.append({"role": "assistant", "content": text})
        return foreign

    with concurrent.futures.ThreadPoolExecutor(n_clients) as pool:
        foreign = sum(pool.map(client, range(n_clients)))
    assert foreign == 0
    return {"requests": n_clients * n_each, "foreign": foreign}


def mixed_load(server, seconds, n_max, seed):
    """All dialects, 5% of clients leave, 1% send what is no request. Own memory, descriptors, latencies over time."""
    rng = random.Random(seed)
    lock, samples, counts = threading.Lock(), [], {"ok": 0, "left": 0, "malformed": 0}
    end = time.monotonic() + seconds

    def one(i):
        kind, path = rng.random(), list(DIALECTS)[i % len(DIALECTS)]
        start = time.monotonic()
        if kind < 0.01:
            with connect(server) as s:
                s.sendall(b"GET / HTTP/1.1\nHost: localhost\n\n")
                assert b" 400 " in s.recv(4096)
            key = "malformed"
        elif kind < 0.06:
            with connect(server) as s:
                s.sendall(request_bytes(path, dict(DIALECTS[path]("slow"), stream=True)))
            key = "left"
        else:
            text = ("hello " if i % 3 else "") + f"request {i} " + "y" * rng.randrange(600)
            assert server.request("POST", path, DIALECTS[path](text))[0] == 200
            key = "ok"
        with lock:
            counts[key] += 1
            samples.append((time.monotonic(), time.monotonic() - start))

    memory, i = [], 0
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        while time.monotonic() < end and i < n_max:
            list(pool.map(one, range(i, i + 40)))
            i += 40
            memory.append(resources(server)[2])
    server.wait_idle()
    latencies = [latency for _, latency in sorted(samples)]
    tenth = max(1, len(latencies) // 10)
    settled = memory[len(memory) // 5:]
    tenths = [memory[len(memory) * k // 10] >> 10 for k in range(10)] + [memory[-1] >> 10]
    return dict(counts, requests=i, drift_bytes=settled[-1] - settled[0], kib_by_tenth=tenths,
                p99_first_ms=percentile(latencies[:tenth], 0.99) * 1e3,
                p99_last_ms=percentile(latencies[-tenth:], 0.99) * 1e3)
