//! Real threads that begin together.

use std::sync::Barrier;

/// Runs `body(0)` to `body(threads - 1)`, each on a thread of its own, all begun at the same
/// moment; returns their results in that order.
///
/// # Panics
/// With the panic of the first thread that panicked.
#[expect(clippy::disallowed_methods, reason = "law 1 binds programs; these are joined right here")]
pub fn race<T: Send>(threads: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let (start, body) = (Barrier::new(threads), &body);
    // audit(spawn): joined by the scope
    std::thread::scope(|scope| {
        let start = &start;
        let runners: Vec<_> = (0..threads)
            .map(|n| {
                scope.spawn(move || {
                    start.wait();
                    body(n)
                })
            })
            .collect();
        let results = runners.into_iter().map(|runner| runner.join());
        results
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn every_thread_runs_once_and_results_are_in_order() {
        let runs = AtomicUsize::new(0);
        let results = super::race(8, |n| {
            runs.fetch_add(1, Ordering::SeqCst);
            n * n
        });
        assert_eq!(results, [0, 1, 4, 9, 16, 25, 36, 49]);
        assert_eq!(runs.into_inner(), 8);
    }
}
