//! The gradient of a whole model against finite differences, tensor by tensor.

use std::sync::Arc;

use snakehouse_engine_api::LoraSpec;

use super::*;
use crate::adapter::{ALPHA, Adapter, Layout};
use crate::model::{ModelConfig, make_random, tiny_config};

fn base(config: &ModelConfig) -> BaseModel {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("model");
    make_random(&dir, config, 5).unwrap();
    BaseModel::load(&dir).unwrap()
}

fn small() -> ModelConfig {
    ModelConfig {
        hidden: 40,
        ffn: 56,
        heads: 6,
        kv_heads: 2,
        head: 10,
        context: 256,
        ..tiny_config()
    }
}

fn adapter(config: &ModelConfig, rank: u32) -> Adapter {
    let spec = LoraSpec { rank, seed: 3, train_attn: true, train_mlp: true, train_unembed: true };
    let layout = Arc::new(Layout::new(config, spec, ALPHA).unwrap());
    let mut adapter = Adapter::fresh(layout.clone());
    // B must not be zero, or A has no gradient.
    for slot in &layout.slots {
        for (i, b) in adapter.numbers[slot.b.clone()].iter_mut().enumerate() {
            #[expect(clippy::cast_precision_loss, reason = "small")]
            let x = ((i * 7919) % 101) as f32 / 101.0 - 0.5;
            *b = 0.05 * x;
        }
    }
    adapter
}

struct Data {
    tokens: Vec<u32>,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

fn data(tokens: u32) -> Data {
    #[expect(clippy::cast_precision_loss, reason = "small")]
    Data {
        tokens: (0..tokens).map(|i| (i * 31 + 7) % 256).collect(),
        targets: (0..tokens).map(|i| (i * 17 + 3) % 256).collect(),
        weights: (0..tokens).map(|i| (i % 5) as f32 / 4.0).collect(),
    }
}

impl Data {
    fn example(&self) -> Example<'_> {
        Example { tokens: &self.tokens, targets: &self.targets, weights: &self.weights }
    }

    fn loss(&self, base: &BaseModel, adapter: &Adapter) -> f64 {
        let packed = PackedAdapter::new(adapter, false);
        let pass = Pass { cpu: Cpu::detect(), base, adapter: Some(&packed) };
        let logprobs = pass.forward_only(&self.example(), &mut Workspace::default());
        logprobs.iter().zip(&self.weights).map(|(&p, &w)| -f64::from(p) * f64::from(w)).sum()
    }

    fn gradient(&self, base: &BaseModel, adapter: &Adapter) -> Vec<f32> {
        let packed = PackedAdapter::new(adapter, true);
        let pass = Pass { cpu: Cpu::detect(), base, adapter: Some(&packed) };
        let mut gradient = vec![0.0; adapter.numbers.len()];
        pass.forward_backward(&self.example(), &mut Workspace::default(), &mut gradient);
        gradient
    }
}

/// Along its own gradient, each tensor must change the loss by the gradient's length.
#[test]
fn every_tensor_has_the_gradient_that_differences_show() {
    let config = small();
    let base = base(&config);
    for (tokens, rank) in [(70, 3), (5, 8)] {
        let (data, adapter) = (data(tokens), adapter(&config, rank));
        let gradient = data.gradient(&base, &adapter);
        for (name, _, range) in adapter.layout.tensors() {
            let part = &gradient[range.clone()];
            let norm = part.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>().sqrt();
            assert!(norm > 1e-3, "{name} has no gradient: {norm}");
            let h = 3e-3;
            let moved = |sign: f64| {
                let mut other = adapter.clone();
                for (x, &g) in other.numbers[range.clone()].iter_mut().zip(part) {
                    #[expect(clippy::cast_possible_truncation, reason = "test")]
                    let step = (sign * h * f64::from(g) / norm) as f32;
                    *x += step;
                }
                data.loss(&base, &other)
            };
            let slope = (moved(1.0) - moved(-1.0)) / (2.0 * h);
            assert!((slope / norm - 1.0).abs() < 1e-2, "{name}: {slope} against {norm}");
        }
    }
}

#[test]
fn a_fresh_adapter_changes_nothing_and_trains_b_first() {
    let config = small();
    let base = base(&config);
    let data = data(20);
    let spec =
        LoraSpec { rank: 4, seed: 3, train_attn: true, train_mlp: true, train_unembed: true };
    let fresh = Adapter::fresh(Arc::new(Layout::new(&config, spec, ALPHA).unwrap()));
    let bare = Pass { cpu: Cpu::detect(), base: &base, adapter: None };
    let packed = PackedAdapter::new(&fresh, true);
    let with = Pass { adapter: Some(&packed), ..bare };
    let mut work = Workspace::default();
    let example = data.example();
    assert_eq!(bare.forward_only(&example, &mut work), with.forward_only(&example, &mut work));
    let gradient = data.gradient(&base, &fresh);
    for slot in &fresh.layout.slots {
        assert!(gradient[slot.a.clone()].iter().all(|&g| g == 0.0), "{}", slot.module);
        assert!(gradient[slot.b.clone()].iter().any(|&g| g != 0.0), "{}", slot.module);
    }
}

#[test]
fn parts_that_are_not_trained_have_no_numbers() {
    let config = small();
    let base = base(&config);
    let data = data(9);
    let all = adapter(&config, 2);
    for (attn, mlp, unembed) in [(true, false, false), (false, true, false), (false, false, true)] {
        let spec =
            LoraSpec { rank: 2, seed: 3, train_attn: attn, train_mlp: mlp, train_unembed: unembed };
        let layout = Arc::new(Layout::new(&config, spec, ALPHA).unwrap());
        let some = Adapter::fresh(layout.clone());
        assert!(layout.len() < all.layout.len());
        let gradient = data.gradient(&base, &some);
        assert!(gradient.iter().any(|&g| g != 0.0));
        assert!(layout.slots.iter().all(|s| s.module.contains("attn") == attn));
    }
    let none =
        LoraSpec { rank: 2, seed: 3, train_attn: false, train_mlp: false, train_unembed: false };
    assert!(Layout::new(&config, none, ALPHA).is_err());
}

#[test]
fn a_workspace_of_another_datum_does_not_show() {
    let config = small();
    let base = base(&config);
    let packed = PackedAdapter::new(&adapter(&config, 3), true);
    let pass = Pass { cpu: Cpu::detect(), base: &base, adapter: Some(&packed) };
    let mut used = Workspace::default();
    let sizes = [100, 3, 64, 65, 100, 17];
    for tokens in sizes {
        let data = data(tokens);
        let mut a = vec![0.0; packed.layout.len()];
        let mut b = a.clone();
        let one = pass.forward_backward(&data.example(), &mut used, &mut a);
        let two = pass.forward_backward(&data.example(), &mut Workspace::default(), &mut b);
        assert_eq!((one, a), (two, b), "{tokens} tokens");
    }
}

#[test]
fn a_longer_text_does_not_change_what_came_before() {
    let base = base(&small());
    let pass = Pass { cpu: Cpu::detect(), base: &base, adapter: None };
    let whole = pass.forward_only(&data(150).example(), &mut Workspace::default());
    for tokens in [1u32, 2, 63, 64, 65, 149] {
        let part = pass.forward_only(&data(tokens).example(), &mut Workspace::default());
        assert_eq!(part, whole[..tokens as usize]);
    }
}

/// Law 11 across machines: what AVX-512 computes, AVX2 and software compute.
#[test]
fn every_instruction_set_gives_the_same_bits() {
    let config = small();
    let base = base(&config);
    let packed = PackedAdapter::new(&adapter(&config, 3), true);
    let data = data(66);
    let run = |cpu: &Cpu| {
        let pass = Pass { cpu: *cpu, base: &base, adapter: Some(&packed) };
        let mut gradient = vec![0.0; packed.layout.len()];
        let logprobs =
            pass.forward_backward(&data.example(), &mut Workspace::default(), &mut gradient);
        (logprobs, gradient, crate::checkpoint::fingerprint(*cpu))
    };
    let all: Vec<_> = Cpu::available().iter().map(run).collect();
    assert!(all.iter().all(|bits| *bits == all[0]));
}
