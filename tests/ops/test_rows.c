/* test_rows.c - rows of state: rounding by the rule, packing that loses nothing, and layouts of the stated sizes. */
#include <math.h>

#include "base/f16.h"
#include "base/rng.h"
#include "lib/test.h"
#include "ops/rows.h"

enum { DIM = 192, ROPE = 64, N = DIM - ROPE, INDEX_DIM = 128, TRIES = 3000 };

/* Numbers of all sizes, with zeros of both signs, exact powers of two and values half-way between codes. */
static float any_number(struct rng *rng, int exponent)
{
    uint64_t z = rng_next(rng);
    float sign = z & 1 ? -1.0f : 1.0f, whole = (float)(z >> 8 & 31);
    switch (z >> 1 & 7) {
    case 0: return sign * 0.0f;
    case 1: return sign * ldexpf(1, exponent - (int)(z >> 8 & 15));
    case 2: return sign * ldexpf(whole + 0.5f, exponent - 5); /* ties of the codes */
    case 3: return sign * ldexpf(whole, exponent - 6);
    default: return sign * ldexpf(rng_float(rng), exponent);
    }
}

static void any_row(struct rng *rng, float *row, uint32_t dim)
{
    int exponent = (int)rng_below(rng, 60) - 40;
    for (uint32_t i = 0; i < dim; i++) row[i] = any_number(rng, exponent + (int)(i / 64));
}

/* Distance of the nearest code to x, codes being all values of a table, halves towards the even index. */
static float nearest(const float *codes, int n, float x)
{
    int best = 0;
    for (int i = 1; i < n; i++) {
        double d = fabs((double)codes[i] - fabs((double)x)), d_best = fabs((double)codes[best] - fabs((double)x));
        if (d < d_best || (d == d_best && i % 2 == 0)) best = i;
    }
    return x < 0 ? -codes[best] : codes[best];
}

/* The rule as the specification states it, by search: s = 2^ceil(log2 fl32(a fl32(1/max))), nearest code of x/s. */
static void round_block_by_search(float *x, uint32_t n, float floor, float max, const float *codes, int n_codes)
{
    float a = floor;
    for (uint32_t i = 0; i < n; i++) a = fmaxf(a, fabsf(x[i]));
    float p = a * (1.0f / max);
    int e = -126;
    while (ldexp(1, e) < (double)p) e++;
    for (uint32_t i = 0; i < n; i++) {
        float scaled = (float)ldexp((double)x[i], -e);
        x[i] = (float)ldexp((double)nearest(codes, n_codes, fminf(fmaxf(scaled, -max), max)), e);
    }
}

TEST(key_value_rows_round_as_the_rule_says)
{
    struct rng rng = {test_seed()};
    float codes[127];
    for (int i = 0; i < 127; i++) /* E4M3: 0 .. 448, built from its definition */
        codes[i] = i < 8 ? ldexpf((float)i, -9) : ldexpf(1 + (float)(i % 8) / 8, i / 8 - 7);
    assert_same_bits(codes[126], 448.0f);
    for (int k = 0; k < TRIES; k++) {
        float row[DIM], want[DIM];
        any_row(&rng, row, DIM);
        memcpy(want, row, sizeof row);
        for (int at = 0; at < N; at += 64) round_block_by_search(want + at, 64, 1e-4f, 448, codes, 127);
        kv_row_round(row, DIM, ROPE);
        for (int i = 0; i < DIM; i++)
            if (row[i] != want[i]) fail_msg("try %d element %d: %a, wanted %a", k, i, (double)row[i], (double)want[i]);
    }
}

TEST(index_rows_round_as_the_rule_says)
{
    static const float codes[8] = {0, 0.5f, 1, 1.5f, 2, 3, 4, 6};
    struct rng rng = {test_seed()};
    for (int k = 0; k < TRIES; k++) {
        float row[INDEX_DIM], want[INDEX_DIM];
        any_row(&rng, row, INDEX_DIM);
        memcpy(want, row, sizeof row);
        for (int at = 0; at < INDEX_DIM; at += 32) round_block_by_search(want + at, 32, 6 * 0x1p-126f, 6, codes, 8);
        index_row_round(row, INDEX_DIM);
        for (int i = 0; i < INDEX_DIM; i++)
            if (row[i] != want[i]) fail_msg("try %d element %d: %a, wanted %a", k, i, (double)row[i], (double)want[i]);
    }
}

TEST(a_packed_key_value_row_unpacks_to_the_rounded_row)
{
    struct rng rng = {test_seed()};
    for (int k = 0; k < TRIES; k++) {
        float row[DIM], back[DIM];
        uint8_t packed[DIM * 2];
        any_row(&rng, row, DIM);
        kv_row_pack(row, DIM, ROPE, packed);
        kv_row_unpack(packed, DIM, ROPE, back);
        kv_row_round(row, DIM, ROPE);
        for (int i = N; i < DIM; i++) row[i] = bf16_to_f32(bf16_from_f32(row[i]));
        for (int i = 0; i < DIM; i++) assert_same_bits(back[i], row[i]);
    }
}

TEST(a_packed_index_row_unpacks_to_the_rounded_row)
{
    struct rng rng = {test_seed()};
    for (int k = 0; k < TRIES; k++) {
        float row[INDEX_DIM], back[INDEX_DIM];
        uint8_t packed[INDEX_DIM];
        any_row(&rng, row, INDEX_DIM);
        index_row_pack(row, INDEX_DIM, packed);
        index_row_unpack(packed, INDEX_DIM, back);
        index_row_round(row, INDEX_DIM);
        for (int i = 0; i < INDEX_DIM; i++) assert_same_bits(back[i], row[i]);
    }
}

/* Every code that occurs in a stored row survives: the values always, and the bytes unless the largest code of a block
 * is half of the range or less, where the same values have another spelling. */
TEST(packing_an_unpacked_key_value_row_loses_nothing)
{
    struct rng rng = {test_seed()};
    size_t n_same = 0;
    for (int k = 0; k < TRIES; k++) {
        float row[DIM], again[DIM];
        uint8_t packed[DIM * 2], repacked[DIM * 2];
        memset(packed, 0, sizeof packed);
        memset(repacked, 0, sizeof repacked);
        any_row(&rng, row, DIM);
        kv_row_pack(row, DIM, ROPE, packed);
        kv_row_unpack(packed, DIM, ROPE, row);
        kv_row_pack(row, DIM, ROPE, repacked);
        kv_row_unpack(repacked, DIM, ROPE, again);
        for (int i = 0; i < DIM; i++) assert_same_bits(again[i], row[i]);
        for (int block = 0; block < N / 64; block++) {
            int largest = 0;
            for (int i = 0; i < 64; i++) {
                int code = packed[block * 64 + i] & 127;
                largest = code > largest ? code : largest;
            }
            bool other_spelling = largest == 0x76; /* 224 */
            if (other_spelling) continue;
            assert_int_equal(packed[N + block], repacked[N + block]);
            assert_memory_equal(packed + block * 64, repacked + block * 64, 64);
            n_same++;
        }
        assert_memory_equal(packed + N + N / 64, repacked + N + N / 64, 2 * ROPE);
    }
    assert_true(n_same > TRIES);
}

TEST(packing_an_unpacked_index_row_loses_nothing)
{
    struct rng rng = {test_seed()};
    size_t n_same = 0;
    for (int k = 0; k < TRIES; k++) {
        float row[INDEX_DIM], again[INDEX_DIM];
        uint8_t packed[INDEX_DIM], repacked[INDEX_DIM];
        any_row(&rng, row, INDEX_DIM);
        index_row_pack(row, INDEX_DIM, packed);
        index_row_unpack(packed, INDEX_DIM, row);
        index_row_pack(row, INDEX_DIM, repacked);
        index_row_unpack(repacked, INDEX_DIM, again);
        for (int i = 0; i < INDEX_DIM; i++) assert_same_bits(again[i], row[i]);
        for (int block = 0; block < INDEX_DIM / 32; block++) {
            int largest = 0;
            for (int i = 0; i < 32; i++) {
                int code = packed[block * 16 + i / 2] >> (i % 2 * 4) & 7;
                largest = code > largest ? code : largest;
            }
            if (largest == 5) continue; /* 3: the block is also 6 at half the scale */
            assert_int_equal(packed[INDEX_DIM / 2 + block], repacked[INDEX_DIM / 2 + block]);
            assert_memory_equal(packed + block * 16, repacked + block * 16, 16);
            n_same++;
        }
    }
    assert_true(n_same > TRIES);
}

TEST(rows_have_the_documented_sizes)
{
    assert_int_equal(kv_row_bytes(OP_ROW_PACKED, 512, 64), 584); /* 448 + 7 + 128, up to a multiple of 8 */
    assert_int_equal(kv_row_bytes(OP_ROW_F32, 512, 64), 2048);
    assert_int_equal(kv_row_bytes(OP_ROW_PACKED, 192, 64), 264); /* 128 + 2 + 128 */
    assert_int_equal(index_row_bytes(OP_ROW_PACKED, 128), 68);
    assert_int_equal(index_row_bytes(OP_ROW_F32, 128), 512);
}

TEST(packing_writes_the_bytes_of_a_row_and_no_more)
{
    struct rng rng = {test_seed()};
    float row[DIM];
    uint8_t packed[2 * DIM];
    any_row(&rng, row, DIM);
    memset(packed, 0xA5, sizeof packed);
    kv_row_pack(row, DIM, ROPE, packed);
    for (uint32_t i = N + N / 64 + 2 * ROPE; i < kv_row_bytes(OP_ROW_PACKED, DIM, ROPE); i++)
        assert_int_equal(packed[i], 0);
    for (size_t i = kv_row_bytes(OP_ROW_PACKED, DIM, ROPE); i < sizeof packed; i++) assert_int_equal(packed[i], 0xA5);
    memset(packed, 0xA5, sizeof packed);
    index_row_pack(row, INDEX_DIM, packed);
    for (size_t i = index_row_bytes(OP_ROW_PACKED, INDEX_DIM); i < sizeof packed; i++)
        assert_int_equal(packed[i], 0xA5);
}

TEST(rows_lie_where_the_layout_says)
{
    uint8_t tails[4096], spans[4096];
    static const uint32_t ids[] = {9, 9, 5, 0, 2};
    const struct op_batch batch = {.tails = tails, .tail_bytes = 1000, .spans = spans, .span_bytes = 500,
                                   .span_ids = ids};
    const struct op_seq seq = {.tail_i = 3, .span_first = 2};
    const struct op_ring ring = {.offset = 40, .row_bytes = 10, .n_slots = 7};
    const struct op_span_rows rows = {.offset = 30, .row_bytes = 11, .rows_per_span = 4};
    assert_ptr_equal(ring_row(&batch, &seq, &ring, 0), tails + 3040);
    assert_ptr_equal(ring_row(&batch, &seq, &ring, 6), tails + 3100);
    assert_ptr_equal(ring_row(&batch, &seq, &ring, 7), tails + 3040);
    assert_ptr_equal(ring_row(&batch, &seq, &ring, 1048575), tails + 3040 + 10 * (1048575 % 7));
    assert_ptr_equal(span_row(&batch, &seq, &rows, 0), spans + 5 * 500 + 30); /* the third id: the session's first */
    assert_ptr_equal(span_row(&batch, &seq, &rows, 3), spans + 5 * 500 + 63);
    assert_ptr_equal(span_row(&batch, &seq, &rows, 4), spans + 30);
    assert_ptr_equal(span_row(&batch, &seq, &rows, 10), spans + 2 * 500 + 52);
}

TEST(numbers_that_are_not_finite_are_stored_without_harm)
{
    float row[DIM], index_row[INDEX_DIM];
    uint8_t packed[2 * DIM];
    for (int i = 0; i < DIM; i++) row[i] = i % 3 == 0 ? NAN : i % 3 == 1 ? INFINITY : -INFINITY;
    for (int i = 0; i < INDEX_DIM; i++) index_row[i] = row[i];
    kv_row_pack(row, DIM, ROPE, packed);
    for (int i = 0; i < N; i++) assert_true((packed[i] & 127) <= 126); /* no code is a NaN */
    assert_true(packed[N] < 255);
    index_row_pack(index_row, INDEX_DIM, packed);
    assert_true(packed[INDEX_DIM / 2] < 255);
}

TEST(the_hadamard_transform_is_its_own_inverse_and_has_sylvesters_signs)
{
    float x[INDEX_DIM];
    for (int k = 0; k < INDEX_DIM; k += 5) {
        memset(x, 0, sizeof x);
        x[k] = 1;
        hadamard(x, INDEX_DIM);
        for (int i = 0; i < INDEX_DIM; i++) {
            double want = (__builtin_popcount((unsigned)(i & k)) % 2 ? -1 : 1) / sqrt(INDEX_DIM);
            assert_true(fabs((double)x[i] - want) < 1e-8);
        }
        hadamard(x, INDEX_DIM);
        for (int i = 0; i < INDEX_DIM; i++) assert_true(fabs((double)x[i] - (i == k)) < 1e-6);
    }
}

int main(void)
{
    return RUN_TESTS(T(key_value_rows_round_as_the_rule_says), T(index_rows_round_as_the_rule_says),
                     T(a_packed_key_value_row_unpacks_to_the_rounded_row),
                     T(a_packed_index_row_unpacks_to_the_rounded_row),
                     T(packing_an_unpacked_key_value_row_loses_nothing),
                     T(packing_an_unpacked_index_row_loses_nothing), T(rows_have_the_documented_sizes),
                     T(packing_writes_the_bytes_of_a_row_and_no_more), T(rows_lie_where_the_layout_says),
                     T(numbers_that_are_not_finite_are_stored_without_harm),
                     T(the_hadamard_transform_is_its_own_inverse_and_has_sylvesters_signs));
}
