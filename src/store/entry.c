/* entry.c - layout and verification of the store's files. See entry.h. */
#include "store/entry.h"

#include "base/bytes.h"
#include "base/hash.h"
#include "base/mem.h"

enum { AT_IDENTITY = 8, AT_KEY = 24, AT_PARENT = 40, AT_TOKENS = 56, AT_TEXT_LEN = 64, AT_TEXT = 72, AT_IDS = 88,
       AT_REASON = 92, AT_PAYLOAD = 96, AT_TIP = 104, AT_CREATED = 112, AT_BLOCK = 120, AT_BLOCKS = 124,
       AT_DIGEST = 128 };

static const char *const magics[] = {[ENTRY_SEGMENT] = "DS4S", [ENTRY_TIP] = "DS4P"};

/* H(head, ids, n): n is hashed too, so that lists of different length never meet. */
static struct entry_key key_of(const char tag[4], const uint8_t head[16], const int32_t *ids, size_t n)
{
    struct entry_key key;
    uint8_t first[32] = {0};
    memcpy(first, tag, 4);
    store_u64(first + 8, n);
    memcpy(first + 16, head, 16);
    uint8_t parts[32];
    hash_bytes(first, sizeof first, parts);
    hash_bytes(ids, n * sizeof *ids, parts + 16);
    hash_bytes(parts, sizeof parts, key.bytes);
    return key;
}

struct entry_key entry_root(const uint8_t identity[16]) { return key_of("DS4K", identity, NULL, 0); }

struct entry_key entry_next(const struct entry_key *parent, const int32_t *ids, size_t n)
{
    return key_of("span", parent->bytes, ids, n);
}

struct entry_key entry_tip_key(const struct entry_key *parent, const int32_t *ids, size_t n)
{
    return key_of("tip ", parent->bytes, ids, n);
}

uint64_t entry_front_bytes(const struct entry *e)
{
    return ENTRY_HEADER_BYTES + 16ull * e->n_blocks + 4ull * e->n_ids;
}

uint64_t entry_file_bytes(const struct entry *e) { return entry_front_bytes(e) + e->payload_len; }

/* Digests of the payload's blocks, the payload being the pieces one behind another. */
static bool put_table(const struct ds4_span *pieces, size_t n_pieces, struct buf *out)
{
    struct hash *hash = NULL;
    size_t filled = 0;
    uint8_t digest[16];
    for (size_t i = 0; i < n_pieces; i++) {
        for (size_t at = 0; at < pieces[i].len;) {
            if (!hash) hash = hash_create();
            if (!hash) return false;
            size_t room = ENTRY_BLOCK_BYTES - filled, left = pieces[i].len - at, n = left < room ? left : room;
            hash_update(hash, pieces[i].ptr + at, n);
            at += n;
            filled += n;
            if (filled < ENTRY_BLOCK_BYTES) continue;
            hash_digest(hash, digest);
            buf_put(out, digest, sizeof digest);
            hash_destroy(hash);
            hash = NULL;
            filled = 0;
        }
    }
    if (hash) {
        hash_digest(hash, digest);
        buf_put(out, digest, sizeof digest);
        hash_destroy(hash);
    }
    return true;
}

static void put_header(const struct entry *e, uint8_t h[ENTRY_HEADER_BYTES])
{
    memset(h, 0, ENTRY_HEADER_BYTES);
    memcpy(h, magics[e->kind], 4);
    store_u32(h + 4, ENTRY_FORMAT);
    memcpy(h + AT_IDENTITY, e->identity, 16);
    memcpy(h + AT_KEY, e->key.bytes, 16);
    memcpy(h + AT_PARENT, e->parent.bytes, 16);
    store_u64(h + AT_TOKENS, e->n_tokens);
    store_u64(h + AT_TEXT_LEN, e->text_len);
    memcpy(h + AT_TEXT, e->text_digest, 16);
    store_u32(h + AT_IDS, e->n_ids);
    store_u32(h + AT_REASON, e->reason);
    store_u64(h + AT_PAYLOAD, e->payload_len);
    store_u64(h + AT_TIP, e->tip_len);
    store_u64(h + AT_CREATED, e->created);
    store_u32(h + AT_BLOCK, ENTRY_BLOCK_BYTES);
    store_u32(h + AT_BLOCKS, e->n_blocks);
}

/* Digest over the front with the digest's own place left out. */
static bool front_digest(const uint8_t *front, size_t n, uint8_t digest[16])
{
    struct hash *hash = hash_create();
    if (!hash) return false;
    hash_update(hash, front, AT_DIGEST);
    hash_update(hash, front + ENTRY_HEADER_BYTES, n - ENTRY_HEADER_BYTES);
    hash_digest(hash, digest);
    hash_destroy(hash);
    return true;
}

void entry_write(struct entry *e, const int32_t *ids, const struct ds4_span *pieces, size_t n_pieces, struct buf *out)
{
    uint8_t header[ENTRY_HEADER_BYTES];
    size_t start = out->text.len;
    e->payload_len = 0;
    for (size_t i = 0; i < n_pieces; i++) e->payload_len += pieces[i].len;
    e->n_blocks = (uint32_t)((e->payload_len + ENTRY_BLOCK_BYTES - 1) / ENTRY_BLOCK_BYTES);
    put_header(e, header);
    buf_put(out, header, sizeof header);
    if (!put_table(pieces, n_pieces, out)) out->failed = true;
    buf_put(out, ids, e->n_ids * sizeof *ids);
    if (out->failed) return;
    uint8_t *front = (uint8_t *)out->text.ptr + start;
    if (!front_digest(front, out->text.len - start, front + AT_DIGEST)) out->failed = true;
}

static enum ds4_status bad(struct ds4_error *error, const char *what)
{
    return err_set(error, DS4_ERR_FORMAT, "entry of the store: %s", what);
}

enum ds4_status entry_parse_header(const uint8_t h[ENTRY_HEADER_BYTES], uint64_t file_bytes, struct entry *out,
                                   struct ds4_error *error)
{
    *out = (struct entry){0};
    if (memcmp(h, magics[ENTRY_SEGMENT], 4) == 0) out->kind = ENTRY_SEGMENT;
    else if (memcmp(h, magics[ENTRY_TIP], 4) == 0) out->kind = ENTRY_TIP;
    else return bad(error, "wrong magic");
    if (load_u32(h + 4) != ENTRY_FORMAT) return bad(error, "another format version");
    memcpy(out->identity, h + AT_IDENTITY, 16);
    memcpy(out->key.bytes, h + AT_KEY, 16);
    memcpy(out->parent.bytes, h + AT_PARENT, 16);
    out->n_tokens = load_u64(h + AT_TOKENS);
    out->text_len = load_u64(h + AT_TEXT_LEN);
    memcpy(out->text_digest, h + AT_TEXT, 16);
    out->n_ids = load_u32(h + AT_IDS);
    out->reason = load_u32(h + AT_REASON);
    out->payload_len = load_u64(h + AT_PAYLOAD);
    out->tip_len = load_u64(h + AT_TIP);
    out->created = load_u64(h + AT_CREATED);
    out->n_blocks = load_u32(h + AT_BLOCKS);
    if (load_u32(h + AT_BLOCK) != ENTRY_BLOCK_BYTES) return bad(error, "another block size");
    if (out->n_ids > ENTRY_IDS_MAX || out->n_ids > out->n_tokens) return bad(error, "number of tokens");
    if (out->payload_len > ENTRY_PAYLOAD_MAX || out->tip_len > out->payload_len) return bad(error, "length of payload");
    if (out->n_blocks != (out->payload_len + ENTRY_BLOCK_BYTES - 1) / ENTRY_BLOCK_BYTES)
        return bad(error, "number of blocks");
    if (entry_file_bytes(out) != file_bytes) return bad(error, "length of the file");
    return DS4_OK;
}

enum ds4_status entry_verify_front(const uint8_t *front, const struct entry *e, int32_t *ids, struct ds4_error *error)
{
    uint8_t digest[16];
    size_t n = (size_t)entry_front_bytes(e);
    if (!front_digest(front, n, digest)) return err_set(error, DS4_ERR_NOMEM, "no memory to verify an entry");
    if (memcmp(digest, front + AT_DIGEST, 16) != 0) return bad(error, "digest of the header");
    int32_t *list = mem_alloc(e->n_ids, sizeof *list);
    if (!list) return err_set(error, DS4_ERR_NOMEM, "no memory to verify an entry");
    memcpy(list, front + n - 4ull * e->n_ids, 4ull * e->n_ids);
    struct entry_key key = e->kind == ENTRY_SEGMENT ? entry_next(&e->parent, list, e->n_ids)
                                                    : entry_tip_key(&e->parent, list, e->n_ids);
    bool belongs = entry_key_eq(&key, &e->key);
    if (ids) memcpy(ids, list, 4ull * e->n_ids);
    mem_free(list);
    return belongs ? DS4_OK : bad(error, "key and tokens do not belong together");
}

bool entry_block_ok(const uint8_t *front, uint32_t block_i, const void *bytes, size_t n)
{
    uint8_t digest[16];
    hash_bytes(bytes, n, digest);
    return memcmp(digest, front + ENTRY_HEADER_BYTES + 16ull * block_i, 16) == 0;
}
