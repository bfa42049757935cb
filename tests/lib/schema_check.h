/* schema_check.h - whether a JSON value satisfies a schema: a plain reading of the standard, for tests, that shares
 * nothing with the grammar. And schemas made of a seed. */
#ifndef DS4_TESTS_SCHEMA_CHECK_H
#define DS4_TESTS_SCHEMA_CHECK_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* root: what "#" in references means. */
bool schema_accepts(const json_t *root, const json_t *schema, const json_t *value);
/* A random schema of the keywords that grammars know; the caller releases it. */
json_t *schema_random(uint64_t seed);

#endif
