/* options.c - parsing of command lines by table, and the text of --help. See options.h. */
#include "base/options.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/suggest.h"

#define HELP_COLUMNS 100    /* width of --help */
#define HELP_INDENT 26      /* column of the descriptions */
#define ROWS_MAX 96         /* most rows of a table; a mistake of ours beyond */

struct parse {
    const struct options *table;
    char *values;
    bool given[ROWS_MAX];
    struct ds4_error *error;
};

bool options_parse_u64(struct ds4_span text, uint64_t min, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    if (text.len == 0) return false;
    for (size_t i = 0; i < text.len; i++) {
        if (text.ptr[i] < '0' || text.ptr[i] > '9') return false;
        if (!mul_ok(value, 10, &value) || !add_ok(value, (uint64_t)(text.ptr[i] - '0'), &value)) return false;
    }
    if (value < min || value > max) return false;
    *out = value;
    return true;
}

bool options_parse_f64(struct ds4_span text, double min, double max, double *out)
{
    char copy[64];
    if (text.len == 0 || text.len >= sizeof copy) return false;
    for (size_t i = 0; i < text.len; i++) /* no hexadecimal, no "nan", no white space */
        if (!strchr("0123456789.+-eE", text.ptr[i]) || text.ptr[i] == 0) return false;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    char *end;
    double value = strtod(copy, &end);
    if (*end || !isfinite(value) || value < min || value > max) return false;
    *out = value;
    return true;
}

bool options_parse_bytes(struct ds4_span text, uint64_t min, uint64_t max, uint64_t *out)
{
    static const char units[] = "kmgt";
    unsigned shift = 0;
    if (text.len > 2 && (text.ptr[text.len - 1] | 0x20) == 'b') text.len--; /* 8GB is 8g */
    if (text.len > 1) {
        char last = (char)(text.ptr[text.len - 1] | 0x20);
        const char *unit = last ? strchr(units, last) : NULL;
        if (unit) {
            shift = 10 * (unsigned)(unit - units + 1);
            text.len--;
        }
    }
    uint64_t value;
    if (!options_parse_u64(text, 0, UINT64_MAX >> shift, &value)) return false;
    value <<= shift;
    if (value < min || value > max) return false;
    *out = value;
    return true;
}

static bool is_integer(enum option_type type)
{
    return type == OPTION_U32 || type == OPTION_U64 || type == OPTION_BYTES;
}

static bool is_operand(enum option_type type) { return type == OPTION_OPERAND || type == OPTION_OPERANDS; }

static bool takes_value(enum option_type type)
{
    return type != OPTION_FLAG && type != OPTION_SET && !is_operand(type);
}

static uint64_t integer_max(const struct option *row)
{
    if (row->max > 0) return (uint64_t)row->max;
    return row->type == OPTION_U32 ? UINT32_MAX : UINT64_MAX;
}

static bool range_is_open(const struct option *row) { return row->min == 0 && row->max == 0; }

/* "a whole number from 1 to 9" and so on: what a value should have been. */
static void describe_value(const struct option *row, struct buf *out)
{
    switch (row->type) {
    case OPTION_CHOICE: buf_printf(out, "one of %s", row->value); break;
    case OPTION_U32:
    case OPTION_U64:
        buf_printf(out, "a whole number from %.0f to %llu", row->min, (unsigned long long)integer_max(row));
        break;
    case OPTION_BYTES: buf_put_text(out, "a number of bytes such as 4096, 512m or 8g"); break;
    case OPTION_F32:
        if (range_is_open(row)) buf_put_text(out, "a number");
        else buf_printf(out, "a number from %g to %g", row->min, row->max);
        break;
    default: buf_put_text(out, "a text"); break;
    }
}

static bool choice_index(const struct option *row, struct ds4_span text, int *index)
{
    int i = 0;
    for (const char *word = row->value;; i++) {
        const char *end = strchr(word, '|');
        size_t len = end ? (size_t)(end - word) : strlen(word);
        if (span_eq(text, span_make(word, len))) {
            *index = i;
            return true;
        }
        if (!end) return false;
        word = end + 1;
    }
}

static bool store_number(const struct option *row, struct ds4_span text, void *field)
{
    uint64_t n;
    double real;
    if (row->type == OPTION_BYTES) {
        if (!options_parse_bytes(text, (uint64_t)row->min, integer_max(row), &n)) return false;
        *(uint64_t *)field = n;
    } else if (is_integer(row->type)) {
        if (!options_parse_u64(text, (uint64_t)row->min, integer_max(row), &n)) return false;
        if (row->type == OPTION_U32) *(uint32_t *)field = (uint32_t)n;
        else *(uint64_t *)field = n;
    } else {
        bool open = range_is_open(row);
        if (!options_parse_f64(text, open ? -FLT_MAX : row->min, open ? FLT_MAX : row->max, &real)) return false;
        *(float *)field = (float)real;
    }
    return true;
}

/* False: text is not a value of the row, or one too many. */
static bool store_value(const struct option *row, const char *text, char *values)
{
    void *field = values + row->offset;
    switch (row->type) {
    case OPTION_FLAG: *(bool *)field = true; return true;
    case OPTION_SET: *(int *)field = row->set; return true;
    case OPTION_TEXT:
    case OPTION_OPERAND: *(const char **)field = text; return true;
    case OPTION_CHOICE: return choice_index(row, span_from(text), field);
    case OPTION_LIST:
    case OPTION_OPERANDS: {
        struct option_list *list = field;
        if (list->n == OPTION_LIST_MAX) return false;
        list->items[list->n++] = text;
        return true;
    }
    default: return store_number(row, span_from(text), field);
    }
}

static enum ds4_status refuse_value(struct parse *p, const struct option *row, const char *shown, const char *text)
{
    struct buf wanted = {0};
    if (row->type == OPTION_LIST || row->type == OPTION_OPERANDS)
        buf_printf(&wanted, "at most %d of them", OPTION_LIST_MAX);
    else
        describe_value(row, &wanted);
    enum ds4_status status = err_set(p->error, DS4_ERR_FORMAT, "%s %.80s: must be %.*s", shown, text,
                                     (int)wanted.text.len, wanted.text.ptr ? wanted.text.ptr : "");
    buf_deinit(&wanted);
    return status;
}

static const struct option *find_long(const struct options *table, struct ds4_span name)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (!is_operand(table->rows[i].type) && table->rows[i].name && span_eq(name, span_from(table->rows[i].name)))
            return &table->rows[i];
    return NULL;
}

static const struct option *find_letter(const struct options *table, char letter)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (letter && table->rows[i].letter == letter) return &table->rows[i];
    return NULL;
}

static enum ds4_status refuse_unknown(struct parse *p, const char *shown, struct ds4_span name)
{
    const char *names[ROWS_MAX];
    size_t n = 0;
    for (size_t i = 0; i < p->table->n_rows; i++)
        if (!is_operand(p->table->rows[i].type) && p->table->rows[i].name) names[n++] = p->table->rows[i].name;
    const char *near = suggest_near(name, names, n);
    if (near) return err_set(p->error, DS4_ERR_FORMAT, "unknown option %.80s; did you mean --%s?", shown, near);
    return err_set(p->error, DS4_ERR_FORMAT, "unknown option %.80s", shown);
}

/* Handles argv[*i], an option; moves *i to its last argument. */
static enum ds4_status parse_option(struct parse *p, int argc, char **argv, int *i)
{
    const char *text = argv[*i], *value = NULL;
    const struct option *row;
    char shown[96];
    if (text[1] == '-') {
        const char *equals = strchr(text, '=');
        struct ds4_span name = span_make(text + 2, equals ? (size_t)(equals - text - 2) : strlen(text + 2));
        row = find_long(p->table, name);
        (void)snprintf(shown, sizeof shown, "--%.*s", (int)(name.len < 80 ? name.len : 80), name.ptr);
        if (!row && span_eq(name, SPAN("help")))
            return err_set(p->error, DS4_ERR_FORMAT, "--help takes no value, but stands as %.80s", text);
        if (!row) return refuse_unknown(p, shown, name);
        value = equals ? equals + 1 : NULL;
    } else {
        row = find_letter(p->table, text[1]);
        (void)snprintf(shown, sizeof shown, "-%c", text[1]);
        if (!row) return refuse_unknown(p, text, span_from(text + 1));
        value = text[2] ? text + 2 : NULL;
    }
    if (!takes_value(row->type) && value)
        return err_set(p->error, DS4_ERR_FORMAT, "%s takes no value, but stands as %.80s", shown, text);
    if (takes_value(row->type) && !value) {
        if (*i + 1 >= argc) return err_set(p->error, DS4_ERR_FORMAT, "%s needs a value: %s", shown, row->value);
        value = argv[++*i];
    }
    p->given[row - p->table->rows] = true;
    return store_value(row, value, p->values) ? DS4_OK : refuse_value(p, row, shown, value);
}

static enum ds4_status parse_operand(struct parse *p, const char *text)
{
    for (size_t i = 0; i < p->table->n_rows; i++) {
        const struct option *row = &p->table->rows[i];
        if (!is_operand(row->type) || (row->type == OPTION_OPERAND && p->given[i])) continue;
        p->given[i] = true;
        return store_value(row, text, p->values) ? DS4_OK : refuse_value(p, row, row->name, text);
    }
    return err_set(p->error, DS4_ERR_FORMAT, "unexpected argument %.80s", text);
}

static void set_presets(const struct options *table, char *values)
{
    for (size_t i = 0; i < table->n_rows; i++)
        if (table->rows[i].preset) ensure(store_value(&table->rows[i], table->rows[i].preset, values));
}

static enum ds4_status check_required(const struct parse *p)
{
    for (size_t i = 0; i < p->table->n_rows; i++) {
        const struct option *row = &p->table->rows[i];
        if (!row->required || p->given[i]) continue;
        return err_set(p->error, DS4_ERR_FORMAT, "%s%s%s%s is missing", is_operand(row->type) ? "" : "--", row->name,
                       takes_value(row->type) ? " " : "", takes_value(row->type) ? row->value : "");
    }
    return DS4_OK;
}

enum ds4_status options_parse(const struct options *table, int argc, char **argv, void *values, size_t values_bytes,
                              bool *help, struct ds4_error *error)
{
    struct parse p = {.table = table, .values = values, .error = error};
    bool only_operands = false;
    ensure(table->n_rows <= ROWS_MAX);
    memset(values, 0, values_bytes);
    set_presets(table, values);
    *help = false;
    for (int i = 1; i < argc && !*help; i++) {
        const char *text = argv[i];
        if (only_operands || text[0] != '-' || text[1] == 0) {
            TRY(parse_operand(&p, text));
        } else if (strcmp(text, "--") == 0) {
            only_operands = true;
        } else if (strcmp(text, "--help") == 0 || (strcmp(text, "-h") == 0 && !find_letter(table, 'h'))) {
            *help = true;
        } else {
            TRY(parse_option(&p, argc, argv, &i));
        }
    }
    if (*help) return DS4_OK;
    TRY(check_required(&p));
    return table->check ? table->check(values, error) : DS4_OK;
}

/* Appends text broken at spaces; the cursor stands at HELP_INDENT. */
static void put_wrapped(struct buf *out, struct ds4_span text)
{
    size_t column = HELP_INDENT;
    while (text.len > 0) {
        size_t word = 0;
        while (word < text.len && text.ptr[word] != ' ') word++;
        if (column > HELP_INDENT && column + 1 + word > HELP_COLUMNS) {
            buf_printf(out, "\n%*s", HELP_INDENT, "");
            column = HELP_INDENT;
        } else if (column > HELP_INDENT) {
            buf_put_byte(out, ' ');
            column++;
        }
        buf_put(out, text.ptr, word);
        column += word;
        text = span_skip(text, word < text.len ? word + 1 : word);
    }
    buf_put_byte(out, '\n');
}

static void put_row(const struct option *row, struct buf *out)
{
    struct buf head = {0}, text = {0};
    if (is_operand(row->type)) buf_printf(&head, "  %s%s", row->name, row->type == OPTION_OPERANDS ? "..." : "");
    else if (!row->name) buf_printf(&head, "  -%c", row->letter);
    else if (row->letter) buf_printf(&head, "  -%c, --%s", row->letter, row->name);
    else buf_printf(&head, "      --%s", row->name);
    if (takes_value(row->type)) buf_printf(&head, " %s", row->value);
    buf_put_span(out, buf_span(&head));
    if (head.text.len + 2 > HELP_INDENT) buf_printf(out, "\n%*s", HELP_INDENT, "");
    else buf_printf(out, "%*s", (int)(HELP_INDENT - head.text.len), "");
    buf_put_text(&text, row->help);
    bool number = is_integer(row->type) || row->type == OPTION_F32, ranged = number && !range_is_open(row);
    if (ranged || row->preset || row->type == OPTION_LIST || row->required) {
        const char *comma = "";
        buf_put_text(&text, " (");
        if (ranged && row->type == OPTION_F32) buf_printf(&text, "%g to %g", row->min, row->max);
        else if (ranged) buf_printf(&text, "%.0f to %.0f", row->min, (double)integer_max(row));
        if (ranged) comma = "; ";
        if (row->type == OPTION_LIST) buf_printf(&text, "%smay be repeated", comma), comma = "; ";
        if (row->required) buf_printf(&text, "%srequired", comma), comma = "; ";
        if (row->preset) buf_printf(&text, "%sdefault %s", comma, row->preset);
        buf_put_text(&text, ")");
    }
    put_wrapped(out, buf_span(&text));
    buf_deinit(&head);
    buf_deinit(&text);
}

void options_help(const struct options *table, struct buf *out)
{
    buf_printf(out, "ds4 %s - %s\n\nusage: ds4 %s [options]", table->command, table->summary, table->command);
    for (size_t i = 0; i < table->n_rows; i++) {
        const struct option *row = &table->rows[i];
        const char *dots = row->type == OPTION_OPERANDS ? "..." : "";
        if (!is_operand(row->type)) continue;
        buf_printf(out, row->required ? " %s%s" : " [%s%s]", row->name, dots);
    }
    buf_put_text(out, "\n\n");
    for (size_t i = 0; i < table->n_rows; i++)
        if (is_operand(table->rows[i].type)) put_row(&table->rows[i], out);
    for (size_t i = 0; i < table->n_rows; i++) {
        if (is_operand(table->rows[i].type)) continue;
        put_row(&table->rows[i], out);
    }
    put_row(&(struct option){.name = "help", .type = OPTION_FLAG, .help = "show this text"}, out);
    if (table->notes) buf_printf(out, "\n%s\n", table->notes);
}

bool options_begin(const struct options *table, int argc, char **argv, void *values, size_t values_bytes,
                   int *exit_code)
{
    struct ds4_error error = {0};
    bool help;
    if (options_parse(table, argc, argv, values, values_bytes, &help, &error) != DS4_OK) {
        (void)fprintf(stderr, "ds4 %s: %s (see: ds4 help %s)\n", table->command, error.message, table->command);
        *exit_code = EXIT_CODE_USAGE;
        return false;
    }
    if (!help) return true;
    struct buf text = {0};
    options_help(table, &text);
    enum ds4_status status = buf_status(&text, &error);
    if (status == DS4_OK) status = file_write(STDOUT_FILENO, "standard output", text.text.ptr, text.text.len, &error);
    if (status != DS4_OK) (void)fprintf(stderr, "ds4 %s: %s\n", table->command, error.message);
    *exit_code = status == DS4_OK ? EXIT_CODE_OK : EXIT_CODE_FAILED;
    buf_deinit(&text);
    return false;
}

int options_failed(const struct options *table, const struct ds4_error *error)
{
    (void)fprintf(stderr, "ds4 %s: %s\n", table->command, error->message[0] ? error->message : "failed");
    return EXIT_CODE_FAILED;
}
