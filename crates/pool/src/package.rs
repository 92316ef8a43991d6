//! The Python side, carried in this crate and laid out where interpreters find it.

use std::fs::{self, DirBuilder};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest, Sha256};
use snakehouse_base::id::RunToken;
use snakehouse_base::{Clock, SystemClock};

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
    file!("_answer.py"),
    file!("_async.py"),
    file!("_birth.py"),
    file!("_buffers.py"),
    file!("_callbacks.py"),
    file!("_channel.py"),
    file!("_codec.py"),
    file!("_conformance_cases.py"),
    file!("_context.py"),
    file!("_conformance_tools.py"),
    file!("_debugger.py"),
    file!("_doorbell.py"),
    file!("_environment.py"),
    file!("_errors.py"),
    file!("_extensions.py"),
    file!("_failure.py"),
    file!("_fork_safety.py"),
    file!("_frames.py"),
    file!("_host.py"),
    file!("_inbox.py"),
    file!("_lender.py"),
    file!("_limits.py"),
    file!("_load.py"),
    file!("_loop.py"),
    file!("_main.py"),
    file!("_marks.py"),
    file!("_modes.py"),
    file!("_msgpack.py"),
    file!("_nursery.py"),
    file!("_outgoing.py"),
    file!("_packets.py"),
    file!("_pages.py"),
    file!("_peer.py"),
    file!("_perform.py"),
    file!("_plain.py"),
    file!("_ports.py"),
    file!("_processes.py"),
    file!("_protobuf.py"),
    file!("_reader.py"),
    file!("_reaper.py"),
    file!("_running.py"),
    file!("_schema.py"),
    file!("_seat.py"),
    file!("_session_hooks.py"),
    file!("_sessions.py"),
    file!("_settings.py"),
    file!("_spans.py"),
    file!("_starts.py"),
    file!("_stream.py"),
    file!("_tasks.py"),
    file!("_threads.py"),
    file!("_telemetry.py"),
    file!("_tool.py"),
    file!("_trace.py"),
    file!("_version.py"),
    file!("_writer.py"),
    file!("_zygote.py"),
    file!("client.py"),
    file!("conformance.py"),
    file!("py.typed"),
    file!("testing.py"),
    file!("worker.py"),
];

/// The name of the package.
const NAME: &str = "snakehouse";

/// What a directory is called that is not complete yet, or no longer of use.
const FRESH: &str = ".new-";

/// No extraction takes this long: whoever left such a directory behind is dead.
const LEFT_BEHIND: Duration = Duration::from_secs(24 * 60 * 60);

/// Where the package lies for interpreters to import. Never changed once it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Package {
    root: PathBuf,
}

impl Package {
    /// Extracts the package below the user's cache directory, unless it is there already.
    /// Blocks on the disk.
    pub(crate) fn extract() -> Result<Self, PoolError> {
        Self::extract_below(&cache_directory()?)
    }

    /// As [`extract`](Self::extract), below a directory that is made if need be, with mode 0700.
    ///
    /// The directory's name is the hash of its content. It appears by one rename, complete, so
    /// neither a crash nor another process at the same work can leave half of it. One that somebody
    /// else damaged is swapped for a whole one. Those of other versions are left alone: their
    /// programs may be running.
    pub(crate) fn extract_below(cache: &Path) -> Result<Self, PoolError> {
        private_directory(cache).map_err(failed(cache))?;
        let root = cache.join(format!("python-{}", content_hash()));
        if !is_whole(&root) {
            let fresh = cache.join(format!("{FRESH}{}-{}", std::process::id(), RunToken::fresh()));
            write_package(&fresh).map_err(failed(&fresh))?;
            put_in_place(&fresh, &root).map_err(failed(&root))?;
        }
        remove_left_behind(cache);
        private_directory(&root).map_err(failed(&root))?;
        Ok(Self { root })
    }

    /// Extracts it again if it is not whole any more: caches are cleaned by others too. Blocks on
    /// the disk.
    pub(crate) fn mend(&self) -> Result<(), PoolError> {
        Self::extract_below(self.cache()).map(drop)
    }

    /// The directory that it was extracted below.
    pub(crate) fn cache(&self) -> &Path {
        self.root.parent().unwrap_or(&self.root)
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

/// The directory that makes `import snakehouse` work in any interpreter, as part of `PYTHONPATH`: for
/// tests of tools without a pool. Extracts the package if it is not there. Blocks on the disk.
///
/// # Errors
/// [`PoolError::Package`].
pub fn python_path() -> Result<PathBuf, PoolError> {
    Package::extract().map(|package| package.root)
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PoolError {
    let path = path.to_owned();
    move |source| PoolError::Package { path, source }
}

/// The directory of this user for what can be made again.
pub(crate) fn cache_directory() -> Result<PathBuf, PoolError> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join(NAME))
        .ok_or_else(|| PoolError::Package {
            path: PathBuf::from("$HOME/.cache/snakehouse"),
            source: io::Error::new(
                io::ErrorKind::NotFound,
                "neither XDG_CACHE_HOME nor HOME is an absolute path",
            ),
        })
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

/// Whether every file is there with its content.
fn is_whole(root: &Path) -> bool {
    let package = root.join(NAME);
    let same = |name: &str, content: &str| {
        fs::read(package.join(name)).is_ok_and(|found| found == content.as_bytes())
    };
    FILES.iter().all(|(name, content)| same(name, content))
}

/// Makes a whole package appear under its name at once, whatever is there now.
fn put_in_place(fresh: &Path, root: &Path) -> io::Result<()> {
    if fs::rename(fresh, root).is_ok() {
        return Ok(());
    }
    // Either another process was faster, with the same content, or what is there is damaged. Both
    // ways something is left under the name of the fresh one.
    if !is_whole(root) {
        renameat_with(CWD, fresh, CWD, root, RenameFlags::EXCHANGE)?;
        tracing::warn!(path = %root.display(), "damaged Python package replaced");
    }
    remove(fresh);
    Ok(())
}

fn remove_left_behind(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    let now = SystemClock.wall();
    for entry in entries.flatten() {
        let is_fresh = entry.file_name().to_str().is_some_and(|name| name.starts_with(FRESH));
        let modified = entry.metadata().and_then(|found| found.modified());
        let age = modified.ok().and_then(|at| now.duration_since(at).ok());
        if is_fresh && age.is_some_and(|age| age > LEFT_BEHIND) {
            remove(&entry.path());
        }
    }
}

/// What cannot be removed stays for the next time; nobody is the worse for it.
fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path) {
        tracing::debug!(path = %path.display(), %error, "old Python package not removed");
    }
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
    fn a_damaged_one_is_replaced() {
        let temp = tempfile::tempdir().unwrap();
        let cache = temp.path().join("cache");
        let package = Package::extract_below(&cache).unwrap();
        let files = package.root.join(NAME);
        let damages: [&dyn Fn(); 5] = [
            &|| fs::remove_file(files.join("_loop.py")).unwrap(),
            &|| fs::write(files.join("_loop.py"), "").unwrap(),
            &|| fs::write(files.join("worker.py"), "\0".repeat(3)).unwrap(),
            &|| fs::remove_dir_all(&files).unwrap(),
            &|| fs::remove_dir_all(&package.root).unwrap(),
        ];
        for damage in damages {
            damage();
            assert!(!is_whole(&package.root));
            package.mend().unwrap();
            assert!(is_whole(&package.root));
            assert_eq!(fs::read_dir(&cache).unwrap().count(), 1, "the damaged one is gone");
        }
    }

    #[test]
    fn only_what_is_left_behind_is_removed() {
        let temp = tempfile::tempdir().unwrap();
        let cache = temp.path().join("cache");
        let [old, young, other] =
            [".new-1-old", ".new-1-young", "python-other"].map(|name| cache.join(name));
        for path in [&old, &young, &other] {
            fs::create_dir_all(path.join(NAME)).unwrap();
        }
        for path in [&old, &other] {
            let long_ago = SystemClock.wall() - 2 * LEFT_BEHIND;
            fs::File::open(path).unwrap().set_modified(long_ago).unwrap();
        }
        Package::extract_below(&cache).unwrap();
        assert_eq!([&old, &young, &other].map(|path| path.exists()), [false, true, true]);
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
