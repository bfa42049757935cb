/* test_quant.c - decoders against vectors of the published decoders, bit for bit; the list of formats; rounding. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>
#include <jansson.h>

#include "base/f16.h"
#include "base/mem.h"
#include "base/span.h"
#include "quant/grids.h"
#include "quant/mxfp4.h"
#include "quant/quant.h"

static json_t *vectors;

static int load(void **state)
{
    (void)state;
    vectors = json_load_file("tests/golden/quant_vectors.json", 0, NULL);
    return vectors ? 0 : -1;
}

static int unload(void **state)
{
    (void)state;
    json_decref(vectors);
    return 0;
}

static int nibble(char c) { return c <= '9' ? c - '0' : c - 'a' + 10; }

/* Bytes of a hex string of the vectors; caller frees. */
static uint8_t *unhex(const json_t *object, const char *key, size_t *n)
{
    const char *text = json_string_value(json_object_get(object, key));
    assert_non_null(text);
    *n = strlen(text) / 2;
    uint8_t *bytes = mem_alloc(*n, 1);
    assert_non_null(bytes);
    for (size_t i = 0; i < *n; i++) bytes[i] = (uint8_t)(nibble(text[2 * i]) << 4 | nibble(text[2 * i + 1]));
    return bytes;
}

static void decoders_reproduce_the_published_values_bit_for_bit(void **state)
{
    (void)state;
    const char *name;
    json_t *entry, *block;
    size_t i, n_formats = 0;
    json_object_foreach(json_object_get(vectors, "dequant"), name, entry) {
        const struct quant_format *f = quant_format((uint32_t)json_integer_value(json_object_get(entry, "ggml_type")));
        assert_non_null(f);
        assert_string_equal(f->name, name);
        assert_int_equal(f->block_elems, json_integer_value(json_object_get(entry, "elements")));
        assert_int_equal(f->block_bytes, json_integer_value(json_object_get(entry, "bytes")));
        json_array_foreach(json_object_get(entry, "blocks"), i, block) {
            size_t n_bytes, n_want;
            uint8_t *bytes = unhex(block, "hex", &n_bytes), *want = unhex(block, "f32", &n_want);
            float got[256];
            assert_int_equal(n_bytes, f->block_bytes);
            assert_int_equal(n_want, 4 * f->block_elems);
            f->decode(bytes, got, f->block_elems);
            for (size_t k = 0; k < f->block_elems; k++) {
                uint32_t wanted = load_u32(want + 4 * k);
                if (f32_bits(got[k]) != wanted)
                    fail_msg("%s block %zu value %zu: %08x, want %08x", name, i, k, f32_bits(got[k]), wanted);
            }
            mem_free(bytes);
            mem_free(want);
        }
        n_formats++;
    }
    assert_int_equal(n_formats, 12);
}

static void several_blocks_decode_like_each_alone(void **state)
{
    (void)state;
    const char *name;
    json_t *entry;
    json_object_foreach(json_object_get(vectors, "dequant"), name, entry) {
        const struct quant_format *f = quant_format_named(span_from(name));
        uint8_t row[2 * 292];
        float whole[512], one[256];
        for (size_t i = 0; i < 2; i++) {
            size_t n;
            uint8_t *bytes = unhex(json_array_get(json_object_get(entry, "blocks"), i + 1), "hex", &n);
            memcpy(row + i * n, bytes, n);
            mem_free(bytes);
        }
        f->decode(row, whole, 2 * f->block_elems);
        for (size_t i = 0; i < 2; i++) {
            f->decode(row + i * f->block_bytes, one, f->block_elems);
            assert_memory_equal(whole + i * f->block_elems, one, f->block_elems * 4);
        }
    }
}

static void narrow_floats_round_like_the_published_ones(void **state)
{
    (void)state;
    static const struct { const char *section, *key; enum quant_id id; } cases[] = {
        {"f32_to_f16", "f16", QUANT_F16}, {"f32_to_bf16", "bf16", QUANT_BF16}};
    for (size_t c = 0; c < 2; c++) {
        const json_t *section = json_object_get(vectors, cases[c].section);
        size_t n_in, n_out;
        uint8_t *in = unhex(section, "f32", &n_in), *want = unhex(section, cases[c].key, &n_out), got[512];
        assert_true(n_out <= sizeof got && n_in == 2 * n_out);
        float values[256];
        memcpy(values, in, n_in);
        quant_format(cases[c].id)->encode(values, NULL, got, n_out / 2);
        assert_memory_equal(got, want, n_out);
        mem_free(in);
        mem_free(want);
    }
}

static void rounding_helpers_match_their_vectors(void **state)
{
    (void)state;
    static const char *const names[] = {"e4m3_round", "e2m1_round"};
    for (size_t c = 0; c < 2; c++) {
        const json_t *section = json_object_get(vectors, names[c]);
        size_t n, n_want;
        uint8_t *in = unhex(section, "f32", &n), *want = unhex(section, "rounded_f32", &n_want);
        assert_int_equal(n, n_want);
        for (size_t i = 0; i < n; i += 4) {
            float x = load_f32(in + i), y = c == 0 ? e4m3_to_f32(e4m3_from_f32(x)) : e2m1_to_f32(e2m1_from_f32(x));
            if (y == 0 && load_f32(want + i) == 0) continue; /* the sign of zero is not kept by E2M1 */
            if (f32_bits(y) != load_u32(want + i))
                fail_msg("%s of %.9g: %.9g, want %.9g", names[c], (double)x, (double)y, (double)load_f32(want + i));
        }
        mem_free(in);
        mem_free(want);
    }
}

static void fp4_checkpoint_rows_become_mxfp4_without_loss(void **state)
{
    (void)state;
    const json_t *section = json_object_get(vectors, "hf_fp4_to_mxfp4");
    size_t n;
    uint8_t *packed = unhex(section, "hf_packed", &n), *want = unhex(section, "mxfp4_block", &n);
    uint8_t *values = unhex(section, "f32", &n);
    uint8_t scale = (uint8_t)json_integer_value(json_object_get(section, "scale_e8m0")), block[17], again[17];
    float got[32];
    mxfp4_repack(packed, &scale, block, 32);
    assert_memory_equal(block, want, 17);
    quant_format(QUANT_MXFP4)->decode(block, got, 32);
    assert_memory_equal(got, values, sizeof got);
    quant_format(QUANT_MXFP4)->encode(got, NULL, again, 32); /* and encoding what it holds loses nothing either */
    float back[32];
    quant_format(QUANT_MXFP4)->decode(again, back, 32);
    assert_memory_equal(back, got, sizeof got);
    mem_free(packed);
    mem_free(want);
    mem_free(values);
}

static void every_format_is_found_by_its_id_and_its_name(void **state)
{
    (void)state;
    const struct quant_format *f;
    size_t i = 0;
    for (; (f = quant_format_at(i)); i++) {
        char lower[16];
        size_t n = strlen(f->name);
        for (size_t k = 0; k <= n; k++)
            lower[k] = (char)(f->name[k] >= 'A' && f->name[k] <= 'Z' ? f->name[k] + 32 : f->name[k]);
        assert_ptr_equal(quant_format(f->id), f);
        assert_ptr_equal(quant_format_named(span_from(f->name)), f);
        assert_ptr_equal(quant_format_named(span_from(lower)), f);
        assert_true(!f->weight || f->decode);
        assert_true(f->scales_at + 2 * f->n_scales <= f->block_bytes);
    }
    assert_int_equal(i, 35);
    static const uint32_t retired[] = {4, 5, 31, 32, 33, 36, 37, 38, 43, UINT32_MAX};
    for (i = 0; i < sizeof retired / sizeof retired[0]; i++) assert_null(quant_format(retired[i]));
    assert_null(quant_format_named(SPAN("Q8")));
    assert_null(quant_format_named(SPAN("Q8_0X")));
    assert_null(quant_format_named(SPAN("")));
}

static void row_sizes_refuse_partial_blocks_and_overflow(void **state)
{
    (void)state;
    uint64_t bytes;
    assert_true(quant_row_bytes(quant_format(QUANT_IQ2_XXS), 4096, &bytes));
    assert_int_equal(bytes, 16 * 66);
    assert_true(quant_row_bytes(quant_format(QUANT_F32), 3, &bytes));
    assert_int_equal(bytes, 12);
    assert_false(quant_row_bytes(quant_format(QUANT_IQ2_XXS), 4095, &bytes));
    assert_false(quant_row_bytes(quant_format(QUANT_Q8_0), 31, &bytes));
    assert_false(quant_row_bytes(quant_format(QUANT_F32), UINT64_MAX / 4 + 1, &bytes));
    assert_false(quant_row_bytes(quant_format(QUANT_Q8_0), UINT64_MAX - 31, &bytes));
}

static void scales_that_are_not_finite_are_found_in_any_block(void **state)
{
    (void)state;
    static const uint16_t bad[] = {0x7C00, 0xFC00, 0x7E00, 0x7C01};
    const struct quant_format *f;
    for (size_t i = 0; (f = quant_format_at(i)); i++) {
        uint8_t row[3 * 292] = {0};
        assert_true(quant_scales_finite(f, row, 3 * f->block_elems));
        for (size_t s = 0; s < f->n_scales; s++)
            for (size_t b = 0; b < sizeof bad / sizeof bad[0]; b++) {
                uint8_t *scale = row + 2 * f->block_bytes + f->scales_at + 2 * s;
                store_u16(scale, bad[b]);
                assert_false(quant_scales_finite(f, row, 3 * f->block_elems));
                assert_true(quant_scales_finite(f, row, 2 * f->block_elems));
                store_u16(scale, 0x7BFF);
                assert_true(quant_scales_finite(f, row, 3 * f->block_elems));
            }
    }
    uint8_t block[17] = {255};
    assert_false(quant_scales_finite(quant_format(QUANT_MXFP4), block, 32));
    block[0] = 254;
    assert_true(quant_scales_finite(quant_format(QUANT_MXFP4), block, 32));
    float nan_value = NAN;
    assert_false(quant_scales_finite(quant_format(QUANT_F32), (const uint8_t *)&nan_value, 1));
}

static void code_books_hold_distinct_vectors_of_known_levels(void **state)
{
    (void)state;
    for (size_t i = 0; i < 512; i++) {
        for (size_t j = 0; j < 8; j++) {
            uint8_t level = quant_grid_iq2_xs[i][j];
            assert_true(level == 8 || level == 25 || level == 43);
            level = quant_grid_iq2_xxs[i % 256][j];
            assert_true(level == 8 || level == 25 || level == 43);
        }
        for (size_t k = 0; k < i; k++) {
            assert_memory_not_equal(quant_grid_iq2_xs[i], quant_grid_iq2_xs[k], 8);
            if (i >= 256) continue;
            assert_memory_not_equal(quant_grid_iq2_xxs[i], quant_grid_iq2_xxs[k], 8);
            assert_memory_not_equal(quant_grid_iq3_xxs[i], quant_grid_iq3_xxs[k], 4);
        }
    }
    for (size_t k = 0; k < 128; k++) {
        assert_int_equal(quant_signs[k] & 127, k);
        assert_int_equal(__builtin_popcount(quant_signs[k]) % 2, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decoders_reproduce_the_published_values_bit_for_bit),
        cmocka_unit_test(several_blocks_decode_like_each_alone),
        cmocka_unit_test(narrow_floats_round_like_the_published_ones),
        cmocka_unit_test(rounding_helpers_match_their_vectors),
        cmocka_unit_test(fp4_checkpoint_rows_become_mxfp4_without_loss),
        cmocka_unit_test(every_format_is_found_by_its_id_and_its_name),
        cmocka_unit_test(row_sizes_refuse_partial_blocks_and_overflow),
        cmocka_unit_test(scales_that_are_not_finite_are_found_in_any_block),
        cmocka_unit_test(code_books_hold_distinct_vectors_of_known_levels),
    };
    return cmocka_run_group_tests(tests, load, unload);
}
