/* session.h - one timeline of tokens and its state; evaluation of batches over several of them.
 *
 * A session is a list of evaluated tokens, a tail and a list of spans (model/state_layout.h), and the logits after the
 * last token. All of it belongs to the worker thread.
 *
 * Going back further: the compressed rows of every position before the new end are still there, only the tail is not.
 * It depends on raw rows no further back than layout->reach_tokens, so as many tokens are evaluated again, from a tail
 * of unknown content and without writing compressed rows. What is wrong at first has left the windows at the end.
 *
 * Why rewinding works: rings and compressor slots keep `rewind_max` positions more than a step needs, and compressed
 * rows past the new end are simply not visible. Positions before `keep_from` may already be overwritten. */
#ifndef DS4_SESSION_SESSION_H
#define DS4_SESSION_SESSION_H

#include "graph/graph.h"
#include "session/pool.h"

/* Last tokens whose streams are kept: those of a pass that checks a token and its drafts. */
#define SESSION_STREAMS (1u + DS4_DRAFTS_MAX)

/* One session of the steps that the backend has been given. */
struct session_ahead_row {
    struct ds4_session *session; /* NULL: it was taken out */
    struct backend_pick how;     /* of its choices */
    uint64_t generator;          /* of the sampler, before the next choice that the host will have */
    bool past;                   /* the last pass is over a token that the session does not have: id, once it was had */
    int32_t id;
};
/* Steps that the backend has been given before the host knows their tokens (ahead.c). */
struct session_ahead {
    struct session_ahead_row rows[BACKEND_STEPS_MAX];
    uint32_t n;              /* rows of a step; 0: there are no steps */
    uint32_t n_given, n_had; /* choices, each for all rows */
};

/* What all sessions of an engine share. Owned by the engine. */
struct session_host {
    const struct hparams *h;
    const struct state_layout *layout;
    struct graph *graph;
    struct backend *backend;
    struct state_pool pool;
    uint32_t ctx_tokens, chunk_tokens, n_sessions_max;
    bool draft;
    uint8_t digest[16];          /* identity of state: goes into tips */
    size_t tip_bytes_max;
    /* Says whether the model file is still what was opened; asked before state is saved or restored. */
    enum ds4_status (*check_model)(void *user, struct ds4_error *error);
    void *check_user;
    /* Batch under construction, host side: [chunk_tokens] and [n_sessions_max] entries. */
    int32_t *tokens, *pos;
    uint32_t *seq_i, *row_i, *span_ids;
    float **row_out;             /* where the logits of row_i go */
    struct op_seq *seqs;
    float *logits_there;         /* [n_sessions_max][1 + n_drafts][n_vocab] of the backend; NULL: they are read to the
                                    host at once */
    uint32_t *logits_slot;       /* [n_sessions_max] which row the session with this tail_i has; each is there once */
    uint32_t n_ahead_max;        /* sessions that may run ahead together */
    float *logits_before;        /* [n_ahead_max][n_vocab] of the backend: of a row of ahead that is past its session */
    struct backend_step *steps;  /* [n_ahead_max] of the backend; NULL: it does not choose */
    struct backend_choice *choices; /* [BACKEND_CHOICES][n_ahead_max] of the backend; for either there is room for
                                       1 + n_drafts rows */
    struct session_ahead ahead;
    float *streams;              /* [n_sessions_max][SESSION_STREAMS][n_hc][n_embd] of the backend, and of the host */
    float *draft_streams, *draft_logits; /* [n_hc][n_embd] and [n_vocab]; NULL without drafting, all three */
    uint32_t n_drafts;           /* most that a session may check with a token */
    struct ds4_draft_figures figures;
};

/* Tokens that the backend chose from the logits of a pass over drafts, a row each, as the sampler would that chose the
 * token of the pass, if all drafts come true. */
struct session_choices {
    bool is_known;             /* how the last token was chosen; else nothing is chosen there */
    struct backend_pick how;
    uint64_t generator;        /* after the last token was chosen */
    uint32_t n;                /* rows that were chosen from */
    uint64_t generators[SESSION_STREAMS]; /* before each */
    struct backend_choice rows[SESSION_STREAMS];
};

struct ds4_session {
    struct session_host *host;
    struct ds4_tokens tokens;    /* evaluated */
    uint32_t tail_i;
    uint32_t *spans;             /* [ceil(ctx / span_tokens)] pool indexes */
    uint32_t n_spans;
    size_t n_high;               /* most tokens ever held since the tail was filled */
    size_t restored;             /* tokens at the last restore: the tail holds nothing older than it needs */
    size_t rows_to;              /* 0; or, while the tail is being made again: tokens whose compressed rows are there */
    float *logits;               /* [1 + n_drafts of the host][n_vocab] */
    uint32_t logits_i;           /* the row of the last token */
    uint32_t n_drafts;           /* most that are checked with a token */
    uint32_t n_drafted;          /* tokens computed past the end: ids and logits follow the session's own */
    bool has_logits;
    bool logits_there;           /* they are in the backend's memory only; read when they are asked for */
    bool rows_there;             /* and so are those of drafts */
    struct session_choices choices;
    float *streams;              /* [SESSION_STREAMS][n_hc][n_embd], of position p in p % SESSION_STREAMS, for
                                    drafting, the backend's; NULL when off */
    size_t streams_from;         /* first position whose streams are there: when drafts were refused, those of the
                                    last token that stays are */
};

enum ds4_status session_host_init(struct session_host *host, struct ds4_error *error) DS4_MUST_CHECK;
void session_host_deinit(struct session_host *host);
/* Sessions that may run ahead together. */
uint32_t session_ahead_max(uint32_t n_sessions_max, uint32_t chunk_tokens);
/* Bytes on the host side of one session (token list, logits, tables), for the plan. */
uint64_t session_host_bytes(const struct hparams *h, uint32_t ctx_tokens, uint32_t n_drafts);
/* And of the streams of one, for drafting, where the backend keeps them. */
uint64_t session_streams_bytes(const struct hparams *h);
/* Floats between the logits of two sessions there. */
size_t session_logits_stride(const struct session_host *host);
/* Place of the streams of a position, of the backend; NULL when they are not known. */
float *session_streams(const struct ds4_session *s, size_t pos);
uint32_t session_spans_for(size_t n_tokens);
/* Where the backend keeps the logits of its last pass over the session; NULL: it does not. */
float *session_logits_there(const struct ds4_session *s);
/* Where they are of the session's last token, which that pass may be past. */
const float *session_logits_now(const struct ds4_session *s);

enum ds4_status session_create(struct session_host *host, struct ds4_session **out,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Makes the spans that the next `add` tokens write into present and private. */
enum ds4_status session_own_spans(struct ds4_session *s, size_t add, struct ds4_error *error) DS4_MUST_CHECK;
/* Forgets what was computed past the session's end, and gives its spans back. */
void session_drop_past(struct ds4_session *s);
/* Undoes what was given ahead: every session is as if nothing had been. Before anything but ds4_sessions_next and the
 * evaluation of its tokens uses the graph. */
void session_take_back(struct session_host *host);
/* The same for all rows but those that these jobs ask for, which stay until they are noted or taken back. */
void session_take_back_but(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs);
/* The same for one session, before it changes; the others stay ahead. */
void session_take_out(struct ds4_session *s);
/* Waits for what was given ahead: before the host touches state where it lies. */
void session_rest(struct session_host *host);
/* True when the pass that the job asks for was given ahead, or is one over drafts. */
bool session_has_begun(const struct ds4_job *job);
/* The session has the token of the pass that was given ahead of it. */
void session_note_begun(struct ds4_session *s);

/* Drafts (draft.c). A pass over a token and its drafts is a job whose logits are the session's own rows of them. */
static inline bool session_checks_drafts(const struct ds4_job *job) { return job->logits == job->session->logits; }
/* What is to be checked with the job's token: into drafts [SESSION_STREAMS - 1]. *n = 0: nothing. */
enum ds4_status session_guess(struct ds4_session *s, const struct ds4_job *job, int32_t *drafts, size_t *n,
                              struct ds4_error *error) DS4_MUST_CHECK;
/* A pass over the token and as many drafts as may be, all of it given to the backend before it is waited for. False:
 * this cannot be done here, and nothing was. */
bool session_drafts_there(const struct ds4_session *s, const struct ds4_job *job);
enum ds4_status session_pass_there(struct ds4_session *s, int32_t token, struct ds4_error *error) DS4_MUST_CHECK;
/* ds4_session_pick without a mask: what was chosen there already, or by the host; remembers how for the next pass. */
enum ds4_status session_pick_drafting(struct ds4_session *s, struct ds4_sampler *sampler, bool force_greedy,
                                      int32_t *id, struct ds4_error *error) DS4_MUST_CHECK;
/* The pass is done, and the session has its n drafts as tokens: now it has them past its end. */
void session_note_pass(struct ds4_session *s, size_t n);
/* True when the job's token is the first draft past the session's end; session_keep_draft makes it one of its own. */
bool session_was_drafted(const struct ds4_job *job);
void session_keep_draft(struct ds4_session *s);
/* After a forward pass in which the job's rows begin at row_first, before its tokens are in the session: the draft
 * block over them. And after: the streams of its last rows. */
enum ds4_status session_feed_draft(const struct ds4_job *job, uint32_t row_first,
                                   struct ds4_error *error) DS4_MUST_CHECK;
void session_keep_streams(const struct ds4_job *job, uint32_t row_first);

enum ds4_status session_eval(struct session_host *host, const struct ds4_job *jobs, size_t n_jobs,
                             struct ds4_error *error) DS4_MUST_CHECK;
/* Most bytes that a tip takes. */
size_t session_tip_bytes_max(const struct session_host *host);
size_t session_rewind_min(const struct ds4_session *s);
/* Makes the session stand reach_tokens before n, with the ids and compressed rows up to n kept: the tokens up to n are
 * to be evaluated. n > reach_tokens. */
void session_remake_tail(struct ds4_session *s, size_t n);
/* Drops what the session holds beyond n tokens. n must be allowed by session_rewind_min or 0. */
void session_truncate(struct ds4_session *s, size_t n);

#endif
