//! What the demo showed.

use serde::Serialize;
use snakehouse_base::Kind;

use crate::error::CliError;

/// Everything that was measured. The names stand in scripts of others: they stay.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    /// Whether every goal was reached.
    pub(crate) ok: bool,
    /// Optimizer steps.
    pub(crate) steps: u32,
    /// Loss per counted token in the first step.
    pub(crate) loss_first: f64,
    /// The same in the last step.
    pub(crate) loss_last: f64,
    /// Loss per counted token on pairs that are never trained on, before training.
    pub(crate) heldout_loss_base: f64,
    /// The same after it.
    pub(crate) heldout_loss_tuned: f64,
    /// Of `match_of` training questions, how many the base model answers exactly.
    pub(crate) match_base: usize,
    /// The same for the tuned model.
    pub(crate) match_tuned: usize,
    /// How many questions were asked.
    pub(crate) match_of: usize,
    /// How often the engine was killed.
    pub(crate) kills: u32,
    /// The process that was killed.
    pub(crate) killed_pid: u32,
    /// Operations that the new engine repeated to get where the old one was.
    pub(crate) replayed_ops: u64,
    /// From the death to serving again, in milliseconds.
    pub(crate) recovered_ms: u64,
    /// A question that the tuned model was asked.
    pub(crate) sample_prompt: String,
    /// What it answered.
    pub(crate) sample: String,
    /// What the Python tool said about that answer.
    pub(crate) tool_score: f64,
    /// Processes and files that were still there after the shutdown.
    pub(crate) left_behind: usize,
    /// From the start to the end of the shutdown, in seconds.
    pub(crate) wall_s: f64,
}

impl Report {
    /// The goals that were missed, for people.
    pub(crate) fn missed(&self) -> Vec<&'static str> {
        let goals = [
            (self.loss_last <= 0.5 * self.loss_first, "the loss did not halve"),
            (
                self.heldout_loss_tuned <= 0.7 * self.heldout_loss_base,
                "the held-out loss did not fall to 0.7 of the base model's",
            ),
            (
                self.match_tuned >= self.match_base + 10,
                "training brought fewer than 10 more exact answers",
            ),
            (self.kills >= 1, "the engine was not killed"),
            (self.left_behind == 0, "something was left behind"),
        ];
        goals.into_iter().filter(|(reached, _)| !reached).map(|(_, miss)| miss).collect()
    }

    /// The failure to report when goals were missed.
    pub(crate) fn verdict(&self) -> Result<(), CliError> {
        let missed = self.missed();
        if missed.is_empty() {
            return Ok(());
        }
        Err(CliError::new(Kind::Internal, "demo_goals_missed", missed.join("; "))
            .with_hint("fewer --steps than the default teach less; else please report this"))
    }

    /// The same for people.
    pub(crate) fn text(&self) -> String {
        let left = match self.left_behind {
            0 => "nothing".to_owned(),
            some => format!("{some} processes or files"),
        };
        let lines = [
            format!(
                "fine-tuned        tiny, {} steps, in {:.1} s altogether",
                self.steps, self.wall_s
            ),
            format!("loss per token    {:.3} -> {:.3}", self.loss_first, self.loss_last),
            format!(
                "held-out loss     {:.3} -> {:.3}",
                self.heldout_loss_base, self.heldout_loss_tuned
            ),
            format!(
                "exact answers     {} -> {} of {} training questions",
                self.match_base, self.match_tuned, self.match_of
            ),
            format!(
                "engine killed     process {} half-way; serving again after {} ms, {} operations \
                 repeated, no error seen",
                self.killed_pid, self.recovered_ms, self.replayed_ops
            ),
            format!("asked             {}", self.sample_prompt.trim()),
            format!("answered          {}", self.sample),
            format!("Python tool       scores the answer {:.2}", self.tool_score),
            format!("left behind       {left}"),
        ];
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            loss_first: 4.0,
            loss_last: 1.0,
            heldout_loss_base: 4.0,
            heldout_loss_tuned: 2.0,
            match_tuned: 12,
            kills: 1,
            ..Report::default()
        }
    }

    #[test]
    fn every_goal_counts() {
        assert_eq!(good().missed(), Vec::<&str>::new());
        let bad: [fn(&mut Report); 5] = [
            |report| report.loss_last = 2.1,
            |report| report.heldout_loss_tuned = 2.9,
            |report| report.match_base = 3,
            |report| report.kills = 0,
            |report| report.left_behind = 1,
        ];
        for change in bad {
            let mut report = good();
            change(&mut report);
            assert_eq!(report.missed().len(), 1);
        }
        // What was never measured is not a success.
        assert!(Report { loss_last: f64::NAN, ..good() }.verdict().is_err());
    }

    #[test]
    fn scripts_find_their_names() {
        let json = serde_json::to_value(good()).unwrap();
        for name in [
            "ok",
            "steps",
            "loss_first",
            "loss_last",
            "heldout_loss_base",
            "heldout_loss_tuned",
            "match_base",
            "match_tuned",
            "kills",
            "killed_pid",
            "replayed_ops",
            "recovered_ms",
            "sample",
            "left_behind",
            "wall_s",
        ] {
            assert!(json.get(name).is_some(), "{name}");
        }
    }
}
