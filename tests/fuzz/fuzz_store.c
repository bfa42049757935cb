/* fuzz_store.c - entries of the store from any hand. The first byte of the input says what is done with the rest, a
 * list of edits of a genuine tip (5 bytes each: what, where, value):
 *   0  the entry is parsed and verified in memory; what is accepted lies inside the file
 *   1  it lies in a store's directory and a prompt is led through the store: the logits are those of a cold run, since
 *      digests notice every edit
 *   2  the same with the digests made right again, as an ill-meaning hand would: nothing crashes, no sanitizer speaks
 *   3  the tip's payload goes straight into a session: refused, or all of it is taken
 * Runs on models/ds4-tiny.gguf, from the root of the project. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "store/entry.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

#define N_IDS 9u
#define EDIT_BYTES 5u

static struct ds4_engine *engine;
static char dir[100], tip_path[200];
static struct ds4_text genuine;
static int32_t ids[N_IDS];
static float *cold;
static size_t logits_bytes;

static void check(bool promise)
{
    if (!promise) abort();
}

static struct ds4_store *open_store(void)
{
    struct ds4_store_options options = {.dir = dir, .write_ratio_max = 1e6, .no_sync = true};
    struct ds4_store *store = NULL;
    check(ds4_store_open(engine, &options, &store, NULL) == DS4_OK);
    return store;
}

static void find_tip(void *user, const char *name)
{
    (void)user;
    if (strstr(name, ".tip")) (void)snprintf(tip_path, sizeof tip_path, "%s/%.60s", dir, name);
}
static void remove_file(void *user, const char *name)
{
    char path[400];
    (void)user;
    (void)snprintf(path, sizeof path, "%s/%s", dir, name);
    (void)unlink(path);
}

static void clean(void)
{
    (void)!file_list_dir(dir, remove_file, NULL, NULL);
    (void)rmdir(dir);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    struct ds4_engine_options options = {.model_path = "models/ds4-tiny.gguf", .ctx_tokens = 64, .chunk_tokens = 16,
                                         .n_threads = 1, .n_sessions_max = 2};
    struct ds4_session *s = NULL;
    struct ds4_error error = {0};
    if (ds4_engine_open(&options, &engine, &error) != DS4_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        abort();
    }
    (void)snprintf(dir, sizeof dir, "/dev/shm/ds4-fuzz-%d", (int)getpid());
    (void)atexit(clean);
    for (size_t i = 0; i < N_IDS; i++) ids[i] = (int32_t)(100 + i * 7);
    struct ds4_store *store = open_store();
    check(ds4_session_create(engine, &s, NULL) == DS4_OK);
    check(ds4_store_sync(store, s, ids, N_IDS, NULL, NULL, NULL, NULL) == DS4_OK);
    logits_bytes = ds4_engine_info(engine)->n_vocab * sizeof(float);
    cold = malloc(logits_bytes);
    check(cold != NULL);
    memcpy(cold, ds4_session_logits(s), logits_bytes);
    ds4_store_save(store, s, DS4_SAVE_USER, NULL);
    ds4_session_destroy(s);
    ds4_store_close(store);
    check(file_list_dir(dir, find_tip, NULL, NULL) == DS4_OK);
    check(file_read_all(tip_path, 1 << 26, &genuine, NULL) == DS4_OK);
    return 0;
}

/* A copy of the genuine file with the edits. Returns its length. */
static size_t edit(const uint8_t *edits, size_t n_bytes, uint8_t *file)
{
    size_t len = genuine.len;
    memcpy(file, genuine.ptr, len);
    for (; n_bytes >= EDIT_BYTES; edits += EDIT_BYTES, n_bytes -= EDIT_BYTES) {
        uint32_t where = load_u32(edits) >> 8;
        /* Most of the places in the front, which is where lengths are. */
        size_t at = where % (where >> 23 ? len : len < 256 ? len : 256);
        switch (edits[0] % 4) {
        case 0: file[at] ^= edits[4]; break;
        case 1: file[at] = edits[4]; break;
        case 2: memset(file + at, edits[4], len - at < 8 ? len - at : 8); break;
        default: len = at + 1; break;
        }
    }
    return len;
}

/* Makes the digests right for what is there, as far as it hangs together. */
static void reseal(uint8_t *file, size_t len)
{
    if (len < ENTRY_HEADER_BYTES) return;
    uint64_t n_blocks = load_u32(file + 124), n_ids = load_u32(file + 88);
    uint64_t front = ENTRY_HEADER_BYTES + 16 * n_blocks + 4 * n_ids;
    if (front > len) return;
    for (uint64_t i = 0; i < n_blocks && front + i * ENTRY_BLOCK_BYTES < len; i++) {
        size_t left = len - (size_t)(front + i * ENTRY_BLOCK_BYTES);
        hash_bytes(file + front + i * ENTRY_BLOCK_BYTES, left < ENTRY_BLOCK_BYTES ? left : ENTRY_BLOCK_BYTES,
                   file + ENTRY_HEADER_BYTES + 16 * i);
    }
    struct hash *hash = hash_create();
    if (!hash) return;
    hash_update(hash, file, 128);
    hash_update(hash, file + ENTRY_HEADER_BYTES, (size_t)front - ENTRY_HEADER_BYTES);
    hash_digest(hash, file + 128);
    hash_destroy(hash);
}

static void parse(const uint8_t *file, size_t len)
{
    struct entry e;
    int32_t *list = NULL;
    struct ds4_error error = {0};
    if (len < ENTRY_HEADER_BYTES || entry_parse_header(file, len, &e, &error) != DS4_OK) return;
    uint64_t front = entry_front_bytes(&e);
    check(front <= len && front + e.payload_len == len && e.tip_len <= e.payload_len && e.n_ids <= e.n_tokens);
    list = malloc(4ull * e.n_ids + 1);
    if (list && entry_verify_front(file, &e, list, NULL) == DS4_OK)
        for (uint32_t i = 0; i < e.n_blocks; i++) {
            uint64_t at = (uint64_t)i * ENTRY_BLOCK_BYTES, left = e.payload_len - at;
            size_t n = left < ENTRY_BLOCK_BYTES ? (size_t)left : ENTRY_BLOCK_BYTES;
            (void)entry_block_ok(file, i, file + front + at, n);
        }
    free(list);
}

static void through_a_store(const uint8_t *file, size_t len, bool sealed)
{
    struct ds4_session *s = NULL;
    int fd;
    (void)!file_list_dir(dir, remove_file, NULL, NULL);
    check(file_open(tip_path, FILE_CREATE_TRUNCATE, &fd, NULL) == DS4_OK);
    check(file_write_at(fd, tip_path, 0, file, len, NULL) == DS4_OK);
    file_close(fd);
    struct ds4_store *store = open_store();
    check(ds4_session_create(engine, &s, NULL) == DS4_OK);
    enum ds4_status status = ds4_store_sync(store, s, ids, N_IDS, NULL, NULL, NULL, NULL);
    if (!sealed) check(status == DS4_OK && memcmp(ds4_session_logits(s), cold, logits_bytes) == 0);
    if (status == DS4_OK) {
        struct ds4_job job = {.session = s, .tokens = ids, .n = 1};
        (void)!ds4_eval(engine, &job, 1, NULL);
    }
    ds4_session_destroy(s);
    ds4_store_close(store);
}

static void into_a_session(const uint8_t *file, size_t len)
{
    struct ds4_session *s = NULL;
    struct entry e;
    size_t n;
    if (len < ENTRY_HEADER_BYTES || entry_parse_header(file, len, &e, NULL) != DS4_OK) return;
    size_t span_bytes = ds4_state_layout(engine)->span_bytes;
    if (e.payload_len < span_bytes) return;
    const uint8_t *span = file + entry_front_bytes(&e), *tip = span + span_bytes;
    check(ds4_session_create(engine, &s, NULL) == DS4_OK);
    size_t tip_len = (size_t)e.payload_len - span_bytes;
    enum ds4_status status = ds4_session_restore(s, ids, N_IDS, &span, 1, tip, tip_len, NULL);
    (void)ds4_session_tokens(s, &n);
    check(n == (status == DS4_OK ? N_IDS : 0));
    ds4_session_destroy(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 4096) return 0;
    uint8_t *file = malloc(genuine.len);
    if (!file) return 0;
    size_t len = edit(data + 1, size - 1, file);
    int what = data[0] % 4;
    bool same = len == genuine.len && memcmp(file, genuine.ptr, len) == 0;
    if (what >= 2 || (what == 0 && data[0] & 4)) reseal(file, len);
    if (what == 0) parse(file, len);
    if (what == 1) through_a_store(file, len, false);
    if (what == 2) through_a_store(file, len, !same);
    if (what == 3) into_a_session(file, len);
    free(file);
    return 0;
}
