//! How much memory a worker holds beside what it may: when that is looked at, and how many calls it may
//! have until then. A pure law.
//!
//! A worker is weighed when it begins, after its first calls, as many as it runs at once, and then after calls at most every
//! [`EVERY`]. That is too rare for one that is about to be too heavy. So what calls added so far says
//! how many more may be given before the next weighing: half as many as would fill what is left. Far
//! from the limit that is more than anybody gives; next to it, one call is weighed after the other.

use std::time::Duration;

use tokio::time::Instant;

/// A worker that is far from its limit is weighed at most this often.
const EVERY: Duration = Duration::from_millis(20);

/// What one incarnation weighs.
#[derive(Debug)]
pub(super) struct Weight {
    limit: u64,
    /// Calls that it runs at once: so many begin before anything is known of what one adds.
    at_once: u64,
    /// Calls that it answered.
    answered: u64,
    /// How many that were when the last weighing began, and what was found.
    last: Option<(u64, u64)>,
    /// How many they were when the weighing began that is under way.
    under_way: Option<u64>,
    /// Calls that it got since a weighing began, those that it had then included.
    given: u64,
    /// As many as it may get.
    allowed: u64,
    /// What a call adds.
    per_call: u64,
    /// Whether there is something new to find, and from when on it may be looked for.
    is_due: bool,
    from: Instant,
    /// When the last weighing began.
    begun: Instant,
    /// The verdict is spoken.
    is_over: bool,
}

/// What a weighing found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Light,
    /// It holds too much.
    TooHeavy {
        /// Calls that it had answered: with 0 it holds too much by itself.
        answered: u64,
        /// Whether those were its first calls: then it perhaps does.
        is_first: bool,
    },
}

impl Weight {
    /// A worker begins that runs so many calls at once.
    pub(super) fn new(limit: u64, at_once: usize, now: Instant) -> Self {
        let at_once = at_once.max(1) as u64;
        Self {
            limit,
            at_once,
            answered: 0,
            last: None,
            under_way: None,
            given: 0,
            allowed: at_once,
            per_call: 0,
            is_due: true,
            from: now,
            begun: now,
            is_over: false,
        }
    }

    /// Whether it may have one more call before it is weighed again.
    pub(super) fn allows(&self) -> bool {
        self.is_over || self.given < self.allowed
    }

    /// How many calls it may have before it is weighed again.
    #[cfg(test)]
    pub(super) fn left(&self) -> u64 {
        match self.is_over {
            true => u64::MAX,
            false => self.allowed.saturating_sub(self.given),
        }
    }

    /// It got a call.
    pub(super) fn given(&mut self, now: Instant) {
        self.given += 1;
        self.hasten(now);
    }

    /// A call that it got leaves it without having been run: nothing of it is there to be found.
    pub(super) fn returned(&mut self) {
        self.given = self.given.saturating_sub(1);
    }

    /// It answered calls.
    pub(super) fn answered(&mut self, calls: u64, now: Instant) {
        self.answered += calls;
        self.is_due |= calls > 0;
        self.hasten(now);
    }

    /// Who may have nothing more is weighed at once.
    fn hasten(&mut self, now: Instant) {
        if !self.allows() {
            self.from = self.from.min(now);
        }
    }

    /// Whether it ever answered a call.
    pub(super) fn has_answered(&self) -> bool {
        self.last.is_some_and(|(answered, _)| answered > 0)
    }

    /// When it is to be weighed, if it is.
    pub(super) fn due(&self) -> Option<Instant> {
        let is_due = self.is_due && self.under_way.is_none() && !self.is_over;
        is_due.then_some(self.from)
    }

    /// It is being weighed, and has so many calls.
    pub(super) fn begin(&mut self, in_flight: usize, now: Instant) {
        self.is_due = false;
        self.under_way = Some(self.answered);
        self.given = in_flight as u64;
        self.begun = now;
        self.from = now + EVERY;
    }

    /// It holds so much.
    pub(super) fn weighed(&mut self, bytes: u64, now: Instant) -> Verdict {
        let answered = self.under_way.take().unwrap_or(self.answered);
        if bytes >= self.limit {
            self.is_over = true;
            return Verdict::TooHeavy { answered, is_first: answered <= self.at_once };
        }
        if let Some((before, held)) = self.last {
            let grown = bytes.saturating_sub(held) / (answered - before).max(1);
            // One weighing that finds less than others before it proves little.
            self.per_call = grown.max(self.per_call / 2);
        }
        self.last = Some((answered, bytes));
        self.allowed = match (answered, self.per_call) {
            (0, _) => self.at_once,
            (_, 0) => u64::MAX,
            (_, per_call) => ((self.limit - bytes) / 2 / per_call).max(1),
        };
        self.from = self.begun + EVERY;
        self.hasten(now);
        Verdict::Light
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1 << 20;

    /// Calls that add so much each, as fast as they are allowed, weighed as soon as that is due, with
    /// `ahead` more of them answered before the scales show anything. What it held when it was found.
    fn caught(limit: u64, base: u64, per_call: u64, ahead: usize) -> u64 {
        let mut now = Instant::now();
        let (mut weight, mut held, mut in_flight) = (Weight::new(limit, 1, now), base, 0usize);
        loop {
            while in_flight < ahead && weight.allows() {
                weight.given(now);
                in_flight += 1;
            }
            if let Some(from) = weight.due()
                && from <= now
            {
                weight.begin(in_flight, now);
                let seen = held;
                // It goes on meanwhile.
                weight.answered(in_flight as u64, now);
                held += per_call * in_flight as u64;
                in_flight = 0;
                if weight.weighed(seen, now) != Verdict::Light {
                    return held;
                }
            }
            weight.answered(in_flight as u64, now);
            held += per_call * in_flight as u64;
            in_flight = 0;
            now += Duration::from_micros(200);
        }
    }

    #[test]
    fn a_leak_of_a_mebibyte_a_call_is_found_within_a_tenth() {
        for ahead in [1, 8, 64] {
            let held = caught(200 * MIB, 20 * MIB, MIB, ahead);
            assert!(held <= 220 * MIB, "{ahead} ahead: {} MiB", held / MIB);
        }
    }

    #[test]
    fn who_does_not_grow_is_weighed_every_20_ms_and_has_what_it_likes() {
        let start = Instant::now();
        let mut weight = Weight::new(100 * MIB, 1, start);
        for _ in 0..2 {
            assert!(weight.due().is_some_and(|from| from <= start), "at once, and after one call");
            weight.begin(0, start);
            assert_eq!(weight.weighed(10 * MIB, start), Verdict::Light);
            weight.given(start);
            weight.answered(1, start);
        }
        for _ in 0..1_000 {
            assert!(weight.allows());
            weight.given(start);
        }
        weight.answered(1_000, start);
        assert_eq!(weight.due(), Some(start + EVERY));
    }

    #[test]
    fn who_is_too_heavy_is_not_held_up_for_it() {
        let now = Instant::now();
        let mut weight = Weight::new(MIB, 1, now);
        weight.begin(0, now);
        assert_eq!(weight.weighed(MIB, now), Verdict::TooHeavy { answered: 0, is_first: true });
        for _ in 0..10 {
            assert!(weight.allows());
            weight.given(now);
            weight.answered(1, now);
        }
        assert_eq!(weight.due(), None);
    }

    proptest! {
        /// Whatever comes in whatever order, somebody who may have nothing more is about to be weighed
        /// or has calls to answer.
        #[test]
        fn nobody_waits_for_ever(
            steps in prop::collection::vec((0u8..5, 0u64..2000), 0..200),
        ) {
            let now = Instant::now();
            let (mut weight, mut in_flight) = (Weight::new(1000, 1, now), 0usize);
            for (step, bytes) in steps {
                match step {
                    0 if weight.allows() => {
                        weight.given(now);
                        in_flight += 1;
                    }
                    1 if in_flight > 0 => {
                        weight.answered(1, now);
                        in_flight -= 1;
                    }
                    4 if in_flight > 0 => {
                        weight.returned();
                        in_flight -= 1;
                    }
                    2 if weight.due().is_some() => weight.begin(in_flight, now),
                    3 if weight.under_way.is_some() => {
                        weight.weighed(bytes, now);
                    }
                    _ => {}
                }
                let moves = in_flight > 0
                    || weight.under_way.is_some()
                    || weight.due().is_some_and(|from| from <= now);
                prop_assert!(weight.allows() || moves, "{weight:?}");
            }
        }
    }
}
