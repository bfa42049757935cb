#!/usr/bin/env python3
"""Trains ds4-tiny on a CPU, within a time.

    train.py --out RUN --minutes 67 [--processes 2] [--tokens 1024] [--seed 0]
    train.py --out RUN2 --from RUN --minutes 70       a second run from the weights and the optimiser of an ended one
    train.py --out RUN3 --from RUN2 --plan last --minutes 8 --lr 0.0018 --adam-lr 0.001    a short one, sums above all
    train.py --out RUN4 --from RUN3 --plan third --minutes 66 --lr 0.004 --adam-lr 0.002   long texts, exact copies
    ... the same command again goes on from the last state; a file RUN/stop ends a run early, its state saved.

Processes share the weights: each makes gradients on a batch of its own, all add them up, and each updates its part of
the parameters. RUN gets log.tsv, state.pt (written whole or not at all, every four minutes) and, at the end, a
checkpoint folder RUN/checkpoint. The clock is that of the wall: f goes from 0 to 1 over the given time, and chooses the
documents (PLANS), the rounding of the state to FP8 and FP4 and, with --two-bit, at last experts in two bits.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"    # a process a core is faster than threads

import argparse
import pathlib
import time

import checkpoint
import quant2
import start
import tasks
import torch
import torch.multiprocessing as mp
from data import Documents, padded
from model import Config, Model
from tokenizer import Tokenizer

SHORT = ["chat", "math", "text", "memory", "table", "json", "story"]
ALL = list(tasks.KINDS)
MAIN = SHORT + ["tool", "needle"]
# From this f on: shares of tasks, stories, found stories, copying and sums; longest document; longest copying exercise;
# share of packed batches and their row; share of batches of one long text with questions, its length, how many they
# are and what share of them beyond a fourth asks for secret numbers.
FIRST = [
    (0.00, dict(mix=(6, 1, 0, 2, 0.3), kinds=SHORT, longest=140, copy=90, packed=0, row=256)),
    (0.06, dict(mix=(9, 0.7, 0.2, 2.5, 0.5), kinds=MAIN, longest=480, copy=160, packed=0.03, row=512)),
    (0.25, dict(mix=(9, 0.7, 0.3, 4, 0.5), kinds=MAIN, longest=640, copy=240, packed=0.1, row=640)),
    (0.75, dict(mix=(9, 0.7, 0.3, 2, 0.5), kinds=MAIN, longest=1000, copy=240, packed=0.1, row=1024)),
]
SECOND = [
    (0.00, dict(mix=(9, 0.3, 0.2, 2, 5), kinds=ALL, longest=800, copy=240, packed=0, row=800, far=0.05,
                lengths=(400, 1000))),
    (0.30, dict(mix=(9, 0.3, 0.2, 2, 3.5), kinds=ALL, longest=1000, copy=240, packed=0.02, row=1500, far=0.09,
                lengths=(250, 1500))),
    (0.60, dict(mix=(9, 0.3, 0.2, 2, 3), kinds=ALL, longest=1000, copy=240, packed=0.02, row=2500, far=0.08,
                lengths=(300, 3000))),
    (0.85, dict(mix=(9, 0.3, 0.3, 1.5, 2), kinds=ALL, longest=1000, copy=240, packed=0.02, row=3000, far=0.07,
                lengths=(400, 5000))),
]
# Kinds that come twice are drawn twice as often.
MORE = ALL + ["tool", "needle", "chat", *tasks.EXERCISES]
THIRD = [(0.00, dict(mix=(9, 0.3, 0.3, 1.5, 2), kinds=MORE, longest=1000, copy=240, packed=0.02, row=3000, far=0.12,
                     lengths=(500, 6500), asked=dict(questions=(6, 18), numbers=0.3)))]
LAST = [(0.00, dict(mix=(9, 0.3, 0.3, 1.5, 6), kinds=ALL, longest=1000, copy=240, packed=0.02, row=3000, far=0.06,
                    lengths=(300, 4000)))]
# Phases; from which f on the state is rounded; until which f half of the long batches attend every row, of a run that
# goes on from another; until which f the learning rate holds.
PLANS = {"first": (FIRST, 0.73, 0.5, 0.4), "second": (SECOND, 0.73, 0.5, 0.4), "last": (LAST, -1, -1, 0.2),
         "third": (THIRD, -1, 0.5, 0.3)}
SHORT_HEADS = 0.8           # of tool conversations: see tasks.py
SPARSE_FROM, TWO_BIT_FROM = 0.30, 0.86
LONG, LAST_RATE, WARM_STEPS = 500, 0.02, 40
DRAFT_EVERY, REFRESH_EVERY, BALANCE_RATE = 3, 4, 1e-2
SAVE_S, EVALUATE_S, LOG_S = 240, 480, 20


class Muon(torch.optim.Optimizer):
    """Momentum made orthogonal by five Newton-Schulz steps, for matrices and stacks of them. Stacks (the experts) move
    every fourth step, four times as far: most of the work of a step is theirs."""

    def __init__(self, parameters, lr, decay=0.01, momentum=0.95):
        super().__init__(parameters, dict(lr=lr, decay=decay, momentum=momentum))

    @staticmethod
    def orthogonal(x):
        """x [n, rows, columns]"""
        tall = x.size(1) > x.size(2)
        x = x.transpose(1, 2) if tall else x
        x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
        for _ in range(5):
            gram = x @ x.transpose(1, 2)
            x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
        return x.transpose(1, 2) if tall else x

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                average = state.setdefault("average", torch.zeros_like(p))
                average.mul_(group["momentum"]).add_(p.grad, alpha=1 - group["momentum"])
                state["n"] = state.get("n", 0) + 1
                times = 4 if p.dim() == 3 and p.size(1) == p.size(2) else 1
                if state["n"] % times:
                    continue
                ahead = p.grad.lerp_(average, group["momentum"]).reshape(-1, *p.shape[-2:])
                p.mul_(1 - group["lr"] * group["decay"])
                size = group["lr"] * times * 0.2 * max(p.shape[-2:]) ** 0.5
                p.add_(self.orthogonal(ahead).reshape(p.shape), alpha=-size)


def is_matrix(name, p):
    """What Muon moves; AdamW does embeddings, head, norms, gates, hyper-connections, sinks."""
    if "wgate" in name:
        return True
    adam = ("embed", "out.", "ape", "gate", "hc_", "head.fn")
    return p.dim() >= 2 and not any(part in name for part in adam)


def shares(model, n):
    """The parameters by process, in equal parts of work: [(Muon's, AdamW's)]"""
    def work(item):
        name, p = item
        return p.numel() * (1 + 0.1 * min(p.shape[-2:]) if is_matrix(name, p) else 1.0)

    load, parts = [0.0] * n, [([], []) for _ in range(n)]
    for name, p in sorted(model.named_parameters(), key=work, reverse=True):
        i = load.index(min(load))
        load[i] += work((name, p))
        parts[i][0 if is_matrix(name, p) else 1].append(p)
    return parts


def phase_at(f, phases):
    return [phase for begin, phase in phases if f >= begin][-1]


def rate_at(f, step, hold_until):
    """Of the learning rate: warm-up over the first steps of a run, hold, then linear to almost nothing."""
    decay = 1 if f < hold_until else LAST_RATE + (1 - LAST_RATE) * (1 - f) / (1 - hold_until)
    return min(1, (step + 1) / WARM_STEPS) * decay


def held_out(tokenizer):
    """kind -> one batch that is never trained on"""
    state, out = tasks.R.getstate(), {}
    for kind in ALL + ["copy", "found"]:
        documents = Documents(tokenizer, 777, test=True)
        mix = (0, 0, kind == "found", kind == "copy", 0) if kind not in ALL else (1, 0, 0, 0, 0)
        phase = dict(mix=mix, kinds=[kind], longest=900, copy=90)
        out[kind] = padded(sorted((documents.document(phase) for _ in range(16)), key=lambda d: len(d[0]))[:14])
    tasks.R.setstate(state)
    return out


@torch.no_grad()
def evaluate(model, batches):
    """kind -> nats a token where the assistant speaks, share of rows with every such token right"""
    model.eval()
    out = {}
    for kind, (ids, targets, weights) in batches.items():
        logits, counted = model.logits(ids), weights >= (0.8 if kind == "found" else 1)
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        right = ((logits.argmax(-1) == targets) | ~counted).all(1)
        out[kind] = loss.view_as(weights)[counted].mean().item(), right.float().mean().item()
    model.train()
    return out


def shown(scores):
    return " ".join(f"{kind} {loss:.3f}/{right:.2f}" for kind, (loss, right) in scores.items())


class Shared:
    """What the processes have in common, in shared memory."""

    def __init__(self, model, n, context):
        n_values = sum(p.numel() for p in model.parameters())
        self.gradients = torch.zeros(n, n_values if n > 1 else 0).share_memory_()
        self.loads = torch.zeros(n, len(model.blocks()), model.c.experts).share_memory_()
        self.f = torch.zeros(1, dtype=torch.float64).share_memory_()
        self.save, self.tokens = torch.zeros(1).share_memory_(), torch.zeros(n, dtype=torch.int64).share_memory_()
        self.barrier, self.at, begin = context.Barrier(n), {}, 0
        for p in model.parameters():
            self.at[p] = slice(begin, begin + p.numel())
            begin += p.numel()


class Worker:
    def __init__(self, rank, model, options, shared, progress):
        torch.set_num_threads(1)
        torch.set_flush_denormal(True)
        self.rank, self.model, self.options, self.shared, self.progress = rank, model, options, shared, progress
        self.tokenizer = Tokenizer.load()
        self.mine = shares(model, options.processes)[rank]
        self.optimizers = [Muon(self.mine[0], options.lr),
                           torch.optim.AdamW(self.mine[1], options.adam_lr, betas=(0.9, 0.95), weight_decay=0.0)]
        if progress["step"]:
            kept = progress.pop("from", options.out)
            for optimizer, state in zip(self.optimizers, torch.load(self.optimizer_path(progress["step"], kept))):
                optimizer.load_state_dict(state)
        self.documents = Documents(self.tokenizer, options.seed + 10 * rank + 1000 * progress["resumes"])
        self.adam = [p for _, part in shares(model, options.processes) for p in part]
        self.averages, self.two_bit, self.goes_on = {}, progress.get("two_bit") is not None, progress["first"] > 0
        plan = options.plan or ("second" if self.goes_on else "first")
        self.phases, self.rounded_from, self.dense_long_until, self.hold_until = PLANS[plan]
        self.times = dict.fromkeys(("log", "evaluate", "save"), time.time())
        self.logged, self.batches = progress["tokens"], held_out(self.tokenizer) if rank == 0 else None
        tasks.short_heads = SHORT_HEADS

    def optimizer_path(self, step, folder):
        return pathlib.Path(folder) / f"optimizer-{step}-{self.rank}.pt"

    def say(self, text):
        if self.rank == 0:
            print(text, flush=True)
            with open(pathlib.Path(self.options.out) / "log.tsv", "a", encoding="utf-8") as log:
                log.write(text + "\n")

    def run(self):
        p = self.progress
        while True:
            if self.rank == 0:
                self.shared.f[0] = (time.time() - p["begun"]) / (p["end"] - p["begun"])
                self.shared.save[0] = time.time() - self.times["save"] > SAVE_S or self.stopping()
            self.shared.barrier.wait()
            f, save = self.shared.f.item(), self.shared.save.item()
            if f >= 1 or save:
                self.save()
            if f >= 1 or self.stopping():
                break
            self.configure(f)
            parts = self.gradients(f)
            self.update(f)
            p["step"] += 1
            p["tokens"] += int(self.shared.tokens.sum())
            self.shared.barrier.wait()
            if self.two_bit and p["step"] % REFRESH_EVERY == 0:
                for block in self.model.blocks():
                    block.ffn.two_bit.refresh()
            self.report(f, parts)
        if f >= 1 and self.rank == 0:
            self.finish()

    def stopping(self):
        return (pathlib.Path(self.options.out) / "stop").exists()

    def configure(self, f):
        c = self.model.c
        c.sparse, c.rounded_state = f > SPARSE_FROM or self.goes_on, f > self.rounded_from
        if self.options.two_bit and f > TWO_BIT_FROM and not self.two_bit:
            before = evaluate(self.model, self.batches) if self.rank == 0 else {}
            quant2.switch_on(self.model)
            self.two_bit = True
            if self.rank == 0:
                self.say("# full weights, before two bits: " + shown(before))
                self.say("# two bits, untrained: " + shown(evaluate(self.model, self.batches)))

    def gradients(self, f):
        n_tokens = self.options.tokens // self.options.processes
        ids, targets, weights = self.documents.batch(phase_at(f, self.phases), n_tokens)
        if self.goes_on and ids.size(1) > LONG:
            self.model.c.sparse = f > self.dense_long_until or self.progress["step"] % 2 == 0
        for p in self.model.parameters():
            p.grad = None
        loss, parts = self.model(ids, targets, weights, draft=self.progress["step"] % DRAFT_EVERY == DRAFT_EVERY - 1)
        loss.backward()
        for p in self.model.parameters():
            if p.grad is not None and self.options.processes > 1:
                self.shared.gradients[self.rank, self.shared.at[p]] = p.grad.flatten()
        for i, block in enumerate(self.model.blocks()):
            self.shared.loads[self.rank, i] = block.ffn.load
            block.ffn.load.zero_()
        self.shared.tokens[self.rank] = ids.numel()
        self.shared.barrier.wait()
        return parts

    def update(self, f):
        """This process's part of the parameters, from everyone's gradients."""
        shared, rate = self.shared, rate_at(f, self.progress["step"] - self.progress["first"], self.hold_until)
        for optimizer, base in zip(self.optimizers, (self.options.lr, self.options.adam_lr)):
            optimizer.param_groups[0]["lr"] = base * rate
        if self.options.processes > 1:
            for p in self.adam + self.mine[0]:
                p.grad = None if p.grad is None else shared.gradients[:, shared.at[p]].mean(0).view_as(p)
        norm = torch.stack([p.grad.square().sum() for p in self.adam if p.grad is not None]).sum().sqrt().item()
        for p in self.mine[1]:
            if p.grad is not None:
                p.grad *= min(1.0, 1.0 / (norm + 1e-6))
        for optimizer in self.optimizers:
            optimizer.step()
        if self.rank == 0:      # lift the selection bias of idle experts
            for i, block in enumerate(self.model.blocks()):
                load = shared.loads[:, i].sum(0)
                if not block.ffn.hashed and load.sum() > 0:
                    block.ffn.bias += BALANCE_RATE * rate * torch.sign(load.mean() - load)

    def report(self, f, parts):
        if self.rank:
            return
        for name, value in parts.items():
            self.averages[name] = 0.95 * self.averages.get(name, value.item()) + 0.05 * value.item()
        p, now = self.progress, time.time()
        if now - self.times["log"] > LOG_S:
            speed = (p["tokens"] - self.logged) / (now - self.times["log"])
            losses = " ".join(f"{name} {value:.3f}" for name, value in self.averages.items())
            self.say(f"{p['step']}\t{p['tokens']}\t{f:.3f}\t{losses}\t{speed:.0f} tokens/s")
            self.times["log"], self.logged = now, p["tokens"]
        if now - self.times["evaluate"] > EVALUATE_S:
            self.say("= " + shown(evaluate(self.model, self.batches)))
            self.times["evaluate"] = time.time()

    def save(self):
        folder, step = pathlib.Path(self.options.out), self.progress["step"]
        torch.save([optimizer.state_dict() for optimizer in self.optimizers], self.optimizer_path(step, folder))
        self.shared.barrier.wait()
        if self.rank == 0:
            state = dict(model=self.model.state_dict(), progress=dict(self.progress, two_bit=quant2.state(self.model)))
            torch.save(state, folder / "state.part")
            os.replace(folder / "state.part", folder / "state.pt")
            for old in folder.glob("optimizer-*.pt"):
                if old.name.split("-")[1] != str(step):
                    old.unlink()
        self.times["save"] = time.time()
        self.shared.barrier.wait()

    def finish(self):
        if self.two_bit:
            self.say("# two bits, trained: " + shown(evaluate(self.model, self.batches)))
        p = self.progress
        note = f"trained by train/train.py, seed {self.options.seed}, {p['step']} steps, {p['tokens']} tokens"
        checkpoint.save(self.model, pathlib.Path(self.options.out) / "checkpoint", self.tokenizer, note)
        quant2.switch_off(self.model)
        self.say("# full weights, at the end: " + shown(evaluate(self.model, self.batches)))
        self.say("done: " + note)


def work(rank, *rest):
    Worker(rank, *rest).run()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", required=True)
    parser.add_argument("--from", dest="before", help="folder of a run to go on from")
    parser.add_argument("--plan", choices=PLANS, help="without it the first, or with --from the second")
    parser.add_argument("--minutes", type=float, default=67)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=1024, help="of a step, over all processes")
    parser.add_argument("--lr", type=float, default=0.006, help="of Muon")
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--two-bit", action="store_true", help="experts in two bits at the end, straight through")
    options = parser.parse_args()
    folder = pathlib.Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    model = Model(Config(vocab=len(Tokenizer.load().tokens)))
    start.copying(model, Documents(Tokenizer.load(), options.seed).counts())
    now = time.time()
    clock = dict(begun=now, end=now + 60 * options.minutes)
    progress = dict(clock, step=0, tokens=0, resumes=0, first=0)
    kept = next((pathlib.Path(path) for path in (options.out, options.before)
                 if path and (pathlib.Path(path) / "state.pt").exists()), None)
    if kept:
        state = torch.load(kept / "state.pt")
        model.load_state_dict(state["model"])
        progress = dict(state["progress"], resumes=state["progress"]["resumes"] + 1)
        if kept != folder:
            progress.update(clock, first=progress["step"], **{"from": str(kept)})
        progress.setdefault("first", 0)
        if progress["two_bit"]:
            quant2.switch_on(model, progress["two_bit"])
    model.share_memory()
    context = mp.get_context("fork")
    shared = Shared(model, options.processes, context)
    others = [context.Process(target=work, args=(rank, model, options, shared, progress))
              for rank in range(1, options.processes)]
    for process in others:
        process.start()
    (folder / "pid").write_text(" ".join(str(pid) for pid in [os.getpid()] + [p.pid for p in others]) + "\n")
    work(0, model, options, shared, progress)
    for process in others:
        process.join()


if __name__ == "__main__":
    main()
