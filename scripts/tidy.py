"""The rules of the house that a script can check: `make tidy`. Prints `path:line: what` and `N passed, N failed`
(files). Reads the tracked and the new files of the tree; takes a second or two.

The rules are in CONTRIBUTING.md. Exceptions live here, each with its reason, and nowhere else.
"""

import os
import re
import subprocess
import sys

LINE_MAX, FILE_LINES_MAX, FUNCTION_LINES_MAX, LONG_FUNCTION_LINES_MAX, TEST_WORDS_MIN = 120, 800, 70, 120, 3

# A file may include its own folder, lower floors and ds4.h.
FLOORS = {"base": 0, "gguf": 1, "quant": 1, "stream": 1, "text": 2, "model": 2, "ops": 2, "gpu": 2,
          "graph": 3, "session": 4, "store": 5, "engine": 5, "command": 5, "serve": 6, "chat": 6,
          "agent": 6, "tools": 6, "main": 7}
CLOSED_FLOORS = {2, 6}      # siblings on these floors do not see each other
FRONT_ENDS = {"serve", "chat", "agent", "tools"}   # see base/, command/ and ds4.h only

# (pattern of the including file, pattern of the included one): reason.
INCLUDE_EXCEPTIONS = {
    (r"gpu/.*", r"ops/(backend|args)\.h"): "gpu implements the interface of a backend",
    (r"model/.*", r"ops/.*"): "weights and state are laid out as the records that operations take",
    (r"gpu/.*", r"ops/ops\.def"): "gpu implements the interface of a backend",
    (r"model/.*", r"ops/(args|backend|rows|rope_freq)\.h"): "weights and state are laid out in the terms of operations",
    (r"tools/(quantise|imatrix|inspect|fixture|bench_ops|selftest)[a-z0-9_]*\.[ch]",
     r"(gguf|quant|text|model|ops|gpu)/.*"): "works on files and operations, below the engine",
    (r"tools/selftest_choice\.c", r"session/sample\.h"): "the definition that a device's choice is compared with",
}

BANNED = ["strcpy", "strcat", "sprintf", "vsprintf", "strtok", "atoi", "atol", "atof", "gets", "alloca"]
BANNED_IN_SOURCES = ["system", "popen", "getenv", "setenv", "exit", "_exit"]
HEAP = ["malloc", "calloc", "realloc", "free", "strdup", "strndup", "posix_memalign", "mmap", "munmap"]
# (pattern of the file, word): reason.
CALL_EXCEPTIONS = {
    (r"src/base/mem\.c", r".*"): "the door to the heap",
    (r"src/base/file\.c", r"mmap|munmap"): "the door to files",
    (r"src/gguf/sigbus\.c", r"_exit"): "a signal handler that has nothing to go on with",
    (r"src/main\.c", r"_?exit"): "the only file that exits",
    (r"src/serve/cmd_serve\.c", r"_exit"): "the engine hangs: its thread cannot be joined, a supervisor starts anew",
    (r"src/gguf/sigbus\.c", r"_exit"): "a mapped file was cut short: nothing else can be done in the signal handler",
}

NOT_SOURCE = ("tests/golden/", "tests/fuzz/corpus/", "models/", "scripts/data/")

findings = []


def report(path, line, what):
    findings.append((path, line, what))


def files_of_tree():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], capture_output=True, text=True, check=True)
    return [p for p in out.stdout.split("\n") if p and os.path.isfile(p)]


def blank(match):
    """Keeps the line breaks of what is removed, so that line numbers stay."""
    return re.sub(r"[^\n]", " ", match.group(0))


TOKENS = re.compile(r"""/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'""", re.S)


def without_comments_and_strings(text):
    return TOKENS.sub(blank, text)


def check_lines(path, text, lines):
    if not path.endswith("_table.c") and len(lines) > FILE_LINES_MAX:
        report(path, len(lines), f"{len(lines)} lines, more than {FILE_LINES_MAX}")
    for number, line in enumerate(lines, 1):
        if len(line) > LINE_MAX and not path.endswith("_table.c"):
            report(path, number, f"line of {len(line)} characters, more than {LINE_MAX}")
        if line.rstrip() != line:
            report(path, number, "space at the end of the line")
        if "\t" in line and not path.endswith((".mk", "Makefile", ".tsv")):
            report(path, number, "tab")
    if text and not text.endswith("\n"):
        report(path, len(lines), "no line break at the end")


def check_c_text(path, text, lines):
    for number, line in enumerate(lines, 1):
        if not line.isascii():
            report(path, number, "character outside ASCII")
    first = re.match(r"/\*(.*?)\*/", text, re.S)
    if not first or len(first.group(1).split()) < 4:
        report(path, 1, "does not begin with a comment that says what the file is for")
    elif os.path.basename(path) not in first.group(1).split("\n")[0] and not path.endswith("_table.c"):
        report(path, 1, "the first comment does not begin with the name of the file")
    for match in re.finditer(r"\b(TODO|FIXME|XXX)\b", text):
        report(path, text.count("\n", 0, match.start()) + 1, match.group(1))


def check_calls(path, code):
    words = list(BANNED)
    if path.startswith(("src/", "include/")):
        words += BANNED_IN_SOURCES + HEAP
    for match in re.finditer(r"(?<![\w.>])(%s)\s*\(" % "|".join(words), code):
        word = match.group(1)
        if any(re.fullmatch(p, path) and re.fullmatch(w, word) for p, w in CALL_EXCEPTIONS):
            continue
        report(path, code.count("\n", 0, match.start()) + 1, f"calls {word}")


def folder_of(path):
    parts = path.split("/")
    return parts[1] if len(parts) > 2 else "main"


def check_includes(path, text):
    own = folder_of(path)
    if own not in FLOORS:
        report(path, 1, f"folder {own} has no floor: list it in scripts/tidy.py")
        return
    for match in re.finditer(r'^[ \t]*#[ \t]*include[ \t]+"([^"]+)"', text, re.M):
        name, line = match.group(1), text.count("\n", 0, match.start()) + 1
        if name == "ds4.h" or not os.path.isfile(os.path.join("src", name)):
            if name != "ds4.h":
                report(path, line, f"{name} is not named from src/")
            continue
        other = name.split("/")[0] if "/" in name else "main"
        if other == own or any(re.fullmatch(p, path[4:]) and re.fullmatch(q, name) for p, q in INCLUDE_EXCEPTIONS):
            continue
        if other not in FLOORS:
            report(path, line, f"includes {name}, whose folder has no floor")
        elif own in FRONT_ENDS and other not in ("base", "command"):
            report(path, line, f"a front end includes {name}; it may see base/, command/ and ds4.h")
        elif FLOORS[other] > FLOORS[own]:
            report(path, line, f"includes {name} from a higher floor")
        elif FLOORS[other] == FLOORS[own] and FLOORS[own] in CLOSED_FLOORS:
            report(path, line, f"includes {name}, a sibling on floor {FLOORS[own]}")


def check_functions(path, text, code):
    """Lengths of functions, by braces at file level. Preprocessor lines do not count as code."""
    plain = re.sub(r"^[ \t]*#(?:[^\n]*\\\n)*[^\n]*", blank, code, flags=re.M)
    plain = re.sub(r'extern\s+ {3}\s*\{', lambda m: m.group(0).replace("{", " "), plain)
    depth, start, text_lines = 0, 0, text.split("\n")
    line, last_line, is_function, head = 1, 1, False, ""
    for match in re.finditer(r"[{};\n]", plain):
        char = match.group(0)
        if char == "\n":
            line += 1
        elif char == "{":
            if depth == 0:
                head = plain[start:match.start()]
                is_function = bool(re.search(r"\)\s*(__attribute__\s*\(.*\)\s*)?$", head, re.S)) and "=" not in head
                last_line = line - head.strip().count("\n")
            depth += 1
        elif char == "}":
            depth = max(depth - 1, 0)
            if depth == 0:
                if is_function:
                    check_length(path, text_lines, last_line, line, head)
                start = match.end()
        elif depth == 0:
            start = match.end()


def check_length(path, text_lines, first, last, head):
    length = last - first + 1
    if length <= FUNCTION_LINES_MAX:
        return
    name = re.search(r"(\w+)\s*\(", head)
    around = "\n".join(text_lines[max(0, first - 12):last])
    limit = LONG_FUNCTION_LINES_MAX if re.search(r"[Ll]ong\s+because", around) else FUNCTION_LINES_MAX
    if length > limit:
        report(path, first, f"function {name.group(1) if name else ''} of {length} lines, more than {limit}")


def in_macro(text, at):
    """Whether the line at this offset belongs to a #define."""
    start = text.rfind("\n", 0, at) + 1
    while start > 1 and text[start - 2] == "\\":
        start = text.rfind("\n", 0, start - 1) + 1
    return text[start:].lstrip().startswith("#")


def check_test_names(path, text):
    for match in re.finditer(r"\b(?:cmocka_unit_test\w*|TEST)\s*\(\s*([a-zA-Z_]\w*)", text):
        name = match.group(1)
        line = text.count("\n", 0, match.start()) + 1
        if in_macro(text, match.start()):
            continue
        if name.startswith("test_") or len([w for w in name.split("_") if w]) < TEST_WORDS_MIN:
            report(path, line, f"{name} is not a sentence of what is promised")


def check_pytest_names(path, text):
    for match in re.finditer(r"^\s*def (test_\w+)", text, re.M):
        if len(match.group(1).split("_")) - 1 < TEST_WORDS_MIN:
            report(path, text.count("\n", 0, match.start()) + 1, f"{match.group(1)} is not a sentence")


def check_tests_are_run(path, code):
    """A TEST that no table names would silently never run."""
    for match in re.finditer(r"\bTEST\s*\(\s*(\w+)\s*\)", code):
        if in_macro(code, match.start()):
            continue
        if len(re.findall(r"\b%s\b" % match.group(1), code)) < 2:
            report(path, code.count("\n", 0, match.start()) + 1, f"{match.group(1)} is never run")


def check_script(path, text):
    first = text.split("\n", 2)
    if path.endswith(".py"):
        good = re.match(r'(#![^\n]*\n)?("""|#)', text)
    elif first[0].startswith("#!"):
        good = len(first) > 1 and first[1].startswith("#")
    else:
        good = text.startswith("#")
    if not good:
        report(path, 1, "does not begin with a comment that says what the file is for")


def check_headers(path, code):
    if not re.search(r"#ifndef (\w+)\s+#define \1\b", code):
        report(path, 1, "no include guard")


def check(path):
    if path.startswith(NOT_SOURCE) or path.endswith((".xz", ".gguf", ".png")):
        return
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except UnicodeDecodeError:
        if path.startswith(("src/", "include/", "scripts/")):
            report(path, 1, "not UTF-8")
        return
    lines = text.split("\n")[:-1] if text.endswith("\n") else text.split("\n")
    is_c = path.endswith((".c", ".h", ".def", ".k", ".cpp", ".cu", ".m"))
    if is_c or path.endswith((".py", ".mk", ".sh")) or path.startswith(("scripts/", ".ci/")) or path == "Makefile":
        check_lines(path, text, lines)
    if is_c:
        code = without_comments_and_strings(text)
        check_c_text(path, text, lines)
        check_calls(path, code)
        check_functions(path, text, code)
        if path.endswith(".h"):
            check_headers(path, code)
        if path.startswith("src/"):
            check_includes(path, text)
            if path.endswith(".c") and path.count("/") not in (1, 2, 3):
                report(path, 1, "too deep for the Makefile's list of sources")
        if path.startswith("tests/") and path.endswith(".c"):
            check_test_names(path, code)
            check_tests_are_run(path, code)
    elif path.endswith((".py", ".mk", ".sh")) or path.startswith(("scripts/", ".ci/")) or path == "Makefile":
        check_script(path, text)
        if path.startswith("tests/e2e/"):
            check_pytest_names(path, text)


def main():
    os.chdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
    paths = files_of_tree()
    for path in paths:
        check(path)
    for path, line, what in sorted(findings):
        print(f"{path}:{line}: {what}")
    bad = {path for path, _, _ in findings}
    print(f"{len(paths) - len(bad)} passed, {len(bad)} failed")
    sys.exit(1 if findings else 0)


main()
