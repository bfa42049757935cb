/* test_serve_clients.c - what real clients sent becomes, byte for byte and token for token, the prompt that an
 * independent renderer and tokenizer made of it. */
#include <stdio.h>

#include "base/mem.h"
#include "lib/full_vocab.h"
#include "lib/golden.h"
#include "lib/test.h"
#include "serve/api/request.h"
#include "text/render.h"

static struct ds4_error error;

static enum api_dialect dialect_of(const char *url)
{
    if (strstr(url, "/v1/messages")) return API_MESSAGES;
    return strstr(url, "/v1/responses") ? API_RESPONSES : API_CHAT;
}

struct wanted {
    const char *fixture, *url, *text_sha256, *ids_sha256;
    size_t request_i, n_tokens, n_bytes;
};

static struct wanted wanted_of(const json_t *row)
{
    return (struct wanted){.fixture = json_string_value(json_object_get(row, "fixture")),
                           .url = json_string_value(json_object_get(row, "url")),
                           .text_sha256 = json_string_value(json_object_get(row, "rendered_sha256")),
                           .ids_sha256 = json_string_value(json_object_get(row, "ids_u32le_sha256")),
                           .request_i = (size_t)json_integer_value(json_object_get(row, "index")),
                           .n_tokens = (size_t)json_integer_value(json_object_get(row, "n_tokens")),
                           .n_bytes = (size_t)json_integer_value(json_object_get(row, "rendered_bytes"))};
}

static bool renders_as_recorded(const struct jv *fixtures, const struct wanted *w)
{
    struct arena arena;
    struct api_request request;
    struct api_options options = {.min_p = 0.05f, .effort_table = DS4_EFFORT_PREVIEW};
    struct ds4_tokens tokens = {0};
    struct ds4_text text = {0};
    const struct jv *item = jv_get(jv_get(fixtures, w->fixture), "requests")->first;
    char text_sha256[65], ids_sha256[65];
    for (size_t i = 0; i < w->request_i; i++) item = item->next;
    arena_init(&arena, 64u << 20);
    error = (struct ds4_error){0};
    assert_ok(api_parse(dialect_of(w->url), &options, &arena, jv_get(item, "body")->raw, &request, &error), error);
    assert_ok(text_render(full_vocab(), &request.chat, &tokens, &text, &error), error);
    sha256_hex(text.ptr, text.len, text_sha256);
    sha256_hex(tokens.ids, tokens.n * sizeof *tokens.ids, ids_sha256);
    bool same = strcmp(text_sha256, w->text_sha256) == 0 && strcmp(ids_sha256, w->ids_sha256) == 0 &&
                text.len == w->n_bytes && tokens.n == w->n_tokens;
    if (!same)
        print_error("%s request %zu: %zu bytes and %zu tokens, not %zu and %zu\n", w->fixture, w->request_i, text.len,
                    tokens.n, w->n_bytes, w->n_tokens);
    if (!same) print_error("%.*s\n", (int)(text.len < 3000 ? text.len : 3000), text.ptr);
    ds4_tokens_free(&tokens);
    ds4_text_free(&text);
    arena_deinit(&arena);
    return same;
}

TEST(recorded_requests_of_all_clients_render_to_the_recorded_bytes_and_ids)
{
    struct arena arena;
    const struct jv *fixtures;
    size_t len, n_wrong = 0, n = 0, i;
    char *bytes = golden_read("tests/golden/clients/requests.json.xz", &len);
    json_t *rows = golden_json("tests/golden/clients/rendered.json"), *row;
    arena_init(&arena, 64u << 20);
    error = (struct ds4_error){0};
    assert_ok(jv_parse(&arena, span_make(bytes, len), &fixtures, &error), error);
    json_array_foreach(rows, i, row)
    {
        struct wanted w = wanted_of(row);
        n++;
        if (!renders_as_recorded(fixtures, &w)) n_wrong++;
    }
    assert_int_equal(n, 29);
    assert_int_equal(n_wrong, 0);
    json_decref(rows);
    mem_free(bytes);
    arena_deinit(&arena);
    full_vocab_release();
}

/* The request as it was one turn earlier: without its last answer and what followed. */
static bool extends_its_first_turn(const struct jv *fixtures, const struct wanted *w)
{
    struct arena arena;
    struct api_request request;
    struct api_options options = {.min_p = 0.05f, .effort_table = DS4_EFFORT_PREVIEW};
    struct ds4_tokens tokens[2] = {{0}};
    struct ds4_text text[2] = {{0}};
    arena_init(&arena, 64u << 20);
    struct ds4_span body = jv_get(jv_get(jv_get(fixtures, w->fixture), "requests")->first, "body")->raw;
    assert_ok(api_parse(dialect_of(w->url), &options, &arena, body, &request, &error), error);
    assert_ok(text_render(full_vocab(), &request.chat, &tokens[1], &text[1], &error), error);
    while (request.chat.n_messages && request.chat.messages[--request.chat.n_messages].role != DS4_ROLE_ASSISTANT) {
    }
    assert_true(request.chat.n_messages > 0);
    assert_ok(text_render(full_vocab(), &request.chat, &tokens[0], &text[0], &error), error);
    bool extends = text[0].len < text[1].len && memcmp(text[0].ptr, text[1].ptr, text[0].len) == 0 &&
                   tokens[0].n < tokens[1].n &&
                   memcmp(tokens[0].ids, tokens[1].ids, tokens[0].n * sizeof *tokens[0].ids) == 0;
    if (!extends) print_error("%s does not extend its first turn\n", w->fixture);
    for (size_t i = 0; i < 2; i++) {
        ds4_tokens_free(&tokens[i]);
        ds4_text_free(&text[i]);
    }
    arena_deinit(&arena);
    return extends;
}

TEST(recorded_second_turns_extend_the_first_byte_for_byte_and_token_for_token)
{
    struct arena arena;
    const struct jv *fixtures;
    size_t len, n_pairs = 0, n_wrong = 0, i;
    char *bytes = golden_read("tests/golden/clients/requests.json.xz", &len);
    json_t *rows = golden_json("tests/golden/clients/rendered.json"), *row;
    arena_init(&arena, 64u << 20);
    error = (struct ds4_error){0};
    assert_ok(jv_parse(&arena, span_make(bytes, len), &fixtures, &error), error);
    json_array_foreach(rows, i, row)
    {
        struct wanted w = wanted_of(row);
        if (!strstr(w.fixture, "_turn2")) continue;
        n_pairs++;
        if (!extends_its_first_turn(fixtures, &w)) n_wrong++;
    }
    assert_int_equal(n_pairs, 10);
    assert_int_equal(n_wrong, 0);
    json_decref(rows);
    mem_free(bytes);
    arena_deinit(&arena);
    full_vocab_release();
}

int main(void)
{
    return RUN_TESTS(T(recorded_requests_of_all_clients_render_to_the_recorded_bytes_and_ids),
                     T(recorded_second_turns_extend_the_first_byte_for_byte_and_token_for_token));
}
