//! Dense tensors, and how they travel: little-endian bytes, an element type, a shape.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::proto::{self, Dtype};
use crate::{InvalidInput, limits};

/// The elements of a tensor, row major.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "dtype", content = "data", rename_all = "lowercase")]
pub enum TensorData {
    /// 64-bit integers.
    Int64(Vec<i64>),
    /// 32-bit floats.
    Float32(Vec<f32>),
}

impl TensorData {
    /// How many elements there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Int64(v) => v.len(),
            Self::Float32(v) => v.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Little-endian bytes.
    pub fn to_le_bytes(&self) -> Vec<u8> {
        match self {
            Self::Int64(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
            Self::Float32(v) => v.iter().flat_map(|x| x.to_le_bytes()).collect(),
        }
    }

    /// The element type on the wire.
    pub const fn dtype(&self) -> Dtype {
        match self {
            Self::Int64(_) => Dtype::Int64,
            Self::Float32(_) => Dtype::Float32,
        }
    }

    /// Reads little-endian bytes. 32-bit integers widen to 64 bits, bfloat16 to 32-bit floats.
    ///
    /// # Errors
    /// [`InvalidInput::MalformedTensor`] when the bytes are no whole number of elements or the
    /// element type is not given.
    pub fn from_le_bytes(dtype: Dtype, bytes: &[u8]) -> Result<Self, InvalidInput> {
        Ok(match dtype {
            Dtype::Int64 => Self::Int64(read(bytes, i64::from_le_bytes)?),
            Dtype::Int32 => Self::Int64(read(bytes, |b| i64::from(i32::from_le_bytes(b)))?),
            Dtype::Float32 => Self::Float32(read(bytes, f32::from_le_bytes)?),
            Dtype::Bfloat16 => Self::Float32(read(bytes, |b: [u8; 2]| {
                f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16)
            })?),
            Dtype::Unspecified => return Err(malformed("it has no element type")),
        })
    }

    fn select(&self, range: std::ops::Range<usize>) -> Option<Self> {
        Some(match self {
            Self::Int64(v) => Self::Int64(v.get(range)?.to_vec()),
            Self::Float32(v) => Self::Float32(v.get(range)?.to_vec()),
        })
    }
}

/// A dense tensor whose shape always fits its elements.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "JsonTensor", into = "JsonTensor")]
pub struct Tensor {
    data: TensorData,
    shape: Vec<usize>,
}

/// The JSON form; a missing shape means one dimension.
#[derive(Serialize, Deserialize)]
struct JsonTensor {
    #[serde(flatten)]
    data: TensorData,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shape: Option<Vec<usize>>,
}

impl TryFrom<JsonTensor> for Tensor {
    type Error = InvalidInput;

    fn try_from(json: JsonTensor) -> Result<Self, InvalidInput> {
        let shape = json.shape.unwrap_or_else(|| vec![json.data.len()]);
        Self::new(json.data, shape)
    }
}

impl From<Tensor> for JsonTensor {
    fn from(tensor: Tensor) -> Self {
        Self { data: tensor.data, shape: Some(tensor.shape) }
    }
}

impl Tensor {
    /// A tensor of this shape.
    ///
    /// # Errors
    /// [`InvalidInput::MalformedTensor`] when the shape does not fit the elements or breaks a
    /// [limit](crate::limits).
    pub fn new(data: TensorData, shape: Vec<usize>) -> Result<Self, InvalidInput> {
        if element_count(&shape)? != data.len() {
            return Err(malformed(format!("{} elements do not fill {shape:?}", data.len())));
        }
        Ok(Self { data, shape })
    }

    /// One dimension of integers.
    pub fn int64(values: Vec<i64>) -> Self {
        Self { shape: vec![values.len()], data: TensorData::Int64(values) }
    }

    /// One dimension of floats.
    pub fn float32(values: Vec<f32>) -> Self {
        Self { shape: vec![values.len()], data: TensorData::Float32(values) }
    }

    /// The elements, row major.
    pub const fn data(&self) -> &TensorData {
        &self.data
    }

    /// The size of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The floats, or `None` when these are integers.
    pub fn as_float32(&self) -> Option<&[f32]> {
        match &self.data {
            TensorData::Float32(v) => Some(v),
            TensorData::Int64(_) => None,
        }
    }

    /// The integers, or `None` when these are floats.
    pub fn as_int64(&self) -> Option<&[i64]> {
        match &self.data {
            TensorData::Int64(v) => Some(v),
            TensorData::Float32(_) => None,
        }
    }

    /// The dense message.
    pub fn to_proto(&self) -> proto::Tensor {
        proto::Tensor {
            storage: Some(proto::TensorStorage::Dense(Bytes::from(self.data.to_le_bytes()))),
            dtype: self.data.dtype() as i32,
            shape: self.shape.iter().map(|&d| to_i64(d)).collect(),
        }
    }

    /// Reads a dense or sparse message; a sparse one becomes dense, unlisted cells zero.
    ///
    /// # Errors
    /// [`InvalidInput::MalformedTensor`] names the rule that the message breaks.
    pub fn from_proto(message: &proto::Tensor) -> Result<Self, InvalidInput> {
        let shape = read_shape(&message.shape)?;
        let dtype = read_dtype(message.dtype)?;
        let data = match &message.storage {
            Some(proto::TensorStorage::Dense(bytes)) => TensorData::from_le_bytes(dtype, bytes)?,
            Some(proto::TensorStorage::SparseCsr(csr)) => dense_from_csr(dtype, csr, &shape)?,
            None if element_count(&shape)? == 0 => TensorData::from_le_bytes(dtype, &[])?,
            None => return Err(malformed("it has no elements")),
        };
        // The shape may be left out for one dimension.
        let shape = if shape.is_empty() && data.len() != 1 { vec![data.len()] } else { shape };
        Self::new(data, shape)
    }

    /// Rows `from..to` of the leading dimension of a batch, each of shape `trailing`.
    pub(crate) fn slice_of(
        data: &TensorData,
        from: usize,
        to: usize,
        trailing: &[usize],
    ) -> Result<Self, InvalidInput> {
        let row = element_count(trailing)?;
        let part =
            data.select(from..to).ok_or_else(|| malformed("an offset points past the end"))?;
        if row == 0 || part.len() % row != 0 {
            return Err(malformed("an offset points into a row"));
        }
        let mut shape = vec![part.len() / row];
        shape.extend_from_slice(trailing);
        Self::new(part, shape)
    }
}

/// The element type of a message.
pub(crate) fn read_dtype(number: i32) -> Result<Dtype, InvalidInput> {
    Dtype::try_from(number).map_err(|_| malformed(format!("element type {number} is unknown")))
}

/// A shape of a message: no negative size, not too many dimensions.
pub(crate) fn read_shape(shape: &[i64]) -> Result<Vec<usize>, InvalidInput> {
    if shape.len() > limits::TENSOR_DIMENSIONS {
        return Err(malformed(format!("it has {} dimensions", shape.len())));
    }
    shape
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| malformed(format!("a dimension is {d}"))))
        .collect()
}

/// Little-endian elements of one fixed size.
pub(crate) fn read<const N: usize, T>(
    bytes: &[u8],
    element: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, InvalidInput> {
    let (chunks, rest) = bytes.as_chunks::<N>();
    if !rest.is_empty() {
        return Err(malformed(format!("{} bytes are no whole elements of {N}", bytes.len())));
    }
    Ok(chunks.iter().map(|c| element(*c)).collect())
}

/// The most datums that one record of a result may claim.
pub(crate) const MOST_ROWS: usize = 1 << 20;

pub(crate) fn malformed(reason: impl Into<String>) -> InvalidInput {
    InvalidInput::MalformedTensor { reason: reason.into() }
}

pub(crate) fn to_i64(size: usize) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

fn element_count(shape: &[usize]) -> Result<usize, InvalidInput> {
    let count = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    count
        .filter(|&n| n <= limits::TENSOR_ELEMENTS)
        .ok_or_else(|| malformed(format!("{shape:?} has too many elements")))
}

fn dense_from_csr(
    dtype: Dtype,
    csr: &proto::SparseCsr,
    shape: &[usize],
) -> Result<TensorData, InvalidInput> {
    let &[rows, columns] = shape else {
        return Err(malformed("a sparse tensor must have two dimensions"));
    };
    let count = element_count(shape)?;
    let row_starts = read(&csr.crow_indices, i64::from_le_bytes)?;
    let column_of = read(&csr.col_indices, i64::from_le_bytes)?;
    let bad = || malformed("its sparse indices contradict its shape");
    if row_starts.len() != rows + 1 || row_starts.first() != Some(&0) {
        return Err(bad());
    }
    let mut cells = Vec::with_capacity(column_of.len());
    for (row, bounds) in row_starts.windows(2).enumerate() {
        let from = usize::try_from(bounds[0]).map_err(|_| bad())?;
        let to = usize::try_from(bounds[1]).map_err(|_| bad())?;
        for &column in column_of.get(from..to).ok_or_else(bad)? {
            let column = usize::try_from(column).map_err(|_| bad())?;
            if column >= columns {
                return Err(bad());
            }
            cells.push(row * columns + column);
        }
    }
    fn scatter<T: Copy + Default>(count: usize, cells: &[usize], values: &[T]) -> Option<Vec<T>> {
        let mut dense = vec![T::default(); count];
        (cells.len() == values.len()).then(|| {
            for (&cell, &value) in cells.iter().zip(values) {
                dense[cell] = value;
            }
            dense
        })
    }
    Ok(match TensorData::from_le_bytes(dtype, &csr.values)? {
        TensorData::Int64(v) => TensorData::Int64(scatter(count, &cells, &v).ok_or_else(bad)?),
        TensorData::Float32(v) => TensorData::Float32(scatter(count, &cells, &v).ok_or_else(bad)?),
    })
}
