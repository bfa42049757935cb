"""scripts/gpu-bench without a GPU: its steps in their order, with stand-ins for the compiler, make and the program."""
import os
import shutil
import subprocess

import pytest

STAND_INS = ("bin/nvcc", "bin/cuobjdump", "bin/make", "bin/nvidia-smi", "bin/compute-sanitizer", "bin/ncu", "ds4",
             "scripts/setup", "scripts/gpu-static", "other/ds4-bench")
STEPS = ["device", "compiler", "packages", "build", "selftest", "text as on the CPU", "early launch, the same",
         "selftest, early launch", "sanitizer memcheck", "sanitizer racecheck", "sanitizer synccheck",
         "fixture flash-shape.gguf", "plan", "plan, as JSON", "decode and prefill", "decode, chosen ahead",
         "eight together, ahead", "early launch, ahead", "long context", "early launch, long", "prefill, large chunks",
         "time of kernels", "static floor", "kernels, long context", "hardware counters"]


@pytest.fixture(name="place")
def fixture_place(tmp_path):
    """A tree in which every program only writes down how it was called, and fails when told to."""
    for name in STAND_INS:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('#!/bin/bash\necho "$(basename "$0") $*" >>"$CALLS"\n'
                        '[ "${1:-}" != fixture ] || { cat >/dev/null; touch "${@: -1}"; }\n'
                        '[ -z "${FAIL:-}" ] || [[ "$(basename "$0") $*" != $FAIL* ]]\n')
        path.chmod(0o755)
    golden = tmp_path / "tests/golden/text"
    golden.mkdir(parents=True)
    shutil.copy("tests/golden/text/ds4_merges.bin.xz", golden)
    shutil.copy("scripts/gpu-bench", tmp_path / "scripts/gpu-bench")
    (tmp_path / "build").mkdir()
    return tmp_path


def bench(place, *args, fail=""):
    env = {"PATH": f"{place}/bin:{os.environ['PATH']}", "CALLS": str(place / "calls"), "FAIL": fail, "HOME": str(place)}
    done = subprocess.run(["bash", place / "scripts/gpu-bench", *args], env=env, capture_output=True, text=True,
                          timeout=300, check=False)
    return done, (place / "calls").read_text().splitlines()


def test_the_whole_run_builds_checks_sanitizes_and_measures_in_this_order(place):
    done, calls = bench(place)
    assert done.returncode == 0, done.stdout
    steps = [" ".join(call.split()[:2]) for call in calls]
    order = ["nvidia-smi --query-gpu=name,memory.total,driver_version", "nvcc --version", "setup", "ds4 selftest",
             "compute-sanitizer --tool", "ds4 fixture", "ds4 plan", "ds4 bench"]
    assert sorted(order, key=steps.index) == order
    build = next(call for call in calls if call.startswith("make "))
    assert "CUDA=1" in build and f"NVCC={place}/bin/nvcc" in build and f"CUDA_HOME={place}" in build
    tools = [call.split()[2] for call in calls if call.startswith("compute-sanitizer")]
    assert tools == ["memcheck", "racecheck", "synccheck"]
    assert "0 steps failed" in (place / "gpu-bench.log").read_text()


def test_the_small_run_ends_before_the_full_size_model(place):
    done, calls = bench(place, "--small")
    assert done.returncode == 0
    assert not any(call.startswith(("ds4 fixture", "ds4 bench")) for call in calls)


def test_another_program_is_built_and_timed_on_the_same_file(place):
    done, calls = bench(place, "--beside", str(place / "other"))
    assert done.returncode == 0, done.stdout
    assert any(call.startswith(f"make -C {place}/other cuda-generic") for call in calls)
    timed = next(call for call in calls if call.startswith("ds4-bench "))
    assert f"-m {place}/build/flash.gguf" in timed
    ours = next(call for call in calls if "build/flash.gguf" in call and call.startswith("ds4 bench"))
    assert "--made-up" not in ours  # the same weights as the other program


def test_the_full_size_model_is_a_shape_with_weights_made_up_on_the_device(place):
    _, calls = bench(place)
    made = [call for call in calls if call.startswith("ds4 fixture")]
    assert len(made) == 1 and "--vectors" in made[0]
    timed = [call for call in calls if call.startswith("ds4 bench")]
    assert timed and all("--made-up" in call for call in timed)
    assert any("--ctx 131072" in call and "--repeat 2048" in call for call in timed)


def test_packages_that_were_brought_along_are_used_in_place_of_an_archive(place):
    packages = place / "build/gpu-packages"
    packages.mkdir()
    (packages / "a.deb").write_text("")
    unpack = place / "bin/dpkg"
    unpack.write_text('#!/bin/bash\nmkdir -p "$3/usr/lib/x-linux-gnu" "$3/usr/include"\necho "dpkg $1" >>"$CALLS"\n')
    unpack.chmod(0o755)
    (place / "bin/make").write_text('#!/bin/bash\necho "make $CPATH $LIBRARY_PATH" >>"$CALLS"\n')
    done, calls = bench(place, "--small")
    assert done.returncode == 0, done.stdout
    assert "dpkg -x" in calls and not any(call.startswith("setup") for call in calls)
    build = next(call for call in calls if call.startswith("make "))
    assert f"{place}/build/gpu-root/usr/include:" in build and f"{place}/build/gpu-root/usr/lib/x-linux-gnu:" in build


def test_a_step_that_fails_is_named_and_hides_none_of_those_that_follow(place):
    _, every = bench(place)
    (place / "calls").unlink()
    (place / "build/flash-shape.gguf").unlink()
    done, calls = bench(place, fail="?")  # every call
    assert calls == every and done.returncode != 0
    summary = done.stdout[done.stdout.index("== summary"):]
    failed = [line.split("  ")[0] for line in summary.splitlines() if "FAILED with status 1" in line]
    assert failed == STEPS
    assert f"{len(STEPS)} steps failed" in summary


def test_a_step_that_takes_too_long_is_ended_and_the_others_follow(place):
    (place / "ds4").write_text('#!/bin/bash\necho "ds4 $*" >>"$CALLS"\n'
                               '[ "$*" != "selftest --backend cuda" ] || sleep 100\n')
    script = place / "scripts/gpu-bench"
    script.write_text(script.read_text().replace("step selftest 90 ", "step selftest 1 "))
    done, calls = bench(place, "--small")
    assert done.returncode != 0
    assert calls[-1].startswith("compute-sanitizer --tool synccheck")
    assert "OUT OF TIME" in done.stdout


def test_speed_is_said_as_a_share_of_the_streaming_rate(place):
    (place / "ds4").write_text("""#!/bin/bash
echo "ds4 $*" >>"$CALLS"
case "$1 ${*: -1}" in
    selftest*) echo "  copying                           4000 GB/s (read and written by copies)" ;;
    fixture*) cat >/dev/null; touch "${@: -1}" ;;
    "plan --json") echo '{"x":1,"weight_bytes_per_token":8000000000,"fits":true}' ;;
    "bench 32") echo ctx,prefill_tps,decode_tps,kv_bytes; printf '%s\\n' 64,1000,250,1 2048,3,200,1 ;;
    "bench 2048") echo ctx,prefill_tps,decode_tps,kv_bytes; printf '%s\\n' 1824,0,190,1 65312,0,171,1 ;;
    "bench --greedy") echo ctx,prefill_tps,decode_tps,kv_bytes; echo 2048,1000,200,1 ;;
    "bench early") echo ctx,prefill_tps,decode_tps,kv_bytes; printf '%s\\n' 2048,1000,250,1 65312,0,180,1 ;;
esac
""")
    done, _ = bench(place)
    assert "early launch, chosen ahead, at 2048: 250.0 tokens/s, 1.250 times plain" in done.stdout
    assert "early launch at 65312: 180.0 tokens/s, 1.053 times plain" in done.stdout
    assert "decode at 64: 250.0 tokens/s, 50% of the streaming rate" in done.stdout
    assert "decode at 64k: 90% of that at 2k" in done.stdout


def test_times_of_kernels_stand_beside_the_static_floor(place):
    (place / "ds4").write_text("""#!/bin/bash
case "$1 ${*: -1}" in
    fixture*) cat >/dev/null; touch "${@: -1}" ;;
    "bench --kernels") echo "product_q8_0_packed   10 calls      0.500 ms  99.0%" ;;
esac
""")
    (place / "scripts/gpu-static").write_text("#!/bin/bash\necho product_q8_0_packed 20 16 1.0 250.0 10.0 0.0 250.0\n")
    done, _ = bench(place)
    assert "product_q8_0_packed                   1000.0 us, not below     250.0: 4.0 times" in done.stdout
