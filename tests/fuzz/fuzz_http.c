/* fuzz_http.c - bytes of a connection: the head of a request and, behind it, a body in chunks. However they are cut,
 * they are judged alike; what is accepted lies within the bytes, a decoded body is never longer than what came or was
 * allowed, and the host is the authority of the target where there is one. First byte: how they are cut. */
#include <stdlib.h>

#include "serve/http/gate.h"

#define BODY_MAX 300u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_check(bool promise)
{
    if (!promise) abort();
}

static bool lies_in(struct ds4_span part, struct ds4_span whole)
{
    return !part.ptr || (part.ptr >= whole.ptr && part.len <= (size_t)(whole.ptr + whole.len - part.ptr));
}

/* Lengths of pieces, of which most are short. */
static size_t next_piece(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return 1 + (*state >> 24) % (*state >> 16 & 1 ? 3 : 40);
}

static void check_head(const struct http_request *r, struct ds4_span head)
{
    const struct ds4_span parts[] = {r->path, r->host, r->origin, r->fetch_site, r->content_type, r->authorization,
                                     r->api_key, r->content_length};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
        fuzz_check(lies_in(parts[i], head));
        for (size_t k = 0; k < parts[i].len; k++) fuzz_check(parts[i].ptr[k] != '\r' && parts[i].ptr[k] != '\n');
    }
    fuzz_check(r->path.len > 0 && r->path.ptr[0] == '/' && r->host.len > 0);
    size_t target = span_find(head, SPAN(" "), 0) + 1;
    fuzz_check((head.ptr[target] == '/') == !r->authority.ptr);
    if (r->authority.ptr) {
        fuzz_check(r->host.ptr == r->authority.ptr && r->host.ptr == head.ptr + target + strlen("http://"));
        for (size_t k = 0; k < r->host.len; k++) fuzz_check(!strchr("/?@# ", r->host.ptr[k]));
    }
    fuzz_check(r->body_bytes <= BODY_MAX && !(r->chunked && r->content_length.ptr));
    fuzz_check(r->method == HTTP_POST || (!r->chunked && r->body_bytes == 0));
    fuzz_check(!r->is_old || (r->close && !r->chunked && !r->expects_continue));
}

/* The whole at once, and in pieces: the same end, the same bytes. */
static void check_chunks(struct ds4_span bytes, uint32_t cuts)
{
    struct gate_chunks whole = {0}, pieces = {0};
    struct buf body = {0}, other = {0};
    size_t taken = 0, at = 0, n;
    int status = gate_chunks_feed(&whole, bytes, BODY_MAX, &body, &taken), piecewise = GATE_MORE;
    fuzz_check(taken <= bytes.len && body.text.len <= bytes.len && body.text.len <= BODY_MAX);
    while (at < bytes.len && piecewise == GATE_MORE) {
        size_t len = next_piece(&cuts);
        if (len > bytes.len - at) len = bytes.len - at;
        piecewise = gate_chunks_feed(&pieces, span_make(bytes.ptr + at, len), BODY_MAX, &other, &n);
        fuzz_check(n <= len && (n == len || piecewise != GATE_MORE));
        at += n;
    }
    fuzz_check(status == piecewise && span_eq(buf_span(&body), buf_span(&other)));
    if (status == GATE_OK) fuzz_check(at == taken);
    buf_deinit(&body);
    buf_deinit(&other);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct http_request whole, pieces;
    size_t scanned = 0, head_bytes = 0, other_bytes = 0, at = 0;
    if (size < 2) return 0;
    struct ds4_span bytes = span_make((const char *)data + 1, size - 1);
    uint32_t cuts = data[0] * 2654435761u;
    int status = gate_head(bytes, BODY_MAX, &scanned, &whole, &head_bytes), piecewise = GATE_MORE;
    for (scanned = 0; at < bytes.len && piecewise == GATE_MORE;) {
        at += next_piece(&cuts);
        if (at > bytes.len) at = bytes.len;
        piecewise = gate_head(span_make(bytes.ptr, at), BODY_MAX, &scanned, &pieces, &other_bytes);
    }
    fuzz_check(status == piecewise);
    if (status == GATE_MORE) fuzz_check(bytes.len <= GATE_HEAD_BYTES_MAX + 1);
    if (status != GATE_OK) return 0;
    fuzz_check(head_bytes == other_bytes && head_bytes <= bytes.len);
    check_head(&whole, span_make(bytes.ptr, head_bytes));
    if (whole.chunked) check_chunks(span_skip(bytes, head_bytes), cuts);
    return 0;
}
