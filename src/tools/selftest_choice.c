/* selftest_choice.c - what a device finds of a row of logits, and the token it chooses, against the host: the sampler
 * of a conversation (session/sample.h), which looks at all of them. Choices come in chains of four, as in decoding: the
 * device goes on from its own, with its own generator, before the host has seen any. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "session/sample.h"
#include "tools/selftest_parts.h"

#define N_VOCAB 129280u
#define N_CHAIN BACKEND_CHOICES
#define NONE (-7) /* what is where a token goes */
#define MASS_TOLERANCE 1e-5

enum kind {
    ROW_MODEL,     /* most far below a few, some equal */
    ROW_TIES,      /* whole numbers: many of the largest */
    ROW_FLAT,      /* more near the largest than are kept */
    ROW_RULED_OUT, /* all but a few cannot come */
    ROW_NONE,      /* nor can these */
    ROW_NAN, ROW_INFINITE,
    ROW_HALVES,    /* two of equal weight, between which a generator's number may lie */
    ROW_AT_MIN_P   /* two, of which one weighs min_p of the other */
};
static const char *const kind_names[] = {"as of a model", "ties", "flat", "few allowed", "none allowed",
                                         "one not a number", "one infinite", "two alike",
                                         "one at min_p"};
#define GENERATOR_OF_HALF 0xA80A80BC0BC0BE0Bu /* its next number is one half, to 24 bits */
#define MIN_P 0.05f

struct chooser {
    struct part part;
    struct rng rng;
    float *logits, *there; /* [N_CHAIN][n], here and of the device */
    struct backend_step *step;
    struct backend_choice *choices; /* [BACKEND_CHOICES] */
    int32_t *token, *pos;  /* of the device */
};

/* Of n such, number k from the top lies about 2.5 ln k below it. */
static float of_model(struct rng *rng, uint32_t n)
{
    float v = -2.5f * logf((rng_float(rng) + 0x1p-25f) * (float)n);
    return rng_below(rng, 8) == 0 ? rintf(v) : rng_below(rng, 50) == 0 ? -INFINITY : v;
}

static void fill(struct rng *rng, float *logits, uint32_t n, enum kind kind)
{
    for (uint32_t i = 0; i < n; i++) {
        if (kind == ROW_FLAT) logits[i] = (float)i * (1.0f / N_VOCAB);
        else if (kind == ROW_TIES) logits[i] = (float)(int)rng_below(rng, 40) - 30;
        else if (kind == ROW_RULED_OUT) logits[i] = rng_below(rng, n) < 4 ? rng_float(rng) : -INFINITY;
        else if (kind >= ROW_HALVES || kind == ROW_NONE) logits[i] = -INFINITY;
        else logits[i] = of_model(rng, n);
    }
    uint32_t some = (uint32_t)rng_below(rng, n);
    if (kind == ROW_RULED_OUT) logits[some] = 1;
    if (kind == ROW_NAN) logits[some] = NAN;
    if (kind == ROW_INFINITE) logits[some] = INFINITY;
    if (kind == ROW_AT_MIN_P) logits[some] = 1, logits[(some + n / 2) % n] = 1 + logf(MIN_P);
    if (kind == ROW_HALVES) logits[some] = logits[(some + n / 2) % n] = 2;
}

static void find_here(const float *logits, uint32_t n, float margin, float temperature, struct backend_candidates *out)
{
    float top = -INFINITY;
    double mass = 0;
    out->n = out->not_numbers = 0;
    for (uint32_t i = 0; i < n; i++) {
        out->not_numbers |= isnan(logits[i]) || logits[i] == INFINITY;
        if (isfinite(logits[i])) top = fmaxf(top, logits[i]);
    }
    for (uint32_t i = 0; i < n; i++) {
        if (!isfinite(logits[i])) continue;
        mass += temperature > 0 ? exp(((double)logits[i] - (double)top) / (double)temperature) : 1;
        if (logits[i] < top - margin) continue;
        if (out->n < BACKEND_CANDIDATES_MAX) out->ids[out->n] = (int32_t)i, out->logits[out->n] = logits[i];
        out->n++;
    }
    out->mass = (float)mass;
}

static bool same_candidates(struct part *p, const struct backend_candidates *got, const struct backend_candidates *want)
{
    if (got->not_numbers != want->not_numbers)
        return part_differs(p, "not_numbers[0] = %u, wanted %u", got->not_numbers, want->not_numbers);
    if (want->not_numbers) return true;
    if (got->n != want->n) return part_differs(p, "n[0] = %u, wanted %u", got->n, want->n);
    for (uint32_t i = 0; i < want->n && i < BACKEND_CANDIDATES_MAX; i++)
        if (got->ids[i] != want->ids[i] || got->logits[i] < want->logits[i] || got->logits[i] > want->logits[i])
            return part_differs(p, "candidates[%u] = %d with %.9g, wanted %d with %.9g", i, got->ids[i],
                                (double)got->logits[i], want->ids[i], (double)want->logits[i]);
    double off = fabs((double)got->mass - (double)want->mass), most = MASS_TOLERANCE * (double)want->mass;
    if (!(off <= most))
        return part_differs(p, "mass[0] = %.9g, wanted %.9g", (double)got->mass, (double)want->mass);
    p->c.distance.error = want->mass > 0 ? off / (double)want->mass : 0;
    p->c.distance.fraction = p->c.distance.error / MASS_TOLERANCE;
    return true;
}

static bool open_chooser(struct chooser *c, struct ops_test *t, const char *name)
{
    struct backend_limits limits = {.n_rows = 1, .n_in = 32, .n_vocab = N_VOCAB};
    *c = (struct chooser){.rng = {7}};
    return part_open(&c->part, t, name, &limits, N_CHAIN * N_VOCAB * sizeof *c->logits + 65536);
}

/* Memory for n_rows rows, which are filled. */
static void take_rows(struct chooser *c, uint32_t n_rows, uint32_t n, enum kind kind)
{
    struct part *p = &c->part;
    p->dev.used = 0;
    p->t->room.used = 0;
    c->logits = (float *)(void *)p->t->room.base;
    for (uint32_t r = 0; r < n_rows; r++) fill(&c->rng, c->logits + (size_t)r * n, n, kind);
    c->there = op_put(&p->dev, c->logits, (size_t)n_rows * n * sizeof *c->logits);
    c->step = op_put(&p->dev, NULL, sizeof *c->step);
    c->choices = op_put(&p->dev, NULL, BACKEND_CHOICES * sizeof *c->choices);
    c->token = op_put(&p->dev, NULL, sizeof *c->token);
    c->pos = op_put(&p->dev, NULL, sizeof *c->pos);
}

static void try_candidates(struct chooser *c, uint32_t n, enum kind kind, float margin, float temperature)
{
    struct part *p = &c->part;
    struct backend_candidates got = {0}, want;
    part_case(p, "rows 1, vocabulary %u, %s, margin %g, temperature %g", n, kind_names[kind], (double)margin,
              (double)temperature);
    take_rows(c, 1, n, kind);
    find_here(c->logits, n, margin, temperature, &want);
    if (part_watch(p)) {
        bool there = p->dev.b->ops->candidates(p->dev.b, c->there, n, margin, temperature, &got);
        double seconds = part_seen(p, 1);
        if (part_finished(p) && there && same_candidates(p, &got, &want) && n == N_VOCAB && !p->t->small) {
            p->c.seconds = seconds;
            p->c.moved_bytes = 2 * (uint64_t)n * sizeof(float);
        }
    }
    part_report(p);
}

void part_candidates(struct ops_test *t, const char *name)
{
    static const uint32_t sizes[] = {1, 31, 300, 5001, N_VOCAB};
    struct chooser c;
    bool there = open_chooser(&c, t, name);
    for (size_t i = 0; there && i < sizeof sizes / sizeof *sizes; i++) {
        if (t->quick && sizes[i] > 300) continue;
        for (enum kind kind = 0; kind < ROW_HALVES && !c.part.lost; kind++) {
            if (t->small && sizes[i] == N_VOCAB && kind != ROW_MODEL && kind != ROW_FLAT) continue;
            try_candidates(&c, sizes[i], kind, kind == ROW_TIES ? 0 : 3, kind == ROW_FLAT ? 0 : 0.7f);
        }
    }
    part_close(&c.part);
}

/* One choice after the other on the device, from rows that lie there; what it chose, and what it left behind. */
struct left_behind {
    struct backend_choice choices[N_CHAIN];
    struct backend_step step;
    int32_t token, pos;
};

static bool choose(struct chooser *c, uint32_t n_rows, uint32_t n, const struct backend_pick *how, uint64_t generator,
                   uint32_t turn, struct left_behind *left)
{
    struct part *p = &c->part;
    struct backend *b = p->dev.b;
    const struct backend_step step = {.how = *how, .generator = {(uint32_t)generator, (uint32_t)(generator >> 32)},
                                      .n = turn};
    const int32_t token = NONE, pos = 41;
    bool good = true;
    b->ops->write(b, c->step, &step, sizeof step);
    b->ops->write(b, c->token, &token, sizeof token);
    b->ops->write(b, c->pos, &pos, sizeof pos);
    for (uint32_t r = 0; r < n_rows && good; r++) {
        b->ops->choose(b, c->there + (size_t)r * n, n, 1, c->step, c->choices, c->token, c->pos);
        good = b->ops->post(b, &c->choices[(turn + r) % BACKEND_CHOICES], sizeof *left->choices);
    }
    for (uint32_t r = 0; r < n_rows && good; r++) good = b->ops->collect(b, &left->choices[r], sizeof *left->choices);
    b->ops->read(b, &left->step, c->step, sizeof left->step);
    b->ops->read(b, &left->token, c->token, sizeof left->token);
    b->ops->read(b, &left->pos, c->pos, sizeof left->pos);
    return part_finished(p) && good;
}

static uint64_t generator_of(const struct backend_step *step)
{
    return (uint64_t)step->generator[1] << 32 | step->generator[0];
}

/* token: that was chosen last and is not in doubt. */
static bool same_state(struct part *p, const struct left_behind *left, uint32_t n, int32_t pos, int32_t token,
                       uint64_t generator)
{
    if (left->step.n != n) return part_differs(p, "n[0] = %u, wanted %u", left->step.n, n);
    if (left->pos != pos) return part_differs(p, "pos[0] = %d, wanted %d", left->pos, pos);
    if (left->token != token) return part_differs(p, "token[0] = %d, wanted %d", left->token, token);
    if (generator_of(&left->step) != generator)
        return part_differs(p, "generator[0] = %016llx, wanted %016llx", (unsigned long long)generator_of(&left->step),
                            (unsigned long long)generator);
    return true;
}

/* A way of choosing: the host looks at all logits, or, twin, follows what the device chose. */
struct contest {
    struct chooser *c;
    struct ds4_sampler *host, *twin;
    struct backend_pick how;
    float margin;
    uint32_t n, turn, n_known, n_doubts; /* n: logits of a row */
};

/* The device left a row to the host. Had it to? */
static void left_one(struct contest *k, const float *logits)
{
    struct backend_candidates near;
    int32_t id;
    find_here(logits, k->n, k->margin, k->how.temperature, &near);
    if (sampler_pick_near(k->twin, &near, false, &id)) k->n_doubts++;
    else sampler_drew(k->twin, &k->how);
}

static bool compare_chain(struct contest *k, uint32_t n_rows)
{
    struct part *p = &k->c->part;
    struct left_behind left;
    struct ds4_error error = {0};
    uint64_t generator = sampler_generator(k->host);
    int32_t token = NONE;
    if (!choose(k->c, n_rows, k->n, &k->how, generator, k->turn, &left)) return false;
    k->turn += n_rows;
    for (uint32_t r = 0; r < n_rows; r++) {
        const float *logits = k->c->logits + (size_t)r * k->n;
        int32_t want;
        if (ds4_sampler_pick(k->host, logits, NULL, false, &want, &error) != DS4_OK)
            return part_differs(p, "the host cannot choose: %s", error.message);
        if (!left.choices[r].is_known) {
            left_one(k, logits);
            return r + 1 < n_rows || same_state(p, &left, k->turn, 41 + (int32_t)n_rows, token, generator);
        }
        if (left.choices[r].id != want)
            return part_differs(p, "choice[%u] = %d, wanted %d", r, left.choices[r].id, want);
        sampler_drew(k->twin, &k->how);
        generator = sampler_generator(k->host);
        token = want;
        k->n_known++;
    }
    return same_state(p, &left, k->turn, 41 + (int32_t)n_rows, token, generator);
}

static bool compare_all(struct contest *k, enum kind kind, uint32_t n_chains)
{
    struct part *p = &k->c->part;
    for (uint32_t i = 0; i < n_chains; i++) {
        uint32_t n_rows = 1 + i % N_CHAIN;
        take_rows(k->c, n_rows, k->n, kind);
        if (i == 0 && !part_watch(p)) return false; /* the others do not wait for each kernel */
        bool good = compare_chain(k, n_rows);
        if (i == 0) (void)part_seen(p, 1);
        p->c.n_kernels = 0;
        if (!good) return false;
        if (sampler_generator(k->host) == sampler_generator(k->twin)) continue;
        return part_differs(p, "the host's own generators differ"); /* the draws of this chain were left half way */
    }
    if (kind == ROW_MODEL && (k->n_doubts > 1 + n_chains / 10 || k->n_known < n_chains / 2))
        return part_differs(p, "known[0] = %u choices of %u chains, %u left to rounding, wanted most of %u", k->n_known,
                            n_chains, k->n_doubts, n_chains * 5 / 2);
    return true;
}

/* What can be asked for. */
static const struct way {
    const char *name;
    float temperature, min_p, top_p;
    int32_t top_k;
    bool full; /* the whole vocabulary in an emulator, too */
} ways[] = {
    {"greedy", 0, MIN_P, 1, 0, true},
    {"temperature 0.3", 0.3f, MIN_P, 1, 0, false},
    {"temperature 1, min_p 0.01", 1, 0.01f, 1, 0, false},
    {"temperature 1.6, min_p 0.2", 1.6f, 0.2f, 1, 0, false},
    {"top_k 8", 1, 0, 1, 8, false},
    {"top_p 0.95", 1, 0, 0.95f, 0, true},
    {"top_k 5, top_p 0.8, min_p 0.05", 1, MIN_P, 0.8f, 5, false},
    {"top_p 0.3, temperature 0.6", 0.6f, 0.02f, 0.3f, 0, false},
};
#define N_WAYS (sizeof ways / sizeof *ways)

static bool open_contest(struct contest *k, struct chooser *c, const struct way *way, uint32_t n)
{
    struct ds4_sampling p = ds4_sampling_default();
    struct ds4_error error = {0};
    p.temperature = way->temperature;
    p.min_p = way->min_p;
    p.top_p = way->top_p;
    p.top_k = way->top_k;
    p.seed = 11;
    *k = (struct contest){.c = c, .n = n};
    if (sampler_create(n, &p, &k->host, &error) != DS4_OK || sampler_create(n, &p, &k->twin, &error) != DS4_OK)
        return part_differs(&c->part, "%s", error.message);
    if (!sampler_how(k->host, false, &k->how) || !sampler_needs(k->host, false, &k->margin))
        return part_differs(&c->part, "the host does not leave this to a device");
    return true;
}

/* One row in full size, timed. */
static void measure(struct contest *k)
{
    struct part *p = &k->c->part;
    if (!part_watch(p)) return;
    for (uint32_t i = 0; i < PART_REPEATS; i++)
        p->dev.b->ops->choose(p->dev.b, k->c->there, k->n, 1, k->c->step, k->c->choices, k->c->token, k->c->pos);
    p->c.seconds = part_seen(p, PART_REPEATS);
    p->c.moved_bytes = 2 * (uint64_t)k->n * sizeof(float);
    (void)part_finished(p);
}

static void try_way(struct chooser *c, const struct way *way, uint32_t n, enum kind kind, uint32_t n_chains)
{
    struct contest k;
    part_case(&c->part, "rows %u, vocabulary %u, %s, %s", n_chains * 5 / 2, n, way->name, kind_names[kind]);
    if (open_contest(&k, c, way, n) && compare_all(&k, kind, n_chains) && n == N_VOCAB && !c->part.t->small &&
        !c->part.t->quick)
        measure(&k);
    ds4_sampler_destroy(k.host);
    ds4_sampler_destroy(k.twin);
    part_report(&c->part);
}

/* What no device may decide: nothing is chosen, and the generator stays. */
static void try_left(struct chooser *c, enum kind kind)
{
    struct part *p = &c->part;
    struct left_behind left;
    const struct backend_pick how = {.margin = 3, .temperature = 1, .min_p = MIN_P, .top_p = 1};
    const uint32_t n = kind == ROW_FLAT && !p->t->quick ? 5000 : 700;
    part_case(p, "rows 1, vocabulary %u, left to the host, %s", n, kind_names[kind]);
    take_rows(c, 1, n, kind);
    if (choose(c, 1, n, &how, GENERATOR_OF_HALF, 6, &left)) {
        if (left.choices[0].is_known)
            (void)part_differs(p, "choice[0] = %d, wanted none", left.choices[0].id);
        else (void)same_state(p, &left, 7, 42, NONE, GENERATOR_OF_HALF);
    }
    part_report(p);
}

void part_choice(struct ops_test *t, const char *name)
{
    static const enum kind left[] = {ROW_FLAT, ROW_NONE, ROW_NAN, ROW_INFINITE, ROW_HALVES, ROW_AT_MIN_P};
    const uint32_t n_chains = t->quick ? 4 : t->small ? 8 : 40;
    struct chooser c;
    bool there = open_chooser(&c, t, name);
    for (size_t i = 0; there && i < N_WAYS; i++) {
        for (enum kind kind = ROW_MODEL; kind <= ROW_RULED_OUT && !c.part.lost; kind++)
            if (!t->quick || kind <= ROW_TIES) try_way(&c, &ways[i], 300, kind, n_chains);
        if (!c.part.lost && !t->quick && (!t->small || ways[i].full))
            try_way(&c, &ways[i], N_VOCAB, ROW_MODEL, t->small ? 2 : n_chains);
    }
    for (size_t i = 0; there && !c.part.lost && i < sizeof left / sizeof *left; i++) try_left(&c, left[i]);
    part_close(&c.part);
}
