//! For authors of workers: a directory to start from, the Python module, the check of the protocol.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_pool::Interpreter;

use crate::args::WorkerCheckArgs;
use crate::config::Config;
use crate::error::CliError;
use crate::output::Output;

/// What `init worker` writes.
const FILES: [(&str, &str); 4] = [
    ("tools.py", include_str!("../templates/worker/tools.py")),
    ("test_tools.py", include_str!("../templates/worker/test_tools.py")),
    ("requirements.txt", include_str!("../templates/worker/requirements.txt")),
    ("README.md", include_str!("../templates/worker/README.md")),
];

#[derive(Debug, Serialize)]
struct Made {
    dir: PathBuf,
    files: Vec<&'static str>,
}

/// Writes the template. Nothing is written if one of its files is there.
pub(crate) fn init(dir: &Path, out: Output) -> Result<(), CliError> {
    let failed = |path: &Path, error: &io::Error| {
        let (kind, code) = match error.kind() {
            ErrorKind::AlreadyExists => (Kind::Conflict, "file_exists"),
            _ => (Kind::Environment, "cannot_write"),
        };
        CliError::new(kind, code, format!("cannot make {}: {error}", path.display()))
            .with_hint("name another directory")
    };
    fs::create_dir_all(dir).map_err(|error| failed(dir, &error))?;
    if let Some((name, _)) = FILES.iter().find(|(name, _)| dir.join(name).exists()) {
        return Err(failed(&dir.join(name), &ErrorKind::AlreadyExists.into()));
    }
    for (name, text) in FILES {
        let path = dir.join(name);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| failed(&path, &error))?;
    }
    let made = Made { dir: dir.to_owned(), files: FILES.map(|(name, _)| name).into() };
    out.data(&made, || {
        format!("made {}: {}; README.md says what to do", made.dir.display(), made.files.join(", "))
    })
}

#[derive(Debug, Serialize)]
struct PythonPath {
    python_path: PathBuf,
}

/// Prints where the package is.
pub(crate) fn python_path(out: Output) -> Result<(), CliError> {
    let python_path = snakehouse_pool::python_path()?;
    out.data(&PythonPath { python_path: python_path.clone() }, || python_path.display().to_string())
}

/// Becomes the check: this process is replaced, so that nothing stands between it and its caller.
pub(crate) fn check(config: &Config, args: WorkerCheckArgs, out: Output) -> Result<(), CliError> {
    let python = Interpreter::find(config.python.value.as_deref())?;
    let mut check = Command::new(python.path());
    check.args(["-m", "snakehouse.conformance"]);
    check.env("PYTHONPATH", snakehouse_pool::python_path()?);
    check.args(out.is_json().then_some("--json"));
    match args.tools {
        Some(file) => check.arg("--tools").arg(file),
        None => check.arg("--").args(args.command),
    };
    let error = check.exec();
    Err(CliError::new(Kind::Environment, "check_not_started", format!("cannot start it: {error}")))
}
