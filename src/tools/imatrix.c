/* imatrix.c - `ds4 imatrix`: which input columns of the experts matter, measured over a calibration text.
 *
 * The text goes through the model in windows. At every layer the engine shows what enters the experts: the normed input
 * (gate and up) and the product of gate and up after the routing weight (down), with the numbers of the chosen experts.
 * For each expert and column the squares are summed; the file gets their means over the rows of that expert, and ones
 * for an expert that no row chose. With --all the inputs of the layer's other matrices that see the same rows, too.
 * With --rows a sample of the rows themselves goes to another file (rows_file.c).
 *
 * Every so often the sums go to OUT.state, from which --resume continues to the same bytes. Little-endian:
 *   OFFSET SIZE  DESCRIPTION
 *   0      8     "DS4IM001"
 *   8      16    identity of the model
 *   24     16    identity of the tokens, of the size of a window and of --rows
 *   40     8     windows done
 *   48     8     n
 *   56     16    digest of the sums
 *   72     8 n   f64 sums, layer by layer as struct layer has them */
#include <math.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/term.h"
#include "command/model_flags.h"
#include "gguf/gguf.h"
#include "model/hparams.h"
#include "tools/imatrix_file.h"
#include "tools/rows_file.h"
#include "tools/tools.h"
#include "tools/windows.h"

#define STATE_HEAD_BYTES 72u

struct flags {
    struct model_flags model;
    const char *text, *out, *rows;
    uint32_t n_window, n_limit, save_s, n_slots;
    bool all, resume, special;
};

#define AT(field) offsetof(struct flags, field)
static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct flags, model),
    {.name = "text", .value = "FILE", .type = OPTION_TEXT, .offset = AT(text), .preset = "-",
     .help = "calibration text; - is standard input"},
    {.letter = 'o', .name = "output", .value = "OUT", .type = OPTION_TEXT, .offset = AT(out), .required = true,
     .help = "importance file to write"},
    {.name = "chunk", .value = "N", .type = OPTION_U32, .offset = AT(n_window), .min = 2, .max = 1048576,
     .preset = "512", .help = "tokens of a window; each is evaluated from nothing"},
    {.name = "limit", .value = "N", .type = OPTION_U32, .offset = AT(n_limit),
     .help = "most tokens of the text; 0 = all"},
    {.name = "special", .type = OPTION_FLAG, .offset = AT(special),
     .help = "control markers in the text become control tokens"},
    {.name = "all", .type = OPTION_FLAG, .offset = AT(all),
     .help = "also router, shared expert and projections that see the normed input"},
    {.name = "rows", .value = "FILE", .type = OPTION_TEXT, .offset = AT(rows),
     .help = "also keeps a sample of the experts' inputs, for ds4 quantize --gptq and --awq"},
    {.name = "rows-per-expert", .value = "N", .type = OPTION_U32, .offset = AT(n_slots), .min = 1,
     .max = ROWS_SLOTS_MAX, .preset = "1024", .help = "most rows of each expert in it"},
    {.name = "resume", .type = OPTION_FLAG, .offset = AT(resume), .help = "continues from OUT.state if it is there"},
    {.name = "save-every", .value = "SECONDS", .type = OPTION_U32, .offset = AT(save_s), .max = 86400,
     .preset = "120", .help = "time between two writings of OUT.state; 0 = after every window"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct flags *flags = values;
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "imatrix", .summary = "measure which input columns of the experts matter",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "The file is for ds4 quantize --imatrix. Experts that the text never reaches are named: their columns\n"
             "count as equal, and a longer or more varied text is better.",
};

/* Sums of one layer, one behind the other. */
struct layer {
    double *gate;     /* [n_experts][n_embd] */
    double *down;     /* [n_experts][n_ff] */
    double *hits;     /* [n_experts] */
    double *attn_in;  /* [n_embd] */
    double *ffn_in;   /* [n_embd] */
    double *n_rows;   /* [1] */
};

struct imatrix {
    const struct flags *flags;
    struct ds4_engine *engine;
    struct hparams h;
    struct windows windows;
    double *sums;
    size_t n_layer, n; /* numbers of a layer, of all */
    uint8_t text_digest[16];
    uint64_t n_done, saved_ns;
    struct model_flags model;
    char state[MODEL_PATH_BYTES], state_part[MODEL_PATH_BYTES]; /* paths */
    struct rows_file rows;
    uint64_t *n_mid;         /* [n_layers][n_experts] rows seen at EXPERT_MID */
    enum ds4_status probed;  /* of writing rows */
    struct ds4_error *error;
};

static struct layer layer_of(const struct imatrix *m, uint32_t layer_i)
{
    size_t e = m->h.n_experts, d = m->h.n_embd, f = m->h.n_ff;
    double *at = m->sums + layer_i * m->n_layer;
    return (struct layer){at, at + e * d, at + e * (d + f), at + e * (d + f + 1), at + e * (d + f + 1) + d,
                          at + e * (d + f + 1) + 2 * d};
}

static void add_squares(double *sums, const float *x, size_t n)
{
    for (size_t c = 0; c < n; c++) sums[c] += (double)x[c] * (double)x[c];
}

static void keep(struct imatrix *m, enum rows_part part, uint32_t layer_i, uint32_t e, uint64_t hit_i, const float *x)
{
    if (m->rows.fd >= 0 && m->probed == DS4_OK)
        m->probed = rows_put(&m->rows, part, layer_i, e, hit_i, x, m->error);
}

static void probe(void *user, const struct ds4_probe *p)
{
    struct imatrix *m = user;
    if (p->layer_i >= m->h.n_layers || p->point == DS4_PROBE_LAYER_OUT) return;
    struct layer l = layer_of(m, p->layer_i);
    size_t d = m->h.n_embd, f = m->h.n_ff;
    for (uint32_t r = 0; r < p->n_rows; r++) {
        const float *row = p->data + (size_t)r * p->n_cols;
        if (p->point == DS4_PROBE_ATTN_IN) {
            add_squares(l.attn_in, row, d);
            continue;
        }
        if (p->point == DS4_PROBE_FFN_IN) {
            add_squares(l.ffn_in, row, d);
            *l.n_rows += 1;
        }
        for (uint32_t k = 0; k < p->n_used; k++) {
            uint32_t e = (uint32_t)p->ids[(size_t)r * p->n_used + k];
            if (e >= m->h.n_experts) continue;
            if (p->point == DS4_PROBE_EXPERT_MID) {
                add_squares(l.down + e * f, row + k * f, f);
                keep(m, ROWS_MID, p->layer_i, e, m->n_mid[p->layer_i * m->h.n_experts + e]++, row + k * f);
            } else {
                keep(m, ROWS_IN, p->layer_i, e, (uint64_t)l.hits[e], row);
                add_squares(l.gate + e * d, row, d);
                l.hits[e] += 1;
            }
        }
    }
}

/* ---- state -------------------------------------------------------------------------------------------------- */

static enum ds4_status name_state(struct imatrix *m, struct ds4_error *error)
{
    TRY(file_check_target(m->flags->out, error)); /* OUT is written when all is computed: too late to be told */
    (void)snprintf(m->state, sizeof m->state, "%s.state", m->flags->out);
    int n = snprintf(m->state_part, sizeof m->state_part, "%s.state.part", m->flags->out);
    return n > 0 && (size_t)n < sizeof m->state_part ? DS4_OK
                                                     : err_set(error, DS4_ERR_LIMIT, "the path of OUT is too long");
}

static void state_head(const struct imatrix *m, uint8_t head[STATE_HEAD_BYTES])
{
    memcpy(head, "DS4IM001", 8);
    memcpy(head + 8, ds4_engine_info(m->engine)->digest, 16);
    memcpy(head + 24, m->text_digest, 16);
    store_u64(head + 40, m->n_done);
    store_u64(head + 48, m->n);
    hash_bytes(m->sums, m->n * sizeof *m->sums, head + 56);
}

static enum ds4_status save_state(struct imatrix *m, struct ds4_error *error)
{
    const char *part = m->state_part;
    uint8_t head[STATE_HEAD_BYTES];
    int fd;
    state_head(m, head);
    TRY(file_open(part, FILE_CREATE_TRUNCATE, &fd, error));
    enum ds4_status status = file_write_at(fd, part, 0, head, sizeof head, error);
    if (status == DS4_OK) status = file_write_at(fd, part, sizeof head, m->sums, m->n * sizeof *m->sums, error);
    if (status == DS4_OK) status = file_sync(fd, part, error);
    file_close(fd);
    if (status == DS4_OK) status = file_rename(part, m->state, error);
    m->saved_ns = clock_ns();
    return status;
}

/* Takes up the state of an earlier run; none there: begins anew. */
static enum ds4_status load_state(struct imatrix *m, struct ds4_error *error)
{
    const char *path = m->state;
    uint8_t head[STATE_HEAD_BYTES], wanted[STATE_HEAD_BYTES];
    int fd;
    if (file_open(path, FILE_READ, &fd, NULL) != DS4_OK) return DS4_OK;
    enum ds4_status status = file_read_at(fd, path, 0, head, sizeof head, error);
    state_head(m, wanted);
    if (status == DS4_OK && (memcmp(head, wanted, 40) != 0 || load_u64(head + 48) != m->n))
        status = err_set(error, DS4_ERR_STATE, "%s belongs to another model, text or chunk: remove it to begin anew",
                         path);
    if (status == DS4_OK) status = file_read_at(fd, path, sizeof head, m->sums, m->n * sizeof *m->sums, error);
    file_close(fd);
    TRY(status);
    m->n_done = load_u64(head + 40);
    state_head(m, wanted);
    if (memcmp(head, wanted, sizeof head) != 0 || m->n_done > windows_count(&m->windows))
        return err_set(error, DS4_ERR_FORMAT, "%s is damaged: remove it to begin anew", path);
    return DS4_OK;
}

/* ---- output ------------------------------------------------------------------------------------------------- */

/* Means of [n_groups][n] sums over their hits, ones where there are none. */
static void take_means(const double *sums, const double *hits, size_t n_groups, size_t n, float *out)
{
    for (size_t g = 0; g < n_groups; g++)
        for (size_t c = 0; c < n; c++)
            out[g * n + c] = hits[g] > 0 ? (float)(sums[g * n + c] / hits[g]) : 1.0f;
}

static enum ds4_status write_dense(const struct imatrix *m, struct imatrix_writer *w, uint32_t layer_i, float *values,
                                   uint32_t *n_entries, struct ds4_error *error)
{
    static const struct { const char *name; bool ffn; int ratio; } names[] = {
        {"attn_q_a", false, -1}, {"attn_kv", false, -1}, {"attn_compressor_kv", false, 0},
        {"attn_compressor_gate", false, 0}, {"indexer.proj", false, 4}, {"indexer_compressor_kv", false, 4},
        {"indexer_compressor_gate", false, 4}, {"ffn_gate_inp", true, -1}, {"ffn_gate_shexp", true, -1},
        {"ffn_up_shexp", true, -1}};
    struct layer l = layer_of(m, layer_i);
    uint32_t ratio = m->h.ratio[layer_i];
    char name[64];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if ((names[i].ratio == 0 && ratio == 0) || (names[i].ratio == 4 && ratio != 4)) continue;
        ++*n_entries;
        if (!w) continue;
        (void)snprintf(name, sizeof name, "blk.%u.%s.weight", layer_i, names[i].name);
        take_means(names[i].ffn ? l.ffn_in : l.attn_in, l.n_rows, 1, m->h.n_embd, values);
        TRY(imatrix_write_entry(w, &(struct imatrix_entry){name, values, m->h.n_embd}, error));
    }
    return DS4_OK;
}

/* w NULL: counts only. */
static enum ds4_status write_entries(const struct imatrix *m, struct imatrix_writer *w, float *values,
                                     uint32_t *n_entries, struct ds4_error *error)
{
    static const char *const names[] = {"gate", "up", "down"};
    char name[64];
    *n_entries = 0;
    for (uint32_t i = 0; i < m->h.n_layers; i++) {
        struct layer l = layer_of(m, i);
        for (int k = 0; k < 3; k++) {
            uint32_t n = k == 2 ? m->h.n_ff : m->h.n_embd;
            ++*n_entries;
            if (!w) continue;
            (void)snprintf(name, sizeof name, "blk.%u.ffn_%s_exps.weight", i, names[k]);
            take_means(k == 2 ? l.down : l.gate, l.hits, m->h.n_experts, n, values);
            TRY(imatrix_write_entry(w, &(struct imatrix_entry){name, values, m->h.n_experts * n}, error));
        }
        if (m->flags->all) TRY(write_dense(m, w, i, values, n_entries, error));
    }
    return DS4_OK;
}

static enum ds4_status write_output(const struct imatrix *m, struct ds4_error *error)
{
    struct imatrix_writer w;
    uint32_t n_entries, n_cols = m->h.n_ff > m->h.n_embd ? m->h.n_ff : m->h.n_embd;
    float *values = mem_alloc((size_t)m->h.n_experts * n_cols, sizeof *values);
    if (!values) return err_set(error, DS4_ERR_NOMEM, "no memory for the values of a layer");
    enum ds4_status status = write_entries(m, NULL, NULL, &n_entries, error);
    if (status == DS4_OK) status = imatrix_write_begin(&w, m->flags->out, n_entries, error);
    if (status == DS4_OK) {
        status = write_entries(m, &w, values, &n_entries, error);
        enum ds4_status end = imatrix_write_end(&w, status == DS4_OK, (uint32_t)m->n_done, m->flags->text, error);
        if (status == DS4_OK) status = end;
    }
    mem_free(values);
    return status;
}

static void warn_unseen(const struct imatrix *m)
{
    uint64_t n_unseen = 0, n_all = (uint64_t)m->h.n_layers * m->h.n_experts;
    for (uint32_t i = 0; i < m->h.n_layers; i++) {
        struct layer l = layer_of(m, i);
        uint32_t n = 0;
        for (uint32_t e = 0; e < m->h.n_experts; e++) n += l.hits[e] == 0;
        if (n) (void)fprintf(stderr, "warning: layer %u: %u experts of %u were never seen\n", i, n, m->h.n_experts);
        n_unseen += n;
    }
    if (n_unseen)
        (void)fprintf(stderr, "warning: %llu experts of %llu were never seen: their columns count as equal\n",
                      (unsigned long long)n_unseen, (unsigned long long)n_all);
}

/* ---- command ------------------------------------------------------------------------------------------------ */

static enum ds4_status collect_window(struct imatrix *m, struct ds4_session *session, struct ds4_error *error)
{
    struct window_rows r;
    size_t row = 0, n_max = ds4_engine_info(m->engine)->chunk_tokens;
    TRY(ds4_session_rewind(session, 0, error));
    for (windows_rows(&m->windows, m->n_done, row, n_max, &r); r.n > 0;
         windows_rows(&m->windows, m->n_done, row += r.n, n_max, &r)) {
        struct ds4_job job = {.session = session, .tokens = r.inputs, .n = r.n};
        TRY(ds4_eval(m->engine, &job, 1, error));
        TRY(m->probed);
    }
    m->n_done++;
    return DS4_OK;
}

static enum ds4_status collect(struct imatrix *m, struct ds4_error *error)
{
    struct term_progress progress = {0};
    struct ds4_session *session;
    size_t n = windows_count(&m->windows);
    TRY(ds4_session_create(m->engine, &session, error));
    ds4_engine_set_probe(m->engine, probe, m);
    enum ds4_status status = DS4_OK;
    m->saved_ns = clock_ns();
    while (m->n_done < n && status == DS4_OK) {
        (void)term_progress(&progress, "prefill", m->n_done * m->windows.n_window, m->windows.ids.n);
        status = collect_window(m, session, error);
        bool due = clock_seconds_since(m->saved_ns) >= m->flags->save_s;
        if (status == DS4_OK && due && m->n_done < n) status = save_state(m, error);
    }
    term_progress_clear(&progress);
    ds4_engine_set_probe(m->engine, NULL, NULL);
    ds4_session_destroy(session);
    return status;
}

/* As many rows were seen between gate and down as before them, at the end of any window. */
static void take_hits(struct imatrix *m)
{
    for (uint32_t i = 0; i < m->h.n_layers; i++)
        for (uint32_t e = 0; e < m->h.n_experts; e++)
            m->n_mid[i * m->h.n_experts + e] = (uint64_t)layer_of(m, i).hits[e];
}

static enum ds4_status open_rows(struct imatrix *m, struct ds4_error *error)
{
    const struct rows_shape shape = {m->h.n_layers, m->h.n_experts, m->h.n_embd, m->h.n_ff, m->flags->n_slots};
    m->n_mid = mem_zalloc((size_t)m->h.n_layers * m->h.n_experts, sizeof *m->n_mid);
    if (!m->n_mid) return err_set(error, DS4_ERR_NOMEM, "no memory for numbers of rows");
    take_hits(m);
    return m->flags->rows ? rows_create(m->flags->rows, &shape, m->n_done > 0, &m->rows, error) : DS4_OK;
}

static enum ds4_status prepare(struct imatrix *m, const char *path, struct ds4_error *error)
{
    struct gguf_file *file;
    const struct flags *f = m->flags;
    TRY(gguf_open(path, &file, error));
    enum ds4_status status = hparams_read(file, &m->h, error);
    gguf_close(file);
    TRY(status);
    m->n_layer = m->h.n_experts * ((size_t)m->h.n_embd + m->h.n_ff + 1) + 2 * (size_t)m->h.n_embd + 1;
    m->n = m->n_layer * m->h.n_layers;
    m->sums = mem_map(m->n * sizeof *m->sums);
    if (!m->sums) return err_set(error, DS4_ERR_NOMEM, "no memory for %zu sums", m->n);
    TRY(windows_load(m->engine, f->text, f->special, f->n_window, f->n_limit, &m->windows, error));
    hash_bytes(m->windows.ids.ids, m->windows.ids.n * sizeof *m->windows.ids.ids, m->text_digest);
    const uint32_t settings[] = {f->n_window, f->rows ? f->n_slots : 0};
    m->text_digest[0] ^= (uint8_t)hash_u64(settings, sizeof settings);
    if (f->resume) TRY(load_state(m, error));
    return open_rows(m, error);
}

static enum ds4_status run(struct imatrix *m, struct ds4_error *error)
{
    struct ds4_engine_options options;
    m->model = m->flags->model;
    TRY(name_state(m, error));
    TRY(model_flags_options(&m->model, &options, error));
    options.chunk_tokens = m->flags->n_window < WINDOWS_BATCH_MAX ? m->flags->n_window : WINDOWS_BATCH_MAX;
    if (options.ctx_tokens < m->flags->n_window) options.ctx_tokens = m->flags->n_window;
    TRY(model_flags_open(&options, &m->engine, error));
    TRY(prepare(m, options.model_path, error));
    TRY(collect(m, error));
    if (m->flags->rows) TRY(rows_finish(&m->rows, m->n_mid, error));
    TRY(write_output(m, error));
    warn_unseen(m);
    (void)!file_unlink(m->state, NULL); /* there only if the run was long, or killed */
    (void)!file_unlink(m->state_part, NULL);
    return DS4_OK;
}

int cmd_imatrix(int argc, char **argv)
{
    struct flags f;
    int exit_code;
    if (!options_begin(&table, argc, argv, &f, sizeof f, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct imatrix *m = mem_zalloc(1, sizeof *m);
    if (!m) {
        (void)err_set(&error, DS4_ERR_NOMEM, "no memory to begin");
        return options_failed(&table, &error);
    }
    m->flags = &f;
    m->error = &error;
    m->rows.fd = -1;
    enum ds4_status status = run(m, &error);
    rows_close(&m->rows);
    mem_free(m->n_mid);
    if (m->sums) mem_unmap(m->sums, m->n * sizeof *m->sums);
    windows_free(&m->windows);
    ds4_engine_close(m->engine);
    mem_free(m);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
