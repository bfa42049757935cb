/* fake_internal.h - what the files of the scripted engine share. See fake_engine.h. */
#ifndef DS4_TESTS_FAKE_INTERNAL_H
#define DS4_TESTS_FAKE_INTERNAL_H

#include "base/buf.h"
#include "lib/fake/fake_engine.h"

#define FAKE_ANSWERS_MAX 64
#define FAKE_SPAN_TOKENS 64

struct fake_answer {
    struct ds4_span when; /* empty: always */
    struct ds4_span think;
    struct ds4_text body; /* say and calls as the model would write them; markers as literal text */
    uint32_t token_ms;
    int64_t fail_after, nan_after, spread; /* -1 = never; 0 */
    bool endless;
};

struct ds4_engine {
    struct ds4_model_info info;
    struct ds4_special_ids special;
    struct ds4_state_layout layout;
    struct fake_answer answers[FAKE_ANSWERS_MAX];
    size_t n_answers;
    uint32_t rewind_tokens, load_ms, chunk_ms, token_ms, n_sessions;
    double predicted_tps;
    struct ds4_span fail_open, fail_prefill;
    char path[512], name[64], hold[512];
    bool hold_answers;
    void *script; /* json_t: owns the spans */
};

extern struct fake_stats fake_stats;

/* Fills the engine from a script. */
enum ds4_status fake_script_load(const char *json, size_t len, struct ds4_engine *engine, struct ds4_error *error);
void fake_script_free(struct ds4_engine *engine);

/* From now on files are synced at once, or, with a path, writing to them waits while there is a file at it. */
void fake_disk_use(struct ds4_span hang_while);

/* Literal text of a control token (256 and up). */
struct ds4_span fake_marker(int32_t id);
enum ds4_status fake_tokens_of(struct ds4_span text, bool special, struct ds4_tokens *out);

/* What the script wants after these tokens. */
struct fake_next {
    int32_t id;       /* the likely token */
    bool nan, fail, spread;
    uint32_t token_ms;
};
enum ds4_status fake_next_token(const struct ds4_engine *engine, const int32_t *ids, size_t n, struct fake_next *out);

#endif
