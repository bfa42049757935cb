/* tokenizer.c - speed of the tokenizer on one core: megabytes of text a second, median of seven runs over each kind of
 * text: words, source code (both from files of this project) and random base64, in lines and without a line end.
 * Needs vocab.gguf (`make vocab.gguf`). A measurement, not a test. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/buf.h"
#include "base/clock.h"
#include "base/file.h"
#include "ds4.h"

enum { N_RUNS = 7, TEXT_BYTES = 4 << 20 };

static const char *const prose[] = {"README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"};
static const char *const code[] = {"src/text/render.c", "src/model/weights.c", "src/serve/worker.c", "scripts/tidy.py"};

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Files one after the other, over and over, until the text is as long as wanted. */
static void fill(struct buf *text, const char *const *paths, size_t n_paths)
{
    struct ds4_error error = {0};
    for (size_t i = 0; text->text.len < TEXT_BYTES; i++) {
        struct ds4_text file = {0};
        if (file_read_all(paths[i % n_paths], 1 << 24, &file, &error) != DS4_OK) {
            (void)fprintf(stderr, "%s\n", error.message);
            exit(1);
        }
        buf_put(text, file.ptr, file.len);
        ds4_text_free(&file);
    }
}

static void fill_base64(struct buf *text, size_t line)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint64_t state = 1;
    for (size_t i = 1; i <= TEXT_BYTES; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        buf_put(text, &digits[state >> 58], 1);
        if (line && i % line == 0) buf_put(text, "\n", 1);
    }
}

static void measure(const struct ds4_engine *engine, const char *name, struct buf *buf)
{
    const struct ds4_text *text = &buf->text;
    double seconds[N_RUNS];
    struct ds4_error error = {0};
    size_t n_tokens = 0;
    for (size_t run = 0; run < N_RUNS; run++) {
        struct ds4_tokens tokens = {0};
        uint64_t start = clock_ns();
        if (ds4_tokenize(engine, (struct ds4_span){text->ptr, text->len}, false, &tokens, &error) != DS4_OK) {
            (void)fprintf(stderr, "%s\n", error.message);
            exit(1);
        }
        seconds[run] = clock_seconds_since(start);
        n_tokens = tokens.n;
        ds4_tokens_free(&tokens);
    }
    qsort(seconds, N_RUNS, sizeof *seconds, by_value);
    (void)printf("%-22s %6.1f MB/s (best %.1f), %.2f bytes a token\n", name,
                 (double)text->len / seconds[N_RUNS / 2] / 1e6, (double)text->len / seconds[0] / 1e6,
                 (double)text->len / (double)n_tokens);
    ds4_text_free(&buf->text);
}

int main(int argc, char **argv)
{
    struct ds4_engine *engine = NULL;
    struct ds4_error error = {0};
    struct ds4_engine_options options = {.model_path = argc > 1 ? argv[1] : "vocab.gguf", .vocab_only = true};
    if (ds4_engine_open(&options, &engine, &error) != DS4_OK) {
        (void)fprintf(stderr, "%s\n", error.message);
        return 1;
    }
    struct buf text = {.failed = false};
    fill(&text, prose, sizeof prose / sizeof *prose);
    measure(engine, "English", &text);
    fill(&text, code, sizeof code / sizeof *code);
    measure(engine, "source code", &text);
    fill_base64(&text, 76);
    measure(engine, "base64, lines of 76", &text);
    fill_base64(&text, 0);
    measure(engine, "base64, one line", &text);
    ds4_engine_close(engine);
    return 0;
}
