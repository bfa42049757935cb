/* test_gpu_made_up.c - weights that a GPU makes up for measurements, in the emulator: valid blocks of about the wanted
 * size in every format; a model runs on them, with the same plan; and written to a file in place of its own they give
 * the same bits, so that what is measured is what runs. */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/engine.h"
#include "lib/model.h"
#include "lib/test.h"
#include "quant/quant.h"

#ifdef DS4_GPU_EMU

#include "lib/tested_gpu.h"

#define N_BLOCKS 40u
#define N_TOKENS 3u
#define MODEL "random --seed 9 --layers 3 --ratios 0,4,128 --dim 64 --heads 2 --head-dim 128 --q-rank 32 " \
    "--o-groups 2 --o-rank 16 --window 16 --index-heads 2 --index-dim 128 --index-topk 4 --experts 4 --used 2 " \
    "--inner 32 --hash-layers 1 --vocab 300 --hc 2 --context 1024 --type q8_0 --experts-type mxfp4 --small f16"

static void check_format(struct backend *b, uint32_t type)
{
    const struct quant_format *format = quant_format(type);
    uint64_t elems = format->block_elems == 1 ? 32 : format->block_elems, bytes;
    uint32_t n_in = (uint32_t)(elems * N_BLOCKS);
    struct ds4_error error = {0};
    assert_true(quant_row_bytes(format, n_in, &bytes));
    uint8_t *there = b->ops->alloc(b, (size_t)bytes), *here = malloc((size_t)bytes), *other = malloc((size_t)bytes);
    float *values = malloc(n_in * sizeof *values);
    double sum = 0, squares = 0;
    assert_ok(backend_gpu_generate(b, there, bytes, type, n_in, 1, &error), error);
    b->ops->read(b, here, there, (size_t)bytes);
    assert_ok(backend_gpu_generate(b, there, bytes, type, n_in, 2, &error), error);
    b->ops->read(b, other, there, (size_t)bytes);
    assert_memory_not_equal(here, other, (size_t)bytes);
    format->decode(here, values, n_in);
    for (uint32_t i = 0; i < n_in; i++) {
        assert_true(isfinite(values[i]));
        sum += (double)values[i];
        squares += (double)values[i] * (double)values[i];
    }
    double rms = sqrt(squares / n_in), mean = sum / n_in, wanted = 1 / sqrt((double)n_in);
    if (rms < wanted / 2.5 || rms > wanted * 2.5 || fabs(mean) > rms / 3)
        fail_msg("%s: mean %g, rms %g, wanted 0 and %g", format->name, mean, rms, wanted);
    b->ops->release(b, there, (size_t)bytes);
    free(here);
    free(other);
    free(values);
}

TEST(made_up_blocks_are_valid_and_of_the_wanted_size_in_every_format_of_weights)
{
    static const uint32_t types[] = {QUANT_F32, QUANT_F16, QUANT_BF16, QUANT_Q8_0, QUANT_Q2_K, QUANT_Q4_K, QUANT_Q6_K,
                                     QUANT_IQ2_XXS, QUANT_MXFP4};
    struct backend_limits limits = {.n_rows = 1, .n_in = 32};
    struct backend *b = NULL;
    struct ds4_error error = {0};
    assert_ok(backend_gpu_create(&tested_host, NULL, &limits, &b, &error), error);
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) check_format(b, types[i]);
    b->ops->destroy(b);
}

static struct ds4_engine_options options_for(const char *path, uint64_t seed)
{
    return (struct ds4_engine_options){.model_path = path, .backend = TESTED_GPU, .ctx_tokens = 256, .chunk_tokens = 8,
                                       .n_threads = 1, .made_up_seed = seed};
}

static void logits_of(struct ds4_engine *e, float logits[300])
{
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    int32_t tokens[N_TOKENS];
    assert_ok(ds4_session_create(e, &s, &error), error);
    for (size_t t = 0; t < N_TOKENS; t++) tokens[t] = model_token(t, 300);
    struct ds4_job job = {.session = s, .tokens = tokens, .n = N_TOKENS};
    assert_ok(ds4_eval(e, &job, 1, &error), error);
    memcpy(logits, ds4_session_logits(s), 300 * sizeof *logits);
    ds4_session_destroy(s);
}

/* A copy of the engine's file with the matrices that its device has. */
static void write_made_up(const struct ds4_engine *e, const char *path)
{
    uint64_t size;
    const uint8_t *bytes = gguf_shard_bytes(e->file, 0, &size);
    uint8_t *copy = malloc((size_t)size);
    memcpy(copy, bytes, (size_t)size);
    for (size_t i = 0; i < gguf_n_tensors(e->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(e->file, i);
        if (!engine_is_copied(t))
            e->backend->ops->read(e->backend, copy + (t->data - bytes), t->data, (size_t)t->size_bytes);
    }
    int fd = open(path, O_CREAT | O_TRUNC | O_WRONLY, 0600);
    assert_true(fd >= 0 && write(fd, copy, (size_t)size) == (ssize_t)size && close(fd) == 0);
    free(copy);
}

TEST(a_model_on_made_up_weights_gives_the_bits_of_a_file_that_holds_them)
{
    const char *path = model_file("gpu_made_up", MODEL);
    char written[300];
    float got[300], want[300], plain[300];
    (void)snprintf(written, sizeof written, "%s.%d", path, (int)getpid());
    struct ds4_engine *made_up = model_open(path, options_for(path, 5));
    logits_of(made_up, got);
    write_made_up(made_up, written);
    ds4_engine_close(made_up);
    struct ds4_engine *from_file = model_open(written, options_for(written, 0));
    logits_of(from_file, want);
    ds4_engine_close(from_file);
    (void)unlink(written);
    assert_memory_equal(got, want, sizeof got);
    struct ds4_engine *other = model_open(path, options_for(path, 0));
    logits_of(other, plain);
    ds4_engine_close(other);
    assert_memory_not_equal(got, plain, sizeof got);
    for (size_t v = 0; v < 300; v++) assert_true(isfinite(got[v]));
}

TEST(the_plan_is_that_of_the_file_and_made_up_weights_need_a_gpu_that_holds_them)
{
    const char *path = model_file("gpu_made_up", MODEL);
    struct ds4_engine_options plain = options_for(path, 0), made_up = options_for(path, 5), cpu = made_up;
    struct ds4_plan a, b;
    struct ds4_error error = {0};
    struct ds4_engine *e = NULL;
    assert_ok(ds4_plan_make(&plain, &a, &error), error);
    assert_ok(ds4_plan_make(&made_up, &b, &error), error);
    assert_int_equal(a.n_items, b.n_items);
    for (size_t i = 0; i < a.n_items; i++) assert_int_equal(a.items[i].bytes, b.items[i].bytes);
    cpu.backend = "cpu";
    assert_int_equal(ds4_engine_open(&cpu, &e, &error), DS4_ERR_UNSUPPORTED);
}

int main(void)
{
    return RUN_TESTS(T(made_up_blocks_are_valid_and_of_the_wanted_size_in_every_format_of_weights),
                     T(a_model_on_made_up_weights_gives_the_bits_of_a_file_that_holds_them),
                     T(the_plan_is_that_of_the_file_and_made_up_weights_need_a_gpu_that_holds_them));
}

#else

TEST(this_build_has_no_emulator_to_make_weights_up_on)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        assert_string_not_equal(choice->ops->name, "emu");
}
int main(void) { return RUN_TESTS(T(this_build_has_no_emulator_to_make_weights_up_on)); }

#endif
