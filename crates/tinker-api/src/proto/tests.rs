//! Bytes made by the official client's own encoder, in both directions.

use std::collections::BTreeMap;

use bytes::Bytes;
use snakehouse_base::id::{ModelId, SeqId};

use crate::{
    Datum, ForwardBackwardOutput, ForwardBackwardRequest, LossConfigValue, LossOutput,
    SampleOutput, SampledSequence, StopReason, Tensor, proto,
};

const FORWARD_BACKWARD: &str = "0a016d10011a380a0c0a0a0a08010000000200000012280a0d7461726765745f\
    746f6b656e7312170a10020000000000000003000000000000001802220102220d63726f73735f656e74726f7079";
const SPARSE: &str = "0a016d10021a570a0c0a0a0a08010000000200000012470a0d7461726765745f746f6b656e\
    731236122e0a080700000000000000121800000000000000000100000000000000010000000000000\
    01a080200000000000000180222020203220370706f2a0c0a016b11000000000000e03f3a0e0a016b120909000\
    000000000e03f";
const OUTPUT: &str = "0a0b41727261795265636f7264123a12360a086c6f6770726f6273122a0a0c000080bf0000\
    00c0000040c01218000000000000000004000000000000000c00000000000000180118021a130a086c6f73733a7\
    3756d110000000000001840";
const SAMPLE: &str = "0a160801120805000000060000001a08000080bf000000c012080000c07f000000bf1a280a\
    10000000000000000009000000000000001210804fc3c7804fc3c7000080be804fc3c7180220022001";

fn bytes(hex: &str) -> Bytes {
    (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
}

fn request() -> ForwardBackwardRequest {
    ForwardBackwardRequest {
        model_id: ModelId::new("m"),
        seq_id: SeqId(1),
        data: vec![Datum {
            tokens: vec![1, 2],
            loss_inputs: BTreeMap::from([("target_tokens".to_owned(), Tensor::int64(vec![2, 3]))]),
        }],
        loss_fn: "cross_entropy".to_owned(),
        loss_fn_config: BTreeMap::new(),
        forward_only: false,
    }
}

#[test]
fn a_forward_backward_request_equals_the_clients() {
    assert_eq!(request().encode(), bytes(FORWARD_BACKWARD));
    assert_eq!(ForwardBackwardRequest::decode(bytes(FORWARD_BACKWARD)).unwrap(), request());

    let forward = ForwardBackwardRequest { forward_only: true, ..request() };
    let golden = bytes(&format!("{FORWARD_BACKWARD}3001"));
    assert_eq!(forward.encode(), golden);
    assert_eq!(ForwardBackwardRequest::decode(golden).unwrap(), forward);
}

#[test]
fn a_sparse_tensor_becomes_dense_and_both_settings_are_read() {
    let read = ForwardBackwardRequest::decode(bytes(SPARSE)).unwrap();
    let tensor = &read.data[0].loss_inputs["target_tokens"];
    assert_eq!(tensor.shape(), [2, 3]);
    assert_eq!(tensor.as_int64().unwrap(), [0, 0, 7, 0, 0, 0]);
    assert_eq!(read.seq_id, SeqId(2));
    assert_eq!(
        read.loss_fn_config,
        BTreeMap::from([("k".to_owned(), LossConfigValue::Number(0.5))])
    );
    // The message itself, sparse form included, writes back to the same bytes.
    let message: proto::ForwardBackwardRequest = prost::Message::decode(bytes(SPARSE)).unwrap();
    assert_eq!(prost::Message::encode_to_vec(&message), bytes(SPARSE));
}

#[test]
fn contradicting_sparse_tensors_are_refused() {
    let csr = |crow: &[i64], columns: &[i64], values: usize| proto::Tensor {
        storage: Some(proto::TensorStorage::SparseCsr(proto::SparseCsr {
            values: vec![0; values * 8].into(),
            crow_indices: crow.iter().flat_map(|x| x.to_le_bytes()).collect(),
            col_indices: columns.iter().flat_map(|x| x.to_le_bytes()).collect(),
        })),
        dtype: proto::Dtype::Int64 as i32,
        shape: vec![2, 3],
    };
    assert!(Tensor::from_proto(&csr(&[0, 1, 1], &[2], 1)).is_ok());
    for bad in [
        csr(&[0, 1], &[2], 1),
        csr(&[0, 2, 1], &[2], 1),
        csr(&[0, 1, 1], &[3], 1),
        csr(&[0, 1, 1], &[-1], 1),
        csr(&[0, 1, 1], &[2], 2),
        csr(&[0, 9, 9], &[2], 1),
        csr(&[1, 1, 1], &[2], 1),
    ] {
        assert!(Tensor::from_proto(&bad).is_err(), "{bad:?}");
    }
    let bomb = proto::Tensor { shape: vec![1 << 40, 1 << 40], ..csr(&[0, 1, 1], &[2], 1) };
    assert!(Tensor::from_proto(&bomb).is_err());
}

#[test]
fn a_forward_backward_output_equals_the_clients() {
    let output = ForwardBackwardOutput {
        output_type: "ArrayRecord".to_owned(),
        outputs: vec![
            LossOutput::from([("logprobs".to_owned(), Tensor::float32(vec![-1.0]))]),
            LossOutput::from([("logprobs".to_owned(), Tensor::float32(vec![-2.0, -3.0]))]),
        ],
        metrics: BTreeMap::from([("loss:sum".to_owned(), 6.0)]),
    };
    assert_eq!(output.encode(), bytes(OUTPUT));
    assert_eq!(ForwardBackwardOutput::decode(bytes(OUTPUT)).unwrap(), output);
}

#[test]
fn a_sample_response_equals_the_clients() {
    let output = SampleOutput {
        sequences: vec![SampledSequence {
            stop_reason: StopReason::Length,
            tokens: vec![5, 6],
            logprobs: Some(vec![-1.0, -2.0]),
            topk_logprobs: None,
        }],
        prompt_logprobs: Some(vec![None, Some(-0.5)]),
        topk_prompt_logprobs: Some(vec![None, Some(vec![(9, -0.25)])]),
        prompt_cache_hit_tokens: 1,
    };
    // One column is enough for our own table; the client's example has two.
    assert_eq!(SampleOutput::decode(bytes(SAMPLE)).unwrap(), output);
    assert_eq!(SampleOutput::decode(output.encode()).unwrap(), output);
    let message: proto::SampleResponse = prost::Message::decode(bytes(SAMPLE)).unwrap();
    assert_eq!(prost::Message::encode_to_vec(&message), bytes(SAMPLE));
}

#[test]
fn the_beginning_of_a_body_says_whose_it_is() {
    let golden = bytes(FORWARD_BACKWARD);
    // Two bytes of tag and length, the name, the number.
    let read = proto::ForwardBackwardHeader::of_beginning(&golden[..5]).unwrap();
    assert_eq!(read, (ModelId::new("m"), SeqId(1)));
    for end in 0..5 {
        assert!(proto::ForwardBackwardHeader::of_beginning(&golden[..end]).is_err(), "{end}");
    }
}

#[test]
fn cut_or_random_bytes_are_an_error_not_a_crash() {
    let golden = bytes(FORWARD_BACKWARD);
    for end in 1..golden.len() {
        let cut = golden.slice(..end);
        if let Ok(read) = ForwardBackwardRequest::decode(cut) {
            assert!(read.data.len() <= 1);
        }
    }
    assert!(ForwardBackwardRequest::decode(Bytes::from_static(b"{\"model_id\":1}")).is_err());
    assert!(ForwardBackwardRequest::decode(Bytes::new()).is_err());
}
