/* policy.h - who may speak to the server: the Host that was meant, the page that asks, the kind of body, the key. */
#ifndef DS4_SERVE_POLICY_H
#define DS4_SERVE_POLICY_H

#include "base/options.h"
#include "serve/http/gate.h"

#define POLICY_KEYS_MAX 64
#define POLICY_KEY_BYTES_MAX 256

struct policy {
    bool loopback;              /* bound to an address of this machine only */
    const struct option_list *hosts;   /* further names under which the server is called */
    const struct option_list *origins; /* pages that may ask */
    char keys[POLICY_KEYS_MAX][POLICY_KEY_BYTES_MAX + 1];
    size_t n_keys;              /* 0 = no key is asked for */
    char origin_headers[OPTION_LIST_MAX][512]; /* answers to those pages */
};

/* Reads the keys, one a line, from a file that only its owner can read; prepares the headers. */
enum ds4_status policy_init(struct policy *p, const char *host, const char *key_file, bool no_auth,
                            const struct option_list *hosts, const struct option_list *origins,
                            struct ds4_error *error) DS4_MUST_CHECK;

struct policy_verdict {
    int status;           /* 200: welcome */
    const char *sentence; /* constant */
};
/* is_public: needs no key. */
struct policy_verdict policy_check(const struct policy *p, const struct http_request *r, bool is_public);
/* Header line for the answer, or NULL. */
const char *policy_header(const struct policy *p, const struct http_request *r);

/* For tests: whether a Host header names this server. */
bool policy_host_is_known(const struct policy *p, struct ds4_span host);
/* Whether one of the keys equals text; the time depends on the lengths only. */
bool policy_key_is_known(const struct policy *p, struct ds4_span text);

#endif
