"""Results of the last turn's tool calls without the calls: `ds4 serve` goes on from what it sampled, in three dialects,
as if the client had sent its whole history. The scripted engine is the model."""

import pytest

from test_serve import TOOLS, start, user  # noqa: F401

ANSWERS = [
    {"when": "rainy", "think": "So that is it.", "say": "Take an umbrella."},
    {"when": "weather", "think": "Need it.", "say": "Checking.",
     "calls": [{"name": "get_weather", "arguments": {"city": 'Roma "c"', "days": 2}},
               {"name": "now", "arguments": {}}]}]
NAMES = ["get_weather", "now"]
OUTPUTS = ["rainy", "noon"]


class Chat:
    path = "/v1/chat/completions"
    id_name, list_name = "tool_call_id", "messages"

    def begin(self):
        return {"messages": user("weather"), "tools": TOOLS}

    def answer(self, reply):
        return [reply["choices"][0]["message"]]

    def ids(self, reply):
        return [call["id"] for call in self.answer(reply)[0]["tool_calls"]]

    def results(self, ids):
        return [{"role": "tool", "tool_call_id": i, "content": o} for i, o in zip(ids, OUTPUTS)]

    def text(self, reply):
        return reply["choices"][0]["message"]["content"]

    def counts(self, reply):
        usage = reply["usage"]
        return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


class Messages(Chat):
    path = "/v1/messages"
    id_name, list_name = "tool_use_id", "messages"

    def begin(self):
        return {"messages": user("weather"), "max_tokens": 500,
                "tools": [{"name": name, "input_schema": {}} for name in NAMES]}

    def answer(self, reply):
        return [{"role": "assistant", "content": reply["content"]}]

    def ids(self, reply):
        return [block["id"] for block in reply["content"] if block["type"] == "tool_use"]

    def results(self, ids):
        return [{"role": "user", "content": [{"type": "tool_result", "tool_use_id": i, "content": o}
                                             for i, o in zip(ids, OUTPUTS)]}]

    def text(self, reply):
        return reply["content"][-1]["text"]

    def counts(self, reply):
        usage = reply["usage"]
        return sum(v for k, v in usage.items() if "input" in k), usage["cache_read_input_tokens"]


class Responses(Chat):
    path = "/v1/responses"
    id_name, list_name = "call_id", "input"

    def begin(self):
        return {"input": user("weather"), "reasoning": {"summary": "auto"},
                "tools": [{"type": "function", "name": name, "parameters": {"type": "object"}} for name in NAMES]}

    def answer(self, reply):
        return reply["output"]

    def ids(self, reply):
        return [item["call_id"] for item in reply["output"] if item["type"] == "function_call"]

    def results(self, ids):
        return [{"type": "function_call_output", "call_id": i, "output": o} for i, o in zip(ids, OUTPUTS)]

    def text(self, reply):
        return reply["output"][-1]["content"][0]["text"]

    def counts(self, reply):
        return reply["usage"]["input_tokens"], reply["usage"]["input_tokens_details"]["cached_tokens"]


DIALECTS = pytest.mark.parametrize("d", [Chat(), Messages(), Responses()], ids=lambda d: d.path)


@DIALECTS
def test_results_alone_go_on_from_the_turn_that_asked_for_them(start, d):  # noqa: F811
    server = start("--parallel", "1", answers=ANSWERS)
    body = d.begin()
    _, first = server.post(d.path, **body)
    ids = d.ids(first)
    assert len(ids) == 2
    whole = dict(body, **{d.list_name: body[d.list_name] + d.answer(first) + d.results(ids)})
    n_whole = server.post("/v1/messages/count_tokens" if d.path == "/v1/messages" else d.path + "/input_tokens",
                          **whole)[1]["input_tokens"]
    computed = server.metric("prompt_tokens_total")
    # In the other order: the model reads results in the order of its calls, wherever they stand.
    alone = dict(body, **{d.list_name: d.results(ids)})
    alone[d.list_name].reverse()
    status, second = server.post(d.path, **alone)
    assert status == 200 and d.text(second) == "Take an umbrella."
    n_prompt, n_cached = d.counts(second)
    assert n_prompt == n_whole
    assert n_cached == sum(first["usage"][k] for k in first["usage"] if k in ("prompt_tokens", "completion_tokens",
                                                                             "input_tokens", "output_tokens",
                                                                             "cache_creation_input_tokens")) - 1
    assert server.metric("prompt_tokens_total") - computed == n_prompt - n_cached
    # The whole history is the same prompt.
    _, replayed = server.post(d.path, **whole)
    assert d.text(replayed) == "Take an umbrella." and d.counts(replayed)[0] == n_whole


@DIALECTS
def test_results_of_calls_that_nobody_knows_are_refused_with_a_way_out(start, d):  # noqa: F811
    server = start("--parallel", "1", answers=ANSWERS)
    body = d.begin()
    ids = d.ids(server.post(d.path, **body)[1])
    for wrong in (["call_0123", ids[1]], ids[:1], ["<script>" + ids[0], ids[1]]):
        status, reply = server.post(d.path, **dict(body, **{d.list_name: d.results(wrong)}))
        assert status == 400
        message = reply["error"]["message"]
        shown = "" if "<" in wrong[0] else " " + wrong[0]
        assert f"continuation state is not available for {d.id_name}{shown};" in message
        assert message.endswith(f"retry by replaying the full {d.list_name} history") and "<" not in message
    status, reply = server.post(d.path, **dict(body, **{d.list_name: d.results(ids)}))
    assert status == 200 and d.text(reply) == "Take an umbrella."


def test_a_turn_outlives_the_session_that_it_was_sampled_in(start):  # noqa: F811
    d, server = Chat(), start("--parallel", "1", "--grace", "0", answers=ANSWERS)
    first = server.post(d.path, **d.begin())[1]
    for i in range(3):  # as many sessions as there are
        server.post(d.path, messages=user(f"{i} " * 200))
    status, reply = server.post(d.path, messages=d.results(d.ids(first)))
    assert status == 200 and d.text(reply) == "Take an umbrella."
    assert d.counts(reply)[1] < 20


def test_results_behind_a_conversation_without_their_calls_are_read_as_they_stand(start):  # noqa: F811
    d, server = Chat(), start(answers=ANSWERS)
    lost = user("rain") + [{"role": "tool", "tool_call_id": "call_of_another_server", "content": "rainy"}]
    status, reply = server.post(d.path, messages=lost)
    assert status == 200 and d.text(reply) == "Take an umbrella."
