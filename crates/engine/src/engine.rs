//! The engine: bases, models and samplers, and every operation on them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use snakehouse_base::id::{ModelId, SamplerId};
use snakehouse_engine_api::{
    BaseInfo, CreateModel, Digest, ForwardBackward, ForwardBackwardOutput, LoadBase, LoadModel,
    LoadSampler, Loaded, Loss, Optimize, OptimizeOutput, Restore, Restored, Sample, Sampled, Save,
    SaveKind, Saved, Snapshot, StateDigest, Unload, UnloadSampler,
};

use crate::EngineError;
use crate::adapter::{ALPHA, Adapter, Layout, PackedAdapter};
use crate::checkpoint::{self, Content};
use crate::fault::{Fault, Faults, Point};
use crate::model::BaseModel;
use crate::sample::Sampler;
use crate::train::{Batch, Machine, Trainee};

/// Most base models, training models and samplers at a time; a further one is refused.
const MOST_LOADED: usize = 4096;

/// How an engine runs. Neither setting changes a result.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// Threads for datums and samples; by default one per processor.
    pub threads: usize,
    /// Where to die, for crash tests.
    pub fault: Option<Fault>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads, fault: None }
    }
}

/// An engine in this process. Operations are strictly serial and atomic: on error nothing has
/// changed.
#[derive(Debug)]
pub struct Engine {
    machine: Machine,
    faults: Faults,
    bases: BTreeMap<String, (PathBuf, Arc<BaseModel>)>,
    models: BTreeMap<ModelId, Trainee>,
    samplers: BTreeMap<SamplerId, Sampler>,
}

impl Engine {
    /// An engine with nothing loaded.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            machine: Machine::new(config.threads),
            faults: Faults::new(config.fault),
            bases: BTreeMap::new(),
            models: BTreeMap::new(),
            samplers: BTreeMap::new(),
        }
    }

    /// The vector instructions in use: `avx512`, `avx2`, `neon` or `scalar`.
    pub fn instructions(&self) -> &'static str {
        self.machine.cpu.name()
    }

    /// Loads a base model.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] for an unusable directory, [`EngineError::BadParameter`] if
    /// the name stands for another directory.
    pub fn load_base(&mut self, ask: &LoadBase) -> Result<BaseInfo, EngineError> {
        let dir = Path::new(&ask.dir);
        if let Some((known, base)) = self.bases.get(&ask.name) {
            if known == dir {
                return Ok(info(&ask.name, base));
            }
            let reason = format!("base model `{}` is already loaded from elsewhere", ask.name);
            return Err(EngineError::BadParameter(reason));
        }
        room(self.bases.len(), "base models")?;
        let base = Arc::new(BaseModel::load(dir)?);
        let info = info(&ask.name, &base);
        self.bases.insert(ask.name.clone(), (dir.to_owned(), base));
        Ok(info)
    }

    fn base(&self, name: &str) -> Result<&Arc<BaseModel>, EngineError> {
        let found = self.bases.get(name).map(|(_, base)| base);
        found.ok_or_else(|| EngineError::UnknownBase(name.to_owned()))
    }

    fn model(&mut self, id: &ModelId) -> Result<&mut Trainee, EngineError> {
        self.models.get_mut(id).ok_or_else(|| EngineError::UnknownModel(id.to_string()))
    }

    fn put(&mut self, id: &ModelId, model: Trainee) -> Result<Loaded, EngineError> {
        if !self.models.contains_key(id) {
            room(self.models.len(), "training models")?;
        }
        let layout = &model.adapter.layout;
        let loaded = Loaded { lora: layout.spec, parameters: layout.len() as u64 };
        self.models.insert(id.clone(), model);
        Ok(loaded)
    }

    /// Makes, or makes anew, a model with fresh adapters.
    ///
    /// # Errors
    /// [`EngineError::UnknownBase`], [`EngineError::BadParameter`].
    pub fn create_model(&mut self, ask: &CreateModel) -> Result<Loaded, EngineError> {
        let base = self.base(&ask.base)?.clone();
        let layout = Arc::new(Layout::new(&base.config, ask.lora, ALPHA)?);
        let model = Trainee::new(ask.base.clone(), base, Adapter::fresh(layout));
        self.put(&ask.model, model)
    }

    /// Makes, or overwrites, a model from a saved checkpoint.
    ///
    /// # Errors
    /// [`EngineError::UnknownBase`], [`EngineError::BadDirectory`].
    pub fn load_model(&mut self, ask: &LoadModel) -> Result<Loaded, EngineError> {
        let base = self.base(&ask.base)?;
        let dir = Path::new(&ask.dir);
        let model = checkpoint::load_training(dir, &ask.base, base, ask.optimizer)?;
        self.put(&ask.model, model)
    }

    /// Loss and log-probabilities; adds the gradient unless `forward_only`.
    ///
    /// # Errors
    /// [`EngineError`] for unknown models and data that does not fit it.
    pub fn forward_backward(
        &mut self,
        ask: &ForwardBackward,
    ) -> Result<ForwardBackwardOutput, EngineError> {
        let Self { machine, faults, models, .. } = self;
        let model = models.get_mut(&ask.model);
        let model = model.ok_or_else(|| EngineError::UnknownModel(ask.model.to_string()))?;
        match ask.loss {
            Loss::CrossEntropy => {}
            other => {
                let reason = format!("this engine does not compute the loss {other:?}");
                return Err(EngineError::BadParameter(reason));
            }
        }
        let batch = Batch::decode(&ask.data, &model.base.config)?;
        let after = || faults.reached(Point::MidKernel);
        model.forward_backward(machine, &batch, ask.forward_only, &after)
    }

    /// Applies the accumulated gradient and clears it.
    ///
    /// # Errors
    /// [`EngineError`] for unknown models and numbers out of range.
    pub fn optimize(&mut self, ask: &Optimize) -> Result<OptimizeOutput, EngineError> {
        let cpu = self.machine.cpu;
        self.model(&ask.model)?.optimize(cpu, ask.adam)
    }

    /// Writes a model in PEFT layout.
    ///
    /// # Errors
    /// [`EngineError::UnknownModel`], [`EngineError::Io`], [`EngineError::BadDirectory`].
    pub fn save(&mut self, ask: &Save) -> Result<Saved, EngineError> {
        let content = match ask.what {
            SaveKind::Training => Content::Training,
            SaveKind::Sampler => Content::Sampler,
        };
        self.write(&ask.model, &ask.dir, content)
    }

    /// Writes everything needed to go on.
    ///
    /// # Errors
    /// As [`save`](Self::save).
    pub fn snapshot(&mut self, ask: &Snapshot) -> Result<Saved, EngineError> {
        let saved = self.write(&ask.model, &ask.dir, Content::Snapshot)?;
        self.faults.reached(Point::AfterSnapshot);
        Ok(saved)
    }

    fn write(&mut self, id: &ModelId, dir: &str, what: Content) -> Result<Saved, EngineError> {
        let model = self.models.get(id);
        let model = model.ok_or_else(|| EngineError::UnknownModel(id.to_string()))?;
        checkpoint::save(model, Path::new(dir), what, self.machine.cpu, &self.faults)
    }

    /// Puts a model back exactly as its snapshot holds it.
    ///
    /// # Errors
    /// [`EngineError::UnknownBase`], [`EngineError::BadDirectory`],
    /// [`EngineError::FingerprintMismatch`].
    pub fn restore(&mut self, ask: &Restore) -> Result<Restored, EngineError> {
        let base = self.base(&ask.base)?;
        let model = checkpoint::restore(Path::new(&ask.dir), &ask.base, base, self.machine.cpu)?;
        let step = model.step;
        self.put(&ask.model, model)?;
        Ok(Restored { step })
    }

    /// SHA-256 of everything a model is.
    ///
    /// # Errors
    /// [`EngineError::UnknownModel`].
    pub fn digest(&mut self, ask: &Digest) -> Result<StateDigest, EngineError> {
        Ok(self.model(&ask.model)?.digest())
    }

    /// Forgets a model.
    pub fn unload(&mut self, ask: &Unload) {
        self.models.remove(&ask.model);
    }

    /// Loads weights to sample from.
    ///
    /// # Errors
    /// [`EngineError::UnknownBase`], [`EngineError::BadDirectory`].
    pub fn load_sampler(&mut self, ask: &LoadSampler) -> Result<(), EngineError> {
        if self.samplers.contains_key(&ask.sampler) {
            return Ok(());
        }
        room(self.samplers.len(), "samplers")?;
        let base = self.base(&ask.base)?.clone();
        let adapter = match &ask.dir {
            None => None,
            Some(dir) => {
                let adapter = checkpoint::load_adapter(Path::new(dir), &base)?;
                Some(PackedAdapter::new(&adapter, false))
            }
        };
        self.samplers.insert(ask.sampler.clone(), Sampler { base, adapter });
        Ok(())
    }

    /// Forgets a sampler.
    pub fn unload_sampler(&mut self, ask: &UnloadSampler) {
        self.samplers.remove(&ask.sampler);
    }

    /// Draws continuations of a prompt.
    ///
    /// # Errors
    /// [`EngineError::UnknownSampler`], or what does not make sense about the request.
    pub fn sample(&mut self, ask: &Sample) -> Result<Sampled, EngineError> {
        let sampler = self.samplers.get(&ask.sampler);
        let sampler =
            sampler.ok_or_else(|| EngineError::UnknownSampler(ask.sampler.to_string()))?;
        sampler.sample(&self.machine, ask)
    }
}

fn room(loaded: usize, what: &str) -> Result<(), EngineError> {
    if loaded < MOST_LOADED {
        return Ok(());
    }
    Err(EngineError::BadParameter(format!("{MOST_LOADED} {what} are loaded; unload some first")))
}

fn info(name: &str, base: &BaseModel) -> BaseInfo {
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    BaseInfo {
        name: name.to_owned(),
        vocab_size: count(base.config.vocab_size),
        max_context: count(base.config.context),
        parameters: base.parameters,
        eos_tokens: base.config.eos.clone(),
        digest: base.digest.clone(),
    }
}
