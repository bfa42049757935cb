/* rows_file.c - calibration rows. Little-endian.
 *
 *   OFFSET SIZE  DESCRIPTION
 *   0      8     "DS4RW001"; zeros while the file is being written
 *   8      20    u32 layers, experts, n_embd, n_ff, slots
 *   28     4     0
 *   32     8 h   u64 rows seen, for each layer and expert
 *   ...          for each layer and expert: bf16 [slots][n_embd], then bf16 [slots][n_ff]; unused slots are holes
 *
 * A row in n_embd and the row in n_ff of the same slot come from the same token. Refused: shapes that the file's size
 * contradicts, values that are no numbers. */
#include "tools/rows_file.h"

#include <math.h>
#include <stdio.h>

#include "base/bytes.h"
#include "base/f16.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/rng.h"

#define HEAD_BYTES 32u
#define COUNT_MAX (1u << 20) /* of layers times experts, of n_embd and n_ff */

static uint64_t n_pairs(const struct rows_shape *s) { return (uint64_t)s->n_layers * s->n_experts; }

/* Cannot overflow within the bounds of check_shape. */
static uint64_t pair_bytes(const struct rows_shape *s) { return 2ull * s->n_slots * ((uint64_t)s->n_embd + s->n_ff); }

static uint64_t offset_of(const struct rows_shape *s, enum rows_part part, uint32_t layer_i, uint32_t expert_i,
                          uint64_t slot)
{
    uint64_t pair = (uint64_t)layer_i * s->n_experts + expert_i;
    uint64_t at = HEAD_BYTES + 8 * n_pairs(s) + pair * pair_bytes(s);
    return part == ROWS_IN ? at + 2 * slot * s->n_embd : at + 2ull * s->n_slots * s->n_embd + 2 * slot * s->n_ff;
}

static enum ds4_status check_shape(const char *path, const struct rows_shape *s, struct ds4_error *error)
{
    bool good = s->n_layers > 0 && s->n_experts > 0 && s->n_layers <= COUNT_MAX && s->n_experts <= COUNT_MAX &&
                n_pairs(s) <= COUNT_MAX && s->n_embd > 0 && s->n_embd <= COUNT_MAX && s->n_ff > 0 &&
                s->n_ff <= COUNT_MAX && s->n_slots > 0 && s->n_slots <= ROWS_SLOTS_MAX;
    return good ? DS4_OK : err_set(error, DS4_ERR_FORMAT, "%s: impossible numbers of calibration rows", path);
}

static enum ds4_status prepare(struct rows_file *f, struct ds4_error *error)
{
    uint32_t n = f->shape.n_embd > f->shape.n_ff ? f->shape.n_embd : f->shape.n_ff;
    f->hits = mem_zalloc((size_t)n_pairs(&f->shape), sizeof *f->hits);
    f->row = mem_alloc(n, sizeof *f->row);
    return f->hits && f->row ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory for %s", f->path);
}

static enum ds4_status begin(const char *path, struct rows_file *out, struct ds4_error *error)
{
    int n = snprintf(out->path, sizeof out->path, "%s", path);
    return n > 0 && (size_t)n < sizeof out->path ? DS4_OK
                                                 : err_set(error, DS4_ERR_LIMIT, "the path of the rows is too long");
}

enum ds4_status rows_create(const char *path, const struct rows_shape *shape, bool again, struct rows_file *out,
                            struct ds4_error *error)
{
    static const uint8_t nothing[HEAD_BYTES];
    enum ds4_status status;
    *out = (struct rows_file){.fd = -1, .shape = *shape};
    TRY_GOTO(begin(path, out, error), failed);
    TRY_GOTO(check_shape(path, shape, error), failed);
    TRY_GOTO(prepare(out, error), failed);
    TRY_GOTO(file_open(path, again ? FILE_READ_WRITE : FILE_CREATE_TRUNCATE, &out->fd, error), failed);
    TRY_GOTO(file_resize(out->fd, path, offset_of(shape, ROWS_IN, shape->n_layers, 0, 0), error), failed);
    TRY_GOTO(file_write_at(out->fd, path, 0, nothing, sizeof nothing, error), failed);
    return DS4_OK;
failed:
    rows_close(out);
    return status;
}

enum ds4_status rows_put(struct rows_file *f, enum rows_part part, uint32_t layer_i, uint32_t expert_i, uint64_t hit_i,
                         const float *values, struct ds4_error *error)
{
    const struct rows_shape *s = &f->shape;
    uint32_t n = part == ROWS_IN ? s->n_embd : s->n_ff;
    uint64_t slot = hit_i;
    if (hit_i >= s->n_slots) { /* every row is as likely to stay as every other */
        struct rng place = {.state = (uint64_t)layer_i << 32 | expert_i}, chance = {.state = rng_next(&place) ^ hit_i};
        slot = rng_below(&chance, hit_i + 1);
    }
    if (slot >= s->n_slots) return DS4_OK;
    for (uint32_t i = 0; i < n; i++) f->row[i] = bf16_from_f32(values[i]);
    return file_write_at(f->fd, f->path, offset_of(s, part, layer_i, expert_i, slot), f->row, 2 * (size_t)n, error);
}

enum ds4_status rows_finish(struct rows_file *f, const uint64_t *hits, struct ds4_error *error)
{
    const struct rows_shape *s = &f->shape;
    uint8_t head[HEAD_BYTES] = "DS4RW001";
    const uint32_t numbers[] = {s->n_layers, s->n_experts, s->n_embd, s->n_ff, s->n_slots};
    for (size_t i = 0; i < 5; i++) store_u32(head + 8 + 4 * i, numbers[i]);
    TRY(file_write_at(f->fd, f->path, HEAD_BYTES, hits, (size_t)n_pairs(s) * sizeof *hits, error));
    TRY(file_sync(f->fd, f->path, error));
    TRY(file_write_at(f->fd, f->path, 0, head, sizeof head, error));
    return file_sync(f->fd, f->path, error);
}

enum ds4_status rows_open(const char *path, struct rows_file *out, struct ds4_error *error)
{
    uint8_t head[HEAD_BYTES];
    struct file_id id;
    struct hash *hash = NULL;
    enum ds4_status status;
    *out = (struct rows_file){.fd = -1};
    TRY_GOTO(begin(path, out, error), failed);
    TRY_GOTO(file_open(path, FILE_READ, &out->fd, error), failed);
    TRY_GOTO(file_identity(out->fd, path, &id, error), failed);
    TRY_GOTO(file_read_at(out->fd, path, 0, head, sizeof head, error), failed);
    if (memcmp(head, "DS4RW001", 8) != 0) {
        status = err_set(error, DS4_ERR_FORMAT, "%s: no finished file of calibration rows", path);
        goto failed;
    }
    out->shape = (struct rows_shape){load_u32(head + 8), load_u32(head + 12), load_u32(head + 16),
                                     load_u32(head + 20), load_u32(head + 24)};
    TRY_GOTO(check_shape(path, &out->shape, error), failed);
    if (id.size_bytes != offset_of(&out->shape, ROWS_IN, out->shape.n_layers, 0, 0)) {
        status = err_set(error, DS4_ERR_FORMAT, "%s: not of the size that its header says", path);
        goto failed;
    }
    TRY_GOTO(prepare(out, error), failed);
    size_t n = (size_t)n_pairs(&out->shape) * sizeof *out->hits;
    TRY_GOTO(file_read_at(out->fd, path, HEAD_BYTES, out->hits, n, error), failed);
    hash = hash_create();
    if (!hash) {
        status = err_set(error, DS4_ERR_NOMEM, "no memory for %s", path);
        goto failed;
    }
    hash_update(hash, head, sizeof head);
    hash_update(hash, out->hits, n);
    hash_digest(hash, out->digest);
    hash_destroy(hash);
    return DS4_OK;
failed:
    rows_close(out);
    return status;
}

uint32_t rows_count(const struct rows_file *f, uint32_t layer_i, uint32_t expert_i)
{
    if (layer_i >= f->shape.n_layers || expert_i >= f->shape.n_experts) return 0;
    uint64_t hits = f->hits[(size_t)layer_i * f->shape.n_experts + expert_i];
    return hits < f->shape.n_slots ? (uint32_t)hits : f->shape.n_slots;
}

enum ds4_status rows_read(struct rows_file *f, enum rows_part part, uint32_t layer_i, uint32_t expert_i, float *values,
                          struct ds4_error *error)
{
    uint32_t n = part == ROWS_IN ? f->shape.n_embd : f->shape.n_ff, count = rows_count(f, layer_i, expert_i);
    for (uint32_t r = 0; r < count; r++) {
        TRY(file_read_at(f->fd, f->path, offset_of(&f->shape, part, layer_i, expert_i, r), f->row, 2 * (size_t)n,
                         error));
        for (uint32_t i = 0; i < n; i++) {
            values[(size_t)r * n + i] = bf16_to_f32(f->row[i]);
            if (!isfinite(values[(size_t)r * n + i]))
                return err_set(error, DS4_ERR_FORMAT, "%s: a value that is no number", f->path);
        }
    }
    return DS4_OK;
}

void rows_close(struct rows_file *f)
{
    file_close(f->fd);
    mem_free(f->hits);
    mem_free(f->row);
    *f = (struct rows_file){.fd = -1};
}
