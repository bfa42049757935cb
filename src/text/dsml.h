/* dsml.h - the markup of tool calls, byte by byte.
 *
 * What a model writes, here in the first dialect (| stands for U+FF5C):
 *   <|DSML|tool_calls>
 *   <|DSML|invoke name="NAME">
 *   <|DSML|parameter name="KEY" string="true">raw text</|DSML|parameter>
 *   <|DSML|parameter name="KEY" string="false">{"json": 1}</|DSML|parameter>
 *   </|DSML|invoke>
 *   </|DSML|tool_calls>
 * The scanner takes the bytes behind the opener one at a time, so its result cannot depend on how they were split. It
 * is tolerant: five dialects of the tags, any white space between elements, a missing `string` attribute (a string, or
 * an object when the value begins with a parameter), JSON that is none (a string). Arguments come out as the text of a
 * JSON object in growing fragments. A name that comes twice stays twice in that text; readers of JSON take the last. */
#ifndef DS4_TEXT_DSML_H
#define DS4_TEXT_DSML_H

#include "base/buf.h"

#define DSML_TAG_BYTES_MAX 1024u /* one tag with its attributes */
#define DSML_DEPTH_MAX 16        /* parameters inside parameters */
#define DSML_N_DIALECTS 5
#define DSML_TAG_TEXT_MAX 48     /* "&lt;/", the longest prefix, the longest name, ">" */

enum dsml_match { DSML_NO_MATCH, DSML_PREFIX, DSML_WHOLE };

/* Compares with the openers of all dialects; *dialect is set for DSML_WHOLE. candidate is not empty. */
enum dsml_match dsml_match_opener(struct ds4_span candidate, int *dialect);
/* "<" and the dialect-free beginning of an opener that only markup has: true from there on. */
bool dsml_is_marked(struct ds4_span candidate);

/* Name of the block of calls in a dialect: what stands in its opener. */
struct ds4_span dsml_block_name(int dialect);
/* start, the prefix of the dialect's tags, name, end; in out. */
struct ds4_span dsml_tag_text(int dialect, const char *start, struct ds4_span name, const char *end,
                              char out[DSML_TAG_TEXT_MAX]);

enum dsml_result { DSML_MORE, DSML_DONE, DSML_BROKEN };

/* All may be NULL. The bytes borrow until the function returns. */
struct dsml_sink {
    void *user;
    void (*begin)(void *user, struct ds4_span name);
    void (*args)(void *user, const char *bytes, size_t n);
    void (*end)(void *user);
};

struct dsml_range {
    size_t start, end; /* offsets behind the opener */
};

enum dsml_state {
    DSML_IN_BLOCK, DSML_IN_INVOKE, DSML_IN_NESTED, /* between elements */
    DSML_IN_TAG,
    DSML_IN_STRING, DSML_IN_JSON, DSML_IN_UNKNOWN  /* inside a value */
};

struct dsml {
    struct dsml_sink sink;
    bool entities;            /* in strings: the five entities, not only the escaped closing tag */
    bool wants_ranges;
    int dialect;
    enum dsml_state state, outside; /* outside: the state that the tag was met in */
    size_t at;                /* bytes taken */
    size_t tag_start;
    bool in_quotes;           /* of a tag */
    bool in_json_string, json_escape;
    unsigned depth;           /* objects open: 0 outside a call */
    bool has_member[DSML_DEPTH_MAX + 1];
    uint32_t n_calls;         /* begun */
    struct buf tag;           /* the tag so far */
    struct buf held;          /* bytes of a value that may be its closing tag or an escape */
    struct buf value;         /* a JSON value so far */
    struct dsml_range *ranges; /* attribute and parameter values: what is not syntax */
    size_t n_ranges, cap_ranges;
    size_t value_start;
    size_t broken_at;         /* with DSML_BROKEN: text from here on may be read anew */
    bool failed;              /* out of memory */
};

void dsml_begin(struct dsml *d, int dialect, struct dsml_sink sink, bool entities);
void dsml_deinit(struct dsml *d);
/* Takes the next byte of valid UTF-8. After DONE or BROKEN only dsml_deinit follows. */
enum dsml_result dsml_byte(struct dsml *d, char byte);
/* True where the text is free: inside a string value or a string of a JSON value, and not in what looks like its end.
 * */
bool dsml_in_free_text(const struct dsml *d);

#endif
