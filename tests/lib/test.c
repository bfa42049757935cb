/* test.c - the runner and the asserts of test.h. */
#include "test.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static char dir[128];

uint64_t test_seed(void)
{
    static uint64_t seed;
    if (seed == 0) {
        const char *wanted = getenv("DS4_TEST_SEED");
        bool new_one = wanted && strcmp(wanted, "new") == 0;
        seed = new_one ? ((uint64_t)time(NULL) * 1000003u + (uint64_t)getpid()) % (1u << 30)
                       : wanted ? strtoull(wanted, NULL, 10) : 1;
        if (seed == 0) seed = 1;
    }
    print_message("seed %llu (replay with DS4_TEST_SEED)\n", (unsigned long long)seed);
    return seed;
}

const char *test_dir(void)
{
    if (!dir[0]) {
        (void)snprintf(dir, sizeof dir, "/tmp/ds4-test-XXXXXX");
        if (!mkdtemp(dir)) fail_msg("cannot make a directory under /tmp: %s", strerror(errno));
    }
    return dir;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *where)
{
    (void)st, (void)kind, (void)where;
    (void)remove(path);
    return 0;
}

void test_dir_remove(void)
{
    if (!dir[0]) return;
    (void)nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    dir[0] = 0;
}

int run_tests_(const char *file, const struct CMUnitTest *tests, size_t n)
{
    int n_failed = _cmocka_run_group_tests(file, tests, n, NULL, NULL);
    test_dir_remove();
    return n_failed ? 1 : 0;
}

void assert_status_(enum ds4_status status, enum ds4_status wanted, const struct ds4_error *error, const char *call,
                    const char *file, int line)
{
    if (status == wanted) return;
    print_error("%s\n  gave \"%s\" instead of \"%s\": %s\n", call, ds4_status_text(status), ds4_status_text(wanted),
                error->message);
    _fail(file, line);
}

void assert_same_bits_(float a, float b, const char *file, int line)
{
    if (memcmp(&a, &b, sizeof a) == 0) return;
    print_error("%a is not %a, bit for bit\n", (double)a, (double)b);
    _fail(file, line);
}
