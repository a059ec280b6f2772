# SPDX-License-Identifier: Apache-2.0
"""``megatron-packing report`` as its users type it, and its page in a browser."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from megatron_packing import STRATEGIES
from megatron_packing.cli import main
from megatron_packing.commands.report import JSON_KEYS
from tests.commands.test_cli import fails
from tests.conftest import chat_like_lengths, write_corpus
from tests.limits import TIME_LIMIT

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
SMALL = ["--global-batch-size", "16", "--gpus", "16", "--steps", "4", "--overlong", "split"]
VOID = {"meta", "br", "img", "link", "hr", "input"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of two sequence lengths with a pipeline, and its record."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("report")
    np.save(folder / "lengths.npy", chat_like_lengths(3000, longest=2048))
    page = folder / "report.html"
    words = ["report", "--lengths", str(folder / "lengths.npy"), *SMALL, "-o", str(page)]
    lengths = ["--sequence-length", "1024", "4096", "--pipeline-parallel", "2"]
    assert main([*words, *lengths]) == 0
    return page, json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))


class Elements(html.parser.HTMLParser):
    """Checks that elements are closed, and collects their texts and addresses."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_else_and_has_the_numbers_of_the_record(made):
    page, record = made
    text = page.read_text(encoding="utf-8")
    elements = Elements()
    elements.feed(text)
    assert not elements.open
    assert len(text) < 3_000_000
    assert "script" not in elements.seen
    assert "img" not in elements.seen
    assert all(address.startswith("#") for address in elements.addresses)
    assert "url(http" not in text
    assert "@import" not in text
    assert set(record) == set(JSON_KEYS)
    for one in record["sequence_lengths"]:
        assert f"Rows of {one['sequence_length']:,}" in elements.text
        for plan in one["comparison"]["plans"]:
            assert f"{plan['num_packs']:,}" in elements.text
            assert f"{plan['utilisation']:.2%}" in elements.text
        assert list(one["randomness"]) == list(STRATEGIES)
    for advice in record["advice"]:
        assert advice["text"] in elements.text
        assert advice["because"] in elements.text
    main_length = record["sequence_lengths"][0]
    ways = {way["way"]: way for way in main_length["simulation"]["ways"]}
    factor = ways["padding"]["epoch_seconds"] / ways["optimal, balanced"]["epoch_seconds"]
    assert f"{factor:.1f} times as fast" in elements.text


def test_rows_of_every_strategy_are_drawn_with_their_documents(made):
    page, _ = made
    text = page.read_text(encoding="utf-8")
    for name in STRATEGIES:
        drawing = re.search(rf"<title>rows of {name}</title>.*?</svg>", text, re.DOTALL)[0]
        assert drawing.count("pack ") == 6
        documents = re.findall(r"<title>document ([\d,]+): ([\d,]+) positions", drawing)
        assert documents
        lengths = np.load(page.with_name("lengths.npy"))
        for number, positions in documents:
            whole = int(lengths[int(number.replace(",", ""))])
            assert int(positions.replace(",", "")) <= whole
    assert "padding: " in re.search(r"<title>rows of padding</title>.*?</svg>", text, re.DOTALL)[0]
    assert text.count(" of micro-batch ") > 0


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
@pytest.mark.parametrize("width", [1280, 420])
def test_a_browser_shows_the_page_without_scrolling_sideways(made, tmp_path, width):
    page, _ = made
    probe = (
        "<script>onload = () => { document.title = JSON.stringify({"
        "wide: document.documentElement.scrollWidth, window: innerWidth, "
        "sections: [...document.querySelectorAll('h2')].length, "
        "flat: [...document.querySelectorAll('svg:not(.key)')].filter("
        "s => s.getAttribute('width') != '0' && s.getBoundingClientRect().height < 10).length}) }"
        "</script>"
    )
    probed = tmp_path / "probed.html"
    text = page.read_text(encoding="utf-8")
    probed.write_text(text.replace("</body>", f"{probe}</body>"), encoding="utf-8")
    # A window may not be narrower than 500, so a frame is.
    framed = tmp_path / "framed.html"
    framed.write_text(
        f"<body style='margin:0'><iframe src='probed.html' style='border:0;width:{width}px;"
        f"height:2000px'></iframe><script>addEventListener('load', () => {{ document.title = "
        f"document.querySelector('iframe').contentDocument.title }})</script></body>"
    )
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    shown = subprocess.run(
        [BROWSER, *options, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", str(framed)],
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=True,
    ).stdout
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", shown)[1]))
    assert found["window"] == width
    assert found["wide"] <= width
    assert found["sections"] == 8
    assert found["flat"] == 0


def test_the_same_input_gives_the_same_page(made, tmp_path):
    page, _ = made
    again = tmp_path / "again.html"
    words = ["--lengths", str(page.with_name("lengths.npy")), *SMALL, "-o", str(again)]
    lengths = ["--sequence-length", "1024", "4096", "--pipeline-parallel", "2"]
    assert main(["report", *words, *lengths]) == 0
    assert again.read_bytes() == page.read_bytes()


def test_a_name_is_shown_as_it_is(tmp_path):
    pytest.importorskip("matplotlib")
    corpus = write_corpus(tmp_path / "<b>chat & co", chat_like_lengths(200, longest=129))
    page = tmp_path / "report.html"
    words = ["report", str(corpus.prefix), "--sequence-length", "128", *SMALL, "-o", str(page)]
    assert main(words) == 0
    text = page.read_text(encoding="utf-8")
    assert "&lt;b&gt;chat &amp; co" in text
    assert "<b>chat" not in text


def test_bad_input_gets_one_sentence_and_no_page(tmp_path, capsys):
    lengths = tmp_path / "lengths.npy"
    np.save(lengths, np.array([100, 200]))
    page = tmp_path / "report.html"
    report = ["report", "--lengths", lengths, "-o", page, "--sequence-length"]
    assert "--sequence-length is 0" in fails(capsys, *report, 256, 0)
    words = ["report", "--lengths", lengths, "--sequence-length", 256, "-o", tmp_path / "page"]
    assert "give the name of a page, such as report.html" in fails(capsys, *words)
    pytest.importorskip("matplotlib")
    assert "longer than the sequence length 128" in fails(capsys, *report, 128, "--gpus", 16)
    assert not page.exists()


def test_an_install_without_matplotlib_says_which_extra_has_it(tmp_path):
    np.save(tmp_path / "lengths.npy", np.array([100, 200]))
    program = (
        "import sys; sys.modules['matplotlib'] = None; from megatron_packing.cli import main; "
        "sys.exit(main(['report', '--lengths', 'lengths.npy', '--sequence-length', '256', "
        "'-o', 'report.html']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT,
        check=False,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "report needs matplotlib, which is not installed" in line
    assert "pip install 'megatron-packing[report]'" in line
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("kept", ["chats.html", "chats.json"])
def test_a_file_that_is_no_report_is_not_replaced(kept, made, tmp_path, capsys):
    (tmp_path / kept).write_text("[]\n", encoding="utf-8")
    lengths = made[0].with_name("lengths.npy")
    words = ["report", "--lengths", f"{lengths}", *SMALL, "--sequence-length", "2048"]
    error = fails(capsys, *words, "-o", tmp_path / "chats.html")
    assert f"would replace {tmp_path / kept}, which holds something else" in error
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    shutil.copy(made[0], tmp_path / "old.html")
    shutil.copy(made[0].with_suffix(".json"), tmp_path / "old.json")
    assert main([*words, "-o", f"{tmp_path / 'old.html'}"]) == 0
    assert (tmp_path / "old.html").read_bytes() != made[0].read_bytes()
