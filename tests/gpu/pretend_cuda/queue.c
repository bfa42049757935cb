/* queue.c - streams of the pretend CUDA runtime: what was given and is not done, and when it is done. */
#include <stdlib.h>
#include <string.h>

#include "impl.h"

static struct CUstream_st *streams; /* the first that was made comes first */

struct CUstream_st *queue_first(void) { return streams; }

/* xorshift64 */
static unsigned below(unsigned n)
{
    static uint64_t state;
    static uint64_t seed;
    if (!state || seed != pretend_now.seed) state = (pretend_now.seed + 1) * 0x9E3779B97F4A7C15ull | 1;
    seed = pretend_now.seed;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return (unsigned)((state >> 20) % n);
}

static unsigned eagerness(bool is_first)
{
    switch (pretend_now.order) {
    case PRETEND_EARLY: return 4;
    case PRETEND_LATE: return 0;
    case PRETEND_FIRST_EARLY: return is_first ? 4 : 0;
    case PRETEND_FIRST_LATE: return is_first ? 0 : 4;
    default: return below(5);
    }
}

struct CUstream_st *queue_make(void)
{
    struct CUstream_st *s = calloc(1, sizeof *s), **end = &streams;
    if (!s) abort();
    s->eager = eagerness(!streams);
    while (*end) end = &(*end)->next;
    *end = s;
    return s;
}

void queue_free(struct CUstream_st *s)
{
    struct CUstream_st **at = &streams;
    while (*at != s) at = &(*at)->next;
    *at = s->next;
    free(s->ops);
    free(s);
}

bool queue_has(const struct CUstream_st *s)
{
    for (const struct CUstream_st *known = streams; known; known = known->next)
        if (known == s) return true;
    return false;
}

bool queue_done(const struct CUstream_st *s, uint64_t until) { return !queue_has(s) || s->n_done >= until; }

/* The device is lost: nothing of what was given is done. */
void queue_drop(void)
{
    for (struct CUstream_st *s = streams; s; s = s->next) {
        s->first = s->n_ops = 0;
        s->n_done = s->n_given;
    }
}

static bool touches(const struct block *b, const uint8_t *at, uint64_t n)
{
    return at && at < b->first + b->bytes && at + n > b->first;
}

static bool op_uses(const struct op *op, const struct block *b)
{
    if (op->kind == OP_COPY || op->kind == OP_FILL) return touches(b, op->to, op->n) || touches(b, op->from, op->n);
    for (int i = 0; op->kind == OP_LAUNCH && i < op->launch.kernel->n_params - 1; i++)
        if (touches(b, op->launch.refs[i], 1)) return true;
    return false;
}

bool queue_uses(const struct block *b)
{
    for (const struct CUstream_st *s = streams; s; s = s->next)
        for (uint64_t i = s->first; i < s->n_ops; i++)
            if (op_uses(&s->ops[i], b)) return true;
    return false;
}

static void run(struct op *op)
{
    char error[256];
    memory_open();
    if (op->kind == OP_COPY) memmove(op->to, op->from, op->n);
    else if (op->kind == OP_FILL) memset(op->to, (int)op->until, op->n);
    else if (op->kind == OP_LAUNCH && !kernel_run(&op->launch, error, sizeof error)) complain("%s", error);
}

static bool is_ready(const struct CUstream_st *s)
{
    const struct op *op = &s->ops[s->first];
    return s->first < s->n_ops && (op->kind != OP_WAIT || queue_done(op->other, op->until));
}

static void step(struct CUstream_st *s)
{
    struct op op = s->ops[s->first++];
    s->n_done++;
    if (s->first == s->n_ops) s->first = s->n_ops = 0;
    run(&op);
}

/* What streams do of themselves. */
static void run_eager(void)
{
    for (bool again = true; again;) {
        again = false;
        for (struct CUstream_st *s = streams; s; s = s->next)
            while (is_ready(s) && below(4) < s->eager) step(s), again = s->eager > 0;
        if (pretend_now.order == PRETEND_RANDOM) break;
    }
}

void queue_add(struct CUstream_st *s, const struct op *op)
{
    if (s->n_ops == s->cap) {
        s->cap = s->cap ? s->cap * 2 : 64;
        s->ops = realloc(s->ops, s->cap * sizeof *s->ops);
        if (!s->ops) abort();
    }
    s->ops[s->n_ops++] = *op;
    s->n_given++;
    run_eager();
}

/* No more of other streams than the stream waits for itself. */
void queue_wait(struct CUstream_st *s, uint64_t until)
{
    while (s->n_done < until) {
        if (is_ready(s)) {
            step(s);
        } else {
            queue_wait(s->ops[s->first].other, s->ops[s->first].until);
        }
        run_eager();
    }
}
