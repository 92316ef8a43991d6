"""Tools that tell of themselves."""

import os

import snakehouse
from snakehouse import host


@snakehouse.tool
def work(rows):
    """Where the call, a span and a span in it stand."""
    places = [str(snakehouse.trace())]
    with snakehouse.span("load", rows=rows):
        places.append(str(snakehouse.trace()))
        snakehouse.emit("loaded", rows, kind="rows")
        with snakehouse.span("parse"):
            places.append(str(snakehouse.trace()))
    return places


@snakehouse.tool
def outer():
    """Python, then a host tool inside of a span, then Python again."""
    with snakehouse.span("asking"):
        return [str(snakehouse.trace()), host.relay()]


@snakehouse.tool
def leaf():
    return str(snakehouse.trace())


@snakehouse.tool
def spill(secrets):
    """Puts secrets wherever a careless tool might."""
    for number, secret in enumerate(secrets):
        snakehouse.emit("spilled", secret, text=f"with {secret} in it", password=secret)
        try:
            with snakehouse.span(f"spill-{number}", text=secret, api_key=secret):
                raise ValueError(secret)
        except ValueError:
            pass
    if os.environ.get("SPILLED_KEY") not in secrets:
        raise RuntimeError("the environment is another")
    raise PermissionError(f"refused with {secrets}")
