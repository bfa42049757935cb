"""Servers for the clients: on the scripted engine, or on the trained model that ships."""

import os
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))

from cli import DS4  # noqa: E402
from test_serve import Server  # noqa: E402

MODEL = "models/ds4-tiny.gguf"


class TrainedServer(Server):
    def __init__(self, *args):
        self.process = subprocess.Popen([DS4, "serve", "-m", MODEL, "--port", "0", *args], stderr=subprocess.PIPE,
                                        text=True, bufsize=1)
        self.listen()


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(*args, trained=False, **members):
        servers.append(TrainedServer(*args) if trained else Server(tmp_path, *args, **members))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            assert server.stop()[0] == 0
