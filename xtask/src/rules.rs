//! The rules of the standing audit: what a lint of the compiler or of clippy cannot see, or sees
//! only where it is switched on.

use crate::source::Source;

/// Longest file, tests apart.
const LONGEST: usize = 600;

/// A rule: its name for waivers, and the lines (from 0) it objects to, with a sentence each.
pub(crate) struct Rule {
    pub(crate) name: &'static str,
    pub(crate) find: fn(&Source) -> Vec<(usize, String)>,
}

/// Every rule.
pub(crate) const RULES: [Rule; 7] = [
    Rule { name: "spawn", find: spawn },
    Rule { name: "unbounded", find: unbounded },
    Rule { name: "sleep", find: sleep },
    Rule { name: "length", find: length },
    Rule { name: "unfinished", find: unfinished },
    Rule { name: "deadline", find: deadline },
    Rule { name: "semaphore", find: semaphore },
];

/// Law 1: everything is started by `supervise`.
fn spawn(source: &Source) -> Vec<(usize, String)> {
    const FORMS: [&str; 12] = [
        "tokio::spawn(",
        "task::spawn(",
        "spawn_blocking(",
        "spawn_local(",
        "thread::spawn(",
        "thread::Builder",
        "thread::scope(",
        "JoinSet",
        "TaskTracker",
        "Handle::current().spawn(",
        "axum::serve(",
        "rayon",
    ];
    if source.path.starts_with("crates/supervise/") {
        return Vec::new();
    }
    tokens(source, &FORMS, |_| true)
        .map(|(n, form)| (n, format!("{form} starts work outside the supervise crate")))
        .collect()
}

/// Law 2: nothing is unbounded.
fn unbounded(source: &Source) -> Vec<(usize, String)> {
    const FORMS: [&str; 5] = [
        "unbounded_channel",
        "::unbounded(",
        "std::sync::mpsc::channel",
        "mpsc::channel()",
        "UnboundedSender",
    ];
    tokens(source, &FORMS, |_| true).map(|(n, form)| (n, format!("{form} has no bound"))).collect()
}

/// Tests wait on conditions; programs wait on events.
fn sleep(source: &Source) -> Vec<(usize, String)> {
    let simulated = source
        .code
        .iter()
        .any(|line| line.contains("start_paused") || line.contains("virtual_time"));
    let blocking = tokens(source, &["thread::sleep("], |_| true);
    let real = tokens(source, &["sleep("], |n| source.is_test(n) && !simulated);
    let mut found: Vec<_> = blocking
        .chain(real)
        .map(|(n, _)| (n, "sleeps in real time instead of waiting on a condition".to_owned()))
        .collect();
    found.dedup();
    found
}

/// Small rooms.
fn length(source: &Source) -> Vec<(usize, String)> {
    let lines = source.lines_of_code();
    let message = format!("{lines} lines of code; the limit is {LONGEST}");
    (lines > LONGEST).then_some((0, message)).into_iter().collect()
}

/// Nothing is left for later in the code.
fn unfinished(source: &Source) -> Vec<(usize, String)> {
    let marks = ["TODO", "FIXME", "XXX", "HACK"];
    let is_comment = |n: usize, mark: &str| {
        source.comments[n].split(|c: char| !c.is_ascii_alphabetic()).any(|word| word == mark)
    };
    (0..source.comments.len())
        .flat_map(|n| marks.iter().map(move |mark| (n, *mark)))
        .filter(|(n, mark)| is_comment(*n, mark))
        .map(|(n, mark)| (n, format!("{mark}: finish it or write an issue")))
        .collect()
}

/// Law 3: whoever wants no deadline says why. Waits that take no deadline by themselves stand within
/// a timeout, or say why as well.
fn deadline(source: &Source) -> Vec<(usize, String)> {
    const FOR_EVER: [&str; 6] = [
        "Deadline::never()",
        "reqwest::Client::new()",
        "reqwest::get(",
        "set_read_timeout(None)",
        "set_write_timeout(None)",
        "timeout(Duration::MAX",
    ];
    const BARE: [&str; 4] =
        ["TcpStream::connect(", "UnixStream::connect(", "reqwest::Client::builder()", ".output()"];
    // The type itself, what waits for tests, and tools that a person sits before.
    let apart = ["crates/base/", "crates/testkit/", "system-tests/", "xtask/"];
    if apart.iter().any(|folder| source.path.starts_with(folder)) {
        return Vec::new();
    }
    let in_program = |n: usize| !source.is_test(n);
    // The statement around a line: what is chained to it and what it stands in.
    let timed = |n: usize| {
        let end = source.code[n..].iter().position(|line| line.trim_end().ends_with(';'));
        let statement = n.saturating_sub(2)..=(n + end.unwrap_or(0)).min(source.code.len() - 1);
        source.code[statement].iter().any(|line| line.contains("timeout"))
    };
    let bare = tokens(source, &BARE, in_program).filter(|(n, _)| !timed(*n));
    let mut found: Vec<_> = tokens(source, &FOR_EVER, in_program)
        .chain(bare)
        .map(|(n, form)| (n, format!("{form} waits for ever: name the reason in a waiver")))
        .collect();
    found.sort();
    found
}

/// Law 16: what is in flight is bounded by `guard`'s permits, and by `supervise`'s lanes.
fn semaphore(source: &Source) -> Vec<(usize, String)> {
    let owners = ["crates/guard/", "crates/supervise/"];
    if owners.iter().any(|owner| source.path.starts_with(owner)) {
        return Vec::new();
    }
    // With a name before it, this is somebody's own type.
    tokens(source, &["Semaphore"], |n| !source.is_test(n))
        .map(|(n, form)| (n, format!("{form}: take the permits of the guard crate")))
        .collect()
}

/// Where one of `forms` stands in code that `applies`.
fn tokens<'a>(
    source: &'a Source,
    forms: &'a [&'a str],
    applies: impl Fn(usize) -> bool + 'a,
) -> impl Iterator<Item = (usize, &'a str)> + 'a {
    source.code.iter().enumerate().filter(move |(n, _)| applies(*n)).flat_map(move |(n, line)| {
        forms.iter().filter(move |form| contains_word(line, form)).map(move |form| (n, *form))
    })
}

/// Whether `line` has `form` not as the end of a longer name.
fn contains_word(line: &str, form: &str) -> bool {
    line.match_indices(form).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let starts_a_name = form.starts_with(|c: char| c.is_alphanumeric());
        !(starts_a_name && before.is_some_and(|c| c.is_alphanumeric() || c == '_'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<(&'static str, usize)> {
        let source = Source::new(path, text);
        RULES
            .iter()
            .flat_map(|rule| (rule.find)(&source).into_iter().map(|(n, _)| (rule.name, n + 1)))
            .collect()
    }

    #[test]
    fn each_rule_finds_its_fault() {
        let faults = [
            ("fn a() { tokio::spawn(x) }", "spawn"),
            ("let (a, b) = mpsc::unbounded_channel();", "unbounded"),
            ("std::thread::sleep(SECOND);", "sleep"),
            ("x(); // TODO later", "unfinished"),
            ("call(Deadline::never())", "deadline"),
            ("let client = reqwest::Client::new();", "deadline"),
            ("let stream = TcpStream::connect(address).await?;", "deadline"),
            ("let said = Command::new(program).output()?;", "deadline"),
            ("let c = reqwest::Client::builder().build()?;", "deadline"),
            ("places: Arc<Semaphore>,", "semaphore"),
        ];
        for (text, rule) in faults {
            assert_eq!(found("crates/pool/src/a.rs", text), [(rule, 1)], "{text}");
        }
        let long = "x();\n".repeat(601);
        assert_eq!(found("crates/pool/src/a.rs", &long), [("length", 1)]);
    }

    #[test]
    fn what_only_looks_like_a_fault_passes() {
        let fine = [
            "// tokio::spawn( is banned",
            "let text = \"tokio::spawn(\";",
            "child.my_spawn_blocking(1)",
            "tokio::time::sleep(PAUSE).await",
            "let (a, b) = mpsc::channel(8);",
            "let s = timeout(BOUND, TcpStream::connect(address)).await??;",
            "let c = reqwest::Client::builder()\n    .connect_timeout(BOUND)\n    .build()?;",
            "struct NoSemaphore;",
        ];
        for text in fine {
            assert_eq!(found("crates/pool/src/a.rs", text), [], "{text}");
        }
        assert_eq!(found("crates/supervise/src/spawn.rs", "tokio::spawn(x)"), []);
        assert_eq!(found("crates/supervise/src/lane.rs", "places: Arc<Semaphore>,"), []);
        assert_eq!(found("crates/pool/tests/it/main.rs", "gate: Semaphore,"), []);
    }

    #[test]
    fn a_test_sleeps_on_a_virtual_clock_only() {
        let real = "tokio::time::sleep(SECOND).await;";
        assert_eq!(found("crates/pool/tests/it/main.rs", real), [("sleep", 1)]);
        let simulated = "virtual_time(async {\ntokio::time::sleep(SECOND).await;";
        assert_eq!(found("crates/pool/tests/it/main.rs", simulated), []);
    }
}
