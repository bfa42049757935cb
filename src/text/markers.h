/* markers.h - the literal text of the tokens that give a conversation its form.
 * The bar is U+FF5C and the low line U+2581, ordinary characters of three bytes each. */
#ifndef DS4_TEXT_MARKERS_H
#define DS4_TEXT_MARKERS_H

#define MARK_BAR "\xEF\xBD\x9C"
#define MARK_LOW "\xE2\x96\x81"

#define MARK_BOS "<" MARK_BAR "begin" MARK_LOW "of" MARK_LOW "sentence" MARK_BAR ">"
#define MARK_EOS "<" MARK_BAR "end" MARK_LOW "of" MARK_LOW "sentence" MARK_BAR ">"
#define MARK_PAD "<" MARK_BAR MARK_LOW "pad" MARK_LOW MARK_BAR ">"
#define MARK_USER "<" MARK_BAR "User" MARK_BAR ">"
#define MARK_ASSISTANT "<" MARK_BAR "Assistant" MARK_BAR ">"
#define MARK_LATEST_REMINDER "<" MARK_BAR "latest_reminder" MARK_BAR ">"
#define MARK_THINK "<think>"
#define MARK_THINK_END "</think>"
#define MARK_DSML MARK_BAR "DSML" MARK_BAR

#endif
