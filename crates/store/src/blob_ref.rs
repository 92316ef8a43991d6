//! Where a record lies.

use std::fmt;

/// The place of one record in a [`BlobLog`](crate::BlobLog).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BlobRef {
    /// The segment's number. No two segments of a log ever have the same.
    pub segment: u64,
    /// Where the record's head begins in the segment, in bytes.
    pub offset: u64,
    /// Length of the payload in bytes.
    pub len: u32,
}

impl fmt::Display for BlobRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}+{}:{}", self.segment, self.offset, self.len)
    }
}
