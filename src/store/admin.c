/* admin.c - looking after a store: what is in it, is it sound, make it smaller. See ds4.h. */
#include "store/store.h"

#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

static int by_last_use(const void *a, const void *b)
{
    const struct index_item *const *x = a, *const *y = b;
    if ((*x)->last_use != (*y)->last_use) return (*x)->last_use > (*y)->last_use ? -1 : 1;
    if ((*x)->n_tokens != (*y)->n_tokens) return (*x)->n_tokens > (*y)->n_tokens ? -1 : 1;
    return memcmp((*x)->key.bytes, (*y)->key.bytes, sizeof (*x)->key.bytes);
}

/* Pointers to all items that are on disk (owned by the caller). */
static struct index_item **all_items(struct ds4_store *s, size_t *n)
{
    struct index_item **list = mem_alloc(s->index.n, sizeof *list);
    *n = 0;
    for (size_t i = 0; list && i < s->index.cap; i++)
        if (s->index.items[i].bytes && !s->index.items[i].pending) list[(*n)++] = &s->index.items[i];
    return list;
}

enum ds4_status ds4_store_list(struct ds4_store *s, ds4_store_entry_fn fn, void *user, struct ds4_error *error)
{
    size_t n;
    store_collect(s);
    struct index_item **list = all_items(s, &n);
    if (!list) return err_set(error, DS4_ERR_NOMEM, "no memory to list a store");
    qsort(list, n, sizeof(struct index_item *), by_last_use);
    for (size_t i = 0; i < n; i++) {
        const struct index_item *item = list[i];
        struct ds4_store_entry entry = {
            .is_tip = item->kind == ENTRY_TIP, .is_whole = store_is_whole(s, item), .n_tokens = item->n_tokens,
            .reason = (enum ds4_save_reason)item->reason, .bytes = item->bytes, .text_len = item->text_len,
            .created = item->created, .last_use = item->last_use, .n_hits = item->hits, .n_tips = item->n_tips,
        };
        store_key_text(&item->key, entry.key);
        fn(user, &entry);
    }
    mem_free(list);
    return DS4_OK;
}

enum ds4_status store_find_key(struct ds4_store *s, const char *digits, struct index_item **out,
                               struct ds4_error *error)
{
    size_t len = strlen(digits), n = 0;
    store_collect(s);
    for (size_t i = 0; i < s->index.cap; i++) {
        struct index_item *item = &s->index.items[i];
        char key[DS4_STORE_KEY_TEXT];
        if (!item->bytes || item->pending || item->kind != ENTRY_TIP) continue;
        store_key_text(&item->key, key);
        if (len == 0 || len >= sizeof key || memcmp(key, digits, len) != 0) continue;
        *out = item;
        n++;
    }
    if (n == 1) return DS4_OK;
    if (n == 0) return err_set(error, DS4_ERR_STATE, "%.40s: no stored conversation has that key", digits);
    return err_set(error, DS4_ERR_STATE, "%.40s: %zu stored conversations begin with that; give more digits", digits,
                   n);
}

enum ds4_status ds4_store_tip_tokens(struct ds4_store *s, const char *key, struct ds4_tokens *tokens,
                                     struct ds4_error *error)
{
    struct index_item *tip;
    size_t before = tokens->n;
    TRY(store_find_key(s, key, &tip, error));
    enum ds4_status status = store_read_tokens(s, tip, tokens, error);
    if (status != DS4_OK) tokens->n = before;
    return status;
}

/* Reads one entry from end to end. */
static enum ds4_status check_entry(struct ds4_store *s, const struct index_item *item, struct ds4_error *error)
{
    struct entry entry;
    struct ds4_text front;
    int fd;
    TRY(store_read_front(s, item->kind, &item->key, &entry, &front, &fd, error));
    enum ds4_status status = DS4_OK;
    uint8_t *payload = mem_alloc((size_t)entry.payload_len, 1);
    if (!payload) status = err_set(error, DS4_ERR_NOMEM, "no memory to verify an entry");
    else status = store_read_payload(s, fd, &entry, &front, payload, error);
    mem_free(payload);
    ds4_text_free(&front);
    file_close(fd);
    return status;
}

enum ds4_status ds4_store_verify(struct ds4_store *s, ds4_progress_fn progress, void *user,
                                 struct ds4_store_check *out, struct ds4_error *error)
{
    *out = (struct ds4_store_check){0};
    ds4_store_flush(s);
    size_t n;
    struct index_item **list = all_items(s, &n), **damaged = mem_alloc(n, sizeof *damaged);
    size_t n_damaged = 0;
    enum ds4_status status = list && damaged ? DS4_OK : err_set(error, DS4_ERR_NOMEM, "no memory to verify a store");
    for (size_t i = 0; status == DS4_OK && i < n; i++) {
        struct ds4_error cause = {0};
        if (progress && !progress(user, "verify", out->n_bytes, s->index.bytes)) {
            status = err_set(error, DS4_ERR_CANCELLED, "cancelled");
            break;
        }
        out->n_checked++;
        out->n_bytes += list[i]->bytes;
        if (list[i]->kind == ENTRY_TIP && !store_is_whole(s, list[i])) out->n_incomplete++;
        enum ds4_status its = check_entry(s, list[i], &cause);
        if (its == DS4_ERR_FORMAT) damaged[n_damaged++] = list[i];
        else if (its != DS4_OK) out->n_unreadable++;
    }
    out->n_bad = n_damaged;
    /* Removal moves items: by key, and last. */
    struct entry_key *keys = n_damaged ? mem_alloc(n_damaged, sizeof *keys) : NULL;
    for (size_t i = 0; keys && i < n_damaged; i++) keys[i] = damaged[i]->key;
    for (size_t i = 0; keys && i < n_damaged; i++) {
        struct ds4_error cause = {.message = "it does not have its digest"};
        struct index_item *item = index_find(&s->index, &keys[i]);
        if (item) store_quarantine(s, item, &cause);
    }
    mem_free(keys);
    mem_free(damaged);
    mem_free(list);
    return status;
}

/* Tips not used since, then segments that no tip needs any more and that are as old. */
static uint64_t drop_older(struct ds4_store *s, uint64_t since)
{
    uint64_t freed = 0;
    for (size_t i = 0; i < s->index.cap; i++) {
        struct index_item *item = &s->index.items[i];
        if (item->bytes && !item->pending && item->kind == ENTRY_TIP && item->last_use < since)
            index_doom(&s->index, item);
    }
    freed += store_remove_doomed(s);
    for (size_t i = 0; i < s->index.cap; i++) {
        struct index_item *item = &s->index.items[i];
        if (item->bytes && !item->pending && item->kind == ENTRY_SEGMENT && item->n_tips == 0 && item->last_use < since)
            index_doom(&s->index, item);
    }
    return freed + store_remove_doomed(s);
}

enum ds4_status ds4_store_prune(struct ds4_store *s, const struct ds4_store_prune *how, uint64_t *freed_bytes,
                                struct ds4_error *error)
{
    uint64_t now = clock_unix_s(), freed = 0;
    *freed_bytes = 0;
    if (s->read_only)
        return err_set(error, DS4_ERR_STATE, "%s is being written by another program, or cannot be written", s->dir);
    ds4_store_flush(s);
    for (size_t i = s->n_others; how->others && i > 0; i--) {
        freed += s->others[i - 1].bytes;
        store_remove_other(s, i - 1);
    }
    if (how->older_than_s) freed += drop_older(s, now > how->older_than_s ? now - how->older_than_s : 0);
    while (s->index.bytes > how->keep_bytes && index_choose_victim(&s->index, now, 0, NULL))
        freed += store_remove_doomed(s);
    ds4_store_flush(s);
    *freed_bytes = freed;
    return DS4_OK;
}
