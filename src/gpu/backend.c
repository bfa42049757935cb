/* backend.c - creation of the GPU backend, its memory, and the encoding of dispatches. See backend.h. */
#include "gpu/backend.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/backend_impl.h"
#include "quant/quant.h"

#define MAP_PAGE ((uint64_t)16384)

static const struct {
    uint32_t type;
    const char *name;
    bool blocks;
    float input_most; /* 2^23 / (32 or 16 that share a scale) / largest weight */
} formats[N_WEIGHT_FORMATS] = {
    {QUANT_F32, "f32", false, 0},      {QUANT_F16, "f16", false, 0},      {QUANT_BF16, "bf16", false, 0},
    {QUANT_Q8_0, "q8_0", true, 2047},  {QUANT_Q2_K, "q2_k", true, 16376}, {QUANT_Q4_K, "q4_k", true, 16376},
    {QUANT_Q6_K, "q6_k", true, 16376}, {QUANT_IQ2_XXS, "iq2_xxs", true, 4094},
    {QUANT_MXFP4, "mxfp4", true, 16376},
    {QUANT_Q8_0 | OP_PACKED, "q8_0_packed", true, 2047},
    {QUANT_Q2_K | OP_PACKED, "q2_k_packed", true, 16376},
    {QUANT_Q6_K | OP_PACKED, "q6_k_packed", true, 16376},
    {QUANT_IQ2_XXS | OP_PACKED, "iq2_xxs_packed", true, 4094},
    {QUANT_MXFP4 | OP_PACKED, "mxfp4_packed", true, 16376},
};

float gpu_input_most(uint32_t type)
{
    for (size_t i = 0; i < N_WEIGHT_FORMATS; i++)
        if (formats[i].type == type && formats[i].blocks) return formats[i].input_most;
    return 16376;
}

bool gpu_is_block_format(uint32_t type)
{
    for (size_t i = 0; i < N_WEIGHT_FORMATS; i++)
        if (formats[i].type == type) return formats[i].blocks;
    return false;
}

void gpu_fail(struct backend_gpu *b, const char *sentence)
{
    if (!b->failed) (void)snprintf(b->why, sizeof b->why, "%s", sentence);
    b->failed = true;
}

const char *backend_gpu_device(const struct backend *b) { return ((const struct backend_gpu *)b)->info.name; }

static void host_failed(struct backend_gpu *b) { gpu_fail(b, b->host->error(b->gpu)); }

static bool holds(const struct region *r, const uint8_t *at, uint64_t bytes)
{
    return at >= r->first && (uint64_t)(at - r->first) <= r->bytes && bytes <= r->bytes - (uint64_t)(at - r->first);
}

/* Regions are sorted by their first byte, and only
 * pieces of one mapping overlap, each with the next. */
const struct region *gpu_region(struct backend_gpu *b, const void *ptr, uint64_t bytes)
{
    const uint8_t *at = ptr;
    uint32_t low = 0, high = b->n_regions; /* regions before low begin at or before ptr, those from high on after it */
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (b->regions[middle].first <= at) low = middle + 1;
        else high = middle;
    }
    for (uint32_t back = 1; back <= 2 && back <= low; back++)
        if (holds(&b->regions[low - back], at, bytes)) return &b->regions[low - back];
    return NULL;
}

static struct gpu_ref ref_of(struct backend_gpu *b, const void *ptr, uint64_t bytes)
{
    const struct region *r = gpu_region(b, ptr, bytes);
    if (!r) {
        gpu_fail(b, "an operation names memory that is not the backend's");
        r = &b->regions[0];
        ptr = r->first;
        bytes = 0;
    }
    return (struct gpu_ref){r->buffer, (uint64_t)((const uint8_t *)ptr - r->first), bytes};
}

void gpu_bind(struct gpu_call *c, const void *ptr, uint64_t bytes)
{
    ensure(c->n < GPU_REFS_MAX);
    if (!ptr || bytes == 0) {
        ptr = c->b->scratch + c->b->scratch_bytes - 64; /* nothing uses the last bytes */
        bytes = 64;
    }
    c->refs[c->n++] = ref_of(c->b, ptr, bytes);
}

void gpu_bind_floats(struct gpu_call *c, const float *ptr, uint64_t n) { gpu_bind(c, ptr, n * sizeof *ptr); }

void gpu_bind_rest(struct gpu_call *c, const void *ptr)
{
    const struct region *r = ptr ? gpu_region(c->b, ptr, 1) : NULL;
    gpu_bind(c, ptr, r ? r->bytes - (uint64_t)((const uint8_t *)ptr - r->first) : 0);
}

void gpu_bind_weight(struct gpu_call *c, const struct op_weight *w)
{
    gpu_bind(c, w->data, (w->n_stack - 1) * w->stack_bytes + w->n_out * w->row_bytes);
}

void gpu_run(struct gpu_call *c, const struct gpu_pipe *pipe, const void *record, size_t record_bytes, uint32_t x,
             uint32_t y, uint32_t z, uint32_t n_threads)
{
    struct backend_gpu *b = c->b;
    const unsigned grid[3] = {x, y, z};
    gpu_flush(b);
    if (b->failed || !pipe || x == 0 || y == 0 || z == 0) return;
    b->pending = true;
    if (!b->host->dispatch(b->gpu, pipe, record, record_bytes, c->refs, c->n, grid, n_threads) ||
        (b->times && !gpu_note_time(b, pipe)))
        host_failed(b);
}

const struct gpu_pipe *gpu_format_pipe(struct backend_gpu *b, enum format_family family, uint32_t type)
{
    for (size_t i = 0; i < N_WEIGHT_FORMATS; i++)
        if (formats[i].type == type && b->by_format[family][i]) return b->by_format[family][i];
    gpu_fail(b, "weights are in a format that no kernel has");
    return NULL;
}

void *gpu_scratch(struct backend *backend, uint64_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    uint64_t at = b->scratch_used;
    b->scratch_used += (bytes + 255) / 256 * 256;
    ensure(b->scratch_used <= b->scratch_bytes);
    return b->scratch + at;
}

bool gpu_takes_bytes(uint32_t type)
{
    return type == (QUANT_Q8_0 | OP_PACKED) || type == (QUANT_Q2_K | OP_PACKED) || type == (QUANT_IQ2_XXS | OP_PACKED);
}

struct gpu_input gpu_quantise(struct backend *backend, const float *x, uint32_t n_rows, uint32_t n, float most,
                              bool in_bytes)
{
    uint64_t n_values = (uint64_t)n_rows * n;
    struct gpu_input input = {n_rows, n, in_bytes, gpu_scratch(backend, n_values * 2),
                              gpu_scratch(backend, n_values / 8), gpu_scratch(backend, n_values / 4)};
    struct quantise_record record = {n / 32, most, in_bytes};
    struct gpu_call c = gpu_call_begin(backend);
    ensure(n % 32 == 0);
    if (gpu_quantise_waiting(backend, x, &input, most)) return input;
    gpu_bind_floats(&c, x, n_values);
    gpu_bind_input(&c, &input);
    gpu_run(&c, c.b->plain[PIPE_quantise], &record, sizeof record, gpu_groups(n / 32, 8), n_rows, 1, 256);
    return input;
}

void gpu_bind_input(struct gpu_call *c, const struct gpu_input *input)
{
    uint64_t n_values = (uint64_t)input->n_rows * input->n;
    gpu_bind(c, input->q, n_values * 2);
    gpu_bind(c, input->scales, n_values / 8);
    gpu_bind(c, input->sums, n_values / 4);
}

static bool add_region(struct backend_gpu *b, struct gpu_buffer *buffer, const void *first, uint64_t bytes, bool mapped)
{
    if (!buffer) return false;
    if (b->n_regions == REGIONS_MAX) {
        b->host->free(b->gpu, buffer);
        return false;
    }
    uint32_t i = b->n_regions++;
    for (; i > 0 && b->regions[i - 1].first > (const uint8_t *)first; i--) b->regions[i] = b->regions[i - 1];
    b->regions[i] = (struct region){first, bytes, buffer, mapped};
    return true;
}

void *gpu_take(struct backend_gpu *b, uint64_t bytes)
{
    struct gpu_buffer *buffer = b->host->alloc(b->gpu, bytes ? bytes : 1);
    void *address = buffer ? b->host->address(buffer) : NULL;
    return add_region(b, buffer, address, bytes, false) ? address : NULL;
}

static void *gpu_alloc(struct backend *backend, size_t bytes) { return gpu_take(gpu_of(backend), bytes); }

/* Waits for what was dispatched, and for what waited to be; after a failure too: what it uses may be freed next. */
static void settle(struct backend_gpu *b)
{
    gpu_flush(b);
    if (b->pending && (!b->host->submit(b->gpu) || !b->host->wait(b->gpu))) host_failed(b);
    b->pending = false;
}

static void gpu_release(struct backend *backend, void *ptr, size_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    (void)bytes;
    for (uint32_t i = 0; ptr && i < b->n_regions; i++) {
        if (b->regions[i].first != ptr) continue;
        settle(b);
        b->host->free(b->gpu, b->regions[i].buffer);
        for (b->n_regions--; i < b->n_regions; i++) b->regions[i] = b->regions[i + 1];
        return;
    }
}

static uint64_t piece_most(const struct backend_gpu *b)
{
    return b->info.buffer_bytes_max / (2 * MAP_PAGE) * (2 * MAP_PAGE);
}

bool gpu_fits_one_buffer(const struct backend_gpu *b, uint64_t bytes) { return bytes <= piece_most(b); }

/* Pieces of the largest buffer the device has, half of each shared with the next, so that any matrix up to half of that
 * lies in one. */
static enum ds4_status gpu_map(struct backend *backend, const void *ptr, size_t bytes, bool near,
                               struct ds4_error *error)
{
    struct backend_gpu *b = gpu_of(backend);
    uint64_t most = piece_most(b), step = most / 2;
    if (b->generates && (bytes > most || !near))
        return err_set(error, DS4_ERR_UNSUPPORTED, "weights can be made up where all of them lie on a device, in one "
                       "buffer; %zu bytes do not", bytes);
    for (uint64_t at = 0; at < bytes; at += step) {
        uint64_t n = bytes - at < most ? bytes - at : most;
        struct gpu_buffer *buffer = b->generates ? b->host->alloc(b->gpu, n)
                                                 : b->host->wrap(b->gpu, (const uint8_t *)ptr + at, n, near);
        if (!add_region(b, buffer, (const uint8_t *)ptr + at, n, true))
            return err_set(error, DS4_ERR_DEVICE, "weights of %zu bytes cannot be given to the device: %s", bytes,
                           buffer ? "too many parts" : b->host->error(b->gpu));
        if (n == bytes - at) break;
    }
    return DS4_OK;
}

void gpu_forget_choices(struct backend_gpu *b)
{
    gpu_stage_forget(b);
    b->ready.x = NULL;
    b->sorts.ids = NULL;
}

static void gpu_write(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    if (!bytes || b->failed) return;
    gpu_flush(b);
    gpu_forget_choices(b);
    struct gpu_ref target = ref_of(b, to, bytes);
    const struct region *source = gpu_region(b, from, bytes);
    bool good = source && !source->mapped ? b->host->copy(b->gpu, target, ref_of(b, from, bytes))
                                          : b->host->write(b->gpu, target.buffer, target.offset, from, bytes);
    b->pending = true; /* it may be on its way */
    if (!good) host_failed(b);
}

uint64_t gpu_mark(struct backend_gpu *b)
{
    gpu_flush(b);
    if (b->failed || !b->host->send) return 0;
    uint64_t mark = b->host->mark(b->gpu);
    if (!mark && *b->host->error(b->gpu)) host_failed(b);
    return mark;
}

void gpu_send(struct backend_gpu *b, void *to, const void *from, uint64_t bytes, uint64_t mark)
{
    if (!b->host->send) gpu_write(&b->base, to, from, (size_t)bytes);
    else if (!b->failed && !b->host->send(b->gpu, ref_of(b, to, bytes), from, mark)) host_failed(b);
}

void gpu_arrive(struct backend_gpu *b)
{
    if (b->host->send && !b->failed && !b->host->arrive(b->gpu)) host_failed(b);
}

static void gpu_read(struct backend *backend, void *to, const void *from, size_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    if (!bytes || b->failed) return;
    settle(b);
    struct gpu_ref source = ref_of(b, from, bytes);
    if (!b->failed && !b->host->read(b->gpu, to, source.buffer, source.offset, bytes)) host_failed(b);
}

static bool gpu_post(struct backend *backend, const void *from, size_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    gpu_flush(b);
    struct gpu_ref source = ref_of(b, from, bytes);
    if (!b->failed && !b->host->post(b->gpu, source)) host_failed(b);
    return !b->failed;
}

static bool gpu_collect(struct backend *backend, void *to, size_t bytes)
{
    struct backend_gpu *b = gpu_of(backend);
    if (!b->failed && !b->host->collect(b->gpu, to, bytes)) host_failed(b);
    return !b->failed;
}

static enum ds4_status gpu_finish(struct backend *backend, struct ds4_error *error)
{
    struct backend_gpu *b = gpu_of(backend);
    settle(b);
    if (!b->failed) return DS4_OK;
    return err_set(error, DS4_ERR_DEVICE, "%s: %s", b->info.name, b->why);
}

static void gpu_destroy(struct backend *backend)
{
    struct backend_gpu *b = gpu_of(backend);
    if (!b) return;
    gpu_stage_free(b);
    (void)b->host->submit(b->gpu); /* what was given may still be at what is freed next */
    (void)b->host->wait(b->gpu);
    for (uint32_t i = 0; i < b->n_regions; i++) b->host->free(b->gpu, b->regions[i].buffer);
    b->host->close(b->gpu);
    mem_free(b->times);
    mem_free(b);
}

/* Rows of a slice: as many as fit, and no slice much shorter than the others. */
static uint32_t slice(uint64_t row_bytes, uint32_t n_rows)
{
    uint64_t rows = row_bytes ? SCRATCH_PART_BYTES / row_bytes : n_rows;
    if (rows < 1) rows = 1;
    return rows < n_rows ? gpu_groups(n_rows, gpu_groups(n_rows, (uint32_t)rows)) : n_rows;
}

static uint64_t input_bytes(uint64_t n) { return n * 2 + n / 8 + n / 4; }

/* Rows whose products of hyper-connections there is room for, a quarter of a slice; and that room. */
static uint32_t hc_rows(const struct backend_limits *limits) { return slice(4 * HC_ROW_BYTES, limits->n_rows); }
static uint64_t hc_bytes(const struct backend_limits *limits) { return hc_rows(limits) * HC_ROW_BYTES; }

/* Of a row of the operations with experts; and how many rows they take at a time. */
static uint64_t expert_bytes(const struct backend_limits *limits)
{
    uint64_t n_embd = gpu_ready_width(limits);
    return 2 * input_bytes(n_embd) + limits->n_used * (input_bytes(limits->n_ff) + limits->n_ff * 4ull + n_embd * 4);
}
static uint32_t expert_rows(const struct backend_limits *limits)
{
    uint32_t numbered = limits->n_used ? GRID_MOST / limits->n_used : limits->n_rows;
    return slice(expert_bytes(limits), numbered < limits->n_rows ? numbered : limits->n_rows);
}

/* Room for the choices of so many rows, sorted: their order, three words for each of the tiles, the counts. */
static uint64_t sorts_slice_bytes(const struct backend_limits *limits)
{
    uint64_t n_pairs = (uint64_t)expert_rows(limits) * limits->n_used, n_tiles = n_pairs / TILE + limits->n_experts;
    return (n_pairs + n_tiles * 3 + limits->n_experts + 3 * 64) / 64 * 64 * sizeof(uint32_t);
}
static uint64_t sorts_bytes(const struct backend_limits *limits)
{
    return limits->n_used ? gpu_groups(limits->n_rows, expert_rows(limits)) * sorts_slice_bytes(limits) : 1;
}

/* Bytes of scratch for any one operation. */
static uint64_t lay_out(const struct backend_limits *limits, struct backend_gpu *b)
{
    uint64_t key = (uint64_t)limits->n_index_rows * 4;
    uint32_t n_chunks = gpu_groups(limits->n_attn_rows, ATTENTION_CHUNK_ROWS);
    uint64_t part = (uint64_t)limits->n_heads * n_chunks * (limits->dim + 2ull) * 4;
    uint32_t split = limits->n_rows < SPLIT_ROWS_MAX ? limits->n_rows : SPLIT_ROWS_MAX;
    uint64_t input = 2 * input_bytes(limits->n_in); /* as halves and in bytes */
    uint64_t expert = expert_bytes(limits);
    uint64_t sizes[5] = {slice(key, limits->n_rows) * key,
                         slice(part, split) * (part + input), slice(input, limits->n_rows) * input,
                         slice(expert, limits->n_rows) * expert,
                         gpu_sample_scratch(limits->n_vocab, limits->n_rows)};
    uint64_t most = 0;
    for (size_t i = 0; i < 5; i++) most = sizes[i] > most ? sizes[i] : most;
    if (b) {
        b->hc_rows = hc_rows(limits);
        b->key_rows = slice(key, limits->n_rows);
        b->n_chunks = n_chunks;
        b->split_rows = slice(part, split);
        b->input_rows = slice(input, limits->n_rows);
        b->expert_rows = expert_rows(limits);
    }
    return (most + 63) / 64 * 64 + 8 * 256 + 64; /* each of up to 8 parts is rounded up; the last bytes are nobody's */
}

/* Room for what is made ready for experts; each of its parts is rounded up. */
static uint64_t ready_bytes(const struct backend_limits *limits)
{
    return limits->n_experts ? (TILES_FROM - 1) * input_bytes(gpu_ready_width(limits)) + 256 : 1;
}

static size_t gpu_scratch_bytes(const struct backend_limits *limits, uint32_t n_threads)
{
    (void)n_threads;
    return (size_t)(lay_out(limits, NULL) + hc_bytes(limits) + ready_bytes(limits) + sorts_bytes(limits));
}

#define X(name) #name,
static const char *const plain_names[] = {PLAIN_KERNELS(X)}, *const family_names[] = {FORMAT_KERNELS(X)};
#undef X

void gpu_plain_name(size_t i, char *name, size_t size) { (void)snprintf(name, size, "%s", plain_names[i]); }
void gpu_family_name(size_t family, size_t format_i, char *name, size_t size)
{
    (void)snprintf(name, size, "%s_%s", family_names[family], formats[format_i].name);
}

static bool build_pipes(struct backend_gpu *b)
{
#define X(name) +1
    const size_t n_row = 0 ROW_KERNELS(X), n_not_block = n_row FLOAT_KERNELS(X);
#undef X
    for (size_t i = 0; i < N_PLAIN; i++)
        if (!(b->plain[i] = b->host->pipe(b->gpu, plain_names[i]))) return false;
    for (size_t f = 0; f < N_FAMILIES; f++) {
        for (size_t i = 0; i < N_WEIGHT_FORMATS; i++) {
            char name[48];
            bool packed = formats[i].type & OP_PACKED;
            if ((f >= n_row || packed) && formats[i].blocks != (f >= n_not_block)) continue;
            if (packed && !b->host->is_copy) continue;
            gpu_family_name(f, i, name, sizeof name);
            if (!(b->by_format[f][i] = b->host->pipe(b->gpu, name))) return false;
        }
    }
    return true;
}

#define BACKEND_OPS(host_name) \
    { \
        .name = host_name, .alloc = gpu_alloc, .release = gpu_release, .map = gpu_map, .write = gpu_write, \
        .read = gpu_read, .finish = gpu_finish, .destroy = gpu_destroy, .scratch_bytes = gpu_scratch_bytes, \
        .candidates = gpu_candidates, .choose = gpu_choose, .post = gpu_post, .collect = gpu_collect, \
        .pack = gpu_pack, OPERATIONS \
    }
#define OPERATIONS \
    .embed = gpu_embed, .hc_mix = gpu_hc_mix, .hc_reduce = gpu_hc_reduce, .hc_expand = gpu_hc_expand, \
    .hc_head = gpu_hc_head, .rms_norm = gpu_rms_norm, .rope = gpu_rope, .matmul = gpu_matmul, \
    .kv_store = gpu_kv_store, .compress = gpu_compress, .index_query = gpu_index_query, \
    .index_select = gpu_index_select, .attention = gpu_attention, .router = gpu_router, \
    .moe_gate_up = gpu_moe_gate_up, .moe_down = gpu_moe_down, .swiglu = gpu_swiglu, .add = gpu_add, \
    .add_streams = gpu_add_streams, .gather = gpu_gather
#ifdef DS4_GPU_METAL
static const struct backend_ops ops_metal = BACKEND_OPS("metal");
#endif
#ifdef DS4_GPU_CUDA
static const struct backend_ops ops_cuda = BACKEND_OPS("cuda");
#endif
#ifdef DS4_GPU_EMU
static const struct backend_ops ops_emu = BACKEND_OPS("emu");
#endif
static const struct backend_ops ops_any = BACKEND_OPS("gpu");

const struct gpu_choice *gpu_choices(void)
{
    static const struct gpu_choice list[] = {
#ifdef DS4_GPU_METAL
        {&ops_metal, &gpu_host_metal, true},
#endif
#ifdef DS4_GPU_CUDA
        {&ops_cuda, &gpu_host_cuda, true},
#endif
#ifdef DS4_GPU_EMU
        {&ops_emu, &gpu_host_emu, false},
#endif
        {NULL, NULL, false},
    };
    return list;
}

static const struct backend_ops *ops_of(const struct gpu_host *host)
{
    for (const struct gpu_choice *choice = gpu_choices(); choice->ops; choice++)
        if (choice->host == host) return choice->ops;
    return &ops_any;
}

enum ds4_status backend_gpu_create_on(const struct gpu_host *host, struct gpu *device, struct thread_pool *pool,
                                      const struct backend_limits *limits, struct backend **out,
                                      struct ds4_error *error)
{
    *out = NULL;
    struct backend_gpu *b = mem_zalloc(1, sizeof *b);
    if (!b) {
        host->close(device);
        return err_set(error, DS4_ERR_NOMEM, "no memory for the GPU backend");
    }
    b->base.ops = ops_of(host);
    b->base.pool = pool;
    b->host = host;
    b->limits = *limits;
    b->gpu = device;
    host->info(b->gpu, &b->info);
    b->scratch_bytes = lay_out(limits, b);
    b->scratch = gpu_take(b, b->scratch_bytes);
    b->hc_parts = gpu_take(b, hc_bytes(limits));
    b->ready_room = gpu_take(b, ready_bytes(limits));
    b->sorts = (struct gpu_sorts){.room = gpu_take(b, sorts_bytes(limits)), .slice_bytes = sorts_slice_bytes(limits)};
    bool has_memory = b->scratch && b->hc_parts && b->ready_room && b->sorts.room;
    if (!has_memory || !build_pipes(b)) {
        enum ds4_status status = err_set(error, has_memory ? DS4_ERR_DEVICE : DS4_ERR_NOMEM, "%s: %s", b->info.name,
                                         host->error(b->gpu));
        gpu_destroy(&b->base);
        return status;
    }
    *out = &b->base;
    return DS4_OK;
}

enum ds4_status backend_gpu_create(const struct gpu_host *host, struct thread_pool *pool,
                                   const struct backend_limits *limits, struct backend **out, struct ds4_error *error)
{
    char why[256] = "";
    *out = NULL;
    struct gpu *device = host->open(why, sizeof why);
    if (!device) return err_set(error, DS4_ERR_UNSUPPORTED, "no device for backend %s: %s", host->name, why);
    return backend_gpu_create_on(host, device, pool, limits, out, error);
}
