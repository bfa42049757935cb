"""Runs the engine and the oracle on the same file and the same tokens.

  python3 tests/oracle/compare.py MODEL [--tokens N] [--seed S] [--backend ref] [--ideal]
prints how far `ds4 logits` is from the oracle in float64.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, HERE)
import ds4ref  # noqa: E402
import gguf_np  # noqa: E402

DS4 = os.path.abspath(os.environ.get("DS4", os.path.join(ROOT, "ds4")))
MERGES = os.path.join(ROOT, "tests", "golden", "text", "ds4_merges.bin.xz")


def fixture(directory, kind, *options, vocabulary=False):
    """Writes a generated model file (its first shard's path is returned)."""
    path = os.path.join(tempfile.mkdtemp(dir=directory), "model.gguf")
    merges = None
    if vocabulary:
        merges = subprocess.run(["xz", "-dc", MERGES], check=True, capture_output=True).stdout
    subprocess.run([DS4, "fixture", kind, *map(str, options), "-o", path], input=merges, check=True, cwd=ROOT)
    if os.path.exists(path):
        return path
    shards = sorted(os.listdir(os.path.dirname(path)))
    return os.path.join(os.path.dirname(path), shards[0])


def tokens_of(seed, n, n_vocab):
    return (ds4ref.splitmix_block(ds4ref.fnv1a(f"tokens {seed}"), n) % np.uint64(n_vocab)).astype(int)


class LargeOracle:
    """The same for files larger than memory; float32, one layer in memory."""
    def __init__(self, path):
        self.gguf = gguf_np.open_gguf(path)
        self.config = gguf_np.config(self.gguf)

    def logits(self, ids, qat, dtype=np.float32):
        model = ds4ref.Model(self.config, {}, dtype, qat)
        model.w = gguf_np.Lazy(self.gguf, dtype)
        embed = self.gguf.rows("token_embd.weight", ids).astype(dtype)
        model.embed = lambda _: np.repeat(embed[:, None, :], self.config.hc, axis=1)
        return model.full(ids)[0]


class Oracle:
    """The oracle on one file; keeps the decoded weights for several runs."""
    def __init__(self, path):
        g = gguf_np.open_gguf(path)
        self.config, self.weights = gguf_np.config(g), gguf_np.weights(g)

    def logits(self, ids, qat, dtype=np.float64):
        return ds4ref.Model(self.config, self.weights, dtype, qat).full(ids)[0]

    def logits_and_clear(self, ids, tie):
        """Ideal logits, and how many positions from the start are free of near ties: scores of experts or of
        compressed rows at the edge of a selection that lie closer than tie, which float32 may order either way."""
        clear = len(ids)

        def recording(score, k):
            nonlocal clear
            order = topk_stable(score, min(k + 1, score.shape[-1]))
            if order.shape[-1] > k:
                edge = np.take_along_axis(score, order[..., k - 1:], -1)
                # Both sides exactly 0 (no head sees the row) is a true tie that everyone breaks by number.
                edge = np.where(np.isfinite(edge), edge, -1e30)  # rows that are not visible yet
                near = (edge[:, 1] > -1e30) & (edge[:, 0] - edge[:, 1] < tie) & (edge != 0).any(-1)
                clear = min([clear, *np.nonzero(near)[0]])
            return order[..., :k]
        topk_stable, ds4ref.topk_stable = ds4ref.topk_stable, recording
        try:
            return self.logits(ids, False), clear
        finally:
            ds4ref.topk_stable = topk_stable

    def mtp_logits(self, ids, qat, dtype=np.float64):
        """row t: what the draft block says after the pair (streams at t, token t + 1)"""
        m = ds4ref.Model(self.config, self.weights, dtype, qat)
        _, streams = m.full(ids)
        return m.mtp_full(streams[:-1], np.asarray(ids)[1:])[0]


def engine_logits(path, ids, ideal, backend="ref", options=(), positions="all"):
    """[positions, vocabulary] from `ds4 logits`"""
    with tempfile.TemporaryDirectory() as d:
        tokens, out = os.path.join(d, "tokens"), os.path.join(d, "out.json")
        with open(tokens, "w") as f:
            f.write(" ".join(str(int(i)) for i in ids))
        command = [DS4, "logits", "-m", path, "--tokens-file", tokens, "--positions", positions, "--backend", backend,
                   "--json", out, *map(str, options)] + (["--ideal"] if ideal else [])
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: status {done.returncode}: {done.stderr}")
        with open(out) as f:
            rows = json.load(f)["rows"]
    return np.array([row["logits"] for row in rows])


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokens", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--backend", default="ref")
    parser.add_argument("--ideal", action="store_true")
    parser.add_argument("--large", action="store_true", help="decode one layer at a time, float32")
    a = parser.parse_args()
    oracle = LargeOracle(a.model) if a.large else Oracle(a.model)
    ids = tokens_of(a.seed, a.tokens, oracle.config.vocab)
    want = oracle.logits(ids, not a.ideal)
    got = engine_logits(a.model, ids, a.ideal, a.backend)
    runs = [("engine", got)]
    if not a.large:
        runs.append(("oracle in float32", oracle.logits(ids, not a.ideal, np.float32)))
    for name, x in runs:
        print(f"{name}: largest error {np.abs(x - want).max():.3g}, rms {rms(x - want):.3g}, "
              f"argmax equal {np.mean(x.argmax(-1) == want.argmax(-1)):.3f} (logits: rms {rms(want):.3g})")


if __name__ == "__main__":
    main()
