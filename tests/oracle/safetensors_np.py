"""Reads a checkpoint in the published layout (safetensors shards, FP8 and FP4 with scales) with numpy.

  weights(folder)   {checkpoint name: float32 array (int32 for hash tables)}, scales applied
"""
import json
import os
import struct

import numpy as np

import gguf_np

E2M1 = np.array([0, .5, 1, 1.5, 2, 3, 4, 6, 0, -.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def e4m3_table():
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    value = np.where(exponent == 0, mantissa * 2.0 ** -9, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    value[(code & 127) == 127] = np.nan
    return np.where(code & 128, -value, value).astype(np.float32)


def tensors(path):
    """{name: (dtype, shape, bytes)} of one file"""
    with open(path, "rb") as f:
        data = np.frombuffer(f.read(), np.uint8)
    n = struct.unpack("<Q", data[:8].tobytes())[0]
    header = json.loads(data[8:8 + n].tobytes())
    header.pop("__metadata__", None)
    base, end, out = 8 + n, 0, {}
    for name, info in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = info["data_offsets"]
        assert begin == end, f"{name}: hole or overlap"
        end = stop
        out[name] = info["dtype"], info["shape"], data[base + begin:base + stop]
    assert base + end == len(data)
    return out


def plain(dtype, shape, data):
    if dtype == "BF16":
        return gguf_np.bf16(data).reshape(shape)
    kind = {"F32": "<f4", "I64": "<i8", "F16": "<f2"}[dtype]
    array = data.view(kind).reshape(shape)
    return array.astype(np.int32 if dtype == "I64" else np.float32)


def weights(folder):
    with open(os.path.join(folder, "model.safetensors.index.json")) as f:
        where = json.load(f)["weight_map"]
    files = {name: tensors(os.path.join(folder, name)) for name in sorted(set(where.values()))}
    every = {name: files[where[name]][name] for name in where}
    assert sum(map(len, files.values())) == len(every)
    out = {}
    for name, (dtype, shape, data) in every.items():
        if name.endswith(".scale"):
            continue
        if dtype not in ("F8_E4M3", "I8"):
            out[name] = plain(dtype, shape, data)
            continue
        kind, scale_shape, scale = every[name.removesuffix("weight") + "scale"]
        assert kind == "F8_E8M0"
        scale = np.exp2(scale.astype(np.float32) - 127).reshape(scale_shape)
        if dtype == "I8":
            codes = np.stack([data & 15, data >> 4], -1).reshape(shape[0], -1)
            out[name] = E2M1[codes] * np.repeat(scale, 32, 1)
        else:
            tiles = np.repeat(np.repeat(scale, 128, 0), 128, 1)
            out[name] = e4m3_table()[data].reshape(shape) * tiles
    return out
