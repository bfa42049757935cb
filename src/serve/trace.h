/* trace.h - a record of every answer for whoever looks into a client's or the model's behaviour: one JSON line each,
 * with the prompt as rendered and the output as sampled. It holds everything that was said: 0600. Worker only. */
#ifndef DS4_SERVE_TRACE_H
#define DS4_SERVE_TRACE_H

#include "serve/slots.h"

struct trace;
/* Makes the file anew. STATE when a file is there that is neither empty nor a trace. */
enum ds4_status trace_open(const char *path, struct trace **out, struct ds4_error *error) DS4_MUST_CHECK;
void trace_close(struct trace *t); /* NULL is fine */
/* The slot's job as it ends. What cannot be written is left out. */
void trace_put(struct trace *t, const struct ds4_engine *engine, const struct slot *s, const char *finish);

#endif
