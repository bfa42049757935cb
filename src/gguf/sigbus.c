/* sigbus.c - a mapped file that is cut short, or whose disk fails, raises SIGBUS at the next touch. There is nothing to
 * go on with: one line, and exit status 74 (EX_IOERR of sysexits.h). */
#include <signal.h>
#include <unistd.h>

#include "gguf/gguf.h"

#define EXIT_IO_ERROR 74

static void on_sigbus(int number)
{
    static const char line[] = "ds4: a mapped file was cut short or its disk cannot be read (SIGBUS)\n";
    (void)number;
    (void)!write(STDERR_FILENO, line, sizeof line - 1);
    _exit(EXIT_IO_ERROR);
}

void gguf_catch_sigbus(void)
{
    struct sigaction action = {.sa_handler = on_sigbus};
    (void)sigemptyset(&action.sa_mask);
    (void)sigaction(SIGBUS, &action, NULL);
}
