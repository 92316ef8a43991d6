//! From the wire's words to the core's and back, without I/O.

use bytes::Bytes;
use prost::Message as _;
use snakehouse_base::Coded;
use snakehouse_base::id::{ModelId, SamplerId, SeqId, SessionId};
use snakehouse_engine_api as engine;
use snakehouse_tinker_api::json::{
    AdamParams, CreateModel, ErrorDetail, LoadTarget, LoadWeights, LoraConfig, OptimStep,
    OptimStepDone, Sample, SaveForSamplerTarget, SaveWeights, SaveWeightsForSampler,
    SavedForSampler, Stop,
};
use snakehouse_tinker_api::{
    CheckpointKind, CheckpointPath, CrossEntropyDatum, ForwardBackwardOutput,
    ForwardBackwardRequest, InvalidInput, ModelBounds, proto,
};

use super::body::NumberedBody;
use crate::core::{self, BaseModel, LoraRequest, SampleRequest, Submit, Target};

/// What can be checked against a base model.
pub(crate) fn bounds(base: &BaseModel) -> ModelBounds {
    ModelBounds {
        vocab_size: base.vocab_size,
        max_context: usize::try_from(base.max_context).unwrap_or(usize::MAX),
    }
}

/// An operation that breaks a rule, to be recorded as failed under its key.
pub(crate) fn invalid(target: Target, error: &impl Coded, content: Bytes) -> Submit {
    tracing::debug!(code = error.code(), %error, "invalid operation");
    Submit::Invalid { target, message: ErrorDetail::of(error).sentence(), content }
}

/// What a numbered body asks for; one that cannot be read keeps its place.
pub(crate) fn numbered<T>(body: NumberedBody<T>, read: impl FnOnce(&T, Bytes) -> Submit) -> Submit {
    match body {
        NumberedBody::Read { value, bytes } => read(&value, bytes),
        NumberedBody::Unreadable { place, error, bytes } => invalid(place, &error, bytes),
    }
}

/// The place of a numbered operation of a model.
pub(crate) fn place(model: &str, seq: u64) -> Target {
    Target::Model(ModelId::new(model), SeqId(seq))
}

pub(crate) fn lora(config: &LoraConfig) -> LoraRequest {
    LoraRequest {
        rank: config.rank,
        seed: config.seed.map(i64::cast_unsigned),
        train_attn: config.train_attn,
        train_mlp: config.train_mlp,
        train_unembed: config.train_unembed,
    }
}

pub(crate) fn create_model(request: CreateModel) -> Result<Submit, InvalidInput> {
    request.check()?;
    Ok(Submit::CreateModel {
        session: SessionId::new(request.session_id),
        model_seq_id: request.model_seq_id,
        lora: lora(&request.lora_config),
        base_model: request.base_model,
        user_metadata: request.user_metadata,
    })
}

/// Decodes and checks a `forward_backward` whose sender is known.
pub(crate) fn forward_backward(
    model: ModelId,
    seq: SeqId,
    body: Bytes,
    bounds: &ModelBounds,
) -> Submit {
    let read = ForwardBackwardRequest::decode(body.clone())
        .and_then(|request| Ok((request.check(bounds)?, request.forward_only)));
    match read {
        Ok((data, forward_only)) => Submit::ForwardBackward {
            model,
            seq,
            data: data.iter().map(datum).collect(),
            loss: engine::Loss::CrossEntropy,
            forward_only,
        },
        Err(error) => invalid(Target::Model(model, seq), &error, body),
    }
}

fn datum(checked: &CrossEntropyDatum) -> engine::Datum {
    engine::Datum {
        tokens: le_tokens(&checked.tokens),
        targets: le_tokens(&checked.targets),
        weights: checked.weights.iter().flat_map(|w| w.to_le_bytes()).collect(),
    }
}

/// Checked ids are far below 2³¹, so their `u32` bytes are their `i32` bytes.
fn le_tokens(tokens: &[u32]) -> Bytes {
    tokens.iter().flat_map(|t| t.to_le_bytes()).collect()
}

pub(crate) fn optim_step(request: &OptimStep, content: Bytes) -> Submit {
    match request.adam() {
        Ok(adam) => Submit::OptimStep {
            model: ModelId::new(&request.model_id),
            seq: SeqId(request.seq_id),
            adam: adam_numbers(adam),
        },
        Err(error) => invalid(place(&request.model_id, request.seq_id), &error, content),
    }
}

fn adam_numbers(adam: AdamParams) -> engine::Adam {
    engine::Adam {
        learning_rate: adam.learning_rate,
        beta1: adam.beta1,
        beta2: adam.beta2,
        eps: adam.eps,
        weight_decay: adam.weight_decay,
        grad_clip_norm: adam.grad_clip_norm,
    }
}

pub(crate) fn save_weights(request: &SaveWeights, content: Bytes) -> Submit {
    match request.name() {
        Ok(name) => Submit::SaveWeights {
            model: ModelId::new(&request.model_id),
            seq: SeqId(request.seq_id),
            name: name.into(),
            overwrite: request.overwrite,
        },
        Err(error) => invalid(place(&request.model_id, request.seq_id), &error, content),
    }
}

pub(crate) fn save_for_sampler(request: &SaveWeightsForSampler, content: Bytes) -> Submit {
    let (name, sampling_session_seq_id) = match request.target() {
        Ok(SaveForSamplerTarget::Named(name)) => (Some(name.into()), None),
        Ok(SaveForSamplerTarget::Session { sampling_session_seq_id }) => {
            (None, sampling_session_seq_id)
        }
        Err(error) => return invalid(place(&request.model_id, request.seq_id), &error, content),
    };
    Submit::SaveForSampler {
        model: ModelId::new(&request.model_id),
        seq: SeqId(request.seq_id),
        name,
        sampling_session_seq_id,
    }
}

/// # Errors
/// [`InvalidInput`] when not even the target is clear.
pub(crate) fn load_weights(request: LoadWeights, content: Bytes) -> Result<Submit, InvalidInput> {
    let target = request.target()?;
    match request.source().and_then(training_weights) {
        Ok(path) => Ok(Submit::LoadWeights {
            target: match target {
                LoadTarget::New { session, model_seq_id } => core::LoadTarget::Create {
                    session,
                    model_seq_id,
                    base_model: request.base_model,
                    user_metadata: request.user_metadata,
                },
                LoadTarget::Existing { model, seq } => core::LoadTarget::Overwrite { model, seq },
            },
            path: path.to_string(),
            optimizer: request.optimizer,
        }),
        // A new model has no order that could wait, so it is simply refused.
        Err(error) => match target {
            LoadTarget::New { .. } => Err(error),
            LoadTarget::Existing { model, seq } => {
                Ok(invalid(Target::Model(model, seq), &error, content))
            }
        },
    }
}

fn training_weights(path: CheckpointPath) -> Result<CheckpointPath, InvalidInput> {
    match path.kind {
        CheckpointKind::Training => Ok(path),
        CheckpointKind::Sampler => Err(InvalidInput::InvalidPath {
            path: path.to_string(),
            reason: "it holds weights for sampling, which cannot be trained on",
        }),
    }
}

/// # Errors
/// [`InvalidInput`] names the first rule that the request breaks. Samples have no order, so they
/// are refused, not recorded.
pub(crate) fn sample(request: &Sample, bounds: &ModelBounds) -> Result<Submit, InvalidInput> {
    let prompt = request.check(bounds)?;
    let params = &request.sampling_params;
    let stop = match &params.stop {
        None => engine::Stop::Eos,
        Some(Stop::Text(text)) => engine::Stop::Texts(vec![text.clone()]),
        Some(Stop::Texts(texts)) if texts.is_empty() => engine::Stop::Tokens(Vec::new()),
        Some(Stop::Texts(texts)) => engine::Stop::Texts(texts.clone()),
        Some(Stop::Tokens(tokens)) => engine::Stop::Tokens(bounds.check_tokens(0, "stop", tokens)?),
    };
    Ok(Submit::Sample {
        sampler: sampler_id(request)?,
        seq: request.seq_id,
        request: SampleRequest {
            prompt: le_tokens(&prompt),
            num_samples: request.num_samples,
            max_tokens: params.max_tokens,
            seed: params.seed.map(i64::cast_unsigned),
            temperature: narrow(params.temperature),
            top_k: u32::try_from(params.top_k.max(0)).unwrap_or(u32::MAX),
            top_p: narrow(params.top_p),
            stop,
            prompt_logprobs: request.prompt_logprobs,
        },
    })
}

/// The sampling session that a sample is for.
pub(crate) fn sampler_id(request: &Sample) -> Result<SamplerId, InvalidInput> {
    request
        .sampling_session_id
        .as_deref()
        .map(SamplerId::new)
        .ok_or(InvalidInput::InconsistentFields { reason: "sampling_session_id is missing" })
}

#[expect(clippy::cast_possible_truncation, reason = "rounding to the nearest float is meant")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// The protobuf result of a `forward_backward`.
pub(crate) fn forward_backward_result(output: &engine::ForwardBackwardOutput) -> Bytes {
    ForwardBackwardOutput::encode_cross_entropy(
        output.outputs.iter().map(|datum| &datum.logprobs[..]),
        output.loss_sum,
    )
}

/// The protobuf result of an `asample`.
pub(crate) fn sample_result(sampled: engine::Sampled) -> Bytes {
    let sequences = sampled
        .sequences
        .into_iter()
        .map(|sequence| proto::SampledSequence {
            stop_reason: match sequence.stop {
                engine::StopReason::Stop => proto::StopReason::Stop as i32,
                engine::StopReason::Length => proto::StopReason::Length as i32,
            },
            tokens: sequence.tokens,
            logprobs: Some(sequence.logprobs),
            topk_sampled_logprobs: None,
        })
        .collect();
    let message = proto::SampleResponse {
        sequences,
        prompt_logprobs: sampled.prompt_logprobs,
        ..proto::SampleResponse::default()
    };
    Bytes::from(message.encode_to_vec())
}

/// The JSON result of an `optim_step`. Names end in how chunks of numbers would be combined.
pub(crate) fn optim_step_result(output: engine::OptimizeOutput) -> OptimStepDone {
    #[expect(clippy::cast_precision_loss, reason = "a step count stays far below 2⁵³")]
    let step = output.step as f64;
    let metrics = [("grad_norm:mean".to_owned(), output.grad_norm), ("step:max".to_owned(), step)];
    OptimStepDone { metrics: Some(metrics.into()) }
}

pub(crate) fn saved_for_sampler(
    path: Option<String>,
    sampler: Option<SamplerId>,
) -> SavedForSampler {
    SavedForSampler { path, sampling_session_id: sampler.map(|s| s.to_string()) }
}

#[cfg(test)]
mod tests;
