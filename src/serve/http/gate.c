/* gate.c - see gate.h. */
#include "serve/http/gate.h"

#define CRLF SPAN("\r\n")

static bool is_token_byte(unsigned char c)
{
    if ((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')) return true;
    return c && strchr("!#$%&'*+-.^_`|~", c);
}

bool gate_is_word(struct ds4_span text, const char *word)
{
    size_t n = strlen(word);
    if (text.len != n) return false;
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text.ptr[i];
        if (c >= 'A' && c <= 'Z') c |= 0x20;
        if (c != (unsigned char)word[i]) return false;
    }
    return true;
}

static struct ds4_span trimmed(struct ds4_span s)
{
    while (s.len && (s.ptr[0] == ' ' || s.ptr[0] == '\t')) s = span_skip(s, 1);
    while (s.len && (s.ptr[s.len - 1] == ' ' || s.ptr[s.len - 1] == '\t')) s.len--;
    return s;
}

/* Every byte of a head is text, a tab, or the CR LF of a line's end. *end: behind the empty line, 0 = not there yet. */
static int find_end(struct ds4_span bytes, size_t *scanned, size_t *end)
{
    for (size_t i = *scanned; i < bytes.len; i++) {
        unsigned char c = (unsigned char)bytes.ptr[i];
        bool after_cr = i > 0 && bytes.ptr[i - 1] == '\r';
        if (after_cr != (c == '\n')) return 400;
        if ((c < 0x20 && c != '\r' && c != '\n' && c != '\t') || c == 0x7F) return 400;
        if (c == '\n' && i >= 3 && bytes.ptr[i - 2] == '\n') {
            *end = i + 1;
            return GATE_OK;
        }
        if (i >= GATE_HEAD_BYTES_MAX) return 431;
    }
    *scanned = bytes.len;
    return GATE_MORE;
}

/* Methods that other servers of these APIs know are a client's mistake here, and no reason to try again. */
static int read_method(struct ds4_span word, enum http_method *out)
{
    static const char *const names[] = {"GET", "HEAD", "POST", "OPTIONS"}, *const others[] = {"PUT", "PATCH", "DELETE"};
    for (size_t i = 0; i < word.len; i++)
        if (!is_token_byte((unsigned char)word.ptr[i])) return 400;
    for (size_t i = 0; i < 4; i++)
        if (span_eq(word, span_from(names[i]))) {
            *out = (enum http_method)i;
            return GATE_OK;
        }
    for (size_t i = 0; i < 3; i++)
        if (span_eq(word, span_from(others[i]))) return 405;
    return word.len ? 501 : 400;
}

/* Takes scheme and authority off a target in absolute form. Names of users are for other schemes and for deceiving. */
static int read_authority(struct ds4_span *target, struct ds4_span *authority)
{
    static const char scheme[] = "http://";
    size_t begin = sizeof scheme - 1, end = begin;
    if (target->len < begin || !gate_is_word(span_make(target->ptr, begin), scheme)) return 400;
    while (end < target->len && target->ptr[end] != '/' && target->ptr[end] != '?') end++;
    *authority = span_make(target->ptr + begin, end - begin);
    *target = span_skip(*target, end);
    return authority->len == 0 || span_find(*authority, SPAN("@"), 0) != SIZE_MAX ? 400 : GATE_OK;
}

static int read_target(struct ds4_span target, struct http_request *out)
{
    struct ds4_span root = target;
    if (target.len > GATE_TARGET_BYTES_MAX) return 414;
    for (size_t i = 0; i < target.len; i++) {
        unsigned char c = (unsigned char)target.ptr[i];
        if (c <= 0x20 || c >= 0x7F || c == '#') return 400;
    }
    if (target.len == 0) return 400;
    if (target.ptr[0] != '/') {
        int status = read_authority(&target, &out->authority);
        if (status != GATE_OK) return status;
        root = span_make(out->authority.ptr - 1, 1);
    }
    size_t query = span_find(target, SPAN("?"), 0);
    out->path = span_make(target.ptr, query == SIZE_MAX ? target.len : query);
    if (out->path.len == 0) out->path = root; /* no path is "/", for which the one before the authority is at hand */
    return GATE_OK;
}

static int read_request_line(struct ds4_span line, struct http_request *out)
{
    size_t first = span_find(line, SPAN(" "), 0);
    if (first == SIZE_MAX) return 400;
    size_t second = span_find(line, SPAN(" "), first + 1);
    if (second == SIZE_MAX) return line.len > GATE_TARGET_BYTES_MAX ? 414 : 400;
    struct ds4_span version = span_skip(line, second + 1);
    int status = read_method(span_make(line.ptr, first), &out->method);
    if (status == 400) return 400;
    if (!span_starts(version, SPAN("HTTP/")) || version.len != 8 || version.ptr[6] != '.') return 400;
    out->is_old = out->close = span_eq(version, SPAN("HTTP/1.0"));
    if (!out->is_old && !span_eq(version, SPAN("HTTP/1.1"))) return 505;
    if (status == 501) return status;
    int target = read_target(span_make(line.ptr + first + 1, second - first - 1), out);
    return target == GATE_OK ? status : target;
}

static int read_length(struct ds4_span value, size_t *out)
{
    size_t n = 0;
    if (value.len == 0 || value.len > 18) return value.len ? 413 : 400;
    for (size_t i = 0; i < value.len; i++) {
        if (value.ptr[i] < '0' || value.ptr[i] > '9') return 400;
        n = n * 10 + (size_t)(value.ptr[i] - '0');
    }
    *out = n;
    return GATE_OK;
}

/* Comma-separated options of Connection. */
static int read_connection(struct ds4_span value, struct http_request *out)
{
    while (value.len) {
        size_t comma = span_find(value, SPAN(","), 0);
        struct ds4_span option = trimmed(span_make(value.ptr, comma == SIZE_MAX ? value.len : comma));
        if (gate_is_word(option, "close")) out->close = true;
        value = comma == SIZE_MAX ? span_make(value.ptr, 0) : span_skip(value, comma + 1);
    }
    return GATE_OK;
}

static int read_special(struct ds4_span name, struct ds4_span value, struct http_request *out)
{
    if (gate_is_word(name, "connection")) return read_connection(value, out);
    if (gate_is_word(name, "transfer-encoding")) {
        if (out->chunked) return 400;
        out->chunked = true;
        return gate_is_word(value, "chunked") ? GATE_OK : 501;
    }
    if (gate_is_word(name, "expect")) {
        out->expects_continue = true;
        return gate_is_word(value, "100-continue") ? GATE_OK : 417;
    }
    if (gate_is_word(name, "content-encoding")) return gate_is_word(value, "identity") ? GATE_OK : 415;
    return GATE_OK;
}

static int read_header(struct ds4_span line, struct http_request *out)
{
    size_t colon = span_find(line, SPAN(":"), 0);
    if (colon == SIZE_MAX || colon == 0) return 400;
    struct ds4_span name = span_make(line.ptr, colon), value = trimmed(span_skip(line, colon + 1));
    for (size_t i = 0; i < name.len; i++)
        if (!is_token_byte((unsigned char)name.ptr[i])) return 400;
    const struct {
        const char *name;
        struct ds4_span *value;
    } once[] = {{"host", &out->host}, {"origin", &out->origin}, {"sec-fetch-site", &out->fetch_site},
                {"content-type", &out->content_type}, {"authorization", &out->authorization},
                {"x-api-key", &out->api_key}, {"content-length", &out->content_length}};
    for (size_t i = 0; i < sizeof once / sizeof once[0]; i++) {
        if (!gate_is_word(name, once[i].name)) continue;
        if (once[i].value->ptr) return 400;
        *once[i].value = value;
        return GATE_OK;
    }
    return read_special(name, value, out);
}

static int check_whole(struct http_request *r)
{
    if (!r->host.ptr || r->host.len == 0) return 400;
    if (r->authority.ptr) r->host = r->authority;
    if (r->content_length.ptr) {
        int status = read_length(r->content_length, &r->body_bytes);
        if (status != GATE_OK) return status;
        if (r->chunked) return 400;
    }
    if (r->is_old && r->chunked) return 400; /* a 1.0 reader in between would see another end */
    if (r->is_old) r->expects_continue = false;
    if (r->method != HTTP_POST) return r->body_bytes || r->chunked ? 400 : GATE_OK;
    if (!r->content_length.ptr && !r->chunked) return 411;
    return r->body_bytes > r->body_bytes_max ? 413 : GATE_OK;
}

int gate_head(struct ds4_span bytes, size_t body_max, size_t *scanned, struct http_request *out, size_t *head_bytes)
{
    size_t end = 0, at = 0, n_headers = 0;
    *out = (struct http_request){.body_bytes_max = body_max};
    int status = find_end(bytes, scanned, &end);
    if (status != GATE_OK) return status;
    *head_bytes = end;
    struct ds4_span head = span_make(bytes.ptr, end - 2);
    while (at < head.len) {
        size_t line_end = span_find(head, CRLF, at);
        struct ds4_span line = span_make(head.ptr + at, line_end - at);
        if (at == 0) status = read_request_line(line, out);
        else if (++n_headers > GATE_HEADERS_MAX) status = 431;
        else status = read_header(line, out);
        if (status != GATE_OK) return status;
        at = line_end + 2;
    }
    return check_whole(out);
}

enum chunk_state {
    CHUNK_SIZE, CHUNK_SPACE, CHUNK_EXTENSION, CHUNK_SIZE_LF, CHUNK_DATA, CHUNK_CR, CHUNK_LF, CHUNK_LAST_CR,
    CHUNK_LAST_LF, CHUNK_END
};

/* One byte between a size and the end of its line: space, then, from a semicolon on, any text. A line end other than
 * CR LF is refused here as well: a reader before this one may have taken it for text, or for the end. */
static int extension_byte(struct gate_chunks *c, unsigned char byte)
{
    bool space = byte == ' ' || byte == '\t';
    if (c->state == CHUNK_EXTENSION && byte == '\r') {
        c->state = CHUNK_SIZE_LF;
        return GATE_MORE;
    }
    if (c->state == CHUNK_SPACE && !space && byte != ';') return 400;
    if ((byte < 0x20 && byte != '\t') || byte == 0x7F) return 400;
    if (byte == ';') c->state = CHUNK_EXTENSION;
    return ++c->n_extension_bytes > GATE_EXTENSIONS_BYTES_MAX ? 431 : GATE_MORE;
}

static int size_byte(struct gate_chunks *c, unsigned char byte)
{
    unsigned digit;
    if (byte == '\r' && c->n_digits) {
        c->state = CHUNK_SIZE_LF;
        return GATE_MORE;
    }
    if (c->n_digits && (byte == ';' || byte == ' ' || byte == '\t')) {
        c->state = CHUNK_SPACE;
        return extension_byte(c, byte);
    }
    if (byte >= '0' && byte <= '9') digit = byte - '0';
    else if ((byte | 0x20) >= 'a' && (byte | 0x20) <= 'f') digit = (byte | 0x20u) - 'a' + 10;
    else return 400;
    if (++c->n_digits > 8) return 400;
    c->left = c->left << 4 | digit;
    return GATE_MORE;
}

/* One byte outside data. */
static int frame_byte(struct gate_chunks *c, unsigned char byte)
{
    switch (c->state) {
    case CHUNK_SIZE: return size_byte(c, byte);
    case CHUNK_SPACE:
    case CHUNK_EXTENSION: return extension_byte(c, byte);
    case CHUNK_SIZE_LF:
        c->state = c->left ? CHUNK_DATA : CHUNK_LAST_CR;
        c->n_digits = 0;
        return byte == '\n' ? GATE_MORE : 400;
    case CHUNK_CR: c->state = CHUNK_LF; return byte == '\r' ? GATE_MORE : 400;
    case CHUNK_LF: c->state = CHUNK_SIZE; return byte == '\n' ? GATE_MORE : 400;
    case CHUNK_LAST_CR: c->state = CHUNK_LAST_LF; return byte == '\r' ? GATE_MORE : 400;
    default: c->state = CHUNK_END; return byte == '\n' ? GATE_OK : 400;
    }
}

int gate_chunks_feed(struct gate_chunks *c, struct ds4_span bytes, size_t body_max, struct buf *body, size_t *taken)
{
    size_t at = 0;
    int status = GATE_MORE;
    while (at < bytes.len && status == GATE_MORE) {
        if (c->state == CHUNK_DATA) {
            size_t n = bytes.len - at < c->left ? bytes.len - at : c->left;
            buf_put(body, bytes.ptr + at, n);
            at += n;
            c->left -= n;
            if (c->left == 0) c->state = CHUNK_CR;
        } else {
            status = frame_byte(c, (unsigned char)bytes.ptr[at++]);
            if (c->state == CHUNK_DATA && body->text.len + c->left > body_max) status = 413;
        }
    }
    *taken = at;
    return status;
}
