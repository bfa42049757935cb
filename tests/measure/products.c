/* products.c - matrix products of the CPU backend, alone or turn by turn with ggml's on the same weights.
 *
 *   products [ggml=LIB[:LIB...]] [only=TEXT] [threads=N] [samples=N] [set-mb=N] [pages=file|huge] [realtime=1]
 *            [kernels=NAME]
 *
 * ggml is loaded at run time by its public functions; it stays outside the project. Weights are random valid blocks in
 * a mapped temporary file (as in the product) or in huge pages; the set is far larger than the caches and is cycled
 * through. A sample is a turn of ours and one of ggml's of some 60 ms each; ratios are made sample by sample and their
 * median is printed, so that what slows both for a while cancels out. realtime=1 (for root) runs a sample at real-time
 * priority, holds the other cores with idle loops and then rests for as long as it took.
 * kernels=avx2 takes those kernels instead of the best that the machine has.
 * First comes a line on the machine: bytes a second that one and two threads read, and how two threads scale. */
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/f16.h"
#include "base/mem.h"
#include "base/rng.h"
#include "ops/cpu/cpu.h"

#define N_OUT 2048u
#define N_IN 4096u
#define N_EXPERTS 64u
#define N_USED 6u
#define SAMPLES_MAX 99u
#define TURN_S 0.06

struct flags {
    const char *ggml, *only;
    uint32_t threads, samples, set_mb; /* threads 0: 1 and 2 */
    bool huge, realtime;
    const struct cpu_kernels *kernels;
};

/* The functions of ggml that are used, by their public names. */
struct g_init { size_t mem; void *buffer; bool no_alloc; };
struct g_plan { size_t work_size; uint8_t *work; uint64_t rest[30]; };
static struct {
    void *(*init)(struct g_init);
    void (*release)(void *);
    void *(*tensor_2d)(void *, int, int64_t, int64_t);
    void *(*tensor_3d)(void *, int, int64_t, int64_t, int64_t);
    void *(*mul_mat)(void *, void *, void *);
    void *(*mul_mat_id)(void *, void *, void *, void *);
    void *(*graph)(void *);
    void (*expand)(void *, void *);
    void *(*data)(void *);
    struct g_plan (*plan)(void *, int, void *);
    int (*compute)(void *, struct g_plan *);
    void (*cpu_init)(void);
} g;

static bool load_ggml(const char *list)
{
    const struct { const char *name; void *to; } wanted[] = {
        {"ggml_init", &g.init}, {"ggml_free", &g.release}, {"ggml_new_tensor_2d", &g.tensor_2d},
        {"ggml_new_tensor_3d", &g.tensor_3d}, {"ggml_mul_mat", &g.mul_mat}, {"ggml_mul_mat_id", &g.mul_mat_id},
        {"ggml_new_graph", &g.graph}, {"ggml_build_forward_expand", &g.expand}, {"ggml_get_data", &g.data},
        {"ggml_graph_plan", &g.plan}, {"ggml_graph_compute", &g.compute}, {"ggml_cpu_init", &g.cpu_init}};
    for (const char *at = list; *at; at += strcspn(at, ":"), at += *at == ':') {
        char name[1024];
        (void)snprintf(name, sizeof name, "%.*s", (int)strcspn(at, ":"), at);
        if (!dlopen(name, RTLD_NOW | RTLD_GLOBAL)) {
            (void)fprintf(stderr, "%s\n", dlerror());
            return false;
        }
    }
    for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
        void *symbol = dlsym(RTLD_DEFAULT, wanted[i].name);
        memcpy(wanted[i].to, &symbol, sizeof symbol);
        if (symbol) continue;
        (void)fprintf(stderr, "no %s in %s\n", wanted[i].name, list);
        return false;
    }
    g.cpu_init();
    return true;
}

/* ---- quiet turns ---- */

/* Leaves what two threads of one core share to the other one. */
static void pause_turn(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static _Atomic bool holding;
static void *hold_core(void *core)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(*(const uint32_t *)core, &set);
    (void)sched_setaffinity(0, sizeof set, &set);
    while (atomic_load(&holding)) pause_turn();
    return NULL;
}
static void set_priority(bool realtime)
{
    struct sched_param param = {.sched_priority = realtime ? 50 : 0};
    (void)sched_setscheduler(0, realtime ? SCHED_FIFO : SCHED_OTHER, &param);
}
/* One thread works on core 0 (core 1 is held when the machine has two); two threads have all cores. */
struct quiet { pthread_t holder; uint32_t core; bool held; uint64_t start_ns; };
static void quiet_begin(struct quiet *q, const struct flags *flags, uint32_t threads)
{
    *q = (struct quiet){.core = 1, .start_ns = clock_ns()};
    if (!flags->realtime) return;
    set_priority(true);
    atomic_store(&holding, true);
    q->held = threads == 1 && thread_cores() == 2 && pthread_create(&q->holder, NULL, hold_core, &q->core) == 0;
}
static void quiet_end(struct quiet *q, const struct flags *flags)
{
    atomic_store(&holding, false);
    if (q->held) (void)pthread_join(q->holder, NULL);
    if (!flags->realtime) return;
    set_priority(false);
    double seconds = clock_seconds_since(q->start_ns);
    (void)usleep((useconds_t)((seconds > 0.4 ? 0.4 : seconds) * 1e6));
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}
static double median(double *values, uint32_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* ---- the machine ---- */

#define READ_BYTES ((size_t)192 << 20)
struct reading { uint8_t *memory; uint64_t sink[2]; };
static void read_part(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    struct reading *r = arg;
    const uint8_t *from = r->memory + task_i * READ_BYTES;
    uint64_t sum[8] = {0};
    for (size_t i = 0; i < READ_BYTES / 8; i += 64) /* eight streams, not in the same sets of a cache */
        for (size_t stream = 0; stream < 8; stream++)
            for (size_t j = 0; j < 8; j++) sum[j] ^= load_u64(from + stream * (READ_BYTES / 8 - 832) + i + 8 * j);
    r->sink[task_i] = sum[0] ^ sum[1] ^ sum[2] ^ sum[3] ^ sum[4] ^ sum[5] ^ sum[6] ^ sum[7];
}
static void multiply_part(void *arg, uint32_t task_i, uint32_t worker_i)
{
    (void)worker_i;
    struct reading *r = arg;
    uint64_t x[8];
    for (uint32_t j = 0; j < 8; j++) x[j] = task_i + j;
    for (int i = 0; i < 5000000; i++) /* eight chains fill a multiplier, which two threads of one core would share */
        for (uint32_t j = 0; j < 8; j++) x[j] = x[j] * 6364136223846793005u + 1442695040888963407u;
    r->sink[task_i] = x[0] ^ x[1] ^ x[2] ^ x[3] ^ x[4] ^ x[5] ^ x[6] ^ x[7];
}

static void calibrate(const struct flags *flags)
{
    struct reading r = {.memory = mem_map(2 * READ_BYTES)};
    double seconds[2][2][5]; /* [what][threads - 1][sample] */
    struct ds4_error error = {0};
    if (!r.memory) return;
    memset(r.memory, 1, 2 * READ_BYTES);
    for (uint32_t threads = 1; threads <= 2; threads++) {
        struct thread_pool *pool;
        set_priority(flags->realtime); /* which the workers inherit */
        if (thread_pool_create(threads, &pool, &error) != DS4_OK) return;
        for (int i = 0; i < 10; i++) {
            struct quiet q;
            quiet_begin(&q, flags, threads);
            uint64_t start = clock_ns();
            thread_pool_run(pool, i % 2 ? multiply_part : read_part, &r, threads);
            seconds[i % 2][threads - 1][i / 2] = clock_seconds_since(start);
            quiet_end(&q, flags);
        }
        thread_pool_destroy(pool);
    }
    double one = (double)READ_BYTES / median(seconds[0][0], 5) * 1e-9;
    double two = 2 * (double)READ_BYTES / median(seconds[0][1], 5) * 1e-9;
    double scaling = 2 * median(seconds[1][0], 5) / median(seconds[1][1], 5);
    (void)printf("machine: %u cores, kernels %s; DRAM read %.1f GB/s one thread, %.1f two; two threads do %.2f times "
                 "the work of one\n", thread_cores(), flags->kernels->name, one, two, scaling);
    mem_unmap(r.memory, 2 * READ_BYTES);
}

/* ---- one line of the table ---- */

enum kind { DECODE, PREFILL, EXPERTS };
struct line { const char *name; enum kind kind; uint32_t type, n_cols; };
static const struct line lines[] = {
    {"decode IQ2_XXS", DECODE, QUANT_IQ2_XXS, 1}, {"decode Q2_K", DECODE, QUANT_Q2_K, 1},
    {"decode Q4_K", DECODE, QUANT_Q4_K, 1}, {"decode Q8_0", DECODE, QUANT_Q8_0, 1},
    {"decode MXFP4", DECODE, QUANT_MXFP4, 1}, {"decode F16", DECODE, QUANT_F16, 1},
    {"decode BF16", DECODE, QUANT_BF16, 1}, {"batch 4 Q8_0", PREFILL, QUANT_Q8_0, 4},
    {"prefill 512 IQ2_XXS", PREFILL, QUANT_IQ2_XXS, 512}, {"prefill 512 Q2_K", PREFILL, QUANT_Q2_K, 512},
    {"prefill 512 Q4_K", PREFILL, QUANT_Q4_K, 512}, {"prefill 512 Q8_0", PREFILL, QUANT_Q8_0, 512},
    {"prefill 512 MXFP4", PREFILL, QUANT_MXFP4, 512}, {"prefill 512 F16", PREFILL, QUANT_F16, 512},
    {"prefill 512 BF16", PREFILL, QUANT_BF16, 512}, {"12 rows an expert IQ2_XXS", EXPERTS, QUANT_IQ2_XXS, 128},
    {"12 rows an expert Q2_K", EXPERTS, QUANT_Q2_K, 128}};

struct turn {
    const struct line *line;
    uint32_t threads, n_matrices, next, n_products; /* products of a turn */
    uint64_t row_bytes, matrix_bytes, stride;
    uint8_t *weights;
    float *x, *y;
    int32_t *ids;
    struct thread_pool *pool;
    struct backend *backend;
    void *context, *weights_context, *graph, **tensors;
    uint8_t *context_memory;
    size_t context_bytes;
    struct g_plan plan;
};

static void fill_blocks(const struct quant_format *format, uint8_t *blocks, size_t bytes)
{
    struct rng rng = {format->id};
    for (size_t i = 0; i + 8 <= bytes; i += 8) store_u64(blocks + i, rng_next(&rng));
    for (size_t at = 0; at + format->block_bytes <= bytes; at += format->block_bytes) {
        if (format->id == QUANT_BF16) store_u16(blocks + at, bf16_from_f32(rng_float(&rng) - 0.5f));
        if (format->id == QUANT_MXFP4) blocks[at] = (uint8_t)(120 + rng_below(&rng, 8));
        for (uint32_t i = 0; i < format->n_scales; i++)
            store_u16(blocks + at + format->scales_at + 2 * i, f16_from_f32(rng_float(&rng) - 0.5f));
    }
}

/* The memory of the weights: a file's pages, or huge ones. */
static uint8_t *map_weights(const struct flags *flags, size_t bytes)
{
    char path[] = "/tmp/ds4-products-XXXXXX";
    int fd = flags->huge ? -1 : mkstemp(path);
    if (fd >= 0) (void)unlink(path);
    if (fd >= 0 && ftruncate(fd, (off_t)bytes) != 0) return NULL;
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, fd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, fd, 0);
    if (fd >= 0) (void)close(fd);
    if (at == MAP_FAILED) return NULL;
    if (flags->huge) (void)madvise(at, bytes, MADV_HUGEPAGE);
    return at;
}

static void run_ours(struct turn *t)
{
    const struct line *line = t->line;
    for (uint32_t i = 0; i < t->n_products; i++) {
        struct op_weight w = {.data = t->weights + t->next * t->stride, .type = line->type, .n_in = N_IN,
                              .n_out = N_OUT, .row_bytes = t->row_bytes, .n_stack = 1, .stack_bytes = t->matrix_bytes};
        struct matmul_args plain = {.n_rows = line->n_cols, .n_outputs = 1, .n_groups = 1, .x = t->x};
        plain.out[0].w = w;
        plain.out[0].y = t->y;
        bool is_expert = line->type == QUANT_IQ2_XXS || line->type == QUANT_Q2_K; /* only there are they integers */
        struct moe_down_args expert = {line->n_cols, line->kind == EXPERTS ? N_USED : 1, t->x, t->ids, w, t->y};
        expert.down.n_stack = line->kind == EXPERTS ? N_EXPERTS : 2;
        if (line->kind == EXPERTS || is_expert) t->backend->ops->moe_down(t->backend, &expert);
        else t->backend->ops->matmul(t->backend, &plain);
        t->next = (t->next + 1) % t->n_matrices;
    }
}

static void run_theirs(struct turn *t) { (void)g.compute(t->graph, &t->plan); }

/* A graph of the products of a turn, each with the next matrix. */
static bool plan_theirs(struct turn *t)
{
    const struct line *line = t->line;
    int64_t used = line->kind == EXPERTS ? N_USED : 1, n_cols = line->n_cols;
    t->context_bytes = ((size_t)t->n_products * N_OUT + N_IN) * (size_t)(used * n_cols) * 4 + ((size_t)64 << 20);
    t->context_memory = mem_map(t->context_bytes);
    if (!t->context_memory) return false;
    t->context = g.init((struct g_init){t->context_bytes, t->context_memory, false});
    void *x = line->kind == EXPERTS ? g.tensor_3d(t->context, 0, N_IN, used, n_cols)
                                    : g.tensor_2d(t->context, 0, N_IN, n_cols);
    memcpy(g.data(x), t->x, (size_t)(used * n_cols) * N_IN * sizeof *t->x);
    void *ids = line->kind == EXPERTS ? g.tensor_2d(t->context, 26, used, n_cols) : NULL;
    if (ids) memcpy(g.data(ids), t->ids, (size_t)(used * n_cols) * sizeof *t->ids);
    t->graph = g.graph(t->context);
    for (uint32_t i = 0; i < t->n_products; i++) {
        void *w = t->tensors[i % t->n_matrices];
        void *y = ids ? g.mul_mat_id(t->context, w, x, ids) : g.mul_mat(t->context, w, x);
        g.expand(t->graph, y);
    }
    t->plan = g.plan(t->graph, (int)t->threads, NULL);
    t->plan.work = mem_alloc_aligned(64, t->plan.work_size + 64);
    return t->plan.work != NULL;
}

static bool make_weights(struct turn *t, const struct flags *flags, size_t bytes)
{
    const struct quant_format *format = quant_format(t->line->type);
    t->weights = map_weights(flags, bytes);
    if (!t->weights) return false;
    uint32_t per_matrix = t->line->kind == EXPERTS ? N_EXPERTS : 1;
    uint8_t *base = t->weights;
    t->tensors = mem_zalloc(t->n_matrices, sizeof *t->tensors);
    if (flags->ggml) t->weights_context = g.init((struct g_init){bytes, t->weights, false});
    for (uint32_t i = 0; i < t->n_matrices; i++) {
        uint8_t *at = base + i * t->matrix_bytes * per_matrix;
        if (flags->ggml) {
            t->tensors[i] = g.tensor_3d(t->weights_context, (int)t->line->type, N_IN, N_OUT, per_matrix);
            at = g.data(t->tensors[i]);
        }
        if (i == 0) t->weights = at;
        if (i == 1) t->stride = (uint64_t)(at - t->weights);
        for (uint32_t e = 0; e < per_matrix; e++)
            if (i + e == 0) fill_blocks(format, at, (size_t)t->matrix_bytes);
            else memcpy(at + e * t->matrix_bytes, t->weights, (size_t)t->matrix_bytes);
    }
    return true;
}

/* One or two threads, turn by turn. */
static void compare(struct turn *t, const struct flags *flags)
{
    double ours[SAMPLES_MAX], theirs[SAMPLES_MAX], ratios[SAMPLES_MAX];
    struct quiet q;
    t->n_products = 1;
    run_ours(t);
    quiet_begin(&q, flags, t->threads);
    uint64_t start = clock_ns();
    run_ours(t);
    double once = clock_seconds_since(start);
    quiet_end(&q, flags);
    t->n_products = once > TURN_S ? 1 : (uint32_t)(TURN_S / once) + 1;
    if (t->n_products > 1500) t->n_products = 1500;
    if (flags->ggml && !plan_theirs(t)) return;
    if (flags->ggml) run_theirs(t);
    for (uint32_t i = 0; i < flags->samples; i++) {
        quiet_begin(&q, flags, t->threads);
        start = clock_ns();
        run_ours(t);
        ours[i] = clock_seconds_since(start);
        start = clock_ns();
        if (flags->ggml) run_theirs(t);
        theirs[i] = clock_seconds_since(start);
        ratios[i] = theirs[i] / ours[i];
        quiet_end(&q, flags);
    }
    uint64_t per_product = t->line->kind == EXPERTS ? N_EXPERTS : 1;
    double rows = t->line->n_cols * (t->line->kind == EXPERTS ? (double)N_USED : 1);
    double unit = t->line->kind == DECODE ? (double)(t->matrix_bytes * per_product) : 2.0 * N_OUT * N_IN * rows;
    unit *= 1e-9 * t->n_products;
    const char *name = t->line->kind == DECODE ? "GB/s" : "GFLOP/s";
    if (flags->ggml)
        (void)printf("%-26s %u   %7.2f   %7.2f   %-7s   %.2f\n", t->line->name, t->threads,
                     unit / median(ours, flags->samples), unit / median(theirs, flags->samples), name,
                     median(ratios, flags->samples));
    else (void)printf("%-26s %u   %7.2f   %s\n", t->line->name, t->threads, unit / median(ours, flags->samples), name);
    (void)fflush(stdout);
    if (flags->ggml) {
        mem_free(t->plan.work);
        g.release(t->context);
        mem_unmap(t->context_memory, t->context_bytes);
    }
}

static bool open_backend(struct turn *t, const struct flags *flags)
{
    struct ds4_error error = {0};
    struct backend_limits limits = {.n_rows = 512, .n_in = N_IN, .n_heads = 1, .dim = 64, .n_experts = N_EXPERTS,
                                    .n_used = N_USED, .n_ff = N_IN};
    set_priority(flags->realtime); /* which the workers inherit */
    bool ok = thread_pool_create(t->threads, &t->pool, &error) == DS4_OK &&
              backend_cpu_create(t->pool, &limits, &t->backend, &error) == DS4_OK;
    set_priority(false);
    if (!ok) (void)fprintf(stderr, "%s\n", error.message);
    else cpu_of(t->backend)->kernels = flags->kernels;
    return ok;
}

static void run_line(const struct line *line, uint32_t threads, const struct flags *flags)
{
    struct turn t = {.line = line, .threads = threads};
    uint32_t used = line->kind == EXPERTS ? N_USED : 1, per_matrix = line->kind == EXPERTS ? N_EXPERTS : 1;
    if (!quant_row_bytes(quant_format(line->type), N_IN, &t.row_bytes)) return;
    t.matrix_bytes = t.stride = t.row_bytes * N_OUT;
    t.n_matrices = (uint32_t)(((uint64_t)flags->set_mb << 20) / (t.matrix_bytes * per_matrix)) + 1;
    size_t bytes = (size_t)t.n_matrices * (size_t)(t.matrix_bytes * per_matrix + 1024) + (1 << 20);
    size_t n_x = (size_t)line->n_cols * used * N_IN, n_y = (size_t)line->n_cols * N_OUT;
    t.x = mem_alloc_aligned(64, n_x * sizeof *t.x);
    t.y = mem_alloc(n_y, sizeof *t.y);
    t.ids = mem_zalloc((size_t)line->n_cols * used, sizeof *t.ids);
    struct rng rng = {7};
    for (size_t i = 0; i < n_x; i++) t.x[i] = rng_float(&rng) + rng_float(&rng) - 1;
    for (uint32_t i = 0; i < line->n_cols * used && line->kind == EXPERTS; i++) t.ids[i] = (int32_t)(i % N_EXPERTS);
    if (make_weights(&t, flags, bytes) && open_backend(&t, flags)) compare(&t, flags);
    if (t.backend) t.backend->ops->destroy(t.backend);
    thread_pool_destroy(t.pool);
    if (t.weights_context) g.release(t.weights_context);
    if (t.weights) (void)munmap((void *)((uintptr_t)t.weights & ~(uintptr_t)4095), bytes);
    mem_free(t.tensors);
    mem_free(t.ids);
    mem_free(t.y);
    mem_free(t.x);
}

/* name=value; false when the argument is another one. */
static bool take(const char *arg, const char *name, const char **value)
{
    size_t n = strlen(name);
    if (strncmp(arg, name, n) != 0 || arg[n] != '=') return false;
    *value = arg + n + 1;
    return true;
}
static uint32_t number(const char *text, uint32_t most)
{
    unsigned long n = strtoul(text, NULL, 10);
    return n > most ? most : (uint32_t)n;
}

/* A table of kernels that this machine can run; NULL: there is none of that name. */
static const struct cpu_kernels *kernels_named(const char *name)
{
    const struct cpu_kernels *all[] = {
#if defined(__x86_64__)
        &cpu_kernels_avx512vnni, &cpu_kernels_avx512, &cpu_kernels_avx2,
#elif defined(__aarch64__)
        &cpu_kernels_neon,
#endif
        &cpu_kernels_scalar};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i]->name, name) == 0 && all[i]->supported()) return all[i];
    (void)fprintf(stderr, "%s: no kernels that this machine can run\n", name);
    return NULL;
}

int main(int argc, char **argv)
{
    struct flags flags = {.samples = 5, .set_mb = 128, .kernels = cpu_kernels_best()};
    for (int i = 1; i < argc; i++) {
        const char *value = "";
        if (take(argv[i], "ggml", &value)) flags.ggml = *value ? value : NULL;
        else if (take(argv[i], "only", &value)) flags.only = value;
        else if (take(argv[i], "threads", &value)) flags.threads = number(value, 256);
        else if (take(argv[i], "samples", &value)) flags.samples = number(value, SAMPLES_MAX);
        else if (take(argv[i], "set-mb", &value)) flags.set_mb = number(value, 65536);
        else if (take(argv[i], "pages", &value)) flags.huge = strcmp(value, "huge") == 0;
        else if (take(argv[i], "realtime", &value)) flags.realtime = *value == '1';
        else if (take(argv[i], "kernels", &value)) flags.kernels = kernels_named(value);
        else {
            (void)fprintf(stderr, "%s: unknown; see the top of tests/measure/products.c\n", argv[i]);
            return 2;
        }
    }
    if (!flags.kernels) return 2;
    if (flags.samples == 0) flags.samples = 1;
    if (flags.ggml && !load_ggml(flags.ggml)) return 1;
    calibrate(&flags);
    (void)printf("%-26s threads   ds4   %s\n", "product", flags.ggml ? "ggml   unit   ratio" : "unit");
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        if (flags.only && !strstr(lines[i].name, flags.only)) continue;
        for (uint32_t threads = 1; threads <= 2; threads++)
            if (flags.threads == 0 || flags.threads == threads) run_line(&lines[i], threads, &flags);
    }
    return 0;
}
