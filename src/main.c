/* main.c - one binary: finds the subcommand in commands.def and runs it. The only file that exits.
 *
 * Exit codes: 0 done, 1 failed (one sentence on stderr says why), 2 wrong command line, 74 the model file was cut
 * short while it was in use. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/build.h"
#include "base/file.h"
#include "base/options.h"
#include "base/suggest.h"
#include "gguf/gguf.h"

#ifndef DS4_COMMIT
#define DS4_COMMIT ""
#endif

struct command {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *summary;
};

#define COMMAND(name, function, summary) int function(int argc, char **argv);
#include "commands.def"
#undef COMMAND

static int cmd_help(int argc, char **argv);

static const struct command commands[] = {
#define COMMAND(name, function, summary) {#name, function, summary},
#include "commands.def"
#undef COMMAND
    {"help", cmd_help, "this list, or the options of one command: ds4 help COMMAND"},
};
#define N_COMMANDS (sizeof commands / sizeof commands[0])

static const struct command *find_command(const char *name)
{
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

static int unknown_command(const char *name)
{
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    const char *near = suggest_near(span_from(name), names, N_COMMANDS);
    if (near) (void)fprintf(stderr, "ds4: unknown command %.80s; did you mean ds4 %s?\n", name, near);
    else (void)fprintf(stderr, "ds4: unknown command %.80s (ds4 help lists them)\n", name);
    return EXIT_CODE_USAGE;
}

static int print_text(int fd, struct buf *text)
{
    struct ds4_error error = {0};
    enum ds4_status status = buf_status(text, &error);
    if (status == DS4_OK) status = file_write(fd, "standard output", text->text.ptr, text->text.len, &error);
    if (status != DS4_OK) (void)fprintf(stderr, "ds4: %s\n", error.message);
    buf_deinit(text);
    return status == DS4_OK ? EXIT_CODE_OK : EXIT_CODE_FAILED;
}

static int overview(int fd)
{
    struct buf text = {0};
    buf_put_text(&text, "ds4 " DS4_VERSION " - runs DeepSeek V4 on your own computer\n\n"
                        "usage: ds4 COMMAND [options]\n\n");
    for (size_t i = 0; i < N_COMMANDS; i++) buf_printf(&text, "  %-11s %s\n", commands[i].name, commands[i].summary);
    buf_put_text(&text, "\nds4 help COMMAND shows the options of a command, ds4 --version the version.\n"
                        "Exit codes: 0 done; 1 failed, with the reason on stderr; 2 wrong command line;\n"
                        "74 a model file was cut short while in use; 75 a step hung (serve --watchdog).\n");
    return print_text(fd, &text);
}

static int cmd_help(int argc, char **argv)
{
    if (argc < 2) return overview(STDOUT_FILENO);
    const struct command *command = find_command(argv[1]);
    if (!command) return unknown_command(argv[1]);
    if (command->run == cmd_help) return overview(STDOUT_FILENO);
    char *forward[4] = {argv[1]};
    int n = 1;
    if (argc > 2) forward[n++] = argv[2]; /* ds4 help bench ops */
    char help[] = "--help";
    forward[n++] = help;
    return command->run(n, forward);
}

/* Descriptors 0 to 2 must be open, or the first file opened would become standard output. What stands for a closed
 * output cannot be written to, so that an answer that nobody gets is a failure. */
static void open_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++) {
        if (fcntl(fd, F_GETFD) != -1) continue;
        int null = open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY);
        if (null != fd) _exit(EXIT_CODE_FAILED);
    }
}

int main(int argc, char **argv)
{
    build_commit = DS4_COMMIT;
    open_standard_descriptors();
    (void)signal(SIGPIPE, SIG_IGN);
    gguf_catch_sigbus();
    if (argc < 2) {
        (void)overview(STDERR_FILENO);
        return EXIT_CODE_USAGE;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        struct buf text = {0};
        buf_put_text(&text, "ds4 " DS4_VERSION "\n");
        return print_text(STDOUT_FILENO, &text);
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) return overview(STDOUT_FILENO);
    if (argv[1][0] == '-') {
        (void)fprintf(stderr, "ds4: %.80s: the command comes first, as in ds4 run %.80s (ds4 help lists them)\n",
                      argv[1], argv[1]);
        return EXIT_CODE_USAGE;
    }
    const struct command *command = find_command(argv[1]);
    return command ? command->run(argc - 1, argv + 1) : unknown_command(argv[1]);
}
