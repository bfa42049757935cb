"""The long forms of what may never happen to `ds4 serve` (serve_life.py), on the scripted engine. `make soak` runs it,
one line a measurement; tests/soak.md records the runs. Usage: soak_serve.py [SECONDS of mixed load [SHARE of
the other repetitions [NAME...]]]"""

import pathlib
import resource
import sys
import tempfile
import time

import serve_life as life
from test_serve import Server


def report(name, got):
    print(f"{name}: " + ", ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{k} {v}" for k, v in got.items()),
          flush=True)


def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 900
    share = float(sys.argv[2]) if len(sys.argv) > 2 else 1.0
    wanted = sys.argv[3:]
    folder, seed = pathlib.Path(tempfile.mkdtemp()), int(time.time())
    print(f"seed {seed}", flush=True)
    for i, (name, options, act) in enumerate([
            ("slow clients", ["--time-scale", "1"], lambda s: life.slow_clients(s, 1000, 200, 100, int(300 * share))),
            ("connections", [], lambda s: life.flood(s, int(20000 * share))),
            ("slow reader", ["--no-loop-guard", "--parallel", "8"], lambda s: life.slow_reader(s, 8, int(400 * share))),
            ("crowd", ["--parallel", "1", "--grace", "0"], lambda s: life.overload(s, 200, 64)),
            ("leaving clients", ["--grace", "0"], lambda s: life.disconnects(s, int(10000 * share), seed)),
            ("queued client leaves", ["--parallel", "1"], lambda s: life.queued_client_leaves(s, int(1000 * share))),
            ("privacy", ["--kv-dir", str(folder / "kv1"), "--grace", "0"],
             lambda s: life.privacy(s, 16, int(600 * share), seed)),
            ("mixed load", ["--kv-dir", str(folder / "kv2"), "--kv-bytes", "2m"],
             lambda s: life.mixed_load(s, seconds, 10 ** 9, seed))]):
        if wanted and name not in wanted:
            continue
        path = folder / str(i)
        path.mkdir()
        more = {"answers": []} if name == "privacy" else {"sessions": 9} if name == "slow reader" else {}
        server = Server(path, "--quiet", *options, **more)
        report(name, act(server))
        code, _ = server.stop()
        assert code == 0


if __name__ == "__main__":
    main()
