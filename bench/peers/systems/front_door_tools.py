"""The tool behind the front door."""

from snakehouse import tool


@tool
def echo(value):  # noqa: ANN001, ANN201
    """Give the argument back."""
    return value
