/* fixture_meta.c - metadata of generated models: every key that readers of this architecture insist on.
 * Order and types as in the published files (readers do not depend on them). */
#include <stdio.h>

#include "base/span.h"
#include "tools/fixture_plan.h"

/* llama.cpp's numbers for "mostly this type" (general.file_type). */
static uint32_t file_type(const struct fixture_config *c)
{
    switch (c->gate_up->id) {
    case QUANT_F32: return 0;
    case QUANT_F16: return 1;
    case QUANT_Q4_0: return 2;
    case QUANT_Q8_0: return 7;
    case QUANT_Q2_K: return 10;
    case QUANT_Q3_K: return 12;
    case QUANT_Q4_K: return 15;
    case QUANT_Q6_K: return 18;
    case QUANT_IQ2_XXS: return 19;
    case QUANT_IQ2_XS: return 20;
    case QUANT_IQ3_XXS: return 23;
    case QUANT_BF16: return 32;
    default: return 1024; /* "guessed" */
    }
}

static void put_general(struct gguf_writer *w, const struct fixture_config *c)
{
    char label[48];
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    gguf_put_string(w, "general.type", SPAN("model"));
    gguf_put_f32(w, "general.sampling.top_p", 1);
    gguf_put_f32(w, "general.sampling.temp", 1);
    gguf_put_string(w, "general.name", span_from(c->name));
    if (c->n_embd == 4096 && c->n_experts == 256) (void)snprintf(label, sizeof label, "256x8.4B");
    else (void)snprintf(label, sizeof label, "%ux%u", c->n_experts, c->n_embd);
    gguf_put_string(w, "general.size_label", span_from(label));
    gguf_put_string(w, "general.license", SPAN("mit"));
    gguf_put_u32(w, "general.file_type", file_type(c));
    gguf_put_u32(w, "general.quantization_version", 2);
}

static void put_attention(struct gguf_writer *w, const struct fixture_config *c)
{
    int32_t ratios[FIXTURE_LAYERS_MAX + 1] = {0};
    for (uint32_t l = 0; l < c->n_layers; l++) ratios[l] = (int32_t)c->ratios[l];
    gguf_put_u32(w, "deepseek4.attention.head_count", c->n_heads);
    gguf_put_u32(w, "deepseek4.attention.head_count_kv", 1);
    gguf_put_string(w, "deepseek4.rope.scaling.type", SPAN("yarn"));
    gguf_put_f32(w, "deepseek4.rope.scaling.factor", 16);
    gguf_put_u32(w, "deepseek4.rope.scaling.original_context_length", 65536);
    gguf_put_f32(w, "deepseek4.rope.scaling.yarn_beta_fast", 32);
    gguf_put_f32(w, "deepseek4.rope.scaling.yarn_beta_slow", 1);
    gguf_put_f32(w, "deepseek4.rope.freq_base", 10000);
    gguf_put_f32(w, "deepseek4.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_put_u32(w, "deepseek4.attention.key_length", c->head_dim);
    gguf_put_u32(w, "deepseek4.attention.value_length", c->head_dim);
    gguf_put_u32(w, "deepseek4.rope.dimension_count", c->rope_dim);
    gguf_put_u32(w, "deepseek4.attention.q_lora_rank", c->q_rank);
    gguf_put_u32(w, "deepseek4.attention.output_lora_rank", c->o_rank);
    gguf_put_u32(w, "deepseek4.attention.output_group_count", c->o_groups);
    gguf_put_array_i32(w, "deepseek4.attention.compress_ratios", ratios, c->n_layers + 1);
    gguf_put_f32(w, "deepseek4.attention.compress_rope_freq_base", 160000);
    gguf_put_u32(w, "deepseek4.attention.sliding_window", c->window);
    gguf_put_u32(w, "deepseek4.attention.indexer.head_count", c->index_heads);
    gguf_put_u32(w, "deepseek4.attention.indexer.key_length", c->index_dim);
    gguf_put_u32(w, "deepseek4.attention.indexer.top_k", c->index_topk);
}

static void put_experts(struct gguf_writer *w, const struct fixture_config *c)
{
    float limits[FIXTURE_LAYERS_MAX];
    for (uint32_t l = 0; l < c->n_layers; l++) limits[l] = 10;
    gguf_put_u32(w, "deepseek4.expert_used_count", c->n_used);
    gguf_put_u32(w, "deepseek4.expert_gating_func", 4);
    gguf_put_u32(w, "deepseek4.expert_feed_forward_length", c->n_inner);
    gguf_put_u32(w, "deepseek4.expert_count", c->n_experts);
    gguf_put_u32(w, "deepseek4.expert_shared_count", 1);
    gguf_put_f32(w, "deepseek4.expert_weights_scale", 1.5f);
    gguf_put_bool(w, "deepseek4.expert_weights_norm", true);
    gguf_put_u32(w, "deepseek4.hash_layer_count", c->n_hash);
    gguf_put_array_f32(w, "deepseek4.swiglu_clamp_exp", limits, c->n_layers);
    gguf_put_u32(w, "deepseek4.hyper_connection.count", c->n_hc);
    gguf_put_u32(w, "deepseek4.hyper_connection.sinkhorn_iterations", 20);
    gguf_put_f32(w, "deepseek4.hyper_connection.epsilon", 1e-6f);
}

static void put_dspark(struct gguf_writer *w, const struct fixture_config *c)
{
    int32_t taps[FIXTURE_TAPS];
    for (uint32_t i = 0; i < FIXTURE_TAPS; i++) taps[i] = (int32_t)c->taps[i];
    gguf_put_u32(w, "deepseek4.dspark.layer_count", c->n_stages);
    gguf_put_u32(w, "deepseek4.dspark.block_size", c->draft_tokens);
    gguf_put_u32(w, "deepseek4.dspark.markov_rank", c->markov_rank);
    gguf_put_u32(w, "deepseek4.dspark.noise_token_id", c->n_vocab - 1);
    gguf_put_u32(w, "deepseek4.dspark.expert_count", c->n_experts);
    gguf_put_array_i32(w, "deepseek4.dspark.target_layers", taps, FIXTURE_TAPS);
}

void fixture_put_tokenizer(struct gguf_writer *w, const struct fixture_vocab *v)
{
    gguf_put_string(w, "tokenizer.ggml.model", SPAN("gpt2"));
    gguf_put_string(w, "tokenizer.ggml.pre", SPAN("joyai-llm"));
    gguf_put_array_string(w, "tokenizer.ggml.tokens", v->tokens, v->n_tokens);
    gguf_put_array_i32(w, "tokenizer.ggml.token_type", v->types, v->n_tokens);
    gguf_put_array_string(w, "tokenizer.ggml.merges", v->merges, v->n_merges);
    gguf_put_u32(w, "tokenizer.ggml.bos_token_id", 0);
    gguf_put_u32(w, "tokenizer.ggml.eos_token_id", 1);
    gguf_put_u32(w, "tokenizer.ggml.padding_token_id", 1);
    gguf_put_bool(w, "tokenizer.ggml.add_bos_token", false);
    gguf_put_bool(w, "tokenizer.ggml.add_eos_token", false);
}

void fixture_put_metadata(struct gguf_writer *w, const struct fixture_plan *plan)
{
    const struct fixture_config *c = &plan->config;
    put_general(w, c);
    gguf_put_u32(w, "deepseek4.block_count", c->n_layers);
    gguf_put_u32(w, "deepseek4.context_length", c->ctx_tokens);
    gguf_put_u32(w, "deepseek4.embedding_length", c->n_embd);
    gguf_put_u32(w, "deepseek4.vocab_size", c->n_vocab);
    gguf_put_u32(w, "deepseek4.nextn_predict_layers", c->mtp || c->flash_values ? 1 : 0);
    put_attention(w, c);
    put_experts(w, c);
    if (c->dspark) put_dspark(w, c);
    fixture_put_tokenizer(w, &plan->vocab);
}
