//! The one deadline of a call.

use std::time::{Duration, Instant};

/// The moment after which nobody wants the answer any more.
///
/// Set once by the caller and carried through queue, wire, worker and callbacks. On a wire it
/// travels as microseconds remaining at send ([`to_wire`](Deadline::to_wire)); the receiver adds
/// them to its own monotonic clock ([`from_wire`](Deadline::from_wire)), so clocks of two machines
/// never have to agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// What a call gets when the caller says nothing: 300 s, queueing included.
    pub const CALL: Duration = Duration::from_secs(300);
    /// What a stream gets when the caller says nothing: 900 s, queueing included.
    pub const STREAM: Duration = Duration::from_secs(900);
    /// The wire form of [`never`](Deadline::never).
    pub const WIRE_NEVER: u64 = u64::MAX;

    /// `within` from `now`. A sum past the clock's range means [`never`](Deadline::never).
    pub fn after(now: Instant, within: Duration) -> Self {
        Self(now.checked_add(within))
    }

    /// No deadline. The only way to ask for unlimited time.
    pub const fn never() -> Self {
        Self(None)
    }

    /// The instant, or `None` for [`never`](Deadline::never).
    pub const fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Time left, zero when passed, `None` for [`never`](Deadline::never).
    pub fn remaining(self, now: Instant) -> Option<Duration> {
        self.0.map(|at| at.saturating_duration_since(now))
    }

    /// Whether the deadline has passed.
    pub fn is_over(self, now: Instant) -> bool {
        self.0.is_some_and(|at| at <= now)
    }

    /// The earlier of two deadlines.
    pub fn min(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(a), Some(b)) => Self(Some(a.min(b))),
            (a, b) => Self(a.or(b)),
        }
    }

    /// Microseconds remaining, saturating below [`WIRE_NEVER`](Deadline::WIRE_NEVER).
    pub fn to_wire(self, now: Instant) -> u64 {
        match self.remaining(now) {
            None => Self::WIRE_NEVER,
            Some(left) => u64::try_from(left.as_micros()).unwrap_or(u64::MAX).min(u64::MAX - 1),
        }
    }

    /// The receiver's deadline for `micros` remaining at `now`.
    pub fn from_wire(micros: u64, now: Instant) -> Self {
        match micros {
            Self::WIRE_NEVER => Self::never(),
            left => Self::after(now, Duration::from_micros(left)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Clock, ManualClock};

    proptest! {
        #[test]
        fn the_wire_form_keeps_microseconds(micros in 0u64..=u64::from(u32::MAX) * 1000) {
            let now = ManualClock::new().now();
            prop_assert_eq!(Deadline::from_wire(micros, now).to_wire(now), micros);
        }
    }

    #[test]
    fn never_stays_never() {
        let now = ManualClock::new().now();
        assert_eq!(Deadline::from_wire(Deadline::never().to_wire(now), now), Deadline::never());
        assert!(!Deadline::never().is_over(now));
        assert_eq!(Deadline::after(now, Duration::MAX), Deadline::never());
    }

    #[test]
    fn a_deadline_is_over_at_its_instant() {
        let clock = ManualClock::new();
        let deadline = Deadline::after(clock.now(), Duration::from_secs(1));
        assert!(!deadline.is_over(clock.now()));
        clock.advance(Duration::from_secs(1));
        assert!(deadline.is_over(clock.now()));
        assert_eq!(deadline.remaining(clock.now()), Some(Duration::ZERO));
    }

    #[test]
    fn min_takes_the_earlier() {
        let now = ManualClock::new().now();
        let (a, b) = (
            Deadline::after(now, Duration::from_secs(1)),
            Deadline::after(now, Duration::from_secs(2)),
        );
        assert_eq!(a.min(b), a);
        assert_eq!(Deadline::never().min(b), b);
    }
}
