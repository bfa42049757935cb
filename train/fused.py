"""The parts of the model that are no matrix products, each as one function of kernels.c with its gradient.

PyTorch would run each as a dozen passes over memory. Compiled once for this machine into a folder for temporary files;
without a C compiler `ready` is False and model.py computes the same from PyTorch's own operations.
"""

import ctypes
import hashlib
import os
import pathlib
import subprocess
import tempfile

import torch

SOURCE = pathlib.Path(__file__).resolve().parent / "kernels.c"


def build():
    """The compiled functions, or None."""
    name = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    path = pathlib.Path(tempfile.gettempdir()) / f"ds4-train-{os.getuid()}-{name}.so"
    if not path.exists():
        part = path.with_suffix(f".{os.getpid()}")
        command = ["cc", "-O3", "-march=native", "-ffast-math", "-shared", "-fPIC", str(SOURCE), "-lm", "-o", str(part)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        os.replace(part, path)
    return ctypes.CDLL(str(path))


library = None if os.environ.get("DS4_TRAIN_PLAIN") else build()


def ready(x):
    return library is not None and x.dtype == torch.float32


def run(name, *arguments):
    """Calls a function: tensors as their addresses, whole numbers as long, others as float."""
    kept, out = [], []
    for argument in arguments:
        if argument is None or isinstance(argument, torch.Tensor):
            if argument is not None and not argument.is_contiguous():
                raise ValueError("rows must be contiguous")
            kept.append(argument)
            out.append(ctypes.c_void_p(0 if argument is None else argument.data_ptr()))
        else:
            out.append(ctypes.c_long(argument) if isinstance(argument, int) else ctypes.c_float(argument))
    getattr(library, name)(*out)


class HyperRead(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, fn, scale, base, rounds, eps):
        x = x.contiguous()
        batch, n_tokens, streams, dim = x.shape
        n = batch * n_tokens
        m = x.view(n, -1) @ fn.t()
        y, post, comb = (x.new_empty(batch, n_tokens, *shape) for shape in ((dim,), (streams,), (streams, streams)))
        r, pre = x.new_empty(n), x.new_empty(n, streams)
        run("hyper_read", n, dim, rounds, eps, x, m, scale, base, y, post, comb, r, pre)
        ctx.save_for_backward(x, fn, scale, base, m, post, r, pre)
        ctx.rounds, ctx.eps = rounds, eps
        return y, post, comb

    @staticmethod
    def backward(ctx, gy, gpost, gcomb):
        x, fn, scale, base, m, post, r, pre = ctx.saved_tensors
        n, dim = m.size(0), x.size(-1)
        gx, gm, gscale, gbase = (torch.empty_like(part) for part in (x, m, scale, base))
        run("hyper_read_back", n, dim, ctx.rounds, ctx.eps, x, m, scale, base, post, r, pre, gy.contiguous(),
            gpost.contiguous(), gcomb.contiguous(), gx, gm, gscale, gbase)
        gx.view(n, -1).addmm_(gm, fn)
        return gx, gm.t() @ x.view(n, -1), gscale, gbase, None, None


class HyperWrite(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y, streams, post, comb):
        y, out = y.contiguous(), torch.empty_like(streams)
        run("hyper_write", y.numel() // y.size(-1), y.size(-1), y, streams, post, comb, out)
        ctx.save_for_backward(y, streams, post, comb)
        return out

    @staticmethod
    def backward(ctx, go):
        saved = ctx.saved_tensors
        y = saved[0]
        grads = [torch.empty_like(part) for part in saved]
        run("hyper_write_back", y.numel() // y.size(-1), y.size(-1), *saved, go.contiguous(), *grads)
        return tuple(grads)


class Norm(torch.autograd.Function):
    """x / rms(x) * weight, or without a weight."""

    @staticmethod
    def forward(ctx, x, weight, eps):
        x = x.contiguous()
        y, r = torch.empty_like(x), x.new_empty(x.shape[:-1])
        run("rms_norm", r.numel(), x.size(-1), eps, x, weight, y, r)
        ctx.save_for_backward(x, weight, r)
        return y

    @staticmethod
    def backward(ctx, gy):
        x, weight, r = ctx.saved_tensors
        gx, gweight = torch.empty_like(x), None if weight is None else torch.empty_like(weight)
        run("rms_norm_back", r.numel(), x.size(-1), x, weight, r, gy.contiguous(), gx, gweight)
        return gx, gweight, None


class Turn(torch.autograd.Function):
    """Rotary positions: model.rotate, and a factor."""

    @staticmethod
    def forward(ctx, x, cos, sin, inverse, factor):
        ctx.cos, ctx.sin, ctx.sign, ctx.factor = cos.contiguous(), sin.contiguous(), -1.0 if inverse else 1.0, factor
        return Turn.turned(ctx, x, ctx.sign)

    @staticmethod
    def turned(ctx, x, sign):
        x, heads = x.contiguous(), x.size(2) if x.dim() == 4 else 1
        y = torch.empty_like(x)
        run("turn", x.size(0), x.size(1), heads, x.size(-1), ctx.cos.size(-1), x, ctx.cos, ctx.sin, sign,
            float(ctx.factor), y)
        return y

    @staticmethod
    def backward(ctx, gy):
        return Turn.turned(ctx, gy, -ctx.sign), None, None, None, None


class Attend(torch.autograd.Function):
    """q [B, blocks, width, H, D] on near [B, blocks, keys, D] and far [B, J, D] (or None), where keep allows.
    -> out like q, and the weights on far [B, blocks, H, width, J], without gradient"""

    @staticmethod
    def forward(ctx, q, near, far, keep, sink):
        batch, blocks, width, heads, d = q.shape
        q = q.transpose(2, 3).reshape(batch * blocks, heads * width, d)
        near = near.reshape(batch * blocks, -1, d)
        w_near, w_far, n_far = torch.bmm(q, near.transpose(1, 2)), None, 0
        if far is not None:
            far, n_far = far.contiguous(), far.size(1)
            w_far = torch.bmm(q.view(batch, -1, d), far.transpose(1, 2))
            keep = keep.contiguous()
        run("attend", batch, blocks, heads, width, near.size(1), n_far, keep, sink, w_near, w_far)
        out = torch.bmm(w_near, near)
        if far is not None:
            out.view(batch, -1, d).baddbmm_(w_far, far)
        ctx.save_for_backward(q, near, far, w_near, w_far)
        ctx.shape = batch, blocks, width, heads, d
        shown = q.new_empty(0) if w_far is None else w_far.view(batch, blocks, heads, width, n_far)
        ctx.mark_non_differentiable(shown)
        return out.view(batch, blocks, heads, width, d).transpose(2, 3), shown

    @staticmethod
    def backward(ctx, go, _):
        q, near, far, w_near, w_far = ctx.saved_tensors
        batch, blocks, width, heads, d = ctx.shape
        go = go.transpose(2, 3).reshape(q.shape)
        g_near, g_far, n_far = torch.bmm(go, near.transpose(1, 2)), None, 0
        if far is not None:
            g_far, n_far = torch.bmm(go.view(batch, -1, d), far.transpose(1, 2)), far.size(1)
        gsink = q.new_empty(heads)
        v_near = torch.bmm(w_near.transpose(1, 2), go)
        v_far = None if far is None else torch.bmm(w_far.transpose(1, 2), go.view(batch, -1, d))
        run("attend_back", batch, blocks, heads, width, near.size(1), n_far, w_near, w_far, g_near, g_far, gsink)
        gq, v_near = torch.bmm(g_near, near), v_near.baddbmm_(g_near.transpose(1, 2), q)
        if far is not None:
            gq.view(batch, -1, d).baddbmm_(g_far, far)
            v_far.baddbmm_(g_far.transpose(1, 2), q.view(batch, -1, d))
        gq = gq.view(batch, blocks, heads, width, d).transpose(2, 3)
        return gq, v_near.view(batch, blocks, -1, d), v_far, None, gsink


class IndexScores(torch.autograd.Function):
    """query [B, T, H, D], rows [B, J, D], weight [B, T, H] -> sum over heads of relu(query . row) * weight [B, T, J]"""

    @staticmethod
    def forward(ctx, query, rows, weight):
        batch, n, heads, d = query.shape
        query, weight = query.reshape(batch, n * heads, d), weight.contiguous()
        dots = torch.bmm(query, rows.transpose(1, 2))
        scores = rows.new_empty(batch, n, rows.size(1))
        run("index_scores", batch * n, heads, rows.size(1), dots, weight, scores)
        ctx.save_for_backward(query, rows, weight, dots)
        return scores

    @staticmethod
    def backward(ctx, gscores):
        query, rows, weight, dots = ctx.saved_tensors
        gweight = torch.empty_like(weight)
        run("index_scores_back", weight.numel() // weight.size(-1), weight.size(-1), rows.size(1), dots, weight,
            gscores.contiguous(), gweight)
        gquery = torch.bmm(dots, rows).view(*weight.shape, -1)
        return gquery, torch.bmm(dots.transpose(1, 2), query), gweight


class Compress(torch.autograd.Function):
    """kv, gate [B, T, parts * d], ape [ratio, parts * d] -> [B, T // ratio, d]"""

    @staticmethod
    def forward(ctx, kv, gate, ape, overlap):
        kv, gate = kv.contiguous(), gate.contiguous()
        (batch, tokens, wide), ratio, parts = kv.shape, ape.size(0), 2 if overlap else 1
        ctx.sizes = sizes = batch, tokens // ratio, tokens, ratio, wide // parts, parts
        rows, p = kv.new_empty(batch, sizes[1], sizes[4]), kv.new_empty(batch, sizes[1], parts * ratio, sizes[4])
        run("compress", *sizes, kv, gate, ape, rows, p)
        ctx.save_for_backward(kv, ape, rows, p)
        return rows

    @staticmethod
    def backward(ctx, grows):
        kv, ape, rows, p = ctx.saved_tensors
        gkv, ggate, gape = torch.zeros_like(kv), torch.zeros_like(kv), torch.zeros_like(ape)
        run("compress_back", *ctx.sizes, kv, p, rows, grows.contiguous(), gkv, ggate, gape)
        return gkv, ggate, gape, None


class Gated(torch.autograd.Function):
    """silu of the clamped gate times the clamped up."""

    @staticmethod
    def forward(ctx, gate, up, limit):
        h, ctx.limit = torch.empty_like(gate), limit
        run("gated", gate.numel() // gate.size(-1), gate.size(-1), limit, gate, up, None, h)
        ctx.save_for_backward(gate, up)
        return h

    @staticmethod
    def backward(ctx, gh):
        gate, up = ctx.saved_tensors
        ggate, gup = torch.empty_like(gate), torch.empty_like(up)
        run("gated_back", gate.numel() // gate.size(-1), gate.size(-1), ctx.limit, gate, up, None, gh.contiguous(),
            ggate, gup, None)
        return ggate, gup, None


class Routed(torch.autograd.Function):
    """x [N, dim]; token and weight of each visit, sorted by expert; counts of visits -> their sum for each token"""

    @staticmethod
    def forward(ctx, x, token, weight, w1, w3, w2, counts, limit):
        rows, n, inner = x[token], token.numel(), w1.size(1)
        gate, up, h, out = (x.new_empty(n, size) for size in (inner, inner, inner, x.size(1)))
        for e, at in Routed.visits(counts):
            torch.mm(rows[at], w1[e].t(), out=gate[at])
            torch.mm(rows[at], w3[e].t(), out=up[at])
        run("gated", n, inner, limit, gate, up, weight.contiguous(), h)
        for e, at in Routed.visits(counts):
            torch.mm(h[at], w2[e].t(), out=out[at])
        ctx.save_for_backward(rows, token, weight, w1, w3, w2, gate, up, h)
        ctx.counts, ctx.limit, ctx.n = counts, limit, x.size(0)
        return torch.zeros_like(x).index_add_(0, token, out)

    @staticmethod
    def visits(counts):
        at = 0
        for e, n in enumerate(counts):
            if n:
                yield e, slice(at, at + n)
            at += n

    @staticmethod
    def backward(ctx, go):
        rows, token, weight, w1, w3, w2, gate, up, h = ctx.saved_tensors
        go, gh, ggate, gup = go[token], torch.empty_like(h), torch.empty_like(h), torch.empty_like(h)
        grows, gweight = torch.empty_like(rows), torch.empty_like(weight)
        g1, g3, g2 = (torch.zeros_like(w) if 0 in ctx.counts else torch.empty_like(w) for w in (w1, w3, w2))
        for e, at in Routed.visits(ctx.counts):
            torch.mm(go[at], w2[e], out=gh[at])
            torch.mm(go[at].t(), h[at], out=g2[e])
        run("gated_back", h.size(0), h.size(1), ctx.limit, gate, up, weight.contiguous(), gh, ggate, gup, gweight)
        for e, at in Routed.visits(ctx.counts):
            torch.mm(ggate[at], w1[e], out=grows[at]).addmm_(gup[at], w3[e])
            torch.mm(ggate[at].t(), rows[at], out=g1[e])
            torch.mm(gup[at].t(), rows[at], out=g3[e])
        gx = rows.new_zeros(ctx.n, rows.size(1)).index_add_(0, token, grows)
        return gx, None, gweight, g1, g3, g2, None, None
