/* fake_engine.h - a stand-in for the engine that implements the whole of ds4.h by a script, for tests of everything
 * above ds4.h without a model. Link it in place of the real one: fake_*.o stand before libds4.a.
 *
 * The vocabulary is the 256 bytes and nine control tokens, so every multi-byte character comes in pieces. Logits are a
 * pure function of the session's tokens: the script's answer to the last user turn is the likely continuation.
 *
 * The script is JSON; every member may be missing:
 *   {"name": "scripted", "ctx": 4096, "chunk": 64, "rewind": 64,   rewind: tokens that a session can go back, else 0
 *    "sessions": 4,                                                live sessions (default: as the options say)
 *    "predicted_tps": 7,                                           as if experts were streamed; default: they are not
 *    "load_ms": 0, "chunk_ms": 0, "token_ms": 0,                   delays: opening, a chunk of prefill, a token
 *    "hold": "path",                                               each pass waits while this file exists;
 *    "hold_answers": true,                                         only those of answers
 *    "hang_disk": "path",                                          writing to files waits while this file exists
 *    "quick_disk": true,                                           files are not synced
 *    "fail_open": "sentence",                                      ds4_engine_open fails with it (FORMAT)
 *    "fail_prefill": "substring",                                  prompts with it fail in prefill (DEVICE)
 *    "answers": [{"when": "substring of the last user turn",       first that matches; no "when" matches all
 *                 "think": "...", "say": "...",
 *                 "calls": [{"name": "f", "arguments": {...}}],
 *                 "token_ms": 5,                                   overrides the engine's
 *                 "fail_after": 3,                                 DEVICE after that many tokens of the answer
 *                 "nan_after": 3,                                  logits become NaN there
 *                 "endless": true,                                 the text repeats for ever, no end of sequence
 *                 "spread": 5}]}                                   first 5 tokens: any letter from a to z
 * Without a match the answer is "You said: " and the last user turn. */
#ifndef DS4_TESTS_FAKE_ENGINE_H
#define DS4_TESTS_FAKE_ENGINE_H

#include "ds4.h"

enum fake_id {
    FAKE_BOS = 256, FAKE_EOS, FAKE_PAD, FAKE_USER, FAKE_ASSISTANT, FAKE_THINK, FAKE_THINK_END, FAKE_DSML,
    FAKE_LATEST_REMINDER, FAKE_N_VOCAB
};

/* The script for every following ds4_engine_open, whatever its model_path (borrows; NULL: the script is the file at
 * model_path). */
void fake_engine_script(const char *json);

/* While it is on, a session whose state was restored fails at its next prefill (DEVICE), until it is empty again. */
void fake_engine_fail_after_restore(bool on);

struct fake_stats { /* since the program began; any thread may read while no call runs */
    uint64_t n_tokens_evaluated; /* in prefill and decode */
    uint64_t n_tokens_reused;    /* by ds4_session_sync */
    uint64_t n_chosen_ahead;     /* by ds4_sessions_next */
    uint64_t n_syncs, n_restores, n_restores_refused;
    int64_t n_engines, n_sessions, n_samplers, n_parsers; /* alive now: 0 at the end of a test without leaks */
};
const struct fake_stats *fake_engine_stats(void);

#endif
