"""The pages in a real Chromium: start a sweep, watch it finish, open its report, find its best config.

Set ``TUNER_SCREENSHOTS`` to a folder to keep pictures of the pages.
"""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from db.store import Store

selenium = pytest.importorskip("selenium", reason="needs the package selenium")

from selenium import webdriver  # noqa: E402
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = (shutil.which(name) for name in ("chromium", "chromedriver"))
MOE = "moe_fp8_block_scale_ds_routing_topk4_ng4_kg2_e8_h512_i256"
WAIT_S = 300
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
         "--disable-background-networking", "--disable-component-update", "--disable-sync",
         "--disable-dev-shm-usage")  # fmt: skip

pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="needs Debian's packages chromium and chromium-driver"
)


class Browser:
    """A Chromium that is driven, with what the tests need of it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url

    def open(self, path: str) -> None:
        """Goes to a page."""
        self.driver.get(self.url + path)

    def find(self, selector: str) -> Any:
        """The first element, waiting for it."""
        return WebDriverWait(self.driver, WAIT_S).until(lambda d: d.find_element(By.CSS_SELECTOR, selector))

    def until(self, condition: Callable[[], Any]) -> Any:
        """Waits until the condition holds; the page may be replaced while it is looked at."""
        gone = (NoSuchElementException, StaleElementReferenceException)
        return WebDriverWait(self.driver, WAIT_S, ignored_exceptions=gone).until(lambda _: condition())

    def screen(self, width: int, height: int, *, dark: bool) -> None:
        """Becomes a phone or a desk, by day or by night."""
        metrics = {
            "width": width,
            "height": height,
            "deviceScaleFactor": 2 if width < 600 else 1,
            "mobile": width < 600,
        }
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})

    def keep(self, name: str) -> None:
        """A picture of the whole page, if pictures are wanted."""
        folder = os.environ.get("TUNER_SCREENSHOTS")
        if folder:
            picture = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
            Path(folder, f"{name}.png").write_bytes(base64.b64decode(picture["data"]))

    def complaints(self) -> list[str]:
        """What the browser's console says is wrong."""
        return [e["message"] for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


@pytest.fixture(scope="module")
def server(serve: Callable[..., Any]) -> Any:
    return serve("--rate-per-s", "0")


@pytest.fixture(scope="module")
def browser(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--window-size=1200,900"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield Browser(driver, server.url)
    driver.quit()


@pytest.fixture(scope="module")
def stage(server: Any, scene: Any) -> Iterator[Any]:
    """Two finished sweeps on two GPUs, one with a failure."""
    with Store.open(server.db) as store:
        filled = scene(store)
        filled.sweep_id = filled.finished(filled.winner(1))
        other = scene(store, hardware="NVIDIA B200", target="sm_100a")
        filled.other_id = other.finished(other.winner(2, median_us=1.0))
        filled.failed_id = filled.sweep()
        broken = filled.trial(filled.failed_id, 0, state="COMPILE_ERROR", reason="tile 3 does not divide 64",
                              measurements=(), objective=None)  # fmt: skip
        store.trials.commit(broken)
        store.sweeps.finish(filled.failed_id, "INTERRUPTED", {})
        yield filled


def test_every_page_fits_a_phone_in_light_and_dark_without_complaints(browser: Browser, stage: Any) -> None:
    paths = ("/", f"/sweeps/{stage.sweep_id}", f"/sweeps/{stage.failed_id}", f"/sweeps/{stage.sweep_id}/trials/1",
             f"/compare?a={stage.sweep_id}&b={stage.other_id}", "/best?definition=gemm", "/docs")  # fmt: skip
    colours = set()
    for width, height, dark in ((1200, 900, False), (390, 844, True)):
        browser.screen(width, height, dark=dark)
        for path in paths:
            browser.open(path)
            wide = browser.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, (path, width)
            colours.add(browser.driver.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    assert browser.complaints() == []


def test_a_page_is_used_by_keyboard_alone(browser: Browser, stage: Any) -> None:
    browser.screen(1200, 900, dark=False)
    browser.open("/")

    def press(*keys: str) -> str:
        browser.driver.switch_to.active_element.send_keys(*keys)
        return str(browser.driver.switch_to.active_element.text)

    assert press(Keys.TAB) == "Skip to content"
    assert press(Keys.TAB) == "tuner"
    assert press(Keys.TAB) == "Sweeps"
    assert press(Keys.TAB) == "Best configs"
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    browser.until(lambda: "/best" in browser.driver.current_url)


def test_two_gpus_are_compared(browser: Browser, stage: Any) -> None:
    browser.open("/compare")
    for side, sweep_id in (("a", stage.sweep_id), ("b", stage.other_id)):
        browser.find(f"input[name={side}]").send_keys(str(sweep_id))
    browser.find("main button").click()
    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "article"))
    assert browser.find("input[name=b]").get_attribute("value") == str(stage.other_id)
    text = browser.find("main").text
    assert "NVIDIA H100" in text
    assert "NVIDIA B200" in text
    assert "2.00x" in text
    assert "tile: 1 / 2" in text


def test_a_failure_shows_its_message_and_leads_to_its_trial(browser: Browser, stage: Any) -> None:
    browser.open(f"/sweeps/{stage.failed_id}")
    assert "tile 3 does not divide 64" in browser.find("main").text
    browser.driver.find_element(By.LINK_TEXT, "trial 0").click()
    browser.until(lambda: browser.driver.current_url.endswith("/trials/0"))
    assert "COMPILE_ERROR" in browser.find("h1").text


def test_progress_appears_without_reloading(browser: Browser, stage: Any) -> None:
    sweep_id = stage.sweep(owner="here:1", max_trials=2)

    def until(condition: Callable[[], Any]) -> None:
        """Waits as a living sweep does: one that is silent for half a minute counts as lost."""
        browser.until(lambda: stage.store.sweeps.heartbeat(sweep_id) or condition())

    browser.open(f"/sweeps/{sweep_id}")
    browser.driver.execute_script("window.notReloaded = true")
    stage.store.trials.commit(stage.trial(sweep_id, 0))
    until(lambda: browser.find("#count").text == "1")
    until(lambda: len(browser.driver.find_elements(By.CSS_SELECTOR, "#trials tr")) == 1)
    until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "[data-figure=progress] svg.main-svg"))
    assert browser.driver.execute_script("return window.notReloaded")
    stage.store.sweeps.finish(sweep_id, "DONE", {})
    browser.until(lambda: browser.find("#state").text == "DONE")


def test_what_is_looked_up_is_found(browser: Browser, stage: Any) -> None:
    browser.open("/best?definition=gemm")
    browser.find("#lookup input[name=seq_len]").send_keys("12")
    Select(browser.find("#lookup select[name=hardware]")).select_by_visible_text("NVIDIA H100")
    browser.find("#lookup button").click()
    browser.until(lambda: "regime" in browser.find("#answer").text)
    assert "tile 1" in browser.find("#answer").text


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_from_the_form_to_its_best_config(
    browser: Browser, server: Any, command: Callable[..., Any], tmp_path: Path
) -> None:
    browser.screen(1200, 900, dark=False)
    browser.open("/")
    card = browser.find("#start-card")
    if card.get_attribute("open") is None:
        browser.find("#start-card summary").click()
    Select(browser.find("#start select[name=definition]")).select_by_value(MOE)
    Select(browser.find("#start select[name=target]")).select_by_visible_text("cpu")
    for name, value in (("max_trials", "12"), ("budget_s", "60")):
        field = browser.find(f"#start input[name={name}]")
        field.clear()
        field.send_keys(value)
    browser.keep("start")
    browser.find("#start button").click()

    browser.until(lambda: "/sweeps/" in browser.driver.current_url)
    assert browser.find("#state").text == "RUNNING"
    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "#trials tr"))
    browser.keep("running")
    browser.until(lambda: browser.find("#state").text == "DONE")

    browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "[data-figure=speedups] svg.main-svg"))
    assert browser.driver.find_elements(By.CSS_SELECTOR, ".cards .figure")
    sweep_id = browser.find("#sweep").get_attribute("data-id")
    for name, (width, height, dark) in {"": (1200, 900, False), "-phone-dark": (390, 844, True)}.items():
        browser.screen(width, height, dark=dark)
        browser.open(f"/sweeps/{sweep_id}")
        browser.until(lambda: browser.driver.find_elements(By.CSS_SELECTOR, "[data-figure=progress] svg.main-svg"))
        browser.keep(f"sweep{name}")
        browser.open(f"/sweeps/{sweep_id}/trials/0")
        browser.keep(f"trial{name}")
        browser.open("/")
        browser.keep(f"sweeps{name}")

    report = tmp_path / "report.html"
    made = command("report", str(sweep_id), "--db", server.db, "--out", str(report))
    assert made.returncode == 0, made.stderr
    browser.screen(1100, 900, dark=False)
    browser.driver.get(report.as_uri())
    browser.until(lambda: len(browser.driver.find_elements(By.CSS_SELECTOR, "svg.main-svg")) >= 3)
    assert MOE in browser.find("h1").text
    browser.keep("report")

    browser.screen(1200, 900, dark=False)
    browser.open(f"/sweeps/{sweep_id}")
    browser.driver.find_element(By.LINK_TEXT, MOE).click()
    browser.find("#lookup input[name=seq_len]").send_keys("57")
    browser.find("#lookup button").click()
    browser.until(lambda: "regime" in browser.find("#answer").text)
    assert "row_tile" in browser.find("#answer").text
    browser.keep("best")
    assert browser.complaints() == []
