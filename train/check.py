#!/usr/bin/env python3
"""Checks of the trainer's own parts against plain evaluations: `check.py` prints one line each, the worst difference.

Attention, compressors, experts and Sinkhorn are evaluated once more token by token, straight from the formulas; the
2-bit blocks are read back by the plain decoders of gguf.py; the tokenizer must give back what it was given. Without
PyTorch there is nothing to check: it says so and ends with 0.
"""

import sys

try:
    import regex        # noqa: F401
    import torch
except ImportError as missing:
    print(f"skipped: {missing} (apt-get install python3-torch libopenblas0-pthread python3-regex)")
    sys.exit(0)

import fused
import gguf
import model as m
import quant2
import tasks
import torch.nn.functional as F
from tokenizer import Tokenizer

failed = 0


def say(what, difference, tolerance):
    global failed
    failed += not difference <= tolerance
    print(f"{'ok  ' if difference <= tolerance else 'FAIL'} {what}: {difference:.1e}")


def worst(a, b):
    return (a - b).abs().max().item()


def check_attention(layer, x):
    """Each row by itself: window, visible compressed rows (the best k by score), sink."""
    c, n = layer.c, x.size(1)
    cos, sin = layer.cos[:n], layer.sin[:n]
    out, low = layer(x), layer.q_norm(layer.wq_a(x))
    q = layer.wq_b(low).unflatten(-1, (c.heads, c.head_dim))
    q = m.rotate(q * torch.rsqrt(q.square().mean(-1, keepdim=True) + c.eps), cos, sin)
    kv, far = m.rotate(layer.kv_norm(layer.wkv(x)), cos, sin)[0], layer.compressor(x, cos, sin)[0]
    scores, difference = layer.indexer(x, low, cos, sin)[0] if layer.indexer else None, 0
    for t in (0, 3, 4, 126, 127, 128, 250, 255, 256, 511, n - 1):
        rows = (t + 1) // layer.ratio
        chosen = torch.arange(rows)
        if scores is not None:
            chosen = torch.sort(scores[t, :rows], descending=True, stable=True)[1][:c.index_top_k]
        keys = torch.cat([kv[max(0, t - c.window + 1):t + 1], far[chosen]])
        logits = torch.cat([q[0, t] @ keys.t() * c.head_dim ** -0.5, layer.attn_sink[:, None]], 1)
        value = logits.softmax(-1)[:, :-1] @ keys
        value = m.rotate(value[None, None], cos[t:t + 1], sin[t:t + 1], inverse=True)[0]
        value = torch.einsum("btgd,grd->btgr", value.reshape(1, 1, c.o_groups, -1), layer.wo_a)
        difference = max(difference, worst(layer.wo_b(value.flatten(2))[0, 0], out[0, t]))
    say(f"attention of ratio {layer.ratio}, row by row", difference, 1e-5)
    check_compressor(layer.compressor, x[0], far, cos, sin)


def check_compressor(part, x, rows, cos, sin):
    j, ratio, d = 3, part.ratio, part.width
    own, before = slice(j * ratio, (j + 1) * ratio), slice((j - 1) * ratio, j * ratio)
    kv, gate = part.wkv(x), part.wgate(x)
    if part.overlap:
        values = torch.cat([kv[before, :d], kv[own, d:]])
        gates = torch.cat([gate[before, :d] + part.ape[:, :d], gate[own, d:] + part.ape[:, d:]])
    else:
        values, gates = kv[own], gate[own] + part.ape
    row = part.norm((values * gates.softmax(0)).sum(0))[None, None]
    row = m.rotate(row, cos[j * ratio:j * ratio + 1], sin[j * ratio:j * ratio + 1])[0, 0]
    say(f"compressor of ratio {ratio}, row {j}", worst(row, rows[j]), 1e-5)


def check_experts(part, x, ids):
    c, out, difference = part.c, part(x, ids), 0
    for t in range(x.size(1)):
        score = F.softplus(part.gate @ x[0, t]).sqrt()
        chosen = part.tid2eid[ids[0, t]] if part.hashed else (score + part.bias).topk(c.active)[1]
        weight = score[chosen] / score[chosen].sum() * c.route_scale
        value = part.s2(part.inner(part.s1(x[0, t]), part.s3(x[0, t])))
        for w, e in zip(weight, chosen):
            value = value + w * (part.w2[e] @ part.inner(part.w1[e] @ x[0, t], part.w3[e] @ x[0, t]))
        difference = max(difference, worst(value, out[0, t]))
    say(f"experts chosen by {'hash' if part.hashed else 'score'}, token by token", difference, 1e-5)


def check_hyper(part, x):
    c, (_, _, comb) = part.c, part(x)
    flat = x.flatten(2)
    mix = (F.linear(flat, part.fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + c.eps))[..., 2 * c.streams:]
    plain = (mix.unflatten(-1, (4, 4)) * part.scale[2] + part.base[8:].view(4, 4)).softmax(-1) + c.eps
    plain = plain / (plain.sum(-2, keepdim=True) + c.eps)
    for _ in range(c.sinkhorn_rounds - 1):
        plain = plain / (plain.sum(-1, keepdim=True) + c.eps)
        plain = plain / (plain.sum(-2, keepdim=True) + c.eps)
    say("Sinkhorn rounds", worst(plain, comb), 1e-5)
    start = torch.rand(4, 4, 3, dtype=torch.float64, requires_grad=True)
    right = torch.autograd.gradcheck(lambda t: m.Sinkhorn.apply(t + 0.1, 7, 1e-6), (start,))
    say("Sinkhorn, gradient", 0.0 if right else 1.0, 0.0)
    y, post, comb = torch.randn(1, 5, c.dim), torch.randn(1, 5, 4), torch.randn(1, 5, 4, 4)
    streams = torch.randn(1, 5, 4, c.dim)
    plain = post[..., None] * y[:, :, None] + torch.einsum("btij,btid->btjd", comb, streams)
    say("writing the streams", worst(plain, m.HyperConnection.write(y, streams, post, comb)), 1e-5)


def check_quant():
    weights = torch.cat([torch.randn(40, 256) * 0.04, torch.randn(8, 256) * torch.rand(8, 1) * 3,
                         torch.randn(8, 256) ** 3 * 0.02, torch.zeros(1, 256), torch.rand(2, 256) * 1e-6])
    for form, bound in ((quant2.IQ2XXS, 0.36), (quant2.Q2K, 0.30)):
        scales = form.fit(weights)
        codes = form.code(weights, scales)
        values, name = form.decode(codes, scales).view_as(weights), form.suffix.upper()
        read = torch.from_numpy(gguf.decode(form.pack(codes, scales).numpy(), name))
        say(f"{name}: values of training = values of a reader of the bytes", worst(values, read), 0.0)
        error = ((values - weights)[:40].square().mean() / weights[:40].square().mean()).sqrt().item()
        say(f"{name}: error on Gaussian rows, of their size", error, bound)
        again = form.decode(form.code(values, scales), scales).view_as(weights)
        say(f"{name}: the same scales a second time", worst(again, values), 0.0)


def check_model():
    torch.manual_seed(1)
    c = m.Config(vocab=512, dim=96, heads=2, head_dim=64, rope_dim=32, q_rank=64, o_rank=48, inter=96, index_heads=2,
                 index_dim=64, index_top_k=32, positions=1024)
    model, ids = m.Model(c).eval(), torch.randint(0, 512, (1, 700))
    for name, p in model.named_parameters():        # leave no parameter at a value that hides a mistake
        if "norm" in name or "sink" in name or "scale" in name:
            p.data += torch.randn_like(p) * 0.2
    with torch.no_grad():
        logits, other = model.logits(ids), ids.clone()
        other[0, 300] = (other[0, 300] + 1) % 512
        say("a later token leaves earlier logits alone", worst(logits[0, :300], model.logits(other)[0, :300]), 1e-5)
        for n in (100, 256, 301):
            say(f"the first {n} tokens alone", worst(logits[0, :n], model.logits(ids[:, :n])[0]), 1e-4)
        for layer in model.layers[1:]:
            check_attention(layer.attn, torch.randn(1, 700, c.dim))
        for layer in model.layers[:2]:
            check_experts(layer.ffn, torch.randn(1, 9, c.dim), ids[:, :9])
        arrays = {name: tensor.numpy().copy() for name, tensor in m.named_tensors(model).items()}
        copy = m.Model(c).eval()
        m.load_tensors(copy, arrays)
        say("a model out of its named tensors", worst(copy.logits(ids), logits), 0.0)
    check_hyper(model.layers[0].hc_attn, torch.randn(1, 5, 4, c.dim))


def check_fused():
    """Loss and all gradients with the functions of kernels.c, and without."""
    if not fused.library:
        print("skipped: no C compiler, so no fused functions")
        return
    torch.manual_seed(2)
    c = m.Config(vocab=512, dim=96, heads=2, head_dim=64, rope_dim=32, q_rank=64, o_rank=48, inter=96, index_heads=2,
                 index_dim=64, index_top_k=32, positions=1024)
    model, library = m.Model(c).train(), fused.library
    for length, rounded in ((700, False), (90, False), (300, True)):
        ids, c.rounded_state, found = torch.randint(0, 512, (2, length)), rounded, []
        for fused.library in (library, None):
            model.zero_grad()
            loss, _ = model(ids[:, :-1], ids[:, 1:], torch.ones(2, length - 1))
            loss.backward()
            found.append([loss.detach()] + [p.grad.clone() for p in model.parameters() if p.grad is not None])
        fused.library = library
        worst_part = max((a - b).norm().item() / (b.norm().item() + 1e-6) for a, b in zip(*found))
        state = ", state rounded" if rounded else ""
        say(f"fused functions and their gradients, {length} tokens{state}", worst_part, 2e-2 if rounded else 1e-3)


def check_tokenizer():
    tokenizer, wrong = Tokenizer.load(), 0
    tasks.seed(1)
    texts = [task["prompt"] + task["completion"] for task in (tasks.sample() for _ in range(30))]
    for text in texts + ["", " ", "\n\n  x", "caffè 12345 日本語 \U0001F600", "a\tb\r\n  c   "]:
        wrong += tokenizer.decode(tokenizer.encode(text)) != text
    say("texts that the tokenizer changes", wrong, 0)
    say("tokens named twice", len(tokenizer.tokens) - len(tokenizer.ids), 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    check_model()
    check_fused()
    check_quant()
    check_tokenizer()
    sys.exit(1 if failed else 0)
