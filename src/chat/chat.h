/* chat.h - `ds4 run`: one answer, or a conversation in the terminal. */
#ifndef DS4_CHAT_CHAT_H
#define DS4_CHAT_CHAT_H

int cmd_run(int argc, char **argv);

#endif
