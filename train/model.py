"""The architecture of DeepSeek V4 Flash in PyTorch (1.13 and later), small enough to be trained on a CPU.

Tokens in, logits out, over whole sequences: nothing is cached here, every mask is written out. The pieces, in the order
in which a token meets them: four residual streams mixed by hyper-connections (Sinkhorn-normalised); attention with one
latent row as key and value for all heads, over a window of 128 tokens and over compressed rows (ratio 4, overlapping,
chosen by an indexer; ratio 128, all of them), with a sink for each head, rotary positions on the last values of a head,
undone on the output, and a grouped low-rank output projection; experts chosen by a hash of the token or by a learned
router, and one shared expert; one extra block that drafts the token after the next.

Source: DeepSeek's V4 technical report and the published configurations; the engine's own src/graph computes the same.
Trained numbers only move through `named_tensors`, under the names of DeepSeek's checkpoints.
"""

import dataclasses
import math

import fused
import torch
import torch.nn.functional as F
from torch import nn

MASKED = -1e9


@dataclasses.dataclass
class Config:
    """Field names are those of checkpoint.py's config.json in short form."""
    vocab: int = 2560
    dim: int = 256
    ratios: tuple = (0, 4, 128)     # one entry a layer: 0 window only, 4 compressed and indexed, 128 compressed
    n_hash: int = 1                 # the first layers choose experts by a hash of the token
    heads: int = 4
    head_dim: int = 128
    rope_dim: int = 64
    q_rank: int = 128
    o_groups: int = 2
    o_rank: int = 64
    window: int = 128
    experts: int = 8
    active: int = 2
    inter: int = 256
    route_scale: float = 1.5
    limit: float = 10.0             # clamp inside an expert
    streams: int = 4
    sinkhorn_rounds: int = 20
    index_heads: int = 8
    index_dim: int = 128
    index_top_k: int = 64
    eps: float = 1e-6
    theta: float = 10000.0
    theta_compressed: float = 160000.0
    yarn_factor: float = 16.0
    yarn_original: int = 65536
    drafts: int = 1
    positions: int = 8192           # rows of the rotary tables
    sparse: bool = True             # False: every compressed row is attended and the indexer only learns
    rounded_state: bool = False     # the cache as the engine stores it: FP8 rows, FP4 index rows


# ---- small pieces -------------------------------------------------------------------------------------------------

def linear(n_in, n_out, std=None):
    layer = nn.Linear(n_in, n_out, bias=False)
    nn.init.normal_(layer.weight, std=std or min(0.02 * math.sqrt(1024 / n_in), 0.08))
    return layer


def normal(*shape, std):
    return nn.Parameter(torch.randn(*shape) * std)


class RMSNorm(nn.Module):
    def __init__(self, dim, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(dim)), eps

    def forward(self, x):
        return normed(x, self.weight, self.eps)


def normed(x, weight, eps):
    if fused.ready(x):
        return fused.Norm.apply(x, weight, eps)
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    return y if weight is None else y * weight


def rope_tables(c, compressed):
    """cos and sin [positions, rope_dim/2]; layers with compression use another base and YaRN."""
    dtype = torch.get_default_dtype()
    base = c.theta_compressed if compressed else c.theta
    freq = 1.0 / base ** (torch.arange(0, c.rope_dim, 2).to(dtype) / c.rope_dim)
    if compressed:
        def dimension(rotations):       # the pair that turns so often over the original context
            return c.rope_dim * math.log(c.yarn_original / (rotations * 2 * math.pi)) / (2 * math.log(base))
        low, high = max(math.floor(dimension(32)), 0), min(math.ceil(dimension(1)), c.rope_dim - 1)
        keep = 1 - ((torch.arange(c.rope_dim // 2).to(dtype) - low) / max(high - low, 0.001)).clamp(0, 1)
        freq = freq / c.yarn_factor * (1 - keep) + freq * keep
    angle = torch.outer(torch.arange(c.positions).to(dtype), freq)
    return angle.cos(), angle.sin()


def rotate(x, cos, sin, inverse=False, factor=1.0):
    """Turns neighbouring pairs of the last values. x [B, T, (H,) D], cos and sin [T, rope_dim/2]."""
    if fused.ready(x):
        return fused.Turn.apply(x, cos, sin, inverse, factor)
    if x.dim() == 4:
        cos, sin = cos[:, None], sin[:, None]
    if inverse:
        sin = -sin
    n = 2 * cos.size(-1)
    still, even, odd = x[..., :-n], x[..., -n::2], x[..., -n + 1::2]
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
    return torch.cat([still, turned], -1) * factor


_hadamard = {}


def hadamard(x):
    """The orthonormal Walsh-Hadamard transform of the last dimension (a power of two)."""
    n = x.size(-1)
    if (n, x.dtype) not in _hadamard:
        h = torch.ones(1, 1)
        while h.size(0) < n:
            h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)], 0)
        _hadamard[n, x.dtype] = (h / math.sqrt(n)).to(x)
    return x @ _hadamard[n, x.dtype]


def round_fp8(x, block=64):
    """E4M3 with a power-of-two scale for 64 values; the gradient passes straight through."""
    y = x.reshape(*x.shape[:-1], -1, min(block, x.size(-1)))
    scale = torch.exp2(torch.ceil(torch.log2(y.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448)))
    z = y / scale
    step = torch.exp2(torch.floor(torch.log2(z.abs().clamp(min=2 ** -6))) - 3)
    rounded = (torch.round(z / step) * step).clamp(-448, 448) * scale
    return x + (rounded.reshape(x.shape) - x).detach()


def round_fp4(x, block=32):
    """E2M1 with a power-of-two scale for 32 values, straight through: how index queries and rows are stored."""
    y = x.reshape(*x.shape[:-1], -1, block)
    scale = torch.exp2(torch.ceil(torch.log2(y.abs().amax(-1, keepdim=True).clamp(min=1e-6) / 6)))
    z = (y / scale).abs().clamp(max=6)
    step = 0.5 + 0.5 * (z >= 2) + 1.0 * (z >= 4)
    rounded = torch.round(z / step) * step * y.sign() * scale
    return x + (rounded.reshape(x.shape) - x).detach()


# ---- attention ----------------------------------------------------------------------------------------------------

class Compressor(nn.Module):
    """One row for every `ratio` tokens: a softmax-gated sum. At ratio 4 a row also sees the four tokens before."""

    def __init__(self, c, ratio, width, transformed=False):
        super().__init__()
        self.ratio, self.width, self.transformed, self.overlap = ratio, width, transformed, ratio == 4
        parts = 2 if self.overlap else 1
        self.wkv, self.wgate = linear(c.dim, parts * width), linear(c.dim, parts * width)
        self.ape = normal(ratio, parts * width, std=0.02)
        self.norm = RMSNorm(width, c.eps)

    def forward(self, x, cos, sin):
        """x [B, T, dim] -> [B, T // ratio, width]"""
        batch, n = x.size(0), x.size(1) // self.ratio
        if fused.ready(x):
            rows = fused.Compress.apply(self.wkv(x), self.wgate(x), self.ape, self.overlap)
        else:
            rows = self.summed(x[:, :n * self.ratio], batch, n)
        rows = rotate(self.norm(rows), cos[:n * self.ratio:self.ratio], sin[:n * self.ratio:self.ratio])
        return hadamard(rows) if self.transformed else rows

    def summed(self, x, batch, n):
        kv = self.wkv(x).unflatten(1, (n, self.ratio))
        gate = self.wgate(x).unflatten(1, (n, self.ratio)) + self.ape
        if self.overlap:        # the first half of the channels looks at the block before, the second at its own
            zero, d = kv.new_zeros(batch, 1, self.ratio, self.width), self.width
            kv = torch.cat([torch.cat([zero, kv[:, :-1, :, :d]], 1), kv[..., d:]], 2)
            gate = torch.cat([torch.cat([zero + MASKED, gate[:, :-1, :, :d]], 1), gate[..., d:]], 2)
        return (kv * gate.softmax(2)).sum(2)


class Indexer(nn.Module):
    """Scores every compressed row for every token. It learns from its own loss alone: its inputs are detached."""

    def __init__(self, c):
        super().__init__()
        self.c = c
        self.wq_b = linear(c.q_rank, c.index_heads * c.index_dim)
        self.weights_proj = linear(c.dim, c.index_heads)
        self.compressor = Compressor(c, 4, c.index_dim, True)

    def forward(self, x, query, cos, sin):
        """-> [B, T, rows]"""
        c, x, query = self.c, x.detach(), query.detach()
        query = hadamard(rotate(self.wq_b(query).unflatten(-1, (c.index_heads, c.index_dim)), cos, sin))
        rows = self.compressor(x, cos, sin)
        if c.rounded_state:
            query, rows = round_fp4(query), round_fp4(rows)
        weight = self.weights_proj(x) * (c.index_dim ** -0.5 * c.index_heads ** -0.5)
        if fused.ready(x):
            return fused.IndexScores.apply(query, rows, weight)
        return (torch.einsum("bthd,bjd->bthj", query, rows).relu() * weight[..., None]).sum(2)


class Attention(nn.Module):
    def __init__(self, c, ratio):
        super().__init__()
        self.c, self.ratio = c, ratio
        self.wq_a, self.q_norm = linear(c.dim, c.q_rank), RMSNorm(c.q_rank, c.eps)
        self.wq_b = linear(c.q_rank, c.heads * c.head_dim)
        self.wkv, self.kv_norm = linear(c.dim, c.head_dim), RMSNorm(c.head_dim, c.eps)
        self.attn_sink = nn.Parameter(torch.zeros(c.heads))
        self.wo_a = normal(c.o_groups, c.o_rank, c.heads * c.head_dim // c.o_groups, std=0.03)
        self.wo_b = linear(c.o_groups * c.o_rank, c.dim, std=0.02)
        self.compressor = Compressor(c, ratio, c.head_dim) if ratio else None
        self.indexer = Indexer(c) if ratio == 4 else None
        for name, table in zip(("cos", "sin"), rope_tables(c, bool(ratio))):
            self.register_buffer(name, table, persistent=False)
        self.index_loss = None

    def stored(self, rows):
        if not self.c.rounded_state:
            return rows
        n = self.c.rope_dim
        return torch.cat([round_fp8(rows[..., :-n]), rows[..., -n:]], -1)

    def forward(self, x):
        c, (batch, n_tokens, _) = self.c, x.shape
        cos, sin = self.cos[:n_tokens], self.sin[:n_tokens]
        low = self.q_norm(self.wq_a(x))
        q = self.wq_b(low).unflatten(-1, (c.heads, c.head_dim))
        q = rotate(normed(q, None, c.eps), cos, sin, factor=c.head_dim ** -0.5)
        kv = self.stored(rotate(self.kv_norm(self.wkv(x)), cos, sin))
        width = min(c.window, n_tokens)     # queries in blocks of a window see their own block and the one before
        n_blocks = -(-n_tokens // width)
        padding = n_blocks * width - n_tokens
        q = F.pad(q, (0, 0, 0, 0, 0, padding)).unflatten(1, (n_blocks, width))
        near, near_mask = self.window_rows(kv, n_blocks, width, padding)
        far, scores, keep, attend = None, None, None, self.attended_by_kernel if fused.ready(x) else self.attended
        if self.ratio and n_tokens >= self.ratio:
            far = self.stored(self.compressor(x, cos, sin))
            scores, keep = self.selection(x, low, far.size(1), cos, sin, padding)
        out, far_weights = attend(q, near, near_mask, far, keep)
        if scores is not None:
            self.index_loss = self.divergence(far_weights, scores, keep)
        out = rotate(out.flatten(1, 2)[:, :n_tokens], cos, sin, inverse=True)
        out = torch.einsum("btgd,grd->btgr", out.reshape(batch, n_tokens, c.o_groups, -1), self.wo_a)
        return self.wo_b(out.flatten(2))

    def attended_by_kernel(self, q, near, near_mask, far, keep):
        return fused.Attend.apply(q, near, far, keep, self.attn_sink)

    def attended(self, q, near, near_mask, far, keep):
        """-> what each query gathers, and its weights on the far rows"""
        logits = [torch.einsum("bnqhd,bnkd->bnhqk", q, near).masked_fill(~near_mask, MASKED)]
        if far is not None:
            mask = keep.unflatten(1, q.shape[1:3])[:, :, None]
            logits.append(torch.einsum("bnqhd,bjd->bnhqj", q, far).masked_fill(~mask, MASKED))
        sink = self.attn_sink.view(1, 1, -1, 1, 1).expand(*q.shape[:2], -1, q.size(2), 1)
        weights = torch.cat(logits + [sink], -1).softmax(-1)
        n_near = near.size(2)
        out = torch.einsum("bnhqk,bnkd->bnqhd", weights[..., :n_near], near)
        if far is not None:
            out = out + torch.einsum("bnhqj,bjd->bnqhd", weights[..., n_near:-1], far)
        return out, weights[..., n_near:-1]

    @staticmethod
    def window_rows(kv, n_blocks, width, padding):
        """Rows [B, blocks, keys, D] that each block of queries may see, and the mask [blocks, 1, queries, keys]."""
        own = F.pad(kv, (0, 0, 0, padding)).unflatten(1, (n_blocks, width))
        rows = own if n_blocks == 1 else torch.cat([F.pad(own, (0, 0, 0, 0, 1, 0))[:, :-1], own], 2)
        query, key = torch.arange(width)[:, None], torch.arange(rows.size(2))[None] - (rows.size(2) - width)
        mask = ((key <= query) & (key > query - width))[None].repeat(n_blocks, 1, 1)
        mask[0] &= key >= 0
        return rows, mask[:, None]

    def selection(self, x, low, n_rows, cos, sin, padding):
        """Scores of the indexer (or None) and which compressed rows each query attends, [B, queries, rows].
        A row is visible when its last token is not after the query. Exactly k; of equal scores the earlier row."""
        n_queries = x.size(1) + padding
        visible = torch.arange(n_rows)[None] < (torch.arange(n_queries)[:, None] + 1) // self.ratio
        keep = visible[None].expand(x.size(0), -1, -1)
        if self.indexer is None:
            return None, keep
        scores = F.pad(self.indexer(x, low, cos, sin), (0, 0, 0, padding)).masked_fill(~visible, MASKED)
        if self.c.sparse and n_rows > self.c.index_top_k:
            order = torch.sort(scores.detach(), dim=-1, descending=True, stable=True)[1]
            chosen = torch.zeros_like(keep).scatter(-1, order[..., :self.c.index_top_k], True)
            keep = keep & chosen
        return scores, keep

    @staticmethod
    def divergence(weights, scores, keep):
        """KL(attention over the kept rows, summed over heads || softmax of the scores), mean over queries."""
        target = weights.detach().sum(2).flatten(1, 2)
        mass = target.sum(-1, keepdim=True)
        target = target / (mass + 1e-9)
        log_p = scores.masked_fill(~keep, MASKED).log_softmax(-1)
        counts = (mass[..., 0] > 1e-3) & (keep.sum(-1) > 1)
        kl = (target * ((target + 1e-9).log() - log_p)).masked_fill(~keep, 0).sum(-1)
        return (kl * counts).sum() / counts.sum().clamp(min=1)


# ---- experts ------------------------------------------------------------------------------------------------------

class Experts(nn.Module):
    """w1 gate, w3 up, w2 down; `two_bit` (quant2.TwoBit) replaces the routed weights by what the file will hold."""

    def __init__(self, c, hashed):
        super().__init__()
        self.c, self.hashed = c, hashed
        self.gate = normal(c.experts, c.dim, std=0.02)
        self.w1, self.w3 = (normal(c.experts, c.inter, c.dim, std=0.04) for _ in range(2))
        self.w2 = normal(c.experts, c.dim, c.inter, std=0.02)
        self.s1, self.s3, self.s2 = linear(c.dim, c.inter), linear(c.dim, c.inter), linear(c.inter, c.dim)
        if hashed:
            table = torch.rand(c.vocab, c.experts, generator=torch.Generator().manual_seed(1234))
            self.register_buffer("tid2eid", table.argsort(1)[:, :c.active].contiguous())
        else:
            self.register_buffer("bias", torch.zeros(c.experts))    # for the choice alone, never for the weights
        self.register_buffer("load", torch.zeros(c.experts), persistent=False)
        self.balance_loss = self.two_bit = None

    def inner(self, gate, up):
        if fused.ready(gate):
            return fused.Gated.apply(gate, up, self.c.limit)
        return F.silu(gate.clamp(max=self.c.limit)) * up.clamp(-self.c.limit, self.c.limit)

    def forward(self, x, ids):
        c, shape = self.c, x.shape
        x = x.reshape(-1, shape[-1])
        scores = F.softplus(x @ self.gate.t()).sqrt()
        chosen = self.tid2eid[ids.reshape(-1)] if self.hashed else (scores.detach() + self.bias).topk(c.active, -1)[1]
        weight = scores.gather(1, chosen)
        weight = weight / weight.sum(-1, keepdim=True) * c.route_scale
        counts = torch.bincount(chosen.flatten(), minlength=c.experts)
        if self.training and not self.hashed:
            self.load += counts
            share = (scores / scores.sum(-1, keepdim=True)).mean(0)
            self.balance_loss = (share * counts / chosen.numel()).sum() * c.experts
        out = self.routed(x, chosen.flatten(), weight.flatten(), counts.tolist())
        return (out + self.s2(self.inner(self.s1(x), self.s3(x)))).view(shape)

    def routed(self, x, chosen, weight, counts):
        w1, w3, w2 = self.two_bit() if self.two_bit else (self.w1, self.w3, self.w2)
        order = chosen.argsort(stable=True)
        token, weight, outs, at = order // self.c.active, weight[order], [], 0
        if fused.ready(x):
            return fused.Routed.apply(x, token, weight, w1, w3, w2, counts, self.c.limit)
        for e, n in enumerate(counts):
            if n:
                rows = x[token[at:at + n]]
                hidden = self.inner(F.linear(rows, w1[e]), F.linear(rows, w3[e])) * weight[at:at + n, None]
                outs.append(F.linear(hidden, w2[e]))
                at += n
        return torch.zeros_like(x).index_add(0, token, torch.cat(outs))


# ---- hyper-connections --------------------------------------------------------------------------------------------

class Sinkhorn(torch.autograd.Function):
    """Rounds of column and row normalising of [from, to, N]. Keeps its divisors and walks back through them, which is
    many times cheaper than a graph of forty divisions."""

    @staticmethod
    def forward(ctx, x, rounds, eps):
        divisors = []
        for axis in [0] + [1, 0] * (rounds - 1):
            d = x.sum(axis, keepdim=True) + eps
            x = x / d
            divisors.append(d)
        ctx.save_for_backward(x, *divisors)
        return x

    @staticmethod
    def backward(ctx, grad):
        y, *divisors = ctx.saved_tensors
        axis = 0
        for d in reversed(divisors):
            grad = (grad - (grad * y).sum(axis, keepdim=True)) / d
            y = y * d
            axis = 1 - axis
        return grad, None, None


class HyperConnection(nn.Module):
    """How one sublayer reads the streams (pre), writes them (post) and mixes them (comb, doubly stochastic)."""

    def __init__(self, c):
        super().__init__()
        self.c, n = c, c.streams
        self.fn = normal((2 + n) * n, n * c.dim, std=0.01)
        self.scale = nn.Parameter(torch.full((3,), 0.3))
        identity = (torch.eye(n) * 4).flatten()     # streams begin almost unmixed, a little apart
        self.base = nn.Parameter(torch.cat([torch.randn(n) * 0.3 - 0.7, torch.randn(n) * 0.3, identity]))

    def forward(self, x):
        """x [B, T, streams, dim] -> input of the sublayer [B, T, dim], post [B, T, streams], comb [B, T, from, to]"""
        c, n = self.c, self.c.streams
        if fused.ready(x) and n == 4:
            return fused.HyperRead.apply(x, self.fn, self.scale, self.base, c.sinkhorn_rounds, c.eps)
        flat = x.flatten(2)
        mix = F.linear(flat, self.fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + c.eps)
        pre = torch.sigmoid(mix[..., :n] * self.scale[0] + self.base[:n]) + c.eps
        post = 2 * torch.sigmoid(mix[..., n:2 * n] * self.scale[1] + self.base[n:2 * n])
        comb = (mix[..., 2 * n:] * self.scale[2] + self.base[2 * n:]).flatten(0, 1).t().unflatten(0, (n, n))
        comb = Sinkhorn.apply(comb.softmax(1) + c.eps, c.sinkhorn_rounds, c.eps)    # [from, to, B * T]
        comb = comb.permute(2, 0, 1).reshape(*x.shape[:2], n, n)
        return (pre[..., None] * x).sum(2), post, comb

    @staticmethod
    def write(y, streams, post, comb):
        """stream j becomes post_j y + sum over i of comb_ij stream_i"""
        if fused.ready(y):
            return fused.HyperWrite.apply(y, streams, post, comb)
        out = post[..., None] * y[:, :, None]
        for mix, stream in zip(comb.unbind(2), streams.unbind(2)):
            out = torch.addcmul(out, mix[..., None], stream[:, :, None])
        return out


class Head(nn.Module):
    """The streams become one vector again, and are normalised."""

    def __init__(self, c):
        super().__init__()
        self.c, self.fn = c, normal(c.streams, c.streams * c.dim, std=0.01)
        self.scale, self.base = nn.Parameter(torch.full((1,), 0.3)), nn.Parameter(torch.zeros(c.streams))
        self.norm = RMSNorm(c.dim, c.eps)

    def forward(self, x):
        flat = x.flatten(2)
        mix = F.linear(flat, self.fn) * torch.rsqrt(flat.square().mean(-1, keepdim=True) + self.c.eps)
        weight = torch.sigmoid(mix * self.scale + self.base) + self.c.eps
        return self.norm((weight[..., None] * x).sum(2))


# ---- blocks and the model -----------------------------------------------------------------------------------------

class Block(nn.Module):
    def __init__(self, c, ratio, hashed):
        super().__init__()
        self.hc_attn, self.hc_ffn = HyperConnection(c), HyperConnection(c)
        self.attn_norm, self.ffn_norm = RMSNorm(c.dim, c.eps), RMSNorm(c.dim, c.eps)
        self.attn, self.ffn = Attention(c, ratio), Experts(c, hashed)

    def forward(self, x, ids):
        y, post, comb = self.hc_attn(x)
        x = HyperConnection.write(self.attn(self.attn_norm(y)), x, post, comb)
        y, post, comb = self.hc_ffn(x)
        return HyperConnection.write(self.ffn(self.ffn_norm(y), ids), x, post, comb)


class Draft(Block):
    """The state at t and the known token t+1 foretell token t+2."""

    def __init__(self, c):
        super().__init__(c, 0, False)
        self.e_proj, self.h_proj = linear(c.dim, c.dim), linear(c.dim, c.dim)
        self.enorm, self.hnorm, self.head = RMSNorm(c.dim, c.eps), RMSNorm(c.dim, c.eps), Head(c)

    def trunk(self, state, embedded, ids):
        x = self.e_proj(self.enorm(embedded))[:, :, None] + self.h_proj(self.hnorm(state))
        return super().forward(x, ids)

    def forward(self, state, embedded, ids):
        return self.head(self.trunk(state, embedded, ids))


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c, self.embed = c, nn.Embedding(c.vocab, c.dim)
        nn.init.normal_(self.embed.weight, std=0.05)
        self.layers = nn.ModuleList(Block(c, ratio, i < c.n_hash) for i, ratio in enumerate(c.ratios))
        self.head, self.out = Head(c), linear(c.dim, c.vocab)
        self.mtp = nn.ModuleList(Draft(c) for _ in range(c.drafts))

    def blocks(self):
        return list(self.layers) + list(self.mtp)

    def trunk(self, ids):
        """[B, T] -> the streams after the last layer [B, T, streams, dim]"""
        x = self.embed(ids)[:, :, None].repeat(1, 1, self.c.streams, 1)
        for layer in self.layers:
            x = layer(x, ids)
        return x

    def logits(self, ids):
        return self.out(self.head(self.trunk(ids)))

    def draft_logits(self, state, following):
        """state [B, T, ...] of the trunk, the tokens after each -> logits of the tokens after those"""
        return self.out(self.mtp[0](state, self.embed(following), following))

    def forward(self, ids, targets, weight, draft=True, draft_weight=0.5, balance_weight=1e-3):
        """targets[t] follows ids[t]; weight of each target. -> loss, and its parts by name
        Of targets of little weight a third is drawn, with three times the weight: logits are a fifth of the work."""
        kept = (weight >= 0.5) | ((weight > 0) & (torch.rand_like(weight) < 1 / 3))
        scaled = torch.where(weight >= 0.5, weight, 3 * weight)

        def cross_entropy(head, state, wanted, at, w):
            loss = F.cross_entropy(self.out(head(state[at][None]))[0], wanted[at], reduction="none")
            return (loss * w[at]).sum() / w[at].sum().clamp(min=1)

        state = self.trunk(ids)
        loss = cross_entropy(self.head, state, targets, kept, scaled)
        parts, used = {"lm": loss.detach()}, list(self.layers)
        if draft and self.mtp:
            block, following = self.mtp[0], targets[:, :-1]
            drafted = block.trunk(state[:, :-1], self.embed(following), following)
            part = cross_entropy(block.head, drafted, targets[:, 1:], kept[:, 1:], scaled[:, 1:])
            loss, parts["mtp"], used = loss + draft_weight * part, part.detach(), self.blocks()
        for name, terms, factor in (("kl", [b.attn.index_loss for b in used], 1.0),
                                    ("balance", [b.ffn.balance_loss for b in used], balance_weight)):
            terms = [term for term in terms if term is not None]
            if terms:
                part = sum(terms) / len(terms)
                loss, parts[name] = loss + factor * part, part.detach()
        for block in self.blocks():
            block.attn.index_loss = block.ffn.balance_loss = None
        return loss, parts


def named_tensors(model):
    """DeepSeek's tensor name -> the model's own tensor (a view of it)"""
    out = {"embed.weight": model.embed.weight, "head.weight": model.out.weight}

    def head(prefix, module):
        out.update({f"{prefix}hc_head_{part}": getattr(module, part) for part in ("fn", "base", "scale")})
        out[prefix + "norm.weight"] = module.norm.weight

    def compressor(prefix, module):
        for part in ("wkv", "wgate", "norm"):
            out[f"{prefix}{part}.weight"] = getattr(module, part).weight
        out[prefix + "ape"] = module.ape

    def block(prefix, module):
        for name in ("hc_attn", "hc_ffn"):
            out.update({f"{prefix}{name}_{part}": getattr(getattr(module, name), part)
                        for part in ("fn", "base", "scale")})
        out[prefix + "attn_norm.weight"], out[prefix + "ffn_norm.weight"] = (module.attn_norm.weight,
                                                                             module.ffn_norm.weight)
        attn, ffn, p = module.attn, module.ffn, prefix + "attn."
        for name in ("wq_a", "q_norm", "wq_b", "wkv", "kv_norm", "wo_b"):
            out[f"{p}{name}.weight"] = getattr(attn, name).weight
        out[p + "attn_sink"], out[p + "wo_a.weight"] = attn.attn_sink, attn.wo_a.flatten(0, 1)
        if attn.compressor:
            compressor(p + "compressor.", attn.compressor)
        if attn.indexer:
            for name in ("wq_b", "weights_proj"):
                out[f"{p}indexer.{name}.weight"] = getattr(attn.indexer, name).weight
            compressor(p + "indexer.compressor.", attn.indexer.compressor)
        p = prefix + "ffn."
        out[p + "gate.weight"] = ffn.gate
        out[p + ("gate.tid2eid" if ffn.hashed else "gate.bias")] = ffn.tid2eid if ffn.hashed else ffn.bias
        for name in ("w1", "w2", "w3"):
            out[f"{p}shared_experts.{name}.weight"] = getattr(ffn, name.replace("w", "s")).weight
            for e in range(model.c.experts):
                out[f"{p}experts.{e}.{name}.weight"] = getattr(ffn, name)[e]

    head("", model.head)
    for i, layer in enumerate(model.layers):
        block(f"layers.{i}.", layer)
    for i, draft in enumerate(model.mtp):
        block(f"mtp.{i}.", draft)
        head(f"mtp.{i}.", draft.head)
        for name in ("e_proj", "h_proj", "enorm", "hnorm"):
            out[f"mtp.{i}.{name}.weight"] = getattr(draft, name).weight
    return out


def load_tensors(model, arrays):
    """arrays: name -> NumPy array, for every tensor of the model and no other"""
    own = named_tensors(model)
    if set(own) != set(arrays):
        raise ValueError(f"names differ: {sorted(set(own) ^ set(arrays))[:5]}")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.detach().copy_(torch.from_numpy(arrays[name].copy()).view_as(tensor))
