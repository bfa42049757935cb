"""Runs the cmocka programs given and the pytest files of tests/e2e, tests/page and tests/clients, several at a time,
and counts every single test.

usage: run-tests BUILD PATTERN PROGRAM...     (called by `make check`, from the root of the project)

PATTERN (may be empty) keeps the programs whose path contains it. A program that dies, hangs for TEST_TIMEOUT_S
seconds (300) or prints no test counts as one failure. Output of failing programs is shown whole; skipped tests are
shown with their reason. What failed is said once more at the end, with the last lines of its output, each after `! `.
TEST_JOBS programs run at once (default: the cores and one more, as some wait for most of
their time), the longest of the run before first. The last line is `N passed, N failed`.
With TEST_TIMES=n each program runs n times, every time with a new seed of random tests unless DS4_TEST_SEED is set.
With TEST_AGAIN=1 an end-to-end program that failed is run once more when all others have ended, and what counts is that
second run, unless a sanitizer had reported something or a program had died. It is said at the end, with the failure.
"""

import concurrent.futures
import glob
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET

TIMEOUT_S = int(os.environ.get("TEST_TIMEOUT_S", "300"))
OUTPUT_MAX = 200_000  # characters of a failing program that are shown
AGAIN_MAX = 40        # lines of it that are shown again at the end


# A sanitizer must let an impossible allocation fail as the system does, and end the program at the first report.
SANITIZERS = {"ASAN_OPTIONS": "allocator_may_return_null=1:detect_stack_use_after_return=1:strict_string_checks=1",
              "UBSAN_OPTIONS": "print_stacktrace=1",
              "TSAN_OPTIONS": "allocator_may_return_null=1:halt_on_error=1"}

# These compute, and meet no threads but such as others try harder; under the thread sanitizer they
# would take a third of the time.
NOT_UNDER_TSAN = ("tests/ops/test_backends", "tests/ops/test_op_vectors", "tests/e2e/test_oracle.py",
                  "tests/e2e/test_oracle_fixtures.py", "tests/e2e/test_golden_torch.py", "tests/e2e/test_imatrix.py",
                  "tests/e2e/test_perplexity.py", "tests/e2e/test_selftest.py")
# These start no thread; other sanitizers look at their memory.
NOT_UNDER_TSAN += ("tests/ops/test_ptx_instructions", "tests/unit/test_base_utf8", "tests/unit/test_grammar_calls",
                   "tests/unit/test_grammar_schema", "tests/unit/test_text_render", "tests/unit/test_text_toolcall")

# These run compilers and scripts, not what was built: once is enough.
NOT_OF_THE_BUILD = ("tests/e2e/test_gpu_bench.py", "tests/e2e/test_gpu_dialect.py")


class Result:
    """Counts of one program: numbers, (test, reason) of skipped ones, and the text to show when something failed."""

    def __init__(self, name):
        self.name, self.passed, self.failed, self.skipped, self.output, self.seconds = name, 0, 0, [], "", 0.0


def run(command, env):
    """(exit status or None after the time limit, output). The whole process group is ended on timeout."""
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   env=env, start_new_session=True)
    except OSError as error:
        return 127, f"{command[0]}: {error}"
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = None
    return status, output.decode("utf-8", "replace")


def run_cmocka(path, name):
    result = Result(name)
    env = dict(os.environ, CMOCKA_MESSAGE_OUTPUT="STDOUT")
    status, result.output = run([path], env)
    running, reason = None, ""
    for line in result.output.splitlines():
        match = re.search(r"\[ +(RUN|OK|FAILED|SKIPPED|ERROR) +\] (\S+)$", line)
        if line.startswith("SKIP "):
            reason = line[5:]
        if not match:
            continue
        word, test = match.groups()
        if word == "RUN":
            running, reason = test, ""
        elif test == running:
            if word == "OK":
                result.passed += 1
            elif word == "SKIPPED":
                result.skipped.append((test, reason or "no reason given"))
            else:
                result.failed += 1
            running = None
    if status is None:
        result.output += f"\n{name}: ended after {TIMEOUT_S} s in {running or 'no test'}\n"
        result.failed += 1
    elif running is not None or (status != 0 and result.failed == 0):
        what = f"signal {-status}" if status < 0 else f"status {status}"
        result.output += f"\n{name}: {what} in {running or 'no test'}\n"
        result.failed += 1
    elif result.passed + result.failed + len(result.skipped) == 0:
        result.output += f"\n{name}: ran no test\n"
        result.failed += 1
    return result


def run_pytest(path, name):
    result = Result(name)
    # A folder of its own: several pytest processes that number theirs in one place, and tidy it, can meet.
    with tempfile.TemporaryDirectory(prefix="ds4-pytest-", ignore_cleanup_errors=True) as folder:
        report = os.path.join(folder, "report.xml")
        status, result.output = run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short",
                                     "--basetemp", os.path.join(folder, "t"), "--junitxml", report, path],
                                    dict(os.environ, PYTHONDONTWRITEBYTECODE="1"))
        if os.path.exists(report):
            for case in ET.parse(report).getroot().iter("testcase"):
                skipped = case.find("skipped")
                if case.find("failure") is not None or case.find("error") is not None:
                    result.failed += 1
                elif skipped is not None:
                    result.skipped.append((case.get("name"), skipped.get("message", "")))
                else:
                    result.passed += 1
    if status is None:
        result.output += f"\n{name}: ended after {TIMEOUT_S} s\n"
    if result.failed == 0 and status != 0:
        result.failed = 1
    return result


def timed(function, *args):
    start = time.monotonic()
    result = function(*args)
    result.seconds = time.monotonic() - start
    result.function, result.arguments = function, args
    return result


def show(result, done, total):
    word = "FAILED" if result.failed else "ok"
    skipped = f", {len(result.skipped)} skipped" if result.skipped else ""
    print(f"[{done:3}/{total}] {word:6} {result.name}: {result.passed} passed, {result.failed} failed{skipped}"
          f" ({result.seconds:.1f} s)")
    if result.failed:
        text = result.output
        if len(text) > OUTPUT_MAX:
            text = text[: OUTPUT_MAX // 2] + "\n... cut ...\n" + text[-OUTPUT_MAX // 2:]
        print("".join("    " + line + "\n" for line in text.splitlines()), end="")
    for test, reason in result.skipped:
        print(f"    skipped {test}: {reason}")
    sys.stdout.flush()


def show_again(failures, word=""):
    """What failed, where a reader looks first and where a shortened log still has it."""
    for result in failures:
        total = result.passed + result.failed
        print(f"! {word}{result.name}: {result.failed} failed of {total} ({result.seconds:.1f} s)")
        marks = r"\[ +(FAILED|ERROR) +\]|^FAILED |^E  |Error|ERROR|error:|ended after|signal "
        lines = [line for line in result.output.splitlines() if re.search(marks, line)][:AGAIN_MAX]
        for line in lines + result.output.splitlines()[-AGAIN_MAX:]:
            print(f"!     {line[:300]}")


def is_final(result):
    """A race, a bad access and a crash are no bad luck."""
    marks = r"Sanitizer|runtime error:|Segmentation|SIG(SEGV|ABRT)|-(6|11) ==|== -(6|11)\b"
    return result.function is not run_pytest or bool(re.search(marks, result.output))


def second_runs(failures):
    """Runs what may have failed because the machine was busy once more, alone. [(first, second)] of those that passed
    then: whoever reads the end of the log sees them, for a test that fails sometimes has failed."""
    pairs = []
    for first in failures if os.environ.get("TEST_AGAIN") == "1" else []:
        if is_final(first):
            continue
        print(f"once more, alone: {first.name}")
        second = timed(first.function, *first.arguments)
        show(second, 1, 1)
        if not second.failed:
            pairs.append((first, second))
    return pairs


def in_order(work, path):
    """The longest first, by the times of the last run in path; what is not known there before all."""
    try:
        with open(path) as f:
            seconds = json.load(f)
    except (OSError, ValueError):
        seconds = {}
    return sorted(work, key=lambda item: -seconds.get(item[2], 1e9))


def main():
    for name, options in SANITIZERS.items():
        os.environ.setdefault(name, options)
    build, pattern, programs = sys.argv[1], sys.argv[2], sys.argv[3:]
    folders = ["e2e"]
    usual = os.path.basename(build) in ("cc", "gcc")
    if usual:  # browsers and clients see no difference between compilers
        folders += ["page", "clients"]
    work = [(run_pytest, path, path) for folder in folders
            for path in sorted(glob.glob(f"tests/{folder}/test_*.py"))]
    work += [(run_cmocka, path, os.path.relpath(path, build)) for path in programs]
    work = [item for item in work if pattern in item[2]]
    if os.path.basename(build).endswith("-thread"):
        left_out = [item[2] for item in work if item[2] in NOT_UNDER_TSAN]
        work = [item for item in work if item[2] not in NOT_UNDER_TSAN]
        print(f"not under the thread sanitizer: {' '.join(left_out) or 'none'}")
    if not usual:
        left_out = [item[2] for item in work if item[2] in NOT_OF_THE_BUILD]
        work = [item for item in work if item[2] not in NOT_OF_THE_BUILD]
        print(f"only with the usual compiler, without sanitizers: {' '.join(left_out) or 'none'}")
    times = os.path.join(os.path.dirname(build), "test-times.json")
    work = in_order(work, times)
    n_times = int(os.environ.get("TEST_TIMES", "1"))
    if n_times > 1:
        os.environ.setdefault("DS4_TEST_SEED", "new")
        work *= n_times
    jobs = int(os.environ.get("TEST_JOBS", str(len(os.sched_getaffinity(0)) + 1
                                               if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)))
    passed = failed = skipped = 0
    seconds, failures = {}, []
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        pending = [pool.submit(timed, *item) for item in work]
        for done, future in enumerate(concurrent.futures.as_completed(pending), 1):
            result = future.result()
            seconds[result.name] = round(result.seconds, 1)
            show(result, done, len(work))
            if result.failed:
                failures.append(result)
            passed, failed, skipped = passed + result.passed, failed + result.failed, skipped + len(result.skipped)
    if not pattern and n_times == 1:
        with open(times, "w") as f:
            json.dump(seconds, f)
    if skipped:
        print(f"{skipped} skipped, with reasons above")
    for first, second in second_runs(failures):
        failures.remove(first)
        passed, failed = passed + second.passed - first.passed, failed - first.failed
        show_again([first], "passed only in a second run, alone: ")
    show_again(failures)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed or passed == 0 else 0)


main()
