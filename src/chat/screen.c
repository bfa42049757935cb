/* screen.c - printing of answers. See screen.h. */
#include "chat/screen.h"

#define DIM "\x1b[2m"
#define PLAIN "\x1b[0m"

void screen_init(struct screen *s, int fd, const char *name, bool raw, struct term_progress *progress)
{
    *s = (struct screen){.raw = raw, .terminal = term_is(fd), .progress = progress};
    sink_init_fd(&s->out, fd, name);
}

void screen_deinit(struct screen *s)
{
    buf_deinit(&s->text);
    buf_deinit(&s->reasoning);
    buf_deinit(&s->out.pending);
}

void screen_begin(struct screen *s)
{
    buf_clear(&s->text);
    buf_clear(&s->reasoning);
    s->shown = SCREEN_NOTHING;
    s->line_open = false;
}

static void put(struct screen *s, struct ds4_span text)
{
    if (text.len == 0) return;
    if (s->terminal) {
        struct buf safe = {0};
        term_put_safe(&safe, text);
        sink_put(&s->out, buf_span(&safe));
        buf_deinit(&safe);
    } else {
        sink_put(&s->out, text);
    }
    s->line_open = text.ptr[text.len - 1] != '\n';
}

static void end_thinking(struct screen *s)
{
    if (s->shown != SCREEN_THINKING) return;
    sink_put_text(&s->out, PLAIN);
    sink_put_text(&s->out, s->line_open ? "\n\n" : "\n");
    s->line_open = false;
}

void screen_event(void *user, const struct ds4_event *event)
{
    struct screen *s = user;
    if (event->kind == DS4_EVENT_THINK) {
        buf_put_span(&s->reasoning, event->text);
        if (!s->terminal) return;
        if (s->progress) term_progress_clear(s->progress);
        if (s->shown != SCREEN_THINKING) sink_put_text(&s->out, DIM);
        s->shown = SCREEN_THINKING;
    } else if (event->kind == DS4_EVENT_TEXT || event->kind == DS4_EVENT_CALLS_BROKEN) {
        buf_put_span(&s->text, event->text);
        if (s->progress) term_progress_clear(s->progress);
        end_thinking(s);
        s->shown = SCREEN_ANSWER;
    } else {
        return;
    }
    put(s, event->text);
    if (sink_flush(&s->out) != DS4_OK) s->failed = true;
}

void screen_end(struct screen *s)
{
    if (s->progress) term_progress_clear(s->progress);
    if (s->shown == SCREEN_THINKING) end_thinking(s);
    else if (s->line_open && !(s->raw && !s->terminal)) sink_put_text(&s->out, "\n");
    s->line_open = false;
    s->shown = SCREEN_NOTHING;
    if (sink_flush(&s->out) != DS4_OK) s->failed = true;
}
