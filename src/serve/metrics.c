/* metrics.c - see metrics.h. Fields in microseconds are shown in seconds. */
#include "serve/metrics.h"

/* Tokens a second since the start, while there was work of that kind. */
static void put_rate(struct buf *out, const char *name, const char *help, long long tokens, long long us)
{
    buf_printf(out, "# HELP ds4:%s %s\n# TYPE ds4:%s gauge\n", name, help, name);
    buf_printf(out, "ds4:%s %.6f\n", name, us > 0 ? (double)tokens / ((double)us * 1e-6) : 0);
}

void metrics_put(struct buf *out, struct metrics *m)
{
    const struct {
        const char *name, *type, *help;
        long long value;
    } rows[] = {
#define X(field, name, type, help) {name, type, help, atomic_load(&m->field)},
        METRICS_MAP(X)
#undef X
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        buf_printf(out, "# HELP ds4:%s %s\n# TYPE ds4:%s %s\n", rows[i].name, rows[i].help, rows[i].name, rows[i].type);
        if (span_find(span_from(rows[i].name), SPAN("seconds"), 0) != SIZE_MAX)
            buf_printf(out, "ds4:%s %.6f\n", rows[i].name, (double)rows[i].value * 1e-6);
        else
            buf_printf(out, "ds4:%s %lld\n", rows[i].name, rows[i].value);
    }
    put_rate(out, "prompt_tokens_seconds", "prompt tokens computed a second", atomic_load(&m->prompt_tokens),
             atomic_load(&m->prompt_us));
    put_rate(out, "predicted_tokens_seconds", "tokens generated a second", atomic_load(&m->tokens),
             atomic_load(&m->tokens_us));
}
