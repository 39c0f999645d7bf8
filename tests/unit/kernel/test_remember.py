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
    all_of_them = Remembered(lambda text: (asked.append(text), text.upper())[1], kept_chars_max=14)
    for text in ("aa", "bb", "cc", "aa", "dd", "dd", "aa"):  # four characters each, quotes and all
        assert all_of_them[text] == text.upper()
    assert asked == ["aa", "bb", "cc", "dd", "aa"]
    asked.clear()
    for _ in range(2):
        assert upper["x" * 11] == "X" * 11
    assert len(asked) == 2
