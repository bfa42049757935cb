"""Batches of whole documents: tasks, stories, and exercises in copying.

A document is a list of token ids and the weight of each as a target: 1 where the assistant speaks, little where the
user does. Documents of similar length share a batch, padded on the right, each from position 0 on as in a real
conversation; some batches are long rows of several documents, so that positions and distant context are met too.
"""

import lzma
import os
import pathlib
import random

import tasks
import torch
import world
from tokenizer import BOS, EOS, PAD

TEXTS = os.environ.get("DS4_TRAIN_TEXTS")       # a folder with tinystories_sample.txt.xz; without it: tasks alone
PROMPT_WEIGHT, LONG_PROMPT_WEIGHT = 0.2, 0.1


def first_parts_only(tokenizer, ids, weight):
    """Where copying is counted, only the beginning of a word counts fully: the rest follows from it."""
    begins = lambda i, token: i == 0 or token[0] in "Ġ0123456789" and token != "Ġ"
    return [weight if weight < 1 or begins(i, tokenizer.tokens[t]) else 0.5 for i, t in enumerate(ids)]


class Documents:
    """An endless stream. phase: a dict of mix, kinds, longest, copy (see train.PHASES)."""

    def __init__(self, tokenizer, seed, test=False):
        self.tokenizer, self.random, self.batches = tokenizer, random.Random(2 * seed + test), []
        tasks.seed(2 * seed + test)
        self.found = found_stories(test)

    def task(self, kinds):
        task = tasks.sample(kinds)
        text, ids, weights, at = task["prompt"] + task["completion"], [], [], 0
        for begin, end in task["spans"]:
            part = self.tokenizer.encode(text[at:begin])
            weights += [LONG_PROMPT_WEIGHT if len(part) > 250 else PROMPT_WEIGHT] * len(part)
            ids += part
            part = self.tokenizer.encode(text[begin:end])
            ids, weights, at = ids + part, weights + [1.0] * len(part), end
        return ids, weights

    def copying(self, longest):
        """Words said twice, or facts asked back in another order: what follows can only be known from before."""
        r, encode = self.random, self.tokenizer.encode
        n = int(12 * (max(longest, 13) / 12) ** r.random())
        pool = world.TOYS + world.FOODS + world.ANIMALS + world.COLORS + world.GIRLS + world.BOYS
        if r.random() < 0.45:
            words = [encode(" " + r.choice(pool)) for _ in range(max(n // 3, 3))]
            line = [t for word in words for t in word]
            weights = [t for word in words for t in first_parts_only(self.tokenizer, word, 1.0)]
            return ([BOS] + line + encode("\n") + line + [EOS],
                    [0.0] + [0.02] * len(line) + [0.3, 0.3] + weights[1:] + [0.3])
        keys = r.sample(pool, max(2, min(n // 10, 20)))
        middle = r.choice((" =", ":", " is a", " has a"))
        values = [" " + (str(r.randrange(10, 1000)) if middle in (" =", ":") else r.choice(pool)) for _ in keys]
        order, ids, weights = list(range(len(keys))), [BOS], [0.0]
        for time in range(2):
            for i in order:
                for text, weight in ((keys[i] + middle, 0.05), (values[i], 1.0), ("\n", 0.3)):
                    part = encode(text)
                    ids += part
                    weights += first_parts_only(self.tokenizer, part, weight if time else 0.05)
            r.shuffle(order)
        return ids + [EOS], weights + [0.3]

    def document(self, phase):
        kind = self.random.choices(("task", "story", "found", "copy"), phase["mix"])[0]
        if kind == "task":
            return self.task(phase["kinds"])
        if kind == "copy":
            return self.copying(phase["copy"])
        text = self.random.choice(self.found) if kind == "found" and self.found else tasks.story()[0]
        ids = ([BOS] + self.tokenizer.encode(text) + [EOS])[:phase["longest"]]
        return ids, [0.8] * len(ids)

    def some(self, phase, n_tokens):
        out, n = [], 0
        while n < n_tokens:
            document = self.document(phase)
            if len(document[0]) <= phase["longest"]:
                out.append(document)
                n += len(document[0])
        return out

    def batch(self, phase, n_tokens):
        """-> ids, targets, weights of the targets, each [rows, length]"""
        if self.random.random() < phase["packed"]:
            rows = []
            for _ in range(max(1, n_tokens // phase["row"])):
                ids, weights = [], []
                for more, w in self.some(phase, phase["row"]):
                    if len(ids) + len(more) <= phase["row"]:
                        ids, weights = ids + more, weights + w
                rows.append((ids, weights))
            return padded(rows)
        if not self.batches:
            rows = []
            for document in sorted(self.some(phase, 16 * n_tokens), key=lambda d: len(d[0])):
                if rows and len(document[0]) * (len(rows) + 1) > n_tokens:
                    self.batches.append(rows)
                    rows = []
                rows.append(document)
            self.batches.append(rows)
            self.random.shuffle(self.batches)
        return padded(self.batches.pop())


def found_stories(test):
    """Collected stories, where they are at hand; a fiftieth of them is kept for tests."""
    if not TEXTS:
        return []
    packed = pathlib.Path(TEXTS) / "tinystories_sample.txt.xz"
    stories = lzma.decompress(packed.read_bytes()).decode().rstrip("\n").split("\n%%\n")
    random.Random(7).shuffle(stories)
    return stories[:len(stories) // 50] if test else stories[len(stories) // 50:]


def padded(rows):
    length = max(len(ids) for ids, _ in rows)
    length += (1 - length) % 4
    ids, weights = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length)
    for i, (row, w) in enumerate(rows):
        ids[i, :len(row)], weights[i, :len(w)] = torch.tensor(row), torch.tensor(w)
    return ids[:, :-1], ids[:, 1:].contiguous(), weights[:, 1:].contiguous()
