/* request.h - what a request asks for, whatever dialect it came in: one chat (or raw prompt), limits, sampling and how
 * the answer is to be written. Everything borrows from the request's arena or from constants. */
#ifndef DS4_SERVE_API_REQUEST_H
#define DS4_SERVE_API_REQUEST_H

#include "base/buf.h"
#include "serve/json.h"

/* Limits of a request. */
#define API_MESSAGES_MAX 10000
#define API_TOOLS_MAX 512
#define API_BIAS_MAX 1024
#define API_TOP_LOGPROBS_MAX 20
#define API_PROMPTS_MAX 64 /* of one request for completions */
#define API_TOKENS_DEFAULT 32768u /* most tokens of an answer when the client does not say */

enum api_dialect { API_CHAT, API_COMPLETIONS, API_MESSAGES, API_RESPONSES };

struct api_request {
    enum api_dialect dialect;
    struct arena *arena;
    const struct jv *body;
    struct ds4_chat chat;
    struct ds4_span model;          /* as sent, to be echoed */
    bool raw;                       /* prompt instead of chat */
    struct ds4_span prompt;
    const struct ds4_span *prompts; /* several, answered one after the other; prompt is the one at hand */
    size_t n_prompts;               /* 0: only prompt */
    struct ds4_span suffix;         /* what follows the text to be filled in; ptr NULL: nothing is filled in */
    bool echo;                      /* the answer begins with the prompt */
    struct ds4_tokens prompt_ids;   /* ids instead of text; arena memory */
    bool stream, include_usage;
    bool show_thinking;
    bool return_progress;           /* events while the prompt is read */
    bool encrypted_reasoning;       /* the client keeps the reasoning sealed (sealed.h) */
    bool one_call;                  /* parallel_tool_calls: false */
    bool has_seed;
    bool logprobs;
    uint32_t top_logprobs;
    uint32_t n_max;                 /* most tokens of the answer */
    uint32_t think_budget;          /* most tokens of thinking; 0 = no bound */
    bool no_loop_guard;
    struct ds4_sampling sampling;
    struct ds4_span stops[DS4_STOPS_MAX];
    size_t n_stops;
    bool continues;                 /* only results of calls came: the rest is known (continuation.h), tools included */
    bool tools_required;            /* the answer is a call: tool_choice */
    struct ds4_span tool_name;      /* of this tool; empty = any */
    const struct ds4_span *allowed; /* only these tools may be called; NULL = any */
    size_t n_allowed;
    const char *unsupported;        /* a parameter that cannot be honoured (constant text), else NULL */
    const char *param;              /* which parameter an error is about (constant text) */
    const struct jv *tool_names;    /* Responses: the tools array, to give namespaced calls their names back */
};

/* Known calls of earlier answers: gives the sampled bytes for the calls of one message and the reasoning before them,
 * or an empty span and nothing. */
typedef struct ds4_span (*api_replay_fn)(void *user, struct arena *arena, const struct ds4_tool_call *calls,
                                         size_t n_calls, struct ds4_span *reasoning);
struct api_options {
    float min_p;                    /* when the client is silent */
    uint32_t think_budget;          /* the same; 0 = no bound */
    enum ds4_effort_table effort_table;
    bool tools_first;
    api_replay_fn replay;           /* optional */
    void *replay_user;
};

/* Reads a body. Nothing of the request is repeated in the error's message. */
enum ds4_status api_parse(enum api_dialect dialect, const struct api_options *options, struct arena *arena,
                          struct ds4_span body, struct api_request *out, struct ds4_error *error) DS4_MUST_CHECK;

/* Whether the model knows of tools that it may call. */
static inline bool api_has_tools(const struct api_request *r) { return r->chat.n_tools > 0 || r->continues; }

/* ---- for the files of the dialects --------------------------------------------------------------------------- */

struct api_builder {
    struct api_request *request;
    const struct api_options *options;
    struct arena *arena;
    struct ds4_message *messages;
    size_t n, cap;
    const char *list; /* being read, with the item there; NULL = none */
    size_t item;
    struct ds4_error *error;
};

/* Says in the error which item of the request is being read. */
static inline void api_at(struct api_builder *b, const char *list, size_t item)
{
    b->list = list;
    b->item = item;
}
/* FORMAT. Within a list "messages[3]: " stands before the sentence. */
enum ds4_status api_refuse(struct api_builder *b, const char *param, const char *format, ...)
    __attribute__((format(printf, 3, 4))) DS4_MUST_CHECK;
enum ds4_status api_no_memory(struct api_builder *b) DS4_MUST_CHECK;
/* Appends an empty message. */
enum ds4_status api_message(struct api_builder *b, enum ds4_role role, struct ds4_message **out) DS4_MUST_CHECK;
enum ds4_status api_one_part(struct api_builder *b, struct ds4_message *m, struct ds4_span text) DS4_MUST_CHECK;
/* Text parts of a content: string, null, or parts with "text". tool: parts without text become a note of their type;
 * elsewhere they are refused. */
enum ds4_status api_parts(struct api_builder *b, struct ds4_message *m, const struct jv *content,
                          bool tool) DS4_MUST_CHECK;
/* a + between + b. */
enum ds4_status api_join(struct api_builder *b, struct ds4_span *text, const char *between,
                         struct ds4_span more) DS4_MUST_CHECK;
enum ds4_status api_add_call(struct api_builder *b, struct ds4_message *m, struct ds4_span id, struct ds4_span name,
                             struct ds4_span arguments) DS4_MUST_CHECK;
/* Function object of name, description and schema (each may be NULL). */
enum ds4_status api_function_object(struct api_builder *b, struct ds4_span name, const struct jv *description,
                                    const struct jv *schema, bool strict, struct ds4_span *out) DS4_MUST_CHECK;
enum ds4_status api_add_tool(struct api_builder *b, struct ds4_span function) DS4_MUST_CHECK;

/* tool_choice in any dialect: "required", an object that names a tool, or of a type "any", "tool", "function",
 * "allowed_tools". */
enum ds4_status api_tool_choice(struct api_builder *b, const struct jv *choice) DS4_MUST_CHECK;
/* top_logprobs of a request. */
enum ds4_status api_top_logprobs(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;
/* The form of the answer: type "json_object" or "json_schema". param: the member of the request. */
enum ds4_status api_format(struct api_builder *b, const struct jv *type, const struct jv *schema,
                           const char *param) DS4_MUST_CHECK;
enum ds4_status api_effort(struct api_builder *b, const struct jv *effort, const char *param) DS4_MUST_CHECK;
enum ds4_status api_common(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;

enum ds4_status api_parse_chat(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;
enum ds4_status api_parse_completions(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;
enum ds4_status api_parse_messages(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;
enum ds4_status api_parse_responses(struct api_builder *b, const struct jv *body) DS4_MUST_CHECK;
/* The full name of a call whose tool lies in a namespace: both joined, by "__" where the namespace's name needs it. */
enum ds4_status api_namespaced(struct api_builder *b, struct ds4_span space, struct ds4_span name,
                               struct ds4_span *out) DS4_MUST_CHECK;
bool api_space_needs_mark(struct ds4_span space); /* space is not empty */

#endif
