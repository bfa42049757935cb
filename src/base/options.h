/* options.h - command lines by table. A command describes its options once (name, type, range, default, help); the
 * table drives parsing, the messages about mistakes and --help.
 *
 * Values land in the command's own plain struct, at the row's offset. Accepted forms: --name VALUE, --name=VALUE,
 * -x VALUE, -xVALUE; `--` ends the options; a lone `-` is an operand. The last of repeated options wins. */
#ifndef DS4_BASE_OPTIONS_H
#define DS4_BASE_OPTIONS_H

#include "base/buf.h"

/* What the program returns to its caller. */
enum exit_code {
    EXIT_CODE_OK = 0,
    EXIT_CODE_FAILED = 1, /* said on stderr in one sentence */
    EXIT_CODE_USAGE = 2   /* the command line was wrong; nothing was done */
};

#define OPTION_LIST_MAX 32 /* most values of one repeatable option: more is a script's mistake */

struct option_list {
    const char *items[OPTION_LIST_MAX];
    size_t n;
};

/* Type of a row, and of the field it fills. */
enum option_type {
    OPTION_FLAG,    /* bool: becomes true */
    OPTION_SET,     /* int: becomes `set`; several rows may share a field */
    OPTION_TEXT,    /* const char *: borrows from argv */
    OPTION_LIST,    /* struct option_list: may be repeated */
    OPTION_CHOICE,  /* int: index in `value`, which lists the words as "a|b|c" */
    OPTION_U32,     /* uint32_t, decimal */
    OPTION_U64,     /* uint64_t, decimal */
    OPTION_BYTES,   /* uint64_t: decimal with an optional k, m, g or t (powers of 1024) */
    OPTION_F32,     /* float, finite */
    OPTION_OPERAND, /* const char *: an argument without dashes; rows in order of appearance */
    OPTION_OPERANDS /* struct option_list: all further arguments without dashes */
};

struct option {
    char letter;           /* 'm' for -m; 0 = none */
    const char *name;      /* "model" for --model; the word shown for an operand */
    const char *value;     /* word shown for the value: "FILE"; for a choice its words */
    enum option_type type;
    size_t offset;         /* of the field; see enum option_type */
    double min, max;       /* numbers: inclusive range; both 0 = all the type holds */
    int set;               /* OPTION_SET */
    bool required;         /* without it the command line is wrong */
    const char *preset;    /* the default as one would type it; NULL = 0, false, none */
    const char *help;      /* a phrase; the range and the default are added to it */
};

struct options {
    const char *command;   /* "run", "bench ops" */
    const char *summary;   /* one phrase */
    const struct option *rows;
    size_t n_rows;
    const char *notes;     /* optional paragraphs after the list, lines already broken */
    /* Optional: what no row can say, as options that exclude each other. Gets the command's struct; not OK: the command
     * line is wrong. */
    enum ds4_status (*check)(const void *values, struct ds4_error *error);
};

/* For tables: OPTIONS_ROWS(rows) fills rows and n_rows. */
#define OPTIONS_ROWS(array) .rows = (array), .n_rows = sizeof(array) / sizeof((array)[0])

/* Fills *values (zeroed and set to the defaults first), and asks table->check. *help says that --help or -h was met:
 * nothing else is checked then. Wrong command line: FORMAT with a sentence. */
enum ds4_status options_parse(const struct options *table, int argc, char **argv, void *values, size_t values_bytes,
                              bool *help, struct ds4_error *error) DS4_MUST_CHECK;
/* Appends the text of --help. */
void options_help(const struct options *table, struct buf *out);

/* What a command does first: parses, and prints help or the mistake. True: go on. False: return *exit_code. */
bool options_begin(const struct options *table, int argc, char **argv, void *values, size_t values_bytes,
                   int *exit_code) DS4_MUST_CHECK;

/* "ds4 run: what went wrong" on standard error; the exit code to return. */
int options_failed(const struct options *table, const struct ds4_error *error);

/* The number in text if it is one, whole, decimal and within range. Also for other readers of numbers. */
bool options_parse_u64(struct ds4_span text, uint64_t min, uint64_t max, uint64_t *out);
/* Bytes with an optional k, m, g or t (powers of 1024) and b behind: 4096, 512m, 8GB. */
bool options_parse_bytes(struct ds4_span text, uint64_t min, uint64_t max, uint64_t *out);
bool options_parse_f64(struct ds4_span text, double min, double max, double *out);

#endif
