/* read.c - the text of a module: words, declarations, kernels, instructions with their operands. Names of registers
 * are families of numbered ones (`.reg .b32 %r<45>`), which get their places in the order of their declaration. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/ptx/impl.h"

#define NAMES_MAX 512    /* families of registers, parameters, arrays that a kernel sees */
#define LABELS_MAX 8192
#define ENTRIES_MAX (1u << 20) /* of a kernel's instructions */
#define REGISTER_BYTES_MAX (8u << 20)
#define TABLE_BYTES_MAX (1u << 20)

enum word_kind { WORD_END, WORD_NAME, WORD_NUMBER, WORD_FLOAT, WORD_MARK, WORD_TEXT };
struct word {
    enum word_kind kind;
    const char *s;
    size_t n;
    uint64_t number;
    char mark;
};

struct name {
    const char *s;
    size_t n;
    bool is_family;    /* numbered registers */
    bool is_register;
    uint32_t count;
    uint8_t bits;
    ptx_ref place;
    uint64_t address;  /* of an array or a parameter */
    uint32_t depth;
};

struct label {
    const char *s;
    size_t n;
    uint32_t at;
};

struct reader {
    const char *at, *end;
    uint32_t line;
    struct word word; /* the one that is looked at */
    char *error;
    size_t error_size;
    bool failed;
    struct ptx_module *module;
    struct ptx_kernel *kernel;
    struct name names[NAMES_MAX];
    size_t n_names;
    struct label *labels, *jumps; /* jumps: instruction `at` goes to the label */
    size_t n_labels, n_jumps;
    uint32_t depth;
};

static bool wrong(struct reader *r, const char *what)
{
    if (!r->failed)
        (void)snprintf(r->error, r->error_size, "line %u: %s at \"%.*s\"", r->line, what,
                       (int)(r->word.n < 60 ? r->word.n : 60), r->word.s ? r->word.s : "");
    r->failed = true;
    return false;
}

/* Spaces and both kinds of comments. */
static void skip_blank(struct reader *r)
{
    while (r->at < r->end) {
        if (r->end - r->at >= 2 && r->at[0] == '/' && r->at[1] == '/') {
            while (r->at < r->end && *r->at != '\n') r->at++;
        } else if (r->end - r->at >= 2 && r->at[0] == '/' && r->at[1] == '*') {
            r->at += 2;
            while (r->end - r->at >= 2 && !(r->at[0] == '*' && r->at[1] == '/')) r->line += *r->at++ == '\n';
            r->at = r->end - r->at >= 2 ? r->at + 2 : r->end;
        } else if (isspace((unsigned char)*r->at)) {
            r->line += *r->at++ == '\n';
        } else {
            return;
        }
    }
}

static bool in_name(const struct reader *r, const char *p)
{
    if (p >= r->end) return false;
    if (isalnum((unsigned char)*p) || *p == '_' || *p == '.' || *p == '%' || *p == '$') return true;
    return *p == ':' && ((p + 1 < r->end && p[1] == ':') || p[-1] == ':');
}

/* Decimal, 0x..., 0f followed by the bits of a float. */
static void read_number(struct reader *r)
{
    struct word *w = &r->word;
    int base = 10;
    const char *p = w->s;
    w->kind = WORD_NUMBER;
    if (w->n > 2 && p[0] == '0' && (p[1] == 'x' || p[1] == 'X')) {
        base = 16;
        p += 2;
    } else if (w->n == 10 && p[0] == '0' && (p[1] == 'f' || p[1] == 'F')) {
        base = 16;
        p += 2;
        w->kind = WORD_FLOAT;
    }
    w->number = 0;
    for (; p < w->s + w->n; p++) {
        int digit = isdigit((unsigned char)*p) ? *p - '0' : isxdigit((unsigned char)*p) ? (*p | 32) - 'a' + 10 : 16;
        uint64_t next;
        if (digit == 'u' - 'a' + 10 || (*p == 'U' && p + 1 == w->s + w->n)) return;
        if (digit >= base || !mul_ok(w->number, (uint64_t)base, &next) || !add_ok(next, (uint64_t)digit, &w->number)) {
            (void)wrong(r, "not a number");
            return;
        }
    }
}

static void next(struct reader *r)
{
    skip_blank(r);
    r->word = (struct word){.kind = WORD_END, .s = r->at};
    if (r->at >= r->end || r->failed) return;
    const char *from = r->at;
    if (*from == '"') {
        r->word.kind = WORD_TEXT;
        for (r->at++; r->at < r->end && *r->at != '"' && *r->at != '\n';) r->at++;
        r->at += r->at < r->end;
    } else if (in_name(r, from)) {
        r->word.kind = WORD_NAME;
        while (in_name(r, r->at)) r->at++;
    } else {
        r->word.kind = WORD_MARK;
        r->word.mark = *from;
        r->at++;
    }
    r->word.n = (size_t)(r->at - from);
    if (r->word.kind == WORD_NAME && isdigit((unsigned char)*from)) read_number(r);
}

static bool is_mark(const struct reader *r, char mark) { return r->word.kind == WORD_MARK && r->word.mark == mark; }

static bool is_word(const struct reader *r, const char *text)
{
    return r->word.kind == WORD_NAME && r->word.n == strlen(text) && memcmp(r->word.s, text, r->word.n) == 0;
}

static bool take(struct reader *r, char mark)
{
    if (!is_mark(r, mark)) {
        char what[] = "'?' is missing";
        what[1] = mark;
        return wrong(r, what);
    }
    next(r);
    return !r->failed;
}

static bool take_number(struct reader *r, uint64_t most, uint64_t *out)
{
    if (r->word.kind != WORD_NUMBER || r->word.number > most) return wrong(r, "a number is missing or too large");
    *out = r->word.number;
    next(r);
    return !r->failed;
}

/* Bytes of a type such as .b32; 0: it is none. */
static uint32_t type_bytes(const struct word *w)
{
    if (w->kind != WORD_NAME || w->n < 3 || w->s[0] != '.' || !strchr("usbf", w->s[1])) return 0;
    unsigned bits = 0;
    for (size_t i = 2; i < w->n; i++) {
        if (!isdigit((unsigned char)w->s[i]) || bits > 64) return 0;
        bits = bits * 10 + (unsigned)(w->s[i] - '0');
    }
    return bits == 8 || bits == 16 || bits == 32 || bits == 64 ? bits / 8 : 0;
}

static bool add_name(struct reader *r, const struct name *name)
{
    if (r->n_names == NAMES_MAX) return wrong(r, "too many names");
    r->names[r->n_names] = *name;
    r->names[r->n_names++].depth = r->depth;
    return true;
}

static ptx_ref add_registers(struct ptx_kernel *kernel, unsigned bits, uint32_t count)
{
    size_t first = kernel->register_bytes;
    kernel->register_bytes += (size_t)count * (bits == 1 ? 4 : bits == 64 ? 8 * PTX_LANES : 4 * PTX_LANES);
    kernel->register_bytes = (kernel->register_bytes + 63) / 64 * 64;
    return (ptx_ref)first;
}

static bool declare_registers(struct reader *r)
{
    next(r);
    uint32_t bytes = type_bytes(&r->word);
    uint8_t bits = (uint8_t)(is_word(r, ".pred") ? 1 : bytes * 8);
    if (!bits || bits == 8) return wrong(r, "registers of a type that is not known here");
    next(r);
    for (;;) {
        struct name name = {.s = r->word.s, .n = r->word.n, .is_register = true, .bits = bits, .count = 1};
        uint64_t count;
        if (r->word.kind != WORD_NAME) return wrong(r, "the name of a register is missing");
        next(r);
        if (is_mark(r, '<')) {
            next(r);
            if (!take_number(r, 1 << 20, &count) || !take(r, '>')) return false;
            name.is_family = true;
            name.count = (uint32_t)count;
        }
        if (r->kernel->register_bytes + (size_t)name.count * 8 * PTX_LANES > REGISTER_BYTES_MAX)
            return wrong(r, "too many registers");
        name.place = add_registers(r->kernel, bits, name.count);
        if (!add_name(r, &name)) return false;
        if (is_mark(r, ';')) return take(r, ';');
        if (!take(r, ',')) return false;
    }
}

/* [.align n] .type name [count]: the bytes of a variable, and where it may begin. */
static bool variable(struct reader *r, struct word *name, uint32_t *bytes, uint32_t *align)
{
    uint64_t n = 1, count = 1;
    *align = 0;
    if (is_word(r, ".align")) {
        next(r);
        if (!take_number(r, 256, &n)) return false;
        *align = (uint32_t)n;
    }
    uint32_t element = type_bytes(&r->word);
    if (!element) return wrong(r, "a variable of a type that is not known here");
    if (*align < element) *align = element;
    next(r);
    while (is_word(r, ".ptr") || is_word(r, ".global") || is_word(r, ".align")) { /* what a parameter points to */
        bool aligned = is_word(r, ".align");
        next(r);
        if (aligned && !take_number(r, 1 << 20, &n)) return false;
    }
    *name = r->word;
    if (r->word.kind != WORD_NAME) return wrong(r, "the name of a variable is missing");
    next(r);
    if (is_mark(r, '[')) {
        next(r);
        if (!take_number(r, TABLE_BYTES_MAX, &count) || !take(r, ']')) return false;
    }
    if (count == 0 || count * element > TABLE_BYTES_MAX) return wrong(r, "a variable without size, or too large");
    *bytes = (uint32_t)(count * element);
    return true;
}

static uint32_t rounded_up(uint32_t n, uint32_t to) { return (n + to - 1) / to * to; }

static bool declare_shared(struct reader *r)
{
    struct ptx_kernel *kernel = r->kernel;
    struct word name;
    uint32_t bytes, align;
    next(r);
    if (!variable(r, &name, &bytes, &align)) return false;
    uint32_t first = rounded_up(kernel->shared_bytes + PTX_GUARD, align);
    if (kernel->n_arrays == sizeof kernel->arrays / sizeof *kernel->arrays) return wrong(r, "too many arrays");
    kernel->arrays[kernel->n_arrays++] = (struct ptx_array){first, bytes};
    kernel->shared_bytes = first + bytes;
    uint32_t sum = 0;
    for (size_t i = 0; i < kernel->n_arrays; i++) sum += kernel->arrays[i].bytes;
    if (sum > PTX_SHARED_MAX) return wrong(r, "more shared memory than a group may have");
    return add_name(r, &(struct name){.s = name.s, .n = name.n, .address = first}) && take(r, ';');
}

static bool declare_local(struct reader *r)
{
    struct ptx_kernel *kernel = r->kernel;
    struct word name;
    uint32_t bytes, align;
    next(r);
    if (!variable(r, &name, &bytes, &align)) return false;
    uint32_t first = rounded_up(kernel->local_bytes, align);
    if (first + bytes > PTX_LOCAL_MAX) return wrong(r, "more local memory than is known here");
    kernel->local_bytes = first + bytes;
    return add_name(r, &(struct name){.s = name.s, .n = name.n, .address = first}) && take(r, ';');
}

/* A table of the module, with its bytes (elements of one byte) or zeros. */
static bool declare_global(struct reader *r)
{
    struct word name;
    uint32_t bytes, align, i = 0;
    next(r);
    if (!variable(r, &name, &bytes, &align)) return false;
    struct ptx_global *g = mem_zalloc(1, sizeof *g);
    if (!g) return wrong(r, "no memory");
    g->next = r->module->globals;
    r->module->globals = g;
    g->bytes = mem_alloc_aligned(256, bytes);
    g->n_bytes = bytes;
    if (!g->bytes || name.n >= sizeof g->name) return wrong(r, "no memory, or a name too long");
    memcpy(g->name, name.s, name.n);
    if (!is_mark(r, '=')) return take(r, ';');
    next(r);
    if (!take(r, '{')) return false;
    while (!is_mark(r, '}')) {
        uint64_t value;
        if (i == bytes) return wrong(r, "more values than the table has bytes");
        if (!take_number(r, 255, &value)) return false;
        g->bytes[i++] = (uint8_t)value;
        if (!is_mark(r, '}') && !take(r, ',')) return false;
    }
    next(r);
    return take(r, ';');
}

static const struct name *find_name(const struct reader *r, const char *s, size_t n, uint32_t *index)
{
    size_t stem = n;
    uint64_t number = 0;
    while (stem > 0 && isdigit((unsigned char)s[stem - 1])) stem--;
    for (size_t i = stem; i < n && number < UINT32_MAX; i++) number = number * 10 + (uint64_t)(s[i] - '0');
    *index = 0;
    for (size_t i = r->n_names; i-- > 0;) {
        const struct name *name = &r->names[i];
        if (!name->is_family && name->n == n && memcmp(name->s, s, n) == 0) return name;
        if (!name->is_family || stem == n || name->n != stem || memcmp(name->s, s, stem) != 0) continue;
        if (number >= name->count) return NULL;
        *index = (uint32_t)number;
        return name;
    }
    return NULL;
}

static ptx_ref special_register(const struct ptx_kernel *kernel, const struct word *w)
{
    const struct {
        const char *name;
        ptx_ref place;
    } all[] = {{"%tid.x", kernel->tid}, {"%laneid", kernel->laneid}, {"%ntid.x", kernel->ntid},
               {"%ctaid.x", kernel->ctaid[0]}, {"%ctaid.y", kernel->ctaid[1]}, {"%ctaid.z", kernel->ctaid[2]},
               {"%nctaid.x", kernel->nctaid[0]}, {"%nctaid.y", kernel->nctaid[1]}, {"%nctaid.z", kernel->nctaid[2]}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if (w->n == strlen(all[i].name) && memcmp(w->s, all[i].name, w->n) == 0) return all[i].place;
    return PTX_NONE;
}

static const struct ptx_global *find_global(const struct reader *r, const struct word *w)
{
    for (const struct ptx_global *g = r->module->globals; g; g = g->next)
        if (strlen(g->name) == w->n && memcmp(g->name, w->s, w->n) == 0) return g;
    return NULL;
}

/* A register, a number, the address of something that has a name, or a label. */
static bool simple_operand(struct reader *r, struct ptx_operand *out)
{
    bool negative = is_mark(r, '-');
    uint32_t index;
    *out = (struct ptx_operand){.place = PTX_NONE, .place2 = PTX_NONE};
    if (negative) next(r);
    const struct word w = r->word;
    if (w.kind == WORD_NUMBER || w.kind == WORD_FLOAT) {
        out->kind = OPERAND_NUMBER;
        out->is_float = w.kind == WORD_FLOAT;
        out->number = negative ? 0 - w.number : w.number;
        next(r);
        return !r->failed;
    }
    if (w.kind != WORD_NAME || negative) return wrong(r, "an operand is missing");
    const struct name *name = find_name(r, w.s, w.n, &index);
    const struct ptx_global *global = name ? NULL : find_global(r, &w);
    ptx_ref special = special_register(r->kernel, &w);
    if (name && name->is_register) {
        uint32_t each = name->bits == 1 ? 4 : name->bits == 64 ? 8 * PTX_LANES : 4 * PTX_LANES;
        out->kind = OPERAND_REGISTER;
        out->bits = name->bits;
        out->place = name->place + (ptx_ref)(index * each);
    } else if (name || global) {
        out->kind = OPERAND_NUMBER;
        out->number = name ? name->address : (uint64_t)(uintptr_t)global->bytes;
    } else if (special != PTX_NONE) {
        out->kind = OPERAND_REGISTER;
        out->bits = 32;
        out->place = special;
    } else if (w.n == 1 && w.s[0] == '_') {
        out->kind = OPERAND_SINK;
    } else if (w.s[0] == '%') {
        return wrong(r, "a register that is not declared");
    } else {
        out->kind = OPERAND_LABEL;
        out->label = w.s;
        out->label_n = w.n;
    }
    next(r);
    return !r->failed;
}

static bool vector_operand(struct reader *r, struct ptx_operand *out)
{
    struct ptx_operand element;
    *out = (struct ptx_operand){.kind = OPERAND_VECTOR, .place = PTX_NONE, .place2 = PTX_NONE};
    next(r);
    for (;;) {
        if (out->n == 4) return wrong(r, "a vector of more than four elements");
        if (!simple_operand(r, &element)) return false;
        if (element.kind == OPERAND_NUMBER) {
            element.bits = 32;
            if (!ptx_constant(r->kernel, element.number, 32, &element.place)) return wrong(r, "no memory");
        } else if (element.kind != OPERAND_REGISTER && element.kind != OPERAND_SINK) {
            return wrong(r, "an element of a vector is no register");
        }
        out->v_bits[out->n] = element.bits; /* of what is dropped 0 */
        out->v[out->n++] = element.place;
        if (is_mark(r, '}')) break;
        if (!take(r, ',')) return false;
    }
    next(r);
    return !r->failed;
}

/* [base], [base+n], [base+-n] */
static bool address_operand(struct reader *r, struct ptx_operand *out)
{
    next(r);
    if (!simple_operand(r, out)) return false;
    if (out->kind != OPERAND_REGISTER && out->kind != OPERAND_NUMBER) return wrong(r, "an address of nothing");
    out->kind = OPERAND_ADDRESS;
    if (is_mark(r, '+')) {
        next(r);
        bool negative = is_mark(r, '-');
        uint64_t offset;
        if (negative) next(r);
        if (!take_number(r, 1u << 31, &offset)) return false;
        out->offset = negative ? -(int64_t)offset : (int64_t)offset;
    }
    return take(r, ']');
}

static bool operand(struct reader *r, struct ptx_operand *out)
{
    if (is_mark(r, '{')) return vector_operand(r, out);
    if (is_mark(r, '[')) return address_operand(r, out);
    if (!simple_operand(r, out)) return false;
    if (is_mark(r, '|')) {
        struct ptx_operand second;
        next(r);
        if (!simple_operand(r, &second)) return false;
        if (second.kind != OPERAND_REGISTER || second.bits != 1 || out->kind != OPERAND_REGISTER)
            return wrong(r, "what follows | is no predicate");
        out->place2 = second.place;
    }
    return true;
}

static bool add_op(struct reader *r, const struct ptx_instruction *in)
{
    struct ptx_kernel *kernel = r->kernel;
    const char *why = NULL;
    if (kernel->n_ops == kernel->ops_cap) {
        size_t cap = kernel->ops_cap * 2 + 256;
        struct ptx_op *grown = cap < ENTRIES_MAX ? mem_realloc(kernel->ops, cap, sizeof *grown) : NULL;
        if (!grown) return wrong(r, "no memory, or too many instructions");
        kernel->ops = grown;
        kernel->ops_cap = cap;
    }
    struct ptx_op *op = &kernel->ops[kernel->n_ops];
    if (!ptx_decode(kernel, in, op, &why)) {
        char what[160];
        (void)snprintf(what, sizeof what, "kernel %.60s, %s: %s", kernel->name, in->name, why);
        r->line = in->line;
        return wrong(r, what);
    }
    if (op->kind == KIND_BRANCH) {
        if (r->n_jumps == LABELS_MAX) return wrong(r, "too many branches");
        r->jumps[r->n_jumps++] = (struct label){in->operands[0].label, in->operands[0].label_n,
                                                (uint32_t)kernel->n_ops};
    }
    kernel->n_ops++;
    return true;
}

static bool instruction(struct reader *r)
{
    struct ptx_instruction in = {.guard = PTX_NONE};
    struct ptx_operand guard;
    if (is_mark(r, '@')) {
        next(r);
        in.guard_not = is_mark(r, '!');
        if (in.guard_not) next(r);
        if (!simple_operand(r, &guard)) return false;
        if (guard.kind != OPERAND_REGISTER || guard.bits != 1) return wrong(r, "what follows @ is no predicate");
        in.guard = guard.place;
    }
    if (r->word.kind != WORD_NAME || r->word.n >= sizeof in.name) return wrong(r, "an instruction is missing");
    memcpy(in.name, r->word.s, r->word.n);
    in.line = r->line;
    next(r);
    while (!is_mark(r, ';')) {
        if (in.n_operands == PTX_OPERANDS_MAX) return wrong(r, "too many operands");
        if (!operand(r, &in.operands[in.n_operands++])) return false;
        if (!is_mark(r, ';') && !take(r, ',')) return false;
    }
    return take(r, ';') && add_op(r, &in);
}

static void skip_line(struct reader *r)
{
    while (r->at < r->end && *r->at != '\n') r->at++;
    next(r);
}

static bool add_label(struct reader *r)
{
    for (size_t i = 0; i < r->n_labels; i++)
        if (r->labels[i].n == r->word.n && memcmp(r->labels[i].s, r->word.s, r->word.n) == 0)
            return wrong(r, "a label that is there already");
    if (r->n_labels == LABELS_MAX) return wrong(r, "too many labels");
    r->labels[r->n_labels++] = (struct label){r->word.s, r->word.n, (uint32_t)r->kernel->n_ops};
    next(r);
    return take(r, ':');
}

static bool statement(struct reader *r)
{
    if (is_mark(r, '{')) {
        r->depth++;
        next(r);
        return !r->failed;
    }
    if (is_mark(r, '}')) {
        while (r->n_names > 0 && r->names[r->n_names - 1].depth == r->depth) r->n_names--;
        r->depth--;
        if (r->depth > 0) next(r);
        return !r->failed;
    }
    if (is_word(r, ".reg")) return declare_registers(r);
    if (is_word(r, ".shared")) return declare_shared(r);
    if (is_word(r, ".local")) return declare_local(r);
    if (is_word(r, ".pragma")) {
        next(r);
        if (r->word.kind != WORD_TEXT) return wrong(r, "a text is missing");
        next(r);
        return take(r, ';');
    }
    if (is_word(r, ".loc")) {
        skip_line(r);
        return !r->failed;
    }
    if (r->word.kind == WORD_END) return wrong(r, "the text ends inside of a kernel");
    const char *p = r->at;
    while (p < r->end && (*p == ' ' || *p == '\t')) p++;
    if (r->word.kind == WORD_NAME && p < r->end && *p == ':') return add_label(r);
    return instruction(r);
}

static bool resolve_jumps(struct reader *r)
{
    for (size_t i = 0; i < r->n_jumps; i++) {
        size_t k = 0;
        while (k < r->n_labels && (r->labels[k].n != r->jumps[i].n ||
                                   memcmp(r->labels[k].s, r->jumps[i].s, r->jumps[i].n) != 0))
            k++;
        if (k == r->n_labels) {
            r->word = (struct word){.s = r->jumps[i].s, .n = r->jumps[i].n};
            return wrong(r, "a branch to a label that is not there");
        }
        r->kernel->ops[r->jumps[i].at].target = r->labels[k].at;
    }
    return true;
}

static bool parameters(struct reader *r)
{
    struct ptx_kernel *kernel = r->kernel;
    struct word name;
    uint32_t bytes, align;
    kernel->params_end = PTX_PARAM_FIRST;
    if (is_mark(r, ')')) return take(r, ')');
    for (;;) {
        if (!is_word(r, ".param")) return wrong(r, "a parameter is missing");
        next(r);
        if (!variable(r, &name, &bytes, &align)) return false;
        uint32_t first = rounded_up(kernel->params_end, align);
        if (kernel->n_params == PTX_PARAMS_MAX || first + bytes - PTX_PARAM_FIRST > PTX_PARAM_BYTES_MAX)
            return wrong(r, "too many parameters");
        kernel->param_first[kernel->n_params] = first - PTX_PARAM_FIRST;
        kernel->param_bytes[kernel->n_params++] = bytes;
        kernel->params_end = first + bytes;
        if (!add_name(r, &(struct name){.s = name.s, .n = name.n, .address = first})) return false;
        if (is_mark(r, ')')) return take(r, ')');
        if (!take(r, ',')) return false;
    }
}

/* .maxntid x, y, z and others of its kind, up to the body. */
static bool directives(struct reader *r)
{
    while (!is_mark(r, '{')) {
        bool threads = is_word(r, ".maxntid") || is_word(r, ".reqntid");
        uint64_t n = 0, product = 1;
        if (!threads && !is_word(r, ".minnctapersm") && !is_word(r, ".maxnreg"))
            return wrong(r, "a directive that is not known here");
        next(r);
        do {
            if (is_mark(r, ',')) next(r);
            if (!take_number(r, 1 << 20, &n)) return false;
            product *= n;
        } while (is_mark(r, ','));
        if (threads && product <= 1024) r->kernel->threads_max = (uint32_t)product;
    }
    return true;
}

static void special_registers(struct ptx_kernel *kernel)
{
    kernel->tid = add_registers(kernel, 32, 1);
    kernel->laneid = add_registers(kernel, 32, 1);
    kernel->ntid = add_registers(kernel, 32, 1);
    for (int i = 0; i < 3; i++) {
        kernel->ctaid[i] = add_registers(kernel, 32, 1);
        kernel->nctaid[i] = add_registers(kernel, 32, 1);
    }
}

static bool entry(struct reader *r)
{
    struct ptx_kernel *kernel = mem_zalloc(1, sizeof *kernel);
    if (!kernel) return wrong(r, "no memory");
    kernel->next = r->module->kernels;
    kernel->module = r->module;
    r->module->kernels = r->kernel = kernel;
    r->n_names = r->n_labels = r->n_jumps = 0;
    r->depth = 0;
    next(r);
    if (r->word.kind != WORD_NAME || r->word.n >= sizeof kernel->name)
        return wrong(r, "the name of a kernel is missing or too long");
    memcpy(kernel->name, r->word.s, r->word.n);
    kernel->threads_max = 1024;
    special_registers(kernel);
    next(r);
    if (is_mark(r, '(')) {
        next(r);
        if (!parameters(r)) return false;
    }
    if (!directives(r)) return false;
    do {
        if (!statement(r)) return false;
    } while (r->depth > 0);
    next(r); /* the last brace */
    const struct ptx_instruction end = {.name = "ret", .line = r->line, .guard = PTX_NONE};
    return add_op(r, &end) && resolve_jumps(r);
}

static bool read_module(struct reader *r)
{
    next(r);
    if (!is_word(r, ".version")) return wrong(r, "no .version");
    while (r->word.kind != WORD_END && !r->failed) {
        if (is_word(r, ".version") || is_word(r, ".target") || is_word(r, ".file")) {
            skip_line(r);
        } else if (is_word(r, ".address_size")) {
            uint64_t bits;
            next(r);
            if (!take_number(r, 64, &bits)) return false;
            if (bits != 64) return wrong(r, "addresses of another size than 64");
        } else if (is_word(r, ".visible") || is_word(r, ".weak")) {
            next(r);
        } else if (is_word(r, ".global") || is_word(r, ".const")) {
            if (!declare_global(r)) return false;
        } else if (is_word(r, ".entry")) {
            if (!entry(r)) return false;
        } else {
            return wrong(r, "a declaration that is not known here");
        }
    }
    return !r->failed;
}

struct ptx_module *ptx_load(const char *text, size_t n, char *error, size_t error_size)
{
    struct ptx_module *module = mem_zalloc(1, sizeof *module);
    struct reader *r = mem_zalloc(1, sizeof *r);
    struct label *labels = mem_zalloc(2 * LABELS_MAX, sizeof *labels);
    bool good = module && r && labels;
    if (good) module->text = mem_alloc(n + 1, 1);
    good = good && module->text;
    if (good) {
        memcpy(module->text, text, n);
        module->text[n] = 0;
        module->n = n;
        *r = (struct reader){.at = module->text, .end = module->text + n, .line = 1, .error = error,
                             .error_size = error_size, .module = module, .labels = labels,
                             .jumps = labels + LABELS_MAX};
        good = read_module(r);
    } else {
        (void)snprintf(error, error_size, "no memory");
    }
    mem_free(labels);
    mem_free(r);
    if (good) return module;
    ptx_free(module);
    return NULL;
}

void ptx_free(struct ptx_module *module)
{
    if (!module) return;
    for (struct ptx_kernel *kernel = module->kernels, *after; kernel; kernel = after) {
        after = kernel->next;
        mem_free(kernel->ops);
        mem_free(kernel->constants);
        mem_free(kernel);
    }
    for (struct ptx_global *g = module->globals, *after; g; g = after) {
        after = g->next;
        mem_free(g->bytes);
        mem_free(g);
    }
    mem_free(module->text);
    mem_free(module);
}

const struct ptx_kernel *ptx_kernel(const struct ptx_module *module, const char *name)
{
    const struct ptx_kernel *kernel = module->kernels;
    while (kernel && strcmp(kernel->name, name) != 0) kernel = kernel->next;
    return kernel;
}

const struct ptx_kernel *ptx_kernel_at(const struct ptx_module *module, size_t i)
{
    const struct ptx_kernel *kernel = module->kernels;
    while (kernel && i--) kernel = kernel->next;
    return kernel;
}

const char *ptx_kernel_name(const struct ptx_kernel *kernel) { return kernel->name; }
size_t ptx_n_params(const struct ptx_kernel *kernel) { return kernel->n_params; }
size_t ptx_param_bytes(const struct ptx_kernel *kernel, size_t i) { return kernel->param_bytes[i]; }
bool ptx_waits(const struct ptx_kernel *kernel) { return kernel->waits; }
unsigned ptx_threads_max(const struct ptx_kernel *kernel) { return kernel->threads_max; }
