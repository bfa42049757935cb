/* names.c - finding keys and tensors by name, and showing hostile names in messages. */
#include "base/hash.h"
#include "base/mem.h"
#include "gguf/impl.h"

enum ds4_status gguf_names_init(struct gguf_names *names, size_t n_max)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n_max) n_slots *= 2; /* n_max is bounded by the limits */
    names->slots = mem_zalloc(n_slots, sizeof *names->slots);
    names->mask = n_slots - 1;
    return names->slots ? DS4_OK : DS4_ERR_NOMEM;
}

void gguf_names_deinit(struct gguf_names *names)
{
    mem_free(names->slots);
    names->slots = NULL;
}

uint32_t *gguf_names_slot(const struct gguf_names *names, struct ds4_span name,
                          struct ds4_span (*name_of)(const void *list, size_t i), const void *list)
{
    uint64_t i = hash_u64(name.ptr, name.len) & names->mask;
    while (names->slots[i] && !span_eq(name_of(list, names->slots[i] - 1), name)) i = (i + 1) & names->mask;
    return &names->slots[i];
}

struct ds4_span gguf_kv_name(const void *kvs, size_t i) { return ((const struct gguf_kv *)kvs)[i].key; }

struct ds4_span gguf_tensor_name(const void *tensors, size_t i)
{
    return ((const struct gguf_tensor *)tensors)[i].name;
}

struct gguf_shown gguf_show(struct ds4_span name)
{
    struct gguf_shown shown;
    size_t n = name.len < sizeof shown.text ? name.len : sizeof shown.text - 1;
    for (size_t i = 0; i < n; i++) shown.text[i] = name.ptr[i] >= 32 && name.ptr[i] < 127 ? name.ptr[i] : '?';
    shown.text[n] = 0;
    return shown;
}
