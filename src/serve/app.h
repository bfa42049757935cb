/* app.h - requests to endpoints: what is answered at once, what becomes a job, and what is refused. */
#ifndef DS4_SERVE_APP_H
#define DS4_SERVE_APP_H

#include "serve/http/server.h"
#include "serve/page/page.h"
#include "serve/policy.h"
#include "serve/prepare.h"

struct app {
    const struct ds4_engine *engine;
    struct preparer *preparer;
    struct worker *worker;
    struct metrics metrics;
    struct policy policy;
    struct page page;
    bool no_page, shows_stored;
    const char *model_id;
    uint32_t n_sessions, queue_max;
    uint64_t created;
    double watchdog_s;           /* most a step of the engine may take; 0 = for ever */
    atomic_bool draining;
};

/* The functions of struct server_options; user is the app. */
bool app_admit(void *user, const struct http_request *request, struct exchange *x);
void app_handle(void *user, const struct http_request *request, struct buf *body, struct exchange *x);
void app_refuse(void *user, int status, struct ds4_span path, struct exchange *x);
const char *app_header(void *user, const struct http_request *request);
void app_log(void *user, const char *line);

#endif
