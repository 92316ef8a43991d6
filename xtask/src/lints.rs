//! What a lint of the compiler or of clippy sees is left to it, if it is switched on.
//!
//! The audit's other half: locks held across an await, public items without docs, panics in library
//! code and banned functions are found by lints. This rule checks that every one of them is on for
//! every crate, and that nobody switched one off in a source file. Its test plants each fault and has
//! clippy find it with the configuration of this repository.

use std::path::Path;

use toml::Table;

use crate::Finding;
use crate::source::Source;

/// The rule's name for waivers.
const RULE: &str = "lint";

/// Lints that the laws lean on, by the table of `[workspace.lints]` that switches them on. Members of
/// `clippy::all` are on through it.
const NEEDED: [(&str, &str); 5] = [
    ("rust", "unsafe_code"),
    ("rust", "missing_docs"),
    ("clippy", "all"),
    ("clippy", "unwrap_used"),
    ("clippy", "panic"),
];

/// What no file may switch off, in programs.
const KEPT: [&str; 5] = [
    "missing_docs",
    "clippy::all",
    "clippy::await_holding_lock",
    "clippy::await_holding_refcell_ref",
    "clippy::unwrap_used",
];

/// Functions that `clippy.toml` must ban.
const BANNED: [&str; 10] = [
    "std::time::Instant::now",
    "std::time::SystemTime::now",
    "std::thread::sleep",
    "std::thread::spawn",
    "tokio::spawn",
    "tokio::task::spawn_blocking",
    "tokio::task::JoinSet::spawn",
    "tokio::sync::mpsc::unbounded_channel",
    "std::sync::mpsc::channel",
    "std::env::set_var",
];

/// Checks the workspace's manifest, `clippy.toml`, each crate's manifest (path and text) and sources.
pub(crate) fn check(root: &Path, sources: &[Source]) -> Result<Vec<Finding>, String> {
    let manifest = |path: &Path| {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|error| format!("failed to read {}: {error}", path.display()))?;
        parse(&path.strip_prefix(root).unwrap_or(path).to_string_lossy(), &text)
    };
    let mut findings = switched_on(&manifest(&root.join("Cargo.toml"))?);
    findings.extend(banned(&manifest(&root.join("clippy.toml"))?));
    let crates = std::fs::read_dir(root.join("crates"));
    let crates = crates.map_err(|error| format!("failed to list crates: {error}"))?;
    let folders = crates.flatten().map(|entry| entry.path());
    let mut folders: Vec<_> =
        folders.chain(["xtask", "system-tests"].map(|f| root.join(f))).collect();
    folders.sort();
    for folder in folders {
        let path = folder.join("Cargo.toml");
        if path.is_file() {
            findings.extend(inherited(&path.to_string_lossy(), &manifest(&path)?));
        }
    }
    findings.extend(sources.iter().flat_map(switched_off));
    Ok(findings)
}

fn parse(path: &str, text: &str) -> Result<Table, String> {
    text.parse().map_err(|error| format!("failed to read {path}: {error}"))
}

fn finding(place: &str, what: String) -> Finding {
    Finding { place: place.to_owned(), what: format!("[{RULE}] {what}") }
}

/// The workspace switches every needed lint on.
fn switched_on(manifest: &Table) -> Vec<Finding> {
    let lints = manifest.get("workspace").and_then(|workspace| workspace.get("lints"));
    let level = |tool: &str, lint: &str| {
        let value = lints?.get(tool)?.get(lint)?;
        value.as_str().or_else(|| value.get("level")?.as_str())
    };
    let off = NEEDED
        .iter()
        .filter(|(tool, lint)| !matches!(level(tool, lint), Some("warn" | "deny" | "forbid")));
    off.map(|(tool, lint)| finding("Cargo.toml", format!("{tool} lint {lint} is not on"))).collect()
}

/// `clippy.toml` bans every function that starts, sleeps or waits behind the laws' back.
fn banned(clippy: &Table) -> Vec<Finding> {
    let listed: Vec<_> = clippy
        .get("disallowed-methods")
        .and_then(|list| list.as_array())
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.get("path").or(Some(entry))?.as_str())
        .collect();
    let missing = BANNED.iter().filter(|path| !listed.contains(path));
    missing.map(|path| finding("clippy.toml", format!("{path} is not banned"))).collect()
}

/// A crate takes the workspace's lints.
fn inherited(path: &str, manifest: &Table) -> Option<Finding> {
    let lints = manifest.get("lints").and_then(|lints| lints.get("workspace"));
    let inherits = lints.and_then(toml::Value::as_bool) == Some(true);
    (!inherits).then(|| finding(path, "does not take the workspace's lints".to_owned()))
}

/// A source file does not switch one off, tests and measurements apart.
fn switched_off(source: &Source) -> Vec<Finding> {
    if source.path.contains("/benches/") {
        return Vec::new();
    }
    let attribute = |n: &usize| {
        let line = source.code[*n].trim_start();
        line.starts_with("#[allow(")
            || line.starts_with("#![allow(")
            || line.starts_with("#[expect(")
            || line.starts_with("#![expect(")
    };
    let in_program = |n: &usize| !source.is_test(*n) && source.waiver(RULE, *n).is_none();
    let begins = (0..source.code.len()).filter(in_program).filter(attribute);
    begins
        .flat_map(|n| {
            let end = (n..source.code.len()).find(|m| source.code[*m].contains(")]"));
            let text = source.code[n..=end.unwrap_or(n)].join(" ");
            let words: Vec<_> = text.split([' ', ',', '(', ')']).map(str::to_owned).collect();
            let off = KEPT.iter().filter(move |lint| words.iter().any(|word| word == *lint));
            off.map(move |lint| {
                finding(&format!("{}:{}", source.path, n + 1), format!("switches {lint} off"))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::process::{Command, Stdio};

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
    }

    fn read(path: &str) -> Table {
        parse(path, &std::fs::read_to_string(root().join(path)).unwrap()).unwrap()
    }

    fn whats(findings: impl IntoIterator<Item = Finding>) -> Vec<String> {
        findings.into_iter().map(|finding| finding.what).collect()
    }

    /// What clippy says about `code`, by the names of its lints, as it is configured here.
    fn clippy(code: &str) -> String {
        let folder = std::env::temp_dir().join(format!("planted-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let lints = NEEDED.map(|(tool, lint)| match tool {
            "clippy" => format!("clippy::{lint}"),
            _ => lint.to_owned(),
        });
        let mut child = Command::new("clippy-driver")
            .args(["--edition", "2024", "--crate-name", "planted", "--crate-type", "lib"])
            .args(["--emit", "metadata", "--error-format", "json", "-", "--out-dir"])
            .arg(&folder)
            .args(lints.iter().flat_map(|lint| ["-W", lint]))
            .env("CLIPPY_CONF_DIR", root())
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rust-toolchain.toml names clippy");
        let text = format!("//! Planted faults.\n{code}");
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let said = String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap();
        std::fs::remove_dir_all(&folder).unwrap();
        said
    }

    #[test]
    fn the_lints_find_what_is_planted() {
        let faults = [
            ("pub struct Undocumented;", "missing_docs"),
            (
                "/// Holds a lock.\npub async fn f(m: &std::sync::Mutex<u8>) {\n    \
                 let held = m.lock().unwrap();\n    std::future::ready(()).await;\n    drop(held);\n}",
                "clippy::await_holding_lock",
            ),
            ("/// Panics.\npub fn f() -> u8 {\n    None.unwrap()\n}", "clippy::unwrap_used"),
            ("/// Panics.\npub fn f() {\n    panic!()\n}", "clippy::panic"),
            (
                "/// Starts.\npub fn f() {\n    std::thread::spawn(|| ());\n}",
                "clippy::disallowed_methods",
            ),
            ("/// Sound.\npub unsafe fn f() {}", "unsafe_code"),
        ];
        for (code, lint) in faults {
            let said = clippy(code);
            assert!(said.contains(&format!("\"code\":\"{lint}\"")), "{lint}: {said}");
        }
        assert_eq!(clippy("/// Fine.\npub fn f() {}"), "");
    }

    #[test]
    fn a_lint_that_is_off_is_found() {
        assert_eq!(whats(switched_on(&read("Cargo.toml"))), [""; 0]);
        let off = parse("Cargo.toml", "[workspace.lints.rust]\nunsafe_code = 'forbid'").unwrap();
        assert_eq!(switched_on(&off).len(), NEEDED.len() - 1);
        assert_eq!(whats(banned(&read("clippy.toml"))), [""; 0]);
        let few = "disallowed-methods = ['tokio::spawn', { path = 'std::thread::spawn' }]";
        assert_eq!(banned(&parse("clippy.toml", few).unwrap()).len(), BANNED.len() - 2);
        assert_eq!(whats(inherited("x", &read("xtask/Cargo.toml"))), [""; 0]);
        let own = parse("x", "[lints.rust]\nmissing_docs = 'allow'").unwrap();
        assert!(whats(inherited("x", &own))[0].contains("does not take"));
    }

    #[test]
    fn switching_one_off_in_a_program_is_found() {
        let text = "\
#![allow(missing_docs)]
#[expect(
    clippy::await_holding_lock,
    reason = \"why not\"
)]
fn a() {}
// audit(lint): generated code
#[allow(missing_docs)]
mod b;
#[expect(clippy::too_many_arguments, reason = \"it is on elsewhere\")]
fn c() {}
#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
}";
        let found = whats(switched_off(&Source::new("crates/a/src/a.rs", text)));
        let expected =
            ["[lint] switches missing_docs off", "[lint] switches clippy::await_holding_lock off"];
        assert_eq!(found, expected);
    }
}
