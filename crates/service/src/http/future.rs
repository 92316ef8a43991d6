//! `retrieve_future` and `cancel_future`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde::Serialize;
use snakehouse_tinker_api::json::{
    CancelFuture, Category, Failed, ModelCreated, Pending, QueueState, RetrieveFuture,
    WeightsLoaded,
};
use snakehouse_tinker_api::{ForwardBackwardOutput, PROTOBUF, SampleOutput};

use super::body::{JsonBody, LARGE};
use super::convert;
use super::refusal::Refusal;
use super::routes::Api;
use crate::core::{self, OpResult, Outcome};

/// How long a poll is held. The official client gives up at 45 s and polls again without a pause,
/// so a shorter hold costs requests and a longer one errors.
pub(crate) const HOLD: Duration = Duration::from_secs(30);

/// Counts the polls that are being held.
#[derive(Clone, Debug, Default)]
pub(crate) struct HeldPolls(Arc<AtomicU64>);

impl HeldPolls {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one until the guard is dropped, however the poll ends.
    fn hold(&self) -> HeldPoll {
        self.0.fetch_add(1, Ordering::Relaxed);
        HeldPoll(self.clone())
    }
}

struct HeldPoll(HeldPolls);

impl Drop for HeldPoll {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) async fn retrieve(
    State(api): State<Api>,
    headers: HeaderMap,
    body: JsonBody<RetrieveFuture>,
) -> Result<Response, Refusal> {
    let _held = api.polls.hold();
    let outcome = tokio::select! {
        outcome = api.core.wait(&body.value.request_id, HOLD) => outcome?,
        // The client polls again and finds the service that comes after this one.
        () = api.stopping.cancelled() => Outcome::Pending,
    };
    let wants_protobuf = headers
        .get_all(ACCEPT)
        .iter()
        .any(|v| v.to_str().is_ok_and(|accept| accept.contains(PROTOBUF)));
    if is_large(&outcome) {
        return api.lane.run(move || answer(outcome, wants_protobuf)).await?;
    }
    answer(outcome, wants_protobuf)
}

/// Whether writing the answer would hold up an async thread.
fn is_large(outcome: &Outcome) -> bool {
    let bytes: usize = match outcome {
        Outcome::Done(OpResult::ForwardBackward(output)) => {
            output.outputs.iter().map(|datum| datum.logprobs.len()).sum()
        }
        Outcome::Done(OpResult::Sampled(sampled)) => {
            sampled.sequences.iter().map(|sequence| sequence.tokens.len()).sum()
        }
        _ => 0,
    };
    bytes > LARGE
}

fn answer(outcome: Outcome, wants_protobuf: bool) -> Result<Response, Refusal> {
    let result = match outcome {
        Outcome::Pending => {
            let body = Pending { queue_state: QueueState::Active, queue_state_reason: None };
            return Ok((StatusCode::REQUEST_TIMEOUT, Json(body)).into_response());
        }
        Outcome::Failed { error, category } => {
            let category = match category {
                core::Category::User => Category::User,
                core::Category::Server => Category::Server,
            };
            let body = Failed { error, category, code: None, kind: None, hint: None };
            return Ok(Json(body).into_response());
        }
        Outcome::Done(result) => result,
    };
    Ok(match result {
        OpResult::ForwardBackward(output) => {
            let body = convert::forward_backward_result(&output);
            protobuf_or(body, wants_protobuf, ForwardBackwardOutput::decode)?
        }
        OpResult::Sampled(sampled) => {
            let body = convert::sample_result(sampled);
            protobuf_or(body, wants_protobuf, SampleOutput::decode)?
        }
        OpResult::ModelCreated { model_id } => {
            Json(ModelCreated { model_id: model_id.to_string() }).into_response()
        }
        OpResult::Optimized(output) => Json(convert::optim_step_result(output)).into_response(),
        OpResult::Saved { path } => {
            Json(convert::saved_for_sampler(Some(path), None)).into_response()
        }
        OpResult::SamplerSaved { sampler } => {
            Json(convert::saved_for_sampler(None, Some(sampler))).into_response()
        }
        OpResult::Loaded { model_id, path } => {
            Json(WeightsLoaded { path: Some(path), model_id: Some(model_id.to_string()) })
                .into_response()
        }
    })
}

/// The body as it is, or as the JSON that clients before 0.25 read.
fn protobuf_or<T: Serialize>(
    body: Bytes,
    wants_protobuf: bool,
    decode: impl FnOnce(Bytes) -> Result<T, snakehouse_tinker_api::InvalidInput>,
) -> Result<Response, Refusal> {
    if wants_protobuf {
        return Ok(([(CONTENT_TYPE, PROTOBUF)], body).into_response());
    }
    Ok(Json(decode(body)?).into_response())
}

/// Accepted and without effect: every operation runs to its end, which keeps results a function of
/// what was accepted. A client that has cancelled does not fetch the result.
pub(crate) async fn cancel(_: State<Api>, _: JsonBody<CancelFuture>) -> Json<serde_json::Value> {
    Json(serde_json::json!({}))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use serde_json::{Value, json};
    use snakehouse_base::id::{ModelId, SamplerId};
    use snakehouse_engine_api as engine;

    use super::*;

    async fn told(outcome: Outcome, protobuf: bool) -> (u16, String, Bytes) {
        let response = answer(outcome, protobuf).unwrap();
        let status = response.status().as_u16();
        let kind = response.headers()[CONTENT_TYPE].to_str().unwrap().to_owned();
        (status, kind, response.into_body().collect().await.unwrap().to_bytes())
    }

    async fn json_of(outcome: Outcome) -> (u16, Value) {
        let (status, kind, body) = told(outcome, false).await;
        assert_eq!(kind, "application/json");
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn trained() -> Outcome {
        let logprobs = [-1.0f32, -0.5].iter().flat_map(|v| v.to_le_bytes()).collect();
        let outputs = vec![engine::DatumOutput { logprobs }];
        let output = engine::ForwardBackwardOutput { outputs, loss_sum: 1.5 };
        Outcome::Done(OpResult::ForwardBackward(output))
    }

    #[tokio::test]
    async fn a_failed_operation_is_a_200_and_an_unfinished_one_a_408() {
        let failed = Outcome::Failed { error: "no".to_owned(), category: core::Category::Server };
        assert_eq!(json_of(failed).await, (200, json!({"error": "no", "category": "server"})));
        assert_eq!(json_of(Outcome::Pending).await, (408, json!({"queue_state": "active"})));
    }

    #[tokio::test]
    async fn tensors_are_protobuf_when_asked_for_and_json_otherwise() {
        let (status, kind, body) = told(trained(), true).await;
        assert_eq!((status, kind.as_str()), (200, PROTOBUF));
        let read = ForwardBackwardOutput::decode(body).unwrap();
        assert_eq!(read.outputs[0]["logprobs"].as_float32().unwrap(), [-1.0, -0.5]);
        let (_, json) = json_of(trained()).await;
        assert_eq!(json["metrics"]["loss:sum"], 1.5);
        assert_eq!(
            json["loss_fn_outputs"][0]["logprobs"],
            json!({"data": [-1.0, -0.5], "dtype": "float32", "shape": [2]})
        );
    }

    #[tokio::test]
    async fn no_result_looks_like_a_failure_or_a_pending_answer() {
        for result in [
            OpResult::ModelCreated { model_id: ModelId::new("s:train:0") },
            OpResult::Optimized(engine::OptimizeOutput { step: 1, grad_norm: 0.0 }),
            OpResult::Saved { path: "tinker://s/weights/x".to_owned() },
            OpResult::SamplerSaved { sampler: SamplerId::new("x") },
            OpResult::Loaded { model_id: ModelId::new("m"), path: "p".to_owned() },
        ] {
            let (status, json) = json_of(Outcome::Done(result)).await;
            assert_eq!(status, 200);
            for key in ["error", "type", "status"] {
                assert!(json.get(key).is_none(), "{json}");
            }
        }
    }
}
