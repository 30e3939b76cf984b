"""The report, opened in a real browser. Skipped where there is no Chromium."""

from __future__ import annotations

import csv
import itertools
import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import HOSTILE, METHODS, rich, sample

from evo_mpq.results.report import report_data, write_report
from evo_mpq.results.report.contributions import contributions

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install 'evo-mpq[test]'")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or CHROMEDRIVER is None,
    reason="Chromium is not installed: apt-get install --no-install-recommends chromium chromium-driver",
)

Inputs = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1440,1000",
)
PATIENCE = 90.0
"""Seconds until a page counts as broken; on a busy machine plotly alone takes several."""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    yield driver
    driver.quit()


class Report:
    """A report that a browser shows."""

    def __init__(self, browser: Any, path: Path, inputs: Inputs, fragment: str = "") -> None:
        self.browser = browser
        self.inputs = inputs
        self.data = report_data(*inputs)
        self.ids: list[str] = self.data["members"]["ids"]
        path.write_text(write_report(*inputs), encoding="utf-8")
        browser.get("about:blank")  # else a new fragment of the same file would not load it again
        browser.get(f"{path.as_uri()}{fragment}")
        self.wait("document.body.dataset.ready === 'yes'")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.browser.execute_script(f"return {script}")

    def wait(self, condition: str) -> None:
        """Until a JavaScript expression holds."""
        end = time.monotonic() + PATIENCE
        while not self.run(condition):
            assert time.monotonic() < end, f"{condition} never held; {self.problems()}"
            time.sleep(0.05)

    def problems(self) -> list[str]:
        """What the console says."""
        return [entry["message"] for entry in self.browser.get_log("browser")]

    @property
    def selected(self) -> str | None:
        return self.run("document.body.dataset.selected ?? null")

    def mouse(self, plot: str, x: float, y: float) -> None:
        """Click on a point of a plot, given in data coordinates as they are drawn."""
        place = self.run(
            f"(() => {{ const g = document.getElementById('{plot}'); g.scrollIntoView({{block: 'center'}});"
            " const b = g.getBoundingClientRect(), {xaxis, yaxis} = g._fullLayout;"
            f" return [b.left + xaxis._offset + xaxis.d2p({x!r}), b.top + yaxis._offset + yaxis.d2p({y!r})]; }})()"
        )
        self.click(*place)

    def click(self, x: float, y: float) -> None:
        """Move there and click like a hand: plotly selects what it hovers over."""
        at = {"x": x, "y": y, "button": "left", "clickCount": 1}
        for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
            self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, **at})
            time.sleep(0.15)

    def drawn(self, key: str, i: int) -> float:
        """Where a member stands on an axis."""
        axis = next(axis for axis in self.data["axes"] if axis["key"] == key)
        value = self.data["members"]["values"][key][i]
        return float(max(value, axis["floor"]) if axis["log"] else value) / float(axis["divisor"])

    def loneliest(self) -> int:
        """The member that stands farthest from all other members, and from the recipes that may lie upon it."""
        keys = ("search:size", "search:kl_divergence")
        members = [self.data["members"]["values"][key] for key in keys]
        recipes = [self.data["marks"]["points"]["values"][key][1:] for key in keys]
        places = np.log(np.concatenate([members, recipes], axis=1)).T
        gaps = np.hypot(*(places[:, None] - places[None]).T)  # (n, n)
        np.fill_diagonal(gaps, np.inf)
        return int(gaps.min(axis=1)[: len(self.ids)].argmax())

    def press(self, key: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        from selenium.webdriver.common.keys import Keys

        ActionChains(self.browser).send_keys(getattr(Keys, key)).perform()

    def across(self) -> list[str]:
        """Ids of the members from left to right."""
        values = self.data["members"]["values"][self.data["start"]["across"]]
        return [self.ids[i] for i in sorted(range(len(self.ids)), key=lambda i: (values[i], i))]


Open = Callable[..., Report]


class Desk:
    """Opens reports, and leaves one open for the tests that only read and select."""

    def __init__(self, browser: Any, folder: Path) -> None:
        self.browser = browser
        self.folder = folder
        self._open: tuple[dict[str, Any], Report] | None = None

    def open(self, inputs: Inputs | None = None, fragment: str = "", **settings: Any) -> Report:
        """A report that was just loaded."""
        inputs = inputs or sample(**{"n": 150, "refinements": 8, **settings})
        report = Report(self.browser, self.folder / "report.html", inputs, fragment)
        self._open = (settings, report) if not fragment else None
        return report

    def shared(self, **settings: Any) -> Report:
        """The report that is open, if it is of these settings, with its knee selected; loading takes a while."""
        if self._open is None or self._open[0] != settings:
            return self.open(**settings)
        report = self._open[1]
        report.run("void document.activeElement.blur()")
        report.run(f"void (location.hash = '{report.ids[report.data['knee']]}')")
        report.wait(f"document.body.dataset.selected === '{report.ids[report.data['knee']]}'")
        return report


@pytest.fixture(scope="module")
def desk(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(browser, tmp_path_factory.mktemp("reports"))


@pytest.fixture
def opened(desk: Desk) -> Open:
    return desk.open


@pytest.fixture
def shared(desk: Desk) -> Open:
    return desk.shared


@pytest.mark.parametrize(
    "settings",
    [
        {"objectives": ("accuracy", "size", "latency"), "bound": 150_000, "failures": 4},
        {"objectives": ("kl_divergence",), "finished": False},
        {"bound": 1, "activations": False},
        {"joint": True, "n": 250},
        {},
    ],
    ids=["three objectives", "one objective, unfinished", "empty front", "joint", "two objectives"],
)
@pytest.mark.parametrize("made", [sample, rich], ids=["plain", "contributions and forty recipes"])
def test_a_report_draws_without_a_word_on_the_console(opened, made, settings):
    report = opened(made(**{"n": 150, "refinements": 8, **settings}))
    assert report.problems() == []
    assert report.run("performance.getEntriesByType('resource').length") == 0
    assert report.run("document.querySelectorAll('#banners .banner').length") == (
        0 if settings.get("finished", True) else 1
    )
    assert report.run("document.querySelectorAll('#front .scatterlayer .trace').length") > 0
    assert report.run("document.getElementById('bits-card').hidden") == (not report.ids)
    assert report.run("document.getElementById('parallel-card').hidden") == (len(report.data["objectives"]) < 3)
    for card, told in (("predictions", report.data["predictions"]), ("spent", report.data["spent"])):
        assert report.run(f"document.getElementById('{card}-card').hidden") == (told is None)
    assert report.run("document.querySelectorAll('#members tbody tr').length") == len(report.ids)
    if report.ids:
        assert report.selected == report.ids[report.data["knee"]]
    else:
        assert "none meets the constraints" in report.run("document.getElementById('selection').textContent")


def test_a_click_on_the_front_selects_the_member_everywhere(shared):
    report = shared()
    i = report.loneliest()
    report.mouse("front", report.drawn("search:size", i), report.drawn("search:kl_divergence", i))
    report.wait(f"document.body.dataset.selected === '{report.ids[i]}'")
    assert report.run("location.hash") == f"#{report.ids[i]}"
    assert report.run("document.getElementById('selection-title').textContent") == report.ids[i]
    assert report.run("document.querySelector('#members tr[aria-current]').dataset.id") == report.ids[i]
    outline = report.run("document.getElementById('bits').layout.shapes[1]")
    assert outline["y0"] < i < outline["y1"] and outline["y1"] - outline["y0"] < 2
    assert report.ids[i] in report.run("document.getElementById('announcement').textContent")
    shown = report.run("[...document.querySelectorAll('.policy tbody tr')].map((r) => r.cells[2].textContent)")
    table = report.data["tables"][0]
    assert shown == [table["steps"][place]["label"] for place in table["rows"][i]]
    command = shlex.split(report.run("document.getElementById('command').textContent"))
    assert command == shlex.split(report.data["members"]["commands"][i])
    panel = report.run("document.querySelector('.compared').textContent")
    assert report.data["members"]["intervals"]["test:accuracy"][i] in panel
    assert report.problems() == []


def test_a_click_on_a_row_of_the_heatmap_selects_it(shared):
    report = shared()
    i = 1
    report.mouse("bits", 3, i)
    report.wait(f"document.body.dataset.selected === '{report.ids[i]}'")


def test_a_click_on_another_candidate_selects_the_member_that_dominates_it(shared):
    report = shared()
    cloud, axes = report.data["cloud"], {axis["key"]: axis for axis in report.data["axes"]}
    size, loss = cloud["values"]["search:size"], cloud["values"]["search:kl_divergence"]
    # the worst one stands far from all others
    worst = max(range(len(size)), key=lambda j: size[j] / max(size) + loss[j] / max(loss))
    report.mouse("front", size[worst] / axes["search:size"]["divisor"], loss[worst])
    report.wait(f"document.body.dataset.selected === '{report.ids[cloud['member'][worst]]}'")


def test_arrow_keys_walk_from_left_to_right_and_stop_at_the_ends(shared):
    report = shared()
    order = report.across()
    place = order.index(str(report.selected))
    for step in range(1, 4):
        report.press("ARROW_LEFT")
        assert report.selected == order[max(0, place - step)]
    for _ in range(len(order) + 2):
        report.press("ARROW_RIGHT")
    assert report.selected == order[-1]
    assert report.run("document.querySelectorAll('.walk button')[1].disabled")
    report.run("document.getElementById('members').focus()")
    report.press("ARROW_LEFT")  # there it scrolls
    assert report.selected == order[-1]


def test_the_table_sorts_by_numbers(shared):
    report = shared()
    column = next(
        i
        for i, axis in enumerate(a for a in report.data["axes"] if a["split"] != "order")
        if axis["key"] == "search:size"
    )
    header = f"document.querySelectorAll('#members thead button')[{column + 1}]"
    ids = "[...document.querySelectorAll('#members tbody tr')].map((row) => row.dataset.id)"
    sizes = dict(zip(report.ids, report.data["members"]["values"]["search:size"], strict=True))
    for descending in (False, True):
        report.run(f"{header}.click()")
        order = report.run(ids)
        assert [sizes[i] for i in order] == sorted(sizes.values(), reverse=descending)
        expected = "descending" if descending else "ascending"
        assert report.run(f"{header}.parentNode.getAttribute('aria-sort')") == expected


def test_the_csv_downloads_as_it_was_prepared(shared, tmp_path):
    report = shared()
    folder = tmp_path / "downloads"
    report.browser.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
    report.run("document.getElementById('csv').click()")
    path = folder / "digits_resnet-front.csv"
    end = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)
    with path.open(encoding="utf-8", newline="") as file:
        assert [row["id"] for row in csv.DictReader(file)] == report.ids


def test_the_copy_button_copies_the_command(shared):
    report = shared()
    permissions = {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    report.browser.execute_cdp_cmd("Browser.grantPermissions", permissions)
    report.run("document.getElementById('copy').click()")
    report.wait("document.getElementById('copy').textContent === 'Copied'")
    copied = report.browser.execute_async_script("navigator.clipboard.readText().then(arguments[0], arguments[0])")
    assert copied == report.data["members"]["commands"][report.data["knee"]]


def test_dark_mode_follows_the_system(shared):
    report = shared()
    ground = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("dark", "light"):
        features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        report.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
        report.wait(f"document.documentElement.dataset.theme === '{scheme}'")
        seen[scheme] = (report.run(ground), report.run("document.getElementById('front').layout.font.color"))
    assert seen["dark"] != seen["light"]
    assert report.problems() == []


def test_axes_have_ticks_zoomed_and_not(shared):
    report = shared()
    texts = "[...document.querySelectorAll('#front .ytick text')].map((t) => t.textContent)"
    written = report.run(texts)
    assert set(written) <= {text for _, text, _ in report.data["axes"][0]["ticks"]} and len(written) > 2
    report.run("void Plotly.relayout('front', {'yaxis.range[0]': -2.05, 'yaxis.range[1]': -2})")
    report.wait("document.getElementById('front').layout.yaxis.tickmode === 'auto'")
    report.wait(f"{texts}.length > 2")
    report.run("void Plotly.relayout('front', {'yaxis.autorange': true})")
    report.wait("document.getElementById('front').layout.yaxis.tickmode === 'array'")
    assert report.run(texts) == written


def test_permalinks_select_and_follow(opened):
    inputs = sample(n=150, refinements=8)
    ids = [member["id"] for member in inputs[0]["members"]]
    report = opened(inputs, f"#{ids[2]}")
    assert report.selected == ids[2]
    report.run(f"void (location.hash = '{ids[0]}')")
    report.wait(f"document.body.dataset.selected === '{ids[0]}'")
    report.run("void (location.hash = 'no%such-member')")
    assert report.selected == ids[0]
    assert report.problems() == []
    assert opened(inputs, "#%E0%A4%A").selected == inputs[2]["knee"]


def test_ranges_on_parallel_axes_keep_what_is_inside(shared):
    report = shared(objectives=("kl_divergence", "size", "bops"))
    report.run("document.getElementById('parallel-card').scrollIntoView({block: 'center'})")
    x, y, height = report.run(
        "((b) => [b.x + b.width / 2, b.y, b.height])"
        "(document.querySelectorAll('#parallel .grip')[1].getBoundingClientRect())"
    )
    drag = {"x": x, "button": "left", "clickCount": 1}
    for kind, down in (("mousePressed", y + 2), ("mouseMoved", y + 9), ("mouseReleased", y + height / 2)):
        report.browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": kind, "y": down, **drag})
    report.wait("document.querySelector('#parallel-pickers button') !== null")
    outside = "document.querySelectorAll('#parallel path.outside').length"
    heights = report.data["parallel"][1]["heights"]
    # the upper half of the axis, give or take a pixel
    assert sum(h < 0.49 for h in heights) <= report.run(outside) <= sum(h < 0.51 for h in heights)
    assert 0 < report.run(outside) < len(heights)
    assert report.run("document.querySelectorAll('#members tr.outside').length") == report.run(outside)
    report.run("document.querySelector('#parallel-pickers button').click()")
    assert report.run(outside) == 0
    assert report.problems() == []


def test_pickers_change_what_is_drawn(shared):
    report = shared(objectives=("kl_divergence", "size", "bops"))
    choose = (
        "((label, value) => {{ const select = [...document.querySelectorAll('#axis-pickers label')]"
        ".find((l) => l.textContent.startsWith(label)).querySelector('select');"
        " select.value = value; select.dispatchEvent(new Event('change')); }})({0!r}, {1!r})"
    )
    report.run(choose.format("up", "test:accuracy"))
    report.run(choose.format("across", "search:bops"))
    report.wait("document.getElementById('front').layout.yaxis.title.text === 'accuracy, test'")
    assert report.run("document.getElementById('front').layout.xaxis.title.text").startswith("bops (")
    drawn = report.run("document.getElementById('front').data[3].y")
    assert drawn == report.data["members"]["values"]["test:accuracy"]
    report.run(choose.format("color", ""))
    report.wait("typeof document.getElementById('front').data[3].marker.color === 'string'")
    assert report.run("document.getElementById('front').layout.xaxis.type") == "log"
    report.run("document.querySelector('#axis-pickers input').click()")
    report.wait("document.getElementById('front').layout.xaxis.type === 'linear'")
    report.run("[...document.querySelectorAll('#bits-pickers button')][1].click()")
    rows = report.data["tables"][1]["rows"]
    assert report.run("document.getElementById('bits').data[0].z") == [
        rows[i] for i in report.data["row_order"]["members"]
    ]
    assert report.problems() == []


JOINT: dict[str, Any] = {"joint": True, "n": 250, "objectives": ("kl_divergence", "size", "bops")}


def test_layers_of_blocks_that_are_left_out_are_marked_as_absent(shared):
    report = shared(**JOINT)
    points, layers = report.inputs[2]["points"], report.data["layers"]
    order = report.data["row_order"]["members"]
    for at, table in enumerate(report.data["tables"]):
        report.run(f"document.querySelectorAll('#bits-pickers button')[{at}].click()")
        report.wait(f"document.getElementById('bits').data[0].z[0].length === {len(table['columns'])}")
        drawn = report.run("document.getElementById('bits').data[0].z")
        hover = report.run("document.getElementById('bits').data[0].hovertext")
        scale = report.run("document.getElementById('bits').data[0].colorscale")
        absent, cheapest = scale[0][1], scale[2][1]
        assert absent == report.run("getComputedStyle(document.documentElement).getPropertyValue('--absent').trim()")
        assert absent != cheapest
        for row, texts, i in zip(drawn, hover, order, strict=True):
            for place, text, column in zip(row, texts, table["columns"], strict=True):
                layer = layers[column]
                left = layer["name"] in points[i]["parameters"]
                assert (place == -1) == (not left)
                assert ("left out" in text) == (not left)
                assert left or f"with {layer['block']}" in text
                if left and layer["name"] in points[i]["channels"]:
                    assert "Channels: <b>{}/{}, ".format(*points[i]["channels"][layer["name"]]) in text
        assert "left out" in report.run("document.getElementById('bits-legend').textContent")
    report.run("document.querySelectorAll('#bits-pickers button')[0].click()")
    assert report.problems() == []


def test_rows_follow_their_labels_and_select_the_member_they_show(shared):
    report = shared(**JOINT)
    order = report.data["row_order"]["members"]
    sizes = report.data["members"]["values"]["search:size"]
    assert order != sorted(order)
    assert [sizes[i] for i in order] == sorted(sizes, reverse=True)
    place = next(place for place, i in enumerate(order) if place != i and report.ids[i] != report.selected)
    report.mouse("bits", 3, place)
    report.wait(f"document.body.dataset.selected === '{report.ids[order[place]]}'")
    outline = report.run("document.getElementById('bits').layout.shapes[1]")
    assert outline["y0"] < place < outline["y1"]


def test_the_panel_tells_the_path_the_bytes_and_what_is_left(shared):
    report = shared(**JOINT)
    points = report.inputs[2]["points"]
    i = next(i for i, point in enumerate(points) if len(point["blocks"]) == 1)
    report.run(f"void (location.hash = '{report.ids[i]}')")
    report.wait(f"document.body.dataset.selected === '{report.ids[i]}'")
    assert report.run("document.querySelector('#selection .path').textContent") == report.data["members"]["paths"][i]
    assert points[i]["blocks"][0] in report.data["members"]["paths"][i]
    parts = report.data["members"]["sizes"][i]
    shown = report.run("[...document.querySelectorAll('#sizes li')].map((entry) => entry.textContent)")
    assert shown == [f"{part['label']} {part['text']}" for part in parts]
    bar = report.run("[...document.querySelectorAll('.sizes span')].map((s) => s.getBoundingClientRect().width)")
    whole = report.run("document.querySelector('.sizes').getBoundingClientRect().width")
    # a pixel of gap between parts
    assert bar == pytest.approx([part["share"] * whole for part in parts], abs=4)
    rows = "[...document.querySelectorAll('.policy tbody tr')]"
    gone = report.run(f"{rows}.map((row) => row.classList.contains('gone'))")
    assert gone == [layer["name"] not in points[i]["parameters"] for layer in report.data["layers"]]
    remaining = report.run(f"{rows}.map((row) => row.cells[1].textContent)")
    assert remaining == [text for text, _ in report.data["members"]["parameters"][i]]
    assert report.run("document.getElementById('searched').textContent") == report.data["searched"]
    product = [layer["kind"] for layer in report.data["layers"]].index("product")
    cells = report.run(f"[...{rows}[{product}].cells].map((cell) => cell.textContent)")
    assert [bool(text) for text in cells] == [True, True, False, True, False]  # only activation bits
    assert report.problems() == []


def test_contributions_follow_the_selected_member(desk):
    report = desk.open(rich(n=150, refinements=8))
    front, data = report.inputs[0], report.data["contributions"]
    assert not report.run("document.getElementById('matters-card').hidden")
    plot = "document.getElementById('matters')"
    pale = report.run("getComputedStyle(document.documentElement).getPropertyValue('--pale').trim()")
    for i in (0, len(report.ids) - 1):
        report.run(f"void (location.hash = '{report.ids[i]}')")
        report.wait(f"document.body.dataset.selected === '{report.ids[i]}'")
        assert data["sentences"][i] in report.run("document.getElementById('matters-sentence').textContent")
        colors = iter(report.run(f"{plot}.data[0].marker.color"))
        places = dict(zip((gene["name"] for gene in front["genes"]), front["members"][i]["genome"], strict=True))
        for bar in data["bars"]:
            shades = {segment["option"]: next(colors) for segment in bar["segments"]}
            assert {option for option, shade in shades.items() if shade != pale} == {
                option for option in shades if option >= places[bar["name"]]
            }
            assert len({shade for shade in shades.values() if shade != pale}) <= 1
    lengths = report.run(f"{plot}.data[0].x")
    assert lengths == pytest.approx([s["end"] - s["start"] for bar in data["bars"] for s in bar["segments"]])
    ends = [s["end"] for bar in data["bars"] for s in bar["segments"] if s["option"] >= places[bar["name"]]]
    report.run("document.getElementById('matters-taken').click()")
    report.wait(f"{plot}.layout.xaxis.range[1] > {max(ends)!r} && {plot}.layout.xaxis.range[1] < {1.5 * max(ends)!r}")
    assert report.run("document.activeElement.id") == "matters-taken"
    report.run("document.getElementById('matters-whole').click()")
    report.wait(f"{plot}.layout.xaxis.range[1] > {max(bar['total'] for bar in data['bars'])!r}")
    report.run("void (document.getElementById('matters-details').open = true)")
    report.wait("document.querySelectorAll('#matters-table tbody tr').length > 0")
    bold = report.run("document.querySelectorAll('#matters-table .taken').length")
    assert bold == sum(segment["option"] >= places[bar["name"]] for bar in data["bars"] for segment in bar["segments"])
    assert report.problems() == []


def test_many_genes_are_folded_until_all_are_asked_for(desk):
    report = desk.open(rich(n=150, refinements=6, joint=True, n_layers=20))
    rows = "document.getElementById('matters').data[1].y.length"
    assert report.run(rows) == 30 < len(report.data["contributions"]["bars"])
    report.run("document.getElementById('matters-all').click()")
    report.wait(f"{rows} === {len(report.data['contributions']['bars'])}")
    assert report.run("document.activeElement.id") == "matters-all"
    report.run("document.getElementById('matters-all').click()")
    report.wait(f"{rows} === 30")
    assert report.problems() == []


def test_forty_recipes_are_drawn_and_listed_by_method(desk):
    report = desk.open(rich(n=150, refinements=8))
    legend = report.run(
        "[...document.querySelectorAll('#front-legend button')].map((b) => [b.textContent, b.ariaPressed])"
    )
    assert legend == [[name, "true"] for name in ("uniform", *METHODS)]
    traces = "document.getElementById('front').data.filter((t) => String(t.marker?.symbol).endsWith('-open'))"
    drawn = report.run(f"{traces}.map((t) => [t.marker.symbol, t.mode, t.x.length])")
    assert len({symbol for symbol, _, _ in drawn}) == len(drawn) == 1 + len(METHODS)
    assert [mode for _, mode, _ in drawn] == ["markers+text", *["markers"] * len(METHODS)]
    assert sum(n for _, _, n in drawn) == len(report.inputs[0]["seeds"]) == 40
    assert report.run(f"{traces}[1].hovertext[0]").startswith(f"<b>{METHODS[0]} 1</b>")
    report.run("document.querySelectorAll('#front-legend button')[1].click()")
    report.wait(f"{traces}.length === {len(METHODS)}")
    assert report.run("document.querySelectorAll('#front-legend button')[1].ariaPressed") == "false"
    shown = "[...document.querySelectorAll('#seeds .of-group')].filter((row) => !row.hidden).length"
    assert report.run(shown) == 0
    report.run("document.querySelectorAll('#seeds .group button')[2].click()")
    assert report.run(shown) == len(report.data["methods"][2]["marks"])
    assert report.run("document.querySelectorAll('#seeds .group button')[2].ariaExpanded") == "true"
    told = report.run("document.querySelectorAll('#seeds .group')[2].textContent")
    assert all(text in told for _, _, text in report.data["methods"][2]["counts"])
    assert "fisher: Gradient scores." in report.run("document.getElementById('unmeasured').textContent")
    assert "clado size<=40kB" in report.run("document.getElementById('allocations').textContent")
    assert report.problems() == []


def test_names_of_blocks_from_users_never_run(opened):
    front, candidates, meta = json.loads(
        json.dumps(sample(joint=True, n=250, refinements=8)).replace("stage2.2", "BLOCK")
    )
    text = json.dumps([front, candidates, meta]).replace("BLOCK", json.dumps(HOSTILE)[1:-1])
    front, candidates, meta = json.loads(text)
    i = next(i for i, point in enumerate(meta["points"]) if HOSTILE in point["blocks"])
    report = opened((front, candidates, meta), f"#{front['members'][i]['id']}")
    assert HOSTILE in report.run("document.querySelector('#selection .path').textContent")
    row = report.data["row_order"]["members"].index(i)
    column = next(c for c, layer in enumerate(report.data["layers"]) if layer["block"] == HOSTILE)
    report.mouse("bits", column, row)
    report.wait("document.querySelector('#bits .hoverlayer').textContent.includes('left out')")
    assert HOSTILE in report.run("document.querySelector('#bits .hoverlayer').textContent")
    assert report.run("window.HACKED ?? null") is None
    assert report.run("document.querySelectorAll('img, iframe, object').length") == 0
    assert report.problems() == []


def test_names_from_users_never_run(opened):
    front, candidates, meta = rich(n=100, refinements=4, objectives=("kl_divergence", "size", "bops"), failures=3)
    names = {
        "sensitivity": HOSTILE,
        "clado": HOSTILE,
        "fisher": HOSTILE,
        "kl_divergence": f"{HOSTILE}<b>$x$</b>",
        "size": HOSTILE,
        "W3A8": f"<a href='javascript:1'>{HOSTILE}</a>",
    }

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {renamed(key): renamed(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [renamed(inner) for inner in value]
        if isinstance(value, str):
            for name, hostile in names.items():
                value = value.replace(name, hostile)
            return value.replace("stage1.0", HOSTILE)
        return value

    front, candidates, meta = renamed(json.loads(json.dumps([front, candidates, meta])))
    assert contributions(front, meta["contributions"], [[] for _ in front["members"]]) is not None
    meta |= {
        "run": HOSTILE,
        "network": HOSTILE,
        "settings": HOSTILE,
        "notes": [HOSTILE],
        "directory": f"runs/{HOSTILE}",
    }
    candidates["failures"][0][1] = HOSTILE
    report = opened((front, candidates, meta))
    for i in range(3):  # hover texts and panels too
        report.mouse(
            "front", report.drawn(report.data["start"]["across"], i), report.drawn(report.data["start"]["up"], i)
        )
    assert report.run("window.HACKED ?? null") is None
    assert report.run("document.querySelectorAll('img, iframe, object').length") == 0
    assert (
        report.run(
            "[...document.querySelectorAll('a')].filter((a) => a.href.baseVal ?? a.href.startsWith('java')).length"
        )
        == 0
    )
    assert report.run("document.getElementById('run').textContent") == HOSTILE
    assert report.run("document.querySelector('#about pre').textContent") == HOSTILE
    title = report.run("document.querySelector('#front .ytitle').textContent")
    assert title.startswith("</script><script>window.HACKED")
    assert report.problems() == []


def test_a_narrow_window_needs_no_sideways_scrolling(opened):
    size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": False}
    try:
        report = opened(rich(n=150, refinements=8, n_layers=20, objectives=("kl_divergence", "size", "bops")))
        report.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        report.wait("innerWidth === 390")
        report.wait("document.documentElement.scrollWidth === document.documentElement.clientWidth")
        report.wait("document.querySelector('#front .main-svg').clientWidth < 390")
    finally:
        report.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_deep_network_and_a_long_front_stay_usable(opened):
    report = opened(n_layers=80, n=1500, objectives=("kl_divergence", "size", "bops"), refinements=40)
    assert len(report.ids) > 120
    assert report.run("document.getElementById('bits').clientHeight") < 800
    labels = report.run(
        "[...document.querySelectorAll('#bits .xtick text')].map((t) => t.getBoundingClientRect().left)"
    )
    gaps = [right - left for left, right in itertools.pairwise(labels)]
    assert min(gaps) > 8  # names of layers do not lie upon each other
    order = report.across()
    report.press("ARROW_LEFT")
    assert report.selected == order[order.index(report.ids[report.data["knee"]]) - 1]
    assert report.problems() == []


def test_predictions_are_drawn_by_objective_and_a_click_selects_the_member(opened):
    report = opened(rich(n=300, refinements=8, objectives=("kl_divergence", "error_rate", "size")))
    told = report.data["predictions"]
    loss = told["objectives"][0]
    plot = "document.getElementById('predicted')"
    assert report.run(f"{plot}.data[1].y") == loss["measured"]
    assert report.run(f"{plot}.layout.xaxis.type") == "log"
    symbols = {"surrogate": "circle", "nsga2": "diamond"}
    assert report.run(f"{plot}.data[1].marker.symbol") == [
        symbols[told["batches"][at]["proposer"]] for at in loss["batch"]
    ]
    assert len(set(report.run(f"{plot}.data[1].marker.color"))) == len(told["batches"])
    assert report.run("document.getElementById('taus').layout.shapes[0].y0") == told["least"]
    assert report.run("document.getElementById('predictions-note').textContent").endswith(told["chosen"])
    known = [i for i, place in enumerate(loss["member"]) if place not in (None, report.data["knee"])]
    places = np.log(np.array([loss["predicted"], loss["measured"]])).T
    gaps = np.hypot(*(places[:, None] - places[None]).T)
    np.fill_diagonal(gaps, np.inf)
    i = max(known, key=lambda i: gaps[i].min())
    report.mouse("predicted", loss["predicted"][i], loss["measured"][i])
    report.wait(f"document.body.dataset.selected === '{report.ids[loss['member'][i]]}'")
    ring = report.run(f"{plot}.layout.shapes[0]")
    assert (ring["xanchor"], ring["yanchor"]) == (loss["predicted"][i], loss["measured"][i])
    report.run("document.getElementById('predictions-details').open = true")
    report.wait(f"document.querySelectorAll('#predictions-table tbody tr').length === {len(told['batches'])}")
    report.run(
        "((select) => { select.value = '1'; select.dispatchEvent(new Event('change')); })"
        "(document.querySelector('#predictions-pickers select'))"
    )
    report.wait(f"{plot}.layout.xaxis.title.text === 'predicted error_rate'")
    assert report.run(f"{plot}.data[1].y") == told["objectives"][1]["measured"]
    assert report.run("document.getElementById('taus').layout.shapes.length") == 0  # it is judged by the first one
    assert report.run("document.activeElement.tagName") == "SELECT"
    assert report.problems() == []


def test_levels_and_the_bar_have_the_colors_of_their_purposes(opened):
    report = opened(rich(n=150, refinements=8))
    drawn = report.data["hypervolume"]["levels"]["drawn"]
    shapes = report.run("document.getElementById('hypervolume').layout.shapes")
    names = report.run("document.getElementById('hypervolume').layout.annotations")
    assert [shape["y0"] for shape in shapes] == [level["up"] for level in drawn]
    assert [name["text"] for name in names] == [level["label"] for level in drawn]
    parts = report.data["spent"]["parts"]
    widths = report.run("[...document.querySelectorAll('#spent span')].map((s) => s.getBoundingClientRect().width)")
    assert [width / sum(widths) for width in widths] == pytest.approx([part["share"] for part in parts], abs=0.01)
    texts = report.run("[...document.querySelectorAll('#spent-legend li')].map((li) => li.textContent)")
    assert texts == [f"{part['label']} {part['text']}" for part in parts]
    legend = report.run("getComputedStyle(document.querySelectorAll('#spent-legend .swatch')[2]).backgroundColor")
    assert legend == report.run("getComputedStyle(document.querySelectorAll('#spent span')[2]).backgroundColor")
    assert parts[2]["key"] == "sensitivity" and legend == report.run(
        "(() => { const span = document.createElement('span'); span.style.color = shown; document.body.append(span);"
        " return getComputedStyle(span).color; })()".replace(
            "shown", "document.getElementById('hypervolume').layout.shapes[0].line.color"
        )
    )
