"""Runs a command while processes that it started stand still at random, as they do on a machine that others use: a
test that rests on time fails here.

usage: storm.py [SEED] COMMAND...     (called by `make storm`; the seed, a number, is printed)

Four threads each choose a process among the command's descendants, stop it for up to MOST_S seconds, and rest for
REST_S on average. The exit status is the command's.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time

THREADS, REST_S, MOST_S = 4, 0.2, 2.5
SPARED = ("make", "sh", "bash", "gcc", "cc1", "clang", "ld")


def children():
    """{parent: [(pid, name)]} of all processes; empty where there is no /proc."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else []):
        try:
            with open(f"/proc/{name}/stat") as f:
                stat = f.read()
        except OSError:
            continue
        end = stat.rindex(")")
        found.setdefault(int(stat[end + 2:].split()[1]), []).append((int(name), stat[stat.index("(") + 1:end]))
    return found


def descendants(pid):
    found, todo, all_children = [], [pid], children()
    while todo:
        below = all_children.get(todo.pop(), [])
        found += [child for child, name in below if name not in SPARED]
        todo += [child for child, _ in below]
    return found


def disturb(process, chance, stops):
    while process.poll() is None:
        time.sleep(chance.expovariate(1 / REST_S))
        there = descendants(process.pid)
        if not there:
            continue
        pid = chance.choice(there)
        try:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(chance.uniform(0.05, MOST_S))
            os.kill(pid, signal.SIGCONT)
            stops.append(pid)
        except ProcessLookupError:
            pass


def main():
    own = len(sys.argv) > 1 and sys.argv[1].isdigit()
    seed = int(sys.argv[1]) if own else random.SystemRandom().randrange(10**6)
    print(f"storm: seed {seed}", flush=True)
    process, stops = subprocess.Popen(sys.argv[2 if own else 1:]), []
    threads = [threading.Thread(target=disturb, args=(process, random.Random(seed + i), stops))
               for i in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(f"storm: {len(stops)} stops")
    sys.exit(process.returncode)


main()
