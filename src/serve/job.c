/* job.c - see job.h. */
#include "serve/job.h"

#include "base/clock.h"
#include "base/mem.h"

#define ARENA_BYTES (64u << 20)
#define ARENA_BYTES_PER_BODY_BYTE 32

struct job *job_create(enum job_kind kind, enum api_dialect dialect, struct buf *body, struct exchange *x,
                       struct metrics *metrics)
{
    struct job *job = mem_zalloc(1, sizeof *job);
    if (!job) return NULL;
    *job = (struct job){.kind = kind, .dialect = dialect, .exchange = x, .body = *body, .metrics = metrics,
                        .began_ns = clock_ns()};
    *body = (struct buf){0};
    exchange_hold(x);
    arena_init(&job->arena, ARENA_BYTES + ARENA_BYTES_PER_BODY_BYTE * job->body.text.len);
    metrics_add(&metrics->waiting, 1);
    job->counted_waiting = true;
    return job;
}

void job_waits_no_more(struct job *job)
{
    if (job->counted_waiting) metrics_add(&job->metrics->waiting, -1);
    job->counted_waiting = false;
}

bool job_next_prompt(struct job *job)
{
    if (job->prompt_i + 1 >= job->n_prompts) return false;
    ds4_tokens_free(&job->prompt);
    job->prompt = job->prompts[++job->prompt_i];
    job->prompts[job->prompt_i] = (struct ds4_tokens){0};
    job->request.prompt = job->request.prompts[job->prompt_i];
    return true;
}

void job_destroy(struct job *job)
{
    for (size_t i = 0; i < job->n_prompts; i++) ds4_tokens_free(&job->prompts[i]);
    job_waits_no_more(job);
    answer_deinit(&job->answer);
    ds4_grammar_destroy(job->grammar);
    ds4_tokens_free(&job->prompt);
    arena_deinit(&job->arena);
    buf_deinit(&job->body);
    exchange_release(job->exchange);
    mem_free(job);
}

void job_refuse(struct job *job, int status, const char *sentence, const char *param, const char *code)
{
    struct buf body = {0};
    const char *header = status == 503 || status == 529 ? "Retry-After: 5\r\n" : NULL;
    answer_put_error(&body, job->dialect, status, sentence, param, code);
    if (!exchange_reply(job->exchange, status, "application/json", buf_span(&body), header)) {
        struct buf event = {0};
        answer_put_error_event(&event, job->dialect, buf_span(&body), sentence);
        exchange_put(job->exchange, buf_span(&event));
        exchange_end(job->exchange);
        buf_deinit(&event);
    }
    buf_deinit(&body);
}
