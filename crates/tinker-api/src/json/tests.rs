//! Bodies as the official client writes them.

use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use snakehouse_base::Coded;

use super::*;
use crate::ModelBounds;

fn both_ways<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(text: &str) -> T {
    let read: T = serde_json::from_str(text).unwrap();
    let written: serde_json::Value = serde_json::to_value(&read).unwrap();
    assert_eq!(written, serde_json::from_str::<serde_json::Value>(text).unwrap());
    read
}

#[test]
fn requests_go_both_ways() {
    both_ways::<CreateSession>(
        r#"{"tags":[],"user_metadata":{},"sdk_version":"0.38.0","type":"create_session"}"#,
    );
    both_ways::<RetrieveFuture>(r#"{"request_id":"7","allow_metadata_only":true}"#);
    both_ways::<GetInfo>(r#"{"model_id":"s:train:0","type":"get_info"}"#);
    both_ways::<Heartbeat>(r#"{"session_id":"s","type":"session_heartbeat"}"#);
    both_ways::<FinishSession>(r#"{"reason":{"type":"success"},"detail":null}"#);
    both_ways::<SaveWeights>(
        r#"{"model_id":"m","seq_id":3,"path":"ck","overwrite":false,"type":"save_weights"}"#,
    );
    both_ways::<SaveWeightsForSampler>(
        r#"{"model_id":"m","seq_id":3,"sampling_session_seq_id":0,"kind":"snapshot",
            "type":"save_weights_for_sampler"}"#,
    );
    let step: OptimStep = both_ways(
        r#"{"model_id":"m","seq_id":2,"type":"optim_step","adam_params":{"learning_rate":1e-4,
            "beta1":0.9,"beta2":0.95,"eps":1e-12,"weight_decay":0.0,"grad_clip_norm":0.0}}"#,
    );
    assert_eq!(step.adam().unwrap(), AdamParams::default());
    let load: LoadWeights = both_ways(
        r#"{"session_id":"s","model_seq_id":1,"path":"tinker://s:train:0/weights/ck",
            "optimizer":true,"type":"load_weights"}"#,
    );
    assert!(matches!(load.target().unwrap(), LoadTarget::New { model_seq_id: 1, .. }));
    assert_eq!(load.source().unwrap().name.as_str(), "ck");
}

#[test]
fn a_large_sampling_number_is_kept() {
    let sample: Sample = serde_json::from_value(json!({
        "num_samples": 1, "prompt": {"chunks": [{"tokens": [1, 2], "type": "encoded_text"}]},
        "sampling_params": {"max_tokens": 5, "temperature": 0.0},
        "sampling_session_id": "s", "seq_id": 737_035_091_000_000_000_u64,
        "prompt_logprobs": false, "type": "sample"
    }))
    .unwrap();
    assert_eq!(sample.seq_id, 737_035_091_000_000_000);
    assert_eq!(sample.prompt.tokens().unwrap(), [1, 2]);
    assert_eq!(sample.sampling_params.top_p, 1.0);
}

#[test]
fn stop_has_four_forms() {
    let stop = |text: &str| serde_json::from_str::<SamplingParams>(text).unwrap().stop;
    assert_eq!(stop("{}"), None);
    assert_eq!(stop(r#"{"stop":"x"}"#), Some(Stop::Text("x".to_owned())));
    assert_eq!(stop(r#"{"stop":["x","y"]}"#), Some(Stop::Texts(vec!["x".into(), "y".into()])));
    assert_eq!(stop(r#"{"stop":[7]}"#), Some(Stop::Tokens(vec![7])));
    assert_eq!(stop(r#"{"stop":[]}"#), Some(Stop::Texts(vec![])));
}

#[test]
fn bad_samples_have_their_own_codes() {
    let bounds = ModelBounds { vocab_size: 264, max_context: 8 };
    let code = |sample: serde_json::Value| {
        let mut whole = json!({"prompt": {"chunks": [{"tokens": [1], "type": "encoded_text"}]}});
        whole.as_object_mut().unwrap().extend(sample.as_object().unwrap().clone());
        let sample: Sample = serde_json::from_value(whole).unwrap();
        sample.check(&bounds).map_or_else(|e| e.code(), |_| "accepted")
    };
    let chunks = |chunk: serde_json::Value| json!({"prompt": {"chunks": [chunk]}});
    let text = |tokens: Vec<i64>| chunks(json!({"tokens": tokens, "type": "encoded_text"}));
    for (sample, expected) in [
        (json!({}), "accepted"),
        (json!({"prompt": {"chunks": []}}), "empty_input"),
        (text(vec![264]), "token_out_of_range"),
        (text(vec![-1]), "token_out_of_range"),
        (text(vec![1; 8]), "context_exceeded"),
        (chunks(json!({"data": "", "format": "png", "type": "image"})), "unsupported_chunk"),
        (chunks(json!({"type": "smell"})), "unsupported_chunk"),
        (json!({"num_samples": 0}), "out_of_range"),
        (json!({"num_samples": 129}), "out_of_range"),
        (json!({"topk_prompt_logprobs": 3}), "unsupported_option"),
        (json!({"sampling_params": {"temperature": -1.0}}), "out_of_range"),
        (json!({"sampling_params": {"top_p": 0.0}}), "out_of_range"),
        (json!({"sampling_params": {"top_k": -2}}), "out_of_range"),
        (json!({"sampling_params": {"max_tokens": 0}}), "out_of_range"),
        (json!({"sampling_params": {"stop": ""}}), "out_of_range"),
        (json!({"sampling_params": {"stop": [999]}}), "token_out_of_range"),
    ] {
        assert_eq!(code(sample.clone()), expected, "{sample}");
    }
}

#[test]
fn bad_numbers_of_a_step_are_named() {
    let step = |adam: AdamParams| adam.check().map_err(|e| e.to_string());
    let good = AdamParams::default();
    assert_eq!(step(AdamParams { learning_rate: 0.0, ..good }), Ok(()));
    assert!(step(AdamParams { learning_rate: f64::NAN, ..good }).is_err());
    assert!(step(AdamParams { beta1: 1.0, ..good }).is_err());
    assert!(step(AdamParams { eps: 0.0, ..good }).is_err());
    assert_eq!(
        step(AdamParams { grad_clip_norm: -1.0, ..good }).unwrap_err(),
        "grad_clip_norm must be finite and at least 0, it is -1"
    );
}

#[test]
fn answers_of_a_future_are_told_apart() {
    let read = |value: serde_json::Value| FutureAnswer::read(value.to_string().as_bytes()).unwrap();
    assert!(matches!(
        read(json!({"type": "try_again", "request_id": "1", "queue_state": "paused_capacity"})),
        FutureAnswer::Pending(Pending { queue_state: QueueState::PausedCapacity, .. })
    ));
    assert!(matches!(
        read(json!({"status": "complete_metadata", "response_payload_size": 9})),
        FutureAnswer::Announced { response_payload_size: 9 }
    ));
    assert!(matches!(
        read(json!({"error": "no", "category": "user"})),
        FutureAnswer::Failed(Failed { category: Category::User, .. })
    ));
    assert!(matches!(
        read(json!({"error": "no", "category": "new one"})),
        FutureAnswer::Failed(Failed { category: Category::Unknown, .. })
    ));
    assert!(matches!(read(json!({"path": "tinker://x"})), FutureAnswer::Done(_)));
    assert!(FutureAnswer::read(b"<html>").is_err());
}

#[test]
fn a_failure_reads_well_for_people_and_programs() {
    let error = crate::InvalidInput::UnknownLoss { name: "mse".to_owned() };
    let body = ErrorBody::from(ErrorDetail::of(&error));
    assert_eq!(
        body.detail,
        "unknown_loss: there is no loss function named \"mse\" (hint: use one of: cross_entropy)"
    );
    assert_eq!(body.error.unwrap().kind, "invalid_input");
}

#[test]
fn an_unknown_optimizer_is_refused() {
    let model = |optimizer: serde_json::Value| -> CreateModel {
        serde_json::from_value(json!({
            "session_id": "s", "model_seq_id": 0, "base_model": "tiny", "optimizer_config": optimizer
        }))
        .unwrap()
    };
    assert!(model(json!({"type": "adamw"})).check().is_ok());
    assert_eq!(model(json!({"type": "adamw"})).lora_config, LoraConfig::default());
    assert!(model(json!({"type": "dimuon", "version": 1})).check().is_err());
}
