/* probe.c - what this machine can do with a model, measured in a few seconds without loading it: the disk by reading
 * experts as streaming does, computing by multiplying made-up weights of the model's own formats and shapes. */
#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "quant/quant.h"

#define SET_BYTES ((uint64_t)96 << 20) /* of weights that are cycled through: beyond every cache */
#define MATRIX_SIDE 4096u
#define FORMATS 64u /* ids of formats */

struct prober {
    struct hparams h;
    struct expert_map map;
    struct gguf_file *file, *mtp_file;
    struct thread_pool *pool;
    struct backend *backend;
    uint8_t *weights; /* [SET_BYTES] */
    float *x, *y;     /* inputs and results, wide enough for both measurements */
    struct rng rng;
};

/* ---- disk ------------------------------------------------------------------------------------------------------- */

/* An expert that the notes say is used, where there are notes: in a file with holes those have bytes. */
static int32_t pick_expert(struct prober *p, const struct notes *notes, uint32_t layer_i)
{
    for (int i = 0; i < 1000; i++) {
        uint32_t e = (uint32_t)rng_below(&p->rng, p->h.n_experts);
        if (notes->tokens <= 0 || notes->rates[layer_i * p->h.n_experts + e] > 0) return (int32_t)e;
    }
    return 0;
}

/* Reads the experts that one token might choose in one layer after another, as decoding does when all of them miss. */
static enum ds4_status read_experts(struct prober *p, struct stream *s, const struct notes *notes, double seconds,
                                    struct ds4_error *error)
{
    for (uint64_t start = clock_ns(); clock_seconds_since(start) < seconds;) {
        uint32_t layer_i = (uint32_t)rng_below(&p->rng, p->h.n_layers);
        if (p->map.layers[layer_i].n_parts == 0) continue;
        TRY(stream_begin(s, 0, error));
        for (uint32_t i = 0; i < p->h.n_used; i++) stream_ids(s)[i] = pick_expert(p, notes, layer_i);
        stream_want(s, layer_i, p->h.n_used);
        stream_settle(s);
        TRY(stream_end(s, error));
    }
    return DS4_OK;
}

static enum ds4_status probe_disk(struct prober *p, const struct notes *notes, double seconds, struct ds4_speed *out,
                                  struct ds4_error *error)
{
    struct stream_config config = expert_map_config(&p->map, &p->h, 1);
    struct stream_size size;
    struct stream *s;
    stream_size(&config, &size);
    config.budget_bytes = size.least_bytes;
    TRY(stream_create(&config, &s, error));
    enum ds4_status status = read_experts(p, s, notes, seconds, error);
    struct stream_figures f;
    stream_figures(s, &f);
    stream_destroy(s);
    out->disk_bytes_per_s = f.read_seconds > 0 ? (double)f.read_bytes / f.read_seconds : 0;
    return status;
}

/* ---- computing -------------------------------------------------------------------------------------------------- */

/* Zero scales make every block a valid one, and zeros are multiplied as fast as anything else. */
static struct op_weight made_up(const struct prober *p, uint32_t type, uint32_t n_in, uint32_t n_out, uint32_t n_stack)
{
    uint64_t row_bytes = 0;
    if (!quant_row_bytes(quant_format(type), n_in, &row_bytes)) return (struct op_weight){0};
    return (struct op_weight){.data = p->weights, .type = type, .n_in = n_in, .n_out = n_out, .row_bytes = row_bytes,
                              .n_stack = n_stack, .stack_bytes = row_bytes * n_out};
}

/* Bytes a second of products of one row with matrices of a format. */
static double product_rate(struct prober *p, uint32_t type, double seconds)
{
    struct op_weight w = made_up(p, type, MATRIX_SIDE, MATRIX_SIDE, 1);
    if (w.stack_bytes == 0 || w.stack_bytes > SET_BYTES) return 0;
    uint64_t n_copies = SET_BYTES / w.stack_bytes, start = clock_ns(), n = 0;
    do {
        struct matmul_args args = {.n_rows = 1, .n_outputs = 1, .n_groups = 1, .x = p->x, .out = {{w, p->y}}};
        args.out[0].w.data += n++ % n_copies * w.stack_bytes;
        p->backend->ops->matmul(p->backend, &args);
    } while (clock_seconds_since(start) < seconds);
    return (double)(n * w.stack_bytes) / clock_seconds_since(start);
}

/* Bytes of each format that a token reads outside routed experts. */
static void dense_bytes(const struct gguf_file *file, uint64_t bytes[FORMATS])
{
    for (size_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        bool other = t->dims[1] == 1 || t->dims[2] > 1 || span_find(t->name, SPAN("mtp."), 0) == 0 ||
                     span_find(t->name, SPAN("token_embd"), 0) == 0 ||
                     span_find(t->name, SPAN("tid2eid"), 0) != SIZE_MAX;
        if (!other && t->type < FORMATS) bytes[t->type] += t->size_bytes;
    }
}

static void probe_dense(struct prober *p, double seconds, struct ds4_speed *out)
{
    uint64_t bytes[FORMATS] = {0}, all = 0;
    dense_bytes(p->file, bytes);
    for (uint32_t type = 0; type < FORMATS; type++) all += bytes[type];
    for (uint32_t type = 0; type < FORMATS; type++) {
        if (bytes[type] == 0) continue;
        double rate = product_rate(p, type, seconds * (0.1 + 0.9 * (double)bytes[type] / (double)all));
        if (rate > 0) out->dense_seconds += (double)bytes[type] / rate;
    }
}

static uint32_t type_of(const struct prober *p, const char *kind)
{
    for (size_t i = 0; i < gguf_n_tensors(p->file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(p->file, i);
        if (t->dims[2] == p->h.n_experts && span_find(t->name, span_from(kind), 0) != SIZE_MAX) return t->type;
    }
    return FORMATS;
}

/* Both products of the experts of one token, of a stack as large as the set allows. */
static void probe_experts(struct prober *p, double seconds, struct ds4_speed *out)
{
    const struct hparams *h = &p->h;
    uint32_t gate = type_of(p, "ffn_gate"), down = type_of(p, "ffn_down_exps");
    struct op_weight up_w = made_up(p, gate, h->n_embd, h->n_ff, 2), down_w = made_up(p, down, h->n_ff, h->n_embd, 2);
    if (up_w.stack_bytes == 0 || down_w.stack_bytes == 0) return;
    uint64_t largest = up_w.stack_bytes > down_w.stack_bytes ? up_w.stack_bytes : down_w.stack_bytes;
    uint64_t n_stack = SET_BYTES / largest < h->n_experts ? SET_BYTES / largest : h->n_experts, n = 0;
    if (n_stack < h->n_used) return;
    up_w.n_stack = down_w.n_stack = (uint32_t)n_stack;
    int32_t ids[64];
    float weights[64];
    if (h->n_used > 64) return;
    uint64_t start = clock_ns();
    do {
        for (uint32_t i = 0; i < h->n_used; i++) {
            ids[i] = (int32_t)((n * h->n_used + i) % n_stack);
            weights[i] = 1;
        }
        struct moe_gate_up_args first = {1, h->n_used, 10, p->x, ids, weights, up_w, up_w, p->y};
        struct moe_down_args second = {1, h->n_used, p->y, ids, down_w, p->x};
        p->backend->ops->moe_gate_up(p->backend, &first);
        p->backend->ops->moe_down(p->backend, &second);
        n++;
    } while (clock_seconds_since(start) < seconds);
    out->expert_seconds = clock_seconds_since(start) / (double)(n * h->n_used);
}

static enum ds4_status probe_computing(struct prober *p, uint32_t n_threads, double seconds, struct ds4_speed *out,
                                       struct ds4_error *error)
{
    const struct hparams *h = &p->h;
    uint32_t width = MATRIX_SIDE > h->n_embd ? MATRIX_SIDE : h->n_embd;
    if (width < h->n_ff) width = h->n_ff;
    struct backend_limits limits = {.n_rows = 1, .n_in = width, .n_heads = 1, .dim = 64, .n_attn_rows = 1,
                                    .n_index_heads = 1, .index_dim = 32, .n_index_rows = 1,
                                    .n_experts = h->n_experts, .n_used = h->n_used, .n_ff = h->n_ff};
    TRY(thread_pool_create(n_threads, &p->pool, error));
    TRY(backend_cpu_create(p->pool, &limits, &p->backend, error));
    p->weights = mem_map(SET_BYTES);
    p->x = mem_zalloc((size_t)width * h->n_used, sizeof *p->x);
    p->y = mem_zalloc((size_t)width * h->n_used, sizeof *p->y);
    if (!p->weights || !p->x || !p->y) return err_set(error, DS4_ERR_NOMEM, "no memory to measure the speed");
    for (uint64_t at = 0; at < SET_BYTES; at += 4096) p->weights[at] = 0; /* pages of its own, not the one of zeros */
    probe_dense(p, seconds * 0.6, out);
    probe_experts(p, seconds * 0.4, out);
    return DS4_OK;
}

/* ---- the door --------------------------------------------------------------------------------------------------- */

static enum ds4_status probe(struct prober *p, const struct ds4_engine_options *options, double seconds,
                             struct ds4_speed *out, struct ds4_error *error)
{
    struct notes notes = {0};
    TRY(gguf_open(options->model_path, &p->file, error));
    if (options->mtp_path) TRY(gguf_open(options->mtp_path, &p->mtp_file, error));
    TRY(hparams_read(p->file, &p->h, error));
    TRY(expert_map_make(p->file, p->mtp_file, &p->h, &p->map, error));
    TRY(engine_read_notes(options->model_path, options->notes_dir, &p->map, &p->h, &notes, error));
    enum ds4_status status = probe_computing(p, options->n_threads, seconds / 2, out, error);
    if (status == DS4_OK) status = probe_disk(p, &notes, seconds / 2, out, error);
    if (status == DS4_OK && notes.rates) {
        notes.disk_bytes_per_s = out->disk_bytes_per_s;
        notes.dense_seconds = out->dense_seconds;
        notes.expert_seconds = out->expert_seconds;
        (void)!engine_write_notes(options->model_path, options->notes_dir, &notes, NULL); /* then nobody remembers */
    }
    mem_free(notes.rates);
    return status;
}

enum ds4_status ds4_speed_probe(const struct ds4_engine_options *options, double seconds, struct ds4_speed *out,
                                struct ds4_error *error)
{
    *out = (struct ds4_speed){0};
    struct prober *p = mem_zalloc(1, sizeof *p);
    if (!p) return err_set(error, DS4_ERR_NOMEM, "no memory to measure the speed");
    p->rng.state = clock_ns();
    enum ds4_status status = probe(p, options, seconds, out, error);
    mem_free(p->x);
    mem_free(p->y);
    mem_unmap(p->weights, SET_BYTES);
    if (p->backend) p->backend->ops->destroy(p->backend);
    thread_pool_destroy(p->pool);
    gguf_close(p->mtp_file);
    gguf_close(p->file);
    mem_free(p);
    return status;
}
