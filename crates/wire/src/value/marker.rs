//! Values that stand for something that does not travel itself, or travels in a form of its own.

use bytes::Bytes;

/// What an Arrow stream was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ArrowKind {
    /// `pyarrow.Table`.
    Table,
    /// `pyarrow.RecordBatch`.
    RecordBatch,
}

/// Columns of Apache Arrow, as the bytes of an IPC stream.
///
/// Nothing here looks into the stream. In Python it arrives as a `pyarrow` table or batch on the
/// received bytes, or as a `snakehouse.Arrow` in a process that has not imported pyarrow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arrow {
    /// What it is in Python.
    pub kind: ArrowKind,
    /// The IPC stream, from the schema to the end-of-stream mark.
    pub stream: Bytes,
}

/// An object that stays in the process of a worker (`snakehouse.Reference`).
///
/// It can be passed back to the same life of the same worker, so keep the calls in one session;
/// elsewhere it is refused as lost. Equal references name the same object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    pub(super) life: u64,
    pub(super) number: u64,
    pub(super) type_name: Box<str>,
}

impl Reference {
    /// Longest name of a type, in bytes.
    pub(super) const MAX_NAME: usize = 1024;

    /// The object's class, such as `package.module.Model`.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }
}

/// The mark of an object that a tool returned and that does not travel (`snakehouse.Unsupported`):
/// the name of its class, and nothing of its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Unsupported {
    pub(super) type_name: Box<str>,
}

impl Unsupported {
    /// The object's class, such as `package.module.Model`.
    pub fn type_name(&self) -> &str {
        &self.type_name
    }
}
