/* selftest_host.h - the host's side of a device: memory, order, copies and lists. It differs from machine to machine,
 * and no operation looks at all of it. */
#ifndef DS4_TOOLS_SELFTEST_HOST_H
#define DS4_TOOLS_SELFTEST_HOST_H

#include "tools/selftest_ops.h"

/* One check of the report each; t: open. */
void host_checks(struct ops_test *t);

#endif
