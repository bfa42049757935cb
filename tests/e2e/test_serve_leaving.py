"""Clients of `ds4 serve` that leave, on the scripted engine: whatever they were doing, nobody else notices. Short
forms; soak_serve.py has the long ones."""

import pytest

import serve_life as life
from test_serve import start  # noqa: F401


@pytest.mark.parametrize("grace", ["0", "30"])
def test_clients_may_leave_at_any_instant_in_any_way(start, grace):  # noqa: F811
    server = start("--parallel", "2", "--grace", grace)
    if grace == "30":  # what nobody asks for again makes room, so that the others are served; it ends with the server
        server.wait_idle = lambda: None
    life.disconnects(server, 60, 1)


def test_a_queued_client_that_leaves_changes_nothing_for_the_active_one(start):  # noqa: F811
    life.queued_client_leaves(start("--parallel", "1", token_ms=1), 20)
