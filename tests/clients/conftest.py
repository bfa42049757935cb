"""Servers for the clients: on the scripted engine, or on the trained model that ships."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))

from test_serve import TRAINED as MODEL  # noqa: E402, F401
from test_serve import Server, TrainedServer  # noqa: E402


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
