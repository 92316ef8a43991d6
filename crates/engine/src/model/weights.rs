//! Tensors out of safetensors files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use crate::EngineError;

use super::config::object;

/// The tensors of a directory, as `f32`.
#[derive(Debug)]
pub(crate) struct Tensors {
    dir: PathBuf,
    named: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
}

impl Tensors {
    /// Reads `<stem>.safetensors`, or the shards that `<stem>.safetensors.index.json` lists.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if a file is missing, is cut short, or holds numbers of a
    /// type other than F32, F16 and BF16.
    pub(crate) fn read(dir: &Path, stem: &str) -> Result<Self, EngineError> {
        let mut tensors = Self { dir: dir.to_owned(), named: BTreeMap::new() };
        let single = format!("{stem}.safetensors");
        if dir.join(&single).exists() {
            tensors.add(&single)?;
            return Ok(tensors);
        }
        let index = format!("{stem}.safetensors.index.json");
        let Some(map) = object(dir, &index)? else {
            return Err(EngineError::directory(dir, format!("{single} is missing")));
        };
        let listed = map.get("weight_map").and_then(|m| m.as_object());
        let listed = listed
            .ok_or_else(|| EngineError::directory(dir, format!("{index} has no `weight_map`")))?;
        let mut shards: Vec<&str> = listed.values().filter_map(|v| v.as_str()).collect();
        shards.sort_unstable();
        shards.dedup();
        for shard in shards {
            if Path::new(shard).file_name().is_none_or(|name| name != shard) {
                return Err(EngineError::directory(dir, format!("shard name `{shard}` is a path")));
            }
            tensors.add(shard)?;
        }
        Ok(tensors)
    }

    fn add(&mut self, name: &str) -> Result<(), EngineError> {
        let path = self.dir.join(name);
        let bytes = std::fs::read(&path).map_err(|e| {
            if e.kind() == std::io::ErrorKind::NotFound {
                EngineError::directory(&self.dir, format!("{name} is missing"))
            } else {
                EngineError::io("reading", &path)(e)
            }
        })?;
        self.fill(name, &bytes)
    }

    /// Reads the bytes of one file of `dir`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) fn parse(dir: &Path, name: &str, bytes: &[u8]) -> Result<Self, EngineError> {
        let mut tensors = Self { dir: dir.to_owned(), named: BTreeMap::new() };
        tensors.fill(name, bytes)?;
        Ok(tensors)
    }

    fn fill(&mut self, name: &str, bytes: &[u8]) -> Result<(), EngineError> {
        let bad = |reason: String| EngineError::directory(&self.dir, format!("{name}: {reason}"));
        let file = SafeTensors::deserialize(bytes).map_err(|e| bad(e.to_string()))?;
        for (key, view) in file.iter() {
            let data = view.data();
            let numbers = match view.dtype() {
                Dtype::F32 => data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
                Dtype::BF16 => data
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16))
                    .collect(),
                Dtype::F16 => {
                    data.as_chunks().0.iter().map(|b| half(u16::from_le_bytes(*b))).collect()
                }
                other => return Err(bad(format!("`{key}` is {other:?}, not F32, F16 or BF16"))),
            };
            self.named.insert(key.to_owned(), (view.shape().to_vec(), numbers));
        }
        Ok(())
    }

    /// Takes a tensor out.
    ///
    /// # Errors
    /// [`EngineError::BadDirectory`] if it is missing, has another shape, or is not finite.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, EngineError> {
        let bad = |reason: String| EngineError::directory(&self.dir, reason);
        let (found, numbers) =
            self.named.remove(name).ok_or_else(|| bad(format!("tensor `{name}` is missing")))?;
        if found != shape {
            return Err(bad(format!("tensor `{name}` has shape {found:?}, not {shape:?}")));
        }
        if !numbers.iter().all(|x| x.is_finite()) {
            return Err(bad(format!("tensor `{name}` holds numbers that are not finite")));
        }
        Ok(numbers)
    }

    /// The names that were not taken.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.named.keys().map(String::as_str)
    }
}

/// Half precision to single.
fn half(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let (exponent, fraction) = (u32::from((bits >> 10) & 31), u32::from(bits & 1023));
    let magnitude = match exponent {
        // Subnormal: fraction · 2⁻²⁴, exact in single precision.
        #[expect(clippy::cast_precision_loss, reason = "ten bits")]
        0 => (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
        31 => 0x7F80_0000 | (fraction << 13),
        _ => ((exponent + 112) << 23) | (fraction << 13),
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::half;

    #[test]
    fn half_precision_values() {
        for (bits, value) in [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x3555, 0.333_251_95),
            (0x0001, 5.960_464_5e-8),
            (0x7BFF, 65504.0),
            (0x0000, 0.0),
        ] {
            assert_eq!(half(bits), value);
        }
        assert!(half(0x7C00).is_infinite() && half(0x7E00).is_nan());
    }
}
