/* slots.h - the sessions that the worker computes on, and which of them a prompt is given to. Worker only.
 *
 * Sessions are one more than the conversations that may be held: prompts of up to SLOT_SIDE_TOKENS - titles,
 * summaries, other requests beside a conversation - replace only what is as short, so that a long conversation never
 * leaves for them. A job whose client has left keeps its session while nobody needs it. */
#ifndef DS4_SERVE_SLOTS_H
#define DS4_SERVE_SLOTS_H

#include "serve/guard.h"
#include "serve/job.h"

#define SLOTS_MAX 64
#define SLOT_SIDE_TOKENS 1024
#define SLOT_IDLE_SECONDS 600 /* a conversation unused for so long may leave for anything */

struct slot {
    struct ds4_session *session;
    struct job *job;             /* NULL = idle */
    struct ds4_sampler *sampler;
    struct ds4_parser *parser;
    struct guard guard;
    bool decoding;
    bool closing;                /* the answer is being completed before its time: why */
    enum answer_finish closing_for;
    bool thinking;               /* the next token is one of the reasoning */
    bool began;                  /* the first chunk is done: n_reused is known */
    bool in_call;                /* the session was left inside a tool call: nobody goes on from there */
    uint64_t phase_ns;           /* when prefill or decode began */
    uint64_t used_ns;
    uint64_t left_ns;            /* when the job's client left; 0: it is there */
    size_t n_out, n_thinking;
    int32_t next;                /* picked, not yet evaluated */
    atomic_bool shown_busy;      /* for /slots, any thread; as of the last round */
    atomic_size_t shown_held, shown_reused;
};

struct slots {
    struct slot items[SLOTS_MAX];
    size_t n;                    /* conversations and one */
};

size_t slot_held(const struct slot *s);
/* Tokens of the prompt that the session could keep. */
size_t slot_usable(const struct slot *s, const struct ds4_tokens *prompt);
/* Where the prompt best goes now: a slot that is idle or whose client has left. NULL: it must wait. */
struct slot *slots_choose(struct slots *slots, const struct ds4_tokens *prompt);
/* First token where the prompt leaves the conversation that it shares most with; ANSWER_NO_MISMATCH: it leaves none. */
size_t slots_mismatch(const struct slots *slots, const struct ds4_tokens *prompt);
/* A JSON list for /slots. Any thread. */
void slots_put(struct buf *out, struct slots *slots, uint32_t ctx_tokens);

#endif
