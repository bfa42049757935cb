/* test_identity.c - which stored state belongs to which engine: that of the same weights and numbers, computed by the
 * same arithmetic, and no other. */
#include <stdio.h>

#include "base/file.h"
#include "engine/engine.h"
#include "lib/avx512_tables.h"
#include "lib/model.h"
#include "lib/test.h"
#include "ops/cpu/cpu.h"

#define N_TOKENS 300u

static struct ds4_error error;

static struct ds4_engine *open_with(const char *path, const char *backend, uint32_t n_threads, uint32_t chunk_tokens)
{
    return model_open(path, (struct ds4_engine_options){.backend = backend, .ctx_tokens = 1024 + chunk_tokens,
                                                       .n_threads = n_threads, .chunk_tokens = chunk_tokens,
                                                       .n_sessions_max = 2});
}

struct identity {
    uint8_t model[16], stored[16];
};

static struct identity identity_of(const char *path, const char *backend, uint32_t n_threads, uint32_t chunk_tokens)
{
    struct identity id;
    struct ds4_engine *e = open_with(path, backend, n_threads, chunk_tokens);
    memcpy(id.model, ds4_engine_info(e)->digest, 16);
    memcpy(id.stored, ds4_state_layout(e)->digest, 16);
    ds4_engine_close(e);
    return id;
}

TEST(neither_threads_nor_chunks_nor_the_context_make_another_identity)
{
    struct identity a = identity_of(model_small(), "cpu", 1, 64), b = identity_of(model_small(), "cpu", 2, 7);
    assert_memory_equal(&a, &b, sizeof a);
}

TEST(what_another_backend_stored_is_of_the_same_model_and_not_the_same_store)
{
#ifdef DS4_GPU_EMU
    struct identity cpu = identity_of(model_small(), "cpu", 1, 64), emu = identity_of(model_small(), "emu", 1, 64);
    assert_memory_equal(cpu.model, emu.model, 16);
    assert_memory_not_equal(cpu.stored, emu.stored, 16);
#endif
    struct identity ref = identity_of(model_small(), "ref", 1, 64), again = identity_of(model_small(), "ref", 2, 9);
    assert_memory_equal(ref.stored, again.stored, 16);
}

/* The same engine with the kernels of another machine. */
static void arithmetic_with(struct ds4_engine *e, const struct cpu_kernels *kernels, uint8_t digest[16])
{
    const struct cpu_kernels *before = cpu_of(e->backend)->kernels;
    cpu_of(e->backend)->kernels = kernels;
    assert_ok(engine_arithmetic(e, digest, &error), error);
    cpu_of(e->backend)->kernels = before;
}

TEST(kernels_with_other_bits_are_another_arithmetic_and_those_with_the_same_bits_are_not)
{
    uint8_t best[16], again[16], scalar[16];
    struct ds4_engine *e = open_with(model_tiny_q8(), "cpu", 1, 64);
    arithmetic_with(e, cpu_kernels_best(), best);
    arithmetic_with(e, cpu_kernels_best(), again);
    arithmetic_with(e, &cpu_kernels_scalar, scalar);
    assert_memory_equal(best, again, 16);
    if (cpu_kernels_best() != &cpu_kernels_scalar) assert_memory_not_equal(best, scalar, 16);
#if defined(__x86_64__)
    uint8_t wide[16];
    if (cpu_kernels_avx2.supported() && avx512_emulated()) {
        arithmetic_with(e, &cpu_kernels_avx2, best);
        arithmetic_with(e, avx512_emulated(), wide);
        assert_memory_equal(best, wide, 16);
    }
#endif
    ds4_engine_close(e);
}

/* A copy of a model file with another number at a key of the metadata that has a float. */
static const char *with_number(const char *from, const char *key, float number)
{
    static char path[300];
    struct ds4_text bytes = {0};
    (void)snprintf(path, sizeof path, "%s/other.gguf", test_dir());
    assert_ok(file_read_all(from, 1u << 30, &bytes, &error), error);
    size_t at = span_find(span_make(bytes.ptr, bytes.len), span_from(key), 0);
    assert_true(at != SIZE_MAX);
    memcpy(bytes.ptr + at + strlen(key) + 4, &number, sizeof number); /* behind the type of the value */
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes.ptr, 1, bytes.len, file), bytes.len);
    assert_int_equal(fclose(file), 0);
    ds4_text_free(&bytes);
    return path;
}

TEST(the_same_weights_with_other_numbers_are_another_model)
{
    static const struct {
        const char *key;
        float number;
    } others[] = {{"deepseek4.rope.freq_base", 10001}, {"deepseek4.expert_weights_scale", 1.25f},
                  {"deepseek4.attention.layer_norm_rms_epsilon", 2e-6f}, {"deepseek4.rope.scaling.factor", 17}};
    struct identity plain = identity_of(model_small(), "cpu", 1, 64);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        struct identity other = identity_of(with_number(model_small(), others[i].key, others[i].number), "cpu", 1, 64);
        if (memcmp(plain.model, other.model, 16) == 0) fail_msg("%s is not part of the identity", others[i].key);
        assert_memory_not_equal(plain.stored, other.stored, 16);
    }
}

/* Tokens of a prompt that the engine's store gave back; afterwards they are stored. */
static size_t found_in(const char *dir, struct ds4_engine *e, enum ds4_store_cause *cause)
{
    struct ds4_store *store = NULL;
    struct ds4_session *session = NULL;
    struct ds4_store_report report = {0};
    struct ds4_store_explanation explanation;
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 1000, .no_sync = true};
    int32_t ids[N_TOKENS];
    char text[8 * N_TOKENS];
    size_t len = 0;
    for (size_t i = 0; i < N_TOKENS; i++) {
        ids[i] = model_token(i, ds4_engine_info(e)->n_vocab);
        struct ds4_span bytes = ds4_token_bytes(e, ids[i]);
        assert_true(len + bytes.len <= sizeof text);
        memcpy(text + len, bytes.ptr, bytes.len);
        len += bytes.len;
    }
    assert_ok(ds4_store_open(e, &options, &store, &error), error);
    assert_ok(ds4_store_explain(store, span_make(text, len), &explanation, &error), error);
    *cause = explanation.cause;
    assert_ok(ds4_session_create(e, &session, &error), error);
    assert_ok(ds4_store_sync(store, session, ids, N_TOKENS, NULL, NULL, &report, &error), error);
    ds4_store_save(store, session, DS4_SAVE_TURN, NULL);
    ds4_session_destroy(session);
    ds4_store_close(store);
    return report.n_reused;
}

TEST(a_store_gives_back_what_the_same_arithmetic_put_there_and_computes_the_rest_anew)
{
    char dir[300];
    enum ds4_store_cause cause;
    struct ds4_engine *engines[2];
    if (cpu_kernels_best() == &cpu_kernels_scalar) SKIP("this machine has one set of kernels");
    (void)snprintf(dir, sizeof dir, "%s/kv", test_dir());
    for (int i = 0; i < 2; i++) engines[i] = open_with(model_small(), "cpu", 1, 64);
    cpu_of(engines[1]->backend)->kernels = &cpu_kernels_scalar;
    assert_ok(engine_identify(engines[1], &error), error);
    assert_int_equal(found_in(dir, engines[0], &cause), 0);
    assert_int_equal(cause, DS4_CAUSE_NOTHING_STORED);
    assert_int_equal(found_in(dir, engines[1], &cause), 0);
    assert_int_equal(cause, DS4_CAUSE_OTHER_MODEL);
    for (int i = 0; i < 2; i++) { /* neither took the other's away */
        assert_true(found_in(dir, engines[i], &cause) >= N_TOKENS - 1);
        assert_int_equal(cause, DS4_CAUSE_HIT);
        ds4_engine_close(engines[i]);
    }
}

int main(void)
{
    int failed = RUN_TESTS(T(neither_threads_nor_chunks_nor_the_context_make_another_identity),
                           T(what_another_backend_stored_is_of_the_same_model_and_not_the_same_store),
                           T(kernels_with_other_bits_are_another_arithmetic_and_those_with_the_same_bits_are_not),
                           T(the_same_weights_with_other_numbers_are_another_model),
                           T(a_store_gives_back_what_the_same_arithmetic_put_there_and_computes_the_rest_anew));
    test_dir_remove();
    return failed;
}
