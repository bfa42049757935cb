/* pack.c - one stored conversation as one file, to be handed to somebody with the same model.
 *
 * A pack is the files of its entries, as they are in the directory, one behind another: the segments from the first
 * to the last, then the tip. Little-endian.
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     magic "DS4K"
 *   4       4     version, 1
 *   8       16    identity (see entry.h)
 *   24      4     number of entries
 *   28      4     zero
 *   32      8     bytes of the whole file
 *   40      16    XXH3-128 of bytes [0, 40)
 *   56      ...   for each entry: its length (8), its bytes
 * A pack is input from a stranger. Everything that can be checked is: lengths before anything is allocated, every
 * digest, that the entries are one chain from the root, that they have the shape this engine gives them, that token
 * ids exist, that the tip's text is the text of its tokens. All of it is checked before the first entry is taken. */
#include "store/store.h"

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define PACK_HEADER_BYTES 56u
#define PACK_VERSION 1u
#define PACK_ENTRIES_MAX (1u << 20)

static void put_header(const struct ds4_store *s, uint32_t n_entries, uint64_t bytes, uint8_t h[PACK_HEADER_BYTES])
{
    memset(h, 0, PACK_HEADER_BYTES);
    memcpy(h, "DS4K", 4);
    store_u32(h + 4, PACK_VERSION);
    memcpy(h + 8, s->layout->digest, 16);
    store_u32(h + 24, n_entries);
    store_u64(h + 32, bytes);
    hash_bytes(h, 40, h + 40);
}

/* ---- export --------------------------------------------------------------------------------------------------- */

struct pack_writer {
    struct ds4_store *store;
    const char *path;
    int fd;
    uint64_t at;
};

static enum ds4_status put_entry(struct pack_writer *w, enum entry_kind kind, const struct entry_key *key,
                                 struct ds4_error *error)
{
    struct entry entry;
    struct ds4_text front;
    uint8_t length[8];
    int fd;
    TRY(store_read_front(w->store, kind, key, &entry, &front, &fd, error));
    enum ds4_status status = DS4_OK;
    uint8_t *payload = mem_alloc((size_t)entry.payload_len, 1);
    if (!payload) status = err_set(error, DS4_ERR_NOMEM, "no memory to export an entry");
    if (status == DS4_OK) status = store_read_payload(w->store, fd, &entry, &front, payload, error);
    file_close(fd);
    store_u64(length, entry_file_bytes(&entry));
    if (status == DS4_OK) status = file_write_at(w->fd, w->path, w->at, length, sizeof length, error);
    w->at += sizeof length;
    if (status == DS4_OK) status = file_write_at(w->fd, w->path, w->at, front.ptr, front.len, error);
    w->at += front.len;
    if (status == DS4_OK) status = file_write_at(w->fd, w->path, w->at, payload, (size_t)entry.payload_len, error);
    w->at += entry.payload_len;
    mem_free(payload);
    ds4_text_free(&front);
    return status;
}

/* Keys of the segments before a tip, first to last (owned by the caller). */
static struct entry_key *path_of(const struct ds4_store *s, const struct index_item *tip, uint32_t *n)
{
    *n = (uint32_t)(tip->n_tokens / s->layout->span_tokens);
    struct entry_key *path = mem_alloc(*n, sizeof *path), key = tip->parent;
    for (uint32_t i = *n; path && i > 0; i--) {
        path[i - 1] = key;
        key = index_find(&s->index, &key)->parent; /* the tip is whole */
    }
    return path;
}

enum ds4_status ds4_store_export(struct ds4_store *s, const char *digits, const char *path, uint64_t *bytes,
                                 struct ds4_error *error)
{
    struct index_item *tip;
    uint8_t header[PACK_HEADER_BYTES] = {0};
    uint32_t n;
    *bytes = 0;
    ds4_store_flush(s);
    TRY(store_find_key(s, digits, &tip, error));
    if (!store_is_whole(s, tip)) return err_set(error, DS4_ERR_STATE, "%s: rows of it are no longer stored", digits);
    struct pack_writer w = {.store = s, .path = path, .at = PACK_HEADER_BYTES};
    TRY(file_open(path, FILE_CREATE_NEW, &w.fd, error));
    struct entry_key *segments = path_of(s, tip, &n);
    enum ds4_status status = segments ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory to export");
    for (uint32_t i = 0; i < n && status == DS4_OK; i++) status = put_entry(&w, ENTRY_SEGMENT, &segments[i], error);
    if (status == DS4_OK) status = put_entry(&w, ENTRY_TIP, &tip->key, error);
    mem_free(segments);
    put_header(s, n + 1, w.at, header);
    /* The header comes last: a pack that was cut has none. */
    if (status == DS4_OK) status = file_write_at(w.fd, path, 0, header, sizeof header, error);
    if (status == DS4_OK) status = file_sync(w.fd, path, error);
    file_close(w.fd);
    if (status != DS4_OK) (void)!file_unlink(path, NULL);
    else *bytes = w.at;
    return status;
}

/* ---- import --------------------------------------------------------------------------------------------------- */

struct pack {
    const char *path;
    int fd;
    uint64_t bytes, at;
    uint32_t n_entries, entry_i;
    struct entry_key key;        /* of the prefix so far */
    struct ds4_tokens tokens;    /* of the prefix so far */
};

static enum ds4_status wrong(const struct pack *p, struct ds4_error *error, const char *what)
{
    return err_set(error, DS4_ERR_FORMAT, "%s: entry %u of %u: %s", p->path, p->entry_i + 1, p->n_entries, what);
}

static enum ds4_status open_pack(const struct ds4_store *s, struct pack *p, struct ds4_error *error)
{
    uint8_t h[PACK_HEADER_BYTES], digest[16];
    struct file_id id;
    TRY(file_open(p->path, FILE_READ, &p->fd, error));
    TRY(file_identity(p->fd, p->path, &id, error));
    if (id.size_bytes < sizeof h) return err_set(error, DS4_ERR_FORMAT, "%s is no pack: too short", p->path);
    TRY(file_read_at(p->fd, p->path, 0, h, sizeof h, error));
    if (memcmp(h, "DS4K", 4) != 0) return err_set(error, DS4_ERR_FORMAT, "%s is no pack: wrong magic", p->path);
    if (load_u32(h + 4) != PACK_VERSION)
        return err_set(error, DS4_ERR_UNSUPPORTED, "%s: version %u of packs", p->path, load_u32(h + 4));
    hash_bytes(h, 40, digest);
    p->n_entries = load_u32(h + 24);
    if (memcmp(digest, h + 40, 16) != 0 || load_u32(h + 28) != 0 || load_u64(h + 32) != id.size_bytes)
        return err_set(error, DS4_ERR_FORMAT, "%s is damaged or cut short", p->path);
    if (p->n_entries == 0 || p->n_entries > PACK_ENTRIES_MAX)
        return err_set(error, DS4_ERR_FORMAT, "%s: %u entries", p->path, p->n_entries);
    if (memcmp(h + 8, s->layout->digest, 16) != 0)
        return err_set(error, DS4_ERR_UNSUPPORTED, "%s was made with another model, quantisation or build", p->path);
    p->bytes = id.size_bytes;
    p->at = PACK_HEADER_BYTES;
    p->key = s->root;
    return DS4_OK;
}

/* Shape: what this engine would have written at this place of the chain. */
static enum ds4_status check_shape(const struct ds4_store *s, const struct pack *p, const struct entry *e,
                                   struct ds4_error *error)
{
    uint64_t span = s->layout->span_tokens, before = p->entry_i * span;
    bool last = p->entry_i + 1 == p->n_entries;
    if (e->kind != (last ? ENTRY_TIP : ENTRY_SEGMENT))
        return wrong(p, error, "segments come first, one tip ends a pack");
    if (memcmp(e->identity, s->layout->digest, 16) != 0) return wrong(p, error, "of another identity than the pack");
    if (!entry_key_eq(&e->parent, &p->key)) return wrong(p, error, "does not follow the one before");
    if (last) {
        uint64_t partial = e->n_ids ? s->layout->span_bytes : 0;
        if (e->n_ids >= span || e->n_tokens != before + e->n_ids || e->n_tokens == 0)
            return wrong(p, error, "number of tokens");
        if (e->tip_len > s->layout->tip_bytes_max || e->payload_len != e->tip_len + partial ||
            e->reason > DS4_SAVE_PERIODIC)
            return wrong(p, error, "length of the tip");
        return DS4_OK;
    }
    if (e->n_ids != span || e->n_tokens != before + span) return wrong(p, error, "number of tokens");
    if (e->payload_len != s->layout->span_bytes || e->tip_len) return wrong(p, error, "length of the rows");
    return DS4_OK;
}

static enum ds4_status check_tokens(const struct ds4_store *s, struct pack *p, const struct entry *e,
                                    const uint8_t *front, struct ds4_error *error)
{
    uint32_t n_vocab = ds4_engine_info(s->engine)->n_vocab;
    const uint8_t *ids = front + entry_front_bytes(e) - 4ull * e->n_ids;
    for (uint32_t i = 0; i < e->n_ids; i++) {
        uint32_t id = load_u32(ids + 4ull * i);
        if (id >= n_vocab) return wrong(p, error, "a token that does not exist");
        int32_t token = (int32_t)id;
        TRY(ds4_tokens_append(&p->tokens, &token, 1));
    }
    if (e->kind != ENTRY_TIP) return DS4_OK;
    uint64_t text_len;
    uint8_t digest[16];
    if (!store_text_digest(s, p->tokens.ids, p->tokens.n, &text_len, digest))
        return err_set(error, DS4_ERR_NOMEM, "no memory to check a pack");
    if (text_len != e->text_len || memcmp(digest, e->text_digest, 16) != 0)
        return wrong(p, error, "the text is not that of the tokens");
    return DS4_OK;
}

/* Reads and verifies the next entry. bytes: the whole file of it (filled, owned by the caller). */
static enum ds4_status next_entry(const struct ds4_store *s, struct pack *p, struct entry *e, struct ds4_text *bytes,
                                  struct ds4_error *error)
{
    uint8_t length[8];
    if (p->bytes - p->at < sizeof length + ENTRY_HEADER_BYTES) return wrong(p, error, "cut short");
    TRY(file_read_at(p->fd, p->path, p->at, length, sizeof length, error));
    uint64_t n = load_u64(length), left = p->bytes - p->at - sizeof length;
    uint64_t most = ENTRY_HEADER_BYTES + s->layout->span_bytes + s->layout->tip_bytes_max;
    most += 4ull * s->layout->span_tokens + 16 * (most / ENTRY_BLOCK_BYTES + 2);
    if (n > left || n < ENTRY_HEADER_BYTES || n > most) return wrong(p, error, "length");
    bytes->ptr = mem_realloc(bytes->ptr, (size_t)n, 1);
    bytes->len = bytes->cap = bytes->ptr ? (size_t)n : 0;
    if (!bytes->ptr) return err_set(error, DS4_ERR_NOMEM, "no memory to read a pack");
    TRY(file_read_at(p->fd, p->path, p->at + sizeof length, bytes->ptr, (size_t)n, error));
    const uint8_t *front = (const uint8_t *)bytes->ptr;
    TRY(entry_parse_header(front, n, e, error));
    TRY(check_shape(s, p, e, error));
    TRY(entry_verify_front(front, e, NULL, error));
    const uint8_t *payload = front + entry_front_bytes(e);
    for (uint32_t i = 0; i < e->n_blocks; i++) {
        uint64_t from = (uint64_t)i * ENTRY_BLOCK_BYTES, rest = e->payload_len - from;
        if (!entry_block_ok(front, i, payload + from, rest < ENTRY_BLOCK_BYTES ? (size_t)rest : ENTRY_BLOCK_BYTES))
            return wrong(p, error, "digest of the rows");
    }
    TRY(check_tokens(s, p, e, front, error));
    p->at += sizeof length + n;
    p->key = e->key;
    p->entry_i++;
    if (p->entry_i == p->n_entries && p->at != p->bytes) return wrong(p, error, "more bytes follow");
    return DS4_OK;
}

static void rewind_pack(const struct ds4_store *s, struct pack *p)
{
    p->at = PACK_HEADER_BYTES;
    p->entry_i = 0;
    p->key = s->root;
    p->tokens.n = 0;
}

/* One verified entry into the directory. */
static enum ds4_status take_entry(struct ds4_store *s, const struct pack *p, const struct entry *e,
                                  struct ds4_text *bytes, struct ds4_error *error)
{
    if (index_find(&s->index, &e->key)) return DS4_OK;
    struct index_item item = {.key = e->key, .parent = e->parent, .kind = e->kind, .n_tokens = e->n_tokens,
                              .text_len = e->text_len, .created = e->created, .last_use = clock_unix_s(),
                              .reason = e->reason};
    memcpy(item.text_digest, e->text_digest, 16);
    if (writer_queued_bytes(s->writer) > s->options.queue_bytes) ds4_store_flush(s);
    if (store_queue_file(s, bytes, &item, &e->parent)) return DS4_OK;
    return err_set(error, DS4_ERR_LIMIT, "%s: no room for entry %u of %u within the budget of the store", p->path,
                   p->entry_i, p->n_entries);
}

enum ds4_status ds4_store_import(struct ds4_store *s, const char *path, uint64_t *n_tokens, struct ds4_error *error)
{
    struct pack p = {.path = path, .fd = -1};
    struct entry e = {0};
    struct ds4_text bytes = {0};
    enum ds4_status status = DS4_OK;
    if (s->read_only)
        return err_set(error, DS4_ERR_STATE, "%s is being written by another program, or cannot be written", s->dir);
    ds4_store_flush(s);
    TRY_GOTO(open_pack(s, &p, error), out);
    while (p.entry_i < p.n_entries) TRY_GOTO(next_entry(s, &p, &e, &bytes, error), out);
    if (p.bytes > s->options.budget_bytes) {
        status = err_set(error, DS4_ERR_LIMIT, "%s has %llu bytes; the store may hold %llu", path,
                         (unsigned long long)p.bytes, (unsigned long long)s->options.budget_bytes);
        goto out;
    }
    uint64_t errors_before = s->stats.n_errors;
    rewind_pack(s, &p);
    while (p.entry_i < p.n_entries) {
        TRY_GOTO(next_entry(s, &p, &e, &bytes, error), out); /* verified again: the file may have changed */
        TRY_GOTO(take_entry(s, &p, &e, &bytes, error), out);
    }
    ds4_store_flush(s);
    if (s->stats.n_errors != errors_before)
        status = err_set(error, DS4_ERR_IO, "%s: not all of it could be written to %s", path, s->dir);
    if (n_tokens) *n_tokens = e.n_tokens;
out:
    file_close(p.fd);
    ds4_text_free(&bytes);
    ds4_tokens_free(&p.tokens);
    return status;
}
