"""Answers of `ds4 serve` that have a form: response_format on the scripted engine, which knows nothing of it and says
something else, so that what conforms is the grammar's work."""

import concurrent.futures
import json

from test_serve import TOOLS, TrainedServer, start, user  # noqa: F401

SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 9}, "days": {"type": "integer"}},
          "required": ["city", "days"], "additionalProperties": False}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}


def test_an_answer_satisfies_its_schema_in_every_dialect_and_is_complete_at_its_limit(start):
    server = start()
    for n_max in (120, 200, 1000):
        _, chat = server.post("/v1/chat/completions", messages=user("hello"), response_format=FORMAT, max_tokens=n_max)
        _, items = server.post("/v1/responses", input="hello", max_output_tokens=n_max,
                               text={"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}})
        _, blocks = server.post("/v1/messages", messages=user("hello"), max_tokens=n_max,
                                output_config={"format": {"type": "json_schema", "schema": SCHEMA}})
        for text in (chat["choices"][0]["message"]["content"], items["output"][-1]["content"][0]["text"],
                     blocks["content"][-1]["text"]):
            value = json.loads(text)
            assert sorted(value) == ["city", "days"] and len(value["city"]) <= 9 and isinstance(value["days"], int)
        assert chat["usage"]["completion_tokens"] <= n_max


def test_a_keyword_that_cannot_be_honoured_is_refused_by_its_name_and_path(start):
    server = start()
    schema = {"type": "object", "properties": {"a": {"type": "array", "contains": {}}}}
    status, reply = server.post("/v1/chat/completions", messages=user("hello"),
                                response_format={"type": "json_schema", "json_schema": {"schema": schema}})
    assert status == 400 and reply["error"]["param"] == "response_format"
    assert '"contains" is not supported at #/properties/a' in reply["error"]["message"]
    status, reply = server.post("/v1/chat/completions", messages=user("hello"), tools=TOOLS,
                                tool_choice={"type": "function", "function": {"name": "absent"}})
    assert status == 400


def test_an_answer_in_a_form_goes_on_from_the_clients_beginning(start):
    server = start()
    for begun in ('{"city": "Ro', '{"city":"Rom","days":', "{"):
        turns = user("hello") + [{"role": "assistant", "content": begun}]
        status, reply = server.post("/v1/chat/completions", messages=turns, response_format=FORMAT, max_tokens=200)
        assert status == 200, reply
        value = json.loads(begun + reply["choices"][0]["message"]["content"])
        assert sorted(value) == ["city", "days"] and len(value["city"]) <= 9 and isinstance(value["days"], int)
    for begun in ("Sure: {", '{"town":', '{"city":"0123456789'):
        turns = user("hello") + [{"role": "assistant", "content": begun}]
        status, reply = server.post("/v1/chat/completions", messages=turns, response_format=FORMAT)
        assert status == 400 and reply["error"]["param"] == "response_format", begun


def closed(properties):
    return {"type": "object", "properties": properties, "additionalProperties": False}


# Free arguments of an engine that means nothing by them could go on to the end of the context.
CLOSED = [{"type": "function", "function": {"name": "get_weather", "parameters": closed(
              {"city": {"type": "string"}, "days": {"type": "integer"}})}},
          {"type": "function", "function": {"name": "now", "parameters": closed({})}}]


def test_only_allowed_tools_are_called_and_the_prompt_keeps_them_all(start):
    server = start("--parallel", "1")

    def ask(choice, tools=CLOSED):
        _, reply = server.post("/v1/chat/completions", messages=user("weather"), tools=tools, tool_choice=choice)
        calls = reply["choices"][0]["message"].get("tool_calls", []) if "choices" in reply else None
        return reply, calls and [call["function"]["name"] for call in calls]

    def allowed(mode, *names):
        tools = [{"type": "function", "function": {"name": name}} for name in names]
        return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}

    free, called = ask("auto")
    assert called == ["get_weather", "now"]
    held, called = ask(allowed("required", "now"))
    assert set(called) == {"now"}, json.dumps(held)
    assert held["usage"]["prompt_tokens"] == free["usage"]["prompt_tokens"]
    assert set(ask(allowed("auto", "now"))[1]) <= {"now"}  # the script wants get_weather
    assert ask(allowed("auto", "now", "get_weather"))[1] == ["get_weather", "now"]
    for wrong in (allowed("auto"), allowed("always", "now"), allowed("auto", "absent")):
        assert ask(wrong)[0]["error"]["param"] == "tool_choice"
    flat = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "now"}]}
    _, reply = server.post("/v1/responses", input="weather", tool_choice=flat,
                           tools=[dict(tool["function"], type="function") for tool in CLOSED])
    assert {item["name"] for item in reply["output"] if item["type"] == "function_call"} == {"now"}, json.dumps(reply)


def test_a_forced_call_with_free_arguments_is_closed_at_any_limit(start):  # noqa: F811
    text = "".join(str(n * n) for n in range(900))
    answers = [{"say": "", "calls": [{"name": "free", "arguments": {"text": text, "list": [text]}}]}]
    server = start(answers=answers, ctx=1024)  # the context ends long before the call would
    tools = [{"type": "function", "function": {"name": "free"}}]
    for limit in ({"max_tokens": 200}, {"max_tokens": 500}, {}):
        body = dict(limit, messages=user("go"), tools=tools, tool_choice="required", thinking=False)
        status, reply = server.post("/v1/chat/completions", **body)
        assert status == 200 and reply["choices"][0]["finish_reason"] == "length"
        call, = reply["choices"][0]["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        assert len(arguments["text"]) > 50 and text.startswith(arguments["text"])
        assert reply["usage"]["completion_tokens"] <= limit.get("max_tokens", 1024)


def test_a_forced_call_of_the_trained_model_names_the_tool_and_satisfies_its_schema():
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
              "required": ["city"], "additionalProperties": False}
    tool = {"name": "forecast", "description": "Weather of the next days.", "parameters": schema, "strict": True}
    other = dict(tool, name="other")
    server = TrainedServer("--ctx", "4096")
    calls = []
    for seed, choice in enumerate(("required", {"type": "function", "function": {"name": "forecast"}})):
        status, reply = server.post("/v1/chat/completions", messages=user("Say hello."), seed=seed, max_tokens=160,
                                    thinking={"type": "disabled"}, tool_choice=choice,
                                    tools=[{"type": "function", "function": t} for t in (tool, other)])
        assert status == 200, reply
        calls += [(c["function"]["name"], json.loads(c["function"]["arguments"]))
                  for c in reply["choices"][0]["message"]["tool_calls"]]
        assert calls[-1][0] == "forecast" or choice == "required"
    for choice in ({"type": "any"}, {"type": "tool", "name": "forecast"}):
        status, reply = server.post("/v1/messages", messages=user("Say hello."), max_tokens=160, tool_choice=choice,
                                    tools=[{"name": t["name"], "input_schema": schema, "strict": True}
                                           for t in (tool, other)])
        assert status == 200, reply
        calls += [(b["name"], b["input"]) for b in reply["content"] if b["type"] == "tool_use"]
        assert calls[-1][0] == "forecast" or choice["type"] == "any"
    assert len(calls) >= 4 and server.stop()[0] == 0
    for name, arguments in calls:
        assert name in ("forecast", "other") and isinstance(arguments["city"], str)
        assert set(arguments) <= {"city", "days"} and isinstance(arguments.get("days", 1), int)


def test_a_server_that_drafts_answers_as_one_that_does_not():
    asked = [dict(messages=user("Tell me a story."), temperature=0), dict(messages=user("Tell me a story."), seed=7),
             dict(messages=user("What is 3 + 4?"), seed=8, response_format=FORMAT)]
    answers = []
    for options in ((), ("--draft", "2")):
        server = TrainedServer("--ctx", "4096", *options)
        said = []
        for body in asked + asked[:1]:
            status, reply = server.post("/v1/chat/completions", max_tokens=100, thinking={"type": "disabled"}, **body)
            assert status == 200, reply
            said.append(reply["choices"][0]["message"]["content"])
        with concurrent.futures.ThreadPoolExecutor(3) as pool:  # decoded together
            ask = [pool.submit(server.post, "/v1/chat/completions", max_tokens=100, thinking={"type": "disabled"},
                               **body) for body in asked]
            said += [a.result()[1]["choices"][0]["message"]["content"] for a in ask]
        assert server.stop()[0] == 0
        answers.append(said)
    assert answers[0] == answers[1] and answers[0][:3] == answers[0][4:]
