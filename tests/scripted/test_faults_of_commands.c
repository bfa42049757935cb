/* test_faults_of_commands.c - whole commands while memory or the output fails at every point in turn: one sentence and
 * exit code 1, nothing left behind; and the next run works. On the scripted engine. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "base/options.h"
#include "chat/chat.h"
#include "lib/fake/fake_engine.h"
#include "lib/test.h"
#include "tools/tools.h"

static const char script[] = "{\"ctx\": 600, \"answers\": [{\"think\": \"hm\", \"say\": \"the answer\"}]}";

struct command {
    int (*run)(int argc, char **argv);
    int argc;
    char *argv[12];
};

static struct command commands[] = {
    {cmd_run, 5, {"run", "-m", "none", "-p", "a question"}},
    {cmd_run, 8, {"run", "-m", "none", "-p", "another", "--no-think", "--system", "be kind"}},
    {cmd_run, 6, {"run", "-m", "none", "--raw", "-p", "raw <think>"}},
    {cmd_tokenize, 5, {"tokenize", "-m", "none", "--chat", "include/ds4.h"}},
    {cmd_logits, 9, {"logits", "-m", "none", "--tokens", "1,2,3", "--top", "3", "--json", "-"}},
    {cmd_plan, 4, {"plan", "-m", "none", "--no-probe"}},
    {cmd_bench, 9, {"bench", "-m", "none", "--first", "16", "--ctx", "64", "--decode", "4"}},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

/* Runs with standard output and error sent into a file; *said = bytes on standard error. */
static int run_quietly(struct command *c, off_t *said)
{
    char path[600];
    (void)snprintf(path, sizeof path, "%s/said", test_dir());
    int out = dup(1), err = dup(2), null = open("/dev/null", O_WRONLY);
    int log = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(out >= 0 && err >= 0 && null >= 0 && log >= 0);
    (void)fflush(stdout);
    (void)fflush(stderr);
    assert_true(dup2(null, 1) == 1 && dup2(log, 2) == 2);
    fake_engine_script(script);
    int code = c->run(c->argc, c->argv);
    (void)fflush(stderr);
    assert_true(dup2(out, 1) == 1 && dup2(err, 2) == 2);
    *said = lseek(log, 0, SEEK_END);
    assert_int_equal(close(out) | close(err) | close(null) | close(log), 0);
    return code;
}

static void check_nothing_left(int64_t live)
{
    const struct fake_stats *stats = fake_engine_stats();
    assert_int_equal(stats->n_engines + stats->n_sessions + stats->n_samplers + stats->n_parsers, 0);
    assert_int_equal(mem_live(), live);
}

static uint64_t allocations_left;
static bool once; /* only that one fails, or all from it on */
static bool fail_allocation(void *user, uint64_t number)
{
    (void)user, (void)number;
    if (allocations_left == 0) return !once;
    return --allocations_left == 0;
}

TEST(every_failed_allocation_ends_a_command_with_a_sentence_or_does_no_harm)
{
    for (size_t i = 0; i < 2 * N_COMMANDS; i++) {
        int64_t live = mem_live();
        int n_failed = 0;
        once = i >= N_COMMANDS;
        for (uint64_t at = 1;; at++) {
            off_t said;
            allocations_left = at;
            mem_test_hook(fail_allocation, NULL);
            int code = run_quietly(&commands[i % N_COMMANDS], &said);
            mem_test_hook(NULL, NULL);
            check_nothing_left(live);
            if (allocations_left > 0) {
                assert_int_equal(code, EXIT_CODE_OK);
                break;
            }
            n_failed += code == EXIT_CODE_FAILED;
            assert_true(code == EXIT_CODE_OK || (code == EXIT_CODE_FAILED && said > 0));
        }
        assert_true(n_failed > 3);
    }
}

static int writes_left;
static ssize_t failing_write(int fd, const void *bytes, size_t n)
{
    if (fd == 1 && writes_left-- <= 0) {
        errno = ENOSPC;
        return -1;
    }
    return write(fd, bytes, fd == 1 && n > 5 ? 5 : n);
}

TEST(every_failed_write_of_the_output_ends_a_command_with_1)
{
    struct file_ops ops = file_ops_system;
    ops.write = failing_write;
    for (size_t i = 0; i < N_COMMANDS; i++) {
        int64_t live = mem_live();
        int code = EXIT_CODE_FAILED;
        for (int at = 0; code != EXIT_CODE_OK; at += at < 20 ? 1 : 1 + at / 2) {
            off_t said;
            writes_left = at;
            file_test_hook(&ops);
            code = run_quietly(&commands[i], &said);
            file_test_hook(NULL);
            check_nothing_left(live);
            assert_true(said > 0);
            if (writes_left < 0) assert_int_equal(code, EXIT_CODE_FAILED);
        }
    }
}

static int remove_files(void **state)
{
    (void)state;
    test_dir_remove();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(every_failed_allocation_ends_a_command_with_a_sentence_or_does_no_harm, remove_files),
        cmocka_unit_test_teardown(every_failed_write_of_the_output_ends_a_command_with_1, remove_files),
    };
    return run_tests_(__FILE__, tests, sizeof tests / sizeof tests[0]);
}
