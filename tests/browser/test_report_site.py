"""The report in a real browser: pictures load, the search finds, nothing is fetched from outside, a phone suffices."""

from pathlib import Path

import pytest

from tests.reproduction.runs import FIRST, SECOND, finished_run

PAGES = ("index", "tables", "figures", "provenance", f"notebooks/{FIRST}", f"notebooks/{SECOND}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, browser) -> Path:
    from ldmseg_lib.reproduction.report.site import build_site

    root = tmp_path_factory.mktemp("report")
    return build_site(finished_run(root / "demo"), root / "site").parent


@pytest.fixture(params=[(1400, 1000), (390, 844)], ids=["desk", "phone"])
def page(browser, request: pytest.FixtureRequest):
    width, height = request.param
    context = browser.new_context(viewport={"width": width, "height": height})
    opened = context.new_page()
    opened.problems = []
    opened.on("console", lambda m: opened.problems.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda e: opened.problems.append(str(e)))
    opened.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else opened.problems.append(r.url)
    )
    opened.on("requestfailed", lambda r: opened.problems.append(f"missing: {r.url}"))
    yield opened
    assert opened.problems == []
    context.close()


@pytest.mark.parametrize("name", PAGES)
def test_pages_show_everything_and_fit(page, site: Path, name: str) -> None:
    page.goto((site / f"{name}.html").as_uri())
    pictures = page.locator(".bd-article img")
    pictures.evaluate_all("images => images.forEach(image => { image.loading = 'eager'; })")
    page.wait_for_function("() => [...document.images].every(image => image.complete)")
    assert page.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    width = page.viewport_size["width"]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """width => [...document.querySelectorAll('.bd-article :is(p, img, table, pre, h1, h2, math)')]
            .filter(e => !e.closest('.math-block, .math-long, table, pre') || e.matches('table, pre'))
            .filter(e => e.getBoundingClientRect().right > width + 1).map(e => e.outerHTML.slice(0, 80))""",
        width,
    )
    assert beyond == []
    size = page.evaluate("parseFloat(getComputedStyle(document.querySelector('.bd-article p')).fontSize)")
    assert size >= 14
    if name.startswith("notebooks/"):
        assert pictures.count() == 2
        assert page.locator(".bd-article math").first.bounding_box()["height"] > 5


def test_the_contents_lead_to_every_page(page, site: Path) -> None:
    page.goto((site / "index.html").as_uri())
    addresses = page.locator("nav.bd-links a").evaluate_all("links => links.map(link => link.href.split('#')[0])")
    assert {(site / f"{name}.html").as_uri() for name in PAGES[1:]} <= set(addresses)
    page.evaluate("address => { location.href = address }", next(a for a in addresses if a.endswith(f"{SECOND}.html")))
    page.wait_for_load_state()
    assert "Title of autoencoder" in page.locator("h1").first.inner_text()


def test_the_search_finds_a_word_of_a_notebook(page, site: Path) -> None:
    page.goto((site / "search.html").as_uri() + "?q=quokkalike")
    page.locator("#search-results li a").first.wait_for(timeout=20_000)
    found = page.locator("#search-results li a").evaluate_all("links => links.map(link => link.href)")
    assert any(f"notebooks/{FIRST}.html" in address for address in found)
    # a browser does not let a page of files read others, from which it would show a line with each hit
    refused = ("file:", "ERR_FAILED", "Failed to fetch")
    page.problems[:] = [problem for problem in page.problems if not any(word in problem for word in refused)]
