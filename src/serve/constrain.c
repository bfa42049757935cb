/* constrain.c - see constrain.h. */
#include "serve/constrain.h"

#include "base/err.h"

static bool has_form(const struct api_request *r)
{
    return r->chat.response_schema.len > 0 || r->tools_required;
}

static bool is_allowed(const struct api_request *r, struct ds4_span name)
{
    for (size_t i = 0; i < r->n_allowed; i++)
        if (span_eq(name, r->allowed[i])) return true;
    return false;
}

/* The tools that may be called. */
static enum ds4_status callable(struct api_request *r, struct ds4_grammar_options *options, struct ds4_error *error)
{
    if (!r->allowed) return DS4_OK;
    struct ds4_span *tools = arena_alloc(r->arena, r->chat.n_tools + 1, sizeof *tools);
    if (!tools) return err_set(error, DS4_ERR_NOMEM, "no memory for the tools");
    options->tools = tools;
    options->n_tools = 0;
    for (size_t i = 0; i < r->chat.n_tools; i++) {
        const struct jv *function;
        TRY(jv_parse(r->arena, r->chat.tools[i], &function, error));
        if (is_allowed(r, jv_text(jv_get(function, "name")))) tools[options->n_tools++] = r->chat.tools[i];
    }
    if (options->n_tools > 0) return DS4_OK;
    return err_set(error, DS4_ERR_FORMAT, "allowed_tools names no tool that is among the tools");
}

/* Leads the grammar to the end of the message that the answer goes on from. */
static enum ds4_status go_on_from(const struct ds4_engine *engine, const struct ds4_message *last,
                                  struct ds4_grammar *grammar, struct ds4_error *error)
{
    struct ds4_tokens said = {0};
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < last->n_parts && status == DS4_OK; i++)
        status = ds4_tokenize(engine, last->parts[i], false, &said, error);
    for (size_t i = 0; i < said.n && status == DS4_OK; i++) status = ds4_grammar_accept(grammar, said.ids[i], NULL);
    ds4_tokens_free(&said);
    if (status == DS4_ERR_STATE)
        return err_set(error, DS4_ERR_FORMAT, "the last assistant message begins no answer of the form asked for");
    return status == DS4_OK || error->message[0] ? status : err_set(error, status, "no memory for the answer's form");
}

enum ds4_status constrain_job(const struct ds4_engine *engine, const struct ds4_token_index *index, struct job *job,
                              struct ds4_error *error)
{
    struct api_request *r = &job->request;
    const struct ds4_message *last = r->chat.n_messages ? &r->chat.messages[r->chat.n_messages - 1] : NULL;
    bool goes_on = last && last->role == DS4_ROLE_ASSISTANT;
    if (r->raw || (!has_form(r) && r->chat.n_tools == 0)) return DS4_OK;
    r->param = r->tools_required || r->allowed ? "tool_choice" : r->chat.response_schema.len ? "response_format"
                                                                                             : "tools";
    if ((has_form(r) || r->allowed) && !index)
        return err_set(error, DS4_ERR_UNSUPPORTED, "this model's vocabulary cannot be held to a form");
    if (!index) return DS4_OK;
    struct ds4_grammar_options options = {
        .schema = r->chat.response_schema, .tools = r->chat.tools, .n_tools = r->chat.n_tools,
        .tools_required = r->tools_required, .tool_name = r->tool_name, .one_call = r->one_call,
        .in_thinking = r->chat.think != DS4_THINK_NONE && !goes_on};
    TRY(callable(r, &options, error));
    TRY(ds4_grammar_create(index, &options, &job->grammar, error));
    return has_form(r) && goes_on ? go_on_from(engine, last, job->grammar, error) : DS4_OK;
}

bool constrain_completes(const struct job *job) { return job->grammar && has_form(&job->request); }

enum constrain_result constrain_token(const struct job *job, size_t n_left, bool close, int32_t *id)
{
    struct ds4_grammar *grammar = job->grammar;
    struct ds4_tokens way = {0};
    enum constrain_result result = CONSTRAIN_OK;
    if (close || (has_form(&job->request) && !ds4_grammar_fits(grammar, *id, n_left - 1))) {
        if (ds4_grammar_close(grammar, &way, NULL) != DS4_OK) result = CONSTRAIN_FAILED;
        else if (way.n == 0) result = CONSTRAIN_CLOSED;
        else *id = way.ids[0];
        ds4_tokens_free(&way);
    }
    if (result != CONSTRAIN_OK) return result;
    return ds4_grammar_accept(grammar, *id, NULL) == DS4_OK ? CONSTRAIN_OK : CONSTRAIN_FAILED;
}
