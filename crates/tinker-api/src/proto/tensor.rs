//! Tensor messages.

use bytes::Bytes;

/// Element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum Dtype {
    /// Not given.
    Unspecified = 0,
    /// IEEE 754, 32 bits.
    Float32 = 1,
    /// Signed, 64 bits.
    Int64 = 2,
    /// Signed, 32 bits.
    Int32 = 3,
    /// The upper half of a 32-bit float.
    Bfloat16 = 4,
}

/// A tensor.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tensor {
    /// The elements.
    #[prost(oneof = "TensorStorage", tags = "1, 2")]
    pub storage: Option<TensorStorage>,
    /// The element type.
    #[prost(enumeration = "Dtype", tag = "3")]
    pub dtype: i32,
    /// The dense shape.
    #[prost(int64, repeated, tag = "4")]
    pub shape: Vec<i64>,
}

/// How the elements of a [`Tensor`] are given.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum TensorStorage {
    /// All of them, row major.
    #[prost(bytes = "bytes", tag = "1")]
    Dense(Bytes),
    /// Those that are not zero.
    #[prost(message, tag = "2")]
    SparseCsr(SparseCsr),
}

/// Compressed sparse rows.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SparseCsr {
    /// The listed elements.
    #[prost(bytes = "bytes", tag = "1")]
    pub values: Bytes,
    /// Where each row begins and the last one ends, `int64`.
    #[prost(bytes = "bytes", tag = "2")]
    pub crow_indices: Bytes,
    /// The column of each element, `int64`.
    #[prost(bytes = "bytes", tag = "3")]
    pub col_indices: Bytes,
}
