"""`nl-course lab`, which `make lab` calls: it opens on notebook 00, without pop-ups, and asks nobody but itself."""

import os
import signal
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from nl_course.app.lab import START
from tools.browser import PATIENCE, free_port, wait_for

pytestmark = pytest.mark.browser


@pytest.fixture
def address(lab, tmp_path):
    """Where a learner's own copy is served by the command; `lab` is asked for its browser only."""
    port, token = free_port(), "0" * 32
    command = [sys.executable, "-m", "nl_course", "lab", "--no-browser", f"--port={port}"]
    own = {"JUPYTER_TOKEN": token, "HOME": str(tmp_path), "NL_COURSE_CACHE": str(tmp_path / "cache")}
    server = subprocess.Popen(
        [*command, "--copy", str(tmp_path / "copy")],
        env={**os.environ, **own},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}/"
        assert wait_for(f"{url}api/status?token={token}", lambda: server.poll() is None)
        yield f"{url}?token={token}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(PATIENCE)


def test_it_opens_on_the_first_notebook_quietly(lab, address):
    page = lab.browser.new_page()
    page.set_default_timeout(PATIENCE * 1000)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell h1", timeout=PATIENCE * 1000)
    page.wait_for_timeout(2_000)  # a pop-up would come now
    assert START in page.url
    assert page.locator(".Toastify__toast").count() == 0
    assert [url for url in asked if urlsplit(url).netloc not in (urlsplit(address).netloc, "")] == []
    page.close()
