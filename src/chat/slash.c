/* slash.c - parsing of the chat's commands. See slash.h. */
#include "chat/slash.h"

#include <stdio.h>

#include "base/suggest.h"
#include "base/term.h"

static const struct {
    const char *name, *argument, *help;
} commands[] = {
#define X(id, name, argument, help) {name, argument, help},
    SLASH_MAP(X)
#undef X
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static bool is_blank(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r'; }

static struct ds4_span trim(struct ds4_span text)
{
    while (text.len > 0 && is_blank(text.ptr[0])) text = span_skip(text, 1);
    while (text.len > 0 && is_blank(text.ptr[text.len - 1])) text.len--;
    return text;
}

static void complain_unknown(struct slash *s, struct ds4_span word)
{
    const char *names[N_COMMANDS];
    struct buf shown = {0};
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = suggest_near(word, names, N_COMMANDS);
    term_put_safe(&shown, span_make(word.ptr, word.len < 40 ? word.len : 40));
    int n = (int)shown.text.len;
    const char *text = shown.text.ptr ? shown.text.ptr : "";
    if (near)
        (void)snprintf(s->complaint, sizeof s->complaint, "no command /%.*s; did you mean /%s? Nothing was sent "
                       "(a space before the slash sends it as text)", n, text, near);
    else
        (void)snprintf(s->complaint, sizeof s->complaint, "no command /%.*s, see /help. Nothing was sent "
                       "(a space before the slash sends it as text)", n, text);
    buf_deinit(&shown);
}

struct slash slash_parse(struct ds4_span line)
{
    struct slash s = {.id = SLASH_TEXT};
    if (line.len == 0 || line.ptr[0] != '/') return s;
    struct ds4_span rest = span_skip(line, 1);
    size_t len = 0;
    while (len < rest.len && !is_blank(rest.ptr[len])) len++;
    struct ds4_span word = span_make(rest.ptr, len);
    s.argument = trim(span_skip(rest, len));
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (!span_eq(word, span_from(commands[i].name))) continue;
        bool none = commands[i].argument[0] == 0, must = !none && commands[i].argument[0] != '[';
        s.id = (enum slash_id)i;
        if (none && s.argument.len > 0)
            (void)snprintf(s.complaint, sizeof s.complaint, "/%s takes no argument", commands[i].name);
        else if (must && s.argument.len == 0)
            (void)snprintf(s.complaint, sizeof s.complaint, "/%s needs %s", commands[i].name, commands[i].argument);
        else if (s.id == SLASH_THINK && s.argument.len > 0 && !span_eq(s.argument, SPAN("max")))
            (void)snprintf(s.complaint, sizeof s.complaint, "/think or /think max");
        if (s.complaint[0]) s.id = SLASH_WRONG;
        return s;
    }
    s.id = SLASH_WRONG;
    complain_unknown(&s, word);
    return s;
}

void slash_help(struct buf *out)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        buf_printf(out, "  /%-8s %-7s %s\n", commands[i].name, commands[i].argument, commands[i].help);
    buf_put_text(out, "Ctrl-C stops an answer or clears the line. A line that ends in \\ goes on in the next one;\n"
                      "pasted text may have several lines.\n");
}
