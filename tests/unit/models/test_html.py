"""Reports as HTML: the numbers on the page are those of the data, and nothing that data say becomes markup."""

import re
from dataclasses import replace

import numpy as np
import pytest
from lxml import html as parser

from models.evaluation import html, svg
from models.evaluation.gates import Limits
from models.evaluation.importance import Importance, Spread
from models.evaluation.metrics import losses, measure
from models.evaluation.names import Names
from models.evaluation.review import Earlier, Inputs, Judged, Review, gather
from models.features.columns import AD_COLUMNS, REQUEST_COLUMNS
from models.features.encode import text_hash
from models.features.platform import PLATFORM
from models.training.rows import Rows

HOSTILE = "<script>alert('x')</script>&\"road\""
EXCHANGE, CAMPAIGN = REQUEST_COLUMNS.index("exchange"), AD_COLUMNS.index("campaign_id")
LIMITS = Limits(
    confidence=0.95, resamples=200, rows_min=1, clicks_min=1, log_loss_tolerance=0.0, pcoc_min=0.7, pcoc_max=1.4,
    slice_clicks_min=20, seed=1,
)  # fmt: skip
MANIFEST = {
    "data": {
        "impressions": 1234, "clicks": 56, "conversions": 7, "from_ms": 0, "to_ms": 86_400_000, "immature": 89,
        "foreign": 10, "files": 11, "skipped": [{"path": f"bids/{HOSTILE}", "reason": "not Parquet"}],
        "holes": ["date=1970-01-01/hour=05", *(f"date=1970-01-{day}" for day in ("01/hour=23", "02/hour=00"))],
    },
    "libraries": {"numpy": HOSTILE},
}  # fmt: skip


def rows(count: int, seed: int) -> tuple[Rows, np.ndarray]:
    rng = np.random.default_rng(seed)
    requests = np.zeros((count, len(REQUEST_COLUMNS)), dtype=np.int64)
    requests[:, EXCHANGE] = rng.choice([text_hash(HOSTILE), text_hash("calm")], count)
    ads = np.ones((count, len(AD_COLUMNS)), dtype=np.int64)
    ads[:, CAMPAIGN] = 1 + rng.choice(40, count, p=np.r_[0.3, 0.2, np.full(38, 0.5 / 38)])
    rates = rng.uniform(0.01, 0.1, count)
    return Rows(np.arange(count) * 60_000, requests, ads, rng.random(count) < rates, np.ones(count)), rates


@pytest.fixture(scope="module")
def review() -> Review:
    names = Names()
    names.learn([HOSTILE, "calm"])
    judged, rates = rows(6_000, 1)
    earlier, before = rows(3_000, 2)
    predicted = {"challenger": rates, f"champion {HOSTILE}": np.full(6_000, 0.05)}
    return gather(
        HOSTILE,
        MANIFEST,
        ("refused", [f"it is {HOSTILE}"]),
        Judged(judged, predicted, "Rows of a test."),
        Earlier(earlier, before),
        PLATFORM,
        names,
        LIMITS,
        Inputs(
            [Importance("domain", 0.0123, 0.001)],
            [Spread(HOSTILE, {"statistics": 0.5, "trees": 0.25}), Spread("os", {"regression": 0.1})],
        ),
        86_400_000,
    )


def table(page: parser.HtmlElement, heading: str) -> list[dict[str, str]]:
    """Return a section's first table, a dictionary a row."""
    (section,) = page.xpath(f"//section[h2[contains(., '{heading}')]]")
    found = section.xpath(".//table")[0]
    header = [cell.text_content() for cell in found.xpath(".//th")]
    return [
        dict(zip(header, (cell.text_content() for cell in row.xpath("./td")), strict=True))
        for row in found.xpath(".//tbody/tr")
    ]


def test_scores_are_the_metrics_of_the_rows(review: Review) -> None:
    page = parser.fromstring(html.render(review))
    judged, rates = rows(6_000, 1)
    expected = measure(rates, judged.labels)
    challenger, champion = table(page, "Challenger against")
    assert challenger["log loss"] == f"{expected.log_loss:.5f}"
    assert challenger["AUC"] == f"{expected.auc:.4f}"
    assert challenger["predicted / clicks"] == f"{expected.pcoc:.3f}"
    assert champion["norm. entropy"] == f"{measure(np.full(6_000, 0.05), judged.labels).normalised_entropy:.4f}"
    assert champion["AUC"] == champion["GAUC by campaign"] == "0.5000"
    gain = (losses(np.full(6_000, 0.05), judged.labels) - losses(rates, judged.labels)).mean()
    assert gain > 0.0
    assert f"{gain:+.6f} nats a row" in page.text_content()


def test_parts_add_up_to_all_rows_and_thin_ones_are_folded(review: Review) -> None:
    page = parser.fromstring(html.render(review))
    judged, rates = rows(6_000, 1)
    for heading in ("By exchange", "By campaign"):
        parts = table(page, heading)
        assert sum(int(part["rows"].replace(",", "")) for part in parts) == 6_000
        assert sum(int(part["clicks"].replace(",", "")) for part in parts) == judged.labels.sum()
    campaigns = table(page, "By campaign")
    assert campaigns[-1]["campaign"].endswith(" others")
    first = judged.ads[:, CAMPAIGN] == int(campaigns[0]["campaign"])
    assert campaigns[0]["predicted / clicks"] == f"{rates[first].sum() / judged.labels[first].sum():.3f}"
    assert {part["exchange"] for part in table(page, "By exchange")} == {HOSTILE, "calm"}


def test_pictures_show_the_bins(review: Review) -> None:
    """Every point says what it stands for; together they are all rows."""
    page = parser.fromstring(html.render(review))
    (section,) = page.xpath("//section[h2='Calibration']")
    titles = [title.text_content() for title in section.xpath(".//circle/title")]
    assert len(titles) == 10
    told = [re.fullmatch(r"predicted (\S+), came (\S+): (\d+) clicks of (\d+) rows", title) for title in titles]
    assert sum(int(match[4]) for match in told if match) == 6_000
    _, rates = rows(6_000, 1)
    assert told[0] is not None
    assert float(told[0][1]) == pytest.approx(np.sort(rates)[:600].mean(), abs=1e-6)
    points = section.xpath(".//circle")
    across = [float(point.get("cx")) for point in points]
    assert across == sorted(across)
    for point, match in zip(points, told, strict=True):
        assert match is not None
        over = float(match[2]) > float(match[1])  # above the diagonal, whose ends are those of the frame
        (frame,) = section.xpath(".//rect[@class='frame']")
        left, top, span = (float(frame.get(name)) for name in ("x", "y", "width"))
        diagonal = top + span - (float(point.get("cx")) - left)
        assert (float(point.get("cy")) < diagonal) == over or abs(float(point.get("cy")) - diagonal) < 0.2


@pytest.mark.parametrize("size", [190, 320])
def test_what_stands_below_an_axis_lies_within_the_picture(size: int) -> None:
    picture = parser.fromstring(svg.reliability((), svg.Axis(0.03, 1.0), size, "all", 0.95))
    labels = picture.xpath(".//text[@text-anchor='middle']")
    assert labels[-1].text == "100%"
    for label in labels:
        half = 3.0 * len(label.text)  # digits are some six units wide
        assert half <= float(label.get("x")) <= size - half


def test_drift_importance_and_data_are_told(review: Review) -> None:
    page = parser.fromstring(html.render(review))
    moved = {row["input"]: row for row in table(page, "Drift")}
    assert float(moved["campaign"]["PSI"]) == pytest.approx(
        next(each.psi for each in review.shift.inputs if each.name == "campaign_id"), abs=1e-4
    )
    assert "predicted click rate" in moved
    assert "country" not in moved  # it holds one value throughout
    assert table(page, "lives on") == [
        {"input": "domain", "rise of log loss": "+0.012300", "": "", "standard error": "0.001000"}
    ]
    text = page.text_content()
    assert "1,234 impressions with 56 clicks and 7 conversions" in text
    items = [item.text_content() for item in page.iterfind(".//li")]
    assert "nothing of date=1970-01-01/hour=05" in items
    assert "nothing of date=1970-01-01/hour=23 to date=1970-01-02/hour=00 (2 hours)" in items
    assert f"skipped bids/{HOSTILE}: not Parquet" in text
    assert f"it is {HOSTILE}" in text


def test_nothing_of_the_data_is_markup_and_nothing_is_fetched(review: Review) -> None:
    text = html.render(review)
    page = parser.fromstring(text)
    assert not page.xpath("//script | //img | //link | //iframe | //object")
    assert "<script" not in text
    assert not re.search(r"(?:src|href)=|url\(|@import|http", text)
    assert not [name for element in page.iter() for name in element.attrib if name.startswith("on")]
    labels = [element.get("aria-label") for element in page.xpath("//svg[@aria-label]")]
    assert f"reliability of {HOSTILE}" in labels  # whole: its quotes did not end the attribute


def test_rows_without_clicks_and_a_first_model_are_shown_too(review: Review) -> None:
    judged, rates = rows(300, 3)
    none = replace(judged, labels=np.zeros(300, np.bool_))
    found = gather(
        "", {}, ("", ()), Judged(none, {"model": rates, "constant": rates * 2}, ""),
        Earlier(none[slice(0, 0)], rates[:0]), PLATFORM, Names(), LIMITS, Inputs([], []), 0,
    )  # fmt: skip
    text = parser.fromstring(html.render(found)).text_content()
    assert "no earlier rows" in text
    assert "not published" in text
