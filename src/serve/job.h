/* job.h - one request for an answer, from its body to its last token. Owned by one stage at a time: the preparer reads
 * and renders it, the worker computes it. */
#ifndef DS4_SERVE_JOB_H
#define DS4_SERVE_JOB_H

#include "serve/api/answer.h"
#include "serve/metrics.h"

enum job_kind { JOB_ANSWER, JOB_COUNT, JOB_TEMPLATE, JOB_TOKENIZE, JOB_DETOKENIZE, JOB_STORED };

struct job {
    struct job *next;
    enum job_kind kind;
    enum api_dialect dialect;
    struct exchange *exchange;   /* a reference */
    struct buf body;
    struct arena arena;
    struct api_request request;
    struct ds4_tokens prompt;
    struct ds4_tokens *prompts;   /* of completions that have several: those still to come; arena memory */
    size_t n_prompts, prompt_i;
    struct answer answer;
    struct ds4_grammar *grammar;  /* owned; NULL: the answer has no form */
    char key[DS4_STORE_KEY_TEXT]; /* JOB_STORED */
    struct metrics *metrics;
    bool counted_waiting;
    uint64_t began_ns;
};

/* Takes body's memory and a reference of its own. NULL when out of memory. */
struct job *job_create(enum job_kind kind, enum api_dialect dialect, struct buf *body, struct exchange *x,
                       struct metrics *metrics);
void job_destroy(struct job *job);
/* Replies with an error in the job's dialect. sentence, param, code are constant. */
void job_refuse(struct job *job, int status, const char *sentence, const char *param, const char *code);
/* Goes on to the next of several prompts. False: there is none. */
bool job_next_prompt(struct job *job);
/* The job has left the queue. */
void job_waits_no_more(struct job *job);

#endif
