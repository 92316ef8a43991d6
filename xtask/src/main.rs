//! Checks of the repository itself.
//!
//! `cargo xtask edges` compares the dependencies between crates with the table in
//! `crates/README.md`. `cargo xtask audit` does that too, looks for what no lint can see, and sees to
//! it that the lints are on. `cargo xtask planted`
//! breaks the foundation on purpose and requires its tests to notice. `cargo xtask soak` runs checks
//! at their long size. `cargo xtask steps` takes the steps of the README as a newcomer does. Each prints one line per finding and exits with 1 if there is one.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool")]

mod audit;
mod codes;
mod docs;
mod edges;
mod lints;
mod planted;
mod rules;
mod soak;
mod source;
mod steps;

use std::path::Path;
use std::process::ExitCode;

/// One thing that must not be, and where.
#[derive(Debug)]
struct Finding {
    place: String,
    what: String,
}

fn main() -> ExitCode {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let command = arguments.first().cloned().unwrap_or_default();
    let outcome = match command.as_str() {
        "edges" => edges::check(root),
        "audit" => audit::check(root),
        "planted" => planted::check(root),
        "soak" => soak::run(root, &arguments[1..]),
        "steps" => steps::check(root),
        _ => Err("usage: cargo xtask <edges|audit|planted|soak|steps>".to_owned()),
    };
    match outcome {
        Ok(findings) if findings.is_empty() => {
            println!("{command}: clean");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{}: {}", finding.place, finding.what);
            }
            eprintln!("{command}: {} findings", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}
