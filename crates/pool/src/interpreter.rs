//! Finds a Python interpreter and learns what it is.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec};

use crate::error::PoolError;

/// Names the interpreter when the caller does not.
pub const PYTHON_ENV: &str = "SNAKEHOUSE_PYTHON";

/// Most bytes that an interpreter may answer.
const MAX_ANSWER: usize = 16 * 1024;

/// How long an interpreter may take to say its version. A cold one on a loaded machine takes 2 s.
const PATIENCE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Prints two lines, and runs on every Python there ever was.
const QUESTION: &str = "import sys; sys.stdout.write('%s\\n%d.%d.%d\\n' % ((sys.executable,) + tuple(sys.version_info[:3])))";

/// A Python interpreter that is known to be there and new enough.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interpreter {
    path: PathBuf,
    version: Version,
    environment: Held,
}

/// Keeps an environment from being forgotten. No part of what an interpreter is.
#[derive(Clone, Debug, Default)]
struct Held {
    _file: Option<Arc<File>>,
}

impl PartialEq for Held {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl Eq for Held {}

impl Hash for Held {
    fn hash<H: Hasher>(&self, _state: &mut H) {}
}

/// A Python version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 3.
    pub major: u32,
    /// 11 or more.
    pub minor: u32,
    /// Any.
    pub patch: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Interpreter {
    /// The oldest version that works.
    pub const MINIMUM: Version = Version { major: 3, minor: 11, patch: 0 };

    /// The interpreter at `explicit`, else the one that `SNAKEHOUSE_PYTHON` names, else `python3`
    /// on `PATH`.
    ///
    /// Blocks while the interpreter runs once (about 20 ms, at most 20 s): call it before the
    /// runtime starts or in a lane.
    ///
    /// # Errors
    /// [`PoolError::InterpreterMissing`], [`InterpreterTooOld`](PoolError::InterpreterTooOld) or
    /// [`InterpreterBroken`](PoolError::InterpreterBroken). A named interpreter that does not fit
    /// is an error, never a reason to look for another.
    pub fn find(explicit: Option<&Path>) -> Result<Self, PoolError> {
        let named = std::env::var_os(PYTHON_ENV).filter(|value| !value.is_empty());
        Self::ask(explicit.map(Path::as_os_str).or(named.as_deref()).unwrap_or("python3".as_ref()))
    }

    /// The path that starts it. For a launcher such as a pyenv shim this is what it launches; for
    /// a virtual environment it is the environment's own.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Holds an open file for as long as it, or a copy of it, lives.
    pub(crate) fn holding(mut self, file: File) -> Self {
        self.environment = Held { _file: Some(Arc::new(file)) };
        self
    }

    fn ask(program: &OsStr) -> Result<Self, PoolError> {
        let path = PathBuf::from(program);
        let broken = |message: String| PoolError::InterpreterBroken { path: path.clone(), message };
        let mut child = start(program, &["-E", "-s", "-S", "-c", QUESTION])
            .map_err(|source| PoolError::InterpreterMissing { path: path.clone(), source })?;
        let answer = listen(&mut child);
        // Ends one that went silent; one that has exited does not mind.
        let killed = child.kill();
        let status = child.wait().and_then(|status| killed.map(|()| status));
        let answer = answer.map_err(|error| broken(error.to_string()))?;
        let status = status.map_err(|error| broken(error.to_string()))?;
        let Some((executable, version)) = parse(&answer) else {
            return Err(broken(format!("{status}, and it wrote {:?}", cut(&answer))));
        };
        // Some embedders do not know their own path.
        let path = if executable.is_absolute() { executable } else { path };
        if version < Self::MINIMUM {
            return Err(PoolError::InterpreterTooOld { path, version: version.to_string() });
        }
        Ok(Self { path, version, environment: Held::default() })
    }
}

fn start(program: &OsStr, args: &[&str]) -> io::Result<Child> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()
}

/// What a program writes; it is killed if that takes too long or is too much.
pub(crate) fn said(program: &OsStr, args: &[&str]) -> io::Result<String> {
    let mut child = start(program, args)?;
    let answer = listen(&mut child);
    child.kill()?;
    child.wait()?;
    answer
}

/// Everything the child writes until it closes its output, within the time and the size allowed.
fn listen(child: &mut Child) -> io::Result<String> {
    let Some(mut output) = child.stdout.take() else { return Ok(String::new()) };
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while answer.len() < MAX_ANSWER {
        let mut ready = [PollFd::new(&output, PollFlags::IN)];
        if rustix::event::poll(&mut ready, Some(&PATIENCE))? == 0 {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "it did not answer in 20 s"));
        }
        match output.read(&mut chunk)? {
            0 => break,
            n => answer.extend_from_slice(&chunk[..n]),
        }
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

fn parse(answer: &str) -> Option<(PathBuf, Version)> {
    let mut lines = answer.lines();
    let executable = PathBuf::from(lines.next()?);
    let mut numbers = lines.next()?.split('.').map(|part| part.parse().ok());
    let version =
        Version { major: numbers.next()??, minor: numbers.next()??, patch: numbers.next()?? };
    (numbers.next().is_none() && lines.next().is_none()).then_some((executable, version))
}

fn cut(answer: &str) -> String {
    answer.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_answer_is_a_version() {
        let version = Version { major: 3, minor: 13, patch: 0 };
        assert_eq!(parse("/bin/p\n3.13.0\n"), Some((PathBuf::from("/bin/p"), version)));
        for wrong in ["", "/bin/p\n", "/bin/p\n3.13\n", "/bin/p\n3.13.0.1\n", "a\n3.1.1\nmore\n"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
