/* session_file.h - a conversation as a file: what was said, and the model's state so that nothing is computed again.
 *
 * The words can be loaded with any model; the state only with the one it came from, else it is left aside and computed
 * again. Layout: session_file.c. */
#ifndef DS4_CHAT_SESSION_FILE_H
#define DS4_CHAT_SESSION_FILE_H

#include "chat/transcript.h"

/* Writes a temporary file beside path (0600), syncs it and renames it into place. An existing file that is no saved
 * conversation is never replaced (STATE). session may be NULL: only what was said is saved. */
enum ds4_status session_file_save(const char *path, const struct transcript *transcript, enum ds4_think_mode think,
                                  const struct ds4_engine *engine, const struct ds4_session *session,
                                  struct ds4_error *error) DS4_MUST_CHECK;

/* All or nothing: *transcript and *think are replaced only when the whole file is good. *with_state says whether the
 * session took over the saved state. */
enum ds4_status session_file_load(const char *path, struct transcript *transcript, enum ds4_think_mode *think,
                                  const struct ds4_engine *engine, struct ds4_session *session, bool *with_state,
                                  struct ds4_error *error) DS4_MUST_CHECK;

#endif
