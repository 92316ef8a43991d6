//! Long runs of checks that are short in CI.
//!
//! A soak is a test that CI runs at a small size, run at a large one, with a seed that is drawn,
//! printed and can be given again. `cargo xtask soak` lists [the table](SOAKS); `cargo xtask soak
//! NAME` runs one and writes its outcome into `docs/soak.md`. To register a check, add a line to the
//! table: its test takes its size from the environment variable that is named there. All of them find
//! `SNAKEHOUSE_SOAK` set: bounds of time are then for the long size.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use snakehouse_base::{Chance, Clock as _, SystemClock};

use crate::Finding;

/// Where the last outcome of each soak stands.
const PAGE: &str = "docs/soak.md";

/// A check with a long size.
struct Soak {
    name: &'static str,
    /// What is repeated, in the plural.
    what: &'static str,
    /// The environment variable that the tests take their size from; one that no test reads if the
    /// size is an argument.
    variable: &'static str,
    size: u64,
    /// Arguments of `cargo` (of `test` or `nextest run`), one command after the other. `{size}` stands
    /// for the size.
    commands: &'static [&'static [&'static str]],
}

/// Every soak.
const SOAKS: &[Soak] = &[
    Soak {
        name: "shuttle",
        what: "random schedules of the guards' tasks",
        variable: "SNAKEHOUSE_SCHEDULES",
        size: 100_000,
        commands: &[&[
            "test",
            "-p",
            "snakehouse-guard",
            "--features",
            "shuttle",
            "--test",
            "shuttle",
        ]],
    },
    Soak {
        name: "outages",
        what: "seeds of every outage and of four hours with partitions",
        variable: "SNAKEHOUSE_SEEDS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-guard", "--test", "it", "outages"]],
    },
    Soak {
        name: "chaos",
        what: "seeds of faults, cancellations and churn under guards and supervisors",
        variable: "SNAKEHOUSE_SEEDS",
        size: 1000,
        commands: &[
            &["test", "-p", "snakehouse-guard", "--test", "it", "chaos"],
            &["test", "-p", "snakehouse-guard", "--test", "it", "whoever_is_cancelled"],
            &["test", "-p", "snakehouse-supervise", "--test", "it", "chaos"],
            &["test", "-p", "snakehouse-supervise", "--test", "it", "stress"],
        ],
    },
    Soak {
        name: "references",
        what: "cases of every guard and of restart strategies against naive references",
        variable: "PROPTEST_CASES",
        size: 20_000,
        commands: &[
            &["test", "-p", "snakehouse-base", "--lib", "backoff"],
            &["test", "-p", "snakehouse-guard", "--lib", "agree"],
            &["test", "-p", "snakehouse-guard", "--lib", "limit"],
            &["test", "-p", "snakehouse-guard", "--lib", "window"],
            &["test", "-p", "snakehouse-guard", "--test", "it", "agree"],
            &["test", "-p", "snakehouse-guard", "--test", "it", "reference"],
            &["test", "-p", "snakehouse-supervise", "--lib", "agree"],
            &["test", "-p", "snakehouse-supervise", "--test", "it", "interpreter"],
        ],
    },
    Soak {
        name: "retry-after",
        what: "headers of any bytes",
        variable: "PROPTEST_CASES",
        size: 1_000_000,
        commands: &[&["test", "-p", "snakehouse-guard", "--lib", "http"]],
    },
    Soak {
        name: "memory",
        what: "keys, polls and children that leave nothing behind",
        variable: "SNAKEHOUSE_ITERATIONS",
        size: 1_000_000,
        commands: &[
            &["test", "-p", "snakehouse-guard", "--lib", "idle_keys"],
            &["test", "-p", "snakehouse-guard", "--test", "it", "many_"],
            &["test", "-p", "snakehouse-supervise", "--test", "it", "leave_no_memory"],
        ],
    },
    Soak {
        name: "pool-model",
        what: "worlds of 2,000 random events of a pool against a naive reference",
        variable: "SNAKEHOUSE_SEEDS",
        size: 500,
        commands: &[&["test", "-p", "snakehouse-pool", "--lib", "dispatcher::model"]],
    },
    Soak {
        name: "pool-chains",
        what: "worlds of 1,000 random events of chains of calls over several pools",
        variable: "SNAKEHOUSE_SEEDS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--lib", "dispatcher::chains"]],
    },
    Soak {
        name: "again",
        what: "times every test of the foundation, in whatever order they run",
        variable: "SNAKEHOUSE_TIMES",
        size: 100,
        commands: &[&[
            "nextest",
            "run",
            "-p",
            "snakehouse-base",
            "-p",
            "snakehouse-testkit",
            "-p",
            "snakehouse-supervise",
            "-p",
            "snakehouse-guard",
            "--status-level=fail",
            "--final-status-level=fail",
            "--stress-count={size}",
        ]],
    },
    Soak {
        name: "pool-cancels",
        what: "calls of a pool whose callers give up at random",
        variable: "SNAKEHOUSE_CALLS",
        size: 100_000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "cancels_at_random"]],
    },
    Soak {
        name: "pool-promptness",
        what: "trials of cancels and deadlines",
        variable: "SNAKEHOUSE_TRIALS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "promptness"]],
    },
    Soak {
        name: "pool-held",
        what: "seconds for which native code keeps the interpreter",
        variable: "SNAKEHOUSE_HOLD_SECONDS",
        size: 60,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "holds_the_interpreter"]],
    },
    Soak {
        name: "pool-stats",
        what: "calls of a random load, counted by the pool and by their callers",
        variable: "SNAKEHOUSE_LOAD",
        size: 10_000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "stats::counters"]],
    },
    Soak {
        name: "pool-restarts",
        what: "hosts that come and go without an end beside one that stays",
        variable: "SNAKEHOUSE_RESTARTS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "runs::hosts"]],
    },
    Soak {
        name: "pool-tree-kills",
        what: "kills of reaper, zygotes and workers under load, and three fifths of it of hosts",
        variable: "SNAKEHOUSE_KILLS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "tree_kills"]],
    },
    Soak {
        name: "pool-worker-kills",
        what: "kills of random workers under load",
        variable: "SNAKEHOUSE_KILLS",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "kills::every_call_ends"]],
    },
    Soak {
        name: "pool-recycles",
        what: "replacements of workers under load",
        variable: "SNAKEHOUSE_RECYCLES",
        size: 1000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "replacements_under_load"]],
    },
    Soak {
        name: "pool-duplex",
        what: "MiB echoed through a stream at constant memory",
        variable: "SNAKEHOUSE_MIB",
        size: 1024,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "duplex"]],
    },
    Soak {
        name: "values",
        what: "random values each way through a worker with each codec",
        variable: "SNAKEHOUSE_VALUES",
        size: 1_000_000,
        commands: &[&["test", "-p", "snakehouse-pool", "--test", "it", "values::random"]],
    },
    Soak {
        name: "fuzz",
        what: "mutated values and frames for the decoders of both sides",
        variable: "SNAKEHOUSE_FUZZ",
        size: 40_000_000,
        commands: &[
            &["test", "-p", "snakehouse-wire", "--test", "fuzz"],
            &["test", "-p", "snakehouse-pool", "--test", "it", "rust_and_python_agree"],
        ],
    },
];

/// What was asked for on the command line.
struct Order {
    soak: &'static Soak,
    size: u64,
    seed: u64,
}

/// `NAME [--size N] [--seed N]`; nothing lists the table.
pub(crate) fn run(root: &Path, arguments: &[String]) -> Result<Vec<Finding>, String> {
    if arguments.is_empty() {
        for Soak { name, what, size, .. } in SOAKS {
            println!("{name:<14} {size:>9} {what}");
        }
        return Ok(Vec::new());
    }
    let order = order(arguments)?;
    let commit = commit(root)?;
    let Order { soak, size, seed } = &order;
    println!("soak {}: {size} {}; seed {seed}; commit {commit}", soak.name, soak.what);
    // Compiled before the clock runs.
    for command in soak.commands {
        let build: Vec<_> = command.iter().copied().chain(["--no-run"]).collect();
        if !passes(root, &order, &build) {
            return Err(format!("failed: `cargo {}`", build.join(" ")));
        }
    }
    let begun = SystemClock.now();
    let failed = soak.commands.iter().find(|command| !passes(root, &order, command));
    let took = SystemClock.now() - begun;
    let result = failed
        .map_or("passed".to_owned(), |command| format!("failed: `cargo {}`", command.join(" ")));
    let row = row(&order, &commit, &result, took);
    let page = root.join(PAGE);
    let text = std::fs::read_to_string(&page)
        .map_err(|error| format!("failed to read {}: {error}", page.display()))?;
    std::fs::write(&page, with_row(&text, soak.name, &row))
        .map_err(|error| format!("failed to write {}: {error}", page.display()))?;
    println!("{row}");
    let finding = |_| Finding { place: format!("soak {}", soak.name), what: result };
    Ok(failed.map(finding).into_iter().collect())
}

fn order(arguments: &[String]) -> Result<Order, String> {
    const USAGE: &str = "usage: cargo xtask soak [NAME [--size N] [--seed N]]";
    let (name, options) = arguments.split_first().ok_or(USAGE)?;
    let soak = SOAKS.iter().find(|soak| soak.name == name);
    let soak =
        soak.ok_or_else(|| format!("no soak is named {name}; `cargo xtask soak` lists them"))?;
    // Small, so that it can be the first of a row of seeds.
    let mut order = Order { soak, size: soak.size, seed: Chance::from_entropy().next_u64() >> 32 };
    for option in options.chunks(2) {
        let [option, value] = option else { return Err(USAGE.to_owned()) };
        let value = value.parse().map_err(|error| format!("{option} {value}: {error}"))?;
        match option.as_str() {
            "--size" => order.size = value,
            "--seed" => order.seed = value,
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(order)
}

/// The commit that is checked out, marked if something differs from it.
fn commit(root: &Path) -> Result<String, String> {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).current_dir(root).output();
        let output = output.map_err(|error| format!("failed to start git: {error}"))?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=10", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--", ".", &format!(":!{PAGE}")])?;
    Ok(if changed.is_empty() { commit } else { format!("{commit} with changes") })
}

fn passes(root: &Path, order: &Order, command: &[&str]) -> bool {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let (seed, size) = (order.seed.to_string(), order.size.to_string());
    let status = Command::new(cargo)
        .args(command.iter().map(|argument| argument.replace("{size}", &size)))
        .current_dir(root)
        .env(order.soak.variable, &size)
        .env("SNAKEHOUSE_SOAK", order.soak.name)
        .env("SNAKEHOUSE_FIRST_SEED", &seed)
        .env("PROPTEST_RNG_SEED", &seed)
        .env("SHUTTLE_RANDOM_SEED", &seed)
        .status();
    status.is_ok_and(|status| status.success())
}

/// A row of the page: `| name | size and what | seed | commit | result | took |`.
fn row(order: &Order, commit: &str, result: &str, took: Duration) -> String {
    let Order { soak, size, seed } = order;
    let minutes = took.as_secs_f64() / 60.0;
    let (name, what) = (soak.name, soak.what);
    format!("| `{name}` | {size} {what} | {seed} | {commit} | {result} | {minutes:.1} min |")
}

/// The page with the row of `name` in place of the one it had, or at the end.
fn with_row(text: &str, name: &str, row: &str) -> String {
    let begin = format!("| `{name}` |");
    let mut lines: Vec<_> = text.lines().collect();
    match lines.iter().position(|line| line.starts_with(&begin)) {
        Some(n) => lines[n] = row,
        None => lines.push(row),
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn an_order_is_a_name_with_its_long_size_unless_said_otherwise() {
        let plain = order(&words("outages")).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((plain.soak.name, plain.size), ("outages", 1000));
        let said = order(&words("outages --seed 7 --size 3")).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((said.seed, said.size), (7, 3));
        for wrong in ["nothing", "outages --size", "outages --size x", "outages --days 3"] {
            assert!(order(&words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_unique_and_every_soak_does_something() {
        let mut names: Vec<_> = SOAKS.iter().map(|soak| soak.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SOAKS.len());
        assert!(SOAKS.iter().all(|soak| soak.size > 0 && !soak.commands.is_empty()));
    }

    #[test]
    fn a_row_replaces_the_one_of_its_soak() {
        let page = "# Soaks\n\n| `a` | old |\n| `b` | old |\n";
        assert_eq!(with_row(page, "b", "| `b` | new |"), page.replace("`b` | old", "`b` | new"));
        assert_eq!(with_row(page, "c", "| `c` | new |"), format!("{page}| `c` | new |\n"));
    }
}
