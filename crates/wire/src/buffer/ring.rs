//! The host's end of a worker's ring of slots.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::pread;
use snakehouse_base::{Coded, Kind};

use super::attachments::{Attached, carried_head, lent};
use crate::value::Value;

/// First byte of the slots.
const SLOTS: u64 = 4096;
/// First of the words that say which slots are lent.
const WORDS: u64 = 64;
/// Most slots: so many words have room.
const MAX_SLOTS: u32 = 64;

/// Why a worker's ring, or what it says about it, is of no use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The packet is not that of a ring.
    #[error("the worker sent a malformed packet about its buffers")]
    BadPacket,
    /// The body names slots that the ring does not have, or more than one body may carry.
    #[error("the worker lends what it does not have")]
    BadLease,
    /// The ring cannot be read: the worker made it shorter than it said.
    #[error("a slot of the worker cannot be read: {0}")]
    Unreadable(#[from] io::Error),
}

impl Coded for RingError {
    fn kind(&self) -> Kind {
        Kind::Corrupt
    }

    fn code(&self) -> &'static str {
        "buffer_broken"
    }
}

/// The slots of one worker. They go with it.
#[derive(Debug)]
pub struct HostRing {
    file: File,
    slots: u32,
    size: u32,
}

impl HostRing {
    /// Takes the ring of a packet and its descriptor.
    ///
    /// # Errors
    /// [`RingError::BadPacket`].
    pub fn take(packet: &[u8], fd: OwnedFd) -> Result<Self, RingError> {
        let &[3, a, b, c, d, e, f, g, h] = packet else { return Err(RingError::BadPacket) };
        let (slots, size) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        if slots == 0 || slots > MAX_SLOTS || size == 0 {
            return Err(RingError::BadPacket);
        }
        Ok(Self { file: File::from(fd), slots, size })
    }

    /// Reads what a body is attached to and gives the slots back, also if this fails. Blocks for as
    /// long as copying takes.
    ///
    /// # Errors
    /// [`RingError`]: the worker is not to be trusted any more.
    pub fn fetch(&self, body: &Bytes) -> Result<Bytes, RingError> {
        let (attached, value) = lent(body).ok_or(RingError::BadLease)?;
        let read = self.read(&attached, &value);
        self.give_back(&attached)?;
        read
    }

    /// Gives the slots of a body back that nobody wants.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub fn forget(&self, body: &Bytes) -> Result<(), RingError> {
        let (attached, _) = lent(body).ok_or(RingError::BadLease)?;
        self.give_back(&attached)
    }

    /// How many slots are lent at this moment.
    #[cfg(test)]
    fn lent(&self) -> Result<usize, RingError> {
        let mut words = vec![0; 4 * self.slots as usize];
        self.file.read_exact_at(&mut words, WORDS)?;
        Ok(words.as_chunks::<4>().0.iter().filter(|word| **word != [0; 4]).count())
    }

    fn read(&self, attached: &[Attached], value: &[u8]) -> Result<Bytes, RingError> {
        let lens: Vec<u64> = attached.iter().map(|lease| lease.len).collect();
        let mut total = value.len() as u64;
        for lease in attached {
            let end = u64::from(lease.offset).checked_add(lease.len);
            total = total.saturating_add(lease.len);
            let fits = lease.slot < self.slots && end.is_some_and(|end| end <= self.size.into());
            if !fits || total > Value::MAX_BYTES as u64 {
                return Err(RingError::BadLease);
            }
        }
        let mut out = carried_head(&lens, value);
        for lease in attached {
            let mut at = self.place(lease.slot) + u64::from(lease.offset);
            let len = usize::try_from(lease.len).map_err(|_| RingError::BadLease)?;
            let end = out.len() + len;
            while out.len() < end {
                // It may read what belongs to the next attachment, whose room is there already.
                let got =
                    pread(&self.file, spare_capacity(&mut out), at).map_err(io::Error::from)?;
                if got == 0 {
                    return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
                }
                out.truncate(end);
                at += got as u64;
            }
        }
        Ok(out.into())
    }

    fn place(&self, slot: u32) -> u64 {
        SLOTS + u64::from(slot) * u64::from(self.size)
    }

    fn give_back(&self, attached: &[Attached]) -> Result<(), RingError> {
        for lease in attached {
            if lease.slot >= self.slots {
                return Err(RingError::BadLease);
            }
            self.file.write_all_at(&[0; 4], WORDS + 4 * u64::from(lease.slot))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{MemfdFlags, ftruncate, memfd_create};

    use super::*;
    use crate::buffer::is_lent;

    fn ring() -> (HostRing, File) {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&fd, SLOTS + 2 * 4096).unwrap();
        let worker = File::from(fd.try_clone().unwrap());
        let packet = [&[3][..], &2u32.to_le_bytes(), &4096u32.to_le_bytes()].concat();
        (HostRing::take(&packet, fd).unwrap(), worker)
    }

    fn body(leases: &[(u32, u32, u64)], value: &[u8]) -> Bytes {
        let mut body = vec![0xc1, 1, u8::try_from(leases.len()).unwrap()];
        for (slot, offset, len) in leases {
            body.extend_from_slice(&slot.to_le_bytes());
            body.extend_from_slice(&offset.to_le_bytes());
            body.extend_from_slice(&len.to_le_bytes());
        }
        body.extend_from_slice(value);
        body.into()
    }

    #[test]
    fn what_is_lent_is_read_once_and_given_back() {
        let (ring, worker) = ring();
        worker.write_all_at(b"0123456789", SLOTS + 4096).unwrap();
        worker.write_all_at(&1u32.to_le_bytes(), WORDS + 4).unwrap();
        assert_eq!(ring.lent().unwrap(), 1);
        let lent = body(&[(1, 2, 3)], b"\xc7\x02\x0f\x00\x00");
        assert!(is_lent(&lent));
        let carried = ring.fetch(&lent).unwrap();
        assert_eq!(Value::decode(&carried), Ok(Value::Bytes("234".into())));
        assert_eq!(ring.lent().unwrap(), 0);
    }

    #[test]
    fn what_the_worker_does_not_have_is_refused() {
        let (ring, worker) = ring();
        for lease in [(2, 0, 1), (0, 0, 4097), (1, 4096, 1), (0, u32::MAX, u64::MAX)] {
            let error = ring.fetch(&body(&[lease], b"\xc0")).unwrap_err();
            assert!(matches!(error, RingError::BadLease), "{error}");
            assert_eq!((error.code(), error.kind()), ("buffer_broken", Kind::Corrupt));
        }
        worker.set_len(SLOTS + 10).unwrap();
        let error = ring.fetch(&body(&[(0, 0, 11)], b"\xc0")).unwrap_err();
        assert!(matches!(error, RingError::Unreadable(_)), "{error}");
        assert!(ring.fetch(&Bytes::from_static(b"\xc1\x01\x01")).is_err());
        let fd = memfd_create("test", MemfdFlags::CLOEXEC).unwrap();
        assert!(HostRing::take(b"\x03\0\0\0\0\x01\0\0\0", fd).is_err());
    }
}
