/* answer.h - events of the parser to the reply of a dialect, streamed or whole.
 *
 * One answer belongs to one request and is used by the worker only. Stop strings are looked for in the visible text,
 * across tokens: the longest tail that may become one is held back. */
#ifndef DS4_SERVE_API_ANSWER_H
#define DS4_SERVE_API_ANSWER_H

#include "serve/api/request.h"
#include "serve/http/exchange.h"

#define ANSWER_CALLS_MAX 128
#define ANSWER_ID_BYTES 48

/* LOOP: cut off because it went round in a cycle. */
enum answer_finish { FINISH_STOP, FINISH_LENGTH, FINISH_CALLS, FINISH_SEQUENCE, FINISH_LOOP };

struct answer_call {
    char id[ANSWER_ID_BYTES];
    struct buf name, arguments;
    bool ended;
};

#define ANSWER_NO_MISMATCH SIZE_MAX
struct answer_usage {
    size_t n_prompt, n_reused, n_out, n_thinking;
    double prefill_s, decode_s;
    const char *source;        /* of what was reused: "ram", "disk", "none" */
    size_t reused_bytes;
    size_t mismatch, mismatch_byte; /* first token, and its byte, where the prompt leaves the held conversation nearest
                                       to it; ANSWER_NO_MISMATCH: it extends that one, or nothing is held */
};

struct answer_writer;
struct answer {
    const struct api_request *request;
    struct exchange *exchange;
    const struct answer_writer *writer;
    char id[ANSWER_ID_BYTES];
    uint64_t created;
    struct buf think, text;    /* shown so far */
    struct ds4_stop *stop;     /* holds back visible text that may begin a stop string; NULL: there are none */
    struct answer_call *calls;
    size_t n_calls;
    struct buf out;            /* events not yet handed to the exchange */
    struct buf logprobs[2];    /* of tokens of the answer and of thinking; not yet written */
    struct answer_usage usage;
    struct answer_usage before; /* tokens of the answers to earlier prompts of the request */
    size_t choice_i;           /* which of several prompts this answers */
    enum answer_finish finish;
    struct ds4_span stop_sequence;
    bool thinking_ended;
    bool hold_calls;           /* calls are shown when all are there and `repeats` has looked at them */
    bool ended;                /* generation should stop: a stop string, or the calls are complete */
    bool begun;
    int block;                 /* the dialect's: kind of the open block, -1 = none */
    size_t n_blocks, n_events;
    struct buf items;          /* Responses: finished items, with commas */
    size_t item_from;          /* where the text of the open item begins */
    struct buf part_logprobs;  /* of the open item, those that events have shown */
    bool reasoned;             /* the reasoning has become an item */
    void (*sampled)(void *user, const struct answer *a, struct ds4_span block); /* the calls' exact bytes */
    bool (*repeats)(void *user, const struct answer *a); /* the calls close a cycle: not to be shown */
    void *sampled_user;        /* of both */
};

/* How a dialect writes. Each appends events to a->out; whole builds the reply that is not streamed. */
struct answer_writer {
    void (*begin)(struct answer *a);
    void (*think)(struct answer *a, struct ds4_span text);
    void (*text)(struct answer *a, struct ds4_span text);
    void (*call_begin)(struct answer *a, size_t call_i);
    void (*call_arguments)(struct answer *a, size_t call_i, struct ds4_span text);
    void (*call_end)(struct answer *a, size_t call_i);
    void (*end)(struct answer *a);
    void (*fail)(struct answer *a, const char *sentence);
    void (*whole)(struct answer *a);
};
/* The end of one of several choices of /v1/completions. */
void answer_completions_end_choice(struct answer *a);
/* An event of /v1/chat/completions beside those of the table. */
void answer_chat_progress(struct answer *a, size_t n_read, double seconds);
extern const struct answer_writer answer_chat, answer_completions, answer_messages, answer_responses;

enum ds4_status answer_init(struct answer *a, const struct api_request *request, struct exchange *x,
                            struct ds4_error *error) DS4_MUST_CHECK;
void answer_deinit(struct answer *a);
/* So many tokens of the prompt are read, after so long: an event for those who asked for it. */
void answer_progress(struct answer *a, size_t n_read, double seconds);
/* The prompt is evaluated: usage.n_prompt and n_reused are known, and a stream begins. */
void answer_begin(struct answer *a);
/* A ds4_event_fn; user is the answer. */
void answer_event(void *user, const struct ds4_event *event);
/* Sends what the events since the last flush made. */
void answer_flush(struct answer *a);
/* The last words. finish is FINISH_STOP or FINISH_LENGTH; calls and stop strings say the rest. */
void answer_end(struct answer *a, enum answer_finish finish);
/* The last words to one of several prompts; what follows is the answer to the next. Completions only. */
void answer_end_choice(struct answer *a, enum answer_finish finish);
/* Instead of answer_end. sentence is constant. */
void answer_fail(struct answer *a, const char *sentence);

/* For requests with logprobs: the token that was chosen from the logits, and its alternatives. */
void answer_add_logprobs(struct answer *a, const struct ds4_engine *engine, const float *logits, int32_t id,
                         bool thinking);
/* ,"logprobs": with those since the last time, or null. */
void answer_put_logprobs(struct answer *a);
/* Whether the answer is less than the model wanted to say. */
bool answer_is_cut(const struct answer *a);
/* "ds4_cache":{...}: why the prompt was fast or slow. */
void answer_put_cache(struct buf *out, const struct answer *a);
/* The same as a header line. */
void answer_tell_cache(struct answer *a);

/* prefix and n_digits hexadecimal digits that nobody can guess. */
void answer_make_id(char out[ANSWER_ID_BYTES], const char *prefix, size_t n_digits);
/* An error body in the shape of the dialect. param, code: may be NULL. */
void answer_put_error(struct buf *out, enum api_dialect dialect, int status, const char *sentence, const char *param,
                      const char *code);
/* The same for a stream that has begun, but whose answer has not. */
void answer_put_error_event(struct buf *out, enum api_dialect dialect, struct ds4_span error_body,
                            const char *sentence);

#endif
