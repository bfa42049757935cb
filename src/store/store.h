/* store.h - the struct behind ds4_store, shared by the files of this folder. */
#ifndef DS4_STORE_STORE_H
#define DS4_STORE_STORE_H

#include "store/index.h"
#include "store/writer.h"

#define STORE_NAME_BYTES 48       /* "bad-", 32 hex digits, a suffix */
#define STORE_BUDGET_DEFAULT (8ull << 30)
#define STORE_QUEUE_DEFAULT (256ull << 20)
#define STORE_RATIO_DEFAULT 2.0
#define STORE_GRACE_S 3600u       /* segments without a tip may still get one from the work under way */
#define STORE_RETRIES_MAX 8       /* damaged tips that one look-up sets aside before it gives up */
#define STORE_REPLAY_BYTES_MAX (16u << 20)
#define STORE_PERIOD_SEGMENTS 8   /* a periodic tip at most every 2,048 tokens */
#define STORE_PERIODIC_SHARE 0.5  /* of the bytes that tips may take beside rows */
#define STORE_OTHERS_MAX 65536    /* files of other identities that are looked after */

struct replay;

/* A file in the directory that is not of our identity, or damaged ("bad-..."). It shares the budget. */
struct store_other {
    char name[STORE_NAME_BYTES];
    bool bad;
    enum entry_kind kind;
    uint64_t bytes, created, text_len;
    uint8_t text_digest[16];
};

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
    struct store_other *others;
    size_t n_others, others_cap;
    uint64_t other_bytes;
    uint64_t n_segments_since_tip;    /* queued */
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
/* Renames a damaged entry to bad-* and forgets it, and with it (in memory) what needs it. One that only could not be
 * read (IO) keeps its name: it may be good. */
void store_quarantine(struct ds4_store *s, const struct index_item *item, const struct ds4_error *error);
/* Takes finished writes into account. */
void store_collect(struct ds4_store *s);

/* Removes entries until `extra` more bytes fit in the budget. keep: a prefix that must stay. */
bool store_make_room(struct ds4_store *s, uint64_t extra, const struct entry_key *keep);
/* Removes the files of everything that the index calls doomed. Returns the bytes. */
uint64_t store_remove_doomed(struct ds4_store *s);
void store_remove_other(struct ds4_store *s, size_t i);
/* Bytes of an entry that are rows of new tokens: a segment's, or the part of a tip after the last full span. */
uint64_t store_row_bytes(const struct ds4_store *s, const struct index_item *item);
/* All segments before a tip are on disk, and so is the tip. */
bool store_is_whole(const struct ds4_store *s, const struct index_item *tip);
/* A finished file goes to the writer. bytes is taken. */
bool store_queue_file(struct ds4_store *s, struct ds4_text *bytes, const struct index_item *item,
                      const struct entry_key *keep);
/* The writer has as much as it may: what comes now is left out or waits. */
bool store_queue_is_full(const struct ds4_store *s);
void store_key_text(const struct entry_key *key, char out[DS4_STORE_KEY_TEXT]);
/* The tip whose key begins with these digits. STATE when there is none or more than one. */
enum ds4_status store_find_key(struct ds4_store *s, const char *digits, struct index_item **out,
                               struct ds4_error *error) DS4_MUST_CHECK;
/* Length and digest of the text of tokens. False when out of memory. */
bool store_text_digest(const struct ds4_store *s, const int32_t *ids, size_t n, uint64_t *len, uint8_t digest[16]);

/* read.c: reading one verified entry. Front: header, table and ids as in the file (owned, ds4_text_free). */
enum ds4_status store_read_front(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key,
                                 struct entry *entry, struct ds4_text *front, int *fd,
                                 struct ds4_error *error) DS4_MUST_CHECK;
/* Verified payload into dest[payload_len]. */
enum ds4_status store_read_payload(struct ds4_store *s, int fd, const struct entry *entry,
                                   const struct ds4_text *front, uint8_t *dest, struct ds4_error *error) DS4_MUST_CHECK;
/* All token ids of a tip, from its segments and itself: appends to *tokens. */
enum ds4_status store_read_tokens(struct ds4_store *s, const struct index_item *tip, struct ds4_tokens *tokens,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* usage.c: hits and last uses of this identity's entries. */
void usage_read(struct ds4_store *s);
void usage_write(struct ds4_store *s);

/* replay.c */
enum ds4_status replay_open(const char *dir, bool read_only, struct replay **out,
                            struct ds4_error *error) DS4_MUST_CHECK;
void replay_close(struct replay *r);
enum ds4_status replay_put(struct replay *r, struct ds4_span id, struct ds4_span sampled,
                           struct ds4_error *error) DS4_MUST_CHECK;
/* What the file lacks, to be written; job->bytes stays empty when it lacks nothing. */
enum ds4_status replay_take(struct replay *r, struct writer_job *job, struct ds4_error *error) DS4_MUST_CHECK;
/* The file is not what was meant: the next replay_take has all of it. */
void replay_write_all(struct replay *r);
struct ds4_span replay_get(const struct replay *r, struct ds4_span id);

#endif
