"""The official Python SDKs against `ds4 serve` on the scripted engine; skipped where they are not installed
(pip install openai anthropic)."""

import pytest

from test_serve import TOOLS, start, user  # noqa: F401


def test_the_openai_sdk_reads_answers_and_tool_calls(start):  # noqa: F811
    openai = pytest.importorskip("openai", reason="the openai package is not installed")
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{start().port}/v1", api_key="any", max_retries=0)
    assert [m.id for m in client.models.list()] == ["deepseek-v4-flash"]
    reply = client.chat.completions.create(model="m", messages=user("weather"), tools=TOOLS)
    assert reply.choices[0].message.tool_calls[0].function.name == "get_weather"
    chunks = list(client.chat.completions.create(model="m", messages=user("hello"), stream=True))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hi there, \u20ac friend."
    with pytest.raises(openai.BadRequestError, match="maximum context length"):
        client.chat.completions.create(model="m", messages=user("x" * 5000))


def test_the_anthropic_sdk_reads_blocks_and_counts(start):  # noqa: F811
    anthropic = pytest.importorskip("anthropic", reason="the anthropic package is not installed")
    client = anthropic.Anthropic(base_url=f"http://127.0.0.1:{start().port}", api_key="any", max_retries=0)
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("get_weather", "now")]
    with client.messages.stream(model="m", max_tokens=500, messages=user("weather"), tools=tools) as stream:
        message = stream.get_final_message()
    assert [b.type for b in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert message.content[2].input == {"city": 'Roma "c"', "days": 2} and message.stop_reason == "tool_use"
    assert client.messages.count_tokens(model="m", messages=user("hello")).input_tokens == 9
