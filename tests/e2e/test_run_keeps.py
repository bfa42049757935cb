"""What `ds4 run` keeps on the disk: words and state of a conversation, through kills, other runs and bad stores."""

import os
import re
import signal
import stat
import subprocess
import time

import pytest

import cli
from cli import DS4, Terminal, run, script

TINY = os.path.join(os.path.dirname(__file__), "../../models/ds4-tiny.gguf")
LONG = " ".join(str(n) for n in range(80))  # 229 bytes, and as many tokens of the scripted engine


def kept(tmp_path, *more):
    return ("--kv", str(tmp_path / "kv"), "--state-dir", str(tmp_path / "state"), *more)


def computed(text):
    """Tokens of the last prompt, and how many of them were computed."""
    return tuple(map(int, re.findall(rb"\[prompt (\d+) tokens, (\d+) computed", text)[-1]))


def tips(tmp_path):
    kv = tmp_path / "kv"
    return {name for name in os.listdir(kv) if name.endswith(".tip")} if kv.exists() else set()


def wait_for(condition):
    deadline = time.monotonic() + cli.TIMEOUT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def killed_after_a_turn(model, tmp_path, text, binary=cli.FAKE, options=()):
    """A chat that dies without a chance to save once the turn is on the disk (prefix and end: two tips)."""
    before = tips(tmp_path)
    with Terminal("run", "-m", model, *kept(tmp_path, *options), binary=binary) as chat:
        chat.prompt()
        chat.line(text)
        seen = chat.expect(rb"context \d+ of")
        chat.prompt()
        wait_for(lambda: len(tips(tmp_path) - before) >= 2)
        os.kill(chat.pid, signal.SIGKILL)
        os.waitpid(chat.pid, 0)
        chat.pid = None
    return seen


def test_a_killed_chat_goes_on_without_computing_it_again(tmp_path):
    model = script(tmp_path, rewind=8)
    killed_after_a_turn(model, tmp_path, "first " + LONG, options=["--no-think"])
    assert stat.S_IMODE(os.stat(tmp_path / "state" / "recent.chat").st_mode) == 0o600
    with Terminal("run", "-m", model, "--continue", *kept(tmp_path)) as chat:
        chat.expect(rb"Going on: 2 messages, state of 4\d\d tokens")
        chat.prompt()
        chat.line("second")
        total, new = computed(chat.expect(rb"computed at"))
        assert total > 400 and new < 20
        chat.prompt()


def test_a_chat_with_reasoning_goes_on_from_the_end_of_the_last_prompt(tmp_path):
    model = script(tmp_path, rewind=8, answers=[{"think": "hmm " * 50, "say": "short"}])
    with Terminal("run", "-m", model, *kept(tmp_path)) as chat:
        chat.prompt()
        chat.line("first " + LONG)
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    result = run("run", "-m", model, "--continue", *kept(tmp_path, "-p", "and then"))
    assert result.stdout == b"short\n"
    total, new = computed(result.stderr)
    assert total > 200 and new < 30  # the answer without its reasoning, and the question


def test_another_conversation_in_between_costs_nothing(tmp_path):
    model = script(tmp_path, rewind=8)
    with Terminal("run", "-m", model, *kept(tmp_path, "--no-think")) as chat:
        chat.prompt()
        chat.line("first " + LONG)
        chat.prompt()
        chat.line("/save")
        chat.expect("Saved: ")
        chat.prompt()
        chat.line("/reset")
        chat.prompt()
        chat.line("else " + LONG)
        chat.prompt()
        chat.line("/load")
        chat.expect(rb"2 messages, state of 4\d\d tokens")
        chat.prompt()
        chat.line("on")
        assert computed(chat.expect(rb"computed at"))[1] < 20
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    # The file has the words, the store the state.
    assert os.path.getsize(tmp_path / "state" / "last.chat") < 1500
    with Terminal("run", "-m", model, *kept(tmp_path, "--no-think")) as chat:
        chat.prompt()
        chat.line("/load")
        chat.expect(rb"2 messages, state of 4\d\d tokens")


def test_a_chat_that_is_not_to_be_kept_writes_nothing(tmp_path):
    model = script(tmp_path)
    with Terminal("run", "-m", model, "--no-kv", "--state-dir", str(tmp_path / "state")) as chat:
        chat.prompt()
        chat.line("secret")
        chat.expect("You said: secret")
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    result = run("run", "-m", model, "--state-dir", str(tmp_path / "state"), "-p", "secret")
    assert result.returncode == 0
    assert sorted(os.listdir(tmp_path)) == ["script.json"]


def test_without_a_usable_store_the_chat_goes_on_and_says_why(tmp_path):
    model = script(tmp_path)
    (tmp_path / "kv").mkdir()
    os.chmod(tmp_path / "kv", 0o755)
    with Terminal("run", "-m", model, *kept(tmp_path)) as chat:
        chat.expect("note: state is not kept on the disk")
        chat.prompt()
        chat.line("hello")
        chat.expect("You said: hello")
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    assert os.listdir(tmp_path / "kv") == []
    result = run("run", "-m", model, "--continue", *kept(tmp_path, "-p", "again"))  # from the words alone
    assert result.stdout == b"You said: again\n"
    assert b"Going on: 2 messages, state of 0 tokens" in result.stderr


def test_a_damaged_store_costs_time_and_nothing_else(tmp_path):
    model = script(tmp_path, rewind=8)
    killed_after_a_turn(model, tmp_path, "first " + LONG, options=["--no-think"])
    for name in os.listdir(tmp_path / "kv"):
        path = tmp_path / "kv" / name
        data = bytearray(path.read_bytes())
        if len(data) > 200:
            data[-1] ^= 1
            path.write_bytes(data)
    result = run("run", "-m", model, "--continue", *kept(tmp_path, "-p", "second"))
    assert result.stdout == b"You said: second\n"
    total, new = computed(result.stderr)
    assert new == total


@pytest.mark.parametrize("args", [["--no-kv", "--continue"], ["--no-kv", "--kv", "x"], ["--continue", "--system", "s"],
                                  ["--continue", "--raw"]])
def test_options_that_exclude_each_other_are_refused(tmp_path, args):
    result = run("run", "-m", script(tmp_path), "-p", "x", *args)
    assert result.returncode == 2


def test_there_must_be_something_to_go_on_with(tmp_path):
    result = run("run", "-m", script(tmp_path), "--continue", *kept(tmp_path, "-p", "x"))
    assert result.returncode == 1
    assert b"no conversation to go on with" in result.stderr


def test_the_help_says_where_things_are_kept():
    text = run("run", "--help").stdout
    for word in (b"--continue", b"--kv DIR", b"--no-kv", b"~/.cache/ds4/kv", b"~/.ds4"):
        assert word in text


def test_the_trained_model_says_the_same_after_a_kill_as_without(tmp_path):
    options = ("--no-think", "--temp", "0", "-n", "40", "--threads", "1")
    questions = ["Tell me a story about a dog and a cat who live in a house by the sea. " * 6,
                 "Tell me a story about a frog."]
    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    with Terminal("run", "-m", TINY, *kept(tmp_path / "whole", *options), binary=DS4) as chat:
        chat.prompt()
        for question in questions:
            chat.line(question)
            whole = chat.expect(rb"context \d+ of")
            chat.prompt()
    killed_after_a_turn(TINY, tmp_path / "killed", questions[0], binary=DS4, options=options)
    result = subprocess.run([DS4, "run", "-m", TINY, "--continue", *kept(tmp_path / "killed", *options), "-p",
                             questions[1]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=cli.TIMEOUT_S)
    answer = result.stdout.replace(b"\n", b"\r\n")
    assert len(answer) > 10 and answer in whole
    total, new = computed(result.stderr)
    assert total > 100 and new < 20  # only what was asked
