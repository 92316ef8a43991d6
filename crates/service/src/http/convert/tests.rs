//! Translation without a core.

use serde_json::json;
use snakehouse_tinker_api::{Datum, SampleOutput};

use super::*;

const BOUNDS: ModelBounds = ModelBounds { vocab_size: 264, max_context: 64 };

fn read<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn ints(bytes: &[u8]) -> Vec<i32> {
    bytes.as_chunks().0.iter().map(|c| i32::from_le_bytes(*c)).collect()
}

fn body(data: Vec<Datum>, loss: &str) -> Bytes {
    ForwardBackwardRequest {
        model_id: ModelId::new("s:train:0"),
        seq_id: SeqId(3),
        data,
        loss_fn: loss.to_owned(),
        loss_fn_config: Default::default(),
        forward_only: true,
    }
    .encode()
}

#[test]
fn a_batch_becomes_the_engines_bytes() {
    let body =
        body(vec![Datum::supervised(vec![1, 2], vec![2, 263], vec![0.5, 1.0])], "cross_entropy");
    let (model, seq) = proto::ForwardBackwardHeader::of(&body).unwrap();
    let Submit::ForwardBackward { model, seq, data, loss, forward_only } =
        forward_backward(model, seq, body, &BOUNDS)
    else {
        panic!("a valid batch is an operation");
    };
    assert_eq!((model.as_str(), seq, forward_only), ("s:train:0", SeqId(3), true));
    assert_eq!(loss, engine::Loss::CrossEntropy);
    assert_eq!(ints(&data[0].tokens), [1, 2]);
    assert_eq!(ints(&data[0].targets), [2, 263]);
    assert_eq!(&data[0].weights[..4], 0.5f32.to_le_bytes());
}

#[test]
fn a_numbered_operation_that_breaks_a_rule_keeps_its_place() {
    let place_of = |operation: Submit| match operation {
        Submit::Invalid { target: Target::Model(model, seq), message, .. } => {
            (model.to_string(), seq.0, message)
        }
        other => panic!("not recorded as invalid: {other:?}"),
    };
    let bad = vec![Datum::supervised(vec![1], vec![999], vec![1.0])];
    for (operation, seq, code) in [
        (
            forward_backward(ModelId::new("m"), SeqId(3), body(bad, "cross_entropy"), &BOUNDS),
            3,
            "token_out_of_range",
        ),
        (
            forward_backward(ModelId::new("m"), SeqId(4), body(vec![], "mse"), &BOUNDS),
            4,
            "unknown_loss",
        ),
        (
            optim_step(
                &read(json!({"model_id": "m", "seq_id": 5, "adam_params": {"beta1": 2.0}})),
                Bytes::new(),
            ),
            5,
            "out_of_range",
        ),
        (
            save_weights(
                &read(json!({"model_id": "m", "seq_id": 6, "path": "../x"})),
                Bytes::new(),
            ),
            6,
            "invalid_name",
        ),
        (
            save_for_sampler(
                &read(json!({"model_id": "m", "seq_id": 7, "path": "a/b"})),
                Bytes::new(),
            ),
            7,
            "invalid_name",
        ),
        (
            load_weights(
                read(json!({"model_id": "m", "seq_id": 8, "path": "tinker://x/weights/.."})),
                Bytes::new(),
            )
            .unwrap(),
            8,
            "invalid_path",
        ),
    ] {
        let (model, place, message) = place_of(operation);
        assert_eq!((model.as_str(), place), ("m", seq));
        assert!(message.starts_with(code), "{message}");
    }
}

#[test]
fn a_new_model_from_a_bad_path_is_simply_refused() {
    for path in ["tinker://x/weights/..", "tinker://x/sampler_weights/a", "nonsense"] {
        let request = read(json!({"session_id": "s", "model_seq_id": 0, "path": path}));
        assert_eq!(load_weights(request, Bytes::new()).unwrap_err().code(), "invalid_path");
    }
}

#[test]
fn each_form_of_stop_reaches_the_engine() {
    let stop = |stop: serde_json::Value| {
        let mut params = json!({"top_k": -1, "seed": -1});
        if !stop.is_null() {
            params["stop"] = stop;
        }
        let request: Sample = read(json!({
            "prompt": {"chunks": [{"tokens": [1], "type": "encoded_text"}]},
            "sampling_session_id": "x", "sampling_params": params
        }));
        match sample(&request, &BOUNDS).unwrap() {
            Submit::Sample { request, .. } => {
                assert_eq!((request.top_k, request.seed), (0, Some(u64::MAX)));
                request.stop
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stop(json!(null)), engine::Stop::Eos);
    assert_eq!(stop(json!([])), engine::Stop::Tokens(vec![]));
    assert_eq!(stop(json!([7])), engine::Stop::Tokens(vec![7]));
    assert_eq!(stop(json!("x")), engine::Stop::Texts(vec!["x".to_owned()]));
}

#[test]
fn samples_pass_through_as_bytes() {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Bytes>();
    let body = sample_result(engine::Sampled {
        sequences: vec![engine::SampledSequence {
            tokens: [5i32, 6].iter().flat_map(|t| t.to_le_bytes()).collect(),
            logprobs: floats(&[-1.0, -2.0]),
            stop: engine::StopReason::Length,
        }],
        prompt_logprobs: Some(floats(&[f32::NAN, -0.5])),
    });
    let read = SampleOutput::decode(body).unwrap();
    assert_eq!(read.sequences[0].tokens, [5, 6]);
    assert_eq!(read.sequences[0].logprobs, Some(vec![-1.0, -2.0]));
    assert_eq!(read.prompt_logprobs, Some(vec![None, Some(-0.5)]));
}

#[test]
fn every_metric_name_has_exactly_one_colon() {
    let body = forward_backward_result(&engine::ForwardBackwardOutput {
        outputs: vec![engine::DatumOutput { logprobs: Bytes::new() }],
        loss_sum: 1.0,
    });
    let step = optim_step_result(engine::OptimizeOutput { step: 3, grad_norm: 0.5 });
    let names: Vec<String> = ForwardBackwardOutput::decode(body)
        .unwrap()
        .metrics
        .into_keys()
        .chain(step.metrics.unwrap().into_keys())
        .collect();
    assert_eq!(names, ["loss:sum", "grad_norm:mean", "step:max"]);
    assert!(names.iter().all(|name| name.matches(':').count() == 1));
}
