/* test_model.c - the forward pass against published vectors, and what the loader accepts and refuses. */
#include "lib/test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "engine/engine.h"
#include "lib/golden.h"
#include "lib/model.h"

#define N_TOKENS 300

/* ---- vectors --------------------------------------------------------------------------------------------------- */

static json_t *vectors;

static int load_vectors(void **state)
{
    (void)state;
    vectors = golden_json("tests/golden/model_vectors.json.xz");
    return vectors ? 0 : -1;
}

static int drop_vectors(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

static size_t vector_len(const char *key)
{
    return json_array_size(json_object_get(json_object_get(vectors, key), "data"));
}

static double vector_at(const char *key, size_t i)
{
    json_t *data = json_object_get(json_object_get(vectors, key), "data");
    if (i >= json_array_size(data)) fail_msg("%s has no element %zu", key, i);
    return json_number_value(json_array_get(data, i));
}

static void fill_tokens(int32_t tokens[N_TOKENS])
{
    for (size_t i = 0; i < N_TOKENS; i++) tokens[i] = (int32_t)vector_at("tokens", i);
}

static struct ds4_session *eval_all(struct ds4_engine *e, const int32_t *tokens, size_t n, float *logits)
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    assert_ok(ds4_session_create(e, &s, &error), error);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = n, .logits = logits};
    assert_ok(ds4_eval(e, &job, 1, &error), error);
    return s;
}

struct streams {
    float after[16][4 * 256]; /* of the last row, layer by layer */
    uint32_t n_layers;
};

static void keep_streams(void *user, const struct ds4_probe *probe)
{
    struct streams *kept = user;
    if (probe->point != DS4_PROBE_LAYER_OUT) return;
    memcpy(kept->after[probe->layer_i], probe->data + (size_t)(probe->n_rows - 1) * probe->n_cols,
           probe->n_cols * sizeof(float));
    kept->n_layers = probe->layer_i + 1;
}

static double rms_of(const float *got, const char *key, size_t first, size_t n, double *largest)
{
    double sum = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - vector_at(key, first + i));
        sum += d * d;
        if (d > *largest) *largest = d;
    }
    return sqrt(sum / (double)n);
}

/* Ideal: 1e-4 absolute. With rounding: rms 0.02, and the same choice wherever the two best are 0.2 apart. */
static void check_logits(const float *logits, const char *mode, size_t n_vocab, bool exact)
{
    char key[64];
    (void)snprintf(key, sizeof key, "logits.%s", mode);
    for (size_t p = 0; p < vector_len("logits.positions"); p++) {
        double largest = 0;
        size_t position = (size_t)vector_at("logits.positions", p);
        double rms = rms_of(logits + position * n_vocab, key, p * n_vocab, n_vocab, &largest);
        if (exact ? largest > 1e-4 : rms > 0.02) fail_msg("%s at %zu: rms %g, largest %g", key, position, rms, largest);
    }
    char gap[64], best[64];
    (void)snprintf(gap, sizeof gap, "top2_gap.%s", mode);
    (void)snprintf(best, sizeof best, "argmax.%s", mode);
    for (size_t t = 0; t < N_TOKENS; t++) {
        int32_t top;
        ds4_top_logits(logits + t * n_vocab, n_vocab, 1, &top);
        if (vector_at(gap, t) > 0.2) assert_int_equal(top, (int)vector_at(best, t));
    }
}

static void check_vectors(const char *mode, bool ideal)
{
    int32_t tokens[N_TOKENS];
    fill_tokens(tokens);
    struct ds4_engine *e = model_open(model_tiny(), (struct ds4_engine_options){.backend = "ref", .ideal = ideal});
    size_t n_vocab = ds4_engine_info(e)->n_vocab;
    float *logits = malloc(N_TOKENS * n_vocab * sizeof *logits);
    struct streams *kept = calloc(1, sizeof *kept);
    ds4_engine_set_probe(e, keep_streams, kept);
    ds4_session_destroy(eval_all(e, tokens, N_TOKENS, logits));
    check_logits(logits, mode, n_vocab, ideal);
    assert_int_equal(kept->n_layers, 8);
    char key[64];
    (void)snprintf(key, sizeof key, "streams.%s.after_each_layer_t299", mode);
    for (size_t l = 0; l < 8; l++) {
        float every_fourth[256];
        double largest = 0;
        for (size_t i = 0; i < 256; i++) every_fourth[i] = kept->after[l][i / 64 * 256 + i % 64 * 4];
        double rms = rms_of(every_fourth, key, l * 256, 256, &largest);
        if (ideal ? largest > 1e-4 : rms > 0.02) fail_msg("%s, layer %zu: rms %g, largest %g", key, l, rms, largest);
    }
    free(kept);
    free(logits);
    ds4_engine_close(e);
}

TEST(the_reference_forward_pass_agrees_with_the_ideal_vectors) { check_vectors("ideal", true); }
TEST(the_reference_forward_pass_agrees_with_the_rounded_vectors) { check_vectors("qat", false); }

TEST(the_cpu_backend_agrees_with_the_ideal_vectors)
{
    int32_t tokens[N_TOKENS];
    fill_tokens(tokens);
    struct ds4_engine *e = model_open(model_tiny(), (struct ds4_engine_options){.backend = "cpu", .ideal = true});
    size_t n_vocab = ds4_engine_info(e)->n_vocab;
    float *logits = malloc(N_TOKENS * n_vocab * sizeof *logits);
    ds4_session_destroy(eval_all(e, tokens, N_TOKENS, logits));
    check_logits(logits, "ideal", n_vocab, true);
    free(logits);
    ds4_engine_close(e);
}

/* ---- the draft block --------------------------------------------------------------------------------------------- */

/* The vectors pair streams i with token i + 1 for all i at once; a session feeds the block as tokens come. */
TEST(the_draft_block_agrees_with_the_vectors)
{
    int32_t tokens[N_TOKENS];
    fill_tokens(tokens);
    struct ds4_engine *e = model_open(model_tiny(), (struct ds4_engine_options){.backend = "ref", .draft = true});
    size_t n_vocab = ds4_engine_info(e)->n_vocab;
    assert_true(ds4_engine_info(e)->has_mtp);
    struct ds4_session *s = eval_all(e, tokens, N_TOKENS, NULL);
    struct ds4_error error = {0};
    float *logits = malloc(n_vocab * sizeof *logits);
    for (size_t p = 0; p < vector_len("mtp.positions"); p++) {
        uint32_t row = (uint32_t)vector_at("mtp.positions", p);
        double largest = 0;
        assert_ok(graph_mtp_logits(e->graph, &row, 1, &logits, &error), error);
        double rms = rms_of(logits, "mtp.logits", p * n_vocab, n_vocab, &largest);
        if (rms > 0.02) fail_msg("draft logits of position %u: rms %g, largest %g", row, rms, largest);
    }
    free(logits);
    ds4_session_destroy(s);
    ds4_engine_close(e);
}

TEST(drafting_does_not_change_results)
{
    int32_t tokens[N_TOKENS], drafts[4];
    fill_tokens(tokens);
    struct ds4_engine *plain = model_open(model_tiny(), (struct ds4_engine_options){0});
    struct ds4_engine *e = model_open(model_tiny(), (struct ds4_engine_options){.draft = true});
    size_t n_vocab = ds4_engine_info(e)->n_vocab, n_drafts, bytes = n_vocab * sizeof(float);
    struct ds4_session *s = eval_all(e, tokens, 60, NULL), *other = eval_all(plain, tokens, 60, NULL), *whole;
    struct ds4_error error = {0};
    for (size_t t = 60; t < 90; t++) {
        assert_ok(ds4_session_draft(s, tokens[t], 4, drafts, &n_drafts, &error), error);
        assert_int_equal(n_drafts, 4);
        for (size_t i = 0; i < 4; i++) assert_in_range(drafts[i], 0, n_vocab - 1);
        struct ds4_job job = {.session = s, .tokens = tokens + t, .n = 1};
        assert_ok(ds4_eval(e, &job, 1, &error), error);
        job.session = other;
        assert_ok(ds4_eval(plain, &job, 1, &error), error);
        assert_memory_equal(ds4_session_logits(s), ds4_session_logits(other), bytes);
    }
    /* And what is drafted does not depend on how the tokens came. */
    int32_t again[4];
    ds4_session_destroy(other);
    assert_ok(ds4_session_draft(s, 7, 4, drafts, &n_drafts, &error), error);
    ds4_session_destroy(s);
    whole = eval_all(e, tokens, 90, NULL);
    assert_ok(ds4_session_draft(whole, 7, 4, again, &n_drafts, &error), error);
    assert_memory_equal(again, drafts, sizeof drafts);
    ds4_session_destroy(whole);
    ds4_engine_close(plain);
    ds4_engine_close(e);
}

/* ---- every format anywhere, every spelling -------------------------------------------------------------------- */

#define SMALL \
    "random --seed 3 --layers 3 --ratios 0,4,128 --dim 256 --heads 4 --head-dim 128 --q-rank 256 --o-groups 2 " \
    "--o-rank 128 --window 16 --index-heads 2 --index-topk 4 --experts 6 --used 2 --inner 256 --hash-layers 1 " \
    "--vocab 400 "

static float *logits_of(const char *path, const char *backend, size_t n, size_t *n_vocab)
{
    struct ds4_engine *e = model_open(path, (struct ds4_engine_options){.backend = backend, .ideal = true});
    int32_t tokens[256];
    *n_vocab = ds4_engine_info(e)->n_vocab;
    for (size_t i = 0; i < n; i++) tokens[i] = model_token(i, (uint32_t)*n_vocab);
    float *logits = malloc(n * *n_vocab * sizeof *logits);
    ds4_session_destroy(eval_all(e, tokens, n, logits));
    ds4_engine_close(e);
    return logits;
}

static double distance(const float *a, const float *b, size_t n)
{
    double error = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        norm += (double)b[i] * (double)b[i];
    }
    return sqrt(error / norm);
}

TEST(a_matrix_may_have_any_of_the_nine_formats)
{
    static const char *const types[] = {"F32", "F16", "BF16", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ2_XXS", "MXFP4"};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        char name[64], args[512];
        size_t n_vocab;
        (void)snprintf(name, sizeof name, "small-%s", types[i]);
        (void)snprintf(args, sizeof args, SMALL "--type %s", types[i]);
        const char *path = model_file(name, args);
        float *cpu = logits_of(path, "cpu", 140, &n_vocab), *ref = logits_of(path, "ref", 140, &n_vocab);
        double d = distance(cpu, ref, 140 * n_vocab);
        bool two_bits = strcmp(types[i], "Q2_K") == 0 || strcmp(types[i], "IQ2_XXS") == 0;
        if (!(d < (two_bits ? 0.1 : 0.005))) fail_msg("%s: logits differ by %g of their size", types[i], d);
        free(cpu);
        free(ref);
    }
}

TEST(other_spellings_and_split_files_load_the_same_model)
{
    size_t n_vocab;
    float *plain = logits_of(model_file("small-F16", SMALL "--type F16"), "cpu", 40, &n_vocab);
    float *alias = logits_of(model_file("small-alias", SMALL "--type F16 --names alias"), "cpu", 40, &n_vocab);
    assert_memory_equal(alias, plain, 40 * n_vocab * sizeof *plain);
    free(alias);
    if (access("build/fixtures/parts-00003-of-00003.gguf", R_OK) != 0)
        model_generate("build/fixtures/parts.gguf", SMALL "--type F16 --split 3");
    float *parts = logits_of("build/fixtures/parts-00001-of-00003.gguf", "cpu", 40, &n_vocab);
    assert_memory_equal(parts, plain, 40 * n_vocab * sizeof *plain);
    free(parts);
    free(plain);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

struct edit {
    const char *drop_key, *set_u32_key, *drop_tensor, *reshape_tensor, *set_ratio, *poke_tensor;
    uint32_t value;    /* of the key, of compress_ratios[1], or of the first u32 of the poked tensor */
    const char *needles[3]; /* words the sentence must hold */
};

/* Copies a model with one thing changed. */
static void rewrite(const char *from, const char *to, const struct edit *edit)
{
    struct gguf_file *file = NULL;
    struct gguf_writer *w = NULL;
    struct ds4_error error = {0};
    assert_ok(gguf_open(from, &file, &error), error);
    assert_ok(gguf_writer_create(to, &w, &error), error);
    for (size_t i = 0; i < gguf_n_kvs(file); i++) {
        const struct gguf_kv *kv = gguf_kv_at(file, i);
        if (edit->drop_key && span_eq(kv->key, span_from(edit->drop_key))) continue;
        if (edit->set_u32_key && span_eq(kv->key, span_from(edit->set_u32_key)))
            gguf_put_u32(w, edit->set_u32_key, edit->value);
        else if (edit->set_ratio && span_eq(kv->key, span_from(edit->set_ratio)))
            gguf_put_array_u32(w, edit->set_ratio, (const uint32_t[]){0, edit->value, 128, 0}, 4);
        else
            gguf_put_value(w, kv->key, &kv->value);
    }
    char name[128];
    for (size_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        if (edit->drop_tensor && span_eq(t->name, span_from(edit->drop_tensor))) continue;
        uint64_t dims[GGUF_DIMS_MAX];
        memcpy(dims, t->dims, sizeof dims);
        if (edit->reshape_tensor && span_eq(t->name, span_from(edit->reshape_tensor))) dims[0] -= 32;
        (void)snprintf(name, sizeof name, "%.*s", (int)t->name.len, t->name.ptr);
        gguf_put_tensor(w, name, t->type, t->n_dims, dims);
    }
    assert_ok(gguf_writer_begin(w, &error), error);
    for (size_t i = 0; i < gguf_n_tensors(file) && edit->poke_tensor; i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        assert_ok(gguf_writer_data(w, i, 0, t->data, (size_t)t->size_bytes, &error), error);
        if (span_eq(t->name, span_from(edit->poke_tensor)))
            assert_ok(gguf_writer_data(w, i, 0, &edit->value, sizeof edit->value, &error), error);
    }
    assert_ok(gguf_writer_finish(w, &error), error);
    gguf_writer_destroy(w);
    gguf_close(file);
}

TEST(a_wrong_model_is_refused_with_one_sentence_that_names_the_fault)
{
    static const struct edit edits[] = {
        {.drop_key = "general.architecture", .needles = {"general.architecture"}},
        {.drop_key = "deepseek4.block_count", .needles = {"deepseek4.block_count", "lacks"}},
        {.drop_key = "deepseek4.attention.compress_ratios", .needles = {"compress_ratios", "lacks"}},
        {.set_u32_key = "deepseek4.block_count", .value = 0, .needles = {"block_count", "is 0", "expected"}},
        {.set_u32_key = "deepseek4.block_count", .value = 40, .needles = {"compress_ratios", "40 layers"}},
        {.set_u32_key = "deepseek4.block_count", .value = 100000, .needles = {"block_count", "100000"}},
        {.set_u32_key = "deepseek4.attention.head_count", .value = 5, .needles = {"groups", "5"}},
        {.set_u32_key = "deepseek4.attention.key_length", .value = 100, .needles = {"multiple of 64", "100"}},
        {.set_u32_key = "deepseek4.expert_used_count", .value = 7, .needles = {"more experts", "7", "6"}},
        {.set_u32_key = "deepseek4.expert_gating_func", .value = 2, .needles = {"expert_gating_func", "is 2"}},
        {.set_u32_key = "deepseek4.attention.head_count_kv", .value = 2, .needles = {"head_count_kv", "is 2"}},
        {.set_u32_key = "deepseek4.vocab_size", .value = 399, .needles = {"vocab_size", "399", "400"}},
        {.set_u32_key = "deepseek4.embedding_length", .value = 512, .needles = {"token_embd", "256", "512"}},
        {.set_u32_key = "deepseek4.rope.dimension_count", .value = 63, .needles = {"odd", "63"}},
        {.set_u32_key = "deepseek4.attention.sliding_window", .value = 0, .needles = {"sliding_window", "is 0"}},
        {.set_u32_key = "deepseek4.hyper_connection.count", .value = 9, .needles = {"hyper_connection.count", "9"}},
        {.set_u32_key = "deepseek4.hash_layer_count", .value = 2, .needles = {"blk.1.ffn_gate_tid2eid", "missing"}},
        {.drop_tensor = "blk.2.attn_kv.weight", .needles = {"blk.2.attn_kv.weight", "missing", "256 x 128"}},
        {.drop_tensor = "output_norm.weight", .needles = {"output_norm.weight", "missing", "256"}},
        {.reshape_tensor = "blk.1.attn_q_a.weight", .needles = {"blk.1.attn_q_a.weight", "224 x 256", "256 x 256"}},
        {.set_ratio = "deepseek4.attention.compress_ratios", .value = 8, .needles = {"compress_ratios[1]", "is 8"}},
        {.poke_tensor = "blk.0.ffn_gate_tid2eid.weight", .value = 6, .needles = {"tid2eid", "expert 6 of 6"}},
        {.poke_tensor = "blk.0.ffn_gate_tid2eid.weight", .value = UINT32_MAX, .needles = {"tid2eid", "expert -1"}},
        {.poke_tensor = "blk.1.attn_norm.weight", .value = 0x7FC00000, .needles = {"blk.1.attn_norm", "not a finite"}},
        {.poke_tensor = "blk.2.attn_kv.weight", .value = 0x7E00, .needles = {"blk.2.attn_kv", "not a finite"}},
        {.drop_key = "tokenizer.ggml.tokens", .needles = {"tokenizer.ggml.tokens"}},
    };
    const char *from = strdup(model_file("small-Q8_0", SMALL "--type Q8_0")), *dir = test_dir();
    for (size_t i = 0; i < sizeof edits / sizeof edits[0]; i++) {
        char path[512];
        (void)snprintf(path, sizeof path, "%s/edited-%zu.gguf", dir, i);
        rewrite(from, path, &edits[i]);
        struct ds4_error error = {0};
        struct ds4_engine *e = NULL;
        struct ds4_engine_options options = {.model_path = path, .ctx_tokens = 64, .check_tensors = true};
        enum ds4_status status = ds4_engine_open(&options, &e, &error);
        assert_null(e);
        if (status != DS4_ERR_FORMAT && status != DS4_ERR_UNSUPPORTED)
            fail_msg("edit %zu: status %d (%s)", i, (int)status, error.message);
        for (size_t k = 0; k < 3 && edits[i].needles[k]; k++)
            if (!strstr(error.message, edits[i].needles[k]))
                fail_msg("edit %zu: \"%s\" does not name \"%s\"", i, error.message, edits[i].needles[k]);
    }
    test_dir_remove();
    free((void *)(uintptr_t)from);
}

/* Numbers of Flash and Pro by key; one of them changed is refused by name. */
static void write_numbers(const char *path, bool pro, const char *wrong_key)
{
    static const struct { const char *key; uint32_t flash, pro; } counts[] = {
        {"block_count", 43, 61}, {"embedding_length", 4096, 7168}, {"attention.head_count", 64, 128},
        {"attention.head_count_kv", 1, 1}, {"attention.key_length", 512, 512}, {"rope.dimension_count", 64, 64},
        {"attention.q_lora_rank", 1024, 1536}, {"attention.output_lora_rank", 1024, 1024},
        {"attention.output_group_count", 8, 16}, {"attention.sliding_window", 128, 128},
        {"attention.indexer.head_count", 64, 64}, {"attention.indexer.key_length", 128, 128},
        {"attention.indexer.top_k", 512, 1024}, {"expert_count", 256, 384}, {"expert_used_count", 6, 6},
        {"expert_feed_forward_length", 2048, 3072}, {"hash_layer_count", 3, 3}, {"hyper_connection.count", 4, 4},
        {"hyper_connection.sinkhorn_iterations", 20, 20}, {"vocab_size", 129280, 129280},
    };
    struct gguf_writer *w = NULL;
    struct ds4_error error = {0};
    char key[96];
    uint32_t ratios[62];
    assert_ok(gguf_writer_create(path, &w, &error), error);
    gguf_put_string(w, "general.architecture", SPAN("deepseek4"));
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        (void)snprintf(key, sizeof key, "deepseek4.%s", counts[i].key);
        uint32_t value = pro ? counts[i].pro : counts[i].flash;
        gguf_put_u32(w, key, wrong_key && strcmp(wrong_key, counts[i].key) == 0 ? value + 1 : value);
    }
    gguf_put_f32(w, "deepseek4.hyper_connection.epsilon", 1e-6f);
    gguf_put_f32(w, "deepseek4.attention.layer_norm_rms_epsilon", 1e-6f);
    gguf_put_f32(w, "deepseek4.expert_weights_scale", pro ? 2.5f : 1.5f);
    for (uint32_t l = 0; l < 62; l++) ratios[l] = l < 2 ? (pro ? 128 : 0) : l % 2 ? 128 : 4;
    gguf_put_array_u32(w, "deepseek4.attention.compress_ratios", ratios, 62);
    assert_ok(gguf_writer_begin(w, &error), error);
    assert_ok(gguf_writer_finish(w, &error), error);
    gguf_writer_destroy(w);
}

static enum ds4_status read_numbers(const char *path, struct hparams *h, struct ds4_error *error)
{
    struct gguf_file *file = NULL;
    *error = (struct ds4_error){0};
    assert_int_equal(gguf_open(path, &file, error), DS4_OK);
    enum ds4_status status = hparams_read(file, h, error);
    gguf_close(file);
    return status;
}

TEST(flash_and_pro_are_known_by_their_numbers)
{
    static const char *const wrong[] = {"attention.q_lora_rank", "attention.sliding_window", "expert_count",
                                        "attention.indexer.top_k", "hyper_connection.sinkhorn_iterations"};
    struct hparams *h = calloc(1, sizeof *h);
    struct ds4_error error;
    char path[300];
    (void)snprintf(path, sizeof path, "%s/numbers.gguf", test_dir());
    for (int pro = 0; pro < 2; pro++) {
        write_numbers(path, pro, NULL);
        assert_ok(read_numbers(path, h, &error), error);
        assert_string_equal(h->family, pro ? "pro" : "flash");
        assert_int_equal(h->ratio[2], 4);
        assert_int_equal(h->ratio[pro ? 60 : 42], 4);
        for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
            write_numbers(path, pro, wrong[i]);
            assert_int_equal(read_numbers(path, h, &error), DS4_ERR_FORMAT);
            if (!strstr(error.message, wrong[i])) fail_msg("\"%s\" does not name %s", error.message, wrong[i]);
        }
    }
    free(h);
    test_dir_remove();
}

/* With 512 rows to keep, the choice begins at position 2051: 513 rows are visible there. */
TEST(logits_do_not_depend_on_chunks_where_the_indexer_begins_to_choose)
{
    enum { FROM = 2040, TO = 2064 };
    const char *path = model_file("late", "random --seed 5 --layers 2 --ratios 4,0 --dim 64 --heads 2 --head-dim 128 "
                                          "--q-rank 64 --o-groups 1 --o-rank 64 --window 32 --index-heads 2 "
                                          "--index-topk 512 --experts 4 --used 2 --inner 64 --hash-layers 1 "
                                          "--vocab 400 --type Q8_0");
    static const uint32_t chunks[] = {512, 97, 64}, steps[] = {TO - FROM, 7, 1};
    float *expected = NULL;
    int32_t list[TO];
    for (size_t i = 0; i < TO; i++) list[i] = model_token(i, 400);
    for (size_t c = 0; c < 3; c++) {
        struct ds4_engine_options options = {.ctx_tokens = 2304, .chunk_tokens = chunks[c]};
        struct ds4_engine *e = model_open(path, options);
        struct ds4_session *s = NULL;
        struct ds4_error error = {0};
        assert_ok(ds4_session_create(e, &s, &error), error);
        assert_ok(ds4_session_sync(s, list, FROM, NULL, NULL, NULL, &error), error);
        float *logits = malloc((size_t)(TO - FROM) * 400 * sizeof *logits);
        for (size_t t = FROM; t < TO; t += steps[c]) {
            size_t n = TO - t < steps[c] ? TO - t : steps[c];
            struct ds4_job job = {.session = s, .tokens = list + t, .n = n, .logits = logits + (t - FROM) * 400};
            assert_ok(ds4_eval(e, &job, 1, &error), error);
        }
        if (expected) assert_memory_equal(logits, expected, (size_t)(TO - FROM) * 400 * sizeof *logits);
        if (expected) free(logits);
        else expected = logits;
        ds4_session_destroy(s);
        ds4_engine_close(e);
    }
    free(expected);
}

TEST(what_does_not_fit_is_refused_before_anything_is_allocated)
{
    struct ds4_engine *e = NULL;
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = model_tiny(), .memory_budget_bytes = 1 << 20};
    assert_status(ds4_engine_open(&options, &e, &error), DS4_ERR_LIMIT, error);
    assert_non_null(strstr(error.message, "does not fit"));
    assert_non_null(strstr(error.message, "the budget is 1.0 MiB"));
    options.memory_budget_bytes = 0;
    options.ctx_tokens = 2000000;
    error = (struct ds4_error){0};
    assert_status(ds4_engine_open(&options, &e, &error), DS4_ERR_LIMIT, error);
    options.ctx_tokens = 512;
    options.backend = "abacus";
    error = (struct ds4_error){0};
    assert_status(ds4_engine_open(&options, &e, &error), DS4_ERR_UNSUPPORTED, error);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(the_reference_forward_pass_agrees_with_the_ideal_vectors),
        T(the_reference_forward_pass_agrees_with_the_rounded_vectors),
        T(the_cpu_backend_agrees_with_the_ideal_vectors),
        T(the_draft_block_agrees_with_the_vectors),
        T(drafting_does_not_change_results),
        T(a_matrix_may_have_any_of_the_nine_formats),
        T(other_spellings_and_split_files_load_the_same_model),
        T(a_wrong_model_is_refused_with_one_sentence_that_names_the_fault),
        T(flash_and_pro_are_known_by_their_numbers),
        T(logits_do_not_depend_on_chunks_where_the_indexer_begins_to_choose),
        T(what_does_not_fit_is_refused_before_anything_is_allocated),
    };
    return cmocka_run_group_tests_name("model", tests, load_vectors, drop_vectors);
}
