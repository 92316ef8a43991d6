"""What `snakehouse bench pool` calls: the same work as the limit program, as a tool."""

from snakehouse import tool


@tool
def echo(data: object) -> object:
    """Gives the argument back."""
    return data
