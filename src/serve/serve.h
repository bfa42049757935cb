/* serve.h - `ds4 serve`: an HTTP server that clients of hosted models can drive. */
#ifndef DS4_SERVE_SERVE_H
#define DS4_SERVE_SERVE_H

int cmd_serve(int argc, char **argv); /* argv[0] is "serve"; returns the exit status */

#endif
