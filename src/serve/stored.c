/* stored.c - see stored.h. */
#include "serve/stored.h"

#include "base/mem.h"
#include "base/utf8.h"

#define TIPS_MAX 96              /* most recently used, looked into */
#define SHOWN_MAX 40
#define TOKENS_KEPT_MAX (4u << 20) /* to tell which tips continue which */
#define TITLE_BYTES_MAX 120

struct shown {
    struct ds4_store_entry entry;
    struct ds4_tokens tokens; /* without thoughts */
};
struct listing {
    struct ds4_store_entry tips[TIPS_MAX];
    size_t n_tips, n_shown, n_kept;
    struct shown shown[SHOWN_MAX];
};

static void note_tip(void *user, const struct ds4_store_entry *entry)
{
    struct listing *l = user;
    if (entry->is_tip && entry->is_whole && l->n_tips < TIPS_MAX) l->tips[l->n_tips++] = *entry;
}

static bool is_control(const struct ds4_special_ids *s, int32_t id)
{
    return id == s->bos || id == s->eos || id == s->user || id == s->assistant || id == s->latest_reminder ||
           id == s->think || id == s->think_end;
}

/* A later turn may be rendered without the thoughts of earlier ones: what is compared has none. */
static void drop_thoughts(const struct ds4_special_ids *special, struct ds4_tokens *tokens)
{
    size_t n = 0;
    bool thinks = false;
    for (size_t i = 0; i < tokens->n; i++) {
        int32_t id = tokens->ids[i];
        if (is_control(special, id)) thinks = id == special->think;
        if (!thinks && id != special->think_end) tokens->ids[n++] = id;
    }
    tokens->n = n;
}

static bool begins(const struct ds4_tokens *whole, const struct ds4_tokens *part)
{
    return part->n <= whole->n && memcmp(whole->ids, part->ids, part->n * sizeof *part->ids) == 0;
}

/* Takes the tip into the list, or into the place of one that it continues. */
static void show_tip(struct listing *l, const struct ds4_store_entry *entry, struct ds4_tokens *tokens)
{
    for (size_t i = 0; i < l->n_shown; i++) {
        struct shown *s = &l->shown[i];
        if (begins(&s->tokens, tokens)) return;
        if (!begins(tokens, &s->tokens)) continue;
        uint64_t last_use = s->entry.last_use;
        ds4_tokens_free(&s->tokens);
        *s = (struct shown){*entry, *tokens};
        if (last_use > entry->last_use) s->entry.last_use = last_use;
        *tokens = (struct ds4_tokens){0};
        return;
    }
    if (l->n_shown == SHOWN_MAX || l->n_kept + tokens->n > TOKENS_KEPT_MAX) return;
    l->n_kept += tokens->n;
    l->shown[l->n_shown++] = (struct shown){*entry, *tokens};
    *tokens = (struct ds4_tokens){0};
}

/* The first line of what the person said first. */
static void put_title(struct buf *out, const struct ds4_engine *engine, const struct ds4_tokens *tokens)
{
    const struct ds4_special_ids *special = ds4_special(engine);
    struct buf text = {0};
    size_t at = 0;
    while (at < tokens->n && tokens->ids[at] != special->user) at++;
    for (at++; at < tokens->n && !is_control(special, tokens->ids[at]) && text.text.len < TITLE_BYTES_MAX; at++)
        buf_put_span(&text, ds4_token_bytes(engine, tokens->ids[at]));
    struct ds4_span title = buf_span(&text);
    size_t line = span_find(title, SPAN("\n"), 0);
    if (line != SIZE_MAX) title.len = line;
    if (title.len > TITLE_BYTES_MAX) title.len = TITLE_BYTES_MAX;
    while (title.len && line == SIZE_MAX && !utf8_valid(title)) title.len--; /* a character cut in two */
    buf_put_json_string(out, title);
    buf_deinit(&text);
}

static void put_list(struct buf *out, const struct ds4_engine *engine, const struct listing *l)
{
    buf_put_text(out, "{\"object\":\"list\",\"available\":true,\"data\":[");
    for (size_t i = 0; i < l->n_shown; i++) {
        const struct ds4_store_entry *e = &l->shown[i].entry;
        buf_printf(out, "%s{\"key\":\"%s\",\"n_tokens\":%llu,\"created\":%llu,\"last_use\":%llu,\"title\":",
                   i ? "," : "", e->key, (unsigned long long)e->n_tokens, (unsigned long long)e->created,
                   (unsigned long long)e->last_use);
        put_title(out, engine, &l->shown[i].tokens);
        buf_put_text(out, "}");
    }
    buf_put_text(out, "]}");
}

static enum ds4_status list_all(struct ds4_store *store, const struct ds4_engine *engine, struct buf *out,
                                struct ds4_error *error)
{
    struct listing *l = mem_zalloc(1, sizeof *l);
    if (!l) return err_set(error, DS4_ERR_NOMEM, "no memory for the list");
    enum ds4_status status = ds4_store_list(store, note_tip, l, error);
    for (size_t i = 0; status == DS4_OK && i < l->n_tips; i++) {
        struct ds4_tokens tokens = {0};
        if (ds4_store_tip_tokens(store, l->tips[i].key, &tokens, NULL) == DS4_OK) {
            drop_thoughts(ds4_special(engine), &tokens);
            show_tip(l, &l->tips[i], &tokens);
        }
        ds4_tokens_free(&tokens);
    }
    if (status == DS4_OK) put_list(out, engine, l);
    for (size_t i = 0; i < l->n_shown; i++) ds4_tokens_free(&l->shown[i].tokens);
    mem_free(l);
    return status;
}

/* ---- one conversation ----------------------------------------------------------------------------------------- */

struct reader {
    struct buf *out, text, reasoning;
    const char *role;
    bool thinks;
    size_t n;
};

static void end_message(struct reader *r)
{
    if (r->text.text.len || r->reasoning.text.len) {
        buf_printf(r->out, "%s{\"role\":\"%s\",\"content\":", r->n++ ? "," : "", r->role);
        buf_put_json_string(r->out, buf_span(&r->text));
        if (r->reasoning.text.len) {
            buf_put_text(r->out, ",\"reasoning_content\":");
            buf_put_json_string(r->out, buf_span(&r->reasoning));
        }
        buf_put_text(r->out, "}");
    }
    buf_clear(&r->text);
    buf_clear(&r->reasoning);
    r->thinks = false;
}

/* Turns begin and end at control tokens, which no content can hold. */
static void put_messages(struct buf *out, const struct ds4_engine *engine, const struct ds4_tokens *tokens)
{
    const struct ds4_special_ids *special = ds4_special(engine);
    struct reader r = {.out = out, .role = "system"};
    buf_put_text(out, "{\"messages\":[");
    for (size_t i = 0; i < tokens->n; i++) {
        int32_t id = tokens->ids[i];
        if (id == special->user || id == special->assistant || id == special->latest_reminder || id == special->eos) {
            end_message(&r);
            r.role = id == special->assistant ? "assistant" : id == special->latest_reminder ? "system" : "user";
        } else if (id == special->think || id == special->think_end) {
            r.thinks = id == special->think;
        } else if (id != special->bos) {
            buf_put_span(r.thinks ? &r.reasoning : &r.text, ds4_token_bytes(engine, id));
        }
    }
    end_message(&r);
    if (r.text.failed || r.reasoning.failed) out->failed = true;
    buf_put_text(out, "]}");
    buf_deinit(&r.text);
    buf_deinit(&r.reasoning);
}

void stored_put_unavailable(struct buf *out)
{
    buf_put_text(out, "{\"object\":\"list\",\"available\":false,\"data\":[]}");
}

void stored_answer(struct ds4_store *store, const struct ds4_engine *engine, struct job *job)
{
    struct buf out = {0};
    struct ds4_tokens tokens = {0};
    enum ds4_status status = DS4_OK;
    if (!store) {
        stored_put_unavailable(&out);
    } else if (!job->key[0]) {
        status = list_all(store, engine, &out, NULL);
    } else {
        status = ds4_store_tip_tokens(store, job->key, &tokens, NULL);
        if (status == DS4_OK) put_messages(&out, engine, &tokens);
    }
    if (status == DS4_ERR_NOMEM || out.failed) job_refuse(job, 500, "no memory for the answer", NULL, NULL);
    else if (status != DS4_OK) job_refuse(job, 404, "no such conversation is stored", NULL, NULL);
    else (void)exchange_reply(job->exchange, 200, "application/json", buf_span(&out), NULL);
    ds4_tokens_free(&tokens);
    buf_deinit(&out);
}
