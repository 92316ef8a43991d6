//! `config.json`: the shape of a model, and whether we can run it.

use std::path::Path;

use serde_json::{Map, Value};

use crate::EngineError;

/// The shape of a Qwen3-family decoder.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Tokens in the vocabulary.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width inside the gated MLP.
    pub ffn: usize,
    /// Decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Numbers per head, even.
    pub head: usize,
    /// Longest sequence.
    pub context: usize,
    /// Base of the rotary angles.
    pub rope_theta: f64,
    /// Added to the mean square in norms.
    pub eps: f32,
    /// The output projection is the embedding.
    pub tied: bool,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
}

impl ModelConfig {
    /// Reads `config.json` (and the end tokens of `generation_config.json`) in `dir`.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if the file is missing, is no JSON, or describes a model this
    /// engine does not compute; the reason names the key.
    pub fn read(dir: &Path) -> Result<Self, EngineError> {
        let root = object(dir, "config.json")?
            .ok_or_else(|| EngineError::directory(dir, "config.json is missing"))?;
        let fields = Fields { dir, map: &root };
        fields.supported()?;
        let (hidden, heads) = (fields.size("hidden_size")?, fields.size("num_attention_heads")?);
        let mut config = Self {
            vocab_size: fields.size("vocab_size")?,
            hidden,
            ffn: fields.size("intermediate_size")?,
            layers: fields.size("num_hidden_layers")?,
            heads,
            kv_heads: fields.size_or("num_key_value_heads", heads)?,
            head: fields.size_or("head_dim", hidden / heads)?,
            context: fields.size("max_position_embeddings")?,
            rope_theta: fields.rope_theta()?,
            eps: fields.eps()?,
            tied: fields.flag("tie_word_embeddings")?,
            eos: tokens(root.get("eos_token_id")),
        };
        if let Some(more) = object(dir, "generation_config.json")? {
            for token in tokens(more.get("eos_token_id")) {
                if !config.eos.contains(&token) {
                    config.eos.push(token);
                }
            }
        }
        config.check().map_err(|reason| fields.bad(reason))?;
        Ok(config)
    }

    /// Whether the numbers fit together; the error says which rule they break.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.head.is_multiple_of(2) {
            return Err(format!("head_dim {} is odd", self.head));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} attention heads are not a multiple of {} key-value heads",
                self.heads, self.kv_heads
            ));
        }
        if let Some(&eos) = self.eos.iter().find(|&&t| t as usize >= self.vocab_size) {
            return Err(format!("eos_token_id {eos} is outside the vocabulary"));
        }
        if i32::try_from(self.vocab_size).is_err() {
            return Err(format!("vocab_size {} is too large", self.vocab_size));
        }
        Ok(())
    }

    /// The `config.json` of this shape.
    pub(crate) fn to_json(&self) -> Value {
        serde_json::json!({
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden,
            "intermediate_size": self.ffn,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head,
            "hidden_act": "silu",
            "max_position_embeddings": self.context,
            "rms_norm_eps": self.eps,
            "rope_theta": self.rope_theta,
            "attention_bias": false,
            "attention_dropout": 0.0,
            "tie_word_embeddings": self.tied,
            "use_sliding_window": false,
            "eos_token_id": self.eos,
            "torch_dtype": "float32",
        })
    }

    /// Numbers in the query rows.
    pub(crate) fn query_width(&self) -> usize {
        self.heads * self.head
    }

    /// Numbers in the key rows, and in the value rows.
    pub(crate) fn key_width(&self) -> usize {
        self.kv_heads * self.head
    }
}

/// Reads a JSON object; `None` if there is no such file.
pub(crate) fn object(dir: &Path, name: &str) -> Result<Option<Map<String, Value>>, EngineError> {
    let path = dir.join(name);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(EngineError::io("reading", &path)(e)),
    };
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok(Some(map)),
        Ok(_) => Err(EngineError::directory(dir, format!("{name} is not a JSON object"))),
        Err(e) => Err(EngineError::directory(dir, format!("{name} is not JSON: {e}"))),
    }
}

fn tokens(value: Option<&Value>) -> Vec<u32> {
    let one = |v: &Value| v.as_u64().and_then(|t| u32::try_from(t).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(one).collect(),
        Some(v) => one(v).into_iter().collect(),
        None => Vec::new(),
    }
}

struct Fields<'a> {
    dir: &'a Path,
    map: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn bad(&self, reason: impl std::fmt::Display) -> EngineError {
        EngineError::directory(self.dir, format!("config.json: {reason}"))
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    fn size(&self, key: &str) -> Result<usize, EngineError> {
        let value = self.get(key).ok_or_else(|| self.bad(format!("`{key}` is missing")))?;
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=1 << 24).contains(n))
            .ok_or_else(|| self.bad(format!("`{key}` is {value}, not a positive size")))
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, EngineError> {
        if self.get(key).is_some() { self.size(key) } else { Ok(default) }
    }

    fn flag(&self, key: &str) -> Result<bool, EngineError> {
        match self.get(key) {
            None => Ok(false),
            Some(Value::Bool(b)) => Ok(*b),
            Some(v) => Err(self.bad(format!("`{key}` is {v}, not true or false"))),
        }
    }

    fn positive(&self, key: &str, value: &Value) -> Result<f64, EngineError> {
        value
            .as_f64()
            .filter(|x| x.is_finite() && *x > 0.0)
            .ok_or_else(|| self.bad(format!("`{key}` is {value}, not a positive number")))
    }

    fn eps(&self) -> Result<f32, EngineError> {
        let key = "rms_norm_eps";
        let value = self.get(key).ok_or_else(|| self.bad(format!("`{key}` is missing")))?;
        #[expect(clippy::cast_possible_truncation, reason = "computing is in single precision")]
        self.positive(key, value).map(|eps| eps as f32)
    }

    /// The rotary base, from either spelling, if positions are not rescaled.
    fn rope_theta(&self) -> Result<f64, EngineError> {
        for key in ["rope_scaling", "rope_parameters"] {
            let Some(scaling) = self.get(key) else { continue };
            let kind = ["rope_type", "type"].iter().find_map(|k| scaling.get(k));
            match kind.and_then(Value::as_str) {
                None | Some("default") => {}
                Some(kind) => {
                    return Err(self.bad(format!("rope scaling `{kind}` is not supported")));
                }
            }
            if let Some(theta) = scaling.get("rope_theta") {
                return self.positive("rope_theta", theta);
            }
        }
        self.get("rope_theta").map_or(Ok(10_000.0), |theta| self.positive("rope_theta", theta))
    }

    fn supported(&self) -> Result<(), EngineError> {
        let named = self.get("model_type").and_then(Value::as_str) == Some("qwen3");
        let listed = self
            .get("architectures")
            .and_then(Value::as_array)
            .is_some_and(|list| list.iter().any(|a| a == "Qwen3ForCausalLM"));
        if !named && !listed {
            let found = self.get("architectures").or(self.get("model_type"));
            let found = found.map_or("none".to_owned(), Value::to_string);
            return Err(self.bad(format!("architecture {found} is not Qwen3ForCausalLM")));
        }
        for key in ["attention_bias", "mlp_bias", "use_sliding_window"] {
            if self.flag(key)? {
                return Err(self.bad(format!("`{key}` is not supported")));
            }
        }
        match self.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => Ok(()),
            Some(other) => Err(self.bad(format!("activation `{other}` is not supported"))),
        }
    }
}
