/* memory.c - loads and stores of the lanes of a warp, each checked: the region or array that it falls in, its
 * alignment, and for stores whether the region may be written. */
#include <string.h>

#include "gpu/ptx/impl.h"

static bool fail(struct ptx_fault *fault, uint32_t lane, uint64_t address, const char *what)
{
    if (!fault->failed) *fault = (struct ptx_fault){true, lane, address, what};
    return false;
}

static uint64_t address_of(const struct ptx_op *op, const uint8_t *regs, uint32_t lane, bool wide)
{
    if (op->a == PTX_NONE) return (uint64_t)op->offset;
    if (wide) {
        uint64_t base;
        memcpy(&base, regs + op->a + lane * 8, 8);
        return base + (uint64_t)op->offset;
    }
    uint32_t base;
    memcpy(&base, regs + op->a + lane * 4, 4);
    return (uint32_t)(base + (uint64_t)op->offset);
}

static const struct ptx_region *region_of(const struct ptx_memory *memory, uint64_t address, uint64_t bytes)
{
    for (size_t i = 0; memory && i < memory->n_regions; i++) {
        const struct ptx_region *r = &memory->regions[i];
        uint64_t first = (uint64_t)(uintptr_t)r->first;
        if (address >= first && address - first <= r->bytes && bytes <= r->bytes - (address - first)) return r;
    }
    return NULL;
}

static bool may_write(const struct ptx_memory *memory, uint64_t address, uint64_t bytes)
{
    for (size_t i = 0; i < memory->n_regions; i++) {
        const struct ptx_region *r = &memory->regions[i];
        const struct ptx_memory one = {r, 1};
        if (r->writable && region_of(&one, address, bytes)) return true;
    }
    return false;
}

/* The bytes at an address of global memory; NULL: a fault. */
static uint8_t *global_at(const struct ptx_room *room, const struct ptx_op *op, uint64_t address, uint32_t bytes,
                          bool write, uint32_t lane, struct ptx_fault *fault)
{
    if (region_of(room->memory, address, bytes)) {
        if (room->early >> lane & 1) {
            (void)fail(fault, lane, address, "an access of memory ahead of the wait for the kernel before");
            return NULL;
        }
        if (op->unwritten && room->kernel->waits) {
            (void)fail(fault, lane, address, "ld.global.nc of memory that the kernel before may still write");
            return NULL;
        }
        if (write && !may_write(room->memory, address, bytes)) {
            (void)fail(fault, lane, address, "a store to memory that is read-only");
            return NULL;
        }
        return (uint8_t *)(uintptr_t)address;
    }
    for (const struct ptx_global *g = room->kernel->module->globals; g; g = g->next) {
        const struct ptx_region table = {g->bytes, g->n_bytes, false};
        const struct ptx_memory one = {&table, 1};
        if (!region_of(&one, address, bytes)) continue;
        if (!write) return (uint8_t *)(uintptr_t)address;
        (void)fail(fault, lane, address, "a store to a table");
        return NULL;
    }
    (void)fail(fault, lane, address, "an access outside of the memory that was given");
    return NULL;
}

/* The bytes at an address; NULL: a fault. */
static uint8_t *at(const struct ptx_room *room, const struct ptx_op *op, uint64_t address, uint32_t bytes, bool write,
                   uint32_t lane, struct ptx_fault *fault)
{
    const struct ptx_kernel *kernel = room->kernel;
    if (address % bytes != 0) {
        (void)fail(fault, lane, address, "a misaligned access");
        return NULL;
    }
    switch (op->space) {
    case SPACE_GLOBAL: return global_at(room, op, address, bytes, write, lane, fault);
    case SPACE_SHARED:
        if (address < kernel->shared_bytes && address + bytes <= kernel->shared_bytes && room->owner[address] &&
            room->owner[address] == room->owner[address + bytes - 1])
            return room->shared + address;
        (void)fail(fault, lane, address, "an access outside of the arrays of shared memory");
        return NULL;
    case SPACE_LOCAL:
        if (address + bytes <= kernel->local_bytes && address < kernel->local_bytes)
            return room->local + (size_t)lane * kernel->local_bytes + address;
        (void)fail(fault, lane, address, "an access outside of local memory");
        return NULL;
    default:
        if (!write && address >= PTX_PARAM_FIRST && address < kernel->params_end &&
            address + bytes <= kernel->params_end)
            return room->params + (address - PTX_PARAM_FIRST);
        (void)fail(fault, lane, address, "an access outside of the parameters");
        return NULL;
    }
}

static uint64_t extended(uint64_t value, const struct ptx_op *op)
{
    unsigned unused = 64 - op->bytes * 8u;
    if (!op->is_signed) return value;
    value = (uint64_t)((int64_t)(value << unused) >> unused);
    return op->is_signed == 2 ? value & 0xffff : value;
}

static void put(const struct ptx_op *op, unsigned k, uint8_t *regs, uint32_t lane, uint64_t value)
{
    uint32_t low = (uint32_t)value;
    if (op->v[k] == PTX_NONE) return;
    if (op->wide[k]) memcpy(regs + op->v[k] + lane * 8, &value, 8);
    else memcpy(regs + op->v[k] + lane * 4, &low, 4);
}

/* Words of 4 bytes, the most frequent, without a loop over a word's bytes. */
static void load_words(const struct ptx_op *op, uint8_t *regs, uint32_t lane, const uint8_t *from)
{
    for (unsigned k = 0; k < op->n; k++) {
        uint32_t word;
        memcpy(&word, from + k * 4, 4);
        if (op->wide[k]) put(op, k, regs, lane, extended(word, op));
        else if (op->v[k] != PTX_NONE) memcpy(regs + op->v[k] + lane * 4, &word, 4);
    }
}

bool ptx_load_lanes(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, uint32_t lanes,
                    struct ptx_fault *fault)
{
    uint8_t bases[8 * PTX_LANES]; /* a copy: the result may lie in the register of the address */
    struct ptx_op from = *op;
    if (op->a != PTX_NONE) memcpy(bases, regs + op->a, op->mode ? 8 * PTX_LANES : 4 * PTX_LANES);
    from.a = op->a == PTX_NONE ? PTX_NONE : 0;
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        uint32_t lane = (uint32_t)__builtin_ctz(rest);
        uint64_t address = address_of(&from, bases, lane, op->mode);
        const uint8_t *bytes = at(room, op, address, (uint32_t)op->bytes * op->n, false, lane, fault);
        if (!bytes) return false;
        if (op->bytes == 4) {
            load_words(op, regs, lane, bytes);
            continue;
        }
        for (unsigned k = 0; k < op->n; k++) {
            uint64_t value = 0;
            memcpy(&value, bytes + k * op->bytes, op->bytes);
            put(op, k, regs, lane, extended(value, op));
        }
    }
    return true;
}

bool ptx_store_lanes(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, uint32_t lanes,
                     struct ptx_fault *fault)
{
    for (uint32_t rest = lanes; rest; rest &= rest - 1) {
        uint32_t lane = (uint32_t)__builtin_ctz(rest);
        uint64_t address = address_of(op, regs, lane, op->mode);
        uint8_t *bytes = at(room, op, address, (uint32_t)op->bytes * op->n, true, lane, fault);
        if (!bytes) return false;
        for (unsigned k = 0; k < op->n; k++) {
            const uint8_t *value = ptx_place(op->v[k], regs, room->kernel->constants);
            memcpy(bytes + k * op->bytes, value + (size_t)lane * (op->wide[k] ? 8 : 4), op->bytes);
        }
    }
    return true;
}

/* Matrices of 8 x 8 halves: lanes 8 m to 8 m + 7 name the rows of matrix m, 16 bytes each; a lane gets two neighbours
 * of row lane / 4 of each matrix, or with .trans of its column. */
bool ptx_load_matrices(const struct ptx_room *room, const struct ptx_op *op, uint8_t *regs, struct ptx_fault *fault)
{
    const struct ptx_op from = {.space = SPACE_SHARED, .a = op->a, .offset = op->offset};
    uint16_t matrices[4][8][8];
    for (uint32_t lane = 0; lane < op->n * 8u; lane++) {
        uint64_t address = address_of(&from, regs, lane, op->bytes);
        const uint8_t *row = at(room, &from, address, 16, false, lane, fault);
        if (!row) return false;
        memcpy(matrices[lane / 8][lane % 8], row, 16);
    }
    for (uint32_t m = 0; m < op->n; m++)
        for (uint32_t lane = 0; lane < PTX_LANES; lane++) {
            uint32_t row = lane / 4, col = lane % 4 * 2;
            uint16_t low = op->mode ? matrices[m][col][row] : matrices[m][row][col];
            uint16_t high = op->mode ? matrices[m][col + 1][row] : matrices[m][row][col + 1];
            uint32_t both = (uint32_t)low | (uint32_t)high << 16;
            memcpy(regs + op->v[m] + lane * 4, &both, 4);
        }
    return true;
}
