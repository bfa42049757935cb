/* doctor.h - `ds4 serve --doctor`. */
#ifndef DS4_SERVE_DOCTOR_H
#define DS4_SERVE_DOCTOR_H

#include "base/buf.h"

struct doctor {
    const char *host, *alias;
    const char *secret;  /* a key that the server accepts, never shown; NULL = none */
    unsigned port, ctx_tokens; /* ctx_tokens: 0 = not said */
};

/* Settings of known clients for a server at this address, as a person would paste them, and the state of the one that
 * runs there, if any. False: what runs there cannot be used as it is. */
bool doctor_put(struct buf *out, const struct doctor *d);

#endif
