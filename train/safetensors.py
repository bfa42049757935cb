"""Checkpoints in the safetensors format, with NumPy alone: `u64 header bytes, JSON header, data`.

bfloat16 is read as float32 and written from it (round to nearest, ties to even); NumPy has no such type.
"""

import json
import os
import struct

import numpy as np

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "u1", "BF16": "<u2"}


def to_bf16(values):
    """float32 -> the upper 16 bits, rounded"""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def load(path):
    """name -> array (BF16 as float32)"""
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        array = np.frombuffer(data[begin:end], DTYPES[entry["dtype"]])
        if entry["dtype"] == "BF16":
            array = (array.astype(np.uint32) << 16).view(np.float32)
        out[name] = array.reshape(entry["shape"])
    return out


def save(tensors, path, metadata=None, bf16=False):
    """tensors: name -> array; bf16: float matrices are stored as BF16. The file appears whole or not at all."""
    header, parts, at = {"__metadata__": {"format": "pt", **(metadata or {})}}, [], 0
    for name, array in tensors.items():
        kind = {"u": "U8", "i": "I64", "f": "BF16" if bf16 and array.ndim > 1 else "F32"}[array.dtype.kind]
        raw = (to_bf16(array) if kind == "BF16" else array.astype(DTYPES[kind])).tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(f"{path}.part", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(parts))
    os.replace(f"{path}.part", path)
