"""The engine computes what an independent implementation of the model computes.

The oracle (tests/oracle/ds4ref.py) agrees with the published reference code to 1e-14. In *ideal* mode the state is not
rounded and everything is smooth, so a right engine is four decades nearer to the oracle than any wrong variant. With
the rounding of the state to FP8 and FP4 a float32 evaluation flips some roundings, and random weights make that
chaotic; the bounds are then those that float32 runs of the oracle itself show.

Configurations and tokens are drawn anew in each run; ORACLE_SEED=N repeats one.
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

GOLDEN = os.path.join(os.path.dirname(__file__), "..", "golden")
SEED = int(os.environ.get("ORACLE_SEED", random.randrange(1 << 30)))
IDEAL_ERROR = 1e-4      # of logits with rms about 0.6; float32 noise of the oracle is 1e-6 rms
QAT_RMS, QAT_GAP = 0.02, 0.2


@pytest.fixture(scope="module")
def vectors():
    with lzma.open(os.path.join(GOLDEN, "model_vectors.json.xz"), "rt") as f:
        return {name: np.array(v["data"]).reshape(v["shape"]) for name, v in json.load(f).items()}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return compare.fixture(tmp_path_factory.mktemp("tiny"), "tiny", "--type", "F16")


@pytest.mark.parametrize("chunk", [512, 77])
def test_ideal_logits_are_those_of_the_vectors(tiny, vectors, chunk):
    got = compare.engine_logits(tiny, vectors["tokens"], True, "ref", ["--chunk", chunk])
    want = vectors["logits.ideal"]
    assert np.abs(got[vectors["logits.positions"]] - want).max() <= IDEAL_ERROR
    clear = vectors["top2_gap.ideal"] > 10 * IDEAL_ERROR
    assert clear.sum() > 250
    assert (got.argmax(-1) == vectors["argmax.ideal"])[clear].all()


def test_logits_with_rounded_state_are_those_of_the_vectors(tiny, vectors):
    got = compare.engine_logits(tiny, vectors["tokens"], False, "ref")
    assert compare.rms(got[vectors["logits.positions"]] - vectors["logits.qat"]) <= QAT_RMS
    clear = vectors["top2_gap.qat"] > QAT_GAP
    assert clear.sum() > 50
    assert (got.argmax(-1) == vectors["argmax.qat"])[clear].all()
    # The rounding must have happened: the ideal logits are further away than float32 noise.
    assert compare.rms(got[vectors["logits.positions"]] - vectors["logits.ideal"]) > QAT_RMS


def draw(rng):
    """Options of a random configuration: every kind of layer, odd sizes, anything the format of files allows."""
    n_layers = rng.randint(3, 6)
    ratios = [rng.choice((0, 4, 128)) for _ in range(n_layers)]
    ratios[:3] = rng.sample((0, 4, 128), 3)
    heads = rng.choice((2, 3, 4, 6, 12))
    experts = rng.choice((5, 8, 24, 300))
    options = {
        "layers": n_layers, "ratios": ",".join(map(str, ratios)), "dim": rng.choice((96, 128, 160, 224)),
        "heads": heads, "head-dim": rng.choice((128, 192, 256)), "q-rank": rng.choice((32, 64, 96)),
        "o-groups": rng.choice([g for g in (1, 2, 3, 4) if heads % g == 0]), "o-rank": rng.choice((32, 64, 96)),
        "window": rng.choice((8, 31, 48, 128)), "index-heads": rng.choice((1, 3, 4)),
        "index-topk": rng.choice((1, 5, 8, 64)), "experts": experts, "used": rng.randint(1, min(7, experts)),
        "inner": rng.choice((32, 96, 288)), "hash-layers": rng.randint(0, n_layers), "vocab": rng.randint(280, 1100),
        "seed": rng.randint(1, 1 << 40), "part": "trunk", "names": rng.choice(("ds4", "alias")),
        "split": rng.choice((1, 1, 2)), "type": rng.choice(("F32", "F16", "BF16", "Q8_0")),
    }
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.mark.parametrize("number", range(4))
def test_random_models_agree_in_ideal_arithmetic(tmp_path, number):
    rng = random.Random(SEED + number)
    options = draw(rng)
    n_tokens, chunk = rng.randint(129, 200), rng.choice((1, 5, 64, 512))
    print(f"ORACLE_SEED={SEED} number {number}: ds4 fixture random {' '.join(options)}; {n_tokens} tokens by {chunk}")
    path = compare.fixture(tmp_path, "random", *options)
    oracle = compare.Oracle(path)
    ids = compare.tokens_of(rng.random(), n_tokens, oracle.config.vocab)
    want = oracle.logits(ids, False)
    got = compare.engine_logits(path, ids, True, "ref", ["--chunk", chunk])
    # Scores of the indexer and the router that lie within float32 noise of each other may be ordered either way: such
    # a token and those that see it differ by more, so a float32 run of the oracle says how much is to be expected.
    noise = np.abs(oracle.logits(ids, False, np.float32) - want).max()
    assert np.abs(got - want).max() <= max(IDEAL_ERROR, 4 * noise)
    assert compare.rms(want) > 0.1
