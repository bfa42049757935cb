/* fuzz_imatrix.c - the readers of importance files and of calibration rows on any bytes: what they accept they can look
 * up, what they refuse has a sentence. The first byte chooses the reader. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tools/imatrix_file.h"
#include "tools/rows_file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define VALUES_MAX 4096u

static void check(bool promise)
{
    if (!promise) abort();
}

static void read_importance(const char *path)
{
    struct imatrix_file *file;
    struct ds4_error error = {0};
    float values[8];
    bool found;
    if (imatrix_open(path, &file, &error) != DS4_OK) {
        check(!file && error.message[0]);
        return;
    }
    check(imatrix_count(file) >= 1);
    for (uint32_t expert = 0; expert < 3; expert++)
        if (imatrix_look_up(file, "t", "o", expert, 3, 2, values, &found, &error) == DS4_OK && found)
            check(values[0] >= 0 && values[1] >= 0);
    imatrix_close(file);
}

static void read_rows(const char *path)
{
    static float values[VALUES_MAX];
    struct rows_file file;
    struct ds4_error error = {0};
    if (rows_open(path, &file, &error) != DS4_OK) {
        check(file.fd < 0 && error.message[0]);
        return;
    }
    const struct rows_shape *s = &file.shape;
    for (uint32_t i = 0; i < s->n_layers && i < 4; i++)
        for (uint32_t e = 0; e < s->n_experts && e < 4; e++) {
            uint32_t n = rows_count(&file, i, e);
            check(n <= s->n_slots);
            if ((uint64_t)n * (s->n_embd > s->n_ff ? s->n_embd : s->n_ff) > VALUES_MAX) continue;
            for (int part = ROWS_IN; part <= ROWS_MID; part++)
                if (rows_read(&file, (enum rows_part)part, i, e, values, &error) != DS4_OK) check(error.message[0]);
        }
    rows_close(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char path[64];
    int fd;
    if (size < 1 || size > 1 << 16 || (fd = memfd_create("fuzz", 0)) < 0) return 0;
    (void)snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (write(fd, data + 1, size - 1) == (ssize_t)(size - 1)) (data[0] & 1 ? read_rows : read_importance)(path);
    close(fd);
    return 0;
}
