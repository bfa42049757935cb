/* fixture_file.c - runs `ds4 fixture`. The program is $DS4, else ./ds4. */
#include "fixture_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

#include "base/buf.h"
#include "test.h"

#define FILES_MAX 8

const char *fixture_file(const char *arguments)
{
    static char paths[FILES_MAX][160];
    static const char *made[FILES_MAX];
    int i = 0;
    while (i < FILES_MAX && made[i] && strcmp(made[i], arguments) != 0) i++;
    assert_in_range(i, 0, FILES_MAX - 1);
    if (made[i]) return paths[i];
    const char *program = getenv("DS4");
    struct buf command = {0};
    (void)snprintf(paths[i], sizeof paths[i], "%s/fixture-%d.gguf", test_dir(), i);
    buf_printf(&command, "%s fixture %s -o %s >&2", program ? program : "./ds4", arguments, paths[i]);
    buf_put_byte(&command, 0);
    int status = system(command.text.ptr);
    if (status != 0) fail_msg("%s: status %d", command.text.ptr, WIFEXITED(status) ? WEXITSTATUS(status) : -1);
    buf_deinit(&command);
    made[i] = arguments;
    return paths[i];
}
