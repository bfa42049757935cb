/* answer.h - one answer: prompt tokens in, events out, until the model ends or something stops it. */
#ifndef DS4_CHAT_ANSWER_H
#define DS4_CHAT_ANSWER_H

#include <signal.h>

#include "base/err.h"

/* A model that goes round in circles is stopped: a cycle of at most CYCLE_TOKENS_MAX tokens, seen CYCLE_COPIES_MIN
 * times and for CYCLE_TOTAL_MIN tokens. Honest lists and tables stay well below. */
#define CYCLE_TOKENS_MAX 64
#define CYCLE_COPIES_MIN 8
#define CYCLE_TOTAL_MIN 256

enum answer_stop {
    ANSWER_END,       /* the model ended it */
    ANSWER_LENGTH,    /* n_max tokens */
    ANSWER_CONTEXT,   /* no room for another token */
    ANSWER_CANCELLED,
    ANSWER_REPEATS,
    ANSWER_OUTPUT     /* *quit became true: nobody reads any more */
};

struct answer_request {
    struct ds4_engine *engine;
    struct ds4_session *session;
    /* Optional: becomes a second session that stands before the last token of the prompt. The next prompt may differ
     * from there on (reasoning is dropped, the turn opens otherwise), which is further back than a session can be
     * rewound. Set to NULL when there is no room for it; the old one is destroyed. */
    struct ds4_session **anchor;
    struct ds4_store *store; /* optional: state is looked for there, and what is stable is saved */
    const struct ds4_tokens *prompt;
    const struct ds4_sampling *sampling;
    struct ds4_parser_options parser;
    size_t n_max;            /* 0 = no limit but the context */
    bool keep_repeating;     /* do not look for cycles */
    const volatile sig_atomic_t *cancel;
    const bool *quit;
    ds4_event_fn event;
    void *event_user;
    ds4_progress_fn progress; /* of prefill */
    void *progress_user;
    void (*prefilled)(void *user); /* optional: the first token comes next */
    void *prefilled_user;
};

struct answer_result {
    enum answer_stop stop;
    size_t n_prompt, n_reused, n_generated;
    double prefill_s, decode_s;
};

/* Cancellation during prefill is an outcome too (ANSWER_CANCELLED), not an error. */
enum ds4_status answer_generate(const struct answer_request *request, struct answer_result *result,
                                struct ds4_error *error) DS4_MUST_CHECK;

/* Looks for cycles in a growing sequence of tokens; zero-initialise. */
struct cycle_watch {
    int32_t last[CYCLE_TOKENS_MAX];     /* ring */
    uint64_t n;
    uint64_t run[CYCLE_TOKENS_MAX + 1]; /* tokens in a row that equal the one that many places before */
};
/* True when the sequence with id appended goes round in circles. */
bool cycle_watch_add(struct cycle_watch *w, int32_t id);

#endif
