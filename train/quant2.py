"""Experts as the 2-bit file holds them, inside the training loop: gate and up in IQ2_XXS, down in Q2_K.

`fit` chooses the scales that a file can store, `code` the nearest codes under those scales, `decode` the values that
a reader of the file sees, `pack` the bytes. A TwoBit object hangs on a layer of experts: the forward pass uses the
decoded values, the gradient goes straight through to the full weights, so that they learn to live with the grid. Rows
must be multiples of 256. Layouts: src/quant/iq2_xxs.c and src/quant/q2_k.c.
"""

import gguf
import torch

_grid = []


def grid():
    if not _grid:
        _grid.append(torch.from_numpy(gguf.grid()))
    return _grid[0]


def f16(x):
    """What a half holds of it; never zero, because it divides."""
    return x.clamp(min=6e-8).half().float()


def bytes_of_half(x):
    bits = x.half().view(torch.int16).long() & 65535
    return torch.stack([bits & 255, bits >> 8], 1).to(torch.uint8)


class IQ2XXS:
    """value = d (2 s + 1) / 8 * grid * sign: d f16 for 256 values, s 4 bits for 32; for 8 a grid entry and an even
    number of minus signs."""
    suffix = "iq2_xxs"

    @staticmethod
    def nearest(x, step):
        """x [n, 32], step [n] -> grid index [n, 4], signs [n, 4, 8]"""
        norm, index, signs = grid().square().sum(1), [], []
        for values, s in zip(x.split(2048), step.split(2048)):
            values = values.view(-1, 4, 8)
            size, sign = values.abs(), torch.where(values < 0, -1.0, 1.0)
            odd = torch.where(sign.prod(-1, keepdim=True) < 0, -1.0, 1.0)
            smallest = size.argmin(-1, keepdim=True)        # of an odd number of signs the cheapest is given up
            size = size.scatter(-1, smallest, size.gather(-1, smallest) * odd)
            signs.append(sign.scatter(-1, smallest, sign.gather(-1, smallest) * odd))
            cost = (s[:, None, None] * norm).expand(-1, 4, -1).reshape(-1, 256)
            cost = torch.addmm(cost, size.view(-1, 8), grid().t(), alpha=-2)
            index.append(cost.argmin(-1).view(-1, 4))
        return torch.cat(index), torch.cat(signs)

    @classmethod
    def fit(cls, weights, tries=9, rounds=2):
        x = weights.reshape(-1, 32).float()
        top = x.abs().amax(1).clamp(min=1e-12) / 43
        best_gain, best = torch.full_like(top, -1), top
        for factor in torch.linspace(0.45, 1.05, tries).tolist():
            index, signs = cls.nearest(x, top * factor)
            unit = (grid()[index] * signs).view(-1, 32)
            along, square = (x * unit).sum(1).clamp(min=0), unit.square().sum(1)
            better = along.square() / square > best_gain
            best = torch.where(better, along / square, best)
            best_gain = torch.where(better, along.square() / square, best_gain)
        best = best.view(-1, 8)
        d = f16(best.amax(1) * 8 / 31)
        s = ((best * 8 / d[:, None] - 1) / 2).round().clamp(0, 15)
        for _ in range(rounds):         # codes for these scales, then the best d for those codes
            index, signs = cls.nearest(x, cls.steps(d, s))
            unit = (grid()[index] * signs).view(-1, 8, 32) * ((2 * s + 1) / 8)[..., None]
            d = f16((x.view(-1, 8, 32) * unit).sum((1, 2)) / unit.square().sum((1, 2)))
        return d, s

    @staticmethod
    def steps(d, s):
        return (d[:, None] * (2 * s + 1) / 8).flatten()

    @classmethod
    def code(cls, weights, scales):
        return cls.nearest(weights.reshape(-1, 32).float(), cls.steps(*scales))

    @classmethod
    def decode(cls, codes, scales):
        return (cls.steps(*scales)[:, None, None] * grid()[codes[0]] * codes[1]).flatten()

    @staticmethod
    def pack(codes, scales):
        """-> uint8 [blocks, 66]"""
        (index, signs), (d, s) = codes, scales
        seven = ((signs < 0).long()[..., :7] << torch.arange(7)).sum(-1)        # the eighth follows from the parity
        high = (seven << 7 * torch.arange(4)).sum(-1).view(-1, 8) | s.long() << 28
        low = (index << 8 * torch.arange(4)).sum(-1).view(-1, 8)
        words = torch.stack([low, high], -1).view(-1, 16)
        data = torch.stack([words >> 8 * i & 255 for i in range(4)], -1).view(-1, 64).to(torch.uint8)
        return torch.cat([bytes_of_half(d), data], 1)


class Q2K:
    """value = (d s) code - (dmin m): d, dmin f16 for 256 values, s and m 4 bits for 16, code 2 bits."""
    suffix = "q2_k"

    @classmethod
    def fit(cls, weights, rounds=8):
        x = weights.reshape(-1, 16).float()
        low = x.amin(1).clamp(max=0)
        step = ((x.amax(1) - low) / 3).clamp(min=1e-12)
        best, best_step, best_low = torch.full_like(low, float("inf")), step, low
        for _ in range(rounds):         # codes, then least squares for step and minimum, which is never above zero
            code = ((x - low[:, None]) / step[:, None]).round().clamp(0, 3)
            error = (code * step[:, None] + low[:, None] - x).square().sum(1)
            better = error < best
            best, best_step, best_low = (torch.where(better, *pair) for pair in
                                         ((error, best), (step, best_step), (low, best_low)))
            mean, mean_x = code.mean(1), x.mean(1)
            spread = (code.square().mean(1) - mean.square()).clamp(min=1e-12)
            slope = ((code * x).mean(1) - mean * mean_x) / spread
            low = mean_x - slope * mean
            through_zero = (code * x).sum(1) / code.square().sum(1).clamp(min=1e-12)
            step = torch.where(low > 0, through_zero, slope).clamp(min=1e-12)
            low = low.clamp(max=0)
        best_step, best_min = best_step.view(-1, 16), -best_low.view(-1, 16)
        d, dmin = f16(best_step.amax(1) / 15), f16(best_min.amax(1) / 15)
        s, m = ((a / b[:, None]).round().clamp(0, 15) for a, b in ((best_step, d), (best_min, dmin)))
        for _ in range(2):
            d, dmin = cls.block_scales(x.view(-1, 256), d, dmin, s, m)
        return d, dmin, s, m

    @classmethod
    def block_scales(cls, x, d, dmin, s, m):
        """Least squares for d and dmin under the codes of now."""
        code = cls.code(x, (d, dmin, s, m))[0].view(-1, 16, 16)
        a, b = (code * s[..., None]).flatten(1), -m[..., None].expand(-1, -1, 16).flatten(1)
        aa, ab, bb, ax, bx = ((u * v).sum(1) for u, v in ((a, a), (a, b), (b, b), (a, x), (b, x)))
        det = aa * bb - ab * ab
        solvable, det = det > 1e-6 * aa * bb, det.clamp(min=1e-30)
        return (torch.where(solvable, f16((bb * ax - ab * bx) / det), d),
                torch.where(solvable, f16((aa * bx - ab * ax) / det), dmin))

    @staticmethod
    def steps(d, dmin, s, m):
        return (d[:, None] * s).view(-1, 1), (dmin[:, None] * m).view(-1, 1)

    @classmethod
    def code(cls, weights, scales):
        step, minimum = cls.steps(*scales)
        code = ((weights.reshape(-1, 16).float() + minimum) / step.clamp(min=1e-12)).round().clamp(0, 3)
        return (code * (step > 0),)

    @classmethod
    def decode(cls, codes, scales):
        step, minimum = cls.steps(*scales)
        return (step * codes[0] - minimum).flatten()

    @staticmethod
    def pack(codes, scales):
        """-> uint8 [blocks, 84]"""
        d, dmin, s, m = scales
        four = codes[0].to(torch.uint8).view(-1, 2, 4, 32)
        data = (four[:, :, 0] | four[:, :, 1] << 2 | four[:, :, 2] << 4 | four[:, :, 3] << 6).reshape(-1, 64)
        fine = s.to(torch.uint8) | m.to(torch.uint8) << 4
        return torch.cat([fine, data, bytes_of_half(d), bytes_of_half(dmin)], 1)


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx, full, decoded):
        return decoded.clone()

    @staticmethod
    def backward(ctx, grad):
        return grad, None


class TwoBit:
    """The routed experts of one layer. refresh() follows the weights under the scales as they are; scales are chosen
    once, at the start, because new ones would move every value at once."""
    formats = {"w1": IQ2XXS, "w3": IQ2XXS, "w2": Q2K}

    def __init__(self, experts, scales=None):
        self.experts = experts
        with torch.no_grad():
            self.scales = scales or {name: form.fit(getattr(experts, name)) for name, form in self.formats.items()}
        self.refresh()

    @torch.no_grad()
    def refresh(self):
        self.decoded = {}
        for name, form in self.formats.items():
            weights, scales = getattr(self.experts, name), self.scales[name]
            self.decoded[name] = form.decode(form.code(weights, scales), scales).view_as(weights)

    def __call__(self):
        return [StraightThrough.apply(getattr(self.experts, name), self.decoded[name]) for name in ("w1", "w3", "w2")]

    @torch.no_grad()
    def packed(self):
        """w1.iq2_xxs and so on -> uint8 [experts, rows, bytes a row]"""
        out = {}
        for name, form in self.formats.items():
            weights, scales = getattr(self.experts, name), self.scales[name]
            data = form.pack(form.code(weights, scales), scales)
            out[f"{name}.{form.suffix}"] = data.view(*weights.shape[:2], -1)
        return out


def switch_on(model, scales=None):
    """scales: what `state` gave, or None to choose them"""
    for i, block in enumerate(model.blocks()):
        block.ffn.two_bit = TwoBit(block.ffn, scales and scales[i])


def switch_off(model):
    for block in model.blocks():
        block.ffn.two_bit = None


def state(model):
    return [block.ffn.two_bit.scales for block in model.blocks()] if model.blocks()[0].ffn.two_bit else None
