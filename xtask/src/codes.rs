//! Every error code and every event of a tree stands in a test.
//!
//! A code is what programs and operators match on; one that no test names can change, or be told of
//! the wrong error, without anyone noticing. Codes are the texts in `fn code(&self)` of the crates'
//! `Coded` errors, events the variants of `enum Happening` and the names in an `events!` catalogue. What no test provokes yet stands in
//! `xtask/codes-without-test.txt` with the reason; a line that is not needed any more is a finding,
//! so the list only gets shorter.

use std::collections::BTreeSet;

use crate::Finding;
use crate::source::Source;

/// The rule's name for waivers.
const RULE: &str = "untested";

/// Where codes without a test are listed, each with a reason.
pub(crate) const LIST: &str = "xtask/codes-without-test.txt";

/// What no test names and `list` does not excuse. `python` are the texts of Python tests, which
/// read codes as well.
pub(crate) fn untested(sources: &[Source], python: &[String], list: &str) -> Vec<Finding> {
    let mut excused = BTreeSet::new();
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        match line.split_once(": ") {
            Some((name, reason)) if !reason.trim().is_empty() => excused.insert(name.to_owned()),
            _ => return vec![listed(line, "has no reason")],
        };
    }
    let mut needed = BTreeSet::new();
    let mut tested: BTreeSet<String> = python.iter().flat_map(|text| names(text)).collect();
    for source in sources {
        let tests = (0..source.raw.len()).filter(|n| source.is_test(*n));
        tested.extend(tests.flat_map(|n| names(&source.raw[n])));
    }
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with("crates/")) {
        let codes = codes(source).into_iter().map(|(n, code)| (n, code, "error code"));
        let events = events(source).into_iter().map(|(n, event)| (n, event, "event"));
        for (n, name, what) in codes.chain(events) {
            if tested.contains(&name) || source.waiver(RULE, n).is_some() {
                continue;
            }
            if excused.contains(&name) {
                needed.insert(name);
            } else {
                findings.push(Finding {
                    place: format!("{}:{}", source.path, n + 1),
                    what: format!("[{RULE}] no test names the {what} {name}"),
                });
            }
        }
    }
    let stale = excused.difference(&needed);
    findings.extend(stale.map(|name| listed(name, "has a test now, or is gone: take it out")));
    findings
}

fn listed(line: &str, what: &str) -> Finding {
    Finding { place: LIST.to_owned(), what: format!("[{RULE}] {line} {what}") }
}

/// Texts in quotes that may be codes, and variants as `Happening::Name`.
fn names(text: &str) -> Vec<String> {
    let quoted = text.split(['"', '\'']).filter(|piece| is_code(piece)).map(str::to_owned);
    let events = text.split("Happening::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    quoted.chain(events).collect()
}

fn is_code(text: &str) -> bool {
    !text.is_empty()
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c))
}

/// Codes with their lines: the texts in bodies of `fn code(&self)`.
fn codes(source: &Source) -> Vec<(usize, String)> {
    let begins = |n: &usize| {
        source.code[*n].trim_start().starts_with("fn code(&self)") && !source.is_test(*n)
    };
    let mut found = Vec::new();
    for begin in (0..source.code.len()).filter(begins) {
        for n in block(source, begin) {
            let texts = source.raw[n].split('"').skip(1).step_by(2);
            found.extend(texts.filter(|text| is_code(text)).map(|text| (n, text.to_owned())));
        }
    }
    found
}

/// Variants of `enum Happening` and dotted names of `events!`, with their lines.
fn events(source: &Source) -> Vec<(usize, String)> {
    let catalogue = source.code.iter().position(|line| line.starts_with("events! {"));
    let listed = catalogue.into_iter().flat_map(|begin| block(source, begin)).flat_map(|n| {
        let texts = source.raw[n].split('"').skip(1).step_by(2);
        let named = texts.filter(|text| is_code(text) && text.contains('.'));
        named.map(move |text| (n, text.to_owned()))
    });
    variants(source).into_iter().chain(listed).collect()
}

fn variants(source: &Source) -> Vec<(usize, String)> {
    let begin = source.code.iter().position(|line| line.contains("enum Happening {"));
    let lines = begin.into_iter().flat_map(|begin| block(source, begin).skip(1));
    let variant = |n: usize| {
        let line = source.code[n].trim();
        let end = line.find(|c: char| !c.is_alphanumeric()).unwrap_or(line.len());
        line.starts_with(|c: char| c.is_ascii_uppercase()).then(|| (n, line[..end].to_owned()))
    };
    lines.filter_map(variant).collect()
}

/// The lines of the block that opens in line `begin`.
fn block(source: &Source, begin: usize) -> std::ops::Range<usize> {
    let mut depth = 0usize;
    for n in begin..source.code.len() {
        depth += source.code[n].matches('{').count();
        depth = depth.saturating_sub(source.code[n].matches('}').count());
        if depth == 0 && n + 1 > begin && source.code[begin..=n].iter().any(|l| l.contains('{')) {
            return begin..n + 1;
        }
    }
    begin..source.code.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = "\
impl Coded for E {
    fn code(&self) -> &'static str {
        match self {
            E::A => \"first_code\",
            // audit(untested): the system gives it
            E::B => \"second_code\",
            E::C => \"third_code\",
        }
    }
    fn other() -> &'static str { \"not_a_code\" }
}";

    fn found(test: &str, python: &str, list: &str) -> Vec<String> {
        let sources = [
            Source::new("crates/a/src/error.rs", ERROR),
            Source::new(
                "crates/a/src/event.rs",
                "pub enum Happening {\n    Began(u8),\n    Over,\n}",
            ),
            Source::new(
                "crates/a/src/told.rs",
                "events! {\n    WARN \"a.told\" \"what is told\" told();\n}",
            ),
            Source::new("crates/a/tests/it/error.rs", test),
        ];
        let findings = untested(&sources, &[python.to_owned()], list);
        let name = |f: Finding| match f.place == LIST {
            true => f.what,
            false => f.what.rsplit(' ').next().unwrap_or_default().to_owned(),
        };
        findings.into_iter().map(name).collect()
    }

    #[test]
    fn codes_and_events_that_no_test_names_are_found_unless_waived() {
        let all = ["first_code", "third_code", "Began", "Over", "a.told"];
        assert_eq!(found("", "", ""), all);
        let test = "assert_eq!(e.code(), \"first_code\"); Happening::Over; \"a.told\"";
        assert_eq!(found(test, "", ""), ["third_code", "Began"]);
        assert_eq!(found(test, "assert e.code == 'third_code'", ""), ["Began"]);
    }

    #[test]
    fn the_list_excuses_with_a_reason_and_only_what_needs_it() {
        let test = "assert_eq!(e.code(), \"first_code\"); Happening::Over; \"a.told\"";
        let list = "# why\nthird_code: needs a broken disk\nBegan: nobody listens";
        assert_eq!(found(test, "", list), [""; 0]);
        let stale = found(test, "", &format!("{list}\nfirst_code: once"));
        assert!(stale[0].contains("first_code has a test now"), "{stale:?}");
        assert!(found(test, "", "third_code: ")[0].contains("has no reason"));
    }
}
