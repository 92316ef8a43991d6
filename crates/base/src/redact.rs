//! Texts that somebody else wrote, without what looks like a secret.
//!
//! For what leaves the process without having been meant for its reader: telemetry, and logs of it.
//! It knows shapes, not secrets: the password in a URL, what follows `Bearer`, values of names such
//! as `api_key`, and keys with the prefixes that large providers give theirs. A secret of no such
//! shape must be a [`Secret`](crate::Secret), which prints nowhere.

use std::borrow::Cow;
use std::ops::Range;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Parts of names whose values are secret.
const NAMES: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "api_key",
    "apikey",
    "api-key",
    "access_key",
    "private_key",
    "credential",
    "authorization",
    "cookie",
];

/// How well-known keys begin, in lower case.
const PREFIXES: [&str; 15] = [
    "sk-",
    "sk_",
    "pk_",
    "rk_",
    "tml-",
    "ghp_",
    "gho_",
    "ghs_",
    "github_pat_",
    "glpat-",
    "hf_",
    "xoxb-",
    "xoxp-",
    "akia",
    "eyj",
];

/// A word with such a prefix is a key if it is at least so long behind it.
const LEAST_KEY: usize = 8;

/// Whether values of this name are secret, whatever they are.
pub fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    // Counts of tokens are no tokens.
    let is_count = name.ends_with("tokens") || name.ends_with("token_count");
    !is_count && NAMES.iter().any(|part| name.contains(part))
}

/// The text with [`REDACTED`] in the place of everything that looks like a secret.
pub fn redact(text: &str) -> Cow<'_, str> {
    // The same bytes at the same places.
    let lower = text.to_ascii_lowercase();
    let mut found: Vec<Range<usize>> = Vec::new();
    if lower.contains("-----begin") && lower.contains("private key") {
        found.push(0..text.len());
    }
    for (at, _) in lower.match_indices("://") {
        found.extend(user_of(&lower, at + 3));
    }
    for (at, word) in lower.match_indices("bearer ") {
        let start = end_of(&lower, at + word.len(), |c| c != ' ');
        found.push(start..end_of(&lower, start, |c| "\"',;".contains(c) || c.is_whitespace()));
    }
    for name in NAMES {
        for (at, _) in lower.match_indices(name) {
            found.extend(value_of(&lower, at, name));
        }
    }
    for prefix in PREFIXES {
        // What was looked at is not looked at again: a text of nothing but prefixes takes no longer.
        let mut seen = 0;
        for (at, _) in lower.match_indices(prefix) {
            let is_begin = !lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
            if !is_begin || at < seen {
                continue;
            }
            let end = end_of(&lower, at, |c| !c.is_ascii_alphanumeric() && !"-_.".contains(c));
            seen = end;
            if end - at >= prefix.len() + LEAST_KEY {
                found.push(at..end);
            }
        }
    }
    found.retain(|range| !range.is_empty());
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    found.sort_by_key(|range| range.start);
    let (mut out, mut done) = (String::with_capacity(text.len()), 0);
    for range in found {
        if range.start >= done {
            out.push_str(&text[done..range.start]);
            out.push_str(REDACTED);
        }
        done = done.max(range.end);
    }
    out.push_str(&text[done..]);
    Cow::Owned(out)
}

/// The name and the password in a URL whose authority begins at `start`. A password that nobody
/// escaped may have any character but blanks and quotes.
fn user_of(lower: &str, start: usize) -> Option<Range<usize>> {
    let is_around = |c: char| "\"'<>".contains(c) || c.is_whitespace();
    let whole = &lower[start..end_of(lower, start, is_around)];
    let authority = &whole[..end_of(whole, 0, |c| "/?#".contains(c))];
    let has_password = || {
        let port = authority.split_once(':').map(|(_, port)| port);
        port.is_some_and(|port| !port.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let user = authority.rfind('@').or_else(|| whole.rfind('@').filter(|_| has_password()))?;
    Some(start..start + user)
}

/// The value that stands behind a name at `at`, as in `name=value` and `"name": "value"`.
fn value_of(lower: &str, at: usize, name: &str) -> Option<Range<usize>> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let rest = &lower[end_of(lower, at, |c| !is_name(c))..];
    // Text within text has its quotes escaped.
    let rest = rest.trim_start_matches(['"', '\'', ' ', '\\']);
    let rest = rest.strip_prefix([':', '='])?;
    let value = rest.trim_start_matches(['"', '\'', ' ', '\\']);
    let start = lower.len() - value.len();
    let is_line = matches!(name, "authorization" | "cookie");
    let is_end = |c: char| {
        "\"'\n\r".contains(c) || (!is_line && ("&,;)}]".contains(c) || c.is_whitespace()))
    };
    Some(start..end_of(lower, start, is_end))
}

/// Where the first such character from `start` on is.
fn end_of(text: &str, start: usize, is_end: impl Fn(char) -> bool) -> usize {
    text[start..].find(is_end).map_or(text.len(), |length| start + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_not_there_any_more() {
        let cases = [
            ("https://me:hunter2@host/path?q=1", "https://[redacted]@host/path?q=1"),
            (
                "postgres://u:p@h and redis://:pw@h",
                "postgres://[redacted]@h and redis://[redacted]@h",
            ),
            ("postgres://u:p#ss@h/db", "postgres://[redacted]@h/db"),
            ("http://u:p/ss?@h x@y", "http://[redacted]@h x@y"),
            ("Bearer   abc", "Bearer   [redacted]"),
            (r#"{\"api_key\": \"opaque\"}"#, r#"{\"api_key\": \"[redacted]"}"#),
            ("Authorization: Basic aGVsbG8=\nnext", "Authorization: [redacted]\nnext"),
            ("sent Bearer abc.def.ghi, then", "sent Bearer [redacted], then"),
            ("api_key=abc&x=1", "api_key=[redacted]&x=1"),
            ("{\"password\": \"a b\", \"x\": 1}", "{\"password\": \"[redacted] b\", \"x\": 1}"),
            ("OPENAI_API_KEY=whatever rest", "OPENAI_API_KEY=[redacted] rest"),
            ("key sk-live-0123456789 in text", "key [redacted] in text"),
            ("tml-0123456789abcdef", "[redacted]"),
            ("(AKIA0123456789ABCDEF)", "([redacted])"),
            ("naïve: é sk-0123456789é", "naïve: é [redacted]é"),
            ("-----BEGIN RSA PRIVATE KEY-----\nMII", "[redacted]"),
        ];
        for (text, clean) in cases {
            assert_eq!(redact(text), clean);
        }
    }

    #[test]
    fn a_text_of_beginnings_is_one_secret() {
        assert_eq!(redact(&"sk-".repeat(100_000)), REDACTED);
    }

    #[test]
    fn what_does_not_is_left_alone() {
        for text in [
            "",
            "task-force",
            "http://host/a@b",
            "http://host:80/a@b",
            "risk-free",
            "the token is spent",
            "5 tokens",
        ] {
            assert!(matches!(redact(text), Cow::Borrowed(same) if same == text), "{text}");
        }
        assert!(is_secret_name("OPENAI_API_KEY") && is_secret_name("authToken"));
        assert!(!is_secret_name("tokens") && !is_secret_name("prompt_token_count"));
        assert!(!is_secret_name("rows"));
    }
}
