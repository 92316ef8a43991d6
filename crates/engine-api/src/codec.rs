//! Requests and replies as bytes.

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One operation an engine offers.
pub trait Request: Serialize + DeserializeOwned + Send {
    /// The tool name under which a worker offers it.
    const TOOL: &'static str;
    /// What a successful call returns.
    type Reply: Serialize + DeserializeOwned + Send;

    /// The body of the call.
    ///
    /// # Errors
    /// [`CodecError`] if a value cannot be written, which no type of this crate causes.
    fn encode(&self) -> Result<Bytes, CodecError> {
        pack(self)
    }

    /// Reads the body of a call.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not this request.
    fn decode(body: &[u8]) -> Result<Self, CodecError> {
        unpack(body)
    }

    /// The body of a reply.
    ///
    /// # Errors
    /// As [`encode`](Request::encode).
    fn encode_reply(reply: &Self::Reply) -> Result<Bytes, CodecError> {
        pack(reply)
    }

    /// Reads the body of a reply.
    ///
    /// # Errors
    /// [`CodecError`] if the bytes are not this reply.
    fn decode_reply(body: &[u8]) -> Result<Self::Reply, CodecError> {
        unpack(body)
    }
}

/// Bytes that are not the message they should be.
#[derive(Debug, thiserror::Error)]
#[error("engine message does not decode: {0}")]
pub struct CodecError(String);

fn pack<T: Serialize>(value: &T) -> Result<Bytes, CodecError> {
    rmp_serde::to_vec_named(value).map(Bytes::from).map_err(|e| CodecError(e.to_string()))
}

fn unpack<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    rmp_serde::from_slice(body).map_err(|e| CodecError(e.to_string()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use snakehouse_base::id::{ModelId, SamplerId};

    use super::*;
    use crate::{
        Datum, ForwardBackward, Loss, Sample, SampleParams, Sampled, SampledSequence, Stop,
        StopReason,
    };

    #[test]
    fn numbers_travel_as_bytes() {
        let request = ForwardBackward {
            model: ModelId::new("s:train:0"),
            data: vec![Datum {
                tokens: Bytes::from(vec![1; 400]),
                targets: Bytes::from(vec![2; 400]),
                weights: Bytes::from(vec![3; 400]),
            }],
            loss: Loss::CrossEntropy,
            forward_only: false,
        };
        let body = request.encode().unwrap();
        assert!(body.len() < 1400, "arrays must not become lists: {} bytes", body.len());
        assert_eq!(ForwardBackward::decode(&body).unwrap(), request);
    }

    #[test]
    fn a_reply_comes_out_equal() {
        let reply = Sampled {
            sequences: vec![SampledSequence {
                tokens: Bytes::from_static(&[1, 0, 0, 0]),
                logprobs: Bytes::from_static(&[0, 0, 192, 127]),
                stop: StopReason::Length,
            }],
            prompt_logprobs: None,
        };
        let body = Sample::encode_reply(&reply).unwrap();
        assert_eq!(Sample::decode_reply(&body).unwrap(), reply);
    }

    #[test]
    fn garbage_is_an_error() {
        let request = Sample {
            sampler: SamplerId::new("x"),
            prompt: Bytes::from_static(&[0; 4]),
            num_samples: 1,
            params: SampleParams {
                max_tokens: Some(1),
                seed: 0,
                temperature: 0.0,
                top_k: 0,
                top_p: 1.0,
                stop: Stop::Eos,
            },
            prompt_logprobs: false,
        };
        let body = request.encode().unwrap();
        for cut in 0..body.len() {
            assert!(Sample::decode(&body[..cut]).is_err());
        }
    }
}
