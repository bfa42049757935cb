"""GGUF files in NumPy: a writer, a reader, and the few block formats the small model uses.

This is a second, independent reading of the format beside src/gguf and src/quant (which refuse hostile input; this one
trusts its file). Arrays are in the order of NumPy, slowest dimension first; the file lists dimensions the other way.
Source of layouts: the GGUF specification (version 3) and the tables at the top of src/quant/*.c.
"""

import pathlib
import struct

import numpy as np

ALIGNMENT = 32
# name: (number, values a block, bytes a block)
TYPES = {"F32": (0, 1, 4), "F16": (1, 1, 2), "BF16": (30, 1, 2), "Q8_0": (8, 32, 34), "Q2_K": (10, 256, 84),
         "Q4_K": (12, 256, 144), "IQ2_XXS": (16, 256, 66), "I32": (26, 1, 4)}
NAMES = {number: name for name, (number, _, _) in TYPES.items()}
GRID_FILE = pathlib.Path(__file__).resolve().parent.parent / "scripts/data/iq2xxs_grid.txt"
SCALARS = {"u8": (0, "B"), "i8": (1, "b"), "u16": (2, "H"), "i16": (3, "h"), "u32": (4, "I"), "i32": (5, "i"),
           "f32": (6, "f"), "bool": (7, "?"), "u64": (10, "Q"), "i64": (11, "q"), "f64": (12, "d")}
STRING, ARRAY = 8, 9


def grid():
    """The 256 magnitude vectors of IQ2_XXS, [256, 8]."""
    return np.array([line.split() for line in GRID_FILE.read_text().splitlines() if line], np.float32)


# ---- block formats ------------------------------------------------------------------------------------------------

def encode(values, name):
    """float32 [..., n] -> uint8 [..., bytes a row]. Q8_0: scale of a block max|x|/127, codes rounded half away."""
    values = np.ascontiguousarray(values)
    if name in ("F32", "F16", "I32"):
        out = values.astype({"F32": "<f4", "F16": "<f2", "I32": "<i4"}[name])
        return out.view(np.uint8).reshape(*values.shape[:-1], -1)
    if name != "Q8_0":
        raise ValueError(f"{name} is not encoded here: quant2.py makes its blocks while training")
    blocks = values.astype(np.float32).reshape(-1, 32)
    scale = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    scaled = blocks * np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    codes = np.sign(scaled) * np.floor(np.abs(scaled) + np.float32(.5))
    parts = [scale.astype("<f2").view(np.uint8), codes.astype(np.int8).view(np.uint8)]
    return np.concatenate(parts, 1).reshape(*values.shape[:-1], -1)


def decode_iq2_xxs(blocks):
    """uint8 [n, 66] -> float32 [n, 256]: f16 d, then for each 32 values four grid indices, 4 x 7 signs, 4-bit scale."""
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    words = blocks[:, 2:].copy().view("<u4").reshape(-1, 8, 2)
    index = words[:, :, :1] >> np.arange(0, 32, 8, dtype=np.uint32) & 255
    seven = words[:, :, 1:] >> np.arange(0, 28, 7, dtype=np.uint32) & 127
    bits = seven[..., None] >> np.arange(7, dtype=np.uint32) & 1
    bits = np.concatenate([bits, bits.sum(-1, keepdims=True) & 1], -1)     # the eighth sign makes the number even
    step = scale[:, None] * (np.float32(.5) + (words[:, :, 1:] >> 28).astype(np.float32)) * np.float32(.25)
    return (step[..., None] * grid()[index] * (1 - 2 * bits.astype(np.float32))).reshape(len(blocks), 256)


def decode_q2_k(blocks):
    """uint8 [n, 84] -> float32 [n, 256]: 16 bytes of 4-bit scale and minimum, 64 of 2-bit codes, f16 d and dmin."""
    scale, minimum = (blocks[:, at:at + 2].copy().view("<f2").astype(np.float32) for at in (80, 82))
    codes = blocks[:, 16:80].reshape(-1, 2, 1, 32) >> np.arange(0, 8, 2, dtype=np.uint8)[:, None] & 3
    fine = blocks[:, :16]
    low, high = (part.astype(np.float32)[:, :, None] for part in (fine & 15, fine >> 4))
    values = scale[..., None] * low * codes.reshape(-1, 16, 16) - minimum[..., None] * high
    return values.reshape(len(blocks), 256)


def decode_q4_k(blocks):
    """uint8 [n, 144] -> float32 [n, 256]: f16 d and dmin, 12 bytes of 6-bit scales and minima, 4-bit codes."""
    scale, minimum = (blocks[:, at:at + 2].copy().view("<f2").astype(np.float32) for at in (0, 2))
    first, second, third = (blocks[:, at:at + 4] for at in (4, 8, 12))
    fine = np.concatenate([first & 63, third & 15 | first >> 6 << 4], 1).astype(np.float32)
    least = np.concatenate([second & 63, third >> 4 | second >> 6 << 4], 1).astype(np.float32)
    codes = blocks[:, 16:].reshape(-1, 4, 1, 32) >> np.array([0, 4], np.uint8)[:, None] & 15
    values = (scale * fine)[..., None] * codes.reshape(-1, 8, 32) - (minimum * least)[..., None]
    return values.reshape(len(blocks), 256)


def decode(data, name):
    """uint8 [rows, bytes a row] -> float32 (I32: int32) [rows, n]"""
    if name == "BF16":
        return (data.view("<u2").astype("<u4") << 16).view("<f4")
    if name in ("F32", "F16", "I32"):
        values = data.view({"F32": "<f4", "F16": "<f2", "I32": "<i4"}[name])
        return values if name == "I32" else values.astype(np.float32)
    blocks = np.ascontiguousarray(data).reshape(-1, TYPES[name][2])
    if name == "Q8_0":
        values = blocks[:, :2].copy().view("<f2").astype(np.float32) * blocks[:, 2:].copy().view(np.int8)
    else:
        values = {"IQ2_XXS": decode_iq2_xxs, "Q2_K": decode_q2_k, "Q4_K": decode_q4_k}[name](blocks)
    return values.reshape(len(data), -1)


# ---- writing ------------------------------------------------------------------------------------------------------

def _string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind, value):
    """kind: a scalar's name, 'str', or either in brackets for an array."""
    if kind == "str":
        return struct.pack("<I", STRING) + _string(value)
    if kind == "[str]":
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(map(_string, value))
    number, letter = SCALARS[kind.strip("[]")]
    if kind.startswith("["):
        return struct.pack("<IIQ", ARRAY, number, len(value)) + struct.pack(f"<{len(value)}{letter}", *value)
    return struct.pack("<I" + letter, number, value)


def write(path, metadata, tensors):
    """metadata: [(key, kind, value)]; tensors: [(name, type name, shape, uint8 data)], in the order of the file."""
    head = [struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))]
    head += [_string(key) + _value(kind, value) for key, kind, value in metadata]
    at = 0
    for name, kind, shape, data in tensors:
        number, block, block_bytes = TYPES[kind]
        if data.size != int(np.prod(shape)) // block * block_bytes:
            raise ValueError(f"{name}: {data.size} bytes for shape {shape} in {kind}")
        dims = tuple(reversed(shape))
        head.append(_string(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, at))
        at += data.size + -data.size % ALIGNMENT
    raw = b"".join(head)
    with open(path, "wb") as file:
        file.write(raw + bytes(-len(raw) % ALIGNMENT))
        for _, _, _, data in tensors:
            file.write(data.tobytes() + bytes(-data.size % ALIGNMENT))


# ---- reading ------------------------------------------------------------------------------------------------------

class Reader:
    """metadata (dict), tensors (dict of name -> (type name, shape, uint8 data))."""

    def __init__(self, path):
        self.raw, self.at = pathlib.Path(path).read_bytes(), 0
        magic, version, n_tensors, n_kvs = self._unpack("<4sIQQ")
        if magic != b"GGUF" or version != 3:
            raise ValueError(f"{path} is no GGUF file of version 3")
        self.metadata = {self._string(): self._value(self._unpack("<I")[0]) for _ in range(n_kvs)}
        places = []
        for _ in range(n_tensors):
            name = self._string()
            dims = self._unpack(f"<{self._unpack('<I')[0]}Q")
            places.append((name, tuple(reversed(dims)), *self._unpack("<IQ")))
        base = self.at + -self.at % self.metadata.get("general.alignment", ALIGNMENT)
        self.tensors = {name: self._tensor(shape, number, base + at) for name, shape, number, at in places}

    def _unpack(self, form):
        out = struct.unpack_from(form, self.raw, self.at)
        self.at += struct.calcsize(form)
        return out

    def _string(self):
        n, = self._unpack("<Q")
        self.at += n
        return self.raw[self.at - n:self.at].decode()

    def _value(self, number):
        if number == STRING:
            return self._string()
        if number == ARRAY:
            item, n = self._unpack("<IQ")
            return [self._value(item) for _ in range(n)]
        letter = next(letter for code, letter in SCALARS.values() if code == number)
        return self._unpack("<" + letter)[0]

    def _tensor(self, shape, number, at):
        name = NAMES[number]
        _, block, block_bytes = TYPES[name]
        data = np.frombuffer(self.raw, np.uint8, int(np.prod(shape)) // block * block_bytes, at)
        return name, shape, data

    def array(self, name):
        """The tensor's values as the reader of the file sees them, in NumPy's order."""
        kind, shape, data = self.tensors[name]
        return decode(data.reshape(int(np.prod(shape[:-1])), -1), kind).reshape(shape)
