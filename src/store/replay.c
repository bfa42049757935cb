/* replay.c - the exact bytes the model sampled for a tool call, by call id, kept across restarts.
 *
 * File "replay": records one behind another, little-endian; a record that is cut or damaged ends the list.
 *   OFFSET  SIZE  DESCRIPTION
 *   0       4     magic "DS4R"
 *   4       4     id_len
 *   8       4     sampled_len
 *   12      16    XXH3-128 of the lengths, the id and the bytes
 *   28      ...   id, bytes
 * When the file outgrows its limit it is rewritten with the younger half. */
#include "store/store.h"

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define RECORD_BYTES 28u
#define RECORD_PART_MAX (1u << 20)

struct replay {
    char path[WRITER_PATH_BYTES];
    int fd;                /* -1: nothing is written */
    struct buf log;        /* the file's bytes */
    size_t handed;         /* of them, that the writer has */
    bool cut;              /* what the file has behind them goes */
};

static size_t record_len(const char *at) { return RECORD_BYTES + load_u32(at + 4) + load_u32(at + 8); }

static void record_digest(const char *at, uint8_t digest[16])
{
    uint8_t parts[32];
    hash_bytes(at, 12, parts);
    hash_bytes(at + RECORD_BYTES, record_len(at) - RECORD_BYTES, parts + 16);
    hash_bytes(parts, sizeof parts, digest);
}

static bool record_ok(const char *at, size_t left)
{
    uint8_t digest[16];
    if (left < RECORD_BYTES || memcmp(at, "DS4R", 4) != 0) return false;
    if (load_u32(at + 4) > RECORD_PART_MAX || load_u32(at + 8) > RECORD_PART_MAX || record_len(at) > left) return false;
    record_digest(at, digest);
    return memcmp(digest, at + 12, sizeof digest) == 0;
}

enum ds4_status replay_open(const char *dir, bool read_only, struct replay **out, struct ds4_error *error)
{
    struct replay *r = mem_zalloc(1, sizeof *r);
    if (!r) return err_set(error, DS4_ERR_NOMEM, "no memory for the list of tool calls");
    r->fd = -1;
    struct buf path = {0};
    buf_printf(&path, "%s/replay", dir);
    enum ds4_status status = buf_status(&path, error);
    if (status == DS4_OK && path.text.len >= sizeof r->path) status = err_set(error, DS4_ERR_LIMIT, "path too long");
    if (status == DS4_OK) memcpy(r->path, path.text.ptr, path.text.len);
    buf_deinit(&path);
    /* Without a file the list lives in memory: no reason to do without a store. */
    if (status == DS4_OK && !read_only && file_open(r->path, FILE_READ_WRITE, &r->fd, NULL) != DS4_OK)
        (void)!file_open(r->path, FILE_CREATE_NEW, &r->fd, NULL);
    int own;
    /* A list that cannot be read, or is not ours, is an empty one. */
    if (status == DS4_OK && file_open(r->path, FILE_READ_OWN, &own, NULL) == DS4_OK) {
        file_close(own);
        (void)!file_read_all(r->path, 2 * STORE_REPLAY_BYTES_MAX, &r->log.text, NULL);
    }
    if (status != DS4_OK) {
        replay_close(r);
        return status;
    }
    size_t good = 0;
    while (good < r->log.text.len && record_ok(r->log.text.ptr + good, r->log.text.len - good))
        good += record_len(r->log.text.ptr + good);
    r->cut = good < r->log.text.len;
    r->log.text.len = r->handed = good;
    *out = r;
    return DS4_OK;
}

void replay_close(struct replay *r)
{
    if (!r) return;
    file_close(r->fd);
    buf_deinit(&r->log);
    mem_free(r);
}

/* Keeps the younger half. */
static void shrink(struct replay *r)
{
    size_t from = 0;
    while (from < r->log.text.len / 2) from += record_len(r->log.text.ptr + from);
    memmove(r->log.text.ptr, r->log.text.ptr + from, r->log.text.len - from);
    r->log.text.len -= from;
    replay_write_all(r);
}

void replay_write_all(struct replay *r)
{
    r->handed = 0;
    r->cut = true;
}

enum ds4_status replay_take(struct replay *r, struct writer_job *job, struct ds4_error *error)
{
    struct buf copy = {0};
    if (r->fd < 0 || r->handed == r->log.text.len) return DS4_OK;
    buf_put(&copy, r->log.text.ptr + r->handed, r->log.text.len - r->handed);
    TRY(buf_status(&copy, error));
    *job = (struct writer_job){.kind = WRITER_PATCH, .bytes = copy.text, .fd = r->fd, .at = r->handed, .cut = r->cut};
    memcpy(job->path, r->path, sizeof job->path);
    r->handed = r->log.text.len;
    r->cut = false;
    return DS4_OK;
}

enum ds4_status replay_put(struct replay *r, struct ds4_span id, struct ds4_span sampled, struct ds4_error *error)
{
    char head[RECORD_BYTES] = "DS4R";
    if (id.len == 0 || id.len > RECORD_PART_MAX || sampled.len > RECORD_PART_MAX)
        return err_set(error, DS4_ERR_LIMIT, "a tool call of %zu bytes with an id of %zu", sampled.len, id.len);
    if (r->log.text.len + RECORD_BYTES + id.len + sampled.len > STORE_REPLAY_BYTES_MAX) shrink(r);
    size_t start = r->log.text.len;
    store_u32(head + 4, (uint32_t)id.len);
    store_u32(head + 8, (uint32_t)sampled.len);
    buf_put(&r->log, head, sizeof head);
    buf_put_span(&r->log, id);
    buf_put_span(&r->log, sampled);
    enum ds4_status status = buf_status(&r->log, error);
    if (status != DS4_OK) {
        r->log.text.len = start;
        r->log.failed = false;
        return status;
    }
    record_digest(r->log.text.ptr + start, (uint8_t *)r->log.text.ptr + start + 12);
    return DS4_OK;
}

struct ds4_span replay_get(const struct replay *r, struct ds4_span id)
{
    struct ds4_span found = {0};
    for (size_t at = 0; at < r->log.text.len; at += record_len(r->log.text.ptr + at)) {
        const char *record = r->log.text.ptr + at;
        struct ds4_span its = span_make(record + RECORD_BYTES, load_u32(record + 4));
        if (span_eq(its, id)) found = span_make(its.ptr + its.len, load_u32(record + 8)); /* the youngest wins */
    }
    return found;
}
