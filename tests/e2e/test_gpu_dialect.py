"""The kernels' text without a GPU: clang's front end with Metal's address spaces and declarations accepts it, refuses
each negative sample (by this, the lint, or the emulator's types), and nvcc compiles it where there is one."""
import glob
import os
import shutil
import subprocess
import sys

import pytest

KERNELS = sorted(glob.glob("src/gpu/kernels/*.k"))
CLANG = ["clang++", "-target", "aarch64-linux-gnu", "-x", "c++", "-std=c++14", "-nostdinc", "-nostdinc++",
         "-fsyntax-only", "-Itests/gpu/conformance", "-Isrc", "-Itests/gpu",
         "-Wall", "-Wextra", "-Wconversion", "-Wno-unused",
         "-Wno-unused-parameter", "-Wno-unknown-attributes", "-Wno-sign-conversion",
         "-Wno-implicit-int-float-conversion", "-Wno-implicit-int-conversion", "-Wmissing-variable-declarations",
         "-Werror"]


def run(command, timeout=300, **more):
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, **more)


def conformance(sample=None):
    define = [f'-DNEGATIVE="negative/{os.path.basename(sample)}"'] if sample else []
    return run(CLANG + define + ["tests/gpu/conformance/check.cpp"])


def test_the_kernels_are_accepted_as_metal_by_a_front_end_that_knows_its_address_spaces():
    done = conformance()
    assert done.returncode == 0, done.stderr


def test_the_lint_finds_nothing_in_the_kernels():
    done = run([sys.executable, "scripts/gpu_lint.py"] + KERNELS)
    assert done.returncode == 0, done.stdout


def refused_by_types(sample):
    text = ('#include "gpu/prelude/emu.h"\nnamespace k {\n#include "gpu/kernels/records.h"\n'
            f'#include "{os.path.abspath(sample)}"\n}}\n')
    done = run(["clang++", "-std=c++17", "-fsyntax-only", "-w", "-Isrc", "-x", "c++", "-"], input=text)
    return done.returncode != 0


@pytest.mark.parametrize("sample", sorted(glob.glob("tests/gpu/negative/*.k")), ids=os.path.basename)
def test_each_sample_that_breaks_a_rule_is_refused(sample):
    refused = (run([sys.executable, "scripts/gpu_lint.py", sample]).returncode != 0 or
               conformance(sample).returncode != 0 or refused_by_types(sample))
    assert refused


def test_the_metal_host_type_checks_for_apples_target():
    resources = run(["clang", "-print-resource-dir"]).stdout.strip()
    done = run(["clang", "-target", "arm64-apple-macos15", "-fsyntax-only", "-x", "objective-c", "-fblocks", "-Wall",
                "-Wextra", "-Wconversion", "-Werror", "-nostdinc", "-isystem", resources + "/include", "-isystem",
                "tests/gpu/pretend/libc", "-ffreestanding", "-Itests/gpu/pretend/include", "-Isrc",
                "src/gpu/host_metal.m"])
    assert done.returncode == 0, done.stderr


def find_nvcc():
    found = run(["scripts/nvcc"])
    if found.returncode != 0:
        pytest.skip(found.stderr.strip())
    nvcc = found.stdout.strip()
    return nvcc, os.path.dirname(os.path.realpath(nvcc)) + "/../include"


def test_the_kernels_compile_for_cuda_where_there_is_a_compiler(tmp_path):
    nvcc, include = find_nvcc()
    done = run([nvcc, "-std=c++17", "-O1", "-arch=sm_90", "-Isrc", "-I" + include, "-ptx",
                "-o", str(tmp_path / "all.ptx"), "src/gpu/cuda_kernels.cu"], timeout=900)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("source", ["src/gpu/host_cuda.c", "tests/gpu/pretend_cuda/runtime.c"])
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_the_cuda_host_and_what_it_is_tested_with_agree_with_cudas_headers(source, compiler):
    _, include = find_nvcc()
    if not shutil.which(compiler):
        pytest.skip(f"no {compiler}")
    done = run([compiler, "-std=c17", "-D_GNU_SOURCE", "-DDS4_GPU_CUDA", "-fsyntax-only", "-Wall", "-Wextra",
                "-Wconversion", "-Wshadow", "-Wstrict-prototypes", "-Wmissing-prototypes", "-Wvla", "-Werror", "-Isrc",
                "-Iinclude", "-isystem", include, source])
    assert done.returncode == 0, done.stderr
