"""The commands that look into models, and `ds4 run` without a terminal, on the real engine with generated weights."""

import csv
import io
import json
import lzma
import math
import os
import re
import stat
import subprocess

import pytest

from cli import DS4, FAKE, Terminal, run, script

GOLDEN = os.path.join(os.path.dirname(__file__), "..", "golden")
TRAINED = os.path.join(os.path.dirname(__file__), "../../models/ds4-tiny.gguf")
COMMANDS = ("run", "plan", "inspect", "tokenize", "logits", "bench", "perplexity", "quantize", "imatrix", "fixture")


def ds4(*args, **more):
    return run(*args, binary=DS4, **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([DS4, "fixture", "tiny", "--type", "Q8_0", "-o", path], check=True, timeout=300)
    return str(path)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.gguf"
    with lzma.open(os.path.join(GOLDEN, "text", "ds4_merges.bin.xz")) as file:
        subprocess.run([DS4, "fixture", "vocab", "-o", path], input=file.read(), check=True, timeout=300)
    return str(path)


# ---- command line ----


def test_help_of_every_command_is_complete_and_goes_to_standard_output():
    overview = ds4("help")
    assert overview.returncode == 0
    listed = re.findall(r"^  (\w+) ", overview.stdout.decode(), re.M)
    assert set(COMMANDS) <= set(listed)
    for command in listed:
        if command == "help":
            continue
        result = ds4("help", command)
        assert (result.returncode, result.stderr) == (0, b""), command
        assert result.stdout == ds4(command, "--help").stdout
        text = result.stdout.decode()
        assert text.startswith(f"ds4 {command} - ")
        options = re.findall(r"^  (?:-\w, |    )(--[\w-]+)", text, re.M)
        assert len(options) == len(set(options)) and "--help" in options
        assert all(len(line) <= 100 for line in text.splitlines())


def test_mistakes_on_the_command_line_exit_with_2_and_one_line():
    cases = [
        (["tokenise"], b"did you mean ds4 tokenize?"),
        (["frobnicate"], b"ds4 help lists them"),
        (["-m", "x"], b"the command comes first"),
        (["run", "--tmep", "1"], b"did you mean --temp?"),
        (["run", "--temp", "hot"], b"--temp hot: must be a number from 0 to 100"),
        (["run", "--top-p", "1.5"], b"must be a number from 0 to 1"),
        (["run", "-p"], b"-p needs a value: TEXT"),
        (["run", "-p", ""], b"the prompt is empty"),
        (["run", "-p", "a", "--prompt-file", "b"], b"exclude each other"),
        (["run", "--raw", "--system", "x", "-p", "y"], b"--raw"),
        (["run", "surplus"], b"unexpected argument surplus"),
        (["logits", "--tokens", "1"], b"--json OUT is missing"),
        (["logits", "--json", "-"], b"give one of --tokens"),
        (["logits", "--json", "-", "--tokens", "1", "-p", "x"], b"only one"),
        (["inspect"], b"FILE is missing"),
        (["tokenize", "--json", "--jsonl"], b"exclude each other"),
        (["run", "--help=all"], b"--help takes no value"),
        (["run", "-n", "5000000000", "-p", "x"], b"must be a whole number from 0 to 4294967295"),
        (["serve", "--alias", ""], b"--alias"),
        (["serve", "--host", "example"], b"--host example: must be a numeric address"),
        (["kv", "forget"], b"forget: not list, show"),
        (["kv", "show"], b"show takes 1 argument, not 0"),
        (["kv", "prune"], b"prune needs"),
        (["quantize", "in.gguf"], b"OUT is missing"),
        (["quantize", "in.gguf", "out.gguf", "--gptq"], b"--rows goes with"),
        (["quantize", "in.gguf", "out.gguf", "--down", "Q9"], b'nothing can be stored as "Q9"'),
        (["bench", "--draft", "1", "--together", "2"], b"exclude each other"),
        (["bench", "--rounds", "2"], b"needs --repeat"),
    ]
    with_model = (["run", "-p", "x"], ["serve"], ["plan"], ["bench"], ["kv", "list"], ["imatrix", "-o", "x"],
                  ["perplexity"], ["logits", "--tokens", "1", "--json", "-"])
    for command in with_model:
        cases += [([*command, "-m", ""], b"the file name is empty"),
                  ([*command, "--expert-cache", "much"], b"--expert-cache much: must be a number of bytes"),
                  ([*command, "--launch", "late"], b"--launch late: must be plain or early")]
    cases += [([*command, "--mtp", "x.gguf"], b"without --draft") for command in with_model[:4]]
    for args, words in cases:
        result = ds4(*args)
        assert result.returncode == 2, args
        assert words in result.stderr and result.stderr.count(b"\n") == 1, (args, result.stderr)
        assert result.stdout == b""


def test_the_version_is_that_of_the_header():
    with open(os.path.join(os.path.dirname(__file__), "..", "..", "include", "ds4.h"), encoding="utf-8") as file:
        version = re.search(r'DS4_VERSION "([^"]+)"', file.read()).group(1)
    assert ds4("--version").stdout.decode() == f"ds4 {version}\n"


def test_files_that_are_absent_or_no_models_fail_with_1_and_their_name(tmp_path):
    junk = tmp_path / "junk.gguf"
    junk.write_bytes(b"this is not a model at all, but long enough to have a header")
    for command in (["run", "-p", "x"], ["plan"], ["tokenize"], ["logits", "--tokens", "1", "--json", "-"], ["bench"]):
        for path in (tmp_path / "absent.gguf", junk, tmp_path):
            result = ds4(*command, "-m", str(path))
            assert result.returncode == 1, command
            assert str(path).encode() in result.stderr.splitlines()[-1] and result.stdout == b""
    for path in (tmp_path / "absent.gguf", junk, tmp_path):
        result = ds4("inspect", str(path))
        assert result.returncode == 1 and str(path).encode() in result.stderr


def test_without_a_model_the_message_says_how_to_get_one(tmp_path):
    program = tmp_path / "ds4"
    program.write_bytes(open(DS4, "rb").read())
    program.chmod(0o755)
    result = run("run", "-p", "x", binary=str(program), cwd=tmp_path)
    assert result.returncode == 1 and b"-m FILE" in result.stderr and b"ds4 fixture tiny" in result.stderr


def test_the_default_model_is_found_beside_the_program_and_named(tmp_path, model):
    program = tmp_path / "ds4"
    program.write_bytes(open(DS4, "rb").read())
    program.chmod(0o755)
    (tmp_path / "models").mkdir()
    os.link(model, tmp_path / "models" / "ds4-tiny.gguf")
    result = run("plan", "--no-probe", binary=str(program), cwd="/")
    assert result.returncode == 0
    assert f"model: {tmp_path}/models/ds4-tiny.gguf (no -m given)\n".encode() in result.stderr


@pytest.mark.parametrize("args", [["--version"], ["help"], ["run", "--help"], ["inspect", "MODEL"],
                                  ["tokenize", "-m", "MODEL"], ["plan", "--no-probe", "-m", "MODEL"],
                                  ["run", "-m", "MODEL", "-p", "hi", "-n", "3", "--no-think", "--seed", "1"],
                                  ["logits", "-m", "MODEL", "--tokens", "1", "--json", "-"],
                                  ["logits", "-m", "MODEL", "--tokens", "1", "--json", "/dev/full"],
                                  ["bench", "-m", "MODEL", "--first", "64", "--ctx", "64"]], ids=" ".join)
def test_output_that_cannot_be_written_is_an_error(model, args):
    args = [model if a == "MODEL" else a for a in args]
    with open("/dev/full", "wb") as full:
        result = ds4(*args, stdout=full, stdin=b"some text")
    assert result.returncode == 1 and b"No space left" in result.stderr
    reader, writer = os.pipe()
    os.close(reader)
    if "/dev/full" in args:
        os.close(writer)
        return
    result = ds4(*args, stdout=writer, stdin=b"some text")
    os.close(writer)
    assert result.returncode == 1 and b"Broken pipe" in result.stderr
    result = ds4(*args, preexec_fn=lambda: os.close(1), stdin=b"some text")
    assert result.returncode == 1 and b"Bad file descriptor" in result.stderr


@pytest.mark.parametrize("args", [["fixture", "tiny", "-o", "OUT"], ["quantize", "MODEL", "OUT"],
                                  ["quantize", "MODEL", "OUT", "--force"], ["imatrix", "-m", "MODEL", "-o", "OUT"]],
                         ids=" ".join)
def test_only_a_regular_file_is_replaced_and_who_names_another_is_told_at_once(model, tmp_path, args):
    os.mkfifo(tmp_path / "pipe")
    os.mkdir(tmp_path / "folder")
    os.symlink("elsewhere", tmp_path / "link")
    before = sorted(os.listdir(tmp_path))
    for name, words in (("pipe", b"not a regular file"), ("folder", b"Is a directory"), ("link", b"a symbolic link"),
                        ("absent/file", b"No such file or directory")):
        out = str(tmp_path / name)
        result = ds4(*[model if a == "MODEL" else out if a == "OUT" else a for a in args], stdin=b"")
        assert result.returncode == 1 and words in result.stderr, result.stderr  # nor that there is no text
        assert f"ds4 {args[0]}: cannot create {out}: ".encode() in result.stderr
    assert sorted(os.listdir(tmp_path)) == before
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)


# ---- tokenize ----


def test_tokenize_agrees_with_the_vectors(vocab):
    with open(os.path.join(GOLDEN, "text", "tokenizer_vectors.json"), encoding="utf-8") as file:
        vectors = json.load(file)
    assert len(vectors) > 400
    for special in (False, True):
        lines = "".join(json.dumps({k: v[k] for k in ("text", "hex") if k in v}) + "\n" for v in vectors)
        result = ds4("tokenize", "-m", vocab, "--jsonl", *(["--special"] if special else []), stdin=lines.encode())
        assert result.returncode == 0
        got = [json.loads(line)["ids"] for line in result.stdout.splitlines()]
        want = [v.get("ids_special", v["ids"]) if special else v["ids"] for v in vectors]
        assert got == want


def test_tokenize_wraps_a_message_and_shows_pieces(vocab, tmp_path):
    path = tmp_path / "text"
    path.write_text("Hello")
    result = ds4("tokenize", "-m", vocab, "--chat", "--json", str(path))
    got = json.loads(result.stdout)
    assert got["ids"][0] == 0 and got["ids"][1] == 128803 and got["ids"][-2:] == [128804, 128822]
    assert "".join(got["pieces"][2:-2]) == "Hello"
    plain = ds4("tokenize", "-m", vocab, stdin=b"</think> x").stdout.decode().splitlines()
    assert [int(line.split("\t")[0]) for line in plain] == [1718, 37947, 32, 1527]
    assert ds4("tokenize", "-m", vocab, "--json", stdin=b"").stdout == b'{"ids":[],"pieces":[]}\n'


@pytest.mark.parametrize("line", ['{"text": 1}', '{"hex": "0g"}', '{"hex": "123"}', '[]', '{"text": "a"', '"text"'])
def test_tokenize_names_the_line_that_is_wrong(vocab, line):
    result = ds4("tokenize", "-m", vocab, "--jsonl", stdin=b'{"text": "a"}\n\n' + line.encode())
    assert result.returncode == 1 and b"line 3" in result.stderr


# ---- inspect and plan ----


def test_inspect_tells_what_the_file_holds(model):
    got = json.loads(ds4("inspect", model, "--tensors", "--json").stdout)
    assert got["file_bytes"] == os.path.getsize(model)
    assert got["n_tensors"] == len(got["tensors"]) > 100
    assert got["metadata"]["general.architecture"] == "deepseek4"
    assert got["metadata"]["deepseek4.expert_weights_norm"] in (True, False)
    end = got["header_bytes"]
    for tensor in sorted(got["tensors"], key=lambda t: t["offset"]):
        assert tensor["offset"] >= end
        end = tensor["offset"] + tensor["bytes"]
        values = math.prod(tensor["shape"])
        if tensor["type"] in ("F32", "I32"):
            assert tensor["bytes"] == 4 * values
        if tensor["type"] == "Q8_0":
            assert tensor["bytes"] == values // 32 * 34
    assert end <= got["file_bytes"]
    text = ds4("inspect", model, "--tensors").stdout.decode()
    assert all(tensor["name"] in text for tensor in got["tensors"])
    assert "deepseek4.block_count = 8" in text


def test_inspect_shows_hostile_names_harmlessly(tmp_path, model):
    data = bytearray(open(model, "rb").read(4096))
    at = data.index(b"general.architecture")
    data[at:at + 4] = b"\x1b]0;"
    path = tmp_path / "hostile.gguf"
    path.write_bytes(bytes(data) + open(model, "rb").read()[4096:])
    assert b"\x1b" not in ds4("inspect", str(path)).stdout


def test_plan_adds_up_and_refuses_what_does_not_fit(model):
    result = ds4("plan", "-m", model, "--json")
    got = json.loads(result.stdout)
    assert result.returncode == 0 and got["fits"] and got["verdict"]
    assert sum(i["bytes"] for i in got["items"] if i["resident"]) == got["resident_bytes"]
    assert sum(i["bytes"] for i in got["items"] if not i["resident"]) == got["mapped_bytes"]
    speed = got["memory_bytes_per_s"] / got["weight_bytes_per_token"]
    assert got["decode_tps_estimate"] == pytest.approx(speed, rel=1e-3)
    longer = json.loads(ds4("plan", "-m", model, "--json", "--no-probe", "--ctx", "65536").stdout)
    shorter = json.loads(ds4("plan", "-m", model, "--json", "--no-probe", "--ctx", "4096").stdout)
    assert longer["resident_bytes"] > shorter["resident_bytes"] and "decode_tps_estimate" not in longer
    refused = ds4("plan", "-m", model, "--json", "--memory", "1m", "--no-probe")
    assert refused.returncode == 1 and json.loads(refused.stdout)["fits"] is False
    result = ds4("run", "-m", model, "-p", "x", "--memory", "1m")
    assert result.returncode == 1 and result.stdout == b"" and re.search(rb"\d", result.stderr.splitlines()[-1])


def test_plan_of_streamed_experts_predicts_names_a_command_and_is_kept(model, tmp_path):
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(open(model, "rb").read())
    args = ("-m", str(copy), "--ctx", "256", "--expert-cache")
    refused = ds4("plan", *args, "1k", "--no-probe")
    assert refused.returncode == 1
    least = re.search(rb"give it at least (\d+) bytes", refused.stdout).group(1).decode()
    got = json.loads(ds4("plan", *args, least, "--json", "--probe-seconds", "1").stdout)
    cache = [i["bytes"] for i in got["items"] if "cache of" in i["name"]]
    assert cache == [got["expert_cache_bytes"]] and cache[0] <= int(least) and got["fits"]
    assert got["disk_bytes_per_s"] > 0 and 0 < got["predicted_tps"] <= got["best_predicted_tps"] * 1.01
    # All of it fits, but on a machine that has no memory to spare at the moment.
    assert re.fullmatch(re.escape(f"ds4 run -m {copy}") + r"( --expert-cache \d+[kmg]?)?", got["best_command"])
    assert (tmp_path / "copy.gguf.experts").exists()
    result = ds4("bench", *args, least, "--first", "32", "-n", "4")
    assert result.returncode == 0 and re.search(rb"tokens/s, [\d.e+]+ predicted\n", result.stderr)
    for bad in ("8x", "-1", ""):
        refused = ds4("plan", "-m", str(copy), "--expert-cache", bad)
        assert refused.returncode != 0 and b"--expert-cache" in refused.stderr
    assert b"tokens/s predicted" in ds4("plan", *args, least, "--probe-seconds", "1").stdout


# ---- logits ----


def logits(model, *args):
    result = ds4("logits", "-m", model, "--json", "-", *args)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


IDS = [(i * 37 + 11) % 480 for i in range(150)]


def test_logits_do_not_depend_on_chunks_threads_or_how_tokens_are_given(model, tmp_path):
    ids = ",".join(map(str, IDS))
    all_rows = logits(model, "--tokens", ids, "--positions", "all")
    assert all_rows["n_tokens"] == 150 and [r["position"] for r in all_rows["rows"]] == list(range(150))
    assert all(len(r["logits"]) == 512 for r in all_rows["rows"])
    path = tmp_path / "ids"
    path.write_text("\n".join(map(str, IDS[:75])) + " , " + "\t".join(map(str, IDS[75:])) + "\n")
    some = ["--tokens-file", str(path), "--positions", "149,0, 7 64"]
    for more in (["--chunk", "1"], ["--chunk", "7"], ["--chunk", "64", "--threads", "1"], ["--chunk", "150"]):
        rows = logits(model, *some, *more)["rows"]
        assert rows == [all_rows["rows"][i] for i in (0, 7, 64, 149)], more
    assert logits(model, "--tokens", ids)["rows"] == all_rows["rows"][-1:]


def test_top_logits_are_the_largest_with_their_probabilities(model):
    full = logits(model, "--tokens", "1,2,3")["rows"][0]["logits"]
    top = logits(model, "--tokens", "1,2,3", "--top", "20")["rows"][0]["top"]
    order = sorted(range(len(full)), key=lambda i: (-full[i], i))
    assert [t["id"] for t in top] == order[:20]
    total = math.log(sum(math.exp(x) for x in full))
    for t in top:
        assert t["logit"] == full[t["id"]] and t["logprob"] == pytest.approx(full[t["id"]] - total, abs=2e-5)
    assert len(logits(model, "--tokens", "1", "--top", "9999")["rows"][0]["top"]) == 512


def test_logits_of_a_text_are_those_of_its_tokens(model):
    text = "the <think>"
    ids = json.loads(ds4("tokenize", "-m", model, "--special", "--json", stdin=text.encode()).stdout)["ids"]
    assert logits(model, "-p", text) == logits(model, "--tokens", " ".join(map(str, ids)))


def test_ideal_state_gives_other_numbers_but_close_ones(model):
    ids = ",".join(map(str, IDS))
    real, ideal = (logits(model, "--tokens", ids, *more)["rows"][0]["logits"] for more in ([], ["--ideal"]))
    assert real != ideal and max(abs(a - b) for a, b in zip(real, ideal)) < 1


@pytest.mark.parametrize("args,words", [
    (["--tokens", "1,512"], b"token id 512: must be a whole number from 0 to 511"),
    (["--tokens", "1,-2"], b"token id -2"),
    (["--tokens", "1;2"], b"token id 1;2"),
    (["--tokens", " ,\n"], b"there are no tokens"),
    (["--tokens", "1,2", "--positions", "2"], b"position 2: must be a whole number from 0 to 1"),
    (["--tokens", "1,2", "--positions", "first"], b"position first"),
    (["--tokens", ",".join(["1"] * 65), "--ctx", "64"], b"65 tokens, but the context holds 64"),
    (["--tokens-file", "/nonexistent"], b"/nonexistent"),
])
def test_bad_tokens_and_positions_are_refused_with_numbers(model, args, words):
    result = ds4("logits", "-m", model, "--json", "-", *args)
    assert result.returncode == 1 and words in result.stderr and result.stdout == b""


# ---- bench ----


def test_bench_measures_each_frontier(model):
    result = ds4("bench", "-m", model, "--first", "64", "--ctx", "256", "-n", "8")
    rows = list(csv.DictReader(io.StringIO(result.stdout.decode())))
    assert [int(r["ctx"]) for r in rows] == [64, 128, 256]
    assert all(float(r["prefill_tps"]) > 0 and float(r["decode_tps"]) > 0 for r in rows)
    assert int(rows[0]["kv_bytes"]) < int(rows[2]["kv_bytes"])
    got = json.loads(ds4("bench", "-m", model, "--first", "64", "--ctx", "128", "--json").stdout)
    assert [set(r) for r in got["rows"]] == [{"ctx", "prefill_tps", "decode_tps", "kv_bytes"}] * 2
    greedy = ["bench", "-m", model, "--first", "64", "--ctx", "64", "-n", "8", "--greedy"]
    for together in [[], ["--together", "3"]]:
        assert re.fullmatch(r"ctx,.*\n64,[\d.e+]+,[\d.e+]+,\d+\n", ds4(*greedy, *together).stdout.decode())
    for json_too in [], ["--json"]:
        got = ds4("bench", "-m", TRAINED, "--first", "64", "--ctx", "128", "--draft", "2", *json_too).stdout.decode()
        rows = json.loads(got)["rows"] if json_too else list(csv.DictReader(io.StringIO(got)))
        assert [int(r["ctx"]) for r in rows] == [64, 128]
        assert all(float(r["draft_tps"]) > 0 and 1 <= float(r["tokens_per_pass"]) <= 3 for r in rows)
        assert max(float(r["tokens_per_pass"]) for r in rows) > 1
    result = ds4("bench", "-m", TRAINED, "--draft", "1", "--together", "2")
    assert result.returncode == 2 and b"exclude each other" in result.stderr
    result = ds4("bench", "-m", model, "--first", "512", "--ctx", "256")
    assert result.returncode == 1 and b"512" in result.stderr and b"256" in result.stderr


def test_bench_measures_far_into_a_conversation_without_computing_it(model):
    args = ("-m", model, "--first", "1024", "--ctx", "2048", "-n", "4")
    result = ds4("bench", *args, "--repeat", "256")
    rows = list(csv.DictReader(io.StringIO(result.stdout.decode())))
    span = 128 if int(rows[0]["ctx"]) > 772 else 256  # with tiny limits
    assert [int(r["ctx"]) for r in rows] == [1024 - span + 4, 2048 - span + 4]
    assert all(float(r["prefill_tps"]) == 0 and float(r["decode_tps"]) > 0 for r in rows)
    result = ds4("bench", *args, "--repeat", "256", "--kernels", "--threads", "1")
    for name in ("attention", "index_select", "hc_mix", "rms_norm", "rope", "router", "compress", "choosing a token"):
        assert re.search(rb"^" + name.encode() + rb" +\d+ calls +[\d.]+ ms", result.stderr, re.M), name
    assert result.stderr.count(b"\nattention ") == 2  # once a frontier
    again = ds4("bench", "-m", model, "--first", "512", "--growth", "4", "--ctx", "2048", "-n", "1", "--repeat", "256",
                "--rounds", "2").stdout.decode()
    reached = [int(line.split(",")[0]) for line in again.splitlines()[1:]]
    assert len(reached) == 4 and reached[:2] == reached[2:] and reached[1] > 1536
    result = ds4("bench", *args, "--rounds", "2")
    assert result.returncode == 2 and b"--repeat" in result.stderr
    result = ds4("bench", *args, "--repeat", "200")
    assert result.returncode == 1 and b"--repeat 200 is not a multiple" in result.stderr


# ---- run without a terminal ----


def answer(model, *args, **more):
    result = ds4("run", "-m", model, "-n", "24", *args, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_greedy_and_seeded_answers_repeat(model):
    greedy = ["-p", "Tell me", "--no-think", "--temp", "0"]
    assert answer(model, *greedy) == answer(model, *greedy, "--threads", "1") != b""
    seeds = [answer(model, "-p", "Tell me", "--no-think", "--seed", s) for s in ("5", "5", "6")]
    assert seeds[0] == seeds[1] != seeds[2]
    assert len({answer(model, "-p", "Tell me", "--no-think") for _ in range(4)}) > 1
    assert answer(model, "-p", "Tell me", "--no-think", "--top-k", "1", "--seed", "9") == answer(model, *greedy)


def test_drafts_change_no_answer_and_need_a_draft_block(tmp_path):
    for how in (["--temp", "0"], ["--seed", "7"]):
        told = ["-p", "Tell me a story.", "--no-think", "-n", "100", *how]
        plain = ds4("run", "-m", TRAINED, *told)
        assert plain.returncode == 0 and b"drafts" not in plain.stderr
        for n in ("1", "3"):
            result = ds4("run", "-m", TRAINED, *told, "--draft", n)
            assert result.stdout == plain.stdout != b""
            kept, per_pass = re.search(rb"; (\d+)% of drafts kept, ([\d.]+) tokens a pass;", result.stderr).groups()
            assert 0 < int(kept) < 100 and 1 < float(per_pass) < 1 + int(n)
    files = {}
    for part in ("trunk", "mtp"):
        files[part] = str(tmp_path / part)
        ds4("fixture", "random", "--part", part, "-o", files[part])
    for command in (["run", "-p", "x"], ["bench"], ["serve", "--port", "0"], ["plan", "--no-probe"]):
        result = ds4(*command, "-m", files["trunk"], "--draft", "1")
        assert result.returncode == 1 and result.stdout == b""
        last = result.stderr.splitlines()[-1]
        assert f"{files['trunk']} has no draft block (tensors mtp.0.*)".encode() in last
        result = ds4(*command, "-m", files["trunk"], "--mtp", files["mtp"])
        assert result.returncode == 2 and b"--draft" in result.stderr.splitlines()[-1]
    both = ["-m", files["trunk"], "--mtp", files["mtp"], "--draft", "2"]
    plain = ["-p", "x", "--temp", "0", "-n", "20"]
    assert answer(files["trunk"], *plain) == ds4("run", *both, *plain).stdout
    assert ds4("plan", "--no-probe", *both).returncode == 0


def test_the_prompt_may_come_from_a_file_or_a_pipe(model, tmp_path):
    path = tmp_path / "prompt"
    path.write_bytes("two\nlines \u00e8 \0 nul".encode())
    options = ["--no-think", "--temp", "0"]
    one = answer(model, *options, "--prompt-file", str(path))
    assert one == answer(model, *options, stdin=path.read_bytes())
    assert one == answer(model, *options, "--prompt-file", "-", stdin=path.read_bytes())
    result = ds4("run", "-m", model)
    assert result.returncode == 1 and b"standard input is empty" in result.stderr


def test_a_system_text_and_thinking_change_the_prompt(model):
    def n_prompt(*args):
        result = ds4("run", "-m", model, "-p", "x", "-n", "1", *args)
        return int(re.search(rb"prompt (\d+) tokens", result.stderr).group(1))
    assert n_prompt() == n_prompt("--no-think") == n_prompt("--think") == 5
    assert n_prompt("--system", "abc") > 5 and n_prompt("--think-max") > 50


def test_raw_transcripts_take_markers_and_show_markers(tmp_path):
    model = script(tmp_path, answers=[{"when": "hi", "think": "t", "say": "s"}])
    text = "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>hi<\uff5cAssistant\uff5c><think>"
    result = run("run", "-m", model, "--raw", "-p", text)
    assert result.stdout.decode() == "t</think>s<\uff5cend\u2581of\u2581sentence\uff5c>"
    assert b"prompt 6 tokens" in result.stderr
    result = run("run", "-m", model, "-p", text)  # content is never control
    assert f"prompt {len(text.encode()) + 4} tokens".encode() in result.stderr


def test_a_pipe_gets_the_answer_byte_by_byte_and_nothing_else(tmp_path):
    model = script(tmp_path, answers=[{"think": "secret", "say": "a\x1b[31mb\u00e8"}])
    result = run("run", "-m", model, "-p", "x")
    assert result.stdout == "a\x1b[31mb\u00e8\n".encode()
    assert b"tokens at" in result.stderr


def test_a_failing_answer_exits_with_1_and_keeps_what_came_before(tmp_path):
    model = script(tmp_path, answers=[{"say": "abcdef", "fail_after": 4}])
    result = run("run", "-m", model, "-p", "x", "--no-think")
    assert result.returncode == 1 and result.stdout == b"abcd\n" and b"the scripted device failed" in result.stderr


def test_an_answer_stops_when_its_reader_leaves(tmp_path):
    model = script(tmp_path, ctx=100000, answers=[{"say": "abcdefgh", "endless": True, "token_ms": 2}])
    process = subprocess.Popen([FAKE, "run", "-m", model, "-p", "x", "--no-think", "--keep-repeating"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.read(5) == b"abcde"
    process.stdout.close()
    assert process.wait(timeout=300) == 1
    assert b"Broken pipe" in process.stderr.read()
    process.stderr.close()


def test_a_real_conversation_resumes_from_its_file_as_if_it_had_never_stopped(tmp_path):
    args = ("run", "-m", TRAINED, "--no-think", "--temp", "0", "-n", "30", "--state-dir", str(tmp_path / "state"))

    def ask(chat, text):
        """What was shown, without the progress of a slow machine, and the tokens of the prompt: all, computed."""
        chat.line(text)
        seen = chat.expect(rb"\[prompt \d+ tokens, \d+ computed")
        total, computed = map(int, re.findall(rb"\d+", seen.rsplit(b"[prompt", 1)[1]))
        shown = seen.split(b"\x1b[?2004l", 1)[1].rsplit(b"[prompt", 1)[0]
        chat.prompt()
        return re.sub(rb"\r\x1b\[K(reading[^\r]*)?", b"", shown), total, computed

    with Terminal(*args, binary=DS4) as chat:
        chat.prompt()
        ask(chat, "first question " * 6)
        chat.line("/save")
        chat.expect("Saved")
        chat.prompt()
        whole = ask(chat, "second")
    with Terminal(*args, binary=DS4) as chat:
        chat.prompt()
        chat.line("/load")
        chat.expect(rb"state of \d+ tokens")
        chat.prompt()
        again = ask(chat, "second")
        assert again[0] == whole[0]
        assert again[2] <= whole[2] + 1  # the last token has its logits computed again
