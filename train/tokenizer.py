"""Byte-level BPE over a sub-vocabulary of DeepSeek's.

vocab.json keeps some of DeepSeek's merges in their own order, both halves of each among them: every id of the small
model names a string that is a token of the real vocabulary too. Ids: BOS, EOS, PAD, the 256 bytes, one for each merge,
the other markers. Text is cut by the same three patterns, and merged by the same rule, as in src/text.

    tokenizer.py MERGES TEXT... > vocab.json      choose the merges that these texts use most (--size 2560)

MERGES holds a whole merge list, one "left right" a line in order of rank.
"""

import argparse
import collections
import json
import pathlib
import sys

import regex

HERE = pathlib.Path(__file__).resolve().parent
HEAD = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"]
TAIL = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "｜DSML｜", "<｜latest_reminder｜>"]
CONTROL = HEAD + TAIL[:2] + TAIL[5:]        # never text; the others are markers inside an answer
BOS, EOS, PAD = 0, 1, 2

NUMBERS = r"\p{N}{1,3}"
CJK = "[一-龥぀-ゟ゠-ヿ]+"
WORDS = (r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
         r""" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""")
PATTERNS = [NUMBERS, CJK, WORDS]


def byte_alphabet():
    """byte -> the printable character that stands for it in vocabularies (that of GPT-2)"""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(256 + i) for i, byte in enumerate(hidden)}}


TO_CHAR = byte_alphabet()
TO_BYTE = {char: byte for byte, char in TO_CHAR.items()}


def cut(text):
    """The pieces inside which merges happen: each pattern isolates its matches in what the ones before left."""
    pieces = [text]
    for pattern in PATTERNS:
        out, compiled = [], regex.compile(pattern)
        for piece in pieces:
            last = 0
            for match in compiled.finditer(piece):
                if match.end() > match.start():
                    out += [piece[last:match.start()], match.group()]
                    last = match.end()
            out.append(piece[last:])
        pieces = [piece for piece in out if piece]
    return pieces


class Tokenizer:
    def __init__(self, merges):
        self.merges = merges
        self.rank = {merge: i for i, merge in enumerate(merges)}
        self.tokens = HEAD + [TO_CHAR[byte] for byte in range(256)] + [left + right for left, right in merges] + TAIL
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.markers = regex.compile("(" + "|".join(map(regex.escape, HEAD + TAIL)) + ")")
        self.words = {}

    @classmethod
    def load(cls, path=HERE / "vocab.json"):
        return cls([tuple(merge.split(" ")) for merge in json.loads(pathlib.Path(path).read_text())["merges"]])

    def merged(self, word):
        """The tokens of one piece: the pair of lowest rank first."""
        parts = [TO_CHAR[byte] for byte in word.encode()]
        while len(parts) > 1:
            rank, i = min((self.rank.get(pair, len(self.rank)), i) for i, pair in enumerate(zip(parts, parts[1:])))
            if rank == len(self.rank):
                break
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        return parts

    def encode(self, text):
        """Markers in the text become themselves: only for text that the trainer wrote."""
        out = []
        for part in self.markers.split(text):
            if part in HEAD or part in TAIL:
                out.append(self.ids[part])
                continue
            for word in cut(part):
                if word not in self.words:
                    self.words[word] = [self.ids[token] for token in self.merged(word)]
                out += self.words[word]
        return out

    def decode(self, ids):
        raw = b"".join(self.tokens[i].encode() if i < len(HEAD) or i >= len(self.tokens) - len(TAIL)
                       else bytes(TO_BYTE[char] for char in self.tokens[i]) for i in ids)
        return raw.decode("utf-8", "replace")

    def tokenizer_json(self):
        """The same as a tokenizer.json, the form in which checkpoints carry it."""
        added = [{"id": self.ids[token], "content": token, "single_word": False, "lstrip": False, "rstrip": False,
                  "normalized": False, "special": token in CONTROL} for token in HEAD + TAIL]
        splits = [{"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
                  for pattern in PATTERNS]
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
        return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                "pre_tokenizer": {"type": "Sequence", "pretokenizers": splits + [level]}, "post_processor": None,
                "decoder": dict(level, use_regex=True),
                "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                          "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                          "vocab": {token: i for i, token in enumerate(self.tokens)
                                    if token not in HEAD + TAIL},
                          "merges": [" ".join(merge) for merge in self.merges]}}


def choose(merges, words, n):
    """A closed subset of n merges: the tokens that the words use most, with all that each is made of."""
    whole, made_of = Tokenizer(merges), {left + right: (left, right) for left, right in reversed(merges)}
    use = collections.Counter()
    for word, count in words.items():
        for token in whole.merged(word):
            use[token] += count
    for left, right in reversed(merges):        # a token left out falls apart: its halves inherit its use
        for half in (left, right):
            if len(half) > 1:
                use[half] += use[left + right]
    kept = set()
    for token, count in use.most_common():
        needed, stack = set(), [token]
        while stack:
            part = stack.pop()
            if len(part) > 1 and part not in kept | needed:
                needed.add(part)
                stack += made_of[part]
        if count and len(kept) + len(needed) <= n:
            kept |= needed
    return [merge for merge in merges if merge[0] + merge[1] in kept]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("merges", type=pathlib.Path)
    parser.add_argument("texts", nargs="+", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=2560)
    options = parser.parse_args()
    words = collections.Counter()
    for path in options.texts:
        text = path.read_text()
        for marker in HEAD + TAIL:
            text = text.replace(marker, " ")
        words.update(cut(text))
    merges = [tuple(line.split(" ")) for line in options.merges.read_text().splitlines() if line]
    chosen = choose(merges, words, options.size - 256 - len(HEAD + TAIL))
    json.dump({"merges": [" ".join(merge) for merge in chosen]}, sys.stdout, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    main()
