//! When to stop calling what is down: a pure state machine.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use snakehouse_base::{Backoff, Jitter};

use crate::ConfigError;

/// What makes a closed breaker open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trip {
    /// So many failures in a row.
    Consecutive(u32),
    /// At least this many percent of the last `calls` failed (once there were that many).
    Rate {
        /// How many calls are looked at.
        calls: u32,
        /// The share of failures, in percent.
        percent: u32,
    },
}

/// The rules of a breaker.
///
/// Default: opens after 5 failures in a row, for 30 s growing to 10 min with jitter; then one probe
/// at a time, whose slot is taken back after 60 s.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerConfig {
    /// What opens it.
    pub trip: Trip,
    /// How long it stays open, by how often in a row a probe has failed.
    pub open: Backoff,
    /// How many probes may run at once when half open; at least 1.
    pub probes: u32,
    /// When an unresolved probe is considered lost and its slot is given to another.
    pub probe_lease: Duration,
}

/// 30 s, doubling to 10 min.
const OPEN: Backoff =
    match Backoff::new(Duration::from_secs(30), Duration::from_secs(600), Jitter::Half) {
        Ok(law) => law,
        Err(_) => unreachable!(),
    };

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            trip: Trip::Consecutive(5),
            open: OPEN,
            probes: 1,
            probe_lease: Duration::from_secs(60),
        }
    }
}

impl BreakerConfig {
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let trip_is_sound = match self.trip {
            Trip::Consecutive(failures) => failures > 0,
            Trip::Rate { calls, percent } => calls > 0 && (1..=100).contains(&percent),
        };
        if !trip_is_sound {
            return Err(ConfigError("a breaker must trip on at least one failure and one call"));
        }
        if self.probes == 0 {
            return Err(ConfigError("a breaker must allow at least one probe"));
        }
        if self.probe_lease.is_zero() {
            return Err(ConfigError("a probe's lease must be longer than zero"));
        }
        Ok(())
    }
}

/// What a breaker lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing.
    Open,
    /// Probes.
    HalfOpen,
}

/// How an admitted call went, as the breaker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The other side works.
    Success,
    /// The other side does not work.
    Failure,
    /// Says nothing about the other side: bad input, a cancelled call.
    Ignored,
}

/// Stands for one admitted call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// Which stretch of one state it was admitted in. Verdicts of another stretch change nothing.
    generation: u64,
    probe: Option<u64>,
}

/// What a verdict did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It was taken note of, if anything.
    None,
    /// The breaker entered this state.
    Changed(BreakerState),
    /// Nothing: it belongs to an earlier generation, or to a probe whose slot was given to another.
    Late,
}

/// The state machine. Each change of state begins a new generation.
#[derive(Debug)]
pub(crate) struct BreakerCore {
    config: BreakerConfig,
    generation: u64,
    state: State,
    /// Failed openings in a row, for the growing open time.
    level: u32,
    /// Verdicts that came too late.
    late: u64,
}

#[derive(Debug)]
enum State {
    Closed { row: u32, recent: VecDeque<bool> },
    Open { until: Instant },
    HalfOpen { probes: Vec<Probe>, next: u64 },
}

#[derive(Debug)]
struct Probe {
    id: u64,
    lease_ends: Instant,
}

impl BreakerCore {
    pub(crate) fn new(config: BreakerConfig) -> Self {
        Self { config, generation: 0, state: State::closed(), level: 0, late: 0 }
    }

    pub(crate) const fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a new breaker would do the same.
    pub(crate) fn is_fresh(&self) -> bool {
        matches!(&self.state, State::Closed { row: 0, recent } if recent.is_empty())
    }

    /// Counts the changes of state.
    pub(crate) const fn generation(&self) -> u64 {
        self.generation
    }

    /// How many verdicts came too late to count.
    pub(crate) const fn late(&self) -> u64 {
        self.late
    }

    /// Admits one call, or tells when to ask again.
    pub(crate) fn admit(&mut self, now: Instant) -> Result<Admitted, Instant> {
        if let State::Open { until } = self.state {
            if now < until {
                return Err(until);
            }
            self.enter(State::HalfOpen { probes: Vec::new(), next: 0 });
        }
        let State::HalfOpen { probes, next } = &mut self.state else {
            return Ok(Admitted { generation: self.generation, probe: None });
        };
        probes.retain(|probe| probe.lease_ends > now);
        if probes.len() >= self.config.probes as usize {
            let first = probes.iter().map(|probe| probe.lease_ends).min();
            return Err(first.unwrap_or(now));
        }
        let id = *next;
        *next += 1;
        let lease_ends = now.checked_add(self.config.probe_lease).unwrap_or(now);
        probes.push(Probe { id, lease_ends });
        Ok(Admitted { generation: self.generation, probe: Some(id) })
    }

    /// Takes the verdict of an admitted call.
    pub(crate) fn resolve(
        &mut self,
        admitted: &Admitted,
        verdict: Verdict,
        now: Instant,
        chance: f64,
    ) -> Effect {
        if admitted.generation != self.generation {
            self.late += 1;
            return Effect::Late;
        }
        let trip = self.config.trip;
        match &mut self.state {
            State::Closed { row, recent } => {
                let failed = match verdict {
                    Verdict::Ignored => return Effect::None,
                    Verdict::Success => false,
                    Verdict::Failure => true,
                };
                *row = if failed { row.saturating_add(1) } else { 0 };
                let trips = match trip {
                    Trip::Consecutive(limit) => *row >= limit,
                    Trip::Rate { calls, percent } => {
                        recent.push_back(failed);
                        if recent.len() > calls as usize {
                            recent.pop_front();
                        }
                        let failures = recent.iter().filter(|failed| **failed).count() as u64;
                        recent.len() == calls as usize
                            && failures * 100 >= u64::from(calls) * u64::from(percent)
                    }
                };
                if trips { self.open(now, chance) } else { Effect::None }
            }
            State::HalfOpen { probes, .. } => {
                let before = probes.len();
                probes.retain(|probe| Some(probe.id) != admitted.probe);
                if probes.len() == before {
                    // Its lease ended; the slot is somebody else's now.
                    self.late += 1;
                    return Effect::Late;
                }
                match verdict {
                    Verdict::Ignored => Effect::None,
                    Verdict::Failure => self.open(now, chance),
                    Verdict::Success => {
                        self.level = 0;
                        self.enter(State::closed());
                        Effect::Changed(BreakerState::Closed)
                    }
                }
            }
            State::Open { .. } => Effect::None,
        }
    }

    /// Gives the slot of an admitted call back without a verdict.
    pub(crate) fn forget(&mut self, admitted: &Admitted) {
        if admitted.generation == self.generation
            && let State::HalfOpen { probes, .. } = &mut self.state
        {
            probes.retain(|probe| Some(probe.id) != admitted.probe);
        }
    }

    /// Forgets everything and closes.
    pub(crate) fn reset(&mut self) {
        self.level = 0;
        self.enter(State::closed());
    }

    fn open(&mut self, now: Instant, chance: f64) -> Effect {
        let open_for = self.config.open.delay(self.level, chance);
        self.level = self.level.saturating_add(1);
        self.enter(State::Open { until: now.checked_add(open_for).unwrap_or(now) });
        Effect::Changed(BreakerState::Open)
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

impl State {
    const fn closed() -> Self {
        State::Closed { row: 0, recent: VecDeque::new() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use snakehouse_base::{Clock as _, ManualClock};

    use super::*;

    fn config(trip: Trip) -> BreakerConfig {
        let open =
            Backoff::new(Duration::from_secs(10), Duration::from_secs(40), Jitter::None).unwrap();
        BreakerConfig { trip, open, probes: 2, probe_lease: Duration::from_secs(5) }
    }

    #[derive(Clone, Debug)]
    enum Op {
        Wait(u64),
        Admit,
        Resolve(usize, Verdict),
    }

    fn op() -> impl Strategy<Value = Op> {
        let verdict = prop_oneof![
            2 => Just(Verdict::Success),
            4 => Just(Verdict::Failure),
            1 => Just(Verdict::Ignored),
        ];
        prop_oneof![
            1 => (0u64..15).prop_map(Op::Wait),
            3 => Just(Op::Admit),
            3 => (any::<usize>(), verdict).prop_map(|(n, verdict)| Op::Resolve(n, verdict)),
        ]
    }

    fn trip() -> impl Strategy<Value = Trip> {
        prop_oneof![
            (1u32..5).prop_map(Trip::Consecutive),
            (1u32..6, 1u32..=100).prop_map(|(calls, percent)| Trip::Rate { calls, percent }),
        ]
    }

    /// The rules again, as naively as they read: the history of the current stretch is kept whole.
    struct Reference {
        trip: Trip,
        state: BreakerState,
        stretch: u64,
        verdicts: Vec<Verdict>,
        open_until: u64,
        openings: u32,
        probes: Vec<(usize, u64)>,
    }

    impl Reference {
        fn admit(&mut self, id: usize, now: u64) -> bool {
            if self.state == BreakerState::Open && now >= self.open_until {
                self.become_(BreakerState::HalfOpen);
            }
            match self.state {
                BreakerState::Closed => true,
                BreakerState::Open => false,
                BreakerState::HalfOpen => {
                    let running = self.probes.iter().filter(|(_, end)| *end > now).count();
                    if running < 2 {
                        self.probes.push((id, now + 5));
                    }
                    running < 2
                }
            }
        }

        fn resolve(
            &mut self,
            id: usize,
            stretch: u64,
            verdict: Verdict,
            now: u64,
            taken: &[usize],
        ) {
            if stretch != self.stretch || taken.contains(&id) {
                return;
            }
            match self.state {
                BreakerState::Closed => {
                    self.verdicts.push(verdict);
                    let told = self.verdicts.iter().rev().filter(|v| **v != Verdict::Ignored);
                    let told: Vec<_> = told.collect();
                    let trips = match self.trip {
                        Trip::Consecutive(limit) => {
                            let row = told.iter().take_while(|v| ***v == Verdict::Failure);
                            row.count() >= limit as usize
                        }
                        Trip::Rate { calls, percent } => {
                            let last = told.iter().take(calls as usize);
                            let failures = last.filter(|v| ***v == Verdict::Failure).count();
                            let needed = f64::from(calls) * f64::from(percent) / 100.0;
                            told.len() >= calls as usize && failures as f64 >= needed
                        }
                    };
                    if trips && verdict != Verdict::Ignored {
                        self.open(now);
                    }
                }
                BreakerState::Open => {}
                BreakerState::HalfOpen => {
                    self.probes.retain(|(probe, _)| *probe != id);
                    match verdict {
                        Verdict::Ignored => {}
                        Verdict::Failure => self.open(now),
                        Verdict::Success => {
                            self.openings = 0;
                            self.become_(BreakerState::Closed);
                        }
                    }
                }
            }
        }

        fn open(&mut self, now: u64) {
            self.open_until = now + (10u64 << self.openings).min(40);
            self.openings += 1;
            self.become_(BreakerState::Open);
        }

        fn become_(&mut self, state: BreakerState) {
            self.state = state;
            self.stretch += 1;
            self.verdicts.clear();
            self.probes.clear();
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]
        #[test]
        fn agrees_with_the_rules_as_they_read(
            trip in trip(),
            ops in prop::collection::vec(op(), 0..150),
        ) {
            let clock = ManualClock::new();
            let start = clock.now();
            let mut core = BreakerCore::new(config(trip));
            let mut reference = Reference {
                trip,
                state: BreakerState::Closed,
                stretch: 0,
                verdicts: Vec::new(),
                open_until: 0,
                openings: 0,
                probes: Vec::new(),
            };
            let mut running: Vec<(usize, u64, Admitted)> = Vec::new();
            // Probes whose slot was taken back, as seen at an admission after their lease.
            let mut taken: Vec<usize> = Vec::new();
            for (id, op) in ops.into_iter().enumerate() {
                let now = clock.now();
                let second = (now - start).as_secs();
                match op {
                    Op::Wait(seconds) => clock.advance(Duration::from_secs(seconds)),
                    Op::Admit => {
                        let lapsed = reference.probes.iter().filter(|(_, end)| *end <= second);
                        taken.extend(lapsed.map(|(probe, _)| *probe));
                        let admitted = core.admit(now);
                        prop_assert_eq!(admitted.is_ok(), reference.admit(id, second));
                        if let Ok(admitted) = admitted {
                            running.push((id, reference.stretch, admitted));
                        }
                    }
                    Op::Resolve(n, verdict) if !running.is_empty() => {
                        let (id, stretch, admitted) = running.remove(n % running.len());
                        core.resolve(&admitted, verdict, now, 0.0);
                        reference.resolve(id, stretch, verdict, second, &taken);
                    }
                    Op::Resolve(..) => {}
                }
                prop_assert_eq!(core.state(), reference.state);
            }
            // Never wedged: after the longest open time and every lease, a call is admitted.
            clock.advance(Duration::from_secs(60));
            prop_assert!(core.admit(clock.now()).is_ok());
        }
    }

    #[test]
    fn a_rate_opens_it_although_successes_come_between() {
        let now = ManualClock::new().now();
        let trip = Trip::Rate { calls: 10, percent: 50 };
        let mut core = BreakerCore::new(config(trip));
        for n in 0..10 {
            assert_eq!(core.state(), BreakerState::Closed, "call {n}");
            let admitted = core.admit(now).unwrap();
            let verdict = if n % 2 == 0 { Verdict::Success } else { Verdict::Failure };
            core.resolve(&admitted, verdict, now, 0.0);
        }
        assert_eq!(core.state(), BreakerState::Open);
    }
}
