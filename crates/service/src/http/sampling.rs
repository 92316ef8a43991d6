//! Sampling sessions and samples.

use axum::Json;
use axum::extract::{Path, State};
use snakehouse_base::id::{SamplerId, SessionId};
use snakehouse_tinker_api::json::{
    CreateSamplingSession, Promise, Sample, SamplerInfo, SamplingSessionCreated,
};
use snakehouse_tinker_api::{CheckpointPath, InvalidInput, limits};

use super::body::{JsonBody, LARGE};
use super::convert;
use super::refusal::Refusal;
use super::routes::Api;
use super::training::submit;
use crate::core::{NewSampler, SamplerWeights};

pub(crate) async fn create(
    State(api): State<Api>,
    body: JsonBody<CreateSamplingSession>,
) -> Result<Json<SamplingSessionCreated>, Refusal> {
    let request = body.value;
    let weights = match (request.base_model, request.model_path) {
        (Some(base), None) => SamplerWeights::Base(base),
        (None, Some(path)) => SamplerWeights::Path(path.parse::<CheckpointPath>()?.to_string()),
        _ => {
            return Err(InvalidInput::InconsistentFields {
                reason: "exactly one of base_model and model_path must be given",
            }
            .into());
        }
    };
    let new = NewSampler {
        session: SessionId::new(request.session_id),
        sampling_session_seq_id: request.sampling_session_seq_id,
        weights,
    };
    let sampler = api.core.create_sampling_session(new).await?;
    Ok(Json(SamplingSessionCreated { sampling_session_id: sampler.to_string() }))
}

pub(crate) async fn get(
    State(api): State<Api>,
    Path(sampler): Path<String>,
) -> Result<Json<SamplerInfo>, Refusal> {
    let info = api.core.sampler(&SamplerId::new(sampler)).await?;
    Ok(Json(SamplerInfo {
        sampler_id: info.sampler.to_string(),
        base_model: info.base_model,
        model_path: info.model_path,
    }))
}

pub(crate) async fn sample(
    State(api): State<Api>,
    body: JsonBody<Sample, { limits::SAMPLE_BODY }>,
) -> Result<Json<Promise>, Refusal> {
    let info = api.core.sampler(&convert::sampler_id(&body.value)?).await?;
    let bounds = convert::bounds(&api.base_model(&info.base_model).await?);
    let (large, value) = (body.bytes.len() > LARGE, body.value);
    let convert = move || convert::sample(&value, &bounds);
    let operation = if large { api.lane.run(convert).await? } else { convert() }?;
    submit(&api, operation).await
}
