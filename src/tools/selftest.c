/* selftest.c - `ds4 selftest`: one report on the GPUs of a machine, for its owner to send: the device, whether all
 * kernels build, every weight format multiplied and compared with the reference, how fast weights are read beside the
 * device's own streaming rate, and a model end to end. Nothing is kept. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "command/model_flags.h"
#include "ds4.h"
#include "gpu/backend.h"
#include "quant/quant.h"
#include "tools/tools.h"

#define CHECKED_OUT 48u
#define MANY_ROWS 24u          /* enough for products in tiles */
#define TOKENS 40u
/* Of the norm of the result. The largest of 32 inputs, evenly spread between -1/2 and 1/2, is about 0.485 and becomes
 * 2047 or more; errors are 1/sqrt(12) of that step, inputs 1/sqrt(12) themselves: 0.485 / 2047 = 2.4e-4 where a product
 * passes both on alike, and a quarter for chance. */
#define PRODUCT_TOLERANCE 3e-4
#define MODEL_TOLERANCE 0.05   /* of the spread of the logits: rounding of state to 8 and 4 bits makes steps */

struct selftest_flags {
    struct model_flags model;
    uint32_t n_in, n_out;
};
static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct selftest_flags, model),
    {.name = "cols", .value = "N", .type = OPTION_U32, .offset = offsetof(struct selftest_flags, n_in), .min = 256,
     .max = 16384, .preset = "4096", .help = "inputs of the matrices that are timed"},
    {.name = "rows", .value = "N", .type = OPTION_U32, .offset = offsetof(struct selftest_flags, n_out), .min = 64,
     .max = 262144, .preset = "32768", .help = "their outputs"},
};
static const struct options table = {
    .command = "selftest", .summary = "check the GPUs of this machine and print a report", OPTIONS_ROWS(rows),
    .notes = "Without --backend every GPU backend of this build is checked. The last line says how many\n"
             "checks failed.",
};

struct selftest {
    const struct selftest_flags *flags;
    const struct gpu_choice *choice;
    struct backend *ref, *gpu;
    uint32_t n_failed;
};

static void verdict(struct selftest *t, bool good, const char *what, const char *detail)
{
    printf("  %-28s %-4s %s\n", what, good ? "ok" : "BAD", detail);
    if (!good) t->n_failed++;
}

/* Copies bytes into memory of a backend; NULL when there is none. */
static void *place(struct backend *b, const void *bytes, size_t n)
{
    void *there = b->ops->alloc(b, n);
    if (there && bytes) b->ops->write(b, there, bytes, n);
    return there;
}

/* y [n_rows][n_out] = x W^T on a backend, n_repeats times; seconds (may be NULL) is the time of one. */
static bool multiply(struct backend *b, const struct op_weight *w, uint32_t n_rows, const float *x, float *y,
                     uint32_t n_repeats, double *seconds, struct ds4_error *error)
{
    size_t x_bytes = (size_t)n_rows * w->n_in * sizeof *x, y_bytes = (size_t)n_rows * w->n_out * sizeof *y;
    size_t w_bytes = (size_t)(w->n_out * w->row_bytes);
    uint8_t *w_there = place(b, w->data, w_bytes);
    float *x_there = place(b, x, x_bytes), *y_there = place(b, NULL, y_bytes);
    bool good = w_there && x_there && y_there;
    if (!good) (void)err_set(error, DS4_ERR_NOMEM, "no memory for a matrix of %zu bytes", w_bytes);
    struct matmul_args args = {.n_rows = n_rows, .n_outputs = 1, .n_groups = 1, .x = x_there, .out = {{*w, y_there}}};
    args.out[0].w.data = w_there;
    uint64_t start = 0;
    for (uint32_t i = 0; good && i < n_repeats; i++) {
        if (i == 1) good = b->ops->finish(b, error) == DS4_OK, start = clock_ns(); /* the first one warms up */
        b->ops->matmul(b, &args);
    }
    good = good && b->ops->finish(b, error) == DS4_OK;
    if (seconds && n_repeats > 1) *seconds = clock_seconds_since(start) / (n_repeats - 1);
    if (good) b->ops->read(b, y, y_there, y_bytes);
    b->ops->release(b, w_there, w_bytes);
    b->ops->release(b, x_there, x_bytes);
    b->ops->release(b, y_there, y_bytes);
    return good;
}

/* Rows of bell-shaped weights, the first encoded and the others copies of it shifted by whole blocks. */
static uint8_t *make_weights(const struct quant_format *format, uint32_t n_in, uint32_t n_out, uint64_t row_bytes)
{
    struct rng rng = {7};
    uint8_t *data = mem_alloc(n_out, (size_t)row_bytes);
    float *values = mem_alloc(2 * (size_t)n_in, sizeof *values);
    if (!data || !values) {
        mem_free(values);
        mem_free(data);
        return NULL;
    }
    for (uint32_t i = 0; i < 2 * n_in; i++)
        values[i] = (rng_float(&rng) + rng_float(&rng) + rng_float(&rng) - 1.5f) * 0.05f;
    uint32_t n_made = n_out < 16 ? n_out : 16, shift = n_in / 16 / format->block_elems * format->block_elems;
    for (uint32_t o = 0; o < n_made; o++) format->encode(values + (size_t)o * shift, NULL, data + o * row_bytes, n_in);
    for (uint32_t o = n_made; o < n_out; o++) memcpy(data + o * row_bytes, data + o % n_made * row_bytes, row_bytes);
    mem_free(values);
    return data;
}

/* What a format is checked with: outputs of many rows, the first row alone, and what they should be. */
struct product {
    struct op_weight w;
    float *x, *many, *alone, *want;
    double seconds;
};

static bool make_product(struct product *p, const struct quant_format *format)
{
    struct rng rng = {9};
    uint32_t n_in = p->w.n_in, n_out = p->w.n_out;
    p->w.data = make_weights(format, n_in, n_out, p->w.row_bytes);
    p->x = mem_alloc((size_t)MANY_ROWS * n_in, sizeof *p->x);
    p->want = mem_alloc(MANY_ROWS * CHECKED_OUT, sizeof *p->want);
    p->many = mem_alloc(MANY_ROWS * CHECKED_OUT, sizeof *p->many);
    p->alone = mem_alloc(n_out, sizeof *p->alone);
    bool good = p->w.data && p->x && p->want && p->many && p->alone;
    for (uint32_t i = 0; good && i < MANY_ROWS * n_in; i++) p->x[i] = rng_float(&rng) - 0.5f;
    return good;
}

static void free_product(struct product *p)
{
    mem_free((void *)(uintptr_t)p->w.data);
    mem_free(p->x);
    mem_free(p->want);
    mem_free(p->many);
    mem_free(p->alone);
}

static bool run_product(struct selftest *t, struct product *p, struct ds4_error *error)
{
    struct op_weight checked = p->w;
    uint32_t n_repeats = t->choice->automatic ? 20 : 1;
    checked.n_out = CHECKED_OUT;
    return multiply(t->gpu, &p->w, 1, p->x, p->alone, n_repeats, &p->seconds, error) &&
           multiply(t->gpu, &checked, MANY_ROWS, p->x, p->many, 1, NULL, error) &&
           multiply(t->ref, &checked, MANY_ROWS, p->x, p->want, 1, NULL, error);
}

static void check_format(struct selftest *t, const struct quant_format *format)
{
    bool slow = !t->choice->automatic;
    struct product p = {.w = {.type = format->id, .n_in = slow ? 512 : t->flags->n_in,
                              .n_out = slow ? CHECKED_OUT : t->flags->n_out, .n_stack = 1}};
    struct ds4_error error = {0};
    char detail[sizeof error.message];
    double difference = 0, norm = 0;
    if (!quant_row_bytes(format, p.w.n_in, &p.w.row_bytes)) return;
    bool good = make_product(&p, format) && run_product(t, &p, &error), same = true;
    for (uint32_t i = 0; good && i < MANY_ROWS * CHECKED_OUT; i++) {
        difference += ((double)p.many[i] - (double)p.want[i]) * ((double)p.many[i] - (double)p.want[i]);
        norm += (double)p.want[i] * (double)p.want[i];
    }
    if (good) same = memcmp(p.many, p.alone, CHECKED_OUT * sizeof *p.many) == 0;
    double off = norm > 0 ? sqrt(difference / norm) : 0;
    const char *company = same ? "" : ", a row alone gives OTHER BITS than among many";
    if (!good) (void)snprintf(detail, sizeof detail, "%s", error.message);
    else if (slow) (void)snprintf(detail, sizeof detail, "off by %.1e%s", off, company);
    else (void)snprintf(detail, sizeof detail, "off by %.1e%s, weights read at %.0f GB/s", off, company,
                        (double)p.w.n_out * (double)p.w.row_bytes * 1e-9 / p.seconds);
    verdict(t, good && same && off <= PRODUCT_TOLERANCE, format->name, detail);
    free_product(&p);
}

/* The device's own rate: y += x over arrays far larger than its caches. */
static void time_streaming(struct selftest *t)
{
    const size_t n = (size_t)64 << 20;
    struct backend *b = t->gpu;
    struct ds4_error error = {0};
    float *x = b->ops->alloc(b, n * sizeof *x), *y = b->ops->alloc(b, n * sizeof *y);
    struct add_args args = {n, x, y};
    uint64_t start = 0;
    for (int i = 0; x && y && i < 21; i++) {
        if (i == 1) (void)!b->ops->finish(b, &error), start = clock_ns();
        b->ops->add(b, &args);
    }
    if (x && y && b->ops->finish(b, &error) == DS4_OK)
        printf("  %-28s      %.0f GB/s (two reads, one write)\n", "streaming",
               20 * 3.0 * (double)n * 4 * 1e-9 / clock_seconds_since(start));
    b->ops->release(b, x, n * sizeof *x);
    b->ops->release(b, y, n * sizeof *y);
}

/* Logits of the last token of a short text on a backend. */
static bool model_logits(const struct selftest_flags *flags, const char *backend, float **logits, uint32_t *n_vocab,
                         struct ds4_error *error)
{
    struct ds4_engine_options options = {.model_path = flags->model.path, .backend = backend, .ctx_tokens = 256,
                                         .chunk_tokens = TOKENS};
    struct ds4_engine *e = NULL;
    struct ds4_session *s = NULL;
    int32_t tokens[TOKENS];
    bool good = ds4_engine_open(&options, &e, error) == DS4_OK && ds4_session_create(e, &s, error) == DS4_OK;
    if (good) {
        *n_vocab = ds4_engine_info(e)->n_vocab;
        for (uint32_t i = 0; i < TOKENS; i++) tokens[i] = (int32_t)((i * 37 + 11) % *n_vocab);
        struct ds4_job prompt = {.session = s, .tokens = tokens, .n = TOKENS - 2};
        struct ds4_job last[2] = {{.session = s, .tokens = tokens + TOKENS - 2, .n = 1},
                                  {.session = s, .tokens = tokens + TOKENS - 1, .n = 1}};
        good = ds4_eval(e, &prompt, 1, error) == DS4_OK && ds4_eval(e, &last[0], 1, error) == DS4_OK &&
               ds4_eval(e, &last[1], 1, error) == DS4_OK;
        *logits = good ? mem_alloc(*n_vocab, sizeof **logits) : NULL;
        good = good && *logits;
        if (good) memcpy(*logits, ds4_session_logits(s), *n_vocab * sizeof **logits);
    }
    ds4_session_destroy(s);
    ds4_engine_close(e);
    return good;
}

static void check_model(struct selftest *t)
{
    float *got = NULL, *want = NULL;
    uint32_t n_vocab = 0;
    struct ds4_error error = {0};
    char detail[sizeof error.message];
    double mean = 0, spread = 0, difference = 0;
    bool good = model_logits(t->flags, t->choice->ops->name, &got, &n_vocab, &error) &&
                model_logits(t->flags, "ref", &want, &n_vocab, &error);
    for (uint32_t v = 0; good && v < n_vocab; v++) mean += (double)want[v] / n_vocab;
    for (uint32_t v = 0; good && v < n_vocab; v++) {
        spread += ((double)want[v] - mean) * ((double)want[v] - mean);
        difference += ((double)got[v] - (double)want[v]) * ((double)got[v] - (double)want[v]);
    }
    double off = spread > 0 ? sqrt(difference / spread) : 0;
    if (good) (void)snprintf(detail, sizeof detail, "logits off by %.1e of their spread after %u tokens", off, TOKENS);
    else (void)snprintf(detail, sizeof detail, "%s", error.message);
    verdict(t, good && off <= MODEL_TOLERANCE, "a model end to end", detail);
    mem_free(got);
    mem_free(want);
}

/* False: there is no such device here. */
static bool check_choice(struct selftest *t)
{
    struct ds4_error error = {0};
    struct gpu_info info;
    char why[512] = "";
    struct gpu *device = t->choice->host->open(why, sizeof why);
    if (!device) {
        printf("%s: no device: %s\n", t->choice->ops->name, why);
        return false;
    }
    t->choice->host->info(device, &info);
    printf("%s: %s, %.1f GiB\n", t->choice->ops->name, info.name, (double)info.memory_bytes / 1073741824.0);
    struct backend_limits limits = {.n_rows = MANY_ROWS, .n_in = t->flags->n_in, .n_heads = 64, .dim = 512,
                                    .n_attn_rows = 640, .n_index_heads = 64, .index_dim = 128, .n_index_rows = 8192,
                                    .n_experts = 256, .n_used = 6, .n_ff = 2048};
    bool good = backend_gpu_create_on(t->choice->host, device, NULL, &limits, &t->gpu, &error) == DS4_OK &&
                backend_ref_create(NULL, &limits, &t->ref, &error) == DS4_OK;
    verdict(t, good, "kernels build", good ? "" : error.message);
    if (good && t->choice->automatic) time_streaming(t);
    for (size_t i = 0; good && quant_format_at(i); i++)
        if (quant_format_at(i)->weight && quant_format_at(i)->encode) check_format(t, quant_format_at(i));
    if (t->gpu) t->gpu->ops->destroy(t->gpu);
    if (t->ref) t->ref->ops->destroy(t->ref);
    t->gpu = t->ref = NULL;
    if (good) check_model(t);
    return true;
}

int cmd_selftest(int argc, char **argv)
{
    static struct selftest_flags flags;
    struct ds4_error error = {0};
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    if (model_flags_find(&flags.model, NULL, &error) != DS4_OK) return options_failed(&table, &error);
    struct selftest t = {.flags = &flags};
    uint32_t n_checked = 0;
    for (t.choice = gpu_choices(); t.choice->ops; t.choice++) {
        if (flags.model.backend && strcmp(flags.model.backend, t.choice->ops->name) != 0) continue;
        n_checked += check_choice(&t);
    }
    if (n_checked == 0) printf("nothing was checked: this build, or this machine, has no such GPU\n");
    else printf("%u checks failed\n", t.n_failed);
    return t.n_failed || n_checked == 0 ? EXIT_CODE_FAILED : EXIT_CODE_OK;
}
