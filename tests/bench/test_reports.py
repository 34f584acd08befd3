"""What the reports print follows from the run's figures, and a failed contender never shows a speed."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from mmx.benchmarks.reports.charts import Bar, bars
from mmx.benchmarks.reports.compare import compare_reports
from mmx.benchmarks.reports.html import as_html
from mmx.benchmarks.reports.tables import tables
from mmx.benchmarks.reports.text import HOW, as_markdown, as_text
from mmx.benchmarks.results import NO_TIME, PARITY_FAILED, UNAVAILABLE
from mmx.runtime.errors import BadDataError, UsageError


def cells(report, title, first):
    table = next(table for table in tables(report) if table.title.startswith(title))
    return dict(zip(table.header, next(row for row in table.rows if row[: len(first)] == first), strict=False))


def test_the_papers_table_has_its_figures_and_ours(make_report):
    report = make_report()
    ours = cells(report, "Table 1", ("Ours",))
    assert ours["paper: s"] == "66.35"
    assert ours["paper: vs V2EM"] == "1.06x"  # 70.45 / 66.35
    assert ours["here: upstream-style s"].startswith("~")
    assert "openvino bf16" in ours["here: mmx best s"]
    factor = float(ours["vs V2EM upstream-style"].split("x")[0])  # the last column of that name: the best
    assert factor == pytest.approx(0.40 / 0.01, rel=0.1)
    assert cells(report, "Table 1", ("LF-LSTM",))["here: mmx best s"] == "-"


def test_what_failed_shows_no_speed(make_report):
    report = make_report()
    row = cells(report, "Every contender", ("ours", "openvino", "fp32"))
    *figures, reason = list(row.values())[3:]
    assert set(figures) == {"-"}
    assert reason.startswith("parity failed: its logits")
    assert report.row("ours/openvino/fp32") is None
    assert report.best("ours", "fp32").key == "ours/onnxruntime/fp32"


def test_what_the_machine_lacks_is_said_once(make_report):
    report = make_report()
    table = next(table for table in tables(report) if table.title.startswith("Every contender"))
    assert ("v2em", "openvino", "bf16") not in [row[:3] for row in table.rows]
    assert "Not available: openvino bf16: this CPU has no bf16 <&>." in table.notes
    assert report.row("v2em/openvino/bf16") is None


def test_parameters_are_the_papers(make_report):
    row = cells(make_report(), "Table 5", ("audio",))
    assert row["paper: Ours"] == "49.89M"
    assert row["here: Ours"].startswith("49.89M")


def test_mosei_prints_the_other_tables(make_report):
    titles = [table.title for table in tables(make_report(dataset="mosei"))]
    assert titles[0].startswith("Table 2")


class Balanced(HTMLParser):
    """Fails on a tag that closes another than the last opened."""

    def __init__(self):
        super().__init__()
        self.stack, self.outside = [], []

    def handle_starttag(self, tag, attrs):
        self.outside += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "br"):
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag


def test_a_data_set_of_ones_own_has_no_figures_of_the_papers(make_report):
    report = make_report()
    report = replace(report, workload=replace(report.workload, dataset="clips.csv (own)"))
    assert "paper" not in " ".join(cells(report, "The systems", ("Ours",)))
    assert "clips.csv (own) test set" in as_text(report) and "Speed against the paper" not in as_html(report)


def test_the_page_is_whole_and_needs_nothing_else(make_report):
    page = as_html(make_report())
    parser = Balanced()
    parser.feed(page)
    assert not parser.stack
    assert not parser.outside
    assert set(re.findall(r"url\((.)", page)) <= {"#"}
    assert "no bf16 &lt;&amp;&gt;" in page
    assert all(f">{name}</text>" in page for name in ("Ours", "V2EM", "here, mmx"))
    charts = re.findall(r"<svg.*?</svg>", page, re.S)
    assert len(charts) == 5
    ids = [name for chart in charts for name in re.findall(r' id="([^"]+)"', chart)]
    assert len(ids) == len(set(ids)), "an id is in two charts"
    for chart in charts:
        ElementTree.fromstring(chart)
        assert not set(re.findall(r"(?:fill|stroke): (#\w+)", chart)) - {"#ffffff"}, "a colour that is not the page's"


def test_the_same_report_gives_the_same_page(make_report):
    report = make_report()
    assert as_html(report) == as_html(report)


def test_bars_are_as_long_as_their_values():
    figure = bars([Bar("a", (1.0, None), ("1x", "")), Bar("b", (2.0, 4.5), ("2x", "4.5x"))], ("paper", "here"), "times")
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [1.0, 2.0, 4.5]
    assert axes.get_xlim()[0] == 0 and axes.get_xlim()[1] > 4.5
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1], "the first is on top"


def test_a_report_begins_with_its_result_and_ends_with_what_it_holds_for(make_report):
    report = make_report()
    best = report.best("ours")
    for whole in (as_text(report), as_markdown(report), as_html(report)):
        said = re.sub(r"<[^>]+>", " ", whole.partition("<body>")[2] or whole)
        result, first_table, facts = (said.index(each) for each in ("Ours with mmx", "Table 1", HOW))
        assert result < said.index("synthetic") < first_table < facts < said.index(report.created)
        assert str(best.vs_baseline) in said[result:first_table]
    without = replace(report, rows=tuple(replace(row, vs_baseline=None) for row in report.rows))
    assert "none has a speed-up" in as_text(without).splitlines()[0]


def test_markdown_and_text_hold_every_table(make_report):
    report = make_report()
    markdown, text = as_markdown(report), as_text(report)
    for table in tables(report):
        assert f"## {table.title}" in markdown
        assert table.title in text
    widths = {line.count(" | ") for line in markdown.split("## Table 5")[1].split("\n\n")[1].splitlines()}
    assert len(widths) == 1


def test_compare_finds_what_became_slower_and_nothing_else(make_report, tmp_path):
    old = tmp_path / "old.json"
    old.write_text(make_report().to_json())
    same = compare_reports(old, make_report(), 5.0)
    assert same.slower == ()
    worse = compare_reports(old, make_report({"ours/onnxruntime/fp32": 1.3}), 5.0)
    assert worse.slower == ("ours/onnxruntime/fp32",)
    assert "SLOWER" in worse.text
    everything = compare_reports(old, make_report(dict.fromkeys(("v2em/eager/fp32", "ours/openvino/bf16"), 1.3)), 5.0)
    assert "ours/openvino/bf16" not in everything.slower  # a slower machine is not a slower contender


def test_compare_judges_what_mmx_answers_for(make_report, tmp_path):
    old = tmp_path / "old.json"
    old.write_text(make_report().to_json())
    peer = compare_reports(old, make_report({"ours/plain-onnx/fp32": 1.3}), 5.0)
    assert peer.slower == ()
    assert "ours/plain-onnx/fp32" in peer.text
    now = make_report()

    def became(status: str):
        rows = tuple(replace(row, status=status) if row.key == "ours/openvino/bf16" else row for row in now.rows)
        return compare_reports(old, replace(now, rows=rows), 5.0)

    for status in (NO_TIME, UNAVAILABLE):
        assert became(status).slower == ()
        assert status in became(status).text
    assert became(PARITY_FAILED).slower == ("ours/openvino/bf16",)
    elsewhere = replace(now, environment=replace(now.environment, cpu="Another CPU"))
    assert f"Another machine then ({now.environment.cpu})" in compare_reports(old, elsewhere, 5.0).text
    assert "Another machine" not in compare_reports(old, now, 5.0).text


def test_compare_rejects_what_it_cant_compare(make_report, tmp_path):
    file = tmp_path / "old.json"
    file.write_text("[]")
    with pytest.raises(BadDataError, match="not a bench report"):
        compare_reports(file, make_report(), 5.0)
    file.write_text(make_report(dataset="mosei").to_json())
    with pytest.raises(UsageError, match="mosei"):
        compare_reports(file, make_report(), 5.0)
    file.write_text(make_report().to_json())
    now = make_report()
    tiny, real = replace(now.workload, preset="tiny"), replace(now.workload, source="processed data set")
    for other in (replace(now, scope="pipeline"), replace(now, workload=tiny), replace(now, workload=real)):
        with pytest.raises(UsageError, match="this run"):
            compare_reports(file, other, 5.0)
    data = json.loads(make_report().to_json())
    data["rows"] = data["rows"][:1]
    data["rows"][0]["system"] = "other"
    file.write_text(json.dumps(data))
    with pytest.raises(UsageError, match="in common"):
        compare_reports(file, make_report(), 5.0)
