/* plan.c - the ledger of bytes: what an engine with given settings takes, known before anything is allocated. The same
 * function serves `ds4 plan` and the engine, which refuses with its verdict. */
#include <stdarg.h>
#include <stdio.h>

#include "base/mem.h"
#include "engine/engine.h"
#include "quant/quant.h"

#define GIB 1073741824.0

static void add_item(struct ds4_plan *plan, uint64_t bytes, bool resident, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void add_item(struct ds4_plan *plan, uint64_t bytes, bool resident, const char *format, ...)
{
    ensure(plan->n_items < sizeof plan->items / sizeof plan->items[0]);
    struct ds4_plan_item *item = &plan->items[plan->n_items++];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(item->name, sizeof item->name, format, args);
    va_end(args);
    item->bytes = bytes;
    item->resident = resident;
    if (resident) plan->resident_bytes += bytes;
    else plan->mapped_bytes += bytes;
}

struct weight_sums {
    uint64_t expert_bytes, dense_bytes, vector_bytes, per_token;
};

/* Sums over the directory. What is small or one-dimensional is copied into memory, the rest stays in the file. */
static struct weight_sums sum_weights(const struct gguf_file *file, const struct hparams *h)
{
    struct weight_sums sums = {0};
    for (size_t i = 0; file && i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(file, i);
        const struct quant_format *format = quant_format(t->type);
        bool table = span_find(t->name, SPAN("tid2eid"), 0) != SIZE_MAX;
        bool experts = t->dims[2] > 1, draft = span_find(t->name, SPAN("mtp."), 0) == 0;
        if (t->dims[1] == 1 || table || span_find(t->name, SPAN("_ape"), 0) != SIZE_MAX) {
            uint64_t elems = t->dims[0] * t->dims[1];
            sums.vector_bytes += elems * 4;
        } else if (experts) {
            sums.expert_bytes += t->size_bytes;
            if (!draft) sums.per_token += t->size_bytes / t->dims[2] * h->n_used;
        } else {
            bool embedding = span_find(t->name, SPAN("token_embd"), 0) == 0;
            uint64_t row = 0;
            sums.dense_bytes += t->size_bytes;
            if (embedding && format && quant_row_bytes(format, t->dims[0], &row)) sums.per_token += row;
            else if (!draft) sums.per_token += t->size_bytes;
        }
    }
    return sums;
}

static void judge(struct ds4_plan *plan)
{
    double resident = (double)plan->resident_bytes / GIB, mapped = (double)plan->mapped_bytes / GIB;
    double budget = (double)plan->budget_bytes / GIB;
    plan->fits = plan->resident_bytes <= plan->budget_bytes;
    plan->all_in_memory = plan->fits && plan->mapped_bytes <= plan->budget_bytes - plan->resident_bytes;
    if (!plan->fits)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "does not fit: %.2f GiB must stay in memory and the budget is %.2f GiB; use a smaller --ctx, "
                       "fewer sessions or a smaller chunk", resident, budget);
    else if (!plan->all_in_memory)
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "runs, but slowly: %.2f GiB of weights are read from disk as needed, %.2f GiB of memory are "
                       "left for them", mapped, budget - resident);
    else
        (void)snprintf(plan->verdict, sizeof plan->verdict,
                       "fits: %.2f GiB of memory and %.2f GiB of weights, of %.2f GiB", resident, mapped, budget);
}

void engine_plan(const struct gguf_file *file, const struct gguf_file *mtp_file, const struct hparams *h,
                 const struct engine_settings *settings, const struct state_layout *layout, uint64_t budget_bytes,
                 struct ds4_plan *out)
{
    *out = (struct ds4_plan){.memory_bytes = mem_machine_bytes()};
    out->budget_bytes = budget_bytes ? budget_bytes : out->memory_bytes;
    struct weight_sums sums = sum_weights(file, h), draft = sum_weights(mtp_file, h);
    uint64_t n = settings->n_sessions, spans = session_spans_for(settings->ctx_tokens) + 1ull;
    struct backend_limits limits = graph_backend_limits(h, settings->chunk_tokens, settings->ctx_tokens);
    add_item(out, sums.expert_bytes + draft.expert_bytes, false, "weights: routed experts");
    add_item(out, sums.dense_bytes + draft.dense_bytes, false, "weights: everything else");
    add_item(out, sums.vector_bytes + draft.vector_bytes, true, "weights: vectors and tables in F32");
    add_item(out, gguf_header_bytes(file) * 4, true, "vocabulary and directory of the file");
    add_item(out, n * layout->tail_bytes, true, "state: rings of %u session(s)", settings->n_sessions);
    add_item(out, n * spans * layout->span_bytes, true, "state: rows of %u tokens each", settings->ctx_tokens);
    add_item(out, n * session_host_bytes(h, settings->ctx_tokens), true, "state: tokens and logits");
    add_item(out, graph_scratch_bytes(h, settings->chunk_tokens, settings->draft), true, "scratch: %u rows a batch",
             settings->chunk_tokens);
    add_item(out, settings->backend_ops->scratch_bytes(&limits, settings->n_threads), true, "scratch: %s backend",
             settings->backend_ops->name);
    out->weight_bytes_per_token = sums.per_token;
    judge(out);
}

static enum ds4_status choose_backend(const char *name, const struct backend_ops **out, struct ds4_error *error)
{
    static const struct backend_ops *const known[] = {&backend_cpu_ops, &backend_ref_ops};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (name && strcmp(name, known[i]->name) != 0) continue;
        *out = known[i];
        return DS4_OK;
    }
    return err_set(error, DS4_ERR_UNSUPPORTED, "backend \"%.32s\" is not in this build; there are cpu and ref", name);
}

enum ds4_status engine_settle(const struct ds4_engine_options *options, const struct hparams *h, bool has_mtp,
                              struct engine_settings *out, struct ds4_error *error)
{
    *out = (struct engine_settings){.round = !options->ideal, .draft = options->draft && has_mtp};
    TRY(choose_backend(options->backend, &out->backend_ops, error));
    bool exact = options->ideal || out->backend_ops == &backend_ref_ops;
    out->row_format = exact ? OP_ROW_F32 : OP_ROW_PACKED;
    uint32_t fallback = h->ctx_train < ENGINE_CTX_DEFAULT ? h->ctx_train : ENGINE_CTX_DEFAULT;
    out->ctx_tokens = options->ctx_tokens ? options->ctx_tokens : fallback;
    if (out->ctx_tokens > h->ctx_train)
        return err_set(error, DS4_ERR_LIMIT, "a context of %u tokens; the model was made for %u", out->ctx_tokens,
                       h->ctx_train);
    out->chunk_tokens = options->chunk_tokens ? options->chunk_tokens : ENGINE_CHUNK_DEFAULT;
    if (out->chunk_tokens > ENGINE_CHUNK_MAX)
        return err_set(error, DS4_ERR_LIMIT, "chunks of %u tokens; at most %u", out->chunk_tokens, ENGINE_CHUNK_MAX);
    out->n_sessions = options->n_sessions_max ? options->n_sessions_max : 1;
    if (out->n_sessions > ENGINE_SESSIONS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "%u sessions; at most %u", out->n_sessions, ENGINE_SESSIONS_MAX);
    if (out->chunk_tokens > out->ctx_tokens) out->chunk_tokens = out->ctx_tokens;
    if (out->chunk_tokens < out->n_sessions) out->chunk_tokens = out->n_sessions; /* one row of each session */
    out->n_threads = options->n_threads ? options->n_threads : thread_cores();
    return DS4_OK;
}

/* Too large for a stack. */
struct plan_work {
    struct hparams h;
    struct state_layout layout;
};

static enum ds4_status plan_file(const struct gguf_file *file, const struct gguf_file *mtp_file,
                                 const struct ds4_engine_options *options, struct plan_work *work,
                                 struct ds4_plan *plan, struct ds4_error *error)
{
    struct engine_settings settings;
    TRY(hparams_read(file, &work->h, error));
    TRY(engine_settle(options, &work->h, weights_find_mtp(file, mtp_file, &work->h), &settings, error));
    state_layout_make(&work->h, settings.draft, settings.row_format, settings.chunk_tokens, &work->layout);
    engine_plan(file, mtp_file, &work->h, &settings, &work->layout, options->memory_budget_bytes, plan);
    return DS4_OK;
}

enum ds4_status ds4_plan_make(const struct ds4_engine_options *options, struct ds4_plan *plan, struct ds4_error *error)
{
    struct gguf_file *file = NULL, *mtp_file = NULL;
    struct plan_work *work = mem_zalloc(1, sizeof *work);
    if (!work) return err_set(error, DS4_ERR_NOMEM, "no memory to plan");
    enum ds4_status status = gguf_open(options->model_path, &file, error);
    if (status == DS4_OK) status = options->mtp_path ? gguf_open(options->mtp_path, &mtp_file, error) : DS4_OK;
    if (status == DS4_OK) status = plan_file(file, mtp_file, options, work, plan, error);
    gguf_close(mtp_file);
    gguf_close(file);
    mem_free(work);
    return status;
}
