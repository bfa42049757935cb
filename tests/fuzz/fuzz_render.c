/* fuzz_render.c - any bytes as a chat: the input is read as a list of instructions and strings. The ids must decode to
 * the text, and the control ids must be just those that the structure of the chat asks for, whatever the strings hold.
 *
 * Input: 2 bytes of options, then records: kind, length, that many bytes. */
#include "text/json_style.h"
#include "text/render.h"
#include "text_vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { MESSAGES_MAX = 12, PARTS_MAX = 64 };

struct draft {
    struct ds4_message messages[MESSAGES_MAX];
    struct ds4_tool_call calls[PARTS_MAX];
    struct ds4_span parts[PARTS_MAX], tools[4];
    size_t n_messages, n_calls, n_parts, n_tools;
    struct ds4_span schema;
};

static void take(struct draft *d, unsigned kind, struct ds4_span text)
{
    static const enum ds4_role roles[] = {DS4_ROLE_USER, DS4_ROLE_ASSISTANT, DS4_ROLE_TOOL, DS4_ROLE_SYSTEM,
                                          DS4_ROLE_LATEST_REMINDER};
    struct ds4_message *m = d->n_messages ? &d->messages[d->n_messages - 1] : NULL;
    if (kind < 5 && d->n_messages < MESSAGES_MAX) {
        m = &d->messages[d->n_messages++];
        m->role = roles[kind];
        m->parts = &d->parts[d->n_parts];
    }
    if (kind < 6 && m && d->n_parts < PARTS_MAX) {
        d->parts[d->n_parts++] = text;
        m->n_parts++;
    } else if (kind == 6 && m && m->role == DS4_ROLE_ASSISTANT && d->n_calls < PARTS_MAX) {
        if (m->n_calls == 0) m->calls = &d->calls[d->n_calls];
        d->calls[d->n_calls++] = (struct ds4_tool_call){text, text, text, {NULL, 0}};
        m->n_calls++;
    } else if (kind == 7 && m && m->n_calls > 0) {
        d->calls[d->n_calls - 1].arguments = text;
    } else if (kind == 8 && m && m->n_calls > 0) {
        d->calls[d->n_calls - m->n_calls].sampled = text;
    } else if (kind == 9 && m) {
        m->reasoning = m->tool_call_id = text;
    } else if (kind == 10 && d->n_tools < 4) {
        d->tools[d->n_tools++] = text;
    } else if (kind == 11) {
        d->schema = text;
    } else if (kind == 12 && m) {
        m->task = text;
    }
}

static size_t count(const struct ds4_tokens *ids, int32_t id)
{
    size_t n = 0;
    for (size_t i = 0; i < ids->n; i++) n += ids->ids[i] == id;
    return n;
}

/* Parameters of a call as the format has them. */
static size_t n_parameters(struct ds4_span arguments)
{
    struct jtext_doc doc;
    size_t n = 0;
    bool object = jtext_parse(&doc, arguments, NULL) == DS4_OK && doc.values[0].kind == JTEXT_OBJECT;
    for (uint32_t i = object ? doc.values[0].first : JTEXT_NONE; i != JTEXT_NONE; i = doc.values[i].next) n++;
    jtext_deinit(&doc);
    return object ? n : 1;
}

static bool user_side(const struct ds4_message *m)
{
    return m->role == DS4_ROLE_USER || m->role == DS4_ROLE_TOOL || m->role == DS4_ROLE_SYSTEM;
}

static void check_structure(const struct draft *d, const struct ds4_chat *chat, const struct ds4_tokens *ids)
{
    const struct ds4_special_ids *special = vocab_special(fuzz_vocab());
    size_t n_turns = 0, n_eos = 0, n_reminders = 0, n_dsml = d->n_tools ? 9 : 0, n_tasks = 0, n_sampled = 0;
    bool in_front = true, in_turn = false;
    for (size_t i = 0; i < d->n_messages; i++) {
        const struct ds4_message *m = &d->messages[i];
        if (m->role != DS4_ROLE_SYSTEM && m->role != DS4_ROLE_LATEST_REMINDER) in_front = false;
        bool user = user_side(m) && !in_front;
        n_turns += user && !in_turn;
        in_turn = user;
        n_reminders += m->role == DS4_ROLE_LATEST_REMINDER;
        n_tasks += m->task.len > 0;
        if (m->role != DS4_ROLE_ASSISTANT) continue;
        n_eos += i + 1 < d->n_messages || chat->close_last;
        if (m->n_calls) n_dsml += 2;
        for (size_t c = 0; c < m->n_calls; c++) {
            n_dsml += 2 + 2 * n_parameters(m->calls[c].arguments);
            n_sampled += m->calls[c].sampled.len > 0;
        }
    }
    fuzz_check(count(ids, special->bos) == 1);
    fuzz_check(count(ids, special->user) == n_turns);
    fuzz_check(count(ids, special->eos) == n_eos);
    fuzz_check(count(ids, special->latest_reminder) == n_reminders);
    if (n_sampled == 0) fuzz_check(count(ids, special->dsml) == n_dsml);
    /* The tools text names both markers; each opener has one of them, and reasoning its end. */
    fuzz_check(count(ids, special->think) <= (d->n_tools ? 2 : 0) + d->n_messages + 1);
    fuzz_check(count(ids, special->think_end) <= (d->n_tools ? 2 : 0) + 2 * d->n_messages + 1);
    fuzz_check(count(ids, special->assistant) <= d->n_messages + 1);
    for (size_t i = 9; i < FUZZ_N_MARKERS; i++) {
        size_t n = count(ids, vocab_find_added(fuzz_vocab(), span_from(fuzz_markers[i])));
        fuzz_check(i == 15 || n <= n_tasks); /* 15: one for each part of a task that reads pages */
        fuzz_check(i < 16 || n == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2 || size > 1 << 14) return 0;
    struct draft d = {0};
    for (size_t at = 2; at + 2 <= size;) {
        size_t len = data[at + 1];
        if (len > size - at - 2) len = size - at - 2;
        take(&d, data[at] % 13, span_make((const char *)data + at + 2, len));
        at += 2 + len;
    }
    struct ds4_chat chat = {d.messages, d.n_messages, d.tools, d.n_tools, d.schema, (enum ds4_think_mode)(data[0] & 3),
                            (enum ds4_effort_table)(data[0] >> 2 & 1), (data[0] & 8) != 0, (data[0] & 16) != 0};
    struct ds4_tokens ids = {0};
    struct ds4_text text = {0}, back = {0};
    struct ds4_error error = {0};
    enum ds4_status status = text_render(fuzz_vocab(), &chat, &ids, &text, &error);
    if (status == DS4_OK) {
        fuzz_check(text_decode(fuzz_vocab(), ids.ids, ids.n, &back, NULL) == DS4_OK);
        fuzz_check(span_eq(span_make(text.ptr, text.len), span_make(back.ptr, back.len)));
        check_structure(&d, &chat, &ids);
    } else {
        fuzz_check(status == DS4_ERR_FORMAT && error.message[0]);
    }
    ds4_tokens_free(&ids);
    ds4_text_free(&text);
    ds4_text_free(&back);
    return 0;
}
