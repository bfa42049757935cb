"""NumPy reference of the DeepSeek-V4-Flash forward pass , written for clarity and independence from the engine.

Two independent paths share only the small element-wise helpers:
  Model.full(tokens)   whole sequence at once, no state, masks written out in full
  Session.extend(toks) incremental: ring buffer, compressor state, appended rows
Numeric modes: qat=True emulates the FP8 rounding of KV rows and the
Hadamard+FP4 rounding of indexer rows; qat=False is the ideal arithmetic.
Run with python3 and numpy.
"""
import math
from dataclasses import dataclass, field
import numpy as np

MASK64 = (1 << 64) - 1
GOLD = 0x9E3779B97F4A7C15


# ----------------------------------------------------------------- config ---
@dataclass
class Config:
    name: str = "flash"
    vocab: int = 129280
    dim: int = 4096
    n_layers: int = 43
    n_heads: int = 64
    head_dim: int = 512
    rope_dim: int = 64
    q_lora: int = 1024
    o_groups: int = 8
    o_lora: int = 1024
    window: int = 128
    ratios: tuple = ()                 # n_layers entries of 0 / 4 / 128
    idx_heads: int = 64
    idx_dim: int = 128
    idx_topk: int = 512
    n_experts: int = 256
    n_active: int = 6
    moe_inter: int = 2048
    n_hash: int = 3
    route_scale: float = 1.5
    swiglu_limit: float = 10.0
    hc: int = 4
    hc_iters: int = 20
    hc_eps: float = 1e-6
    rms_eps: float = 1e-6
    theta: float = 10000.0
    theta_comp: float = 160000.0
    yarn_factor: float = 16.0
    yarn_orig: int = 65536
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    fp8_block: int = 64
    fp4_block: int = 32
    # DSpark drafter
    ds_block: int = 5
    ds_noise: int = 128799
    ds_layers: tuple = (40, 41, 42)
    ds_rank: int = 256
    ds_stages: int = 3

    def __post_init__(self):
        if not self.ratios:
            self.ratios = tuple(0 if i < 2 else (4 if i % 2 == 0 else 128)
                                for i in range(self.n_layers))
        assert len(self.ratios) == self.n_layers
        assert (self.head_dim - self.rope_dim) % self.fp8_block == 0


def tiny():
    return Config(name="ds4-tiny", vocab=512, dim=256, n_layers=8, n_heads=8,
                  head_dim=192, rope_dim=64, q_lora=64, o_groups=2, o_lora=64,
                  window=32, idx_heads=4, idx_dim=128, idx_topk=8,
                  n_experts=16, n_active=4, moe_inter=256, n_hash=3,
                  ds_noise=511, ds_layers=(5, 6, 7), ds_rank=32)


# ------------------------------------------------- portable random weights ---
def fnv1a(s):
    h = 0xCBF29CE484222325
    for b in s.encode():
        h = ((h ^ b) * 0x100000001B3) & MASK64
    return h


def splitmix_block(seed, n):
    """n outputs of splitmix64 whose state starts at seed (uint64 array)."""
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + (np.arange(1, n + 1, dtype=np.uint64)) * np.uint64(GOLD)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def uniform(name, shape, scale, offset=0.0):
    """offset + (scale/128)*q with q in [-127,127] from the splitmix64 stream seeded by
    FNV-1a(name): q = (z>>40) % 255 - 127, but every flat index divisible by 32 gets
    +127 or -127 (sign = top bit of z). With scale a power of two and offset 0 the
    tensor is exactly representable in F32, F16, BF16 and Q8_0."""
    n = int(np.prod(shape))
    z = splitmix_block(fnv1a(name), n)
    q = ((z >> np.uint64(40)) % np.uint64(255)).astype(np.int64) - 127
    q[::32] = np.where(z[::32] >> np.uint64(63), -127, 127)
    return (offset + q * (scale / 128.0)).astype(np.float32).reshape(shape)


def tid2eid(cfg, layer):
    z = splitmix_block(fnv1a(f"layers.{layer}.ffn.gate.tid2eid"), cfg.vocab * cfg.n_active)
    e = (z % np.uint64(cfg.n_experts)).astype(np.int64).reshape(cfg.vocab, cfg.n_active)
    for r in range(cfg.vocab):
        seen = set()
        for j in range(cfg.n_active):
            x = int(e[r, j])
            while x in seen:
                x = (x + 1) % cfg.n_experts
            seen.add(x)
            e[r, j] = x
    return e.astype(np.int32)


def block_shapes(c, prefix, ratio, hash_layer):
    """(name, shape, scale, offset) of one block; scales are powers of two."""
    D, H, hd = c.dim, c.n_heads, c.head_dim
    mix = (2 + c.hc) * c.hc
    out = []
    for site in ("attn", "ffn"):
        out += [(f"{prefix}.hc_{site}_fn", (mix, c.hc * D), 2 ** -5, 0.0),
                (f"{prefix}.hc_{site}_base", (mix,), 1.0, 0.0),
                (f"{prefix}.hc_{site}_scale", (3,), 0.25, 0.5)]
    out += [(f"{prefix}.attn_norm.weight", (D,), 0.25, 1.0),
            (f"{prefix}.ffn_norm.weight", (D,), 0.25, 1.0),
            (f"{prefix}.attn.wq_a.weight", (c.q_lora, D), 2 ** -4, 0.0),
            (f"{prefix}.attn.q_norm.weight", (c.q_lora,), 0.25, 1.0),
            (f"{prefix}.attn.wq_b.weight", (H * hd, c.q_lora), 2 ** -4, 0.0),
            (f"{prefix}.attn.wkv.weight", (hd, D), 2 ** -4, 0.0),
            (f"{prefix}.attn.kv_norm.weight", (hd,), 0.25, 1.0),
            (f"{prefix}.attn.attn_sink", (H,), 2.0, 0.0),
            (f"{prefix}.attn.wo_a.weight", (c.o_groups * c.o_lora, H * hd // c.o_groups), 2 ** -4, 0.0),
            (f"{prefix}.attn.wo_b.weight", (D, c.o_groups * c.o_lora), 2 ** -3, 0.0)]
    if ratio:
        k = 2 if ratio == 4 else 1
        sets = [(f"{prefix}.attn.compressor", hd)]
        if ratio == 4:
            sets.append((f"{prefix}.attn.indexer.compressor", c.idx_dim))
            out += [(f"{prefix}.attn.indexer.wq_b.weight", (c.idx_heads * c.idx_dim, c.q_lora), 2 ** -3, 0.0),
                    (f"{prefix}.attn.indexer.weights_proj.weight", (c.idx_heads, D), 2 ** -4, 0.0)]
        for p, d in sets:
            out += [(f"{p}.wkv.weight", (k * d, D), 2 ** -4, 0.0),
                    (f"{p}.wgate.weight", (k * d, D), 2 ** -3, 0.0),
                    (f"{p}.ape", (ratio, k * d), 1.0, 0.0),
                    (f"{p}.norm.weight", (d,), 0.25, 1.0)]
    E, I = c.n_experts, c.moe_inter
    out += [(f"{prefix}.ffn.gate.weight", (E, D), 2 ** -3, 0.0)]
    if not hash_layer:
        out += [(f"{prefix}.ffn.gate.bias", (E,), 0.25, 0.0)]
    for e in list(range(E)) + ["shared"]:
        p = f"{prefix}.ffn.shared_experts" if e == "shared" else f"{prefix}.ffn.experts.{e}"
        out += [(f"{p}.w1.weight", (I, D), 0.5, 0.0), (f"{p}.w3.weight", (I, D), 0.5, 0.0),
                (f"{p}.w2.weight", (D, I), 2 ** -7, 0.0)]
    return out


def head_shapes(c, prefix):
    return [(f"{prefix}hc_head_fn", (c.hc, c.hc * c.dim), 2 ** -5, 0.0),
            (f"{prefix}hc_head_base", (c.hc,), 1.0, 0.0),
            (f"{prefix}hc_head_scale", (1,), 0.25, 0.5),
            (f"{prefix}norm.weight", (c.dim,), 0.25, 1.0)]


def random_weights(c, mtp=True, dspark=True, layers=None):
    sh = [("embed.weight", (c.vocab, c.dim), 1.0, 0.0), ("head.weight", (c.vocab, c.dim), 2 ** -4, 0.0)]
    sh += head_shapes(c, "")
    w = {}
    for i in range(c.n_layers) if layers is None else layers:
        sh += block_shapes(c, f"layers.{i}", c.ratios[i], i < c.n_hash)
        if i < c.n_hash:
            w[f"layers.{i}.ffn.gate.tid2eid"] = tid2eid(c, i)
    if mtp:
        sh += block_shapes(c, "mtp.0", 0, False) + head_shapes(c, "mtp.0.")
        sh += [(f"mtp.0.{n}.weight", (c.dim, c.dim), 2 ** -4, 0.0) for n in ("e_proj", "h_proj")]
        sh += [(f"mtp.0.{n}.weight", (c.dim,), 0.25, 1.0) for n in ("enorm", "hnorm")]
    if dspark:
        for s in range(c.ds_stages):
            sh += block_shapes(c, f"dspark.{s}", 0, False)
        sh += [("dspark.0.main_proj.weight", (c.dim, len(c.ds_layers) * c.dim), 2 ** -4, 0.0),
               ("dspark.0.main_norm.weight", (c.dim,), 0.25, 1.0)]
        last = f"dspark.{c.ds_stages - 1}."
        sh += head_shapes(c, last)
        sh += [(last + "markov_head.markov_w1.weight", (c.vocab, c.ds_rank), 1.0, 0.0),
               (last + "markov_head.markov_w2.weight", (c.vocab, c.ds_rank), 2 ** -3, 0.0),
               (last + "confidence_head.proj.weight", (1, c.dim + c.ds_rank), 2 ** -4, 0.0)]
    for name, shape, s, o in sh:
        w[name] = uniform(name, shape, s, o)
    return w


# ------------------------------------------------------- element-wise parts ---
def rms(x, eps, weight=None):
    y = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + x.dtype.type(eps))
    return y if weight is None else y * weight


def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return np.logaddexp(x, 0.0)


def pow2_ceil_scale(amax, inv_max):
    """2^ceil(log2(amax*inv_max)), evaluated the official way: one float32 product,
    then exponent bits + (mantissa != 0)."""
    p = np.ascontiguousarray(amax.astype(np.float32) * np.float32(inv_max)).view(np.uint32)
    e = ((p >> 23) & 0xFF).astype(np.int64) - 127 + ((p & 0x7FFFFF) != 0)
    return np.ldexp(1.0, e)


def round_e4m3(x):
    a = np.minimum(np.abs(x), 448.0)
    ex = np.floor(np.log2(np.maximum(a, 2.0 ** -6)))
    # guard log2 at exact powers of two
    ex = np.where(np.ldexp(1.0, ex.astype(int) + 1) <= a, ex + 1, ex)
    ex = np.where(np.ldexp(1.0, ex.astype(int)) > np.maximum(a, 2.0 ** -6), ex - 1, ex)
    q = np.ldexp(1.0, ex.astype(int) - 3)
    return np.copysign(np.minimum(np.rint(a / q) * q, 448.0), x)


def round_e2m1(x):
    a = np.minimum(np.abs(x), 6.0)
    q = np.where(a < 2.0, 0.5, np.where(a < 4.0, 1.0, 2.0))
    return np.copysign(np.rint(a / q) * q, x)


def fp8_roundtrip(x, block):
    """Per-block (last axis) E4M3 round trip with power-of-two scale."""
    sh = x.shape
    b = x.reshape(sh[:-1] + (sh[-1] // block, block)).astype(np.float64)
    amax = np.maximum(np.max(np.abs(b), axis=-1, keepdims=True), 1e-4)
    s = pow2_ceil_scale(amax, np.float32(1.0) / np.float32(448.0))
    return (round_e4m3(b / s) * s).reshape(sh).astype(x.dtype)


def fp4_roundtrip(x, block):
    sh = x.shape
    b = x.reshape(sh[:-1] + (sh[-1] // block, block)).astype(np.float64)
    amax = np.maximum(np.max(np.abs(b), axis=-1, keepdims=True), 6.0 * 2.0 ** -126)
    s = pow2_ceil_scale(amax, np.float32(1.0) / np.float32(6.0))
    return (round_e2m1(b / s) * s).reshape(sh).astype(x.dtype)


def hadamard(x):
    """Sylvester-ordered Walsh-Hadamard over the last axis, times n^-1/2."""
    n = x.shape[-1]
    y = x.reshape(-1, n).copy()
    h = 1
    while h < n:
        v = y.reshape(-1, n // (2 * h), 2, h)
        y = np.stack([v[:, :, 0] + v[:, :, 1], v[:, :, 0] - v[:, :, 1]], axis=2).reshape(-1, n)
        h *= 2
    return (y * x.dtype.type(n ** -0.5)).reshape(x.shape)


# ------------------------------------------------------------------- RoPE ---
def inv_freq(c, compressed):
    n = c.rope_dim
    base = c.theta_comp if compressed else c.theta
    f = base ** (-np.arange(0, n, 2, dtype=np.float64) / n)
    if not compressed:
        return f
    corr = lambda rot: n * math.log(c.yarn_orig / (rot * 2 * math.pi)) / (2 * math.log(base))
    lo, hi = max(math.floor(corr(c.beta_fast)), 0), min(math.ceil(corr(c.beta_slow)), n - 1)
    ramp = np.clip((np.arange(n // 2) - lo) / max(hi - lo, 0.001), 0.0, 1.0)
    return f / c.yarn_factor * ramp + f * (1.0 - ramp)


def rope_tail(x, pos, freqs, inverse=False):
    """Rotate the last 2*len(freqs) entries of the last axis, interleaved pairs.
    pos broadcasts against x.shape[:-1]."""
    n = 2 * len(freqs)
    # the angle is ONE float32 product of float32 factors (official tables are built so)
    ang = (np.asarray(pos, dtype=np.float32)[..., None] * freqs.astype(np.float32)).astype(np.float64)
    cs, sn = np.cos(ang).astype(x.dtype), np.sin(ang).astype(x.dtype)
    if inverse:
        sn = -sn
    out = x.copy()
    a, b = x[..., -n::2], x[..., -n + 1::2]
    out[..., -n::2] = a * cs - b * sn
    out[..., -n + 1::2] = a * sn + b * cs
    return out


# ------------------------------------------------------ hyper-connections ---
def sinkhorn(logits, iters, eps):
    m = np.exp(logits - logits.max(-1, keepdims=True))
    m = m / m.sum(-1, keepdims=True) + eps
    m = m / (m.sum(-2, keepdims=True) + eps)
    for _ in range(iters - 1):
        m = m / (m.sum(-1, keepdims=True) + eps)
        m = m / (m.sum(-2, keepdims=True) + eps)
    return m


def hc_coeffs(c, X, fn, scale, base):
    """X [T,hc,D] -> pre [T,hc], post [T,hc], comb [T,hc,hc]"""
    T, n = X.shape[0], c.hc
    flat = X.reshape(T, -1)
    mix = (flat @ fn.T) / np.sqrt(np.mean(flat * flat, -1, keepdims=True) + X.dtype.type(c.rms_eps))
    pre = sigmoid(mix[:, :n] * scale[0] + base[:n]) + X.dtype.type(c.hc_eps)
    post = 2.0 * sigmoid(mix[:, n:2 * n] * scale[1] + base[n:2 * n])
    lg = (mix[:, 2 * n:] * scale[2] + base[2 * n:]).reshape(T, n, n)
    return pre, post.astype(X.dtype), sinkhorn(lg, c.hc_iters, X.dtype.type(c.hc_eps))


def hc_pre(X, pre):
    return np.einsum("th,thd->td", pre, X)


def hc_post(X, f, post, comb):
    """new[k] = post[k]*f + sum_j comb[j,k] * X[j]   (comb contracted on its FIRST index)"""
    return post[:, :, None] * f[:, None, :] + np.einsum("tjk,tjd->tkd", comb, X)


def hc_head(c, X, fn, scale, base):
    flat = X.reshape(X.shape[0], -1)
    mix = (flat @ fn.T) / np.sqrt(np.mean(flat * flat, -1, keepdims=True) + X.dtype.type(c.rms_eps))
    return hc_pre(X, sigmoid(mix * scale[0] + base) + X.dtype.type(c.hc_eps))


# -------------------------------------------------------------------- MoE ---
def topk_stable(score, k):
    """indices of the k largest, ties to the lower index, in descending order"""
    return np.argsort(-score, axis=-1, kind="stable")[..., :k]


class Model:
    def __init__(self, cfg, weights, dtype=np.float64, qat=True):
        self.c, self.dt, self.qat = cfg, dtype, qat
        self.w = {k: (v if v.dtype.kind == "i" else v.astype(dtype)) for k, v in weights.items()}
        self.freq = {False: inv_freq(cfg, False), True: inv_freq(cfg, True)}

    # rows that enter a cache
    def kv_round(self, kv):
        if not self.qat:
            return kv
        n = self.c.head_dim - self.c.rope_dim
        return np.concatenate([fp8_roundtrip(kv[..., :n], self.c.fp8_block), kv[..., n:]], -1)

    def idx_round(self, r):
        r = hadamard(r)
        return fp4_roundtrip(r, self.c.fp4_block) if self.qat else r

    def comp_finish(self, p, pooled, first_pos, is_idx):
        """pooled [R,d], first_pos [R]: norm, RoPE at the window's first position, rounding"""
        r = rms(pooled, self.c.rms_eps, self.w[p + ".norm.weight"])
        r = rope_tail(r, first_pos, self.freq[True])
        return self.idx_round(r) if is_idx else self.kv_round(r)

    def route(self, p, x, ids):
        w, c = self.w, self.c
        s = np.sqrt(softplus(x @ w[p + ".gate.weight"].T))
        if p + ".gate.tid2eid" in w:
            idx = w[p + ".gate.tid2eid"][ids].astype(np.int64)
        else:
            idx = topk_stable(s + w[p + ".gate.bias"], c.n_active)
        g = np.take_along_axis(s, idx, -1)
        return g / g.sum(-1, keepdims=True) * self.dt(c.route_scale), idx

    def expert(self, p, x, g=None):
        L = self.c.swiglu_limit
        a = np.minimum(x @ self.w[p + ".w1.weight"].T, L)
        u = np.clip(x @ self.w[p + ".w3.weight"].T, -L, L)
        h = silu(a) * u
        if g is not None:
            h = h * g[:, None]
        return h @ self.w[p + ".w2.weight"].T

    def moe(self, p, x, ids):
        g, idx = self.route(p, x, ids)
        y = np.zeros_like(x)
        for e in np.unique(idx):
            t, j = np.nonzero(idx == e)
            y[t] += self.expert(f"{p}.experts.{e}", x[t], g[t, j])
        return y + self.expert(p + ".shared_experts", x)

    # pieces of attention
    def qkv(self, p, x, pos, comp):
        w, c = self.w, self.c
        T = x.shape[0]
        qr = rms(x @ w[p + ".wq_a.weight"].T, c.rms_eps, w[p + ".q_norm.weight"])
        q = (qr @ w[p + ".wq_b.weight"].T).reshape(T, c.n_heads, c.head_dim)
        q = rope_tail(rms(q, c.rms_eps), pos[:, None], self.freq[comp])
        kv = rms(x @ w[p + ".wkv.weight"].T, c.rms_eps, w[p + ".kv_norm.weight"])
        kv = self.kv_round(rope_tail(kv, pos, self.freq[comp]))
        return qr, q, kv

    def attend(self, p, q, rows, mask):
        """q [T,H,d], rows [N,d], mask [T,N] bool -> [T,H,d]"""
        s = np.einsum("thd,nd->thn", q, rows) * self.dt(self.c.head_dim ** -0.5)
        s = np.where(mask[:, None, :], s, -np.inf)
        sink = self.w[p + ".attn_sink"][None, :, None]
        m = np.maximum(s.max(-1, keepdims=True) if s.shape[-1] else sink, sink)
        e = np.exp(s - m)
        return np.einsum("thn,nd->thd", e, rows) / (e.sum(-1, keepdims=True) + np.exp(sink - m))

    def out_proj(self, p, o, pos, comp):
        w, c = self.w, self.c
        T = o.shape[0]
        o = rope_tail(o, pos[:, None], self.freq[comp], inverse=True)
        o = o.reshape(T, c.o_groups, -1)
        wa = w[p + ".wo_a.weight"].reshape(c.o_groups, c.o_lora, -1)
        return np.einsum("tgd,grd->tgr", o, wa).reshape(T, -1) @ w[p + ".wo_b.weight"].T

    def idx_scores(self, p, x, qr, pos, krows):
        """[T,R] indexer scores for queries x/qr at pos against indexer rows krows"""
        w, c = self.w, self.c
        q = (qr @ w[p + ".indexer.wq_b.weight"].T).reshape(len(x), c.idx_heads, c.idx_dim)
        q = self.idx_round(rope_tail(q, pos[:, None], self.freq[True]))
        g = (x @ w[p + ".indexer.weights_proj.weight"].T) * self.dt((c.idx_dim * c.idx_heads) ** -0.5)
        return np.einsum("thr,th->tr", np.maximum(np.einsum("thd,rd->thr", q, krows), 0.0), g)

    # ---------------------------------------------------- path A: stateless ---
    def compress_full(self, p, x, ratio, d, is_idx):
        """all complete windows of x [T,D] -> rows [T//ratio, d]"""
        w = self.w
        R = x.shape[0] // ratio
        if R == 0:
            return np.zeros((0, d), self.dt)
        x = x[:R * ratio]
        kv = (x @ w[p + ".wkv.weight"].T).reshape(R, ratio, -1)
        sc = (x @ w[p + ".wgate.weight"].T).reshape(R, ratio, -1) + w[p + ".ape"]
        if ratio == 4:                       # [prev window, first half | this window, second half]
            kv2 = np.zeros((R, 2 * ratio, d), self.dt)
            sc2 = np.full((R, 2 * ratio, d), -np.inf, self.dt)
            kv2[:, ratio:], sc2[:, ratio:] = kv[..., d:], sc[..., d:]
            kv2[1:, :ratio], sc2[1:, :ratio] = kv[:-1, :, :d], sc[:-1, :, :d]
            kv, sc = kv2, sc2
        e = np.exp(sc - sc.max(1, keepdims=True))
        return self.comp_finish(p, (kv * e).sum(1) / e.sum(1), np.arange(R) * ratio, is_idx)

    def attention_full(self, p, x, ratio):
        c = self.c
        T = x.shape[0]
        pos = np.arange(T)
        comp = ratio != 0
        qr, q, kv = self.qkv(p, x, pos, comp)
        d = pos[:, None] - pos[None, :]
        rows, mask = kv, (d >= 0) & (d < c.window)
        if comp:
            cr = self.compress_full(p + ".compressor", x, ratio, c.head_dim, False)
            vis = np.arange(len(cr))[None, :] < ((pos + 1) // ratio)[:, None]
            if ratio == 4 and len(cr):
                ir = self.compress_full(p + ".indexer.compressor", x, ratio, c.idx_dim, True)
                s = np.where(vis, self.idx_scores(p, x, qr, pos, ir), -np.inf)
                keep = np.zeros_like(vis)
                np.put_along_axis(keep, topk_stable(s, min(c.idx_topk, len(cr))), True, -1)
                vis = vis & keep
            rows = np.concatenate([kv, cr]) if len(cr) else kv
            mask = np.concatenate([mask, vis], 1)
        return self.out_proj(p, self.attend(p, q, rows, mask), pos, comp)

    def block(self, p, X, ids, attn):
        w, c = self.w, self.c
        for site, fn in (("attn", lambda x: attn(p + ".attn", x)),
                         ("ffn", lambda x: self.moe(p + ".ffn", x, ids))):
            pre, post, comb = hc_coeffs(c, X, w[f"{p}.hc_{site}_fn"], w[f"{p}.hc_{site}_scale"],
                                        w[f"{p}.hc_{site}_base"])
            y = fn(rms(hc_pre(X, pre), c.rms_eps, w[f"{p}.{site}_norm.weight"]))
            X = hc_post(X, y, post, comb)
        return X

    def embed(self, ids):
        return np.repeat(self.w["embed.weight"][ids][:, None, :], self.c.hc, axis=1)

    def head(self, X, prefix=""):
        w, c = self.w, self.c
        h = hc_head(c, X, w[prefix + "hc_head_fn"], w[prefix + "hc_head_scale"], w[prefix + "hc_head_base"])
        return rms(h, c.rms_eps, w[prefix + "norm.weight"]) @ w["head.weight"].T

    def full(self, ids, trace=None):
        ids = np.asarray(ids)
        X = self.embed(ids)
        for i in range(self.c.n_layers):
            X = self.block(f"layers.{i}", X, ids, lambda p, x, i=i: self.attention_full(p, x, self.c.ratios[i]))
            if trace is not None:
                trace.append(X)
        return self.head(X), X

    # MTP, stateless: H [T,hc,D] final states at 0..T-1, nxt[t] = token at t+1
    def mtp_full(self, H, nxt):
        X = self.mtp_input(H, nxt)
        X = self.block("mtp.0", X, nxt, lambda p, x: self.attention_full(p, x, 0))
        return self.head(X, "mtp.0."), X

    def mtp_input(self, H, nxt):
        w, c = self.w, self.c
        e = rms(w["embed.weight"][nxt], c.rms_eps, w["mtp.0.enorm.weight"]) @ w["mtp.0.e_proj.weight"].T
        h = rms(H, c.rms_eps, w["mtp.0.hnorm.weight"]) @ w["mtp.0.h_proj.weight"].T
        return e[:, None, :] + h


# ------------------------------------------------------- path B: stateful ---
class Compressor:
    """Incremental compressor: state rows hold raw projections and biased scores."""
    def __init__(self, m, p, ratio, d, is_idx):
        self.m, self.p, self.ratio, self.d, self.is_idx = m, p, ratio, d, is_idx
        k = 2 if ratio == 4 else 1
        self.kv = np.zeros((k * ratio, k * d), m.dt)
        self.sc = np.full((k * ratio, k * d), -np.inf, m.dt)
        self.rows = []

    def push(self, x, pos):
        m, r, d = self.m, self.ratio, self.d
        j = pos % r
        s = j + (r if r == 4 else 0)
        self.kv[s] = x @ m.w[self.p + ".wkv.weight"].T
        self.sc[s] = x @ m.w[self.p + ".wgate.weight"].T + m.w[self.p + ".ape"][j]
        if j != r - 1:
            return
        if r == 4:
            kv = np.concatenate([self.kv[:r, :d], self.kv[r:, d:]])
            sc = np.concatenate([self.sc[:r, :d], self.sc[r:, d:]])
            self.kv[:r], self.sc[:r] = self.kv[r:], self.sc[r:]
        else:
            kv, sc = self.kv, self.sc
        e = np.exp(sc - sc.max(0))
        pooled = (kv * e).sum(0) / e.sum(0)
        self.rows.append(m.comp_finish(self.p, pooled[None], np.array([pos + 1 - r]), self.is_idx)[0])


class Session:
    def __init__(self, m):
        self.m, self.c, self.pos = m, m.c, 0
        c = m.c
        self.ring = [np.zeros((c.window, c.head_dim), m.dt) for _ in range(c.n_layers)]
        self.comp = [Compressor(m, f"layers.{i}.attn.compressor", r, c.head_dim, False) if r else None
                     for i, r in enumerate(c.ratios)]
        self.icomp = [Compressor(m, f"layers.{i}.attn.indexer.compressor", 4, c.idx_dim, True) if r == 4 else None
                      for i, r in enumerate(c.ratios)]

    def attention(self, i, p, x):
        m, c = self.m, self.c
        ratio = c.ratios[i]
        comp = ratio != 0
        out = np.zeros_like(x)
        for t in range(len(x)):                       # strictly one position at a time
            pos = self.pos + t
            P = np.array([pos])
            qr, q, kv = m.qkv(p, x[t:t + 1], P, comp)
            self.ring[i][pos % c.window] = kv[0]
            n = min(pos + 1, c.window)
            rows = [self.ring[i][(pos - n + 1 + k) % c.window] for k in range(n)]
            if comp:
                self.comp[i].push(x[t], pos)
                sel = range(len(self.comp[i].rows))
                if ratio == 4:
                    self.icomp[i].push(x[t], pos)
                    R = len(self.icomp[i].rows)
                    if R > c.idx_topk:
                        s = m.idx_scores(p, x[t:t + 1], qr, P, np.array(self.icomp[i].rows))[0]
                        sel = np.sort(topk_stable(s, c.idx_topk))
                rows += [self.comp[i].rows[k] for k in sel]
            rows = np.array(rows)
            o = m.attend(p, q, rows, np.ones((1, len(rows)), bool))
            out[t] = m.out_proj(p, o, P, comp)[0]
        return out

    def extend(self, ids):
        ids = np.asarray(ids)
        m = self.m
        X = m.embed(ids)
        for i in range(self.c.n_layers):
            X = m.block(f"layers.{i}", X, ids, lambda p, x, i=i: self.attention(i, p, x))
        self.pos += len(ids)
        return m.head(X), X


# ---------------------------------------------------------------- DSpark ---
def dspark_main_hidden(c, trace):
    """trace: list of X after each layer, each [T,hc,D] -> [T, 3*D]"""
    return np.concatenate([trace[i].mean(1) for i in c.ds_layers], -1)


def dspark_main_kv(m, stage, main_x, pos):
    """KV rows that committed positions contribute to one drafter stage (ratio 0 RoPE)."""
    c, w, p = m.c, m.w, f"dspark.{stage}.attn"
    kv = rms(main_x @ w[p + ".wkv.weight"].T, c.rms_eps, w[p + ".kv_norm.weight"])
    return m.kv_round(rope_tail(kv, pos, m.freq[False]))


def dspark_draft(m, main_hidden, anchor):
    """main_hidden [p+1, 3D] for committed positions 0..p; anchor = token at p+1.
    Returns drafted ids (ds_block), corrected logits, confidences."""
    c, w = m.c, m.w
    T = len(main_hidden)
    p = T - 1
    main_x = rms(main_hidden @ w["dspark.0.main_proj.weight"].T, c.rms_eps, w["dspark.0.main_norm.weight"])
    lo = max(0, T - c.window)
    pos_m = np.arange(lo, T)
    B = c.ds_block
    ids = np.array([anchor] + [c.ds_noise] * (B - 1))
    pos = np.arange(p + 1, p + 1 + B)
    X = m.embed(ids)
    for s in range(c.ds_stages):
        mk = dspark_main_kv(m, s, main_x[lo:], pos_m)

        def attn(pfx, x, mk=mk):
            _, q, kv = m.qkv(pfx, x, pos, False)
            rows = np.concatenate([mk, kv])
            return m.out_proj(pfx, m.attend(pfx, q, rows, np.ones((B, len(rows)), bool)), pos, False)
        X = m.block(f"dspark.{s}", X, ids, attn)
    last = f"dspark.{c.ds_stages - 1}."
    h = hc_head(c, X, w[last + "hc_head_fn"], w[last + "hc_head_scale"], w[last + "hc_head_base"])
    logits = rms(h, c.rms_eps, w[last + "norm.weight"]) @ w["head.weight"].T
    out, conf, prev = [], [], anchor
    for i in range(B):
        e = w[last + "markov_head.markov_w1.weight"][prev]
        logits[i] = logits[i] + w[last + "markov_head.markov_w2.weight"] @ e
        conf.append(float(w[last + "confidence_head.proj.weight"][0] @ np.concatenate([h[i], e])))
        prev = int(np.argmax(logits[i]))
        out.append(prev)
    return out, logits, np.array(conf)
