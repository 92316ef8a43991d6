"""Sessions as tools see them."""

import time

import snakehouse


@snakehouse.tool
def who():
    return snakehouse.session()


@snakehouse.tool
def add(amount):
    state = snakehouse.session_state()
    state["sum"] = state.get("sum", 0) + amount
    return state["sum"]


@snakehouse.tool
def keep(value):
    snakehouse.session_state()["kept"] = value


@snakehouse.tool
def note_in(path):
    snakehouse.session_state()["path"] = path


@snakehouse.on_session_end
def ended(name, reason, state):
    if "path" in state:
        with open(state["path"], "a") as file:
            file.write(f"{name} {reason}\n")
