/* slash.h - commands of the chat: one table for parsing, /help and suggestions. */
#ifndef DS4_CHAT_SLASH_H
#define DS4_CHAT_SLASH_H

#include "base/buf.h"

/* X-macro: id, name, argument ("" = none, "[x]" = may have one, "X" = must have one), help. */
#define SLASH_MAP(X) \
    X(HELP, "help", "", "this list") \
    X(THINK, "think", "[max]", "think before answering; max: with the greatest effort") \
    X(NOTHINK, "nothink", "", "answer at once") \
    X(CTX, "ctx", "", "how full the context is") \
    X(READ, "read", "FILE", "send the text of a file as your message") \
    X(SAVE, "save", "[NAME]", "save the conversation and its state; a NAME with / is a path") \
    X(LOAD, "load", "[NAME]", "go on with a saved conversation") \
    X(RESET, "reset", "", "forget the conversation") \
    X(QUIT, "quit", "", "leave (also Ctrl-D)")

enum slash_id {
#define X(id, name, argument, help) SLASH_##id,
    SLASH_MAP(X)
#undef X
    SLASH_TEXT, /* no command: a message */
    SLASH_WRONG /* looks like a command and is none: says why, is never sent */
};

struct slash {
    enum slash_id id;
    struct ds4_span argument; /* borrows from the line; without white space around it */
    char complaint[256];      /* SLASH_WRONG */
};

/* A line that begins with a slash is a command or a mistake; a space before the slash makes it a message. */
struct slash slash_parse(struct ds4_span line);
void slash_help(struct buf *out);

#endif
