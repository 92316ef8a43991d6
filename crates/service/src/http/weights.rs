//! Saving, loading and describing weights.

use axum::Json;
use axum::extract::State;
use snakehouse_tinker_api::CheckpointPath;
use snakehouse_tinker_api::json::{
    LoadWeights, Promise, SaveWeights, SaveWeightsForSampler, WeightsInfo, WeightsInfoRequest,
};

use super::body::{JsonBody, NumberedBody};
use super::convert;
use super::refusal::Refusal;
use super::routes::Api;
use super::training::submit;

pub(crate) async fn save(
    State(api): State<Api>,
    body: NumberedBody<SaveWeights>,
) -> Result<Json<Promise>, Refusal> {
    submit(&api, convert::numbered(body, convert::save_weights)).await
}

pub(crate) async fn save_for_sampler(
    State(api): State<Api>,
    body: NumberedBody<SaveWeightsForSampler>,
) -> Result<Json<Promise>, Refusal> {
    submit(&api, convert::numbered(body, convert::save_for_sampler)).await
}

pub(crate) async fn load(
    State(api): State<Api>,
    body: JsonBody<LoadWeights>,
) -> Result<Json<Promise>, Refusal> {
    submit(&api, convert::load_weights(body.value, body.bytes)?).await
}

pub(crate) async fn info(
    State(api): State<Api>,
    body: JsonBody<WeightsInfoRequest>,
) -> Result<Json<WeightsInfo>, Refusal> {
    let path: CheckpointPath = body.value.tinker_path.parse()?;
    let info = api.core.weights_info(&path.to_string()).await?;
    Ok(Json(WeightsInfo {
        base_model: info.base_model,
        optimizer_config: None,
        is_lora: true,
        lora_rank: Some(info.lora.rank),
        train_unembed: Some(info.lora.train_unembed),
        train_mlp: Some(info.lora.train_mlp),
        train_attn: Some(info.lora.train_attn),
    }))
}
