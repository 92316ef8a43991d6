//! A model in training: adapter, gradients, moments, step.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use snakehouse_engine_api::{
    Adam, DatumOutput, ForwardBackwardOutput, OptimizeOutput, StateDigest,
};
use snakehouse_supervise::Team;

use super::adamw::Step;
use super::{Batch, WAVE};
use crate::EngineError;
use crate::adapter::{Adapter, PackedAdapter};
use crate::checkpoint::{bytes_of, hash_numbers, hex};
use crate::kernel::{Cpu, add_into};
use crate::model::BaseModel;
use crate::pass::{Pass, Workspace};

/// Everything a training model is.
#[derive(Debug)]
pub(crate) struct Trainee {
    pub(crate) base_name: String,
    pub(crate) base: Arc<BaseModel>,
    pub(crate) adapter: Adapter,
    pub(crate) gradient: Vec<f32>,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    pub(crate) step: u64,
    /// The adapter as the passes read it; made anew after each step.
    packed: Option<PackedAdapter>,
}

/// What passes run on.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) cpu: Cpu,
    pub(crate) team: Team,
    /// Memory of datums that are done, for those to come.
    spare: Mutex<Vec<Workspace>>,
}

impl Machine {
    /// This processor with a team of `threads`.
    pub(crate) fn new(threads: usize) -> Self {
        Self {
            cpu: Cpu::detect(),
            team: Team::new("engine", threads),
            spare: Mutex::new(Vec::new()),
        }
    }

    /// Runs `work` with memory of an earlier job.
    pub(crate) fn with_workspace<T>(&self, work: impl FnOnce(&mut Workspace) -> T) -> T {
        let lock = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut workspace = lock().pop().unwrap_or_default();
        let result = work(&mut workspace);
        lock().push(workspace);
        result
    }
}

impl Trainee {
    /// A model at step 0.
    pub(crate) fn new(base_name: String, base: Arc<BaseModel>, adapter: Adapter) -> Self {
        let zeros = vec![0.0; adapter.numbers.len()];
        Self {
            base_name,
            base,
            adapter,
            gradient: zeros.clone(),
            first: zeros.clone(),
            second: zeros,
            step: 0,
            packed: None,
        }
    }

    /// Loss and log-probabilities of a batch; adds its gradient unless `forward_only`.
    ///
    /// `after_datum` is called when a datum is done, from any thread.
    ///
    /// # Errors
    /// [`EngineError::NotFinite`] if the loss or a gradient overflows; nothing has changed then.
    pub(crate) fn forward_backward(
        &mut self,
        machine: &Machine,
        batch: &Batch,
        forward_only: bool,
        after_datum: &(dyn Fn() + Sync),
    ) -> Result<ForwardBackwardOutput, EngineError> {
        let packed = self.packed.get_or_insert_with(|| PackedAdapter::new(&self.adapter, true));
        let pass = Pass { cpu: machine.cpu, base: &self.base, adapter: Some(packed) };
        let mut sum = if forward_only { Vec::new() } else { self.gradient.clone() };
        let mut outputs = Vec::with_capacity(batch.len());
        let mut loss_sum = 0.0f64;
        for first in (0..batch.len()).step_by(WAVE) {
            let wave = WAVE.min(batch.len() - first);
            let run = |i: usize| {
                let example = batch.example(first + i);
                machine.with_workspace(|work| {
                    let mut gradient = vec![0.0; sum.len()];
                    let logprobs = if forward_only {
                        pass.forward_only(&example, work)
                    } else {
                        pass.forward_backward(&example, work, &mut gradient)
                    };
                    after_datum();
                    (logprobs, gradient)
                })
            };
            for (i, (logprobs, gradient)) in machine.team.map(wave, &run).into_iter().enumerate() {
                let weights = batch.example(first + i).weights;
                for (&w, &p) in weights.iter().zip(&logprobs) {
                    loss_sum -= f64::from(w) * f64::from(p);
                }
                add_into(machine.cpu, &mut sum, &gradient);
                outputs.push(DatumOutput { logprobs: Bytes::from(bytes_of(&logprobs)) });
            }
        }
        if !loss_sum.is_finite() {
            return Err(EngineError::NotFinite(format!("the loss ({loss_sum})")));
        }
        if !forward_only {
            if !sum.iter().all(|x| x.is_finite()) {
                return Err(EngineError::NotFinite("a gradient".to_owned()));
            }
            self.gradient = sum;
        }
        Ok(ForwardBackwardOutput { outputs, loss_sum })
    }

    /// Applies the accumulated gradient and clears it.
    ///
    /// # Errors
    /// [`EngineError`] if a parameter is out of range or a weight would overflow; nothing has
    /// changed then.
    pub(crate) fn optimize(&mut self, cpu: Cpu, adam: Adam) -> Result<OptimizeOutput, EngineError> {
        let squares: f64 = self.gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
        let grad_norm = squares.sqrt();
        let step = self.step + 1;
        let law = Step::new(adam, step, grad_norm)?;
        let mut numbers = self.adapter.numbers.clone();
        let (mut first, mut second) = (self.first.clone(), self.second.clone());
        law.apply(cpu, &self.gradient, &mut numbers, &mut first, &mut second);
        let finite = [&numbers, &first, &second].iter().all(|v| v.iter().all(|x| x.is_finite()));
        if !finite {
            return Err(EngineError::NotFinite("a weight after this step".to_owned()));
        }
        self.adapter.numbers = numbers;
        (self.first, self.second) = (first, second);
        self.gradient.fill(0.0);
        self.step = step;
        self.packed = None;
        Ok(OptimizeOutput { step, grad_norm })
    }

    /// SHA-256 of every part.
    pub(crate) fn digest(&self) -> StateDigest {
        let sha = |parts: &[&[f32]]| {
            let mut hash = Sha256::new();
            parts.iter().for_each(|part| hash_numbers(&mut hash, part));
            hex(hash)
        };
        StateDigest {
            adapter: sha(&[&self.adapter.numbers]),
            moments: sha(&[&self.first, &self.second]),
            gradients: sha(&[&self.gradient]),
            step: self.step,
        }
    }
}
