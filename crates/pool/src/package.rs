//! The Python side, carried in this crate and laid out where interpreters find it.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::PoolError;
use crate::os;

/// One file of the package.
macro_rules! file {
    ($name:literal) => {
        ($name, include_str!(concat!("../../../python/snakehouse/", $name)))
    };
}

/// Every file of the package: its name and its content.
const FILES: &[(&str, &str)] = &[
    file!("__init__.py"),
    file!("_codec.py"),
    file!("_context.py"),
    file!("_doorbell.py"),
    file!("_errors.py"),
    file!("_failure.py"),
    file!("_frames.py"),
    file!("_load.py"),
    file!("_loop.py"),
    file!("_main.py"),
    file!("_msgpack.py"),
    file!("_reaper.py"),
    file!("_tool.py"),
    file!("_version.py"),
    file!("py.typed"),
    file!("worker.py"),
];

/// The name of the package.
const NAME: &str = "snakehouse";

/// Where the package lies for interpreters to import. Never changed once it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    root: PathBuf,
}

impl Package {
    /// Extracts the package below the user's cache directory, unless it is there already.
    /// Blocks on the disk.
    pub(crate) fn extract() -> Result<Self, PoolError> {
        let cache = cache_directory().ok_or_else(|| PoolError::Package {
            path: PathBuf::from("$HOME/.cache/snakehouse"),
            source: io::Error::new(
                io::ErrorKind::NotFound,
                "neither XDG_CACHE_HOME nor HOME is an absolute path",
            ),
        })?;
        Self::extract_below(&cache)
    }

    /// As [`extract`](Self::extract), below a directory that is made if need be, with mode 0700.
    ///
    /// The directory's name is the hash of its content. It appears by one rename, complete, so
    /// neither a crash nor another process at the same work can leave half of it.
    pub(crate) fn extract_below(cache: &Path) -> Result<Self, PoolError> {
        private_directory(cache).map_err(failed(cache))?;
        let root = cache.join(format!("python-{}", content_hash()));
        if !root.exists() {
            let fresh = cache.join(format!(
                ".new-{}-{}",
                std::process::id(),
                snakehouse_base::id::RunToken::fresh()
            ));
            write_package(&fresh).map_err(failed(&fresh))?;
            if let Err(source) = fs::rename(&fresh, &root) {
                // The rename fails when another process was faster; its content is the same.
                let removed = fs::remove_dir_all(&fresh);
                if !root.is_dir() {
                    return Err(PoolError::Package { path: root, source });
                }
                removed.map_err(failed(&fresh))?;
            }
        }
        private_directory(&root).map_err(failed(&root))?;
        Ok(Self { root })
    }

    /// The reaper's program.
    pub(crate) fn reaper(&self) -> PathBuf {
        self.root.join(NAME).join("_reaper.py")
    }

    /// The worker's program. It puts the package first on its `sys.path`.
    pub(crate) fn worker(&self) -> PathBuf {
        self.root.join(NAME).join("worker.py")
    }
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let path = path.to_owned();
    move |source| PoolError::Package { path, source }
}

fn cache_directory() -> Option<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join(NAME))
}

/// Makes the directory if need be and refuses one that others can write to.
fn private_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    let found = fs::symlink_metadata(path)?;
    if !found.is_dir() || found.uid() != os::effective_user() {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is not a directory of this user",
        ));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    }
    Ok(())
}

fn write_package(root: &Path) -> io::Result<()> {
    let package = root.join(NAME);
    DirBuilder::new().recursive(true).mode(0o700).create(&package)?;
    for (name, content) in FILES {
        let mut file = fs::File::create_new(package.join(name))?;
        file.write_all(content.as_bytes())?;
        // The rename must not become durable before what it names.
        file.sync_all()?;
    }
    Ok(())
}

fn content_hash() -> String {
    let mut hash = Sha256::new();
    for (name, content) in FILES {
        for part in [name, content] {
            hash.update((part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
    }
    hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_python_file_of_the_package_is_embedded() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../python").join(NAME);
        let mut there: Vec<_> = fs::read_dir(source)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == "py" || e == "typed"))
            .collect();
        let mut embedded: Vec<_> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        there.sort();
        embedded.sort();
        assert_eq!(embedded, there);
    }

    #[test]
    fn it_is_extracted_once_and_is_private() {
        let temp = tempfile::tempdir().unwrap();
        let cache = temp.path().join("a/b");
        let first = Package::extract_below(&cache).unwrap();
        assert_eq!(Package::extract_below(&cache).unwrap(), first);
        assert_eq!(fs::metadata(&cache).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(&first.root).unwrap().mode() & 0o777, 0o700);
        for program in [first.reaper(), first.worker()] {
            assert!(program.is_file(), "{}", program.display());
        }
        let left: Vec<_> = fs::read_dir(&cache).unwrap().collect();
        assert_eq!(left.len(), 1);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let temp = tempfile::tempdir().unwrap();
        let cache = temp.path().join("taken");
        fs::write(&cache, "").unwrap();
        match Package::extract_below(&cache) {
            Err(PoolError::Package { path, .. }) => assert_eq!(path, cache),
            other => panic!("{other:?}"),
        }
    }
}
