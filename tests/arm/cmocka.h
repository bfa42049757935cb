/* cmocka.h - the few words of cmocka that the tests built for another machine use, so that they link with nothing but
 * the C library (`make check-arm`). The first failure of a test is printed and ends it; the others run. */
#ifndef DS4_TESTS_ARM_CMOCKA_H
#define DS4_TESTS_ARM_CMOCKA_H

#include <stdio.h>

struct CMUnitTest {
    const char *name;
    void (*fn)(void **state);
};
extern jmp_buf arm_test_end;
jmp_buf arm_test_end __attribute__((weak)); /* one for all files */

#define cmocka_unit_test(test) {#test, test}
#define print_message(...) ((void)printf(__VA_ARGS__))
#define print_error(...) ((void)printf(__VA_ARGS__))
#define _fail(file, line) ((void)printf("  at %s:%d\n", (file), (line)), longjmp(arm_test_end, 1))
#define fail_msg(...) ((void)printf(__VA_ARGS__), (void)printf("\n"), _fail(__FILE__, __LINE__))
#define assert_true(x) ((x) ? (void)0 : fail_msg("%s", #x))
#define assert_false(x) assert_true(!(x))
#define assert_null(x) assert_true((x) == NULL)
#define assert_non_null(x) assert_true((x) != NULL)
#define assert_ptr_equal(a, b) assert_true((const void *)(a) == (const void *)(b))
#define assert_int_equal(a, b) assert_true((a) == (b))
#define assert_int_not_equal(a, b) assert_true((a) != (b))
#define assert_memory_equal(a, b, n) assert_true(memcmp((a), (b), (n)) == 0)
#define assert_string_equal(a, b) assert_true(strcmp((a), (b)) == 0)
#define assert_string_not_equal(a, b) assert_true(strcmp((a), (b)) != 0)

static inline int _cmocka_run_group_tests(const char *group, const struct CMUnitTest *tests, size_t n, void *before,
                                          void *after)
{
    volatile int n_failed = 0;
    (void)group, (void)before, (void)after;
    for (volatile size_t i = 0; i < n; i++) {
        if (setjmp(arm_test_end) == 0) {
            tests[i].fn(NULL);
            (void)printf("ok   %s\n", tests[i].name);
        } else {
            (void)printf("FAIL %s\n", tests[i].name);
            n_failed++;
        }
        (void)fflush(stdout);
    }
    return n_failed;
}

#endif
