/* arithmetic.c - what a backend of the host makes of fixed inputs, as a digest. See engine.h.
 *
 * The last bits of a result depend on the kernels of a build, the instruction set that they were chosen for and the
 * mathematical library. Rather than to name all these, some operations are run once on numbers made here, with a few
 * rows of one matrix of every format and every width that the file has, and the bits of what they give are the name.
 * So state goes on after a change that left the results alone, and with AVX-512 what AVX2 began. What is not run here
 * is named by OPS_ARITHMETIC. */
#include "engine/engine.h"

#include "base/hash.h"
#include "base/mem.h"
#include "ops/rows.h"
#include "quant/quant.h"

#define OUTPUTS_MAX 32u  /* rows of a matrix: whole panels and lanes */
#define KINDS_MAX 64u    /* of matrices, by format and use */
#define ATTENTION_ROWS 8u /* at most */

struct probe {
    struct backend *backend;
    const struct hparams *h;
    struct hash *hash;
    float *x, *y;            /* as long as the longest input */
    uint32_t n_floats;
    uint64_t kinds[KINDS_MAX];
    uint32_t n_kinds;
};

static uint32_t attention_rows(const struct hparams *h)
{
    return h->window < ATTENTION_ROWS ? h->window : ATTENTION_ROWS;
}

/* Numbers of either sign that float32 holds exactly, below 1 and of many magnitudes. */
static void make_up(float *x, uint32_t n)
{
    uint64_t state = 0x9E3779B97F4A7C15u;
    for (uint32_t i = 0; i < n; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        x[i] = (float)(int32_t)(state >> 40) * (1.0f / (1 << 24)) / (float)(1u << (state >> 32 & 7)) * (i % 2 ? -1 : 1);
    }
}

static void note(struct probe *p, const float *y, size_t n) { hash_update(p->hash, y, n * sizeof *y); }

/* True the first time that such a matrix is met. */
static bool is_new(struct probe *p, const struct gguf_tensor *t)
{
    uint64_t kind = (uint64_t)t->type << 40 | (uint64_t)(t->dims[2] > 1) << 39 | t->dims[0];
    for (uint32_t i = 0; i < p->n_kinds; i++)
        if (p->kinds[i] == kind) return false;
    if (p->n_kinds == KINDS_MAX) return false;
    p->kinds[p->n_kinds++] = kind;
    return true;
}

/* The first rows of an expert's matrix as its gate and what goes up, or as what comes down. */
static void probe_expert(struct probe *p, const struct op_weight *w)
{
    int32_t id = 0;
    float weight = 1;
    struct moe_gate_up_args up = {.n_rows = 1, .n_used = 1, .limit = 10, .x = p->x, .ids = &id, .weights = &weight,
                                  .gate = *w, .up = *w, .m = p->y};
    struct moe_down_args down = {.n_rows = 1, .n_used = 1, .m = p->x, .ids = &id, .down = *w, .y = p->y};
    if (w->n_in == p->h->n_embd) {
        p->backend->ops->moe_gate_up(p->backend, &up);
        note(p, p->y, w->n_out);
    }
    if (w->n_in == p->h->n_ff) {
        p->backend->ops->moe_down(p->backend, &down);
        note(p, p->y, w->n_out);
    }
}

static void probe_matrix(struct probe *p, const struct gguf_tensor *t)
{
    const struct quant_format *format = quant_format(t->type);
    struct op_weight w = {.data = t->data, .type = t->type, .n_stack = 1};
    if (!t->data || t->n_dims < 2 || !format || !format->weight || t->dims[0] > p->n_floats || t->dims[1] < 1) return;
    if (!quant_row_bytes(format, t->dims[0], &w.row_bytes) || !is_new(p, t)) return;
    w.n_in = (uint32_t)t->dims[0];
    w.n_out = t->dims[1] < OUTPUTS_MAX ? (uint32_t)t->dims[1] : OUTPUTS_MAX;
    w.stack_bytes = w.row_bytes * w.n_out;
    if (t->dims[2] > 1) {
        probe_expert(p, &w);
        return;
    }
    struct matmul_args args = {.n_rows = 1, .n_outputs = 1, .n_groups = 1, .x = p->x, .out = {{.w = w, .y = p->y}}};
    p->backend->ops->matmul(p->backend, &args);
    note(p, p->y, w.n_out);
}

static void probe_vectors(struct probe *p, const float *freq)
{
    const struct hparams *h = p->h;
    int32_t pos = 123457;
    struct rms_norm_args norm = {.n_rows = 1, .n = h->n_embd, .eps = h->rms_eps, .x = p->x, .y = p->y};
    p->backend->ops->rms_norm(p->backend, &norm);
    note(p, p->y, h->n_embd);
    make_up(p->y, h->n_rope);
    struct rope_args rope = {.n_rows = 1, .n_heads = 1, .dim = h->n_rope, .n_rope = h->n_rope, .pos = &pos,
                             .freq = freq, .x = p->y};
    p->backend->ops->rope(p->backend, &rope);
    note(p, p->y, h->n_rope);
    struct swiglu_args swiglu = {.n = h->n_embd, .limit = 10, .a = p->x, .b = p->x, .m = p->y};
    p->backend->ops->swiglu(p->backend, &swiglu);
    note(p, p->y, h->n_embd);
    int32_t ids[HPARAMS_USED_MAX];
    struct router_args router = {.n_rows = 1, .n_experts = h->n_experts, .n_used = h->n_used, .scale = h->expert_scale,
                                 .logits = p->x, .ids = ids, .weights = p->y};
    p->backend->ops->router(p->backend, &router);
    note(p, p->y, h->n_used);
}

/* The last of some rows of one head over a ring of their own; row by row, whatever the chunk. room: the ring, and
 * the rows and the result behind it. */
static void probe_attention(struct probe *p, uint8_t *room, uint32_t row_bytes, enum op_row_format format, bool round)
{
    const struct hparams *h = p->h;
    uint32_t n_slots = attention_rows(h), seq_i = 0, span_id = 0;
    int32_t token = 0, pos = 0;
    float sink = 0.5f, *rows = (float *)(void *)(room + (size_t)n_slots * row_bytes);
    float *row = rows, *out = rows + (size_t)n_slots * h->head_dim;
    struct op_seq seq = {.n_rows = 1};
    struct op_batch batch = {.n_rows = 1, .n_seqs = 1, .tokens = &token, .pos = &pos, .seq_i = &seq_i, .seqs = &seq,
                             .tails = room, .tail_bytes = (uint64_t)n_slots * row_bytes, .span_ids = &span_id};
    struct op_ring ring = {.row_bytes = row_bytes, .n_slots = n_slots, .format = format};
    make_up(rows, n_slots * h->head_dim);
    for (; pos < (int32_t)n_slots; pos++, row += h->head_dim) {
        struct kv_store_args store = {.batch = batch, .dim = h->head_dim, .n_rope = h->n_rope, .round = round,
                                      .ring = ring, .kv = row};
        p->backend->ops->kv_store(p->backend, &store);
    }
    pos--;
    struct attention_args attend = {.batch = batch, .n_heads = 1, .dim = h->head_dim, .n_rope = h->n_rope,
                                    .window = n_slots, .scale = 0.125f, .q = rows, .sinks = &sink, .ring = ring,
                                    .o = out};
    p->backend->ops->attention(p->backend, &attend);
    note(p, out, h->head_dim);
}

static enum ds4_status run(struct probe *p, const struct ds4_engine *e, struct ds4_error *error)
{
    const struct gguf_file *files[2] = {e->file, e->settings.draft ? e->mtp_file : NULL};
    uint32_t row_bytes = kv_row_bytes(e->settings.row_format, e->h.head_dim, e->h.n_rope);
    size_t n_rows = attention_rows(&e->h);
    size_t room_bytes = n_rows * row_bytes + (n_rows + 1) * e->h.head_dim * sizeof(float);
    uint8_t *room = mem_alloc(room_bytes, 1);
    if (!room) return err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    make_up(p->x, p->n_floats);
    for (int f = 0; f < 2; f++)
        for (size_t i = 0; files[f] && i < gguf_n_tensors(files[f]); i++) probe_matrix(p, gguf_tensor_at(files[f], i));
    probe_vectors(p, weights_model(e->weights)->freq_plain);
    probe_attention(p, room, row_bytes, e->settings.row_format, e->settings.round);
    mem_free(room);
    return e->backend->ops->finish(e->backend, error);
}

enum ds4_status engine_arithmetic(const struct ds4_engine *e, uint8_t digest[16], struct ds4_error *error)
{
    uint32_t version = OPS_ARITHMETIC, n_floats = e->h.n_embd;
    struct backend_limits limits = graph_backend_limits(&e->h, e->settings.chunk_tokens, e->settings.ctx_tokens);
    if (limits.n_in > n_floats) n_floats = limits.n_in;
    if (e->h.n_experts > n_floats) n_floats = e->h.n_experts;
    if (e->h.n_rope > n_floats) n_floats = e->h.n_rope;
    if (n_floats < OUTPUTS_MAX) n_floats = OUTPUTS_MAX;
    struct probe p = {.backend = e->backend, .h = &e->h, .hash = hash_create(), .n_floats = n_floats};
    p.x = mem_alloc(2 * (size_t)n_floats, sizeof *p.x);
    enum ds4_status status = DS4_OK;
    if (!p.hash || !p.x) status = err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    if (status == DS4_OK) {
        p.y = p.x + n_floats;
        hash_update(p.hash, &version, sizeof version);
        hash_update(p.hash, e->backend->ops->name, strlen(e->backend->ops->name));
        if (e->settings.gpu_host) {
            const char *device = backend_gpu_device(e->backend);
            hash_update(p.hash, device, strlen(device));
            hash_update(p.hash, DS4_VERSION, sizeof DS4_VERSION);
        } else {
            status = run(&p, e, error);
        }
    }
    if (status == DS4_OK) hash_digest(p.hash, digest);
    hash_destroy(p.hash);
    mem_free(p.x);
    return status;
}
