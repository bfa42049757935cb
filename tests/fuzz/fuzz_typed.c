/* fuzz_typed.c - what a person types: a command line against a table with every kind of option, a line of the chat,
 * and any bytes on their way to a terminal. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/options.h"
#include "base/term.h"
#include "base/utf8.h"
#include "chat/slash.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ARGS_MAX 64

struct values {
    bool flag;
    int set, choice;
    const char *text, *operand;
    struct option_list list, operands;
    uint32_t u32;
    uint64_t u64, bytes;
    float f32;
};

static const struct option rows[] = {
    {.name = "OPERAND", .type = OPTION_OPERAND, .offset = offsetof(struct values, operand), .help = "x"},
    {.name = "OPERANDS", .type = OPTION_OPERANDS, .offset = offsetof(struct values, operands), .help = "x"},
    {.letter = 'f', .name = "flag", .type = OPTION_FLAG, .offset = offsetof(struct values, flag), .help = "x"},
    {.name = "set", .type = OPTION_SET, .offset = offsetof(struct values, set), .set = 3, .help = "x"},
    {.letter = 't', .name = "text", .value = "T", .type = OPTION_TEXT, .offset = offsetof(struct values, text)},
    {.letter = 'l', .name = "list", .value = "L", .type = OPTION_LIST, .offset = offsetof(struct values, list)},
    {.letter = 'c', .name = "choice", .value = "a|bc|def", .type = OPTION_CHOICE,
     .offset = offsetof(struct values, choice), .preset = "bc"},
    {.letter = 'n', .name = "number", .value = "N", .type = OPTION_U32, .offset = offsetof(struct values, u32),
     .min = 2, .max = 4000000000.0, .preset = "2"},
    {.letter = 's', .name = "seed", .value = "S", .type = OPTION_U64, .offset = offsetof(struct values, u64)},
    {.letter = 'b', .name = "bytes", .value = "B", .type = OPTION_BYTES, .offset = offsetof(struct values, bytes),
     .max = 1099511627776.0},
    {.letter = 'r', .name = "real", .value = "R", .type = OPTION_F32, .offset = offsetof(struct values, f32),
     .min = -2, .max = 2, .preset = "1"},
};
static const struct options table = {.command = "try", .summary = "x", OPTIONS_ROWS(rows)};

static void check(bool promise)
{
    if (!promise) abort();
}

/* Arguments end at NUL bytes; text is a copy with a NUL behind it. */
static void try_options(char *text, size_t size)
{
    char *argv[ARGS_MAX + 1] = {text};
    int argc = 1;
    struct values v;
    struct ds4_error error = {0};
    bool help;
    for (size_t i = 0; i < size && argc < ARGS_MAX; i += strlen(text + i) + 1) argv[argc++] = text + i;
    enum ds4_status status = options_parse(&table, argc, argv, &v, sizeof v, &help, &error);
    check((status == DS4_OK) == (error.message[0] == 0));
    if (status != DS4_OK) return;
    check(v.u32 >= 2 && v.u32 <= 4000000000u && v.bytes <= (uint64_t)1 << 40 && v.choice >= 0 && v.choice <= 2);
    check(isfinite(v.f32) && fabsf(v.f32) <= 2 && (v.set == 0 || v.set == 3));
    check(v.list.n <= OPTION_LIST_MAX && v.operands.n <= OPTION_LIST_MAX);
}

static void try_slash(struct ds4_span line)
{
    struct slash slash = slash_parse(line);
    check((slash.id == SLASH_TEXT) == (line.len == 0 || line.ptr[0] != '/'));
    check((slash.id == SLASH_WRONG) == (slash.complaint[0] != 0));
    check(term_is_safe(span_from(slash.complaint)));
    if (slash.argument.len)
        check(slash.argument.ptr >= line.ptr && slash.argument.ptr + slash.argument.len <= line.ptr + line.len);
}

static void try_terminal(struct ds4_span text)
{
    struct buf once = {0}, twice = {0};
    term_put_safe(&once, text);
    check(term_is_safe(buf_span(&once)) && utf8_valid(buf_span(&once)));
    term_put_safe(&twice, buf_span(&once));
    check(span_eq(buf_span(&once), buf_span(&twice)));
    if (term_is_safe(text)) check(span_eq(buf_span(&once), text));
    buf_deinit(&once);
    buf_deinit(&twice);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *copy = malloc(size + 1);
    if (!copy) return 0;
    if (size) memcpy(copy, data, size);
    copy[size] = 0;
    try_slash(span_make(copy, size));
    try_terminal(span_make(copy, size));
    try_options(copy, size);
    free(copy);
    return 0;
}
