/* page.h - the chat page at `/`: one file of HTML, style and script, and the headers that let a browser run nothing
 * else. The parts lie beside this file and are in the program; page_init puts them together. */
#ifndef DS4_SERVE_PAGE_PAGE_H
#define DS4_SERVE_PAGE_PAGE_H

#include "base/buf.h"

struct page {
    struct buf html;    /* the whole file */
    struct buf headers; /* header lines with CR LF, NUL at the end */
};

enum ds4_status page_init(struct page *p, struct ds4_error *error) DS4_MUST_CHECK;
void page_deinit(struct page *p);

#endif
