/* session_file.c - saved conversations. See session_file.h.
 *
 *  OFFSET SIZE DESCRIPTION (little-endian)
 *       0    8 "DS4CHAT\n"
 *       8    4 version of this layout: 1
 *      12    4 enum ds4_think_mode
 *      16   16 digest of model and state layout (ds4_state_layout)
 *      32    4 version of the state layout
 *      36    4 tokens a span covers
 *      40    8 bytes of a span
 *      48    8 number of messages
 *      56    8 bytes of the messages
 *      64    8 number of tokens in the state; 0 = no state
 *      72    8 number of spans
 *      80    8 bytes of the tip
 *      88    8 bytes of the body
 *      96   16 XXH3-128 of the body
 *     112   16 XXH3-128 of bytes 0..111
 *     128      body: messages, tokens (4 bytes each), spans, tip; each part begins at a multiple of 64
 *  A message: role (4), bytes of text (8), bytes of reasoning (8), text, reasoning.
 *
 * Everything is checked before anything is used: header digest, sizes against each other and the file, body digest,
 * then each message and token. */
#include "chat/session_file.h"

#include <stdio.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"

#define MAGIC "DS4CHAT\n"
#define VERSION 1
#define HEADER_BYTES 128
#define MESSAGE_HEAD_BYTES 20
#define ALIGN_BYTES 64
#define BODY_BYTES_MAX ((uint64_t)1 << 40) /* a million tokens take 3.4 GiB */
#define PATH_BYTES 4200

struct header {
    uint32_t think, layout_version, span_tokens;
    uint8_t layout_digest[16], body_digest[16];
    uint64_t span_bytes, n_messages, messages_bytes, n_tokens, n_spans, tip_bytes, body_bytes;
};

/* Offsets of the parts in the body. */
struct parts {
    uint64_t tokens, spans, tip, end;
};

/* Rounds up; false when that overflows. */
static bool align(uint64_t *at)
{
    if (!add_ok(*at, ALIGN_BYTES - 1, at)) return false;
    *at -= *at % ALIGN_BYTES;
    return true;
}

static bool parts_of(const struct header *h, struct parts *p)
{
    uint64_t bytes;
    p->tokens = h->messages_bytes;
    if (!align(&p->tokens) || !mul_ok(h->n_tokens, 4, &bytes) || !add_ok(p->tokens, bytes, &p->spans)) return false;
    if (!align(&p->spans) || !mul_ok(h->n_spans, h->span_bytes, &bytes)) return false;
    if (!add_ok(p->spans, bytes, &p->tip) || !align(&p->tip)) return false;
    return add_ok(p->tip, h->tip_bytes, &p->end) && p->end <= BODY_BYTES_MAX;
}

static void encode_header(const struct header *h, uint8_t out[HEADER_BYTES])
{
    memset(out, 0, HEADER_BYTES);
    memcpy(out, MAGIC, 8);
    store_u32(out + 8, VERSION);
    store_u32(out + 12, h->think);
    memcpy(out + 16, h->layout_digest, 16);
    store_u32(out + 32, h->layout_version);
    store_u32(out + 36, h->span_tokens);
    store_u64(out + 40, h->span_bytes);
    store_u64(out + 48, h->n_messages);
    store_u64(out + 56, h->messages_bytes);
    store_u64(out + 64, h->n_tokens);
    store_u64(out + 72, h->n_spans);
    store_u64(out + 80, h->tip_bytes);
    store_u64(out + 88, h->body_bytes);
    memcpy(out + 96, h->body_digest, 16);
    hash_bytes(out, 112, out + 112);
}

static enum ds4_status decode_header(const uint8_t in[HEADER_BYTES], const char *path, struct header *h,
                                     struct ds4_error *error)
{
    uint8_t digest[16];
    if (memcmp(in, MAGIC, 8) != 0) return err_set(error, DS4_ERR_FORMAT, "%s is not a saved conversation", path);
    if (load_u32(in + 8) != VERSION)
        return err_set(error, DS4_ERR_FORMAT, "%s has version %u, this program reads %d", path, load_u32(in + 8),
                       VERSION);
    hash_bytes(in, 112, digest);
    if (memcmp(digest, in + 112, 16) != 0)
        return err_set(error, DS4_ERR_FORMAT, "%s is damaged: the digest of its header is wrong", path);
    h->think = load_u32(in + 12);
    memcpy(h->layout_digest, in + 16, 16);
    h->layout_version = load_u32(in + 32);
    h->span_tokens = load_u32(in + 36);
    h->span_bytes = load_u64(in + 40);
    h->n_messages = load_u64(in + 48);
    h->messages_bytes = load_u64(in + 56);
    h->n_tokens = load_u64(in + 64);
    h->n_spans = load_u64(in + 72);
    h->tip_bytes = load_u64(in + 80);
    h->body_bytes = load_u64(in + 88);
    memcpy(h->body_digest, in + 96, 16);
    return DS4_OK;
}

/* ---- saving ---- */

struct body_writer {
    int fd;
    const char *path;
    struct hash *hash;
    uint64_t at; /* in the body */
    enum ds4_status status;
    struct ds4_error *error;
};

static void put(struct body_writer *w, const void *bytes, size_t n)
{
    if (w->status != DS4_OK || n == 0) return;
    hash_update(w->hash, bytes, n);
    w->status = file_write_at(w->fd, w->path, HEADER_BYTES + w->at, bytes, n, w->error);
    w->at += n;
}

static void put_padding(struct body_writer *w)
{
    static const char zeros[ALIGN_BYTES];
    put(w, zeros, (size_t)(-w->at & (ALIGN_BYTES - 1)));
}

static void put_messages(struct body_writer *w, const struct transcript *t)
{
    for (size_t i = 0; i < t->n; i++) {
        const struct transcript_message *m = &t->messages[i];
        uint8_t head[MESSAGE_HEAD_BYTES];
        store_u32(head, (uint32_t)m->role);
        store_u64(head + 4, m->text.len);
        store_u64(head + 12, m->reasoning.len);
        put(w, head, sizeof head);
        put(w, m->text.ptr, m->text.len);
        put(w, m->reasoning.ptr, m->reasoning.len);
    }
}

static enum ds4_status put_spans(struct body_writer *w, const struct ds4_session *session, size_t n, size_t span_bytes)
{
    uint8_t *span = mem_alloc(span_bytes, 1);
    if (!span) return err_set(w->error, DS4_ERR_NOMEM, "no memory for %zu bytes of state", span_bytes);
    enum ds4_status status = DS4_OK;
    for (size_t i = 0; i < n && status == DS4_OK; i++) {
        status = ds4_session_span_save(session, i, span, w->error);
        if (status == DS4_OK) put(w, span, span_bytes);
    }
    mem_free(span);
    return status;
}

static enum ds4_status put_tip(struct body_writer *w, const struct ds4_session *session, size_t cap,
                               uint64_t *tip_bytes)
{
    size_t len = 0;
    uint8_t *tip = mem_alloc(cap ? cap : 1, 1);
    if (!tip) return err_set(w->error, DS4_ERR_NOMEM, "no memory for a tip of %zu bytes", cap);
    enum ds4_status status = ds4_session_tip_save(session, tip, cap, &len, w->error);
    if (status == DS4_OK) put(w, tip, len);
    *tip_bytes = len;
    mem_free(tip);
    return status;
}

static enum ds4_status put_body(struct body_writer *w, const struct transcript *t, const struct ds4_engine *engine,
                                const struct ds4_session *session, struct header *h)
{
    const struct ds4_state_layout *layout = ds4_state_layout(engine);
    size_t n_tokens = 0;
    const int32_t *tokens = session ? ds4_session_tokens(session, &n_tokens) : NULL;
    memcpy(h->layout_digest, layout->digest, 16);
    h->layout_version = layout->version;
    h->span_tokens = layout->span_tokens;
    h->span_bytes = layout->span_bytes;
    h->n_messages = t->n;
    h->n_tokens = n_tokens;
    put_messages(w, t);
    h->messages_bytes = w->at;
    put_padding(w);
    put(w, tokens, n_tokens * sizeof *tokens);
    put_padding(w);
    h->n_spans = n_tokens ? ds4_session_spans(session) : 0;
    if (h->n_spans) TRY(put_spans(w, session, h->n_spans, layout->span_bytes));
    put_padding(w);
    if (n_tokens) TRY(put_tip(w, session, layout->tip_bytes_max, &h->tip_bytes));
    h->body_bytes = w->at;
    hash_digest(w->hash, h->body_digest);
    return w->status;
}

static enum ds4_status write_file(int fd, const char *path, const struct transcript *t, enum ds4_think_mode think,
                                  const struct ds4_engine *engine, const struct ds4_session *session,
                                  struct ds4_error *error)
{
    struct header h = {.think = (uint32_t)think};
    uint8_t encoded[HEADER_BYTES];
    struct body_writer w = {.fd = fd, .path = path, .hash = hash_create(), .error = error};
    if (!w.hash) return err_set(error, DS4_ERR_NOMEM, "no memory for a digest");
    enum ds4_status status = put_body(&w, t, engine, session, &h);
    hash_destroy(w.hash);
    TRY(status);
    encode_header(&h, encoded);
    TRY(file_write_at(fd, path, 0, encoded, sizeof encoded, error));
    return file_sync(fd, path, error);
}

/* STATE when path is a file of another kind. */
static enum ds4_status check_replaceable(const char *path, struct ds4_error *error)
{
    char magic[8];
    int fd;
    TRY(file_check_target(path, error));
    if (file_open(path, FILE_READ, &fd, NULL) != DS4_OK) return DS4_OK; /* absent */
    enum ds4_status status = file_read_at(fd, path, 0, magic, sizeof magic, NULL);
    file_close(fd);
    if (status == DS4_OK && memcmp(magic, MAGIC, 8) == 0) return DS4_OK;
    return err_set(error, DS4_ERR_STATE, "%s exists and is not a saved conversation: not replaced", path);
}

enum ds4_status session_file_save(const char *path, const struct transcript *transcript, enum ds4_think_mode think,
                                  const struct ds4_engine *engine, const struct ds4_session *session,
                                  struct ds4_error *error)
{
    char temporary[PATH_BYTES];
    int fd, n = snprintf(temporary, sizeof temporary, "%s.part", path);
    if (n < 0 || (size_t)n >= sizeof temporary) return err_set(error, DS4_ERR_LIMIT, "the file name is too long");
    TRY(check_replaceable(path, error));
    (void)!file_unlink(temporary, NULL); /* of a save that was killed */
    TRY(file_open(temporary, FILE_CREATE_NEW, &fd, error));
    enum ds4_status status = write_file(fd, temporary, transcript, think, engine, session, error);
    file_close(fd);
    if (status == DS4_OK) status = file_rename(temporary, path, error);
    if (status != DS4_OK) (void)!file_unlink(temporary, NULL);
    return status;
}

/* ---- loading ---- */

static enum ds4_status read_body(const char *path, struct header *h, struct parts *p, uint8_t **body,
                                 struct ds4_error *error)
{
    uint8_t encoded[HEADER_BYTES], digest[16];
    struct file_id id;
    int fd;
    *body = NULL;
    TRY(file_open(path, FILE_READ, &fd, error));
    enum ds4_status status;
    TRY_GOTO(file_identity(fd, path, &id, error), out);
    if (id.size_bytes < HEADER_BYTES) {
        status = err_set(error, DS4_ERR_FORMAT, "%s is not a saved conversation", path);
        goto out;
    }
    TRY_GOTO(file_read_at(fd, path, 0, encoded, sizeof encoded, error), out);
    TRY_GOTO(decode_header(encoded, path, h, error), out);
    if (!parts_of(h, p) || p->end != h->body_bytes || id.size_bytes != HEADER_BYTES + h->body_bytes) {
        status = err_set(error, DS4_ERR_FORMAT, "%s is damaged: it has %llu bytes, its header says otherwise", path,
                         (unsigned long long)id.size_bytes);
        goto out;
    }
    *body = mem_alloc(h->body_bytes ? (size_t)h->body_bytes : 1, 1);
    if (!*body) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for the %llu bytes of %s",
                         (unsigned long long)h->body_bytes, path);
        goto out;
    }
    TRY_GOTO(file_read_at(fd, path, HEADER_BYTES, *body, (size_t)h->body_bytes, error), out);
    hash_bytes(*body, (size_t)h->body_bytes, digest);
    if (memcmp(digest, h->body_digest, 16) != 0)
        status = err_set(error, DS4_ERR_FORMAT, "%s is damaged: the digest of its content is wrong", path);
out:
    file_close(fd);
    return status;
}

static enum ds4_status read_messages(const char *path, const struct header *h, const uint8_t *body,
                                     struct transcript *t, struct ds4_error *error)
{
    uint64_t at = 0, left = h->messages_bytes;
    for (uint64_t i = 0; i < h->n_messages; i++) {
        if (left < MESSAGE_HEAD_BYTES) break;
        uint32_t role = load_u32(body + at);
        uint64_t text_bytes = load_u64(body + at + 4), reasoning_bytes = load_u64(body + at + 12);
        at += MESSAGE_HEAD_BYTES;
        left -= MESSAGE_HEAD_BYTES;
        if (text_bytes > left || reasoning_bytes > left - text_bytes) break;
        if (role > DS4_ROLE_ASSISTANT || (role == DS4_ROLE_SYSTEM && i > 0)) break;
        struct ds4_span text = span_make((const char *)body + at, (size_t)text_bytes);
        struct ds4_span reasoning = span_make(text.ptr + text.len, (size_t)reasoning_bytes);
        TRY(transcript_add(t, (enum ds4_role)role, text, reasoning, error));
        at += text_bytes + reasoning_bytes;
        left -= text_bytes + reasoning_bytes;
    }
    if (t->n == h->n_messages && left == 0) return DS4_OK;
    return err_set(error, DS4_ERR_FORMAT, "%s is damaged at message %zu", path, t->n + 1);
}

/* Gives the state to the session if it is this model's; true when it did. */
static bool restore(const struct header *h, const struct parts *p, const uint8_t *body,
                    const struct ds4_engine *engine, struct ds4_session *session)
{
    const struct ds4_state_layout *layout = ds4_state_layout(engine);
    const struct ds4_model_info *info = ds4_engine_info(engine);
    if (h->n_tokens == 0 || h->n_tokens > info->ctx_tokens || h->layout_version != layout->version ||
        h->span_tokens != layout->span_tokens || h->span_bytes != layout->span_bytes ||
        memcmp(h->layout_digest, layout->digest, 16) != 0 || layout->span_tokens == 0 ||
        h->n_spans != (h->n_tokens + layout->span_tokens - 1) / layout->span_tokens)
        return false;
    size_t n_tokens = (size_t)h->n_tokens, n_spans = (size_t)h->n_spans;
    const int32_t *tokens = (const int32_t *)(const void *)(body + p->tokens); /* 64-byte aligned in the body */
    for (size_t i = 0; i < n_tokens; i++)
        if (tokens[i] < 0 || (uint32_t)tokens[i] >= info->n_vocab) return false;
    const uint8_t **spans = mem_alloc(n_spans, sizeof *spans);
    if (!spans) return false;
    for (size_t i = 0; i < n_spans; i++) spans[i] = body + p->spans + i * layout->span_bytes;
    enum ds4_status status = ds4_session_restore(session, tokens, n_tokens, spans, n_spans, body + p->tip,
                                                 (size_t)h->tip_bytes, NULL);
    mem_free(spans);
    return status == DS4_OK;
}

enum ds4_status session_file_load(const char *path, struct transcript *transcript, enum ds4_think_mode *think,
                                  const struct ds4_engine *engine, struct ds4_session *session, bool *with_state,
                                  struct ds4_error *error)
{
    struct header h = {0};
    struct parts p = {0};
    struct transcript loaded = {0};
    uint8_t *body = NULL;
    enum ds4_status status;
    TRY_GOTO(read_body(path, &h, &p, &body, error), out);
    if (h.think > DS4_THINK_MAX) {
        status = err_set(error, DS4_ERR_FORMAT, "%s: unknown way of thinking %u", path, h.think);
        goto out;
    }
    TRY_GOTO(read_messages(path, &h, body, &loaded, error), out);
    *with_state = restore(&h, &p, body, engine, session);
    transcript_deinit(transcript);
    *transcript = loaded;
    loaded = (struct transcript){0};
    *think = (enum ds4_think_mode)h.think;
out:
    transcript_deinit(&loaded);
    mem_free(body);
    return status;
}
