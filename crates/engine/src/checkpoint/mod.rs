//! Directories on disk: adapters in PEFT layout, optimizer state, snapshots.
//!
//! **What for.** Everything that outlives the process. A save is what a user keeps; a snapshot is
//! what a crash needs: it also holds the accumulated gradient, and restoring one gives the same
//! bits as never having stopped.
//!
//! **What it owns.** The layout of a directory and the rule that it is complete or absent: files
//! are written beside it and synced, then the directory is renamed and its parent synced.
//!
//! **How it fails.** Typed: a file that is missing, cut short or changed names itself; a snapshot
//! of other arithmetic is refused, and so is a manifest that does not belong to its tensors. A
//! failed write leaves nothing behind; what an earlier one left damaged is written again.
//!
//! **How it is tested.** Round trips bit for bit, damage of every file, being killed at the fault
//! points (system tests).

mod directory;
mod fingerprint;
mod manifest;
mod peft;
mod saved;

pub(crate) use directory::NewDirectory;
pub(crate) use fingerprint::fingerprint;
pub(crate) use saved::{Content, load_adapter, load_training, restore, save};

use sha2::{Digest, Sha256};

/// Little-endian bytes of numbers.
pub(crate) fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(numbers.len() * 4);
    numbers.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
    bytes
}

/// Feeds numbers to a hash, little-endian, a block at a time.
pub(crate) fn hash_numbers(hash: &mut Sha256, numbers: &[f32]) {
    for block in numbers.chunks(4096) {
        hash.update(bytes_of(block));
    }
}

/// The finished hash in lower-case hex.
pub(crate) fn hex(hash: Sha256) -> String {
    use std::fmt::Write as _;
    hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
