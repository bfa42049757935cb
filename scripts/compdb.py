"""Reads the commands of `make -B -n` and writes compile_commands.json to standard output, for editors."""

import json
import os
import shlex
import sys

entries = []
for line in sys.stdin:
    words = shlex.split(line) if " -c " in line and ".c" in line else []
    sources = [word for word in words if word.endswith(".c")]
    if "-c" in words and len(sources) == 1:
        entries.append({"directory": os.getcwd(), "file": sources[0], "arguments": words})
json.dump(entries, sys.stdout, indent=1)
print()
