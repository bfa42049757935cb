"""The official SDKs of OpenAI and Anthropic, Python and Node, against `ds4 serve` on the scripted engine."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from clients import need
from test_serve import TOOLS, user

ANTHROPIC_TOOLS = [{"name": "get_weather", "input_schema": {"type": "object"}}, {"name": "now", "input_schema": {}}]
RESPONSES_TOOLS = [{"type": "function", "name": t["function"]["name"], "strict": False,
                    "parameters": {"type": "object"}} for t in TOOLS]
HELLO = "Hi there, \u20ac friend."


def package(name):
    """A package of PyPI from the clients' folder, which stays in the path: parts are imported when they are used."""
    folder = need("python")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return __import__(name)


@pytest.fixture
def openai_client(start):
    return lambda **more: package("openai").OpenAI(base_url=f"http://127.0.0.1:{start(**more).port}/v1", api_key="any",
                                                   max_retries=0)


@pytest.fixture
def anthropic_client(start):
    return lambda: package("anthropic").Anthropic(base_url=f"http://127.0.0.1:{start().port}", api_key="any",
                                                  max_retries=0)


def test_the_openai_sdk_reads_answers_streamed_or_not(openai_client):
    client = openai_client()
    assert [m.id for m in client.models.list()] == ["deepseek-v4-flash"]
    assert client.models.retrieve("deepseek-v4-flash").owned_by == "ds4"
    whole = client.chat.completions.create(model="m", messages=user("hello"), seed=1, stop=["END"], temperature=0)
    assert whole.choices[0].message.content == HELLO and whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].message.reasoning_content == "Hm, \u00e4." and whole.usage.total_tokens > 10
    with client.chat.completions.create(model="m", messages=user("hello"), stream=True,
                                        stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == HELLO
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert client.completions.create(model="m", prompt="abc", max_tokens=4).choices[0].text is not None


def test_the_openai_sdk_completes_a_tool_call(openai_client):
    client = openai_client()
    with client.chat.completions.stream(model="m", messages=user("weather"), tools=TOOLS) as stream:
        message = stream.get_final_completion().choices[0].message
    calls = message.tool_calls
    assert [c.function.name for c in calls] == ["get_weather", "now"]
    assert json.loads(calls[0].function.arguments) == {"city": 'Roma "c"', "days": 2}
    history = user("weather") + [message.model_dump(exclude_none=True)] + [
        {"role": "tool", "tool_call_id": c.id, "content": "hello from the tool"} for c in calls]
    reply = client.chat.completions.create(model="m", messages=history, tools=TOOLS)
    assert reply.choices[0].message.content == HELLO
    assert reply.usage.prompt_tokens_details.cached_tokens > 80


def test_the_openai_sdk_speaks_responses(openai_client):
    client = openai_client()
    assert client.responses.create(model="m", input="hello").output_text == HELLO
    with client.responses.stream(model="m", input="weather", tools=RESPONSES_TOOLS,
                                 reasoning={"summary": "auto"}) as stream:
        response = stream.get_final_response()
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call", "function_call"]
    items = [item.model_dump(exclude_none=True) for item in response.output]
    results = [{"type": "function_call_output", "call_id": item.call_id, "output": "hello from the tool"}
               for item in response.output if item.type == "function_call"]
    reply = client.responses.create(model="m", input=user("weather") + items + results, tools=RESPONSES_TOOLS)
    assert reply.output_text == HELLO and reply.status == "completed"


def test_the_openai_sdk_raises_what_it_should(openai_client):
    client, openai = openai_client(), package("openai")
    with pytest.raises(openai.BadRequestError, match="maximum context length") as error:
        client.chat.completions.create(model="m", messages=user("x" * 5000))
    assert error.value.code == "context_length_exceeded"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    with pytest.raises(openai.InternalServerError, match="no embeddings"):
        client.embeddings.create(model="m", input="x")
    with pytest.raises(openai.APIError):
        list(client.chat.completions.create(model="m", messages=user("breaks"), stream=True))


def test_the_anthropic_sdk_reads_blocks_and_counts(anthropic_client):
    client = anthropic_client()
    assert [m.id for m in client.models.list()] == ["deepseek-v4-flash"]
    assert client.messages.create(model="m", max_tokens=100, messages=user("hello")).content[-1].text == HELLO
    with client.messages.stream(model="m", max_tokens=500, messages=user("weather"), tools=ANTHROPIC_TOOLS) as stream:
        assert "".join(stream.text_stream) == "Checking."
        message = stream.get_final_message()
    assert [b.type for b in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"city": 'Roma "c"', "days": 2} and message.stop_reason == "tool_use"
    assert client.messages.count_tokens(model="m", messages=user("hello")).input_tokens == 9


def test_the_anthropic_sdk_completes_a_tool_call(anthropic_client):
    client = anthropic_client()
    first = client.messages.create(model="m", max_tokens=500, messages=user("weather"), tools=ANTHROPIC_TOOLS)
    results = [{"type": "tool_result", "tool_use_id": b.id, "content": "hello from the tool"}
               for b in first.content if b.type == "tool_use"]
    history = user("weather") + [{"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = client.messages.create(model="m", max_tokens=500, messages=history, tools=ANTHROPIC_TOOLS)
    assert second.content[-1].text == HELLO and second.usage.cache_read_input_tokens > 80


def test_the_anthropic_sdk_raises_what_it_should(anthropic_client):
    client, anthropic = anthropic_client(), package("anthropic")
    with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
        client.messages.create(model="m", max_tokens=9, messages=user("x" * 5000))
    with pytest.raises(anthropic.APIStatusError):
        client.messages.create(model="m", max_tokens=9, messages=user("breaks"))


@pytest.mark.parametrize("name", ["openai", "anthropic"])
def test_the_sdks_for_node_do_the_same(start, name):
    folder = need("sdks")
    if not shutil.which("node"):
        pytest.skip("no node here")
    port = start().port
    result = subprocess.run(["node", os.path.join(os.path.dirname(__file__), f"sdk_{name}.mjs"), folder, str(port)],
                            capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert seen["models"] == ["deepseek-v4-flash"] and seen["text"] == HELLO and seen["streamed"] == HELLO
    assert seen["calls"] == [["get_weather", {"city": 'Roma "c"', "days": 2}], ["now", {}]]
    assert seen["after"] == HELLO and seen["cached"] > 80
    assert "4096" in seen["overflow"]
    if name == "openai":
        assert seen["responses"] == ["reasoning", "message", "function_call", "function_call"]
        assert seen["responses_text"] == HELLO
    else:
        assert seen["counted"] == 9
