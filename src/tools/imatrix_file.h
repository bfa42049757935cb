/* imatrix_file.h - files with the importance of input columns (mean squares of what enters a matrix), as a calibration
 * collects them and a quantiser weighs errors with. Layout: imatrix_file.c. */
#ifndef DS4_TOOLS_IMATRIX_FILE_H
#define DS4_TOOLS_IMATRIX_FILE_H

#include "base/err.h"
#include "base/span.h"

#define IMATRIX_ENTRIES_MAX 100000u
#define IMATRIX_NAME_BYTES_MAX 4096u
#define IMATRIX_TAIL_BYTES_MAX 4096u

struct imatrix_file; /* owns the open file and the list of entries */

/* Opens and checks the whole file, of either kind (imatrix_file.c): every value must be finite and not negative. */
enum ds4_status imatrix_open(const char *path, struct imatrix_file **out, struct ds4_error *error) DS4_MUST_CHECK;
void imatrix_close(struct imatrix_file *file);
size_t imatrix_count(const struct imatrix_file *file);
uint64_t imatrix_chunks(const struct imatrix_file *file);
struct ds4_span imatrix_dataset(const struct imatrix_file *file);
const char *imatrix_path(const struct imatrix_file *file);
void imatrix_digest(const struct imatrix_file *file, uint8_t digest[16]);

/* The importance of the n_cols input columns of matrix_i of n_matrices of a tensor. Looked for under NAME.expert.I,
 * NAME.expert_I and NAME, first with name, then with official (may be empty). *found tells; an entry of another size is
 * FORMAT. */
enum ds4_status imatrix_look_up(const struct imatrix_file *file, const char *name, const char *official,
                                uint32_t matrix_i, uint32_t n_matrices, uint64_t n_cols, float *values, bool *found,
                                struct ds4_error *error) DS4_MUST_CHECK;

struct imatrix_entry { /* for writing */
    const char *name;
    const float *values;
    uint32_t n;
};
struct imatrix_writer {
    const char *path;
    int fd;
    uint64_t at;
    char part[4096];
};
/* Entries go to PATH.part one by one; end renames. */
enum ds4_status imatrix_write_begin(struct imatrix_writer *w, const char *path, uint32_t n_entries,
                                    struct ds4_error *error) DS4_MUST_CHECK;
enum ds4_status imatrix_write_entry(struct imatrix_writer *w, const struct imatrix_entry *entry,
                                    struct ds4_error *error) DS4_MUST_CHECK;
/* keep false: gives up and removes what was written. */
enum ds4_status imatrix_write_end(struct imatrix_writer *w, bool keep, uint32_t n_chunks, const char *dataset,
                                  struct ds4_error *error) DS4_MUST_CHECK;

#endif
