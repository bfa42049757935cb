/* reader.c - the threads that read experts. A thread takes the next piece of the first slot in the queue of demands
 * (when that is empty, of what is brought ahead, or else of the hot set), reads it without the lock, and the one that
 * brings the last piece of a slot publishes it. */
#include "base/clock.h"
#include "base/hash.h"
#include "stream/internal.h"

/* Part p of a slot begins where the parts before it end, each rounded to pages, one more for its offset in a page. */
static uint64_t part_base(const struct stream_layer *layer, uint32_t part_i)
{
    uint64_t base = 0;
    for (uint32_t p = 0; p < part_i; p++)
        base += (layer->parts[p].stack_bytes + 2 * FILE_BLOCK_BYTES - 1) & ~(uint64_t)(FILE_BLOCK_BYTES - 1);
    return base;
}

static uint64_t file_offset(const struct stream_part *part, uint32_t expert_i)
{
    return part->offset + expert_i * part->stack_bytes;
}

uint8_t *stream_part_address(const struct stream *s, uint32_t slot_i, uint32_t key, uint32_t part_i)
{
    const struct stream_layer *layer = &s->layers[key / s->c.n_experts];
    uint64_t at = file_offset(&layer->parts[part_i], key % s->c.n_experts);
    return s->memory + slot_i * s->size.slot_bytes + part_base(layer, part_i) + at % FILE_BLOCK_BYTES;
}

bool stream_piece(const struct stream *s, uint32_t slot_i, uint32_t i, struct piece *out)
{
    uint32_t key = s->slots.slots[slot_i].key;
    const struct stream_layer *layer = &s->layers[key / s->c.n_experts];
    for (uint32_t p = 0; p < layer->n_parts; p++) {
        const struct stream_part *part = &layer->parts[p];
        uint64_t at = file_offset(part, key % s->c.n_experts), skip = at % FILE_BLOCK_BYTES;
        uint64_t bytes = skip + part->stack_bytes;
        uint32_t n = (uint32_t)((bytes + PIECE_BYTES - 1) / PIECE_BYTES);
        if (i >= n) {
            i -= n;
            continue;
        }
        uint64_t from = (uint64_t)i * PIECE_BYTES, left = bytes - from;
        *out = (struct piece){&s->files[part->file_i], at - skip + from,
                              s->memory + slot_i * s->size.slot_bytes + part_base(layer, p) + from,
                              left < PIECE_BYTES ? (size_t)left : PIECE_BYTES};
        return true;
    }
    return false;
}

uint64_t stream_checksum(const struct stream *s, uint32_t slot_i, uint32_t key)
{
    const struct stream_layer *layer = &s->layers[key / s->c.n_experts];
    uint64_t sums[STREAM_PARTS_MAX] = {0};
    for (uint32_t p = 0; p < layer->n_parts; p++)
        sums[p] = hash_u64(stream_part_address(s, slot_i, key, p), (size_t)layer->parts[p].stack_bytes);
    uint64_t sum = hash_u64(sums, sizeof sums);
    return sum ? sum : 1;
}

void stream_push(const struct stream *s, struct read_queue *q, uint32_t slot_i)
{
    q->items[(q->head + q->n++) % s->size.n_slots] = slot_i;
}

void stream_fail(struct stream *s, const struct ds4_error *error)
{
    if (!atomic_load(&s->failed)) s->error = *error;
    atomic_store(&s->failed, true);
    pthread_cond_broadcast(&s->done);
}

/* The next piece to read; false when there is none. */
static bool take_piece(struct stream *s, uint32_t *slot_i, struct piece *piece)
{
    struct read_queue *queues[3] = {&s->demand, &s->ahead, &s->idle};
    for (int k = 0; k < 3; k++) {
        struct read_queue *q = queues[k];
        if (q->n == 0) continue;
        *slot_i = q->items[q->head];
        struct piece after;
        bool there = stream_piece(s, *slot_i, s->n_issued[*slot_i]++, piece);
        ensure(there);
        s->slots.slots[*slot_i].n_left++;
        if (!stream_piece(s, *slot_i, s->n_issued[*slot_i], &after)) {
            q->head = (q->head + 1) % s->size.n_slots;
            q->n--;
        }
        return true;
    }
    return false;
}

/* Reads a piece and looks whether the file is still what it was. */
static enum ds4_status read_piece(const struct piece *piece, struct ds4_error *error)
{
    const struct open_file *file = piece->file;
    TRY(file_read_blocks(file->fd, file->path, piece->at, piece->to, piece->n, error));
    return stream_compare_file(file, file->fd, error);
}

/* With --paranoid: the same expert must read the same as the first time. Called without the lock: the slot is ours. */
static enum ds4_status check_sum(struct stream *s, uint32_t slot_i, uint32_t key, struct ds4_error *error)
{
    if (!s->c.paranoid) return DS4_OK;
    uint64_t sum = stream_checksum(s, slot_i, key), before = s->sums[key];
    s->sums[key] = sum;
    if (before == 0 || before == sum) return DS4_OK;
    return err_set(error, DS4_ERR_FORMAT, "expert %u of layer %u reads differently than before (checksum %016llx, "
                   "then %016llx): the disk or the memory is not sound", key % s->c.n_experts, key / s->c.n_experts,
                   (unsigned long long)before, (unsigned long long)sum);
}

/* All pieces are there. */
static void publish(struct stream *s, uint32_t slot_i)
{
    struct slot *slot = &s->slots.slots[slot_i];
    uint32_t key = slot->key, layer_i = key / s->c.n_experts, expert_i = key % s->c.n_experts;
    slot->state = SLOT_READY;
    for (uint32_t p = 0; p < s->layers[layer_i].n_parts; p++)
        __atomic_store_n(&s->at[(layer_i * STREAM_PARTS_MAX + p) * s->c.n_experts + expert_i],
                         stream_part_address(s, slot_i, key, p), __ATOMIC_RELEASE);
}

/* A piece was read or failed. lock is held; it is let go while a checksum is computed. */
static void finish_piece(struct stream *s, uint32_t slot_i, enum ds4_status status, const struct ds4_error *error)
{
    struct slot *slot = &s->slots.slots[slot_i];
    struct piece more;
    struct ds4_error sum_error = {0};
    slot->n_left--;
    if (status != DS4_OK) {
        slot->failed = true;
        if (!slot->ahead) stream_fail(s, error);
        else s->ahead_error = *error; /* nobody asked for it yet */
    }
    if (slot->n_left || stream_piece(s, slot_i, s->n_issued[slot_i], &more)) return;
    if (!slot->failed && s->c.paranoid) {
        uint32_t key = slot->key;
        pthread_mutex_unlock(&s->lock);
        status = check_sum(s, slot_i, key, &sum_error);
        pthread_mutex_lock(&s->lock);
        slot->failed = status != DS4_OK;
        if (slot->failed) stream_fail(s, &sum_error);
    }
    if (slot->failed && !slot->ahead) stream_fail(s, &s->ahead_error); /* asked for after it failed; else no effect */
    if (slot->failed) slots_drop(&s->slots, slot_i);
    else publish(s, slot_i);
    s->n_loading--;
    pthread_cond_broadcast(&s->done);
}

static void count_reading(struct stream *s, int change)
{
    uint64_t now = clock_ns();
    if (s->n_reading) s->figures.read_seconds += (double)(now - s->reading_since_ns) * 1e-9;
    s->reading_since_ns = now;
    s->n_reading += (uint32_t)change;
}

void *stream_reader(void *stream)
{
    struct stream *s = stream;
    uint32_t slot_i;
    struct piece piece;
    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        if (!take_piece(s, &slot_i, &piece)) {
            pthread_cond_wait(&s->work, &s->lock);
            continue;
        }
        struct ds4_error error = {0};
        enum ds4_status status = DS4_ERR_CANCELLED;
        if (!atomic_load(&s->failed)) {
            count_reading(s, 1);
            pthread_mutex_unlock(&s->lock);
            status = read_piece(&piece, &error);
            pthread_mutex_lock(&s->lock);
            count_reading(s, -1);
            s->figures.read_bytes += piece.n;
        }
        finish_piece(s, slot_i, status, &error);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}
