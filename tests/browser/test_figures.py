"""What a reader can do with a figure: switch views, zoom without losing the page's scrolling, and go back."""

from __future__ import annotations

import pytest
from visits import DRAWN, need_a_browser

need_a_browser()

AXIS = "[class*='role-axis-label'] text"


def figure_of(visit, pages, title):
    seen = visit(pages["small"])
    seen.draw_all()
    figure = seen.page.locator("figure", has=seen.page.get_by_role("heading", name=title, exact=True))
    figure.scroll_into_view_if_needed()
    return seen, figure


def labels(figure):
    return sorted(figure.locator(".view:visible").locator(AXIS).all_text_contents())


def middle(figure):
    """The middle of the first panel."""
    box = figure.locator(".view:visible [class*='cell'] path.background").first.bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_the_keyboard_switches_views(visit, pages):
    seen, figure = figure_of(visit, pages, "Loss over epochs")
    scale = figure.get_by_role("group", name="scale")
    assert scale.get_by_role("radio", name="log").is_checked()
    picture, caption = figure.locator(".view:visible svg"), figure.locator("figcaption p:visible")
    before = picture.inner_html()
    assert "geometric means" in caption.text_content()
    scale.get_by_role("radio", name="log").focus()
    seen.page.keyboard.press("ArrowRight")
    figure.locator(".view:visible").locator(DRAWN).wait_for()
    assert scale.get_by_role("radio", name="linear").is_checked()
    assert picture.inner_html() != before
    assert figure.locator(".view:visible").count() == caption.count() == 1
    assert "geometric means" not in caption.text_content()
    seen.page.keyboard.press("ArrowRight")
    assert picture.inner_html() == before


def test_every_view_can_be_reached_and_becomes_a_chart(visit, pages):
    _, figure = figure_of(visit, pages, "Activations, layer by layer")
    seen = set()
    for rate in figure.get_by_role("group", name="lr").get_by_role("radio").all():
        rate.check()
        for tap in figure.get_by_role("group", name="of").get_by_role("radio").all():
            tap.check()
            figure.locator(".view:visible").locator(DRAWN).wait_for()
            assert rate.is_checked()
            seen.add(figure.locator("figcaption p:visible").text_content())
    assert len(seen) == figure.locator(".view").count() == 6


def test_without_javascript_one_view_stands_there_and_nothing_to_switch(visit, pages):
    page = visit(pages["small"], java_script_enabled=False).page
    for figure in page.locator("figure").all():
        assert figure.locator(".view:visible").count() == 1
        assert figure.locator("figcaption p:visible").count() == 1
        assert figure.locator(".view:visible svg").count() == 1
        assert not figure.get_by_role("radio").locator("visible=true").count()


@pytest.mark.parametrize("title", ["Loss over epochs", "Against the learning rate", "Activations, layer by layer"])
def test_shift_and_the_wheel_zoom_a_bare_wheel_scrolls_and_a_double_click_goes_back(visit, pages, title):
    """Facets, concatenated facets, and rows of facets, all with a legend that picks."""
    seen, figure = figure_of(visit, pages, title)
    before, mouse = labels(figure), seen.page.mouse
    mouse.move(*middle(figure))
    top = seen.page.evaluate("scrollY")
    mouse.wheel(0, -100)
    seen.page.wait_for_function("top => scrollY < top", arg=top)
    assert labels(figure) == before
    mouse.wheel(0, 100)
    seen.page.wait_for_function("top => scrollY === top", arg=top)
    mouse.move(*middle(figure))
    seen.page.keyboard.down("Shift")
    for _ in range(4):
        mouse.wheel(0, -120)
    seen.page.keyboard.up("Shift")
    until(seen, lambda: labels(figure) != before)
    assert seen.page.evaluate("scrollY") == top
    mouse.dblclick(*middle(figure))
    until(seen, lambda: labels(figure) == before)


def test_a_mouse_that_drags_moves_a_panel(visit, pages):
    seen, figure = figure_of(visit, pages, "Loss over epochs")
    before, (x, y) = labels(figure), middle(figure)
    seen.page.mouse.move(x, y)
    seen.page.mouse.down()
    seen.page.mouse.move(x + 120, y + 60, steps=5)
    seen.page.mouse.up()
    until(seen, lambda: labels(figure) != before)


def test_a_wheel_that_shift_turned_sideways_zooms_too(visit, pages):
    seen, figure = figure_of(visit, pages, "Loss over epochs")
    before, (x, y) = labels(figure), middle(figure)
    seen.page.evaluate(
        """([x, y]) => document.elementFromPoint(x, y).dispatchEvent(new WheelEvent("wheel",
          { deltaX: -500, shiftKey: true, bubbles: true, cancelable: true, clientX: x, clientY: y }))""",
        [x, y],
    )
    until(seen, lambda: labels(figure) != before)


def until(seen, true):
    for _ in range(50):
        if true():
            return
        seen.page.wait_for_timeout(50)
    raise AssertionError("it did not happen")
