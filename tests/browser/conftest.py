"""A real browser for the page: Debian's chromium, driven by playwright (the extra ``browser``).

Where one of them is missing these tests are skipped and say what is missing, so that the plain test line runs anywhere;
with BNEXP_BROWSER=required, as in .ci/run, that is a failure. BNEXP_AXE names the file axe.min.js of npm's axe-core.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pages import write_pages
from visits import Visit, chromium, missing

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]


@pytest.fixture(scope="session")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core."""
    path = os.environ.get("BNEXP_AXE", "")
    if not Path(path).is_file():
        missing("BNEXP_AXE does not name axe.min.js (npm install axe-core)")
    return Path(path).read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def pages(browser, tmp_path_factory) -> dict[str, Path]:
    """Pages by name; made only where there is a browser to look at them."""
    return write_pages(tmp_path_factory.mktemp("pages"))


@pytest.fixture
def visit(browser):
    """Open a page; whatever the test looks at, no visit may end with a complaint or a request."""
    visits = []

    def open_page(path: Path, **options) -> Visit:
        visits.append(Visit(browser, path, **options))
        return visits[-1]

    yield open_page
    said = [(one.complaints, one.requests) for one in visits]
    for one in visits:
        one.close()
    assert said == [([], [])] * len(visits)
