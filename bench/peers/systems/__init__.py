"""The peers, one module each: `System` with `start(workers, place)`, `measure(value, in_flight,
seconds)` and `stop()`. `place` is a directory of its own."""
