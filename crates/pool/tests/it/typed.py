"""Functions with signatures of every kind, for the typed calls."""

from collections.abc import Iterator

from snakehouse import tool


@tool
def word_count(text: str, most: int = 3) -> dict[str, int]:
    words = text.split()
    return {word: words.count(word) for word in list(dict.fromkeys(words))[:most]}


@tool
def mirror(
    flag: bool, pair: tuple[int, str], names: list[str], *, extra: float | None = None
) -> tuple[bool, tuple[int, str], list[str], float | None]:
    return flag, pair, names, extra


@tool
def first(items: list[int]) -> int | None:
    return items[0] if items else None


@tool
def unique(items: list[int]) -> set[int]:
    return set(items)


@tool
def loose(anything):
    return anything


@tool
def liar() -> int:
    return "text"


@tool
def count(n: int) -> Iterator[int]:
    yield from range(n)
