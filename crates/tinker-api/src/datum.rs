//! One training example: tokens in, named tensors for the loss.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::{InvalidInput, Tensor, proto, tensor};

/// One training example, as the client built it. Checked against a loss and a model by
/// [`CrossEntropyDatum::check`](crate::CrossEntropyDatum::check).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Datum {
    /// The model's input, text only. Negative ids are kept so that the check can name them.
    pub tokens: Vec<i32>,
    /// What the loss needs, by name.
    pub loss_inputs: BTreeMap<String, Tensor>,
}

impl Datum {
    /// A supervised example: predict `targets[i]` after `tokens[..=i]`, with weight `weights[i]`.
    pub fn supervised(tokens: Vec<i32>, targets: Vec<i64>, weights: Vec<f32>) -> Self {
        let loss_inputs = BTreeMap::from([
            ("target_tokens".to_owned(), Tensor::int64(targets)),
            ("weights".to_owned(), Tensor::float32(weights)),
        ]);
        Self { tokens, loss_inputs }
    }

    /// The message.
    pub fn to_proto(&self) -> proto::Datum {
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|t| t.to_le_bytes()).collect();
        let chunk = proto::Chunk {
            kind: Some(proto::ChunkKind::EncodedText(proto::EncodedTextChunk {
                tokens: Bytes::from(tokens),
            })),
        };
        proto::Datum {
            model_input: vec![chunk],
            loss_fn_inputs: self
                .loss_inputs
                .iter()
                .map(|(name, tensor)| (name.clone(), tensor.to_proto()))
                .collect(),
            ..proto::Datum::default()
        }
    }

    /// Reads a message, joining its text chunks. `index` is the datum's place in the request.
    ///
    /// # Errors
    /// [`InvalidInput`] names a chunk that is not text or a tensor that cannot be read.
    pub fn from_proto(index: usize, message: &proto::Datum) -> Result<Self, InvalidInput> {
        let mut tokens = Vec::new();
        for chunk in &message.model_input {
            let unsupported = |chunk| InvalidInput::UnsupportedChunk { datum: index, chunk };
            match &chunk.kind {
                Some(proto::ChunkKind::EncodedText(text)) => {
                    tokens.extend(tensor::read(&text.tokens, i32::from_le_bytes)?);
                }
                Some(proto::ChunkKind::Image(_)) => return Err(unsupported("image")),
                Some(proto::ChunkKind::Dmel(_)) => return Err(unsupported("dmel")),
                None => return Err(unsupported("unknown")),
            }
        }
        let loss_inputs = message
            .loss_fn_inputs
            .iter()
            .map(|(name, tensor)| Ok((name.clone(), Tensor::from_proto(tensor)?)))
            .collect::<Result<_, InvalidInput>>()?;
        Ok(Self { tokens, loss_inputs })
    }
}
