//! The result of `forward_backward`.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::{InvalidInput, Tensor, TensorData, proto, tensor};

/// The arrays that a loss returns for one datum, by name (`logprobs`, ...).
pub type LossOutput = BTreeMap<String, Tensor>;

/// What the loss of each datum was, and numbers over all of them.
///
/// Serialises to the JSON form that clients before 0.25 read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ForwardBackwardOutput {
    /// What the outputs are; `ArrayRecord` unless a loss says otherwise.
    #[serde(rename = "loss_fn_output_type")]
    pub output_type: String,
    /// One per datum, in order.
    #[serde(rename = "loss_fn_outputs")]
    pub outputs: Vec<LossOutput>,
    /// Numbers over all datums. Each name has exactly one `:`, which says how to combine chunks.
    pub metrics: BTreeMap<String, f64>,
}

impl ForwardBackwardOutput {
    /// The usual output type.
    pub const ARRAY_RECORD: &'static str = "ArrayRecord";

    /// The protobuf body of a `cross_entropy` result, without reading the numbers: log-probabilities
    /// (little-endian `float32`) of each datum's targets, and the summed loss.
    pub fn encode_cross_entropy<'a>(
        logprobs: impl IntoIterator<Item = &'a [u8]>,
        loss_sum: f64,
    ) -> Bytes {
        let mut batch = Batch::default();
        let count = logprobs.into_iter().map(|bytes| batch.push(bytes)).count();
        let fields =
            BTreeMap::from([("logprobs".to_owned(), batch.finish(proto::Dtype::Float32, &[]))]);
        let record = proto::ArrayRecord {
            type_tag: String::new(),
            fields,
            num_datums: tensor::to_i64(count),
        };
        let message = proto::ForwardBackwardOutput {
            loss_fn_output_type: Self::ARRAY_RECORD.to_owned(),
            loss_fn_outputs: vec![record],
            metrics: BTreeMap::from([("loss:sum".to_owned(), loss_sum)]),
        };
        Bytes::from(message.encode_to_vec())
    }

    /// The protobuf body. Consecutive datums of one layout share a record.
    pub fn encode(&self) -> Bytes {
        let mut records = Vec::new();
        let mut rest = self.outputs.as_slice();
        while let Some(first) = rest.first() {
            let layout = layout_of(first);
            let same = rest.iter().take_while(|o| layout_of(o) == layout).count();
            let (group, after) = rest.split_at(same);
            records.push(record(&layout, group));
            rest = after;
        }
        let message = proto::ForwardBackwardOutput {
            loss_fn_output_type: self.output_type.clone(),
            loss_fn_outputs: records,
            metrics: self.metrics.clone(),
        };
        Bytes::from(message.encode_to_vec())
    }

    /// Reads a protobuf body.
    ///
    /// # Errors
    /// [`InvalidInput`] when the bytes are no such message or its offsets contradict its data.
    pub fn decode(body: Bytes) -> Result<Self, InvalidInput> {
        let message = proto::ForwardBackwardOutput::decode(body)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?;
        let mut outputs = Vec::new();
        for record in &message.loss_fn_outputs {
            let count = usize::try_from(record.num_datums)
                .ok()
                .filter(|&n| n <= tensor::MOST_ROWS)
                .ok_or_else(|| tensor::malformed("a record has an impossible number of datums"))?;
            let from = outputs.len();
            outputs.resize_with(from + count, LossOutput::new);
            for (name, batch) in &record.fields {
                for (output, tensor) in outputs[from..].iter_mut().zip(split(batch, count)?) {
                    output.insert(name.clone(), tensor);
                }
            }
        }
        let shown = message.loss_fn_output_type.rsplit(':').next().unwrap_or_default();
        let output_type = if shown.is_empty() { Self::ARRAY_RECORD } else { shown };
        Ok(Self { output_type: output_type.to_owned(), outputs, metrics: message.metrics })
    }
}

/// What must agree for two outputs to share a record: names, element types, trailing shapes.
fn layout_of(output: &LossOutput) -> Vec<(&str, proto::Dtype, &[usize])> {
    output
        .iter()
        .map(|(name, t)| (name.as_str(), t.data().dtype(), t.shape().get(1..).unwrap_or(&[])))
        .collect()
}

/// Arrays of several datums, one after the other.
struct Batch {
    data: Vec<u8>,
    offsets: Vec<u8>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { data: Vec::new(), offsets: Vec::from(0i64.to_le_bytes()) }
    }
}

impl Batch {
    fn push(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        self.offsets.extend(tensor::to_i64(self.data.len()).to_le_bytes());
    }

    fn finish(self, dtype: proto::Dtype, trailing: &[usize]) -> proto::BatchedTensor {
        proto::BatchedTensor {
            data: Bytes::from(self.data),
            offsets: Bytes::from(self.offsets),
            dtype: dtype as i32,
            trailing_shape: trailing.iter().map(|&d| tensor::to_i64(d)).collect(),
        }
    }
}

fn record(layout: &[(&str, proto::Dtype, &[usize])], group: &[LossOutput]) -> proto::ArrayRecord {
    let fields = layout
        .iter()
        .map(|&(name, dtype, trailing)| {
            let mut batch = Batch::default();
            for tensor in group.iter().filter_map(|output| output.get(name)) {
                batch.push(&tensor.data().to_le_bytes());
            }
            let batch = batch.finish(dtype, trailing);
            (name.to_owned(), batch)
        })
        .collect();
    proto::ArrayRecord { type_tag: String::new(), fields, num_datums: tensor::to_i64(group.len()) }
}

fn split(batch: &proto::BatchedTensor, count: usize) -> Result<Vec<Tensor>, InvalidInput> {
    let bad = || tensor::malformed("its offsets contradict its data");
    let dtype = tensor::read_dtype(batch.dtype)?;
    let size = match dtype {
        proto::Dtype::Int64 => 8,
        proto::Dtype::Int32 | proto::Dtype::Float32 => 4,
        proto::Dtype::Bfloat16 => 2,
        proto::Dtype::Unspecified => return Err(tensor::malformed("it has no element type")),
    };
    let trailing = tensor::read_shape(&batch.trailing_shape)?;
    let data: TensorData = TensorData::from_le_bytes(dtype, &batch.data)?;
    let offsets = tensor::read(&batch.offsets, i64::from_le_bytes)?;
    if offsets.len() != count + 1 {
        return Err(bad());
    }
    offsets
        .windows(2)
        .map(|bounds| {
            let element =
                |byte: i64| usize::try_from(byte).ok().filter(|b| b % size == 0).map(|b| b / size);
            let (from, to) =
                (element(bounds[0]).ok_or_else(bad)?, element(bounds[1]).ok_or_else(bad)?);
            Tensor::slice_of(&data, from, to, &trailing)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, tensor: Tensor) -> LossOutput {
        LossOutput::from([(name.to_owned(), tensor)])
    }

    #[test]
    fn ragged_and_differing_outputs_come_back_equal() {
        let matrix = Tensor::new(TensorData::Float32(vec![1.0; 6]), vec![3, 2]).unwrap();
        let sent = ForwardBackwardOutput {
            output_type: "ArrayRecord".to_owned(),
            outputs: vec![
                output("logprobs", Tensor::float32(vec![-1.0])),
                output("logprobs", Tensor::float32(vec![])),
                output("logprobs", Tensor::float32(vec![-2.0, -3.0])),
                output("logprobs", matrix),
                output("ranks", Tensor::int64(vec![i64::MAX])),
                LossOutput::new(),
            ],
            metrics: BTreeMap::from([("loss:sum".to_owned(), 0.1 + 0.2)]),
        };
        assert_eq!(ForwardBackwardOutput::decode(sent.encode()).unwrap(), sent);
    }

    #[test]
    fn a_body_from_bytes_equals_one_from_numbers() {
        let bytes = [[-1.0f32].as_slice(), &[-2.0, -3.0]]
            .map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let body =
            ForwardBackwardOutput::encode_cross_entropy(bytes.iter().map(Vec::as_slice), 6.0);
        let read = ForwardBackwardOutput::decode(body.clone()).unwrap();
        assert_eq!(read.outputs[1]["logprobs"].as_float32().unwrap(), [-2.0, -3.0]);
        assert_eq!(read.metrics["loss:sum"], 6.0);
        assert_eq!(read.encode(), body);
    }

    #[test]
    fn impossible_offsets_are_refused() {
        let sent = ForwardBackwardOutput::encode_cross_entropy([&1f32.to_le_bytes()[..]], 1.0);
        let good = proto::ForwardBackwardOutput::decode(sent).unwrap();
        for offsets in [vec![0i64], vec![0, 8], vec![0, 3], vec![-4, 4], vec![4, 0], vec![0, 0, 4]]
        {
            let mut bad = good.clone();
            bad.loss_fn_outputs[0].fields.get_mut("logprobs").unwrap().offsets =
                offsets.iter().flat_map(|o| o.to_le_bytes()).collect::<Vec<_>>().into();
            let body = Bytes::from(bad.encode_to_vec());
            assert!(ForwardBackwardOutput::decode(body).is_err(), "{offsets:?}");
        }
    }
}
