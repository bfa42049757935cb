/* read.c - verified reading of entries. Nothing leaves here that was not compared with its digest. See store.h. */
#include "store/store.h"

#include "base/file.h"
#include "base/mem.h"

enum ds4_status store_read_front(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key,
                                 struct entry *entry, struct ds4_text *front, int *fd, struct ds4_error *error)
{
    char path[WRITER_PATH_BYTES];
    uint8_t header[ENTRY_HEADER_BYTES];
    struct file_id id;
    store_path(s, kind, key, "", path);
    *front = (struct ds4_text){0};
    TRY(file_open(path, FILE_READ_OWN, fd, error));
    enum ds4_status status = file_identity(*fd, path, &id, error);
    if (status == DS4_OK && id.size_bytes < sizeof header)
        status = err_set(error, DS4_ERR_FORMAT, "%s has %llu bytes", path, (unsigned long long)id.size_bytes);
    if (status == DS4_OK) status = file_read_at(*fd, path, 0, header, sizeof header, error);
    if (status == DS4_OK) status = entry_parse_header(header, id.size_bytes, entry, error);
    if (status == DS4_OK && (entry->kind != kind || !entry_key_eq(&entry->key, key) ||
                             memcmp(entry->identity, s->layout->digest, 16) != 0))
        status = err_set(error, DS4_ERR_FORMAT, "%s holds another entry than its name says", path);
    if (status == DS4_OK) {
        front->len = front->cap = (size_t)entry_front_bytes(entry);
        front->ptr = mem_alloc(front->cap, 1);
        status = front->ptr ? file_read_at(*fd, path, 0, front->ptr, front->len, error)
                            : err_set(error, DS4_ERR_NOMEM, "no memory to read %s", path);
    }
    if (status == DS4_OK) status = entry_verify_front((const uint8_t *)front->ptr, entry, NULL, error);
    if (status == DS4_OK) return DS4_OK;
    ds4_text_free(front);
    file_close(*fd);
    return status;
}

enum ds4_status store_read_payload(struct ds4_store *s, int fd, const struct entry *entry,
                                   const struct ds4_text *front, uint8_t *dest, struct ds4_error *error)
{
    char path[WRITER_PATH_BYTES];
    store_path(s, entry->kind, &entry->key, "", path);
    uint64_t at = entry_front_bytes(entry);
    for (uint32_t i = 0; i < entry->n_blocks; i++) {
        uint64_t done = (uint64_t)i * ENTRY_BLOCK_BYTES, left = entry->payload_len - done;
        size_t n = left < ENTRY_BLOCK_BYTES ? (size_t)left : ENTRY_BLOCK_BYTES;
        TRY(file_read_at(fd, path, at + done, dest + done, n, error));
        if (!entry_block_ok((const uint8_t *)front->ptr, i, dest + done, n))
            return err_set(error, DS4_ERR_FORMAT, "%s: block %u does not have its digest", path, i);
        s->stats.bytes_read += n;
    }
    return DS4_OK;
}

static enum ds4_status append_ids(const struct ds4_store *s, enum entry_kind kind, const struct entry_key *key,
                                  struct ds4_tokens *tokens, struct ds4_error *error)
{
    struct entry entry;
    struct ds4_text front;
    int fd;
    TRY(store_read_front(s, kind, key, &entry, &front, &fd, error));
    file_close(fd);
    const char *at = front.ptr + front.len - 4ull * entry.n_ids;
    enum ds4_status status = DS4_OK;
    for (uint32_t i = 0; i < entry.n_ids && status == DS4_OK; i++) {
        int32_t id;
        memcpy(&id, at + 4ull * i, sizeof id);
        status = ds4_tokens_append(tokens, &id, 1);
    }
    ds4_text_free(&front);
    return status;
}

enum ds4_status store_read_tokens(struct ds4_store *s, const struct index_item *tip, struct ds4_tokens *tokens,
                                  struct ds4_error *error)
{
    uint32_t n_spans = (uint32_t)(tip->n_tokens / s->layout->span_tokens), at = n_spans;
    struct entry_key *path = mem_alloc(n_spans, sizeof *path);
    if (!path) return err_set(error, DS4_ERR_NOMEM, "no memory to read a list of tokens");
    struct entry_key key = tip->parent;
    enum ds4_status status = DS4_OK;
    while (at > 0 && status == DS4_OK) {
        const struct index_item *segment = index_find(&s->index, &key);
        if (!segment) status = err_set(error, DS4_ERR_STATE, "segment %u of a tip is missing", at - 1);
        else path[--at] = key, key = segment->parent;
    }
    for (uint32_t i = 0; i < n_spans && status == DS4_OK; i++)
        status = append_ids(s, ENTRY_SEGMENT, &path[i], tokens, error);
    mem_free(path);
    return status == DS4_OK ? append_ids(s, ENTRY_TIP, &tip->key, tokens, error) : status;
}
