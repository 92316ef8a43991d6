//! Faults on purpose: points in the code of a test that fail when a seeded plan says so.

use std::fmt::{self, Debug};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use snakehouse_base::{Chance, Coded, Kind};
use tokio::time::Instant;

use crate::seed::say;

/// What a point does to whoever passes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It gets an error.
    Fail,
    /// It panics.
    Panic,
    /// It is held up for so long.
    Delay(Duration),
    /// It gets no further until it is dropped.
    Hang,
}

/// The error of [`Fault::Fail`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Injected {
    /// The point, as `Debug` shows it.
    pub point: String,
}

/// Which fault when: made of a seed, so that the same seed is the same plan.
///
/// A fault that is due waits at its point for the next one to pass there, and then it is spent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chaos<P> {
    seed: u64,
    /// In order of time.
    due: Vec<(Duration, P, Fault)>,
}

/// The points of one test, as a handle to share with whatever passes them.
///
/// `P` is the test's own type, one value per point: a name that is misspelt does not compile. This
/// crate is only ever a development dependency, so no program contains a point. When a test fails
/// the plan is printed, with its seed.
#[derive(Clone, Debug)]
pub struct Faults<P: Debug>(Arc<Shared<P>>);

#[derive(Debug)]
struct Shared<P: Debug> {
    start: Instant,
    chaos: Chaos<P>,
    state: Mutex<State<P>>,
}

#[derive(Debug)]
struct State<P> {
    /// What has not happened yet.
    left: Vec<(Duration, P, Fault)>,
    happened: Vec<(Duration, P, Fault)>,
}

impl<P: Copy> Chaos<P> {
    /// `count` faults within `length`, each at a moment, a point and of a kind drawn by `chance`.
    ///
    /// # Panics
    /// If there is no point or no kind to draw from.
    pub fn draw(
        chance: &Chance,
        points: &[P],
        kinds: &[Fault],
        count: usize,
        length: Duration,
    ) -> Self {
        fn pick<T: Copy>(chance: &Chance, from: &[T]) -> T {
            assert!(!from.is_empty(), "a plan needs points and kinds of faults");
            let among = u64::try_from(from.len()).unwrap_or(u64::MAX);
            from[usize::try_from(chance.next_u64() % among).unwrap_or_default()]
        }
        let mut due: Vec<_> = (0..count)
            .map(|_| {
                let at = length.mul_f64(chance.next_unit());
                (at, pick(chance, points), pick(chance, kinds))
            })
            .collect();
        due.sort_by_key(|(at, ..)| *at);
        Self { seed: chance.seed(), due }
    }

    /// Every fault of the plan: when, where, what.
    pub fn due(&self) -> &[(Duration, P, Fault)] {
        &self.due
    }
}

impl<P: Debug> fmt::Display for Chaos<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "chaos of seed {}:", self.seed)?;
        for (at, point, fault) in &self.due {
            writeln!(f, "  {at:>10.3?}  {point:?}: {fault:?}")?;
        }
        Ok(())
    }
}

impl<P: Copy + PartialEq + Debug> Faults<P> {
    /// Points that follow `chaos`, from now on the runtime's clock.
    pub fn new(chaos: Chaos<P>) -> Self {
        let state = State { left: chaos.due.clone(), happened: Vec::new() };
        Self(Arc::new(Shared { start: Instant::now(), chaos, state: Mutex::new(state) }))
    }

    /// Passes `point`: does nothing unless a fault is due there.
    ///
    /// # Errors
    /// [`Injected`], when the plan says so.
    ///
    /// # Panics
    /// Likewise.
    pub async fn pass(&self, point: P) -> Result<(), Injected> {
        match self.next(point) {
            None => Ok(()),
            Some(Fault::Fail) => Err(Injected { point: format!("{point:?}") }),
            Some(Fault::Panic) => panic!("a planned panic at {point:?}"),
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(delay).await;
                Ok(())
            }
            Some(Fault::Hang) => std::future::pending().await,
        }
    }

    /// What has happened so far: when, where, what.
    pub fn happened(&self) -> Vec<(Duration, P, Fault)> {
        self.0.lock().happened.clone()
    }

    /// How many faults of the plan have not happened.
    pub fn left(&self) -> usize {
        self.0.lock().left.len()
    }

    fn next(&self, point: P) -> Option<Fault> {
        let now = self.0.start.elapsed();
        let mut state = self.0.lock();
        let is_due = |(at, where_, _): &(Duration, P, Fault)| *at <= now && *where_ == point;
        let n = state.left.iter().position(is_due)?;
        let (_, _, fault) = state.left.remove(n);
        state.happened.push((now, point, fault));
        Some(fault)
    }
}

impl<P: Debug> Shared<P> {
    fn lock(&self) -> std::sync::MutexGuard<'_, State<P>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<P: Debug> Drop for Shared<P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            say(&self.chaos.to_string());
        }
    }
}

impl fmt::Display for Injected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a planned failure at {}", self.point)
    }
}

impl std::error::Error for Injected {}

impl Coded for Injected {
    fn kind(&self) -> Kind {
        Kind::Unavailable
    }

    fn code(&self) -> &'static str {
        "injected_fault"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtual_time;

    const SECOND: Duration = Duration::from_secs(1);

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Point {
        Read,
        Write,
    }

    #[test]
    fn a_plan_is_its_seed_and_stays_within_its_bounds() {
        let draw = |seed| {
            let points = [Point::Read, Point::Write];
            let kinds = [Fault::Fail, Fault::Hang];
            Chaos::draw(&Chance::seeded(seed), &points, &kinds, 50, 60 * SECOND)
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7).due(), draw(8).due());
        assert!(draw(7).due().is_sorted_by_key(|(at, ..)| *at));
        assert!(draw(7).due().iter().all(|(at, ..)| *at <= 60 * SECOND));
        assert!(draw(7).to_string().starts_with("chaos of seed 7:"), "{}", draw(7));
    }

    #[test]
    fn a_fault_waits_at_its_point_and_happens_once() {
        virtual_time(async {
            let due = vec![
                (SECOND, Point::Write, Fault::Fail),
                (SECOND, Point::Write, Fault::Delay(5 * SECOND)),
            ];
            let faults = Faults::new(Chaos { seed: 1, due });
            assert_eq!(faults.pass(Point::Write).await, Ok(()), "not due yet");
            tokio::time::sleep(2 * SECOND).await;
            assert_eq!(faults.pass(Point::Read).await, Ok(()), "another point");
            let failed = faults.pass(Point::Write).await.unwrap_err();
            assert_eq!((failed.code(), &*failed.point), ("injected_fault", "Write"));
            assert_eq!(failed.kind(), Kind::Unavailable);
            let start = Instant::now();
            assert_eq!(faults.pass(Point::Write).await, Ok(()));
            assert_eq!(start.elapsed(), 5 * SECOND);
            assert_eq!((faults.left(), faults.happened().len()), (0, 2));
        });
    }

    #[test]
    #[should_panic(expected = "a planned panic at Read")]
    fn a_planned_panic_names_its_point() {
        virtual_time(async {
            let due = vec![(Duration::ZERO, Point::Read, Fault::Panic)];
            let _ = Faults::new(Chaos { seed: 1, due }).pass(Point::Read).await;
        });
    }

    #[test]
    fn a_planned_hang_ends_with_whoever_hangs() {
        virtual_time(async {
            let due = vec![(Duration::ZERO, Point::Read, Fault::Hang)];
            let faults = Faults::new(Chaos { seed: 1, due });
            assert!(tokio::time::timeout(SECOND, faults.pass(Point::Read)).await.is_err());
            assert_eq!(faults.pass(Point::Read).await, Ok(()));
        });
    }
}
