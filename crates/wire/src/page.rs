//! The page that host and worker share beside the socket.
//!
//! A 4 KiB memfd which the host makes, keeps, and passes to the worker (descriptor number in
//! `SNAKEHOUSE_PAGE_FD`). It answers three questions for which a socket is too late: *which calls had
//! the worker started when it died*, *which call does the host want cancelled right now*, and *which
//! calls shall it not start any more*.
//! A write costs the worker some tens of nanoseconds, and the page outlives it.
//!
//! All fields are u32, little-endian and aligned, so a write is never seen by halves:
//!
//! | offset | written by | field |
//! |---|---|---|
//! | 0 | host | magic, the bytes `SNKP` |
//! | 4 | host | layout version, 1 |
//! | 64 | worker | `started`: the call started last, 0 before the first |
//! | 128 | host | `cancels`: how many cancels were ever asked for, wrapping |
//! | 132 | host | `recall`: the first of the calls that are taken back, 0 if none are |
//! | 192 + 4·(i mod 256) | host | stream id of the i-th cancel, i counting from 0 |
//!
//! **Started.** A worker starts calls in the order in which their bodies became complete, and
//! writes `started` when the call really starts, not when it is read; one that runs several calls
//! at once does so too. After a death every call that was sent up to and including `started` was
//! started, whether or not its reply arrived; every later one was not.
//!
//! **Cancel.** The host writes the slot, then the count, then rings the doorbell (SIGURG through
//! the worker's pidfd), and sends the cancel frame as well. A worker compares the count with the
//! one it has seen, in the signal handler and before each call; ids that are neither running nor
//! waiting are ignored. Several cancels between two looks are all seen, up to the ring's size.
//!
//! A signal that lands between an interpreter's last look and the moment its system call blocks is
//! noticed only when the call returns. So a host rings until the call is answered (say after 2, 4,
//! 8, ... ms, within the grace); further rings for the same id change nothing.
//!
//! **Recall.** The host writes the number of a call: it and all later ones are taken back, unless
//! they have started. A worker looks there for each call after it has written `started` for it, and
//! answers a call that was taken back with an error of kind `cancelled` and code `recalled` instead of
//! running it. The host reads `started` a millisecond after it wrote `recall`: what is later than
//! that will not run, and can be given to another worker at once. One of the two always sees the
//! other's word: no processor keeps a write to itself for a thousandth of that time. A call that
//! started in between is the worker's, and its answer says which way that went. When all of them are
//! answered the host writes 0, and only then sends new ones.
//!
//! Rust reads and writes it with positional I/O, so no mapping and no `unsafe` is needed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Mutex;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

/// Size of the page in bytes.
pub const PAGE_LEN: u64 = 4096;
/// How many cancels the ring remembers.
pub const CANCEL_SLOTS: u32 = 256;

const MAGIC: [u8; 4] = *b"SNKP";
const VERSION: u32 = 1;
const STARTED: u64 = 64;
const CANCELS: u64 = 128;
const RECALL: u64 = 132;
const RING: u64 = 192;

/// The host's end of the page.
#[derive(Debug)]
pub struct HostPage {
    file: File,
    cancels: Mutex<u32>,
}

impl HostPage {
    /// A fresh page for one incarnation of a worker. Its descriptor is close-on-exec.
    ///
    /// # Errors
    /// Whatever the kernel says to `memfd_create`.
    pub fn create() -> io::Result<Self> {
        let fd = memfd_create("snakehouse-page", MemfdFlags::CLOEXEC)?;
        ftruncate(&fd, PAGE_LEN)?;
        let file = File::from(fd);
        file.write_all_at(&MAGIC, 0)?;
        file.write_all_at(&VERSION.to_le_bytes(), 4)?;
        Ok(Self { file, cancels: Mutex::new(0) })
    }

    /// The call that the worker started last; 0 if it never started one. Also after its death.
    ///
    /// # Errors
    /// Whatever the kernel says to the read.
    pub fn started(&self) -> io::Result<u32> {
        read(&self.file, STARTED)
    }

    /// Asks for a cancel of `stream`. The caller rings the doorbell afterwards.
    ///
    /// # Errors
    /// Whatever the kernel says to the write.
    pub fn cancel(&self, stream: u32) -> io::Result<()> {
        let mut count = self.cancels.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        write(&self.file, RING + 4 * u64::from(*count % CANCEL_SLOTS), stream)?;
        let next = count.wrapping_add(1);
        write(&self.file, CANCELS, next)?;
        *count = next;
        Ok(())
    }

    /// Takes back the call `first` and all later ones, as far as they have not started; 0 takes back
    /// none.
    ///
    /// # Errors
    /// Whatever the kernel says to the write.
    pub fn recall(&self, first: u32) -> io::Result<()> {
        write(&self.file, RECALL, first)
    }
}

impl AsFd for HostPage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The worker's end of the page.
#[derive(Debug)]
pub struct WorkerPage {
    file: File,
    seen: u32,
}

impl WorkerPage {
    /// Opens the page behind an inherited descriptor.
    ///
    /// # Errors
    /// `InvalidData` if it is not such a page; otherwise whatever the kernel says.
    pub fn open(fd: u32) -> io::Result<Self> {
        // Opening it anew through /proc gives an owned descriptor without `unsafe`.
        let path = PathBuf::from(format!("/proc/self/fd/{fd}"));
        Self::check(File::options().read(true).write(true).open(path)?)
    }

    /// Takes over a descriptor of the page.
    ///
    /// # Errors
    /// As [`open`](WorkerPage::open).
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        Self::check(File::from(fd))
    }

    fn check(file: File) -> io::Result<Self> {
        let mut magic = [0; 4];
        file.read_exact_at(&mut magic, 0)?;
        if magic != MAGIC || read(&file, 4)? != VERSION {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the descriptor is not a worker page of this version",
            ));
        }
        Ok(Self { file, seen: 0 })
    }

    /// Says that `stream` starts now.
    ///
    /// # Errors
    /// Whatever the kernel says to the write.
    pub fn start(&self, stream: u32) -> io::Result<()> {
        write(&self.file, STARTED, stream)
    }

    /// Whether the host has taken this call back. Asked after [`start`](Self::start), and before
    /// anything of it runs.
    ///
    /// # Errors
    /// Whatever the kernel says to the read.
    pub fn is_recalled(&self, stream: u32) -> io::Result<bool> {
        let first = read(&self.file, RECALL)?;
        Ok(first != 0 && stream.wrapping_sub(first) < 1 << 31)
    }

    /// The cancels asked for since the last look. Those that fell off the ring are not among them.
    ///
    /// # Errors
    /// Whatever the kernel says to the read.
    pub fn take_cancels(&mut self) -> io::Result<Vec<u32>> {
        let count = read(&self.file, CANCELS)?;
        let new = count.wrapping_sub(self.seen).min(CANCEL_SLOTS);
        let first = count.wrapping_sub(new);
        self.seen = count;
        (0..new)
            .map(|i| {
                let slot = first.wrapping_add(i) % CANCEL_SLOTS;
                read(&self.file, RING + 4 * u64::from(slot))
            })
            .collect()
    }
}

fn read(file: &File, offset: u64) -> io::Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u32::from_le_bytes(bytes))
}

fn write(file: &File, offset: u64, value: u32) -> io::Result<()> {
    file.write_all_at(&value.to_le_bytes(), offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (HostPage, WorkerPage) {
        let host = HostPage::create().unwrap();
        let worker = WorkerPage::from_fd(host.as_fd().try_clone_to_owned().unwrap()).unwrap();
        (host, worker)
    }

    #[test]
    fn what_started_is_known_after_the_worker_is_gone() {
        let (host, worker) = pair();
        assert_eq!(host.started().unwrap(), 0);
        worker.start(7).unwrap();
        drop(worker);
        assert_eq!(host.started().unwrap(), 7);
    }

    #[test]
    fn what_is_taken_back_is_everything_from_one_call_on() {
        let (host, worker) = pair();
        assert!(!worker.is_recalled(7).unwrap());
        host.recall(7).unwrap();
        let recalled = |stream| worker.is_recalled(stream).unwrap();
        assert_eq!([6, 7, 8].map(recalled), [false, true, true]);
        host.recall(u32::MAX).unwrap();
        assert_eq!([u32::MAX - 1, u32::MAX, 1].map(recalled), [false, true, true], "they go round");
        host.recall(0).unwrap();
        assert!(!recalled(7));
    }

    #[test]
    fn cancels_between_two_looks_are_all_seen_once() {
        let (host, mut worker) = pair();
        for stream in [3, 9, 4] {
            host.cancel(stream).unwrap();
        }
        assert_eq!(worker.take_cancels().unwrap(), [3, 9, 4]);
        assert_eq!(worker.take_cancels().unwrap(), []);
    }

    #[test]
    fn the_ring_keeps_the_newest() {
        let (host, mut worker) = pair();
        for stream in 1..=CANCEL_SLOTS + 5 {
            host.cancel(stream).unwrap();
        }
        let seen = worker.take_cancels().unwrap();
        assert_eq!(seen.len(), 256);
        assert_eq!((seen[0], seen[255]), (6, CANCEL_SLOTS + 5));
    }

    #[test]
    fn another_file_is_refused() {
        let file = File::open("/proc/self/exe").unwrap();
        let error = WorkerPage::from_fd(file.into()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_descriptor_number_opens_the_page() {
        use std::os::fd::AsRawFd;
        let host = HostPage::create().unwrap();
        let number = u32::try_from(host.as_fd().as_raw_fd()).unwrap();
        WorkerPage::open(number).unwrap().start(5).unwrap();
        assert_eq!(host.started().unwrap(), 5);
    }
}
