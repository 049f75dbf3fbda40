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
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no Chromium with its driver (Debian: chromium, chromium-driver)"
)

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select  # noqa: E402

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


@pytest.fixture(scope="module")
def data(page: Path) -> dict[str, Any]:
    text = page.read_text(encoding="utf-8").split('id="data">', 1)[1].split("</script>", 1)[0]
    return json.loads(text)


def rows(browser: Any) -> list[list[str]]:
    return browser.execute_script(
        "return [...document.querySelectorAll('#live tbody tr')].map((r) => [...r.cells].map((c) => c.textContent))"
    )


def expected(
    data: dict[str, Any], backbone: str, task: str, batch: str, methods: list[str]
) -> list[tuple[float, float]]:
    found = []
    for method in methods:
        own = [p for p in data["points"][backbone] if p["method"] == method and task in p["tasks"]]
        own = [p for p in own if method != "ours" or p["batch"] == batch]
        for p in sorted(own, key=lambda p: p["tasks"][task][0]):
            share, quality = p["tasks"][task][:2]
            found.append((share, quality))
    return found


def same(shown: list[list[str]], wanted: list[tuple[float, float]]) -> bool:
    """Whether the table's shares and qualities are the wanted ones, to the digit that is shown."""
    numbers = [float(x) for r in shown for x in (r[2], r[3].split(" ")[0])]
    return len(shown) == len(wanted) and numbers == pytest.approx([x for pair in wanted for x in pair], abs=0.0501)


def unfold(browser: Any) -> None:
    """Opens all there is to open, but of the claims' sources only some."""
    browser.find_element(By.CSS_SELECTOR, "#live button").click()
    browser.execute_script("for (const d of document.querySelectorAll('details:not(.from)')) d.open = true")
    browser.execute_script("for (const d of [...document.querySelectorAll('.from')].slice(0, 3)) d.open = true")


def checked(data: dict[str, Any]) -> list[str]:
    return [m["id"] for m in data["methods"] if not m["ablation"]]


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


def test_choosing_changes_chart_and_table(browser, data):
    batch = data["batch"]
    assert same(rows(browser), expected(data, "smollm2", data["tasks"][0]["id"], batch, checked(data)))
    Select(browser.find_element(By.ID, "task")).select_by_value("de-en")
    Select(browser.find_element(By.ID, "backbone")).select_by_visible_text("other")
    wanted = expected(data, "other", "de-en", batch, checked(data))
    assert same(rows(browser), wanted)
    assert len(browser.find_elements(By.CSS_SELECTOR, "#chart .point")) == len(wanted)
    assert "BLEU" in browser.find_element(By.ID, "metric").text
    browser.find_element(By.CSS_SELECTOR, "input[value=static]").click()
    left = [m for m in checked(data) if m != "static"]
    assert same(rows(browser), expected(data, "other", "de-en", batch, left))
    assert not browser.find_elements(By.CSS_SELECTOR, "#chart .series[data-method=static]")
    Select(browser.find_element(By.ID, "batch")).select_by_value("16")
    assert same(rows(browser), expected(data, "other", "de-en", "16", left))
    assert "other" in browser.find_element(By.ID, "status").text


def test_points_say_their_numbers_and_stand_where_they_belong(browser, data):
    browser.find_element(By.CSS_SELECTOR, "input[value=decode]").click()
    placed = browser.execute_script(
        "return [...document.querySelectorAll('#chart .series[data-method=static] .point')]"
        ".map((p) => [p.getBoundingClientRect().x, p.getAttribute('aria-label')])"
    )
    own = [p for p in data["points"]["smollm2"] if p["method"] == "static"]
    speeds = {p["setting"]: p["speed"][data["batch"]][1] for p in own}
    assert len(placed) == len(own)
    assert placed
    for _, label in placed:
        setting = "share " + label.split("share ")[1].split(":")[0]
        assert f"decoding {speeds[setting]:.2f} times" in label and "% of layers skipped" in label
    order = [speeds["share " + label.split("share ")[1].split(":")[0]] for _, label in sorted(placed)]
    assert order == sorted(order)


def test_what_was_not_chosen_is_not_shown(browser):
    browser.execute_script("document.querySelector('#few').click()")
    assert {r[0] for r in rows(browser)} == {"Vanilla", "Ours", "Random, matched rate"}
    for box in browser.find_elements(By.CSS_SELECTOR, "input[name=method]:checked"):
        box.click()
    assert rows(browser) == [] and "Nothing of this choice" in browser.find_element(By.ID, "chart").text


def focus(browser: Any) -> Any:
    return browser.switch_to.active_element


def press(browser: Any, *keys: str) -> None:
    for key in keys:
        focus(browser).send_keys(key)


def test_keyboard_alone_reaches_and_operates_everything(browser, data):
    order = []
    browser.execute_script("window.scrollTo(0, 0); document.activeElement.blur()")
    browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert focus(browser).text == "Skip to the report"
    for _ in range(60):
        press(browser, Keys.TAB)
        order.append(focus(browser).get_attribute("id") or focus(browser).get_attribute("name"))
        if order[-1] == "backbone":
            break
    press(browser, "o")  # a select takes the first letter
    assert Select(focus(browser)).first_selected_option.text == "other"
    press(browser, Keys.TAB, Keys.ARROW_DOWN)
    assert focus(browser).get_attribute("id") == "task"
    task = focus(browser).get_attribute("value")
    assert task == data["tasks"][1]["id"]
    press(browser, Keys.TAB, Keys.TAB, Keys.ARROW_RIGHT)
    assert focus(browser).get_attribute("value") == "prefill" and focus(browser).is_selected()
    press(browser, Keys.ARROW_LEFT, Keys.TAB)
    assert focus(browser).get_attribute("value") == "vanilla" and focus(browser).is_selected()
    press(browser, Keys.SPACE)
    left = [m for m in checked(data) if m != "vanilla"]
    assert same(rows(browser), expected(data, "other", task, data["batch"], left))
    reached = []
    while not (focus(browser).get_attribute("class") or "").startswith("point"):
        reached.append(focus(browser).get_attribute("value") or focus(browser).get_attribute("id"))
        press(browser, Keys.TAB)
    assert reached[: len(data["methods"])] == [m["id"] for m in data["methods"]] and reached[-2:] == ["all", "few"]
    first = focus(browser).get_attribute("aria-label")
    tip = browser.find_element(By.ID, "tip")
    assert tip.is_displayed() and all(part in first for part in tip.text.split("\n"))
    press(browser, Keys.ARROW_RIGHT)
    second = focus(browser).get_attribute("aria-label")
    assert second != first and second.split(",")[0] == first.split(",")[0]
    press(browser, Keys.ARROW_DOWN)
    assert focus(browser).get_attribute("aria-label").split(",")[0] != first.split(",")[0]
    press(browser, Keys.ESCAPE)
    assert not browser.find_element(By.ID, "tip").is_displayed()
    press(browser, Keys.SPACE)
    assert focus(browser).get_attribute("aria-pressed") == "true"
    origin = browser.find_element(By.ID, "origin")
    assert origin.is_displayed() and "evaluations/" in origin.text
    press(browser, Keys.TAB, Keys.TAB)
    assert focus(browser).tag_name == "button" and "Where does this come from" in focus(browser).accessible_name
    press(browser, Keys.ENTER)
    assert focus(browser).tag_name == "button" and browser.find_element(By.ID, "origin").is_displayed()


def test_sources_show_command_parameters_data_commit_and_device(browser):
    browser.find_element(By.CSS_SELECTOR, "#live tr:last-child button").click()
    origin = browser.find_element(By.ID, "origin")
    origin.find_element(By.CSS_SELECTOR, "summary").click()
    for words in ("python -m stages.x <a & b>", "0" * 64, '"a": 1', "torch 2", "cpu", "Commit"):
        assert words in origin.text
    browser.find_element(By.CSS_SELECTOR, ".glance a").click()
    claim = browser.find_element(By.CSS_SELECTOR, "li:has(:target) details.from")
    assert claim.is_displayed()
    claim.find_element(By.TAG_NAME, "summary").click()
    claim.find_element(By.CSS_SELECTOR, "details.cell summary").click()
    assert "python -m stages.x <a & b>" in claim.text


def test_every_control_has_a_name(browser):
    controls = browser.find_elements(By.CSS_SELECTOR, "#explorer select, #explorer input, #explorer button")
    assert controls and all(control.accessible_name for control in controls)
    assert all(point.accessible_name for point in browser.find_elements(By.CSS_SELECTOR, "#chart .point"))


def test_a_narrow_screen_needs_no_scrolling_sideways(browser):
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        unfold(browser)
        inner, needed = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
        assert inner == 400 and needed <= 400
        assert 280 <= browser.find_element(By.CSS_SELECTOR, "#chart svg").size["width"] <= 400
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_without_javascript_everything_is_still_told(page, tmp_path):
    browser = start(tmp_path / "profile", javascript=False)
    try:
        browser.get(page.as_uri())
        assert not browser.find_element(By.ID, "explorer").is_displayed()
        assert "needs JavaScript" in browser.find_element(By.TAG_NAME, "noscript").text
        assert browser.find_element(By.CSS_SELECTOR, "table caption").is_displayed()
        assert all(image.is_displayed() for image in browser.find_elements(By.TAG_NAME, "img"))
        browser.find_element(By.CSS_SELECTOR, ".glance a").click()
        claim = browser.find_element(By.CSS_SELECTOR, "li:has(:target) details.from")
        claim.find_element(By.TAG_NAME, "summary").click()
        link = claim.find_element(By.TAG_NAME, "a")
        link.click()
        record = browser.find_element(By.ID, link.get_attribute("href").split("#")[1])
        assert record.is_displayed()
    finally:
        browser.quit()


def test_paper_shows_no_controls(browser):
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        assert not browser.find_element(By.ID, "controls").is_displayed()
        assert browser.find_element(By.CSS_SELECTOR, "#chart svg").is_displayed()
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
