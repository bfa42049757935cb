/* policy.c - see policy.h. */
#include "serve/policy.h"

#include <stdio.h>
#include <sys/stat.h>

#include "base/file.h"
#include "base/net.h"

#define KEY_FILE_BYTES_MAX (64u << 10)

static enum ds4_status add_key(struct policy *p, struct ds4_span key, struct ds4_error *error)
{
    while (key.len && (key.ptr[key.len - 1] == '\r' || key.ptr[key.len - 1] == ' ')) key.len--;
    if (key.len == 0) return DS4_OK;
    if (key.len > POLICY_KEY_BYTES_MAX || p->n_keys == POLICY_KEYS_MAX)
        return err_set(error, DS4_ERR_LIMIT, "--api-key-file: at most %d keys of at most %d bytes", POLICY_KEYS_MAX,
                       POLICY_KEY_BYTES_MAX);
    memcpy(p->keys[p->n_keys++], key.ptr, key.len);
    return DS4_OK;
}

static enum ds4_status read_keys(struct policy *p, const char *path, struct ds4_error *error)
{
    struct ds4_text text = {0};
    struct stat info;
    enum ds4_status status = DS4_OK;
    if (stat(path, &info) == 0 && (info.st_mode & 077))
        return err_set(error, DS4_ERR_STATE, "--api-key-file: %s can be read by others; chmod 600 it", path);
    TRY(file_read_all(path, KEY_FILE_BYTES_MAX, &text, error));
    struct ds4_span rest = {text.ptr, text.len};
    while (rest.len && status == DS4_OK) {
        size_t end = span_find(rest, SPAN("\n"), 0);
        status = add_key(p, span_make(rest.ptr, end == SIZE_MAX ? rest.len : end), error);
        rest = end == SIZE_MAX ? span_make(rest.ptr, 0) : span_skip(rest, end + 1);
    }
    ds4_text_free(&text);
    if (status == DS4_OK && p->n_keys == 0)
        status = err_set(error, DS4_ERR_FORMAT, "--api-key-file: %s holds no key", path);
    return status;
}

enum ds4_status policy_init(struct policy *p, const char *host, const char *key_file, bool no_auth,
                            const struct option_list *hosts, const struct option_list *origins,
                            struct ds4_error *error)
{
    *p = (struct policy){.loopback = net_is_loopback(host), .hosts = hosts, .origins = origins};
    if (key_file) TRY(read_keys(p, key_file, error));
    if (!p->loopback && !key_file && !no_auth)
        return err_set(error, DS4_ERR_STATE, "--host %s can be reached by other machines: give --api-key-file, or say "
                       "--no-auth if everybody who can reach it may use it", host);
    for (size_t i = 0; i < origins->n; i++) {
        /* Authorization by name: the star does not mean it. */
        int n = snprintf(p->origin_headers[i], sizeof p->origin_headers[i],
                         "Access-Control-Allow-Origin: %s\r\nVary: Origin\r\n"
                         "Access-Control-Allow-Methods: GET, POST, OPTIONS\r\n"
                         "Access-Control-Allow-Headers: Authorization, *\r\n"
                         "Access-Control-Expose-Headers: x-ds4-cache, Retry-After\r\n", origins->items[i]);
        if (n >= (int)sizeof p->origin_headers[i] || strpbrk(origins->items[i], "\r\n* "))
            return err_set(error, DS4_ERR_FORMAT, "--allow-origin takes one origin, as http://localhost:3000");
    }
    return DS4_OK;
}

/* The port, when there is one, is a number. */
static bool split_port(struct ds4_span host, struct ds4_span *name)
{
    size_t colon = SIZE_MAX;
    for (size_t i = host.len; i-- > 0 && host.ptr[i] != ']';)
        if (host.ptr[i] == ':') colon = i;
    uint64_t port;
    *name = colon == SIZE_MAX ? host : span_make(host.ptr, colon);
    if (colon == SIZE_MAX) return true;
    struct ds4_span digits = span_skip(host, colon + 1);
    return digits.len && digits.ptr[0] != '0' && options_parse_u64(digits, 1, 65535, &port);
}

/* Four decimal numbers in their shortest form, or anything in brackets: no name that a stranger's DNS could resolve. */
static bool is_address(struct ds4_span name)
{
    size_t n_numbers = 0, at = 0;
    if (name.len > 2 && name.ptr[0] == '[' && name.ptr[name.len - 1] == ']') return true;
    while (at <= name.len) {
        size_t dot = at;
        while (dot < name.len && name.ptr[dot] != '.') dot++;
        uint64_t number;
        struct ds4_span part = span_make(name.ptr + at, dot - at);
        if (part.len > 3 || (part.len > 1 && part.ptr[0] == '0') || !options_parse_u64(part, 0, 255, &number))
            return false;
        n_numbers++;
        at = dot + 1;
    }
    return n_numbers == 4;
}

bool policy_host_is_known(const struct policy *p, struct ds4_span host)
{
    static const char *const names[] = {"localhost", "127.0.0.1", "[::1]"};
    struct ds4_span name;
    for (size_t i = 0; i < p->hosts->n; i++)
        if (span_eq(host, span_from(p->hosts->items[i]))) return true;
    if (!split_port(host, &name)) return false;
    for (size_t i = 0; i < p->hosts->n; i++)
        if (span_eq(name, span_from(p->hosts->items[i]))) return true;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (span_eq(name, span_from(names[i]))) return true;
    return !p->loopback && is_address(name);
}

bool policy_key_is_known(const struct policy *p, struct ds4_span text)
{
    bool known = false;
    for (size_t i = 0; i < p->n_keys; i++) {
        size_t len = strlen(p->keys[i]);
        volatile unsigned difference = len != text.len;
        for (size_t k = 0; k < text.len && k < POLICY_KEY_BYTES_MAX; k++)
            difference |= (unsigned)(unsigned char)text.ptr[k] ^ (unsigned)(unsigned char)p->keys[i][k];
        known = known | (difference == 0);
    }
    return known;
}

static size_t origin_index(const struct policy *p, const struct http_request *r)
{
    for (size_t i = 0; i < p->origins->n; i++)
        if (span_eq(r->origin, span_from(p->origins->items[i]))) return i;
    return SIZE_MAX;
}

/* A page of this server itself: the browser names it as the origin, and the host that it was asked for beside it. That
 * the host is this server's is checked apart. */
static bool is_own_page(const struct http_request *r)
{
    struct ds4_span scheme = SPAN("http://");
    return r->host.ptr && span_starts(r->origin, scheme) && span_eq(span_skip(r->origin, scheme.len), r->host);
}

const char *policy_header(const struct policy *p, const struct http_request *r)
{
    size_t i = r->origin.ptr ? origin_index(p, r) : SIZE_MAX;
    return i == SIZE_MAX ? NULL : p->origin_headers[i];
}

static bool is_json(struct ds4_span type)
{
    size_t end = span_find(type, SPAN(";"), 0);
    if (end != SIZE_MAX) type.len = end;
    while (type.len && (type.ptr[type.len - 1] == ' ' || type.ptr[type.len - 1] == '\t')) type.len--;
    return gate_is_word(type, "application/json");
}

static bool has_key(const struct policy *p, const struct http_request *r)
{
    struct ds4_span bearer = r->authorization;
    if (bearer.ptr && bearer.len > 7 && gate_is_word(span_make(bearer.ptr, 7), "bearer "))
        return policy_key_is_known(p, span_skip(bearer, 7));
    return r->api_key.ptr && policy_key_is_known(p, r->api_key);
}

struct policy_verdict policy_check(const struct policy *p, const struct http_request *r, bool is_public)
{
    bool page_is_known = r->origin.ptr && origin_index(p, r) != SIZE_MAX;
    if (p->n_keys == 0 && !policy_host_is_known(p, r->host))
        return (struct policy_verdict){403, "the host asked for is none of this server's (--allow-host)"};
    if (r->origin.ptr && !page_is_known && !is_own_page(r))
        return (struct policy_verdict){403, "pages of this origin may not use the server (--allow-origin)"};
    if (r->fetch_site.ptr && !page_is_known && !gate_is_word(r->fetch_site, "same-origin") &&
        !gate_is_word(r->fetch_site, "none"))
        return (struct policy_verdict){403, "pages of another site may not use the server"};
    if (r->method == HTTP_POST && !is_json(r->content_type))
        return (struct policy_verdict){415, "the body must be application/json"};
    if (p->n_keys && !is_public && r->method != HTTP_OPTIONS && !has_key(p, r))
        return (struct policy_verdict){401, "the API key is missing or wrong"};
    return (struct policy_verdict){200, NULL};
}
