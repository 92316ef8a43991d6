//! Saves and snapshots.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use snakehouse_engine_api::Saved;

use super::fingerprint::agrees;
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

    /// The files beside the manifest.
    fn files(self) -> &'static [&'static str] {
        match self {
            Self::Sampler => &[peft::CONFIG, peft::WEIGHTS],
            Self::Training => &[peft::CONFIG, peft::WEIGHTS, OPTIMIZER],
            Self::Snapshot => &[peft::CONFIG, peft::WEIGHTS, OPTIMIZER, GRADIENT],
        }
    }

    /// SHA-256 over everything a directory of this kind holds of a model.
    fn digest(self, model: &Trainee) -> String {
        let mut hash = Sha256::new();
        hash_numbers(&mut hash, &model.adapter.numbers);
        if self != Self::Sampler {
            hash_numbers(&mut hash, &model.first);
            hash_numbers(&mut hash, &model.second);
            hash.update(model.step.to_le_bytes());
        }
        if self == Self::Snapshot {
            hash_numbers(&mut hash, &model.gradient);
        }
        hex(hash)
    }
}

/// Writes a model to `dir`. An existing directory stays if every part of it is as it was written,
/// and is replaced if not.
///
/// # Errors
/// [`EngineError::Io`], or [`EngineError::BadDirectory`] if a checkpoint of another kind, or
/// something else altogether, is there.
pub(crate) fn save(
    model: &Trainee,
    dir: &Path,
    content: Content,
    cpu: Cpu,
    faults: &Faults,
) -> Result<Saved, EngineError> {
    let new = match NewDirectory::begin(dir)? {
        Some(new) => new,
        None => match existing(model, dir, content)? {
            Some(saved) => return Ok(saved),
            None => NewDirectory::replace(dir)?,
        },
    };
    let layout = &model.adapter.layout;
    let (spec, print) = (layout.spec, fingerprint(cpu));
    let mut manifest = Manifest::new(content.name(), &model.base.digest, spec, model.step, &print);
    let mut put = |name: &str, bytes: &[u8]| {
        manifest.add(name, bytes);
        new.write(name, bytes)
    };
    put(peft::CONFIG, &peft::config(layout, &model.base_name))?;
    put(peft::WEIGHTS, &peft::tensors(layout, &[("", &model.adapter.numbers)])?)?;
    faults.reached(if content == Content::Snapshot { Point::MidSnapshot } else { Point::MidSave });
    if content != Content::Sampler {
        let moments = [(FIRST, &model.first[..]), (SECOND, &model.second[..])];
        put(OPTIMIZER, &peft::tensors(layout, &moments)?)?;
    }
    if content == Content::Snapshot {
        put(GRADIENT, &peft::tensors(layout, &[("", &model.gradient)])?)?;
    }
    manifest.digest = content.digest(model);
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|e| EngineError::BadParameter(format!("manifest cannot be written: {e}")))?;
    new.write(MANIFEST, &text)?;
    let saved = Saved { bytes: manifest.bytes, digest: manifest.digest };
    new.finish()?;
    Ok(saved)
}

/// What is at `dir` already, if it is whole; `None` if it is to be written again.
fn existing(model: &Trainee, dir: &Path, content: Content) -> Result<Option<Saved>, EngineError> {
    let entries = std::fs::read_dir(dir).map_err(EngineError::io("reading", dir))?;
    for entry in entries {
        let name = entry.map_err(EngineError::io("reading", dir))?.file_name();
        let ours = |n: &str| n == MANIFEST || Content::Snapshot.files().contains(&n);
        if !name.to_str().is_some_and(ours) {
            let reason = format!("something else is there: {}", name.display());
            return Err(EngineError::directory(dir, reason));
        }
    }
    let manifest = match Manifest::read(dir) {
        Ok(Some(manifest)) => manifest,
        Ok(None) | Err(EngineError::BadDirectory { .. }) => return Ok(None),
        Err(e) => return Err(e),
    };
    let kinds = [Content::Sampler, Content::Training, Content::Snapshot];
    if manifest.kind != content.name() && kinds.iter().any(|k| k.name() == manifest.kind) {
        let reason = format!("it holds a {} checkpoint, not {}", manifest.kind, content.name());
        return Err(EngineError::directory(dir, reason));
    }
    let optimizer = content != Content::Sampler;
    match load(dir, &model.base_name, &model.base, optimizer) {
        Ok(_) => {}
        Err(EngineError::BadDirectory { .. }) => return Ok(None),
        Err(e) => return Err(e),
    }
    Ok(Some(Saved { bytes: manifest.bytes, digest: manifest.digest }))
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

/// Reads a model from a training checkpoint; without `optimizer` it starts at step 0. The gradient
/// of a snapshot is not taken over.
///
/// # Errors
/// As [`load_adapter`]; also if the optimizer state is wanted and not there.
pub(crate) fn load_training(
    dir: &Path,
    base_name: &str,
    base: &Arc<BaseModel>,
    optimizer: bool,
) -> Result<Trainee, EngineError> {
    let mut model = load(dir, base_name, base, optimizer)?;
    model.gradient.fill(0.0);
    Ok(model)
}

fn load(
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
        let content = match manifest.kind == Content::Snapshot.name() {
            true => Content::Snapshot,
            false => Content::Training,
        };
        if content == Content::Snapshot {
            read_gradient(&mut model, dir, &manifest)?;
        }
        // The step is in the manifest only, whose own digits nothing else protects.
        if content.digest(&model) != manifest.digest {
            let reason = format!("{MANIFEST} does not belong to these tensors");
            return Err(EngineError::directory(dir, reason));
        }
    }
    Ok(model)
}

fn read_gradient(model: &mut Trainee, dir: &Path, manifest: &Manifest) -> Result<(), EngineError> {
    let mut gradient = Tensors::parse(dir, GRADIENT, &manifest.file(dir, GRADIENT)?)?;
    model.gradient = peft::take(&mut gradient, &model.adapter.layout, "")?;
    Ok(())
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
    if !agrees(&manifest.fingerprint, &expected) {
        return Err(EngineError::FingerprintMismatch { found: manifest.fingerprint, expected });
    }
    load(dir, base_name, base, true)
}
