"""Members of requests that clients send beside the usual ones, on the scripted engine: each is honoured, shown to the
model, or refused by its name."""

import json

import pytest

from test_serve import TOOLS, start, user  # noqa: F401

CHAT, MESSAGES, RESPONSES = "/v1/chat/completions", "/v1/messages", "/v1/responses"
NOW = {"name": "now", "input_schema": {"type": "object"}}


@pytest.fixture
def told(start, tmp_path):  # noqa: F811
    """A server, and the prompt that a request becomes."""
    trace = tmp_path / "trace"
    server = start("--trace", str(trace))

    def ask(path, **body):
        status, reply = server.post(path, **body)
        assert status == 200, reply
        return json.loads(trace.read_text().splitlines()[-1])["prompt"]

    return ask


def stand_in_order(prompt, *parts):
    at = 0
    for part in parts:
        assert part in prompt[at:], (part, prompt)
        at = prompt.index(part, at) + len(part)


def test_calls_as_written_before_tool_calls_are_calls(told):
    messages = user("what time?") + [
        {"role": "assistant", "content": None, "function_call": {"name": "now", "arguments": '{"zone": "CET"}'}},
        {"role": "function", "name": "now", "content": "noon"}] + user("hello")
    prompt = told(CHAT, messages=messages, functions=[tool["function"] for tool in TOOLS], function_call="auto")
    stand_in_order(prompt, "what time?", 'invoke name="now"', "zone", "CET", "<tool_result>noon</tool_result>", "hello")


def test_a_call_without_a_name_is_refused(start):  # noqa: F811
    server = start()
    for member in ({"function_call": {"arguments": "{}"}}, {"tool_calls": [{"function": {"arguments": "{}"}}]}):
        messages = user("hello") + [dict({"role": "assistant", "content": None}, **member)]
        status, reply = server.post(CHAT, messages=messages)
        said = reply["error"]["message"]
        assert status == 400 and said.startswith("messages[1]: ") and "name" in said


@pytest.mark.parametrize("member", [
    {"reasoning_content": "deep thought"}, {"reasoning": "deep thought"},
    {"reasoning_details": [{"type": "reasoning.summary", "summary": "deep "},
                           {"type": "reasoning.encrypted", "data": "?"},
                           {"type": "reasoning.text", "text": "thought"}]},
    {"reasoning_content": None, "reasoning": "deep thought", "reasoning_details": [{"text": "deep thought"}]}])
def test_thinking_comes_back_under_each_of_its_names(told, member):
    messages = user("q") + [dict({"role": "assistant", "content": "so"}, **member)] + user("hello")
    assert "<think>deep thought</think>so" in told(CHAT, messages=messages, tools=TOOLS)


def test_results_of_tools_that_a_service_ran_stay_where_they_stood(told):
    answer = [{"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "x"}},
              {"tool_use_id": "s1", "type": "web_search_tool_result",
               "content": [{"type": "text", "text": "found it"}]},
              {"type": "text", "text": "It is so."}]
    messages = user("look") + [{"role": "assistant", "content": answer}] + user("hello")
    stand_in_order(told(MESSAGES, messages=messages), "look", 'invoke name="web_search"',
                   "<tool_result>found it</tool_result>", "It is so.", "hello")
    messages[1]["content"] = answer[:2]
    stand_in_order(told(MESSAGES, messages=messages), 'invoke name="web_search"', "found it", "hello")


def test_results_with_pictures_and_errors_are_read_and_foreign_signatures_do_no_harm(told):
    messages = user("q") + [
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "deep", "signature": "of another server"},
                                          {"type": "redacted_thinking", "data": "xyz"},
                                          {"type": "tool_use", "id": "t1", "name": "now", "input": {"a": 1}},
                                          {"type": "tool_use", "id": "t2", "name": "now", "input": {}}]},
        {"role": "user", "content": [
            {"content": "second", "tool_use_id": "t2", "type": "tool_result", "cache_control": {"type": "ephemeral"}},
            {"is_error": True, "tool_use_id": "t1", "type": "tool_result",
             "content": [{"type": "image", "source": {"type": "base64", "data": "aaaa"}},
                         {"type": "text", "text": "boom"}, {"type": "document", "source": {}}]},
            {"type": "text", "text": "hello"}]}]
    prompt = told(MESSAGES, messages=messages, tools=[NOW])
    stand_in_order(prompt, "<think>deep</think>", 'invoke name="now"', "[Unsupported image]", "boom",
                   "[Unsupported document]", "hello")
    assert "second" in prompt and "aaaa" not in prompt and "xyz" not in prompt


@pytest.mark.parametrize("kind", ["image", "document", "search_result", "container_upload"])
def test_what_no_text_model_can_read_is_refused_where_it_stands(start, kind):  # noqa: F811
    server = start()
    part = {"type": kind, "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}
    status, reply = server.post(MESSAGES, messages=user("so") + user([{"type": "text", "text": "see"}, part]))
    assert status == 400 and reply["error"]["message"].startswith("messages[1]: unsupported content type")
    status, reply = server.post(RESPONSES, input=[{"role": "user", "content": [{"type": "input_" + kind}]}])
    assert status == 400 and reply["error"]["param"] == "input"
    status, reply = server.post(CHAT, messages=user([{"type": kind + "_url"}]))
    assert status == 400 and reply["error"]["param"] == "messages"


def test_system_blocks_are_joined_without_the_clients_accounting(told):
    system = [{"type": "text", "text": "x-anthropic-billing-header: cch=1234;"},
              {"type": "text", "text": "You are.", "cache_control": {"type": "ephemeral"}},
              {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    later = [{"role": "system", "content": "Late words."}]
    prompt = told(MESSAGES, system=system, messages=user("first") + later + user("hello"))
    assert "You are.\nBe brief." in prompt and "cch" not in prompt
    stand_in_order(prompt, "Be brief.", "first", "Late words.", "hello")


def test_messages_say_which_sequence_stopped_them(start):  # noqa: F811
    server = start()
    body = {"messages": user("stop here"), "stop_sequences": ["no such", "END"]}
    reply = server.post(MESSAGES, **body)[1]
    assert reply["content"][-1]["text"] == "one two " and reply["content"][0]["thinking"] == "END in thought"
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("stop_sequence", "END")
    delta = server.events(MESSAGES, **body)[-2]["delta"]
    assert (delta["stop_reason"], delta["stop_sequence"]) == ("stop_sequence", "END")
    reply = server.post(MESSAGES, messages=user("hello"), max_tokens=9)[1]
    assert (reply["stop_reason"], reply["stop_sequence"]) == ("max_tokens", None)


@pytest.mark.parametrize("stream", [True, False])
def test_messages_make_one_call_when_calls_may_not_be_parallel(start, stream):  # noqa: F811
    server = start()
    body = {"messages": user("weather"), "tools": [dict(NOW, name=name) for name in ("get_weather", "now")],
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}
    if stream:
        events = server.events(MESSAGES, **body)
        blocks = [e["content_block"] for e in events if e["type"] == "content_block_start"]
        reason = events[-2]["delta"]["stop_reason"]
    else:
        reply = server.post(MESSAGES, **body)[1]
        blocks, reason = reply["content"], reply["stop_reason"]
    assert [b["name"] for b in blocks if b["type"] == "tool_use"] == ["get_weather"] and reason == "tool_use"


def test_calls_that_cannot_be_forced_are_refused(start):  # noqa: F811
    server = start()
    for path, body in ((CHAT, {"messages": user("hello"), "tool_choice": "required"}),
                       (CHAT, {"messages": user("hello"), "tools": TOOLS,
                               "tool_choice": {"type": "function", "function": {"name": "nope"}}}),
                       (MESSAGES, {"messages": user("hello"), "tool_choice": {"type": "any"}}),
                       (MESSAGES, {"messages": user("hello"), "tools": [NOW],
                                   "tool_choice": {"type": "tool", "name": "nope"}}),
                       (RESPONSES, {"input": "hello", "tool_choice": {"type": "web_search"},
                                    "tools": [{"type": "web_search"}]})):
        status, reply = server.post(path, **body)
        assert status == 400 and "tool_choice" in reply["error"]["message"], (body, reply)


def test_members_that_change_nothing_are_no_error(start):  # noqa: F811
    server = start()
    nothing = dict.fromkeys(["tools", "tool_choice", "stop", "logit_bias", "seed", "n", "user", "response_format",
                             "stream_options", "temperature", "max_tokens", "max_completion_tokens", "thinking",
                             "parallel_tool_calls", "reasoning_effort", "modalities", "logprobs", "top_logprobs"])
    ignored = {"store": True, "metadata": {"a": "b"}, "user": "u", "service_tier": "auto", "safety_identifier": "s",
               "prompt_cache_key": "k", "prompt_cache_retention": "24h", "verbosity": "low", "client_metadata": {},
               "prediction": {"type": "content", "content": "x"}, "modalities": ["text"], "surprise": [1, {"a": None}]}
    for more in (nothing, ignored, {"max_tokens": -1}):
        status, reply = server.post(CHAT, messages=user("hello"), **more)
        assert status == 200 and reply["choices"][0]["message"]["content"] == "Hi there, \u20ac friend.", (more, reply)
    more = {"context_management": {"edits": []}, "service_tier": "auto", "container": None, "mcp_servers": [],
            "cache_control": {"type": "ephemeral"}, "metadata": {"user_id": "u"}, "inference_geo": "x"}
    assert server.post(MESSAGES, messages=user("hello"), **more)[0] == 200
    status, reply = server.post(MESSAGES, messages=user("hello"), mcp_servers=[{"type": "url", "url": "http://x"}])
    assert status == 400 and "mcp_servers" in reply["error"]["message"]
    assert server.post(RESPONSES, input="hello", store=True, truncation="auto", service_tier="flex",
                       text={"verbosity": "low"}, prompt={"id": None}, max_tool_calls=3)[0] == 200
    for name, value in (("background", True), ("previous_response_id", "resp_1")):
        status, reply = server.post(RESPONSES, input="hello", **{name: value})
        assert status == 400 and reply["error"]["param"] == name
