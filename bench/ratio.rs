//! Measures several sides of one comparison in one run and prints their ratios.

use std::collections::BTreeMap;
use std::time::Duration;

use criterion::{BenchmarkGroup, measurement::WallTime};

/// What each side took per iteration, in nanoseconds, one value per sample.
#[derive(Default)]
pub(crate) struct Sides(BTreeMap<String, Vec<f64>>);

impl Sides {
    /// Measures one side: `work` does so many iterations and tells how long they took.
    pub(crate) fn measure(
        &mut self,
        group: &mut BenchmarkGroup<'_, WallTime>,
        name: &str,
        mut work: impl FnMut(u64) -> Duration,
    ) {
        let samples = self.0.entry(name.to_owned()).or_default();
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let took = work(iterations);
                samples.push(took.as_secs_f64() * 1e9 / iterations.max(1) as f64);
                took
            });
        });
    }

    /// Notes one value that was measured elsewhere.
    pub(crate) fn note(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    /// Prints the median of every side and its ratio to that of `ours`.
    pub(crate) fn print(&mut self, title: &str, unit: &str, ours: &str) {
        let Some(own) = self.0.get_mut(ours).and_then(|samples| median(samples)) else {
            return;
        };
        println!("\n{title}");
        for (name, samples) in &mut self.0 {
            if let Some(value) = median(samples) {
                println!("  {name:<34} {value:>8.0} {unit:<3} {:>8.3} of ours", value / own);
            }
        }
        println!();
    }
}

fn median(samples: &mut [f64]) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied()
}
