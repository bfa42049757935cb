/* test_op_vectors.c - the operations of every backend against the block vectors of the specification: generated weights
 * of ds4-tiny, blocks put together out of operations as the forward pass does, results compared with those of the NumPy
 * reference in float64 (tests/golden/model_vectors.json.xz).
 *
 * Tolerances, relative to the largest value of a row: 1e-6 for the reference and 1e-5, as the specification asks, for
 * the others (a tenth of it for single operations); exact for rounding. In `qat` mode a value that float32 noise pushes
 * over a rounding boundary would change a stored row by one step; with these vectors none does. */
#include <math.h>

#include "base/mem.h"
#include "base/rng.h"
#include "lib/fixture_weights.h"
#include "lib/golden.h"
#include "lib/op_backends.h"
#include "lib/test.h"
#include "ops/rope_freq.h"
#include "ops/rows.h"
#include "quant/quant.h"

#define N 300

static json_t *vectors;
static const struct op_backend_entry *backend; /* the backend that the tests run on now */
static double block_tolerance;               /* of results that went through several operations */

/* Values of a vector; n is what the test expects of its size. Owns: mem_free. */
static double *vector(const char *name, size_t n)
{
    json_t *entry = json_object_get(vectors, name), *data = json_object_get(entry, "data");
    if (!data) fail_msg("no vector %s", name);
    if (json_array_size(data) != n) fail_msg("%s has %zu values, not %zu", name, json_array_size(data), n);
    double *values = mem_alloc(n, sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < n; i++) values[i] = json_number_value(json_array_get(data, i));
    return values;
}

/* Every value within tolerance times the largest magnitude of its row. */
static void check_close(const char *name, const float *got, size_t n_rows, size_t n, double tolerance)
{
    double *want = vector(name, n_rows * n), worst = 0;
    for (size_t r = 0; r < n_rows; r++) {
        double largest = 0;
        for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[r * n + i]));
        for (size_t i = 0; i < n; i++) {
            double error = fabs((double)got[r * n + i] - want[r * n + i]) / largest;
            if (!(error <= worst)) worst = error;
            if (!(error <= tolerance))
                fail_msg("%s row %zu element %zu: %.9g, wanted %.9g", name, r, i, (double)got[r * n + i],
                         want[r * n + i]);
        }
    }
    print_message("%-44s worst %.1e\n", name, worst);
    mem_free(want);
}

static void check_exact(const char *name, const float *got, size_t n)
{
    double *want = vector(name, n);
    for (size_t i = 0; i < n; i++) /* vectors have 9 digits, enough to name a float32; -0 is written -0.0 */
        if (got[i] != (float)want[i]) fail_msg("%s[%zu]: %.9g, wanted %.9g", name, i, (double)got[i], want[i]);
    mem_free(want);
}

static void check_ints(const char *name, const int32_t *got, size_t n)
{
    double *want = vector(name, n);
    for (size_t i = 0; i < n; i++)
        if (got[i] != (int32_t)want[i]) fail_msg("%s[%zu]: %d, wanted %.0f", name, i, got[i], want[i]);
    mem_free(want);
}

static struct op_home home; /* the backend with two threads, made anew for each test */

static void open_dev(void)
{
    struct backend_limits limits = {
        .n_rows = N, .n_in = TINY_HEADS * TINY_DIM, .n_heads = TINY_HEADS, .dim = TINY_DIM, .n_attn_rows = N,
        .n_index_heads = TINY_INDEX_HEADS, .index_dim = TINY_INDEX_DIM, .n_index_rows = N,
        .n_experts = TINY_EXPERTS, .n_used = TINY_USED, .n_ff = TINY_FF};
    op_home_open(&home, backend, &limits, 2, 64u << 20);
}

static float *put_stream(const char *name, size_t n, float scale)
{
    float *values = mem_alloc(n, sizeof *values);
    assert_non_null(values);
    tiny_uniform(name, n, scale, 0, values);
    float *there = op_put(&home.dev, values, n * sizeof *values);
    mem_free(values);
    return there;
}

static float *new_floats(size_t n) { return op_put(&home.dev, NULL, n * sizeof(float)); }

static char *tensor_name(const char *prefix, const char *suffix)
{
    static char name[128];
    (void)snprintf(name, sizeof name, "%s%s", prefix, suffix);
    return name;
}

static float *put_tensor(const char *prefix, const char *suffix)
{
    struct tiny_tensor tensor;
    const char *name = tensor_name(prefix, suffix);
    if (!tiny_tensor_find(name, &tensor)) fail_msg("no tensor %s", name);
    float *values = tiny_tensor_values(name);
    float *there = op_put(&home.dev, values, (size_t)tensor.rows * tensor.cols * sizeof *values);
    mem_free(values);
    return there;
}

static struct op_weight put_weight(const char *prefix, const char *suffix)
{
    struct tiny_tensor tensor;
    const char *name = tensor_name(prefix, suffix);
    if (!tiny_tensor_find(name, &tensor)) fail_msg("no tensor %s", name);
    struct op_weight w = {.type = QUANT_F32, .n_in = tensor.cols, .n_out = tensor.rows, .row_bytes = tensor.cols * 4,
                          .n_stack = 1, .stack_bytes = (uint64_t)tensor.rows * tensor.cols * 4};
    w.data = (const uint8_t *)put_tensor(prefix, suffix);
    return w;
}

static void matmul(const float *x, uint32_t n_rows, uint32_t n_groups, struct op_weight w, float *y)
{
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = n_groups, .x = x};
    args.out[0].w = w;
    args.out[0].y = y;
    home.dev.b->ops->matmul(home.dev.b, &args);
}

static void rms_norm(float *x, uint32_t n_rows, uint32_t n, const float *weight)
{
    struct rms_norm_args args = {.n_rows = n_rows, .n = n, .eps = 1e-6f, .x = x, .weight = weight, .y = x};
    home.dev.b->ops->rms_norm(home.dev.b, &args);
}

TEST(generated_weights_are_those_of_the_specification)
{
    float *embed = tiny_tensor_values("embed.weight"), *head = tiny_tensor_values("head.weight");
    check_exact("prng.embed_row0_first8", embed, 8);
    check_exact("prng.embed_row511_last8", embed + (size_t)TINY_VOCAB * TINY_EMBD - 8, 8);
    double sum = 0;
    for (size_t i = 0; i < (size_t)TINY_VOCAB * TINY_EMBD; i++) sum += (double)head[i];
    double *want = vector("prng.sum_head_weight", 1);
    assert_true(fabs(sum - *want) < 1e-6);
    int32_t *table = tiny_hash_table(0), tokens[N];
    check_ints("prng.tid2eid_l0_rows0_3", table, 16);
    struct rng rng = {fnv1a("tokens")};
    for (size_t i = 0; i < N; i++) tokens[i] = (int32_t)(rng_next(&rng) % TINY_VOCAB);
    check_ints("tokens", tokens, N);
    mem_free(embed);
    mem_free(head);
    mem_free(want);
    mem_free(table);
}

TEST(rows_round_through_e4m3_exactly)
{
    float x[256], scale[256];
    tiny_uniform("vec.fp8", 256, 8, 0, x);
    tiny_uniform("vec.fp8b", 256, 1, 0, scale);
    for (size_t i = 0; i < 256; i++) x[i] *= 1 + scale[i];
    check_exact("fp8.in", x, 256);
    kv_row_round(x, 128, 0);
    kv_row_round(x + 128, 128, 0);
    check_exact("fp8.out", x, 256);
}

TEST(index_rows_round_through_hadamard_and_e2m1_exactly)
{
    float x[256];
    open_dev();
    tiny_uniform("vec.fp4", 256, 2, 0, x);
    check_exact("fp4.in", x, 256);
    float *q = op_put(&home.dev, x, sizeof x), got[256];
    struct index_query_args args = {.n_rows = 2, .n_heads = 1, .dim = 128, .round = false, .q = q};
    home.dev.b->ops->index_query(home.dev.b, &args);
    op_get(&home.dev, got, q, sizeof got);
    check_close("fp4.hadamard", got, 2, 128, 1e-6);
    args.q = op_put(&home.dev, x, sizeof x);
    args.round = true;
    home.dev.b->ops->index_query(home.dev.b, &args);
    op_get(&home.dev, got, args.q, sizeof got);
    check_exact("fp4.out", got, 256);
    op_home_close(&home);
}

static void frequencies(bool yarn, float *freq)
{
    rope_frequencies(yarn ? 160000 : 10000, TINY_ROPE, 16, 65536, 32, 1, yarn, freq);
}

TEST(rotation_follows_the_tables_up_to_a_million_tokens)
{
    static const int32_t positions[6] = {0, 1, 7, 127, 65535, 1000000};
    static const struct {
        const char *name;
        bool yarn, inverse;
    } runs[] = {{"rope.plain", false, false}, {"rope.yarn", true, false}, {"rope.yarn_inverse", true, true}};
    float freq[TINY_ROPE / 2], x[6 * TINY_DIM];
    check_ints("rope.pos", positions, 6);
    frequencies(false, freq);
    check_close("rope.inv_freq_plain", freq, TINY_ROPE / 2, 1, 6e-8);
    frequencies(true, freq);
    check_close("rope.inv_freq_yarn", freq, TINY_ROPE / 2, 1, 6e-8);
    open_dev();
    for (size_t i = 0; i < 3; i++) {
        frequencies(runs[i].yarn, freq);
        struct rope_args args = {.n_rows = 6, .n_heads = 1, .dim = TINY_DIM, .n_rope = TINY_ROPE,
                                 .inverse = runs[i].inverse, .pos = op_put(&home.dev, positions, sizeof positions),
                                 .freq = op_put(&home.dev, freq, sizeof freq),
                                 .x = put_stream("vec.rope", 6 * TINY_DIM, 1)};
        home.dev.b->ops->rope(home.dev.b, &args);
        op_get(&home.dev, x, args.x, sizeof x);
        check_close(runs[i].name, x, 6, TINY_DIM, 2e-7);
    }
    op_home_close(&home);
}

TEST(hyper_connections_mix_reduce_expand_and_read_out_the_streams)
{
    enum { ROWS = 2, FLAT = TINY_HC * TINY_EMBD };
    float got[ROWS * FLAT];
    open_dev();
    float *x = put_stream("vec.hc.X", ROWS * FLAT, 2), *y = put_stream("vec.hc.F", ROWS * TINY_EMBD, 1);
    struct hc_mix_args mix = {.n_rows = ROWS, .n_hc = TINY_HC, .n_embd = TINY_EMBD, .n_iters = 20, .hc_eps = 1e-6f,
                              .rms_eps = 1e-6f, .x = x, .fn = put_weight("layers.2.", "hc_attn_fn"),
                              .scale = put_tensor("layers.2.", "hc_attn_scale"),
                              .base = put_tensor("layers.2.", "hc_attn_base"), .pre = new_floats(8),
                              .post = new_floats(8), .comb = new_floats(32)};
    home.dev.b->ops->hc_mix(home.dev.b, &mix);
    op_get(&home.dev, got, mix.pre, 8 * sizeof(float));
    check_close("hc.pre", got, ROWS, 4, 1e-6);
    op_get(&home.dev, got, mix.post, 8 * sizeof(float));
    check_close("hc.post", got, ROWS, 4, 1e-6);
    op_get(&home.dev, got, mix.comb, 32 * sizeof(float));
    check_close("hc.comb", got, ROWS, 16, 1e-6);
    struct hc_reduce_args reduce = {.n_rows = ROWS, .n_hc = TINY_HC, .n_embd = TINY_EMBD, .rms_eps = 1e-6f, .x = x,
                                    .w = mix.pre, .norm = NULL, .u = new_floats(ROWS * TINY_EMBD)};
    home.dev.b->ops->hc_reduce(home.dev.b, &reduce);
    op_get(&home.dev, got, reduce.u, ROWS * TINY_EMBD * sizeof(float));
    check_close("hc.reduced", got, ROWS, TINY_EMBD, 1e-6);
    struct hc_head_args head = {.n_rows = ROWS, .n_hc = TINY_HC, .n_embd = TINY_EMBD, .hc_eps = 1e-6f,
                                .rms_eps = 1e-6f, .x = x, .fn = put_weight("", "hc_head_fn"),
                                .scale = put_tensor("", "hc_head_scale"), .base = put_tensor("", "hc_head_base"),
                                .w = new_floats(8)};
    home.dev.b->ops->hc_head(home.dev.b, &head);
    reduce.w = head.w;
    home.dev.b->ops->hc_reduce(home.dev.b, &reduce);
    op_get(&home.dev, got, reduce.u, ROWS * TINY_EMBD * sizeof(float));
    check_close("hc.head", got, ROWS, TINY_EMBD, 1e-6);
    struct hc_expand_args expand = {.n_rows = ROWS, .n_hc = TINY_HC, .n_embd = TINY_EMBD, .x = x, .y = y,
                                    .post = mix.post, .comb = mix.comb};
    home.dev.b->ops->hc_expand(home.dev.b, &expand);
    op_get(&home.dev, got, x, sizeof got);
    check_close("hc.expanded", got, ROWS, FLAT, 1e-6);
    op_home_close(&home);
}

/* One session of N tokens through the attention sub-layer of one layer. */
struct sublayer {
    char prefix[32]; /* "layers.2.attn." */
    uint32_t layer, ratio;
    bool qat;
    float *x, *freq, *qr, *q, *kv;
    float *index_q, *index_w;
    int32_t *sel, *n_sel;
    struct op_seq seq;
    int32_t pos[N];
    uint32_t seq_i[N], span_ids[N];
    struct op_batch whole; /* all N rows */
    struct op_ring ring;
    struct op_span_rows rows, index_rows;
    uint32_t comp_slots;
    uint64_t comp_offset, index_offset;
};

enum { ROWS_PER_SPAN = 16, RING_SLOTS = 75, CHUNK_MAX = RING_SLOTS - TINY_WINDOW + 1 };

static void lay_out_state(struct sublayer *s)
{
    uint32_t row = TINY_DIM * 4, index_row = TINY_INDEX_DIM * 4;
    s->ring = (struct op_ring){0, row, RING_SLOTS, OP_ROW_F32};
    s->comp_slots = s->ratio == 4 ? 12 : 131; /* more than needed, as when drafts may be taken back */
    s->comp_offset = (uint64_t)RING_SLOTS * row;
    s->index_offset = s->comp_offset + (uint64_t)s->comp_slots * 2 * 4 * 2 * TINY_DIM;
    s->rows = (struct op_span_rows){0, row, ROWS_PER_SPAN, OP_ROW_F32};
    s->index_rows = (struct op_span_rows){(uint64_t)ROWS_PER_SPAN * row, index_row, ROWS_PER_SPAN, OP_ROW_F32};
    uint64_t tail_bytes = s->index_offset + (uint64_t)s->comp_slots * 2 * 4 * 2 * TINY_INDEX_DIM;
    uint64_t span_bytes = (uint64_t)ROWS_PER_SPAN * (row + index_row);
    s->seq = (struct op_seq){.tail_i = 1, .span_first = 2, .row_first = 0, .n_rows = N};
    for (uint32_t i = 0; i < N; i++) {
        s->pos[i] = (int32_t)i;
        s->seq_i[i] = 0;
        s->span_ids[i] = (i * 7 + 3) % 13; /* spans lie in no order */
    }
    s->whole = (struct op_batch){.n_rows = N, .n_seqs = 1, .tail_bytes = tail_bytes, .span_bytes = span_bytes};
    s->whole.tails = op_put(&home.dev, NULL, 2 * tail_bytes);
    s->whole.spans = op_put(&home.dev, NULL, 13 * span_bytes);
    s->whole.span_ids = op_put(&home.dev, s->span_ids, sizeof s->span_ids);
    s->whole.pos = op_put(&home.dev, s->pos, sizeof s->pos);
    s->whole.seq_i = op_put(&home.dev, s->seq_i, sizeof s->seq_i);
}

/* The batch of rows first .. first + n - 1. */
static struct op_batch slice(const struct sublayer *s, uint32_t first, uint32_t n)
{
    struct op_batch batch = s->whole;
    struct op_seq seq = s->seq;
    seq.n_rows = n;
    batch.n_rows = n;
    batch.pos += first;
    batch.seqs = op_put(&home.dev, &seq, sizeof seq);
    return batch;
}

static void rotate(const struct sublayer *s, float *x, uint32_t n_heads, uint32_t dim, bool inverse)
{
    struct rope_args args = {.n_rows = N, .n_heads = n_heads, .dim = dim, .n_rope = TINY_ROPE, .inverse = inverse,
                             .pos = s->whole.pos, .freq = s->freq, .x = x};
    home.dev.b->ops->rope(home.dev.b, &args);
}

static void begin(struct sublayer *s, uint32_t layer, bool qat)
{
    float freq[TINY_ROPE / 2];
    memset(s, 0, sizeof *s);
    open_dev();
    s->layer = layer;
    s->ratio = layer < 2 ? 0 : layer % 2 ? 128 : 4;
    s->qat = qat;
    (void)snprintf(s->prefix, sizeof s->prefix, "layers.%u.attn.", layer);
    lay_out_state(s);
    frequencies(s->ratio != 0, freq);
    s->freq = op_put(&home.dev, freq, sizeof freq);
    s->x = put_stream("vec.x", N * TINY_EMBD, 2);
}

/* Steps 1 to 3: queries and raw rows. */
static void project(struct sublayer *s)
{
    s->qr = new_floats(N * TINY_Q_RANK);
    s->q = new_floats((size_t)N * TINY_HEADS * TINY_DIM);
    s->kv = new_floats(N * TINY_DIM);
    matmul(s->x, N, 1, put_weight(s->prefix, "wq_a.weight"), s->qr);
    rms_norm(s->qr, N, TINY_Q_RANK, put_tensor(s->prefix, "q_norm.weight"));
    matmul(s->qr, N, 1, put_weight(s->prefix, "wq_b.weight"), s->q);
    rms_norm(s->q, N * TINY_HEADS, TINY_DIM, NULL);
    rotate(s, s->q, TINY_HEADS, TINY_DIM, false);
    matmul(s->x, N, 1, put_weight(s->prefix, "wkv.weight"), s->kv);
    rms_norm(s->kv, N, TINY_DIM, put_tensor(s->prefix, "kv_norm.weight"));
    rotate(s, s->kv, 1, TINY_DIM, false);
}

/* Arguments of one compressor, its projections computed for all rows. */
static struct compress_args compressor(const struct sublayer *s, bool is_index)
{
    char p[64];
    (void)snprintf(p, sizeof p, "%s%scompressor.", s->prefix, is_index ? "indexer." : "");
    uint32_t dim = is_index ? TINY_INDEX_DIM : TINY_DIM, width = s->ratio == 4 ? 2 * dim : dim;
    float *k = new_floats((size_t)N * width), *g = new_floats((size_t)N * width);
    matmul(s->x, N, 1, put_weight(p, "wkv.weight"), k);
    matmul(s->x, N, 1, put_weight(p, "wgate.weight"), g);
    struct compress_args args = {.ratio = s->ratio, .dim = dim, .width = width, .n_rope = TINY_ROPE,
                                 .n_slots = s->comp_slots, .is_index = is_index, .round = s->qat, .rms_eps = 1e-6f,
                                 .slots_offset = is_index ? s->index_offset : s->comp_offset, .k = k, .g = g,
                                 .ape = put_tensor(p, "ape"), .norm = put_tensor(p, "norm.weight"), .freq = s->freq,
                                 .rows = is_index ? s->index_rows : s->rows};
    return args;
}

static void feed(const struct sublayer *s, struct compress_args args, uint32_t first, uint32_t n)
{
    args.batch = slice(s, first, n);
    args.k += (size_t)first * args.width;
    args.g += (size_t)first * args.width;
    home.dev.b->ops->compress(home.dev.b, &args);
}

/* Compressed row c as it lies in the spans. */
static void read_row(const struct sublayer *s, const struct op_span_rows *rows, uint32_t c, float *row)
{
    uint32_t id = s->span_ids[s->seq.span_first + c / ROWS_PER_SPAN];
    op_get(&home.dev, row, s->whole.spans + id * s->whole.span_bytes + rows->offset +
           c % ROWS_PER_SPAN * rows->row_bytes, rows->row_bytes);
}

static void check_rows(const struct sublayer *s, const char *name, const struct op_span_rows *rows,
                       const uint32_t *numbers, size_t n)
{
    char full[96];
    uint32_t dim = rows->row_bytes / 4;
    float got[5 * TINY_DIM];
    for (size_t i = 0; i < n; i++) read_row(s, rows, numbers[i], got + i * dim);
    (void)snprintf(full, sizeof full, "compressor.%s.%s", s->qat ? "qat" : "ideal", name);
    check_close(full, got, n, dim, block_tolerance);
}

static void compress_all_ways(bool qat)
{
    static const uint32_t csa_rows[] = {0, 1, 2, 37, 74}, hca_rows[] = {0, 1}, index_rows[] = {0, 1, 74};
    static const uint32_t chunks[] = {1, 2, 3, 5, 128, 161}; /* ends inside windows */
    struct sublayer s;
    begin(&s, 2, qat);
    struct compress_args main_args = compressor(&s, false), index_args = compressor(&s, true);
    for (uint32_t i = 0, first = 0; i < 6; first += chunks[i++]) {
        feed(&s, main_args, first, chunks[i]);
        feed(&s, index_args, first, chunks[i]);
    }
    check_rows(&s, "l2_rows_0_1_2_37_74", &s.rows, csa_rows, 5);
    check_rows(&s, "l2_index_rows_0_1_74", &s.index_rows, index_rows, 3);
    op_home_close(&home);
    begin(&s, 3, qat);
    main_args = compressor(&s, false);
    feed(&s, main_args, 0, 127);
    feed(&s, main_args, 127, 1);
    feed(&s, main_args, 128, N - 128);
    check_rows(&s, "l3_rows_0_1", &s.rows, hca_rows, 2);
    op_home_close(&home);
}

TEST(compressed_rows_match_without_rounding) { compress_all_ways(false); }
TEST(compressed_rows_match_with_rounding) { compress_all_ways(true); }

TEST(compressor_state_after_175_tokens_holds_projections_and_biased_scores)
{
    static const uint32_t positions[] = {168, 171, 172, 174}; /* slots 0, 3 of the last window; 4, 6 of this */
    enum { WIDTH = 2 * TINY_DIM, PICKED = WIDTH / 16 };
    struct sublayer s;
    float k[4 * PICKED], g[4 * PICKED], slot[WIDTH];
    begin(&s, 2, true);
    feed(&s, compressor(&s, false), 0, 175);
    for (uint32_t i = 0; i < 4; i++) {
        const uint8_t *slots = s.whole.tails + s.seq.tail_i * s.whole.tail_bytes + s.comp_offset;
        uint32_t slot_i = positions[i] % s.comp_slots;
        op_get(&home.dev, slot, slots + (size_t)slot_i * sizeof slot, sizeof slot);
        for (uint32_t d = 0; d < PICKED; d++) k[i * PICKED + d] = slot[16 * d];
        op_get(&home.dev, slot, slots + (size_t)(s.comp_slots + slot_i) * sizeof slot, sizeof slot);
        for (uint32_t d = 0; d < PICKED; d++) g[i * PICKED + d] = slot[16 * d];
    }
    check_close("compressor.state_l2_after175.kv_rows_0_3_4_6", k, 4, PICKED, 1e-6);
    check_close("compressor.state_l2_after175.score_rows_0_3_4_6", g, 4, PICKED, 1e-6);
    op_home_close(&home);
}

/* Index queries and head weights of all rows. */
static void index_project(struct sublayer *s)
{
    s->index_q = new_floats((size_t)N * TINY_INDEX_HEADS * TINY_INDEX_DIM);
    s->index_w = new_floats(N * TINY_INDEX_HEADS);
    matmul(s->qr, N, 1, put_weight(s->prefix, "indexer.wq_b.weight"), s->index_q);
    rotate(s, s->index_q, TINY_INDEX_HEADS, TINY_INDEX_DIM, false);
    struct index_query_args args = {.n_rows = N, .n_heads = TINY_INDEX_HEADS, .dim = TINY_INDEX_DIM, .round = s->qat,
                                    .q = s->index_q};
    home.dev.b->ops->index_query(home.dev.b, &args);
    matmul(s->x, N, 1, put_weight(s->prefix, "indexer.weights_proj.weight"), s->index_w);
    s->sel = op_put(&home.dev, NULL, N * TINY_TOP_K * sizeof(int32_t));
    s->n_sel = op_put(&home.dev, NULL, N * sizeof(int32_t));
}

static float index_scale(void) { return (float)(1 / sqrt((double)TINY_INDEX_HEADS * TINY_INDEX_DIM)); }

static void index_select(const struct sublayer *s, uint32_t first, uint32_t n)
{
    struct index_select_args args = {.batch = slice(s, first, n), .n_heads = TINY_INDEX_HEADS, .dim = TINY_INDEX_DIM,
                                     .top_k = TINY_TOP_K, .ratio = 4, .scale = index_scale(),
                                     .q = s->index_q + (size_t)first * TINY_INDEX_HEADS * TINY_INDEX_DIM,
                                     .w = s->index_w + (size_t)first * TINY_INDEX_HEADS, .rows = s->index_rows,
                                     .sel = s->sel + (size_t)first * TINY_TOP_K, .n_sel = s->n_sel + first};
    home.dev.b->ops->index_select(home.dev.b, &args);
}

TEST(indexer_scores_and_sets_match)
{
    static const uint32_t positions[] = {35, 36, 100, 299};
    enum { HEADS = TINY_INDEX_HEADS, DIM = TINY_INDEX_DIM, LAST = N - 1 };
    struct sublayer s;
    float q[HEADS * DIM], w[HEADS], row[DIM], scores[75];
    begin(&s, 2, true);
    project(&s);
    index_project(&s);
    feed(&s, compressor(&s, true), 0, N);
    index_select(&s, 0, N);
    op_get(&home.dev, q, s.index_q + (size_t)LAST * HEADS * DIM, sizeof q);
    op_get(&home.dev, w, s.index_w + (size_t)LAST * HEADS, sizeof w);
    for (uint32_t c = 0; c < 75; c++) {
        read_row(&s, &s.index_rows, c, row);
        double score = 0;
        for (uint32_t h = 0; h < HEADS; h++) {
            double dot = 0;
            for (uint32_t i = 0; i < DIM; i++) dot += (double)q[h * DIM + i] * (double)row[i];
            score += (double)w[h] * fmax(dot, 0);
        }
        scores[c] = (float)(score * (double)index_scale());
    }
    check_close("indexer.scores_t299", scores, 1, 75, block_tolerance);
    for (size_t i = 0; i < 4; i++) {
        char name[32];
        int32_t sel[TINY_TOP_K], n_sel;
        op_get(&home.dev, sel, s.sel + positions[i] * TINY_TOP_K, sizeof sel);
        op_get(&home.dev, &n_sel, s.n_sel + positions[i], sizeof n_sel);
        (void)snprintf(name, sizeof name, "indexer.top8_t%u", positions[i]);
        if (n_sel == -1) /* all visible: 9 rows at position 35 are more than 8 */
            fail_msg("%s: selection skipped", name);
        assert_int_equal(n_sel, TINY_TOP_K);
        check_ints(name, sel, TINY_TOP_K);
    }
    int32_t n_sel;
    op_get(&home.dev, &n_sel, s.n_sel + 34, sizeof n_sel); /* 8 visible rows: no selection */
    assert_int_equal(n_sel, -1);
    op_home_close(&home);
}

static void attend(const struct sublayer *s, uint32_t first, uint32_t n, const float *sinks, float *o)
{
    struct kv_store_args store = {.batch = slice(s, first, n), .dim = TINY_DIM, .n_rope = TINY_ROPE, .round = s->qat,
                                  .ring = s->ring, .kv = s->kv + (size_t)first * TINY_DIM};
    home.dev.b->ops->kv_store(home.dev.b, &store);
    size_t at = (size_t)first * TINY_HEADS * TINY_DIM;
    struct attention_args args = {.batch = store.batch, .n_heads = TINY_HEADS, .dim = TINY_DIM, .n_rope = TINY_ROPE,
                                  .window = TINY_WINDOW, .ratio = s->ratio, .top_k = TINY_TOP_K,
                                  .scale = (float)(1 / sqrt((double)TINY_DIM)), .q = s->q + at, .sinks = sinks,
                                  .ring = s->ring, .rows = s->rows, .sel = s->ratio == 4 ? s->sel + first * 8 : NULL,
                                  .n_sel = s->n_sel + first, .o = o + at};
    home.dev.b->ops->attention(home.dev.b, &args);
}

/* The whole sub-layer, rows fed in chunks of the given sizes in turn. */
static void run_attention(uint32_t layer, bool qat, const uint32_t *chunks, size_t n_chunks)
{
    static const uint32_t picked[10] = {0, 2, 3, 4, 31, 32, 127, 128, 255, 299};
    struct sublayer s;
    struct compress_args main_args, index_args;
    begin(&s, layer, qat);
    project(&s);
    if (s.ratio) main_args = compressor(&s, false);
    if (s.ratio == 4) {
        index_args = compressor(&s, true);
        index_project(&s);
    }
    float *o = new_floats((size_t)N * TINY_HEADS * TINY_DIM), *sinks = put_tensor(s.prefix, "attn_sink");
    for (uint32_t first = 0, i = 0, n; first < N; first += n, i++) {
        n = chunks[i % n_chunks] < N - first ? chunks[i % n_chunks] : N - first;
        if (s.ratio) feed(&s, main_args, first, n);
        if (s.ratio == 4) {
            feed(&s, index_args, first, n);
            index_select(&s, first, n);
        }
        attend(&s, first, n, sinks, o);
    }
    rotate(&s, o, TINY_HEADS, TINY_DIM, true);
    float *a = new_floats((size_t)N * TINY_GROUPS * TINY_O_RANK), *y = new_floats(N * TINY_EMBD);
    matmul(o, N, TINY_GROUPS, put_weight(s.prefix, "wo_a.weight"), a);
    matmul(a, N, 1, put_weight(s.prefix, "wo_b.weight"), y);
    float got[10 * TINY_EMBD];
    for (size_t i = 0; i < 10; i++)
        op_get(&home.dev, got + i * TINY_EMBD, y + (size_t)picked[i] * TINY_EMBD, TINY_EMBD * sizeof(float));
    char name[32];
    (void)snprintf(name, sizeof name, "attention.%s.l%u", qat ? "qat" : "ideal", layer);
    check_close(name, got, 10, TINY_EMBD, block_tolerance);
    op_home_close(&home);
}

static void run_attention_both_ways(uint32_t layer)
{
    static const uint32_t large[] = {CHUNK_MAX}, odd[] = {1, 7, 30, 2, 44, 1};
    for (int qat = 0; qat < 2; qat++) {
        run_attention(layer, qat, large, 1);
        run_attention(layer, qat, odd, 6);
    }
}

TEST(attention_matches_with_raw_rows_only) { run_attention_both_ways(0); }
TEST(attention_matches_with_ratio_4_and_indexer) { run_attention_both_ways(2); }
TEST(attention_matches_with_ratio_128) { run_attention_both_ways(3); }

static struct op_weight put_experts(const char *layer_prefix, const char *suffix)
{
    size_t n = (size_t)TINY_FF * TINY_EMBD;
    struct op_weight w = {.type = QUANT_F32, .n_in = TINY_EMBD, .n_out = TINY_FF, .row_bytes = TINY_EMBD * 4,
                          .n_stack = TINY_EXPERTS, .stack_bytes = n * 4}; /* w2 is square too */
    float *all = mem_alloc(n * TINY_EXPERTS, sizeof *all);
    assert_non_null(all);
    for (uint32_t e = 0; e < TINY_EXPERTS; e++) {
        char name[64];
        (void)snprintf(name, sizeof name, "%sffn.experts.%u.%s", layer_prefix, e, suffix);
        float *values = tiny_tensor_values(name);
        memcpy(all + e * n, values, n * sizeof *all);
        mem_free(values);
    }
    w.data = op_put(&home.dev, all, n * TINY_EXPERTS * sizeof *all);
    mem_free(all);
    return w;
}

static float *shared_expert(const char *p, const float *x, uint32_t n_rows)
{
    float *a = new_floats(n_rows * TINY_FF), *b = new_floats(n_rows * TINY_FF), *y = new_floats(n_rows * TINY_EMBD);
    char prefix[64];
    (void)snprintf(prefix, sizeof prefix, "%sffn.shared_experts.", p);
    matmul(x, n_rows, 1, put_weight(prefix, "w1.weight"), a);
    matmul(x, n_rows, 1, put_weight(prefix, "w3.weight"), b);
    struct swiglu_args args = {.n = n_rows * TINY_FF, .limit = 10, .a = a, .b = b, .m = a};
    home.dev.b->ops->swiglu(home.dev.b, &args);
    matmul(a, n_rows, 1, put_weight(prefix, "w2.weight"), y);
    return y;
}

static void run_moe(uint32_t layer, bool hash)
{
    enum { ROWS = 4 };
    char p[16], name[32];
    int32_t tokens[ROWS], ids[ROWS * TINY_USED];
    float got[ROWS * TINY_EMBD];
    struct rng rng = {fnv1a("tokens")};
    for (size_t i = 0; i < ROWS; i++) tokens[i] = (int32_t)(rng_next(&rng) % TINY_VOCAB);
    (void)snprintf(p, sizeof p, "layers.%u.", layer);
    open_dev();
    float *x = put_stream("vec.x", ROWS * TINY_EMBD, 2), *logits = new_floats(ROWS * TINY_EXPERTS);
    matmul(x, ROWS, 1, put_weight(p, "ffn.gate.weight"), logits);
    struct router_args route = {.n_rows = ROWS, .n_experts = TINY_EXPERTS, .n_used = TINY_USED, .scale = 1.5f,
                                .logits = logits, .tokens = op_put(&home.dev, tokens, sizeof tokens),
                                .ids = op_put(&home.dev, NULL, sizeof ids), .weights = new_floats(ROWS * TINY_USED)};
    int32_t *table = hash ? tiny_hash_table(layer) : NULL;
    if (hash) route.hash = op_put(&home.dev, table, TINY_VOCAB * TINY_USED * sizeof *table);
    else route.bias = put_tensor(p, "ffn.gate.bias");
    mem_free(table);
    home.dev.b->ops->router(home.dev.b, &route);
    op_get(&home.dev, ids, route.ids, sizeof ids);
    (void)snprintf(name, sizeof name, "moe.l%u.experts", layer);
    check_ints(name, ids, ROWS * TINY_USED);
    op_get(&home.dev, got, route.weights, ROWS * TINY_USED * sizeof(float));
    (void)snprintf(name, sizeof name, "moe.l%u.weights", layer);
    check_close(name, got, ROWS, TINY_USED, 1e-6);
    struct moe_gate_up_args gate_up = {.n_rows = ROWS, .n_used = TINY_USED, .limit = 10, .x = x, .ids = route.ids,
                                       .weights = route.weights, .gate = put_experts(p, "w1.weight"),
                                       .up = put_experts(p, "w3.weight"),
                                       .m = new_floats(ROWS * TINY_USED * TINY_FF)};
    home.dev.b->ops->moe_gate_up(home.dev.b, &gate_up);
    struct moe_down_args down = {.n_rows = ROWS, .n_used = TINY_USED, .m = gate_up.m, .ids = route.ids,
                                 .down = put_experts(p, "w2.weight"), .y = new_floats(ROWS * TINY_EMBD)};
    home.dev.b->ops->moe_down(home.dev.b, &down);
    struct add_args sum = {.n = ROWS * TINY_EMBD, .x = shared_expert(p, x, ROWS), .y = down.y};
    home.dev.b->ops->add(home.dev.b, &sum);
    op_get(&home.dev, got, down.y, sizeof got);
    (void)snprintf(name, sizeof name, "moe.l%u.out", layer);
    check_close(name, got, ROWS, TINY_EMBD, block_tolerance);
    op_home_close(&home);
}

TEST(experts_match_with_hash_routing) { run_moe(0, true); }
TEST(experts_match_with_learned_routing) { run_moe(4, false); }

static int run_on_backend(size_t backend_i)
{
    backend = &op_backends[backend_i];
    block_tolerance = backend_i ? 1e-5 : 1e-6;
    print_message("backend %s\n", backend->name);
    return RUN_TESTS(
        T(generated_weights_are_those_of_the_specification), T(rows_round_through_e4m3_exactly),
        T(index_rows_round_through_hadamard_and_e2m1_exactly), T(rotation_follows_the_tables_up_to_a_million_tokens),
        T(hyper_connections_mix_reduce_expand_and_read_out_the_streams), T(compressed_rows_match_without_rounding),
        T(compressed_rows_match_with_rounding),
        T(compressor_state_after_175_tokens_holds_projections_and_biased_scores),
        T(indexer_scores_and_sets_match), T(attention_matches_with_raw_rows_only),
        T(attention_matches_with_ratio_4_and_indexer), T(attention_matches_with_ratio_128),
        T(experts_match_with_hash_routing), T(experts_match_with_learned_routing));
}

int main(void)
{
    int failed = 0;
    vectors = golden_json("tests/golden/model_vectors.json.xz");
    for (size_t i = 0; i < n_op_backends; i++) failed |= run_on_backend(i);
    json_decref(vectors);
    return failed;
}
