/* graph.h - the forward pass: rows in, streams and logits out. It reads like the specification (model spec 4) as calls
 * of operations; it knows layers and weights, but no sessions: a row brings its position and where its state lies.
 *
 * Use: graph_forward over a batch of rows, then graph_logits for the rows that need them. The rows of one sequence are
 * consecutive and ascending; their state before the first row must be in place. */
#ifndef DS4_GRAPH_GRAPH_H
#define DS4_GRAPH_GRAPH_H

#include "model/state_layout.h"
#include "model/weights.h"

/* A batch as the host sees it. */
struct graph_rows {
    uint32_t n_rows, n_seqs, n_span_ids;
    const int32_t *tokens, *pos;
    const uint32_t *seq_i;
    const struct op_seq *seqs;
    const uint32_t *span_ids;
};

struct graph_config {
    const struct hparams *h;
    const struct model_weights *weights;
    const struct state_layout *layout;
    struct backend *backend;
    uint32_t n_rows_max, n_seqs_max, n_span_ids_max;
    bool round;      /* FP8/FP4 rounding of state */
    bool draft;      /* buffers for the draft block */
    uint8_t *tails, *spans; /* backend memory of all sessions' state */
};

struct graph;
enum ds4_status graph_create(const struct graph_config *config, struct graph **out,
                             struct ds4_error *error) DS4_MUST_CHECK;
void graph_destroy(struct graph *g);
/* Bytes graph_create would allocate: for the plan. */
uint64_t graph_scratch_bytes(const struct hparams *h, uint32_t n_rows_max, bool has_mtp);
/* The shapes a backend must be ready for. */
struct backend_limits graph_backend_limits(const struct hparams *h, uint32_t n_rows_max, uint32_t ctx_tokens);
void graph_set_probe(struct graph *g, ds4_probe_fn fn, void *user);

/* Runs all layers; afterwards the streams of the rows are in the graph. */
enum ds4_status graph_forward(struct graph *g, const struct graph_rows *rows, struct ds4_error *error) DS4_MUST_CHECK;
/* Logits of chosen rows of the last forward, those of row_i[k] to out[k][n_vocab] on the host. The head is the largest
 * matrix: rows of several sessions share one reading of it. */
enum ds4_status graph_logits(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *out,
                             struct ds4_error *error) DS4_MUST_CHECK;
/* The same into memory of the backend. */
enum ds4_status graph_logits_there(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *there,
                                   struct ds4_error *error) DS4_MUST_CHECK;

/* Steps: passes over rows, each of a sequence of its own, whose tokens and positions are the backend's own, left there
 * by graph_choose, and which the host does not wait for. */
/* Whether they are possible: without streamed experts, which the host brings between layers, and without a probe. */
bool graph_runs_ahead(const struct graph *g);
/* Uploads the rows. The choices that follow add one to their positions each, and replace their tokens. */
void graph_begin_steps(struct graph *g, const struct graph_rows *rows);
/* Entry i of their span_ids is this one from now on. */
void graph_set_span(struct graph *g, uint32_t i, uint32_t span_id);
/* A pass over the rows, of which the last is at pos then: their logits replace those at `logits` [n_rows][n_vocab],
 * which go to `before`. Both are the backend's. */
void graph_step(struct graph *g, int32_t pos, float *logits, float *before);
/* backend_ops.choose, for the rows. */
void graph_choose(struct graph *g, const float *logits, struct backend_step *steps, struct backend_choice *choices);

/* The draft block (model spec 4.9). Row r pairs streams [n_hc][n_embd] with the token that follows: rows->tokens. The
 * streams come from memory of the host or the backend, or (streams NULL) from rows row_i of the trunk's last forward.
 * Its output streams replace the draft streams; graph_mtp_logits reads them. */
enum ds4_status graph_mtp(struct graph *g, const struct graph_rows *rows, const float *streams,
                          const uint32_t *row_i, struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status graph_mtp_logits(struct graph *g, const uint32_t *row_i, uint32_t n, float *const *out,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Drafts that the host does not wait for, of one row; only where graph_runs_ahead. Uploads it with its streams. */
void graph_begin_drafts(struct graph *g, const struct graph_rows *rows, const float *streams);
/* The block over the draft streams and the row's token, and the choice of what may follow, which is the row's token
 * then, at the next position, and goes into *id, the backend's. */
void graph_draft(struct graph *g, struct backend_step *step, struct backend_choice *choices, int32_t *id);
/* Rows of one sequence, at most GRAPH_CHECK_ROWS, that the host does not wait for; only where graph_runs_ahead. The
 * tokens of all but the first are drafts [n_rows - 1], the backend's; logits [n_rows][n_vocab] of the backend. */
#define GRAPH_CHECK_ROWS (1u + DS4_DRAFTS_MAX)
void graph_check(struct graph *g, const struct graph_rows *rows, const int32_t *drafts, float *logits);
/* And after it the block over its rows but the last, whose followers are the drafts: rows->tokens is not looked at. */
void graph_feed(struct graph *g, const struct graph_rows *rows, const int32_t *drafts);
/* Copies the trunk's streams of a row to memory of the backend: out[n_hc][n_embd]. */
void graph_keep_streams(struct graph *g, uint32_t row_i, float *out);
/* The draft's of the first row, to the host. */
void graph_read_draft(struct graph *g, float *out);

#endif
