"""The page holds everything, escapes everything, and needs nothing from outside."""

import html.parser
import re

import numpy as np
import pytest

from worldloom.tasks.pictures import colour_depth, encode, encode_photo
from worldloom.tasks.report import Picture, ReportInputs, RunResult, render_report, write_report

NASTY = '<script>alert("x")</script> & "quotes" \' {{ 7 * 7 }} {% raw %}'
PIXEL = np.zeros((4, 6, 3), np.uint8)


def measure(mean, n=24):
    return {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": n}


def summary(policy="oracle", n=24):
    keys = ("success", "spl", "soft_spl", "collisions", "safe_success", "final_distance", "time",
            "sct", "ndtw", "clearance_min", "made_up_share")  # fmt: skip
    return {
        "policy": policy, "backend": "physx", "episodes": 24,
        "end_reasons": {"success": 20, "stuck": 4},
        "measures": {key: measure(0.5, n) for key in keys},
    }  # fmt: skip


def inputs(text="plain", n=24):
    picture = Picture(text, encode(PIXEL), text)
    result = RunResult(text, text, summary(text, n))
    return ReportInputs(
        title=text, subtitle=text, headline=[(text, text, text)], pictures=[picture] * 3,
        renders=[picture], maps=[picture, picture], runs=[result, result],
        tables=[(text, [(text, text)])], episodes=[{text: text, "end": text}], notices=[text],
        commands=[(text, text)],
    )  # fmt: skip


class Tags(html.parser.HTMLParser):
    """Collects tags and addresses."""

    void = frozenset(("meta", "img", "br", "link", "input", "hr"))

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.sources = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.sources += [v for k, v in attributes if k in ("src", "href")]
        assert not any(k.startswith("on") for k, _ in attributes)
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_every_string_is_escaped_and_no_template_is_run():
    page = render_report(inputs(NASTY))
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "49" not in re.sub(r"data:image[^\"]*|<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "script" not in parse(page).tags


def test_the_page_is_whole_and_needs_nothing_from_outside():
    page = render_report(inputs())
    tags = parse(page)
    assert len(tags.sources) == 6
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert "http" not in page
    assert "0.50 [0.40, 0.60]" in page
    assert "20 success, 4 stuck" in page


def test_a_run_without_scored_episodes_has_no_numbers():
    page = render_report(inputs(n=0))
    assert "nan" not in page
    assert "<td class=\"num\">none</td>" in page


def test_the_same_inputs_give_the_same_bytes(tmp_path):
    first, second = (write_report(tmp_path / name, inputs()).read_bytes() for name in "ab")
    assert first == second


def test_pictures_are_turned_upright_and_kept_small(tmp_path):
    from PIL import Image

    photo = Image.new("RGB", (1200, 300), (200, 30, 30))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photo.save(tmp_path / "p.jpg", exif=exif)
    (tmp_path / "q.jpg").write_bytes(encode_photo(tmp_path / "p.jpg", side=400))
    with Image.open(tmp_path / "q.jpg") as shown:
        assert shown.size == (100, 400)
    assert Picture("x", encode(PIXEL)).uri.startswith("data:image/jpeg;base64,")


@pytest.mark.parametrize("depth", [np.zeros((3, 3)), np.full((3, 3), 2.0), np.eye(3) * 5 + 0.1])
def test_depth_colours_stand_any_depth(depth):
    colours = colour_depth(depth)
    assert colours.shape == (3, 3, 3)
    assert np.isfinite(colours).all()
