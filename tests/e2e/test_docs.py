"""The tests that the documents name are there."""

import glob
import re


def test_every_test_that_the_servers_document_names_is_there():
    there = set()
    for path in glob.glob("tests/**/*.py", recursive=True) + glob.glob("tests/**/*.c", recursive=True):
        with open(path, encoding="utf-8") as file:
            there |= set(re.findall(r"^def (test_\w+)|^TEST\((\w+)\)", file.read(), re.M))
    there = {name for pair in there for name in pair if name}
    with open("docs/server.md", encoding="utf-8") as file:
        rows = [line.split("|") for line in file if line.startswith("| ")]
    named = [name for row in rows if len(row) == 5 for name in re.findall(r"`(\w+)`", row[3])]
    assert len(named) > 50
    assert not set(named) - there, set(named) - there
