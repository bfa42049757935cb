/* build.h - which build this is and where it runs, for reports of faults. */
#ifndef DS4_BASE_BUILD_H
#define DS4_BASE_BUILD_H

#include <stddef.h>

#if defined(__clang__)
#define BUILD_COMPILER "clang " __clang_version__
#else
#define BUILD_COMPILER "gcc " __VERSION__
#endif

/* Of the repository, with "-dirty" behind it when files differ; "" when it is not known. Set by main, so that a commit
 * builds one object anew. */
extern const char *build_commit;

/* "Linux 6.1.0 x86_64" */
void build_system(char *text, size_t size);

#endif
