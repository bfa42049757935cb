/* value.c - typed access to metadata. Types are checked, never assumed: numbers are converted from the type that the
 * file declares, and an item outside the array is refused. */
#include <math.h>

#include "base/bytes.h"
#include "gguf/impl.h"

static const struct {
    const char *name;
    uint32_t bytes;
} types[] = {
    [GGUF_U8] = {"u8", 1}, [GGUF_I8] = {"i8", 1}, [GGUF_U16] = {"u16", 2}, [GGUF_I16] = {"i16", 2},
    [GGUF_U32] = {"u32", 4}, [GGUF_I32] = {"i32", 4}, [GGUF_F32] = {"f32", 4}, [GGUF_BOOL] = {"bool", 1},
    [GGUF_STRING] = {"string", 0}, [GGUF_ARRAY] = {"array", 0}, [GGUF_U64] = {"u64", 8}, [GGUF_I64] = {"i64", 8},
    [GGUF_F64] = {"f64", 8},
};

uint32_t gguf_scalar_bytes(uint32_t type) { return type < sizeof types / sizeof types[0] ? types[type].bytes : 0; }

const char *gguf_type_name(enum gguf_type type)
{
    return (size_t)type < sizeof types / sizeof types[0] ? types[type].name : "unknown";
}

bool gguf_next_string(const struct gguf_value *value, uint64_t *cursor, struct ds4_span *out)
{
    if (value->item_type != GGUF_STRING || *cursor >= value->size_bytes) return false;
    uint64_t len = load_u64(value->bytes + *cursor); /* verified by read.c */
    *out = span_make((const char *)value->bytes + *cursor + 8, (size_t)len);
    *cursor += 8 + len;
    return true;
}

enum ds4_status gguf_item_i64(const struct gguf_value *value, uint64_t i, int64_t *out)
{
    if (i >= value->count) return DS4_ERR_FORMAT;
    const uint8_t *at = value->bytes + i * gguf_scalar_bytes(value->item_type);
    switch (value->item_type) {
    case GGUF_U8: *out = *at; return DS4_OK;
    case GGUF_I8: *out = (int8_t)*at; return DS4_OK;
    case GGUF_U16: *out = load_u16(at); return DS4_OK;
    case GGUF_I16: *out = (int16_t)load_u16(at); return DS4_OK;
    case GGUF_U32: *out = load_u32(at); return DS4_OK;
    case GGUF_I32: *out = (int32_t)load_u32(at); return DS4_OK;
    case GGUF_I64: *out = (int64_t)load_u64(at); return DS4_OK;
    case GGUF_U64:
        *out = (int64_t)load_u64(at);
        return *out >= 0 ? DS4_OK : DS4_ERR_FORMAT;
    default: return DS4_ERR_FORMAT;
    }
}

enum ds4_status gguf_item_f64(const struct gguf_value *value, uint64_t i, double *out)
{
    if (i >= value->count) return DS4_ERR_FORMAT;
    const uint8_t *at = value->bytes + i * gguf_scalar_bytes(value->item_type);
    if (value->item_type == GGUF_F32) *out = (double)load_f32(at);
    else if (value->item_type == GGUF_F64) *out = load_f64(at);
    else return DS4_ERR_FORMAT;
    return isfinite(*out) ? DS4_OK : DS4_ERR_FORMAT;
}

/* ---- by key ------------------------------------------------------------------------------------------------- */

static enum ds4_status mismatch(const struct gguf_file *file, const char *key, const struct gguf_value *v,
                                const char *expected, struct ds4_error *error)
{
    return err_set(error, DS4_ERR_FORMAT, "%s: byte %llu: key %s is %s%s, expected %s", file->shards[0].path,
                   (unsigned long long)v->offset, key, v->type == GGUF_ARRAY ? "an array of " : "",
                   gguf_type_name(v->item_type), expected);
}

static enum ds4_status out_of_range(const struct gguf_file *file, const char *key, const struct gguf_value *v,
                                    const char *expected, struct ds4_error *error)
{
    return err_set(error, DS4_ERR_FORMAT, "%s: byte %llu: key %s: the value is not %s", file->shards[0].path,
                   (unsigned long long)v->offset, key, expected);
}

enum ds4_status gguf_get_u64(const struct gguf_file *file, const char *key, uint64_t *out, struct ds4_error *error)
{
    const struct gguf_value *v = gguf_find(file, key);
    if (!v) return DS4_ERR_STATE;
    if (v->type == GGUF_U64) {
        *out = load_u64(v->bytes);
        return DS4_OK;
    }
    int64_t number;
    if (v->type == GGUF_ARRAY || gguf_item_i64(v, 0, &number) != DS4_OK)
        return mismatch(file, key, v, "a whole number", error);
    if (number < 0) return out_of_range(file, key, v, "zero or more", error);
    *out = (uint64_t)number;
    return DS4_OK;
}

enum ds4_status gguf_get_u32(const struct gguf_file *file, const char *key, uint32_t *out, struct ds4_error *error)
{
    uint64_t wide;
    TRY(gguf_get_u64(file, key, &wide, error));
    if (wide > UINT32_MAX) return out_of_range(file, key, gguf_find(file, key), "below 2^32", error);
    *out = (uint32_t)wide;
    return DS4_OK;
}

enum ds4_status gguf_get_f32(const struct gguf_file *file, const char *key, float *out, struct ds4_error *error)
{
    const struct gguf_value *v = gguf_find(file, key);
    if (!v) return DS4_ERR_STATE;
    if (v->type != GGUF_F32 && v->type != GGUF_F64) return mismatch(file, key, v, "a real number", error);
    double number;
    if (gguf_item_f64(v, 0, &number) != DS4_OK || !isfinite((float)number))
        return out_of_range(file, key, v, "a finite f32", error);
    *out = (float)number;
    return DS4_OK;
}

enum ds4_status gguf_get_bool(const struct gguf_file *file, const char *key, bool *out, struct ds4_error *error)
{
    const struct gguf_value *v = gguf_find(file, key);
    if (!v) return DS4_ERR_STATE;
    if (v->type != GGUF_BOOL) return mismatch(file, key, v, "a bool", error);
    *out = *v->bytes != 0;
    return DS4_OK;
}

enum ds4_status gguf_get_string(const struct gguf_file *file, const char *key, struct ds4_span *out,
                                struct ds4_error *error)
{
    const struct gguf_value *v = gguf_find(file, key);
    uint64_t cursor = 0;
    if (!v) return DS4_ERR_STATE;
    if (v->type != GGUF_STRING || !gguf_next_string(v, &cursor, out)) return mismatch(file, key, v, "a string", error);
    return DS4_OK;
}
