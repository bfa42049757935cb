/* fuzz_request.c - bodies of the four dialects to what they ask for. What is accepted keeps its bounds, renders, and
 * makes no more control tokens than it has turns, whatever its texts spell; what is refused says so in one valid
 * sentence; and the same bytes are read alike twice. First byte: dialect and options. */
#include "serve/api/request.h"
#include "text/render.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t count(const struct ds4_tokens *ids, int32_t id)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) n += ids->ids[i] == id;
    return n;
}

static void check_bounds(const struct api_request *r)
{
    const struct ds4_sampling *s = &r->sampling;
    fuzz_check(r->chat.n_messages <= API_MESSAGES_MAX && r->chat.n_tools <= API_TOOLS_MAX);
    fuzz_check(r->n_stops <= DS4_STOPS_MAX && s->n_bias <= API_BIAS_MAX && r->n_prompts <= API_PROMPTS_MAX);
    for (size_t i = 0; i < r->n_stops; i++) fuzz_check(r->stops[i].len > 0 && r->stops[i].len <= DS4_STOP_BYTES_MAX);
    fuzz_check(r->top_logprobs <= API_TOP_LOGPROBS_MAX && r->n_max <= 1000000000u);
    fuzz_check(s->temperature >= 0 && s->top_p > 0 && s->top_p <= 1 && s->min_p >= 0 && s->min_p <= 1);
    for (size_t i = 0; i < r->prompt_ids.n; i++) fuzz_check(r->prompt_ids.ids[i] >= 0);
    fuzz_check(r->raw || r->chat.n_messages > 0 || r->dialect == API_MESSAGES || r->dialect == API_RESPONSES);
}

static void check_rendered(const struct api_request *r)
{
    const struct ds4_special_ids *special = vocab_special(fuzz_vocab());
    struct ds4_tokens ids = {0};
    struct ds4_text text = {0};
    struct ds4_error error = {0};
    enum ds4_status status = text_render(fuzz_vocab(), &r->chat, &ids, &text, &error);
    fuzz_check(status == DS4_OK || status == DS4_ERR_FORMAT || status == DS4_ERR_LIMIT);
    if (status == DS4_OK) {
        fuzz_check(ids.n > 0 && ids.ids[0] == special->bos && count(&ids, special->bos) == 1);
        fuzz_check(count(&ids, special->user) <= r->chat.n_messages);
        fuzz_check(count(&ids, special->assistant) <= r->chat.n_messages + 1);
        fuzz_check(count(&ids, special->eos) <= r->chat.n_messages);
        fuzz_check(utf8_valid(span_make(text.ptr, text.len)));
    }
    ds4_tokens_free(&ids);
    ds4_text_free(&text);
}

static enum ds4_status read(const uint8_t *data, size_t size, struct arena *arena, struct api_request *out,
                            struct ds4_error *error)
{
    struct api_options options = {.min_p = 0.05f, .effort_table = data[0] & 4 ? DS4_EFFORT_0731 : DS4_EFFORT_PREVIEW,
                                  .tools_first = (data[0] & 8) != 0, .think_budget = data[0] & 16 ? 100 : 0};
    arena_init(arena, 16u << 20);
    return api_parse((enum api_dialect)(data[0] & 3), &options, arena, span_make((const char *)data + 1, size - 1), out,
                     error);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arenas[2];
    struct api_request requests[2];
    struct ds4_error errors[2] = {{0}};
    enum ds4_status status[2];
    if (size < 2 || size > 1 << 16) return 0;
    for (int i = 0; i < 2; i++) status[i] = read(data, size, &arenas[i], &requests[i], &errors[i]);
    fuzz_check(status[0] == status[1] && strcmp(errors[0].message, errors[1].message) == 0);
    if (status[0] == DS4_OK) {
        fuzz_check(requests[0].chat.n_messages == requests[1].chat.n_messages);
        check_bounds(&requests[0]);
        if (!requests[0].raw) check_rendered(&requests[0]);
    } else {
        fuzz_check(status[0] == DS4_ERR_FORMAT || status[0] == DS4_ERR_LIMIT || status[0] == DS4_ERR_UNSUPPORTED);
        fuzz_check(errors[0].message[0] && utf8_valid(span_from(errors[0].message)));
    }
    for (int i = 0; i < 2; i++) arena_deinit(&arenas[i]);
    return 0;
}
