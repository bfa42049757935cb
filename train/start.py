"""Where the weights of ds4-tiny begin: random, but for one circuit that copies.

A small model needs tens of millions of tokens before it finds by itself that what followed a word before may follow it
again. So the two halves of that rule are written down before the first step, and training is free to change them:
layer 0 has a head that looks one token back and writes that token's code into the stream (its key turns with the
position, and the query is that of one position before); layer 1 has a head whose query is the code of the token now
and whose keys are the codes of the tokens before, so that it finds what followed last time and writes it where the
output head reads it. Both work within the window of 128 tokens.

Channels of the stream: 0 is one for every token, 1-127 carry the token, 128-191 the token before, 192-255 what is
copied. The source of the idea is the literature on induction heads (Olsson et al., 2022).
"""

import torch

TOKEN, BEFORE, COPIED = slice(1, 128), slice(128, 192), slice(192, 256)
N_BEFORE, N_KEY, N_STILL_VALUE = 64, 40, 24
TURNS = (1.6, 1.3, 1.1, 0.9, 0.9, 0.8, 0.7, 0.7)     # amplitude of the fastest rotary pairs of the key


def normalised(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


@torch.no_grad()
def copying(model):
    c = model.c
    basis = torch.linalg.qr(torch.randn(127, 127))[0]
    back, value = basis[:N_BEFORE], basis[N_BEFORE:N_BEFORE + 56]
    embed = model.embed.weight
    embed.mul_(20)
    embed[:, 128:], embed[:, 0] = 0, 4
    first, second = model.layers[0].attn, model.layers[1].attn
    still, n_low = c.head_dim - c.rope_dim, c.q_rank

    # Layer 0, head 0: one token back.
    first.wq_a.weight[0] = 0
    first.wq_a.weight[0, 0] = 0.5
    query = first.wq_b.weight.view(c.heads, c.head_dim, n_low)[0]
    query.mul_(0.05)
    first.wkv.weight.mul_(0.05)
    first.wkv.weight[:still] = 0
    first.wkv.weight[:N_BEFORE, TOKEN] = back * 0.3
    frequency = torch.atan2(first.sin[1], first.cos[1])
    for i, amplitude in enumerate(TURNS):
        at = still + 2 * i
        first.wkv.weight[at:at + 2] = 0
        first.wkv.weight[at, 0] = 0.27 * amplitude
        query[at, 0], query[at + 1, 0] = amplitude * frequency[i].cos(), -amplitude * frequency[i].sin()
    first.kv_norm.weight[still:still + 2 * len(TURNS)] = 1.7
    first.wo_a[0, :, :still] = torch.eye(N_BEFORE)
    first.wo_a[0, :, still:c.head_dim] = 0
    first.wo_a[0, :, c.head_dim:] *= 0.2
    first.wo_b.weight.mul_(2)
    first.wo_b.weight[BEFORE] = 0
    first.wo_b.weight[BEFORE, :c.o_rank] = 1.6 * torch.eye(N_BEFORE)

    # Layer 1, head 0: what followed this token. The value lies beside the key, partly in the slowest rotary pairs.
    slow = c.head_dim - 32
    second.wq_a.weight[:N_KEY] = 0
    second.wq_a.weight[:N_KEY, TOKEN] = back[:N_KEY]
    query = second.wq_b.weight.view(c.heads, c.head_dim, n_low)[0]
    query.mul_(0.05)
    query[:N_KEY, :N_KEY] = torch.eye(N_KEY)
    keys = second.wkv.weight
    keys.mul_(0.1)
    keys[:still] = keys[slow:] = 0
    keys[:N_KEY, BEFORE] = 1.1 * torch.eye(N_BEFORE)[:N_KEY]
    keys[N_KEY:still, TOKEN], keys[slow:, TOKEN] = 0.7 * value[:N_STILL_VALUE], 0.7 * value[N_STILL_VALUE:]
    second.kv_norm.weight[:N_KEY] = 1.4
    second.wo_a[0, :, c.head_dim:] *= 0.2
    second.wo_a[0, :, :c.head_dim] = 0
    second.wo_a[0, :N_STILL_VALUE, N_KEY:still] = torch.eye(N_STILL_VALUE)
    second.wo_a[0, N_STILL_VALUE:56, slow:c.head_dim] = torch.eye(32)
    second.wo_b.weight.mul_(2)
    second.wo_b.weight[COPIED] = 0
    second.wo_b.weight[192:248, :56] = 3 * torch.eye(56)
    model.out.weight[:, COPIED] = 0
    model.out.weight[:, 192:248] = 0.07 * normalised(embed[:, TOKEN]) @ value.t()
    # What is normalised afterwards may have any size: the larger, the slower it turns.
    for attn in (first, second):
        for layer in (attn.wq_a, attn.wq_b, attn.wkv):
            layer.weight.mul_(8)
