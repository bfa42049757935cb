/* quantise_source.c - where the values come from: a checkpoint as published, or a GGUF file of high precision.
 *
 * A weight of the checkpoint is stored as F32, BF16, F16, as E4M3 with a scale for each tile of 128 x 128, or as two
 * E2M1 in a byte (even column low) with a UE8M0 scale for each 32 columns: its dtype in the header says which. Its
 * scale: "X.weight" has "X.scale" (or, in exports of others, "X.weight_scale_inv"). Every tensor must be known: none is
 * dropped silently. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/f16.h"
#include "base/file.h"
#include "base/mem.h"
#include "quant/mxfp4.h"
#include "tools/quantise.h"

#define TILE 128u
#define GROUP 32u
#define SCALE_MAX 252 /* 6 times 2^(252 - 127) is the largest that F32 holds; 255 is no number */

struct record { /* one matrix of the checkpoint, on its way into the list */
    struct quantise_name name;
    struct quantise_part part;
};

static enum ds4_status bad(struct ds4_error *error, const char *name, const char *what)
{
    return err_set(error, DS4_ERR_FORMAT, "tensor \"%.120s\": %s", name, what);
}

/* ---- checkpoint: list --------------------------------------------------------------------------------------- */

/* The tensor named as `name` with its last n_cut bytes replaced. */
static const struct safetensors_tensor *sibling(const struct safetensors *s, struct ds4_span name, size_t n_cut,
                                                const char *tail)
{
    char text[SAFETENSORS_NAME_BYTES_MAX + 32];
    int n = snprintf(text, sizeof text, "%.*s%s", (int)(name.len - n_cut), name.ptr, tail);
    return safetensors_find(s, span_make(text, (size_t)n));
}

static bool is_scale(const struct safetensors *s, struct ds4_span name)
{
    if (span_ends(name, SPAN(".scale"))) return sibling(s, name, 5, "weight") != NULL;
    return span_ends(name, SPAN(".weight_scale_inv")) && sibling(s, name, 10, "") != NULL;
}

static int by_place(const void *a, const void *b)
{
    const struct quantise_name *x = &((const struct record *)a)->name, *y = &((const struct record *)b)->name;
    if ((x->expert < 0) != (y->expert < 0)) return x->expert < 0 ? -1 : 1;
    if (x->draft != y->draft) return x->draft ? 1 : -1;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    int order = strcmp(x->name, y->name);
    return order ? order : x->expert - y->expert;
}

static enum ds4_status collect(struct quantise_source *source, bool with_draft, struct record *records, size_t *n,
                               struct ds4_error *error)
{
    const struct safetensors *s = source->checkpoint;
    *n = 0;
    for (size_t i = 0; i < safetensors_count(s); i++) {
        const struct safetensors_tensor *t = safetensors_at(s, i);
        struct record *r = &records[*n];
        if (is_scale(s, t->name)) continue;
        if (!quantise_name_of(t->name, &r->name))
            return err_set(error, DS4_ERR_UNSUPPORTED, "tensor \"%.*s\" is none of this architecture",
                           (int)t->name.len, t->name.ptr);
        if (r->name.skip || (r->name.draft && !with_draft)) {
            source->n_skipped++;
            continue;
        }
        r->part.weight = t;
        if (span_ends(t->name, SPAN(".weight"))) {
            r->part.scale = sibling(s, t->name, 6, "scale");
            if (!r->part.scale) r->part.scale = sibling(s, t->name, 0, "_scale_inv");
        }
        ++*n;
    }
    return DS4_OK;
}

/* Kind and shape of one matrix. */
static enum ds4_status describe(const struct quantise_part *part, struct quantise_tensor *t, struct ds4_error *error)
{
    const struct safetensors_tensor *w = part->weight, *s = part->scale;
    bool table = t->family == QUANTISE_TABLE;
    if (w->n_dims > 2) return bad(error, t->name, "more than two dimensions");
    t->n_dims = w->n_dims == 2 ? 2 : 1;
    t->dims[0] = w->n_dims == 2 ? w->dims[1] : w->dims[0];
    t->dims[1] = w->n_dims == 2 ? w->dims[0] : 1;
    t->kind = QUANTISE_BLOCKS;
    switch (w->type) {
    case SAFETENSORS_F32: t->from = quant_format(QUANT_F32); break;
    case SAFETENSORS_F16: t->from = quant_format(QUANT_F16); break;
    case SAFETENSORS_BF16: t->from = quant_format(QUANT_BF16); break;
    case SAFETENSORS_F8_E4M3: t->kind = QUANTISE_FP8; break;
    case SAFETENSORS_I8:
    case SAFETENSORS_U8: t->kind = QUANTISE_FP4; break;
    case SAFETENSORS_I64: t->kind = QUANTISE_I64; break;
    default: return bad(error, t->name, "a dtype that weights do not have");
    }
    if (table != (t->kind == QUANTISE_I64))
        return bad(error, t->name, "numbers where weights belong, or weights in a table");
    if (t->kind == QUANTISE_FP4) t->dims[0] *= 2;
    if (t->dims[0] > QUANTISE_COLS_MAX) return bad(error, t->name, "rows too long");
    if (t->kind != QUANTISE_FP8 && t->kind != QUANTISE_FP4) return DS4_OK;
    if (!s || s->n_dims != 2 || t->n_dims != 2) return bad(error, t->name, "no matrix of scales beside it");
    if (t->kind == QUANTISE_FP4)
        return s->type == SAFETENSORS_F8_E8M0 && t->dims[0] % GROUP == 0 && s->dims[0] == t->dims[1] &&
                       s->dims[1] == t->dims[0] / GROUP
                   ? DS4_OK
                   : bad(error, t->name, "scales of FP4 must be UE8M0, one for each 32 columns of a row");
    return (s->type == SAFETENSORS_F8_E8M0 || s->type == SAFETENSORS_F32) && t->dims[0] % TILE == 0 &&
                   t->dims[1] % TILE == 0 && s->dims[0] == t->dims[1] / TILE && s->dims[1] == t->dims[0] / TILE
               ? DS4_OK
               : bad(error, t->name, "scales of FP8 must be UE8M0 or F32, one for each tile of 128 x 128");
}

/* One tensor of the output from the records that bear its name. */
static enum ds4_status join(struct quantise_source *source, const struct record *records, size_t n,
                            struct ds4_error *error)
{
    struct quantise_tensor *t = &source->tensors[source->n_tensors++];
    const struct quantise_name *name = &records[0].name;
    *t = (struct quantise_tensor){.family = name->family, .layer = name->layer, .draft = name->draft,
                                  .part_first = source->n_parts, .dims = {1, 1, 1}};
    memcpy(t->name, name->name, sizeof t->name);
    memcpy(t->official, name->official, sizeof t->official);
    for (size_t i = 0; i < n; i++) {
        struct quantise_tensor one = *t;
        if (records[i].name.expert != (name->expert < 0 ? -1 : (int32_t)i))
            return bad(error, t->name, "experts are missing in the checkpoint, or there twice");
        TRY(describe(&records[i].part, &one, error));
        if (i > 0 && (one.kind != t->kind || one.from != t->from || one.dims[0] != t->dims[0] ||
                      one.dims[1] != t->dims[1]))
            return bad(error, t->name, "its experts differ in type or shape");
        *t = one;
        source->parts[source->n_parts++] = records[i].part;
    }
    if (name->expert >= 0) {
        t->n_dims = 3;
        t->dims[2] = n;
        if (!t->draft && n > source->n_experts) source->n_experts = (uint32_t)n;
    } else if (n > 1) {
        return bad(error, t->name, "is there twice");
    }
    source->n_values += t->dims[0] * t->dims[1] * t->dims[2];
    return DS4_OK;
}

static enum ds4_status list_checkpoint(struct quantise_source *source, bool with_draft, struct ds4_error *error)
{
    size_t n_all = safetensors_count(source->checkpoint), n = 0;
    struct record *records = mem_zalloc(n_all + 1, sizeof *records);
    source->tensors = mem_zalloc(n_all + 1, sizeof *source->tensors);
    source->parts = mem_zalloc(n_all + 1, sizeof *source->parts);
    enum ds4_status status = DS4_OK;
    if (!records || !source->tensors || !source->parts)
        status = err_set(error, DS4_ERR_NOMEM, "no memory for a list of %zu tensors", n_all);
    if (status == DS4_OK) status = collect(source, with_draft, records, &n, error);
    if (status == DS4_OK && n == 0) status = err_set(error, DS4_ERR_FORMAT, "%s holds no weights", source->path);
    if (status == DS4_OK) qsort(records, n, sizeof *records, by_place);
    for (size_t i = 0, end; i < n && status == DS4_OK; i = end) {
        for (end = i + 1; end < n && strcmp(records[end].name.name, records[i].name.name) == 0;) end++;
        status = join(source, records + i, end - i, error);
    }
    mem_free(records);
    return status;
}

/* ---- GGUF: list --------------------------------------------------------------------------------------------- */

static enum ds4_status add_gguf(struct quantise_source *source, const struct gguf_tensor *g, bool with_draft,
                                struct ds4_error *error)
{
    struct quantise_tensor *t = &source->tensors[source->n_tensors];
    struct quantise_name place;
    quantise_place_of(g->name, &place);
    if (place.draft && !with_draft) {
        source->n_skipped++;
        return DS4_OK;
    }
    *t = (struct quantise_tensor){.family = place.family, .layer = place.layer, .draft = place.draft,
                                  .n_dims = g->n_dims, .gguf = g, .from = quant_format(g->type)};
    (void)snprintf(t->name, sizeof t->name, "%.*s", (int)g->name.len, g->name.ptr);
    memcpy(t->dims, g->dims, sizeof t->dims);
    if (g->name.len >= sizeof t->name) return bad(error, t->name, "a name too long");
    if (!t->from || !g->data) return bad(error, t->name, "a type that is not known");
    if (g->dims[3] != 1) return bad(error, t->name, "four dimensions");
    if (t->dims[0] > QUANTISE_COLS_MAX) return bad(error, t->name, "rows too long");
    source->n_values += t->dims[0] * t->dims[1] * t->dims[2];
    source->n_tensors++;
    return DS4_OK;
}

static enum ds4_status list_gguf(struct quantise_source *source, bool with_draft, struct ds4_error *error)
{
    size_t n = gguf_n_tensors(source->gguf);
    source->tensors = mem_zalloc(n + 1, sizeof *source->tensors);
    if (!source->tensors) return err_set(error, DS4_ERR_NOMEM, "no memory for a list of %zu tensors", n);
    for (size_t i = 0; i < n; i++) TRY(add_gguf(source, gguf_tensor_at(source->gguf, i), with_draft, error));
    return n ? DS4_OK : err_set(error, DS4_ERR_FORMAT, "%s holds no weights", source->path);
}

enum ds4_status quantise_source_open(const char *path, bool with_draft, struct quantise_source *out,
                                     struct ds4_error *error)
{
    size_t n = strlen(path);
    *out = (struct quantise_source){.path = path};
    bool is_gguf = n > 5 && strcmp(path + n - 5, ".gguf") == 0;
    enum ds4_status status = is_gguf ? gguf_open(path, &out->gguf, error)
                                     : safetensors_open(path, &out->checkpoint, error);
    if (status == DS4_OK) status = is_gguf ? list_gguf(out, with_draft, error)
                                           : list_checkpoint(out, with_draft, error);
    if (status != DS4_OK) quantise_source_close(out);
    return status;
}

void quantise_source_close(struct quantise_source *source)
{
    safetensors_close(source->checkpoint);
    gguf_close(source->gguf);
    mem_free(source->tensors);
    mem_free(source->parts);
    *source = (struct quantise_source){0};
}

/* ---- values ------------------------------------------------------------------------------------------------- */

static const struct quantise_part *part_of(const struct quantise_source *source, const struct quantise_piece *p)
{
    return &source->parts[p->tensor->part_first + p->matrix_i];
}

static enum ds4_status read_blocks(const struct quantise_source *source, const struct quantise_piece *p, uint8_t *raw,
                                   struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    uint64_t row_bytes;
    if (!quant_row_bytes(t->from, t->dims[0], &row_bytes)) return bad(error, t->name, "rows of no whole blocks");
    size_t n = (size_t)(p->n_rows * row_bytes);
    if (!t->gguf) return safetensors_read(source->checkpoint, part_of(source, p)->weight, p->row_first * row_bytes, raw,
                                          n, error);
    uint64_t at = t->gguf->file_offset + (p->matrix_i * t->dims[1] + p->row_first) * row_bytes;
    return file_read_at(gguf_shard_fd(source->gguf, t->gguf->shard_i),
                        gguf_shard_path(source->gguf, t->gguf->shard_i), at, raw, n, error);
}

static enum ds4_status read_fp8(const struct quantise_source *source, const struct quantise_piece *p,
                                struct quantise_buffers *b, struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    const struct quantise_part *part = part_of(source, p);
    uint64_t cols = t->dims[0], tiles = cols / TILE, size = part->scale->type == SAFETENSORS_F32 ? 4 : 1;
    uint64_t first = p->row_first / TILE, n = (p->row_first + p->n_rows - 1) / TILE - first + 1;
    TRY(safetensors_read(source->checkpoint, part->weight, p->row_first * cols, b->raw, (size_t)(p->n_rows * cols),
                         error));
    TRY(safetensors_read(source->checkpoint, part->scale, first * tiles * size, b->scales, (size_t)(n * tiles * size),
                         error));
    for (uint64_t r = 0; r < p->n_rows; r++) {
        uint64_t tile_row = (p->row_first + r) / TILE - first;
        for (uint64_t k = 0; k < tiles; k++) {
            const uint8_t *at = b->scales + (tile_row * tiles + k) * size;
            float scale = size == 4 ? load_f32(at) : *at == 255 ? NAN : e8m0_to_f32(*at);
            for (uint64_t c = k * TILE; c < (k + 1) * TILE; c++)
                b->values[r * cols + c] = e4m3_to_f32(b->raw[r * cols + c]) * scale;
        }
    }
    return DS4_OK;
}

static enum ds4_status read_fp4(const struct quantise_source *source, const struct quantise_piece *p,
                                struct quantise_buffers *b, struct ds4_error *error)
{
    const struct quantise_part *part = part_of(source, p);
    uint64_t cols = p->tensor->dims[0], groups = cols / GROUP, n = p->n_rows * groups;
    TRY(safetensors_read(source->checkpoint, part->weight, p->row_first * cols / 2, b->raw,
                         (size_t)(p->n_rows * cols / 2), error));
    TRY(safetensors_read(source->checkpoint, part->scale, p->row_first * groups, b->scales, (size_t)n, error));
    for (uint64_t i = 0; i < n; i++)
        if (b->scales[i] > SCALE_MAX) return bad(error, p->tensor->name, "a scale that is no number, or too large");
    return DS4_OK;
}

static enum ds4_status read_table(const struct quantise_source *source, const struct quantise_piece *p,
                                  struct quantise_buffers *b, struct ds4_error *error)
{
    uint64_t n = p->n_rows * p->tensor->dims[0];
    TRY(safetensors_read(source->checkpoint, part_of(source, p)->weight, p->row_first * p->tensor->dims[0] * 8, b->raw,
                         (size_t)n * 8, error));
    for (uint64_t i = 0; i < n; i++) {
        uint64_t expert = load_u64(b->raw + 8 * i);
        if (expert >= source->n_experts) return bad(error, p->tensor->name, "the number of no expert");
        store_u32(b->out + 4 * i, (uint32_t)expert);
    }
    return DS4_OK;
}

enum ds4_status quantise_read_values(const struct quantise_source *source, const struct quantise_piece *p,
                                     struct quantise_buffers *b, struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    uint64_t n = p->n_rows * t->dims[0];
    switch (t->kind) {
    case QUANTISE_BLOCKS:
        TRY(read_blocks(source, p, b->raw, error));
        if (!t->from->decode) return bad(error, t->name, "its format cannot be decoded");
        t->from->decode(b->raw, b->values, (size_t)n);
        break;
    case QUANTISE_FP8: TRY(read_fp8(source, p, b, error)); break;
    case QUANTISE_FP4:
        TRY(read_fp4(source, p, b, error));
        for (uint64_t i = 0; i < n; i++)
            b->values[i] = e2m1_to_f32(b->raw[i / 2] >> i % 2 * 4 & 15) * e8m0_to_f32(b->scales[i / GROUP]);
        break;
    case QUANTISE_I64: return bad(error, t->name, "a table has no weights");
    }
    for (uint64_t i = 0; i < n; i++)
        if (!isfinite(b->values[i])) return bad(error, t->name, "a value that is not finite");
    (void)quantise_scale(source->scales, p, b->values);
    return DS4_OK;
}

enum ds4_status quantise_read(const struct quantise_source *source, const struct quantise_piece *p,
                              struct quantise_buffers *b, bool *exact, struct ds4_error *error)
{
    const struct quantise_tensor *t = p->tensor;
    *exact = true;
    if (quantise_scale(source->scales, p, NULL)) {
        *exact = false;
        return quantise_read_values(source, p, b, error);
    }
    if (t->kind == QUANTISE_I64) return read_table(source, p, b, error);
    if (t->kind == QUANTISE_BLOCKS && t->from == t->to) {
        TRY(read_blocks(source, p, b->out, error));
        return quant_scales_finite(t->to, b->out, (size_t)(p->n_rows * t->dims[0]))
                   ? DS4_OK : bad(error, t->name, "a scale that is not finite");
    }
    if (t->kind == QUANTISE_FP4 && t->to->id == QUANT_MXFP4) {
        TRY(read_fp4(source, p, b, error));
        mxfp4_repack(b->raw, b->scales, b->out, (size_t)(p->n_rows * t->dims[0]));
        return DS4_OK;
    }
    *exact = false;
    return quantise_read_values(source, p, b, error);
}
