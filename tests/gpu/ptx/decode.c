/* decode.c - an instruction as it was read, made an operation: its name says the kind, and what its operands must be.
 * What is not known here is refused with a sentence. */
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "gpu/ptx/impl.h"

/* Bits of the register that an operand of a type lies in; 8: of 16 or of 32. */
#define BITS_u8 8
#define BITS_s8 8
#define BITS_u16 16
#define BITS_s16 16
#define BITS_h16 16
#define BITS_u32 32
#define BITS_s32 32
#define BITS_f32 32
#define BITS_u64 64
#define BITS_s64 64

struct lane_name {
    const char *text;
    uint16_t kind;
    uint8_t n_sources, bits[4]; /* d, a, b, c */
};
static const struct lane_name lane_names[] = {
#define UNARY(id, text, D, A, value) {text, KIND_##id, 1, {BITS_##D, BITS_##A, 0, 0}},
#define BINARY(id, text, D, A, B, value) {text, KIND_##id, 2, {BITS_##D, BITS_##A, BITS_##B, 0}},
#define TERNARY(id, text, D, A, B, C, value) {text, KIND_##id, 3, {BITS_##D, BITS_##A, BITS_##B, BITS_##C}},
#define COMPARE(id, text, A, value) {text, KIND_##id, 2, {1, BITS_##A, BITS_##A, 0}},
#define COMPARES_OF_BITS(T, A) COMPARE(setp_eq_##T, "setp.eq." #T, A, ) COMPARE(setp_ne_##T, "setp.ne." #T, A, )
#define COMPARES(T, A) COMPARES_OF_BITS(T, A) COMPARE(setp_lt_##T, "setp.lt." #T, A, ) \
    COMPARE(setp_le_##T, "setp.le." #T, A, ) COMPARE(setp_gt_##T, "setp.gt." #T, A, ) \
    COMPARE(setp_ge_##T, "setp.ge." #T, A, )
#include "gpu/ptx/lanes.def"
    {"selp.b32", KIND_SELECT_32, 3, {32, 32, 32, 1}},
    {"selp.u32", KIND_SELECT_32, 3, {32, 32, 32, 1}},
    {"selp.s32", KIND_SELECT_32, 3, {32, 32, 32, 1}},
    {"selp.f32", KIND_SELECT_32, 3, {32, 32, 32, 1}},
    {"selp.b16", KIND_SELECT_32, 3, {16, 16, 16, 1}},
    {"selp.u16", KIND_SELECT_32, 3, {16, 16, 16, 1}},
    {"selp.s16", KIND_SELECT_32, 3, {16, 16, 16, 1}},
    {"selp.b64", KIND_SELECT_64, 3, {64, 64, 64, 1}},
    {"selp.u64", KIND_SELECT_64, 3, {64, 64, 64, 1}},
    {"selp.s64", KIND_SELECT_64, 3, {64, 64, 64, 1}},
    {"mov.pred", KIND_PRED_MOV, 1, {1, 1, 0, 0}},
    {"not.pred", KIND_PRED_NOT, 1, {1, 1, 0, 0}},
    {"and.pred", KIND_PRED_AND, 2, {1, 1, 1, 0}},
    {"or.pred", KIND_PRED_OR, 2, {1, 1, 1, 0}},
    {"xor.pred", KIND_PRED_XOR, 2, {1, 1, 1, 0}},
    /* The addresses of global memory are the same in the space of all memory. */
    {"cvta.to.global.u64", KIND_mov_u64, 1, {64, 64, 0, 0}},
    {"cvta.global.u64", KIND_mov_u64, 1, {64, 64, 0, 0}},
};
#define N_LANE_NAMES (sizeof lane_names / sizeof *lane_names)

struct decoder {
    struct ptx_kernel *kernel;
    const struct ptx_instruction *in;
    struct ptx_op *out;
    const char *why;
};

static bool refuse(struct decoder *d, const char *why)
{
    if (!d->why) d->why = why;
    return false;
}

bool ptx_constant(struct ptx_kernel *kernel, uint64_t value, unsigned bits, ptx_ref *out)
{
    size_t bytes = bits == 1 ? 4 : bits == 64 ? 8 * PTX_LANES : 4 * PTX_LANES;
    uint8_t form[8 * PTX_LANES];
    uint32_t word = bits == 1 ? (value & 1 ? PTX_ALL : 0) : (uint32_t)(bits == 16 ? value & 0xffff : value);
    for (size_t i = 0; i < PTX_LANES; i++) {
        if (bits == 64) memcpy(form + 8 * i, &value, 8);
        else memcpy(form + 4 * i, &word, 4);
    }
    for (size_t at = 0; at + bytes <= kernel->constant_bytes; at += 4 * PTX_LANES) {
        if (memcmp(kernel->constants + at, form, bytes) != 0) continue;
        *out = ~(ptx_ref)at;
        return true;
    }
    if (kernel->constant_bytes + sizeof form > kernel->constant_cap) {
        size_t cap = kernel->constant_cap * 2 + 64 * sizeof form;
        uint8_t *grown = mem_realloc(kernel->constants, cap, 1);
        if (!grown) return false;
        kernel->constants = grown;
        kernel->constant_cap = cap;
    }
    memcpy(kernel->constants + kernel->constant_bytes, form, bytes < 128 ? 128 : bytes);
    *out = ~(ptx_ref)kernel->constant_bytes;
    kernel->constant_bytes += bytes < 128 ? 128 : bytes;
    return true;
}

static bool fits(unsigned register_bits, unsigned wanted)
{
    return wanted == 8 ? register_bits == 16 || register_bits == 32 : register_bits == wanted;
}

static bool source(struct decoder *d, size_t i, unsigned bits, ptx_ref *out)
{
    const struct ptx_operand *o = &d->in->operands[i];
    if (i >= d->in->n_operands) return refuse(d, "an operand is missing");
    if (o->kind == OPERAND_REGISTER && o->place2 == PTX_NONE && fits(o->bits, bits)) {
        *out = o->place;
        return true;
    }
    if (o->kind == OPERAND_NUMBER && !(o->is_float && bits != 32))
        return ptx_constant(d->kernel, o->number, bits == 8 ? 32 : bits, out) || refuse(d, "no memory");
    return refuse(d, "an operand has another type");
}

static bool result(struct decoder *d, size_t i, unsigned bits, ptx_ref *out)
{
    const struct ptx_operand *o = &d->in->operands[i];
    if (i >= d->in->n_operands || o->kind != OPERAND_REGISTER || !fits(o->bits, bits))
        return refuse(d, "the result has another type");
    *out = o->place;
    return true;
}

/* n registers of 32 bits in a vector. */
static bool vector(struct decoder *d, size_t i, unsigned n, ptx_ref *out)
{
    const struct ptx_operand *o = &d->in->operands[i];
    if (i >= d->in->n_operands || o->kind != OPERAND_VECTOR || o->n != n)
        return refuse(d, "a vector is missing or of another length");
    for (unsigned k = 0; k < n; k++) {
        if (o->v_bits[k] != 32 || o->v[k] == PTX_NONE) return refuse(d, "a vector's element has another type");
        out[k] = o->v[k];
    }
    return true;
}

static bool operands(struct decoder *d, size_t n)
{
    return d->in->n_operands == n || refuse(d, "the number of operands is another one");
}

static bool address(struct decoder *d, size_t i)
{
    const struct ptx_operand *o = &d->in->operands[i];
    if (i >= d->in->n_operands || o->kind != OPERAND_ADDRESS) return refuse(d, "an address is missing");
    d->out->a = o->place;
    d->out->mode = o->bits == 64;
    d->out->offset = o->place == PTX_NONE ? (int64_t)o->number + o->offset : o->offset;
    if (o->place != PTX_NONE && o->bits < 32) return refuse(d, "an address has another type");
    return true;
}

/* The next part of a name that has points between its parts; false after the last. */
static bool part(const char **at, char *out, size_t size)
{
    size_t n = strcspn(*at, ".");
    if (**at == 0 || n >= size) return false;
    memcpy(out, *at, n);
    out[n] = 0;
    *at += n + ((*at)[n] == '.');
    return true;
}

static bool is(const char *text, const char *word) { return strcmp(text, word) == 0; }

static bool memory_type(struct ptx_op *out, const char *word)
{
    if (!strchr("usbf", word[0])) return false;
    unsigned bits = (unsigned)strtoul(word + 1, NULL, 10);
    if (bits != 8 && bits != 16 && bits != 32 && bits != 64) return false;
    out->bytes = (uint8_t)(bits / 8);
    out->is_signed = word[0] == 's';
    return true;
}

static bool memory_part(struct ptx_op *out, const char *word, bool *spaced)
{
    static const char *const hints[] = {"nc", "ca", "cg", "cs", "lu", "cv", "wb", "wt"};
    static const char *const spaces[] = {"global", "shared", "local", "param", "const", "shared::cta"};
    static const uint8_t space_of[] = {SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL,
                                       SPACE_PARAM,  SPACE_GLOBAL, SPACE_SHARED};
    for (size_t i = 0; i < sizeof spaces / sizeof *spaces; i++)
        if (is(word, spaces[i])) {
            out->space = space_of[i];
            *spaced = true;
            return true;
        }
    out->unwritten = out->unwritten || is(word, "nc");
    for (size_t i = 0; i < sizeof hints / sizeof *hints; i++)
        if (is(word, hints[i])) return true;
    if (strncmp(word, "L1::", 4) == 0 || strncmp(word, "L2::", 4) == 0) return true;
    if (is(word, "v2") || is(word, "v4")) {
        out->n = (uint8_t)(word[1] - '0');
        return true;
    }
    return memory_type(out, word);
}

/* ld and st: a register may be wider than what lies in memory. */
static bool decode_memory(struct decoder *d, bool load)
{
    struct ptx_op *out = d->out;
    const struct ptx_operand *value = &d->in->operands[load ? 0 : 1];
    const char *at = d->in->name + 3;
    bool spaced = false;
    char word[24];
    out->kind = load ? KIND_LOAD : KIND_STORE;
    out->n = 1;
    while (part(&at, word, sizeof word))
        if (!memory_part(out, word, &spaced)) return refuse(d, "this form of access to memory is not known here");
    if (*at || out->bytes == 0 || !spaced) return refuse(d, "this form of access to memory is not known here");
    if (!operands(d, 2) || !address(d, load ? 1 : 0)) return false;
    bool is_vector = value->kind == OPERAND_VECTOR;
    if ((out->n > 1) != is_vector || (is_vector && value->n != out->n))
        return refuse(d, "the length of a vector is another one");
    for (unsigned k = 0; k < out->n; k++) {
        unsigned bits = is_vector ? value->v_bits[k] : value->bits;
        out->v[k] = is_vector ? value->v[k] : value->place;
        if (value->kind == OPERAND_NUMBER && !load) { /* a constant is stored */
            bits = out->bytes == 8 ? 64 : 32;
            if (!ptx_constant(d->kernel, value->number, bits, &out->v[k])) return refuse(d, "no memory");
        } else if (!is_vector && value->kind != OPERAND_REGISTER) {
            return refuse(d, "a register is missing");
        }
        if (out->v[k] != PTX_NONE && (bits < 16 || bits < out->bytes * 8u))
            return refuse(d, "a register is too narrow");
        if (out->v[k] == PTX_NONE && !load) return refuse(d, "a register is missing");
        out->wide[k] = bits == 64;
        if (bits == 16) out->is_signed = (uint8_t)(out->is_signed ? 2 : 0); /* extended to 16 bits only */
    }
    return true;
}

static bool decode_shuffle(struct decoder *d, const char *mode)
{
    static const char *const modes[] = {"up.b32", "down.b32", "bfly.b32", "idx.b32"};
    struct ptx_op *out = d->out;
    out->kind = KIND_SHUFFLE;
    for (out->mode = 0; out->mode < 4 && !is(mode, modes[out->mode]);) out->mode++;
    if (out->mode == 4) return refuse(d, "this shuffle is not known here");
    out->v[0] = d->in->n_operands > 0 ? d->in->operands[0].place2 : PTX_NONE;
    return operands(d, 5) && result(d, 0, 32, &out->d) && source(d, 1, 32, &out->a) && source(d, 2, 32, &out->b) &&
           source(d, 3, 32, &out->c) && source(d, 4, 32, &out->e);
}

static bool decode_vote(struct decoder *d, const char *mode)
{
    static const char *const modes[] = {"all.pred", "any.pred", "ballot.b32"};
    struct ptx_op *out = d->out;
    out->kind = KIND_VOTE;
    for (out->mode = 0; out->mode < 3 && !is(mode, modes[out->mode]);) out->mode++;
    if (out->mode == 3) return refuse(d, "this vote is not known here");
    return operands(d, 3) && result(d, 0, out->mode == VOTE_BALLOT ? 32 : 1, &out->d) && source(d, 1, 1, &out->a) &&
           source(d, 2, 32, &out->e);
}

static bool decode_ldmatrix(struct decoder *d, const char *at)
{
    struct ptx_op *out = d->out;
    bool typed = false, shared = false, transposed = false;
    char word[24];
    out->kind = KIND_LDMATRIX;
    while (part(&at, word, sizeof word)) {
        if (is(word, "x1") || is(word, "x2") || is(word, "x4")) out->n = (uint8_t)(word[1] - '0');
        else if (is(word, "trans")) transposed = true;
        else if (is(word, "shared") || is(word, "shared::cta")) shared = true;
        else if (is(word, "b16")) typed = true;
        else return refuse(d, "this load of matrices is not known here");
    }
    if (!typed || !shared || !out->n) return refuse(d, "this load of matrices is not known here");
    if (!operands(d, 2) || !vector(d, 0, out->n, out->v) || !address(d, 1)) return false;
    out->bytes = out->mode; /* the address has 64 bits */
    out->mode = transposed;
    return true;
}

static bool decode_mma(struct decoder *d)
{
    struct ptx_op *out = d->out;
    out->kind = KIND_MMA;
    return operands(d, 4) && vector(d, 0, 4, out->v) && vector(d, 1, 4, out->v + 4) &&
           vector(d, 2, 2, out->v + 8) && vector(d, 3, 4, out->v + 10);
}

static bool decode_insert(struct decoder *d, uint16_t kind, unsigned bits)
{
    struct ptx_op *out = d->out;
    out->kind = kind;
    return operands(d, 5) && result(d, 0, bits, &out->d) && source(d, 1, bits, &out->a) &&
           source(d, 2, bits, &out->b) && source(d, 3, 32, &out->c) && source(d, 4, 32, &out->e);
}

/* mov between a vector and a register that has room for all of it. */
static bool decode_pack(struct decoder *d)
{
    struct ptx_op *out = d->out;
    bool pack = d->in->operands[1].kind == OPERAND_VECTOR;
    const struct ptx_operand *v = &d->in->operands[pack ? 1 : 0];
    unsigned bits = is(d->in->name, "mov.b32") ? 32 : is(d->in->name, "mov.b64") ? 64 : 0;
    if (!operands(d, 2) || bits == 0 || v->n < 2 || bits % v->n)
        return refuse(d, "this move of a vector is not known here");
    out->kind = pack ? KIND_PACK : KIND_UNPACK;
    out->n = v->n;
    out->bytes = (uint8_t)(bits / v->n / 8);
    for (unsigned k = 0; k < v->n; k++) {
        if (v->v[k] == PTX_NONE ? pack : v->v_bits[k] != bits / v->n)
            return refuse(d, "a vector's element has another type");
        out->v[k] = v->v[k];
    }
    return pack ? result(d, 0, bits, &out->d) : source(d, 1, bits, &out->a);
}

static bool decode_lanes(struct decoder *d)
{
    const struct lane_name *name = lane_names;
    while (name < lane_names + N_LANE_NAMES && !is(name->text, d->in->name)) name++;
    if (name == lane_names + N_LANE_NAMES) return refuse(d, "this instruction is not known here");
    struct ptx_op *out = d->out;
    ptx_ref *const sources[3] = {&out->a, &out->b, &out->c};
    out->kind = name->kind;
    if (!operands(d, name->n_sources + 1u) || !result(d, 0, name->bits[0], &out->d)) return false;
    if (d->in->operands[0].place2 != PTX_NONE) return refuse(d, "a second result is not known here");
    for (size_t i = 0; i < name->n_sources; i++)
        if (!source(d, i + 1, name->bits[i + 1], sources[i])) return false;
    return true;
}

static bool starts(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

static bool decode_any(struct decoder *d)
{
    const char *name = d->in->name;
    const struct ptx_operand *first = &d->in->operands[0];
    struct ptx_op *out = d->out;
    if (is(name, "bra") || is(name, "bra.uni")) {
        out->kind = KIND_BRANCH;
        return operands(d, 1) && (first->kind == OPERAND_LABEL || refuse(d, "a label is missing"));
    }
    if (is(name, "ret") || is(name, "exit")) {
        out->kind = KIND_RETURN;
        return operands(d, 0);
    }
    if (is(name, "bar.sync") || is(name, "barrier.sync.aligned")) {
        out->kind = KIND_BARRIER;
        return operands(d, 1) && ((first->kind == OPERAND_NUMBER && first->number == 0) ||
                                  refuse(d, "only barrier 0 of the whole group is known here"));
    }
    if (is(name, "bar.warp.sync")) {
        out->kind = KIND_WARP_BARRIER;
        return operands(d, 1) && source(d, 0, 32, &out->e);
    }
    if (is(name, "griddepcontrol.wait") || is(name, "griddepcontrol.launch_dependents")) {
        out->kind = is(name, "griddepcontrol.wait") ? KIND_GRID_WAIT : KIND_GRID_LAUNCH;
        d->kernel->waits = d->kernel->waits || out->kind == KIND_GRID_WAIT;
        return operands(d, 0);
    }
    if (starts(name, "ld.")) return decode_memory(d, true);
    if (starts(name, "st.")) return decode_memory(d, false);
    if (starts(name, "shfl.sync.")) return decode_shuffle(d, name + strlen("shfl.sync."));
    if (starts(name, "vote.sync.")) return decode_vote(d, name + strlen("vote.sync."));
    if (starts(name, "ldmatrix.sync.aligned.m8n8."))
        return decode_ldmatrix(d, name + strlen("ldmatrix.sync.aligned.m8n8."));
    if (is(name, "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32")) return decode_mma(d);
    if (is(name, "bfi.b32")) return decode_insert(d, KIND_FIELD_32, 32);
    if (is(name, "bfi.b64")) return decode_insert(d, KIND_FIELD_64, 64);
    if (starts(name, "mov.") && (first->kind == OPERAND_VECTOR || d->in->operands[1].kind == OPERAND_VECTOR))
        return decode_pack(d);
    return decode_lanes(d);
}

bool ptx_decode(struct ptx_kernel *kernel, const struct ptx_instruction *in, struct ptx_op *out, const char **why)
{
    struct decoder d = {kernel, in, out, NULL};
    memset(out, 0, sizeof *out);
    out->guard = in->guard;
    out->guard_not = in->guard_not;
    out->d = out->a = out->b = out->c = out->e = PTX_NONE;
    for (size_t i = 0; i < PTX_VECTOR_MAX; i++) out->v[i] = PTX_NONE;
    out->line = in->line;
    bool good = decode_any(&d);
    *why = d.why;
    return good;
}
