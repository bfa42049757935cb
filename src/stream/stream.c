/* stream.c - the pool: its memory, demands, and what a pass does with it. See stream.h. */
#include "stream/stream.h"

#include "base/clock.h"
#include "base/mem.h"
#include "stream/internal.h"

/* ---- size and memory ---------------------------------------------------------------------------------------- */

/* Lays arrays out one behind another; with base NULL it only counts. */
struct layout {
    uint8_t *base;
    uint64_t used;
};

static void *take(struct layout *l, uint64_t count, uint64_t size)
{
    uint64_t at = l->used;
    l->used = (l->used + count * size + 63) & ~(uint64_t)63;
    return l->base ? l->base + at : NULL;
}

static void lay_out(const struct stream_config *c, uint32_t n_slots, struct layout *l, struct stream *s)
{
    uint64_t n_keys = (uint64_t)c->n_layers * c->n_experts;
    s->layers = take(l, c->n_layers, sizeof *s->layers);
    s->at = take(l, n_keys * STREAM_PARTS_MAX, sizeof *s->at);
    s->sums = c->paranoid ? take(l, n_keys, sizeof *s->sums) : NULL;
    s->counts = take(l, c->n_experts, sizeof *s->counts);
    s->ids = take(l, (uint64_t)c->n_rows_max * c->n_used, sizeof *s->ids);
    s->n_issued = take(l, n_slots, sizeof *s->n_issued);
    s->demand.items = take(l, n_slots, sizeof *s->demand.items);
    s->ahead.items = take(l, n_slots, sizeof *s->ahead.items);
    s->idle.items = take(l, n_slots, sizeof *s->idle.items);
    s->slots.slots = take(l, n_slots, sizeof *s->slots.slots);
    s->slots.slot_of = take(l, n_keys, sizeof *s->slots.slot_of);
    s->slots.habits.fast = take(l, n_keys, sizeof(double));
    s->slots.habits.slow = take(l, n_keys, sizeof(double));
    s->slots.habits.sorted = take(l, n_keys, sizeof(double));
    s->slots.habits.pinned = take(l, n_keys, sizeof(bool));
}

static uint64_t table_bytes(const struct stream_config *c, uint32_t n_slots)
{
    struct layout l = {0};
    struct stream counted;
    lay_out(c, n_slots, &l, &counted);
    return sizeof(struct stream) + l.used;
}

static uint64_t total_bytes(const struct stream_config *c, uint64_t slot_bytes, uint32_t n_slots)
{
    return table_bytes(c, n_slots) + (n_slots + 1ull) * slot_bytes;
}

void stream_size(const struct stream_config *c, struct stream_size *out)
{
    *out = (struct stream_size){0};
    for (uint32_t l = 0; l < c->n_layers; l++) {
        uint64_t bytes = 0;
        for (uint32_t p = 0; p < c->layers[l].n_parts; p++)
            bytes += (c->layers[l].parts[p].stack_bytes + 2 * FILE_BLOCK_BYTES - 1) & ~(uint64_t)(FILE_BLOCK_BYTES - 1);
        if (bytes > out->slot_bytes) out->slot_bytes = bytes;
        if (c->layers[l].n_parts) out->n_experts += c->n_experts;
    }
    uint64_t named = (uint64_t)c->n_rows_max * c->n_used;
    out->n_need = named < c->n_experts ? (uint32_t)named : c->n_experts;
    out->least_bytes = total_bytes(c, out->slot_bytes, out->n_need);
    uint32_t low = 0, high = out->n_experts; /* the most slots that the budget pays */
    while (low < high) {
        uint32_t middle = low + (high - low + 1) / 2;
        if (total_bytes(c, out->slot_bytes, middle) <= c->budget_bytes) low = middle;
        else high = middle - 1;
    }
    out->n_slots = low;
    out->bytes = total_bytes(c, out->slot_bytes, low);
}

/* ---- opening ------------------------------------------------------------------------------------------------- */

enum ds4_status stream_compare_file(const struct open_file *file, int fd, struct ds4_error *error)
{
    struct file_id now;
    TRY(file_identity(fd, file->path, &now, error));
    if (now.inode != file->id.inode) return err_set(error, DS4_ERR_STATE, "%s was replaced while in use", file->path);
    if (now.size_bytes == file->id.size_bytes && now.mtime_ns == file->id.mtime_ns) return DS4_OK;
    return err_set(error, DS4_ERR_STATE, "%s was changed while in use (%llu bytes, %llu when it was opened)",
                   file->path, (unsigned long long)now.size_bytes, (unsigned long long)file->id.size_bytes);
}

static enum ds4_status open_files(struct stream *s, struct ds4_error *error)
{
    for (uint32_t i = 0; i < s->c.n_files; i++) {
        struct open_file *file = &s->files[i];
        size_t n = strlen(s->c.files[i].path) + 1;
        file->path = mem_alloc(n, 1);
        if (!file->path) return err_set(error, DS4_ERR_NOMEM, "no memory to open the model for streaming");
        memcpy(file->path, s->c.files[i].path, n);
        file->id = s->c.files[i].id;
        TRY(file_open(file->path, FILE_READ_BLOCKS, &file->fd, error));
        TRY(stream_compare_file(file, file->fd, error));
    }
    return DS4_OK;
}

static enum ds4_status start_readers(struct stream *s, struct ds4_error *error)
{
    uint32_t n = s->c.n_readers ? s->c.n_readers : STREAM_READERS_DEFAULT;
    if (n > STREAM_READERS_MAX) n = STREAM_READERS_MAX;
    for (; s->n_threads < n; s->n_threads++) {
        int number = pthread_create(&s->threads[s->n_threads], NULL, stream_reader, s);
        if (number != 0) return err_os(error, number, "cannot start a thread that reads experts");
    }
    return DS4_OK;
}

static enum ds4_status allocate(struct stream *s, struct ds4_error *error)
{
    struct layout l = {0};
    lay_out(&s->c, s->size.n_slots, &l, s);
    s->tables = mem_zalloc((size_t)l.used, 1);
    s->memory_bytes = (s->size.n_slots + 1ull) * s->size.slot_bytes;
    s->memory = s->tables ? mem_map((size_t)s->memory_bytes) : NULL;
    if (!s->memory)
        return err_set(error, DS4_ERR_NOMEM, "no memory for an expert cache of %llu bytes",
                       (unsigned long long)s->size.bytes);
    l = (struct layout){.base = s->tables};
    lay_out(&s->c, s->size.n_slots, &l, s);
    memcpy(s->layers, s->c.layers, s->c.n_layers * sizeof *s->layers);
    slots_init(&s->slots, s->c.n_layers, s->c.n_experts, s->size.n_slots);
    return DS4_OK;
}

enum ds4_status stream_create(const struct stream_config *c, struct stream **out, struct ds4_error *error)
{
    struct stream_size size;
    stream_size(c, &size);
    ensure(c->n_files <= STREAM_FILES_MAX);
    if (size.n_slots < size.n_need)
        return err_set(error, DS4_ERR_LIMIT, "an expert cache of %llu bytes holds %u experts; a batch of %u tokens may "
                       "need %u of one layer: give it at least %llu bytes, or make the batches smaller",
                       (unsigned long long)c->budget_bytes, size.n_slots, c->n_rows_max, size.n_need,
                       (unsigned long long)size.least_bytes);
    struct stream *s = mem_zalloc(1, sizeof *s);
    if (!s) return err_set(error, DS4_ERR_NOMEM, "no memory for an expert cache");
    s->c = *c;
    s->size = size;
    for (uint32_t i = 0; i < STREAM_FILES_MAX; i++) s->files[i].fd = -1;
    (void)pthread_mutex_init(&s->lock, NULL);
    (void)pthread_cond_init(&s->work, NULL);
    (void)pthread_cond_init(&s->done, NULL);
    enum ds4_status status = allocate(s, error);
    if (status == DS4_OK) status = open_files(s, error);
    if (status == DS4_OK) status = start_readers(s, error);
    if (status != DS4_OK) {
        stream_destroy(s);
        return status;
    }
    s->figures.n_slots = size.n_slots;
    s->figures.bytes = size.bytes;
    *out = s;
    return DS4_OK;
}

void stream_destroy(struct stream *s)
{
    if (!s) return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < s->n_threads; i++) (void)pthread_join(s->threads[i], NULL);
    for (uint32_t i = 0; i < STREAM_FILES_MAX; i++) {
        file_close(s->files[i].fd);
        mem_free(s->files[i].path);
    }
    mem_unmap(s->memory, (size_t)s->memory_bytes);
    mem_free(s->tables);
    (void)pthread_cond_destroy(&s->done);
    (void)pthread_cond_destroy(&s->work);
    (void)pthread_mutex_destroy(&s->lock);
    mem_free(s);
}

/* ---- addresses ----------------------------------------------------------------------------------------------- */

static const uint8_t **table_of(const struct stream *s, uint32_t layer_i, uint32_t part_i)
{
    return s->at + ((size_t)layer_i * STREAM_PARTS_MAX + part_i) * s->c.n_experts;
}

const uint8_t *const *stream_table(const struct stream *s, uint32_t layer_i, uint32_t part_i)
{
    return table_of(s, layer_i, part_i);
}

const uint8_t *stream_wait(struct stream *s, uint32_t layer_i, uint32_t part_i, uint32_t expert_i)
{
    const uint8_t **at = &table_of(s, layer_i, part_i)[expert_i], *found;
    pthread_mutex_lock(&s->lock);
    uint64_t since = clock_ns();
    if (s->n_waiting++ == 0) s->waiting_since_ns = since;
    while (!(found = __atomic_load_n(at, __ATOMIC_ACQUIRE)) && !atomic_load(&s->failed))
        pthread_cond_wait(&s->done, &s->lock);
    if (--s->n_waiting == 0) s->figures.stall_seconds += clock_seconds_since(s->waiting_since_ns);
    pthread_mutex_unlock(&s->lock);
    return found ? found : s->memory + s->size.n_slots * s->size.slot_bytes;
}

/* The expert has no place any more. */
static void unpublish(struct stream *s, uint32_t key)
{
    if (key == SLOT_NONE) return;
    for (uint32_t p = 0; p < STREAM_PARTS_MAX; p++)
        __atomic_store_n(&table_of(s, key / s->c.n_experts, p)[key % s->c.n_experts], NULL, __ATOMIC_RELEASE);
}

/* ---- demands -------------------------------------------------------------------------------------------------- */

/* Fills counts from ids; the number of different experts. */
static uint32_t count_ids(struct stream *s, uint32_t n)
{
    uint32_t n_different = 0;
    memset(s->counts, 0, s->c.n_experts * sizeof *s->counts);
    for (uint32_t i = 0; i < n; i++) {
        ensure(s->ids[i] >= 0 && (uint32_t)s->ids[i] < s->c.n_experts);
        n_different += s->counts[s->ids[i]]++ == 0;
    }
    return n_different;
}

/* What the table of slots says and what products would read must be the same; with --paranoid the bytes, too. */
static enum ds4_status verify(struct stream *s, uint32_t slot_i, uint32_t key, struct ds4_error *error)
{
    const struct slot *slot = &s->slots.slots[slot_i];
    uint32_t layer_i = key / s->c.n_experts, expert_i = key % s->c.n_experts;
    bool same = slot->key == key;
    for (uint32_t p = 0; same && slot->state == SLOT_READY && p < s->layers[layer_i].n_parts; p++)
        same = table_of(s, layer_i, p)[expert_i] == stream_part_address(s, slot_i, key, p);
    if (!same)
        return err_set(error, DS4_ERR_STATE, "slot %u of the expert cache does not hold expert %u of layer %u", slot_i,
                       expert_i, layer_i);
    if (!s->c.paranoid || slot->state != SLOT_READY || stream_checksum(s, slot_i, key) == s->sums[key]) return DS4_OK;
    return err_set(error, DS4_ERR_FORMAT, "expert %u of layer %u has changed in memory: its checksum is not that of "
                   "what was read", expert_i, layer_i);
}

/* False when the slot is not in the queue. */
static bool take_out(struct stream *s, struct read_queue *q, uint32_t slot_i)
{
    for (uint32_t i = 0; i < q->n; i++) {
        if (q->items[(q->head + i) % s->size.n_slots] != slot_i) continue;
        for (; i + 1 < q->n; i++)
            q->items[(q->head + i) % s->size.n_slots] = q->items[(q->head + i + 1) % s->size.n_slots];
        q->n--;
        return true;
    }
    return false;
}

/* Moves a slot from the queues of what is brought ahead to that of demands, unless all its reads are under way. */
static void hurry(struct stream *s, uint32_t slot_i)
{
    if (take_out(s, &s->ahead, slot_i) || take_out(s, &s->idle, slot_i)) stream_push(s, &s->demand, slot_i);
}

static void want_present(struct stream *s, uint32_t slot_i, uint32_t key)
{
    struct slot *slot = &s->slots.slots[slot_i];
    struct ds4_error error = {0};
    slot->epoch = s->slots.epoch;
    if (slot->ahead) s->figures.n_ahead++;
    else s->figures.n_hits++;
    if (slot->state == SLOT_LOADING) hurry(s, slot_i);
    s->slots.n_ahead -= slot->ahead;
    slot->ahead = false;
    if (verify(s, slot_i, key, &error) != DS4_OK) stream_fail(s, &error);
}

#define ANY_NOT_PINNED 1e5 /* worth of what is sure to be used: what is not pinned makes room for it */

static void load(struct stream *s, uint32_t key, struct read_queue *q)
{
    uint32_t evicted, slot_i = slots_take(&s->slots, key, q != &s->demand, ANY_NOT_PINNED, &evicted);
    unpublish(s, evicted);
    if (slot_i == SLOT_NONE) return;
    s->n_issued[slot_i] = 0;
    s->n_loading++;
    s->figures.n_reads += q != &s->idle;
    stream_push(s, q, slot_i);
}

/* What was read ahead for the layer that is now asked for and is not wanted may go; it is not read if that has not
 * begun. */
static void let_go(struct stream *s, uint32_t first)
{
    for (uint32_t e = 0; e < s->c.n_experts && s->slots.n_ahead; e++) {
        uint32_t slot_i = s->slots.slot_of[first + e];
        if (s->counts[e] || slot_i == SLOT_NONE || !s->slots.slots[slot_i].ahead) continue;
        struct slot *slot = &s->slots.slots[slot_i];
        if (slot->state == SLOT_READY) {
            slot->ahead = false;
            s->slots.n_ahead--;
        } else if (s->n_issued[slot_i] == 0 && take_out(s, &s->ahead, slot_i)) {
            slots_drop(&s->slots, slot_i);
            s->n_loading--;
            s->figures.n_reads--;
        }
    }
}

void stream_want(struct stream *s, uint32_t layer_i, uint32_t n)
{
    uint32_t first = layer_i * s->c.n_experts;
    pthread_mutex_lock(&s->lock);
    ensure(count_ids(s, n) <= s->size.n_need);
    s->slots.epoch++;
    habits_visit(&s->slots.habits, layer_i);
    let_go(s, first);
    for (uint32_t e = 0; e < s->c.n_experts; e++) { /* before the first eviction: what is wanted stays */
        if (s->counts[e] == 0) continue;
        habits_use(&s->slots.habits, first + e, s->counts[e]);
        if (s->slots.slot_of[first + e] != SLOT_NONE) want_present(s, s->slots.slot_of[first + e], first + e);
    }
    for (uint32_t e = 0; e < s->c.n_experts && !atomic_load(&s->failed); e++) { /* in the order of the file */
        if (s->counts[e] == 0 || s->slots.slot_of[first + e] != SLOT_NONE) continue;
        s->figures.n_misses++;
        load(s, first + e, &s->demand);
        ensure(s->slots.slot_of[first + e] != SLOT_NONE);
    }
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

/* Room for what is brought ahead: all but what the largest demand needs. */
static bool has_room(const struct stream *s)
{
    return s->slots.n_ahead + s->size.n_need < s->size.n_slots - s->slots.n_away;
}

void stream_expect(struct stream *s, uint32_t layer_i, uint32_t n)
{
    pthread_mutex_lock(&s->lock);
    (void)count_ids(s, n);
    for (uint32_t e = 0; e < s->c.n_experts && has_room(s); e++) {
        uint32_t key = layer_i * s->c.n_experts + e;
        if (s->counts[e] && s->slots.slot_of[key] == SLOT_NONE) load(s, key, &s->ahead);
    }
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

#define GUESS_SURE 0.9 /* read ahead what is wanted with that probability: nine reads in ten are then not in vain */

void stream_guess(struct stream *s, uint32_t layer_i, uint32_t n_rows)
{
    if (s->layers[layer_i].n_parts == 0) return;
    pthread_mutex_lock(&s->lock);
    for (uint32_t e = 0; e < s->c.n_experts && has_room(s); e++) {
        uint32_t key = layer_i * s->c.n_experts + e;
        if (s->slots.slot_of[key] != SLOT_NONE) continue;
        double rate = habits_rate(&s->slots.habits, key), missed = 1;
        if (rate * n_rows < 1) continue; /* cannot be sure */
        for (uint32_t r = 0; r < n_rows && missed > 1 - GUESS_SURE; r++) missed *= 1 - (rate < 1 ? rate : 1);
        if (missed <= 1 - GUESS_SURE) load(s, key, &s->ahead);
    }
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

/* ---- a pass --------------------------------------------------------------------------------------------------- */

static enum ds4_status check_files(const struct stream *s, struct ds4_error *error)
{
    for (uint32_t i = 0; i < s->c.n_files; i++) {
        int fd;
        TRY(file_open(s->files[i].path, FILE_READ, &fd, error));
        enum ds4_status status = stream_compare_file(&s->files[i], fd, error);
        file_close(fd);
        TRY(status);
    }
    return DS4_OK;
}

enum ds4_status stream_begin(struct stream *s, uint32_t n_tokens, struct ds4_error *error)
{
    s->n_tokens = n_tokens;
    TRY(check_files(s, error));
    stream_pressure(s);
    pthread_mutex_lock(&s->lock);
    s->before = s->figures;
    s->began_ns = clock_ns();
    pthread_mutex_unlock(&s->lock);
    return DS4_OK;
}

struct stream_pool stream_pool(const struct stream *s)
{
    return (struct stream_pool){s->memory, s->size.slot_bytes, s->size.n_slots + 1};
}

int32_t *stream_ids(struct stream *s) { return s->ids; }
bool stream_may_miss(const struct stream *s) { return s->size.n_slots < s->size.n_experts; }
bool stream_failed(const struct stream *s) { return atomic_load(&s->failed); }

#define FADES 0.94 /* a pass: sixteen of them count */

static void add_decoding(struct stream *s)
{
    const struct stream_figures *now = &s->figures, *before = &s->before;
    struct stream_decoding *d = &s->figures.decoding;
    d->n = d->n * FADES + 1;
    d->hits = d->hits * FADES + (double)(now->n_hits - before->n_hits);
    d->ahead = d->ahead * FADES + (double)(now->n_ahead - before->n_ahead);
    d->misses = d->misses * FADES + (double)(now->n_misses - before->n_misses);
    d->reads = d->reads * FADES + (double)(now->n_reads - before->n_reads);
    d->seconds = d->seconds * FADES + clock_seconds_since(s->began_ns);
    d->stall_seconds = d->stall_seconds * FADES + now->stall_seconds - before->stall_seconds;
}

enum ds4_status stream_end(struct stream *s, struct ds4_error *error)
{
    enum ds4_status status = DS4_OK;
    pthread_mutex_lock(&s->lock);
    habits_advance(&s->slots.habits, s->n_tokens);
    if (s->n_tokens == 1 && !atomic_load(&s->failed)) add_decoding(s);
    for (uint32_t i = 0; s->slots.n_ahead && i < s->size.n_slots; i++) {
        s->slots.n_ahead -= s->slots.slots[i].ahead;
        s->slots.slots[i].ahead = s->slots.slots[i].ahead && s->slots.slots[i].state == SLOT_LOADING;
        s->slots.n_ahead += s->slots.slots[i].ahead;
    }
    if (atomic_load(&s->failed)) {
        while (s->n_loading) pthread_cond_wait(&s->done, &s->lock);
        status = err_set(error, s->error.status, "%s", s->error.message);
        s->error = (struct ds4_error){0};
        atomic_store(&s->failed, false);
    }
    pthread_mutex_unlock(&s->lock);
    return status;
}

void stream_settle(struct stream *s)
{
    pthread_mutex_lock(&s->lock);
    while (s->n_loading) pthread_cond_wait(&s->done, &s->lock);
    pthread_mutex_unlock(&s->lock);
}

/* ---- what is learned ------------------------------------------------------------------------------------------ */

void stream_set_rates(struct stream *s, const float *rates, double tokens)
{
    struct habits *p = &s->slots.habits;
    pthread_mutex_lock(&s->lock);
    p->tokens = tokens;
    for (uint32_t i = 0; i < p->n_keys; i++) habits_set_rate(p, i, (double)rates[i]);
    uint32_t n_pins = p->n_pins_max; /* for once the best for all slots that a demand leaves, not only those to pin */
    p->n_pins_max = s->size.n_slots - s->size.n_need;
    habits_pin(p);
    for (uint32_t key = 0; key < p->n_keys; key++)
        if (p->pinned[key] && s->slots.slot_of[key] == SLOT_NONE && has_room(s)) load(s, key, &s->idle);
    p->n_pins_max = n_pins;
    habits_pin(p);
    pthread_cond_broadcast(&s->work);
    pthread_mutex_unlock(&s->lock);
}

void stream_get_rates(const struct stream *s, float *rates, double *tokens)
{
    const struct habits *p = &s->slots.habits;
    for (uint32_t i = 0; i < p->n_keys; i++) rates[i] = (float)habits_rate(p, i);
    *tokens = p->tokens;
}

void stream_figures(struct stream *s, struct stream_figures *out)
{
    pthread_mutex_lock(&s->lock);
    *out = s->figures;
    out->n_slots_now = s->size.n_slots - s->slots.n_away;
    pthread_mutex_unlock(&s->lock);
}
