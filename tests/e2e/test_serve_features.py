"""Single features of `ds4 serve` on the scripted engine: what clients may ask about sampling, raw completions, and what
the server tells about itself."""

import json
import math
import os
import re
import stat

import pytest

import cli
from test_serve import TOOLS, joined, start, user  # noqa: F401

LETTERS = [{"when": "letters", "say": "?", "spread": 6}, {"when": "euro", "think": "\u00e4", "say": "\u20ac!"},
           {"when": "abc", "say": "def"}]


def letters(server, **more):
    status, reply = server.post("/v1/chat/completions", messages=user("letters"), thinking=False, **more)
    assert status == 200, reply
    return reply["choices"][0]["message"]["content"]


def test_sampling_does_what_the_client_says(start):  # noqa: F811
    server = start(answers=LETTERS)
    assert letters(server, temperature=0) == "aaaaaa"
    assert letters(server, temperature=0, logit_bias={str(ord("q")): 5}) == "qqqqqq"
    assert letters(server, temperature=0, logit_bias={str(ord("a")): -100}) == "bbbbbb"
    assert letters(server, temperature=0, logit_bias={str(ord("a")): False}) == "bbbbbb"
    assert letters(server, temperature=0, logit_bias=[[ord("z"), 9]]) == "zzzzzz"
    assert letters(server, temperature=0, presence_penalty=1) == "abcdef"
    assert letters(server, temperature=0, frequency_penalty=0.5) == "abcdef"
    assert letters(server, temperature=0, repeat_penalty=1.1) == "abcdef"
    assert letters(server, seed=7) == letters(server, seed=7)
    assert len({letters(server, seed=seed) for seed in range(1, 9)}) > 4
    for name, value in (("temperature", -1), ("presence_penalty", 3), ("top_p", 2), ("logit_bias", {"a": 1}),
                        ("logit_bias", {"1": 101}), ("n", 0), ("top_logprobs", 21), ("seed", "x")):
        status, reply = server.post("/v1/chat/completions", messages=user("letters"), **{name: value})
        assert status == 400 and reply["error"]["param"] == name, (name, reply)
    for n in (0, 2, 0.5, "1"):
        status, reply = server.post("/v1/chat/completions", messages=user("letters"), n=n)
        assert status == 400 and "n must be 1" in reply["error"]["message"], n
    assert letters(server, temperature=0, n=1) == letters(server, temperature=0, n=None) == "aaaaaa"


def test_log_probabilities_are_the_models_before_any_filter(start):  # noqa: F811
    server = start(answers=LETTERS)
    body = {"messages": user("letters"), "thinking": False, "logprobs": True, "top_logprobs": 3, "temperature": 0,
            "logit_bias": {str(ord("q")): 5}}
    choice = server.post("/v1/chat/completions", **body)[1]["choices"][0]
    tokens = choice["logprobs"]["content"]
    assert [t["token"] for t in tokens] == list("qqqqqq")
    for token in tokens:
        assert math.isclose(token["logprob"], -math.log(26), abs_tol=1e-4)
        assert [t["token"] for t in token["top_logprobs"]] == ["a", "b", "c"]
        assert token["bytes"] == [ord("q")] and token["top_logprobs"][1]["bytes"] == [ord("b")]
    events = server.events("/v1/chat/completions", **body)
    streamed = [t for e in events[:-1] for t in (e["choices"][0]["logprobs"] or {"content": []})["content"]]
    assert streamed == tokens
    plain = server.post("/v1/chat/completions", **dict(body, logprobs=False))[1]["choices"][0]
    assert plain["logprobs"] is None


def test_log_probabilities_have_the_bytes_of_pieces_of_characters_and_know_thinking(start):  # noqa: F811
    server = start(answers=LETTERS)
    for stream in (False, True):
        body = {"messages": user("euro"), "logprobs": True}
        if stream:
            parts = [e["choices"][0]["logprobs"] for e in server.events("/v1/chat/completions", **body)[:-1]]
        else:
            parts = [server.post("/v1/chat/completions", **body)[1]["choices"][0]["logprobs"]]
        said = [b for p in parts for t in p["content"] for b in t["bytes"]]
        thought = [b for p in parts for t in p.get("reasoning_content", []) for b in t["bytes"]]
        assert bytes(said) == "\u20ac!".encode() and bytes(thought) == "\u00e4".encode()


def test_log_probabilities_of_responses_stand_beside_their_text(start):  # noqa: F811
    server = start(answers=LETTERS)
    body = {"input": "letters", "reasoning": {"effort": "none"}, "temperature": 0, "top_logprobs": 3,
            "include": ["message.output_text.logprobs"]}
    part = server.post("/v1/responses", **body)[1]["output"][-1]["content"][0]
    assert [t["token"] for t in part["logprobs"]] == list("aaaaaa") and part["text"] == "aaaaaa"
    for token in part["logprobs"]:
        assert math.isclose(token["logprob"], -math.log(26), abs_tol=1e-4)
        assert [t["token"] for t in token["top_logprobs"]] == ["a", "b", "c"]
    events = server.events("/v1/responses", **body)
    shown = [t for e in events if e["type"] == "response.output_text.delta" for t in e["logprobs"]]
    done = next(e for e in events if e["type"] == "response.output_text.done")
    assert shown + done["logprobs"] == part["logprobs"]
    assert events[-1]["response"]["output"][-1]["content"][0] == part
    silent = server.post("/v1/responses", **dict(body, include=[]))[1]["output"][-1]["content"][0]
    assert silent["logprobs"] == []
    assert server.post("/v1/responses", **dict(body, top_logprobs=21))[0] == 400


def test_a_raw_completion_continues_the_text_itself(start):  # noqa: F811
    server = start(answers=LETTERS)
    _, reply = server.post("/v1/completions", prompt="abc", max_tokens=3, logprobs=2, temperature=0)
    choice = reply["choices"][0]
    assert reply["object"] == "text_completion" and len(choice["logprobs"]["content"]) == 3
    text = choice["text"]
    _, echoed = server.post("/v1/completions", prompt=["abc"], max_tokens=3, echo=True, temperature=0)
    assert echoed["choices"][0]["text"] == "abc" + text
    events = server.events("/v1/completions", prompt="abc", max_tokens=3, echo=True, temperature=0)
    assert "".join(e["choices"][0]["text"] for e in events[:-1]) == "abc" + text
    ids = server.post("/tokenize", content="abc", add_special=True)[1]["tokens"]
    assert server.post("/v1/completions", prompt=ids, max_tokens=3, temperature=0)[1]["choices"][0]["text"] == text
    for body in ({"prompt": ["a", 1]}, {"prompt": ["a"] * 65}, {"prompt": "a", "suffix": "b"},
                 {"prompt": "a", "best_of": 2},
                 {"prompt": [1], "echo": True}, {"prompt": "a", "logprobs": 21}, {"prompt": [100000]}):
        assert server.post("/v1/completions", **body)[0] == 400, body


def test_each_of_several_prompts_has_a_completion_of_its_own(start):  # noqa: F811
    server = start(answers=LETTERS)
    prompts = ["abc", "xy", "", "abc"]
    more = {"max_tokens": 5, "temperature": 0, "logprobs": 1, "echo": True}
    alone = [server.post("/v1/completions", prompt=prompt, **more)[1] for prompt in prompts]
    _, reply = server.post("/v1/completions", prompt=prompts, **more)
    assert [c["index"] for c in reply["choices"]] == [0, 1, 2, 3]
    for choice, one in zip(reply["choices"], alone):
        assert dict(choice, index=0) == one["choices"][0]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert reply["usage"][name] == sum(one["usage"][name] for one in alone)
    texts, finishes = [""] * 4, [None] * 4
    events = server.events("/v1/completions", prompt=prompts, stream_options={"include_usage": True}, **more)
    assert events[-1] == "[DONE]" and events[-2]["usage"]["total_tokens"] == reply["usage"]["total_tokens"]
    for choice in (c for e in events[:-1] for c in e["choices"]):
        texts[choice["index"]] += choice["text"]
        finishes[choice["index"]] = finishes[choice["index"]] or choice["finish_reason"]
    assert texts == [c["text"] for c in reply["choices"]]
    assert finishes == [c["finish_reason"] for c in reply["choices"]]
    status, reply = server.post("/v1/completions", prompt=["a", "x" * 5000])
    assert status == 400 and reply["error"]["code"] == "context_length_exceeded"


def test_max_tokens_0_computes_the_prompt_and_says_nothing(start):  # noqa: F811
    server = start(answers=LETTERS)
    _, reply = server.post("/v1/chat/completions", messages=user("letters"), max_tokens=0)
    assert reply["choices"][0]["finish_reason"] == "length" and reply["usage"]["completion_tokens"] == 0
    assert server.metric("prompt_tokens_total") == reply["usage"]["prompt_tokens"]


def test_usage_and_timings_add_up(start):  # noqa: F811
    server = start()
    _, reply = server.post("/v1/chat/completions", messages=user("hello"))
    usage, timings = reply["usage"], reply["timings"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_cache_hit_tokens"] + usage["prompt_cache_miss_tokens"] == usage["prompt_tokens"]
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"]
    assert timings["predicted_n"] == usage["completion_tokens"]
    # "Hm, ä." and the end of thinking are tokens of reasoning.
    assert usage["completion_tokens_details"]["reasoning_tokens"] == len("Hm, \u00e4.".encode()) + 1


def test_one_call_is_all_that_is_made_when_calls_may_not_be_parallel(start):  # noqa: F811
    server = start()
    more = {"messages": user("weather"), "tools": TOOLS, "parallel_tool_calls": False}
    choice = server.post("/v1/chat/completions", **more)[1]["choices"][0]
    assert [c["function"]["name"] for c in choice["message"]["tool_calls"]] == ["get_weather"]
    assert choice["finish_reason"] == "tool_calls"


def test_the_server_tells_about_its_sessions_and_settings(start):  # noqa: F811
    server = start("--parallel", "2", "--alias", "mine")
    server.post("/v1/chat/completions", messages=user("hello"))
    slots = json.loads(server.request("GET", "/slots")[2])
    assert len(slots) == 3 and sorted(s["n_past"] > 0 for s in slots) == [False, False, True]
    assert {"id", "n_ctx", "is_processing", "n_past", "cached"} == set(slots[0]) and slots[0]["n_ctx"] == 4096
    props = json.loads(server.request("GET", "/props")[2])
    assert props["total_slots"] == 3 and props["model_path"] == "script.json" and props["model_alias"] == "mine"
    assert json.loads(server.request("GET", "/v1/models/mine")[2])["id"] == "mine"
    assert server.request("GET", "/v1/models/other")[0] == 404
    for path in ("/v1/embeddings", "/rerank"):
        status, reply = server.post(path, input="x")
        assert status == 501 and reply["error"]["type"] == "not_supported_error"
    pieces = server.post("/tokenize", content="\u20ac", with_pieces=True)[1]["tokens"]
    assert [p["piece"] for p in pieces] == [[0xE2], [0x82], [0xAC]]


def test_the_trace_holds_what_was_said_and_is_its_owners_alone(start, tmp_path):  # noqa: F811
    path = tmp_path / "trace"
    path.write_text('{"time":1,"id":"of an older run"}\n')
    os.chmod(path, 0o644)
    server = start("--trace", str(path))
    server.post("/v1/chat/completions", messages=user("hello"))
    server.post("/v1/messages", messages=user("weather"),
                tools=[{"name": name, "input_schema": {}} for name in ("get_weather", "now")])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["output"] == "Hm, \u00e4.</think>Hi there, \u20ac friend."
    assert "hello" in first["prompt"] and first["finish"] == "stop" and first["ds4_cache"]["source"] == "none"
    assert second["output"].endswith("tool_calls>") and second["finish"] == "tool_calls"


def test_a_trace_takes_the_place_of_a_trace_only(tmp_path):
    model = cli.script(tmp_path)
    notes = tmp_path / "notes"
    notes.write_text("mine, for years")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("notes", tmp_path / "link")
    for name, words in (("notes", b"not a trace"), ("pipe", b"not a regular file"), ("link", b"a symbolic link")):
        done = cli.run("serve", "-m", model, "--port", "0", "--trace", str(tmp_path / name))
        assert done.returncode == 1 and words in done.stderr, done.stderr
        assert str(tmp_path / name).encode() in done.stderr
    assert notes.read_text() == "mine, for years" and os.path.islink(tmp_path / "link")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


@pytest.mark.parametrize("path,body,status", [
    ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}, 400),
    ("/v1/messages", {"messages": []}, 400), ("/v1/chat/completions", {}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "nobody", "content": "x"}]}, 400),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400)])
def test_errors_have_the_shape_of_their_dialect(start, path, body, status):  # noqa: F811
    got, reply = start().post(path, **body)
    assert got == status and isinstance(reply["error"]["message"], str)
    assert reply["error"]["type"] == "invalid_request_error"
    assert (reply.get("type") == "error" and reply["request_id"].startswith("req_")) == ("messages" in path)


def test_the_log_shows_the_measured_speed_beside_the_predicted_one(start):  # noqa: F811
    for members, shown in (({"predicted_tps": 7}, r" \(7 predicted\)"), ({}, "")):
        server = start(answers=LETTERS, **members)
        letters(server)
        code, log = server.stop()
        assert code == 0 and re.search(rf"out 6 .*[0-9.]+ t/s [0-9.e+]+ t/s{shown} stop", log), log
