//! Python functions as typed Rust functions.
//!
//! [`tools!`](crate::tools) takes Python signatures as they stand in the Python file and makes a struct
//! with one method for each. The struct is made by `bind`, which holds every signature against what
//! the workers announce, so that a mismatch is an error at the start that names both sides, and not
//! one of the hundredth call. Types are [`PythonType`]s. Tested in `tests/it/typed.rs` with real
//! Python, and here type by type.

mod bind;
mod items;
mod python_type;
mod signature;
mod tools;

pub use bind::{Bound, ToolMismatch};
pub use items::Items;
pub use python_type::PythonType;
pub use signature::{Parameter, Signature};
