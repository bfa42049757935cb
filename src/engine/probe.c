/* probe.c - what this machine can do with a model, measured in a few seconds without loading it: the disk by reading
 * experts as streaming does, computing by multiplying made-up weights of the model's own formats and shapes. */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "engine/engine.h"
#include "quant/quant.h"

#define SET_BYTES ((uint64_t)96 << 20) /* of weights that are cycled through: beyond every cache */
#define MATRIX_SIDE 4096u
#define FORMATS 64u /* ids of formats */
#define PROBE_ROWS 2u /* experts of two layers are under way at once */

struct prober {
    struct hparams h;
    struct expert_map map;
    struct gguf_file *file, *mtp_file;
    struct thread_pool *pool;
    struct backend *backend;
    uint8_t *weights; /* [SET_BYTES] */
    float *x, *y;     /* inputs and results, wide enough for both measurements */
    struct rng rng;
    float held_rate; /* experts used more often will be in memory */
};

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

/* The format of most of those bytes. */
static uint32_t widest_format(const struct gguf_file *file)
{
    uint64_t bytes[FORMATS] = {0};
    uint32_t best = 0;
    dense_bytes(file, bytes);
    for (uint32_t type = 1; type < FORMATS; type++)
        if (bytes[type] > bytes[best]) best = type;
    return best;
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

/* ---- disk ------------------------------------------------------------------------------------------------------- */

/* Different experts of a layer. Where there are notes, those that will be missed, as often as they will be: some disks
 * remember what was read lately, and in a file with holes the others have no bytes. */
static void pick_experts(struct prober *p, const struct notes *notes, uint32_t layer_i, uint32_t n, int32_t *ids)
{
    const float *rates = notes->tokens > 0 ? notes->rates + (size_t)layer_i * p->h.n_experts : NULL;
    for (uint32_t i = 0, tries = 0; i < n; tries++) {
        uint32_t e = (uint32_t)rng_below(&p->rng, p->h.n_experts);
        bool missed = rates && rates[e] <= p->held_rate &&
                      (double)rates[e] > rng_double(&p->rng) * (double)p->held_rate;
        bool known = !rates || missed || (tries > 1000 && rates[e] > 0) || tries > 10000;
        for (uint32_t j = 0; j < i && known; j++) known = ids[j] != (int32_t)e;
        if (known) ids[i++] = (int32_t)e;
    }
}

/* How long it takes to read k experts at once: sums for the straight line through the measured times. */
struct read_times {
    double n, k, kk, seconds, k_seconds;
};

static void add_time(struct read_times *t, double k, double seconds)
{
    t->n++;
    t->k += k;
    t->kk += k * k;
    t->seconds += seconds;
    t->k_seconds += k * seconds;
}

/* wait + k / rate, by least squares; where noise gives a line that falls or begins below zero, one through zero. */
static void fit_times(const struct read_times *t, double expert_bytes, struct ds4_speed *out)
{
    double spread = t->n * t->kk - t->k * t->k;
    double each = spread > 0 ? (t->n * t->k_seconds - t->k * t->seconds) / spread : 0;
    double wait = t->n > 0 ? (t->seconds - each * t->k) / t->n : 0;
    if (each <= 0 || wait < 0) {
        each = t->kk > 0 ? t->k_seconds / t->kk : 0;
        wait = 0;
    }
    out->disk_bytes_per_s = each > 0 ? expert_bytes / each : 0;
    out->wait_seconds = wait;
}

/* Reads as decoding with its reads ahead does: some experts, or those of two layers, at once, then computing for as
 * long as a layer takes. A disk that is lent by the second, as those of virtual machines are, is faster so than when it
 * is asked without end. */
static enum ds4_status read_experts(struct prober *p, struct stream *s, const struct notes *notes, double seconds,
                                    struct ds4_speed *out, struct ds4_error *error)
{
    struct read_times times = {0};
    uint32_t most = PROBE_ROWS * p->h.n_used < p->h.n_experts ? PROBE_ROWS * p->h.n_used : p->h.n_experts;
    uint32_t step = p->h.n_used > 2 ? p->h.n_used - 2 : 1, k = most, type = widest_format(p->file);
    double bytes = 0;
    for (uint64_t start = clock_ns(); clock_seconds_since(start) < seconds;) {
        uint32_t layer_i = (uint32_t)rng_below(&p->rng, p->h.n_layers);
        const struct stream_layer *layer = &p->map.layers[layer_i];
        if (layer->n_parts == 0) continue;
        k = k + step <= most ? k + step : most < 2 ? most : 2;
        TRY(stream_begin(s, 0, error));
        pick_experts(p, notes, layer_i, k, stream_ids(s));
        uint64_t asked = clock_ns();
        stream_want(s, layer_i, k);
        stream_settle(s);
        add_time(&times, k, clock_seconds_since(asked));
        TRY(stream_end(s, error));
        bytes += (double)stream_expert_bytes(layer);
        if (out->dense_seconds > 0) (void)product_rate(p, type, out->dense_seconds / p->h.n_layers);
    }
    fit_times(&times, bytes / (times.n + 1e-9), out);
    return DS4_OK;
}

static int descending(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x < y) - (x > y);
}

/* The rate of the best expert for which the plan has no slot. */
static enum ds4_status find_held(struct prober *p, const struct ds4_engine_options *options, const struct notes *notes,
                                 struct ds4_error *error)
{
    size_t n = (size_t)notes->n_layers * notes->n_experts;
    struct ds4_plan plan;
    if (notes->tokens <= 0) return DS4_OK;
    TRY(ds4_plan_make(options, &plan, error));
    float *sorted = mem_alloc(n, sizeof *sorted);
    if (!sorted) return err_set(error, DS4_ERR_NOMEM, "no memory to measure the speed");
    memcpy(sorted, notes->rates, n * sizeof *sorted);
    qsort(sorted, n, sizeof *sorted, descending);
    p->held_rate = sorted[plan.n_expert_slots < n ? plan.n_expert_slots : n - 1];
    mem_free(sorted);
    return DS4_OK;
}

static enum ds4_status probe_disk(struct prober *p, const struct notes *notes, double seconds, struct ds4_speed *out,
                                  struct ds4_error *error)
{
    struct stream_config config = expert_map_config(&p->map, &p->h, PROBE_ROWS);
    struct stream_size size;
    struct stream *s;
    stream_size(&config, &size);
    config.budget_bytes = size.least_bytes;
    TRY(stream_create(&config, &s, error));
    enum ds4_status status = read_experts(p, s, notes, seconds, out, error);
    stream_destroy(s);
    return status;
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
    if (status == DS4_OK) status = find_held(p, options, &notes, error);
    if (status == DS4_OK) status = probe_disk(p, &notes, seconds / 2, out, error);
    notes.disk_bytes_per_s = out->disk_bytes_per_s;
    notes.dense_seconds = out->dense_seconds;
    notes.expert_seconds = out->expert_seconds;
    notes.wait_seconds = out->wait_seconds;
    *out = engine_speed(&notes);
    if (status == DS4_OK && notes.rates)
        (void)!engine_write_notes(options->model_path, options->notes_dir, &notes, NULL); /* then nobody remembers */
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
