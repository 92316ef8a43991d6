//! A disk in memory that forgets what was not synced.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use snakehouse_base::Chance;

use crate::{Disk, DiskFile};

/// A disk whose [`crash`](SimulatedDisk::crash) keeps, of everything written since the last sync,
/// an arbitrary part: each write may be there, be missing, or be there up to some byte, and a name
/// that was not synced may be gone. What was synced stays.
///
/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct SimulatedDisk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// What a program sees now.
    names: BTreeMap<PathBuf, usize>,
    /// What the directory holds for sure.
    durable_names: BTreeMap<PathBuf, usize>,
    files: Vec<Content>,
    life: u64,
    syncs: u64,
    fail_syncs: u64,
    fail_set_lens: u64,
}

#[derive(Clone, Debug, Default)]
struct Content {
    seen: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<(u64, Vec<u8>)>,
}

impl SimulatedDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cuts the power. Files opened before fail from now on.
    pub fn crash(&self, chance: &Chance) {
        let mut state = self.state();
        state.life += 1;
        let mut names = state.durable_names.clone();
        for (path, file) in &state.names {
            if !names.contains_key(path) && chance.next_u64().is_multiple_of(2) {
                names.insert(path.clone(), *file);
            }
        }
        let unlinked: Vec<_> =
            names.keys().filter(|path| !state.names.contains_key(*path)).cloned().collect();
        for path in unlinked {
            if chance.next_u64().is_multiple_of(2) {
                names.remove(&path);
            }
        }
        for content in &mut state.files {
            let mut kept = content.durable.clone();
            for (offset, data) in content.pending.drain(..) {
                let keep = match chance.next_u64() % 3 {
                    0 => 0,
                    1 => data.len(),
                    _ => usize::try_from(chance.next_u64()).unwrap_or(0) % (data.len() + 1),
                };
                put(&mut kept, offset, &data[..keep]);
            }
            content.seen = kept.clone();
            content.durable = kept;
        }
        state.names = names.clone();
        state.durable_names = names;
    }

    /// Gives everything in a directory another path, as mounting the disk elsewhere would.
    pub fn move_dir(&self, from: &Path, to: &Path) {
        let moved = |names: &BTreeMap<PathBuf, usize>| {
            let rename = |(path, file): (&PathBuf, &usize)| match path.strip_prefix(from) {
                Ok(inside) => (to.join(inside), *file),
                Err(_) => (path.clone(), *file),
            };
            names.iter().map(rename).collect()
        };
        let mut state = self.state();
        state.names = moved(&state.names);
        state.durable_names = moved(&state.durable_names);
    }

    /// How many syncs of files have been asked for.
    pub fn syncs(&self) -> u64 {
        self.state().syncs
    }

    /// Lets the next `n` syncs of files fail.
    pub fn fail_syncs(&self, n: u64) {
        self.state().fail_syncs = n;
    }

    /// Lets the next `n` cuts of files fail.
    pub fn fail_set_lens(&self, n: u64) {
        self.state().fail_set_lens = n;
    }

    /// Changes a stored byte, as a failing medium would.
    ///
    /// # Errors
    /// If there is no such byte.
    pub fn flip(&self, path: &Path, offset: usize) -> io::Result<()> {
        let mut state = self.state();
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = &mut state.files[file];
        for bytes in [&mut content.seen, &mut content.durable] {
            *bytes.get_mut(offset).ok_or(io::ErrorKind::UnexpectedEof)? ^= 0x10;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put(bytes: &mut Vec<u8>, offset: u64, data: &[u8]) {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let end = start.saturating_add(data.len());
    if !data.is_empty() && bytes.len() < end {
        bytes.resize(end, 0);
    }
    if !data.is_empty() {
        bytes[start..end].copy_from_slice(data);
    }
}

impl Disk for SimulatedDisk {
    fn create_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<(String, u64)>> {
        let state = self.state();
        Ok(state
            .names
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir))
            .filter_map(|(path, file)| {
                let name = path.file_name()?.to_str()?.to_owned();
                Some((name, state.files[*file].seen.len() as u64))
            })
            .collect())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let mut state = self.state();
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.files.len();
        state.files.push(Content::default());
        state.names.insert(path.to_path_buf(), file);
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, life: state.life }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let state = self.state();
        let file = *state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(SimulatedFile { disk: self.clone(), file, life: state.life }))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        match self.state().names.remove(path) {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.state();
        let State { names, durable_names, .. } = &mut *state;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        let here = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable_names.extend(here.map(|(path, file)| (path.clone(), *file)));
        Ok(())
    }
}

#[derive(Debug)]
struct SimulatedFile {
    disk: SimulatedDisk,
    file: usize,
    life: u64,
}

impl SimulatedFile {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.disk.state();
        if state.life != self.life {
            return Err(io::Error::other("the machine has crashed since"));
        }
        act(&mut state)
    }
}

impl DiskFile for SimulatedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let seen = &state.files[self.file].seen;
            let start = usize::try_from(offset).map_err(io::Error::other)?;
            let found = seen.get(start..start + buf.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
            buf.copy_from_slice(found);
            Ok(())
        })
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.with(|state| {
            let content = &mut state.files[self.file];
            put(&mut content.seen, offset, data);
            content.pending.push((offset, data.to_vec()));
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            if state.fail_set_lens > 0 {
                state.fail_set_lens -= 1;
                return Err(io::Error::other("cut refused"));
            }
            // Until the next sync, a crash may bring back what was cut off.
            let len = usize::try_from(len).map_err(io::Error::other)?;
            state.files[self.file].seen.resize(len, 0);
            Ok(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.syncs += 1;
            if state.fail_syncs > 0 {
                state.fail_syncs -= 1;
                return Err(io::Error::other("sync refused"));
            }
            let content = &mut state.files[self.file];
            content.durable = content.seen.clone();
            content.pending.clear();
            Ok(())
        })
    }
}
