#!/usr/bin/env python3
"""Writes the 16-bit checkpoint of a run, as it is kept in the tree: matrices in BF16, shards of at most 16 MiB.

    publish.py RUN/checkpoint models/ds4-tiny-16bit

The folder is one that `ds4 quantize` reads: shards and their index, config.json, tokenizer.json.
"""

import json
import pathlib
import shutil
import sys

import safetensors

SHARD_BYTES = 15 << 20


def main():
    source, out = map(pathlib.Path, sys.argv[1:])
    out.mkdir(parents=True, exist_ok=True)
    shards, size = [{}], 0
    for name, array in safetensors.load(source / "model.safetensors").items():
        n = array.size * (2 if array.dtype.kind == "f" and array.ndim > 1 else array.dtype.itemsize)
        if size + n > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = array
        size += n
    index = {}
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05}-of-{len(shards):05}.safetensors"
        safetensors.save(shard, out / file, bf16=True)
        index.update(dict.fromkeys(shard, file))
    metadata = {"n_values": sum(array.size for shard in shards for array in shard.values())}
    text = json.dumps({"metadata": metadata, "weight_map": index}, indent=0)
    (out / "model.safetensors.index.json").write_text(text + "\n")
    for name in ("config.json", "tokenizer.json"):
        shutil.copy(source / name, out / name)


if __name__ == "__main__":
    main()
