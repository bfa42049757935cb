#!/usr/bin/env python3
"""Weights on the straight line between two runs, one of which went on from the other.

    between.py RUN/checkpoint LATER/checkpoint 0.3 OUT       three tenths of the way from the first to the second

What the later run learnt is there after a part of the way, and what it forgot is not yet forgotten. OUT is a checkpoint
as train.py writes it; its config.json says what it was made of.
"""

import json
import pathlib
import shutil
import sys

import safetensors


def main():
    first, later, out = (pathlib.Path(sys.argv[i]) for i in (1, 2, 4))
    share, mixed = float(sys.argv[3]), {}
    there = safetensors.load(later / "model.safetensors")
    for name, here in safetensors.load(first / "model.safetensors").items():
        if here.dtype.kind == "f":
            mixed[name] = ((1 - share) * here + share * there[name]).astype(here.dtype)
        else:
            mixed[name] = here      # the table of a hash layer: the same in both
    out.mkdir(parents=True, exist_ok=True)
    safetensors.save(mixed, out / "model.safetensors")
    shutil.copy(later / "tokenizer.json", out / "tokenizer.json")
    configs = [json.loads((path / "config.json").read_text(encoding="utf-8")) for path in (first, later)]
    told = [config["description"] for config in configs]
    configs[1]["description"] = f"{share:g} of the way from [{told[0]}] to [{told[1]}]"
    (out / "config.json").write_text(json.dumps(configs[1], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
