"""Coding agents as their makers publish them, run without a terminal against `ds4 serve`. The tool call is that of the
scripted engine: the trained model that ships is too small to follow prompts of this size, so on it only a text turn is
asked for, and only that it ends well."""

import os

import pytest

from clients import AGENTS, Client, answers
from conftest import MODEL

COMMAND = "echo marker-$((40+2)) | tee made.txt"
CALLS = {
    "pi": ("bash", {"command": COMMAND}),
    "claude": ("Bash", {"command": COMMAND, "description": "Print a marker"}),
    "codex": ("exec_command", {"cmd": COMMAND}),
    "opencode": ("bash", {"command": COMMAND, "description": "Print a marker"}),
}
PATHS = {"pi": "/v1/chat/completions", "pi-responses": "/v1/responses", "pi-messages": "/v1/messages",
         "claude": "/v1/messages", "codex": "/v1/responses", "opencode": "/v1/chat/completions"}


def scripted(start, kind):
    name, arguments = CALLS[kind]
    return start(ctx=1 << 20, chunk=4096, sessions=4, answers=[
        {"when": "marker-42", "think": "It ran.", "say": "The command printed marker-42."},
        {"when": "make-a-marker", "think": "I run it.", "say": "Running.",
         "calls": [{"name": name, "arguments": arguments}]},
        {"think": "A greeting.", "say": "Hello from ds4."}])


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_gets_its_text(start, tmp_path, name):
    server = scripted(start, name.split("-")[0])
    client = Client(name, server.port, tmp_path)
    status, out, _ = client.ask("say hello")
    assert status == 0 and "Hello from ds4." in out
    log = server.stop()[1]
    assert all(status == 200 for _, status, *_ in answers(log)) and PATHS[name] in [path for path, *_ in answers(log)]


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_runs_the_tool_that_is_called_and_its_second_turn_costs_only_what_is_new(start, tmp_path, name):
    server = scripted(start, name.split("-")[0])
    client = Client(name, server.port, tmp_path)
    status, out, _ = client.ask("please make-a-marker")
    assert status == 0 and "The command printed marker-42." in out
    assert (client.work / "made.txt").read_text() == "marker-42\n"
    turns = [a for a in answers(server.stop()[1]) if a[0] == PATHS[name]]
    calling = next(i for i, turn in enumerate(turns) if turn[4] == "tool_calls")
    (_, _, reused, computed, _), (_, status, again, new, finish) = turns[calling], turns[-1]
    assert status == 200 and finish == "stop"
    assert again >= reused + computed - 1 and new < 400, "the prompt of the first turn is not computed again"
    print(f"{name}: turn 1 computed {computed} tokens, turn 2 {new} of {again + new}")


@pytest.mark.skipif(not os.path.exists(MODEL), reason="the trained model is not here")
@pytest.mark.parametrize("name", AGENTS)
def test_a_text_turn_on_the_trained_model_ends_well(start, tmp_path, name):
    server = start("--ctx", "32768", trained=True)
    client = Client(name, server.port, tmp_path, reading_only=True)
    status, out, _ = client.ask("say hello")
    log = server.stop()[1]
    assert status == 0 and [a for a in answers(log) if a[0] == PATHS[name] and a[1] == 200], log
