"""`ds4 perplexity` against sums made in NumPy from the logits that `ds4 logits` writes."""

import json
import os
import subprocess

import numpy as np
import pytest

from cli import DS4, run

TEXT = " ".join(f"The {i} cats sat on the mat, and then {i * 7} dogs ran over the hill." for i in range(40))


def ds4(*args, **more):
    return run(*args, binary=DS4, **more)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    paths = []
    for form in ("F16", "Q8_0"):
        paths.append(str(folder / f"{form}.gguf"))
        subprocess.run([DS4, "fixture", "tiny", "--layers", "3", "--type", form, "-o", paths[-1]], check=True,
                       timeout=300)
    return paths


def log_softmax(x):
    x = x - x.max(axis=1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def logits(model, ids):
    out = ds4("logits", "-m", model, "--tokens", ",".join(map(str, ids)), "--positions", "all", "--json", "-")
    return np.array([row["logits"] for row in json.loads(out.stdout)["rows"]], dtype=np.float64)


def measure(*args, text=TEXT):
    result = ds4("perplexity", "--json", *args, stdin=text.encode())
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def windows_of(model, size):
    ids = json.loads(ds4("tokenize", "-m", model, "--json", "-", stdin=TEXT.encode()).stdout)["ids"]
    return [ids[i:i + size] for i in range(0, len(ids), size)]


def test_perplexity_is_the_mean_over_every_token_of_the_text(models):
    here, there, kls, same, mse, counts = [], [], [], [], [], []
    for window in windows_of(models[1], 100):
        rows = [0] + window[:-1]
        a, b = logits(models[1], rows), logits(models[0], rows)
        la, lb = log_softmax(a), log_softmax(b)
        at = np.arange(len(rows)), np.array(window)
        here += list(-la[at])
        there += list(-lb[at])
        kls += list((np.exp(lb) * (lb - la)).sum(axis=1))
        same += list(a.argmax(axis=1) == b.argmax(axis=1))
        d = a - b
        mse += list((d * d).mean(axis=1) - d.mean(axis=1) ** 2)
        counts.append(len(rows))
    got = measure("-m", models[1], "--against", models[0], "--chunk", "100")
    assert got["n_tokens"] == len(here) and got["n_windows"] == len(counts) >= 10
    assert got["errors_from"] == "windows"
    assert got["nll"] == pytest.approx(np.mean(here), abs=1e-5)
    assert got["perplexity"] == pytest.approx(np.exp(np.mean(here)), rel=1e-5)
    assert got["against_nll_difference"] == pytest.approx(np.mean(here) - np.mean(there), abs=1e-6)
    assert got["kl"] == pytest.approx(np.mean(kls), rel=1e-3, abs=1e-8)
    assert got["top1_agreement"] == pytest.approx(np.mean(same), abs=1e-8)
    assert got["logit_rms_error"] == pytest.approx(np.sqrt(np.mean(mse)), rel=1e-3)
    sums = np.array([s.sum() for s in np.split(np.array(here) - np.mean(here), np.cumsum(counts)[:-1])])
    error = np.sqrt((sums ** 2).sum() * len(sums) / (len(sums) - 1)) / len(here)
    assert got["nll_standard_error"] == pytest.approx(error, rel=1e-3)


def test_a_model_against_itself_has_no_divergence(models):
    got = measure("-m", models[0], "--against", models[0], "--limit", "60")
    assert got["n_tokens"] == 60 and got["errors_from"] == "tokens"
    assert (got["kl"], got["logit_rms_error"], got["top1_agreement"], got["against_nll_difference"]) == (0, 0, 1, 0)


def test_perplexity_says_what_is_wrong(models, tmp_path):
    assert b"no text to measure" in ds4("perplexity", "-m", models[0], stdin=b"").stderr
    other = str(tmp_path / "other.gguf")
    subprocess.run([DS4, "fixture", "tiny", "--layers", "1", "--vocab", "400", "-o", other], check=True, timeout=300)
    result = ds4("perplexity", "-m", models[0], "--against", other, stdin=b"text of several tokens")
    assert result.returncode == 1 and b"the vocabularies have 512 and 400 tokens" in result.stderr
    assert ds4("perplexity", "-m", models[0], "--chunk", "1").returncode == 2


def test_perplexity_in_words_has_the_same_figures(models):
    text = ds4("perplexity", "-m", models[1], "--against", models[0], stdin=TEXT.encode()).stdout.decode()
    number = measure("-m", models[1], "--against", models[0])
    assert f"NLL         {number['nll']:.5f}" in text and f"KL          {number['kl']:.6f}" in text
