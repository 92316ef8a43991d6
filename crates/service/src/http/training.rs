//! Training models: making, describing, computing, stepping.

use axum::Json;
use axum::extract::State;
use bytes::Bytes;
use snakehouse_base::id::ModelId;
use snakehouse_tinker_api::json::{CreateModel, GetInfo, ModelData, ModelInfo, OptimStep, Promise};
use snakehouse_tinker_api::{limits, proto};

use super::body::{Arrived, JsonBody, LARGE, NumberedBody, ProtobufBody};
use super::convert;
use super::refusal::Refusal;
use super::routes::Api;
use crate::core::{Submit, Target};

/// Hands an operation to the core and answers with its promise.
pub(crate) async fn submit(api: &Api, operation: Submit) -> Result<Json<Promise>, Refusal> {
    let promise = api.core.submit(operation).await?;
    let ids = promise.sample_sequence_ids;
    Ok(Json(Promise {
        request_id: promise.request_id,
        model_id: promise.model_id.map(|m| m.to_string()),
        sample_sequence_ids: (!ids.is_empty()).then_some(ids),
    }))
}

pub(crate) async fn create_model(
    State(api): State<Api>,
    body: JsonBody<CreateModel>,
) -> Result<Json<Promise>, Refusal> {
    submit(&api, convert::create_model(body.value)?).await
}

pub(crate) async fn get_info(
    State(api): State<Api>,
    body: JsonBody<GetInfo>,
) -> Result<Json<ModelInfo>, Refusal> {
    let info = api.core.model_info(&ModelId::new(body.value.model_id)).await?;
    let tokenizer = api.base_model(&info.base_model).await?.dir;
    Ok(Json(ModelInfo {
        model_id: info.model_id.to_string(),
        model_data: ModelData {
            arch: None,
            model_name: Some(info.base_model.clone()),
            // A directory of this machine, which is where the client runs.
            tokenizer_id: Some(tokenizer.display().to_string()),
        },
        optimizer_config: None,
        is_lora: Some(true),
        lora_rank: Some(info.lora.rank),
        model_name: Some(info.base_model),
    }))
}

pub(crate) async fn forward_backward(
    State(api): State<Api>,
    ProtobufBody { arrived: body, room: _room }: ProtobufBody<{ limits::FORWARD_BACKWARD_BODY }>,
) -> Result<Json<Promise>, Refusal> {
    let body = match body {
        Arrived::Whole(body) => body,
        Arrived::TooLarge { beginning, error } => {
            return match proto::ForwardBackwardHeader::of_beginning(&beginning) {
                Ok((model, seq)) => {
                    let place = Target::Model(model, seq);
                    submit(&api, convert::invalid(place, &error, beginning)).await
                }
                Err(_) => Err(error.into()),
            };
        }
    };
    let (model, seq) = proto::ForwardBackwardHeader::of(&body)?;
    let info = api.core.model_info(&model).await?;
    let bounds = convert::bounds(&api.base_model(&info.base_model).await?);
    let read = move |body: Bytes| convert::forward_backward(model, seq, body, &bounds);
    let operation = if body.len() > LARGE {
        api.lane.run(move || read(body)).await.map_err(Refusal::from)?
    } else {
        read(body)
    };
    submit(&api, operation).await
}

pub(crate) async fn optim_step(
    State(api): State<Api>,
    body: NumberedBody<OptimStep>,
) -> Result<Json<Promise>, Refusal> {
    submit(&api, convert::numbered(body, convert::optim_step)).await
}
