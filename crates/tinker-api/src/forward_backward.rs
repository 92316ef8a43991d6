//! The `forward_backward` request.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message as _;
use snakehouse_base::id::{ModelId, SeqId};

use crate::{
    CrossEntropyDatum, Datum, InvalidInput, LossConfigValue, LossFn, ModelBounds, limits, proto,
};

/// Runs data through a model and, unless [`forward_only`](Self::forward_only), adds gradients.
#[derive(Clone, Debug, PartialEq)]
pub struct ForwardBackwardRequest {
    /// The model.
    pub model_id: ModelId,
    /// The operation's place in the model's order, from 1.
    pub seq_id: SeqId,
    /// The examples, in order.
    pub data: Vec<Datum>,
    /// The loss function's name as it came; [`check`](Self::check) makes sense of it.
    pub loss_fn: String,
    /// The loss function's settings.
    pub loss_fn_config: BTreeMap<String, LossConfigValue>,
    /// No gradients, only log-probabilities.
    pub forward_only: bool,
}

impl ForwardBackwardRequest {
    /// The protobuf body. Numbers among the settings are written twice, as older servers need it.
    pub fn encode(&self) -> Bytes {
        let seq_id = i32::try_from(self.seq_id.0).unwrap_or(i32::MAX);
        let message = proto::ForwardBackwardRequest {
            model_id: self.model_id.as_str().to_owned(),
            seq_id,
            data: self.data.iter().map(Datum::to_proto).collect(),
            loss_fn: self.loss_fn.clone(),
            loss_fn_config: self
                .loss_fn_config
                .iter()
                .filter_map(|(key, value)| match value {
                    LossConfigValue::Number(number) => Some((key.clone(), *number)),
                    LossConfigValue::Text(_) => None,
                })
                .collect(),
            forward_only: self.forward_only,
            loss_fn_config_v2: self
                .loss_fn_config
                .iter()
                .map(|(key, value)| (key.clone(), proto::LossConfigValue::from(value)))
                .collect(),
        };
        Bytes::from(message.encode_to_vec())
    }

    /// Reads a protobuf body.
    ///
    /// # Errors
    /// [`InvalidInput`] when the bytes are no such message, name no model or no order, or carry
    /// data that cannot be read. [`ForwardBackwardHeader`](proto::ForwardBackwardHeader) still says who
    /// sent it in the last case.
    pub fn decode(body: Bytes) -> Result<Self, InvalidInput> {
        let message = proto::ForwardBackwardRequest::decode(body)
            .map_err(|e| InvalidInput::MalformedBody { reason: e.to_string() })?;
        let header =
            proto::ForwardBackwardHeader { model_id: message.model_id, seq_id: message.seq_id };
        let (model_id, seq_id) = header.read()?;
        let data = message
            .data
            .iter()
            .enumerate()
            .map(|(index, datum)| Datum::from_proto(index, datum))
            .collect::<Result<_, _>>()?;
        let mut loss_fn_config: BTreeMap<_, _> = message
            .loss_fn_config
            .into_iter()
            .map(|(key, number)| (key, LossConfigValue::Number(number)))
            .collect();
        for (key, value) in message.loss_fn_config_v2 {
            loss_fn_config.insert(key, value.try_into()?);
        }
        Ok(Self {
            model_id,
            seq_id,
            data,
            loss_fn: message.loss_fn,
            loss_fn_config,
            forward_only: message.forward_only,
        })
    }

    /// Checks loss and data against what a model can take.
    ///
    /// # Errors
    /// [`InvalidInput`] names the first rule that the request breaks.
    pub fn check(&self, bounds: &ModelBounds) -> Result<Vec<CrossEntropyDatum>, InvalidInput> {
        let loss: LossFn = self.loss_fn.parse()?;
        if !loss.available() {
            return Err(InvalidInput::UnsupportedLoss { name: loss.as_str() });
        }
        if let Some(key) = self.loss_fn_config.keys().next() {
            return Err(InvalidInput::UnknownLossSetting { loss: loss.as_str(), key: key.clone() });
        }
        match self.data.len() {
            0 => return Err(InvalidInput::NoData),
            count if count > limits::DATUMS => {
                return Err(InvalidInput::TooManyDatums { count, most: limits::DATUMS });
            }
            _ => {}
        }
        self.data
            .iter()
            .enumerate()
            .map(|(index, datum)| CrossEntropyDatum::check(index, datum, bounds))
            .collect()
    }
}
