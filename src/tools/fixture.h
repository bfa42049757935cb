/* fixture.h - `ds4 fixture`: writes model files for tests and measurements, with weights from a seed. */
#ifndef DS4_TOOLS_FIXTURE_H
#define DS4_TOOLS_FIXTURE_H

int cmd_fixture(int argc, char **argv); /* argv[0] is "fixture"; returns the exit status */

#endif
