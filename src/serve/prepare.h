/* prepare.h - the thread between the sockets and the worker: bodies to prompts. Questions that need no session
 * (counting, tokenising, templates) are answered here, however busy the worker is. */
#ifndef DS4_SERVE_PREPARE_H
#define DS4_SERVE_PREPARE_H

#include "serve/worker.h"

struct preparer;
struct preparer_options {
    const struct ds4_engine *engine;
    struct worker *worker;
    struct api_options api;
    struct recall *recall;
};
enum ds4_status preparer_create(const struct preparer_options *options, struct preparer **out,
                                struct ds4_error *error) DS4_MUST_CHECK;
void preparer_submit(struct preparer *p, struct job *job); /* takes the job */
void preparer_destroy(struct preparer *p);                 /* finishes what is queued first */

#endif
