/* segments.h - the writer of a rendered conversation: template and content in order of the text.
 *
 * Control tokens come from template segments only. All else is gathered into runs of ordinary text, template and
 * content together, and a run is encoded as one, because a piece of the pre-tokeniser may span the border between them.
 * Errors are sticky: put freely, finish once. */
#ifndef DS4_TEXT_SEGMENTS_H
#define DS4_TEXT_SEGMENTS_H

#include "text/encode.h"

struct segments {
    const struct vocab *vocab;
    struct ds4_tokens *tokens; /* may be NULL */
    struct buf text;           /* everything so far, when wanted */
    bool wants_text;
    struct buf run;            /* ordinary text not yet encoded */
    enum ds4_status status;
    struct ds4_error *error;
};

/* Both outputs may be NULL; they are appended to. */
void segments_init(struct segments *s, const struct vocab *vocab, struct ds4_tokens *tokens, struct ds4_text *text,
                   struct ds4_error *error);
/* Our own text: markers in it that the vocabulary has become control tokens, others stay text. */
void segments_template(struct segments *s, struct ds4_span text);
/* A client's or the model's text: never control. Invalid UTF-8 is replaced. */
void segments_content(struct segments *s, struct ds4_span text);
/* Encodes the rest, hands the text back to *text (the one of init) and releases. */
enum ds4_status segments_finish(struct segments *s, struct ds4_text *text) DS4_MUST_CHECK;

#endif
