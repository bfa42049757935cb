/* host_trials.h - what is tried on the host file of a GPU over a runtime that pretends, one host as the other: all that
 * a host does, in one scenario which any call of the runtime may end, and an engine from opening to closing. */
#ifndef DS4_TESTS_HOST_TRIALS_H
#define DS4_TESTS_HOST_TRIALS_H

#include "gpu/gpu.h"
#include "lib/test.h"

/* Lists that come again, weights near and far, reads, writes, copies, sends in pieces, posts, what is freed while lists
 * use it: with sums that show each step left out or made too early. False: a call failed, and the host said so, stays
 * with what it said, and gave back what it had. how: GPU_LAUNCH_PLAIN, or another of hosts that have one. */
bool host_trial_calls(const struct gpu_host *host, unsigned how);
/* A part of wrapped memory beyond what 32 bits number; false: a call failed. Of 4 GiB a few pages are touched. */
bool host_trial_far(const struct gpu_host *host);

#define HOST_TRIAL_VOCAB 512
struct ds4_engine_options host_trial_options(const char *backend);
/* An engine from opening to two tokens, and its logits [HOST_TRIAL_VOCAB] after them; false: it failed, with the
 * error. */
bool host_trial_engine(const char *backend, const char *launch, float *logits, struct ds4_error *error);

#endif
