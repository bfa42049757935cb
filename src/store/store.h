/* store.h - the struct behind ds4_store, shared by the files of this folder. */
#ifndef DS4_STORE_STORE_H
#define DS4_STORE_STORE_H

#include "store/index.h"
#include "store/writer.h"

#define STORE_NAME_BYTES 40       /* 32 hex digits, a suffix */
#define STORE_BUDGET_DEFAULT (8ull << 30)
#define STORE_QUEUE_DEFAULT (256ull << 20)
#define STORE_RATIO_DEFAULT 2.0
#define STORE_GRACE_S 3600u       /* segments without a tip may still get one from the work under way */
#define STORE_RETRIES_MAX 8       /* damaged tips that one look-up sets aside before it gives up */
#define STORE_REPLAY_BYTES_MAX (16u << 20)

struct replay;

struct ds4_store {
    const struct ds4_engine *engine;
    const struct ds4_state_layout *layout;
    struct ds4_store_options options; /* defaults filled in; dir borrows below */
    char dir[WRITER_PATH_BYTES - STORE_NAME_BYTES - 8];
    int lock_fd;                      /* -1: read-only */
    bool read_only;
    struct writer *writer;
    struct index index;
    struct replay *replay;
    uint64_t foreign_bytes;           /* files of other identities, which share the budget */
    uint64_t n_temporary;             /* numbers temporary files */
    uint64_t last_warning_s;
    struct entry_key root;
    struct ds4_store_stats stats;
};

/* Paths of an entry. */
void store_path(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key, const char *prefix,
                char out[WRITER_PATH_BYTES]);
/* Says something at most once a minute. */
void store_warn(struct ds4_store *s, const char *what, const struct ds4_error *error);
/* Renames a damaged entry to bad-* and forgets it, and with it (in memory) what needs it. */
void store_quarantine(struct ds4_store *s, const struct index_item *item, const struct ds4_error *error);
/* Takes finished writes into account. */
void store_collect(struct ds4_store *s);

/* Queues full spans only: while a long prompt is being computed. */
void store_save_rows(struct ds4_store *s, const struct ds4_session *session);

/* read.c: reading one verified entry. Front: header, table and ids as in the file (owned, ds4_text_free). */
enum ds4_status store_read_front(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key,
                                 struct entry *entry, struct ds4_text *front, int *fd,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Verified payload into dest[payload_len]. */
enum ds4_status store_read_payload(const struct ds4_store *s, int fd, const struct entry *entry,
                                   const struct ds4_text *front, uint8_t *dest, struct ds4_error *error) DS4_MUST_CHECK;
/* All token ids of a tip, from its segments and itself: appends to *tokens. */
enum ds4_status store_read_tokens(struct ds4_store *s, const struct index_item *tip, struct ds4_tokens *tokens,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* replay.c */
enum ds4_status replay_open(const char *dir, bool read_only, struct replay **out,
                            struct ds4_error *error) DS4_MUST_CHECK;
void replay_close(struct replay *r);
enum ds4_status replay_put(struct replay *r, struct ds4_span id, struct ds4_span sampled,
                           struct ds4_error *error) DS4_MUST_CHECK;
struct ds4_span replay_get(const struct replay *r, struct ds4_span id);

#endif
