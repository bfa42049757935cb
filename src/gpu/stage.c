/* stage.c - experts that are streamed from disk, on their way to the device: what a product needs is copied from the
 * slots of the pool into a room on the device, and the choices are rewritten as places there. Kernels see a stack as
 * any other.
 *
 * The room has two halves that are used in turn: while kernels compute with what is in one, the other is filled. A half
 * is filled again when the kernels that read it are done, which a mark says (gpu.h), not the host by waiting. Experts
 * that are in memory go first, those that are still being read from disk as they come.
 *
 * Few rows take their experts together, as many rows at a time as there is room for. Many rows name most experts of a
 * layer: then experts come a group at a time, each once, and only the choices of that group are computed.
 *
 * A device that works in the machine's memory needs no room: the pool itself is the stack, and a slot the place of an
 * expert. For that a matrix must begin at the same byte of whatever slot it is in, which whole pages do. */
#include <string.h>

#include "base/mem.h"
#include "gpu/backend_impl.h"

#define EXPERTS_MOST 32u /* in a half at a time, or those of one row */
#define PINNED_BYTES_MOST ((uint64_t)64 << 20) /* of the machine: what is read and copied while the device fetches */

struct gpu_half {
    uint8_t *room;   /* of the device */
    int32_t *places; /* of the device: the choices rewritten */
    uint64_t mark;   /* after the kernels that read it last */
};

struct gpu_stage {
    struct gpu_half halves[2];
    uint32_t turn;     /* the half that was filled last */
    uint64_t bytes;    /* of a half's room */
    const int32_t *known; /* of the device: the choices that ids has; NULL: none */
    int32_t *ids;      /* [n_ids] here */
    int32_t *places;   /* [n_ids] here */
    int32_t *place_of; /* [n_experts]; -1: not in the room */
    bool *waits;       /* [n_experts] for its bytes */
    uint32_t n_known, n_ids, n_experts;
    const uint8_t *pool; /* of slots, where the device reads them; NULL: there is a room */
    uint64_t slot_bytes;
    uint32_t n_slots;
};

/* Those that a half has room for: all matrices of each, of which no product needs more than a part. */
static uint32_t experts_most(uint32_t n_experts, uint32_t n_used, uint32_t n_rows)
{
    uint64_t named = (uint64_t)n_rows * n_used, most = named < EXPERTS_MOST ? named : EXPERTS_MOST;
    if (most < n_used) most = n_used;
    return most < n_experts ? (uint32_t)most : n_experts;
}

static uint64_t half_bytes(uint32_t n_experts, uint32_t n_used, uint32_t n_rows, uint64_t expert_bytes)
{
    return (experts_most(n_experts, n_used, n_rows) * (expert_bytes + 64) + 255) / 256 * 256;
}

uint64_t backend_gpu_stage_bytes(uint32_t n_experts, uint32_t n_used, uint32_t n_rows, uint64_t expert_bytes)
{
    return 2 * (half_bytes(n_experts, n_used, n_rows, expert_bytes) + (uint64_t)n_rows * n_used * sizeof(int32_t));
}

uint64_t backend_gpu_pinned_bytes(uint64_t stage_bytes)
{
    return stage_bytes / 4 < PINNED_BYTES_MOST ? stage_bytes / 4 : PINNED_BYTES_MOST;
}

/* All but what a device brings; on failure the backend frees it. */
static struct gpu_stage *make_stage(struct backend_gpu *gpu, uint32_t n_experts, uint32_t n_ids)
{
    struct gpu_stage *s = mem_zalloc(1, sizeof *s);
    if (!s) return NULL;
    gpu->stage = s;
    s->n_ids = n_ids;
    s->n_experts = n_experts;
    s->ids = mem_alloc(n_ids, sizeof *s->ids);
    s->places = mem_alloc(n_ids > n_experts ? n_ids : n_experts, sizeof *s->places);
    s->place_of = mem_alloc(n_experts, sizeof *s->place_of);
    s->waits = mem_alloc(n_experts, sizeof *s->waits);
    return s->ids && s->places && s->place_of && s->waits ? s : NULL;
}

enum ds4_status backend_gpu_stage(struct backend *b, uint32_t n_experts, uint32_t n_used, uint32_t n_rows,
                                  uint64_t expert_bytes, struct ds4_error *error)
{
    struct backend_gpu *gpu = gpu_of(b);
    uint64_t pinned = backend_gpu_pinned_bytes(backend_gpu_stage_bytes(n_experts, n_used, n_rows, expert_bytes));
    struct gpu_stage *s = make_stage(gpu, n_experts, n_rows * n_used);
    bool good = s != NULL;
    if (s) s->bytes = half_bytes(n_experts, n_used, n_rows, expert_bytes);
    for (int i = 0; i < 2 && good; i++) {
        s->halves[i].room = gpu_take(gpu, s->bytes);
        s->halves[i].places = gpu_take(gpu, s->n_ids * sizeof *s->places);
        good = s->halves[i].room && s->halves[i].places;
    }
    if (good && (!gpu->host->prepare_sends || gpu->host->prepare_sends(gpu->gpu, pinned))) return DS4_OK;
    return err_set(error, DS4_ERR_NOMEM, "no memory for experts on their way to the device: %s",
                   gpu->host->error(gpu->gpu));
}

enum ds4_status backend_gpu_share(struct backend *b, uint32_t n_experts, uint32_t n_ids, const void *pool,
                                  uint64_t slot_bytes, uint32_t n_slots, struct ds4_error *error)
{
    struct backend_gpu *gpu = gpu_of(b);
    if (!gpu_fits_one_buffer(gpu, slot_bytes * n_slots)) /* a stack is bound as one */
        return err_set(error, DS4_ERR_LIMIT, "an expert cache of %llu MiB; a buffer of this device has at most %llu",
                       (unsigned long long)(slot_bytes * n_slots >> 20),
                       (unsigned long long)(gpu->info.buffer_bytes_max >> 20));
    struct gpu_stage *s = make_stage(gpu, n_experts, n_ids);
    bool good = s != NULL;
    for (int i = 0; i < 2 && good; i++) {
        s->halves[i].places = gpu_take(gpu, (n_ids > n_experts ? n_ids : n_experts) * sizeof *s->places);
        good = s->halves[i].places != NULL;
    }
    if (!good) return err_set(error, DS4_ERR_NOMEM, "no memory for the places of experts");
    s->pool = pool;
    s->slot_bytes = slot_bytes;
    s->n_slots = n_slots;
    if (gpu->host->prepare_sends && !gpu->host->prepare_sends(gpu->gpu, 8 * 4096))
        return err_set(error, DS4_ERR_NOMEM, "no memory for copies: %s", gpu->host->error(gpu->gpu));
    return b->ops->map(b, pool, (size_t)(slot_bytes * n_slots), false, error);
}

void gpu_stage_free(struct backend_gpu *b)
{
    if (!b->stage) return;
    mem_free(b->stage->ids);
    mem_free(b->stage->places);
    mem_free(b->stage->place_of);
    mem_free(b->stage->waits);
    mem_free(b->stage);
    b->stage = NULL; /* the device's memory goes with its regions */
}

void gpu_stage_forget(struct backend_gpu *b)
{
    if (b->stage) b->stage->known = NULL;
}

/* The choices, here. They are read once for the products of a layer, since reading waits for the device. */
static int32_t *read_ids(struct backend *b, const int32_t *ids, uint32_t n)
{
    struct gpu_stage *s = gpu_of(b)->stage;
    if (!s || n > s->n_ids) {
        gpu_fail(gpu_of(b), "experts are not in memory, and there is no room to bring them");
        return NULL;
    }
    if (!s->known || ids < s->known || ids + n > s->known + s->n_known) {
        b->ops->read(b, s->ids, ids, n * sizeof *s->ids);
        if (gpu_of(b)->failed) return NULL;
        for (uint32_t i = 0; i < n; i++) ensure((uint32_t)s->ids[i] < s->n_experts);
        s->known = ids;
        s->n_known = n;
    }
    return s->ids + (ids - s->known);
}

static uint64_t step_of(const struct op_weight *w) { return (w->n_out * w->row_bytes + 15) / 16 * 16; }

/* Experts whose matrices of these weights a half has room for. */
static uint32_t room_for(const struct gpu_stage *s, struct op_weight *const *weights, uint32_t n_weights)
{
    uint64_t each = 0;
    for (uint32_t i = 0; i < n_weights; i++) each += step_of(weights[i]);
    return s->bytes / each < s->n_experts ? (uint32_t)(s->bytes / each) : s->n_experts;
}

/* Rows from the front whose experts have room together; they get their places. */
static uint32_t take_rows(struct gpu_stage *s, const int32_t *ids, uint32_t n_rows, uint32_t n_used, uint32_t most,
                          uint32_t *n_taken)
{
    uint32_t n = 0, row = 0;
    memset(s->place_of, 0xFF, s->n_experts * sizeof *s->place_of);
    for (; row < n_rows && n + n_used <= most; row++)
        for (uint32_t i = row * n_used; i < (row + 1) * n_used; i++)
            if (s->place_of[ids[i]] < 0) s->place_of[ids[i]] = (int32_t)n++;
    *n_taken = n;
    return row;
}

/* As many of the experts that are named, from *next on, as there is room for. */
static uint32_t take_experts(struct gpu_stage *s, const int32_t *ids, uint32_t n_ids, uint32_t most, uint32_t *next)
{
    uint32_t n = 0, e = *next;
    memset(s->waits, 0, s->n_experts * sizeof *s->waits);
    memset(s->place_of, 0xFF, s->n_experts * sizeof *s->place_of);
    for (uint32_t i = 0; i < n_ids; i++) s->waits[ids[i]] = true; /* named */
    for (; e < s->n_experts && n < most; e++)
        if (s->waits[e]) s->place_of[e] = (int32_t)n++;
    *next = e;
    return n;
}

static bool is_there(struct op_weight *const *weights, uint32_t n_weights, uint32_t e)
{
    for (uint32_t i = 0; i < n_weights; i++)
        if (!op_weight_is_there(weights[i], e)) return false;
    return true;
}

static void send_expert(struct backend_gpu *b, const struct gpu_half *half, struct op_weight *const *weights,
                        uint32_t n_weights, uint32_t n, uint32_t e)
{
    uint64_t at = 0;
    for (uint32_t i = 0; i < n_weights; i++) {
        const struct op_weight *w = weights[i];
        gpu_send(b, half->room + at + (uint64_t)b->stage->place_of[e] * step_of(w), op_weight_stack(w, e),
                 w->n_out * w->row_bytes, half->mark);
        at += n * step_of(w);
    }
}

/* Fills the other half with the n experts that have places, and with the choices as places; the weights name what is
 * there. */
static const int32_t *fill(struct backend_gpu *b, const int32_t *ids, uint32_t n_ids, struct op_weight *const *weights,
                           uint32_t n_weights, uint32_t n)
{
    struct gpu_stage *s = b->stage;
    s->halves[s->turn].mark = gpu_mark(b);
    s->turn ^= 1;
    const struct gpu_half *half = &s->halves[s->turn];
    for (uint32_t i = 0; i < n_ids; i++) s->places[i] = s->place_of[ids[i]];
    gpu_send(b, half->places, s->places, n_ids * sizeof *s->places, half->mark);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        s->waits[e] = s->place_of[e] >= 0 && !is_there(weights, n_weights, e);
        if (s->place_of[e] >= 0 && !s->waits[e]) send_expert(b, half, weights, n_weights, n, e);
    }
    for (uint32_t e = 0; e < s->n_experts; e++)
        if (s->waits[e]) send_expert(b, half, weights, n_weights, n, e);
    gpu_arrive(b);
    uint8_t *at = half->room;
    for (uint32_t i = 0; i < n_weights; i++) {
        struct op_weight *w = weights[i];
        uint64_t step = step_of(w);
        w->data = at;
        w->stacks = NULL;
        w->n_stack = n;
        w->stack_bytes = step;
        at += n * step;
    }
    ensure((uint64_t)(at - half->room) <= s->bytes);
    return half->places;
}

/* The slots of the experts that were taken; the weights name the pool. */
static bool find_slots(struct backend_gpu *b, struct op_weight *const *weights, uint32_t n_weights)
{
    struct gpu_stage *s = b->stage;
    uint64_t first[2] = {UINT64_MAX, UINT64_MAX};
    ensure(n_weights <= 2);
    for (uint32_t e = 0; e < s->n_experts; e++) {
        for (uint32_t i = 0; i < n_weights && s->place_of[e] >= 0; i++) {
            uint64_t at = (uint64_t)(op_weight_stack(weights[i], e) - s->pool);
            int32_t slot = (int32_t)(at / s->slot_bytes);
            if (at / s->slot_bytes + 1 == s->n_slots) return false; /* zeros: it could not be read */
            if (i == 0) s->place_of[e] = slot;
            if (first[i] == UINT64_MAX) first[i] = at % s->slot_bytes;
            ensure(s->place_of[e] == slot && first[i] == at % s->slot_bytes);
        }
    }
    for (uint32_t i = 0; i < n_weights; i++) {
        struct op_weight *w = weights[i];
        w->data = s->pool + first[i];
        w->stacks = NULL;
        w->n_stack = s->n_slots - 1;
        w->stack_bytes = s->slot_bytes;
    }
    return true;
}

/* Hands a table of places to the device. */
static const int32_t *hand_places(struct backend_gpu *b, uint32_t n)
{
    struct gpu_stage *s = b->stage;
    s->halves[s->turn].mark = gpu_mark(b);
    s->turn ^= 1;
    gpu_send(b, s->halves[s->turn].places, s->places, n * sizeof *s->places, s->halves[s->turn].mark);
    gpu_arrive(b);
    return s->halves[s->turn].places;
}

uint32_t gpu_stage_rows(struct backend *b, const int32_t **ids, uint32_t n_rows, uint32_t n_used,
                        struct op_weight *const *weights, uint32_t n_weights)
{
    struct backend_gpu *gpu = gpu_of(b);
    struct gpu_stage *s = gpu->stage;
    const int32_t *here = read_ids(b, *ids, n_rows * n_used);
    uint32_t n;
    if (!here) return 0;
    n_rows = take_rows(s, here, n_rows, n_used, s->pool ? UINT32_MAX : room_for(s, weights, n_weights), &n);
    ensure(n_rows > 0);
    if (!s->pool) {
        *ids = fill(gpu, here, n_rows * n_used, weights, n_weights, n);
    } else {
        if (!find_slots(gpu, weights, n_weights)) return 0;
        for (uint32_t i = 0; i < n_rows * n_used; i++) s->places[i] = s->place_of[here[i]];
        *ids = hand_places(gpu, n_rows * n_used);
    }
    return gpu->failed ? 0 : n_rows;
}

bool gpu_stage_experts(struct backend *b, const int32_t *ids, uint32_t n_pairs, uint32_t *next,
                       struct op_weight *const *weights, uint32_t n_weights, struct gpu_staged *out)
{
    struct backend_gpu *gpu = gpu_of(b);
    struct gpu_stage *s = gpu->stage;
    const int32_t *here = read_ids(b, ids, n_pairs);
    if (!here) return false;
    uint32_t n = take_experts(s, here, n_pairs, s->pool ? UINT32_MAX : room_for(s, weights, n_weights), next);
    if (n == 0) return false;
    if (!s->pool) {
        *out = (struct gpu_staged){fill(gpu, here, n_pairs, weights, n_weights, n), n, NULL};
    } else {
        if (!find_slots(gpu, weights, n_weights)) return false;
        for (uint32_t e = 0; e < s->n_experts; e++) s->places[e] = s->place_of[e] < 0 ? 0 : s->place_of[e];
        *out = (struct gpu_staged){ids, s->n_experts, hand_places(gpu, s->n_experts)};
    }
    return !gpu->failed;
}
