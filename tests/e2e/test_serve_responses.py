"""/v1/responses of `ds4 serve` on the scripted engine: the order of events that clients rely on, and what a client that
keeps no state with the server sends back."""

import json

import pytest

from test_serve import start, user  # noqa: F401

FUNCTION = {"type": "function", "name": "get_weather", "parameters": {"type": "object"}, "strict": False}
CODEX = [FUNCTION, dict(FUNCTION, name="now"),
         {"type": "namespace", "name": "agents_v1", "tools": [dict(FUNCTION, name="spawn")]},
         {"type": "custom", "name": "apply_patch", "description": "d", "format": {"type": "grammar"}},
         {"type": "tool_search", "execution": "client", "description": "finds tools", "parameters": {"type": "object"}},
         {"type": "web_search", "external_web_access": True}]
REASONING = {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]}
CALLS = [{"when": "foreign", "think": "All kinds.", "say": "",
          "calls": [{"name": "agents_v1__spawn", "arguments": {"n": 1}},
                    {"name": "apply_patch", "arguments": {"input": '*** "Begin"\n+\u20ac'}},
                    {"name": "tool_search", "arguments": {"query": "x"}}]}]


def said(text):
    return [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}]


def follow(events):
    """Rebuilds the output from the events as a strict client does; returns it and the terminal event."""
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] in ("response.completed", "response.incomplete", "response.failed")
    output, done = {}, []
    for event in events[2:-1]:
        kind, index = event["type"].removeprefix("response."), event["output_index"]
        item = output.get(index)
        if kind == "output_item.added":
            assert item is None and index == len(output) and len(done) == index
            output[index] = dict(event["item"], gathered="")
            continue
        if kind == "output_item.done":
            assert event["item"]["id"] == item["id"] and len(done) == index
            done.append(event["item"])
            continue
        assert event["item_id"] == item["id"]
        if kind.endswith(".delta"):
            item["gathered"] += event["delta"]
        for name in ("text", "arguments", "input"):
            if kind.endswith(".done") and name in event:
                assert event[name] == item["gathered"]
    assert events[-1]["response"]["output"] == done
    return done, events[-1]


def without_ids(items):
    return [{k: v for k, v in item.items() if k not in ("id", "call_id", "encrypted_content")} for item in items]


def test_streamed_items_are_those_of_the_whole_reply(start):  # noqa: F811
    server = start()
    for text, kinds in (("hello", ["reasoning", "message"]), ("stop here", ["reasoning", "message"]),
                        ("weather", ["reasoning", "message", "function_call", "function_call"])):
        body = dict(REASONING, input=said(text), tools=CODEX, model="m")
        status, whole = server.post("/v1/responses", **body)
        assert status == 200 and whole["status"] == "completed" and whole["model"] == "m"
        items, last = follow(server.events("/v1/responses", **body))
        assert [item["type"] for item in items] == kinds
        assert without_ids(items) == without_ids(whole["output"])
        usage = last["response"]["usage"]
        assert usage["output_tokens"] == whole["usage"]["output_tokens"]
    assert json.loads(items[2]["arguments"]) == {"city": 'Roma "c"', "days": 2} and items[3]["arguments"] == "{}"
    assert items[0]["summary"] == [{"type": "summary_text", "text": "Need it."}]


def test_calls_come_back_as_the_kind_of_tool_they_mean(start):  # noqa: F811
    server = start(answers=CALLS)
    for stream in (False, True):
        body = dict(REASONING, input="foreign", tools=CODEX)
        reply = server.events("/responses", **body) if stream else server.post("/responses", **body)[1]
        items = follow(reply)[0] if stream else reply["output"]
        assert [item["type"] for item in items[1:]] == ["function_call", "custom_tool_call", "tool_search_call"]
        assert items[1]["name"] == "spawn" and items[1]["namespace"] == "agents_v1"
        assert items[2]["name"] == "apply_patch" and items[2]["input"] == '*** "Begin"\n+\u20ac'
        assert items[3]["arguments"] == {"query": "x"} and items[3]["execution"] == "client"


@pytest.mark.parametrize("summary", ["auto", None])
def test_a_replayed_turn_computes_only_what_is_new(start, summary):  # noqa: F811
    server = start("--parallel", "1", answers=CALLS + [{"when": "sunny", "think": "", "say": "done"}])
    body = dict(REASONING, tools=CODEX, stream=True, store=False, prompt_cache_key="k", reasoning={"summary": summary})
    first = [{"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are."}]}]
    items, last = follow(server.events("/v1/responses", input=first + said("foreign"), **body))
    outputs = [{"type": {"custom_tool_call": "custom_tool_call_output"}.get(item["type"], "function_call_output"),
                "call_id": item["call_id"], "output": "sunny"} for item in items if "call_id" in item]
    items[0]["content"] = None
    if summary is None:
        assert items[0]["summary"] == []
    _, second = follow(server.events("/v1/responses", input=first + said("foreign") + items + outputs, **body))
    usage = last["response"]["usage"]
    held = usage["input_tokens"] + usage["output_tokens"] - 1 # the last token of an answer is never evaluated
    assert second["response"]["usage"]["input_tokens_details"]["cached_tokens"] == held


def test_an_answer_cut_short_is_incomplete_and_says_why(start):  # noqa: F811
    server = start()
    for n, kinds in ((2, ["reasoning"]), (9, ["reasoning", "message"])):
        body = dict(REASONING, input="hello", max_output_tokens=n)
        items, last = follow(server.events("/v1/responses", **body))
        assert last["type"] == "response.incomplete" and [item["type"] for item in items] == kinds
        assert items[-1]["status"] == "incomplete"
        assert last["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
        assert without_ids(items) == without_ids(server.post("/v1/responses", **body)[1]["output"])


def test_what_a_responses_client_may_not_send_is_refused_by_name(start):  # noqa: F811
    server = start()
    for members, param in (({"previous_response_id": "resp_1"}, "previous_response_id"),
                           ({"conversation": "c"}, "previous_response_id"), ({"input": []}, "input"),
                           ({"input": [{"type": "item_reference", "id": "x"}]}, "input"),
                           ({"input": [{"type": "surprise"}]}, "input"),
                           ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input"),
                           ({"reasoning": {"effort": "huge"}}, "reasoning")):
        status, reply = server.post("/v1/responses", **dict({"input": "hello"}, **members))
        assert status == 400 and reply["error"]["param"] == param, reply
    status, reply = server.post("/v1/responses", input="x" * 5000)
    assert reply["error"]["code"] == "context_length_exceeded" and reply["error"]["param"] == "input"


def test_history_of_hosted_tools_is_shown_and_odd_members_are_no_error(start):  # noqa: F811
    server = start()
    history = said("a") + [
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": None},
        {"type": "local_shell_call", "call_id": "c1", "action": {"command": ["ls"]}, "status": "completed"},
        {"type": "local_shell_call_output", "call_id": "c1", "output": "x"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q"}},
        {"type": "tool_search_call", "call_id": "c2", "arguments": {"query": "q"}, "execution": "client"},
        {"type": "tool_search_output", "call_id": "c2", "tools": [dict(FUNCTION, name="found_tool")]},
        {"type": "compaction", "encrypted_content": "x"}, {"role": "user", "content": "hello", "surprise": 1}]
    status, reply = server.post("/v1/responses", input=history, unknown=1, truncation="auto", conversation=None)
    assert status == 200 and reply["output"][-1]["content"][0]["text"].startswith("Hi there")
    counted = server.post("/v1/responses/input_tokens", input=history)[1]
    assert counted == {"object": "response.input_tokens", "input_tokens": reply["usage"]["input_tokens"]}


def test_a_failure_in_a_stream_is_a_failed_response(start):  # noqa: F811
    server = start()
    _, last = follow(server.events("/v1/responses", input="breaks"))
    assert last["type"] == "response.failed" and last["response"]["error"]["code"] == "server_error"
    assert server.post("/v1/responses", input="breaks")[0] == 500
