"""`make install`: what is put where, and that it works from there."""

import os
import stat
import subprocess
from pathlib import Path

INSTALLED = {"bin/ds4": ("ds4", 0o755), "share/ds4/ds4-tiny.gguf": ("models/ds4-tiny.gguf", 0o644)}


def install(*words):
    """Of what is built: nothing is built anew below the tests that run beside this one."""
    done = subprocess.run(["make", "-o", "ds4", "install", *words], capture_output=True, text=True, timeout=300,
                          check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_program_and_model_are_installed_below_prefix_and_destdir_and_nothing_else(tmp_path):
    top = tmp_path / "a stage"
    for _ in range(2):  # the second time over the first
        install(f"DESTDIR={top}", "PREFIX=/opt/ds4")
        files = {str(path.relative_to(top / "opt/ds4")): path for path in top.rglob("*") if not path.is_dir()}
        assert set(files) == set(INSTALLED)
        for name, (source, mode) in INSTALLED.items():
            assert stat.S_IMODE(files[name].stat().st_mode) == mode
            assert files[name].read_bytes() == Path(source).read_bytes()


def test_the_installed_program_finds_the_installed_model_from_anywhere(tmp_path):
    prefix, away = tmp_path / "prefix", tmp_path / "away"
    away.mkdir()
    install(f"PREFIX={prefix}", "DESTDIR=")
    command = ["run", "-p", "hi", "-n", "2", "--no-think", "--seed", "1", "--no-kv"]
    env = dict(os.environ, HOME=str(away), PATH=f"{prefix}/bin:{os.environ['PATH']}")
    (tmp_path / "link").symlink_to(prefix / "bin/ds4")
    for program in ("ds4", tmp_path / "link"):
        done = subprocess.run([program, *command], cwd=away, env=env, capture_output=True, text=True, timeout=300,
                              check=False)
        assert done.returncode == 0 and done.stdout.strip(), done.stderr
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("model: ")]
        path = line.removeprefix("model: ").removesuffix(" (no -m given)")
        assert line != path and os.path.samefile(path, prefix / "share/ds4/ds4-tiny.gguf")
