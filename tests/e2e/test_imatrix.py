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
         "--chunk", "100")
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
            "--chunk", "100", "--save-every", "0", "--resume"]
    process = subprocess.Popen([DS4, *args], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not os.path.exists(f"{out}.state") and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    other = ds4(*args, "--limit", "50")
    assert other.returncode == 1 and b"another model, text or chunk" in other.stderr
    good(*args)
    assert out.read_bytes() == (work / "a.dat").read_bytes()
    assert os.listdir(tmp_path) == ["a.dat"]


def test_from_checkpoint_to_a_calibrated_two_bit_file_compared_with_the_exact_one(work, tmp_path):
    figures = {}
    for name, options in (("plain", []), ("calibrated", ["--imatrix", work / "a.dat", "--strict", "--no-draft"])):
        path = tmp_path / f"{name}.gguf"
        good("quantize", work / "checkpoint", path, *options)
        out = good("perplexity", "-m", path, "--against", work / "exact.gguf", "--limit", "300", "--json",
                   stdin=TEXT.encode())
        figures[name] = json.loads(out.stdout)
        assert 0 < figures[name]["kl"] < 1 and figures[name]["top1_agreement"] > 0.1
    assert figures["calibrated"]["kl"] < figures["plain"]["kl"]   # on the text of the calibration
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
