//! What an author of tools sees of `pool call`: what the tools print, what a change makes of them, and
//! the debugger.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use snakehouse_system_tests::{command, run};

/// A home with a file of tools.
struct Author {
    home: tempfile::TempDir,
    tools: PathBuf,
}

impl Author {
    fn new(source: &str) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let tools = home.path().join("mine/tools.py");
        fs::create_dir(home.path().join("mine")).expect("made");
        let author = Self { home, tools };
        author.write("tools.py", source);
        author
    }

    /// As an editor does it.
    fn write(&self, name: &str, source: &str) {
        let file = self.tools.with_file_name(name);
        let fresh = file.with_extension("new");
        fs::write(&fresh, format!("from snakehouse import tool\n{source}\n")).expect("written");
        fs::rename(fresh, file).expect("renamed");
    }

    fn call(&self, flags: &[&str], tool: &str, args: &[&str]) -> Child {
        command(self.home.path())
            .args(["--json", "pool", "call", "--tools"])
            .arg(&self.tools)
            .args(flags)
            .arg(tool)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts")
    }
}

fn json(path: &Path) -> String {
    serde_json::to_string(path).expect("a path is text")
}

#[test]
fn what_a_tool_prints_is_shown_while_it_runs() {
    let author = Author::new(
        "import pathlib, sys\n@tool\ndef talk(gate):\n    print('begun')\n    \
         print('trouble', file=sys.stderr)\n    while not pathlib.Path(gate).exists(): pass\n    \
         print('done', end='')\n    return 1",
    );
    let gate = author.home.path().join("gate");
    let mut child = author.call(&[], "talk", &[&json(&gate)]);
    let mut shown = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut first: Vec<_> = shown.by_ref().take(2).map(|line| line.expect("text")).collect();
    first.sort();
    let worker = first[0].split(']').next().expect("a first part").to_owned();
    assert_eq!(first, [format!("{worker}] begun"), format!("{worker}] trouble")]);
    fs::write(gate, "").expect("written");
    let rest: Vec<_> = shown.map(|line| line.expect("text")).collect();
    assert_eq!(rest, [format!("{worker}] done")]);
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"{\"value\":1}\n"[..]));
}

#[test]
fn tools_that_change_are_called_again_and_a_broken_one_ends_nothing() {
    let author = Author::new("@tool\ndef number():\n    return 1");
    let mut child = author.call(&["--reload"], "number", &[]);
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = || -> serde_json::Value {
        let line = lines.next().expect("it goes on").expect("text");
        serde_json::from_str(&line).expect("JSON")
    };
    assert_eq!(next()["value"], 1);
    author.write("tools.py", "@tool\ndef number():\n    return 2");
    assert_eq!(next()["value"], 2);
    author.write("tools.py", "@tool\ndef number(:\n    return 3");
    let mut is_told = || {
        let error = next()["error"].clone();
        let message = error["message"].as_str().expect("text").to_owned();
        assert!(error["code"] == "worker_not_ready" && message.contains("syntax"), "{error}");
    };
    is_told();
    author.write("helper.py", "FOUR = 4");
    is_told();
    author.write("tools.py", "import helper\n@tool\ndef number():\n    return helper.FOUR");
    assert_eq!(next()["value"], 4);
    author.write("helper.py", "FOUR = 5");
    assert_eq!(next()["value"], 5);
    // A call that never ends is given up for the next.
    author.write(
        "tools.py",
        "import helper\n@tool\ndef number():\n    print('on')\n    while 1: pass",
    );
    let shown = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(shown.map_while(Result::ok).any(|line| line.ends_with("] on")));
    author.write("tools.py", "@tool\ndef number():\n    return 6");
    assert_eq!(next()["value"], 6);
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::INT).expect("it runs");
    assert_eq!(next()["error"]["code"], "interrupted");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
}

#[test]
fn a_breakpoint_uses_the_terminal_if_it_may_and_else_says_so() {
    let author = Author::new("@tool\ndef ask(value):\n    breakpoint()\n    return value");
    let mut child = author.call(&["--debug"], "ask", &["1"]);
    let mut typed = child.stdin.take().expect("piped");
    typed.write_all(b"p value + 1000\nvalue = 42\ncontinue\n").expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let shown = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(&output.stdout[..], b"{\"value\":42}\n", "{shown}");
    assert!(shown.contains("1001"), "{shown}");

    let tools = author.tools.display().to_string();
    let ran = run(author.home.path(), &["--json", "pool", "call", "--tools", &tools, "ask", "1"]);
    assert_eq!((ran.error_code().as_str(), ran.code), ("no_debugger", Some(7)), "{ran:?}");
}
