//! A loaded base model: frozen weights, ready to multiply with.

use std::path::Path;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::rope::RopeTable;
use super::{ModelConfig, Tensors, Text};
use crate::EngineError;
use crate::checkpoint::{hash_numbers, hex};
use crate::kernel::Packed;

/// A linear layer inside a decoder layer, in the order of their weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Linear {
    Q,
    K,
    V,
    O,
    Gate,
    Up,
    Down,
}

impl Linear {
    /// All of a layer.
    pub(crate) const ALL: [Self; 7] =
        [Self::Q, Self::K, Self::V, Self::O, Self::Gate, Self::Up, Self::Down];

    /// The module's name inside a layer of the Hugging Face layout.
    pub(crate) fn module(self) -> &'static str {
        match self {
            Self::Q => "self_attn.q_proj",
            Self::K => "self_attn.k_proj",
            Self::V => "self_attn.v_proj",
            Self::O => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Outputs and inputs.
    pub(crate) fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let (hidden, ffn) = (config.hidden, config.ffn);
        match self {
            Self::Q => (config.query_width(), hidden),
            Self::K | Self::V => (config.key_width(), hidden),
            Self::O => (hidden, config.query_width()),
            Self::Gate | Self::Up => (ffn, hidden),
            Self::Down => (hidden, ffn),
        }
    }

    /// Whether it belongs to the MLP.
    pub(crate) fn is_mlp(self) -> bool {
        matches!(self, Self::Gate | Self::Up | Self::Down)
    }
}

/// A weight that is never trained, packed for the products it takes part in.
#[derive(Debug)]
pub(crate) struct Frozen {
    forward: Packed,
    // Only training needs it, so a model that is only sampled holds one copy.
    backward: OnceLock<Packed>,
}

impl Frozen {
    fn new(w: &[f32], outputs: usize, inputs: usize) -> Self {
        Self { forward: Packed::of_transposed(w, outputs, inputs), backward: OnceLock::new() }
    }

    /// For `x · wᵀ`.
    pub(crate) fn forward(&self) -> &Packed {
        &self.forward
    }

    /// For `dy · w`.
    pub(crate) fn backward(&self) -> &Packed {
        self.backward.get_or_init(|| self.forward.transposed())
    }

    /// Width of the input.
    pub(crate) fn inputs(&self) -> usize {
        self.forward.k()
    }

    /// Width of the output.
    pub(crate) fn outputs(&self) -> usize {
        self.forward.n()
    }
}

/// The weights of one decoder layer.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) mlp_norm: Vec<f32>,
    pub(crate) query_norm: Vec<f32>,
    pub(crate) key_norm: Vec<f32>,
    linears: [Frozen; 7],
}

impl Layer {
    /// One of its linear layers.
    pub(crate) fn linear(&self, which: Linear) -> &Frozen {
        &self.linears[which as usize]
    }
}

/// A base model. Shared by every adapter and sampler over it; never written after loading.
#[derive(Debug)]
pub(crate) struct BaseModel {
    pub(crate) config: ModelConfig,
    pub(crate) embedding: Vec<f32>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) final_norm: Vec<f32>,
    pub(crate) head: Frozen,
    pub(crate) rope: RopeTable,
    pub(crate) text: Text,
    pub(crate) parameters: u64,
    /// SHA-256 over names, shapes and numbers.
    pub(crate) digest: String,
}

impl BaseModel {
    /// Reads a Hugging Face directory.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if anything is missing, cut short, of another shape, or not
    /// of the family this engine computes.
    pub(crate) fn load(dir: &Path) -> Result<Self, EngineError> {
        if !dir.is_dir() {
            return Err(EngineError::directory(dir, "there is no such directory"));
        }
        let config = ModelConfig::read(dir)?;
        let text = Text::read(dir, config.vocab_size)?;
        let mut reader =
            Reader { tensors: Tensors::read(dir, "model")?, hash: Sha256::new(), parameters: 0 };
        let (vocab, hidden) = (config.vocab_size, config.hidden);
        let embedding = reader.take("model.embed_tokens.weight", &[vocab, hidden])?;
        let mut layers = Vec::with_capacity(config.layers);
        for i in 0..config.layers {
            layers.push(reader.layer(i, &config)?);
        }
        let final_norm = reader.take("model.norm.weight", &[hidden])?;
        let head = if config.tied {
            Frozen::new(&embedding, vocab, hidden)
        } else {
            Frozen::new(&reader.take("lm_head.weight", &[vocab, hidden])?, vocab, hidden)
        };
        // A tied model may carry its head a second time; anything else means another shape.
        let extra =
            reader.tensors.names().find(|n| *n != "lm_head.weight" && !n.ends_with("inv_freq"));
        if let Some(name) = extra {
            return Err(EngineError::directory(dir, format!("tensor `{name}` is not expected")));
        }
        Ok(Self {
            rope: RopeTable::new(&config),
            digest: hex(reader.hash),
            parameters: reader.parameters,
            config,
            embedding,
            layers,
            final_norm,
            head,
            text,
        })
    }

    /// The embedding of a token.
    pub(crate) fn embed(&self, token: u32) -> &[f32] {
        let hidden = self.config.hidden;
        &self.embedding[token as usize * hidden..][..hidden]
    }
}

struct Reader {
    tensors: Tensors,
    hash: Sha256,
    parameters: u64,
}

impl Reader {
    fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let numbers = self.tensors.take(name, shape)?;
        self.hash.update(name.as_bytes());
        hash_numbers(&mut self.hash, &numbers);
        self.parameters += numbers.len() as u64;
        Ok(numbers)
    }

    fn layer(&mut self, i: usize, config: &ModelConfig) -> Result<Layer, EngineError> {
        let name = |part: &str| format!("model.layers.{i}.{part}.weight");
        let attention_norm = self.take(&name("input_layernorm"), &[config.hidden])?;
        let mlp_norm = self.take(&name("post_attention_layernorm"), &[config.hidden])?;
        let query_norm = self.take(&name("self_attn.q_norm"), &[config.head])?;
        let key_norm = self.take(&name("self_attn.k_norm"), &[config.head])?;
        let mut linear = |which: Linear| {
            let (outputs, inputs) = which.shape(config);
            let w = self.take(&name(which.module()), &[outputs, inputs])?;
            Ok::<_, EngineError>(Frozen::new(&w, outputs, inputs))
        };
        let linears = [
            linear(Linear::Q)?,
            linear(Linear::K)?,
            linear(Linear::V)?,
            linear(Linear::O)?,
            linear(Linear::Gate)?,
            linear(Linear::Up)?,
            linear(Linear::Down)?,
        ];
        Ok(Layer { attention_norm, mlp_norm, query_norm, key_norm, linears })
    }
}
