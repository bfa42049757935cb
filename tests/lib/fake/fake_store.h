/* fake_store.h - what tests of the store on the scripted engine share: a store of tiny entries, conversations made of
 * a seed, and the question whether anything wrong is ever served. */
#ifndef DS4_TESTS_FAKE_STORE_H
#define DS4_TESTS_FAKE_STORE_H

#include "lib/fake/fake_engine.h"

#define FAKE_STORE_BASE_BYTES 200
#define FAKE_STORE_SCRIPT "{\"name\": \"first\", \"rewind\": 64, \"chunk\": 64, \"sessions\": 8, \"ctx\": 65536}"

struct ds4_engine *fake_store_engine(const char *script);
/* Token i of conversation `seed`. The first `trunk` tokens are the same for all. */
int32_t fake_store_token(uint32_t seed, size_t i, size_t trunk);
void fake_store_tokens(uint32_t seed, size_t n, size_t trunk, int32_t *ids);
struct ds4_store *fake_store_open(struct ds4_engine *engine, const char *dir, uint64_t budget_bytes);
/* Leads a new session through the store to the tokens, compares its logits with those of a session that computed all,
 * and saves it when `save` says so. Returns the tokens that came from the store. Aborts the test when logits differ. */
size_t fake_store_visit(struct ds4_engine *engine, struct ds4_store *store, const int32_t *ids, size_t n, bool save);
/* Files in the directory whose name holds the text. */
size_t fake_store_count(const char *dir, const char *text);
void fake_store_clear(const char *dir);
/* A new directory with the name in it, in memory where there is some: the disk itself is not under test. */
void fake_store_base(const char *name, char base[FAKE_STORE_BASE_BYTES]);
/* Removes the store and the base around it. */
void fake_store_leave(const char *base, const char *dir);
void fake_store_copy(const char *from, const char *to);

#endif
