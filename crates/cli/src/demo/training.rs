//! The lesson itself: measure, train, kill the engine on the way, measure again.

use futures_util::future::try_join_all;
use snakehouse_tinker::{
    AdamParams, LoraConfig, LossFn, SamplingClient, SamplingParams, TrainingClient,
};

use crate::demo::lessons::{Pair, text_of};
use crate::demo::progress::Progress;
use crate::demo::report::Report;
use crate::demo::stage::Stage;
use crate::error::CliError;
use crate::output::Output;

const TRAIN: &str = include_str!("../../../../examples/data/train.jsonl");
const HELD_OUT: &str = include_str!("../../../../examples/data/heldout.jsonl");

/// Questions that are asked before and after.
const ASKED: usize = 20;
/// Rank of the adapters.
const RANK: u32 = 32;
/// Seed of the adapters, so that every run learns the same.
const SEED: i64 = 1;
/// Pairs per step.
const BATCH: usize = 32;
/// Step size at the start; it falls in a line to a tenth.
const LEARNING_RATE: f64 = 3e-3;

/// Trains `tiny` for so many steps and reports everything but the shutdown.
pub(crate) async fn run(stage: &Stage, steps: u32, out: Output) -> Result<Report, CliError> {
    let (train, held_out) = (Pair::read(TRAIN)?, Pair::read(HELD_OUT)?);
    let asked: Vec<&Pair> =
        train.iter().step_by((train.len() / ASKED).max(1)).take(ASKED).collect();
    let lora = LoraConfig { rank: RANK, seed: Some(SEED), ..LoraConfig::default() };
    let model = stage.client.create_lora_training_client("tiny", lora).await?;
    let base = stage.client.create_sampling_client("tiny").await?;

    let mut report = Report { steps, match_of: asked.len(), ..Report::default() };
    report.heldout_loss_base = loss_on(&model, &held_out).await?;
    report.match_base = matches(&base, &asked).await?;
    train_through_a_death(stage, &model, &train, &mut report, out).await?;
    report.heldout_loss_tuned = loss_on(&model, &held_out).await?;
    let tuned = model.save_weights_and_get_sampling_client().await?;
    report.match_tuned = matches(&tuned, &asked).await?;

    let Some(question) = asked.first() else { return Ok(report) };
    let answer = text_of(&greedy(&tuned, question).await?);
    report.tool_score = stage.score(&answer, question.completion.trim()).await?;
    report.sample_prompt = question.prompt.clone();
    report.sample = answer;
    Ok(report)
}

/// Trains; half-way, with a step under way, the engine is killed.
async fn train_through_a_death(
    stage: &Stage,
    model: &TrainingClient,
    train: &[Pair],
    report: &mut Report,
    out: Output,
) -> Result<(), CliError> {
    let steps = report.steps;
    let progress = Progress::start(out, steps);
    for step in 0..steps {
        let batch: Vec<&Pair> = (0..BATCH).map(|n| &train[place(step, n, train.len())]).collect();
        let data = batch.iter().map(|pair| pair.datum()).collect();
        let gradients = model.forward_backward(data, LossFn::CrossEntropy).await?;
        let adam = AdamParams { learning_rate: rate(step, steps), ..AdamParams::default() };
        let applied = model.optim_step(adam).await?;
        if step == steps / 2 {
            report.killed_pid = stage.kill_engine()?;
            report.kills += 1;
            progress.note(&format!("engine process {} killed with SIGKILL", report.killed_pid));
        }
        let output = gradients.await?;
        applied.await?;
        let loss = per_token(&output.metrics, &batch);
        if step == 0 {
            report.loss_first = loss;
        }
        report.loss_last = loss;
        progress.step(step + 1, loss);
    }
    let status = stage.status();
    (report.replayed_ops, report.recovered_ms) = (status.replayed_ops, status.recovered_ms);
    Ok(())
}

/// Which pair stands at place `n` of a step's batch: all pairs once per round, in an order that
/// differs from round to round.
fn place(step: u32, n: usize, pairs: usize) -> usize {
    /// Coprime to any number of pairs that it does not divide, so that a round visits each once.
    const STRIDE: usize = 7919;
    let index = step as usize * BATCH + n;
    let (round, within) = (index / pairs, index % pairs);
    (within * STRIDE + round * 31) % pairs
}

/// The step size: falls in a line to a tenth.
fn rate(step: u32, steps: u32) -> f64 {
    LEARNING_RATE * (1.0 - 0.9 * f64::from(step) / f64::from(steps.max(1)))
}

async fn loss_on(model: &TrainingClient, pairs: &[Pair]) -> Result<f64, CliError> {
    let data = pairs.iter().map(Pair::datum).collect();
    let output = model.forward(data, LossFn::CrossEntropy).await?.await?;
    Ok(per_token(&output.metrics, &pairs.iter().collect::<Vec<_>>()))
}

#[expect(clippy::cast_precision_loss, reason = "a batch has few tokens")]
fn per_token(metrics: &std::collections::BTreeMap<String, f64>, pairs: &[&Pair]) -> f64 {
    let counted: usize = pairs.iter().map(|pair| pair.counted()).sum();
    metrics.get("loss:sum").copied().unwrap_or(f64::NAN) / counted.max(1) as f64
}

/// How many questions are answered exactly.
async fn matches(sampler: &SamplingClient, asked: &[&Pair]) -> Result<usize, CliError> {
    let answers = asked.iter().map(|pair| async move {
        Ok::<_, CliError>(pair.is_answered_by(&greedy(sampler, pair).await?))
    });
    Ok(try_join_all(answers).await?.into_iter().filter(|&exact| exact).count())
}

/// The most likely continuation of a question, as long as its answer may be.
async fn greedy(sampler: &SamplingClient, pair: &Pair) -> Result<Vec<i32>, CliError> {
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: u32::try_from(pair.counted()).ok(),
        ..SamplingParams::default()
    };
    let output = sampler.sample(&pair.question(), params, 1).await?.await?;
    Ok(output.sequences.into_iter().next().map(|one| one.tokens).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_round_visits_every_pair_once() {
        let pairs = Pair::read(TRAIN).unwrap().len();
        let steps = u32::try_from(pairs.div_ceil(BATCH)).unwrap();
        let seen: HashSet<_> = (0..steps)
            .flat_map(|step| (0..BATCH).map(move |n| (step, n)))
            .take(pairs)
            .map(|(step, n)| place(step, n, pairs))
            .collect();
        assert_eq!(seen.len(), pairs);
    }

    #[test]
    fn what_is_held_out_is_not_trained_on() {
        let train: HashSet<_> =
            Pair::read(TRAIN).unwrap().into_iter().map(|pair| pair.prompt).collect();
        let held_out = Pair::read(HELD_OUT).unwrap();
        assert!(held_out.len() * 15 >= train.len(), "about a tenth is held out");
        assert!(held_out.iter().all(|pair| !train.contains(&pair.prompt)));
    }

    #[test]
    fn the_step_size_falls_to_a_tenth() {
        assert!((rate(0, 100) - LEARNING_RATE).abs() < 1e-12);
        assert!((rate(100, 100) - LEARNING_RATE / 10.0).abs() < 1e-12);
    }
}
