#!/usr/bin/env python3
"""What each way of quantising ds4-tiny costs: one table, by the engine alone.

    table.py [--engine ./ds4] [--n 10] [--needles 5] [--tokens 20000] [--only 16-bit,q4]

Uses the calibration that scripts/make-model leaves in build/model. Columns: bits a weight, bytes, perplexity on
held-out conversations (odd seed) and KL against the 16-bit model, each with half of a 95 % interval; nats a token on
held-out stories; right answers: sums, tool calls (well formed / right / asked), a sentence in so many tokens of
stories. Answers are greedy.
"""

import argparse
import json
import pathlib
import subprocess

import evaluate
import tasks
from tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK, CHECKPOINT = ROOT / "build/model", ROOT / "models/ds4-tiny-16bit"
IMPORTANCE, ROWS = ["--imatrix", WORK / "imatrix.dat"], ["--rows", WORK / "rows"]
Q8 = [part for family in ("experts", "down", "attn", "shared", "embed", "output") for part in (f"--{family}", "Q8_0")]
TWO = ["--embed", "Q8_0"]
VARIANTS = {
    "16-bit": ["--recipe", "lossless"],
    "Q8_0 everywhere": Q8,
    "q4": ["--recipe", "q4", *TWO, *IMPORTANCE],
    "2bit, no calibration": TWO,
    "2bit, imatrix": [*TWO, *IMPORTANCE],
    "2bit, imatrix, AWQ": [*TWO, *IMPORTANCE, *ROWS, "--awq"],
    "2bit, imatrix, GPTQ": [*TWO, *IMPORTANCE, *ROWS, "--gptq"],
    "2bit, imatrix, AWQ, GPTQ": [*TWO, *IMPORTANCE, *ROWS, "--awq", "--gptq"],
    "the shipped file": None,
}
LENGTHS = (512, 1024, 2048, 4096)


def ds4(options, *args):
    done = subprocess.run([options.engine, *map(str, args)], capture_output=True, text=True, check=True)
    return done.stdout


def held_out(kinds, n, path):
    tasks.seed(5)
    path.write_text("".join(t["prompt"] + t["completion"] for t in (tasks.sample(kinds) for _ in range(n))))
    return path


def perplexity(options, path, text, *more):
    return json.loads(ds4(options, "perplexity", "-m", path, "--text", text, "--special", "--limit", options.tokens,
                          "--json", *more))


def answers(options, path):
    tokenizer, engine = Tokenizer.load(), evaluate.Engine(options.engine, path)
    samples = evaluate.groups(options.n, 1001)
    out = {name: evaluate.score(engine, tokenizer, samples[name]) for name in ("math", "tool call")}
    for length in LENGTHS:
        tasks.seed(1001)
        out[length] = evaluate.score(engine, tokenizer, [tasks.needle_task(length) for _ in range(options.needles)])
    return out


def row(options, name, arguments, texts):
    path = ROOT / "models/ds4-tiny.gguf" if arguments is None else WORK / "table.gguf"
    if name == "16-bit":
        path = WORK / "16bit.gguf"
    if arguments is not None:
        ds4(options, "quantize", CHECKPOINT, path, "--force", *arguments)
    size = path.stat().st_size
    all_text = perplexity(options, path, texts[0], "--against", WORK / "16bit.gguf")
    story = perplexity(options, path, texts[1])
    cells = [name, f"{8 * size / options.n_values:.2f}", f"{size}",
             f"{all_text['perplexity']:.4f} ± {all_text['perplexity_interval']:.4f}",
             f"{all_text['kl']:.4f} ± {all_text['kl_interval']:.4f}", f"{story['nll']:.3f}"]
    if options.n:
        got = answers(options, path)
        cells += [f"{got['math']['right']}/{got['math']['n']}",
                  f"{got['tool call']['calls_parsed']}/{got['tool call']['right']}/{got['tool call']['n']}",
                  " ".join(f"{got[length]['right']}/{got[length]['n']}" for length in LENGTHS)]
    print("| " + " | ".join(cells) + " |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--engine", default=str(ROOT / "ds4"))
    parser.add_argument("--n", type=int, default=10, help="sums and tool calls; 0 = no answers at all")
    parser.add_argument("--needles", type=int, default=5, help="sentences to find, of each length")
    parser.add_argument("--tokens", type=int, default=20000, help="held-out tokens")
    parser.add_argument("--only", default=",".join(VARIANTS).replace(", ", "; "),
                        help="rows to print, with ; for a comma in a name")
    options = parser.parse_args()
    config = json.loads((CHECKPOINT / "model.safetensors.index.json").read_text())
    options.n_values = config["metadata"]["n_values"]
    texts = held_out(list(tasks.KINDS), 250, WORK / "held.txt"), held_out(["story"], 60, WORK / "held-stories.txt")
    head = ["", "bits a weight", "bytes", "perplexity", "KL to 16-bit", "stories, nats"]
    head += ["sums", "tool calls", "recall at " + ", ".join(map(str, LENGTHS))] if options.n else []
    print("| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for name in options.only.split(","):
        name = name.replace("; ", ", ")
        row(options, name, VARIANTS[name], texts)


if __name__ == "__main__":
    main()
