/* trace.c - see trace.h. */
#include "serve/trace.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

struct trace {
    int fd;
    const char *path;
    uint64_t at;
};

/* How every trace begins. */
#define LINE_START "{\"time\":"

/* STATE when path is a file of another kind: an older trace may go, whatever else a mistyped name means may not. */
static enum ds4_status check_replaceable(const char *path, struct ds4_error *error)
{
    char start[sizeof LINE_START - 1];
    struct file_id id = {0};
    int fd;
    TRY(file_check_target(path, error));
    if (file_open(path, FILE_READ, &fd, NULL) != DS4_OK) return DS4_OK; /* absent */
    bool is_trace = file_identity(fd, path, &id, NULL) == DS4_OK &&
                    (id.size_bytes == 0 || (file_read_at(fd, path, 0, start, sizeof start, NULL) == DS4_OK &&
                                            memcmp(start, LINE_START, sizeof start) == 0));
    file_close(fd);
    if (is_trace) return DS4_OK;
    return err_set(error, DS4_ERR_STATE, "--trace: %s exists and is not a trace: not replaced", path);
}

enum ds4_status trace_open(const char *path, struct trace **out, struct ds4_error *error)
{
    TRY(check_replaceable(path, error));
    struct trace *t = mem_zalloc(1, sizeof *t);
    if (!t) return err_set(error, DS4_ERR_NOMEM, "no memory for the trace");
    t->path = path;
    (void)!file_unlink(path, NULL); /* an older one may be open to others */
    enum ds4_status status = file_open(path, FILE_CREATE_NEW, &t->fd, error);
    if (status == DS4_OK) *out = t;
    else mem_free(t);
    return status;
}

void trace_close(struct trace *t)
{
    if (t) file_close(t->fd);
    mem_free(t);
}

static void put_tokens(struct buf *out, const struct ds4_engine *engine, const int32_t *ids, size_t n)
{
    struct buf text = {0};
    for (size_t i = 0; i < n; i++) buf_put_span(&text, ds4_token_bytes(engine, ids[i]));
    buf_put_json_string(out, buf_span(&text));
    buf_deinit(&text);
}

/* What the model said: evaluated behind the prompt, and the last token, which is not evaluated when the job ends. */
static void put_output(struct buf *out, const struct ds4_engine *engine, const struct slot *s)
{
    size_t n_held, n_prompt = s->job->prompt.n;
    const int32_t *held = ds4_session_tokens(s->session, &n_held);
    struct ds4_tokens said = {0};
    if (s->decoding && n_held > n_prompt && ds4_tokens_append(&said, held + n_prompt, n_held - n_prompt) != DS4_OK)
        said.n = 0;
    if (s->decoding && said.n < s->n_out && ds4_tokens_append(&said, &s->next, 1) != DS4_OK) said.n = 0;
    put_tokens(out, engine, said.ids, said.n);
    ds4_tokens_free(&said);
}

void trace_put(struct trace *t, const struct ds4_engine *engine, const struct slot *s, const char *finish)
{
    const struct job *job = s->job;
    struct buf line = {0};
    if (!t) return;
    buf_printf(&line, LINE_START "%llu,\"id\":\"%s\",\"finish\":\"%s\",\"n_out\":%zu,\"n_thinking\":%zu,"
               "\"prefill_s\":%.6f,\"decode_s\":%.6f,", (unsigned long long)clock_unix_s(), job->answer.id, finish,
               s->n_out, s->n_thinking, job->answer.usage.prefill_s, job->answer.usage.decode_s);
    answer_put_cache(&line, &job->answer);
    buf_put_text(&line, ",\"prompt\":");
    put_tokens(&line, engine, job->prompt.ids, job->prompt.n);
    buf_put_text(&line, ",\"output\":");
    put_output(&line, engine, s);
    buf_put_text(&line, "}\n");
    if (!line.failed && file_write_at(t->fd, t->path, t->at, line.text.ptr, line.text.len, NULL) == DS4_OK)
        t->at += line.text.len;
    buf_deinit(&line);
}
