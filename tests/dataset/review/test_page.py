"""The review page, used with keys and clicks in a real Chromium."""

import csv
import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect
from upath import UPath

from kontext_pipeline.dataset.quality.dataset_measuring import measure_batches
from kontext_pipeline.dataset.quality.thresholds import Thresholds
from kontext_pipeline.dataset.review.decisions import Decision, read_decisions, record_decisions
from kontext_pipeline.dataset.review.offline_page import SCRIPTS, joined_scripts, write_offline_page
from kontext_pipeline.dataset.review.page_app import page_file
from kontext_pipeline.dataset.review.page_server import serve_in_thread
from tests.dataset.exports.made_datasets import MadeDataset
from tests.dataset.review.conftest import XSS, flat
from tests.dataset.review.test_decisions import NOON

pytestmark = pytest.mark.long


def open_page(page: Page, url: str) -> None:
    page.goto(url)
    expect(page.locator("#facts .asked")).to_be_visible()


def at(page: Page, position: int) -> None:
    expect(page.locator("#position")).to_contain_text(re.compile(rf"^{position} /"))


def saved(page: Page) -> None:
    expect(page.locator("#saved")).to_have_text("saved")


def decided(dataset: MadeDataset) -> dict[str, tuple[str, str]]:
    found = read_decisions(dataset.data_dir)
    ids = {row["fingerprint"]: f"{row['id']}/{row['variant']}" for row in dataset.rows}
    return {ids[fingerprint]: (one.decision, one.reason) for fingerprint, one in found.items()}


def test_keys_keep_reject_with_a_reason_and_undo(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    at(page, 1)
    page.keyboard.press("k")
    at(page, 2)
    page.keyboard.press("r")
    page.keyboard.type("the hands, all wrong")
    page.keyboard.press("Enter")
    at(page, 3)
    saved(page)
    page.keyboard.press("n")
    page.keyboard.press("r")
    # The reasons that were given are offered first.
    page.keyboard.press("2")
    at(page, 5)
    saved(page)
    assert decided(dataset) == {
        "demo-00000-0/1": ("keep", ""),
        "demo-00000-1/1": ("reject", "the hands, all wrong"),
        "demo-00000-3/1": ("reject", "unchanged"),
    }
    assert {one.reviewer for one in read_decisions(dataset.data_dir).values()} == {"ann"}
    expect(page.locator("#coverage")).to_contain_text("37 %")

    page.keyboard.press("u")
    at(page, 4)
    page.keyboard.press("u")
    at(page, 2)
    saved(page)
    assert decided(dataset) == {"demo-00000-0/1": ("keep", "")}
    lines = list(csv.reader((Path(str(dataset.data_dir)) / "review.csv").open()))
    assert len(lines) == 6, "an undo is a line of its own"


def test_next_and_previous_and_a_dialog_that_is_left(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    for key, position in (
        ("n", 2),
        ("ArrowRight", 3),
        ("p", 2),
        ("ArrowUp", 1),
        ("p", 1),
        ("End", 9),
        ("n", 9),
        ("Home", 1),
    ):
        page.keyboard.press(key)
        at(page, position)
    page.keyboard.press("r")
    page.keyboard.press("Escape")
    expect(page.locator("#reason-dialog")).to_be_hidden()
    page.keyboard.press("n")
    at(page, 2)
    page.keyboard.press("?")
    expect(page.locator("#help-dialog")).to_contain_text("reject")
    page.keyboard.press("k")
    page.keyboard.press("Escape")
    assert decided(dataset) == {}


def test_a_failed_row_has_the_servers_words_and_no_decision(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    page.locator(".row").nth(2).click()
    expect(page.locator("#pictures")).to_contain_text("safety_tolerance must be <= 2")
    expect(page.locator("#facts")).to_contain_text("HTTP 400")
    expect(page.locator("#keep")).to_be_disabled()
    page.keyboard.press("k")
    at(page, 3)
    assert decided(dataset) == {}


def test_a_prompt_is_text_whatever_is_in_it(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    page.keyboard.press("n")
    expect(page.locator("#facts .asked")).to_have_text(XSS.replace("\u202e", "\\u202e"))
    page.wait_for_timeout(200)
    assert page.evaluate("window.hacked") is None
    assert page.locator("#facts img, .row .prompt img, #facts script").count() == 0


def test_one_variant_is_picked_and_the_others_are_rejected(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    page.locator(".row").nth(4).click()
    expect(page.locator(".variant")).to_have_count(3)
    page.keyboard.press("v")
    expect(page.locator("#pictures .choice")).to_have_count(3)
    page.keyboard.press("2")
    at(page, 8)
    saved(page)
    assert decided(dataset) == {
        "five/1": ("reject", "another variant was picked"),
        "five/2": ("keep", ""),
        "five/3": ("reject", "another variant was picked"),
    }
    page.keyboard.press("u")
    at(page, 5)
    saved(page)
    assert decided(dataset) == {}


def test_filters_show_the_rows_that_pass(page: Page, url: str, dataset: MadeDataset) -> None:
    record_decisions(dataset.data_dir, [Decision(dataset.rows[0]["fingerprint"], "keep", "", "ben", NOON)])
    open_page(page, url)
    cases = {
        ("batch", "demo-00001"): 2,
        ("status", "failed"): 1,
        ("decision", "keep"): 1,
        ("decision", "undecided"): 8,
        ("label", "label: animal (4)"): 4,
    }
    for (name, value), rows in cases.items():
        select = page.locator(f"#filters select[name={name}]")
        select.select_option(label=value) if name == "label" else select.select_option(value)
        expect(page.locator("#position")).to_have_text(f"1 / {rows}")
        page.get_by_role("button", name="Clear").click()
        expect(page.locator("#position")).to_have_text("1 / 9")
    page.keyboard.press("k")
    saved(page)
    page.keyboard.press("/")
    page.keyboard.type("RED boat")
    expect(page.locator("#position")).to_have_text("1 / 1")
    assert "text=RED+boat" in page.url
    page.reload()
    expect(page.locator("#position")).to_have_text("1 / 1")
    page.keyboard.press("k")
    saved(page)
    page.locator("#filters input").fill("nothing like this")
    expect(page.locator("#pictures")).to_contain_text("No row passes the filters.")
    page.locator("#list").focus()
    for key in "nkrd1u":
        page.keyboard.press(key)
    saved(page)
    assert decided(dataset) == {"demo-00000-0/1": ("keep", "")}


def test_measures_and_issues_are_shown_filtered_and_ordered(page: Page, dataset: MadeDataset) -> None:
    black = dataset.data_dir / dataset.rows[3]["image_path"]
    flat(Path(str(black)), (0, 0, 0))
    measure_batches(dataset.data_dir, ["demo-00000", "demo-00001"], Thresholds(), plug_ins=[])
    with serve_in_thread(dataset.data_dir) as url:
        open_page(page, url)
        page.locator("#filters select[name=issue]").select_option("black")
        expect(page.locator("#position")).to_have_text("1 / 1")
        expect(page.locator("#facts")).to_contain_text("black")
        expect(page.locator("#facts")).to_contain_text("brightness_p99")
        page.get_by_role("button", name="Clear").click()
        page.locator("#filters select[name=order]").select_option("brightness_p99")
        expect(page.locator("#facts .verdict.issue").first).to_have_text("black")


def test_rows_are_ordered_by_a_number(page: Page, url: str) -> None:
    open_page(page, url)
    page.locator("#filters select[name=order]").select_option("cost_usd")
    expect(page.locator("#facts")).to_contain_text("safety_tolerance must be")


def _black_and_white(tmp_path: Path) -> MadeDataset:
    """Return a dataset whose one picture is white at the left as its input is, and black at the right."""
    made = MadeDataset(UPath(tmp_path / "contrast"))
    (row,) = made.add([{}])
    flat(Path(str(made.data_dir)) / row["input_path"], (255, 255, 255))
    from PIL import Image

    picture = Image.new("RGB", (64, 64), "white")
    picture.paste((0, 0, 0), (32, 0, 64, 64))
    picture.save(Path(str(made.data_dir)) / row["image_path"])
    return made


def test_the_slider_moves_with_pointer_and_keys_and_the_difference_is_measured(page: Page, tmp_path: Path) -> None:
    with serve_in_thread(_black_and_white(tmp_path).data_dir) as url:
        open_page(page, url)
        page.keyboard.press("s")
        box = page.locator("#pictures").bounding_box()
        assert box is not None
        split = "getComputedStyle(document.querySelector('.pane.output')).clipPath"
        assert page.evaluate(split) == "inset(0px 0px 0px 50%)"
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + 12 + (box["width"] - 24) / 4, box["y"] + 100)
        page.mouse.up()
        assert page.evaluate(split) == "inset(0px 0px 0px 25%)"
        page.keyboard.press("]")
        assert page.evaluate(split) == "inset(0px 0px 0px 30%)"
        page.keyboard.press("d")
        expect(page.locator("canvas[data-share]")).to_be_visible()
        share = float(page.locator("canvas").get_attribute("data-share") or "nan")
        assert 0.47 < share < 0.53
        page.keyboard.press("b")
        expect(page.locator(".pane.input img")).to_be_visible()


def test_the_overview_has_plots_and_coverage_that_filters(page: Page, url: str) -> None:
    open_page(page, url)
    page.keyboard.press("k")
    saved(page)
    page.keyboard.press("o")
    dialog = page.locator("#overview-dialog")
    expect(dialog.locator("svg")).to_have_count(2)
    expect(dialog).to_contain_text("12 %")
    dialog.get_by_role("button", name="demo-00001").click()
    expect(page.locator("#position")).to_have_text("1 / 2")


def test_two_reviewers_lose_nothing_of_each_other(page: Page, browser: Browser, dataset: MadeDataset) -> None:
    with (
        serve_in_thread(dataset.data_dir, reviewer="ann") as one,
        serve_in_thread(dataset.data_dir, reviewer="ben") as two,
    ):
        other = browser.new_page()
        open_page(page, one)
        open_page(other, two)
        for _ in range(2):
            page.keyboard.press("k")
            other.keyboard.press("End")
            other.keyboard.press("r")
            other.keyboard.press("Enter")
            expect(other.locator("#reason-dialog")).to_be_hidden()
            expect(other.locator("#reject")).to_have_class(re.compile("on"))
        saved(page)
        saved(other)
        assert decided(dataset) == {
            "demo-00000-0/1": ("keep", ""),
            "demo-00000-1/1": ("keep", ""),
            "demo-00001-1/1": ("reject", ""),
        }
        other.keyboard.press("o")
        expect(other.locator("#overview-dialog")).to_contain_text("37 %")
        other.close()


def test_a_phone_has_no_sideways_scrolling(browser: Browser, url: str) -> None:
    phone = browser.new_context(
        viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True, device_scale_factor=2
    )
    page = phone.new_page()
    open_page(page, url)
    for press in ("", "End", "s", "v", "d"):
        if press:
            page.keyboard.press(press)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#open-list").tap()
    page.locator(".row").nth(4).tap()
    at(page, 5)
    page.locator(".compare").tap()
    page.locator("#pictures .choice").nth(1).tap()
    at(page, 8)
    page.locator("#undo").tap()
    at(page, 5)
    page.locator("[data-mode=side]").tap()
    page.locator("#keep").tap()
    at(page, 6)
    page.locator("#open-filters").tap()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.locator("#open-overview").tap()
    expect(page.locator("#overview-dialog")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    phone.close()


def test_decisions_that_could_not_be_saved_are_sent_again(page: Page, url: str, dataset: MadeDataset) -> None:
    open_page(page, url)
    page.route("**/api/decisions", lambda route: route.abort())
    page.keyboard.press("k")
    expect(page.locator("#saved")).to_contain_text("not saved (1)")
    page.unroute("**/api/decisions")
    saved(page)
    assert decided(dataset) == {"demo-00000-0/1": ("keep", "")}


def test_an_offline_file_needs_no_server_and_gives_a_review(page: Page, dataset: MadeDataset, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    made = write_offline_page(dataset.data_dir, out)
    assert (made.rows, made.of, made.bytes) == (9, 9, out.stat().st_size)
    page.context.set_offline(True)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    open_page(page, out.as_uri())
    page.keyboard.press("k")
    expect(page.locator("#facts .asked")).to_contain_text("<img src=x")
    assert page.evaluate("window.hacked") is None
    page.keyboard.press("r")
    page.keyboard.type('a "b", c')
    page.keyboard.press("Enter")
    expect(page.locator("#coverage")).to_contain_text("25 %")
    page.locator("#filters select[name=label]").select_option(label="label: boat (1)")
    expect(page.locator("#position")).to_have_text("1 / 1")
    page.keyboard.press("d")
    expect(page.locator("canvas[data-share]")).to_be_visible()
    page.on("dialog", lambda dialog: dialog.accept("Ben"))
    with page.expect_download() as download:
        page.locator("#download").click()
    (dataset.data_dir / "review").mkdir()
    download.value.save_as(Path(str(dataset.data_dir)) / "review" / "ben.csv")
    assert decided(dataset) == {"demo-00000-0/1": ("keep", ""), "demo-00000-1/1": ("reject", 'a "b", c')}
    assert {one.reviewer for one in read_decisions(dataset.data_dir).values()} == {"Ben"}
    assert all(one.startswith(("file:", "data:", "blob:")) for one in requests)


def test_an_offline_file_is_bounded_and_says_what_it_holds(dataset: MadeDataset, tmp_path: Path) -> None:
    made = write_offline_page(dataset.data_dir, tmp_path / "page.html", most_bytes=8_000)
    assert 0 < made.rows < made.of == 9
    assert f"{made.rows} of 9 rows" in (tmp_path / "page.html").read_text()
    assert write_offline_page(dataset.data_dir, tmp_path / "page.html", batch="demo-00001").of == 2


def test_the_modules_can_be_joined() -> None:
    names: list[str] = []
    for name in SCRIPTS:
        text = page_file(name)
        assert len(text.splitlines()) < 400
        names += re.findall(r"^(?:export )?(?:async )?(?:function|class|const|let) (\w+)", text, re.MULTILINE)
        for imported in re.findall(r'from "\./([a-z]+\.js)"', text):
            assert SCRIPTS.index(imported) < SCRIPTS.index(name)
    assert len(names) == len(set(names))
    assert not re.search(r"^(import|export) ", joined_scripts(), re.MULTILINE)
