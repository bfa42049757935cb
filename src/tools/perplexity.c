/* perplexity.c - `ds4 perplexity`: how well a model predicts a text, and how far it is from another one.
 *
 * The text is cut into windows, each evaluated from nothing. Every token is scored by the negative logarithm of the
 * probability the model gave it (teacher forcing), all rows of a batch by one forward pass. With a second model, the
 * reference, the same rows go through both, and their distributions are compared: KL divergence of the reference from
 * the model, agreement of the most likely token, rms difference of logits (each row's mean difference removed, as it
 * changes no probability).
 *
 * Errors: tokens of one window depend on each other, so that windows, not tokens, are the independent samples. The
 * standard error of a mean over tokens is that of sums by window (cluster-robust); below WINDOWS_MIN windows that is
 * no better than a guess, and tokens are taken as independent instead. Intervals are of 95 %. */
#include <math.h>
#include <stdio.h>

#include "base/clock.h"
#include "base/mem.h"
#include "base/sink.h"
#include "base/term.h"
#include "command/model_flags.h"
#include "tools/tools.h"
#include "tools/windows.h"

#define WINDOWS_MIN 10
#define Z95 1.959964

struct perplexity_flags {
    struct model_flags model;
    const char *text, *against;
    uint32_t n_window, n_limit;
    bool special, ideal, json;
};

#define AT(field) offsetof(struct perplexity_flags, field)
static const struct option rows[] = {
    MODEL_FLAG_ROWS(struct perplexity_flags, model),
    {.name = "text", .value = "FILE", .type = OPTION_TEXT, .offset = AT(text), .preset = "-",
     .help = "text to predict; - is standard input"},
    {.name = "against", .value = "FILE", .type = OPTION_TEXT, .offset = AT(against),
     .help = "a second model file, the reference, of the same vocabulary: compares both"},
    {.name = "chunk", .value = "N", .type = OPTION_U32, .offset = AT(n_window), .min = 2, .max = 1048576,
     .preset = "512", .help = "tokens of a window; each is evaluated from nothing"},
    {.name = "limit", .value = "N", .type = OPTION_U32, .offset = AT(n_limit),
     .help = "most tokens of the text; 0 = all"},
    {.name = "special", .type = OPTION_FLAG, .offset = AT(special),
     .help = "control markers in the text become control tokens"},
    {.name = "ideal", .type = OPTION_FLAG, .offset = AT(ideal),
     .help = "no rounding of the state to FP8 and FP4"},
    {.name = "json", .type = OPTION_FLAG, .offset = AT(json), .help = "as a JSON object"},
};
static enum ds4_status check(const void *values, struct ds4_error *error)
{
    const struct perplexity_flags *flags = values;
    return model_flags_check(&flags->model, error);
}

static const struct options table = {
    .command = "perplexity", .summary = "how well a model predicts a text, alone or against another",
    OPTIONS_ROWS(rows), .check = check,
    .notes = "NLL is the mean negative log probability of a token in nats, perplexity its exponential, KL the\n"
             "divergence of the reference from the model. +- is half of a 95 % interval, from the differences\n"
             "between windows where there are ten or more, else from tokens taken as independent.",
};

/* A mean over tokens with what its error needs: sums over windows of (s - n mean)^2 in terms of s and n. */
struct mean {
    double sum, square, largest;       /* of the tokens */
    double window_sum;                 /* of the window at work */
    double ss, sn, nn;                 /* over windows: s s, s n, n n */
};

struct figures {
    struct mean nll, kl, mse, gap, same; /* gap: NLL here minus there */
    uint64_t n_tokens, n_windows, n_in_window;
    double seconds;
};

static void mean_add(struct mean *m, double v)
{
    m->sum += v;
    m->square += v * v;
    m->window_sum += v;
    if (v > m->largest) m->largest = v;
}

static void mean_close_window(struct mean *m, double n)
{
    m->ss += m->window_sum * m->window_sum;
    m->sn += m->window_sum * n;
    m->nn += n * n;
    m->window_sum = 0;
}

static void close_window(struct figures *f)
{
    struct mean *all[] = {&f->nll, &f->kl, &f->mse, &f->gap, &f->same};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) mean_close_window(all[i], (double)f->n_in_window);
    f->n_in_window = 0;
    f->n_windows++;
}

static double mean_of(const struct mean *m, const struct figures *f) { return m->sum / (double)f->n_tokens; }

static double error_of(const struct mean *m, const struct figures *f)
{
    double n = (double)f->n_tokens, w = (double)f->n_windows, mean = m->sum / n, square;
    if (f->n_windows >= WINDOWS_MIN) square = (m->ss - 2 * mean * m->sn + mean * mean * m->nn) * w / (w - 1) / (n * n);
    else square = n > 1 ? (m->square / n - mean * mean) / (n - 1) : 0;
    return square > 0 ? sqrt(square) : 0;
}

/* ---- rows --------------------------------------------------------------------------------------------------- */

struct side {
    struct ds4_engine *engine;
    struct ds4_session *session;
    float *logits; /* [WINDOWS_BATCH_MAX][n_vocab] */
    size_t logits_bytes;
};

struct row_sum {
    double log_sum; /* log sum exp */
    uint32_t top;   /* lowest id of the largest logit */
};

static struct row_sum sum_row(const float *logits, uint32_t n)
{
    struct row_sum r = {0};
    for (uint32_t i = 1; i < n; i++)
        if (logits[i] > logits[r.top]) r.top = i;
    double sum = 0;
    float largest = logits[r.top];
    for (uint32_t i = 0; i < n; i++) sum += (double)expf(logits[i] - largest);
    r.log_sum = (double)largest + log(sum);
    return r;
}

static void compare_row(const float *here, const float *there, uint32_t n, const struct row_sum *h,
                        const struct row_sum *t, struct figures *f)
{
    double kl = 0, d1 = 0, d2 = 0;
    for (uint32_t i = 0; i < n; i++) {
        double a = (double)here[i] - h->log_sum, b = (double)there[i] - t->log_sum;
        double d = (double)here[i] - (double)there[i];
        kl += exp(b) * (b - a);
        d1 += d;
        d2 += d * d;
    }
    d1 /= n;
    mean_add(&f->kl, kl > 0 ? kl : 0);
    mean_add(&f->mse, fmax(d2 / n - d1 * d1, 0));
    mean_add(&f->same, h->top == t->top);
}

static enum ds4_status score_rows(const struct side *sides, const struct window_rows *r, uint32_t n_vocab,
                                  struct figures *f, struct ds4_error *error)
{
    for (size_t i = 0; i < r->n; i++) {
        const float *here = sides[0].logits + i * n_vocab;
        struct row_sum h = sum_row(here, n_vocab);
        double nll = h.log_sum - (double)here[r->targets[i]];
        if (!isfinite(nll)) return err_set(error, DS4_ERR_DEVICE, "the model computes logits that are not finite");
        mean_add(&f->nll, nll);
        if (sides[1].engine) {
            const float *there = sides[1].logits + i * n_vocab;
            struct row_sum t = sum_row(there, n_vocab);
            double other = t.log_sum - (double)there[r->targets[i]];
            if (!isfinite(other)) return err_set(error, DS4_ERR_DEVICE, "the reference computes logits that are not "
                                                 "finite");
            mean_add(&f->gap, nll - other);
            compare_row(here, there, n_vocab, &h, &t, f);
        }
    }
    f->n_tokens += r->n;
    f->n_in_window += r->n;
    return DS4_OK;
}

static enum ds4_status measure_window(struct side *sides, const struct windows *w, size_t window_i,
                                      struct figures *f, struct ds4_error *error)
{
    const struct ds4_model_info *info = ds4_engine_info(sides[0].engine);
    struct window_rows r;
    for (int s = 0; s < 2; s++)
        if (sides[s].engine) TRY(ds4_session_rewind(sides[s].session, 0, error));
    size_t row = 0;
    for (windows_rows(w, window_i, row, info->chunk_tokens, &r); r.n > 0;
         windows_rows(w, window_i, row += r.n, info->chunk_tokens, &r)) {
        for (int s = 0; s < 2; s++) {
            if (!sides[s].engine) continue;
            struct ds4_job job = {.session = sides[s].session, .tokens = r.inputs, .n = r.n,
                                  .logits = sides[s].logits};
            TRY(ds4_eval(sides[s].engine, &job, 1, error));
        }
        TRY(score_rows(sides, &r, info->n_vocab, f, error));
    }
    close_window(f);
    return DS4_OK;
}

/* ---- output ------------------------------------------------------------------------------------------------- */

static void put_number(struct sink *out, const char *name, double value, double interval)
{
    sink_printf(out, ",\"%s\":%.9g,\"%s_interval\":%.4g", name, value, name, interval);
}

static double rms_interval(const struct figures *f)
{
    double mse = mean_of(&f->mse, f);
    return mse > 0 ? Z95 * error_of(&f->mse, f) / (2 * sqrt(mse)) : 0;
}

/* Half of Wilson's interval; with windows as samples where they say more. */
static double share_interval(const struct figures *f)
{
    double n = (double)f->n_tokens, p = mean_of(&f->same, f), z2 = Z95 * Z95;
    double wilson = Z95 / (1 + z2 / n) * sqrt(p * (1 - p) / n + z2 / (4 * n * n));
    return fmax(wilson, Z95 * error_of(&f->same, f));
}

static void put_json(struct sink *out, const struct side *sides, const struct perplexity_flags *flags,
                     const struct figures *f)
{
    const char *name = ds4_engine_info(sides[0].engine)->name;
    double nll = mean_of(&f->nll, f), e = error_of(&f->nll, f);
    sink_put_text(out, "{\"model\":");
    sink_put_json_string(out, span_from(name ? name : ""));
    sink_put_text(out, ",\"quantisation\":");
    sink_put_json_string(out, span_from(ds4_engine_info(sides[0].engine)->quantisation));
    sink_printf(out, ",\"n_tokens\":%llu,\"n_windows\":%llu,\"window_tokens\":%u,\"seconds\":%.3f,"
                "\"tokens_per_second\":%.4g,\"errors_from\":\"%s\"",
                (unsigned long long)f->n_tokens, (unsigned long long)f->n_windows, flags->n_window, f->seconds,
                (double)f->n_tokens / f->seconds, f->n_windows >= WINDOWS_MIN ? "windows" : "tokens");
    sink_printf(out, ",\"nll\":%.9g,\"nll_standard_error\":%.4g", nll, e);
    put_number(out, "perplexity", exp(nll), exp(nll) * Z95 * e);
    if (sides[1].engine) {
        sink_put_text(out, ",\"against\":");
        sink_put_json_string(out, span_from(flags->against));
        put_number(out, "against_nll_difference", mean_of(&f->gap, f), Z95 * error_of(&f->gap, f));
        put_number(out, "kl", mean_of(&f->kl, f), Z95 * error_of(&f->kl, f));
        sink_printf(out, ",\"kl_max\":%.6g", f->kl.largest);
        put_number(out, "top1_agreement", mean_of(&f->same, f), share_interval(f));
        put_number(out, "logit_rms_error", sqrt(mean_of(&f->mse, f)), rms_interval(f));
    }
    sink_put_text(out, "}\n");
}

static void put_text(struct sink *out, const struct side *sides, const struct figures *f)
{
    double nll = mean_of(&f->nll, f), e = error_of(&f->nll, f);
    sink_printf(out, "tokens      %llu in %llu windows, %.4g tokens/s\n", (unsigned long long)f->n_tokens,
                (unsigned long long)f->n_windows, (double)f->n_tokens / f->seconds);
    sink_printf(out, "NLL         %.5f +- %.5f (standard error %.5f, from %s)\n", nll, Z95 * e, e,
                f->n_windows >= WINDOWS_MIN ? "windows" : "tokens");
    sink_printf(out, "perplexity  %.4f +- %.4f\n", exp(nll), exp(nll) * Z95 * e);
    if (!sides[1].engine) return;
    double gap = mean_of(&f->gap, f);
    sink_printf(out, "against     NLL %+.5f +- %.5f, perplexity times %.5f\n", gap, Z95 * error_of(&f->gap, f),
                exp(gap));
    sink_printf(out, "KL          %.6f +- %.6f (largest %.4f)\n", mean_of(&f->kl, f), Z95 * error_of(&f->kl, f),
                f->kl.largest);
    sink_printf(out, "same top    %.2f %% +- %.2f %%\n", 100 * mean_of(&f->same, f), 100 * share_interval(f));
    sink_printf(out, "logits      rms error %.5f +- %.5f\n", sqrt(mean_of(&f->mse, f)), rms_interval(f));
}

/* ---- command ------------------------------------------------------------------------------------------------ */

static enum ds4_status open_side(struct perplexity_flags *flags, const char *path, struct side *side,
                                 struct ds4_error *error)
{
    struct ds4_engine_options options;
    struct model_flags model = flags->model;
    uint32_t batch = flags->n_window < WINDOWS_BATCH_MAX ? flags->n_window : WINDOWS_BATCH_MAX;
    if (path) model.model = path;
    TRY(model_flags_options(&model, &options, error));
    options.chunk_tokens = batch;
    options.ideal = flags->ideal;
    if (options.ctx_tokens < flags->n_window) options.ctx_tokens = flags->n_window;
    TRY(model_flags_open(&options, &side->engine, error));
    TRY(ds4_session_create(side->engine, &side->session, error));
    side->logits_bytes = (size_t)batch * ds4_engine_info(side->engine)->n_vocab * sizeof(float);
    side->logits = mem_map(side->logits_bytes);
    if (!side->logits) return err_set(error, DS4_ERR_NOMEM, "no memory for the logits of %u tokens", batch);
    return DS4_OK;
}

static void close_side(struct side *side)
{
    if (side->logits) mem_unmap(side->logits, side->logits_bytes);
    ds4_session_destroy(side->session);
    ds4_engine_close(side->engine);
}

static enum ds4_status check_vocabularies(const struct side *sides, struct ds4_error *error)
{
    uint32_t n = ds4_engine_info(sides[0].engine)->n_vocab, m = ds4_engine_info(sides[1].engine)->n_vocab;
    if (n != m) return err_set(error, DS4_ERR_FORMAT, "the vocabularies have %u and %u tokens", n, m);
    for (uint32_t i = 0; i < n; i++)
        if (!span_eq(ds4_token_bytes(sides[0].engine, (int32_t)i), ds4_token_bytes(sides[1].engine, (int32_t)i)))
            return err_set(error, DS4_ERR_FORMAT, "token %u differs between the models", i);
    return DS4_OK;
}

static enum ds4_status measure(const struct perplexity_flags *flags, struct side *sides, struct figures *f,
                               struct ds4_error *error)
{
    struct windows w;
    struct term_progress progress = {0};
    TRY(windows_load(sides[0].engine, flags->text, flags->special, flags->n_window, flags->n_limit, &w, error));
    enum ds4_status status = DS4_OK;
    uint64_t start_ns = clock_ns();
    size_t n_left = w.bos < 0 && w.ids.n % w.n_window == 1 ? 1 : 0; /* a last token with nothing before it */
    size_t n_windows = windows_count(&w) - n_left;
    for (size_t i = 0; i < n_windows && status == DS4_OK; i++) {
        (void)term_progress(&progress, "prefill", f->n_tokens, w.ids.n);
        status = measure_window(sides, &w, i, f, error);
    }
    f->seconds = clock_seconds_since(start_ns) + 1e-9;
    term_progress_clear(&progress);
    windows_free(&w);
    return status;
}

int cmd_perplexity(int argc, char **argv)
{
    struct perplexity_flags flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct side sides[2] = {{0}};
    struct figures f = {0};
    struct sink out;
    enum ds4_status status;
    TRY_GOTO(open_side(&flags, NULL, &sides[0], &error), out);
    if (flags.against) {
        TRY_GOTO(open_side(&flags, flags.against, &sides[1], &error), out);
        TRY_GOTO(check_vocabularies(sides, &error), out);
    }
    TRY_GOTO(measure(&flags, sides, &f, &error), out);
    TRY_GOTO(sink_open(&out, "-", &error), out);
    if (flags.json) put_json(&out, sides, &flags, &f);
    else put_text(&out, sides, &f);
    status = sink_close(&out, &error);
out:
    close_side(&sides[1]);
    close_side(&sides[0]);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
