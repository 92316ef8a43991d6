"""Tools for text, as plain Python functions.

snakehouse pool call --tools examples/tools/text.py word_count '"to be or not to be"'
"""

from collections import Counter

from snakehouse import tool


@tool
def word_count(text: str, most: int = 3) -> dict[str, int]:
    """Counts words; returns the `most` frequent ones."""
    return dict(Counter(text.lower().split()).most_common(most))


@tool
def score(answer: str, expected: str) -> float:
    """The share of words of `expected` that stand in `answer`, between 0 and 1."""
    wanted = Counter(expected.lower().split())
    found = wanted & Counter(answer.lower().split())
    return sum(found.values()) / max(1, sum(wanted.values()))
