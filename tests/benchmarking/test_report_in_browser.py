"""The report as a person sees it: opened from a file in a headless Chromium."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from contracts.benchmark_results import recording, result
from edgessl.benchmarking.recording import Recording
from edgessl.benchmarking.report import render_page, write_report

if TYPE_CHECKING:
    from selenium.webdriver.remote.webelement import WebElement
    from selenium.webdriver.support.wait import WebDriverWait

pytest.importorskip("plotly")
pytest.importorskip("jinja2")
webdriver = pytest.importorskip("selenium.webdriver")

MILLISECONDS = (1.1, 0.9, 1.0)
HOSTILE = "</script><img src=x onerror=document.title='owned'><a href='file:///'>here</a>"
PATIENCE_S = 20
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--window-size=1100,900",
)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip("chromium and chromedriver (Debian's packages) are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def browser(chromium: Any) -> Any:
    """An empty page, light, with empty logs."""
    scheme(chromium, "light")
    chromium.get("about:blank")
    chromium.get_log("performance")
    chromium.get_log("browser")
    return chromium


@pytest.fixture
def report(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(result(MILLISECONDS), recording(MILLISECONDS), path)
    return path


def scheme(chromium: Any, name: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": name}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def wait(browser: Any) -> WebDriverWait[Any]:
    from selenium.webdriver.support.wait import WebDriverWait

    return WebDriverWait(browser, PATIENCE_S)


def show(browser: Any, path: Path) -> None:
    """Open a page and wait until its figures are drawn."""
    browser.get(path.as_uri())
    last = "return document.querySelectorAll('.plot').length"
    drawn = "return document.querySelectorAll('.plot .main-svg .xtick').length > 0"
    wait(browser).until(lambda b: b.execute_script(last) > 0 and b.execute_script(drawn))


def find(browser: Any, selector: str) -> WebElement:
    found: WebElement = browser.find_element("css selector", selector)
    return found


def hover(browser: Any, selector: str) -> str:
    """Put the mouse onto the middle of a mark and read what appears."""
    from selenium.webdriver.common.action_chains import ActionChains

    mark = find(browser, selector)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", mark)
    ActionChains(browser).move_to_element(mark).perform()
    labels = "return [...document.querySelectorAll('.hovertext')].map(e => e.textContent).join()"
    text: str = wait(browser).until(lambda b: b.execute_script(labels))
    return text


def shown_arms(browser: Any, chart: str) -> set[int]:
    """Numbers of the arms whose traces are in a figure's drawing."""
    script = """
        const plot = document.getElementById(arguments[0]);
        return plot.data.filter((t) => t.visible === true && t.meta).map((t) => t.meta.arm);
    """
    return set(browser.execute_script(script, f"chart-{chart}"))


def drawn_traces(browser: Any, chart: str) -> int:
    script = "return document.querySelectorAll(arguments[0]).length"
    return int(browser.execute_script(script, f"#chart-{chart} .scatterlayer .trace"))


def requests_of(browser: Any) -> list[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return [p["request"]["url"] for p in sent]


def test_a_person_reads_the_verdict(browser: Any, report: Path) -> None:
    show(browser, report)
    assert find(browser, "#verdict").text == "FAIL"
    assert browser.title.startswith("FAIL")
    heading = find(browser, "section.verdict")
    assert "median latency +10." in heading.text
    assert heading.location["y"] + heading.size["height"] < 900
    colors = [
        browser.execute_script(
            "return getComputedStyle(document.querySelector(arguments[0])).color", selector
        )
        for selector in ("#verdict", "h1")
    ]
    assert colors[0] != colors[1]


def test_a_point_tells_its_figures(browser: Any, report: Path) -> None:
    shown = result(MILLISECONDS)
    show(browser, report)
    text = hover(browser, "#chart-fidelity .scatterlayer .trace:nth-child(2) .point")
    assert "head.edge" in text
    assert f"{shown.arms[0].latency_p50_ms:.4g} ms" in text
    assert f"cosine {shown.arms[0].fidelity:.5f}" in text


def test_one_click_hides_an_arm_everywhere(browser: Any, report: Path) -> None:
    show(browser, report)
    charts = ("ratios", "distribution", "drift", "fidelity", "cold-start", "memory", "size")
    before = {chart: shown_arms(browser, chart) for chart in charts}
    assert before["distribution"] == {0, 1, 2}
    lines = drawn_traces(browser, "distribution")
    button = find(browser, "button[data-arm='1']")
    assert button.text == "head-2.edge"
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    wait(browser).until(lambda b: drawn_traces(b, "distribution") == lines - 1)
    for chart in charts:
        assert shown_arms(browser, chart) == before[chart] - {1}
    assert not find(browser, "#figure-operators-1").is_displayed()
    button.click()
    wait(browser).until(lambda b: drawn_traces(b, "distribution") == lines)
    assert button.get_attribute("aria-pressed") == "true"
    assert find(browser, "#figure-operators-1").is_displayed()
    assert {chart: shown_arms(browser, chart) for chart in charts} == before


def test_no_request_leaves_the_page_and_nothing_complains(browser: Any, report: Path) -> None:
    show(browser, report)
    hover(browser, "#chart-drift .scatterlayer .trace:nth-child(1) .point")
    find(browser, "button[data-arm='0']").click()
    left = [url for url in requests_of(browser) if not url.startswith("data:")]
    assert left == [report.as_uri()]
    assert browser.get_log("browser") == []
    buttons = browser.find_elements("css selector", "#chart-drift .modebar-btn")
    names = {button.get_attribute("data-attr") for button in buttons}
    assert len(buttons) == 4
    assert names == {None, "dragmode", "zoom"}


class Counting(BaseHTTPRequestHandler):
    """Counts who asks."""

    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_error(404)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@pytest.mark.parametrize("policy", [True, False])
def test_the_policy_is_what_keeps_requests_in(browser: Any, tmp_path: Path, policy: bool) -> None:
    """Markup that a mistake let through could not fetch or run; without the policy it could."""
    Counting.asked = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        place = f"http://127.0.0.1:{server.server_port}"
        extra = f"<img src='{place}/image'><script>document.title='ran'</script>"
        text = render_page(result(), recording()).replace("</main>", f"{extra}</main>")
        if not policy:
            text = text.replace("Content-Security-Policy", "X-Nothing")
        path = tmp_path / "report.html"
        path.write_text(text, encoding="utf-8")
        show(browser, path)
        wait(browser).until(
            lambda b: b.execute_script("return [...document.images].every((i) => i.complete)")
        )
        assert (Counting.asked, browser.title == "ran") == (
            ([], False) if policy else (["/image"], True)
        )
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_hostile_name_is_shown_as_it_is(browser: Any, tmp_path: Path) -> None:
    shown, recorded = result(), recording()
    arm = shown.arms[0].model_copy(update={"name": HOSTILE})
    comparison = shown.comparisons[0].model_copy(update={"arm": HOSTILE})
    shown = shown.model_copy(update={"arms": (arm, shown.arms[1]), "comparisons": (comparison,)})
    arms = {HOSTILE: recorded.arms["head.edge"], "base.edge": recorded.arms["base.edge"]}
    write_report(shown, Recording(arms), tmp_path / "report.html")
    show(browser, tmp_path / "report.html")
    assert HOSTILE in find(browser, "button[data-arm='0']").text
    text = hover(browser, "#chart-fidelity .scatterlayer .trace:nth-child(2) .point")
    assert HOSTILE in text
    assert browser.execute_script("return document.querySelectorAll('img, a[href]').length") == 0
    assert browser.title.startswith("FAIL")


@pytest.mark.parametrize(("width", "theme"), [(1000, "light"), (420, "dark")])
def test_it_fits_and_has_both_themes(browser: Any, report: Path, width: int, theme: str) -> None:
    scheme(browser, theme)
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        show(browser, report)
        sizes = (
            "const r = document.documentElement; return [r.scrollWidth, r.clientWidth, innerWidth]"
        )
        wide, inside, inner = browser.execute_script(sizes)
        assert wide == inside <= inner == width
        # Brightness of the page and of the texts in a figure, which the script colours.
        page, text = (
            sum(channels(browser, *where))
            for where in (("body", "backgroundColor"), ("#chart-drift .xtick text", "fill"))
        )
        assert (page > 600, text < 200) == ((theme == "light"),) * 2
        assert picture(browser, report.with_suffix(".png"))[0] == wide
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_changes_with_the_theme_and_keeps_what_is_hidden(browser: Any, report: Path) -> None:
    show(browser, report)
    find(browser, "button[data-arm='2']").click()
    light = channels(browser, "#chart-drift .xtick text", "fill")
    scheme(browser, "dark")
    wait(browser).until(lambda b: channels(b, "#chart-drift .xtick text", "fill") != light)
    assert shown_arms(browser, "distribution") == {0, 1}


def test_it_prints_dark_on_light(browser: Any, report: Path) -> None:
    scheme(browser, "dark")
    show(browser, report)
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    wait(browser).until(lambda b: sum(channels(b, "#chart-drift .xtick text", "fill")) < 200)
    printed = browser.execute_cdp_cmd("Page.printToPDF", {})
    assert base64.b64decode(printed["data"]).startswith(b"%PDF")


def channels(browser: Any, selector: str, what: str) -> list[int]:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    color = browser.execute_script(script, selector, what)
    return [int(part) for part in color[color.index("(") + 1 : -1].split(",")[:3]]


def picture(browser: Any, path: Path) -> tuple[int, int]:
    """Save the whole page as PNG; its width and height."""
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    path.write_bytes(base64.b64decode(shot["data"]))
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    return width, height
