#!/usr/bin/env python3
"""A trained checkpoint -> one GGUF file. Needs NumPy alone.

    export_gguf.py CHECKPOINT_DIR models/ds4-tiny.gguf [--experts 2bit|q8_0|f16|f32] [--dense q8_0|f16|f32]

CHECKPOINT_DIR holds model.safetensors, config.json and tokenizer.json under DeepSeek's names (checkpoint.py writes
them), and experts-2bit.safetensors where the experts were trained in two bits: their blocks go into the file byte for
byte, because quantising the full weights once more would choose other scales and lose what was trained. Types follow
the published recipe (Q8_0 for attention, shared experts, embedding and head; F16 for router, hyper-connections,
compressors, indexer; F32 for the rest); --dense f32 makes everything that is no expert F32, for exact comparisons.
"""

import argparse
import json
import pathlib
import re

import numpy as np

import gguf
import safetensors

PLAIN = {"embed.weight": "token_embd.weight", "norm.weight": "output_norm.weight", "head.weight": "output.weight"}
ATTENTION = {"attn_sink": "attn_sinks.weight", "wq_a.weight": "attn_q_a.weight", "wq_b.weight": "attn_q_b.weight",
             "q_norm.weight": "attn_q_a_norm.weight", "kv_norm.weight": "attn_kv_a_norm.weight",
             "wkv.weight": "attn_kv.weight", "wo_a.weight": "attn_output_a.weight",
             "wo_b.weight": "attn_output_b.weight", "indexer.wq_b.weight": "indexer.attn_q_b.weight",
             "indexer.weights_proj.weight": "indexer.proj.weight"}
FEED_FORWARD = {"gate.weight": "ffn_gate_inp.weight", "gate.bias": "exp_probs_b.bias",
                "gate.tid2eid": "ffn_gate_tid2eid.weight", "shared_experts.w1.weight": "ffn_gate_shexp.weight",
                "shared_experts.w2.weight": "ffn_down_shexp.weight", "shared_experts.w3.weight": "ffn_up_shexp.weight"}
EXPERTS = {"w1": "ffn_gate_exps", "w2": "ffn_down_exps", "w3": "ffn_up_exps"}
# What stays in 16 bits under the published recipe, by a part of the GGUF name.
HALF = ("hc_attn_fn", "hc_ffn_fn", "hc_head_fn", "output_hc_fn", "ffn_gate_inp", "compressor_kv", "compressor_gate",
        "compressor_ape", "indexer.")


def gguf_name(name):
    """layers.1.attn.wq_a.weight -> blk.1.attn_q_a.weight"""
    if name in PLAIN:
        return PLAIN[name]
    if name.startswith("hc_head_"):
        return f"output_{name.replace('head_', '')}.weight"
    stem, index, rest = re.fullmatch(r"(layers|mtp)\.(\d+)\.(.*)", name).groups()
    prefix = f"blk.{index}." if stem == "layers" else f"mtp.{index}."
    if rest.startswith("attn."):
        rest = rest[len("attn."):]
        match = re.fullmatch(r"(indexer\.)?compressor\.(wkv|wgate|norm|ape)(\.weight)?", rest)
        if match:
            head = "indexer_compressor_" if match[1] else "attn_compressor_"
            return f"{prefix}{head}{match[2].replace('w', '')}.weight"
        return prefix + ATTENTION[rest]
    if rest.startswith("ffn."):
        return prefix + FEED_FORWARD[rest[len("ffn."):]]
    return prefix + rest + ("" if rest.endswith(".weight") else ".weight")


def stacked(tensors):
    """Experts of one layer become one array; everything else keeps its name."""
    out, stacks = {}, {}
    for name, array in tensors.items():
        match = re.fullmatch(r"(.*)\.ffn\.experts\.(\d+)\.(w[123])\.weight", name)
        if match:
            stacks.setdefault((match[1], match[3]), {})[int(match[2])] = array
        else:
            out[gguf_name(name)] = array
    for (layer, kind), items in stacks.items():
        name = f"{layer.replace('layers', 'blk')}.{EXPERTS[kind]}.weight"
        out[name] = np.stack([items[i] for i in range(len(items))])
    return out


def dense_type(name, shape, dense):
    if "tid2eid" in name:
        return "I32"
    if len(shape) < 2 or dense == "f32":
        return "F32"
    return "F16" if any(part in name for part in HALF) else dense.upper()


def tensors_of(folder, experts, dense):
    """[(name, type, shape, data)] in the order of layers"""
    arrays = stacked(safetensors.load(folder / "model.safetensors"))
    packed_file = folder / "experts-2bit.safetensors"
    packed = {}
    if experts == "2bit":
        for name, blocks in safetensors.load(packed_file).items():     # layers.0.ffn.experts.w1.iq2_xxs
            layer, kind, form = re.fullmatch(r"(.*)\.ffn\.experts\.(w[123])\.(.*)", name).groups()
            packed[f"{layer.replace('layers', 'blk')}.{EXPERTS[kind]}.weight"] = form.upper(), blocks
    out = []
    for name, array in arrays.items():
        if name in packed:
            kind, data = packed[name]
        else:
            kind = experts.upper() if "_exps" in name else dense_type(name, array.shape, dense)
            data = gguf.encode(array, kind)
        out.append((name, kind, array.shape, data.reshape(-1)))
    order = lambda item: (not item[0].startswith(("token_embd", "output")), item[0].startswith("mtp"),
                          int(re.search(r"\.(\d+)\.", item[0] + ".0.")[1]))
    return sorted(out, key=order)


def model_metadata(config):
    """The deepseek4.* keys, in the order of the published files."""
    layers, rope = config["num_hidden_layers"], config["rope_scaling"]
    keys = [
        ("block_count", "u32", layers), ("context_length", "u32", config["max_position_embeddings"]),
        ("embedding_length", "u32", config["hidden_size"]),
        ("attention.head_count", "u32", config["num_attention_heads"]), ("attention.head_count_kv", "u32", 1),
        ("rope.scaling.type", "str", "yarn"), ("rope.scaling.factor", "f32", rope["factor"]),
        ("rope.scaling.original_context_length", "u32", rope["original_max_position_embeddings"]),
        ("rope.scaling.yarn_beta_fast", "f32", rope["beta_fast"]),
        ("rope.scaling.yarn_beta_slow", "f32", rope["beta_slow"]), ("rope.freq_base", "f32", config["rope_theta"]),
        ("attention.layer_norm_rms_epsilon", "f32", config["rms_norm_eps"]),
        ("expert_used_count", "u32", config["num_experts_per_tok"]), ("expert_gating_func", "u32", 4),
        ("attention.key_length", "u32", config["head_dim"]), ("attention.value_length", "u32", config["head_dim"]),
        ("vocab_size", "u32", config["vocab_size"]), ("rope.dimension_count", "u32", config["qk_rope_head_dim"]),
        ("attention.q_lora_rank", "u32", config["q_lora_rank"]),
        ("attention.output_lora_rank", "u32", config["o_lora_rank"]),
        ("attention.output_group_count", "u32", config["o_groups"]),
        ("attention.compress_ratios", "[i32]", config["compress_ratios"]),
        ("attention.compress_rope_freq_base", "f32", config["compress_rope_theta"]),
        ("expert_feed_forward_length", "u32", config["moe_intermediate_size"]),
        ("expert_count", "u32", config["n_routed_experts"]), ("expert_shared_count", "u32", 1),
        ("expert_weights_scale", "f32", config["routed_scaling_factor"]),
        ("hash_layer_count", "u32", config["num_hash_layers"]), ("expert_weights_norm", "bool", True),
        ("swiglu_clamp_exp", "[f32]", [config["swiglu_limit"]] * layers),
        ("swiglu_clamp_shexp", "[f32]", [config["swiglu_limit"]] * layers),
        ("attention.sliding_window", "u32", config["sliding_window"]),
        ("attention.indexer.head_count", "u32", config["index_n_heads"]),
        ("attention.indexer.key_length", "u32", config["index_head_dim"]),
        ("attention.indexer.top_k", "u32", config["index_topk"]),
        ("nextn_predict_layers", "u32", config["num_nextn_predict_layers"]),
        ("hyper_connection.count", "u32", config["hc_mult"]),
        ("hyper_connection.sinkhorn_iterations", "u32", config["hc_sinkhorn_iters"]),
        ("hyper_connection.epsilon", "f32", config["hc_eps"])]
    return [("deepseek4." + key, kind, value) for key, kind, value in keys]


def tokenizer_metadata(tokenizer):
    """From a tokenizer.json. Types: 1 base token, 3 control, 4 a marker that is text as well (think, tool calls)."""
    added = {entry["id"]: entry for entry in tokenizer["added_tokens"]}
    names = {i: entry["content"] for i, entry in added.items()}
    names.update({i: token for token, i in tokenizer["model"]["vocab"].items()})
    kinds = [(3 if added[i]["special"] else 4) if i in added else 1 for i in range(len(names))]
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    return [("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", "joyai-llm"),
            ("tokenizer.ggml.tokens", "[str]", [names[i] for i in range(len(names))]),
            ("tokenizer.ggml.token_type", "[i32]", kinds), ("tokenizer.ggml.merges", "[str]", merges),
            ("tokenizer.ggml.bos_token_id", "u32", 0), ("tokenizer.ggml.eos_token_id", "u32", 1),
            ("tokenizer.ggml.padding_token_id", "u32", 2), ("tokenizer.ggml.add_bos_token", "bool", False),
            ("tokenizer.ggml.add_eos_token", "bool", False)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--experts", choices=("2bit", "q8_0", "f16", "f32"), default="2bit")
    parser.add_argument("--dense", choices=("q8_0", "f16", "f32"), default="q8_0")
    options = parser.parse_args()
    config = json.loads((options.checkpoint / "config.json").read_text())
    tokenizer = json.loads((options.checkpoint / "tokenizer.json").read_text())
    general = [("general.architecture", "str", "deepseek4"), ("general.type", "str", "model"),
               ("general.name", "str", "ds4-tiny"), ("general.size_label", "str", "10M"),
               ("general.license", "str", "mit"),
               ("general.description", "str", config.get("description", "")),
               ("general.file_type", "u32", {"2bit": 19, "q8_0": 7, "f16": 1, "f32": 0}[options.experts]),
               ("general.quantization_version", "u32", 2)]
    tensors = tensors_of(options.checkpoint, options.experts, options.dense)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    gguf.write(options.out, general + model_metadata(config) + tokenizer_metadata(tokenizer), tensors)
    print(f"{options.out}: {len(tensors)} tensors, {options.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
