/* page.c - see page.h.
 *
 * The policy of content (CSP 3) allows the one style and the one script of the page, named by their SHA-256, and
 * requests to this server; no code from strings, no frames around it, no forms out of it. With trusted types asked for
 * and none defined, a browser that knows them refuses to make markup of any string. */
#include "serve/page/page.h"

#include "base/sha256.h"

#if defined(__APPLE__)
#define SECTION ".section __TEXT,__const\n"
#define SYMBOL "_"
#else
#define SECTION ".section .rodata\n"
#define SYMBOL ""
#endif
/* The bytes of files of this folder, one after the other: name_begin to name_end. */
#define EMBED(name, files) \
    __asm__(SECTION ".globl " SYMBOL #name "_begin\n" SYMBOL #name "_begin:\n" files ".globl " SYMBOL #name "_end\n" \
            SYMBOL #name "_end:\n.byte 0\n.text\n"); \
    extern const char name##_begin[], name##_end[]
#define FILE_BYTES(path) ".incbin \"src/serve/page/" path "\"\n"

EMBED(page_html, FILE_BYTES("page.html"));
EMBED(page_style, FILE_BYTES("page.css"));
EMBED(page_script, FILE_BYTES("text.js") FILE_BYTES("chats.js") FILE_BYTES("wire.js") FILE_BYTES("view.js")
                   FILE_BYTES("page.js"));

static struct ds4_span between(const char *begin, const char *end) { return span_make(begin, (size_t)(end - begin)); }

/* text with what stands for a part replaced by it. */
static void put_filled(struct buf *out, struct ds4_span text, struct ds4_span mark, struct ds4_span part)
{
    size_t at = span_find(text, mark, 0);
    ensure(at != SIZE_MAX);
    buf_put(out, text.ptr, at);
    buf_put_span(out, part);
    buf_put_span(out, span_skip(text, at + mark.len));
}

/* 'sha256-...' in base64 (RFC 4648). */
static void put_source(struct buf *out, struct ds4_span part)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint8_t digest[SHA256_BYTES + 1] = {0};
    sha256_bytes(part.ptr, part.len, digest);
    buf_put_text(out, "'sha256-");
    for (size_t i = 0; i < SHA256_BYTES; i += 3) {
        unsigned three = (unsigned)digest[i] << 16 | (unsigned)digest[i + 1] << 8 | digest[i + 2];
        for (unsigned shift = 24; shift > 0; shift -= 6)
            if (i + (24 - shift) / 6 <= SHA256_BYTES)
                buf_put_byte(out, (unsigned char)digits[three >> (shift - 6) & 63]);
    }
    buf_put_text(out, "='");
}

static void put_headers(struct buf *out, struct ds4_span style, struct ds4_span script)
{
    buf_put_text(out, "Content-Security-Policy: default-src 'none'; script-src ");
    put_source(out, script);
    buf_put_text(out, "; style-src ");
    put_source(out, style);
    buf_put_text(out, "; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; "
                 "frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'\r\n"
                 "X-Frame-Options: DENY\r\nReferrer-Policy: no-referrer\r\n"
                 "Cross-Origin-Opener-Policy: same-origin\r\nCross-Origin-Resource-Policy: same-origin\r\n"
                 "Permissions-Policy: camera=(), geolocation=(), microphone=()\r\n");
    buf_put_byte(out, 0);
}

enum ds4_status page_init(struct page *p, struct ds4_error *error)
{
    struct ds4_span style = between(page_style_begin, page_style_end);
    struct ds4_span script = between(page_script_begin, page_script_end);
    struct buf styled = {0};
    *p = (struct page){0};
    put_filled(&styled, between(page_html_begin, page_html_end), SPAN("<!--STYLE-->"), style);
    if (!styled.failed) put_filled(&p->html, buf_span(&styled), SPAN("<!--SCRIPT-->"), script);
    put_headers(&p->headers, style, script);
    enum ds4_status status = buf_status(&styled, error);
    if (status == DS4_OK) status = buf_status(&p->html, error);
    if (status == DS4_OK) status = buf_status(&p->headers, error);
    buf_deinit(&styled);
    if (status != DS4_OK) page_deinit(p);
    return status;
}

void page_deinit(struct page *p)
{
    buf_deinit(&p->html);
    buf_deinit(&p->headers);
}
