//! A sampler, and one request to it.

use std::sync::Arc;

use bytes::Bytes;
use snakehouse_engine_api::{Sample, Sampled, SampledSequence, StopReason};

use super::cache::Cache;
use super::decoder::{Decoder, Prompt, logprob};
use super::draw::Draw;
use super::stop::StopRule;
use crate::EngineError;
use crate::adapter::PackedAdapter;
use crate::checkpoint::bytes_of;
use crate::model::BaseModel;
use crate::pass::Pass;
use crate::train::{Machine, ids};

/// Most continuations of one request.
const MOST_SAMPLES: u32 = 1024;
/// Sequences decoded together. A constant: memory follows it.
const TOGETHER: usize = 32;

/// Weights to sample from.
#[derive(Debug)]
pub(crate) struct Sampler {
    pub(crate) base: Arc<BaseModel>,
    pub(crate) adapter: Option<PackedAdapter>,
}

/// A sequence being drawn.
struct Drawing {
    sample: u64,
    tokens: Vec<u32>,
    logprobs: Vec<f32>,
    stop: Option<StopReason>,
}

/// A checked request.
struct Request<'a> {
    pass: Pass<'a>,
    draw: Draw,
    stop: StopRule,
    prompt: Vec<u32>,
    most: usize,
}

impl Sampler {
    /// Draws what is asked for.
    ///
    /// # Errors
    /// [`EngineError`] if the request does not make sense for this model, and
    /// [`EngineError::NotFinite`] if the weights are so large that computing with them overflows.
    pub(crate) fn sample(&self, machine: &Machine, ask: &Sample) -> Result<Sampled, EngineError> {
        let base = &*self.base;
        let config = &base.config;
        let prompt = ids(&ask.prompt, config, || "the prompt".to_owned())?;
        if prompt.is_empty() {
            return Err(EngineError::BadParameter("the prompt is empty".to_owned()));
        }
        if prompt.len() > config.context {
            let (tokens, context) = (prompt.len(), config.context);
            return Err(EngineError::ContextExceeded { tokens, context });
        }
        if !(1..=MOST_SAMPLES).contains(&ask.num_samples) {
            let reason = format!("num_samples = {} is not in 1..={MOST_SAMPLES}", ask.num_samples);
            return Err(EngineError::BadParameter(reason));
        }
        let room = config.context - prompt.len();
        let request = Request {
            pass: Pass { cpu: machine.cpu, base, adapter: self.adapter.as_ref() },
            draw: Draw::new(&ask.params)?,
            stop: StopRule::new(&ask.params.stop, base)?,
            most: ask.params.max_tokens.map_or(room, |most| room.min(most as usize)),
            prompt,
        };
        let read = Decoder::default().prompt(request.pass, &request.prompt, ask.prompt_logprobs);
        if !read.logprobs.iter().all(|p| p.is_finite()) {
            return Err(overflow(0));
        }
        let samples = ask.num_samples as usize;
        let part = samples.div_ceil(machine.team.threads()).min(TOGETHER);
        let draw = |i: usize| request.draw(&read, i * part..((i + 1) * part).min(samples));
        let drawn = machine.team.map(samples.div_ceil(part), &draw);
        let drawn = drawn.into_iter().collect::<Result<Vec<_>, _>>()?;
        let prompt_logprobs = ask.prompt_logprobs.then(|| {
            let mut all = vec![f32::NAN];
            all.extend(&read.logprobs);
            Bytes::from(bytes_of(&all))
        });
        let sequences = drawn.into_iter().flatten().map(Drawing::finish).collect();
        Ok(Sampled { sequences, prompt_logprobs })
    }
}

impl Request<'_> {
    /// Draws some of the samples, together.
    fn draw(
        &self,
        read: &Prompt,
        samples: std::ops::Range<usize>,
    ) -> Result<Vec<Drawing>, EngineError> {
        let mut all: Vec<Drawing> = samples
            .map(|sample| Drawing {
                sample: sample as u64,
                tokens: Vec::new(),
                logprobs: Vec::new(),
                stop: (self.most == 0).then_some(StopReason::Length),
            })
            .collect();
        let mut running: Vec<usize> =
            if self.most == 0 { vec![] } else { (0..all.len()).collect() };
        let mut caches: Vec<Cache> =
            running.iter().map(|_| Cache::new(read.segment.clone())).collect();
        for &i in &running {
            self.extend(&mut all[i], &read.logits)?;
        }
        let mut decoder = Decoder::default();
        let vocab = self.pass.base.config.vocab_size;
        let mut position = self.prompt.len();
        loop {
            let mut keep = running.iter().map(|&i| all[i].stop.is_none());
            caches.retain(|_| keep.next().unwrap_or(false));
            running.retain(|&i| all[i].stop.is_none());
            if running.is_empty() {
                return Ok(all);
            }
            let last = |i: &usize| all[*i].tokens.last().copied().unwrap_or(0);
            let tokens: Vec<u32> = running.iter().map(last).collect();
            let logits = decoder.step(self.pass, &tokens, position, &mut caches);
            for (&i, row) in running.iter().zip(logits.chunks_exact(vocab)) {
                self.extend(&mut all[i], row)?;
            }
            position += 1;
        }
    }

    /// Draws the next token of a sequence.
    fn extend(&self, drawing: &mut Drawing, logits: &[f32]) -> Result<(), EngineError> {
        let n = drawing.tokens.len() as u64;
        if !logits.iter().all(|x| x.is_finite()) {
            return Err(overflow(n));
        }
        let token = self.draw.choose(self.pass.cpu, logits, drawing.sample, n);
        drawing.tokens.push(token);
        drawing.logprobs.push(logprob(self.pass, logits, token));
        if self.stop.ends(&drawing.tokens, self.pass.base) {
            drawing.stop = Some(StopReason::Stop);
        } else if drawing.tokens.len() >= self.most {
            drawing.stop = Some(StopReason::Length);
        }
        Ok(())
    }
}

fn overflow(n: u64) -> EngineError {
    EngineError::NotFinite(format!("the distribution after {n} drawn tokens"))
}

impl Drawing {
    fn finish(self) -> SampledSequence {
        let mut tokens = Vec::with_capacity(self.tokens.len() * 4);
        self.tokens.iter().for_each(|t| tokens.extend_from_slice(&t.to_le_bytes()));
        SampledSequence {
            tokens: Bytes::from(tokens),
            logprobs: Bytes::from(bytes_of(&self.logprobs)),
            stop: self.stop.unwrap_or(StopReason::Length),
        }
    }
}
