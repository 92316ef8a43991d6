//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Path of the `snakehouse` binary that belongs to this build.
///
/// # Panics
/// If it has not been built.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a program knows its own path");
    // Tests lie in <target>/<profile>/deps, programs beside the binary.
    let beside = own.parent().expect("a file has a directory");
    let profile = if beside.ends_with("deps") { beside.parent() } else { Some(beside) };
    let path = profile.expect("deps has a parent").join("snakehouse");
    if !path.exists() {
        panic!("{} is missing: run `cargo build -p snakehouse` first", path.display());
    }
    path
}

/// What one finished command left.
#[derive(Debug)]
pub struct Ran {
    /// Exit code, `None` if a signal ended it.
    pub code: Option<i32>,
    /// All of stdout.
    pub stdout: String,
    /// All of stderr.
    pub stderr: String,
}

impl Ran {
    /// The last line of stdout as JSON.
    ///
    /// # Panics
    /// If it is not JSON.
    pub fn last_json(&self) -> serde_json::Value {
        let line = self.stdout.lines().last().unwrap_or_default();
        serde_json::from_str(line)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {line:?}\nstderr: {}", self.stderr))
    }

    /// The `code` of the error document on the last line.
    ///
    /// # Panics
    /// If the last line is not an error document.
    pub fn error_code(&self) -> String {
        let document = self.last_json();
        let code = document["error"]["code"].as_str();
        code.unwrap_or_else(|| panic!("no error code in {document}")).to_owned()
    }
}

/// Runs `snakehouse ARGS` in `home` with an environment of its own and waits for its end.
///
/// # Panics
/// If the process cannot be started.
pub fn run(home: &Path, args: &[&str]) -> Ran {
    let output = command(home)
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run snakehouse: {error}"));
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// `snakehouse` without arguments, with nothing of the caller's environment but `PATH`.
pub fn command(home: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", home)
        .env("SNAKEHOUSE_HOME", home)
        .env("RUST_BACKTRACE", "1");
    command
}
