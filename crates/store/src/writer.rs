//! The writing end of a blob log.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use snakehouse_base::ByteSize;

use crate::blob_log::{HEAD, segment_path};
use crate::{BlobRef, Disk, DiskFile, StoreError};

/// Writes records into one segment at a time. Blocks.
pub(crate) struct SegmentWriter {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    next: u64,
    open: Option<OpenSegment>,
    /// A segment that holds bytes of a failed write which could not be taken back.
    stray: Option<(u64, u64)>,
}

struct OpenSegment {
    number: u64,
    file: Box<dyn DiskFile>,
    len: u64,
}

impl SegmentWriter {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, next: u64) -> Self {
        Self { disk, dir, next, open: None, stray: None }
    }

    /// The segment that may still grow.
    pub(crate) fn open_segment(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.number)
    }

    /// The segment, with its greatest possible length, whose failed write is still on the disk.
    pub(crate) fn take_stray(&mut self) -> Option<(u64, u64)> {
        self.stray.take()
    }

    /// Writes all bodies with one sync and says where they lie. After an error none of them counts
    /// as written, what of them is on the disk is taken back, and the segment is given up.
    pub(crate) fn commit(
        &mut self,
        bodies: &[Bytes],
        segment: ByteSize,
    ) -> Result<Vec<BlobRef>, StoreError> {
        let result = self.write(bodies);
        let full = self.open.as_ref().is_some_and(|open| open.len >= segment.0);
        if result.is_err() {
            let added = bodies.iter().map(|body| (body.len() + HEAD) as u64).sum();
            self.take_back(added);
        } else if full {
            self.open = None;
        }
        result
    }

    /// Gives the open segment up, without the `added` bytes that a failed write may have left.
    fn take_back(&mut self, added: u64) {
        let Some(OpenSegment { number, file, len }) = self.open.take() else { return };
        let path = segment_path(&self.dir, number);
        let cut = match len {
            0 => self.disk.remove(&path),
            len => file.set_len(len),
        };
        if let Err(error) = cut {
            tracing::warn!(path = %path.display(), %error, "a failed write could not be taken back");
            self.stray = Some((number, len + added));
        }
    }

    fn write(&mut self, bodies: &[Bytes]) -> Result<Vec<BlobRef>, StoreError> {
        let open = match self.open.take() {
            Some(open) => self.open.insert(open),
            None => {
                let number = self.next;
                // Also after a failure this number is used up.
                self.next += 1;
                let path = segment_path(&self.dir, number);
                let file =
                    self.disk.create(&path).map_err(|e| StoreError::io("create", &path, e))?;
                let open = self.open.insert(OpenSegment { number, file, len: 0 });
                let synced = self.disk.sync_dir(&self.dir);
                synced.map_err(|e| StoreError::io("sync", &self.dir, e))?;
                open
            }
        };
        let path = segment_path(&self.dir, open.number);
        let mut buffer = Vec::with_capacity(bodies.iter().map(|b| b.len() + HEAD).sum());
        let mut places = Vec::with_capacity(bodies.len());
        for body in bodies {
            let len = u32::try_from(body.len()).map_err(|_| StoreError::TooLarge {
                size: ByteSize(body.len() as u64),
                limit: ByteSize(u64::from(u32::MAX)),
            })?;
            let offset = open.len + buffer.len() as u64;
            places.push(BlobRef { segment: open.number, offset, len });
            buffer.extend_from_slice(&len.to_le_bytes());
            buffer.extend_from_slice(&record_crc(body, len).to_le_bytes());
            buffer.extend_from_slice(body);
        }
        open.file.write_at(&buffer, open.len).map_err(|e| StoreError::io("write", &path, e))?;
        open.file.sync().map_err(|e| StoreError::io("sync", &path, e))?;
        open.len += buffer.len() as u64;
        Ok(places)
    }
}

/// The checksum of a record: over its length and its payload.
pub(crate) fn record_crc(body: &[u8], len: u32) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&len.to_le_bytes());
    crc.update(body);
    crc.finalize()
}
