//! An append-only log of byte strings, durable before it answers.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use snakehouse_base::ByteSize;
use snakehouse_supervise::{Lane, Scope};
use tokio::sync::{mpsc, oneshot};

use crate::writer::{SegmentWriter, record_crc};
use crate::{BlobRef, Disk, StoreError};

/// Length of a record's head: payload length and checksum.
pub(crate) const HEAD: usize = 8;

/// The bounds of a [`BlobLog`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobLogConfig {
    /// A segment is closed once it is this long. Default 32 MiB.
    pub segment: ByteSize,
    /// Largest record. Default 256 MiB.
    pub record: ByteSize,
    /// Largest log. Default 4 GiB.
    pub total: ByteSize,
}

impl Default for BlobLogConfig {
    fn default() -> Self {
        Self { segment: ByteSize::mib(32), record: ByteSize::mib(256), total: ByteSize::mib(4096) }
    }
}

/// An append-only log in segment files. Cheap to clone.
///
/// A record is `length u32 | crc32 u32 | payload`, little-endian; the checksum covers length and
/// payload. Appends that wait together share one write and one sync. Segments are removed whole,
/// when nothing refers to them any more ([`prune`](BlobLog::prune)).
///
/// A segment is written by one life of one process only: each open begins a new one, so nothing is
/// ever appended behind a tail that a crash may have torn, and opening reads no data at all.
#[derive(Clone)]
pub struct BlobLog {
    shared: Arc<Shared>,
    queue: mpsc::Sender<Append>,
}

struct Shared {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    lane: Lane,
    config: BlobLogConfig,
    segments: Mutex<Segments>,
}

#[derive(Default)]
struct Segments {
    /// Length and pins of each segment file.
    known: BTreeMap<u64, Segment>,
    /// Bytes of appends that are under way.
    promised: u64,
    /// The one that may still grow.
    open: Option<u64>,
}

#[derive(Default)]
struct Segment {
    len: u64,
    pins: u64,
}

struct Append {
    body: Bytes,
    reply: oneshot::Sender<Result<Appended, StoreError>>,
}

/// A record that is durable.
///
/// It keeps its segment from being pruned until it is dropped: drop it after the row that refers
/// to it has been committed.
#[derive(Debug)]
pub struct Appended {
    /// Where it lies.
    pub at: BlobRef,
    /// Keeps it there.
    pub pin: Pin,
}

/// Keeps a segment from being pruned while no row refers to it yet.
pub struct Pin {
    shared: Arc<Shared>,
    segment: u64,
}

impl BlobLog {
    /// Most appends and bytes that share one sync.
    const BATCH: usize = 512;
    const BATCH_BYTES: usize = 16 << 20;
    /// Most appends that wait; further ones wait outside, in order.
    const QUEUE: usize = 1024;

    /// Opens the log in `dir`, made if absent.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the directory cannot be made or read.
    pub async fn open(
        scope: &Scope,
        disk: Arc<dyn Disk>,
        dir: &Path,
        config: BlobLogConfig,
    ) -> Result<Self, StoreError> {
        let lane = Lane::new(scope, "blob-log", 2, 256);
        let (listing_disk, listing_dir) = (disk.clone(), dir.to_path_buf());
        let known = lane.run(move || list_segments(&*listing_disk, &listing_dir)).await??;
        let next = known.keys().next_back().map_or(1, |last| last + 1);
        let shared = Arc::new(Shared {
            disk,
            dir: dir.to_path_buf(),
            lane,
            config,
            segments: Mutex::new(Segments { known, promised: 0, open: None }),
        });
        let (queue, appends) = mpsc::channel(Self::QUEUE);
        let writer = SegmentWriter::new(shared.disk.clone(), shared.dir.clone(), next);
        let _owned_by_scope = scope.task("blob-log-commit", {
            let (shared, stop) = (shared.clone(), scope.cancelled());
            async move {
                tokio::select! {
                    () = commit_loop(shared, writer, appends) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
        Ok(Self { shared, queue })
    }

    /// Appends a record and returns once it is durable.
    ///
    /// Dropping the future may leave a record that nothing refers to.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::Full`]; [`StoreError::NotDurable`] if the disk
    /// failed; [`StoreError::Closed`] at a stop.
    pub async fn append(&self, body: Bytes) -> Result<Appended, StoreError> {
        self.append_below(body, self.shared.config.total).await
    }

    /// Appends a record as [`append`](BlobLog::append) does, unless the log would be larger than
    /// `total` then: what lies between that and the bound is left to others.
    ///
    /// # Errors
    /// Those of [`append`](BlobLog::append).
    pub async fn append_below(&self, body: Bytes, total: ByteSize) -> Result<Appended, StoreError> {
        let (size, config) = (ByteSize(body.len() as u64), &self.shared.config);
        let limit = config.record.min(ByteSize(u64::from(u32::MAX)));
        if size > limit {
            return Err(StoreError::TooLarge { size, limit });
        }
        let _under_way = self.shared.promise(size.0 + HEAD as u64, total.min(config.total))?;
        let (reply, answer) = oneshot::channel();
        self.queue.send(Append { body, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Reads a record and checks it. Cancel safe.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was written; [`StoreError::Io`].
    pub async fn read(&self, at: BlobRef) -> Result<Bytes, StoreError> {
        let shared = self.shared.clone();
        self.shared.lane.run(move || shared.read(at)).await?
    }

    /// Removes every closed segment that `referenced` does not name, except the newest of all.
    ///
    /// `referenced` runs after the candidates are fixed, and names the segments that some row
    /// refers to. Records whose [`Appended`] is still held stay.
    ///
    /// # Errors
    /// What `referenced` fails with, or [`StoreError::Io`].
    pub async fn prune<E, F>(&self, referenced: F) -> Result<u64, E>
    where
        E: From<StoreError>,
        F: Future<Output = Result<HashSet<u64>, E>>,
    {
        let candidates = self.shared.segments().unpinned();
        if candidates.is_empty() {
            return Ok(0);
        }
        let referenced = referenced.await?;
        let doomed: Vec<_> = candidates.into_iter().filter(|s| !referenced.contains(s)).collect();
        let shared = self.shared.clone();
        let removed = self.shared.lane.run(move || shared.remove(&doomed)).await;
        Ok(removed.map_err(StoreError::from)??)
    }

    /// Bytes on disk.
    pub fn size(&self) -> ByteSize {
        ByteSize(self.shared.segments().known.values().map(|s| s.len).sum())
    }
}

impl fmt::Debug for BlobLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobLog").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

/// Takes what waits, writes it, syncs once, answers all.
async fn commit_loop(
    shared: Arc<Shared>,
    mut writer: SegmentWriter,
    mut appends: mpsc::Receiver<Append>,
) {
    while let Some(first) = appends.recv().await {
        let mut bytes = first.body.len();
        let mut batch = vec![first];
        while batch.len() < BlobLog::BATCH && bytes < BlobLog::BATCH_BYTES {
            let Ok(next) = appends.try_recv() else { break };
            bytes += next.body.len();
            batch.push(next);
        }
        let bodies: Vec<_> = batch.iter().map(|append| append.body.clone()).collect();
        let limit = shared.config.segment;
        let written = shared.lane.run(move || {
            let result = writer.commit(&bodies, limit);
            (writer, result)
        });
        let Ok((returned, result)) = written.await else { return };
        writer = returned;
        match result {
            Ok(places) => {
                let pins = shared.note_written(&places, writer.open_segment());
                for ((append, at), pin) in batch.into_iter().zip(places).zip(pins) {
                    // A caller that has gone leaves a record that nothing refers to.
                    let _gone = append.reply.send(Ok(Appended { at, pin }));
                }
            }
            Err(error) => {
                tracing::error!(%error, "appends were not made durable");
                shared.note_failed(writer.take_stray());
                for append in batch {
                    let refused = StoreError::NotDurable(error.to_string());
                    let _gone = append.reply.send(Err(refused));
                }
            }
        }
    }
}

impl Shared {
    fn segments(&self) -> MutexGuard<'_, Segments> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that are about to be written, if they fit.
    fn promise(self: &Arc<Self>, bytes: u64, total: ByteSize) -> Result<Promised, StoreError> {
        let mut segments = self.segments();
        let held: u64 = segments.known.values().map(|s| s.len).sum();
        if held + segments.promised + bytes > total.0 {
            return Err(StoreError::Full { limit: total });
        }
        segments.promised += bytes;
        Ok(Promised { shared: self.clone(), bytes })
    }

    /// Nothing is open any more; `stray` is a segment that a failed write may have left behind.
    fn note_failed(&self, stray: Option<(u64, u64)>) {
        let mut segments = self.segments();
        segments.open = None;
        if let Some((number, len)) = stray {
            let segment = segments.known.entry(number).or_default();
            segment.len = segment.len.max(len);
        }
    }

    fn note_written(self: &Arc<Self>, places: &[BlobRef], open: Option<u64>) -> Vec<Pin> {
        let mut segments = self.segments();
        segments.open = open;
        let pin = |at: &BlobRef| {
            let segment = segments.known.entry(at.segment).or_default();
            segment.len = segment.len.max(at.offset + HEAD as u64 + u64::from(at.len));
            segment.pins += 1;
            Pin { shared: self.clone(), segment: at.segment }
        };
        places.iter().map(pin).collect()
    }

    fn read(&self, at: BlobRef) -> Result<Bytes, StoreError> {
        let path = segment_path(&self.dir, at.segment);
        let failed = |e| StoreError::io("read", &path, e);
        let file = self.disk.open(&path).map_err(failed)?;
        let mut head = [0; HEAD];
        file.read_at(&mut head, at.offset).map_err(failed)?;
        let [l0, l1, l2, l3, c0, c1, c2, c3] = head;
        if u32::from_le_bytes([l0, l1, l2, l3]) != at.len {
            return Err(StoreError::Damaged { at, what: "its length is another" });
        }
        let mut body = vec![0; at.len as usize];
        file.read_at(&mut body, at.offset + HEAD as u64).map_err(failed)?;
        if record_crc(&body, at.len) != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(StoreError::Damaged { at, what: "its checksum does not match" });
        }
        Ok(Bytes::from(body))
    }

    fn remove(&self, doomed: &[u64]) -> Result<u64, StoreError> {
        for segment in doomed {
            let path = segment_path(&self.dir, *segment);
            match self.disk.remove(&path) {
                // Somebody else was faster; it is gone all the same.
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                other => other.map_err(|e| StoreError::io("remove", &path, e))?,
            }
            self.segments().known.remove(segment);
        }
        Ok(doomed.len() as u64)
    }
}

impl Segments {
    /// Closed segments without a pin. The last of all stays, whatever it holds: the next opening
    /// learns from it which numbers have been used.
    fn unpinned(&self) -> Vec<u64> {
        let last = self.known.keys().next_back().copied();
        self.known
            .iter()
            .filter(|(number, _)| Some(**number) != last)
            .filter(|(number, segment)| segment.pins == 0 && Some(**number) != self.open)
            .map(|(number, _)| *number)
            .collect()
    }
}

/// Bytes that are being written, counted until they are there or have failed.
struct Promised {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Drop for Promised {
    fn drop(&mut self) {
        let mut segments = self.shared.segments();
        segments.promised = segments.promised.saturating_sub(self.bytes);
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(segment) = self.shared.segments().known.get_mut(&self.segment) {
            segment.pins = segment.pins.saturating_sub(1);
        }
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin").field("segment", &self.segment).finish_non_exhaustive()
    }
}

pub(crate) fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:016x}.seg"))
}

fn list_segments(disk: &dyn Disk, dir: &Path) -> Result<BTreeMap<u64, Segment>, StoreError> {
    disk.create_dir(dir).map_err(|e| StoreError::io("create", dir, e))?;
    let files = disk.list(dir).map_err(|e| StoreError::io("read", dir, e))?;
    let number = |name: &str| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok();
    Ok(files
        .iter()
        .filter_map(|(name, len)| Some((number(name)?, Segment { len: *len, pins: 0 })))
        .collect())
}

#[cfg(test)]
mod tests;
