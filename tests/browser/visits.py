"""One look at a page, and what the browser said meanwhile."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = ("chromium", "chromium-browser")
SECONDS = 15  # patience with a shared machine
DRAWN = ".vega-embed svg, .vega-embed canvas"


def chromium() -> str | None:
    """The browser on PATH."""
    return next(filter(None, map(shutil.which, CHROMIUM)), None)


def missing(what: str, **options: bool) -> None:
    """Skip, or fail where a browser is required."""
    if os.environ.get("BNEXP_BROWSER") == "required":
        pytest.fail(f"{what}, and BNEXP_BROWSER=required", pytrace=False)
    pytest.skip(what, **options)


def need_a_browser() -> None:
    """Skip the whole file where there is none: one line in the list of what was skipped."""
    if importlib.util.find_spec("playwright") is None:
        missing("playwright is not installed: pip install -e '.[browser]'", allow_module_level=True)
    if chromium() is None:
        missing("no chromium on PATH", allow_module_level=True)


class Visit:
    """An open page. ``complaints``: errors and warnings of the console; ``requests``: whatever else it wanted."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(1000 * SECONDS)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page = self.context.new_page()
        self.address = path.as_uri()
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.context.route("**/*", self._route)
        self.page.goto(self.address)

    def close(self) -> None:
        self.context.close()

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _dialog(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _route(self, route: Any) -> None:
        if route.request.url.split("#")[0] == self.address:
            route.continue_()
        else:
            self.requests.append(route.request.url)
            route.abort()

    # --- what a reader does -------------------------------------------------------------------------------------------

    def unfold(self) -> None:
        """Open whatever is folded, as by hand."""
        for summary in self.page.locator("details:not([open]) > summary").all():
            if summary.is_visible():
                summary.click()

    def draw(self, which: int) -> Any:
        """Scroll to a figure and wait until its chart is drawn; return the figure."""
        figure = self.page.locator("figure").nth(which)
        figure.scroll_into_view_if_needed()
        figure.locator(DRAWN).first.wait_for()
        return figure

    def draw_all(self) -> int:
        """Scroll through all figures; return how many there are."""
        count = self.page.locator("figure").count()
        for which in range(count):
            self.draw(which)
        return count

    def rows(self) -> list[list[str]]:
        """The texts of the rows of runs that are shown."""
        script = "rows => rows.filter(r => !r.hidden).map(r => [...r.cells].map(c => c.textContent))"
        return list(self.page.locator(".runs tbody tr").evaluate_all(script))

    def heads(self) -> list[str]:
        """The heads of the table of runs."""
        return [head.strip() for head in self.page.locator(".runs thead th").all_text_contents()]
