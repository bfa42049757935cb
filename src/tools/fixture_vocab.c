/* fixture_vocab.c - vocabularies for generated models.
 *
 * The small one has the shape of the real one: three specials, the 256 bytes in the order of the printable alphabet,
 * then merge number i making token 259 + i, the special tokens at the end. Its merges spell frequent English and
 * JSON, then pairs and triples of letters, as many as there is room for. */
#include <stdio.h>

#include "base/file.h"
#include "base/span.h"
#include "text/byte_alphabet.h"
#include "tools/fixture_plan.h"

#define BAR "\xEF\xBD\x9C"  /* U+FF5C */
#define LOW "\xE2\x96\x81"  /* U+2581 */
#define COMPACT_BYTES_MAX (16u << 20)
#define N_FIRST 3u
#define N_BASE 259u         /* first specials and bytes */

static const char *const first_specials[N_FIRST] = {
    "<" BAR "begin" LOW "of" LOW "sentence" BAR ">",
    "<" BAR "end" LOW "of" LOW "sentence" BAR ">",
    "<" BAR LOW "pad" LOW BAR ">",
};

static const char *const last_specials[] = {
    "<" BAR "User" BAR ">", "<" BAR "Assistant" BAR ">", "<think>", "</think>", BAR "DSML" BAR,
    "<" BAR "latest_reminder" BAR ">", "<" BAR "action" BAR ">", "<" BAR "query" BAR ">", "<" BAR "authority" BAR ">",
    "<" BAR "domain" BAR ">", "<" BAR "title" BAR ">", "<" BAR "read_url" BAR ">",
    "<" BAR "place" LOW "holder" LOW "no" LOW "0" BAR ">",
};
#define N_LAST (sizeof last_specials / sizeof *last_specials)

/* In order of rank; each is the sum of two tokens that stand before it or are bytes. '_' is a space here. */
static const char fragments[] =
    "th he in er an re on at en nd st es or te of ed is it al ar nt to ng se ha as ou io le ve co me de hi ri ro ic ne "
    "ea ra ce li ch ll be ma si om ur _t _a _s _w _c _h _o _b _f _p _m _d _i _l _n _r _e _g _y _u _k _T _A _S _W _I "
    "_the _an _and _of _to _in _is _it _th _that _wh _for _on _as _be _re _you _wi _with _he _was _at _by _or _not "
    "_no _can _se _co _con _me _de _do _st _su _pr _pro _ex _un _al _le _la _ne _ha _have _we _this _from _fr _are "
    "_so _if _my _go _all _but _one _out _up _what _will _say _there _their _they _time _know _new _now _how _like "
    "ing ion tion ent and the ess ate ers est ter ver ere all ight ould able ment ness ity ive ous ally ect ted ack "
    "ake ame ore ine ice ide ill ish ist ome one ook ort out own _The _An _It _He _In _You _We _This _What \\n\\n "
    "{\" \": \", \"} () [] == -- __ .. ... :// ); (\" \")";

struct builder {
    struct fixture_vocab *vocab;
    uint16_t spelled[256]; /* code point of a byte */
    uint32_t n, merges_end; /* tokens so far; where the merges must stop */
    bool failed;
};

static struct ds4_span copy(struct builder *b, const char *bytes, size_t n)
{
    struct ds4_span s = arena_copy(&b->vocab->arena, span_make(bytes, n));
    if (!s.ptr) b->failed = true;
    return s;
}

static void add_token(struct builder *b, struct ds4_span token, int32_t type)
{
    b->vocab->tokens[b->n] = token;
    b->vocab->types[b->n++] = type;
}

static void add_bytes(struct builder *b)
{
    for (int pass = 0; pass < 2; pass++)
        for (unsigned byte = 0; byte < 256; byte++) {
            bool itself = b->spelled[byte] == byte;
            if (itself != (pass == 0)) continue;
            char text[4];
            add_token(b, copy(b, text, utf8_put(b->spelled[byte], text)), 1);
        }
}

/* True when text is a token; quadratic, for a few thousand tokens. */
static bool is_token(const struct builder *b, struct ds4_span text)
{
    for (uint32_t i = N_FIRST; i < b->n; i++)
        if (span_eq(b->vocab->tokens[i], text)) return true;
    return false;
}

/* Adds the token text (in the printable alphabet) with a merge of the longest left part that makes it. */
static void add_merge(struct builder *b, struct ds4_span text)
{
    if (b->n >= b->merges_end || is_token(b, text)) return;
    for (size_t cut = text.len; cut-- > 1;) {
        if (!is_token(b, span_make(text.ptr, cut)) || !is_token(b, span_skip(text, cut))) continue;
        char line[64];
        int n = snprintf(line, sizeof line, "%.*s %.*s", (int)cut, text.ptr, (int)(text.len - cut), text.ptr + cut);
        if (n < 0 || (size_t)n >= sizeof line) return;
        b->vocab->merges[b->vocab->n_merges++] = copy(b, line, (size_t)n);
        add_token(b, copy(b, text.ptr, text.len), 1);
        return;
    }
}

static void add_fragments(struct builder *b)
{
    for (const char *at = fragments; *at;) {
        char text[32];
        size_t n = 0;
        for (; *at && *at != ' '; at++) {
            unsigned byte = (unsigned char)*at;
            bool newline = byte == '\\' && at[1] == 'n';
            if (newline) at++;
            n += utf8_put(b->spelled[newline ? '\n' : byte == '_' ? ' ' : byte], text + n);
        }
        while (*at == ' ') at++;
        add_merge(b, span_make(text, n));
    }
}

static void add_letters(struct builder *b)
{
    char text[3];
    for (int i = 0; i < 26 * 26; i++) {
        text[0] = (char)('a' + i / 26);
        text[1] = (char)('a' + i % 26);
        add_merge(b, span_make(text, 2));
    }
    for (int i = 0; i < 26 * 26 * 26 && b->n < b->merges_end; i++) {
        text[0] = (char)('a' + i / 676);
        text[1] = (char)('a' + i / 26 % 26);
        text[2] = (char)('a' + i % 26);
        add_merge(b, span_make(text, 3));
    }
}

static bool vocab_alloc(struct fixture_vocab *vocab, uint32_t n_tokens, uint32_t n_merges_max)
{
    arena_init(&vocab->arena, 0);
    vocab->tokens = arena_alloc(&vocab->arena, n_tokens, sizeof *vocab->tokens);
    vocab->types = arena_alloc(&vocab->arena, n_tokens, sizeof *vocab->types);
    vocab->merges = arena_alloc(&vocab->arena, n_merges_max, sizeof *vocab->merges);
    vocab->n_tokens = n_tokens;
    return vocab->tokens && vocab->types && vocab->merges;
}

enum ds4_status fixture_vocab_small(struct fixture_vocab *vocab, uint32_t n, struct ds4_error *error)
{
    if (n < N_BASE + N_LAST)
        return err_set(error, DS4_ERR_FORMAT, "a vocabulary has at least %u tokens", (unsigned)(N_BASE + N_LAST));
    struct builder b = {.vocab = vocab, .merges_end = n - (uint32_t)N_LAST};
    if (!vocab_alloc(vocab, n, n)) return err_set(error, DS4_ERR_NOMEM, "out of memory for %u tokens", n);
    int16_t spells[BYTE_ALPHABET_SIZE];
    byte_alphabet_fill(b.spelled, spells);
    for (uint32_t i = 0; i < N_FIRST; i++) add_token(&b, span_from(first_specials[i]), 3);
    add_bytes(&b);
    add_fragments(&b);
    add_letters(&b);
    while (b.n < b.merges_end) {
        char text[24];
        int len = snprintf(text, sizeof text, "[PAD%u]", b.n);
        add_token(&b, copy(&b, text, (size_t)len), 5);
    }
    for (size_t i = 0; i < N_LAST; i++) add_token(&b, span_from(last_specials[i]), 4);
    return b.failed ? err_set(error, DS4_ERR_NOMEM, "out of memory for %u tokens", n) : DS4_OK;
}

enum ds4_status fixture_vocab_full(struct fixture_vocab *vocab, const char *merges_path, const char *added_path,
                                   struct ds4_error *error)
{
    struct ds4_text merges = {0}, added = {0};
    enum ds4_status status;
    TRY_GOTO(file_read_all(merges_path, COMPACT_BYTES_MAX, &merges, error), out);
    if (span_starts(span_make(merges.ptr, merges.len), SPAN("\xFD" "7zXZ"))) {
        status = err_set(error, DS4_ERR_FORMAT, "%s is compressed: xz -dc %s | ds4 fixture ... --merges -", merges_path,
                         merges_path);
        goto out;
    }
    TRY_GOTO(file_read_all(added_path, COMPACT_BYTES_MAX, &added, error), out);
    TRY_GOTO(compact_init(&vocab->full, span_make(merges.ptr, merges.len), span_make(added.ptr, added.len),
                          error), out);
    vocab->tokens = vocab->full.tokens;
    vocab->types = vocab->full.types;
    vocab->merges = vocab->full.merges;
    vocab->n_tokens = (uint32_t)vocab->full.n_tokens;
    vocab->n_merges = (uint32_t)vocab->full.n_merges;
out:
    ds4_text_free(&merges);
    ds4_text_free(&added);
    return status;
}

void fixture_vocab_deinit(struct fixture_vocab *vocab)
{
    arena_deinit(&vocab->arena);
    compact_deinit(&vocab->full);
    *vocab = (struct fixture_vocab){0};
}
