//! How a world ends.

use super::*;

impl World {
    /// What is left is done, or the pool stops in the middle of it.
    pub(in crate::dispatcher::model) fn finish(self) -> PoolCounters {
        match self.pick(0..3) {
            0 => self.stop(),
            _ => self.work_off(),
        }
    }

    fn stop(mut self) -> PoolCounters {
        self.reference.stop();
        let mut after = After::default();
        self.pool.stop(self.now, &mut after);
        self.settle(after);
        for place in 0..self.workers.len() {
            // Some finish what they have.
            while self.pick(0..2) == 0 && !self.workers[place].has.is_empty() {
                self.answer(place);
            }
            self.die(place);
            assert!(self.pool.chores(self.now, true, &mut After::default()).open.is_empty());
        }
        self.all_over();
        self.pool.counters()
    }

    fn all_over(&mut self) {
        assert_eq!(self.reference.calls, [], "calls that never ended");
        for (id, outcome) in &mut self.outcomes {
            assert!(outcome.try_recv().is_ok(), "call {id} has no outcome");
        }
    }

    /// Everybody does their part until nothing is left to do.
    fn work_off(mut self) -> PoolCounters {
        self.close_all_sessions();
        for round in 0..1_000 {
            self.keep();
            while !self.scales.is_empty() {
                self.weigh(0);
            }
            for place in 0..self.workers.len() {
                self.come_up(place);
                self.take(place);
                while self.workers[place].recall != Recall::None {
                    self.recall(place);
                }
                while !self.workers[place].has.is_empty() {
                    self.answer(place);
                }
            }
            // Growth, drains and idleness have their times.
            self.now += Duration::from_secs(if round % 2 == 0 { 1 } else { 20 });
            let (least, most) = (self.pool.config.least(), self.pool.config.most());
            let resting = self.reference.calls.is_empty()
                && (self.pool.target == least || self.pool.config.recycle.age.is_some())
                && self.pool.target <= most
                && self.pool.seats.iter().all(|s| !s.phase.has_process() || s.phase.is_up());
            if resting && round > 100 {
                break;
            }
        }
        self.all_over();
        assert_eq!(self.pool.session_infos(self.now), [], "sessions that never went");
        let kept = self.pool.seats.iter().filter(|seat| seat.is_kept()).count();
        let wanted = self.pool.target + self.pool.config.standby;
        assert!(kept >= wanted, "{kept} of {wanted} places are kept");
        assert_eq!(self.pool.open_workers(), self.pool.target, "as many serve as shall");
        self.pool.counters()
    }
}
