//! The examples that the guide points at do what they say.

#[path = "../examples/callbacks.rs"]
mod callbacks;
#[path = "../examples/large.rs"]
mod large;
#[path = "../examples/seen.rs"]
mod seen;
#[path = "../examples/sessions.rs"]
mod sessions;
#[path = "../examples/size.rs"]
mod size;
#[path = "../examples/streams.rs"]
mod streams;
#[path = "../examples/together.rs"]
mod together;
#[path = "../examples/trouble.rs"]
mod trouble;
#[path = "../examples/typed_tool.rs"]
mod typed_tool;

#[test]
fn python_functions_are_called_typed() {
    typed_tool::main().unwrap();
}

#[test]
fn streams_go_both_ways() {
    streams::main().unwrap();
}

#[test]
fn every_failure_is_a_typed_error() {
    trouble::main().unwrap();
}

#[test]
fn one_worker_runs_calls_together() {
    together::main().unwrap();
}

#[test]
fn pools_grow_are_replaced_and_counted() {
    size::main().unwrap();
}

#[test]
fn a_call_is_seen_while_it_runs() {
    seen::main().unwrap();
}

#[test]
fn a_session_has_its_state_until_it_ends() {
    sessions::main().unwrap();
}

#[test]
fn large_values_are_not_copied() {
    large::main().unwrap();
}

#[test]
fn python_calls_closures_of_its_host() {
    callbacks::main().unwrap();
}
