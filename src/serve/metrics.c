/* metrics.c - see metrics.h. Fields in microseconds are shown in seconds. */
#include "serve/metrics.h"

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
}
