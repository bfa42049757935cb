#!/usr/bin/env python3
"""Rules of the kernel dialect that a C++ front end cannot see. Usage: gpu_lint.py FILES; prints path:line: what.

The other rules are enforced by the conformance check (address spaces, constants), by the emulator's types (half) and by
the emulator as it runs. src/gpu/kernels/README.md has the table."""
import re
import sys

SPACE = r"(?:device|threadgroup|constant|thread)\b"
POINTED = (r"(?:float|half|u?int|u?short|u?char|u?long|bool|(?:float|half|uint|int)[234]|\w+_record|\w+_place|tile_\w+|"
           r"softmax|pooled|seen_rows)")
WORDS = ("double goto new delete virtual class static auto union asm throw try size_t std sizeof printf inline "
         "template_ register volatile extern INFINITY NAN isnan isinf").split()


def blank(match):
    return re.sub(r"[^\n]", " ", match.group(0))


def check(path):
    with open(path, encoding="ascii") as file:
        code = re.sub(r"//[^\n]*|/\*.*?\*/", blank, file.read(), flags=re.S)
    found = []

    def report(at, what):
        found.append(f"{path}:{code.count(chr(10), 0, at) + 1}: {what}")

    for m in re.finditer(r"(?:const\s+)?\b" + POINTED + r"\s+(?:const\s+)?[*&]\s*(?=[\w)(])", code):
        declarator = code[max(code.rfind(c, 0, m.start() + 1) for c in ",;({}") + 1:m.end()]
        if not re.search(SPACE, declarator):
            report(m.start(), "pointer or reference without an address space: " + m.group(0).strip())
    for m in re.finditer(r"(?<![\w.])(\d+\.\d*|\.\d+|\d+[eE][-+]?\d+)([eE][-+]?\d+)?(?![\w.])", code):
        report(m.start(), "double literal " + m.group(0))
    for word in WORDS:
        for m in re.finditer(r"\b%s\b" % word, code):
            report(m.start(), "word that is not in the dialect: " + word)
    for m in re.finditer(r"\[\s*[=&\w]*\s*\]\s*\(\s*(?:float|uint|int)\s", code):
        report(m.start(), "lambda")
    for m in re.finditer(r"\bFN\b[^;{]*?\b(\w+)\s*\([^{;]*\)\s*\{", code):
        depth, end = 1, m.end()
        while depth and end < len(code):
            depth += {"{": 1, "}": -1}.get(code[end], 0)
            end += 1
        if re.search(r"\b%s\s*(<[^>]*>)?\s*\(" % m.group(1), code[m.end():end]):
            report(m.start(), "recursion: " + m.group(1))
    for m in re.finditer(r"\bKERNEL\((\w+)(##\w+)?,", code):
        if not re.search(r"\bEXPORT\(%s" % m.group(1), code) and "negative" not in path:
            report(m.start(), f"kernel {m.group(1)} is not exported")
    return found


def main():
    findings = [line for path in sys.argv[1:] for line in check(path)]
    print("\n".join(findings) if findings else f"{len(sys.argv) - 1} kernel files clean")
    sys.exit(1 if findings else 0)


main()
