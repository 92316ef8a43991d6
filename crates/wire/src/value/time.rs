//! The values of Python's `datetime`, exact to the microsecond.
//!
//! Every value of these types is one that Python can hold: constructors refuse others, decoding
//! does too. They are values that travel, not a calendar: a program that reckons with them takes
//! the numbers out.

use super::ValueError;

/// Most microseconds of an offset from UTC, exclusive: a day.
const DAY: i64 = 86_400_000_000;
/// Most days of a [`TimeDelta`], either way.
const MAX_DAYS: i32 = 999_999_999;

/// `datetime.date`: a day of the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// A day, months and days counted from 1; none if there is no such day.
    pub const fn new(year: u16, month: u8, day: u8) -> Option<Self> {
        let leap =
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            1..=12 => 31,
            _ => return None,
        };
        if year == 0 || year > 9999 || day == 0 || day > days {
            return None;
        }
        Some(Self { year, month, day })
    }

    /// From 1 to 9999.
    pub const fn year(self) -> u16 {
        self.year
    }

    /// From 1 to 12.
    pub const fn month(self) -> u8 {
        self.month
    }

    /// From 1 to 31.
    pub const fn day(self) -> u8 {
        self.day
    }

    /// Days since 0001-01-01.
    fn ordinal(self) -> i64 {
        const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let years = i64::from(self.year) - 1;
        let leap = Self::new(self.year, 2, 29).is_some() && self.month > 2;
        let months = BEFORE.get(usize::from(self.month) - 1).copied().unwrap_or_default();
        let whole = years * 365 + years / 4 - years / 100 + years / 400;
        whole + months + i64::from(leap) + i64::from(self.day) - 1
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.year.to_be_bytes());
        out.extend_from_slice(&[self.month, self.day]);
    }

    pub(super) fn take(bytes: &[u8]) -> Option<Self> {
        let &[a, b, month, day] = bytes else { return None };
        Self::new(u16::from_be_bytes([a, b]), month, day)
    }
}

/// How far a local time is from UTC, as `datetime.timezone` holds it: less than a day, exact to the
/// microsecond, without a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UtcOffset(i64);

impl UtcOffset {
    /// UTC itself.
    pub const UTC: Self = Self(0);

    /// East of UTC is positive; none if it is a day or more.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros <= -DAY || micros >= DAY { None } else { Some(Self(micros)) }
    }

    /// Microseconds, east positive.
    pub const fn micros(self) -> i64 {
        self.0
    }
}

/// `datetime.time`: a time of day, naive or with an offset from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Time {
    hour: u8,
    minute: u8,
    second: u8,
    microsecond: u32,
    fold: bool,
    offset: Option<UtcOffset>,
}

impl Time {
    /// A naive time; none if a part is out of its range. There is no second 60.
    pub const fn new(hour: u8, minute: u8, second: u8, microsecond: u32) -> Option<Self> {
        if hour > 23 || minute > 59 || second > 59 || microsecond > 999_999 {
            return None;
        }
        Some(Self { hour, minute, second, microsecond, fold: false, offset: None })
    }

    /// The same with an offset from UTC.
    #[must_use]
    pub const fn with_offset(mut self, offset: UtcOffset) -> Self {
        self.offset = Some(offset);
        self
    }

    /// The same, said to be the first (`false`) or second of two equal wall-clock times.
    #[must_use]
    pub const fn with_fold(mut self, fold: bool) -> Self {
        self.fold = fold;
        self
    }

    /// From 0 to 23.
    pub const fn hour(self) -> u8 {
        self.hour
    }

    /// From 0 to 59.
    pub const fn minute(self) -> u8 {
        self.minute
    }

    /// From 0 to 59.
    pub const fn second(self) -> u8 {
        self.second
    }

    /// From 0 to 999,999.
    pub const fn microsecond(self) -> u32 {
        self.microsecond
    }

    /// Whether it is the second of two equal wall-clock times.
    pub const fn fold(self) -> bool {
        self.fold
    }

    /// The offset from UTC; none if the time is naive.
    pub const fn offset(self) -> Option<UtcOffset> {
        self.offset
    }

    fn seconds(self) -> i64 {
        (i64::from(self.hour) * 60 + i64::from(self.minute)) * 60 + i64::from(self.second)
    }

    /// What Python compares: seconds of the day in UTC, where the fraction of an offset is dropped,
    /// and microseconds.
    pub(super) fn compared(self) -> (i64, u32) {
        let offset = self.offset.map_or(0, |offset| offset.0.div_euclid(1_000_000));
        (self.seconds() - offset, self.microsecond)
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.hour, self.minute, self.second, u8::from(self.fold)]);
        out.extend_from_slice(&self.microsecond.to_be_bytes());
        if let Some(offset) = self.offset {
            out.extend_from_slice(&offset.0.to_be_bytes());
        }
    }

    pub(super) fn take(bytes: &[u8]) -> Option<Self> {
        let (&[hour, minute, second, fold, a, b, c, d], offset) = bytes.split_first_chunk()?;
        let mut time = Self::new(hour, minute, second, u32::from_be_bytes([a, b, c, d]))?;
        time.fold = match fold {
            0 => false,
            1 => true,
            _ => return None,
        };
        time.offset = match offset {
            [] => None,
            micros => Some(UtcOffset::from_micros(i64::from_be_bytes(micros.try_into().ok()?))?),
        };
        Some(time)
    }
}

/// `datetime.datetime`, naive or with an offset from UTC.
///
/// A `tzinfo` of another class than `datetime.timezone`, or one with a name, does not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DateTime {
    /// The day.
    pub date: Date,
    /// The time of that day, with the offset.
    pub time: Time,
}

impl DateTime {
    /// Microseconds since 1970-01-01 00:00 UTC; none if it is naive.
    pub fn unix_micros(self) -> Option<i64> {
        const EPOCH: i64 = 719_162;
        let offset = self.time.offset?;
        Some(self.local_micros() - EPOCH * DAY - offset.0)
    }

    /// The moment in UTC; none before the year 1 or after 9999.
    pub fn from_unix_micros(micros: i64) -> Option<Self> {
        let days = micros.div_euclid(DAY);
        let rest = micros.rem_euclid(DAY);
        // Days since 0000-03-01: years end with the leap day, so that the rest is division.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let of_era = shifted.rem_euclid(146_097);
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * of_year + 2) / 153;
        let day = of_year - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = u16::try_from(year_of_era + era * 400 + next).ok()?;
        let date = Date::new(year, u8::try_from(month).ok()?, u8::try_from(day).ok()?)?;
        let second = rest / 1_000_000;
        let part = |n: i64| u8::try_from(n).ok();
        let time = Time::new(
            part(second / 3600)?,
            part(second / 60 % 60)?,
            part(second % 60)?,
            u32::try_from(rest % 1_000_000).ok()?,
        )?;
        Some(Self { date, time: time.with_offset(UtcOffset::UTC) })
    }

    fn local_micros(self) -> i64 {
        self.date.ordinal() * DAY
            + self.time.seconds() * 1_000_000
            + i64::from(self.time.microsecond)
    }

    /// What Python compares: whether it is naive, and the moment.
    pub(super) fn compared(self) -> (bool, i64) {
        let offset = self.time.offset;
        (offset.is_none(), self.local_micros() - offset.map_or(0, UtcOffset::micros))
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        self.date.put(out);
        self.time.put(out);
    }

    pub(super) fn take(bytes: &[u8]) -> Option<Self> {
        let (date, time) = bytes.split_at_checked(4)?;
        Some(Self { date: Date::take(date)?, time: Time::take(time)? })
    }
}

/// `datetime.timedelta`: a signed length of time, in the one form that Python gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TimeDelta {
    days: i32,
    seconds: u32,
    microseconds: u32,
}

impl TimeDelta {
    /// Only `days` may be negative; none beyond a billion days, a day's seconds or a second's
    /// microseconds.
    pub const fn new(days: i32, seconds: u32, microseconds: u32) -> Option<Self> {
        if days < -MAX_DAYS || days > MAX_DAYS || seconds > 86_399 || microseconds > 999_999 {
            return None;
        }
        Some(Self { days, seconds, microseconds })
    }

    /// So many microseconds; none beyond a billion days.
    pub fn from_micros(micros: i128) -> Option<Self> {
        let day = i128::from(DAY);
        let rest = micros.rem_euclid(day);
        Self::new(
            i32::try_from(micros.div_euclid(day)).ok()?,
            u32::try_from(rest / 1_000_000).ok()?,
            u32::try_from(rest % 1_000_000).ok()?,
        )
    }

    /// The whole length in microseconds.
    pub fn micros(self) -> i128 {
        i128::from(self.days) * i128::from(DAY)
            + i128::from(self.seconds) * 1_000_000
            + i128::from(self.microseconds)
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.days.to_be_bytes());
        out.extend_from_slice(&self.seconds.to_be_bytes());
        out.extend_from_slice(&self.microseconds.to_be_bytes());
    }

    pub(super) fn take(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, d, e, f, g, h, i, j, k, l] = bytes else { return None };
        Self::new(
            i32::from_be_bytes([a, b, c, d]),
            u32::from_be_bytes([e, f, g, h]),
            u32::from_be_bytes([i, j, k, l]),
        )
    }
}

impl TryFrom<std::time::Duration> for TimeDelta {
    type Error = ValueError;

    /// Refuses a length that is no whole number of microseconds, or too long.
    fn try_from(duration: std::time::Duration) -> Result<Self, ValueError> {
        let whole = duration.subsec_nanos().is_multiple_of(1_000);
        let micros = i128::try_from(duration.as_micros()).ok().filter(|_| whole);
        micros.and_then(Self::from_micros).ok_or(ValueError::OutOfRange("timedelta"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_that_do_not_exist_are_refused() {
        for (year, month, day) in [
            (0, 1, 1),
            (10_000, 1, 1),
            (2023, 2, 29),
            (1900, 2, 29),
            (1, 4, 31),
            (1, 13, 1),
            (1, 1, 0),
        ] {
            assert_eq!(Date::new(year, month, day), None);
        }
        assert!(Date::new(2000, 2, 29).is_some());
        assert_eq!(Time::new(23, 59, 60, 0), None);
        assert_eq!(UtcOffset::from_micros(DAY), None);
        assert_eq!(TimeDelta::new(0, 86_400, 0), None);
    }

    #[test]
    fn moments_and_dates_agree_over_all_years() {
        let at = |y, m, d| Date::new(y, m, d).unwrap();
        assert_eq!(at(1, 1, 1).ordinal(), 0);
        assert_eq!(at(1970, 1, 1).ordinal(), 719_162);
        assert_eq!(at(9999, 12, 31).ordinal(), 3_652_058);
        let mut before = None;
        for days in (-719_162..=2_932_896).step_by(13) {
            let moment = DateTime::from_unix_micros(days * DAY + 1).unwrap();
            assert_eq!(moment.unix_micros(), Some(days * DAY + 1));
            assert!(before < Some(moment.date));
            before = Some(moment.date);
        }
        assert_eq!(DateTime::from_unix_micros(-719_163 * DAY), None);
        assert_eq!(DateTime::from_unix_micros(2_932_897 * DAY), None);
    }

    #[test]
    fn a_length_of_time_has_one_form() {
        let short = TimeDelta::from_micros(-1).unwrap();
        assert_eq!(short, TimeDelta::new(-1, 86_399, 999_999).unwrap());
        assert_eq!(short.micros(), -1);
        assert_eq!(TimeDelta::from_micros(i128::from(i64::MAX) * 1000), None);
        let nanos = std::time::Duration::from_nanos(1);
        assert_eq!(TimeDelta::try_from(nanos), Err(ValueError::OutOfRange("timedelta")));
    }
}
