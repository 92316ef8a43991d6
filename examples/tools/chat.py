"""A conversation that a worker remembers, for the example of sessions."""

import snakehouse


@snakehouse.tool
def say(text: str) -> str:
    state = snakehouse.session_state()
    state["said"] = [*state.get("said", []), text]
    return f"{snakehouse.session()}: {', '.join(state['said'])}"


@snakehouse.on_session_end
def forget(name: str, reason: str, state: snakehouse.SessionState) -> None:
    print(f"{name} is over ({reason}) after {len(state.get('said', []))} lines")
