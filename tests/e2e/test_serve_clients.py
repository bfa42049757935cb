"""What real clients sent as their second turn, to `ds4 serve` on the scripted engine: the server computes what is new
in it and nothing else. The scripted model answers the first turn as the recorded client was answered."""

import copy
import json
import lzma
import os

import pytest

from test_serve import Server, start  # noqa: F401

HERE = os.path.dirname(__file__)
with lzma.open(os.path.join(HERE, "../golden/clients/requests.json.xz")) as packed:
    RECORDED = json.load(packed)
TURNS = sorted(name for name in RECORDED if "_turn2" in name)


def is_answer(item):
    return item.get("role") == "assistant" or item.get("type") in ("reasoning", "function_call")


def split(body):
    """The list of messages, where its last answer begins, and where it ends."""
    items = body.get("messages") or body["input"]
    end = max(i for i, item in enumerate(items) if is_answer(item)) + 1
    begin = end
    while is_answer(items[begin - 1]):
        begin -= 1
    return items, begin, end


def scripted(answer):
    """The answer of any dialect as a line of the script."""
    line = {"think": "", "say": "", "calls": []}
    for item in answer:
        line["think"] += item.get("reasoning_content") or "".join(p["text"] for p in item.get("summary", []))
        for call in item.get("tool_calls", []):
            line["calls"].append((call["function"]["name"], call["function"]["arguments"]))
        if item.get("type") == "function_call":
            line["calls"].append((item["name"], item["arguments"]))
        content = item.get("content") or ""
        for part in [{"text": content}] if isinstance(content, str) else content:
            line["think"] += part.get("thinking", "")
            line["say"] += part.get("text", "")
            if part.get("type") == "tool_use":
                line["calls"].append((part["name"], json.dumps(part["input"])))
    line["calls"] = [{"name": name, "arguments": json.loads(arguments)} for name, arguments in line["calls"]]
    return line


def posted(server, url, body):
    """Posts without streaming; the usual three numbers and the calls' ids."""
    status, reply = server.post(url, **dict(body, stream=False, stream_options=None))
    assert status == 200, reply
    usage = reply["usage"]
    if "choices" in reply:
        ids = [call["id"] for call in reply["choices"][0]["message"].get("tool_calls", [])]
        return usage["prompt_tokens"], usage["completion_tokens"], usage["prompt_tokens_details"]["cached_tokens"], ids
    if "output" in reply:
        ids = [item["call_id"] for item in reply["output"] if item["type"] == "function_call"]
        return usage["input_tokens"], usage["output_tokens"], usage["input_tokens_details"]["cached_tokens"], ids
    n_prompt = sum(usage[k] for k in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"))
    ids = [block["id"] for block in reply["content"] if block["type"] == "tool_use"]
    return n_prompt, usage["output_tokens"], usage["cache_read_input_tokens"], ids


def with_ids(body, old, new):
    text = json.dumps(body)
    for before, after in zip(old, new):
        text = text.replace(json.dumps(before), json.dumps(after))
    return json.loads(text)


def call_ids(answer):
    for item in answer:
        yield from (call["id"] for call in item.get("tool_calls", []))
        if item.get("type") == "function_call":
            yield item["call_id"]
        if isinstance(item.get("content"), list):
            yield from (part["id"] for part in item["content"] if part.get("type") == "tool_use")


@pytest.mark.parametrize("name", TURNS)
def test_the_second_turn_of_a_recorded_client_computes_only_its_new_tokens(tmp_path, name):
    request = RECORDED[name]["requests"][-1]
    second = request["body"]
    items, begin, end = split(second)
    first = copy.deepcopy(second)
    first["messages" if "messages" in second else "input"] = items[:begin]
    answers = [{"when": "hi-from-tool", "say": "done"}, scripted(items[begin:end])]
    server = Server(tmp_path, "--parallel", "1", answers=answers, ctx=200000, chunk=4096)
    try:
        n_first, n_out, n_cached, ids = posted(server, request["url"], first)
        assert n_cached == 0 and ids
        computed = server.metric("prompt_tokens_total")
        assert computed == n_first
        n_second, _, n_cached, _ = posted(server, request["url"], with_ids(second, call_ids(items[begin:end]), ids))
        # All of the first turn but the last token of its answer, which was sampled and not yet evaluated.
        assert n_cached == n_first + n_out - 1
        assert server.metric("prompt_tokens_total") - computed == n_second - n_cached
    finally:
        assert server.stop()[0] == 0


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
