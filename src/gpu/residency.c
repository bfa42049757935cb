/* residency.c - see residency.h. */
#include "gpu/residency.h"

#ifdef __APPLE__
#define PAGE ((uintptr_t)16384)
#else
#define PAGE ((uintptr_t)4096)
#endif

/* The largest share below `below`; negative when there is none. */
static double next_share(const struct residency_piece *pieces, size_t n, double below)
{
    double share = -1;
    for (size_t i = 0; i < n; i++)
        if (pieces[i].share < below && pieces[i].share > share) share = pieces[i].share;
    return share;
}

/* Where the stacks of piece i's layer lie, decided with the first of them: on the device when there is room for all. */
static enum residency_place place_stack(const struct residency_piece *pieces, size_t n, size_t i, uint64_t *left)
{
    uint64_t bytes = 0;
    for (size_t k = 0; k < i; k++)
        if (pieces[k].stack == pieces[i].stack) return pieces[k].place;
    for (size_t k = i; k < n; k++) bytes += pieces[k].stack == pieces[i].stack ? pieces[k].bytes : 0;
    if (bytes > *left) return RESIDENCY_DISK;
    *left -= bytes;
    return RESIDENCY_DEVICE;
}

void residency_decide(struct residency_piece *pieces, size_t n, uint64_t device_bytes, uint64_t host_bytes,
                      struct residency *out)
{
    uint64_t left[RESIDENCY_PLACES] = {device_bytes, host_bytes, UINT64_MAX};
    *out = (struct residency){0};
    for (double share = next_share(pieces, n, 2); share >= 0; share = next_share(pieces, n, share)) {
        for (size_t i = 0; i < n; i++) {
            struct residency_piece *piece = &pieces[i];
            if (piece->share < share || piece->share > share) continue;
            piece->place = RESIDENCY_DEVICE;
            if (piece->stack) {
                piece->place = place_stack(pieces, n, i, &left[RESIDENCY_DEVICE]);
                if (piece->place == RESIDENCY_DISK) out->streamed += piece->bytes;
            } else {
                while (piece->bytes > left[piece->place]) piece->place++; /* disk has room for all */
                left[piece->place] -= piece->bytes;
            }
            out->bytes[piece->place] += piece->bytes;
            out->per_token[piece->place] += (uint64_t)((double)piece->bytes * piece->share);
        }
    }
}

static const uint8_t *page_before(const uint8_t *at) { return at - (uintptr_t)at % PAGE; }
static const uint8_t *page_after(const uint8_t *at) { return at + (PAGE - (uintptr_t)at % PAGE) % PAGE; }

/* The piece that continues a run that ends at `end` and whose next piece is i: the next one when it lies in the same
 * place; on the host also one that begins in the run's last page, with what lies between. n when there is none. */
static size_t continuation(const struct residency_piece *pieces, size_t n, size_t i, const uint8_t *end,
                           enum residency_place place)
{
    size_t k = i;
    if (place == RESIDENCY_HOST)
        while (k < n && pieces[k].place != place && pieces[k].first < page_after(end)) k++;
    if (k == n || pieces[k].place != place || (k > i && pieces[k].first >= page_after(end))) return n;
    return k;
}

bool residency_next_run(const struct residency_piece *pieces, size_t n, size_t *next, struct residency_run *run)
{
    size_t i = *next, k;
    if (i == n) return false;
    const uint8_t *first = pieces[i].first, *end = first + pieces[i].bytes;
    enum residency_place place = pieces[i].place;
    for (i++; (k = continuation(pieces, n, i, end, place)) < n; i = k + 1) end = pieces[k].first + pieces[k].bytes;
    if (place == RESIDENCY_HOST) {
        first = page_before(first);
        end = page_after(end);
    }
    *run = (struct residency_run){first, (uint64_t)(end - first), place};
    *next = i;
    return true;
}
