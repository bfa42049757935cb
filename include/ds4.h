/* ds4.h - the public interface of the ds4 engine: everything a front end (terminal, HTTP server, agent, tool)
 * needs to run a DeepSeek V4 model. Nothing else of src/ is visible to them but src/base.
 *
 * An *engine* is a loaded model with its memory. A *session* is one timeline of tokens with its state. *Tokens* are
 * int32 ids. A *chat* is rendered to tokens; sampled tokens go through a *parser* that yields events.
 *
 * Ownership words: owns, borrows (valid while the owner lives and is not changed), fills, takes.
 * Threads: an engine and all its sessions are used by one thread at a time (the worker), except the functions marked
 * "any thread". Nothing here prints or exits; every failure is a status plus one sentence. */
#ifndef DS4_H
#define DS4_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define DS4_VERSION "0.1.0"

#if defined(__GNUC__) || defined(__clang__)
#define DS4_MUST_CHECK __attribute__((warn_unused_result))
#else
#define DS4_MUST_CHECK
#endif

/* ---- errors ------------------------------------------------------------------------------------------------ */

/* X-macro: name, text. The one list of outcomes a function may return. */
#define DS4_STATUS_MAP(X) \
    X(OK, "ok") \
    X(ERR_NOMEM, "out of memory") \
    X(ERR_IO, "input/output error") \
    X(ERR_FORMAT, "malformed data") \
    X(ERR_LIMIT, "limit exceeded") \
    X(ERR_STATE, "not possible in this state") \
    X(ERR_CANCELLED, "cancelled") \
    X(ERR_DEVICE, "device error") \
    X(ERR_UNSUPPORTED, "unsupported")

enum ds4_status {
#define X(name, text) DS4_##name,
    DS4_STATUS_MAP(X)
#undef X
};

/* The first cause of a failure as one sentence with names and numbers. Zero-initialise; may be passed as NULL. */
struct ds4_error {
    enum ds4_status status;
    char message[512];
};

const char *ds4_status_text(enum ds4_status status);

/* Bytes with a length; not NUL-terminated; may hold any byte. */
struct ds4_span {
    const char *ptr;
    size_t len;
};

/* A growing list of token ids. Zero-initialise; ds4_tokens_free releases. */
struct ds4_tokens {
    int32_t *ids;
    size_t n, cap;
};
void ds4_tokens_free(struct ds4_tokens *tokens);
enum ds4_status ds4_tokens_append(struct ds4_tokens *tokens, const int32_t *ids, size_t n) DS4_MUST_CHECK;

/* A growing byte string. Zero-initialise; ds4_text_free releases. */
struct ds4_text {
    char *ptr;
    size_t len, cap;
};
void ds4_text_free(struct ds4_text *text);

/* ---- engine ------------------------------------------------------------------------------------------------ */

struct ds4_engine;
struct ds4_session;

enum ds4_log_level { DS4_LOG_DEBUG, DS4_LOG_INFO, DS4_LOG_WARN };
typedef void (*ds4_log_fn)(void *user, enum ds4_log_level level, const char *line);

/* Called between chunks of long work with done/total in units of the phase ("load" bytes, "prefill" tokens).
 * Return false to cancel: the call then returns DS4_ERR_CANCELLED and keeps what was computed. */
typedef bool (*ds4_progress_fn)(void *user, const char *phase, uint64_t done, uint64_t total);

struct ds4_engine_options {
    const char *model_path;       /* GGUF file (first shard of a split one); required */
    const char *mtp_path;         /* optional GGUF with mtp.0.* tensors, else they are looked for in model_path */
    const char *backend;          /* "cpu", "ref", "emu", "cuda", "metal" if in the build; NULL = the best that works */
    uint32_t ctx_tokens;          /* longest session; 0 = min(model's maximum, 32768) */
    uint32_t n_sessions_max;      /* live sessions that memory is planned for; 0 = 1 */
    uint32_t n_threads;           /* 0 = one a core */
    uint32_t chunk_tokens;        /* most rows in one forward pass; 0 = 512 */
    uint64_t device_memory_bytes; /* most to use of the memory of a GPU; 0 = what is free there, if it has its own */
    const char *launch;           /* how kernels follow each other on a GPU: "plain", or "early": each is launched while
                                     the one before runs (CUDA, compute capability 9.0 and newer); NULL = plain */
    uint64_t memory_budget_bytes; /* refuse to plan above this; 0 = memory of the machine (or of its cgroup) */
    bool vocab_only;              /* metadata and tokenizer, no tensors, no sessions */
    bool ideal;                   /* no FP8/FP4 rounding of state (for comparison with oracles; state kept in F32) */
    bool draft;                   /* keep the draft block's window up to date, so that ds4_session_draft works */
    uint32_t n_drafts;            /* most tokens that a session drafts and checks with each it is given, see
                                     ds4_session_set_drafts; up to DS4_DRAFTS_MAX; more than 0 implies draft */
    uint64_t expert_cache_bytes;  /* stream routed experts from the file through a pool of this many bytes, everything
                                     else stays in memory; 0 = map them; DS4_EXPERT_CACHE_AUTO = what the machine has
                                     room for, or map them if all fit */
    const char *notes_dir;        /* statistics about experts are kept beside the model, or here when that cannot be
                                     written; NULL = ~/.cache/ds4, "" = none are kept or used */
    bool paranoid;                /* checksums of streamed experts at every use */
    uint64_t made_up_seed;        /* not 0, for measurements on a GPU that holds all weights: matrices are not read from
                                     the file but made up on the device */
    bool check_tensors;           /* read every scale of every quantised tensor and refuse NaN/Inf */
    ds4_log_fn log;               /* optional */
    void *log_user;
    ds4_progress_fn progress;     /* optional, phase "load" */
    void *progress_user;
};

#define DS4_EXPERT_CACHE_AUTO UINT64_MAX
#define DS4_DRAFTS_MAX 7u

/* Opens a model. On success *out owns everything; close with ds4_engine_close. Errors: IO, FORMAT (file, metadata or
 * tensors wrong: message names what), LIMIT (does not fit; message has bytes needed and there), NOMEM, UNSUPPORTED
 * (n_drafts without a draft block, too). */
enum ds4_status ds4_engine_open(const struct ds4_engine_options *options, struct ds4_engine **out,
                                struct ds4_error *error) DS4_MUST_CHECK;
void ds4_engine_close(struct ds4_engine *engine);

struct ds4_model_info {
    const char *name, *architecture, *backend, *quantisation, *model_path; /* borrow from the engine */
    uint32_t n_layers, n_vocab, n_embd, n_heads, n_experts, n_experts_used;
    uint32_t window_tokens, ctx_train_tokens, ctx_tokens, chunk_tokens, n_threads, n_sessions_max;
    uint64_t n_params, n_params_active, file_bytes;
    uint64_t weight_bytes_per_token; /* bytes read to decode one token */
    uint64_t state_bytes_per_token;  /* growth of a session per token */
    uint64_t state_bytes_fixed;      /* ring and compressor frontiers of one session */
    bool has_mtp;
    uint8_t digest[16];  /* identity of weights, numbers, vocabulary and layout: what state means, whoever computes */
};
const struct ds4_model_info *ds4_engine_info(const struct ds4_engine *engine); /* any thread; borrows */

/* ---- plan: what would be allocated, before anything is ------------------------------------------------------ */

struct ds4_plan_item {
    char name[48];       /* "weights: routed experts", "state: 1 session of 32768 tokens", ... */
    uint64_t bytes;
    bool resident;       /* false: mapped file pages that the system may drop and read again */
    bool on_device;      /* in the memory of a GPU */
};
struct ds4_plan {
    struct ds4_plan_item items[24];
    uint32_t n_items;
    uint64_t resident_bytes, mapped_bytes, memory_bytes /* there */, budget_bytes;
    uint64_t weight_bytes_per_token;
    /* A GPU with memory of its own; all 0 when there is none. */
    uint64_t device_budget_bytes, device_bytes;
    uint64_t device_room_bytes, host_room_bytes; /* what was left for weights on either side */
    uint64_t bus_bytes_per_token;                /* weights that the device reads from the host */
    uint64_t homeless_bytes;                     /* weights for which there is room on neither */
    /* Streamed experts; all 0 when experts are mapped. */
    uint64_t expert_cache_bytes;       /* of the pool: an item of the list */
    uint64_t expert_cache_least_bytes; /* for these batches */
    uint64_t expert_bytes;             /* read for one that is missed, with what was read in vain */
    uint64_t mapped_hot_bytes;         /* pages of the file that every token reads: they count as resident */
    uint32_t n_expert_slots, n_expert_slots_least, n_experts; /* experts of all layers */
    uint32_t n_layers, n_experts_used;
    double expert_hit_rate;            /* share of the experts asked for that will be found in memory */
    double expert_ahead_share;         /* of the others, those that are asked of the disk a layer before */
    double tokens_observed;            /* what that rests on; 0: every expert is taken to be as good as another */
    bool fits;           /* resident part within the budget */
    bool all_in_memory;  /* mapped part fits beside it */
    char verdict[256];   /* one sentence for a person */
};
/* What a machine can do with a model, measured. */
struct ds4_speed {
    double disk_bytes_per_s; /* reading experts as streaming does */
    double dense_seconds;    /* computing a token, routed experts apart */
    double expert_seconds;   /* computing one expert for one token */
    double wait_seconds;     /* from asking the disk for an expert until its bytes begin to come */
};
/* Measures for about so many seconds in all, and remembers it in the notes about the model (see notes_dir). The model
 * is not loaded; experts are read and thrown away. */
enum ds4_status ds4_speed_probe(const struct ds4_engine_options *options, double seconds, struct ds4_speed *out,
                                struct ds4_error *error) DS4_MUST_CHECK;
/* Tokens a second of decoding at short context; 0 when the plan leaves it to the system what is in memory. */
double ds4_plan_tps(const struct ds4_plan *plan, const struct ds4_speed *speed);

/* What streaming did since the engine was opened; all 0 when experts are mapped. */
struct ds4_expert_figures {
    uint64_t n_hits, n_ahead, n_misses; /* experts asked for: in memory; read ahead in the same pass; waited for */
    uint64_t read_bytes, cache_bytes;   /* cache_bytes: as planned */
    double read_seconds, stall_seconds; /* a read was under way; a product waited for one */
    uint32_t n_slots, n_slots_now;      /* fewer now when memory ran short */
    double predicted_tps;               /* of decoding, from ds4_speed_probe; 0 = that was never measured here */
};
void ds4_engine_expert_figures(const struct ds4_engine *engine, struct ds4_expert_figures *out);
/* Where time goes: kernels of a GPU, operations of a CPU. While it is on, every kernel of a GPU is waited for, so that
 * a pass takes longer; turned on again, the figures begin anew. UNSUPPORTED on a backend that has no kernels. */
struct ds4_kernel_time {
    char name[48];
    uint64_t n; /* dispatches, or calls */
    double seconds; /* by the clock of the device */
};
enum ds4_status ds4_engine_time_kernels(struct ds4_engine *engine, bool on, struct ds4_error *error) DS4_MUST_CHECK;
/* Fills up to max, longest first; returns how many. */
size_t ds4_engine_kernel_times(const struct ds4_engine *engine, struct ds4_kernel_time *out, size_t max);
/* Fills *plan from the file's directory only; loads nothing. */
enum ds4_status ds4_plan_make(const struct ds4_engine_options *options, struct ds4_plan *plan,
                              struct ds4_error *error) DS4_MUST_CHECK;

/* ---- text <-> tokens (any thread) -------------------------------------------------------------------------- */

/* Appends the ids of text. special: control markers in the text become control tokens; otherwise they are text.
 * Invalid UTF-8 is replaced by U+FFFD (maximal subpart rule). */
enum ds4_status ds4_tokenize(const struct ds4_engine *engine, struct ds4_span text, bool special,
                             struct ds4_tokens *out, struct ds4_error *error) DS4_MUST_CHECK;
/* Raw bytes of a token (borrows from the engine); empty for an id out of range. May be a part of a character. */
struct ds4_span ds4_token_bytes(const struct ds4_engine *engine, int32_t id);
bool ds4_token_is_control(const struct ds4_engine *engine, int32_t id);

struct ds4_special_ids {
    int32_t bos, eos, pad, user, assistant, think, think_end, dsml, latest_reminder; /* -1 when the model lacks it */
};
const struct ds4_special_ids *ds4_special(const struct ds4_engine *engine);

/* ---- chat -> tokens ---------------------------------------------------------------------------------------- */

enum ds4_role { DS4_ROLE_SYSTEM, DS4_ROLE_USER, DS4_ROLE_ASSISTANT, DS4_ROLE_TOOL, DS4_ROLE_LATEST_REMINDER };

struct ds4_tool_call {
    struct ds4_span id;         /* client's call id; may be empty */
    struct ds4_span name;
    struct ds4_span arguments;  /* JSON text as the client sent it */
    struct ds4_span sampled;    /* exact bytes the model sampled for the whole call block, as DS4_EVENT_CALLS_DONE gave
                                   them; empty = render canonically. Set on the first call of a message: it then
                                   stands for all its calls. Bytes that are no whole block are ignored */
};

struct ds4_message {
    enum ds4_role role;
    const struct ds4_span *parts;         /* text parts; joined as the chat format says for the role */
    size_t n_parts;
    struct ds4_span reasoning;            /* assistant only; empty when none is stored */
    const struct ds4_tool_call *calls;    /* assistant only */
    size_t n_calls;
    struct ds4_span tool_call_id;         /* tool only: which call this answers */
    struct ds4_span task;                 /* internal quick-instruction token name or empty: "query", "authority",
                                             "domain", "read_url" (parts after the first are its URLs) and "action" on
                                             the last message of a user turn, "title" on an assistant message; the next
                                             assistant message is the task's answer */
};

/* LOW thinks without an effort prefix in every table. */
enum ds4_think_mode { DS4_THINK_NONE, DS4_THINK_LOW, DS4_THINK_HIGH, DS4_THINK_MAX };
enum ds4_effort_table { DS4_EFFORT_PREVIEW, DS4_EFFORT_0731 };

struct ds4_chat {
    const struct ds4_message *messages;
    size_t n_messages;
    const struct ds4_span *tools;         /* one JSON function object each, client's bytes; re-spaced by the renderer */
    size_t n_tools;
    struct ds4_span response_schema;      /* JSON schema for the response-format block, or empty */
    enum ds4_think_mode think;
    enum ds4_effort_table effort_table;
    bool tools_first;                     /* tools block before the system text */
    bool close_last;                      /* a last assistant message is finished; else it is a prefill to continue */
};

/* Renders a chat: appends ids to *tokens (may be NULL) and bytes to *text (may be NULL). Content never becomes
 * control; invalid UTF-8 in it is replaced by U+FFFD. FORMAT: a tool or the response schema is no JSON object, or a
 * task is unknown or misplaced; the message names which. On an error both outputs may hold a part. */
enum ds4_status ds4_render(const struct ds4_engine *engine, const struct ds4_chat *chat, struct ds4_tokens *tokens,
                           struct ds4_text *text, struct ds4_error *error) DS4_MUST_CHECK;

/* ---- tokens -> events -------------------------------------------------------------------------------------- */

enum ds4_event_kind {
    DS4_EVENT_THINK,        /* text: reasoning bytes, whole characters */
    DS4_EVENT_TEXT,         /* text: visible answer bytes, whole characters */
    DS4_EVENT_CALL_BEGIN,   /* text: tool name; call_i */
    DS4_EVENT_CALL_ARGS,    /* text: next bytes of the arguments JSON of call_i */
    DS4_EVENT_CALL_END,     /* text: the whole arguments JSON of call_i */
    DS4_EVENT_CALLS_DONE,   /* the block closed; text: exact sampled bytes of the block with the white space before it,
                               which is no TEXT. Generation should stop; what follows is ignored */
    DS4_EVENT_CALLS_BROKEN, /* block malformed or unterminated; text: its raw bytes, to be shown as content. Calls that
                               began in it are void. TEXT may follow */
    DS4_EVENT_STOP          /* end-of-sequence token */
};
struct ds4_event {
    enum ds4_event_kind kind;
    uint32_t call_i;
    struct ds4_span text;   /* borrows until the callback returns */
};
typedef void (*ds4_event_fn)(void *user, const struct ds4_event *event);

struct ds4_parser;
struct ds4_parser_options {
    bool in_thinking;      /* the prompt ended with <think> */
    bool tools_active;     /* recognise tool-call blocks */
    bool dsml_entities;    /* unescape the five XML entities in string values (else only the closing tag) */
    bool show_markers;     /* raw mode: everything is TEXT, control tokens as their literal text */
};
enum ds4_status ds4_parser_create(const struct ds4_engine *engine, const struct ds4_parser_options *options,
                                  struct ds4_parser **out) DS4_MUST_CHECK;
void ds4_parser_destroy(struct ds4_parser *parser);
/* Feeds one sampled token; calls fn zero or more times. The concatenation of events does not depend on how text was
 * split into tokens. */
enum ds4_status ds4_parser_feed(struct ds4_parser *parser, int32_t id, ds4_event_fn fn, void *user) DS4_MUST_CHECK;
/* End of generation: flushes what was held back. */
enum ds4_status ds4_parser_finish(struct ds4_parser *parser, ds4_event_fn fn, void *user) DS4_MUST_CHECK;
/* True while inside a tool-call block (a checkpoint must not be cut there), and inside its syntax (not in a string
 * value), where sampling should be greedy. */
bool ds4_parser_in_call(const struct ds4_parser *parser);
bool ds4_parser_in_syntax(const struct ds4_parser *parser);

/* ---- sessions ---------------------------------------------------------------------------------------------- */

enum ds4_status ds4_session_create(struct ds4_engine *engine, struct ds4_session **out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* A second session with the same tokens and state; immutable spans are shared. */
enum ds4_status ds4_session_fork(struct ds4_session *session, struct ds4_session **out,
                                 struct ds4_error *error) DS4_MUST_CHECK;
void ds4_session_destroy(struct ds4_session *session);

/* Tokens evaluated so far (borrows). */
const int32_t *ds4_session_tokens(const struct ds4_session *session, size_t *n);
/* Tokens whose rows the session holds: as many, or more while what goes with the last of them is being computed again
 * (ds4_session_sync, cancelled); then there are no logits. The ids up to here are those behind ds4_session_tokens. */
size_t ds4_session_rows(const struct ds4_session *session);
/* Smallest position ds4_session_rewind can go to right now (0 is always possible: it means start over). */
size_t ds4_session_rewind_min(const struct ds4_session *session);
/* Drops tokens from position n on. STATE when n lies before rewind_min and is not 0. */
enum ds4_status ds4_session_rewind(struct ds4_session *session, size_t n, struct ds4_error *error) DS4_MUST_CHECK;

/* Makes the session hold exactly tokens[0..n): keeps the longest usable common prefix, computes the rest in chunks.
 * To go back further than ds4_session_rewind can, at most reach_tokens of the kept prefix are computed once more.
 * *reused (optional) says how many tokens were not computed. Afterwards ds4_session_logits belongs to the last token.
 * n must be >= 1 and <= ctx_tokens. Cancelled: what was computed stays. */
enum ds4_status ds4_session_sync(struct ds4_session *session, const int32_t *tokens, size_t n,
                                 ds4_progress_fn progress, void *user, size_t *reused,
                                 struct ds4_error *error) DS4_MUST_CHECK;

/* One forward pass over rows of one or several sessions: the base of decode, batching and evaluation.
 * The rows of all jobs together are at most chunk_tokens. */
struct ds4_job {
    struct ds4_session *session;
    const int32_t *tokens;      /* appended to the session */
    size_t n;
    float *logits;              /* optional: fills [n][n_vocab] for every row (slow; for evaluation) */
};
enum ds4_status ds4_eval(struct ds4_engine *engine, const struct ds4_job *jobs, size_t n_jobs,
                         struct ds4_error *error) DS4_MUST_CHECK;

/* Logits [n_vocab] after the last token (borrows until the session changes); NULL when there are none. */
const float *ds4_session_logits(const struct ds4_session *session);

/* Draft block (MTP): fills up to max drafted continuations after `next` (the token just sampled); *n says how many.
 * Drafts are guesses; they never change results. *n = 0 when the model has no MTP block. A GPU that holds all weights
 * chooses each from the one before, and the host waits for all of them together. */
enum ds4_status ds4_session_draft(struct ds4_session *session, int32_t next, size_t max, int32_t *drafts, size_t *n,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* How many tokens a session drafts when ds4_eval is given a job that is alone, of one token and without logits: the
 * pass is over that token and the drafts. When the next tokens are those, ds4_eval of them only takes note; when not,
 * what was computed for them is forgotten. Tokens, logits and state are the same bits as without: only the time is
 * another. n is at most the engine's n_drafts, with which sessions begin; 0 = none. LIMIT. */
enum ds4_status ds4_session_set_drafts(struct ds4_session *session, uint32_t n, struct ds4_error *error) DS4_MUST_CHECK;
/* Of all sessions since the engine was opened: passes over a token with drafts, drafts in them, and those of the drafts
 * that were the tokens that came next. */
struct ds4_draft_figures {
    uint64_t n_passes, n_drafted, n_kept;
};
void ds4_engine_draft_figures(const struct ds4_engine *engine, struct ds4_draft_figures *out);

/* What passes through the model, for calibration: called during forward passes, between operations. */
enum ds4_probe_point { DS4_PROBE_LAYER_OUT, DS4_PROBE_ATTN_IN, DS4_PROBE_FFN_IN, DS4_PROBE_EXPERT_MID };
struct ds4_probe {
    enum ds4_probe_point point;
    uint32_t layer_i, n_rows, n_cols;
    const float *data;    /* [n_rows][n_cols]. LAYER_OUT: the residual streams; ATTN_IN, FFN_IN: the normed input of the
                             sub-layer; EXPERT_MID: [n_rows][n_used][n_ff], after SwiGLU and routing weight */
    const int32_t *ids;   /* [n_rows][n_used] chosen experts at FFN_IN and EXPERT_MID, else NULL */
    uint32_t n_used;
};
typedef void (*ds4_probe_fn)(void *user, const struct ds4_probe *probe);
void ds4_engine_set_probe(struct ds4_engine *engine, ds4_probe_fn fn, void *user); /* NULL = off */

/* ---- state as bytes: spans (immutable once full) and a tip -------------------------------------------------- */

/* A snapshot of a session is: its token ids, the full and partial spans of compressed rows, and a tip (ring,
 * compressor frontiers, logits). A store keeps spans once and tips at chosen points. */
struct ds4_state_layout {
    uint32_t version;           /* of the byte layout */
    uint32_t span_tokens;       /* tokens a span covers */
    size_t span_bytes;          /* bytes of one span */
    size_t tip_bytes_max;       /* most a tip takes */
    uint32_t reach_tokens;      /* before any position: from so many tokens a tip there can be made; 0 = all */
    uint8_t digest[16];         /* identity, for stores of state: that of ds4_model_info, and the arithmetic of this
                                   build on this processor or device, to the last bit */
};
const struct ds4_state_layout *ds4_state_layout(const struct ds4_engine *engine); /* any thread */

/* Number of spans that hold rows of the session: ceil(n_tokens / span_tokens). */
size_t ds4_session_spans(const struct ds4_session *session);
/* Copies span i to buf[span_bytes], from the device where the state is on one. Immutable for
 * i < n_tokens / span_tokens. */
enum ds4_status ds4_session_span_save(const struct ds4_session *session, size_t i, uint8_t *buf,
                                      struct ds4_error *error) DS4_MUST_CHECK;
/* Whether span i of both is one: no second session takes memory for it. */
bool ds4_session_span_is_shared(const struct ds4_session *a, const struct ds4_session *b, size_t i);
/* Writes the tip into buf[cap]; *len is what it took. */
enum ds4_status ds4_session_tip_save(const struct ds4_session *session, uint8_t *buf, size_t cap, size_t *len,
                                     struct ds4_error *error) DS4_MUST_CHECK;
/* Replaces the session's state, all or nothing: on any error the session is as before. The tip has the digest of
 * ds4_model_info: state that another build or backend computed goes on here too, but not with the bits of either;
 * where both are the same it is bit-equal to never having stopped. spans[i] are span_bytes each, n_spans =
 * ceil(n_tokens / span_tokens). */
enum ds4_status ds4_session_restore(struct ds4_session *session, const int32_t *tokens, size_t n_tokens,
                                    const uint8_t *const *spans, size_t n_spans, const uint8_t *tip, size_t tip_len,
                                    struct ds4_error *error) DS4_MUST_CHECK;

/* The same with spans asked for one by one, straight into the session's memory, and not at all where the session
 * already holds them. tip NULL: n_tokens are more than reach_tokens, and the next ds4_session_sync that goes on from
 * them computes the last reach_tokens of them again. read fills span_bytes at dest, or fails. A failure before the
 * first read leaves the session as it was, a later one leaves it empty. */
typedef enum ds4_status (*ds4_span_reader)(void *user, size_t span_i, uint8_t *dest, struct ds4_error *error);
enum ds4_status ds4_session_restore_from(struct ds4_session *session, const int32_t *tokens, size_t n_tokens,
                                         ds4_span_reader read, void *user, const uint8_t *tip, size_t tip_len,
                                         struct ds4_error *error) DS4_MUST_CHECK;

/* ---- the store: state on disk, so that nothing is computed twice --------------------------------------------- */

/* A directory (0700) of immutable segments - one a span, addressed by the hash of the token prefix and of everything
 * that makes state valid - and of tips. Every byte is verified before it reaches a session; whatever is wrong is set
 * aside and counts as a miss. Files are written by a thread of the store's own. One process writes a directory; a
 * second one opens it read-only. All functions: worker thread. */
struct ds4_store;
struct ds4_store_options {
    const char *dir;               /* NULL: ~/.cache/ds4/kv */
    uint64_t budget_bytes;         /* of the directory; 0 = 8 GiB */
    uint64_t queue_bytes;          /* most memory that waiting writes may hold; 0 = 256 MiB */
    double write_ratio_max;        /* bytes written per byte of new rows, tips included; 0 = 2 */
    uint64_t write_free_bytes;     /* and so much more since opening: lets short conversations have their tips */
    bool read_only;                /* never write, whoever holds the directory */
    bool no_sync;                  /* skip fdatasync: integrity stays, the last saves may be lost with the power */
    bool never_wait;               /* others are being served: EVICT leaves out what a full queue has no room for */
    ds4_log_fn log;
    void *log_user;
};
/* Opens for an engine. Entries of other models are kept and not touched. */
enum ds4_status ds4_store_open(const struct ds4_engine *engine, const struct ds4_store_options *options,
                               struct ds4_store **out, struct ds4_error *error) DS4_MUST_CHECK;
/* Writes what is queued, then closes. */
void ds4_store_close(struct ds4_store *store);

enum ds4_store_source { DS4_STORE_NONE, DS4_STORE_RAM, DS4_STORE_DISK };
/* Where the state of a prompt came from, for reports. */
struct ds4_store_report {
    enum ds4_store_source source;
    size_t n_tokens, n_reused;     /* of the prompt; kept or restored */
    size_t n_known;                /* tokens whose rows are on disk, whether or not a tip made them usable */
    double restore_seconds;
};
/* ds4_session_sync through the store: uses whatever keeps more tokens, the session itself or a stored tip, computes the
 * rest, and queues new full spans while it goes. store may be NULL (plain sync). */
enum ds4_status ds4_store_sync(struct ds4_store *store, struct ds4_session *session, const int32_t *tokens, size_t n,
                               ds4_progress_fn progress, void *user, struct ds4_store_report *report,
                               struct ds4_error *error) DS4_MUST_CHECK;

enum ds4_save_reason {
    DS4_SAVE_PREFIX, DS4_SAVE_TURN, DS4_SAVE_EVICT, DS4_SAVE_SHUTDOWN, DS4_SAVE_USER, DS4_SAVE_PERIODIC, DS4_SAVE_ROWS
};
/* Queues the session's new spans and a tip at its last token: as far as the bound on written bytes allows (PREFIX,
 * TURN, PERIODIC) or always (the others). PERIODIC may be called after every token: it does nothing but at the end of
 * a span, and makes a tip every few thousand tokens. Only EVICT, SHUTDOWN and USER wait for the disk, when the queue
 * is full; nothing else of a save touches the disk in the caller's thread. Inside a tool call (ds4_parser_in_call) only
 * ROWS may be asked for: the spans without a tip, since nobody goes on from there. Failures are logged, counted and
 * forgotten: generation goes on. *saved (optional): a tip was queued. */
void ds4_store_save(struct ds4_store *store, const struct ds4_session *session, enum ds4_save_reason reason,
                    bool *saved);
/* Waits until everything queued is on disk (or failed). */
void ds4_store_flush(struct ds4_store *store);
/* The end is near: `seconds` from now saves do nothing, what is queued and not begun is dropped, and nothing waits for
 * the disk but ds4_store_close for the one call of the system that it is in. What is on disk stays whole. */
void ds4_store_hurry(struct ds4_store *store, double seconds);

/* Look-up by rendered bytes: the longest stored tip whose text is a prefix of text. Appends its tokens to *tokens and
 * sets *text_used; zero when there is none. The caller tokenises only what follows. */
enum ds4_status ds4_store_find_text(struct ds4_store *store, struct ds4_span text, struct ds4_tokens *tokens,
                                    size_t *text_used, struct ds4_error *error) DS4_MUST_CHECK;

/* Puts the tokens that were sampled in place of tokens that were made from their text: where the bytes of the session's
 * tokens, or of a stored tip, are the beginning of the prompt's, their ids replace those of the prompt. *n_adopted says
 * how many; zero leaves the prompt as it is. Control tokens stay where the prompt has them: content never becomes
 * control. session and store may be NULL. */
enum ds4_status ds4_store_adopt(const struct ds4_engine *engine, struct ds4_store *store,
                                const struct ds4_session *session, struct ds4_tokens *prompt, size_t *n_adopted,
                                struct ds4_error *error) DS4_MUST_CHECK;

/* Exact bytes the model sampled for a tool call, by call id; survives restarts. get: empty when unknown (borrows until
 * the next put). */
void ds4_store_replay_put(struct ds4_store *store, struct ds4_span call_id, struct ds4_span sampled);
struct ds4_span ds4_store_replay_get(const struct ds4_store *store, struct ds4_span call_id);

struct ds4_store_stats {
    uint64_t n_segments, n_tips, bytes, budget_bytes;       /* of this engine's identity, and of the directory */
    uint64_t n_others, other_bytes;                         /* entries of other identities, and damaged ones */
    uint64_t bytes_written, row_bytes_written, tips_skipped; /* since the store was opened */
    uint64_t bytes_read, tokens_restored;
    uint64_t n_hits, n_misses, n_evicted, n_quarantined, n_errors;
    uint64_t queued_bytes;                                  /* not yet on disk */
    bool read_only;
};
void ds4_store_stats(const struct ds4_store *store, struct ds4_store_stats *out);

/* ---- looking after a store ----------------------------------------------------------------------------------- */

#define DS4_STORE_KEY_TEXT 33 /* 32 hexadecimal digits and a NUL */

struct ds4_store_entry {
    char key[DS4_STORE_KEY_TEXT];
    bool is_tip;               /* a point that can be gone on from; else a segment: the rows of one span */
    bool is_whole;             /* all segments before it are there */
    enum ds4_save_reason reason; /* tips */
    uint64_t n_tokens;         /* of the whole prefix that it ends */
    uint64_t bytes, text_len, created, last_use; /* text_len: tips; times: Unix seconds */
    uint32_t n_hits, n_tips;   /* n_tips: segments: tips that need it */
};
typedef void (*ds4_store_entry_fn)(void *user, const struct ds4_store_entry *entry);
/* Calls fn with every entry of the engine's identity, youngest use first. NOMEM. */
enum ds4_status ds4_store_list(struct ds4_store *store, ds4_store_entry_fn fn, void *user,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Appends the tokens of the tip whose key begins with these digits. STATE when there is none or more than one. */
enum ds4_status ds4_store_tip_tokens(struct ds4_store *store, const char *key, struct ds4_tokens *tokens,
                                     struct ds4_error *error) DS4_MUST_CHECK;

struct ds4_store_check {
    uint64_t n_checked, n_bytes, n_bad, n_unreadable, n_incomplete; /* incomplete: tips whose segments are missing */
};
/* Reads and verifies every entry; sets aside what is damaged. progress: phase "verify", bytes. */
enum ds4_status ds4_store_verify(struct ds4_store *store, ds4_progress_fn progress, void *user,
                                 struct ds4_store_check *out, struct ds4_error *error) DS4_MUST_CHECK;

/* Removes the entries of least value until the directory holds at most keep_bytes (UINT64_MAX: no bound), and those
 * not used for older_than_s seconds (0: no bound). others: entries of other identities and damaged ones go as well. */
struct ds4_store_prune {
    uint64_t keep_bytes, older_than_s;
    bool others;
};
enum ds4_status ds4_store_prune(struct ds4_store *store, const struct ds4_store_prune *how, uint64_t *freed_bytes,
                                struct ds4_error *error) DS4_MUST_CHECK;

/* Why a prompt finds what it finds. */
enum ds4_store_cause {
    DS4_CAUSE_HIT,                /* a stored conversation is a beginning of the prompt */
    DS4_CAUSE_NOTHING_STORED,
    DS4_CAUSE_HISTORY_EDITED,     /* the texts differ where a person or client wrote */
    DS4_CAUSE_REASONING_DROPPED,  /* ... where the model had thought */
    DS4_CAUSE_TOOL_SPELLING,      /* ... inside a tool call */
    DS4_CAUSE_OTHER_MODEL         /* stored for another model, quantisation or build */
};
#define DS4_EXPLAIN_BEFORE 40u    /* bytes of context before the first difference */
#define DS4_EXPLAIN_BYTES 120u    /* bytes shown of each side */
struct ds4_store_explanation {
    enum ds4_store_cause cause;
    char key[DS4_STORE_KEY_TEXT];       /* the stored tip that shares most bytes with the prompt; "" = none */
    uint64_t n_tokens, text_len;        /* of that tip */
    uint64_t same_bytes;                /* first differing byte */
    uint64_t n_usable_tokens;           /* of the longest tip that can be used for the prompt */
    uint64_t context_at;                /* offset of both contexts in their texts */
    char stored[DS4_EXPLAIN_BYTES], prompt[DS4_EXPLAIN_BYTES];
    size_t stored_len, prompt_len;
};
/* text: a rendered prompt. */
enum ds4_status ds4_store_explain(struct ds4_store *store, struct ds4_span text, struct ds4_store_explanation *out,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* Writes the tip whose key begins with `key`, with all its segments, into one file (created new, 0600). */
enum ds4_status ds4_store_export(struct ds4_store *store, const char *key, const char *path, uint64_t *bytes,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Takes what a pack holds, all or nothing, after verifying every byte of it. FORMAT: damaged; UNSUPPORTED: of another
 * model, quantisation or build. Digests find accidents, not lies: import only from people you would take a model from.
 * *n_tokens (optional): of its tip. */
enum ds4_status ds4_store_import(struct ds4_store *store, const char *path, uint64_t *n_tokens,
                                 struct ds4_error *error) DS4_MUST_CHECK;

/* ---- live sessions: the tier above the store -------------------------------------------------------------------- */

/* A few sessions in memory for many conversations. The one worth least moves to the store when room is needed. Worker
 * thread. */
struct ds4_live;
struct ds4_live_options {
    uint32_t n_sessions;     /* most sessions; 0 = the engine's n_sessions_max */
    uint64_t budget_bytes;   /* most state in memory, shared spans counted once; 0 = no bound but n_sessions */
};
/* Borrows the engine and the store (which may be NULL). */
enum ds4_status ds4_live_create(struct ds4_engine *engine, struct ds4_store *store,
                                const struct ds4_live_options *options, struct ds4_live **out,
                                struct ds4_error *error) DS4_MUST_CHECK;
/* Saves every session (SHUTDOWN) and destroys it. All must have been released. */
void ds4_live_destroy(struct ds4_live *live);
/* A session to ds4_store_sync to the prompt: the idle one that it continues; else a fork of the one (busy or idle) that
 * shares most with it, or, without room for a fork, that one if it is idle; else an empty one. LIMIT: every session is
 * in use. */
enum ds4_status ds4_live_acquire(struct ds4_live *live, const int32_t *tokens, size_t n, struct ds4_session **out,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Gives it back. keep false: its state is not to be trusted or not wanted; it is destroyed. */
void ds4_live_release(struct ds4_live *live, struct ds4_session *session, bool keep);

struct ds4_live_stats {
    uint32_t n_sessions, n_busy;
    uint64_t bytes;                          /* of state, shared spans counted once */
    uint64_t n_continued, n_forked, n_fresh, n_evicted;
};
void ds4_live_stats(const struct ds4_live *live, struct ds4_live_stats *out);

/* ---- sampling ---------------------------------------------------------------------------------------------- */

struct ds4_logit_bias {
    int32_t id;
    float bias;
};
struct ds4_sampling {
    float temperature;       /* <= 0: greedy */
    float top_p;             /* 1 = off */
    float min_p;             /* 0 = off */
    int32_t top_k;           /* 0 = off */
    float presence_penalty, frequency_penalty; /* 0 = off */
    float repetition_penalty;                  /* 1 = off */
    const struct ds4_logit_bias *bias;
    size_t n_bias;
    uint64_t seed;
};
/* What holds when the client is silent: temperature 1, top_p 1, min_p 0.05. */
struct ds4_sampling ds4_sampling_default(void);

struct ds4_sampler;
enum ds4_status ds4_sampler_create(const struct ds4_engine *engine, const struct ds4_sampling *sampling,
                                   struct ds4_sampler **out, struct ds4_error *error) DS4_MUST_CHECK;
void ds4_sampler_destroy(struct ds4_sampler *sampler);
/* Chooses a token from logits[n_vocab]. mask (optional): bit i of mask[i/32] set = token i allowed. force_greedy
 * overrides the temperature for this token only. A mask of tokens that all have a logit of minus infinity gives its
 * first. DEVICE when logits hold NaN, STATE when no token is allowed. */
enum ds4_status ds4_sampler_pick(struct ds4_sampler *sampler, const float *logits, const uint32_t *mask,
                                 bool force_greedy, int32_t *id, struct ds4_error *error) DS4_MUST_CHECK;
/* The same from the logits of a session; of those that lie on a GPU only what may be chosen is read. STATE also when
 * there are none. */
enum ds4_status ds4_session_pick(struct ds4_session *session, struct ds4_sampler *sampler, const uint32_t *mask,
                                 bool force_greedy, int32_t *id, struct ds4_error *error) DS4_MUST_CHECK;
/* The same, without masks, for several sessions of one engine that are decoded together: fills id and status of each.
 * Returns the first status that is not OK, which *error is about.
 *
 * On a GPU that holds all weights the tokens are chosen there, each with its session's sampler, and the pass over all
 * of them has begun when this returns, so that decoding does not wait for the host at each token: ds4_eval of these
 * tokens then returns at once, and should the device fail meanwhile, the next call says so. A session that is evaluated
 * with another token, changed or destroyed is taken out of the pass, and whatever is evaluated of others takes the rest
 * back: sessions and samplers are always as if there had been none. As long as the same sessions come in the same
 * order, the device is never without work. Without such a GPU this is ds4_session_pick for each; so it is when a
 * sampler has penalties or biases, and for more than 64 sessions or more than a pass has rows. Where drafts are on,
 * nothing begins ahead, but of a session that drafts there the device chose the tokens while it checked them. */
struct ds4_next {
    struct ds4_session *session;
    struct ds4_sampler *sampler; /* of this session alone */
    bool force_greedy;
    int32_t id;
    enum ds4_status status;      /* as of ds4_session_pick */
};
enum ds4_status ds4_sessions_next(struct ds4_next *nexts, size_t n, struct ds4_error *error) DS4_MUST_CHECK;
/* The same for one session. */
enum ds4_status ds4_session_next(struct ds4_session *session, struct ds4_sampler *sampler, bool force_greedy,
                                 int32_t *id, struct ds4_error *error) DS4_MUST_CHECK;
/* Tells the sampler which token was emitted (for penalties). */
void ds4_sampler_accept(struct ds4_sampler *sampler, int32_t id);
/* Stop strings over a stream of text: what could still become one is held back. A match ends the stream; the string
 * itself is not given out. Of several matches the one that begins first counts, then the one listed first. */
#define DS4_STOPS_MAX 16u
#define DS4_STOP_BYTES_MAX 1024u /* of one */
struct ds4_stop;
enum ds4_status ds4_stop_create(const struct ds4_span *strings, size_t n, struct ds4_stop **out,
                                struct ds4_error *error) DS4_MUST_CHECK;
void ds4_stop_destroy(struct ds4_stop *stop);
/* *out: text that may be shown now (borrows until the next call). *hit: index of the string that matched, else -1. */
enum ds4_status ds4_stop_feed(struct ds4_stop *stop, struct ds4_span text, struct ds4_span *out,
                              int *hit) DS4_MUST_CHECK;
/* End of the stream: what was held back (borrows until the next call), nothing after a match. What is fed then begins a
 * new stream. */
struct ds4_span ds4_stop_finish(struct ds4_stop *stop);

/* ---- grammars: answers that cannot be malformed --------------------------------------------------------------- */

/* A vocabulary prepared for grammars: its tokens in the order of their bytes. Borrows the engine; immutable (any
 * thread). About 25 bytes a token, which ds4_plan_make counts. UNSUPPORTED: the vocabulary lacks a token for one of the
 * 256 bytes, or an end of sequence. */
struct ds4_token_index;
enum ds4_status ds4_token_index_create(const struct ds4_engine *engine, struct ds4_token_index **out,
                                       struct ds4_error *error) DS4_MUST_CHECK;
void ds4_token_index_destroy(struct ds4_token_index *index);

/* What the answer to one request may be. Reasoning is free in all cases. */
struct ds4_grammar_options {
    struct ds4_span schema;          /* JSON schema of the answer; empty = free text */
    const struct ds4_span *tools;    /* function objects as in ds4_chat: name, parameters, strict */
    size_t n_tools;
    bool tools_required;             /* the answer is a block of calls; else it may contain or (schema) be one */
    struct ds4_span tool_name;       /* only this tool may be called; empty = any */
    bool one_call;                   /* a block has one call */
    bool in_thinking;                /* the prompt ended with <think> */
};

/* Where an answer stands in its grammar. Borrows the index. A grammar is used by one thread at a time.
 *
 * Schemas: type, enum, const, properties, required, additionalProperties, items, prefixItems, min/maxItems,
 * min/maxLength, minimum, maximum, exclusiveMinimum, exclusiveMaximum, anyOf, oneOf whose branches cannot overlap,
 * allOf of one schema, local $ref with recursion, and annotations. Objects that declare members have no others unless
 * additionalProperties says so; up to 64 members come in any order, more in the declared one. A tool with "strict":
 * true is held to the same; another one is constrained as far as its schema is understood. */
struct ds4_grammar;
/* UNSUPPORTED: a keyword (the message names it and its path). FORMAT: no JSON, no schema, or no value can satisfy it.
 * LIMIT: too large, too deep, or too entangled. NOMEM. Any thread. */
enum ds4_status ds4_grammar_create(const struct ds4_token_index *index, const struct ds4_grammar_options *options,
                                   struct ds4_grammar **out, struct ds4_error *error) DS4_MUST_CHECK;
/* The same place in the same grammar, to go on from twice. */
enum ds4_status ds4_grammar_fork(const struct ds4_grammar *grammar, struct ds4_grammar **out,
                                 struct ds4_error *error) DS4_MUST_CHECK;
void ds4_grammar_destroy(struct ds4_grammar *grammar);

/* Tokens that may come next, for ds4_sampler_pick: *mask borrows until the next call, NULL = any. Never empty: where
 * the answer may end, the end of sequence is one of them. */
enum ds4_status ds4_grammar_mask(struct ds4_grammar *grammar, const uint32_t **mask,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Goes on with a token. STATE, and nothing changes, when the mask does not hold it. */
enum ds4_status ds4_grammar_accept(struct ds4_grammar *grammar, int32_t id, struct ds4_error *error) DS4_MUST_CHECK;
/* The answer is complete and nothing may follow. */
bool ds4_grammar_is_done(const struct ds4_grammar *grammar);
/* Whether an answer that goes on with this token can be complete after at most n more. An answer that holds to this
 * from its beginning, and takes the first token of ds4_grammar_close where it cannot, is complete before its limit. */
bool ds4_grammar_fits(struct ds4_grammar *grammar, int32_t id, size_t n);
/* Appends tokens that complete the answer, few if not fewest: none where it may end. They are accepted in this
 * order. */
enum ds4_status ds4_grammar_close(struct ds4_grammar *grammar, struct ds4_tokens *tokens,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* log softmax of one id, and the ids of the n largest logits in descending order (ties: lower id first). */
float ds4_logprob(const float *logits, size_t n_vocab, int32_t id);
void ds4_top_logits(const float *logits, size_t n_vocab, size_t n, int32_t *ids);

#ifdef __cplusplus
}
#endif
#endif
