"""The engine computes what an independent implementation of the model computes.

The oracle (tests/oracle/ds4ref.py) agrees with the published reference code to 1e-14. In *ideal* mode the state is not
rounded and everything is smooth between the choices of experts and rows, so a right engine is four decades nearer to
the oracle than any wrong variant. With the rounding of the state to FP8 and FP4 each float32 evaluation rounds some
values the other way, which random weights amplify; the bounds are then those that float32 runs of the oracle itself
show: rms 0.004, largest 0.22, wrong variants from rms 0.03.

Configurations and tokens are drawn from the seed of random tests, DS4_TEST_SEED.
"""

import json
import lzma
import os
import random
import sys

import numpy as np
import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "oracle"))
import compare  # noqa: E402
from cli import seed as seed_of_tests  # noqa: E402

GOLDEN = os.path.join(os.path.dirname(__file__), "..", "golden")
IDEAL_ERROR = 1e-4            # of logits with rms about 0.6; float32 noise is 1e-6
NEAR_TIE = 1e-5               # difference of scores that float32 noise may turn round
QAT_RMS, QAT_GAP = 0.02, 0.21


@pytest.fixture(scope="module")
def vectors():
    with lzma.open(os.path.join(GOLDEN, "model_vectors.json.xz"), "rt") as f:
        return {name: np.array(v["data"]).reshape(v["shape"]) for name, v in json.load(f).items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return compare.fixture(tmp_path_factory.mktemp("tiny"), "tiny", "--type", "F16")


@pytest.mark.parametrize("backend", ["ref", "cpu"])
def test_ideal_logits_are_those_of_the_vectors(tiny, vectors, backend):
    got = compare.engine_logits(tiny, vectors["tokens"], True, backend)
    assert np.abs(got[vectors["logits.positions"]] - vectors["logits.ideal"]).max() <= IDEAL_ERROR
    clear = vectors["top2_gap.ideal"] > 10 * IDEAL_ERROR
    assert clear.sum() > 250
    assert (got.argmax(-1) == vectors["argmax.ideal"])[clear].all()


@pytest.mark.parametrize("backend", ["ref", "cpu"])
def test_logits_with_rounded_state_are_those_of_the_vectors(tiny, vectors, backend):
    got = compare.engine_logits(tiny, vectors["tokens"], False, backend)
    positions = vectors["logits.positions"]
    assert compare.rms(got[positions] - vectors["logits.qat"]) <= QAT_RMS
    clear = vectors["top2_gap.qat"] > QAT_GAP
    assert clear.sum() > 50
    assert (got.argmax(-1) == vectors["argmax.qat"])[clear].all()
    # The rounding must have happened: the ideal logits are further away than float32 noise.
    assert compare.rms(got[positions] - vectors["logits.ideal"]) > QAT_RMS


def draw(rng):
    """Options of a random configuration: every kind of layer, odd sizes, anything the format of files allows."""
    n_layers = rng.randint(3, 6)
    ratios = [rng.choice((0, 4, 128)) for _ in range(n_layers)]
    ratios[:3] = rng.sample((0, 4, 128), 3)
    heads = rng.choice((2, 3, 4, 6, 12))
    experts = rng.choice((5, 8, 24, 300))
    options = {
        "layers": n_layers, "ratios": ",".join(map(str, ratios)), "dim": rng.choice((96, 100, 160, 224)),
        "heads": heads, "head-dim": rng.choice((128, 192, 256)), "q-rank": rng.choice((32, 64, 96)),
        "o-groups": rng.choice([g for g in (1, 2, 3, 4) if heads % g == 0]), "o-rank": rng.choice((32, 64, 96)),
        "window": rng.choice((1, 8, 31, 48, 128)), "index-heads": rng.choice((1, 3, 4)),
        "index-dim": rng.choice((128, 256)),
        "index-topk": rng.choice((1, 5, 8, 64)), "experts": experts, "used": rng.randint(1, min(7, experts)),
        "inner": rng.choice((32, 50, 288)), "hash-layers": rng.randint(0, n_layers), "vocab": rng.randint(280, 1100),
        "seed": rng.randint(1, 1 << 40), "part": "trunk", "names": rng.choice(("ds4", "alias")),
        "split": rng.choice((1, 1, 2)),
        "hc": rng.choice((1, 2, 4, 4, 5)), "type": rng.choice(("F32", "F16", "BF16", "Q8_0")),
    }
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("number", range(5))
def test_random_models_agree_in_ideal_arithmetic(tmp_path, number):
    seed = seed_of_tests()
    rng = random.Random(seed + number)
    options = draw(rng)
    backend, n_tokens, chunk = "ref" if number == 0 else "cpu", rng.randint(129, 200), rng.choice((1, 5, 64, 512))
    if backend == "cpu":      # formats whose inputs stay in float32; the others have their own test
        options += ["--type", rng.choice(("F32", "F16", "BF16"))]
    print(f"number {number}: ds4 fixture random {' '.join(options)}; {n_tokens} tokens by {chunk}")
    path = compare.fixture(tmp_path, "random", *options)
    oracle = compare.Oracle(path)
    for attempt in range(8):
        ids = compare.tokens_of(f"{seed} {number} {attempt}", n_tokens, oracle.config.vocab)
        want, clear = oracle.logits_and_clear(ids, NEAR_TIE)
        if clear >= 40:
            break
    got = compare.engine_logits(path, ids, True, backend, ["--chunk", chunk])
    print(f"{clear} of {n_tokens} positions, largest error {np.abs(got - want)[:clear].max():.3g}")
    assert clear >= 40 and compare.rms(want) > 0.1
    assert np.abs(got - want)[:clear].max() <= IDEAL_ERROR


# Per position, what the CPU backend's 16-bit inputs (fine) and 8-bit inputs of 2-bit experts (coarse) may cost. Other
# choices of experts or rows make single positions differ more, so the middle position counts.
FINE, COARSE = 5e-4, 0.03


@pytest.mark.parametrize("options, bound", [
    (["--type", "Q8_0"], FINE),
    (["--type", "BF16", "--experts-type", "MXFP4", "--down", "MXFP4"], FINE),
    (["--type", "F16", "--experts-type", "Q4_K", "--down", "Q6_K"], FINE),
    (["--type", "Q8_0", "--experts-type", "IQ2_XXS", "--down", "Q2_K"], COARSE),
], ids=lambda x: " ".join(w for w in x if w[0] != "-") if isinstance(x, list) else "")
def test_quantised_weights_give_the_logits_of_their_decoded_values(tmp_path, options, bound):
    path = compare.fixture(tmp_path, "tiny", "--part", "trunk", "--layers", "4", "--hash-layers", "1", "--experts", "8",
                           *options)
    oracle = compare.Oracle(path)
    ids = compare.tokens_of("quantised", 140, 512)
    want = oracle.logits(ids, False)
    error = compare.engine_logits(path, ids, True, "cpu") - want
    per_position = np.sqrt(np.mean(error ** 2, -1))
    print(f"middle {np.median(per_position):.3g}, largest {per_position.max():.3g}, logits {compare.rms(want):.3g}")
    assert np.median(per_position) <= bound


def test_logits_are_the_same_bits_whatever_the_chunk_and_the_threads(tmp_path):
    path = compare.fixture(tmp_path, "tiny", "--part", "trunk", "--type", "Q8_0", "--experts-type", "IQ2_XXS",
                           "--down", "Q2_K")
    ids = compare.tokens_of("chunks", 140, 512)
    runs = [compare.engine_logits(path, ids, False, "cpu", ["--chunk", chunk, "--threads", threads])
            for chunk, threads in ((512, 1), (1, 2), (37, 3))]
    assert (runs[0] == runs[1]).all() and (runs[0] == runs[2]).all()
