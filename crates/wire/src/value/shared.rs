//! Values whose bytes lie in a shared buffer.

use std::io;

use super::{Array, Arrow, ArrowKind, Value, ValueError, array::Layout};
use crate::buffer::SharedBuffer;

/// A [`SharedBuffer`] as an argument.
///
/// Arguments of calls name the buffer and do not copy it. Everywhere else, such as in the items of a
/// stream, it is written as the bytes, array or table that it holds. Equal if buffer and form are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Shared {
    pub(crate) form: Form,
    pub(crate) buffer: SharedBuffer,
}

/// What the bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Form {
    Bytes,
    Array(Box<Layout>),
    Arrow(ArrowKind),
}

impl Shared {
    /// The buffer.
    pub fn buffer(&self) -> &SharedBuffer {
        &self.buffer
    }

    /// A copy that lies in no buffer: `bytes`, an array or a table.
    ///
    /// # Errors
    /// Whatever the kernel says to the read.
    pub fn to_value(&self) -> io::Result<Value> {
        let data = self.buffer.to_bytes()?;
        Ok(match &self.form {
            Form::Bytes => Value::Bytes(data),
            Form::Array(layout) => Value::Array(Array::with_layout((**layout).clone(), data)),
            Form::Arrow(kind) => Value::Arrow(Arrow { kind: *kind, stream: data }),
        })
    }

    /// What names it.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.buffer.number().to_be_bytes());
        out.extend_from_slice(&self.buffer.len().to_be_bytes());
        super::ext::put_form(&self.form, out);
    }

    pub(super) fn copied(&self) -> Result<Value, ValueError> {
        self.to_value().map_err(|_| ValueError::Unreadable)
    }
}
