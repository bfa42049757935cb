"""`ds4 selftest`: its reports, for people and as JSON, on the emulated GPU and the CPU. What it finds when a kernel is
wrong is in tests/ops/test_selftest.c, and what it finds of a host file that is in test_selftest_host.c."""

import json
import os
import re
import subprocess
from pathlib import Path

import pytest

OPERATIONS = set(re.findall(r"^OP\((\w+)\)", Path("src/ops/ops.def").read_text(), re.M))
PARTS = {"emu": {"streamed", "shared", "candidates", "choice", "made_up", "repack", "places"}, "cpu": {"streamed"}}
FLAGS = ["--model", "--backend", "--threads", "--op", "--quick", "--json", "--help"]


def selftest(*args):
    return subprocess.run([os.environ["DS4"], "selftest", *args], capture_output=True, text=True, timeout=600,
                          check=False)


@pytest.fixture(name="backend", params=["emu", "cpu"])
def fixture_backend(request):
    if request.param == "emu" and "not in this build" in selftest("--backend", "emu", "--op", "add").stderr:
        pytest.skip("this build has no emulator")
    return request.param


def test_every_operation_is_in_the_json_report_and_right(backend):
    done = selftest("--backend", backend, "--quick", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert set(report) == {"version", "commit", "compiler", "system", "devices", "absent", "n_failed", "summary"}
    assert report["n_failed"] == 0 and report["absent"] == [] and report["system"].split()[0] == os.uname().sysname
    assert re.fullmatch(r"(gcc|clang) \d+\..*", report["compiler"]) and report["commit"]
    (device,) = report["devices"]
    assert device["backend"] == backend and device["device"] and device["memory_bytes"] > 0
    checks = [check["check"] for check in device["checks"]]
    assert checks[:2] == ["kernels build", "a model end to end"]
    assert all(check.startswith("host: ") for check in checks[2:]) and len(checks) == (14 if backend == "emu" else 2)
    assert {case["operation"] for case in device["cases"]} == OPERATIONS | PARTS[backend]
    for case in device["cases"]:
        assert case["ok"] and 0 <= case["error"] and 0 <= case["of_tolerance"] <= 1 and case["shape"].startswith("rows")
    formats = {case["shape"].rsplit(", ", 1)[1] for case in device["cases"]
               if case["operation"] == "moe_down" and "spikes" not in case["shape"]}
    assert formats == {"F32", "F16", "BF16", "Q8_0", "Q6_K", "Q4_K", "Q2_K", "IQ2_XXS", "MXFP4"}
    assert device["n_kernels_run"] >= len(OPERATIONS) and device["kernels_not_run"] == []
    n_cases = len(device["cases"]) + len(checks)
    assert f"{n_cases} checks and cases, {device['n_kernels_run']} kernels run, 0 failed." in report["summary"]


def test_the_report_for_people_names_every_operation_and_ends_with_a_paragraph_on_it(backend):
    done = selftest("--backend", backend, "--quick")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].startswith(f"{backend}: ") and lines[-4:-1] == ["0 checks failed", "", "To paste into a report:"]
    named = [line.split()[0] for line in lines if re.fullmatch(r"  \w+ +\d+ +[\d.e+-]+ +\d+%  ok", line)]
    assert len(named) == len(set(named)) and set(named) == OPERATIONS | PARTS[backend]
    version = re.search(r'DS4_VERSION "([^"]+)"', Path("include/ds4.h").read_text()).group(1)
    device = lines[1].split(": ", 1)[1]
    assert re.fullmatch(rf"ds4 {version}, commit \S+, \w+ [\d.]+.*, on .+\. {backend}: {re.escape(device)}: \d+ checks "
                        r"and cases, \d+ kernels run, 0 failed\.", lines[-1])
    n_kernels = re.search(r"(\d+) kernels run", lines[-1]).group(1)
    assert f"  {n_kernels} kernels were run" in lines
    assert "; not " not in done.stdout


def test_a_part_runs_alone_and_none_of_a_gpu_on_the_cpu():
    for part in sorted(PARTS["emu"] - PARTS["cpu"]) + ["host"]:
        done = selftest("--backend", "cpu", "--op", part)
        assert done.returncode == 1 and "nothing was checked" in done.stdout
    done = selftest("--backend", "cpu", "--op", "streamed", "--quick", "--json")
    (device,) = json.loads(done.stdout)["devices"]
    assert done.returncode == 0 and {case["operation"] for case in device["cases"]} == {"streamed"}


def test_times_are_told_beside_the_copies_of_the_device():
    """Of one operation on the CPU, the only device that every machine has; the figures themselves are not judged."""
    done = selftest("--backend", "cpu", "--op", "router", "--json")
    (device,) = json.loads(done.stdout)["devices"]
    timed = [case for case in device["cases"] if "seconds" in case]
    assert done.returncode == 0 and device["copy_bytes_per_s"] > 0
    assert len(timed) == 1 and timed[0]["seconds"] > 0 and timed[0]["bytes"] > 0 and timed[0]["of_copy"] > 0
    assert timed[0]["kernels"][0]["kernel"] == "router"
    text = selftest("--backend", "cpu", "--op", "router").stdout
    assert re.search(r"^  copying +\d+ GB/s", text, re.M)
    assert re.search(r"^    router +[\d.]+ ms +\d+ GB/s +\d+% of copying  rows 512, experts 256, used 6$", text, re.M)


def test_help_names_every_option_and_a_wrong_one_is_refused():
    text = selftest("--help").stdout
    assert set(re.findall(r"--\w+", text.split("\n\n", 1)[1])) >= set(FLAGS) - {"--help"}
    names = set(re.findall(r"\w+", text))
    assert PARTS["emu"] | {"host", "attention", "matmul"} <= names
    assert selftest("--rows", "3").returncode == 2


def test_words_that_name_nothing_are_a_wrong_command_line_that_names_what_there_is():
    done = selftest("--op", "multiply")
    named = set(re.findall(r"\w+", done.stderr.split("must be one of")[1]))
    assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1
    assert named >= OPERATIONS | PARTS["emu"] | {"host"}
    for name in ("abacus", "CPU", "", "ref"):
        done = selftest("--backend", name, "--op", "add")
        assert done.returncode == 2 and not done.stdout and done.stderr.count("\n") == 1, name
        assert "cpu" in re.findall(r"\w+", done.stderr.split("not in this build, which has")[1])
    for flags in (["-m", ""], ["--launch", "late"]):
        assert selftest(*flags).returncode == 2
