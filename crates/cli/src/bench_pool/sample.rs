//! One measurement and what several of them say together.

use std::time::Duration;

/// Calls within one stretch of time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) calls_per_s: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) worker_cpu_us: f64,
    pub(crate) host_cpu_us: f64,
}

impl Sample {
    /// Sums up; `latencies` holds one entry per call.
    pub(crate) fn new(
        mut latencies: Vec<Duration>,
        elapsed: Duration,
        worker_cpu: Duration,
        host_cpu: Duration,
    ) -> Self {
        latencies.sort_unstable();
        let count = u32::try_from(latencies.len()).unwrap_or(u32::MAX).max(1);
        let per_call = |time: Duration| time.as_secs_f64() * 1e6 / f64::from(count);
        Self {
            calls_per_s: f64::from(count) / elapsed.as_secs_f64().max(f64::EPSILON),
            p50_us: percentile(&latencies, 50),
            p99_us: percentile(&latencies, 99),
            worker_cpu_us: per_call(worker_cpu),
            host_cpu_us: per_call(host_cpu),
        }
    }

    /// Sums up what has no latencies: so many of it, in all.
    pub(crate) fn counted(
        count: u64,
        elapsed: Duration,
        worker_cpu: Duration,
        host_cpu: Duration,
    ) -> Self {
        let count = f64::from(u32::try_from(count).unwrap_or(u32::MAX).max(1));
        Self {
            calls_per_s: count / elapsed.as_secs_f64().max(f64::EPSILON),
            p50_us: f64::NAN,
            p99_us: f64::NAN,
            worker_cpu_us: worker_cpu.as_secs_f64() * 1e6 / count,
            host_cpu_us: host_cpu.as_secs_f64() * 1e6 / count,
        }
    }

    /// Sums up calls that took a time of their own, after which the measurement went on.
    pub(crate) fn paced(
        (latencies, took): (Vec<Duration>, Duration),
        _elapsed: Duration,
        worker_cpu: Duration,
        host_cpu: Duration,
    ) -> Self {
        Self::new(latencies, took, worker_cpu, host_cpu)
    }

    /// The median; of an even number, the higher one of the two.
    pub(crate) fn middle(mut values: Vec<f64>) -> f64 {
        values.sort_unstable_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// The median of each number.
    pub(crate) fn median(samples: &[Sample]) -> Self {
        let of = |number: fn(&Sample) -> f64| Self::middle(samples.iter().map(number).collect());
        Self {
            calls_per_s: of(|sample| sample.calls_per_s),
            p50_us: of(|sample| sample.p50_us),
            p99_us: of(|sample| sample.p99_us),
            worker_cpu_us: of(|sample| sample.worker_cpu_us),
            host_cpu_us: of(|sample| sample.host_cpu_us),
        }
    }
}

/// Microseconds below which `percent` of the sorted latencies lie.
fn percentile(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len().saturating_sub(1));
    sorted.get(index).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_of_a_hundred_calls() {
        let latencies: Vec<_> = (1..=100).rev().map(Duration::from_micros).collect();
        let second = Duration::from_secs(1);
        let sample = Sample::new(latencies, second, second / 10_000, second / 1_000);
        assert!((sample.calls_per_s - 100.0).abs() < 1e-9);
        assert!((sample.p50_us - 51.0).abs() < 1e-6 && (sample.p99_us - 100.0).abs() < 1e-6);
        assert!((sample.worker_cpu_us - 1.0).abs() < 1e-6);
        assert!((sample.host_cpu_us - 10.0).abs() < 1e-6);
    }

    #[test]
    fn the_median_is_taken_number_by_number() {
        let sample = |n: f64| Sample {
            calls_per_s: n,
            p50_us: -n,
            p99_us: n,
            worker_cpu_us: n,
            host_cpu_us: n,
        };
        let median = Sample::median(&[sample(3.0), sample(1.0), sample(2.0)]);
        assert!((median.calls_per_s - 2.0).abs() < 1e-9 && (median.p50_us + 2.0).abs() < 1e-9);
    }
}
