"""The page in a real browser: a headless Chromium opens the file, and a keyboard operates it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dlskip import report
from tests.helpers.report_world import parameters, write_world

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
NEEDS = "no Chromium with its driver (Debian: chromium, chromium-driver)"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not (CHROMIUM and DRIVER), reason=NEEDS)]

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--window-size=1200,900", "--force-prefers-reduced-motion",
]  # fmt: skip
AUDIT = Path(__file__).parents[1].joinpath("helpers", "report_audit.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, params = tmp_path_factory.mktemp("world"), parameters(backbones=["smollm2", "other"])
    write_world(root, params, n=16)
    report.build(params, root)
    return root / "reports" / "index.html"


def start(profile: Path, *, javascript: bool = True) -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in [*FLAGS, f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if not javascript:
        options.add_experimental_option("prefs", {"profile.managed_default_content_settings.javascript": 2})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))


@pytest.fixture(scope="module")
def opened(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser = start(tmp_path_factory.mktemp("profile"))
    try:
        browser.get(page.as_uri())
        yield browser
    finally:
        browser.quit()


@pytest.fixture
def browser(opened: Any) -> Any:
    """The page as it opens."""
    opened.refresh()
    return opened


def unfold(browser: Any) -> None:
    """Opens all there is to open, but of the claims' sources only some."""
    browser.execute_script("for (const d of document.querySelectorAll('details:not(.from)')) d.open = true")
    browser.execute_script("for (const d of [...document.querySelectorAll('.from')].slice(0, 3)) d.open = true")


def test_no_errors_and_no_requests(opened, page):
    asked = []
    for entry in opened.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"] == page.as_uri():
            asked.append(message["params"]["request"]["url"])
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert opened.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_audit(browser, scheme):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    unfold(browser)
    assert browser.execute_script(AUDIT) == []
    assert (browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")) == (scheme == "dark")


def test_without_javascript_everything_is_still_there(page, tmp_path):
    browser = start(tmp_path / "profile", javascript=False)
    try:
        browser.get(page.as_uri())
        assert not browser.find_elements(By.CSS_SELECTOR, "#chart svg")
        assert "needs JavaScript" in browser.find_element(By.TAG_NAME, "noscript").text
        assert browser.find_element(By.CSS_SELECTOR, "table caption").is_displayed()
        assert all(image.is_displayed() for image in browser.find_elements(By.TAG_NAME, "img"))
        browser.find_element(By.CSS_SELECTOR, "a[href^='#claim-']").click()
        claim = browser.find_element(By.CSS_SELECTOR, "li:has(:target) details.from")
        claim.find_element(By.TAG_NAME, "summary").click()
        link = claim.find_element(By.TAG_NAME, "a")
        link.click()
        record = browser.find_element(By.ID, link.get_attribute("href").split("#")[1])
        assert record.is_displayed()
    finally:
        browser.quit()


def marks(browser: Any) -> list[Any]:
    """The chart's points, once it is drawn."""
    found = WebDriverWait(browser, 60).until(lambda b: b.find_elements(By.CSS_SELECTOR, "#chart .mark-symbol path"))
    return [mark for mark in found if mark.get_attribute("aria-label")]


def test_choosing_a_task_changes_the_chart(browser):
    before = [mark.get_attribute("aria-label") for mark in marks(browser)]
    task = browser.find_element(By.CSS_SELECTOR, "#controls select[name=task]")
    Select(task).select_by_visible_text("German to English")
    WebDriverWait(browser, 60).until(lambda b: [m.get_attribute("aria-label") for m in marks(b)] != before)
    after = [mark.get_attribute("aria-label") for mark in marks(browser)]
    assert after and set(after).isdisjoint(before), "every point is of the chosen task, and has its own numbers"


def test_a_point_leads_to_what_its_numbers_come_from(browser):
    mark = next(m for m in marks(browser) if "Ours" in m.get_attribute("aria-label"))
    browser.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", mark)
    record = WebDriverWait(browser, 60).until(lambda b: b.find_element(By.CSS_SELECTOR, "dl:target"))
    assert record.is_displayed()
    for words in ("python -m stages.x <a & b>", "0" * 64, '"a": 1', "torch 2", "cpu", "Commit"):
        assert words in record.text


def test_a_narrow_screen_needs_no_scrolling_sideways(browser):
    metrics = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        browser.refresh()
        assert marks(browser)
        unfold(browser)
        inner, needed = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert inner == 390 and needed <= 390
        box, drawn = (browser.find_element(By.CSS_SELECTOR, s).size["width"] for s in ("#chart", "#chart svg"))
        assert drawn <= box  # nothing of the chart is cut off
        assert all(image.size["width"] <= 390 for image in browser.find_elements(By.CSS_SELECTOR, "figure img"))
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
