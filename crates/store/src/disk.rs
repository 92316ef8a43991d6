//! The few things a log asks of a disk.

use std::fmt::Debug;
use std::io;
use std::path::Path;

/// A disk: real, or one that forgets. All calls block.
pub trait Disk: Debug + Send + Sync + 'static {
    /// Makes a directory and its parents, durably, if absent.
    ///
    /// # Errors
    /// Those of the file system.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;

    /// Names and sizes of the files in a directory, in no order.
    ///
    /// # Errors
    /// Those of the file system.
    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>>;

    /// Makes a new file, open for reading and writing. Its name is durable after
    /// [`sync_dir`](Disk::sync_dir).
    ///
    /// # Errors
    /// Those of the file system; a file that exists is one.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Opens a file for reading.
    ///
    /// # Errors
    /// Those of the file system.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Removes a file.
    ///
    /// # Errors
    /// Those of the file system.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    /// Those of the file system.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: Debug + Send + Sync {
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Those of the file system; an end of file before `buf` is full is one.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `data` at `offset`. Durable after [`sync`](DiskFile::sync).
    ///
    /// # Errors
    /// Those of the file system.
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file to `len` bytes.
    ///
    /// # Errors
    /// Those of the file system.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes the content durable.
    ///
    /// # Errors
    /// Those of the file system. After one, what was written may or may not be there.
    fn sync(&self) -> io::Result<()>;
}
