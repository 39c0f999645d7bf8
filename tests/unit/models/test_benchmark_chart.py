"""The chart of text that benchmarks print."""

from models.benchmark.chart import chart


def test_each_bidder_has_its_mark_and_ours_is_on_top() -> None:
    first, second, scale, legend = chart(
        {"1/2": {"ours": 1.0, "none": 0.0, "lin": 0.5}, "1/16": {"ours": 0.5, "none": 0.25, "lin": 0.5}}
    ).splitlines()
    assert first == f" 1/2 a{'·' * 35}b{'·' * 35}●"
    assert second == f"1/16 {'·' * 18}a{'·' * 17}●{'·' * 36}"
    assert scale == f"     0{' ' * 71}1"
    assert legend == "a none  b lin  ● ours"


def test_what_rounding_takes_beyond_the_ends_is_drawn_at_them() -> None:
    line, *_ = chart({"x": {"lin": -0.01, "ours": 1.0000001}}).splitlines()
    assert line == f"x a{'·' * 71}●"
