"""The interactive chat in a pseudo terminal, on the scripted engine."""

import json
import os
import re
import stat
import time

import pytest

from cli import FAKE, Terminal, run, script

ANSWERS = [
    {"when": "capital of France", "think": "It is in France.", "say": "Paris."},
    # Minutes, so that a test which is kept waiting still finds them in progress; --keep-repeating goes with them.
    {"when": "long story", "think": "Hm.", "say": "word " * 700, "token_ms": 50},
    {"when": "long thought", "think": "hmm " * 900, "say": "done", "token_ms": 50},
    {"when": "escape", "think": "\x1b[2J", "say": "a\x1b]0;title\x07b\x9bc\x1b[31mred"},
    {"when": "remember", "say": "I will."},
    {"when": "break", "say": "abcdefgh", "fail_after": 6},
    {"when": "nan", "say": "abcdefgh", "nan_after": 4},
]


@pytest.fixture
def model(tmp_path):
    return script(tmp_path, answers=ANSWERS, ctx=4096)


@pytest.fixture
def chat(model, tmp_path):
    with Terminal("run", "-m", model, "--keep-repeating", "--state-dir", str(tmp_path / "state")) as terminal:
        terminal.prompt()
        yield terminal


def test_a_question_is_answered_with_dimmed_thinking(chat):
    chat.line("What is the capital of France?")
    seen = chat.expect(r"Paris\.\r\n".encode())
    assert b"\x1b[2mIt is in France.\x1b[0m" in seen
    assert seen.index(b"It is in France.") < seen.index(b"Paris.")
    chat.expect("tokens at")
    chat.prompt()
    chat.line("/quit")
    assert chat.wait() == 0


def test_answers_see_earlier_turns_and_the_prefix_is_not_computed_again(tmp_path):
    model = script(tmp_path, rewind=1000)
    with Terminal("run", "-m", model, "--no-think") as chat:
        chat.prompt()
        chat.line("first " + "x" * 200)
        chat.expect(rb"context \d+ of")
        chat.prompt()
        chat.line("second")
        seen = chat.expect(rb"\[prompt (\d+) tokens, (\d+) computed")
        numbers = [int(n) for n in seen.rsplit(b"[prompt ", 1)[1].replace(b",", b"").split() if n.isdigit()]
        assert numbers[0] > 400 and numbers[1] < 20
        chat.prompt()


def test_long_thinking_does_not_make_the_next_turn_compute_everything_again(tmp_path):
    model = script(tmp_path, rewind=8, answers=[{"think": "hmm " * 50, "say": "short"}])
    with Terminal("run", "-m", model, "--state-dir", str(tmp_path / "state")) as chat:
        chat.prompt()
        for turn in range(4):
            chat.line(f"turn {turn} " + "x" * 200)
            seen = chat.expect(rb"\[prompt (\d+) tokens, (\d+) computed")
            assert int(seen.split()[-2]) < 240, turn
            chat.prompt()
        chat.line("/save")
        chat.expect("Saved")
        chat.prompt()
        chat.line("/reset")
        chat.prompt()
        chat.line("something else " + "y" * 100)
        chat.prompt()
        chat.line("/load")
        chat.expect(rb"8 messages, state of \d+ tokens")
        chat.prompt()
        chat.line("on")
        seen = chat.expect(rb"\[prompt (\d+) tokens, (\d+) computed")
        assert int(seen.split()[-2]) < 20


def test_ctrl_c_stops_the_answer_and_not_the_program(chat):
    chat.line("Tell a long story")
    chat.expect("word word")
    chat.type(b"\x03")
    chat.expect("stopped by you")
    chat.prompt()
    chat.line("What is the capital of France?")
    chat.expect("Paris.")
    chat.prompt()


def test_ctrl_c_before_the_first_word_takes_the_message_back(chat):
    chat.line("a long thought")
    chat.expect("hmm hmm")
    chat.type(b"\x03")
    chat.expect("taken back")
    chat.prompt()
    chat.line("/ctx")
    chat.expect(" 0 messages")


def test_ctrl_c_at_the_prompt_clears_the_line_only(chat):
    chat.type("half a mess")
    chat.expect("half a mess")
    chat.type(b"\x03")
    chat.prompt()
    chat.line("What is the capital of France?")
    assert b"half" not in chat.expect("Paris.")


def test_ctrl_c_stops_prefill(tmp_path):
    model = script(tmp_path, chunk=16, chunk_ms=500, ctx=100000)
    with Terminal("run", "-m", model) as chat:
        chat.prompt()
        chat.line("x" * 3000)
        time.sleep(0.5)
        started = time.monotonic()
        chat.type(b"\x03")
        chat.expect("taken back")
        assert time.monotonic() - started < 45  # the whole prefill takes 90 s
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0


def test_a_mistyped_command_is_neither_sent_nor_obeyed(chat):
    chat.line("What is the capital of France?")
    chat.prompt()
    for typo, near in (("/sav", "/save"), ("/rest", "/reset"), ("/qiut", "/quit"), ("/nothnik", "/nothink")):
        chat.line(typo)
        seen = chat.expect("Nothing was sent")
        assert f"did you mean {near}?".encode() in seen
        chat.prompt()
    chat.line("/ctx")
    chat.expect(" 2 messages")
    chat.line("/frobnicate")
    chat.expect("see /help")
    chat.prompt()
    chat.line(" /sav is how one types it")
    chat.expect("You said:  /sav is how one types it")


def test_commands_say_what_they_did(chat):
    chat.line("/help")
    seen = chat.expect("Ctrl-C stops")
    for name in (b"/help", b"/think", b"/nothink", b"/ctx", b"/read", b"/save", b"/load", b"/reset", b"/quit"):
        assert name in seen
    chat.line("/nothink")
    chat.expect("Answering at once.")
    chat.line("What is the capital of France?")
    assert b"It is in France" not in chat.expect("Paris.")
    chat.line("/think")
    chat.expect("Thinking before answering.")
    chat.line("/think much")
    chat.expect("/think or /think max")
    chat.line("/read")
    chat.expect("/read needs FILE")
    chat.line("/quit now")
    chat.expect("/quit takes no argument")
    chat.line("/reset")
    chat.expect("forgotten")
    chat.line("/ctx")
    chat.expect("0 of 4096 tokens")


def test_a_pasted_text_of_several_lines_is_one_message(chat):
    chat.type(b"\x1b[200~first line\rsecond \xc3\xa8\rthird\x1b[201~")
    chat.expect("[paste 1: 3 lines]")
    chat.line(" and more")
    seen = chat.expect(rb"You said: first line\r\nsecond \xc3\xa8\r\nthird and more")
    assert seen.count(b"You said") == 1
    chat.prompt()


def test_a_paste_of_one_line_lands_in_the_line(chat):
    chat.type(b"A \x1b[200~pasted w\xc3\xb6rd\x1b[201~ B")
    chat.line("")
    chat.expect(rb"You said: A pasted w\xc3\xb6rd B")


def test_escape_sequences_in_a_paste_do_not_reach_the_terminal(chat):
    chat.type(b"\x1b[200~x\x1b]0;evil\x07y\x1b[201~")
    chat.line("")
    seen = chat.expect("You said: ") + chat.expect(">>> ")
    assert b"\x1b]0;" not in seen and b"\x07" not in seen


def test_a_backslash_continues_the_message(chat):
    chat.line("one\\")
    chat.expect("... ")
    chat.line("two")
    chat.expect("You said: one\r\ntwo")


def test_escape_sequences_of_the_model_are_harmless_on_a_terminal(chat):
    chat.line("escape")
    seen = chat.expect("red\r\n")
    assert b"\x1b[2J" not in seen and b"\x1b]0;" not in seen and b"\x07" not in seen and b"\x1b[31m" not in seen
    assert "\u241b[31mred".encode() in seen and "\u2407".encode() in seen


def test_a_failing_answer_leaves_the_conversation_as_it_was(chat):
    chat.line("What is the capital of France?")
    chat.prompt()
    for word, reason in (("break", "the scripted device failed"), ("nan", "not a number")):
        chat.line(word)
        chat.expect(reason)
        chat.expect("taken back")
        chat.prompt()
    chat.line("/ctx")
    chat.expect(" 2 messages")
    chat.prompt()
    chat.line("the capital of France again")
    chat.expect("Paris.")


def test_the_history_brings_back_a_line(chat):
    chat.line("Say this")
    chat.expect("You said: Say this")
    chat.prompt()
    chat.type(b"\x1b[A")
    chat.expect("Say this")
    chat.line(" too")
    chat.expect("You said: Say this too")


def test_ctrl_d_leaves(chat):
    chat.type(b"\x04")
    assert chat.wait() == 0


def test_sigterm_leaves_with_the_terminal_as_it_was(model):
    import signal
    import termios
    with Terminal("run", "-m", model) as chat:
        chat.prompt()
        time.sleep(0.3)
        os.kill(chat.pid, signal.SIGTERM)
        chat.wait()
        assert termios.tcgetattr(chat.fd)[3] & termios.ICANON


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_single_answer_that_a_signal_ends_leaves_no_dimmed_terminal(model, name):
    import signal
    with Terminal("run", "-m", model, "--keep-repeating", "-p", "a long thought") as answer:
        before = answer.expect("hmm hmm")
        assert before.rindex(b"\x1b[2m") > before.rfind(b"\x1b[0m")
        os.kill(answer.pid, getattr(signal, name))
        assert answer.wait() == -getattr(signal, name)
        assert answer.output.rindex(b"\x1b[0m") > answer.output.rfind(b"\x1b[2m")


def test_a_signal_that_the_caller_ignores_ends_no_single_answer(model):
    import signal
    ignoring = f"trap '' HUP; exec {FAKE} run -m {model} --keep-repeating --no-kv -p 'a long thought'"
    with Terminal("-c", ignoring, binary="/bin/sh") as answer:
        answer.expect("hmm hmm")
        os.kill(answer.pid, signal.SIGHUP)
        answer.expect("hmm hmm hmm hmm hmm hmm hmm hmm")
        assert answer.alive()
        os.kill(answer.pid, signal.SIGINT)
        assert answer.wait() == -signal.SIGINT


def test_a_stopped_and_continued_program_keeps_the_line(chat):
    import fcntl
    import signal
    import struct
    import termios
    chat.type("abc")
    chat.expect("abc")
    os.kill(chat.pid, signal.SIGSTOP)
    fcntl.ioctl(chat.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 20, 60, 0, 0))
    os.kill(chat.pid, signal.SIGCONT)
    time.sleep(0.3)
    chat.line("d")
    chat.expect("You said: abcd\r\n")


def test_progress_of_load_and_prefill_is_shown_on_a_terminal_and_removed(tmp_path):
    model = script(tmp_path, load_ms=1500, chunk=16, chunk_ms=60, ctx=100000)
    with Terminal("run", "-m", model, "--no-think") as chat:
        seen = chat.prompt()
        assert re.search(rb"\r\x1b\[Kloading \d+ B of 10 B \(\d+%\)", seen)
        assert b"\r\x1b[K" in seen.rsplit(b"loading", 1)[1]
        chat.line("z" * 400)
        seen = chat.expect("You said: ")
        assert re.search(rb"\r\x1b\[Kreading \d+ of 403 tokens \(\d+%, [\d.]+ tokens/s\)", seen)
        assert seen.endswith(b"\r\x1b[KYou said: ")
    result = run("run", "-m", model, "-p", "z" * 400, "--no-think", "-n", "5")
    assert b"loading" not in result.stderr and b"reading" not in result.stderr and b"\x1b" not in result.stderr


def test_a_file_is_sent_whole(chat, tmp_path):
    path = tmp_path / "question.txt"
    path.write_text("line 1\nWhat is the capital of France?\n")
    chat.line(f"/read {path}")
    chat.expect("Paris.")
    chat.prompt()
    chat.line(f"/read {tmp_path}/absent")
    chat.expect("No such file")


def test_a_prompt_too_long_for_the_context_is_refused_with_numbers(tmp_path):
    model = script(tmp_path, ctx=64)
    with Terminal("run", "-m", model, "--no-think") as chat:
        chat.prompt()
        chat.line("y" * 100)
        chat.expect(rb"the prompt takes 104 tokens and the context holds 64")
        chat.prompt()
        chat.line("a")
        chat.expect("You said: a")


def test_an_answer_stops_where_the_context_is_full(tmp_path):
    model = script(tmp_path, ctx=64, answers=[{"say": "abc" * 100}])
    with Terminal("run", "-m", model, "--no-think") as chat:
        chat.prompt()
        chat.line("hello")
        chat.expect("the context is full")
        chat.prompt()


# ---- saving and loading ----


def saved_path(tmp_path):
    return tmp_path / "state" / "last.chat"


def test_a_saved_conversation_goes_on_in_another_run_without_computing(model, tmp_path):
    args = ("run", "-m", model, "--no-think", "--state-dir", str(tmp_path / "state"))
    with Terminal(*args) as chat:
        chat.prompt()
        chat.line("remember " + "x" * 300)
        chat.prompt()
        chat.line("/save")
        chat.expect("Saved: ")
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    assert stat.S_IMODE(os.stat(saved_path(tmp_path)).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "state").st_mode) == 0o700
    with Terminal(*args) as chat:
        chat.prompt()
        chat.line("/load")
        chat.expect(rb"2 messages, state of \d+ tokens")
        chat.prompt()
        chat.line("go on")
        seen = chat.expect(rb"\[prompt (\d+) tokens, (\d+) computed")
        assert int(seen.split()[-2]) < 20


def test_a_conversation_saved_with_another_model_keeps_its_words(model, tmp_path):
    state = ("--state-dir", str(tmp_path / "state"))
    with Terminal("run", "-m", model, *state) as chat:
        chat.prompt()
        chat.line("What is the capital of France?")
        chat.prompt()
        chat.line("/save trip")
        chat.expect("Saved")
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"name": "another"}))
    with Terminal("run", "-m", str(other), *state) as chat:
        chat.prompt()
        chat.line("/load trip")
        chat.expect("2 messages; its state is of another model")
        chat.prompt()
        chat.line("and now")
        chat.expect("You said: and now")


@pytest.mark.parametrize("where", ["header", "messages", "state", "end", "cut", "longer"])
def test_a_damaged_save_is_refused_and_the_conversation_goes_on(model, tmp_path, where):
    with Terminal("run", "-m", model, "--state-dir", str(tmp_path / "state")) as chat:
        chat.prompt()
        chat.line("What is the capital of France?")
        chat.prompt()
        chat.line("/save")
        chat.expect("Saved")
        chat.prompt()
        path = saved_path(tmp_path)
        data = bytearray(path.read_bytes())
        if where == "cut":
            data = data[:-1]
        elif where == "longer":
            data += b"x"
        else:
            data[{"header": 50, "messages": 130, "state": len(data) // 2, "end": len(data) - 1}[where]] ^= 4
        path.write_bytes(data)
        chat.line("/load")
        chat.expect("is damaged")
        chat.prompt()
        chat.line("/ctx")
        chat.expect(" 2 messages")


def test_saving_never_replaces_a_file_of_another_kind(chat, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("my notes, long enough\n")
    chat.line(f"/save {path}")
    chat.expect("not replaced")
    chat.prompt()
    chat.line(f"/load {path}")
    chat.expect("is not a saved conversation")
    assert path.read_text() == "my notes, long enough\n"
    chat.prompt()
    chat.line(f"/save {tmp_path}/./other")
    chat.expect("Saved")
    assert (tmp_path / "other").read_bytes().startswith(b"DS4CHAT")
    chat.prompt()
    chat.line("/save bad name")
    chat.expect("a name has letters")
    chat.prompt()
    os.mkfifo(tmp_path / "pipe")
    chat.line(f"/save {tmp_path}/pipe")
    chat.expect("not a regular file")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


def test_a_state_directory_open_to_others_is_refused(model, tmp_path):
    (tmp_path / "state").mkdir(mode=0o755)
    os.chmod(tmp_path / "state", 0o755)
    with Terminal("run", "-m", model, "--state-dir", str(tmp_path / "state")) as chat:
        chat.prompt()
        chat.line("/save")
        chat.expect("open to others")


def test_only_the_answer_goes_to_a_redirected_output(model, tmp_path):
    out = tmp_path / "out"
    with Terminal("run", "-m", model, stdout_path=str(out)) as chat:
        chat.prompt()
        chat.line("What is the capital of France?")
        chat.expect("tokens at")
        chat.prompt()
        chat.line("/quit")
        assert chat.wait() == 0
    assert out.read_bytes() == b"Paris.\n"


def test_a_pipe_as_input_is_one_prompt(model):
    result = run("run", "-m", model, stdin=b"What is\nthe capital of France?\n")
    assert (result.returncode, result.stdout) == (0, b"Paris.\n")
