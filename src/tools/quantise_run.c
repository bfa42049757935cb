/* quantise_run.c - the work: unit by unit (one matrix), pieces of its rows in parallel.
 *
 * Memory: for each thread the buffers of one piece, for the whole one row of importance. What is done is written to a
 * journal behind each unit, so that a killed run can be continued:
 *
 *   OFFSET SIZE  DESCRIPTION                      RECORD OFFSET SIZE  DESCRIPTION
 *   0      8     "DS4QJ001"                              0      8     number of the unit
 *   8      16    identity of source and settings         8      8     hash of its bytes (of the hashes of its pieces)
 *   24     8     number of units                         16     16    f64 sums of (x - y)^2 and of x^2
 *   32     ...   records                                 32     8     hash of the 32 bytes before
 *
 * A record is believed when its own hash is right and the bytes in the unfinished output have the hash that it says:
 * nothing needs to be synced while the work goes on. Pieces depend on nothing but the unit, so that neither threads nor
 * interruptions change a byte. */
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "base/term.h"
#include "tools/quantise.h"

#define PIECE_VALUES 65536u /* about 0.03 s of the slowest encoder: threads end together */
#define PIECES_A_LOOP 256u  /* between two looks at the clock */
#define RECORD_BYTES 40u
#define HEAD_BYTES 32u
#define SHOW_EVERY_NS 500000000u

struct piece_result {
    uint64_t hash;
    struct quantise_error error;
};

struct work {
    const struct quantise_run *run;
    struct gguf_writer *writer;   /* writing */
    const struct gguf_file *file; /* verifying */
    struct ds4_error *error;
    struct quantise_buffers *buffers; /* one a thread */
    uint32_t n_buffers;
    uint64_t values_max;
    float *importance;            /* of the unit's columns */
    struct piece_result *results; /* of the unit's pieces */
    uint64_t n_results;
    int journal_fd;
    const char *journal;
    uint64_t journal_at;
    uint64_t start_ns, shown_ns;
    double cost_done, cost_total, cost_skipped;
};

struct loop { /* one parallel loop */
    struct work *work;
    const struct quantise_tensor *tensor;
    size_t tensor_i;
    uint32_t matrix_i;
    uint64_t rows_a_piece, piece_first;
    bool has_importance, only_hash;
    const struct feedback *feedback; /* or NULL */
    enum ds4_status *statuses; /* of the pieces of this loop */
    struct ds4_error *errors;  /* one a thread */
};

static uint64_t rows_of_piece(const struct quantise_tensor *t)
{
    uint64_t n = PIECE_VALUES / t->dims[0];
    return n < 1 ? 1 : n > t->dims[1] ? t->dims[1] : n;
}

static uint64_t pieces_of(const struct quantise_tensor *t)
{
    uint64_t n = rows_of_piece(t);
    return (t->dims[1] + n - 1) / n;
}

/* ---- one piece ---------------------------------------------------------------------------------------------- */

static void add_error(const float *x, const float *y, uint64_t n, struct quantise_error *sum)
{
    for (uint64_t i = 0; i < n; i++) {
        double d = (double)x[i] - (double)y[i];
        sum->difference += d * d;
        sum->norm += (double)x[i] * (double)x[i];
    }
}

static enum ds4_status encode(const struct loop *l, const struct quantise_piece *p, struct quantise_buffers *b,
                              uint64_t row_bytes, struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    const float *importance = l->has_importance ? l->work->importance : NULL;
    if (l->feedback) feedback_encode(l->feedback, t->to, b->values, (size_t)p->n_rows, importance, b->out, b->back);
    for (uint64_t r = 0; r < p->n_rows && !l->feedback; r++)
        t->to->encode(b->values + r * t->dims[0], importance, b->out + r * row_bytes, (size_t)t->dims[0]);
    t->to->decode(b->out, b->back, (size_t)(p->n_rows * t->dims[0]));
    for (uint64_t i = 0; i < p->n_rows * t->dims[0]; i++)
        if (!isfinite(b->back[i]))
            return err_set(error, DS4_ERR_LIMIT, "tensor \"%s\": a value of %g does not fit into %s", t->name,
                           (double)b->values[i], t->to->name);
    return DS4_OK;
}

static enum ds4_status do_piece(const struct loop *l, const struct quantise_piece *p, struct quantise_buffers *b,
                                struct piece_result *result, struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    const struct work *w = l->work;
    uint64_t row_bytes, n = p->n_rows * t->dims[0];
    bool exact;
    if (!quant_row_bytes(t->to, t->dims[0], &row_bytes))
        return err_set(error, DS4_ERR_FORMAT, "tensor \"%s\": rows of no whole blocks", t->name);
    size_t bytes = (size_t)(p->n_rows * row_bytes);
    uint64_t at = (p->matrix_i * t->dims[1] + p->row_first) * row_bytes;
    *result = (struct piece_result){0};
    if (l->only_hash) {
        TRY(gguf_writer_read(w->writer, l->tensor_i, at, b->out, bytes, error));
    } else if (w->file) {
        const struct gguf_tensor *g = gguf_tensor_find(w->file, span_from(t->name));
        TRY(file_read_at(gguf_shard_fd(w->file, g->shard_i), gguf_shard_path(w->file, g->shard_i),
                         g->file_offset + at, b->back, bytes, error));
        TRY(quantise_read(w->run->source, p, b, &exact, error));
        bool table = t->kind == QUANTISE_I64 || !t->to->decode;
        if (exact && memcmp(b->out, b->back, bytes) != 0) result->error.difference = INFINITY;
        memcpy(b->out, b->back, bytes);
        if (exact && !table) TRY(quantise_read_values(w->run->source, p, b, error));
        if (!table) t->to->decode(b->out, b->back, (size_t)n);
        if (!table) add_error(b->values, b->back, n, &result->error);
    } else {
        TRY(quantise_read(w->run->source, p, b, &exact, error));
        if (!exact) TRY(encode(l, p, b, row_bytes, error));
        if (!exact) add_error(b->values, b->back, n, &result->error);
        TRY(gguf_writer_data(w->writer, l->tensor_i, at, b->out, bytes, error));
    }
    result->hash = hash_u64(b->out, bytes);
    return DS4_OK;
}

static void task(void *arg, uint32_t task_i, uint32_t worker_i)
{
    struct loop *l = arg;
    uint64_t piece_i = l->piece_first + task_i, row = piece_i * l->rows_a_piece, left = l->tensor->dims[1] - row;
    struct quantise_piece p = {.tensor = l->tensor, .matrix_i = l->matrix_i, .row_first = row,
                               .n_rows = left < l->rows_a_piece ? left : l->rows_a_piece};
    l->statuses[task_i] = do_piece(l, &p, &l->work->buffers[worker_i], &l->work->results[piece_i],
                                   &l->errors[worker_i]);
}

/* ---- one unit ----------------------------------------------------------------------------------------------- */

/* Rough time of a value, in that of a copied one: for the estimate of what is left. */
static double cost_of(const struct quantise_tensor *t)
{
    static const struct { uint32_t id; double cost; } costs[] = {
        {QUANT_IQ2_XXS, 100}, {QUANT_Q2_K, 50}, {QUANT_Q4_K, 60}, {QUANT_Q6_K, 30}};
    double cost = 1;
    for (size_t i = 0; i < sizeof costs / sizeof *costs; i++)
        if (t->to->id == costs[i].id && !(t->kind == QUANTISE_BLOCKS && t->from == t->to)) cost = costs[i].cost;
    return cost * (double)(t->dims[0] * t->dims[1]);
}

static void show_progress(struct work *w, const struct quantise_tensor *t, uint32_t matrix_i, double part)
{
    uint64_t now_ns = clock_ns();
    if (w->run->quiet || !term_is(STDERR_FILENO) || now_ns - w->shown_ns < SHOW_EVERY_NS) return;
    w->shown_ns = now_ns;
    double done = w->cost_done + part, fresh = done - w->cost_skipped;
    double left = fresh > 0 ? clock_seconds_since(w->start_ns) * (w->cost_total - done) / fresh : 0;
    (void)fprintf(stderr, "\r\x1b[K%s %u/%u: %.1f %%, %.0f:%02.0f:%02.0f left", t->name, matrix_i + 1,
                  (unsigned)t->dims[2], 100 * done / w->cost_total, floor(left / 3600), floor(fmod(left / 60, 60)),
                  floor(fmod(left, 60)));
    (void)fflush(stderr);
}

static void clear_progress(const struct work *w)
{
    if (!w->run->quiet && term_is(STDERR_FILENO)) (void)fputs("\r\x1b[K", stderr);
}

/* All pieces of a matrix; the result of the whole. */
static enum ds4_status run_unit(struct work *w, size_t tensor_i, uint32_t matrix_i, bool only_hash,
                                struct piece_result *result)
{
    const struct quantise_tensor *t = &w->run->source->tensors[tensor_i];
    enum ds4_status statuses[PIECES_A_LOOP];
    uint64_t n = pieces_of(t);
    struct loop l = {.work = w, .tensor = t, .tensor_i = tensor_i, .matrix_i = matrix_i,
                     .rows_a_piece = rows_of_piece(t), .only_hash = only_hash, .statuses = statuses};
    if (w->run->imatrix && !w->file && !only_hash) {
        TRY(imatrix_look_up(w->run->imatrix, t->name, t->official, matrix_i, (uint32_t)t->dims[2], t->dims[0],
                            w->importance, &l.has_importance, w->error));
        if (!l.has_importance && w->run->strict && (t->family == QUANTISE_EXPERTS || t->family == QUANTISE_DOWN))
            return err_set(w->error, DS4_ERR_FORMAT, "%s: nothing about \"%s\"", imatrix_path(w->run->imatrix),
                           t->name);
    }
    const float *scales = quantise_scale_columns(w->run->source->scales, t, matrix_i);
    for (uint64_t c = 0; scales && l.has_importance && c < t->dims[0]; c++) w->importance[c] /= scales[c] * scales[c];
    if (w->run->feedback && !w->file && !only_hash)
        TRY(quantise_feedback(w->run->calibration, w->run->source, t, matrix_i, w->run->pool, &l.feedback, w->error));
    l.errors = mem_zalloc(w->n_buffers, sizeof *l.errors);
    if (!l.errors) return err_set(w->error, DS4_ERR_NOMEM, "no memory to quantise");
    enum ds4_status status = DS4_OK;
    for (l.piece_first = 0; l.piece_first < n && status == DS4_OK; l.piece_first += PIECES_A_LOOP) {
        uint64_t left = n - l.piece_first, many = left < PIECES_A_LOOP ? left : PIECES_A_LOOP;
        if (many == 1) task(&l, 0, 0); /* not worth waking anyone */
        else thread_pool_run(w->run->pool, task, &l, (uint32_t)many);
        for (uint64_t i = 0; i < many && status == DS4_OK; i++) status = statuses[i];
        show_progress(w, t, matrix_i, cost_of(t) * (double)(l.piece_first + many) / (double)n);
    }
    for (uint32_t i = 0; i < w->n_buffers && status != DS4_OK; i++)
        if (l.errors[i].status != DS4_OK) (void)err_set(w->error, l.errors[i].status, "%s", l.errors[i].message);
    mem_free(l.errors);
    *result = (struct piece_result){0};
    for (uint64_t i = 0; i < n; i++) {
        uint64_t chain[2] = {result->hash, w->results[i].hash};
        result->hash = hash_u64(chain, sizeof chain);
        result->error.difference += w->results[i].error.difference;
        result->error.norm += w->results[i].error.norm;
    }
    return status;
}

/* ---- buffers ------------------------------------------------------------------------------------------------ */

static void free_work(struct work *w)
{
    for (uint32_t i = 0; w->buffers && i < w->n_buffers; i++) {
        struct quantise_buffers *b = &w->buffers[i];
        mem_free(b->raw);
        mem_free(b->scales);
        mem_free(b->out);
        mem_free(b->values);
        mem_free(b->back);
    }
    mem_free(w->buffers);
    mem_free(w->importance);
    mem_free(w->results);
    file_close(w->journal_fd);
}

static enum ds4_status make_work(struct work *w)
{
    const struct quantise_source *source = w->run->source;
    uint64_t cols = 1;
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        if (t->dims[0] > cols) cols = t->dims[0];
        if (pieces_of(t) > w->n_results) w->n_results = pieces_of(t);
        w->cost_total += cost_of(t) * (double)t->dims[2];
    }
    w->values_max = cols > PIECE_VALUES ? cols : PIECE_VALUES;
    w->n_buffers = thread_pool_size(w->run->pool);
    w->buffers = mem_zalloc(w->n_buffers, sizeof *w->buffers);
    w->importance = mem_alloc((size_t)cols, sizeof(float));
    w->results = mem_zalloc((size_t)w->n_results, sizeof *w->results);
    bool good = w->buffers && w->importance && w->results;
    for (uint32_t i = 0; good && i < w->n_buffers; i++) {
        struct quantise_buffers *b = &w->buffers[i];
        size_t n = (size_t)w->values_max;
        *b = (struct quantise_buffers){.raw = mem_alloc(n, 8), .scales = mem_alloc(n, 1), .out = mem_alloc(n, 8),
                                       .values = mem_alloc(n, 4), .back = mem_alloc(n, 8), .n_values = n};
        good = b->raw && b->scales && b->out && b->values && b->back;
    }
    w->start_ns = clock_ns();
    return good ? DS4_OK : err_set(w->error, DS4_ERR_NOMEM, "no memory for buffers of %u threads", w->n_buffers);
}

/* ---- journal ------------------------------------------------------------------------------------------------ */

struct done {
    bool known;
    struct piece_result result;
};

static uint64_t count_units(const struct quantise_source *source)
{
    uint64_t n = 0;
    for (size_t i = 0; i < source->n_tensors; i++) n += source->tensors[i].dims[2];
    return n;
}

static enum ds4_status read_records(struct work *w, struct done *done, uint64_t n_units, uint64_t size)
{
    uint8_t r[RECORD_BYTES];
    for (w->journal_at = HEAD_BYTES; w->journal_at + RECORD_BYTES <= size; w->journal_at += RECORD_BYTES) {
        TRY(file_read_at(w->journal_fd, w->journal, w->journal_at, r, sizeof r, w->error));
        uint64_t unit = load_u64(r);
        if (load_u64(r + 32) != hash_u64(r, 32) || unit >= n_units) return DS4_OK; /* torn: from here anew */
        done[unit] = (struct done){true, {load_u64(r + 8), {load_f64(r + 16), load_f64(r + 24)}}};
    }
    return DS4_OK;
}

/* Opens the journal of an earlier run, or begins one. */
static enum ds4_status open_journal(struct work *w, const uint8_t identity[16], struct done *done, uint64_t n_units)
{
    uint8_t wanted[HEAD_BYTES], head[HEAD_BYTES];
    struct file_id id;
    memcpy(wanted, "DS4QJ001", 8);
    memcpy(wanted + 8, identity, 16);
    store_u64(wanted + 24, n_units);
    if (file_open(w->journal, FILE_READ_WRITE, &w->journal_fd, NULL) == DS4_OK) {
        TRY(file_identity(w->journal_fd, w->journal, &id, w->error));
        if (id.size_bytes < HEAD_BYTES) goto anew;
        TRY(file_read_at(w->journal_fd, w->journal, 0, head, sizeof head, w->error));
        if (memcmp(head, wanted, sizeof head) != 0)
            return err_set(w->error, DS4_ERR_STATE, "%s belongs to another source, or to other settings: remove it to "
                           "begin anew", w->journal);
        return read_records(w, done, n_units, id.size_bytes);
    }
    TRY(file_open(w->journal, FILE_CREATE_NEW, &w->journal_fd, w->error));
anew:
    w->journal_at = HEAD_BYTES;
    return file_write_at(w->journal_fd, w->journal, 0, wanted, sizeof wanted, w->error);
}

static enum ds4_status record(struct work *w, uint64_t unit, const struct piece_result *result)
{
    uint8_t r[RECORD_BYTES];
    store_u64(r, unit);
    store_u64(r + 8, result->hash);
    memcpy(r + 16, &result->error.difference, 8);
    memcpy(r + 24, &result->error.norm, 8);
    store_u64(r + 32, hash_u64(r, 32));
    TRY(file_write_at(w->journal_fd, w->journal, w->journal_at, r, sizeof r, w->error));
    w->journal_at += RECORD_BYTES;
    return DS4_OK;
}

/* ---- all ---------------------------------------------------------------------------------------------------- */

static void add_unit(const struct piece_result *result, uint64_t *checksum, struct quantise_error *error)
{
    uint64_t chain[2] = {*checksum, result->hash};
    *checksum = hash_u64(chain, sizeof chain);
    error->difference += result->error.difference;
    error->norm += result->error.norm;
}

static enum ds4_status write_units(struct work *w, struct done *done, uint64_t *checksums,
                                   struct quantise_error *errors)
{
    const struct quantise_source *source = w->run->source;
    uint64_t unit = 0;
    for (size_t i = 0; i < source->n_tensors; i++) {
        const struct quantise_tensor *t = &source->tensors[i];
        for (uint32_t x = 0; x < t->dims[2]; x++, unit++) {
            struct piece_result result, stored;
            bool known = done[unit].known;
            if (known) {
                TRY(run_unit(w, i, x, true, &stored));
                known = stored.hash == done[unit].result.hash;
                result = done[unit].result;
            }
            if (known) {
                w->cost_skipped += cost_of(t);
            } else {
                TRY(run_unit(w, i, x, false, &result));
                TRY(record(w, unit, &result));
            }
            add_unit(&result, &checksums[i], &errors[i]);
            w->cost_done += cost_of(t);
        }
    }
    return DS4_OK;
}

enum ds4_status quantise_write(const struct quantise_run *run, struct gguf_writer *writer, const char *journal,
                               const uint8_t identity[16], uint64_t *checksums, struct quantise_error *errors,
                               struct ds4_error *error)
{
    struct work w = {.run = run, .writer = writer, .error = error, .journal = journal, .journal_fd = -1};
    uint64_t n_units = count_units(run->source);
    struct done *done = mem_zalloc((size_t)n_units, sizeof *done);
    enum ds4_status status = done ? make_work(&w) : err_set(error, DS4_ERR_NOMEM, "no memory to quantise");
    size_t last = run->source->n_tensors - 1;
    uint64_t end = gguf_writer_tensor_bytes(writer, last);
    uint8_t byte = 0;
    if (status == DS4_OK) status = open_journal(&w, identity, done, n_units);
    /* So that reads of what was never written find zeros, not the end of the file. */
    if (status == DS4_OK && gguf_writer_read(writer, last, end - 1, &byte, 1, NULL) != DS4_OK)
        status = gguf_writer_data(writer, last, end - 1, &byte, 1, error);
    if (status == DS4_OK) status = write_units(&w, done, checksums, errors);
    clear_progress(&w);
    free_work(&w);
    mem_free(done);
    return status;
}

static enum ds4_status check_shape(const struct gguf_file *file, struct quantise_tensor *t, struct ds4_error *error)
{
    const struct gguf_tensor *g = gguf_tensor_find(file, span_from(t->name));
    if (!g || !g->data) return err_set(error, DS4_ERR_FORMAT, "tensor \"%s\" is missing in the file", t->name);
    if (memcmp(g->dims, t->dims, sizeof t->dims) != 0)
        return err_set(error, DS4_ERR_FORMAT, "tensor \"%s\" has another shape than its source", t->name);
    t->to = quant_format(g->type);
    bool same = t->kind == QUANTISE_BLOCKS && t->from == t->to, table = t->kind == QUANTISE_I64;
    if (table ? t->to->id != QUANT_I32 : !same && !t->to->decode)
        return err_set(error, DS4_ERR_UNSUPPORTED, "tensor \"%s\": %s cannot be compared", t->name, t->to->name);
    return DS4_OK;
}

enum ds4_status quantise_verify(const struct quantise_run *run, const struct gguf_file *file, uint64_t *checksums,
                                struct quantise_error *errors, struct ds4_error *error)
{
    struct work w = {.run = run, .file = file, .error = error, .journal_fd = -1};
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < run->source->n_tensors && status == DS4_OK; i++)
        status = check_shape(file, &run->source->tensors[i], error);
    if (status == DS4_OK) status = make_work(&w);
    for (size_t i = 0; i < run->source->n_tensors && status == DS4_OK; i++) {
        const struct quantise_tensor *t = &run->source->tensors[i];
        for (uint32_t x = 0; x < t->dims[2] && status == DS4_OK; x++) {
            struct piece_result result;
            status = run_unit(&w, i, x, false, &result);
            add_unit(&result, &checksums[i], &errors[i]);
            w.cost_done += cost_of(t);
        }
    }
    clear_progress(&w);
    free_work(&w);
    return status;
}
