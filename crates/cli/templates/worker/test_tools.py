"""Tools are ordinary functions: they are tested as such, without a pool and without Rust."""

import asyncio

import pytest
import tools
from snakehouse import ToolError


def test_words_are_counted() -> None:
    assert tools.word_count("to be or not to be", most=1) == {"to": 2}
    with pytest.raises(ToolError, match="less than 1"):
        tools.word_count("", most=0)


def test_words_come_one_by_one() -> None:
    assert list(tools.words("To be")) == ["to", "be"]


def test_shouting() -> None:
    assert asyncio.run(tools.shout("hello")) == "HELLO"
