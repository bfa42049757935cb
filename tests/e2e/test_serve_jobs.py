"""Jobs of `ds4 serve` on the scripted engine: what outlives a connection, which conversation leaves for which, why a
prompt was fast or slow, and answers that are ended because they go round in circles or think for too long."""

import concurrent.futures
import json
import re
import socket

import pytest

from test_serve import TOOLS, WITHOUT_END, joined, start, user, wait_for  # noqa: F401

HEAD = "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
LONG = "x" * 3000


def ask(server, path="/v1/chat/completions", **body):
    """Sends a request and leaves the answer unread; the open socket."""
    data = json.dumps(body).encode()
    s = socket.create_connection(("127.0.0.1", server.port), 300)
    s.sendall(HEAD.format(path, len(data)).encode() + data)
    return s


def chat(server, text, **more):
    status, reply = server.post("/v1/chat/completions", messages=user(text), **more)
    assert status == 200, reply
    return reply


def computed(server):
    return server.metric("prompt_tokens_total")


def test_a_prompt_goes_on_when_its_client_has_left_and_the_retry_uses_the_work(start):  # noqa: F811
    for stream in (True, False):
        server = start("--parallel", "1")
        body = {"messages": user(LONG + " hello"), "stream": stream}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            with server.held():
                with ask(server, **body):
                    wait_for(lambda: server.metric("requests_processing"))
                retry = pool.submit(server.request, "POST", "/v1/chat/completions", body)
                server.wait_queued()
            status, headers, data = retry.result()
        assert status == 200 and (stream or b"Hi there" in data)
        assert int(re.search(r"tokens=(\d+)/", headers["x-ds4-cache"]).group(1)) > 0
        server.wait_idle()
        assert server.metric("attached_total") == 1


def test_a_longer_retry_goes_on_from_the_work_of_the_shorter_one(start):  # noqa: F811
    server = start("--parallel", "1", chunk_ms=5)
    with ask(server, messages=user(LONG)):
        wait_for(lambda: server.metric("requests_processing"))
    server.wait_idle()
    n_first = computed(server) + server.metric("tokens_predicted_total")
    reply = chat(server, LONG + " and hello", thinking=False)
    assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] >= 2900 <= n_first


def test_whoever_asks_again_for_a_whole_answer_gets_the_one_at_work(start):  # noqa: F811
    server = start("--parallel", "1", hold_answers=True)
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with server.held():
            with ask(server, messages=user("hello"), temperature=1):
                wait_for(lambda: server.metric("prompt_tokens_total"))
            retry = pool.submit(chat, server, "hello", temperature=1)
            server.wait_queued()
        assert retry.result()["choices"][0]["message"]["content"].startswith("Hi there")
    assert server.metric("attached_total") == 1 and server.metric("requests_total") == 1


def test_work_that_nobody_asks_for_again_ends_after_the_grace_time(start):  # noqa: F811
    server = start("--parallel", "1", "--grace", "0.2", **WITHOUT_END)
    with ask(server, messages=user("endless")):
        wait_for(lambda: server.metric("requests_processing"))
    server.wait_idle()
    assert server.metric("cancelled_total") == 1 and server.metric("attached_total") == 0


def test_work_for_nobody_makes_room_at_once_for_somebody(start):  # noqa: F811
    server = start("--parallel", "1", "--grace", "3600", **WITHOUT_END)
    for _ in range(2):
        with ask(server, messages=user("endless")):
            wait_for(lambda: server.metric("requests_processing"))
        assert chat(server, "hello")["choices"][0]["message"]["content"].startswith("Hi there")
    assert chat(server, LONG + "hello")["choices"][0]["finish_reason"] == "stop"


def test_a_side_request_never_takes_the_place_of_the_conversation(start):  # noqa: F811
    for parallel in ("1", "2"):
        server = start("--parallel", parallel)
        prompts = [chr(ord("a") + i) * 2000 for i in range(int(parallel))]
        answers = [chat(server, prompt, max_tokens=9, thinking=False) for prompt in prompts]
        for i in range(10):
            chat(server, f"title {i} please: hello")
        before = computed(server)
        for prompt, answer in zip(prompts, answers):
            turns = user(prompt) + [answer["choices"][0]["message"]] + user("hello")
            _, reply = server.post("/v1/chat/completions", messages=turns, thinking=False)
            assert reply["usage"]["prompt_tokens_details"]["cached_tokens"] > 1990
        assert computed(server) - before < 50


def test_a_side_request_is_answered_while_the_conversation_is_computed(start, tmp_path):  # noqa: F811
    server = start("--parallel", "1", "--trace", str(tmp_path / "trace"))
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with server.held():
            long = pool.submit(chat, server, LONG + " hello")
            wait_for(lambda: server.metric("requests_processing"))
            title = pool.submit(chat, server, "title: hello")
            server.wait_queued()
        title.result(), long.result()
    lines = (tmp_path / "trace").read_text().splitlines()  # in the order of their ends
    assert [len(json.loads(line)["prompt"]) > 3000 for line in lines] == [False, True]


def test_every_reply_says_where_its_state_came_from(start, tmp_path):  # noqa: F811
    kept = ("--parallel", "1", "--kv-dir", str(tmp_path / "kv"))
    server = start(*kept)
    paths = {"/v1/chat/completions": "messages", "/v1/messages": "messages", "/v1/responses": "input"}
    text = "hello " + "y" * 900
    for i, (path, member) in enumerate(paths.items()):
        body = {member: user(text), "max_tokens": 50, "thinking": {"type": "disabled"}}
        _, headers, data = server.request("POST", path, body)
        told = json.loads(data)["ds4_cache"]
        assert told["source"] == ("ram" if i else "none") and told["first_mismatch"] is None
        assert headers["x-ds4-cache"] == (f'{told["source"]}; tokens={told["reused_tokens"]}/{told["prompt_tokens"]}; '
                                          f'bytes={told["reused_bytes"]}; first-mismatch=none')
        events = server.events(path, **body)
        again = next(e.get("ds4_cache") or e.get("response", e.get("message", {})).get("ds4_cache") for e in events
                     if "ds4_cache" in json.dumps(e))
        assert again["source"] == "ram" and again["reused_bytes"] >= again["reused_tokens"] > 900
    edited = server.post("/v1/chat/completions", messages=user("hello " + "y" * 400 + "z" + "y" * 500),
                         thinking=False)[1]["ds4_cache"]
    assert edited["source"] == "none" and edited["reused_tokens"] == 0
    # BOS, User and "hello " stand before the y; the markers are longer than one byte.
    assert edited["first_mismatch"] == {"token": 2 + 6 + 400, "byte": len("<|begin_of_sentence|><|User|>".replace(
        "_", "\u2581").replace("|", "\uff5c").encode()) + 406}
    server.stop()
    answer = {"role": "assistant", "content": "Hi there, \u20ac friend."}
    turns = user(text) + [answer] + user("and more: hello")
    again = start(*kept).post("/v1/chat/completions", messages=turns, thinking=False)[1]
    assert again["ds4_cache"]["source"] == "disk" and again["ds4_cache"]["reused_tokens"] > 800


def test_calls_of_an_earlier_life_are_replayed_as_they_were_sampled(start, tmp_path):  # noqa: F811
    kept = ("--parallel", "1", "--kv-dir", str(tmp_path / "kv"))
    messages = user("weather " + "x" * 500)
    server = start(*kept)
    _, first = server.post("/v1/chat/completions", messages=messages, tools=TOOLS)
    server.stop()
    answer = first["choices"][0]["message"]
    for call in answer["tool_calls"]:  # spaced as no model would
        call["function"]["arguments"] = json.dumps(json.loads(call["function"]["arguments"]), indent=3)
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in answer["tool_calls"]]
    _, second = start(*kept).post("/v1/chat/completions", messages=messages + [answer] + results, tools=TOOLS)
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= known - 1


@pytest.mark.parametrize("again,left", [(False, None), (True, None), (False, ".")])
def test_thinking_that_a_client_lost_is_known_by_the_calls_after_it(start, tmp_path, again, left):  # noqa: F811
    kept = ("--parallel", "1", "--kv-dir", str(tmp_path / "kv"))
    messages = user("weather " + "x" * 500)
    server = start(*kept)
    _, first = server.post("/v1/chat/completions", messages=messages, tools=TOOLS)
    if again:
        server.stop()
        server = start(*kept)
    answer = first["choices"][0]["message"]
    assert answer.pop("reasoning_content") == "Need it."
    answer["reasoning_content"] = left
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in answer["tool_calls"]]
    _, second = server.post("/v1/chat/completions", messages=messages + [answer] + results, tools=TOOLS)
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"]
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= known - 1


THOUGHT = "abc. " * 50
LOOPS = [{"when": "thinker", "think": THOUGHT, "say": "So."}, {"when": "circle", "say": "abcde", "endless": True},
         {"when": "mad", "think": "abc" * 200, "say": "Done."},
         {"when": "", "think": "", "say": "", "calls": [{"name": "get_weather", "arguments": {"city": "Roma"}}]}]


@pytest.mark.parametrize("path,members,n", [
    ("/v1/chat/completions", {"thinking": {"type": "enabled", "budget_tokens": 100}}, 100),
    ("/v1/chat/completions", {"thinking_budget": 103}, 103),
    ("/v1/chat/completions", {"chat_template_kwargs": {"thinking_budget": 20}}, 20),
    ("/v1/messages", {"thinking": {"type": "enabled", "budget_tokens": 64}}, 64),
    ("/v1/responses", {"reasoning": {"summary": "auto", "max_tokens": 80}}, 80),
    ("/v1/chat/completions", {}, 200)])
def test_thinking_ends_within_its_budget_at_the_end_of_a_sentence(start, path, members, n):  # noqa: F811
    server = start("--thinking-budget", "200", answers=LOOPS)
    body = dict({"input" if "responses" in path else "messages": user("thinker")}, **members)
    status, reply = server.post(path, **body)
    assert status == 200
    if "choices" in reply:
        thought, said = (reply["choices"][0]["message"][k] for k in ("reasoning_content", "content"))
    elif "output" in reply:
        thought, said = reply["output"][0]["summary"][0]["text"], reply["output"][1]["content"][0]["text"]
    else:
        thought, said = reply["content"][0]["thinking"], reply["content"][1]["text"]
    assert THOUGHT.startswith(thought) and thought.endswith(".") and n * 7 // 8 - 1 <= len(thought) <= n
    assert said == "So." and server.metric("thinking_budgets_total") == 1


def test_thinking_without_a_budget_is_not_cut_and_a_budget_of_none_is_none(start):  # noqa: F811
    server = start(answers=LOOPS)
    assert chat(server, "thinker")["choices"][0]["message"]["reasoning_content"] == THOUGHT
    assert chat(server, "thinker", thinking={"type": "enabled", "budget_tokens": -1})["usage"][
        "completion_tokens_details"]["reasoning_tokens"] > len(THOUGHT)
    assert "reasoning_content" not in chat(server, "thinker", thinking_budget=0)["choices"][0]["message"]
    status, reply = server.post("/v1/chat/completions", messages=user("a"), thinking_budget="much")
    assert status == 400 and reply["error"]["param"] == "thinking_budget"


def test_an_answer_that_goes_round_in_a_cycle_is_ended_and_says_so(start):  # noqa: F811
    server = start(answers=LOOPS)
    choice = chat(server, "circle", thinking=False)["choices"][0]
    assert choice["finish_reason"] == "length" and choice["finish_details"] == {"type": "repetition"}
    assert 250 <= len(choice["message"]["content"]) <= 270
    _, reply = server.post("/v1/messages", messages=user("circle"), thinking={"type": "disabled"})
    assert reply["stop_reason"] == "max_tokens" and reply["stop_details"] == {"type": "repetition"}
    _, reply = server.post("/v1/responses", input="circle", reasoning={"effort": "none"})
    assert reply["status"] == "incomplete" and reply["incomplete_details"] == {"reason": "repetition"}
    events = server.events("/v1/chat/completions", messages=user("circle"), thinking=False)
    assert events[-2]["choices"][0]["finish_details"] == {"type": "repetition"}
    assert server.metric("token_loops_total") == 4
    free = chat(server, "circle", thinking=False, loop_guard=False, max_tokens=600)["choices"][0]
    assert len(free["message"]["content"]) == 600 and "finish_details" not in free
    off = chat(start("--no-loop-guard", answers=LOOPS), "circle", thinking=False, max_tokens=500)
    assert off["usage"]["completion_tokens"] == 500


def test_a_cycle_of_thoughts_is_ended_and_the_answer_follows(start):  # noqa: F811
    server = start(answers=LOOPS)
    message = chat(server, "mad")["choices"][0]["message"]
    assert message["content"] == "Done." and 250 <= len(message["reasoning_content"]) <= 260
    assert server.metric("token_loops_total") == 1


def history(n, result="sunny", alternate=False):
    messages = user("go")
    for i in range(n):
        city = "Bari" if alternate and i % 2 != n % 2 else "Roma"
        call = {"id": f"c{i}", "type": "function",
                "function": {"name": "get_weather", "arguments": json.dumps({"city": city})}}
        text = result if isinstance(result, str) else result(i)
        messages += [{"role": "assistant", "content": None, "tool_calls": [call]},
                     {"role": "tool", "tool_call_id": f"c{i}", "content": text}]
    return messages


@pytest.mark.parametrize("stream", [False, True])
def test_the_same_call_with_the_same_result_for_the_eighth_time_is_withheld(start, stream):  # noqa: F811
    server = start(answers=LOOPS, ctx=32768)

    def finish(**more):
        if not stream:
            choice = server.post("/v1/chat/completions", tools=TOOLS, **more)[1]["choices"][0]
            return choice["finish_reason"], len(choice["message"].get("tool_calls", []))
        events = server.events("/v1/chat/completions", tools=TOOLS, **more)
        calls = sum(len(e["choices"][0]["delta"].get("tool_calls", [])) > 0 for e in events[:-2])
        return events[-2]["choices"][0]["finish_reason"], int(calls > 0)

    assert finish(messages=history(7)) == ("length", 0)
    assert server.metric("call_loops_total") == 1
    assert finish(messages=history(6)) == ("tool_calls", 1)
    assert finish(messages=history(7, result=lambda i: f"{i} degrees")) == ("tool_calls", 1)
    assert finish(messages=history(7), loop_guard=False) == ("tool_calls", 1)
    assert finish(messages=history(13, alternate=True)) == ("tool_calls", 1)
    assert finish(messages=history(14, alternate=True))[0] == "length"
    assert finish(messages=history(7) + user("go on")) == ("tool_calls", 1)
    assert server.metric("call_loops_total") == 2
