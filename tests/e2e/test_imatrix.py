"""`ds4 imatrix`, and the whole way from a checkpoint to a calibrated 2-bit file that is compared with the exact one."""

import json
import os
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from cli import DS4, run

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "oracle"))
import gguf_np  # noqa: E402

TEXT = " ".join(f"In the year {1900 + i} there were {i * 31 % 97} people, and all of them liked bread."
                for i in range(60))


def ds4(*args, **more):
    return run(*map(str, args), binary=DS4, **more)


def good(*args, **more):
    result = ds4(*args, **more)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work")
    (folder / "checkpoint").mkdir()
    (folder / "text").write_text(TEXT)
    good("fixture", "checkpoint", "--layers", "4", "--experts", "8", "-o", folder / "checkpoint")
    good("quantize", folder / "checkpoint", folder / "exact.gguf", "--recipe", "lossless")
    good("imatrix", "-m", folder / "exact.gguf", "--text", folder / "text", "-o", folder / "a.dat", "--all",
         "--chunk", "100", "--rows", folder / "rows", "--rows-per-expert", "800")
    return folder


def read_dat(path):
    data, at, out = path.read_bytes(), 4, {}
    for _ in range(struct.unpack_from("<i", data)[0]):
        n, = struct.unpack_from("<i", data, at)
        name = data[at + 4:at + 4 + n].decode()
        n_calls, n_values = struct.unpack_from("<ii", data, at + 4 + n)
        assert n_calls == 1
        out[name] = np.frombuffer(data, "<f4", n_values, at + 12 + n)
        at += 12 + n + 4 * n_values
    n_chunks, n = struct.unpack_from("<ii", data, at)
    assert at + 8 + n == len(data)
    return out, n_chunks


def test_importance_of_normed_inputs_has_the_mean_square_of_the_norm(work):
    """Rows that enter the experts are normalised to mean square 1 and multiplied by the weights of the norm."""
    entries, n_chunks = read_dat(work / "a.dat")
    model = gguf_np.open_gguf(str(work / "exact.gguf"))
    assert n_chunks > 10
    for layer in range(4):
        gate, up, down = (entries[f"blk.{layer}.ffn_{m}_exps.weight"].reshape(8, -1) for m in ("gate", "up", "down"))
        assert (gate == up).all() and down.shape == (8, 256) and (down >= 0).all()
        norm = model.array(f"blk.{layer}.ffn_norm.weight").astype(np.float64).ravel()
        for expert in gate[[not (g == 1).all() for g in gate]]:
            assert (expert / norm ** 2).mean() == pytest.approx(1, rel=1e-3)
        norm = model.array(f"blk.{layer}.attn_norm.weight").astype(np.float64).ravel()
        assert (entries[f"blk.{layer}.attn_q_a.weight"] / norm ** 2).mean() == pytest.approx(1, rel=1e-3)
        assert (f"blk.{layer}.indexer.proj.weight" in entries) == (layer == 2)
    assert len({v.tobytes() for k, v in entries.items() if "down_exps" in k}) == 4


def test_experts_that_no_token_reached_are_named_and_count_as_equal(work, tmp_path):
    result = good("imatrix", "-m", work / "exact.gguf", "-o", tmp_path / "b.dat", stdin=b"zq")
    assert b"were never seen" in result.stderr
    entries, _ = read_dat(tmp_path / "b.dat")
    unseen = [sum((g == 1).all() for g in entries[f"blk.{i}.ffn_gate_exps.weight"].reshape(8, -1)) for i in range(4)]
    assert 1 <= sum(unseen) and max(unseen) <= 4   # each row chooses four
    assert f"{sum(unseen)} experts of 32 were never seen".encode() in result.stderr


def test_a_killed_calibration_continues_to_the_same_bytes(work, tmp_path):
    out = tmp_path / "a.dat"
    args = ["imatrix", "-m", str(work / "exact.gguf"), "--text", str(work / "text"), "-o", str(out), "--all",
            "--chunk", "100", "--save-every", "0", "--resume", "--rows", str(tmp_path / "rows"),
            "--rows-per-expert", "800"]
    for _ in range(50):  # a busy machine may look only when all is done: then once more
        process = subprocess.Popen([DS4, *args], stderr=subprocess.DEVNULL)
        while not os.path.exists(f"{out}.state") and process.poll() is None:
            time.sleep(0.002)
        process.kill()
        process.wait()
        if os.path.exists(f"{out}.state"):
            break
        for name in os.listdir(tmp_path):
            os.unlink(tmp_path / name)
    other = ds4(*args, "--limit", "50")
    assert other.returncode == 1 and b"another model, text or chunk" in other.stderr
    good(*args)
    assert out.read_bytes() == (work / "a.dat").read_bytes()
    assert (tmp_path / "rows").read_bytes() == (work / "rows").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.dat", "rows"]


def test_from_checkpoint_to_a_calibrated_two_bit_file_compared_with_the_exact_one(work, tmp_path):
    figures = {}
    calibrated = ["--imatrix", work / "a.dat", "--strict", "--no-draft"]
    down = calibrated + ["--experts", "Q8_0"]
    for name, options in (("plain", []), ("calibrated", calibrated), ("down", down),
                          ("feedback", down + ["--gptq", "--rows", work / "rows"])):
        path = tmp_path / f"{name}.gguf"
        good("quantize", work / "checkpoint", path, *options)
        out = good("perplexity", "-m", path, "--against", work / "exact.gguf", "--limit", "300", "--json",
                   stdin=TEXT.encode())
        figures[name] = json.loads(out.stdout)
        assert 0 < figures[name]["kl"] < 1 and figures[name]["top1_agreement"] > 0.1
    assert figures["calibrated"]["kl"] < figures["plain"]["kl"]   # on the text of the calibration
    assert figures["feedback"]["kl"] < figures["down"]["kl"]
    kv = gguf_np.open_gguf(str(tmp_path / "calibrated.gguf")).kv
    assert kv["quantize.imatrix.file"] == "a.dat" and kv["quantize.imatrix.dataset"] == str(work / "text")
    a, b = ((tmp_path / f"{n}.gguf") for n in ("plain", "calibrated"))
    raw = [gguf_np.open_gguf(str(p)).raw("blk.1.ffn_down_exps.weight")[2] for p in (a, b)]
    assert (raw[0] != raw[1]).any()


def test_importance_for_other_shapes_is_refused(work, tmp_path):
    values = np.ones(100, "<f4").tobytes()
    name = b"blk.0.ffn_gate_exps.weight"
    (tmp_path / "odd.dat").write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii", 1, 100) + values)
    result = ds4("quantize", work / "checkpoint", tmp_path / "x.gguf", "--imatrix", tmp_path / "odd.dat")
    assert result.returncode == 1 and b"100 values for 256 columns" in result.stderr


def test_kept_rows_give_the_importance_of_experts_whose_rows_all_fit(work):
    """Layout as in rows_file.c; values are rounded to BF16."""
    data, (entries, _) = (work / "rows").read_bytes(), read_dat(work / "a.dat")
    n_layers, n_experts, n_embd, n_ff, n_slots = struct.unpack_from("<5I", data, 8)
    assert (data[:8], n_layers, n_experts, n_slots) == (b"DS4RW001", 4, 8, 800)
    hits, n_whole = np.frombuffer(data, "<u8", 32, 32), 0
    at = 32 + 8 * 32
    for pair, n in enumerate(hits):
        rows = np.frombuffer(data, "<u2", n_slots * (n_embd + n_ff), at).astype("<u4") << 16
        at += 2 * rows.size
        if n > n_slots:
            continue
        n_whole += 1
        for name, part, width in (("gate", rows[:n_slots * n_embd], n_embd), ("down", rows[n_slots * n_embd:], n_ff)):
            values = part.view("<f4").reshape(n_slots, width)[:n].astype(np.float64)
            want = entries[f"blk.{pair // 8}.ffn_{name}_exps.weight"].reshape(8, -1)[pair % 8]
            assert np.square(values).mean(0) == pytest.approx(want, rel=0.01)
    assert at == len(data) and 1 <= n_whole < 32, hits    # both kinds are there


def test_feedback_needs_rows_enough_and_rows_of_this_model(work, tmp_path):
    good("imatrix", "-m", work / "exact.gguf", "-o", tmp_path / "few.dat", "--rows", tmp_path / "few",
         stdin=b"few words")
    down = ["--no-draft", "--experts", "Q8_0"]
    result = good("quantize", work / "checkpoint", tmp_path / "a.gguf", *down, "--gptq", "--rows", tmp_path / "few")
    assert b"32 of 32 matrices had too few calibration rows" in result.stderr
    good("quantize", work / "checkpoint", tmp_path / "b.gguf", *down)
    a, b = (gguf_np.open_gguf(str(tmp_path / f"{n}.gguf")) for n in "ab")
    assert all((a.raw(name)[2] == b.raw(name)[2]).all() for name in a.tensors)
    (tmp_path / "other").mkdir()
    good("fixture", "checkpoint", "--layers", "3", "--experts", "6", "-o", tmp_path / "other")
    result = ds4("quantize", tmp_path / "other", tmp_path / "c.gguf", "--gptq", "--rows", work / "rows")
    assert result.returncode == 1 and b"rows of another model" in result.stderr
    data = (work / "rows").read_bytes()
    for damaged in (b"", data[:100], b"X" + data[1:], data + b"x", data[:8] + b"\xff" * 20 + data[28:]):
        (tmp_path / "damaged").write_bytes(damaged)
        result = ds4("quantize", work / "checkpoint", tmp_path / "d.gguf", "--gptq", "--rows", tmp_path / "damaged")
        assert result.returncode == 1 and b"damaged" in result.stderr, result.stderr


def test_scaled_columns_leave_what_the_layer_computes(work, tmp_path):
    """The factor of a column, found in ffn_norm, is undone in everything that reads the normed row."""
    path = tmp_path / "a.gguf"
    args = ["quantize", work / "checkpoint", path, "--no-draft", "--experts", "Q2_K", "--down", "Q2_K", "--shared",
            "F32", "--imatrix", work / "a.dat", "--rows", work / "rows", "--awq"]
    result = good(*args)
    assert b"columns scaled by the power" in result.stderr and b"power 0.00 (gate" not in result.stderr
    got, want = gguf_np.open_gguf(str(path)), gguf_np.open_gguf(str(work / "exact.gguf"))
    n_scaled = 0
    for layer in range(4):
        norm, norm_0 = (g.array(f"blk.{layer}.ffn_norm.weight").astype(np.float64) for g in (got, want))
        factor = norm_0 / norm
        n_scaled += bool((factor != 1).any())
        for name, rel in (("ffn_gate_inp", 2 ** -11), ("ffn_gate_shexp", 1e-6), ("ffn_up_shexp", 1e-6)):
            a, b = (g.array(f"blk.{layer}.{name}.weight").astype(np.float64) for g in (got, want))
            assert np.abs(a - b * factor).max() <= rel * np.abs(b * factor).max(), (layer, name)
        gate, gate_0 = (g.array(f"blk.{layer}.ffn_gate_exps.weight").astype(np.float64) for g in (got, want))
        assert np.abs(gate / factor - gate_0).mean() < 0.35 * np.abs(gate_0).mean()
    assert n_scaled
    checked = good(*args[:1], *args[1:], "--verify")
    assert b"all checksums are right" in checked.stderr
