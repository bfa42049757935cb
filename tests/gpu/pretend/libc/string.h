/* string.h - what host_metal.m uses of it, for the type check with Apple's target. */
#ifndef PRETEND_STRING_H
#define PRETEND_STRING_H
#include <stddef.h>
void *memcpy(void *to, const void *from, size_t n);
void *memmove(void *to, const void *from, size_t n);
void *memset(void *to, int c, size_t n);
int strcmp(const char *a, const char *b);
#endif
