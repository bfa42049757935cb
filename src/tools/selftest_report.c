/* selftest_report.c - see selftest_report.h. In JSON:
 * {"version", "commit", "compiler", "system",
 *  "devices": [{"backend", "device", "memory_bytes", "driver", "copy_bytes_per_s",
 *   "checks": [{"check", "ok", "detail"}],
 *   "cases": [{"operation", "shape", "ok", "error", "of_tolerance", "why",
 *              "seconds", "bytes", "of_copy", "kernels": [{"kernel", "seconds"}]}],
 *   "n_kernels_run", "kernels_not_run": [names]}],
 *  "absent": [{"backend", "why"}], "n_failed", "summary"}; the last four members of a case only
 * where it was timed, why where it failed. */
#include "tools/selftest_report.h"

#include <math.h>

#include "base/build.h"
#include "base/bytes.h"
#include "ds4.h"

#define NAMED_MAX 8u /* faults of a device in the summary */

static void put_string(struct report *r, const char *name, const char *text)
{
    sink_printf(&r->out, "\"%s\":", name);
    sink_put_json_string(&r->out, span_from(text));
}

void report_begin(struct report *r)
{
    char system[160];
    const char *commit = *build_commit ? build_commit : "unknown";
    build_system(system, sizeof system);
    buf_printf(&r->summary, "ds4 " DS4_VERSION ", commit %s, " BUILD_COMPILER ", on %s.", commit, system);
    if (!r->json) {
        sink_printf(&r->out, "ds4 " DS4_VERSION ", self test\n");
        return;
    }
    sink_put_text(&r->out, "{\"version\":\"" DS4_VERSION "\",");
    put_string(r, "commit", commit);
    sink_put_text(&r->out, ",");
    put_string(r, "compiler", BUILD_COMPILER);
    sink_put_text(&r->out, ",");
    put_string(r, "system", system);
    sink_put_text(&r->out, ",\"devices\":[");
}

void report_device(struct report *r, const char *backend, const char *name, uint64_t memory_bytes, const char *driver)
{
    double gib = (double)memory_bytes / 1073741824.0;
    r->copy_rate = 0;
    r->n_device_cases = r->n_device_kernels = r->n_named = 0;
    r->n_failed_before = r->n_failed;
    buf_clear(&r->named);
    buf_printf(&r->summary, " %s: %s, %.1f GiB%s%s: ", backend, name, gib, *driver ? ", " : "", driver);
    if (!r->json) {
        sink_printf(&r->out, "%s: %s, %.1f GiB%s%s\n", backend, name, gib, *driver ? ", " : "", driver);
        return;
    }
    sink_put_text(&r->out, r->n_devices ? ",\n{" : "\n{");
    put_string(r, "backend", backend);
    sink_put_text(&r->out, ",");
    put_string(r, "device", name);
    sink_printf(&r->out, ",\"memory_bytes\":%llu,", (unsigned long long)memory_bytes);
    put_string(r, "driver", driver);
    sink_put_text(&r->out, ",\"checks\":[");
    r->later = false;
}

void report_absent(struct report *r, const char *backend, const char *why)
{
    buf_printf(&r->summary, " %s: no device: %s.", backend, why);
    if (!r->json) {
        sink_printf(&r->out, "%s: no device: %s\n", backend, why);
        return;
    }
    buf_put_text(&r->absent, buf_span(&r->absent).len ? ",{\"backend\":" : "{\"backend\":");
    buf_put_json_string(&r->absent, span_from(backend));
    buf_put_text(&r->absent, ",\"why\":");
    buf_put_json_string(&r->absent, span_from(why));
    buf_put_text(&r->absent, "}");
}

/* A fault goes into the summary, too, while there are few. */
static void name_fault(struct report *r, const char *what, const char *shape, const char *why)
{
    if (r->n_named++ < NAMED_MAX) buf_printf(&r->named, " %s%s%s: %s.", what, *shape ? ", " : "", shape, why);
}

void report_check(struct report *r, const char *what, bool good, const char *detail)
{
    r->n_failed += !good;
    r->n_device_cases++;
    if (!good) name_fault(r, what, "", detail);
    if (!r->json) {
        sink_printf(&r->out, "  %-28s %-4s %s\n", what, good ? "ok" : "BAD", detail);
        (void)sink_flush(&r->out);
        return;
    }
    sink_put_text(&r->out, r->later ? ",{" : "{");
    put_string(r, "check", what);
    sink_printf(&r->out, ",\"ok\":%s,", good ? "true" : "false");
    put_string(r, "detail", detail);
    sink_put_text(&r->out, "}");
    r->later = true;
}

void report_copy_rate(struct report *r, double bytes_per_second, bool by_copies)
{
    r->copy_rate = bytes_per_second;
    if (!r->json && bytes_per_second > 0)
        sink_printf(&r->out, "  %-28s      %.0f GB/s (read and written by %s)\n", "copying", bytes_per_second * 1e-9,
                    by_copies ? "copies" : "additions");
}

void report_cases_begin(struct report *r)
{
    if (r->json) sink_printf(&r->out, "],\"copy_bytes_per_s\":%.6g,\"cases\":[", r->copy_rate);
    else sink_printf(&r->out, "  %-14s%8s%16s%16s\n", "operation", "cases", "largest error", "of tolerance");
    r->later = false;
}

static void put_case_json(struct report *r, const struct report_case *c)
{
    sink_put_text(&r->out, r->later ? ",\n{" : "\n{");
    put_string(r, "operation", c->op);
    sink_put_text(&r->out, ",");
    put_string(r, "shape", c->shape);
    sink_printf(&r->out, ",\"ok\":%s,\"error\":%.6g,\"of_tolerance\":%.6g", c->good ? "true" : "false",
                c->distance.error, c->distance.fraction);
    if (!c->good) {
        sink_put_text(&r->out, ",");
        put_string(r, "why", c->why);
    }
    if (c->seconds > 0) {
        double rate = (double)c->moved_bytes / c->seconds;
        sink_printf(&r->out, ",\"seconds\":%.6g,\"bytes\":%llu,\"of_copy\":%.4g,\"kernels\":[", c->seconds,
                    (unsigned long long)c->moved_bytes, r->copy_rate > 0 ? rate / r->copy_rate : 0.0);
        for (size_t i = 0; i < c->n_kernels; i++) {
            sink_put_text(&r->out, i ? ",{" : "{");
            put_string(r, "kernel", c->kernels[i].name);
            sink_printf(&r->out, ",\"seconds\":%.6g}", c->kernels[i].seconds / c->n_repeats);
        }
        sink_put_text(&r->out, "]");
    }
    sink_put_text(&r->out, "}");
    r->later = true;
}

static void put_times(struct report *r, const struct report_case *c)
{
    double rate = (double)c->moved_bytes / c->seconds;
    sink_printf(&r->out, "    %-11s %9.4f ms %6.0f GB/s", c->op, c->seconds * 1e3, rate * 1e-9);
    if (r->copy_rate > 0) sink_printf(&r->out, " %4.0f%% of copying", 100 * rate / r->copy_rate);
    sink_printf(&r->out, "  %s", c->shape);
    for (size_t i = 0; c->n_kernels > 1 && i < c->n_kernels; i++)
        sink_printf(&r->out, "%s%s %.4f", i ? ", " : ": ", c->kernels[i].name,
                    c->kernels[i].seconds / c->n_repeats * 1e3);
    sink_put_text(&r->out, "\n");
}

void report_case(struct report *r, const struct report_case *c)
{
    r->n_cases++;
    r->distance.error = fmax(r->distance.error, c->distance.error);
    r->distance.fraction = fmax(r->distance.fraction, c->distance.fraction);
    r->n_failed += !c->good;
    r->n_faults += !c->good;
    r->n_device_cases++;
    if (!c->good) name_fault(r, c->op, c->shape, c->why);
    if (r->json) {
        put_case_json(r, c);
        return;
    }
    if (!c->good && r->n_faults <= REPORT_FAULTS_MAX)
        sink_printf(&r->out, "  BAD %s: %s: %s\n", c->op, c->shape, c->why);
    else if (c->good && c->seconds > 0) put_times(r, c);
    (void)sink_flush(&r->out);
}

void report_operation_end(struct report *r, const char *op)
{
    if (!r->json && r->n_cases)
        sink_printf(&r->out, "  %-14s%8u%16.1e%15.0f%%  %s\n", op, r->n_cases, r->distance.error,
                    100 * r->distance.fraction, r->n_faults ? "BAD" : "ok");
    if (!r->json && r->n_faults > REPORT_FAULTS_MAX)
        sink_printf(&r->out, "  BAD %s: %u further cases\n", op, r->n_faults - REPORT_FAULTS_MAX);
    r->n_cases = r->n_faults = 0;
    r->distance = (struct op_distance){0};
    (void)sink_flush(&r->out);
}

void report_kernels_begin(struct report *r, uint32_t n_run)
{
    r->n_device_kernels = n_run;
    if (r->json) sink_printf(&r->out, "],\"n_kernels_run\":%u,\"kernels_not_run\":[", n_run);
    else if (n_run) sink_printf(&r->out, "  %u kernels were run", n_run);
    r->later = false;
}

void report_kernel_not_run(struct report *r, const char *kernel)
{
    if (r->json) sink_put_text(&r->out, r->later ? "," : "");
    else sink_put_text(&r->out, r->later ? ", " : "; not ");
    if (r->json) sink_put_json_string(&r->out, span_from(kernel));
    else sink_put_text(&r->out, kernel);
    r->later = true;
}

void report_kernels_end(struct report *r) { sink_put_text(&r->out, r->json ? "]" : "\n"); }

void report_nothing_run(struct report *r)
{
    if (r->json) sink_put_text(&r->out, "],\"copy_bytes_per_s\":0,\"cases\":[],\"n_kernels_run\":0,"
                                        "\"kernels_not_run\":[]");
}

void report_device_end(struct report *r)
{
    buf_printf(&r->summary, "%u checks and cases, %u kernels run, %u failed", r->n_device_cases, r->n_device_kernels,
               r->n_failed - r->n_failed_before);
    if (r->copy_rate > 0) buf_printf(&r->summary, ", copying %.0f GB/s", r->copy_rate * 1e-9);
    buf_put_text(&r->summary, ".");
    buf_put_span(&r->summary, buf_span(&r->named));
    if (r->n_named > NAMED_MAX) buf_printf(&r->summary, " And %u more.", r->n_named - NAMED_MAX);
    if (r->json) sink_put_text(&r->out, "}");
    r->n_devices++;
}

void report_end(struct report *r)
{
    struct ds4_span summary = buf_span(&r->summary);
    if (r->json) {
        sink_put_text(&r->out, "],\"absent\":[");
        sink_put(&r->out, buf_span(&r->absent));
        sink_printf(&r->out, "],\"n_failed\":%u,\"summary\":", r->n_failed);
        sink_put_json_string(&r->out, summary);
        sink_put_text(&r->out, "}\n");
    } else {
        if (r->n_devices == 0)
            sink_put_text(&r->out, "nothing was checked: this build, or this machine, has no such device\n");
        else sink_printf(&r->out, "%u checks failed\n", r->n_failed);
        sink_put_text(&r->out, "\nTo paste into a report:\n");
        sink_put(&r->out, summary);
        sink_put_text(&r->out, "\n");
    }
    buf_deinit(&r->summary);
    buf_deinit(&r->absent);
    buf_deinit(&r->named);
}
