/* line.c - line editing. See line.h.
 *
 * libedit edits wide characters and asks us for each (EL_GETCFN), so that UTF-8 arrives whole whatever the locale, and
 * so that signals end a read at once. With bracketed paste the terminal wraps what is pasted into ESC [200~ and
 * ESC [201~: one line goes into the line that is edited; several lines would be torn or submitted half, so they are
 * kept aside and a word such as [paste 1: 12 lines] stands for them until the line is sent. */
#include "chat/line.h"

#include <errno.h>
#include <histedit.h>
#include <langinfo.h>
#include <locale.h>
#include <stdio.h>
#include <unistd.h>
#include <wchar.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/term.h"
#include "base/utf8.h"

#define INTERRUPT L'\x03'
#define PASTE_END "\x1b[201~"
#define PASTE_ON "\x1b[?2004h"
#define PASTE_OFF "\x1b[?2004l"
#define PASTE_INLINE_BYTES 1000 /* longer ones are kept aside even on one line: libedit redraws at each key */

struct line {
    EditLine *edit;
    HistoryW *history;
    struct line_signals *signals;
    FILE *screen;
    struct ds4_text pastes[LINE_PASTES_MAX];
    size_t n_pastes, paste_bytes;
    bool cancelled, continuation, ended;
};

static void use_utf8_locale(void)
{
    static const char *const names[] = {"", "C.UTF-8", "en_US.UTF-8"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (setlocale(LC_CTYPE, names[i]) && strcmp(nl_langinfo(CODESET), "UTF-8") == 0) return;
}

/* One byte; 0 = end or time to leave; -1 = interrupted by Ctrl-C. */
static int read_byte(struct line *l, unsigned char *byte)
{
    for (;;) {
        if (l->signals->leaving) return 0;
        if (l->signals->interrupted) return -1;
        ssize_t got = read(STDIN_FILENO, byte, 1);
        if (got == 1) return 1;
        if (got == 0 || (got < 0 && errno != EINTR)) return 0;
        if (l->signals->resized) {
            l->signals->resized = 0;
            el_resize(l->edit);
        }
        if (l->signals->continued) { /* the shell had the terminal: take it again and draw the line */
            l->signals->continued = 0;
            (void)el_wset(l->edit, EL_PREP_TERM, 0);
            (void)el_wset(l->edit, EL_PREP_TERM, 1);
            (void)el_wset(l->edit, EL_REFRESH);
        }
    }
}

static int read_character(EditLine *edit, wchar_t *out)
{
    struct line *l;
    char bytes[4];
    size_t n = 0, taken;
    (void)el_wget(edit, EL_CLIENTDATA, &l);
    for (;;) {
        unsigned char byte;
        int got = read_byte(l, &byte);
        if (got < 0) {
            *out = INTERRUPT;
            return 1;
        }
        if (got == 0) {
            l->ended = true;
            return 0;
        }
        bytes[n++] = (char)byte;
        uint32_t scalar = utf8_next(bytes, n, &taken);
        bool may_go_on = scalar == UTF8_BAD && n < 4 && utf8_complete_len(span_make(bytes, n)) < n;
        if (may_go_on) continue;
        *out = scalar == UTF8_BAD ? (wchar_t)0xFFFD : (wchar_t)scalar;
        return 1;
    }
}

static unsigned char on_interrupt(EditLine *edit, int key)
{
    struct line *l;
    (void)key;
    (void)el_wget(edit, EL_CLIENTDATA, &l);
    l->cancelled = true;
    l->signals->interrupted = 0;
    return CC_EOF;
}

static void insert_utf8(EditLine *edit, struct ds4_span text)
{
    for (size_t i = 0; i < text.len;) {
        size_t taken;
        uint32_t scalar = utf8_next(text.ptr + i, text.len - i, &taken);
        wchar_t wide[2] = {scalar == UTF8_BAD ? (wchar_t)0xFFFD : (wchar_t)scalar, 0};
        if (wide[0]) (void)el_winsertstr(edit, wide);
        i += taken;
    }
}

static size_t count_lines(struct ds4_span text)
{
    size_t n = 1;
    for (size_t i = 0; i + 1 < text.len; i++) n += text.ptr[i] == '\n';
    return n;
}

/* The word that stands for a paste. */
static void put_mark(size_t paste_i, struct ds4_span paste, struct buf *out)
{
    size_t n = count_lines(paste);
    buf_printf(out, "[paste %zu: %zu line%s]", paste_i + 1, n, n == 1 ? "" : "s");
}

static bool keep_paste(struct line *l, struct buf *paste, struct buf *mark)
{
    if (l->n_pastes == LINE_PASTES_MAX || l->paste_bytes + paste->text.len > LINE_PASTE_BYTES_MAX) return false;
    put_mark(l->n_pastes, buf_span(paste), mark);
    l->pastes[l->n_pastes++] = paste->text;
    l->paste_bytes += paste->text.len;
    paste->text = (struct ds4_text){0};
    return true;
}

/* Everything up to the end of the paste; line breaks of any kind become line feeds. */
static void read_paste(struct line *l, struct buf *paste)
{
    static const struct ds4_span end = {PASTE_END, sizeof PASTE_END - 1};
    unsigned char byte, last = 0;
    while (read_byte(l, &byte) == 1) {
        if (byte != '\n' || last != '\r') buf_put_byte(paste, byte == '\r' ? '\n' : byte);
        last = byte;
        size_t len = paste->text.len;
        if (len < end.len || memcmp(paste->text.ptr + len - end.len, end.ptr, end.len) != 0) continue;
        paste->text.len -= end.len;
        return;
    }
}

static unsigned char on_paste(EditLine *edit, int key)
{
    struct line *l;
    struct buf paste = {.limit = LINE_PASTE_BYTES_MAX}, mark = {0};
    (void)key;
    (void)el_wget(edit, EL_CLIENTDATA, &l);
    read_paste(l, &paste);
    struct ds4_span text = buf_span(&paste);
    bool simple = text.len <= PASTE_INLINE_BYTES && span_find(text, SPAN("\n"), 0) == SIZE_MAX && term_is_safe(text);
    unsigned char done = CC_REFRESH;
    if (paste.failed) {
        done = CC_ERROR;
    } else if (simple) {
        insert_utf8(edit, text);
    } else if (keep_paste(l, &paste, &mark)) {
        insert_utf8(edit, buf_span(&mark));
    } else {
        done = CC_ERROR;
    }
    buf_deinit(&paste);
    buf_deinit(&mark);
    return done;
}

static wchar_t *prompt(EditLine *edit)
{
    static wchar_t first[] = L">>> ", next[] = L"... ";
    struct line *l;
    (void)el_wget(edit, EL_CLIENTDATA, &l);
    return l->continuation ? next : first;
}

static void configure(struct line *l)
{
    (void)el_wset(l->edit, EL_CLIENTDATA, l);
    (void)el_wset(l->edit, EL_PROMPT, prompt);
    (void)el_wset(l->edit, EL_EDITOR, L"emacs");
    (void)el_wset(l->edit, EL_SIGNAL, 0);
    (void)el_wset(l->edit, EL_HIST, history_w, l->history);
    (void)el_wset(l->edit, EL_GETCFN, read_character);
    (void)el_wset(l->edit, EL_ADDFN, L"ds4-interrupt", L"give the line up", on_interrupt);
    (void)el_wset(l->edit, EL_ADDFN, L"ds4-paste", L"take a paste", on_paste);
    (void)el_wset(l->edit, EL_BIND, L"^C", L"ds4-interrupt", NULL);
    (void)el_wset(l->edit, EL_BIND, L"\x1b[200~", L"ds4-paste", NULL);
    (void)el_wset(l->edit, EL_BIND, L"\x1b[3~", L"ed-delete-next-char", NULL);
    (void)el_wset(l->edit, EL_BIND, L"^R", L"em-inc-search-prev", NULL);
}

enum ds4_status line_create(struct line_signals *signals, struct line **out, struct ds4_error *error)
{
    HistEventW event;
    struct line *l = mem_zalloc(1, sizeof *l);
    *out = NULL;
    if (!l) return err_set(error, DS4_ERR_NOMEM, "no memory for line editing");
    use_utf8_locale();
    l->signals = signals;
    l->screen = term_is(STDOUT_FILENO) ? stdout : stderr;
    l->history = history_winit();
    l->edit = l->history ? el_init("ds4", stdin, l->screen, stderr) : NULL;
    if (!l->edit) {
        line_destroy(l);
        return err_set(error, DS4_ERR_NOMEM, "line editing cannot be set up on this terminal");
    }
    (void)history_w(l->history, &event, H_SETSIZE, LINE_HISTORY_MAX);
    (void)history_w(l->history, &event, H_SETUNIQUE, 1);
    configure(l);
    *out = l;
    return DS4_OK;
}

void line_destroy(struct line *l)
{
    if (!l) return;
    if (l->edit) el_end(l->edit);
    if (l->history) history_wend(l->history);
    for (size_t i = 0; i < l->n_pastes; i++) ds4_text_free(&l->pastes[i]);
    mem_free(l);
}

/* Appends text with the marks of pastes replaced by what they stand for. */
static void put_expanded(const struct line *l, struct ds4_span text, struct buf *out)
{
    while (text.len > 0) {
        size_t mark_len = 0;
        for (size_t i = 0; i < l->n_pastes && text.ptr[0] == '['; i++) {
            struct buf mark = {0};
            struct ds4_span paste = span_make(l->pastes[i].ptr, l->pastes[i].len);
            put_mark(i, paste, &mark);
            if (mark.text.len > 0 && span_starts(text, buf_span(&mark))) {
                buf_put_span(out, paste);
                mark_len = mark.text.len;
            }
            buf_deinit(&mark);
            if (mark_len) break;
        }
        if (!mark_len) buf_put_byte(out, (unsigned char)text.ptr[0]);
        text = span_skip(text, mark_len ? mark_len : 1);
    }
}

/* One physical line. */
static enum line_outcome read_one(struct line *l, struct buf *typed)
{
    int n = 0;
    l->cancelled = l->ended = false;
    (void)!file_write(fileno(l->screen), "terminal", PASTE_ON, sizeof PASTE_ON - 1, NULL);
    (void)el_wset(l->edit, EL_PREP_TERM, 1); /* before the prompt: what is typed right after it is ours */
    const wchar_t *wide = el_wgets(l->edit, &n);
    (void)fputs(PASTE_OFF, l->screen);
    if (l->cancelled || !wide) (void)fputs("\n", l->screen);
    (void)fflush(l->screen);
    if (l->cancelled) {
        el_reset(l->edit);
        return LINE_CANCELLED;
    }
    if (!wide || n <= 0) return LINE_END;
    for (int i = 0; i < n && wide[i] != L'\n' && wide[i] != L'\r'; i++) {
        char bytes[4];
        buf_put(typed, bytes, utf8_put((uint32_t)wide[i], bytes));
    }
    if (typed->text.len > 0) {
        HistEventW event;
        (void)history_w(l->history, &event, H_ENTER, wide);
    }
    return LINE_TEXT;
}

enum line_outcome line_read(struct line *l, struct buf *out)
{
    struct buf typed = {0};
    enum line_outcome outcome;
    buf_clear(out);
    l->continuation = false;
    do {
        buf_clear(&typed);
        outcome = read_one(l, &typed);
        l->continuation = outcome == LINE_TEXT && typed.text.len > 0 && typed.text.ptr[typed.text.len - 1] == '\\';
        if (l->continuation) typed.text.ptr[typed.text.len - 1] = '\n';
        if (outcome == LINE_TEXT) put_expanded(l, buf_span(&typed), out);
    } while (l->continuation);
    buf_deinit(&typed);
    return outcome;
}
