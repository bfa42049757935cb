/* test_store_admin.c - looking after a store: list, explain, verify, prune, packs. On the scripted engine, whose
 * tokens are bytes, so that texts are easy to write. */
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "lib/fake/fake_store.h"
#include "lib/test.h"

static struct ds4_engine *engine;
static char base[200];
static uint64_t now_s = 1000000;

static uint64_t fake_now(void) { return now_s; }

static int set_up(void **state)
{
    (void)state;
    engine = fake_store_engine(FAKE_STORE_SCRIPT);
    (void)snprintf(base, sizeof base, "%s", test_dir());
    clock_test_hook(NULL, fake_now);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    clock_test_hook(NULL, NULL);
    ds4_engine_close(engine);
    test_dir_remove();
    return 0;
}

static const char *in_base(const char *name)
{
    static char paths[8][300];
    static int next;
    char *path = paths[next++ % 8];
    (void)snprintf(path, sizeof paths[0], "%s/%s", base, name);
    return path;
}

static void put(struct ds4_store *store, uint32_t seed, size_t n)
{
    int32_t ids[1024];
    fake_store_tokens(seed, n, 64, ids);
    (void)fake_store_visit(engine, store, ids, n, true);
    ds4_store_flush(store);
}

static size_t served(struct ds4_store *store, uint32_t seed, size_t n)
{
    int32_t ids[1024];
    fake_store_tokens(seed, n, 64, ids);
    return fake_store_visit(engine, store, ids, n, false);
}

struct listed {
    struct ds4_store_entry entries[64];
    size_t n, n_tips;
};
static void on_entry(void *user, const struct ds4_store_entry *e)
{
    struct listed *l = user;
    if (l->n < 64) l->entries[l->n++] = *e;
    l->n_tips += e->is_tip;
}
static struct listed list_of(struct ds4_store *store)
{
    struct listed l = {.n = 0};
    struct ds4_error error = {0};
    assert_ok(ds4_store_list(store, on_entry, &l, &error), error);
    return l;
}

static const char *key_of(struct ds4_store *store, uint64_t n_tokens)
{
    static char key[DS4_STORE_KEY_TEXT];
    struct listed l = list_of(store);
    for (size_t i = 0; i < l.n; i++)
        if (l.entries[i].is_tip && l.entries[i].n_tokens == n_tokens) memcpy(key, l.entries[i].key, sizeof key);
    return key;
}

TEST(a_list_has_every_entry_with_its_figures_youngest_use_first)
{
    struct ds4_store *store = fake_store_open(engine, in_base("list"), 0);
    struct ds4_tokens tokens = {0};
    struct ds4_error error = {0};
    put(store, 1, 200);
    now_s += 100;
    put(store, 2, 100);
    struct listed l = list_of(store);
    assert_int_equal(l.n_tips, 2);
    assert_int_equal(l.n, 2 + 3 + 0); /* the trunk's span is shared; 200 tokens have three */
    uint64_t last = UINT64_MAX;
    for (size_t i = 0; i < l.n; i++) {
        assert_true(l.entries[i].last_use <= last);
        assert_true(l.entries[i].is_whole);
        last = l.entries[i].last_use;
        if (!l.entries[i].is_tip && l.entries[i].n_tokens == 64) assert_int_equal(l.entries[i].n_tips, 2);
        if (!l.entries[i].is_tip) continue;
        assert_int_equal(l.entries[i].reason, DS4_SAVE_USER);
        assert_int_equal(l.entries[i].text_len, l.entries[i].n_tokens); /* a byte a token */
    }
    assert_ok(ds4_store_tip_tokens(store, key_of(store, 200), &tokens, &error), error);
    assert_int_equal(tokens.n, 200);
    for (size_t i = 0; i < 200; i++) assert_int_equal(tokens.ids[i], fake_store_token(1, i, 64));
    assert_status(ds4_store_tip_tokens(store, "zz", &tokens, &error), DS4_ERR_STATE, error);
    assert_status(ds4_store_tip_tokens(store, "", &tokens, &error), DS4_ERR_STATE, error);
    ds4_tokens_free(&tokens);
    ds4_store_close(store);
}

TEST(hits_and_last_uses_outlive_the_program_and_a_damaged_list_of_them_is_no_harm)
{
    const char *dir = in_base("usage");
    struct ds4_store *store = fake_store_open(engine, dir, 0);
    char path[500] = "";
    put(store, 1, 100);
    now_s += 500;
    assert_int_equal(served(store, 1, 100), 100);
    assert_int_equal(served(store, 1, 100), 100);
    ds4_store_close(store);
    for (int round = 0; round < 4; round++) {
        store = fake_store_open(engine, dir, 0);
        struct listed l = list_of(store);
        for (size_t i = 0; i < l.n; i++) {
            if (!l.entries[i].is_tip) continue;
            assert_int_equal(l.entries[i].n_hits, round ? 0 : 2);
            assert_int_equal(l.entries[i].last_use, round ? now_s - 500 : now_s);
            assert_int_equal(l.entries[i].created, now_s - 500);
        }
        ds4_store_close(store);
        assert_int_equal(fake_store_count(dir, "usage-"), 1);
        (void)snprintf(path, sizeof path, "%s/usage-", dir);
        for (int i = 0; i < 16; i++)
            (void)snprintf(path + strlen(path), 3, "%02x", ds4_state_layout(engine)->digest[i]);
        struct ds4_text bytes = {0};
        struct ds4_error error = {0};
        assert_ok(file_read_all(path, 1 << 20, &bytes, &error), error);
        if (round == 0) bytes.ptr[40] ^= 1;
        else if (round == 1) bytes.len -= 5;
        else bytes.len = 3;
        int fd;
        assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
        assert_ok(file_write_at(fd, path, 0, bytes.ptr, bytes.len, &error), error);
        file_close(fd);
        ds4_text_free(&bytes);
    }
}

/* ---- explain -------------------------------------------------------------------------------------------------- */

static void put_text(struct ds4_store *store, const char *text)
{
    struct ds4_tokens tokens = {0};
    struct ds4_error error = {0};
    assert_ok(ds4_tokenize(engine, span_make(text, strlen(text)), true, &tokens, &error), error);
    (void)fake_store_visit(engine, store, tokens.ids, tokens.n, true);
    ds4_store_flush(store);
    ds4_tokens_free(&tokens);
}

static struct ds4_store_explanation explain(struct ds4_store *store, const char *text)
{
    struct ds4_store_explanation e;
    struct ds4_error error = {0};
    assert_ok(ds4_store_explain(store, span_make(text, strlen(text)), &e, &error), error);
    return e;
}

TEST(an_explanation_names_the_first_differing_byte_and_the_cause)
{
    struct ds4_store *store = fake_store_open(engine, in_base("explain"), 0);
    char stored[600], prompt[700], user[40], assistant[40], think[40], think_end[40], dsml[40], eos[40];
    const struct ds4_special_ids *ids = ds4_special(engine);
    const struct { int32_t id; char *to; } markers[] = {{ids->user, user}, {ids->assistant, assistant},
        {ids->think, think}, {ids->think_end, think_end}, {ids->dsml, dsml}, {ids->eos, eos}};
    for (size_t i = 0; i < sizeof markers / sizeof markers[0]; i++) {
        struct ds4_span bytes = ds4_token_bytes(engine, markers[i].id);
        memcpy(markers[i].to, bytes.ptr, bytes.len);
        markers[i].to[bytes.len] = 0;
    }
    assert_int_equal(explain(store, "anything").cause, DS4_CAUSE_NOTHING_STORED);
    (void)snprintf(stored, sizeof stored,
                   "%sSort this%s%sLet me see%sDone.%s%sNow call%s%s<%stool name=\"f\">x</%stool>%s",
                   user, assistant, think, think_end, eos, user, assistant, think_end, dsml, dsml, eos);
    put_text(store, stored);
    (void)snprintf(prompt, sizeof prompt, "%s%smore", stored, user);
    struct ds4_store_explanation e = explain(store, prompt);
    assert_int_equal(e.cause, DS4_CAUSE_HIT);
    assert_int_equal(e.same_bytes, strlen(stored));
    assert_int_equal(e.n_usable_tokens, e.n_tokens);
    /* reasoning left out */
    (void)snprintf(prompt, sizeof prompt, "%sSort this%s%sDone.%s", user, assistant, think_end, eos);
    e = explain(store, prompt);
    assert_int_equal(e.cause, DS4_CAUSE_REASONING_DROPPED);
    assert_int_equal(e.n_usable_tokens, 0);
    assert_true(strlen(user) + 9 + strlen(assistant) <= e.same_bytes);
    (void)snprintf(prompt, sizeof prompt, "%sSort this%s%s%sDone.%s", user, assistant, think, think_end, eos);
    assert_int_equal(explain(store, prompt).cause, DS4_CAUSE_REASONING_DROPPED);
    /* history edited: what the person wrote, and what the model thought */
    (void)snprintf(prompt, sizeof prompt, "%sSort That%s%sLet", user, assistant, think);
    e = explain(store, prompt);
    assert_int_equal(e.cause, DS4_CAUSE_HISTORY_EDITED);
    assert_int_equal(e.same_bytes, strlen(user) + 5);
    assert_int_equal(e.stored[e.same_bytes - e.context_at], 't');
    assert_int_equal(e.prompt[e.same_bytes - e.context_at], 'T');
    (void)snprintf(prompt, sizeof prompt, "%sSort this%s%sLet me sing%s", user, assistant, think, think_end);
    assert_int_equal(explain(store, prompt).cause, DS4_CAUSE_HISTORY_EDITED);
    /* a tool call with another space */
    (void)snprintf(prompt, sizeof prompt, "%s", stored);
    *strstr(prompt, "name=") = ' ';
    assert_int_equal(explain(store, prompt).cause, DS4_CAUSE_TOOL_SPELLING);
    ds4_store_close(store);
    /* the same text, another model */
    struct ds4_engine *second = fake_store_engine("{\"name\": \"second\", \"sessions\": 8}");
    store = fake_store_open(second, in_base("explain"), 0);
    assert_int_equal(explain(store, stored).cause, DS4_CAUSE_OTHER_MODEL);
    ds4_store_close(store);
    ds4_engine_close(second);
}

/* ---- verify, prune -------------------------------------------------------------------------------------------- */

static void flip(const char *path, size_t from_end)
{
    struct ds4_text bytes = {0};
    struct ds4_error error = {0};
    int fd;
    assert_ok(file_read_all(path, 1 << 26, &bytes, &error), error);
    bytes.ptr[bytes.len - from_end] ^= 4;
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, bytes.ptr, bytes.len, &error), error);
    file_close(fd);
    ds4_text_free(&bytes);
}

TEST(verify_finds_every_damaged_entry_and_sets_it_aside)
{
    const char *dir = in_base("verify");
    struct ds4_store *store = fake_store_open(engine, dir, 0);
    struct ds4_store_check check;
    struct ds4_error error = {0};
    char path[500];
    for (uint32_t i = 0; i < 5; i++) put(store, i, 150);
    assert_ok(ds4_store_verify(store, NULL, NULL, &check, &error), error);
    assert_int_equal(check.n_checked, 1 + 5 + 5);
    assert_int_equal(check.n_bad + check.n_unreadable + check.n_incomplete, 0);
    struct listed l = list_of(store);
    size_t n_flipped = 0;
    for (size_t i = 0; i < l.n; i += 3, n_flipped++) {
        (void)snprintf(path, sizeof path, "%s/%s%s", dir, l.entries[i].key, l.entries[i].is_tip ? ".tip" : ".seg");
        flip(path, 1 + i);
    }
    assert_ok(ds4_store_verify(store, NULL, NULL, &check, &error), error);
    assert_int_equal(check.n_bad, n_flipped);
    assert_int_equal(fake_store_count(dir, "bad-"), n_flipped);
    assert_ok(ds4_store_verify(store, NULL, NULL, &check, &error), error);
    assert_int_equal(check.n_bad, 0);
    /* damaged files count against the budget, and go when asked to */
    struct ds4_store_stats stats;
    ds4_store_stats(store, &stats);
    assert_int_equal(stats.n_others, n_flipped);
    struct ds4_store_prune how = {.keep_bytes = UINT64_MAX, .others = true};
    uint64_t freed, other_bytes = stats.other_bytes;
    assert_ok(ds4_store_prune(store, &how, &freed, &error), error);
    assert_int_equal(freed, other_bytes);
    assert_int_equal(fake_store_count(dir, "bad-"), 0);
    ds4_store_close(store);
}

TEST(prune_keeps_within_what_was_asked_and_what_it_keeps_still_works)
{
    const char *dir = in_base("prune");
    struct ds4_store *store = fake_store_open(engine, dir, 0);
    struct ds4_store_stats stats;
    struct ds4_error error = {0};
    uint64_t freed;
    for (uint32_t i = 0; i < 10; i++) {
        put(store, i, 200);
        now_s += 86400;
    }
    ds4_store_stats(store, &stats);
    uint64_t before = stats.bytes;
    struct ds4_store_prune how = {.keep_bytes = UINT64_MAX, .older_than_s = 5 * 86400 + 1};
    assert_ok(ds4_store_prune(store, &how, &freed, &error), error);
    for (uint32_t i = 0; i < 10; i++) assert_int_equal(served(store, i, 200), i < 5 ? 0 : 200);
    how = (struct ds4_store_prune){.keep_bytes = before / 4};
    assert_ok(ds4_store_prune(store, &how, &freed, &error), error);
    ds4_store_stats(store, &stats);
    assert_true(stats.bytes <= before / 4 && stats.n_tips > 0);
    uint64_t n_kept = 0, n_tips = stats.n_tips;
    for (uint32_t i = 0; i < 10; i++) n_kept += served(store, i, 200) == 200;
    assert_int_equal(n_kept, n_tips);
    how.keep_bytes = 0;
    assert_ok(ds4_store_prune(store, &how, &freed, &error), error);
    assert_int_equal(fake_store_count(dir, ".seg") + fake_store_count(dir, ".tip"), 0);
    struct ds4_store *second = fake_store_open(engine, dir, 0); /* read-only: the directory is taken */
    assert_status(ds4_store_prune(second, &how, &freed, &error), DS4_ERR_STATE, error);
    ds4_store_close(second);
    ds4_store_close(store);
}

TEST(entries_of_another_model_make_room_before_a_small_store_of_our_own)
{
    const char *dir = in_base("two models");
    struct ds4_engine *second = fake_store_engine("{\"name\": \"second\", \"sessions\": 8}");
    int32_t ids[200];
    struct ds4_store *store = fake_store_open(second, dir, 20000);
    for (uint32_t i = 0; i < 10; i++) {
        fake_store_tokens(i, 200, 64, ids);
        (void)fake_store_visit(second, store, ids, 200, true);
        ds4_store_flush(store);
        now_s++;
    }
    ds4_store_close(store);
    store = fake_store_open(engine, dir, 20000);
    struct ds4_store_stats stats;
    for (uint32_t i = 0; i < 10; i++) {
        put(store, i, 200);
        ds4_store_stats(store, &stats);
        assert_true(stats.bytes <= 20000);
        assert_int_equal(served(store, i, 200), 200);
    }
    assert_true(stats.n_others > 0); /* they keep the other half */
    ds4_store_close(store);
    ds4_engine_close(second);
}

/* ---- packs ---------------------------------------------------------------------------------------------------- */

static struct ds4_text pack_bytes(const char *path)
{
    struct ds4_text bytes = {0};
    struct ds4_error error = {0};
    assert_ok(file_read_all(path, 1 << 26, &bytes, &error), error);
    return bytes;
}

static void write_pack(const char *path, const void *bytes, size_t n)
{
    struct ds4_error error = {0};
    int fd;
    (void)unlink(path); /* some file systems flush a file that is truncated */
    assert_ok(file_open(path, FILE_CREATE_NEW, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, bytes, n, &error), error);
    file_close(fd);
}

static const char *make_pack(const char *name, size_t n)
{
    const char *path = in_base(name);
    struct ds4_store *store = fake_store_open(engine, in_base("packs"), 0);
    struct ds4_error error = {0};
    uint64_t bytes;
    put(store, 3, n);
    assert_ok(ds4_store_export(store, key_of(store, n), path, &bytes, &error), error);
    struct ds4_text pack = pack_bytes(path);
    assert_int_equal(pack.len, bytes);
    ds4_text_free(&pack);
    assert_status(ds4_store_export(store, key_of(store, n), path, &bytes, &error), DS4_ERR_IO, error); /* exists */
    ds4_store_close(store);
    return path;
}

TEST(a_pack_carries_a_conversation_to_another_directory)
{
    static const size_t lengths[] = {1, 63, 64, 65, 300};
    for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
        char name[32];
        (void)snprintf(name, sizeof name, "carried-%zu", i);
        const char *path = make_pack(name, lengths[i]);
        (void)snprintf(name, sizeof name, "to-%zu", i);
        struct ds4_store *store = fake_store_open(engine, in_base(name), 0);
        struct ds4_error error = {0};
        uint64_t n_tokens;
        assert_int_equal(served(store, 3, lengths[i]), 0);
        assert_ok(ds4_store_import(store, path, &n_tokens, &error), error);
        assert_int_equal(n_tokens, lengths[i]);
        assert_int_equal(served(store, 3, lengths[i] + 9), lengths[i]);
        assert_ok(ds4_store_import(store, path, &n_tokens, &error), error); /* twice is once */
        ds4_store_close(store);
    }
}

/* A pack with its header's digest made right again: only the entries may refuse it. */
static void reseal(struct ds4_text *pack)
{
    store_u64(pack->ptr + 32, pack->len);
    hash_bytes(pack->ptr, 40, (uint8_t *)pack->ptr + 40);
}

TEST(a_damaged_or_hostile_pack_gives_nothing)
{
    const char *path = make_pack("good", 200), *bad = in_base("bad pack"), *dir = in_base("victim");
    struct ds4_text good = pack_bytes(path), text = {.ptr = malloc(good.len + 64), .cap = good.len + 64};
    struct ds4_store *store = fake_store_open(engine, dir, 0);
    struct ds4_error error = {0};
    size_t n_refused = 0;
    for (size_t round = 0; round < 2 * good.len; round++) {
        size_t at = round / 2;
        if (round % 2 == 0 && at % 3 != 0) continue; /* lengths: every third is plenty */
        memcpy(text.ptr, good.ptr, good.len);
        text.len = good.len;
        if (round % 2) text.ptr[at] ^= (char)(1 << at % 8);
        else text.len = at;
        if (text.len >= 56 && at >= 56) reseal(&text);
        write_pack(bad, text.ptr, text.len);
        error = (struct ds4_error){0};
        enum ds4_status status = ds4_store_import(store, bad, NULL, &error);
        assert_true(status == DS4_ERR_FORMAT || status == DS4_ERR_UNSUPPORTED);
        assert_true(error.message[0] != 0);
        n_refused++;
    }
    /* entries exchanged, one left out, one twice, bytes behind */
    uint64_t first = load_u64(good.ptr + 56) + 8, second = load_u64(good.ptr + 56 + first) + 8;
    for (int trick = 0; trick < 4; trick++) {
        memcpy(text.ptr, good.ptr, good.len);
        text.len = good.len;
        if (trick == 0) {
            memcpy(text.ptr + 56, good.ptr + 56 + first, second);
            memcpy(text.ptr + 56 + second, good.ptr + 56, first);
        } else if (trick == 1) {
            memmove(text.ptr + 56, good.ptr + 56 + first, good.len - 56 - first);
            text.len -= first;
            store_u32(text.ptr + 24, load_u32(text.ptr + 24) - 1);
        } else if (trick == 2) {
            memcpy(text.ptr + 56 + first, good.ptr + 56, first);
        } else {
            memset(text.ptr + text.len, 0, 64);
            text.len += 64;
        }
        reseal(&text);
        write_pack(bad, text.ptr, text.len);
        error = (struct ds4_error){0};
        assert_status(ds4_store_import(store, bad, NULL, &error), DS4_ERR_FORMAT, error);
    }
    struct ds4_store_stats stats;
    ds4_store_stats(store, &stats);
    assert_int_equal(stats.n_tips + stats.n_segments, 0);
    assert_int_equal(served(store, 3, 200), 0);
    assert_true(n_refused > good.len);
    ds4_store_close(store);
    struct ds4_engine *other = fake_store_engine("{\"name\": \"second\"}");
    store = fake_store_open(other, in_base("other victim"), 0);
    error = (struct ds4_error){0};
    assert_status(ds4_store_import(store, path, NULL, &error), DS4_ERR_UNSUPPORTED, error);
    ds4_store_close(store);
    ds4_engine_close(other);
    free(text.ptr);
    ds4_text_free(&good);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(a_list_has_every_entry_with_its_figures_youngest_use_first),
        T(hits_and_last_uses_outlive_the_program_and_a_damaged_list_of_them_is_no_harm),
        T(an_explanation_names_the_first_differing_byte_and_the_cause),
        T(verify_finds_every_damaged_entry_and_sets_it_aside),
        T(prune_keeps_within_what_was_asked_and_what_it_keeps_still_works),
        T(entries_of_another_model_make_room_before_a_small_store_of_our_own),
        T(a_pack_carries_a_conversation_to_another_directory),
        T(a_damaged_or_hostile_pack_gives_nothing),
    };
    return cmocka_run_group_tests_name("looking after a store", tests, set_up, tear_down);
}
