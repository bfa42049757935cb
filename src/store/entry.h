/* entry.h - the files of the store: bytes <-> headers, and their verification. Knows no directory and no session.
 *
 * Both kinds are immutable once renamed into place. Little-endian. `identity` is the digest of everything that makes
 * state valid: model, quantisation, tokenizer, layout, numeric mode and arithmetic (ds4_state_layout). A key names a
 * prefix of tokens under an identity: key(0) = H("DS4K", identity), key(i+1) = H(key(i), tokens of span i).
 *
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     magic: "DS4S" a segment, "DS4P" a tip
 *   4       4     format version, 1
 *   8       16    identity
 *   24      16    key: of the prefix that ends with this span; of a tip H(parent, rest of the tokens, their number)
 *   40      16    parent: key of the prefix before
 *   56      8     n_tokens: of the whole prefix that the entry ends
 *   64      8     text_len: bytes of the prefix rendered as text (tips; 0 in segments)
 *   72      16    digest of that text
 *   88      4     number of token ids that follow the table
 *   92      4     reason of the save (enum ds4_save_reason; 0 in segments)
 *   96      8     payload_len
 *   104     8     tip_len: the last bytes of the payload are the session's tip, what is before it a partial span
 *   112     8     created, Unix seconds
 *   120     4     block_bytes: the payload is verified in blocks of this size
 *   124     4     n_blocks
 *   128     16    digest of bytes [0, 128), the table and the ids
 *   144     16 n_blocks    table: digest of each block
 *   ...     4 n_ids        token ids: of the span, or after the last full span
 *   ...     payload_len    payload
 * Digests are XXH3-128: against accidents. Who checks:
 * entry_parse_header and entry_verify_front everything but the payload, entry_block_ok that. */
#ifndef DS4_STORE_ENTRY_H
#define DS4_STORE_ENTRY_H

#include "base/buf.h"

#define ENTRY_HEADER_BYTES 144u
#define ENTRY_FORMAT 1u
#define ENTRY_BLOCK_BYTES (1u << 20)
#define ENTRY_IDS_MAX 4096u               /* more than any span has */
#define ENTRY_PAYLOAD_MAX (1ull << 32)    /* a span of Pro is 1.5 MB, a tip 30 MB */

struct entry_key {
    uint8_t bytes[16];
};

enum entry_kind { ENTRY_SEGMENT, ENTRY_TIP };

struct entry {
    enum entry_kind kind;
    uint8_t identity[16];
    struct entry_key key, parent;
    uint64_t n_tokens, text_len;
    uint8_t text_digest[16];
    uint32_t n_ids, reason;
    uint64_t payload_len, tip_len, created;
    uint32_t n_blocks;
};

/* Keys of prefixes. */
struct entry_key entry_root(const uint8_t identity[16]);
struct entry_key entry_next(const struct entry_key *parent, const int32_t *ids, size_t n);
struct entry_key entry_tip_key(const struct entry_key *parent, const int32_t *ids, size_t n);
static inline bool entry_key_eq(const struct entry_key *a, const struct entry_key *b)
{
    return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

/* Bytes of header, table and ids. */
uint64_t entry_front_bytes(const struct entry *e);
uint64_t entry_file_bytes(const struct entry *e);
/* Appends header, table and ids (n_blocks is set from payload_len; payload is given in pieces that are hashed as one).
 * The payload itself is to be written behind. */
void entry_write(struct entry *e, const int32_t *ids, const struct ds4_span *pieces, size_t n_pieces, struct buf *out);
/* Reads the fixed part; enough to know how long the front is. FORMAT when anything is off. file_bytes: whole file. */
enum ds4_status entry_parse_header(const uint8_t header[ENTRY_HEADER_BYTES], uint64_t file_bytes, struct entry *out,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* Verifies the whole front (entry_front_bytes of it), and that the key belongs to parent and ids. ids (may be NULL)
 * takes n_ids ids. */
enum ds4_status entry_verify_front(const uint8_t *front, const struct entry *e, int32_t *ids,
                                   struct ds4_error *error) DS4_MUST_CHECK;
/* True when block i of the payload has the digest the table in front says. */
bool entry_block_ok(const uint8_t *front, uint32_t block_i, const void *bytes, size_t n);

#endif
