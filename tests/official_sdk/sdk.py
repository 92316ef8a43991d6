"""What the scripts share: a client, examples, and lines that the driver reads."""

import json
import os
import sys
import time

import tinker
from tinker import types

TEXTS = [
    "the snake sleeps in the house. ",
    "a call is made, a call returns. ",
    "what is durable is answered. ",
    "one two three four five six seven. ",
]


def say(event, **fields):
    """Prints one JSON line."""
    print(json.dumps({"event": event, **fields}), flush=True)


def service():
    """A client of the service that the driver has started."""
    return tinker.ServiceClient(base_url=os.environ["SNAKEHOUSE_TEST_URL"], api_key="tml-test")


def datum(text):
    """Predict each next byte of `text`."""
    tokens = list(text.encode())
    return types.Datum(
        model_input=types.ModelInput.from_ints(tokens[:-1]),
        loss_fn_inputs={
            "target_tokens": tokens[1:],
            "weights": [1.0] * (len(tokens) - 1),
        },
    )


def batch():
    """The whole training set."""
    return [datum(text) for text in TEXTS]


def timed(limit, call):
    """Runs `call`, failing the script if it takes longer than `limit` seconds."""
    begin = time.monotonic()
    try:
        return call()
    finally:
        took = time.monotonic() - begin
        if took > limit:
            say("too_slow", took=took, limit=limit)
            sys.stdout.flush()
            os._exit(3)
