/* golden.h - reading the data files of tests/golden: plain or xz-compressed, text or JSON. A file that cannot be read
 * fails the test. */
#ifndef DS4_TESTS_GOLDEN_H
#define DS4_TESTS_GOLDEN_H

#include <jansson.h>
#include <stddef.h>

/* The whole file, decompressed when its name ends in .xz, with a NUL after it. Owns: free with mem_free. */
char *golden_read(const char *path, size_t *len);
/* Parsed JSON. Owns: json_decref. */
json_t *golden_json(const char *path);

#endif
