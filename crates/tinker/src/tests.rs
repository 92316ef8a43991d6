//! The clients, from connect to close, against a scripted service on a virtual clock.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use snakehouse_base::{Chance, Coded, Kind, Secret};
use snakehouse_supervise::Root;
use snakehouse_tinker_api::{ForwardBackwardRequest, LossOutput};

use crate::scripted::{Reply, Scripted};
use crate::transport::{Body, Request};
use crate::*;

/// A service that accepts everything and finishes it at once.
fn service() -> Scripted {
    let service = Scripted::new();
    service.always("client/config", Reply::json(200, "{}"));
    service.always("create_session", Reply::json(200, r#"{"session_id":"s"}"#));
    service.always("session_heartbeat", Reply::json(200, "{}"));
    service.always("sessions/s/finish", Reply::json(200, ""));
    service.respond("create_model", |request| {
        promise(&format!("model:{}", request.json()["model_seq_id"]))
    });
    service.respond("load_weights", |request| {
        promise(&format!("model:{}", request.json()["model_seq_id"]))
    });
    service.respond("get_info", |request| {
        let info = serde_json::json!({
            "model_id": request.json()["model_id"],
            "model_data": {"model_name": "tiny"},
        });
        Reply::json(200, &info.to_string())
    });
    service.respond("forward_backward", |request| promise(&format!("data:{}", seq(request))));
    for endpoint in ["optim_step", "save_weights", "save_weights_for_sampler"] {
        service.respond(endpoint, move |request| promise(&format!("{endpoint}:{}", seq(request))));
    }
    service.respond("asample", |_| promise("sample:0"));
    service.respond("retrieve_future", |request| {
        let id = request.json()["request_id"].as_str().unwrap().to_owned();
        let (what, number) = id.split_once(':').unwrap();
        match what {
            "model" => Reply::json(200, &format!(r#"{{"model_id":"s:train:{number}"}}"#)),
            "data" => Reply::protobuf(&data_output(number.parse().unwrap())),
            "optim_step" => Reply::json(200, "{}"),
            "save_weights" => Reply::json(200, r#"{"path":"tinker://s:train:0/weights/a"}"#),
            "save_weights_for_sampler" => Reply::json(200, r#"{"sampling_session_id":"p"}"#),
            "sample" => Reply::protobuf(&SampleOutput::default().encode()),
            _ => Reply::json(410, "{}"),
        }
    });
    service
}

fn promise(id: &str) -> Reply {
    Reply::json(200, &format!(r#"{{"request_id":"{id}","sample_sequence_ids":["x"]}}"#))
}

/// One output that says which request it answers.
fn data_output(seq: u16) -> Bytes {
    let logprobs = Tensor::float32(vec![f32::from(seq)]);
    ForwardBackwardOutput {
        output_type: "ArrayRecord".to_owned(),
        outputs: vec![LossOutput::from([("logprobs".to_owned(), logprobs)])],
        metrics: [("loss:sum".to_owned(), 1.0)].into(),
    }
    .encode()
}

fn decoded(request: &Request) -> ForwardBackwardRequest {
    let Some(Body::Protobuf(bytes)) = &request.body else { panic!("not a message") };
    ForwardBackwardRequest::decode(bytes.clone()).unwrap()
}

fn seq(request: &Request) -> u64 {
    match &request.body {
        Some(Body::Protobuf(_)) => decoded(request).seq_id.0,
        _ => request.json()["seq_id"].as_u64().unwrap(),
    }
}

fn seqs(service: &Scripted, endpoint: &str) -> Vec<u64> {
    service.seen(endpoint).iter().map(seq).collect()
}

fn batch(datums: usize) -> Vec<Datum> {
    vec![Datum::supervised(vec![1, 2], vec![2, 3], vec![1.0, 1.0]); datums]
}

async fn connect(service: &Scripted, root: &Root) -> ServiceClient {
    let config = ClientConfig::new("http://scripted", Secret::new("tml-x"));
    let transport = Arc::new(service.clone());
    ServiceClient::connect_over(
        transport,
        root.scope(),
        &config,
        "http://scripted",
        Chance::seeded(1),
    )
    .await
    .unwrap()
}

async fn model(service: &Scripted, root: &Root) -> TrainingClient {
    let client = connect(service, root).await;
    client.create_lora_training_client("tiny", LoraConfig::default()).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn chunks_go_second_third_first_and_come_back_in_order() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;

    let large = model.forward_backward(batch(2500), LossFn::CrossEntropy).await.unwrap();
    let small = model.forward_backward(batch(3), LossFn::CrossEntropy).await.unwrap();
    let step = model.optim_step(AdamParams::default()).await.unwrap();
    let look = model.forward(batch(1), LossFn::CrossEntropy).await.unwrap();

    assert_eq!(seqs(&service, "forward_backward"), [2, 3, 1, 4, 6]);
    assert_eq!(seqs(&service, "optim_step"), [5]);
    let posted: Vec<_> = service.seen("forward_backward").iter().map(decoded).collect();
    let sizes: Vec<_> = posted.iter().map(|request| request.data.len()).collect();
    assert_eq!(sizes, [1024, 452, 1024, 3, 1]);
    assert!(posted[4].forward_only && !posted[3].forward_only);

    let output = large.await.unwrap();
    let order: Vec<_> =
        output.outputs.iter().map(|one| one["logprobs"].as_float32().unwrap()[0]).collect();
    assert_eq!(order, [1.0, 2.0, 3.0]);
    assert_eq!(output.metrics["loss:sum"].total_cmp(&3.0), std::cmp::Ordering::Equal);
    step.await.unwrap();
    small.await.unwrap();
    look.await.unwrap();
    assert!(root.stop().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn operations_are_submitted_before_any_result_is_asked_for() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    let polls = service.seen("retrieve_future").len();

    let gradients = model.forward_backward(batch(1), LossFn::CrossEntropy).await.unwrap();
    let step = model.optim_step(AdamParams::default()).await.unwrap();
    assert_eq!(service.seen("retrieve_future").len(), polls);

    step.await.unwrap();
    gradients.await.unwrap();
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_leaves_no_hole_in_the_order() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    service.reply("optim_step", promise("optim_step:1").after(Duration::from_secs(5)));

    let abandoned = model.optim_step(AdamParams::default());
    let waited = tokio::time::timeout(Duration::from_secs(1), abandoned).await;
    assert!(waited.is_err());
    let next = model.optim_step(AdamParams::default()).await.unwrap();
    next.await.unwrap();

    assert_eq!(seqs(&service, "optim_step"), [1, 2]);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_restart_of_the_service_is_invisible_to_a_training_loop() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    for endpoint in ["forward_backward", "optim_step", "retrieve_future"] {
        service.reply(endpoint, Reply::Broken);
        (0..30).for_each(|_| service.reply(endpoint, Reply::Refused));
        service.reply(endpoint, Reply::json(503, r#"{"detail":"recovering"}"#));
    }

    let gradients = model.forward_backward(batch(1), LossFn::CrossEntropy).await.unwrap();
    let step = model.optim_step(AdamParams::default()).await.unwrap();
    gradients.await.unwrap();
    step.await.unwrap();

    // Every attempt was the same request.
    assert!(seqs(&service, "forward_backward").iter().all(|&seq| seq == 1));
    assert!(seqs(&service, "optim_step").iter().all(|&seq| seq == 2));
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_operation_has_used_its_place() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    service.reply("forward_backward", Reply::json(422, r#"{"detail":"bad data"}"#));

    let refused = model.forward_backward(batch(1), LossFn::CrossEntropy).await;
    assert_eq!(refused.unwrap_err().kind(), Kind::InvalidInput);
    let empty = model.forward_backward(Vec::new(), LossFn::CrossEntropy).await;
    assert_eq!(empty.unwrap_err().code(), "no_data");
    model.optim_step(AdamParams::default()).await.unwrap().await.unwrap();

    assert_eq!(seqs(&service, "optim_step"), [2]);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_chunk_leaves_no_hole_either() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    service.reply("forward_backward", Reply::json(422, r#"{"detail":"bad data"}"#));

    let refused = model.forward_backward(batch(2000), LossFn::CrossEntropy).await;

    assert!(refused.is_err());
    assert_eq!(seqs(&service, "forward_backward"), [2, 1]);
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_go_on_until_the_service_ends_the_session() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    service.reply("session_heartbeat", Reply::json(200, "{}"));
    service.reply("session_heartbeat", Reply::Refused);
    service.reply("session_heartbeat", Reply::Never);
    service.reply("session_heartbeat", Reply::json(410, "{}"));
    tokio::time::sleep(Duration::from_secs(45)).await;
    assert!(model.optim_step(AdamParams::default()).await.is_ok());
    tokio::time::sleep(Duration::from_secs(300)).await;

    assert_eq!(service.seen("session_heartbeat").len(), 4);
    let error = model.optim_step(AdamParams::default()).await.unwrap_err();
    assert_eq!(error.code(), "session_ended");
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_heartbeat_ends_with_the_last_client() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(service.seen("session_heartbeat").len(), 3);
    drop(model);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(service.seen("session_heartbeat").len(), 3);
    assert!(root.scope().tree().children.is_empty());
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_model_made_from_a_state_starts_its_own_order() {
    let (service, root) = (service(), Root::new("test"));
    let client = connect(&service, &root).await;
    let path = "tinker://s:train:0/weights/a";

    let model = client.create_training_client_from_state_with_optimizer(path).await.unwrap();
    let saved = model.save_state("a").await.unwrap().await.unwrap();

    assert_eq!(model.model_id().as_str(), "s:train:0");
    assert_eq!(saved.to_string(), path);
    assert_eq!(seqs(&service, "save_weights"), [1]);
    let asked = service.seen("load_weights")[0].json();
    assert_eq!(asked["session_id"], "s");
    assert_eq!(asked["model_seq_id"], 0);
    assert_eq!(asked["optimizer"], true);
    assert!(asked.get("model_id").is_none());
    assert!(client.create_training_client_from_state("nonsense").await.is_err());
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn samples_count_by_themselves_and_wait_for_capacity() {
    let (service, root) = (service(), Root::new("test"));
    let model = model(&service, &root).await;
    let sampler = model.save_weights_and_get_sampling_client().await.unwrap();
    service.reply("asample", Reply::json(429, "{}").retry_after(Duration::from_secs(1)));

    for _ in 0..2 {
        let sampled = sampler.sample(&[1, 2], SamplingParams::default(), 1).await.unwrap();
        sampled.await.unwrap();
    }

    assert_eq!(seqs(&service, "asample"), [0, 0, 1]);
    let body = service.seen("asample")[0].json();
    assert_eq!(body["sampling_session_id"], "p");
    assert_eq!(body["prompt"]["chunks"][0]["tokens"], serde_json::json!([1, 2]));
    assert!(sampler.sample(&[], SamplingParams::default(), 1).await.is_err());
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_an_operation_covers_submission_and_result() {
    let (service, root) = (service(), Root::new("test"));
    let mut config = ClientConfig::new("http://scripted", Secret::new("tml-x"));
    config.within = Some(Duration::from_secs(20));
    let transport = Arc::new(service.clone());
    let client =
        ServiceClient::connect_over(transport, root.scope(), &config, "", Chance::seeded(1))
            .await
            .unwrap();
    let model = client.create_lora_training_client("tiny", LoraConfig::default()).await.unwrap();
    let start = tokio::time::Instant::now();
    service.reply("optim_step", promise("optim_step:1").after(Duration::from_secs(15)));
    service.reply("retrieve_future", Reply::Never);

    let error = model.optim_step(AdamParams::default()).await.unwrap().await.unwrap_err();

    assert_eq!(error.kind(), Kind::Deadline);
    assert_eq!(start.elapsed(), Duration::from_secs(20));
    root.stop().await;
}

#[tokio::test(start_paused = true)]
async fn closing_tells_the_service_and_ends_every_client() {
    let (service, root) = (service(), Root::new("test"));
    let client = connect(&service, &root).await;
    let model = client.create_lora_training_client("tiny", LoraConfig::default()).await.unwrap();
    let sleeping = model.optim_step(AdamParams::default()).await.unwrap();

    client.close(FinishStatus::Success).await.unwrap();

    let told = service.seen("sessions/s/finish")[0].json();
    assert_eq!(told, serde_json::json!({"reason": {"type": "success"}, "detail": null}));
    assert_eq!(sleeping.await.unwrap_err().code(), "client_stopped");
    let late = model.optim_step(AdamParams::default()).now_or_never();
    assert_eq!(late.unwrap().unwrap_err().code(), "client_stopped");
    assert!(root.stop().await.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_wants_token_exchange_is_refused_by_name() {
    let (service, root) = (service(), Root::new("test"));
    service.reply("client/config", Reply::json(200, r#"{"pjwt_auth_enabled":true}"#));
    let config = ClientConfig::new("http://scripted", Secret::new("tml-x"));
    let transport = Arc::new(service.clone());
    let error =
        ServiceClient::connect_over(transport, root.scope(), &config, "", Chance::seeded(1))
            .await
            .unwrap_err();
    assert_eq!(error.code(), "protocol_violation");
    root.stop().await;
}
