//! Messages of requests.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use snakehouse_base::id::{ModelId, SeqId};

use super::Tensor;
use crate::InvalidInput;

/// Body of `forward_backward`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForwardBackwardRequest {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_id: String,
    /// Place in the model's order, from 1; 0 means unset.
    #[prost(int32, tag = "2")]
    pub seq_id: i32,
    /// The examples.
    #[prost(message, repeated, tag = "3")]
    pub data: Vec<Datum>,
    /// The loss function's name.
    #[prost(string, tag = "4")]
    pub loss_fn: String,
    /// Its numeric settings, for older servers.
    #[prost(btree_map = "string, double", tag = "5")]
    pub loss_fn_config: BTreeMap<String, f64>,
    /// No gradients.
    #[prost(bool, tag = "6")]
    pub forward_only: bool,
    /// All settings; these win.
    #[prost(btree_map = "string, message", tag = "7")]
    pub loss_fn_config_v2: BTreeMap<String, LossConfigValue>,
}

/// The first two fields of a [`ForwardBackwardRequest`]: whose it is, when the rest cannot be used.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ForwardBackwardHeader {
    /// The model.
    #[prost(string, tag = "1")]
    pub model_id: String,
    /// Place in the model's order, from 1; 0 means unset.
    #[prost(int32, tag = "2")]
    pub seq_id: i32,
}

impl ForwardBackwardHeader {
    /// Reads only whose request `body` is.
    ///
    /// # Errors
    /// [`InvalidInput`] when the bytes are no message or name no model or no order.
    pub fn of(body: &[u8]) -> Result<(ModelId, SeqId), InvalidInput> {
        Self::decode(body)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?
            .read()
    }

    /// Reads whose request it is of which only the beginning is there, as for a body that was too
    /// large to keep. Encoders write these two fields first.
    ///
    /// # Errors
    /// [`InvalidInput`] when the beginning does not say it.
    pub fn of_beginning(beginning: &[u8]) -> Result<(ModelId, SeqId), InvalidInput> {
        use prost::encoding::{DecodeContext, decode_key};
        let malformed =
            |e: prost::DecodeError| InvalidInput::MalformedBody { reason: e.to_string() };
        let (mut header, mut rest) = (Self::default(), beginning);
        while header.model_id.is_empty() || header.seq_id == 0 {
            let (tag, wire_type) = decode_key(&mut rest).map_err(malformed)?;
            header
                .merge_field(tag, wire_type, &mut rest, DecodeContext::default())
                .map_err(malformed)?;
        }
        header.read()
    }

    /// The ids.
    ///
    /// # Errors
    /// [`InvalidInput::InconsistentFields`] when one is missing.
    pub fn read(self) -> Result<(ModelId, SeqId), InvalidInput> {
        let inconsistent = |reason| InvalidInput::InconsistentFields { reason };
        if self.model_id.is_empty() {
            return Err(inconsistent("model_id is missing"));
        }
        let seq_id = u64::try_from(self.seq_id)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| inconsistent("seq_id must be 1 or more"))?;
        Ok((ModelId::new(self.model_id), SeqId(seq_id)))
    }
}

/// One setting of a loss.
#[derive(Clone, PartialEq, prost::Message)]
pub struct LossConfigValue {
    /// The value.
    #[prost(oneof = "LossConfigValueKind", tags = "1, 2")]
    pub kind: Option<LossConfigValueKind>,
}

/// The value of a [`LossConfigValue`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum LossConfigValueKind {
    /// A number.
    #[prost(double, tag = "1")]
    Number(f64),
    /// Text.
    #[prost(string, tag = "2")]
    Text(String),
}

impl From<&crate::LossConfigValue> for LossConfigValue {
    fn from(value: &crate::LossConfigValue) -> Self {
        let kind = match value {
            crate::LossConfigValue::Number(number) => LossConfigValueKind::Number(*number),
            crate::LossConfigValue::Text(text) => LossConfigValueKind::Text(text.clone()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<LossConfigValue> for crate::LossConfigValue {
    type Error = InvalidInput;

    fn try_from(message: LossConfigValue) -> Result<Self, InvalidInput> {
        match message.kind {
            Some(LossConfigValueKind::Number(number)) => Ok(Self::Number(number)),
            Some(LossConfigValueKind::Text(text)) => Ok(Self::Text(text)),
            None => Err(InvalidInput::InconsistentFields {
                reason: "a setting of the loss function has no value",
            }),
        }
    }
}

/// One example.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Datum {
    /// What the model reads.
    #[prost(message, repeated, tag = "1")]
    pub model_input: Vec<Chunk>,
    /// What the loss reads, by name.
    #[prost(btree_map = "string, message", tag = "2")]
    pub loss_fn_inputs: BTreeMap<String, Tensor>,
    /// Where the input came from.
    #[prost(message, repeated, tag = "3")]
    pub model_input_spans: Vec<ProvenanceSpan>,
    /// Where the targets came from.
    #[prost(message, repeated, tag = "4")]
    pub loss_fn_input_spans: Vec<ProvenanceSpan>,
}

/// A run of tokens that came from a prompt or a sample.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ProvenanceSpan {
    /// Which of both.
    #[prost(oneof = "ProvenanceSpanKind", tags = "1, 2")]
    pub kind: Option<ProvenanceSpanKind>,
}

/// The origin of a [`ProvenanceSpan`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ProvenanceSpanKind {
    /// A prompt.
    #[prost(message, tag = "1")]
    PromptTokens(PromptProvenanceSpan),
    /// A sample.
    #[prost(message, tag = "2")]
    SampledTokens(SampledProvenanceSpan),
}

/// Tokens of a prompt.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct PromptProvenanceSpan {
    /// The sampled sequence that the prompt belongs to.
    #[prost(string, tag = "1")]
    pub sequence_id: String,
    /// First token.
    #[prost(int64, tag = "2")]
    pub offset: i64,
    /// How many tokens.
    #[prost(int64, tag = "3")]
    pub length: i64,
}

/// Tokens of a sample.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct SampledProvenanceSpan {
    /// The sampled sequence.
    #[prost(string, tag = "1")]
    pub sequence_id: String,
    /// First token.
    #[prost(int64, tag = "2")]
    pub offset: i64,
    /// How many tokens.
    #[prost(int64, tag = "3")]
    pub length: i64,
}

/// A piece of a model's input.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Chunk {
    /// What it is.
    #[prost(oneof = "ChunkKind", tags = "1, 2, 3")]
    pub kind: Option<ChunkKind>,
}

/// The kinds of [`Chunk`].
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum ChunkKind {
    /// Tokens.
    #[prost(message, tag = "1")]
    EncodedText(EncodedTextChunk),
    /// A picture.
    #[prost(message, tag = "2")]
    Image(ImageChunk),
    /// Audio.
    #[prost(message, tag = "3")]
    Dmel(DmelChunk),
}

/// Tokens.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct EncodedTextChunk {
    /// `int32` each.
    #[prost(bytes = "bytes", tag = "1")]
    pub tokens: Bytes,
}

/// A picture.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct ImageChunk {
    /// The file.
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
    /// `png` or `jpeg`.
    #[prost(string, tag = "2")]
    pub format: String,
    /// How many tokens the client expects it to take.
    #[prost(int32, optional, tag = "3")]
    pub expected_tokens: Option<i32>,
    /// Another size than the file's own.
    #[prost(message, optional, tag = "4")]
    pub override_dimensions: Option<ImageDimensions>,
}

/// The size of a picture in pixels.
#[derive(Clone, Copy, PartialEq, Eq, Hash, prost::Message)]
pub struct ImageDimensions {
    /// Pixels across.
    #[prost(uint32, tag = "1")]
    pub width: u32,
    /// Pixels down.
    #[prost(uint32, tag = "2")]
    pub height: u32,
}

/// Audio.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct DmelChunk {
    /// A tensor container.
    #[prost(bytes = "bytes", tag = "1")]
    pub dmel: Bytes,
}
