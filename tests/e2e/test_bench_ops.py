"""ds4 bench ops: times products of every weight format, and says what it cannot time."""

import json

from cli import DS4, run

SMALL = ["--rows", "40", "--set-mb", "1", "--time-ms", "1", "--threads", "2", "--json"]


def lines(*args):
    done = run("bench", "ops", *args, *SMALL, binary=DS4)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_bench_ops_times_every_format_and_batch():
    got = lines("--cols", "512", "--batch", "1", "--batch", "5")
    formats = {"F32", "F16", "BF16", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ2_XXS", "MXFP4"}
    assert {(g["format"], g["batch"]) for g in got} == {(f, b) for f in formats for b in (1, 5)}
    for g in got:
        assert g["ms"] > 0 and g["gb_s"] > 0
        # twice rows times cols times batch operations took that long
        assert abs(g["gflop_s"] * g["ms"] * 1e6 - 2 * 40 * 512 * g["batch"]) < 0.2 * 2 * 40 * 512 * g["batch"]


def test_bench_ops_refuses_what_it_cannot_time():
    for args, word in ((["--format", "Q9_9"], b"Q9_9"), (["--format", "Q2_K", "--cols", "100"], b"Q2_K"),
                       (["--batch", "0"], b"batch")):
        done = run("bench", "ops", *args, *SMALL, binary=DS4)
        assert done.returncode != 0 and word in done.stderr, args
