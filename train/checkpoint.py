"""A model on disk: DeepSeek's tensor names and config.json, so that the road from checkpoint to GGUF is the real one.

A folder holds model.safetensors, config.json, tokenizer.json and, once the experts were trained in two bits,
experts-2bit.safetensors with the blocks themselves: layers.0.ffn.experts.w1.iq2_xxs uint8 [experts, rows, bytes a row].
"""

import json
import pathlib

import safetensors
import torch
from model import Config, Model, load_tensors, named_tensors


def config_json(c, description=""):
    return {
        "architectures": ["DeepseekV4ForCausalLM"], "model_type": "deepseek_v4", "description": description,
        "vocab_size": c.vocab, "hidden_size": c.dim, "num_hidden_layers": len(c.ratios),
        "compress_ratios": list(c.ratios) + [0] * c.drafts, "num_hash_layers": c.n_hash,
        "num_attention_heads": c.heads, "num_key_value_heads": 1, "head_dim": c.head_dim,
        "qk_rope_head_dim": c.rope_dim, "q_lora_rank": c.q_rank, "o_groups": c.o_groups, "o_lora_rank": c.o_rank,
        "sliding_window": c.window, "n_routed_experts": c.experts, "n_shared_experts": 1,
        "num_experts_per_tok": c.active, "moe_intermediate_size": c.inter, "routed_scaling_factor": c.route_scale,
        "swiglu_limit": c.limit, "scoring_func": "sqrtsoftplus", "norm_topk_prob": True, "topk_method": "noaux_tc",
        "hc_mult": c.streams, "hc_sinkhorn_iters": c.sinkhorn_rounds, "hc_eps": c.eps,
        "index_n_heads": c.index_heads, "index_head_dim": c.index_dim, "index_topk": c.index_top_k,
        "rms_norm_eps": c.eps, "rope_theta": c.theta, "compress_rope_theta": c.theta_compressed,
        "rope_scaling": {"type": "yarn", "factor": c.yarn_factor, "beta_fast": 32, "beta_slow": 1,
                         "original_max_position_embeddings": c.yarn_original},
        "num_nextn_predict_layers": c.drafts, "tie_word_embeddings": False, "max_position_embeddings": 1048576,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "torch_dtype": "float32"}


def config_from_json(j):
    n = j["num_hidden_layers"]
    return Config(
        vocab=j["vocab_size"], dim=j["hidden_size"], ratios=tuple(j["compress_ratios"][:n]),
        n_hash=j["num_hash_layers"], heads=j["num_attention_heads"], head_dim=j["head_dim"],
        rope_dim=j["qk_rope_head_dim"], q_rank=j["q_lora_rank"], o_groups=j["o_groups"], o_rank=j["o_lora_rank"],
        window=j["sliding_window"], experts=j["n_routed_experts"], active=j["num_experts_per_tok"],
        inter=j["moe_intermediate_size"], route_scale=j["routed_scaling_factor"], limit=j["swiglu_limit"],
        streams=j["hc_mult"], sinkhorn_rounds=j["hc_sinkhorn_iters"], index_heads=j["index_n_heads"],
        index_dim=j["index_head_dim"], index_top_k=j["index_topk"], eps=j["rms_norm_eps"], theta=j["rope_theta"],
        theta_compressed=j["compress_rope_theta"], yarn_factor=j["rope_scaling"]["factor"],
        yarn_original=j["rope_scaling"]["original_max_position_embeddings"], drafts=j["num_nextn_predict_layers"])


def save(model, folder, tokenizer, description="", bf16=False):
    """Writes the folder; the 2-bit experts only where the model has them."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {name: tensor.detach().contiguous().numpy() for name, tensor in named_tensors(model).items()}
    safetensors.save(arrays, folder / "model.safetensors", bf16=bf16)
    packed = {}
    for prefix, blocks in (("layers", model.layers), ("mtp", model.mtp)):
        for i, block in enumerate(blocks):
            for name, data in (block.ffn.two_bit.packed() if block.ffn.two_bit else {}).items():
                packed[f"{prefix}.{i}.ffn.experts.{name}"] = data.numpy()
    if packed:
        safetensors.save(packed, folder / "experts-2bit.safetensors")
    (folder / "config.json").write_text(json.dumps(config_json(model.c, description), indent=1) + "\n")
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer.tokenizer_json(), ensure_ascii=False) + "\n")


def load(folder):
    """The model of a folder, with its full weights."""
    folder = pathlib.Path(folder)
    model = Model(config_from_json(json.loads((folder / "config.json").read_text())))
    load_tensors(model, safetensors.load(folder / "model.safetensors"))
    return model.eval()


def load_gguf(path):
    """The model of a GGUF file, with the weights that its reader sees. -> (model, reader)"""
    import export_gguf
    import gguf

    reader = gguf.Reader(path)
    m = {key.replace("deepseek4.", ""): value for key, value in reader.metadata.items()}
    n = m["block_count"]
    c = Config(
        vocab=m["vocab_size"], dim=m["embedding_length"], ratios=tuple(m["attention.compress_ratios"][:n]),
        n_hash=m["hash_layer_count"], heads=m["attention.head_count"], head_dim=m["attention.key_length"],
        rope_dim=m["rope.dimension_count"], q_rank=m["attention.q_lora_rank"],
        o_groups=m["attention.output_group_count"], o_rank=m["attention.output_lora_rank"],
        window=m["attention.sliding_window"], experts=m["expert_count"], active=m["expert_used_count"],
        inter=m["expert_feed_forward_length"], route_scale=m["expert_weights_scale"], limit=m["swiglu_clamp_exp"][0],
        streams=m["hyper_connection.count"], sinkhorn_rounds=m["hyper_connection.sinkhorn_iterations"],
        index_heads=m["attention.indexer.head_count"], index_dim=m["attention.indexer.key_length"],
        index_top_k=m["attention.indexer.top_k"], eps=m["attention.layer_norm_rms_epsilon"],
        theta=m["rope.freq_base"], theta_compressed=m["attention.compress_rope_freq_base"],
        yarn_factor=m["rope.scaling.factor"], yarn_original=m["rope.scaling.original_context_length"],
        drafts=m["nextn_predict_layers"])
    model = Model(c)
    with torch.no_grad():
        for name, tensor in named_tensors(model).items():
            parts = name.split(".ffn.experts.")
            if len(parts) == 2:
                e, kind, _ = parts[1].split(".")
                array = reader.array(f"{parts[0].replace('layers', 'blk')}.{export_gguf.EXPERTS[kind]}.weight")[int(e)]
            else:
                array = reader.array(export_gguf.gguf_name(name))
            tensor.detach().copy_(torch.from_numpy(array.copy()).view_as(tensor))
    return model.eval(), reader
