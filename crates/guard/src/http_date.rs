//! Dates as HTTP writes them, in the three forms of RFC 9110, read leniently: any case, any
//! weekday, a leap second.

use std::time::{Duration, SystemTime};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// The moment `text` names, if it is a date of 1970 or later. `wall` decides the century of a year
/// with two digits: never more than 50 years ahead.
pub(crate) fn parse(text: &str, wall: SystemTime) -> Option<SystemTime> {
    let lower = text.trim().to_ascii_lowercase();
    let words: Vec<&str> = lower.split([' ', '-', ',']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        // Sun, 06 Nov 1994 08:49:37 GMT and Sunday, 06-Nov-94 08:49:37 GMT
        [_, day, month, year, time, "gmt" | "utc"] => (day, month, year, time),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let day = digits(day, 2)?;
    let year = match year.len() {
        2 => full_year(digits(year, 2)?, wall),
        4 => digits(year, 4)?,
        _ => return None,
    };
    let mut parts = time.split(':').map(|part| digits(part, 2));
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    let month = u64::try_from(month).ok()? + 1;
    let valid = parts.next().is_none()
        && (1..=days_in(year, month)).contains(&day)
        && hour < 24
        && minute < 60
        && second <= 60
        && year >= 1970;
    let seconds = days_since_1970(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    valid.then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Whether a text that names `at` names its weekday right.
pub(crate) fn has_its_weekday(text: &str, at: SystemTime) -> bool {
    // 1970-01-01 was a Thursday.
    const WEEKDAYS: [&str; 7] = ["thu", "fri", "sat", "sun", "mon", "tue", "wed"];
    let days = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    let weekday = WEEKDAYS.into_iter().cycle().nth((days % 7).try_into().unwrap_or(0));
    let named = text.trim().get(..3).map(str::to_ascii_lowercase);
    named.as_deref() == weekday
}

fn digits(text: &str, longest: usize) -> Option<u64> {
    let plain = (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

fn full_year(two_digits: u64, wall: SystemTime) -> u64 {
    let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The mean year is exact enough to tell the year of now but for hours around New Year.
    let this_year = 1970 + since.as_secs() / 31_556_952;
    let year = this_year - this_year % 100 + two_digits;
    if year > this_year + 50 { year - 100 } else { year }
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_in(year: u64, month: u64) -> u64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01; meaningful for 1970 and later.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let before = |year: u64| year * 365 + year / 4 - year / 100 + year / 400;
    let years = before(year.saturating_sub(1)).saturating_sub(before(1969));
    let months: u64 = (1..month).map(|month| days_in(year, month)).sum();
    years + months + day.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_the_httpdate_crate(seconds in 0u64..253_402_300_800) {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            let text = httpdate::fmt_http_date(at);
            prop_assert_eq!(parse(&text, at), Some(at), "{}", text);
            prop_assert!(has_its_weekday(&text, at), "{}", text);
            let next = at + Duration::from_secs(86_400);
            prop_assert!(!has_its_weekday(&text, next), "{}", text);
        }
    }

    #[test]
    fn two_digit_years_are_at_most_fifty_years_ahead() {
        let wall = parse("Sat, 21 Nov 2026 12:00:00 GMT", SystemTime::UNIX_EPOCH).unwrap();
        let year_of = |text| httpdate::fmt_http_date(parse(text, wall).unwrap())[12..16].to_owned();
        assert_eq!(year_of("Saturday, 21-Nov-76 00:00:00 GMT"), "2076");
        assert_eq!(year_of("Saturday, 21-Nov-77 00:00:00 GMT"), "1977");
    }

    #[test]
    fn impossible_dates_are_none() {
        for text in [
            "Sat, 31 Feb 2026 12:00:00 GMT",
            "Sat, 21 Nov 2026 24:00:00 GMT",
            "Sat, 21 Nov 1969 12:00:00 GMT",
            "Sat, 21 Nov 2026 12:00 GMT",
            "Sat, 21 Nov 2026 12:00:00 CET",
            "",
        ] {
            assert_eq!(parse(text, SystemTime::UNIX_EPOCH), None, "{text}");
        }
    }
}
