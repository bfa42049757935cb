/* test_serve_gate.c - what passes the gate of the server: heads, chunked bodies, hosts, keys and JSON. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <pcre2.h>
#include <stdio.h>

#include "base/rng.h"
#include "lib/test.h"
#include "serve/http/gate.h"
#include "serve/json.h"
#include "serve/policy.h"

#define BODY_MAX 1000
#define H "Host: localhost\r\n"
#define POST "POST /v1/messages HTTP/1.1\r\n" H
#define GET "GET / HTTP/1.1\r\n" H
#define ABS "GET http://localhost"

static int status_of(struct ds4_span bytes)
{
    struct http_request request;
    size_t scanned = 0, head_bytes;
    return gate_head(bytes, BODY_MAX, &scanned, &request, &head_bytes);
}

struct head {
    int status;
    const char *text;
};

static const struct head heads[] = {
    {200, GET "\r\n"}, {200, "GET /a?b=c HTTP/1.1\r\n" H "\r\n"}, {200, "HEAD / HTTP/1.1\r\n" H "\r\n"},
    {200, POST "Content-Length: 1000\r\n\r\n"}, {200, POST "Transfer-Encoding: chunked\r\n\r\n"},
    {200, POST "transfer-encoding: CHUNKED\r\n\r\n"}, {200, GET "X: a\tb\r\n\r\n"}, {200, GET "X:\r\n\r\n"},
    {200, POST "Content-Length: 0\r\nExpect: 100-continue\r\n\r\n"}, {200, "OPTIONS /x HTTP/1.1\r\n" H "\r\n"},
    {200, GET "X: \xC3\xA9\r\n\r\n"}, {200, GET "Content-Length: 0\r\n\r\n"},
    {0, "GET / HTTP/1.1\r\n" H}, {0, ""}, {0, "G"}, {0, GET "\r"},
    /* line ends and control bytes */
    {400, "GET / HTTP/1.1\nHost: localhost\n\n"}, {400, GET "X: a\n\r\n"}, {400, GET "X: a\rb\r\n\r\n"},
    {400, GET "\n"}, {400, "\r\n" GET "\r\n"}, {400, "\n" GET "\r\n"}, {400, "\r\n\r\n"}, {400, GET "X: \x01\r\n\r\n"},
    {400, GET "X: \x7F\r\n\r\n"}, {400, GET "X: \x1B[2J\r\n\r\n"}, {400, GET "X: \x0B\r\n\r\n"}, {400, "\x16\x03\x01"},
    {400, GET "X: a\r\r\n\r\n"}, {400, GET "\r\r\n"},
    /* request line */
    {400, "GET\r\n" H "\r\n"}, {400, "GET /\r\n" H "\r\n"}, {400, "GET  / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET / HTTP/1.1 \r\n" H "\r\n"}, {400, " GET / HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /  HTTP/1.1\r\n" H "\r\n"},
    {400, "GET\t/ HTTP/1.1\r\n" H "\r\n"}, {400, "GET / http/1.1\r\n" H "\r\n"}, {400, "GET / HTTP/11\r\n" H "\r\n"},
    {400, "GET / HTTP/1.\r\n" H "\r\n"}, {400, "GET / HTTPS/1.1\r\n" H "\r\n"}, {400, "G@T / HTTP/1.1\r\n" H "\r\n"},
    {400, " / HTTP/1.1\r\n" H "\r\n"}, {505, "GET / HTTP/2.0\r\n" H "\r\n"},
    {505, "GET / HTTP/1.2\r\n" H "\r\n"}, {505, "GET / HTTP/0.9\r\n" H "\r\n"}, {405, "PUT / HTTP/1.1\r\n" H "\r\n"},
    {501, "get / HTTP/1.1\r\n" H "\r\n"}, {501, "CONNECT a:1 HTTP/1.1\r\n" H "\r\n"},
    {501, "TRACE / HTTP/1.1\r\n" H "\r\n"}, {405, "DELETE / HTTP/1.1\r\n" H "\r\n"},
    {501, "PRI * HTTP/1.1\r\n" H "\r\n"},
    /* targets */
    {400, "GET localhost HTTP/1.1\r\n" H "\r\n"},
    {400, "OPTIONS * HTTP/1.1\r\n" H "\r\n"}, {400, "GET /a#b HTTP/1.1\r\n" H "\r\n"},
    {400, "GET /\xC3\xA9 HTTP/1.1\r\n" H "\r\n"}, {400, "GET /\ta HTTP/1.1\r\n" H "\r\n"},
    {400, "GET ?a HTTP/1.1\r\n" H "\r\n"}, {400, "GET \\ HTTP/1.1\r\n" H "\r\n"},
    /* absolute form */
    {200, ABS "/ HTTP/1.1\r\n" H "\r\n"}, {200, "GET HTTP://a:1/b?c HTTP/1.1\r\n" H "\r\n"},
    {200, ABS " HTTP/1.1\r\n" H "\r\n"}, {200, ABS "?a/b@c HTTP/1.1\r\n" H "\r\n"},
    {200, ABS "//x HTTP/1.0\r\n" H "\r\n"}, {405, "PUT http://localhost/ HTTP/1.1\r\n" H "\r\n"},
    {400, ABS "/ HTTP/1.1\r\n\r\n"}, {400, ABS "/ HTTP/1.1\r\nHost:\r\n\r\n"},
    {400, ABS "/ HTTP/1.1\r\n" H H "\r\n"}, {400, "GET http:/// HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http:// HTTP/1.1\r\n" H "\r\n"}, {400, "GET http:/a HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http://?a HTTP/1.1\r\n" H "\r\n"}, {400, ABS "/ HTTP/1.1 \r\n" H "\r\n"},
    {400, "GET http:localhost/ HTTP/1.1\r\n" H "\r\n"}, {400, "GET https://localhost/ HTTP/1.1\r\n" H "\r\n"},
    {400, "GET file:///etc HTTP/1.1\r\n" H "\r\n"}, {400, "GET http://a@localhost/ HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http://a:b@localhost HTTP/1.1\r\n" H "\r\n"}, {400, ABS "#a HTTP/1.1\r\n" H "\r\n"},
    {400, "GET http://h\xC3\xA9/ HTTP/1.1\r\n" H "\r\n"}, {400, "GET  http://a/ HTTP/1.1\r\n" H "\r\n"},
    /* Host */
    {200, "GET / HTTP/1.0\r\n" H "\r\n"}, {400, "GET / HTTP/1.0\r\n\r\n"}, {405, "PATCH / HTTP/1.1\r\n" H "\r\n"},
    {400, "POST / HTTP/1.0\r\n" H "Transfer-Encoding: chunked\r\n\r\n"}, {400, "PUT x HTTP/1.1\r\n" H "\r\n"},
    {200, POST "Content-Length: 1\r\nContent-Encoding: identity\r\n\r\n"},
    {415, POST "Content-Length: 1\r\nContent-Encoding: gzip\r\n\r\n"},
    {415, POST "Content-Length: 1\r\nContent-Encoding: identity, zstd\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\n\r\n"}, {400, GET "Host: localhost\r\n\r\n"}, {400, GET "host: other\r\n\r\n"},
    {400, "GET / HTTP/1.1\r\nHost:\r\n\r\n"}, {400, "GET / HTTP/1.1\r\nHost: \t \r\n\r\n"},
    /* headers */
    {400, GET "X : a\r\n\r\n"}, {400, GET " X: a\r\n\r\n"}, {400, GET "X: a\r\n b\r\n\r\n"},
    {400, GET "X: a\r\n\tb\r\n\r\n"},
    {400, GET "X\r\n\r\n"}, {400, GET ": a\r\n\r\n"}, {400, GET "X(: a\r\n\r\n"}, {400, GET "X\xC3: a\r\n\r\n"},
    {400, GET "X Y: a\r\n\r\n"}, {400, "GET / HTTP/1.1\r\n Host: localhost\r\n\r\n"},
    {400, GET "Origin: a\r\nOrigin: b\r\n\r\n"}, {400, GET "Authorization: a\r\nAuthorization: a\r\n\r\n"},
    {400, GET "X-Api-Key: a\r\nx-api-key: a\r\n\r\n"}, {400, POST "Content-Type: a\r\nContent-Type: b\r\n\r\n"},
    /* lengths and codings */
    {411, POST "\r\n"}, {400, POST "Content-Length:\r\n\r\n"}, {400, POST "Content-Length: -1\r\n\r\n"},
    {400, POST "Content-Length: +1\r\n\r\n"}, {400, POST "Content-Length: 0x1\r\n\r\n"},
    {400, POST "Content-Length: 1 1\r\n\r\n"}, {400, POST "Content-Length: 1,1\r\n\r\n"},
    {400, POST "Content-Length: 1.0\r\n\r\n"}, {400, POST "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"},
    {400, POST "Content-Length: 1\r\nContent-Length: 2\r\n\r\n"}, {400, POST "Content-Length: a\r\n\r\n"},
    {413, POST "Content-Length: 1001\r\n\r\n"}, {413, POST "Content-Length: 99999999999999999999\r\n\r\n"},
    {413, POST "Content-Length: 18446744073709551617\r\n\r\n"},
    {400, POST "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"},
    {400, POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
    {501, POST "Transfer-Encoding: gzip\r\n\r\n"}, {501, POST "Transfer-Encoding: gzip, chunked\r\n\r\n"},
    {501, POST "Transfer-Encoding: chunked, identity\r\n\r\n"}, {501, POST "Transfer-Encoding: xchunked\r\n\r\n"},
    {501, POST "Transfer-Encoding: \"chunked\"\r\n\r\n"}, {501, POST "Transfer-Encoding:\r\n\r\n"},
    {400, GET "Content-Length: 1\r\n\r\n"}, {400, GET "Transfer-Encoding: chunked\r\n\r\n"},
    {417, POST "Content-Length: 1\r\nExpect: 200-ok\r\n\r\n"},
};

TEST(each_malformed_head_is_refused_with_its_status)
{
    size_t n_refused = 0;
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        int status = status_of(span_from(heads[i].text));
        if (status != heads[i].status) print_error("%d, not %d: %s\n", status, heads[i].status, heads[i].text);
        assert_int_equal(status, heads[i].status);
        if (status >= 400) n_refused++;
    }
    assert_true(n_refused >= 80);
    assert_int_equal(status_of(SPAN("GET / HTTP/1.1\r\nHost: a\0b\r\n\r\n")), 400);
}

TEST(a_head_is_judged_the_same_however_it_is_cut)
{
    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        struct ds4_span whole = span_from(heads[i].text);
        struct http_request request;
        size_t scanned = 0, head_bytes;
        int status = GATE_MORE;
        for (size_t n = 0; n <= whole.len && status == GATE_MORE; n++)
            status = gate_head(span_make(whole.ptr, n), BODY_MAX, &scanned, &request, &head_bytes);
        assert_int_equal(status, heads[i].status);
    }
}

/* What an accepted head looks like, said by another reader: of these bytes and no others. Which headers may stand
 * together is not its business. */
static const char well_formed[] =
    "\\A(?:GET|HEAD|POST|OPTIONS) (?:/[!\"$-~]*|(?i:http)://[!\"$-.0->A-~]+(?:[/?][!\"$-~]*)?) HTTP/1"
    "\\.[01]\r\n(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t -~\\x80-\\xFF]*\r\n)+"
    "\r\n\\z";

/* A head of the list with one to three bytes changed, left out, doubled or put in. */
static void put_mutant(struct rng *rng, struct buf *out)
{
    static const char odd[] = "\r\n\t :/\0\x01\x7F\xC3\xA9,;0a\\\"\x0B";
    struct ds4_span from = span_from(heads[rng_below(rng, sizeof heads / sizeof heads[0])].text);
    uint64_t n_left = 1 + rng_below(rng, 3);
    for (size_t i = 0; i < from.len; i++) {
        bool here = n_left && rng_below(rng, from.len) < 3;
        uint64_t what = here ? rng_below(rng, 4) : 4;
        n_left -= here;
        if (what == 0) continue;
        if (what == 1 || what == 2) buf_put_byte(out, (unsigned char)odd[rng_below(rng, sizeof odd)]);
        if (what != 1) buf_put_byte(out, (unsigned char)from.ptr[i]);
        if (what == 3) buf_put_byte(out, (unsigned char)from.ptr[i]);
    }
}

TEST(heads_changed_at_random_are_judged_alike_however_cut_and_none_is_accepted_that_is_malformed)
{
    struct rng rng = {.state = test_seed()};
    int code;
    PCRE2_SIZE at;
    size_t n_accepted = 0;
    pcre2_code *pattern = pcre2_compile((PCRE2_SPTR)well_formed, PCRE2_ZERO_TERMINATED, 0, &code, &at, NULL);
    pcre2_match_data *match = pcre2_match_data_create(1, NULL);
    assert_non_null(pattern);
    for (int i = 0; i < 10000; i++) {
        struct buf head = {0};
        put_mutant(&rng, &head);
        struct ds4_span whole = buf_span(&head);
        struct http_request request;
        size_t scanned = 0, head_bytes = 0;
        int status = status_of(whole), piecewise = GATE_MORE;
        for (size_t n = 0; piecewise == GATE_MORE && n <= whole.len; n += 1 + rng_below(&rng, 30))
            piecewise = gate_head(span_make(whole.ptr, n), BODY_MAX, &scanned, &request, &head_bytes);
        if (piecewise == GATE_MORE) piecewise = gate_head(whole, BODY_MAX, &scanned, &request, &head_bytes);
        if (piecewise != status) fail_msg("%d whole, %d in pieces: %.*s", status, piecewise, (int)whole.len, whole.ptr);
        bool well = status == 200 && pcre2_match(pattern, (PCRE2_SPTR)whole.ptr, head_bytes, 0, 0, match, NULL) > 0;
        if (status == 200 && !well) fail_msg("accepted: %.*s", (int)whole.len, whole.ptr);
        n_accepted += well;
        buf_deinit(&head);
    }
    assert_in_range(n_accepted, 100, 5000);
    pcre2_match_data_free(match);
    pcre2_code_free(pattern);
}

TEST(a_target_in_absolute_form_names_the_host_and_one_that_is_a_path_does_not)
{
    static const struct {
        const char *target, *host, *path;
    } wanted[] = {{"http://evil.com/a?b", "evil.com", "/a"}, {"http://127.0.0.1:8000", "127.0.0.1:8000", "/"},
                  {"hTTp://[::1]:80?/a", "[::1]:80", "/"}, {"http://a//b", "a", "//b"}, {"/http://a/b", "localhost",
                  "/http://a/b"}, {"//evil.com/a", "localhost", "//evil.com/a"}, {"/?http://a/", "localhost", "/"}};
    for (size_t i = 0; i < sizeof wanted / sizeof wanted[0]; i++) {
        struct buf head = {0};
        struct http_request request;
        size_t scanned = 0, head_bytes;
        buf_printf(&head, "GET %s HTTP/1.1\r\n" H "\r\n", wanted[i].target);
        assert_int_equal(gate_head(buf_span(&head), BODY_MAX, &scanned, &request, &head_bytes), 200);
        assert_true(span_eq(request.host, span_from(wanted[i].host)));
        assert_true(span_eq(request.path, span_from(wanted[i].path)));
        buf_deinit(&head);
    }
}

static int status_of_long(size_t target, size_t n_headers, size_t header)
{
    struct buf b = {0};
    buf_put_text(&b, "GET /");
    for (size_t i = 1; i < target; i++) buf_put_byte(&b, 'a');
    buf_put_text(&b, " HTTP/1.1\r\n" H);
    for (size_t i = 1; i < n_headers; i++) buf_put_text(&b, "X: a\r\n");
    if (header) buf_put_text(&b, "Y: ");
    for (size_t i = 0; i < header; i++) buf_put_byte(&b, 'a');
    buf_put_text(&b, header ? "\r\n\r\n" : "\r\n");
    int status = status_of(buf_span(&b));
    buf_deinit(&b);
    return status;
}

TEST(limits_of_a_head_hold_at_the_limit_and_not_above)
{
    assert_int_equal(status_of_long(GATE_TARGET_BYTES_MAX, 1, 0), 200);
    assert_int_equal(status_of_long(GATE_TARGET_BYTES_MAX + 1, 1, 0), 414);
    assert_int_equal(status_of_long(1, GATE_HEADERS_MAX, 0), 200);
    assert_int_equal(status_of_long(1, GATE_HEADERS_MAX + 1, 0), 431);
    assert_int_equal(status_of_long(1, 1, 32000), 200);
    assert_int_equal(status_of_long(1, 1, GATE_HEAD_BYTES_MAX), 431);
}

static int chunked(const char *text, size_t step, struct buf *body)
{
    struct gate_chunks chunks = {0};
    struct ds4_span rest = span_from(text);
    int status = GATE_MORE;
    buf_clear(body);
    while (rest.len && status == GATE_MORE) {
        size_t taken;
        struct ds4_span part = span_make(rest.ptr, rest.len < step ? rest.len : step);
        status = gate_chunks_feed(&chunks, part, BODY_MAX, body, &taken);
        rest = span_skip(rest, taken);
    }
    return status;
}

TEST(chunked_bodies_are_decoded_strictly_however_they_are_cut)
{
    static const struct head bodies[] = {
        {200, "3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"}, {200, "0\r\n\r\n"}, {200, "00003\r\nabc\r\n0\r\n\r\n"},
        {0, "3\r\nab"},
        {0, "0\r\n"}, {400, "3\nabc\n0\n\n"}, {400, "3\r\nabcd\r\n0\r\n\r\n"}, {400, "x\r\n"}, {400, "\r\n"},
        {400, "0\r\nX: a\r\n\r\n"}, {400, " 3\r\nabc\r\n"}, {400, "-1\r\n"},
        {400, "000000001\r\na\r\n"}, {400, "3 \r\nabc\r\n"}, {400, "0x3\r\nabc\r\n"}, {413, "3e9\r\n" "a"},
        {413, "ffffffff\r\na"},
        /* extensions */
        {200, "3;a=b\r\nabc\r\n2 \t; c = \"d;\\\"e\"\r\nde\r\n0;f\r\n\r\n"},
        {200, "3;\xC3\xA9\tx\r\nabc\r\n2;;\r\nde\r\n0;\r\n\r\n"},
        {0, "3;a=b"}, {400, "3;a\nabc\r\n0\r\n\r\n"}, {400, "3;a\rb\r\nabc\r\n0\r\n\r\n"},
        {400, "3;\"a\r\nb\"\r\nabc\r\n0\r\n\r\n"}, {400, "3;\x01\r\nabc\r\n"}, {400, "3;\x7F\r\nabc\r\n"},
        {400, ";a\r\n"}, {400, "3 a\r\nabc\r\n"}, {400, "3 3;a\r\nabc\r\n"}, {400, "3\t\r\nabc\r\n"},
        {400, "3a=b\r\nabc\r\n"}, {413, "3e9;a\r\n" "a"}};
    struct buf body = {0};
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        for (size_t step = 1; step < 20; step += 6)
            assert_int_equal(chunked(bodies[i].text, step, &body), bodies[i].status);
    for (size_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++)
        if (strstr(bodies[i].text, "abc\r\n2")) {
            assert_int_equal(chunked(bodies[i].text, 4, &body), 200);
            assert_true(span_eq(buf_span(&body), SPAN("abcde")));
        }
    buf_deinit(&body);
}

/* Of n chunks, each with an extension of some bytes. */
static int status_of_extensions(size_t n, size_t bytes, struct buf *body)
{
    struct buf text = {0};
    for (size_t i = 0; i < n; i++) {
        buf_put_text(&text, "1;");
        for (size_t k = 1; k < bytes; k++) buf_put_byte(&text, 'a');
        buf_put_text(&text, "\r\nx\r\n");
    }
    buf_put_text(&text, "0\r\n\r\n");
    buf_put_byte(&text, 0);
    int status = chunked(text.text.ptr, 1000, body);
    buf_deinit(&text);
    return status;
}

TEST(extensions_of_all_chunks_together_are_limited)
{
    struct buf body = {0};
    assert_int_equal(status_of_extensions(1, GATE_EXTENSIONS_BYTES_MAX, &body), 200);
    assert_int_equal(status_of_extensions(1, GATE_EXTENSIONS_BYTES_MAX + 1, &body), 431);
    assert_int_equal(status_of_extensions(64, GATE_EXTENSIONS_BYTES_MAX / 64, &body), 200);
    assert_int_equal(body.text.len, 64);
    assert_int_equal(status_of_extensions(65, GATE_EXTENSIONS_BYTES_MAX / 64, &body), 431);
    buf_deinit(&body);
}

TEST(only_the_names_of_this_machine_are_known_hosts)
{
    static const char *const known[] = {"localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:1", "[::1]", "[::1]:80"};
    static const char *const unknown[] = {
        "evil.com", "localhost.", "LOCALHOST", "localhost.evil.com", "127.0.0.1.nip.io", "x.127.0.0.1", "2130706433",
        "0x7f000001", "0x7f.1", "127.1", "127.0.1", "0177.0.0.1", "127.0.0.1.", "127.0.0.01", "localhost:",
        "localhost:0",
        "localhost:65536", "localhost:80:80", "localhost:8a", "localhost@evil.com", "evil.com:8000", "[::1%25lo]",
        "::1", "[::ffff:127.0.0.1]", "0.0.0.0", "192.168.1.2", " localhost", "localhost/", "[::1]x", "127.0.0.2"};
    struct option_list none = {0};
    static struct policy p;
    p = (struct policy){.loopback = true, .hosts = &none, .origins = &none};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        assert_true(policy_host_is_known(&p, span_from(known[i])));
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        if (policy_host_is_known(&p, span_from(unknown[i]))) fail_msg("%s is taken for this machine", unknown[i]);
    p.loopback = false;
    assert_true(policy_host_is_known(&p, SPAN("192.168.1.2:8000")));
    assert_false(policy_host_is_known(&p, SPAN("rebind.evil.com:8000")));
}

TEST(keys_are_known_only_whole)
{
    struct option_list none = {0};
    static struct policy p = {.keys = {"secret-one", "two"}, .n_keys = 2};
    p.hosts = p.origins = &none;
    assert_true(policy_key_is_known(&p, SPAN("secret-one")));
    assert_true(policy_key_is_known(&p, SPAN("two")));
    static const char *const wrong[] = {"", "t", "tw", "twoo", "Two", "secret-on", "ecret-one", "secret-one ", "one"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(policy_key_is_known(&p, span_from(wrong[i])));
    assert_false(policy_key_is_known(&p, SPAN("two\0")));
    struct http_request r = {.method = HTTP_POST, .host = SPAN("anything"), .content_type = SPAN("application/json")};
    assert_int_equal(policy_check(&p, &r, false).status, 401);
    r.authorization = SPAN("Bearer two");
    assert_int_equal(policy_check(&p, &r, false).status, 200);
    r.fetch_site = SPAN("cross-site");
    assert_int_equal(policy_check(&p, &r, false).status, 403);
    r.fetch_site = SPAN("same-origin");
    r.origin = SPAN("null");
    assert_int_equal(policy_check(&p, &r, false).status, 403);
}

TEST(the_page_of_the_server_itself_may_ask_and_no_page_like_it)
{
    static const char *const foreign[] = {"http://127.0.0.1", "http://127.0.0.1:8001", "https://127.0.0.1:8000",
        "http://localhost:8000", "http://127.0.0.1:80000", "http://127.0.0.1:8000/", "http://127.0.0.1:8000.evil.com",
        "127.0.0.1:8000", "HTTP://127.0.0.1:8000", "null", "", "http://", "http://evil.com:8000"};
    struct option_list none = {0};
    static struct policy p;
    p = (struct policy){.loopback = true, .hosts = &none, .origins = &none};
    struct http_request r = {.method = HTTP_POST, .host = SPAN("127.0.0.1:8000"),
                             .origin = SPAN("http://127.0.0.1:8000"), .fetch_site = SPAN("same-origin"),
                             .content_type = SPAN("application/json")};
    assert_int_equal(policy_check(&p, &r, false).status, 200);
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        r.origin = span_from(foreign[i]);
        if (policy_check(&p, &r, false).status != 403) fail_msg("%s is taken for the page itself", foreign[i]);
    }
    r.host = SPAN("evil.com:8000"); /* a foreign name that leads here */
    r.origin = SPAN("http://evil.com:8000");
    assert_int_equal(policy_check(&p, &r, false).status, 403);
}

/* jansson is the judge. It takes no NUL in names and no lone surrogates; those inputs are left out. */
static void compare_with_jansson(struct ds4_span text)
{
    struct arena arena;
    const struct jv *v;
    struct ds4_error error = {0};
    json_error_t why;
    arena_init(&arena, 1u << 20);
    json_t *judge = json_loadb(text.ptr, text.len, JSON_DECODE_ANY | JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL, &why);
    bool excused = !judge && (json_error_code(&why) == json_error_null_byte_in_key ||
                              json_error_code(&why) == json_error_numeric_overflow || strstr(why.text, "Unicode"));
    bool mine = jv_parse(&arena, text, &v, &error) == DS4_OK;
    if (!excused && mine != (judge != NULL))
        fail_msg("%.*s: %s", (int)text.len, text.ptr, mine ? why.text : error.message);
    if (judge && mine) {
        assert_int_equal(json_is_object(judge), v->kind == JV_OBJECT);
        if (json_is_array(judge)) assert_int_equal(json_array_size(judge), v->n);
        if (json_is_string(judge))
            assert_true(span_eq(v->text, span_make(json_string_value(judge), json_string_length(judge))));
    }
    json_decref(judge);
    arena_deinit(&arena);
}

TEST(json_is_taken_and_refused_as_another_reader_does)
{
    static const char *const seeds[] = {
        "{\"a\":[1,-2.5e+3,true,false,null,\"x\\n\\u00e9\\ud83d\\ude00\"],\"b\":{}}", "[[],[{}],\"\"]",
        "\"\\\"\\\\/\\b\"",
        " [ 1 , 2 ] ", "-0", "0.5", "1e5", "[1,]", "{\"a\":1,}", "01", "1.", ".5", "+1", "nul", "\"\t\"", "{\"a\" 1}",
        "[1 2]", "", "]", "{]", "\"\xff\"", "[\"\xC3\xA9\"]", "1 2", "{\"a\":1,\"a\":2}", "\"\\x\"", "tru", "[-]"};
    struct rng rng = {.state = test_seed()};
    for (size_t i = 0; i < sizeof seeds / sizeof seeds[0]; i++) compare_with_jansson(span_from(seeds[i]));
    for (size_t round = 0; round < 20000; round++) {
        char text[128];
        const char *seed = seeds[rng_next(&rng) % 6];
        size_t n = strlen(seed), n_changes = 1 + rng_next(&rng) % 3;
        memcpy(text, seed, n);
        for (size_t k = 0; k < n_changes; k++)
            text[rng_next(&rng) % n] = "[]{},:\"\\ 01.e-untfalsu9d\x80\x01"[rng_next(&rng) % 26];
        compare_with_jansson(span_make(text, n - rng_next(&rng) % 2));
    }
}

TEST(json_keeps_numbers_as_written_and_stops_at_its_depth)
{
    struct arena arena;
    const struct jv *v;
    struct ds4_error error = {0};
    char deep[2 * (JSON_DEPTH_MAX + 1)];
    arena_init(&arena, 1u << 20);
    assert_ok(jv_parse(&arena,
                       SPAN("{\"n\": 1.10e0, \"n\": 9007199254740993 , \"s\": \"\\ud800x\"}"), &v, &error), error);
    assert_true(span_eq(jv_get(v, "n")->raw, SPAN("9007199254740993")));
    assert_true(span_eq(jv_text(jv_get(v, "s")), SPAN("\xEF\xBF\xBDx")));
    memset(deep, '[', JSON_DEPTH_MAX + 1);
    memset(deep + JSON_DEPTH_MAX + 1, ']', JSON_DEPTH_MAX + 1);
    assert_ok(jv_parse(&arena, span_make(deep + 1, 2 * JSON_DEPTH_MAX), &v, &error), error);
    assert_status(jv_parse(&arena, span_make(deep, sizeof deep), &v, &error), DS4_ERR_LIMIT, error);
    arena_deinit(&arena);
}

int main(void)
{
    return RUN_TESTS(T(each_malformed_head_is_refused_with_its_status), T(a_head_is_judged_the_same_however_it_is_cut),
                     T(heads_changed_at_random_are_judged_alike_however_cut_and_none_is_accepted_that_is_malformed),
                     T(a_target_in_absolute_form_names_the_host_and_one_that_is_a_path_does_not),
                     T(limits_of_a_head_hold_at_the_limit_and_not_above),
                     T(chunked_bodies_are_decoded_strictly_however_they_are_cut),
                     T(extensions_of_all_chunks_together_are_limited),
                     T(only_the_names_of_this_machine_are_known_hosts), T(keys_are_known_only_whole),
                     T(the_page_of_the_server_itself_may_ask_and_no_page_like_it),
                     T(json_is_taken_and_refused_as_another_reader_does),
                     T(json_keeps_numbers_as_written_and_stops_at_its_depth));
}
