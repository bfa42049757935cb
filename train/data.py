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


# How exercises in copying write words and facts: seen in one form, they are asked back in any.
WORD_FORMS = (" {}", " {}", "\n{}", ", {}", ' "{}",', ">{}<")
FACT_FORMS = ("\n{} = ", "\n{}: ", "\n{} costs ", " {} ", ' "{}": ')


class Documents:
    """An endless stream. phase: a dict of mix, kinds, longest, copy (see train.FIRST)."""

    def __init__(self, tokenizer, seed, test=False):
        self.tokenizer, self.random, self.batches = tokenizer, random.Random(2 * seed + test), []
        tasks.seed(2 * seed + test)
        self.found = found_stories(test)

    def far(self, shortest, longest, questions=(3, 10), numbers=0.0):
        """A long text with several questions, each length as likely as twice that length."""
        n = int(shortest * (longest / shortest) ** self.random.random())
        return self.rendered(tasks.needle_task(n, self.random.randint(*questions), numbers))

    def task(self, kinds):
        return self.rendered(tasks.sample(kinds))

    def rendered(self, task):
        text, ids, weights, at = task["prompt"] + task["completion"], [], [], 0
        for begin, end in task["spans"]:
            part = self.tokenizer.encode(text[at:begin])
            weights += [LONG_PROMPT_WEIGHT if len(part) > 250 else PROMPT_WEIGHT] * len(part)
            ids += part
            part = self.tokenizer.encode(text[begin:end])
            ids, weights, at = ids + part, weights + [1.0] * len(part), end
        return ids, weights

    def marked(self, text, first, rest, other):
        """Ids of a text, and weights: of its first token with a letter or digit, of the others, of what has none."""
        ids, weights, next_one = self.tokenizer.encode(text), [], first
        for i in ids:
            plain = any(c.isalnum() for c in self.tokenizer.decode([i]))
            weights.append(next_one if plain else other)
            next_one = rest if plain else next_one
        return list(zip(ids, weights))

    def copying(self, longest):
        """Words said twice, or facts asked back in another order: what follows can only be known from before."""
        r = self.random
        n = int(12 * (max(longest, 13) / 12) ** r.random())
        pool = (world.TOYS + world.FOODS + world.ANIMALS + world.COLORS + world.GIRLS + world.BOYS + world.CITIES
                + world.FILES)
        out = [(BOS, 0.0)]
        between = self.filler(r.choice((1, 1, 2, 3))) if longest > 100 and r.random() < 0.5 else []
        if r.random() < 0.4:
            words = [r.choice(pool) for _ in range(max(n // 3, 2))]
            back = r.random() < 0.4
            for time in range(2):
                form = r.choice(WORD_FORMS)
                if back and time:       # the other way round, as a text task wishes it
                    words.reverse()
                    out += self.marked("In reverse order:", *[0.05] * 3)
                for i, word in enumerate(words):
                    out += self.marked(form.format(word), *((1.0, 0.5, 0.2) if time else [0.02] * 3))
                out += self.marked("\n", *[0.3] * 3) + (between if not time else [])
        else:
            keys = r.sample(pool, max(2, min(n // 10, 20)))
            order, numbers = list(range(len(keys))), r.random() < 0.6
            values = [str(r.randrange(r.choice((10, 100, 1000)))) if numbers else r.choice(pool) for _ in keys]
            for time in range(2):
                form = r.choice(FACT_FORMS)
                for i in order:
                    key, value = form.format(keys[i]), values[i]
                    if not numbers:
                        key, value = key.rstrip(), f' "{value}"' if '"' in form else " " + value
                    out += self.marked(key, *((0.05, 0.5, 0.1) if time else [0.02] * 3))
                    out += self.marked(value, *((1.0, 0.7, 0.2) if time else [0.02] * 3))
                    out += self.marked(r.choice((",", "")) if form[0] == " " else "", *[0.1] * 3)
                out += self.marked("\n", *[0.1] * 3) + (between if not time else [])
                r.shuffle(order)
        out.append((EOS, 0.3))
        return [i for i, _ in out], [w for _, w in out]

    def filler(self, n):
        """Stories between what is told and what is asked: copying beyond the window goes through compressed rows."""
        return self.marked("\n\n" + "\n\n".join(tasks.story()[0] for _ in range(n)) + "\n\n", *[0.1] * 3)

    def sums(self):
        """Line by line what a sum is made of, to be known by heart: each result counts."""
        out = [(BOS, 0.0)]
        for _ in range(self.random.randint(4, 12)):
            line, result = tasks.drill()
            out += [(i, 0.05) for i in self.tokenizer.encode(line)]
            out += [(i, 1.0) for i in self.tokenizer.encode(result)]
        return [i for i, _ in out], [w for _, w in out]

    def counts(self, n=400):
        """How often each token comes in so many tasks."""
        out = torch.zeros(len(self.tokenizer.tokens))
        for _ in range(n):
            out += torch.bincount(torch.tensor(self.task(None)[0]), minlength=len(out))
        return out

    def document(self, phase):
        kind = self.random.choices(("task", "story", "found", "copy", "sums"), phase["mix"])[0]
        if kind == "task":
            return self.task(phase["kinds"])
        if kind == "copy":
            return self.copying(phase["copy"])
        if kind == "sums":
            return self.sums()
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
        if self.random.random() < phase.get("far", 0):
            return padded([self.far(*phase["lengths"], **phase.get("asked", {}))])
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
