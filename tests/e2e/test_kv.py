"""`ds4 kv` from outside: an empty store, wrong command lines, and what an action says without a store to look at."""

import json
import os

import pytest

import cli


def kv(tmp_path, *args, **more):
    return cli.run("kv", *args, "--dir", str(tmp_path / "kv"), "-m", cli.script(tmp_path), **more)


def test_an_empty_store_has_nothing_and_is_private(tmp_path):
    done = kv(tmp_path, "list", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["entries"] == []
    assert os.stat(tmp_path / "kv").st_mode & 0o777 == 0o700


def test_a_prompt_is_not_found_in_an_empty_store_and_the_cause_is_named(tmp_path):
    done = kv(tmp_path, "explain", "--json", stdin=b"some prompt")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["cause"] == "nothing_stored"


def test_verify_and_prune_of_an_empty_store_succeed(tmp_path):
    assert kv(tmp_path, "verify").returncode == 0
    assert kv(tmp_path, "prune", "--keep", "1").returncode == 0


def test_a_key_that_is_not_stored_is_named(tmp_path):
    done = kv(tmp_path, "show", "12ab")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == b"ds4 kv: 12ab: no stored conversation has that key"


def test_what_is_no_pack_is_refused_with_a_sentence(tmp_path):
    pack = tmp_path / "pack"
    pack.write_bytes(b"not a pack" * 100)
    done = kv(tmp_path, "import", str(pack))
    assert done.returncode == 1
    assert b"no pack" in done.stderr


@pytest.mark.parametrize("args", [[], ["liste"], ["show"], ["export", "abc"], ["import"], ["prune"], ["list", "x"]])
def test_wrong_command_lines_do_nothing(tmp_path, args):
    done = kv(tmp_path, *args)
    assert done.returncode == 2
    assert not (tmp_path / "kv").exists()
