#!/usr/bin/env python3
"""How good a model is, on tasks that it was never trained on (odd seeds), answering greedily.

    evaluate.py models/ds4-tiny.gguf --engine ./ds4 [--n 25]     answers by the engine
    evaluate.py CHECKPOINT_DIR [--n 5]                           answers by PyTorch, without a cache: slow
    ... --loss adds nats a token on the assistant's tokens, by PyTorch
    ... --drafts build/cc/tests/measure/drafts [--kinds story,chat]     instead: how often the draft block is right
    ... --engine ./ds4 --found      instead: nats a token and a byte of collected stories never trained on

Columns: tokens of a prompt (mean), answers that end, answers that are right (they contain what the task asks for; a
tool call is right when it parses and has the name and arguments of the model answer), tool calls that parse.
"""

import argparse
import itertools
import json
import pathlib
import re
import subprocess
import tempfile

import tasks
from tokenizer import EOS, Tokenizer

CALLS = re.compile(rf"\n\n<{tasks.DSML}tool_calls>\n(.*)\n</{tasks.DSML}tool_calls>$", re.S)
INVOKE = re.compile(rf'<{tasks.DSML}invoke name="([^"]*)">\n(.*?)\n</{tasks.DSML}invoke>', re.S)
PARAMETER = re.compile(rf'<{tasks.DSML}parameter name="([^"]*)" string="(true|false)">(.*?)</{tasks.DSML}parameter>',
                       re.S)


def parse_calls(text):
    """The tool calls of an answer as [(name, arguments)]; None when the block is not well formed."""
    text = text.split(tasks.END_THINK)[-1].removesuffix(tasks.EOS)
    block = CALLS.search(text)
    if not block:
        return None
    calls, rest = [], block[1]
    for invoke in INVOKE.finditer(block[1]):
        arguments, inner = {}, invoke[2]
        for parameter in PARAMETER.finditer(invoke[2]):
            try:
                arguments[parameter[1]] = parameter[3] if parameter[2] == "true" else json.loads(parameter[3])
            except ValueError:
                return None
            inner = inner.replace(parameter[0], "")
        if inner.strip():
            return None
        calls.append((invoke[1], arguments))
        rest = rest.replace(invoke[0], "")
    return calls if calls and not rest.strip() else None


class Engine:
    """Greedy answers of `ds4 run --raw`."""

    def __init__(self, program, path):
        self.program, self.path = program, path

    def answer(self, prompt, n_max):
        with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
            file.write(prompt)
            file.flush()
            command = [self.program, "run", "-m", str(self.path), "--raw", "--prompt-file", file.name,
                       "--temp", "0", "-n", str(n_max)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=True)
        text = done.stdout.removesuffix("\n")
        return text, text.endswith(tasks.EOS) or len(self.tokenizer().encode(text)) < n_max

    @staticmethod
    def tokenizer():
        return Tokenizer.load()


class Torch:
    """Greedy answers of the model itself."""

    def __init__(self, model):
        self.model, self.tokenizer = model, Tokenizer.load()

    def answer(self, prompt, n_max):
        import torch

        ids = self.tokenizer.encode(prompt)
        begin = len(ids)
        with torch.no_grad():
            while len(ids) < begin + n_max and ids[-1] != EOS:
                ids.append(int(self.model.logits(torch.tensor([ids]))[0, -1].argmax()))
        return self.tokenizer.decode(ids[begin:]), ids[-1] == EOS


def loss_of(model, tokenizer, samples):
    """Nats a token on what the assistant says last."""
    import torch

    total = count = 0
    for sample in samples:
        prompt, answer = tokenizer.encode(sample["prompt"]), tokenizer.encode(sample["completion"])
        with torch.no_grad():
            logits = model.logits(torch.tensor([prompt + answer]))[0, len(prompt) - 1:-1]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(answer), reduction="sum").item()
        count += len(answer)
    return total / count


def score(generator, tokenizer, samples):
    """-> dict of counts"""
    out = dict(n=0, prompt_tokens=0, ended=0, right=0, calls=0, calls_parsed=0)
    for sample in samples:
        n_max = len(tokenizer.encode(sample["completion"])) + 40
        text, ended = generator.answer(sample["prompt"], n_max)
        wanted = parse_calls(sample["completion"])
        answer = text.split(tasks.END_THINK)[-1]
        right = any(re.search(rf"(?<!\w){re.escape(good)}(?!\w)", answer) is not None
                    for good in tasks.equally_good(sample["check"]))
        if wanted is not None:
            got = parse_calls(text)
            right = got == wanted
            out["calls"] += 1
            out["calls_parsed"] += got is not None
        if sample["prompt"].endswith(tasks.THINK):
            right = right and tasks.END_THINK in text
        out["n"] += 1
        out["prompt_tokens"] += len(tokenizer.encode(sample["prompt"]))
        out["ended"] += ended
        out["right"] += right
    return out


def groups(n, seed, lengths=(60, 250, 1000)):
    """name -> samples"""
    out = {}
    for kind in tasks.KINDS:
        if kind == "needle":
            continue
        tasks.seed(seed)
        drawn = (tasks.sample([kind]) for _ in range(100 * n))      # a free story or a lone call has nothing to check
        out[kind] = list(itertools.islice((task for task in drawn if task["check"]), n))
    for length in lengths:
        tasks.seed(seed)
        out[f"needle {length}"] = [tasks.needle_task(length) for _ in range(n)]
    tasks.seed(seed)
    calls = (tasks.sample(["tool"]) for _ in range(100 * n))
    out["tool call"] = [call for call in calls if tasks.DSML in call["completion"]][:n]
    return out


def drafts(options):
    """Lines of tests/measure/drafts for told stories, and for every other kind wished."""
    for kind in (options.kinds or "story,chat").split(","):
        tasks.seed(options.seed)
        drawn = (tasks.sample([kind]) for _ in range(100 * options.n))
        prompts = [task["prompt"] for task in drawn if (kind == "story") != bool(task["check"])][:options.n]
        with tempfile.TemporaryDirectory() as folder:
            files = [pathlib.Path(folder) / f"{i}.txt" for i in range(len(prompts))]
            for file, prompt in zip(files, prompts):
                file.write_text(prompt, encoding="utf-8")
            said = subprocess.run([options.drafts, options.model, *files], capture_output=True, text=True, check=True)
        print(f"{kind:12s} " + said.stdout.strip().replace("\n", ", "), flush=True)


def found(options):
    """The loss of `ds4 perplexity`, each story alone, its end token counted too."""
    from data import found_stories

    nats, n_tokens, n_bytes = 0, 0, 0
    for text in found_stories(test=True):
        command = [options.engine, "perplexity", "-m", options.model, "--special", "--chunk", "4096", "--json"]
        done = subprocess.run(command, input=tasks.BOS + text + tasks.EOS, capture_output=True, text=True, check=True)
        story = json.loads(done.stdout)
        nats += story["nll"] * story["n_tokens"]
        n_tokens, n_bytes = n_tokens + story["n_tokens"], n_bytes + len(text.encode())
    print(f"{nats / n_tokens:.3f} nats a token of {n_tokens}, {nats / n_bytes:.4f} a byte of {n_bytes}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--engine", help="the program that answers; without it PyTorch does")
    parser.add_argument("--n", type=int, default=25, help="samples of each kind")
    parser.add_argument("--seed", type=int, default=1001, help="odd: never trained on")
    parser.add_argument("--kinds", help="separated by commas")
    parser.add_argument("--lengths", default="60,250,1000", help="of the texts with a sentence to find, in tokens")
    parser.add_argument("--loss", action="store_true")
    parser.add_argument("--found", action="store_true", help="of the folder DS4_TRAIN_TEXTS")
    parser.add_argument("--drafts", help="the program that counts drafts")
    parser.add_argument("--show", type=int, default=0, help="samples of each kind to print")
    options = parser.parse_args()
    if options.drafts:
        drafts(options)
        return
    if options.found:
        found(options)
        return
    tokenizer, model = Tokenizer.load(), None
    if options.loss or not options.engine:
        import checkpoint
        import torch
        torch.set_num_threads(1)
        model = checkpoint.load(options.model) if options.model.is_dir() else checkpoint.load_gguf(options.model)[0]
    generator = Engine(options.engine, options.model) if options.engine else Torch(model)
    for name, samples in groups(options.n, options.seed, map(int, options.lengths.split(","))).items():
        if options.kinds and not {name, name.split()[0]} & set(options.kinds.split(",")):
            continue
        s = score(generator, tokenizer, samples)
        line = (f"{name:12s} prompt {s['prompt_tokens'] // s['n']:5d} tokens, ended {s['ended']}/{s['n']}, "
                f"right {s['right']}/{s['n']}")
        line += f", calls parsed {s['calls_parsed']}/{s['calls']}" if s["calls"] else ""
        line += f", loss {loss_of(model, tokenizer, samples):.3f}" if options.loss else ""
        print(line, flush=True)
        for sample in samples[:options.show]:
            text, _ = generator.answer(sample["prompt"], 120)
            print("   ", repr(sample["prompt"][-90:]), "->", repr(text[:300]), flush=True)


if __name__ == "__main__":
    main()
