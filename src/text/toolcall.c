/* toolcall.c - the parser of emitted tokens. See toolcall.h and ds4.h.
 *
 * In: token ids. Their bytes go through three stages, each of which works byte by byte and so cannot depend on how the
 * text was cut into tokens:
 *  1. UTF-8: an incomplete character waits for its rest; what can no longer become one is replaced by U+FFFD.
 *  2. the phase: reasoning, visible text, a tool-call block, or behind one. Reasoning and its end are decided by token
 *     ids alone; a block is found by its opener in visible text, in any of the dialects of dsml.h.
 *  3. inside a block: dsml.c.
 * White space before a possible opener, and what may become one, is held back: it belongs to the block if one follows.
 * A block that proves malformed is given back as it was written. If no call had begun in it, text behind the point of
 * failure is read anew, so that prose which mentions a tag does not hide a real block; after a begun call nothing more
 * is recognised.
 *
 * Control tokens: the end of sequence stops; think markers at the beginning of the visible text are dropped or, the
 * opening one, obeyed; inside a block and when markers are shown every token counts as its literal text; else tokens of
 * type control are dropped, user-defined ones are text. */
#include "text/toolcall.h"

#include "base/buf.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "text/dsml.h"

enum phase { PHASE_THINK, PHASE_TEXT, PHASE_BLOCK, PHASE_DONE, PHASE_STOPPED };

struct ds4_parser {
    const struct vocab *vocab;
    struct ds4_parser_options options;
    enum phase phase;
    bool phase_is_fresh;    /* nothing but white space came in it yet */
    bool finds_blocks;
    char tail[4];           /* an incomplete character */
    size_t tail_len;
    struct buf in;          /* text read but not settled; in a block all of it from the white space before on */
    size_t at;              /* next byte of in */
    struct buf held;        /* white space, then the beginning of a possible opener */
    size_t held_space;      /* bytes of the former */
    struct dsml dsml;
    size_t opener_end;      /* in `in` */
    struct buf args;        /* of the call so far */
    uint32_t call_i;
    struct buf out;         /* text of the event that is being gathered */
    enum ds4_event_kind out_kind;
    ds4_event_fn fn;        /* of the call that is running */
    void *user;
    enum ds4_status status; /* sticky: NOMEM */
};

enum ds4_status parser_create(const struct vocab *vocab, const struct ds4_parser_options *options,
                              struct ds4_parser **out)
{
    struct ds4_parser *p = mem_zalloc(1, sizeof *p);
    if (!p) return DS4_ERR_NOMEM;
    p->vocab = vocab;
    p->options = *options;
    p->phase = options->in_thinking && !options->show_markers ? PHASE_THINK : PHASE_TEXT;
    p->phase_is_fresh = true;
    p->finds_blocks = options->tools_active && !options->show_markers;
    *out = p;
    return DS4_OK;
}

void ds4_parser_destroy(struct ds4_parser *p)
{
    if (!p) return;
    dsml_deinit(&p->dsml);
    buf_deinit(&p->in);
    buf_deinit(&p->held);
    buf_deinit(&p->args);
    buf_deinit(&p->out);
    mem_free(p);
}

/* ---- events -------------------------------------------------------------------------------------------------- */

static void send(struct ds4_parser *p, enum ds4_event_kind kind, struct ds4_span text)
{
    struct ds4_event event = {kind, p->call_i, text};
    if (p->fn) p->fn(p->user, &event);
}

static void send_gathered(struct ds4_parser *p)
{
    if (p->out.failed) p->status = DS4_ERR_NOMEM;
    if (p->out.text.len == 0) return;
    send(p, p->out_kind, buf_span(&p->out));
    buf_clear(&p->out);
}

static void send_alone(struct ds4_parser *p, enum ds4_event_kind kind, struct ds4_span text)
{
    send_gathered(p);
    send(p, kind, text);
}

static void gather(struct ds4_parser *p, enum ds4_event_kind kind, const char *bytes, size_t n)
{
    if (p->out_kind != kind) send_gathered(p);
    p->out_kind = kind;
    buf_put(&p->out, bytes, n);
}

/* ---- a block ------------------------------------------------------------------------------------------------- */

static void on_begin(void *user, struct ds4_span name)
{
    struct ds4_parser *p = user;
    p->call_i = p->dsml.n_calls - 1;
    buf_clear(&p->args);
    send_alone(p, DS4_EVENT_CALL_BEGIN, name);
}

static void on_args(void *user, const char *bytes, size_t n)
{
    struct ds4_parser *p = user;
    buf_put(&p->args, bytes, n);
    gather(p, DS4_EVENT_CALL_ARGS, bytes, n);
}

static void on_end(void *user)
{
    struct ds4_parser *p = user;
    if (p->args.failed) p->status = DS4_ERR_NOMEM;
    send_alone(p, DS4_EVENT_CALL_END, buf_span(&p->args));
}

/* The held text ends in an opener: from here on `in` keeps the whole block. */
static void begin_block(struct ds4_parser *p, int dialect)
{
    struct buf whole = p->held;
    p->opener_end = whole.text.len;
    buf_put_span(&whole, span_skip(buf_span(&p->in), p->at));
    if (whole.failed) p->status = DS4_ERR_NOMEM;
    buf_deinit(&p->in);
    p->in = whole;
    p->at = p->opener_end;
    p->held = (struct buf){0};
    p->held_space = 0;
    p->phase = PHASE_BLOCK;
    dsml_begin(&p->dsml, dialect, (struct dsml_sink){p, on_begin, on_args, on_end}, p->options.dsml_entities);
}

static void break_block(struct ds4_parser *p, size_t at)
{
    if (p->dsml.n_calls > 0) p->finds_blocks = false;
    dsml_deinit(&p->dsml);
    p->phase = PHASE_TEXT;
    p->phase_is_fresh = false;
    send_alone(p, DS4_EVENT_CALLS_BROKEN, span_make(p->in.text.ptr, at));
    p->at = at;
}

static void block_byte(struct ds4_parser *p, char byte)
{
    enum dsml_result result = dsml_byte(&p->dsml, byte);
    if (p->dsml.failed) p->status = DS4_ERR_NOMEM;
    if (result == DSML_DONE) {
        dsml_deinit(&p->dsml);
        p->phase = PHASE_DONE;
        send_alone(p, DS4_EVENT_CALLS_DONE, span_make(p->in.text.ptr, p->at));
    } else if (result == DSML_BROKEN) {
        break_block(p, p->opener_end + p->dsml.broken_at);
    }
}

/* ---- visible text -------------------------------------------------------------------------------------------- */

static bool is_space(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static void release_held(struct ds4_parser *p)
{
    if (p->held.failed) p->status = DS4_ERR_NOMEM;
    if (p->held.text.len > p->held_space) p->phase_is_fresh = false;
    gather(p, DS4_EVENT_TEXT, buf_span(&p->held).ptr, p->held.text.len);
    buf_clear(&p->held);
    p->held_space = 0;
}

/* An opener has "<" only at its beginning, so when a candidate fails only the byte at hand can begin another. */
static void text_byte(struct ds4_parser *p, char byte)
{
    int dialect;
    if (p->held.text.len > p->held_space) {
        buf_put_byte(&p->held, (unsigned char)byte);
        struct ds4_span candidate = span_skip(buf_span(&p->held), p->held_space);
        enum dsml_match match = dsml_match_opener(candidate, &dialect);
        if (match == DSML_WHOLE) begin_block(p, dialect);
        if (match != DSML_NO_MATCH) return;
        if (!p->held.failed) p->held.text.len--;
        release_held(p);
    }
    if (p->finds_blocks && (is_space(byte) || byte == '<')) {
        buf_put_byte(&p->held, (unsigned char)byte);
        if (byte != '<') p->held_space = p->held.text.len;
        return;
    }
    if (p->held.text.len > 0) release_held(p);
    if (!is_space(byte)) p->phase_is_fresh = false;
    gather(p, DS4_EVENT_TEXT, &byte, 1);
}

/* ---- all phases ---------------------------------------------------------------------------------------------- */

static void read_text(struct ds4_parser *p, struct ds4_span text)
{
    if (p->phase == PHASE_THINK) {
        if (text.len > 0) p->phase_is_fresh = false;
        gather(p, DS4_EVENT_THINK, text.ptr, text.len);
        return;
    }
    buf_put_span(&p->in, text);
    if (p->in.failed) p->status = DS4_ERR_NOMEM;
    while (p->status == DS4_OK && p->at < p->in.text.len) {
        char byte = p->in.text.ptr[p->at++];
        if (p->phase == PHASE_BLOCK)
            block_byte(p, byte);
        else if (p->phase == PHASE_TEXT)
            text_byte(p, byte);
    }
    if (p->phase != PHASE_BLOCK) {
        buf_clear(&p->in);
        p->at = 0;
    }
}

static void read_bytes(struct ds4_parser *p, struct ds4_span bytes)
{
    for (size_t i = 0; i < bytes.len;) {
        /* The longest run that needs no joining, or one byte behind an incomplete character. */
        if (p->tail_len == 0) {
            size_t start = i, taken = 0;
            while (i < bytes.len && utf8_next(bytes.ptr + i, bytes.len - i, &taken) != UTF8_BAD) i += taken;
            read_text(p, span_make(bytes.ptr + start, i - start));
            if (i == bytes.len) return;
        }
        size_t taken;
        p->tail[p->tail_len++] = bytes.ptr[i++];
        uint32_t scalar = utf8_next(p->tail, p->tail_len, &taken);
        if (scalar != UTF8_BAD) {
            read_text(p, span_make(p->tail, taken));
            p->tail_len = 0;
        } else if (utf8_complete_len(span_make(p->tail, p->tail_len)) != 0) {
            /* No further byte can complete it. The last byte may begin a character if it did not belong to the first.
             * */
            read_text(p, SPAN("\xEF\xBF\xBD"));
            i -= p->tail_len - taken;
            p->tail_len = 0;
        }
    }
}

static void flush_tail(struct ds4_parser *p)
{
    if (p->tail_len > 0) read_text(p, SPAN("\xEF\xBF\xBD"));
    p->tail_len = 0;
}

static void flush_all(struct ds4_parser *p)
{
    flush_tail(p);
    if (p->phase == PHASE_BLOCK) {
        break_block(p, p->in.text.len);
        buf_clear(&p->in);
        p->at = 0;
    }
    if (p->held.text.len > 0) release_held(p);
    send_gathered(p);
}

static void set_phase(struct ds4_parser *p, enum phase phase)
{
    flush_tail(p);
    p->phase = phase;
    p->phase_is_fresh = true;
}

/* True when the token was a marker and is dealt with. */
static bool read_marker(struct ds4_parser *p, int32_t id)
{
    const struct ds4_special_ids *special = vocab_special(p->vocab);
    if (p->phase != PHASE_THINK && p->phase != PHASE_TEXT) return false;
    if (id == special->think_end && p->phase == PHASE_THINK) {
        set_phase(p, PHASE_TEXT);
        return true;
    }
    if (id == special->think_end && p->phase_is_fresh) return true;
    if (id == special->think && p->phase_is_fresh) {
        if (p->phase == PHASE_TEXT) {
            if (p->held.text.len > 0) release_held(p);
            set_phase(p, PHASE_THINK);
        }
        return true;
    }
    return vocab_token_type(p->vocab, id) == VOCAB_CONTROL;
}

static enum ds4_status end_call(struct ds4_parser *p)
{
    if (p->in.failed || p->held.failed || p->out.failed || p->args.failed) p->status = DS4_ERR_NOMEM;
    p->fn = NULL;
    return p->status;
}

enum ds4_status ds4_parser_feed(struct ds4_parser *p, int32_t id, ds4_event_fn fn, void *user)
{
    if (p->status != DS4_OK || p->phase == PHASE_STOPPED) return p->status;
    p->fn = fn;
    p->user = user;
    bool ends = id >= 0 && id == vocab_special(p->vocab)->eos;
    if (ends && p->options.show_markers) read_bytes(p, vocab_token(p->vocab, id));
    if (ends) {
        flush_all(p);
        p->phase = PHASE_STOPPED;
        send(p, DS4_EVENT_STOP, span_make("", 0));
    } else if (id >= 0 && (p->options.show_markers || !read_marker(p, id))) {
        read_bytes(p, vocab_token(p->vocab, id));
        send_gathered(p);
    }
    return end_call(p);
}

enum ds4_status ds4_parser_finish(struct ds4_parser *p, ds4_event_fn fn, void *user)
{
    if (p->status != DS4_OK || p->phase == PHASE_STOPPED) return p->status;
    p->fn = fn;
    p->user = user;
    flush_all(p);
    p->phase = PHASE_STOPPED;
    return end_call(p);
}

static bool opener_is_likely(const struct ds4_parser *p)
{
    return p->phase == PHASE_TEXT && p->held.text.len > p->held_space &&
           dsml_is_marked(span_skip(buf_span(&p->held), p->held_space));
}

bool ds4_parser_in_call(const struct ds4_parser *p) { return p->phase == PHASE_BLOCK || opener_is_likely(p); }

bool ds4_parser_in_syntax(const struct ds4_parser *p)
{
    return p->phase == PHASE_BLOCK ? !dsml_in_free_text(&p->dsml) : opener_is_likely(p);
}
