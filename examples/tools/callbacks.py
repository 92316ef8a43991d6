"""Tools that call Rust closures; see `crates/pool/examples/callbacks.rs`."""

import snakehouse
from snakehouse import host


@snakehouse.tool
def total(basket: list[str]) -> int:
    """What a basket costs: the host knows the prices."""
    return sum(host.price(fruit=fruit) for fruit in basket)


@snakehouse.tool
def label(text: str) -> str:
    """A label, made by the host, which asks `upper` for it."""
    return host.shout(text)


@snakehouse.tool
def upper(text: str) -> str:
    return text.upper()
