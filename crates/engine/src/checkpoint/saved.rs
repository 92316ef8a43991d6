//! Saves and snapshots.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use snakehouse_engine_api::Saved;

use super::manifest::{MANIFEST, Manifest};
use super::{NewDirectory, fingerprint, hash_numbers, hex, peft};
use crate::EngineError;
use crate::adapter::Adapter;
use crate::fault::{Faults, Point};
use crate::kernel::Cpu;
use crate::model::{BaseModel, Tensors};
use crate::train::Trainee;

const OPTIMIZER: &str = "optimizer.safetensors";
const GRADIENT: &str = "gradient.safetensors";
/// Prefixes of the moments, named as common optimizers name them.
const FIRST: &str = "exp_avg.";
const SECOND: &str = "exp_avg_sq.";

/// How much of a model a directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// The adapter.
    Sampler,
    /// Adapter and optimizer.
    Training,
    /// Adapter, optimizer and accumulated gradient.
    Snapshot,
}

impl Content {
    fn name(self) -> &'static str {
        match self {
            Self::Sampler => "sampler",
            Self::Training => "training",
            Self::Snapshot => "snapshot",
        }
    }
}

/// Writes a model to `dir`; an existing directory is complete and stays.
///
/// # Errors
/// [`EngineError::Io`], or [`EngineError::BadDirectory`] if an existing directory has no manifest.
pub(crate) fn save(
    model: &Trainee,
    dir: &Path,
    content: Content,
    cpu: Cpu,
    faults: &Faults,
) -> Result<Saved, EngineError> {
    let Some(new) = NewDirectory::begin(dir)? else { return existing(dir, content) };
    let layout = &model.adapter.layout;
    let (spec, print) = (layout.spec, fingerprint(cpu));
    let mut manifest = Manifest::new(content.name(), &model.base.digest, spec, model.step, &print);
    let mut hash = Sha256::new();
    let mut put = |name: &str, bytes: &[u8]| {
        manifest.add(name, bytes);
        new.write(name, bytes)
    };
    put(peft::CONFIG, &peft::config(layout, &model.base_name))?;
    put(peft::WEIGHTS, &peft::tensors(layout, &[("", &model.adapter.numbers)])?)?;
    hash_numbers(&mut hash, &model.adapter.numbers);
    faults.reached(if content == Content::Snapshot { Point::MidSnapshot } else { Point::MidSave });
    if content != Content::Sampler {
        let moments = [(FIRST, &model.first[..]), (SECOND, &model.second[..])];
        put(OPTIMIZER, &peft::tensors(layout, &moments)?)?;
        moments.iter().for_each(|(_, numbers)| hash_numbers(&mut hash, numbers));
        hash.update(model.step.to_le_bytes());
    }
    if content == Content::Snapshot {
        put(GRADIENT, &peft::tensors(layout, &[("", &model.gradient)])?)?;
        hash_numbers(&mut hash, &model.gradient);
    }
    manifest.digest = hex(hash);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| EngineError::BadParameter(format!("manifest cannot be written: {e}")))?;
    new.write(MANIFEST, &text)?;
    let saved = Saved { bytes: manifest.bytes, digest: manifest.digest };
    new.finish()?;
    Ok(saved)
}

/// What an existing directory says it is.
fn existing(dir: &Path, content: Content) -> Result<Saved, EngineError> {
    let manifest = read_manifest(dir)?;
    if manifest.kind != content.name() {
        let reason = format!("it holds a {} checkpoint, not {}", manifest.kind, content.name());
        return Err(EngineError::directory(dir, reason));
    }
    Ok(Saved { bytes: manifest.bytes, digest: manifest.digest })
}

fn read_manifest(dir: &Path) -> Result<Manifest, EngineError> {
    if !dir.is_dir() {
        return Err(EngineError::directory(dir, "there is no such directory"));
    }
    Manifest::read(dir)?
        .ok_or_else(|| EngineError::directory(dir, format!("{MANIFEST} is missing")))
}

fn check_base(dir: &Path, manifest: &Manifest, base: &BaseModel) -> Result<(), EngineError> {
    if manifest.base == base.digest {
        return Ok(());
    }
    Err(EngineError::directory(dir, "it was trained over another base model"))
}

/// Reads the adapter of a directory, ours or any in PEFT layout.
///
/// # Errors
/// [`EngineError::BadDirectory`] if it is damaged or made for another base model.
pub(crate) fn load_adapter(dir: &Path, base: &BaseModel) -> Result<Adapter, EngineError> {
    if !dir.is_dir() {
        return Err(EngineError::directory(dir, "there is no such directory"));
    }
    let mut seed = 0;
    if let Some(manifest) = Manifest::read(dir)? {
        check_base(dir, &manifest, base)?;
        manifest.file(dir, peft::CONFIG)?;
        manifest.file(dir, peft::WEIGHTS)?;
        seed = manifest.lora.seed;
    }
    peft::read(dir, &base.config, seed)
}

/// Reads a model from a training checkpoint; without `optimizer` it starts at step 0.
///
/// # Errors
/// As [`load_adapter`]; also if the optimizer state is wanted and not there.
pub(crate) fn load_training(
    dir: &Path,
    base_name: &str,
    base: &Arc<BaseModel>,
    optimizer: bool,
) -> Result<Trainee, EngineError> {
    let adapter = load_adapter(dir, base)?;
    let mut model = Trainee::new(base_name.to_owned(), base.clone(), adapter);
    if optimizer {
        let manifest = read_manifest(dir)?;
        read_optimizer(&mut model, dir, &manifest)?;
    }
    Ok(model)
}

fn read_optimizer(model: &mut Trainee, dir: &Path, manifest: &Manifest) -> Result<(), EngineError> {
    let mut moments = Tensors::parse(dir, OPTIMIZER, &manifest.file(dir, OPTIMIZER)?)?;
    let layout = &model.adapter.layout;
    model.first = peft::take(&mut moments, layout, FIRST)?;
    model.second = peft::take(&mut moments, layout, SECOND)?;
    model.step = manifest.step;
    Ok(())
}

/// Puts a model back exactly as its snapshot holds it.
///
/// # Errors
/// [`EngineError::FingerprintMismatch`] if other arithmetic computed it, else as [`load_adapter`].
pub(crate) fn restore(
    dir: &Path,
    base_name: &str,
    base: &Arc<BaseModel>,
    cpu: Cpu,
) -> Result<Trainee, EngineError> {
    let manifest = read_manifest(dir)?;
    if manifest.kind != Content::Snapshot.name() {
        let reason = format!("it holds a {} checkpoint, not a snapshot", manifest.kind);
        return Err(EngineError::directory(dir, reason));
    }
    let expected = fingerprint(cpu);
    if manifest.fingerprint != expected {
        return Err(EngineError::FingerprintMismatch { found: manifest.fingerprint, expected });
    }
    let mut model = load_training(dir, base_name, base, true)?;
    let mut gradient = Tensors::parse(dir, GRADIENT, &manifest.file(dir, GRADIENT)?)?;
    model.gradient = peft::take(&mut gradient, &model.adapter.layout, "")?;
    Ok(model)
}
