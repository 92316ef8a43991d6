//! How far the demo is, on stderr: a live bar on a terminal, a line now and then elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use crate::output::Output;

/// Lines between start and end when nobody watches live.
const LINES: u32 = 5;

/// Shows training steps.
#[derive(Debug)]
pub(crate) struct Progress {
    out: Output,
    steps: u32,
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar for so many steps, if somebody watches.
    pub(crate) fn start(out: Output, steps: u32) -> Self {
        let bar = out.is_live().then(|| {
            let bar = ProgressBar::new(u64::from(steps));
            let style = "  training [{bar:36}] {pos}/{len}  {msg}";
            let style = ProgressStyle::with_template(style)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            bar.set_style(style);
            bar
        });
        Self { out, steps, bar }
    }

    /// Step `done` is through.
    pub(crate) fn step(&self, done: u32, loss: f64) {
        match &self.bar {
            Some(bar) => {
                bar.set_message(format!("loss {loss:.3}"));
                bar.set_position(u64::from(done));
            }
            None if done == self.steps || done.is_multiple_of((self.steps / LINES).max(1)) => {
                self.out.note(format!("step {done}/{}  loss {loss:.3}", self.steps));
            }
            None => {}
        }
    }

    /// Something worth a line of its own.
    pub(crate) fn note(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => self.out.note(text),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
