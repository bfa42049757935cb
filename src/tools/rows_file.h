/* rows_file.h - calibration rows on disk: for each routed expert a sample of what entered its matrices. From them
 * `ds4 quantize` knows which errors of a matrix cancel and which add up. Layout: rows_file.c. */
#ifndef DS4_TOOLS_ROWS_FILE_H
#define DS4_TOOLS_ROWS_FILE_H

#include "base/err.h"

#define ROWS_SLOTS_MAX 65536u

struct rows_shape {
    uint32_t n_layers, n_experts, n_embd, n_ff;
    uint32_t n_slots; /* most rows kept for an expert */
};
enum rows_part { ROWS_IN, ROWS_MID }; /* what enters gate and up (n_embd), what enters down (n_ff) */

struct rows_file {
    char path[4096];
    int fd;
    struct rows_shape shape;
    uint64_t *hits;       /* [n_layers][n_experts], reading: rows seen */
    uint8_t digest[16];   /* reading: of the header and all hits */
    uint16_t *row;        /* room for one row */
};

/* ---- writing: one thread ---- */
/* A new file, or (again) the one of an interrupted run. */
enum ds4_status rows_create(const char *path, const struct rows_shape *shape, bool again, struct rows_file *out,
                            struct ds4_error *error) DS4_MUST_CHECK;
/* Row hit_i of an expert. When its slots are full, chance decides which row it replaces, or that it is not kept: the
 * same for the same numbers, so that a run that goes on from earlier hits ends with the same file. */
enum ds4_status rows_put(struct rows_file *file, enum rows_part part, uint32_t layer_i, uint32_t expert_i,
                         uint64_t hit_i, const float *values, struct ds4_error *error) DS4_MUST_CHECK;
/* Before this the file has no header and cannot be opened. hits [n_layers][n_experts]. */
enum ds4_status rows_finish(struct rows_file *file, const uint64_t *hits, struct ds4_error *error) DS4_MUST_CHECK;

/* ---- reading ---- */
enum ds4_status rows_open(const char *path, struct rows_file *out, struct ds4_error *error) DS4_MUST_CHECK;
uint32_t rows_count(const struct rows_file *file, uint32_t layer_i, uint32_t expert_i);
/* values [rows_count][n_embd or n_ff] */
enum ds4_status rows_read(struct rows_file *file, enum rows_part part, uint32_t layer_i, uint32_t expert_i,
                          float *values, struct ds4_error *error) DS4_MUST_CHECK;

void rows_close(struct rows_file *file); /* also one that was never opened, if zeroed with fd -1 */

#endif
