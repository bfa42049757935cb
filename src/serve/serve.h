/* serve.h - `ds4 serve`: an HTTP server that clients of hosted models can drive. */
#ifndef DS4_SERVE_SERVE_H
#define DS4_SERVE_SERVE_H

#include "base/buf.h"

int cmd_serve(int argc, char **argv); /* argv[0] is "serve"; returns the exit status */

/* Settings of known clients for a server at this address, as a person would paste them. */
void doctor_put(struct buf *out, const char *host, unsigned port, unsigned ctx_tokens, bool needs_key);

#endif
