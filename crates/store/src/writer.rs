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
}

struct OpenSegment {
    number: u64,
    file: Box<dyn DiskFile>,
    len: u64,
}

impl SegmentWriter {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: PathBuf, next: u64) -> Self {
        Self { disk, dir, next, open: None }
    }

    /// The segment that may still grow.
    pub(crate) fn open_segment(&self) -> Option<u64> {
        self.open.as_ref().map(|open| open.number)
    }

    /// Writes all bodies with one sync and says where they lie. After an error none of them counts
    /// as written, and the segment is given up.
    pub(crate) fn commit(
        &mut self,
        bodies: &[Bytes],
        segment: ByteSize,
    ) -> Result<Vec<BlobRef>, StoreError> {
        let result = self.write(bodies);
        let full = self.open.as_ref().is_some_and(|open| open.len >= segment.0);
        if result.is_err() || full {
            self.open = None;
        }
        result
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
                let synced = self.disk.sync_dir(&self.dir);
                synced.map_err(|e| StoreError::io("sync", &self.dir, e))?;
                self.open.insert(OpenSegment { number, file, len: 0 })
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
