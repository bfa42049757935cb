/* inspect.c - `ds4 inspect`: what is in a GGUF file, known model or not. Sees the file format below the engine, so
 * that a file which the engine refuses can still be looked at. */
#include <stdio.h>

#include "base/bytes.h"
#include "base/mem.h"
#include "base/options.h"
#include "base/sink.h"
#include "base/term.h"
#include "gguf/gguf.h"
#include "quant/quant.h"
#include "tools/tools.h"

#define SHOWN_ITEMS 8       /* of an array, in the table for people */
#define SHOWN_BYTES 60      /* of a string there */
#define JSON_ITEMS_MAX 4096 /* longer arrays are given by type and count only */

struct inspect {
    const char *path;
    bool tensors, json;
};

static const struct option rows[] = {
    {.name = "FILE", .type = OPTION_OPERAND, .offset = offsetof(struct inspect, path), .required = true,
     .help = "GGUF file; of a split one, the first part"},
    {.name = "tensors", .type = OPTION_FLAG, .offset = offsetof(struct inspect, tensors), .help = "list every tensor"},
    {.name = "json", .type = OPTION_FLAG, .offset = offsetof(struct inspect, json), .help = "as a JSON object"},
};
static const struct options table = {
    .command = "inspect", .summary = "what is in a model file", OPTIONS_ROWS(rows),
};

static bool is_real(enum gguf_type type) { return type == GGUF_F32 || type == GGUF_F64; }

/* One item of a value that is not a string. */
static void put_number(const struct gguf_value *value, uint64_t i, struct sink *out)
{
    enum gguf_type type = value->type == GGUF_ARRAY ? value->item_type : value->type;
    int64_t n = 0;
    double real = 0;
    if (type == GGUF_U64) {
        sink_printf(out, "%llu", (unsigned long long)load_u64(value->bytes + 8 * i));
    } else if (is_real(type)) {
        if (gguf_item_f64(value, i, &real) != DS4_OK) sink_put_text(out, "null");
        else if (type == GGUF_F32) sink_put_json_f32(out, (float)real);
        else sink_printf(out, "%.17g", real);
    } else if (type == GGUF_BOOL) {
        sink_put_text(out, value->bytes[i] ? "true" : "false");
    } else if (gguf_item_i64(value, i, &n) != DS4_OK) {
        sink_put_text(out, "null");
    } else {
        sink_printf(out, "%lld", (long long)n);
    }
}

/* The first n_max items as a JSON list without brackets. Strings are cut to text_max bytes (0 = whole). */
static void put_items(const struct gguf_value *value, uint64_t n_max, size_t text_max, struct sink *out)
{
    bool strings = value->type == GGUF_STRING || (value->type == GGUF_ARRAY && value->item_type == GGUF_STRING);
    uint64_t cursor = 0, n = value->count < n_max ? value->count : n_max;
    for (uint64_t i = 0; i < n; i++) {
        struct ds4_span text;
        if (i) sink_put_text(out, ",");
        if (!strings) {
            put_number(value, i, out);
        } else if (gguf_next_string(value, &cursor, &text)) {
            bool cut = text_max && text.len > text_max;
            sink_put_json_string(out, span_make(text.ptr, cut ? text_max : text.len));
            if (cut) sink_put_text(out, "...");
        }
    }
}

static void put_shape(const struct gguf_tensor *tensor, struct sink *out)
{
    for (uint32_t d = 0; d < tensor->n_dims; d++)
        sink_printf(out, d ? ",%llu" : "%llu", (unsigned long long)tensor->dims[d]);
}

static void put_type(uint32_t type, struct sink *out)
{
    const struct quant_format *format = quant_format(type);
    if (format) sink_printf(out, "\"%s\"", format->name);
    else sink_printf(out, "\"unknown %u\"", type);
}

static void put_json(const struct gguf_file *file, const struct inspect *flags, struct sink *out)
{
    sink_put_text(out, "{\"file\":");
    sink_put_json_string(out, span_from(flags->path));
    sink_printf(out, ",\"file_bytes\":%llu,\"header_bytes\":%llu,\"n_shards\":%u,\"metadata\":{",
                (unsigned long long)gguf_file_bytes(file), (unsigned long long)gguf_header_bytes(file),
                gguf_n_shards(file));
    for (size_t i = 0; i < gguf_n_kvs(file); i++) {
        const struct gguf_kv *kv = gguf_kv_at(file, i);
        if (i) sink_put_text(out, ",");
        sink_put_json_string(out, kv->key);
        sink_put_text(out, ":");
        if (kv->value.type != GGUF_ARRAY) {
            put_items(&kv->value, 1, 0, out);
        } else if (kv->value.count > JSON_ITEMS_MAX) {
            sink_printf(out, "{\"array\":\"%s\",\"count\":%llu}", gguf_type_name(kv->value.item_type),
                        (unsigned long long)kv->value.count);
        } else {
            sink_put_text(out, "[");
            put_items(&kv->value, JSON_ITEMS_MAX, 0, out);
            sink_put_text(out, "]");
        }
    }
    sink_printf(out, "},\"n_tensors\":%zu", gguf_n_tensors(file));
    for (size_t i = 0; flags->tensors && i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        sink_put_text(out, i ? ",{\"name\":" : ",\"tensors\":[{\"name\":");
        sink_put_json_string(out, tensor->name);
        sink_put_text(out, ",\"type\":");
        put_type(tensor->type, out);
        sink_put_text(out, ",\"shape\":[");
        put_shape(tensor, out);
        sink_printf(out, "],\"bytes\":%llu,\"shard\":%u,\"offset\":%llu}", (unsigned long long)tensor->size_bytes,
                    tensor->shard_i, (unsigned long long)tensor->file_offset);
        if (i + 1 == gguf_n_tensors(file)) sink_put_text(out, "]");
    }
    if (flags->tensors && gguf_n_tensors(file) == 0) sink_put_text(out, ",\"tensors\":[]");
    sink_put_text(out, "}\n");
}

struct type_sum {
    uint32_t type;
    uint64_t n, elems, bytes;
};

#define TYPES_MAX 64 /* kinds that the summary tells apart; the rest is added to the last */

static uint64_t n_elems(const struct gguf_tensor *tensor)
{
    uint64_t n = 1;
    for (uint32_t d = 0; d < tensor->n_dims; d++)
        if (!mul_ok(n, tensor->dims[d], &n)) return UINT64_MAX;
    return n;
}

static void put_summary(const struct gguf_file *file, struct sink *out)
{
    struct type_sum sums[TYPES_MAX] = {0};
    size_t n_sums = 0;
    char size[16];
    for (size_t i = 0; i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        size_t s = 0;
        while (s < n_sums && sums[s].type != tensor->type) s++;
        if (s == n_sums && n_sums < TYPES_MAX) sums[n_sums++].type = tensor->type;
        if (s == TYPES_MAX) s--;
        sums[s].n++;
        sums[s].elems += n_elems(tensor);
        sums[s].bytes += tensor->size_bytes;
    }
    sink_printf(out, "\n%zu tensors\n", gguf_n_tensors(file));
    for (size_t s = 0; s < n_sums; s++) {
        const struct quant_format *format = quant_format(sums[s].type);
        if (format) sink_printf(out, "  %-12s", format->name);
        else sink_printf(out, "  unknown %-4u", sums[s].type);
        sink_printf(out, " %6llu tensors %16llu values %10s\n", (unsigned long long)sums[s].n,
                    (unsigned long long)sums[s].elems, term_bytes(sums[s].bytes, size));
    }
}

static void put_text(const struct gguf_file *file, const struct inspect *flags, struct sink *out)
{
    char size[16];
    sink_printf(out, "%.900s: %s in %u %s, header %llu bytes, %zu metadata keys\n\n", flags->path,
                term_bytes(gguf_file_bytes(file), size), gguf_n_shards(file),
                gguf_n_shards(file) == 1 ? "file" : "files", (unsigned long long)gguf_header_bytes(file),
                gguf_n_kvs(file));
    for (size_t i = 0; i < gguf_n_kvs(file); i++) {
        const struct gguf_kv *kv = gguf_kv_at(file, i);
        struct buf key = {0};
        term_put_safe(&key, kv->key);
        sink_put_text(out, "  ");
        sink_put(out, buf_span(&key));
        sink_put_text(out, " = ");
        buf_deinit(&key);
        if (kv->value.type != GGUF_ARRAY) {
            put_items(&kv->value, 1, SHOWN_BYTES, out);
        } else {
            sink_printf(out, "%llu %s [", (unsigned long long)kv->value.count, gguf_type_name(kv->value.item_type));
            put_items(&kv->value, SHOWN_ITEMS, SHOWN_BYTES, out);
            sink_put_text(out, kv->value.count > SHOWN_ITEMS ? ",...]" : "]");
        }
        sink_put_text(out, "\n");
    }
    put_summary(file, out);
    for (size_t i = 0; flags->tensors && i < gguf_n_tensors(file); i++) {
        const struct gguf_tensor *tensor = gguf_tensor_at(file, i);
        const struct quant_format *format = quant_format(tensor->type);
        struct buf name = {0};
        term_put_safe(&name, tensor->name);
        sink_printf(out, i ? "  %-44.*s " : "\n  %-44.*s ", (int)name.text.len, name.text.ptr ? name.text.ptr : "");
        buf_deinit(&name);
        if (format) sink_printf(out, "%-8s %10s [", format->name, term_bytes(tensor->size_bytes, size));
        else sink_printf(out, "type %-3u %10s [", tensor->type, "?");
        put_shape(tensor, out);
        sink_put_text(out, "]\n");
    }
}

int cmd_inspect(int argc, char **argv)
{
    struct inspect flags;
    int exit_code;
    if (!options_begin(&table, argc, argv, &flags, sizeof flags, &exit_code)) return exit_code;
    struct ds4_error error = {0};
    struct gguf_file *file;
    struct sink out;
    if (gguf_open(flags.path, &file, &error) != DS4_OK) return options_failed(&table, &error);
    enum ds4_status status = sink_open(&out, "-", &error);
    if (status == DS4_OK) {
        if (flags.json) put_json(file, &flags, &out);
        else put_text(file, &flags, &out);
        status = sink_close(&out, &error);
    }
    gguf_close(file);
    return status == DS4_OK ? EXIT_CODE_OK : options_failed(&table, &error);
}
