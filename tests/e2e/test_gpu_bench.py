"""scripts/gpu-bench without a GPU: its steps in their order, with stand-ins for the compiler, make and the program."""
import os
import shutil
import subprocess

import pytest

STAND_INS = ("bin/nvcc", "bin/make", "bin/nvidia-smi", "bin/compute-sanitizer", "ds4", "scripts/setup")


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    """A tree in which every program only writes down how it was called, and fails when told to."""
    for name in STAND_INS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('#!/bin/bash\necho "$(basename "$0") $*" >>"$CALLS"\n'
                        '[ "${1:-}" != fixture ] || cat >/dev/null\n'
                        '[ -z "${FAIL:-}" ] || [[ "$(basename "$0") $*" != $FAIL* ]]\n')
        path.chmod(0o755)
    golden = tmp_path / "tests/golden/text"
    golden.mkdir(parents=True)
    shutil.copy("tests/golden/text/ds4_merges.bin.xz", golden)
    shutil.copy("scripts/gpu-bench", tmp_path / "scripts/gpu-bench")
    (tmp_path / "build").mkdir()
    return tmp_path


def bench(place, *args, fail=""):
    env = {"PATH": f"{place}/bin:{os.environ['PATH']}", "CALLS": str(place / "calls"), "FAIL": fail}
    done = subprocess.run(["bash", place / "scripts/gpu-bench", *args], env=env, capture_output=True, text=True,
                          timeout=300, check=False)
    return done.returncode, (place / "calls").read_text().splitlines()


def test_the_whole_run_builds_checks_sanitizes_and_measures_in_this_order(place):
    status, calls = bench(place)
    assert status == 0
    steps = [" ".join(call.split()[:2]) for call in calls]
    order = ["setup", "ds4 selftest", "compute-sanitizer --tool", "ds4 fixture", "ds4 plan", "ds4 bench"]
    assert sorted(order, key=steps.index) == order
    build = next(call for call in calls if call.startswith("make "))
    assert "CUDA=1" in build and f"NVCC={place}/bin/nvcc" in build and f"CUDA_HOME={place}" in build
    tools = [call.split()[2] for call in calls if call.startswith("compute-sanitizer")]
    assert tools == ["memcheck", "racecheck", "synccheck"]
    assert (place / "gpu-bench.log").exists()


def test_the_small_run_ends_before_the_full_size_model(place):
    status, calls = bench(place, "--small")
    assert status == 0
    assert not any(call.startswith(("ds4 fixture", "ds4 bench")) for call in calls)


@pytest.mark.parametrize("step", ["ds4 selftest", "compute-sanitizer --tool racecheck"])
def test_a_step_that_fails_ends_the_run(place, step):
    status, calls = bench(place, fail=step)
    assert status != 0
    assert calls[-1].startswith(step)
