/* constrain.c - see constrain.h. */
#include "serve/constrain.h"

static bool has_form(const struct api_request *r)
{
    return r->chat.response_schema.len > 0 || r->tools_required;
}

enum ds4_status constrain_job(const struct ds4_token_index *index, struct job *job, struct ds4_error *error)
{
    struct api_request *r = &job->request;
    const struct ds4_message *last = r->chat.n_messages ? &r->chat.messages[r->chat.n_messages - 1] : NULL;
    bool goes_on = last && last->role == DS4_ROLE_ASSISTANT;
    if (r->raw || (!has_form(r) && r->chat.n_tools == 0)) return DS4_OK;
    r->param = r->tools_required ? "tool_choice" : r->chat.response_schema.len ? "response_format" : "tools";
    if (has_form(r) && (!index || goes_on))
        return err_set(error, DS4_ERR_UNSUPPORTED, index ? "an answer in a form cannot go on from a last assistant "
                       "message" : "this model's vocabulary cannot be held to a form");
    if (!index) return DS4_OK;
    struct ds4_grammar_options options = {
        .schema = r->chat.response_schema, .tools = r->chat.tools, .n_tools = r->chat.n_tools,
        .tools_required = r->tools_required, .tool_name = r->tool_name, .one_call = r->one_call,
        .in_thinking = r->chat.think != DS4_THINK_NONE && !goes_on};
    return ds4_grammar_create(index, &options, &job->grammar, error);
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
