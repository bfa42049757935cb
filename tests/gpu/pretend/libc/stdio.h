/* stdio.h - what host_metal.m uses of it, for the type check with Apple's target: glibc's do not parse there. */
#ifndef PRETEND_STDIO_H
#define PRETEND_STDIO_H
#include <stddef.h>
int snprintf(char *to, size_t size, const char *format, ...);
#endif
