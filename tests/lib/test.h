/* test.h - what every test program in C includes: cmocka with its prerequisites, and the few words of our own.
 *
 *   TEST(buf_keeps_what_it_had_when_memory_ends) { ... }
 *   int main(void) { return RUN_TESTS(T(buf_keeps_what_it_had_when_memory_ends), T(...)); }
 *
 * The name of a test is the sentence it promises. Tests share no state. Random tests take their seed from
 * test_seed(), which prints it: 1, so that every run is the same, unless DS4_TEST_SEED is a number or "new". A test
 * that cannot run here says why with SKIP. */
#ifndef DS4_TESTS_TEST_H
#define DS4_TESTS_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "ds4.h"

#define TEST(name) static void name(__attribute__((unused)) void **state)
#define T(name) cmocka_unit_test(name)
#define RUN_TESTS(...) \
    run_tests_(__FILE__, (const struct CMUnitTest[]){__VA_ARGS__}, \
               sizeof((const struct CMUnitTest[]){__VA_ARGS__}) / sizeof(struct CMUnitTest))

/* Ends the test as skipped; the reason is shown by the runner. */
#define SKIP(...) \
    do { \
        print_message("SKIP "); \
        print_message(__VA_ARGS__); \
        print_message("\n"); \
        skip(); \
    } while (0)

/* The call must return the status; its error message is shown when it does not. `error` is a struct ds4_error. */
#define assert_status(call, wanted, error) assert_status_((call), (wanted), &(error), #call, __FILE__, __LINE__)
#define assert_ok(call, error) assert_status(call, DS4_OK, error)

/* Two floats with the same bits (so NaN equals itself and -0 differs from +0). */
#define assert_same_bits(a, b) assert_same_bits_((a), (b), __FILE__, __LINE__)

uint64_t test_seed(void);
/* A new empty directory under the build's temporary place; removed with its files by test_dir_remove. */
const char *test_dir(void);
void test_dir_remove(void);

int run_tests_(const char *file, const struct CMUnitTest *tests, size_t n);
void assert_status_(enum ds4_status status, enum ds4_status wanted, const struct ds4_error *error, const char *call,
                    const char *file, int line);
void assert_same_bits_(float a, float b, const char *file, int line);

#endif
