/* serve.c - figures of the server: requests a second of its HTTP path, time to the first byte of 64 streams at once,
 * what it adds to a token beside `ds4 run`, decoding several conversations in one pass, and whether the comparison of
 * keys tells by its time how much of a key was right.
 * The first two are taken with the scripted engine, which computes nothing; the rest with models/ds4-tiny.gguf. Beside
 * wall time stands the processor time of the server, which other programs on the machine do not change.
 * Usage: serve [FOLDER OF ds4 AND ds4-fake], from the root; without it that of its own variant. A measurement, not a
 * test. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/rng.h"
#include "serve/policy.h"

#define CONNS_MAX 64
#define SAMPLES_MAX 20000
#define ROUNDS 9
#define KEY_SAMPLES 1000000

static char binary[512], fake[512];
static const char tiny[] = "models/ds4-tiny.gguf";

static void give_up(const char *what)
{
    (void)fprintf(stderr, "serve: %s\n", what);
    exit(1);
}

/* ---- programs --------------------------------------------------------------------------------------------------- */

struct program {
    pid_t pid;
    int out;      /* its standard error */
    unsigned port;
};

static pid_t begin(const char *const *argv, int fd, int *out)
{
    int ends[2];
    if (pipe(ends) != 0) give_up("no pipe");
    pid_t pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);
        (void)dup2(null, 0);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        (void)dup2(ends[1], fd);
        (void)execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    (void)close(ends[1]);
    *out = ends[0];
    return pid;
}

static struct program serve(const char *program, const char *model, const char *parallel)
{
    const char *argv[] = {program, "serve", "-m", model, "--port", "0", "--parallel", parallel, "--quiet",
                          "--no-loop-guard", "--ctx", "2048", NULL};
    struct program p = {0};
    char text[4096];
    size_t n = 0;
    p.pid = begin(argv, 2, &p.out);
    while (p.port == 0) {
        ssize_t got = read(p.out, text + n, sizeof text - 1 - n);
        if (got <= 0) give_up("the server does not start");
        n += (size_t)got;
        text[n] = 0;
        const char *at = strstr(text, "listening on http://127.0.0.1:");
        if (at && strchr(at, '\n')) p.port = (unsigned)strtoul(strrchr(at, ':') + 1, NULL, 10);
    }
    return p;
}

static void end(struct program *p)
{
    (void)kill(p->pid, SIGTERM);
    (void)waitpid(p->pid, NULL, 0);
    (void)close(p->out);
}

/* Processor seconds that a living process has used. */
static double cpu_of(pid_t pid)
{
    char path[64], text[1024];
    (void)snprintf(path, sizeof path, "/proc/%ld/stat", (long)pid);
    int fd = open(path, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0) (void)close(fd);
    if (n <= 0) return 0;
    text[n] = 0;
    char *at = strrchr(text, ')');
    for (int field = 2; at && field < 14; field++) at = strchr(at + 1, ' ');
    double user = at ? strtod(at, &at) : 0, system_time = at ? strtod(at, NULL) : 0;
    return (user + system_time) / (double)sysconf(_SC_CLK_TCK);
}

/* ---- load ------------------------------------------------------------------------------------------------------- */

struct client {
    int fd;
    struct buf got;
    size_t sent;
    uint64_t began_ns;
    bool busy, spoke;
};

static int dial(unsigned port)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&to, sizeof to) != 0) give_up("the server is not reached");
    (void)fcntl(fd, F_SETFL, O_NONBLOCK);
    return fd;
}

static bool is_whole(const struct client *c)
{
    struct ds4_span text = buf_span(&c->got);
    size_t head = span_find(text, SPAN("\r\n\r\n"), 0), length = span_find(text, SPAN("Content-Length: "), 0);
    if (head == SIZE_MAX) return false;
    if (length == SIZE_MAX) return text.len > 5 && memcmp(text.ptr + text.len - 5, "0\r\n\r\n", 5) == 0;
    return text.len >= head + 4 + strtoul(text.ptr + length + 16, NULL, 10);
}

struct load {
    double seconds;
    double first_ms[SAMPLES_MAX]; /* to the first byte of the answer */
    size_t n_done, n_tokens;      /* tokens: of the usage that streams tell */
};

static void step(struct client *c, const struct buf *request, struct load *load)
{
    static char bytes[65536];
    if (c->sent < request->text.len) {
        ssize_t n = send(c->fd, request->text.ptr + c->sent, request->text.len - c->sent, MSG_NOSIGNAL);
        if (n > 0) c->sent += (size_t)n;
    }
    ssize_t n = recv(c->fd, bytes, sizeof bytes, 0);
    if (n == 0) give_up("the server hung up");
    if (n < 0) return;
    if (!c->spoke) load->first_ms[load->n_done % SAMPLES_MAX] = clock_seconds_since(c->began_ns) * 1e3;
    c->spoke = true;
    buf_put(&c->got, bytes, (size_t)n);
    if (!is_whole(c)) return;
    size_t at = span_find(buf_span(&c->got), SPAN("\"completion_tokens\":"), 0);
    if (at != SIZE_MAX) load->n_tokens += strtoul(c->got.text.ptr + at + 20, NULL, 10);
    c->busy = false;
    load->n_done++;
}

/* n requests over n_conns connections, each with one at a time. */
static void run_load(unsigned port, size_t n_conns, size_t n, const struct buf *request, struct load *load)
{
    struct client clients[CONNS_MAX] = {{0}};
    struct pollfd polls[CONNS_MAX];
    size_t n_begun = 0;
    *load = (struct load){0};
    for (size_t i = 0; i < n_conns; i++) clients[i].fd = dial(port);
    uint64_t began = clock_ns();
    while (load->n_done < n) {
        bool idle = false; /* an answer was there at once: another request goes out */
        for (size_t i = 0; i < n_conns; i++) {
            struct client *c = &clients[i];
            if (!c->busy && n_begun < n) {
                c->busy = true;
                c->spoke = false;
                c->sent = 0;
                c->began_ns = clock_ns();
                buf_clear(&c->got);
                n_begun++;
                step(c, request, load);
            }
            short wants = c->sent < request->text.len ? POLLIN | POLLOUT : POLLIN;
            idle = idle || !c->busy;
            polls[i] = (struct pollfd){.fd = c->fd, .events = c->busy ? wants : 0};
        }
        if (load->n_done >= n) break;
        if (poll(polls, n_conns, idle ? 0 : 60000) == 0 && !idle) give_up("no answer for a minute");
        for (size_t i = 0; i < n_conns; i++)
            if (clients[i].busy && polls[i].revents) step(&clients[i], request, load);
    }
    load->seconds = clock_seconds_since(began);
    for (size_t i = 0; i < n_conns; i++) {
        (void)close(clients[i].fd);
        buf_deinit(&clients[i].got);
    }
}

static struct buf post(const char *body)
{
    struct buf b = {0};
    buf_printf(&b, "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
               "Content-Length: %zu\r\n\r\n%s", strlen(body), body);
    return b;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double share_of(double *values, size_t n, double share)
{
    qsort(values, n, sizeof *values, by_value);
    size_t i = (size_t)((double)n * share);
    return values[i < n ? i : n - 1];
}

/* ---- figures ---------------------------------------------------------------------------------------------------- */

static const char *script(const char *text)
{
    static const char path[] = "build/measure-serve.json";
    FILE *f = fopen(path, "w");
    if (!f || fputs(text, f) < 0 || fclose(f) != 0) give_up("the script cannot be written");
    return path;
}

#define HELLO "\"messages\":[{\"role\":\"user\",\"content\":\"hello\"}],\"thinking\":false"
#define STREAM ",\"stream\":true,\"stream_options\":{\"include_usage\":true}"

static void measure_requests(void)
{
    static struct load load;
    struct program p = serve(fake, script("{\"answers\":[{\"say\":\"Hi\"}]}"), "16");
    struct buf chat = post("{" HELLO "}"), health = {0};
    buf_put_text(&health, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
    run_load(p.port, 16, 500, &chat, &load);
    double cpu = cpu_of(p.pid);
    run_load(p.port, 16, 5000, &chat, &load);
    printf("chat requests of 3 tokens, 16 connections: %.0f/s, %.3f ms of processor each\n", 5000 / load.seconds,
           (cpu_of(p.pid) - cpu) * 1e3 / 5000);
    run_load(p.port, 16, 20000, &health, &load);
    printf("/health, 16 connections: %.0f/s\n", 20000 / load.seconds);
    buf_deinit(&chat);
    buf_deinit(&health);
    end(&p);
}

static void measure_first_byte(void)
{
    static struct load load;
    struct buf text = {0};
    buf_put_text(&text, "{\"answers\":[{\"say\":\"");
    for (int i = 0; i < 50; i++) buf_printf(&text, "word%d ", i);
    buf_put_text(&text, "\"}]}");
    buf_put_byte(&text, 0);
    struct program p = serve(fake, script(text.text.ptr), "63");
    struct buf chat = post("{" HELLO STREAM "}");
    run_load(p.port, 64, 64, &chat, &load);
    run_load(p.port, 64, 640, &chat, &load);
    double p50 = share_of(load.first_ms, load.n_done, 0.5), p99 = share_of(load.first_ms, load.n_done, 0.99);
    printf("64 streams of %zu tokens at once: first byte p50 %.1f ms, p99 %.1f ms; %.0f tokens/s in all\n",
           load.n_tokens / load.n_done, p50, p99, (double)load.n_tokens / load.seconds);
    buf_deinit(&text);
    buf_deinit(&chat);
    end(&p);
}

#define QUESTION "Tell me a story about a dog."
static struct buf tiny_request(unsigned n_tokens)
{
    char body[512];
    (void)snprintf(body, sizeof body, "{\"messages\":[{\"role\":\"user\",\"content\":\"" QUESTION "\"}],"
                   "\"thinking\":false,\"temperature\":0,\"max_tokens\":%u" STREAM "}", n_tokens);
    return post(body);
}

struct cost {
    double wall_s, cpu_s;
};

static struct cost run_cost(unsigned n_tokens)
{
    char count[16], bytes[4096];
    int out;
    struct rusage before, after;
    (void)snprintf(count, sizeof count, "%u", n_tokens);
    const char *argv[] = {binary, "run", "-m", tiny, "-p", QUESTION, "--no-think", "--temp", "0", "-n", count,
                          "--keep-repeating", "--ctx", "2048", NULL};
    (void)getrusage(RUSAGE_CHILDREN, &before);
    uint64_t began = clock_ns();
    pid_t pid = begin(argv, 1, &out);
    while (read(out, bytes, sizeof bytes) > 0) {
    }
    (void)waitpid(pid, NULL, 0);
    (void)close(out);
    struct cost cost = {.wall_s = clock_seconds_since(began)};
    (void)getrusage(RUSAGE_CHILDREN, &after);
    cost.cpu_s = (double)(after.ru_utime.tv_sec - before.ru_utime.tv_sec + after.ru_stime.tv_sec -
                          before.ru_stime.tv_sec) +
                 (double)(after.ru_utime.tv_usec - before.ru_utime.tv_usec + after.ru_stime.tv_usec -
                          before.ru_stime.tv_usec) * 1e-6;
    return cost;
}

static struct cost serve_cost(const struct program *p, unsigned n_tokens, size_t *n_out)
{
    static struct load load;
    struct buf request = tiny_request(n_tokens);
    double cpu = cpu_of(p->pid);
    run_load(p->port, 1, 1, &request, &load);
    buf_deinit(&request);
    *n_out = load.n_tokens;
    return (struct cost){load.seconds, cpu_of(p->pid) - cpu};
}

/* The same greedy answer, to its whole and to a quarter of its length: the difference leaves loading and prompt out. */
static void measure_token(void)
{
    struct program p = serve(binary, tiny, "1");
    size_t n, n_short;
    double run_ms[ROUNDS], serve_ms[ROUNDS], run_cpu[ROUNDS], serve_cpu[ROUNDS];
    (void)serve_cost(&p, 400, &n);
    for (size_t i = 0; i < ROUNDS; i++) {
        struct cost a = serve_cost(&p, (unsigned)n / 4, &n_short), b = serve_cost(&p, (unsigned)n, &n);
        struct cost c = run_cost((unsigned)n_short), d = run_cost((unsigned)n);
        double tokens = (double)(n - n_short) * 1e-3;
        serve_ms[i] = (b.wall_s - a.wall_s) / tokens, serve_cpu[i] = (b.cpu_s - a.cpu_s) / tokens;
        run_ms[i] = (d.wall_s - c.wall_s) / tokens, run_cpu[i] = (d.cpu_s - c.cpu_s) / tokens;
    }
    printf("a token of ds4-tiny, answer of %zu, medians of %d: server %.2f ms (processor %.2f), `ds4 run` %.2f "
           "(%.2f)\n", n, ROUNDS,
           share_of(serve_ms, ROUNDS, 0.5), share_of(serve_cpu, ROUNDS, 0.5), share_of(run_ms, ROUNDS, 0.5),
           share_of(run_cpu, ROUNDS, 0.5));
    end(&p);
}

static void measure_batches(void)
{
    static struct load load;
    struct program p = serve(binary, tiny, "8");
    struct buf request = tiny_request(200);
    run_load(p.port, 8, 8, &request, &load);
    for (size_t n = 1; n <= 8; n *= 2) {
        double rate[ROUNDS], cpu_ms[ROUNDS];
        for (size_t i = 0; i < ROUNDS; i++) {
            double cpu = cpu_of(p.pid);
            run_load(p.port, n, n, &request, &load);
            rate[i] = (double)load.n_tokens / load.seconds;
            cpu_ms[i] = (cpu_of(p.pid) - cpu) * 1e3 / (double)load.n_tokens;
        }
        printf("%zu conversation(s) at once: %.0f tokens/s in all, %.2f ms of processor a token (medians of %d)\n", n,
               share_of(rate, ROUNDS, 0.5), share_of(cpu_ms, ROUNDS, 0.5), ROUNDS);
    }
    buf_deinit(&request);
    end(&p);
}

/* Welch's t between the times of keys that are wrong at the first byte and at the last; the fastest 90% of each. */
static void measure_key(void)
{
    static struct policy policy;
    static double times[2][KEY_SAMPLES / 2];
    struct rng rng = {clock_ns()};
    size_t n[2] = {0};
    char key[65];
    memset(key, 'k', 64);
    memcpy(policy.keys[0], key, 64);
    policy.n_keys = 1;
    for (size_t i = 0; i < KEY_SAMPLES; i++) {
        size_t class = rng_next(&rng) & 1;
        if (n[class] == KEY_SAMPLES / 2) class ^= 1;
        memset(key, 'k', 64);
        key[class ? 63 : 0] = 'x';
        uint64_t began = clock_ns();
        for (int k = 0; k < 8; k++)
            if (policy_key_is_known(&policy, span_make(key, 64))) give_up("a wrong key was known");
        times[class][n[class]++] = (double)(clock_ns() - began);
    }
    double mean[2], variance[2], count[2];
    for (size_t c = 0; c < 2; c++) {
        qsort(times[c], n[c], sizeof **times, by_value);
        size_t kept = n[c] * 9 / 10;
        double sum = 0, squares = 0;
        for (size_t i = 0; i < kept; i++) sum += times[c][i];
        mean[c] = sum / (double)kept;
        for (size_t i = 0; i < kept; i++) squares += (times[c][i] - mean[c]) * (times[c][i] - mean[c]);
        variance[c] = squares / (double)(kept - 1);
        count[c] = (double)kept;
    }
    printf("keys wrong at the first byte and at the last, %d samples: %.2f and %.2f ns, t = %.2f\n", KEY_SAMPLES,
           mean[0] / 8, mean[1] / 8, (mean[0] - mean[1]) / sqrt(variance[0] / count[0] + variance[1] / count[1]));
}

int main(int argc, char **argv)
{
    const char *tests = strstr(argv[0], "/tests/"), *folder = argc > 1 ? argv[1] : argv[0];
    int len = argc > 1 || !tests ? (int)strlen(folder) : (int)(tests - argv[0]);
    (void)snprintf(binary, sizeof binary, "%.*s/ds4", len, folder);
    (void)snprintf(fake, sizeof fake, "%.*s/ds4-fake", len, folder);
    if (access(binary, X_OK) != 0 || access(fake, X_OK) != 0) give_up("name the folder of ds4 and ds4-fake");
    (void)setvbuf(stdout, NULL, _IOLBF, 0);
    measure_requests();
    measure_first_byte();
    measure_token();
    measure_batches();
    measure_key();
    return 0;
}
