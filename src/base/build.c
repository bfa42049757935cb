/* build.c - see build.h. */
#include "base/build.h"

#include <stdio.h>
#include <sys/utsname.h>

const char *build_commit = "";

void build_system(char *text, size_t size)
{
    struct utsname system;
    (void)snprintf(text, size, "an unknown system");
    if (uname(&system) >= 0)
        (void)snprintf(text, size, "%.40s %.60s %.40s", system.sysname, system.release, system.machine);
}
