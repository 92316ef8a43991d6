//! What the network and the service behind it are like, over time.

use std::time::Duration;

use snakehouse_base::Chance;

/// What happens to a request that is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    /// It is served.
    Up,
    /// The connection is refused at once; the service never sees it.
    Refuse,
    /// Something in front of the service answers with this status; the service never sees it.
    Status(u16),
    /// It vanishes: no answer, ever.
    Hang,
    /// The service executes it; the connection breaks before the answer begins.
    Reset,
    /// The service executes it; the connection breaks in the middle of the answer.
    HalfBody,
    /// It is served, and the answer takes this much longer.
    Slow(Duration),
}

/// Weather by time since the transport was made. Fine unless something else is said.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    /// Begin, end, weather; later entries win.
    spells: Vec<(Duration, Duration, Weather)>,
}

impl Timeline {
    /// Fine weather for ever.
    pub fn up() -> Self {
        Self::default()
    }

    /// From `begin` for `length`, this weather. Wins over what was said before.
    #[must_use]
    pub fn spell(mut self, begin: Duration, length: Duration, weather: Weather) -> Self {
        self.spells.push((begin, begin.saturating_add(length), weather));
        self
    }

    /// Within `total`, once per `period` at a moment of chance, a spell whose length is drawn between
    /// `shortest` and `longest`.
    #[must_use]
    pub fn spells_every(
        mut self,
        chance: &Chance,
        period: Duration,
        (shortest, longest): (Duration, Duration),
        total: Duration,
        weather: Weather,
    ) -> Self {
        let mut begin = Duration::ZERO;
        while begin < total {
            let length = shortest + (longest - shortest).mul_f64(chance.next_unit());
            let latest = period.saturating_sub(length);
            self = self.spell(begin + latest.mul_f64(chance.next_unit()), length, weather);
            begin += period;
        }
        self
    }

    /// The weather at this time.
    pub fn at(&self, time: Duration) -> Weather {
        let spell = self.spells.iter().rev().find(|(begin, end, _)| (*begin..*end).contains(&time));
        spell.map_or(Weather::Up, |(_, _, weather)| *weather)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_last_word_counts_and_ends_are_open() {
        let line = Timeline::up().spell(10 * SECOND, 10 * SECOND, Weather::Refuse).spell(
            15 * SECOND,
            SECOND,
            Weather::Status(503),
        );
        let seen: Vec<_> = [9, 10, 15, 16, 19, 20].map(|s| line.at(s * SECOND)).into();
        use Weather::{Refuse, Status, Up};
        assert_eq!(seen, [Up, Refuse, Status(503), Refuse, Refuse, Up]);
    }

    #[test]
    fn seeded_spells_stay_in_their_period_and_repeat() {
        let make = |seed| {
            let chance = Chance::seeded(seed);
            let bounds = (5 * SECOND, 30 * SECOND);
            Timeline::up().spells_every(
                &chance,
                1800 * SECOND,
                bounds,
                14_400 * SECOND,
                Weather::Hang,
            )
        };
        let (line, same) = (make(1), make(1));
        assert_eq!(line.spells, same.spells);
        assert_eq!(line.spells.len(), 8);
        for (n, (begin, end, _)) in (0u32..).zip(&line.spells) {
            assert!(*begin >= n * 1800 * SECOND && *end <= (n + 1) * 1800 * SECOND);
            assert!((5 * SECOND..=30 * SECOND).contains(&(*end - *begin)));
        }
    }
}
