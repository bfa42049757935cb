"""The page in a real browser: one Chromium a file, one profile a test. Skipped, with the reason, without one."""

import os
import sys

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "e2e"))

import browser as browsers  # noqa: E402
from test_serve import Server  # noqa: E402


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if not browsers.find_chromium():
        pytest.skip("no chromium here (apt-get install chromium; scripts/setup --tests does it)")
    running = browsers.Browser(tmp_path_factory.mktemp("profile"))
    yield running
    running.close()


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(*args, **members):
        servers.append(Server(tmp_path, *args, **members))
        return servers[-1]

    yield begin
    for server in servers:
        if server.process.poll() is None:
            assert server.stop()[0] == 0


@pytest.fixture
def visit(browser):
    """Opens the page of a server. At the end of the test nothing may have been refused by the policy of content, asked
    of another host, or thrown; a test that provokes errors empties page.errors itself."""
    pages = []

    def go(server, ready=True, **size):
        page = browser.page(**size)
        pages.append((page, server))
        page.open(f"http://127.0.0.1:{server.port}/")
        if ready:
            page.until("document.querySelector('#model-line').innerText.includes('context')")
        return page

    yield go
    for page, server in pages:
        home = f"http://127.0.0.1:{server.port}/"
        assert page.js("window.violations") == []
        assert [url for url in page.requests if not url.startswith((home, "data:", "about:"))] == []
        assert page.errors == []
        page.close()
