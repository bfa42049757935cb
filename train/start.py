"""Where the weights of ds4-tiny begin: random, but for one circuit that copies.

A small model needs tens of millions of tokens before it finds by itself that what followed a word in a place before may
follow it again in such a place. So the parts of that rule are written down before the first step, and training is free
to change them. Layer 0 has a head that looks one token back, and one that looks around the fourth token back and
prefers rare ones; both write what they see into the stream (the key turns with the position, and the query is that of
an earlier position). Layer 1 has a head whose query is the token now with the words around it, and whose keys are the
token before each with the words around that: so it finds what followed last time, in a list of many lines the right
one, and writes it where the output head reads it. Its compressed rows begin with the same keys and values, over eight
tokens with more weight on rare ones, and its indexer with the same keys: from there the model learns to look beyond the
window of 128 tokens.

Channels of the stream: 0 is one for every token, 1-126 carry the token, 127 how rare it is, 128-175 the token before
(its first: how rare), 176-199 the words around, 200-255 what is copied. The source of the idea is the literature on
induction heads (Olsson et al., 2022).
"""

import torch

TOKEN, RARE, BEFORE, AROUND, COPIED = slice(1, 127), 127, slice(128, 176), slice(176, 200), slice(200, 256)
N_BEFORE, N_AROUND, N_COPIED = 48, 24, 56
KEY_BEFORE, KEY_AROUND, N_KEY = slice(0, 20), slice(20, 40), 40     # parts of a key in layer 1
SLOW = 32                       # the slowest rotary values hold part of what is copied, beside the key
BACK, NEARBY = 1, 3.5           # how far the two heads of layer 0 look
TURNS = (1.6, 1.3, 1.1, 0.9, 0.9, 0.8, 0.7, 0.7)        # amplitude of the fastest rotary pairs of the key
BLURRED = (0, 0, 0, 0.3, 0.5, 0.8, 0.8, 0.8)            # the same, of a query that does not mind the exact place
LIKES_RARE, RARE_GATE, WEIGHT_AROUND = 1.5, 1.0, 1.3


def normalised(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def looks_back(attn, head, n, turns, rare=0.0):
    """The query of this head is that of n tokens before, in the pairs whose turns the keys show, and rare tokens."""
    c, still = attn.c, attn.c.head_dim - attn.c.rope_dim
    query = attn.wq_b.weight.view(c.heads, c.head_dim, c.q_rank)[head]
    query.mul_(0.05)
    frequency = n * torch.atan2(attn.sin[1], attn.cos[1])
    query[0, 0] = rare
    for i, amplitude in enumerate(turns):
        at = still + 2 * i
        query[at, 0], query[at + 1, 0] = amplitude * frequency[i].cos(), -amplitude * frequency[i].sin()


def first_layer(attn, back):
    """Head 0 sees one token back, head 2 the words around."""
    c, still = attn.c, attn.c.head_dim - attn.c.rope_dim
    attn.wq_a.weight[0] = 0
    attn.wq_a.weight[0, 0] = 0.5
    attn.wkv.weight.mul_(0.05)
    attn.wkv.weight[:N_BEFORE] = 0
    attn.wkv.weight[0, RARE] = 0.3
    attn.wkv.weight[1:N_BEFORE, TOKEN] = back * 0.3
    for i, amplitude in enumerate(TURNS):
        at = still + 2 * i
        attn.wkv.weight[at:at + 2] = 0
        attn.wkv.weight[at, 0] = 0.27 * amplitude
    attn.kv_norm.weight[still:still + 2 * len(TURNS)] = 1.7
    attn.wo_b.weight.mul_(2)
    attn.wo_b.weight[BEFORE] = attn.wo_b.weight[AROUND] = 0
    looks_back(attn, 0, BACK, TURNS)
    looks_back(attn, 2, NEARBY, BLURRED, LIKES_RARE)
    for group, n, to in ((0, N_BEFORE, BEFORE), (1, N_AROUND, AROUND)):
        attn.wo_a[group, :n] = 0
        attn.wo_a[group, :n, :n] = torch.eye(n)
        attn.wo_a[group, n:] *= 0.2
        attn.wo_b.weight[to, group * c.o_rank:group * c.o_rank + n] = 1.6 * torch.eye(n)


def second_layer(attn, back, value):
    """Head 0 finds what followed this token, among these words, and copies it."""
    c, still, slow = attn.c, attn.c.head_dim - attn.c.rope_dim, attn.c.head_dim - SLOW
    n_still = still - N_KEY
    wq_a, around = attn.wq_a.weight, WEIGHT_AROUND * torch.eye(N_AROUND)[1:21]
    wq_a[:N_KEY] = 0
    wq_a[0, RARE], wq_a[1:20, TOKEN] = 1, back[:19]
    wq_a[KEY_AROUND, AROUND] = around
    query = attn.wq_b.weight.view(c.heads, c.head_dim, c.q_rank)[0]
    query.mul_(0.05)
    query[:N_KEY, :N_KEY] = torch.eye(N_KEY)
    parts = [(half, attn.compressor.norm.weight) for half in attn.compressor.wkv.weight.split(c.head_dim)]
    for rows, norm in [(attn.wkv.weight, attn.kv_norm.weight)] + parts:
        rows.mul_(0.1)
        rows[:still] = rows[slow:] = 0
        rows[KEY_BEFORE, BEFORE] = 1.1 * torch.eye(N_BEFORE)[:20]
        rows[KEY_AROUND, AROUND] = around
        rows[N_KEY:still, TOKEN], rows[slow:, TOKEN] = 0.7 * value[:n_still], 0.7 * value[n_still:]
        norm[:N_KEY] = 1.4
    for gate in attn.compressor.wgate.weight.split(c.head_dim):
        gate.mul_(0.2)
        gate[KEY_BEFORE, BEFORE.start] += RARE_GATE
        gate[KEY_AROUND, AROUND.start] += RARE_GATE
        gate[N_KEY:still, RARE] += RARE_GATE
        gate[slow:, RARE] += RARE_GATE
    attn.wo_a[0, :, c.head_dim:] *= 0.2
    attn.wo_a[0, :, :c.head_dim] = 0
    attn.wo_a[0, :n_still, N_KEY:still] = torch.eye(n_still)
    attn.wo_a[0, n_still:N_COPIED, slow:c.head_dim] = torch.eye(SLOW)
    attn.wo_b.weight.mul_(2)
    attn.wo_b.weight[COPIED] = 0
    attn.wo_b.weight[COPIED, :N_COPIED] = 3 * torch.eye(N_COPIED)


def index(indexer, compressor):
    """Every index head begins with the keys of the attention it chooses for."""
    c = indexer.c
    for head in indexer.wq_b.weight.view(c.index_heads, c.index_dim, c.q_rank):
        head.mul_(0.2)
        head[:N_KEY, :N_KEY] += torch.eye(N_KEY)
    indexer.weights_proj.weight.mul_(0.2)
    indexer.weights_proj.weight[:, 0] += 0.3
    for theirs, own in ((indexer.compressor.wkv, compressor.wkv), (indexer.compressor.wgate, compressor.wgate)):
        for part, keys in zip(theirs.weight.split(c.index_dim), own.weight.split(c.head_dim)):
            part.mul_(0.2)
            part[:N_KEY] = keys[:N_KEY]


@torch.no_grad()
def copying(model, counts):
    """counts [vocabulary]: how often training sees each token"""
    basis = torch.linalg.qr(torch.randn(126, 126))[0]
    back, value = basis[:N_BEFORE - 1], basis[N_BEFORE - 1:N_BEFORE - 1 + N_COPIED]
    embed = model.embed.weight
    embed.mul_(20)
    embed[:, 128:], embed[:, 0] = 0, 4
    rarity = -(counts + 1).log()
    embed[:, RARE] = (rarity - rarity.mean()) / rarity.std()
    first, second = model.layers[0].attn, model.layers[1].attn
    first_layer(first, back)
    second_layer(second, back, value)
    index(second.indexer, second.compressor)
    model.out.weight[:, COPIED] = 0.07 * normalised(embed[:, TOKEN]) @ value.t()
    # What is normalised afterwards may have any size: the larger, the slower it turns.
    for attn in (first, second):
        for layer in (attn.wq_a, attn.wq_b, attn.wkv):
            layer.weight.mul_(8)
    second.compressor.wkv.weight.mul_(3)
    second.indexer.compressor.wkv.weight.mul_(3)
