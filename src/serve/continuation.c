/* continuation.c - see continuation.h. */
#include "serve/continuation.h"

#include <stdio.h>

#define SHOWN_ID_BYTES_MAX 64

/* The first result of a tail without its call; n_messages: there is none. */
static size_t find_tail(const struct ds4_chat *chat)
{
    size_t at = chat->n_messages;
    while (at > 0 && chat->messages[at - 1].role != DS4_ROLE_ASSISTANT) at--;
    while (at < chat->n_messages && chat->messages[at].role != DS4_ROLE_TOOL) at++;
    return at;
}

static bool has_call(const struct ds4_chat *chat, struct ds4_span id)
{
    for (size_t i = 0; i < chat->n_messages; i++)
        for (size_t k = 0; k < chat->messages[i].n_calls; k++)
            if (span_eq(chat->messages[i].calls[k].id, id)) return true;
    return false;
}

/* Whether a result's call is in the request, or the result has no id to find it by. */
static bool is_replayed(const struct ds4_chat *chat, size_t tail)
{
    for (size_t i = tail; i < chat->n_messages; i++) {
        const struct ds4_message *m = &chat->messages[i];
        if (m->role == DS4_ROLE_TOOL && (m->tool_call_id.len == 0 || has_call(chat, m->tool_call_id))) return true;
    }
    return false;
}

/* System texts apart, the request begins with its results. */
static bool has_only_results(const struct ds4_chat *chat, size_t tail)
{
    for (size_t i = 0; i < tail; i++)
        if (chat->messages[i].role != DS4_ROLE_SYSTEM) return false;
    return true;
}

/* Nothing of a request is repeated unless it looks like an id. */
static bool is_plain(struct ds4_span id)
{
    for (size_t i = 0; i < id.len; i++) {
        char c = id.ptr[i];
        bool letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
        if (!letter && c != '_' && c != '-') return false;
    }
    return id.len <= SHOWN_ID_BYTES_MAX;
}

static void refuse(struct job *job, struct ds4_span id)
{
    static const struct {
        const char *id, *history;
    } names[] = {[API_CHAT] = {"tool_call_id", "messages"}, [API_COMPLETIONS] = {"", "prompt"},
                 [API_MESSAGES] = {"tool_use_id", "messages"}, [API_RESPONSES] = {"call_id", "input"}};
    char sentence[256];
    bool plain = is_plain(id);
    (void)snprintf(sentence, sizeof sentence, "tool continuation state is not available for %s%s%.*s; retry by "
                   "replaying the full %s history", names[job->dialect].id, plain ? " " : "",
                   plain ? (int)id.len : 0, id.ptr, names[job->dialect].history);
    job_refuse(job, 400, sentence, names[job->dialect].history, "continuation_state_unavailable");
}

/* Appends what stands between a turn and the next answer: the end of the turn, the results, the next opener. It is cut
 * from a conversation of the calls and their results alone, whose first end of a turn is that of the calls. */
static enum ds4_status append_results(const struct ds4_engine *engine, struct job *job, size_t tail,
                                      const struct ds4_tool_call *calls, size_t n_calls, struct ds4_error *error)
{
    const struct ds4_chat *whole = &job->request.chat;
    size_t n = whole->n_messages - tail, from = 0;
    struct ds4_message *messages = arena_alloc(&job->arena, n + 1, sizeof *messages);
    struct ds4_tokens ids = {0};
    if (!messages) return err_set(error, DS4_ERR_NOMEM, "no memory for the results");
    messages[0] = (struct ds4_message){.role = DS4_ROLE_ASSISTANT, .calls = calls, .n_calls = n_calls};
    memcpy(messages + 1, whole->messages + tail, n * sizeof *messages);
    struct ds4_chat chat = {.messages = messages, .n_messages = n + 1, .think = whole->think,
                            .effort_table = whole->effort_table};
    enum ds4_status status = ds4_render(engine, &chat, &ids, NULL, error);
    while (status == DS4_OK && from < ids.n && ids.ids[from] != ds4_special(engine)->eos) from++;
    if (status == DS4_OK) status = ds4_tokens_append(&job->prompt, ids.ids + from, ids.n - from);
    ds4_tokens_free(&ids);
    return status;
}

enum ds4_status continuation_of(const struct ds4_engine *engine, struct recall *recall, struct job *job,
                                enum continuation *out, struct ds4_error *error)
{
    const struct ds4_chat *chat = &job->request.chat;
    const struct ds4_tool_call *calls = NULL;
    size_t tail = find_tail(chat), n_calls = 0;
    *out = CONTINUATION_NONE;
    if (tail == chat->n_messages || is_replayed(chat, tail)) return DS4_OK;
    if (recall && recall_turn(recall, &job->arena, chat->messages + tail, chat->n_messages - tail, &job->prompt, &calls,
                              &n_calls) != DS4_OK)
        return err_set(error, DS4_ERR_NOMEM, "no memory for the turn before the results");
    if (n_calls > 0) {
        *out = CONTINUATION_READY;
        job->request.continues = true;
        return append_results(engine, job, tail, calls, n_calls, error);
    }
    if (!has_only_results(chat, tail)) return DS4_OK;
    refuse(job, chat->messages[tail].tool_call_id);
    *out = CONTINUATION_REFUSED;
    return DS4_OK;
}
