/* metrics.h - what the server counts, and its text for Prometheus. Any thread. */
#ifndef DS4_SERVE_METRICS_H
#define DS4_SERVE_METRICS_H

#include <stdatomic.h>

#include "base/buf.h"

/* X-macro: field, name, type, help. */
#define METRICS_MAP(X) \
    X(prompt_tokens, "prompt_tokens_total", "counter", "prompt tokens computed") \
    X(prompt_us, "prompt_seconds_total", "counter", "seconds spent on prompts") \
    X(tokens, "tokens_predicted_total", "counter", "tokens generated") \
    X(tokens_us, "tokens_predicted_seconds_total", "counter", "seconds spent on generation") \
    X(reused_tokens, "cache_hit_tokens_total", "counter", "prompt tokens not computed again") \
    X(requests, "requests_total", "counter", "requests for an answer") \
    X(refused, "requests_refused_total", "counter", "requests refused for want of a place in the queue") \
    X(cancelled, "cancelled_total", "counter", "requests whose client left before the end") \
    X(attached, "attached_total", "counter", "requests that went on with the work of a client that had left") \
    X(loops, "token_loops_total", "counter", "answers that went round in a cycle of tokens") \
    X(call_loops, "call_loops_total", "counter", "tool calls withheld because they went round in a cycle") \
    X(budgets_reached, "thinking_budgets_total", "counter", "answers whose thinking was ended by its budget") \
    X(failed, "failed_total", "counter", "requests that ended in an engine error") \
    X(broken_calls, "broken_calls_total", "counter", "tool calls that were malformed") \
    X(stored_bytes, "kv_disk_bytes", "gauge", "bytes in the folder of stored state") \
    X(stored_files, "kv_disk_files", "gauge", "files of state in that folder") \
    X(stored_waiting, "kv_queued_bytes", "gauge", "bytes that wait to be written there") \
    X(processing, "requests_processing", "gauge", "requests being computed") \
    X(waiting, "requests_deferred", "gauge", "requests waiting")

struct metrics {
#define X(field, name, type, help) atomic_llong field;
    METRICS_MAP(X)
#undef X
};

static inline void metrics_add(atomic_llong *counter, long long n) { atomic_fetch_add(counter, n); }
void metrics_put(struct buf *out, struct metrics *m);

#endif
