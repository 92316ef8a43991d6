//! Adapters as PEFT writes and reads them.

use std::path::Path;
use std::sync::Arc;

use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use snakehouse_engine_api::LoraSpec;

use super::bytes_of;
use crate::EngineError;
use crate::adapter::{Adapter, Layout};
use crate::model::{Linear, ModelConfig, Tensors, json_object};

/// File names.
pub(super) const CONFIG: &str = "adapter_config.json";
pub(super) const WEIGHTS: &str = "adapter_model.safetensors";

/// The short module name that PEFT lists.
fn target(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// `adapter_config.json`.
pub(super) fn config(layout: &Layout, base: &str) -> Vec<u8> {
    let mut targets: Vec<&str> = Linear::ALL
        .iter()
        .filter(|l| if l.is_mlp() { layout.spec.train_mlp } else { layout.spec.train_attn })
        .map(|l| target(l.module()))
        .collect();
    if layout.spec.train_unembed {
        targets.push("lm_head");
    }
    let value = json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": layout.spec.rank,
        "lora_alpha": layout.alpha,
        "lora_dropout": 0.0,
        "target_modules": targets,
        "bias": "none",
        "fan_in_fan_out": false,
        "use_rslora": false,
        "use_dora": false,
        "inference_mode": true,
    });
    let mut text = format!("{value:#}").into_bytes();
    text.push(b'\n');
    text
}

/// Tensors in the layout of an adapter, as one safetensors file; `prefix` goes before each name.
pub(super) fn tensors(layout: &Layout, parts: &[(&str, &[f32])]) -> Result<Vec<u8>, EngineError> {
    let mut made = Vec::new();
    for (prefix, numbers) in parts {
        for (name, shape, range) in layout.tensors() {
            made.push((format!("{prefix}{name}"), shape.to_vec(), bytes_of(&numbers[range])));
        }
    }
    let views: Result<Vec<_>, _> = made
        .iter()
        .map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name.as_str(), view))
        })
        .collect();
    views
        .and_then(|views| safetensors::serialize(views, None))
        .map_err(|e| EngineError::BadParameter(format!("tensors cannot be written: {e}")))
}

/// Takes numbers in the layout of an adapter out of a file.
pub(super) fn take(
    tensors: &mut Tensors,
    layout: &Layout,
    prefix: &str,
) -> Result<Vec<f32>, EngineError> {
    let mut numbers = vec![0.0; layout.len()];
    for (name, shape, range) in layout.tensors() {
        numbers[range].copy_from_slice(&tensors.take(&format!("{prefix}{name}"), &shape)?);
    }
    Ok(numbers)
}

/// Reads an adapter that anyone wrote in PEFT layout; `seed` is what its manifest says, if it has
/// one.
///
/// # Errors
/// [`EngineError::BadDirectory`] if it uses what this engine does not compute, or if tensors are
/// missing, unexpected or of another shape.
pub(super) fn read(dir: &Path, model: &ModelConfig, seed: u64) -> Result<Adapter, EngineError> {
    let bad = |reason: String| EngineError::directory(dir, format!("{CONFIG}: {reason}"));
    let map = json_object(dir, CONFIG)?.ok_or_else(|| bad("is missing".to_owned()))?;
    for (key, default) in
        [("use_rslora", json!(false)), ("use_dora", json!(false)), ("bias", json!("none"))]
    {
        if let Some(value) = map.get(key).filter(|v| !v.is_null() && **v != default) {
            return Err(bad(format!("`{key}` = {value} is not supported")));
        }
    }
    let rank = map.get("r").and_then(Value::as_u64).and_then(|r| u32::try_from(r).ok());
    let rank = rank.ok_or_else(|| bad("`r` is not a rank".to_owned()))?;
    #[expect(clippy::cast_possible_truncation, reason = "computing is in single precision")]
    let alpha = map.get("lora_alpha").and_then(Value::as_f64).map(|a| a as f32);
    let alpha = alpha.filter(|a| a.is_finite());
    let alpha = alpha.ok_or_else(|| bad("`lora_alpha` is not a number".to_owned()))?;
    let targets: Vec<&str> = match map.get("target_modules") {
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).collect(),
        _ => return Err(bad("`target_modules` is not a list".to_owned())),
    };
    let all = |mlp: bool| {
        Linear::ALL
            .iter()
            .filter(|l| l.is_mlp() == mlp)
            .all(|l| targets.contains(&target(l.module())))
    };
    let (train_attn, train_mlp) = (all(false), all(true));
    let train_unembed = targets.contains(&"lm_head");
    let counted =
        4 * usize::from(train_attn) + 3 * usize::from(train_mlp) + usize::from(train_unembed);
    if counted != targets.len() {
        return Err(bad(format!(
            "`target_modules` {targets:?} are not whole groups of attention, MLP and lm_head"
        )));
    }
    let spec = LoraSpec { rank, seed, train_attn, train_mlp, train_unembed };
    let layout = Layout::new(model, spec, alpha).map_err(|e| bad(e.to_string()))?;
    let mut tensors = Tensors::read(dir, "adapter_model")?;
    let numbers = take(&mut tensors, &layout, "")?;
    // PEFT adds the frozen head when the head is adapted; it is the base model's.
    if let Some(name) = tensors.names().find(|name| !name.ends_with(".base_layer.weight")) {
        return Err(EngineError::directory(dir, format!("tensor `{name}` is not expected")));
    }
    Ok(Adapter { layout: Arc::new(layout), numbers })
}
