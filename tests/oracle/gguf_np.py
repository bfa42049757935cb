"""Reads a GGUF model with numpy, into the numbers and the tensor names that ds4ref.py works with.

Written from the description of the formats, sharing no code with the engine, so that the two can check each other:
  open_gguf(path)        metadata and tensors, all shards of a split file
  config(gguf)           ds4ref.Config from the metadata
  weights(gguf)          {checkpoint name: float32 array [out, in]} of everything that the oracle needs
  Lazy(gguf)             the same for files larger than memory: decoded when asked for, one block kept at a time
"""
import glob
import os
import re
import struct

import numpy as np

import ds4ref

GRID = os.path.join(os.path.dirname(os.path.abspath(__file__)), "iq2xxs_grid.txt")
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


# ------------------------------------------------------------------ container ---
class Shard:
    """One file: .kv, .tensors {name: (type, dims, absolute offset)}, .data (uint8 memmap)."""
    def __init__(self, path):
        self.data = np.memmap(path, np.uint8, "r")
        self.at = 0
        if self.take("4s") != b"GGUF" or self.take("I") != 3:
            raise ValueError(f"{path} is no GGUF file of version 3")
        n_tensors, n_kvs = self.take("Q"), self.take("Q")
        self.kv = {}
        for _ in range(n_kvs):
            key = self.string()
            self.kv[key] = self.value(self.take("I"))
        infos = []
        for _ in range(n_tensors):
            name, n_dims = self.string(), self.take("I")
            dims = [self.take("Q") for _ in range(n_dims)]
            infos.append((name, dims, self.take("I"), self.take("Q")))
        align = self.kv.get("general.alignment", 32)
        base = (self.at + align - 1) // align * align
        self.base = base
        self.tensors = {name: (kind, dims, base + offset) for name, dims, kind, offset in infos}

    def take(self, code):
        size = struct.calcsize("<" + code)
        value = struct.unpack("<" + code, self.data[self.at:self.at + size].tobytes())[0]
        self.at += size
        return value

    def string(self):
        n = self.take("Q")
        self.at += n
        return self.data[self.at - n:self.at].tobytes().decode("utf-8")

    def value(self, kind):
        if kind == 8:
            return self.string()
        if kind != 9:
            return self.take(SCALARS[kind])
        item, count = self.take("I"), self.take("Q")
        if item == 8:
            return [self.string() for _ in range(count)]
        kind = np.dtype("<" + np.dtype(SCALARS[item]).str[1:])
        self.at += count * kind.itemsize
        return np.frombuffer(self.data[self.at - count * kind.itemsize:self.at].tobytes(), kind)


class Gguf:
    def __init__(self, path):
        match = re.match(r"(.*)-00001-of-(\d{5})\.gguf$", path)
        paths = sorted(glob.glob(f"{glob.escape(match[1])}-*-of-{match[2]}.gguf")) if match else [path]
        self.shards = [Shard(p) for p in paths]
        self.kv = self.shards[0].kv
        self.tensors = {name: (shard,) + info for shard in self.shards for name, info in shard.tensors.items()}

    def key(self, name, default=None):
        value = self.kv.get("deepseek4." + name, default)
        if value is None:
            raise KeyError(f"deepseek4.{name}")
        return value

    def raw(self, name):
        """type, dims (contiguous first), bytes"""
        shard, kind, dims, offset = self.tensors[name]
        elems, size, _ = FORMATS[kind]
        n = int(np.prod(dims, dtype=np.int64)) // elems * size
        return kind, dims, shard.data[offset:offset + n]

    def array(self, name):
        """Decoded, outermost dimension first."""
        kind, dims, data = self.raw(name)
        elems, size, decode = FORMATS[kind]
        return decode(data.reshape(-1, size)).reshape(dims[::-1])

    def rows(self, name, numbers):
        """Some rows of a matrix, decoded."""
        kind, dims, data = self.raw(name)
        _, size, decode = FORMATS[kind]
        return np.stack([decode(np.ascontiguousarray(r).reshape(-1, size)).ravel()
                         for r in data.reshape(dims[1], -1)[np.asarray(numbers)]])


def open_gguf(path):
    return Gguf(path)


# ------------------------------------------------------------------ formats ---
def f16(b):
    return np.ascontiguousarray(b).view("<f2").astype(np.float32)


def plain(dtype):
    return lambda b: np.ascontiguousarray(b).view(dtype).astype(np.float32 if dtype != "<i4" else np.int32).ravel()


def bf16(b):
    return (np.ascontiguousarray(b).view("<u2").astype(np.uint32) << 16).view(np.float32).ravel()


def q8_0(b):
    return f16(b[:, :2]) * b[:, 2:].view(np.int8).astype(np.float32)


def q4_0(b):
    q = np.concatenate([b[:, 2:] & 15, b[:, 2:] >> 4], 1).astype(np.float32) - 8
    return f16(b[:, :2]) * q


def two_bit_codes(qs):
    """[n, 64] bytes -> [n, 2, 4, 32] codes: value 128 h + 32 j + l is in byte 32 h + l, bits 2 j"""
    q = qs.reshape(-1, 2, 1, 32)
    return (q >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3


def q2_k(b):
    code = two_bit_codes(b[:, 16:80]).reshape(-1, 16, 16).astype(np.float32)
    d, low = f16(b[:, 80:82]), f16(b[:, 82:84])
    scale, minimum = (b[:, :16] & 15).astype(np.float32), (b[:, :16] >> 4).astype(np.float32)
    return (d * scale)[:, :, None] * code - (low * minimum)[:, :, None]


def q3_k(b):
    code = two_bit_codes(b[:, 32:96]).astype(np.int32)
    bits = (b[:, None, None, :32] >> np.arange(8, dtype=np.uint8).reshape(1, 2, 4, 1)) & 1
    code = (code - 4 * (1 - bits.astype(np.int32))).reshape(-1, 16, 16)
    sc = b[:, 96:108].astype(np.int32)
    k = np.arange(16)
    low = np.where(k < 8, sc[:, k % 8] & 15, sc[:, k % 8] >> 4)
    high = (sc[:, 8 + k % 4] >> (2 * (k // 4))) & 3
    scale = (low | high << 4) - 32
    return (f16(b[:, 108:110]) * scale)[:, :, None] * code.astype(np.float32)


def six_bit_scales(s):
    """12 bytes -> 8 scales and 8 minima"""
    s = s.astype(np.int32)
    scale = np.concatenate([s[:, :4] & 63, (s[:, 8:] & 15) | (s[:, :4] >> 6) << 4], 1)
    minimum = np.concatenate([s[:, 4:8] & 63, (s[:, 8:] >> 4) | (s[:, 4:8] >> 6) << 4], 1)
    return scale.astype(np.float32), minimum.astype(np.float32)


def k_blocks(b, code):
    scale, minimum = six_bit_scales(b[:, 4:16])
    d, low = f16(b[:, :2]), f16(b[:, 2:4])
    return (d * scale)[:, :, None] * code.astype(np.float32) - (low * minimum)[:, :, None]


def q4_k(b):
    qs = b[:, 16:].reshape(-1, 4, 1, 32)
    return k_blocks(b, np.concatenate([qs & 15, qs >> 4], 2).reshape(-1, 8, 32))


def q5_k(b):
    qs = b[:, 48:].reshape(-1, 4, 1, 32)
    code = np.concatenate([qs & 15, qs >> 4], 2).reshape(-1, 8, 32)
    fifth = (b[:, None, 16:48] >> np.arange(8, dtype=np.uint8).reshape(1, 8, 1)) & 1
    return k_blocks(b, code + 16 * fifth)


def q6_k(b):
    ql, qh = b[:, :128].reshape(-1, 2, 2, 32), b[:, 128:192].reshape(-1, 2, 1, 32)
    low = np.concatenate([ql & 15, ql >> 4], 2)
    high = (qh >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    code = (low | high << 4).astype(np.int32).reshape(-1, 16, 16) - 32
    scale = b[:, 192:208].view(np.int8).astype(np.float32)
    return (f16(b[:, 208:210]) * scale)[:, :, None] * code.astype(np.float32)


def signs_table():
    k = np.arange(128)
    parity = np.array([bin(x).count("1") & 1 for x in k])
    bits = (k | parity << 7)[:, None] >> np.arange(8) & 1
    return (1 - 2 * bits).astype(np.float32)


def iq2_xxs(b):
    grid, signs = np.loadtxt(GRID, dtype=np.float32), signs_table()
    w = np.ascontiguousarray(b[:, 2:]).view("<u4").reshape(-1, 8, 2)
    index = (w[:, :, :1] >> np.array([0, 8, 16, 24], np.uint32)) & 255
    sign = (w[:, :, 1:] >> np.array([0, 7, 14, 21], np.uint32)) & 127
    scale = (w[:, :, 1] >> 28).astype(np.float32) + np.float32(0.5)
    factor = f16(b[:, :2]) * scale * np.float32(0.25)
    return factor[:, :, None, None] * grid[index] * signs[sign]


def mxfp4(b):
    values = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    scale = np.ldexp(np.float32(1), b[:, :1].astype(np.int32) - 127).astype(np.float32)
    return scale * values[np.concatenate([b[:, 1:] & 15, b[:, 1:] >> 4], 1)]


# type number: (elements of a block, bytes of a block, decoder)
FORMATS = {0: (1, 4, plain("<f4")), 1: (1, 2, plain("<f2")), 2: (32, 18, q4_0), 8: (32, 34, q8_0), 10: (256, 84, q2_k),
           11: (256, 110, q3_k), 12: (256, 144, q4_k), 13: (256, 176, q5_k), 14: (256, 210, q6_k),
           16: (256, 66, iq2_xxs), 26: (1, 4, plain("<i4")), 30: (1, 2, bf16), 39: (32, 17, mxfp4)}
NAMES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
         "IQ2_XXS": 16, "BF16": 30, "MXFP4": 39}


# ------------------------------------------------------------------ model ---
def config(g):
    """The oracle's numbers; the constants of the family that no key carries keep their defaults."""
    n = g.key("block_count")
    clamp = np.atleast_1d(g.key("swiglu_clamp_exp"))
    return ds4ref.Config(
        name=g.kv.get("general.name", ""), vocab=g.key("vocab_size"), dim=g.key("embedding_length"), n_layers=n,
        n_heads=g.key("attention.head_count"), head_dim=g.key("attention.key_length"),
        rope_dim=g.key("rope.dimension_count"), q_lora=g.key("attention.q_lora_rank"),
        o_groups=g.key("attention.output_group_count"), o_lora=g.key("attention.output_lora_rank"),
        window=g.key("attention.sliding_window"),
        ratios=tuple(int(r) for r in g.key("attention.compress_ratios")[:n]),
        idx_heads=g.key("attention.indexer.head_count"), idx_dim=g.key("attention.indexer.key_length"),
        idx_topk=g.key("attention.indexer.top_k"), n_experts=g.key("expert_count"), n_active=g.key("expert_used_count"),
        moe_inter=g.key("expert_feed_forward_length"), n_hash=g.key("hash_layer_count"),
        route_scale=float(g.key("expert_weights_scale")), swiglu_limit=float(clamp[0]),
        hc=g.key("hyper_connection.count"), hc_iters=g.key("hyper_connection.sinkhorn_iterations"),
        theta=float(g.key("rope.freq_base")), theta_comp=float(g.key("attention.compress_rope_freq_base")),
        yarn_factor=float(g.key("rope.scaling.factor")),
        yarn_orig=g.key("rope.scaling.original_context_length"),
        ds_block=g.key("dspark.block_size", 5), ds_noise=g.key("dspark.noise_token_id", 0),
        ds_layers=tuple(int(i) for i in g.key("dspark.target_layers", ())), ds_rank=g.key("dspark.markov_rank", 0),
        ds_stages=g.key("dspark.layer_count", 0))


BLOCK = {
    "attn_norm.weight": "attn_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
    "attn_q_a.weight": "attn.wq_a.weight", "attn_q_a_norm.weight": "attn.q_norm.weight",
    "attn_q_b.weight": "attn.wq_b.weight", "attn_kv.weight": "attn.wkv.weight",
    "attn_kv_a_norm.weight": "attn.kv_norm.weight", "attn_sinks.weight": "attn.attn_sink",
    "attn_output_a.weight": "attn.wo_a.weight", "attn_output_b.weight": "attn.wo_b.weight",
    "indexer.attn_q_b.weight": "attn.indexer.wq_b.weight", "indexer.proj.weight": "attn.indexer.weights_proj.weight",
    "ffn_gate_inp.weight": "ffn.gate.weight", "exp_probs_b.bias": "ffn.gate.bias",
    "ffn_gate_tid2eid.weight": "ffn.gate.tid2eid",
    "ffn_gate_shexp.weight": "ffn.shared_experts.w1.weight", "ffn_up_shexp.weight": "ffn.shared_experts.w3.weight",
    "ffn_down_shexp.weight": "ffn.shared_experts.w2.weight",
    "ffn_gate_exps.weight": "ffn.experts.{}.w1.weight", "ffn_up_exps.weight": "ffn.experts.{}.w3.weight",
    "ffn_down_exps.weight": "ffn.experts.{}.w2.weight",
    "e_proj.weight": "e_proj.weight", "h_proj.weight": "h_proj.weight", "enorm.weight": "enorm.weight",
    "hnorm.weight": "hnorm.weight", "norm.weight": "norm.weight",
}
for _site in ("attn", "ffn", "head"):
    for _part in ("fn", "base", "scale"):
        BLOCK[f"hc_{_site}_{_part}.weight"] = f"hc_{_site}_{_part}"
for _ours, _theirs in (("attn_compressor", "attn.compressor"), ("indexer_compressor", "attn.indexer.compressor")):
    BLOCK |= {f"{_ours}_kv.weight": f"{_theirs}.wkv.weight", f"{_ours}_gate.weight": f"{_theirs}.wgate.weight",
              f"{_ours}_ape.weight": f"{_theirs}.ape", f"{_ours}_norm.weight": f"{_theirs}.norm.weight"}
GLOBAL = {"token_embd.weight": "embed.weight", "output.weight": "head.weight", "output_norm.weight": "norm.weight",
          "output_hc_fn.weight": "hc_head_fn", "output_hc_base.weight": "hc_head_base",
          "output_hc_scale.weight": "hc_head_scale", "hc_head_fn.weight": "hc_head_fn",
          "hc_head_base.weight": "hc_head_base", "hc_head_scale.weight": "hc_head_scale"}
# Spellings of other publishers -> ours.
OTHER = {"attn_kv_latent.weight": "attn_kv.weight", "attn_kv_a_mqa.weight": "attn_kv.weight",
         "attn_o_a.weight": "attn_output_a.weight", "attn_o_b.weight": "attn_output_b.weight",
         "ffn_gate_tid2eid": "ffn_gate_tid2eid.weight"}
for _part, _w in (("kv", "wkv"), ("gate", "wgate"), ("ape", "ape"), ("norm", "norm")):
    OTHER |= {f"attn_compress_{_part}.weight": f"attn_compressor_{_part}.weight",
              f"attn_compressor.{_w}.weight": f"attn_compressor_{_part}.weight",
              f"indexer.compress_{_part}.weight": f"indexer_compressor_{_part}.weight",
              f"indexer.compressor.{_w}.weight": f"indexer_compressor_{_part}.weight"}
DRAFTER = {"main_proj.weight": "0.main_proj.weight", "main_norm.weight": "0.main_norm.weight",
           "markov_w1.weight": "{last}.markov_head.markov_w1.weight",
           "markov_w2.weight": "{last}.markov_head.markov_w2.weight",
           "confidence_head.weight": "{last}.confidence_head.proj.weight", "norm.weight": "{last}.norm.weight",
           "hc_head_fn.weight": "{last}.hc_head_fn", "hc_head_base.weight": "{last}.hc_head_base",
           "hc_head_scale.weight": "{last}.hc_head_scale"}


def official(name, n_stages=3):
    """Checkpoint name of a tensor of the file; "{}" stands for the number of the expert."""
    match = re.match(r"(blk|mtp|dspark)\.(\d+)\.(.*)", name)
    if match:
        suffix = OTHER.get(match[3], match[3])
        return f"{'layers' if match[1] == 'blk' else match[1]}.{match[2]}.{BLOCK[suffix]}"
    if name.startswith("dspark."):
        return "dspark." + DRAFTER[name[7:]].format(last=n_stages - 1)
    return GLOBAL[name]


def weights(g, wanted=lambda name: True):
    """Decodes all tensors whose checkpoint name is wanted; matrices [out, in], expert stacks taken apart."""
    out = {}
    n_stages = int(g.key("dspark.layer_count", 3))
    for name in g.tensors:
        target = official(name, n_stages)
        if not wanted(target):
            continue
        array = g.array(name)
        if "{}" in target:
            out |= {target.format(e): array[e] for e in range(len(array))}
        else:
            out[target] = array
    return out


class Lazy:
    """Mapping of checkpoint names to arrays of dtype. Keeps what belongs to the block (layer) asked for last."""
    def __init__(self, g, dtype=np.float32):
        self.g, self.dtype, self.where, self.kept, self.block = g, dtype, {}, {}, None
        for name, (_, _, dims, _) in g.tensors.items():
            target = official(name, int(g.key("dspark.layer_count", 3)))
            if "{}" in target:
                self.where |= {target.format(e): (name, e) for e in range(dims[2])}
            else:
                self.where[target] = (name, None)

    def __contains__(self, name):
        return name in self.where

    def __getitem__(self, name):
        block = ".".join(name.split(".")[:2]) if name.startswith(("layers.", "mtp.", "dspark.")) else "global"
        if block != self.block:
            self.kept, self.block = {}, block
        if name not in self.kept:
            self.kept[name] = self.decode(*self.where[name])
        return self.kept[name]

    def decode(self, name, expert):
        kind, dims, data = self.g.raw(name)
        _, size, decode = FORMATS[kind]
        if expert is not None:
            per = len(data) // dims[2]
            data, dims = data[expert * per:(expert + 1) * per], dims[:2]
        array = decode(np.ascontiguousarray(data).reshape(-1, size)).reshape(dims[::-1])
        return array if array.dtype.kind == "i" else array.astype(self.dtype)
