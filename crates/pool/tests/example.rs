//! The example that the README points at does what it says.

#[path = "../examples/typed_tool.rs"]
mod typed_tool;

#[test]
fn python_functions_are_called_typed() {
    typed_tool::main().unwrap();
}
