/* drafts.c - how often the draft block guesses what the model says next, of answers decoded greedily.
 *
 *   drafts [MODEL [PROMPT_FILE...]]
 *
 * Prompts are rendered transcripts, as of `ds4 run --raw`; without any: a story. At every token two more are drafted.
 * Prints for all prompts together how many first drafts were what came next, and of second drafts after a right first
 * one how many. A measurement, not a test. */
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "ds4.h"

enum { DEPTH = 2, N_TOKENS = 200 };

#define A_STORY "<\xef\xbd\x9c" "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c><\xef\xbd\x9cUser\xef\xbd\x9c>" \
                "Tell me a story.<\xef\xbd\x9c" "Assistant\xef\xbd\x9c></think>"

struct score {
    unsigned drafted[DEPTH], right[DEPTH];
};

static void must(enum ds4_status status, const struct ds4_error *error)
{
    if (status == DS4_OK) return;
    (void)fprintf(stderr, "%s\n", error->message);
    exit(1);
}

static int32_t likeliest(const struct ds4_session *s, uint32_t n_vocab)
{
    const float *logits = ds4_session_logits(s);
    int32_t best = 0;
    for (uint32_t i = 1; i < n_vocab; i++)
        if (logits[i] > logits[best]) best = (int32_t)i;
    return best;
}

/* One answer: what is drafted after each of its tokens, against what the model says there itself. */
static void answer(struct ds4_engine *e, struct ds4_span prompt, struct score *score)
{
    struct ds4_error error = {0};
    struct ds4_session *s;
    struct ds4_tokens said = {0};
    must(ds4_tokenize(e, prompt, true, &said, &error), &error);
    must(ds4_session_create(e, &s, &error), &error);
    must(ds4_session_sync(s, said.ids, said.n, NULL, NULL, NULL, &error), &error);
    int32_t drafts[N_TOKENS + 1][DEPTH], tokens[N_TOKENS + 1], end = ds4_special(e)->eos;
    size_t n = 0, n_drafts;
    uint32_t n_vocab = ds4_engine_info(e)->n_vocab;
    for (tokens[0] = likeliest(s, n_vocab); n < N_TOKENS && tokens[n] != end; tokens[++n] = likeliest(s, n_vocab)) {
        must(ds4_session_draft(s, tokens[n], DEPTH, drafts[n], &n_drafts, &error), &error);
        if (n_drafts < DEPTH) must(DS4_ERR_STATE, &(struct ds4_error){.message = "the model has no draft block"});
        must(ds4_eval(e, &(struct ds4_job){.session = s, .tokens = &tokens[n], .n = 1}, 1, &error), &error);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t d = 0; d < DEPTH && i + d < n; d++) {
            score->drafted[d]++;
            if (drafts[i][d] != tokens[i + d + 1]) break;
            score->right[d]++;
        }
    }
    ds4_session_destroy(s);
    ds4_tokens_free(&said);
}

int main(int argc, char **argv)
{
    struct ds4_engine *e = NULL;
    struct ds4_error error = {0};
    struct score score = {0};
    struct ds4_engine_options options = {.model_path = argc > 1 ? argv[1] : "models/ds4-tiny.gguf", .draft = true};
    must(ds4_engine_open(&options, &e, &error), &error);
    for (int i = 2; i < argc; i++) {
        struct ds4_text text = {0};
        must(file_read_all(argv[i], 1 << 24, &text, &error), &error);
        answer(e, (struct ds4_span){text.ptr, text.len}, &score);
        ds4_text_free(&text);
    }
    if (argc <= 2) answer(e, (struct ds4_span){A_STORY, sizeof A_STORY - 1}, &score);
    for (size_t d = 0; d < DEPTH; d++)
        (void)printf("%s drafts right: %u of %u\n", d ? "second" : "first", score.right[d], score.drafted[d]);
    ds4_engine_close(e);
    return 0;
}
