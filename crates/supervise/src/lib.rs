//! Supervision trees: scopes, restarts with back-off, ordered stop, blocking lanes.
