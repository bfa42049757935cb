#!/usr/bin/env python3
"""Logits of the shipped model as PyTorch computes them, for tests/e2e/test_golden_torch.py.

    golden.py models/ds4-tiny.gguf tests/golden/ds4_tiny_torch.json

The weights are those that gguf.py decodes from the file, the state is not rounded: what `ds4 logits --ideal` must give
on the reference backend. Kept for each chosen position: the six largest logits and eighteen drawn ones. The tokens are
a recall task followed by a tool conversation, long enough for the indexer to choose among compressed rows.
"""

import hashlib
import json
import pathlib
import random
import sys

import checkpoint
import tasks
import torch
from tokenizer import Tokenizer

N_TOKENS, EVERY, N_TOP, N_DRAWN = 400, 4, 6, 18


def main():
    path, out = sys.argv[1:]
    torch.set_num_threads(1)
    model, _ = checkpoint.load_gguf(path)
    tasks.seed(5)
    text = "".join(task["prompt"] + task["completion"] for task in (tasks.needle_task(200), tasks.tool_task()))
    ids = Tokenizer.load().encode(text)[:N_TOKENS]
    with torch.no_grad():
        logits = model.logits(torch.tensor([ids]))[0]
    draw, rows = random.Random(1), []
    for position in range(EVERY - 1, len(ids), EVERY):
        row = logits[position]
        kept = row.topk(N_TOP)[1].tolist()
        kept += draw.sample([i for i in range(len(row)) if i not in kept], N_DRAWN)
        rows.append({"position": position, "ids": kept, "logits": [round(row[i].item(), 6) for i in kept]})
    digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
    lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
    head = f'"model_sha256": "{digest}",\n"tokens": {json.dumps(ids)},\n'
    pathlib.Path(out).write_text(f'{{{head}"rows": [\n{lines}\n]}}\n')
    print(f"{out}: {len(rows)} positions of {len(ids)} tokens")


if __name__ == "__main__":
    main()
