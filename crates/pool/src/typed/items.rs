//! The items of a generator, typed.

use std::marker::PhantomData;

use super::python_type::PythonType;
use crate::call::CallError;
use crate::stream::Stream;

/// What a Python generator yields, as Rust values. Dropping it closes the generator.
#[derive(Debug)]
pub struct Items<T> {
    stream: Stream,
    tool: String,
    kind: PhantomData<fn() -> T>,
}

impl<T: PythonType> Items<T> {
    pub(super) fn new(stream: Stream, tool: &str) -> Self {
        Self { stream, tool: tool.to_owned(), kind: PhantomData }
    }

    /// The next item; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// As [`Stream::next`], and [`CallError::ResultType`] for an item of another type.
    pub async fn next(&self) -> Option<Result<T, CallError>> {
        Some(match self.stream.next().await? {
            Ok(item) => T::from_value(item)
                .map_err(|error| CallError::ResultType { tool: self.tool.clone(), error }),
            Err(error) => Err(error),
        })
    }

    /// The stream itself: to send items to the generator, and for its result.
    pub fn stream(&self) -> &Stream {
        &self.stream
    }
}
