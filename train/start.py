"""Where the weights of ds4-tiny begin: random, but for one circuit that copies.

A small model needs tens of millions of tokens before it finds by itself that what followed two words before may follow
them again. So the parts of that rule are written down before the first step, and training is free to change them:
layer 0 has a head that looks one token back and one that looks two back, and they write those tokens' codes into the
stream (the key turns with the position, and the query is that of an earlier position); layer 1 has a head whose query
are the codes of this token and the one before, and whose keys are the codes of the two tokens before each, so that it
finds what followed last time and writes it where the output head reads it. Its compressed rows start as the same keys
and values, averaged over their eight tokens with more weight on rare ones: from them it learns where to look, beyond
the window of 128 tokens.

Channels of the stream: 0 is one for every token, 1-126 carry the token, 127 how rare it is, 128-175 the token before
(its first: how rare), 176-199 the one before that, 200-255 what is copied. The source of the idea is the literature on
induction heads (Olsson et al., 2022).
"""

import torch

TOKEN, RARE, BEFORE, SECOND, COPIED = slice(1, 127), 127, slice(128, 176), slice(176, 200), slice(200, 256)
N_BEFORE, N_SECOND, N_COPIED = 48, 24, 56
KEY_1, KEY_2 = slice(0, 20), slice(20, 40)      # of a key: the token before, the rare ones before that
N_KEY, N_STILL_VALUE = 40, 24
TURNS = (1.6, 1.3, 1.1, 0.9, 0.9, 0.8, 0.7, 0.7)     # amplitude of the fastest rotary pairs of the key
NEAR = (0, 0, 0, 0.3, 0.5, 0.8, 0.8, 0.8)


def normalised(x):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)


def looks_back(attn, head, n, turns, rare=0.0):
    """The query of this head is that of n tokens before, in the pairs whose turns the keys show; it likes rare tokens."""
    c, still = attn.c, attn.c.head_dim - attn.c.rope_dim
    query = attn.wq_b.weight.view(c.heads, c.head_dim, c.q_rank)[head]
    query.mul_(0.05)
    frequency = n * torch.atan2(attn.sin[1], attn.cos[1])
    query[0, 0] = rare
    for i, amplitude in enumerate(turns):
        at = still + 2 * i
        query[at, 0], query[at + 1, 0] = amplitude * frequency[i].cos(), -amplitude * frequency[i].sin()


@torch.no_grad()
def copying(model, counts, rare_gate=1.0, near=1.0, rare=1.5, second_q=1.3, second_k=1.3):
    """counts [vocabulary]: how often training sees each token"""
    c = model.c
    basis = torch.linalg.qr(torch.randn(126, 126))[0]
    back, value = basis[:N_BEFORE - 1], basis[N_BEFORE - 1:N_BEFORE - 1 + N_COPIED]
    embed = model.embed.weight
    embed.mul_(20)
    embed[:, 128:], embed[:, 0] = 0, 4
    rarity = -(counts + 1).log()
    embed[:, RARE] = (rarity - rarity.mean()) / rarity.std()
    first, second = model.layers[0].attn, model.layers[1].attn
    still = c.head_dim - c.rope_dim

    # Layer 0: head 0 sees one token back, head 2 two.
    first.wq_a.weight[0] = 0
    first.wq_a.weight[0, 0] = 0.5
    first.wkv.weight.mul_(0.05)
    first.wkv.weight[:N_BEFORE] = 0
    first.wkv.weight[0, RARE] = 0.3
    first.wkv.weight[1:N_BEFORE, TOKEN] = back * 0.3
    for i, amplitude in enumerate(TURNS):
        at = still + 2 * i
        first.wkv.weight[at:at + 2] = 0
        first.wkv.weight[at, 0] = 0.27 * amplitude
    first.kv_norm.weight[still:still + 2 * len(TURNS)] = 1.7
    first.wo_b.weight.mul_(2)
    first.wo_b.weight[BEFORE] = first.wo_b.weight[SECOND] = 0
    looks_back(first, 0, 1, TURNS)
    looks_back(first, 2, 3.5, [a * near for a in NEAR], rare)
    for group, n, to in ((0, N_BEFORE, BEFORE), (1, N_SECOND, SECOND)):
        first.wo_a[group, :n] = 0
        first.wo_a[group, :n, :n] = torch.eye(n)
        first.wo_a[group, n:] *= 0.2
        first.wo_b.weight[to, group * c.o_rank:group * c.o_rank + n] = 1.6 * torch.eye(n)

    # Layer 1, head 0: what followed these two tokens. The value lies beside the key, partly in the slowest rotary pairs.
    slow = c.head_dim - 32
    wq_a = second.wq_a.weight
    wq_a[:N_KEY] = 0
    wq_a[0, RARE], wq_a[1:20, TOKEN] = 1, back[:19]
    wq_a[KEY_2, SECOND] = second_q * torch.eye(N_SECOND)[1:21]
    query = second.wq_b.weight.view(c.heads, c.head_dim, c.q_rank)[0]
    query.mul_(0.05)
    query[:N_KEY, :N_KEY] = torch.eye(N_KEY)
    for keys, norm in ((second.wkv.weight, second.kv_norm.weight),
                       *((half, second.compressor.norm.weight) for half in second.compressor.wkv.weight.split(c.head_dim))):
        keys.mul_(0.1)
        keys[:still] = keys[slow:] = 0
        keys[KEY_1, BEFORE] = 1.1 * torch.eye(N_BEFORE)[:20]
        keys[KEY_2, SECOND] = second_k * torch.eye(N_SECOND)[1:21]
        keys[N_KEY:still, TOKEN], keys[slow:, TOKEN] = 0.7 * value[:N_STILL_VALUE], 0.7 * value[N_STILL_VALUE:]
        norm[:N_KEY] = 1.4
    for gate in second.compressor.wgate.weight.split(c.head_dim):
        gate.mul_(0.2)
        gate[KEY_1, BEFORE.start] += rare_gate
        gate[KEY_2, SECOND.start] += rare_gate
        gate[N_KEY:still, RARE] += rare_gate
        gate[slow:, RARE] += rare_gate
    indexer = second.indexer
    for part in indexer.wq_b.weight.view(c.index_heads, c.index_dim, c.q_rank):
        part.mul_(0.2)
        part[:N_KEY, :N_KEY] += torch.eye(N_KEY)
    indexer.weights_proj.weight.mul_(0.2)
    indexer.weights_proj.weight[:, 0] += 0.3
    for theirs, own in ((indexer.compressor.wkv, second.compressor.wkv), (indexer.compressor.wgate, second.compressor.wgate)):
        for part, keys in zip(theirs.weight.split(c.index_dim), own.weight.split(c.head_dim)):
            part.mul_(0.2)
            part[:N_KEY] = keys[:N_KEY]
    second.wo_a[0, :, c.head_dim:] *= 0.2
    second.wo_a[0, :, :c.head_dim] = 0
    second.wo_a[0, :N_STILL_VALUE, N_KEY:still] = torch.eye(N_STILL_VALUE)
    second.wo_a[0, N_STILL_VALUE:N_COPIED, slow:c.head_dim] = torch.eye(32)
    second.wo_b.weight.mul_(2)
    second.wo_b.weight[COPIED] = 0
    second.wo_b.weight[COPIED, :N_COPIED] = 3 * torch.eye(N_COPIED)
    model.out.weight[:, COPIED] = 0.07 * normalised(embed[:, TOKEN]) @ value.t()
    # What is normalised afterwards may have any size: the larger, the slower it turns.
    for attn in (first, second):
        for layer in (attn.wq_a, attn.wq_b, attn.wkv):
            layer.weight.mul_(8)
    second.compressor.wkv.weight.mul_(3)
    indexer.compressor.wkv.weight.mul_(3)
