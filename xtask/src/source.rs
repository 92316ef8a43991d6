//! A Rust source file as the rules see it: code without comments and texts, and where tests begin.

/// One file.
pub(crate) struct Source {
    /// Path below the root of the repository.
    pub(crate) path: String,
    /// The lines as they are.
    pub(crate) raw: Vec<String>,
    /// The same lines with comments and the contents of literals blanked.
    pub(crate) code: Vec<String>,
    /// The same lines with everything but comments blanked.
    pub(crate) comments: Vec<String>,
    /// The first line of in-file tests, or the number of lines.
    tests_from: usize,
}

impl Source {
    pub(crate) fn new(path: &str, text: &str) -> Self {
        let raw: Vec<_> = text.lines().map(str::to_owned).collect();
        let (code, comments) = split(text);
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (code, comments) = (lines(&code), lines(&comments));
        let whole_file_is_test = path.contains("/tests/") || path.ends_with("/tests.rs");
        let tests_from = if whole_file_is_test {
            0
        } else {
            // A `#[cfg(test)]` before an item that is not the test module stays code.
            let begins = |n: &usize| {
                code[*n].trim() == "#[cfg(test)]"
                    && code.get(n + 1).is_some_and(|next| {
                        let next = next.trim();
                        next.starts_with("mod ") && next.ends_with('{')
                    })
            };
            (0..code.len()).find(begins).unwrap_or(code.len())
        };
        Self { path: path.to_owned(), raw, code, comments, tests_from }
    }

    /// Whether line `n` (from 0) belongs to a test.
    pub(crate) fn is_test(&self, n: usize) -> bool {
        n >= self.tests_from
    }

    /// How many lines are not tests.
    pub(crate) fn lines_of_code(&self) -> usize {
        self.tests_from
    }

    /// The reason of a waiver of `rule` for line `n`: `// audit(rule): reason` on that line or on
    /// the one before.
    pub(crate) fn waiver(&self, rule: &str, n: usize) -> Option<&str> {
        let mark = format!("// audit({rule}):");
        [Some(n), n.checked_sub(1)].into_iter().flatten().find_map(|line| {
            let (_, reason) = self.raw.get(line)?.split_once(&mark)?;
            Some(reason.trim()).filter(|reason| !reason.is_empty())
        })
    }
}

/// The code without comments and literals, and the comments without code and literals; both keep
/// the shape of the text.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let skipped = skipped_length(rest);
        // A word is taken whole, so that its end is not read as a prefix of a literal.
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let taken = if skipped > 0 { skipped } else { word.max(first.len_utf8()) };
        let (piece, after) = rest.split_at(taken);
        let blanked = piece.replace(|c: char| c != '\n', " ");
        let is_comment = skipped > 0 && piece.starts_with('/');
        comments.push_str(if is_comment { piece } else { &blanked });
        code.push_str(if skipped > 0 { &blanked } else { piece });
        rest = after;
    }
    (code, comments)
}

/// How many bytes of a comment or literal `rest` begins with.
fn skipped_length(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    for prefix in ["br", "cr", "r"] {
        if let Some(length) = rest.strip_prefix(prefix).and_then(raw_literal) {
            return prefix.len() + length;
        }
    }
    for prefix in ["b", "c", ""] {
        if let Some(length) = rest.strip_prefix(prefix).and_then(literal) {
            return prefix.len() + length;
        }
    }
    0
}

/// Block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

/// The length of `#*"..."#*`.
fn raw_literal(rest: &str) -> Option<usize> {
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let body = rest[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let length = body.find(&end).map_or(body.len(), |at| at + end.len());
    Some(hashes + 1 + length)
}

/// The length of `"..."` or of a character literal; a lifetime is neither.
fn literal(rest: &str) -> Option<usize> {
    let quote = rest.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let mut escaped = false;
    let mut seen = 0;
    for (at, c) in rest.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if c == quote {
            return Some(at + 1);
        }
        seen += 1;
        let is_lifetime = quote == '\'' && seen == 1 && !escaped && {
            let next = rest[at + c.len_utf8()..].chars().next();
            next != Some('\'')
        };
        if is_lifetime {
            return None;
        }
    }
    Some(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_blanked_and_code_stays() {
        let cases = [
            ("a(); // b()", "a();"),
            ("a(\"b() \\\" c()\"); d()", "a(            ); d()"),
            ("x(r#\"b() \" c()\"#); d()", "x(              ); d()"),
            ("/* a /* b */ c */ d()", "                  d()"),
            ("let c = '\"'; a()", "let c =    ; a()"),
            ("fn f<'a>(x: &'a str) {}", "fn f<'a>(x: &'a str) {}"),
            ("let c = '\\''; a()", "let c =     ; a()"),
            ("for r in rows {}", "for r in rows {}"),
        ];
        for (text, expected) in cases {
            assert_eq!(split(text).0.trim_end(), expected, "{text}");
        }
        assert_eq!(split("a(\"//\"); // b").1, "         // b");
    }

    #[test]
    fn tests_begin_at_their_module() {
        let text = "#[cfg(test)]\nuse x;\nfn a() {}\n#[cfg(test)]\nmod tests {\n    fn b() {}\n}";
        let source = Source::new("crates/a/src/lib.rs", text);
        assert_eq!(source.lines_of_code(), 3);
        assert!(source.is_test(5) && !source.is_test(2));
        assert!(Source::new("crates/a/tests/it/main.rs", text).is_test(0));
    }

    #[test]
    fn a_waiver_needs_a_reason() {
        let text = "// audit(spawn): the reaper owns it\nspawn();\nspawn(); // audit(spawn):";
        let source = Source::new("a.rs", text);
        assert_eq!(source.waiver("spawn", 1), Some("the reaper owns it"));
        assert_eq!(source.waiver("spawn", 2), None);
        assert_eq!(source.waiver("other", 1), None);
    }
}
