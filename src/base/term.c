/* term.c - terminal helpers. See term.h. */
#include "base/term.h"

#include <stdio.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/utf8.h"

#define SHOW_EVERY_NS 100000000u  /* ten times a second */
#define SHOW_AFTER_NS 300000000u  /* short work needs no line */

bool term_is(int fd) { return isatty(fd) == 1; }

size_t term_columns(int fd)
{
    struct winsize size;
    if (ioctl(fd, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
    return size.ws_col;
}

static int dimmed_fd; /* of the handler */

static void on_end(int number)
{
    (void)!write(dimmed_fd, "\x1b[0m", 4);
    (void)raise(number); /* SA_RESETHAND: this one ends the program, and its caller learns of what */
}

void term_undim_at_signals(int fd)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_end, .sa_flags = (int)SA_RESETHAND | SA_NODEFER}, old;
    dimmed_fd = fd;
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (sigaction(ends[i], NULL, &old) == 0 && old.sa_handler == SIG_DFL) (void)sigaction(ends[i], &action, NULL);
}

static bool is_control(uint32_t scalar)
{
    return (scalar < 0x20 && scalar != '\n' && scalar != '\t') || (scalar >= 0x7F && scalar < 0xA0);
}

void term_put_safe(struct buf *out, struct ds4_span text)
{
    for (size_t i = 0; i < text.len;) {
        size_t taken;
        uint32_t scalar = utf8_next(text.ptr + i, text.len - i, &taken);
        if (scalar == UTF8_BAD || (is_control(scalar) && scalar >= 0x80)) {
            buf_put_text(out, "\xEF\xBF\xBD");
        } else if (scalar == '\r' && i + 1 < text.len && text.ptr[i + 1] == '\n') {
            /* the line feed that follows says it all */
        } else if (is_control(scalar)) { /* U+2400 and on are pictures of the control characters, U+2421 of DEL */
            char picture[4];
            buf_put(out, picture, utf8_put(scalar == 0x7F ? 0x2421 : 0x2400 + scalar, picture));
        } else {
            buf_put(out, text.ptr + i, taken);
        }
        i += taken;
    }
}

bool term_is_safe(struct ds4_span text)
{
    for (size_t i = 0; i < text.len;) {
        size_t taken;
        uint32_t scalar = utf8_next(text.ptr + i, text.len - i, &taken);
        if (scalar == UTF8_BAD || is_control(scalar)) return false;
        i += taken;
    }
    return true;
}

static void show(struct term_progress *p, const char *phase, uint64_t done, uint64_t total, double seconds)
{
    char a[16], b[16];
    double percent = total ? 100.0 * (double)done / (double)total : 100;
    if (strcmp(phase, "load") == 0)
        (void)fprintf(stderr, "\r\x1b[Kloading %s of %s (%.0f%%)", term_bytes(done, a), term_bytes(total, b), percent);
    else
        (void)fprintf(stderr, "\r\x1b[Kreading %llu of %llu tokens (%.0f%%, %.1f tokens/s)", (unsigned long long)done,
                      (unsigned long long)total, percent, seconds > 0 ? (double)done / seconds : 0);
    (void)fflush(stderr);
    p->visible = true;
}

bool term_progress(void *user, const char *phase, uint64_t done, uint64_t total)
{
    struct term_progress *p = user;
    uint64_t now_ns = clock_ns();
    if (p->started_ns == 0) p->started_ns = now_ns;
    if (p->cancel && *p->cancel) return false;
    if (!term_is(STDERR_FILENO) || done >= total) return true;
    if (now_ns - p->started_ns < SHOW_AFTER_NS || now_ns - p->shown_ns < SHOW_EVERY_NS) return true;
    p->shown_ns = now_ns;
    show(p, phase, done, total, (double)(now_ns - p->started_ns) * 1e-9);
    return true;
}

void term_progress_clear(struct term_progress *p)
{
    if (p->visible) {
        (void)fputs("\r\x1b[K", stderr);
        (void)fflush(stderr);
    }
    p->visible = false;
    p->started_ns = p->shown_ns = 0;
}

const char *term_bytes(uint64_t bytes, char out[16])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit_i = 0;
    for (; value >= 999.5 && unit_i < 6; unit_i++) value /= 1024;
    (void)snprintf(out, 16, unit_i && value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit_i]);
    return out;
}
