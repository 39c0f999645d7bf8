"""What is remembered: made once, bounded in number and in size."""

from dsp.kernel.remember import Remembered


def test_a_value_is_made_once() -> None:
    asked: list[str] = []
    upper = Remembered(lambda text: (asked.append(text), text.upper())[1])
    assert [upper["a"], upper["b"], upper["a"]] == ["A", "B", "A"]
    assert asked == ["a", "b"]


def test_number_and_size_are_bounded() -> None:
    asked: list[str] = []
    upper = Remembered(lambda text: (asked.append(text), text.upper())[1], entries_max=3, chars_max=10)
    for text in ("a", "b", "c", "a", "d", "d", "a"):
        assert upper[text] == text.upper()
    assert asked == ["a", "b", "c", "d", "a"]
    asked.clear()
    for _ in range(2):
        assert upper["x" * 11] == "X" * 11
    assert len(asked) == 2
