/* launch.c - a grid of groups, one after the other. In a group the warps take turns, each up to a barrier. In a warp
 * lanes that stand at the same instruction are one party; the party at the lowest instruction runs, so that lanes meet
 * again where branches join. A party that stands before an instruction of several lanes (shuffle, vote, ldmatrix, mma,
 * barrier) waits for those that are missing, while the others run. */
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/ptx/impl.h"

struct party {
    uint32_t at, lanes;
    bool waits;
};

struct warp {
    uint8_t *regs;
    uint32_t n_parties, all; /* all: the lanes that the group has */
    struct party parties[PTX_LANES];
    uint32_t barrier;        /* 1 + the instruction at which all lanes stand; 0: none */
    uint32_t early;          /* lanes that have yet to wait for the kernel before */
    bool ended;
};

struct group {
    const struct ptx_kernel *kernel;
    const struct ptx_lanes *lanes;
    struct ptx_room room;
    struct warp warps[PTX_WARPS_MAX];
    uint32_t n_warps, n_threads;
    uint8_t *local; /* [n_threads][local_bytes] */
    uint64_t steps, steps_max;
    struct ptx_fault fault;
    const struct ptx_op *fault_op;
    uint32_t fault_warp;
};

static struct ptx_options options;
static uint64_t n_steps;

void ptx_set_options(const struct ptx_options *chosen) { options = *chosen; }
uint64_t ptx_steps(void) { return n_steps; }

static const struct ptx_lanes *lanes_of_this_machine(void)
{
#if defined(__x86_64__)
    if (!options.plain && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return &ptx_lanes_avx2;
#endif
    return &ptx_lanes_base;
}

static bool stop(struct group *g, uint32_t warp_i, const struct ptx_op *op, uint32_t lane, const char *what)
{
    if (!g->fault.failed) {
        g->fault = (struct ptx_fault){true, lane, 0, what};
        g->fault_op = op;
        g->fault_warp = warp_i;
    }
    return false;
}

static uint32_t value_at(const struct group *g, const struct warp *w, ptx_ref ref, uint32_t lane)
{
    uint32_t value;
    memcpy(&value, ptx_place(ref, w->regs, g->kernel->constants) + lane * 4, 4);
    return value;
}

static uint32_t predicate_of(const struct group *g, const struct warp *w, ptx_ref ref)
{
    return value_at(g, w, ref, 0);
}

/* The PTX manual's rule: lane bits that the segment mask names are the segment, the rest counts in it. */
static bool shuffle(struct group *g, uint32_t warp_i, const struct ptx_op *op, uint32_t lanes)
{
    struct warp *w = &g->warps[warp_i];
    uint32_t out[PTX_LANES], inside = 0;
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
        if (!(lanes >> lane & 1)) continue;
        uint32_t b = value_at(g, w, op->b, lane) & 31, c = value_at(g, w, op->c, lane);
        uint32_t clamp = c & 31, segment = c >> 8 & 31;
        uint32_t last = (lane & segment) | (clamp & ~segment), first = lane & segment, from = 0;
        bool good = false;
        switch (op->mode) {
        case SHUFFLE_UP: from = lane - b; good = (int32_t)from >= (int32_t)last; break;
        case SHUFFLE_DOWN: from = lane + b; good = from <= last; break;
        case SHUFFLE_XOR: from = lane ^ b; good = from <= last; break;
        default: from = first | (b & ~segment); good = from <= last; break;
        }
        if (!good) from = lane;
        if (!(lanes >> from & 1)) return stop(g, warp_i, op, lane, "a shuffle from a lane that does not take part");
        out[lane] = value_at(g, w, op->a, from);
        inside |= (uint32_t)good << lane;
    }
    for (uint32_t lane = 0; lane < PTX_LANES; lane++)
        if (lanes >> lane & 1) memcpy(w->regs + op->d + lane * 4, &out[lane], 4);
    if (op->v[0] != PTX_NONE) {
        uint32_t p = (predicate_of(g, w, op->v[0]) & ~lanes) | inside;
        memcpy(w->regs + op->v[0], &p, 4);
    }
    return true;
}

static bool vote(struct group *g, uint32_t warp_i, const struct ptx_op *op, uint32_t lanes)
{
    struct warp *w = &g->warps[warp_i];
    uint32_t votes = predicate_of(g, w, op->a) & lanes;
    if (op->mode == VOTE_BALLOT) {
        for (uint32_t lane = 0; lane < PTX_LANES; lane++)
            if (lanes >> lane & 1) memcpy(w->regs + op->d + lane * 4, &votes, 4);
        return true;
    }
    bool yes = op->mode == VOTE_ALL ? votes == lanes : votes != 0;
    uint32_t p = (predicate_of(g, w, op->d) & ~lanes) | (yes ? lanes : 0);
    memcpy(w->regs + op->d, &p, 4);
    return true;
}

/* m16n8k16. With quad = lane / 4 and pair = lane % 4 * 2 a lane holds of A rows quad and quad + 8 at columns pair and
 * pair + 8 (two neighbours each), of B columns quad at rows pair and pair + 8, of C and D rows quad and quad + 8 at
 * columns pair. */
static void mma(struct group *g, uint32_t warp_i, const struct ptx_op *op)
{
    struct warp *w = &g->warps[warp_i];
    uint16_t a[256], b[128];
    float c[128], d[128];
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
        uint32_t quad = lane / 4, pair = lane % 4 * 2;
        for (uint32_t i = 0; i < 8; i++) {
            uint32_t word = value_at(g, w, op->v[4 + i / 2], lane), row = quad + (i / 2 & 1) * 8;
            a[row * 16 + pair + (i & 1) + (i / 4) * 8] = (uint16_t)(word >> (i & 1) * 16);
        }
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t word = value_at(g, w, op->v[8 + i / 2], lane);
            b[(pair + (i & 1) + (i / 2) * 8) * 8 + quad] = (uint16_t)(word >> (i & 1) * 16);
            uint32_t bits = value_at(g, w, op->v[10 + i], lane);
            memcpy(&c[(quad + (i / 2) * 8) * 8 + pair + (i & 1)], &bits, 4);
        }
    }
    g->lanes->mma(d, a, b, c, options.sums);
    for (uint32_t lane = 0; lane < PTX_LANES; lane++)
        for (uint32_t i = 0; i < 4; i++) {
            uint32_t at = (lane / 4 + (i / 2) * 8) * 8 + lane % 4 * 2 + (i & 1);
            memcpy(w->regs + op->v[i] + lane * 4, &d[at], 4);
        }
}

/* The lanes that must stand together before an instruction; zero: any may run it alone. */
static uint32_t wanted(const struct group *g, const struct warp *w, const struct ptx_op *op, uint32_t lanes)
{
    switch (op->kind) {
    case KIND_SHUFFLE:
    case KIND_VOTE:
    case KIND_WARP_BARRIER: return value_at(g, w, op->e, (uint32_t)__builtin_ctz(lanes));
    case KIND_LDMATRIX:
    case KIND_MMA:
    case KIND_BARRIER: return w->all;
    default: return 0;
    }
}

static bool together(struct group *g, uint32_t warp_i, const struct ptx_op *op, uint32_t lanes)
{
    struct warp *w = &g->warps[warp_i];
    switch (op->kind) {
    case KIND_SHUFFLE: return shuffle(g, warp_i, op, lanes);
    case KIND_VOTE: return vote(g, warp_i, op, lanes);
    case KIND_MMA:
        if (w->all != PTX_ALL) return stop(g, warp_i, op, 31, "a product of matrices with lanes missing");
        mma(g, warp_i, op);
        return true;
    case KIND_LDMATRIX:
        if (w->all != PTX_ALL) return stop(g, warp_i, op, 31, "a load of matrices with lanes missing");
        if (ptx_load_matrices(&g->room, op, w->regs, &g->fault)) return true;
        break;
    case KIND_LOAD:
        if (ptx_load_lanes(&g->room, op, w->regs, lanes, &g->fault)) return true;
        break;
    case KIND_STORE:
        if (ptx_store_lanes(&g->room, op, w->regs, lanes, &g->fault)) return true;
        break;
    case KIND_GRID_WAIT: g->room.early = w->early &= ~lanes; return true;
    default: return true; /* a barrier of the warp, or leave to launch the next kernel */
    }
    g->fault_op = op;
    g->fault_warp = warp_i;
    return false;
}

static void remove_party(struct warp *w, uint32_t i) { w->parties[i] = w->parties[--w->n_parties]; }

/* Joins parties at one instruction; gives the one to run next, or n_parties when all wait. */
static uint32_t next_party(struct warp *w)
{
    for (uint32_t i = 0; i < w->n_parties; i++)
        for (uint32_t k = i + 1; k < w->n_parties;) {
            if (w->parties[i].at != w->parties[k].at) {
                k++;
                continue;
            }
            w->parties[i].lanes |= w->parties[k].lanes;
            w->parties[i].waits = false;
            remove_party(w, k);
        }
    uint32_t best = w->n_parties;
    for (uint32_t i = 0; i < w->n_parties; i++)
        if (!w->parties[i].waits && (best == w->n_parties || w->parties[i].at < w->parties[best].at)) best = i;
    return best;
}

/* The next instruction at which another party stands, which is joined there. */
static uint32_t meeting(const struct warp *w, uint32_t party_i)
{
    uint32_t at = UINT32_MAX;
    for (uint32_t i = 0; i < w->n_parties; i++)
        if (i != party_i && w->parties[i].at > w->parties[party_i].at && w->parties[i].at < at)
            at = w->parties[i].at;
    return at;
}

static uint32_t guarded(const struct group *g, const struct warp *w, const struct ptx_op *op, uint32_t lanes)
{
    if (op->guard == PTX_NONE) return lanes;
    uint32_t p = predicate_of(g, w, op->guard);
    return lanes & (op->guard_not ? ~p : p);
}

enum outcome { GOES_ON, CHOOSE_AGAIN, STOPPED };

/* A branch or the end: lanes of the party go different ways. */
static enum outcome part_ways(struct warp *w, uint32_t party_i, const struct ptx_op *op, uint32_t going)
{
    struct party *p = &w->parties[party_i];
    uint32_t staying = p->lanes & ~going;
    if (op->kind == KIND_RETURN) {
        p->lanes = staying;
        p->at++;
        if (!staying) remove_party(w, party_i);
        return staying ? GOES_ON : CHOOSE_AGAIN;
    }
    if (!going || !staying) {
        p->at = going ? op->target : p->at + 1;
        return w->n_parties == 1 ? GOES_ON : CHOOSE_AGAIN;
    }
    w->parties[w->n_parties++] = (struct party){op->target, going, false};
    p->lanes = staying;
    p->at++;
    return CHOOSE_AGAIN;
}

/* Runs a party until it meets another, parts, waits or ends. */
static enum outcome run_party(struct group *g, uint32_t warp_i, uint32_t party_i)
{
    struct warp *w = &g->warps[warp_i];
    const struct ptx_op *ops = g->kernel->ops;
    const uint8_t *constants = g->kernel->constants;
    uint32_t limit = meeting(w, party_i);
    for (;;) {
        struct party *p = &w->parties[party_i];
        const struct ptx_op *op = &ops[p->at];
        if (p->at >= limit) return CHOOSE_AGAIN;
        if (++g->steps > g->steps_max) {
            (void)stop(g, warp_i, op, (uint32_t)__builtin_ctz(p->lanes), "no end after the steps that were allowed");
            return STOPPED;
        }
        uint32_t lanes = guarded(g, w, op, p->lanes);
        if (op->kind >= KIND_LANES) {
            if (lanes) g->lanes->fn[op->kind - KIND_LANES](op, w->regs, constants, lanes);
            p->at++;
            continue;
        }
        if (op->kind == KIND_RETURN && (lanes & w->early)) {
            (void)stop(g, warp_i, op, (uint32_t)__builtin_ctz(lanes & w->early),
                       "the end of a thread that has not waited for the kernel before");
            return STOPPED;
        }
        if (op->kind == KIND_BRANCH || op->kind == KIND_RETURN) {
            if (part_ways(w, party_i, op, lanes) == GOES_ON) continue;
            return CHOOSE_AGAIN;
        }
        uint32_t needed = lanes ? wanted(g, w, op, lanes) : 0;
        if (needed && lanes != needed) {
            p->waits = true;
            return CHOOSE_AGAIN;
        }
        if (lanes && op->kind == KIND_BARRIER) {
            w->barrier = p->at + 1;
            return CHOOSE_AGAIN;
        }
        if (lanes && !together(g, warp_i, op, lanes)) return STOPPED;
        p->at++;
    }
}

/* Up to a barrier or the end. */
static bool run_warp(struct group *g, uint32_t warp_i)
{
    struct warp *w = &g->warps[warp_i];
    while (w->n_parties > 0 && !w->barrier) {
        uint32_t i = next_party(w);
        if (i == w->n_parties) {
            const struct ptx_op *op = &g->kernel->ops[w->parties[0].at];
            uint32_t lanes = guarded(g, w, op, w->parties[0].lanes);
            uint32_t missing = (lanes ? wanted(g, w, op, lanes) : 0) & ~lanes;
            return stop(g, warp_i, op, missing ? (uint32_t)__builtin_ctz(missing) : 0,
                        missing ? "an instruction of several lanes that this thread does not reach"
                                : "an instruction of several lanes, run by one that its mask does not name");
        }
        if (run_party(g, warp_i, i) == STOPPED) return false;
    }
    w->ended = w->n_parties == 0;
    return true;
}

static void fill_words(uint8_t *to, uint32_t value)
{
    for (uint32_t lane = 0; lane < PTX_LANES; lane++) memcpy(to + lane * 4, &value, 4);
}

static void begin_group(struct group *g, const unsigned grid[3], const unsigned at[3])
{
    const struct ptx_kernel *kernel = g->kernel;
    memset(g->room.shared, 0xff, kernel->shared_bytes + 1u); /* a NaN in half and float */
    for (uint32_t i = 0; i < g->n_warps; i++) {
        struct warp *w = &g->warps[i];
        uint32_t first = i * PTX_LANES, n = g->n_threads - first;
        w->all = n >= PTX_LANES ? PTX_ALL : (1u << n) - 1;
        w->early = kernel->waits ? w->all : 0;
        w->n_parties = 1;
        w->parties[0] = (struct party){0, w->all, false};
        w->barrier = 0;
        w->ended = false;
        for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
            uint32_t thread = first + lane;
            memcpy(w->regs + kernel->tid + lane * 4, &thread, 4);
            memcpy(w->regs + kernel->laneid + lane * 4, &lane, 4);
        }
        fill_words(w->regs + kernel->ntid, g->n_threads);
        for (int k = 0; k < 3; k++) {
            fill_words(w->regs + kernel->ctaid[k], at[k]);
            fill_words(w->regs + kernel->nctaid[k], grid[k]);
        }
    }
}

/* All warps stand at one barrier, or all have ended. */
static bool meet(struct group *g)
{
    uint32_t first = g->warps[0].barrier;
    for (uint32_t i = 0; i < g->n_warps; i++) {
        struct warp *w = &g->warps[i];
        if (w->barrier == first) continue;
        uint32_t at = first ? first : w->barrier;
        return stop(g, w->barrier == at ? 0 : i, &g->kernel->ops[at - 1], 0,
                    "a barrier that this thread does not reach, or another one");
    }
    for (uint32_t i = 0; i < g->n_warps; i++) {
        g->warps[i].parties[0].at++;
        g->warps[i].barrier = 0;
    }
    return true;
}

static bool run_group(struct group *g, const unsigned grid[3], const unsigned at[3], uint32_t number)
{
    begin_group(g, grid, at);
    while (!g->warps[0].ended) {
        uint32_t turn = options.order == PTX_RANDOM ? (number * 2654435761u + options.seed) >> 7 : 0;
        for (uint32_t k = 0; k < g->n_warps; k++) {
            uint32_t i = options.order == PTX_REVERSE ? g->n_warps - 1 - k : (k + turn) % g->n_warps;
            g->room.local = g->local + (size_t)i * PTX_LANES * g->kernel->local_bytes;
            g->room.early = g->warps[i].early;
            if (!run_warp(g, i)) return false;
        }
        if (g->warps[0].ended) {
            for (uint32_t i = 0; i < g->n_warps; i++)
                if (!g->warps[i].ended) return meet(g);
            return true;
        }
        if (!meet(g)) return false;
    }
    return true;
}

static void describe(const struct group *g, const unsigned at[3], char *error, size_t size)
{
    const struct ptx_module *module = g->kernel->module;
    uint32_t line = g->fault_op ? g->fault_op->line : 0;
    const char *from = module->text;
    for (uint32_t i = 1; i < line; i++) from = strchr(from, '\n') + 1;
    while (*from == ' ' || *from == '\t') from++;
    int n = (int)strcspn(from, "\n");
    (void)snprintf(error, size, "%s, line %u: %.*s: %s: group %u %u %u, thread %u, address 0x%llx", g->kernel->name,
                   line, n < 90 ? n : 90, from, g->fault.what, at[0], at[1], at[2],
                   g->fault_warp * PTX_LANES + g->fault.lane, (unsigned long long)g->fault.address);
}

static uint64_t common_divisor(uint64_t a, uint64_t b)
{
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static bool run_groups(struct group *g, const unsigned grid[3], char *error, size_t error_size)
{
    uint64_t n = (uint64_t)grid[0] * grid[1] * grid[2], stride = 1;
    if (options.order == PTX_RANDOM && n > 0) /* a stride without a common divisor visits all */
        for (stride = (options.seed % n) | 1; common_divisor(n, stride) != 1;) stride += 2;
    for (uint64_t k = 0; k < n; k++) {
        uint64_t i = options.order == PTX_REVERSE ? n - 1 - k : options.order == PTX_RANDOM ? k * stride % n : k;
        const unsigned at[3] = {(unsigned)(i % grid[0]), (unsigned)(i / grid[0] % grid[1]),
                                (unsigned)(i / grid[0] / grid[1])};
        if (run_group(g, grid, at, (uint32_t)i)) continue;
        describe(g, at, error, error_size);
        return false;
    }
    return true;
}

/* One block for everything; NULL: no memory. */
static uint8_t *make_room(struct group *g)
{
    const struct ptx_kernel *kernel = g->kernel;
    size_t regs = (kernel->register_bytes + 63) / 64 * 64, shared = (kernel->shared_bytes + 128u) / 64 * 64;
    size_t local = (size_t)g->n_warps * PTX_LANES * kernel->local_bytes;
    uint8_t *room = mem_alloc_aligned(64, g->n_warps * regs + 2 * shared + PTX_PARAM_BYTES_MAX + local);
    if (!room) return NULL;
    memset(room, 0xff, g->n_warps * regs);
    for (uint32_t i = 0; i < g->n_warps; i++) g->warps[i].regs = room + i * regs;
    g->room.shared = room + g->n_warps * regs;
    g->room.owner = g->room.shared + shared;
    g->room.params = g->room.owner + shared;
    g->local = g->room.params + PTX_PARAM_BYTES_MAX;
    memset(g->local, 0xff, local);
    for (size_t i = 0; i < kernel->n_arrays; i++)
        memset(g->room.owner + kernel->arrays[i].first, (int)i + 1, kernel->arrays[i].bytes);
    return room;
}

bool ptx_launch(const struct ptx_kernel *kernel, const unsigned grid[3], unsigned n_threads, void *const *params,
                const struct ptx_memory *memory, char *error, size_t error_size)
{
    if (n_threads == 0 || n_threads > kernel->threads_max) {
        (void)snprintf(error, error_size, "%s: groups of %u threads, where the most is %u", kernel->name, n_threads,
                       kernel->threads_max);
        return false;
    }
    struct group *g = mem_zalloc(1, sizeof *g);
    if (g) *g = (struct group){.kernel = kernel, .lanes = lanes_of_this_machine(), .n_threads = n_threads,
                               .n_warps = (n_threads + PTX_LANES - 1) / PTX_LANES, .room = {.kernel = kernel,
                               .memory = memory}, .steps_max = options.steps_max ? options.steps_max : 1ull << 40};
    uint8_t *room = g ? make_room(g) : NULL;
    bool good = room != NULL;
    if (good) {
        for (size_t i = 0; i < kernel->n_params; i++)
            memcpy(g->room.params + kernel->param_first[i], params[i], kernel->param_bytes[i]);
        good = run_groups(g, grid, error, error_size);
        n_steps += g->steps;
    } else {
        (void)snprintf(error, error_size, "no memory");
    }
    mem_free(room);
    mem_free(g);
    return good;
}
