/* test_session_file.c - saved conversations: whole, or refused, or not written; never half. On the scripted engine,
 * whose state is checked at each restore. */
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/mem.h"
#include "chat/session_file.h"
#include "lib/fake/fake_engine.h"
#include "lib/test.h"

#define SCRIPT "{\"name\": \"one\", \"ctx\": 2000, \"answers\": [{\"say\": \"fine\"}]}"

struct fixture {
    struct ds4_engine *engine;
    struct ds4_session *session;
    struct transcript transcript;
    struct ds4_tokens tokens;
    enum ds4_think_mode think;
    char path[512];
    struct ds4_error error;
};

static void open_engine(struct fixture *f, const char *script)
{
    struct ds4_engine_options options = {.model_path = "none"};
    fake_engine_script(script);
    assert_ok(ds4_engine_open(&options, &f->engine, &f->error), f->error);
    assert_ok(ds4_session_create(f->engine, &f->session, &f->error), f->error);
}

static void close_engine(struct fixture *f)
{
    ds4_session_destroy(f->session);
    ds4_engine_close(f->engine);
}

static void add(struct fixture *f, enum ds4_role role, const char *text, const char *reasoning)
{
    assert_ok(transcript_add(&f->transcript, role, span_from(text), span_from(reasoning), &f->error), f->error);
}

/* A conversation whose prompt of about 200 tokens is in the session. */
static void begin(struct fixture *f, const char *script)
{
    *f = (struct fixture){.think = DS4_THINK_HIGH};
    open_engine(f, script);
    (void)snprintf(f->path, sizeof f->path, "%s/a.chat", test_dir());
    add(f, DS4_ROLE_SYSTEM, "Be kind.", "");
    add(f, DS4_ROLE_USER, "How are you? \xE2\x82\xAC \x01 and a long line of many words, so that more than one span "
                          "is filled by it and the last one is not whole", "");
    add(f, DS4_ROLE_ASSISTANT, "fine", "Let me think.");
    add(f, DS4_ROLE_USER, "", "");
    assert_ok(transcript_render(&f->transcript, f->engine, f->think, &f->tokens, &f->error), f->error);
    assert_ok(ds4_session_sync(f->session, f->tokens.ids, f->tokens.n, NULL, NULL, NULL, &f->error), f->error);
}

static void end(struct fixture *f)
{
    close_engine(f);
    transcript_deinit(&f->transcript);
    ds4_tokens_free(&f->tokens);
    assert_int_equal(fake_engine_stats()->n_sessions, 0);
    test_dir_remove();
}

static enum ds4_status save(struct fixture *f)
{
    f->error = (struct ds4_error){0};
    return session_file_save(f->path, &f->transcript, f->think, f->engine, f->session, &f->error);
}

static enum ds4_status load(struct fixture *f, bool *with_state)
{
    f->error = (struct ds4_error){0};
    return session_file_load(f->path, &f->transcript, &f->think, f->engine, f->session, with_state, &f->error);
}

static bool text_is(const struct ds4_text *text, const char *wanted)
{
    return span_eq(span_make(text->ptr, text->len), span_from(wanted));
}

static void check_loaded(const struct fixture *f)
{
    assert_int_equal(f->transcript.n, 4);
    assert_int_equal(f->think, DS4_THINK_HIGH);
    assert_true(text_is(&f->transcript.messages[0].text, "Be kind."));
    assert_int_equal(f->transcript.messages[2].role, DS4_ROLE_ASSISTANT);
    assert_true(text_is(&f->transcript.messages[2].reasoning, "Let me think."));
    assert_int_equal(f->transcript.messages[3].text.len, 0);
}

TEST(a_saved_conversation_comes_back_with_its_state)
{
    struct fixture f;
    bool with_state;
    size_t n;
    begin(&f, SCRIPT);
    assert_ok(save(&f), f.error);
    assert_ok(save(&f), f.error); /* over itself */
    close_engine(&f);
    transcript_deinit(&f.transcript);
    f.think = DS4_THINK_NONE;
    open_engine(&f, SCRIPT);
    assert_ok(load(&f, &with_state), f.error);
    assert_true(with_state);
    check_loaded(&f);
    const int32_t *ids = ds4_session_tokens(f.session, &n);
    assert_int_equal(n, f.tokens.n);
    assert_memory_equal(ids, f.tokens.ids, n * sizeof *ids);
    assert_non_null(ds4_session_logits(f.session));
    end(&f);
}

TEST(a_conversation_without_state_can_be_saved_and_loaded)
{
    struct fixture f;
    bool with_state = true;
    begin(&f, SCRIPT);
    assert_ok(ds4_session_rewind(f.session, 0, &f.error), f.error);
    assert_ok(save(&f), f.error);
    transcript_deinit(&f.transcript);
    assert_ok(load(&f, &with_state), f.error);
    assert_false(with_state);
    check_loaded(&f);
    end(&f);
}

TEST(the_state_of_another_model_or_too_long_for_the_context_is_left_aside)
{
    static const char *const others[] = {"{\"name\": \"two\", \"ctx\": 2000}", "{\"name\": \"one\", \"ctx\": 20}"};
    for (size_t i = 0; i < 2; i++) {
        struct fixture f;
        bool with_state = true;
        size_t n;
        begin(&f, SCRIPT);
        assert_ok(save(&f), f.error);
        close_engine(&f);
        open_engine(&f, others[i]);
        assert_ok(load(&f, &with_state), f.error);
        assert_false(with_state);
        check_loaded(&f);
        (void)ds4_session_tokens(f.session, &n);
        assert_int_equal(n, 0);
        end(&f);
    }
}

static void write_whole(const char *path, const struct ds4_text *bytes, size_t len)
{
    struct ds4_error error = {0};
    int fd;
    assert_ok(file_open(path, FILE_CREATE_TRUNCATE, &fd, &error), error);
    assert_ok(file_write_at(fd, path, 0, bytes->ptr, len, &error), error);
    file_close(fd);
}

/* Loads and expects a refusal that leaves everything as it was. */
static void check_refused(struct fixture *f)
{
    bool with_state;
    size_t n;
    enum ds4_status status = load(f, &with_state);
    assert_int_equal(status, DS4_ERR_FORMAT);
    assert_true(f->error.message[0] != 0);
    check_loaded(f);
    (void)ds4_session_tokens(f->session, &n);
    assert_int_equal(n, f->tokens.n);
}

TEST(every_flipped_bit_and_every_cut_is_refused)
{
    struct fixture f;
    struct ds4_text file = {0};
    begin(&f, SCRIPT);
    assert_ok(save(&f), f.error);
    assert_ok(file_read_all(f.path, 1 << 20, &file, &f.error), f.error);
    for (size_t i = 0; i < file.len; i++) {
        file.ptr[i] = (char)(file.ptr[i] ^ 1 << (i % 8));
        write_whole(f.path, &file, file.len);
        check_refused(&f);
        file.ptr[i] = (char)(file.ptr[i] ^ 1 << (i % 8));
    }
    for (size_t len = 0; len < file.len; len += len < 200 ? 1 : 97) {
        write_whole(f.path, &file, len);
        check_refused(&f);
    }
    ds4_text_free(&file);
    end(&f);
}

/* Sizes that lie, under digests that are right: what the digests cannot find. */
TEST(headers_with_impossible_sizes_are_refused)
{
    static const uint64_t values[] = {1, 2, 63, 1 << 20, UINT32_MAX, (uint64_t)1 << 62, UINT64_MAX / 64, UINT64_MAX};
    struct fixture f;
    struct ds4_text file = {0};
    begin(&f, SCRIPT);
    assert_ok(save(&f), f.error);
    assert_ok(file_read_all(f.path, 1 << 20, &file, &f.error), f.error);
    for (size_t at = 40; at < 96; at += 8) {
        uint64_t good = load_u64(file.ptr + at);
        for (size_t v = 0; v < sizeof values / sizeof values[0]; v++) {
            for (int add = 0; add < 2; add++) {
                uint64_t bad = add ? good + values[v] : values[v];
                if (bad == good || at == 72) continue; /* 72: below */
                store_u64(file.ptr + at, bad);
                hash_bytes(file.ptr, 112, (uint8_t *)file.ptr + 112);
                write_whole(f.path, &file, file.len);
                bool with_state = false;
                enum ds4_status status = load(&f, &with_state);
                /* Numbers of the state may merely make it another model's: then the words are good. */
                assert_true(status == DS4_ERR_FORMAT || !with_state);
                check_loaded(&f);
            }
        }
        store_u64(file.ptr + at, good);
    }
    ds4_text_free(&file);
    end(&f);
}

TEST(a_file_of_another_kind_is_never_replaced_nor_loaded)
{
    struct fixture f;
    struct ds4_text notes = {.ptr = (char[]){"my own notes, of some length"}, .len = 28}, after = {0};
    begin(&f, SCRIPT);
    write_whole(f.path, &notes, notes.len);
    assert_status(save(&f), DS4_ERR_STATE, f.error);
    assert_ok(file_read_all(f.path, 1000, &after, &f.error), f.error);
    assert_true(text_is(&after, "my own notes, of some length"));
    check_refused(&f);
    ds4_text_free(&after);
    end(&f);
}

/* ---- faults ---- */

static int calls_left;

static bool strike(void)
{
    errno = ENOSPC;
    return calls_left-- == 0;
}
static ssize_t failing_pwrite(int fd, const void *bytes, size_t n, off_t at)
{
    return strike() ? -1 : pwrite(fd, bytes, n, at);
}
static ssize_t failing_pread(int fd, void *bytes, size_t n, off_t at)
{
    return strike() ? -1 : pread(fd, bytes, n, at);
}
static int failing_open(const char *path, int flags, mode_t mode)
{
    return strike() ? -1 : file_ops_system.open(path, flags, mode);
}
static int failing_sync(int fd) { return strike() ? -1 : file_ops_system.fdatasync(fd); }
static int failing_rename(const char *from, const char *to) { return strike() ? -1 : rename(from, to); }

static struct file_ops failing_ops(void)
{
    struct file_ops ops = file_ops_system;
    ops.pwrite = failing_pwrite;
    ops.pread = failing_pread;
    ops.open = failing_open;
    ops.fdatasync = failing_sync;
    ops.rename = failing_rename;
    return ops;
}

TEST(a_save_that_fails_anywhere_leaves_the_earlier_one)
{
    struct fixture f;
    struct file_ops ops = failing_ops();
    bool with_state, done = false;
    begin(&f, SCRIPT);
    assert_ok(save(&f), f.error);
    int n_failures = 0;
    for (int at = 0; !done; at++) {
        add(&f, DS4_ROLE_ASSISTANT, "later", "");
        calls_left = at;
        file_test_hook(&ops);
        done = save(&f) == DS4_OK && calls_left >= 0;
        file_test_hook(NULL);
        if (done) break;
        n_failures += calls_left < 0;
        assert_ok(load(&f, &with_state), f.error);
        if (f.transcript.n == 4) check_loaded(&f); /* else: only the look at the old file failed */
        transcript_pop(&f.transcript);
        add(&f, DS4_ROLE_USER, "", "");
    }
    assert_true(n_failures > 8);
    end(&f);
}

static uint64_t allocations_left;
static bool fail_allocation(void *user, uint64_t number)
{
    (void)user, (void)number;
    return allocations_left-- == 0;
}

TEST(a_load_that_fails_anywhere_changes_nothing)
{
    struct fixture f;
    struct file_ops ops = failing_ops();
    bool with_state;
    begin(&f, SCRIPT);
    assert_ok(save(&f), f.error);
    for (int at = 0;; at++) {
        calls_left = at;
        file_test_hook(&ops);
        enum ds4_status status = load(&f, &with_state);
        file_test_hook(NULL);
        check_loaded(&f);
        if (status == DS4_OK) break;
        assert_int_equal(status, DS4_ERR_IO);
    }
    for (uint64_t at = 0;; at++) {
        int64_t live = mem_live();
        allocations_left = at;
        mem_test_hook(fail_allocation, NULL);
        enum ds4_status status = load(&f, &with_state);
        mem_test_hook(NULL, NULL);
        check_loaded(&f);
        if (allocations_left < UINT64_MAX / 2) break; /* none was left to fail */
        assert_true(status == DS4_OK ? !with_state || mem_live() >= live : status == DS4_ERR_NOMEM);
    }
    end(&f);
}

int main(void)
{
    return RUN_TESTS(T(a_saved_conversation_comes_back_with_its_state),
                     T(a_conversation_without_state_can_be_saved_and_loaded),
                     T(the_state_of_another_model_or_too_long_for_the_context_is_left_aside),
                     T(every_flipped_bit_and_every_cut_is_refused), T(headers_with_impossible_sizes_are_refused),
                     T(a_file_of_another_kind_is_never_replaced_nor_loaded),
                     T(a_save_that_fails_anywhere_leaves_the_earlier_one),
                     T(a_load_that_fails_anywhere_changes_nothing));
}
