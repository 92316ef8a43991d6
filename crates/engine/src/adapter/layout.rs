//! Which linear layers an adapter changes, and where their numbers lie.

use std::ops::Range;

use snakehouse_engine_api::LoraSpec;

use crate::EngineError;
use crate::model::{Linear, ModelConfig};

/// The numerator of the adapter's weight, as in common PEFT recipes: the update is scaled by
/// `32 / rank`, so one learning rate serves every rank.
pub(crate) const ALPHA: f32 = 32.0;

/// Largest rank.
const MOST_RANK: u32 = 256;

/// The adapter of one linear layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slot {
    /// The module's name in PEFT files, such as `model.layers.0.self_attn.q_proj`.
    pub(crate) module: String,
    /// Width of the input.
    pub(crate) inputs: usize,
    /// Width of the output.
    pub(crate) outputs: usize,
    /// Where `A` lies.
    pub(crate) a: Range<usize>,
    /// Where `B` lies.
    pub(crate) b: Range<usize>,
}

/// All adapters of a model.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Layout {
    pub(crate) spec: LoraSpec,
    pub(crate) alpha: f32,
    pub(crate) slots: Vec<Slot>,
    by_layer: Vec<[Option<usize>; 7]>,
    head: Option<usize>,
}

impl Layout {
    /// Lays out the adapters of `spec` over a model of this shape.
    ///
    /// # Errors
    /// [`EngineError::BadParameter`] if the rank is not 1 to 256 or nothing would be trained.
    pub(crate) fn new(
        config: &ModelConfig,
        spec: LoraSpec,
        alpha: f32,
    ) -> Result<Self, EngineError> {
        if !(1..=MOST_RANK).contains(&spec.rank) {
            let reason = format!("rank {} is not between 1 and {MOST_RANK}", spec.rank);
            return Err(EngineError::BadParameter(reason));
        }
        let mut layout = Self { spec, alpha, slots: Vec::new(), by_layer: Vec::new(), head: None };
        for i in 0..config.layers {
            let mut row = [None; 7];
            for linear in Linear::ALL {
                let wanted = if linear.is_mlp() { spec.train_mlp } else { spec.train_attn };
                if wanted {
                    let module = format!("model.layers.{i}.{}", linear.module());
                    row[linear as usize] = Some(layout.push(module, linear.shape(config)));
                }
            }
            layout.by_layer.push(row);
        }
        if spec.train_unembed {
            let shape = (config.vocab_size, config.hidden);
            layout.head = Some(layout.push("lm_head".to_owned(), shape));
        }
        if layout.slots.is_empty() {
            let reason = "none of train_attn, train_mlp and train_unembed is set".to_owned();
            return Err(EngineError::BadParameter(reason));
        }
        Ok(layout)
    }

    fn push(&mut self, module: String, (outputs, inputs): (usize, usize)) -> usize {
        let rank = self.rank();
        let a = self.len()..self.len() + rank * inputs;
        let b = a.end..a.end + rank * outputs;
        self.slots.push(Slot { module, inputs, outputs, a, b });
        self.slots.len() - 1
    }

    /// Numbers in the adapter.
    pub(crate) fn len(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.b.end)
    }

    /// The rank.
    pub(crate) fn rank(&self) -> usize {
        self.spec.rank as usize
    }

    /// What the low-rank product is multiplied with.
    pub(crate) fn scale(&self) -> f32 {
        #[expect(clippy::cast_precision_loss, reason = "at most 256")]
        let rank = self.spec.rank as f32;
        self.alpha / rank
    }

    /// The slot of a linear layer.
    pub(crate) fn slot(&self, layer: usize, linear: Linear) -> Option<usize> {
        self.by_layer[layer][linear as usize]
    }

    /// The slot of the output projection.
    pub(crate) fn head(&self) -> Option<usize> {
        self.head
    }

    /// Every tensor: its PEFT name, its shape and where it lies.
    pub(crate) fn tensors(&self) -> impl Iterator<Item = (String, [usize; 2], Range<usize>)> {
        let rank = self.rank();
        self.slots.iter().flat_map(move |slot| {
            let name = |part: &str| format!("base_model.model.{}.{part}.weight", slot.module);
            [
                (name("lora_A"), [rank, slot.inputs], slot.a.clone()),
                (name("lora_B"), [slot.outputs, rank], slot.b.clone()),
            ]
        })
    }
}
