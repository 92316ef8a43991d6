//! What the pages that map rows to tests name is there.
//!
//! `docs/guards.md` and `docs/pool.md` say which test shows what. A test that is renamed would leave a
//! claim behind that nothing shows. So every name of a test in a table there must be the beginning of
//! a function's name somewhere in the sources, all of it unless it ends in `...`.

use std::collections::BTreeSet;

use crate::Finding;
use crate::source::Source;

/// The pages.
pub(crate) const PAGES: [&str; 2] = ["docs/guards.md", "docs/pool.md"];

/// Words that a name of a test has at least; what has fewer may be anything.
const WORDS: usize = 4;

/// The names in `text`, a page at `page`, that are no function of `sources` or `python`.
pub(crate) fn missing(
    page: &str,
    text: &str,
    sources: &[Source],
    python: &[String],
) -> Vec<Finding> {
    let rust = sources.iter().flat_map(|source| &source.code).filter_map(|line| after(line, "fn "));
    let python = python.iter().flat_map(|text| text.lines()).filter_map(|line| after(line, "def "));
    let functions: BTreeSet<&str> = rust.chain(python).collect();
    let is_there = |name: &str| match name.strip_suffix("...") {
        Some(start) => functions.iter().any(|function| function.starts_with(start)),
        None => functions.contains(name),
    };
    let rows = text.lines().enumerate().filter(|(_, line)| line.starts_with('|'));
    rows.flat_map(|(n, line)| tests(line).map(move |name| (n, name)))
        .filter(|(_, name)| !is_there(name))
        .map(|(n, name)| Finding {
            place: format!("{page}:{}", n + 1),
            what: format!("[docs] no function is called {name}"),
        })
        .collect()
}

/// The name of the function that a line declares.
fn after<'a>(line: &'a str, keyword: &str) -> Option<&'a str> {
    let (before, rest) = line.split_once(keyword)?;
    let is_declared = before.split_whitespace().all(|word| {
        matches!(word, "pub" | "async" | "const" | "pub(crate)" | "pub(super)" | "unsafe")
    });
    is_declared.then(|| &rest[..rest.find(|c: char| !is_of_name(c)).unwrap_or(rest.len())])
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What stands in backticks in a row and reads as the name of a test, without its path.
fn tests(row: &str) -> impl Iterator<Item = &str> {
    row.split('`').skip(1).step_by(2).filter_map(|text| {
        let name = text.rsplit("::").next()?;
        let letters = name.strip_suffix("...").unwrap_or(name);
        let is_name = letters.chars().all(|c| is_of_name(c) && !c.is_ascii_uppercase());
        (is_name && letters.trim_matches('_').split('_').count() >= WORDS).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_nobody_declares_are_found() {
        let page = "|1|`it::a_test_that_is_there`, `a_test_that...`|\n\
                    |2|`a_test_that_is_gone`, `src/a_b_c_d.rs`, `Pool::start`, `short_name`|\n\
                    not a row: `a_test_that_is_gone`";
        let source = Source::new("tests/it/x.rs", "async fn a_test_that_is_there() {}");
        let python = ["def test_of_something_else_here(x: int) -> None:\n".to_owned()];
        let found = missing("p.md", page, &[source], &python);
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].place, "p.md:2");
        assert!(found[0].what.ends_with("a_test_that_is_gone"), "{found:?}");
        let other = missing("p.md", "|`test_of_something_else_here`|", &[], &python);
        assert!(other.is_empty(), "{other:?}");
    }
}
