//! `model ls`, `model add`, `model check`.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde::Serialize;
use snakehouse_base::Kind;
use snakehouse_engine::{Engine, EngineConfig};
use snakehouse_engine_api::{BaseInfo, LoadBase};

use crate::config::Config;
use crate::error::CliError;
use crate::home::{Home, not_writable};
use crate::output::Output;

/// The model that is always there.
const TINY: &str = "tiny";

#[derive(Debug, Serialize)]
struct Listed {
    models: Vec<Model>,
}

#[derive(Debug, Serialize)]
struct Model {
    name: String,
    dir: PathBuf,
}

#[derive(Debug, Serialize)]
struct Checked {
    ok: bool,
    #[serde(flatten)]
    info: BaseInfo,
}

/// Lists the models that `up` would serve.
pub(crate) fn list(config: &Config, out: Output) -> Result<(), CliError> {
    let home = Home::open(&config.home.value)?;
    let mut found = installed(&home)?;
    found.extend(config.models.value.clone());
    let listed =
        Listed { models: found.into_iter().map(|(name, dir)| Model { name, dir }).collect() };
    out.data(&listed, || {
        let lines =
            listed.models.iter().map(|model| format!("{}\t{}", model.name, model.dir.display()));
        lines.collect::<Vec<_>>().join("\n")
    })
}

/// Checks a directory and links it under a name.
pub(crate) fn add(config: &Config, name: &str, dir: &Path, out: Output) -> Result<(), CliError> {
    check_name(name)?;
    inspect(dir)?;
    let home = Home::open(&config.home.value)?;
    let target = fs::canonicalize(dir).map_err(|error| not_writable(dir, &error))?;
    let link = home.models().join(name);
    match symlink(&target, &link) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            return Err(CliError::new(
                Kind::Conflict,
                "model_exists",
                format!("there is a model {name:?} already"),
            )
            .with_hint(format!("choose another name, or remove {}", link.display())));
        }
        Err(error) => return Err(not_writable(&link, &error)),
    }
    let model = Model { name: name.to_owned(), dir: target };
    out.data(&model, || format!("{} is served at the next start of `up`", model.name))
}

/// Says whether the engine can run what is in a directory.
pub(crate) fn check(dir: &Path, out: Output) -> Result<(), CliError> {
    let info = inspect(dir)?;
    let checked = Checked { ok: true, info };
    out.data(&checked, || {
        format!(
            "ok: {} parameters, vocabulary {}, context {}",
            checked.info.parameters, checked.info.vocab_size, checked.info.max_context
        )
    })
}

/// Loads a model the way the engine does, and lets go of it.
fn inspect(dir: &Path) -> Result<BaseInfo, CliError> {
    let mut engine = Engine::new(EngineConfig::default());
    let load = LoadBase { name: "checked".to_owned(), dir: dir.display().to_string() };
    Ok(engine.load_base(&load)?)
}

/// The models in the state directory. Makes `tiny` if it is not there yet.
pub(crate) fn installed(home: &Home) -> Result<BTreeMap<String, PathBuf>, CliError> {
    let dir = home.models();
    snakehouse_engine::make_tiny(&dir.join(TINY), snakehouse_engine::TINY_SEED)?;
    let entries = fs::read_dir(&dir).map_err(|error| not_writable(&dir, &error))?;
    let mut found = BTreeMap::new();
    for entry in entries.flatten() {
        // Names that nobody could have added, such as files being written, are not models.
        if let Some(name) = entry.file_name().to_str()
            && check_name(name).is_ok()
        {
            found.insert(name.to_owned(), entry.path());
        }
    }
    Ok(found)
}

/// Checks a model name: letters, digits, `-`, `_` and `.`, not beginning with a dot.
pub(crate) fn check_name(name: &str) -> Result<(), CliError> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let ok =
        !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.chars().all(legal);
    if ok {
        return Ok(());
    }
    Err(CliError::new(Kind::InvalidInput, "bad_model_name", format!("{name:?} is no model name"))
        .with_hint("use letters, digits, '-', '_' and '.', not beginning with a dot"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_the_directory() {
        for bad in ["", ".", "..", "a/b", "../x", ".hidden", "a b", "ä"] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
        for good in ["tiny", "Qwen3-0.6B", "a_b"] {
            assert!(check_name(good).is_ok(), "{good:?}");
        }
    }
}
