//! The state directory of the command line: what lies where.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use snakehouse_base::Kind;

use crate::error::CliError;

/// The directory that `SNAKEHOUSE_HOME` names.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    root: PathBuf,
}

impl Home {
    /// The directory, whether it exists or not.
    pub(crate) fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Makes the directory (0700) if it is absent.
    pub(crate) fn open(root: &Path) -> Result<Self, CliError> {
        let home = Self::new(root);
        make_private(&home.root)?;
        make_private(&home.models())?;
        Ok(home)
    }

    /// The state of the training service.
    pub(crate) fn state(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Base models: a directory or a link for each name.
    pub(crate) fn models(&self) -> PathBuf {
        self.root.join("models")
    }

    /// Records of the runs that use this directory.
    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }
}

fn make_private(dir: &Path) -> Result<(), CliError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| not_writable(dir, &error))
}

/// The error for a place in the state directory that cannot be written.
pub(crate) fn not_writable(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(
        Kind::Environment,
        "state_dir_not_writable",
        format!("cannot write {}: {error}", path.display()),
    )
    .with_hint("choose another directory with --home or SNAKEHOUSE_HOME, or mend its permissions")
}
