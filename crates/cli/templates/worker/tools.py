"""Tools of a Snakehouse pool. Each function with `@tool` can be called from Rust."""

import asyncio
from collections import Counter
from collections.abc import Iterator

from snakehouse import ToolError, tool


@tool
def word_count(text: str, most: int = 3) -> dict[str, int]:
    """Counts words; gives the `most` frequent ones."""
    if most < 1:
        # Rust sees the code and the hint; any other exception arrives with type and traceback.
        raise ToolError("most is less than 1", code="bad_most", hint="ask for one word or more")
    return dict(Counter(text.lower().split()).most_common(most))


@tool
def words(text: str) -> Iterator[str]:
    """A stream: each word arrives when it is yielded."""
    yield from text.lower().split()


@tool
async def shout(text: str) -> str:
    """An async tool may await whatever it likes."""
    await asyncio.sleep(0)
    return text.upper()
