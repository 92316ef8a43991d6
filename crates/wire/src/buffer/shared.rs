//! Bytes in a sealed memfd, to be passed to many calls.

use std::fs::File;
use std::hash::{Hash, Hasher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use snakehouse_base::Chance;

use crate::value::{ArrowKind, Form, Layout, Order, Shared, Value, ValueError};

/// Length of the packet that brings a worker a shared buffer.
pub const SHARED_PACKET: usize = 17;

/// Bytes that nobody can change any more, not even their maker.
///
/// Pass it to as many calls as you like: each worker gets the descriptor once, and its tools read
/// the same pages, as a read-only `memoryview`, `numpy.ndarray` or table, whatever
/// [`as_bytes`](Self::as_bytes), [`as_array`](Self::as_array) or [`as_arrow`](Self::as_arrow) say.
/// Cloning is cheap. The memory is free when the last clone is dropped and the workers have heard of
/// it, which is with the next shared buffer that they get, or at their end.
#[derive(Clone, Debug)]
pub struct SharedBuffer(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    number: u64,
    len: u64,
    file: File,
}

impl SharedBuffer {
    /// Writes and seals a copy of these bytes. Blocks for as long as that takes: about half a
    /// millisecond per MiB.
    ///
    /// # Errors
    /// Whatever the kernel says: no memory, no descriptor.
    pub fn new(data: &[u8]) -> io::Result<Self> {
        let fd =
            memfd_create("snakehouse-shared", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        let len = data.len() as u64;
        // A mapping of nothing is refused, so there is always a byte.
        ftruncate(&fd, len.max(1))?;
        let file = File::from(fd);
        file.write_all_at(data, 0)?;
        let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&file, seals)?;
        // Drawn, so that no two are equal although nobody counts them.
        let number = Chance::from_entropy().next_u64();
        Ok(Self(Arc::new(Inner { number, len, file })))
    }

    /// How many bytes.
    pub fn len(&self) -> u64 {
        self.0.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }

    /// The number by which calls name it.
    pub fn number(&self) -> u64 {
        self.0.number
    }

    /// A copy of the bytes. Blocks for as long as copying takes.
    ///
    /// # Errors
    /// Whatever the kernel says to the read.
    pub fn to_bytes(&self) -> io::Result<Bytes> {
        let len = usize::try_from(self.0.len).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let mut data = vec![0; len];
        self.0.file.read_exact_at(&mut data, 0)?;
        Ok(data.into())
    }

    /// As an argument that arrives as a read-only `memoryview`.
    pub fn as_bytes(&self) -> Value {
        Value::Shared(Shared { form: Form::Bytes, buffer: self.clone() })
    }

    /// As an argument that arrives as a read-only array.
    ///
    /// # Errors
    /// [`ValueError::BadArray`] as for [`Array::new`](crate::Array::new).
    pub fn as_array(&self, dtype: &str, shape: &[u64], order: Order) -> Result<Value, ValueError> {
        let layout = Layout::new(dtype, shape, order, self.0.len)?;
        Ok(Value::Shared(Shared { form: Form::Array(Box::new(layout)), buffer: self.clone() }))
    }

    /// As an argument that arrives as a table or record batch, if the bytes are an IPC stream.
    pub fn as_arrow(&self, kind: ArrowKind) -> Value {
        Value::Shared(Shared { form: Form::Arrow(kind), buffer: self.clone() })
    }

    /// The packet that brings it to a worker, beside its descriptor.
    pub fn packet(&self) -> [u8; SHARED_PACKET] {
        let mut packet = [1; SHARED_PACKET];
        packet[1..9].copy_from_slice(&self.0.number.to_le_bytes());
        packet[9..].copy_from_slice(&self.0.len.to_le_bytes());
        packet
    }

    /// Tells whether it is still there, without keeping it.
    pub fn watch(&self) -> SharedWatch {
        SharedWatch { number: self.0.number, inner: Arc::downgrade(&self.0) }
    }
}

/// Knows a [`SharedBuffer`] without keeping it.
#[derive(Clone, Debug)]
pub struct SharedWatch {
    number: u64,
    inner: Weak<Inner>,
}

impl SharedWatch {
    /// The buffer's number.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether every clone of it was dropped.
    pub fn is_gone(&self) -> bool {
        self.inner.strong_count() == 0
    }
}

/// The packet that says that a worker need not keep a shared buffer.
pub fn forget_packet(number: u64) -> [u8; 9] {
    let mut packet = [2; 9];
    packet[1..].copy_from_slice(&number.to_le_bytes());
    packet
}

impl AsFd for SharedBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.file.as_fd()
    }
}

impl PartialEq for SharedBuffer {
    /// Clones of one buffer are equal; others are not, whatever their bytes.
    fn eq(&self, other: &Self) -> bool {
        self.0.number == other.0.number
    }
}

impl Eq for SharedBuffer {}

impl Hash for SharedBuffer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.number.hash(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_can_change_it() {
        let buffer = SharedBuffer::new(b"for ever").unwrap();
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&buffer.as_fd()));
        let again = File::options().read(true).write(true).open(path).unwrap();
        assert!(again.write_all_at(b"x", 0).is_err());
        assert!(again.set_len(3).is_err() && again.set_len(30).is_err());
        assert_eq!(buffer.to_bytes().unwrap(), &b"for ever"[..]);
    }

    #[test]
    fn each_has_a_number_of_its_own() {
        let [a, b] = [(); 2].map(|()| SharedBuffer::new(b"same").unwrap());
        assert!(a == a.clone() && a != b);
        let watch = b.watch();
        assert!(!watch.is_gone() && a.number() != watch.number());
        drop(b);
        assert!(watch.is_gone());
        assert_eq!(a.packet()[9..], 4u64.to_le_bytes());
        assert_eq!(SharedBuffer::new(b"").unwrap().to_bytes().unwrap().len(), 0);
    }

    #[test]
    fn an_array_must_fit_its_bytes() {
        let buffer = SharedBuffer::new(&[0; 8]).unwrap();
        assert!(buffer.as_array("<f4", &[2], Order::C).is_ok());
        assert!(buffer.as_array("<f4", &[3], Order::C).is_err());
    }
}
