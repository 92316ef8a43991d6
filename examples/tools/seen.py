"""Tools that are seen at work: the parts of a call, and what happens in it."""

import snakehouse


@snakehouse.tool
def train(steps: int) -> float:
    """Pretends to train; tells of each step."""
    loss = 1.0
    with snakehouse.span("load", rows=3):
        rows = [1, 2, 3]
    for step in range(steps):
        with snakehouse.span("step"):
            loss /= 1 + sum(rows) / 10
        snakehouse.emit("loss", loss, step=step)
    return loss
