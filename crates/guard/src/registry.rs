//! One guard per key, made once.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use snakehouse_base::{Coded, Kind};

use crate::ConfigError;
use crate::event;
use crate::sync::{Mutex, lock};

/// Guards by key (a target, a credential's hash), shared by all who name the same key.
///
/// Whoever asks first makes the guard; everyone after gets the same one, and asking with another
/// configuration is an error instead of a silent difference. At most `capacity` keys: when full,
/// guards that nobody holds any more and that `idle` calls forgettable make room.
#[derive(Debug)]
pub struct Registry<K, C, V> {
    capacity: usize,
    idle: fn(&V) -> bool,
    entries: Mutex<HashMap<K, (C, Arc<V>)>>,
}

/// Why there is no guard for a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// The key has a guard with another configuration.
    #[error("{key} is guarded with another configuration already")]
    Conflict {
        /// The key.
        key: String,
    },
    /// All keys of the registry are in use.
    #[error("all {capacity} keys of the registry are in use")]
    Full {
        /// How many there may be.
        capacity: usize,
    },
    /// The configuration breaks a rule.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl Coded for RegistryError {
    fn kind(&self) -> Kind {
        match self {
            RegistryError::Conflict { .. } => Kind::Conflict,
            RegistryError::Full { .. } => Kind::Saturated,
            RegistryError::Config(error) => error.kind(),
        }
    }

    fn code(&self) -> &'static str {
        match self {
            RegistryError::Conflict { .. } => "guard_conflict",
            RegistryError::Full { .. } => "guard_registry_full",
            RegistryError::Config(error) => error.code(),
        }
    }
}

impl<K: Eq + Hash + Clone + Debug, C: PartialEq, V> Registry<K, C, V> {
    /// Room for `capacity` keys; `idle` says whether forgetting a guard changes nothing.
    ///
    /// # Errors
    /// [`ConfigError`] if `capacity` is zero.
    pub fn new(capacity: usize, idle: fn(&V) -> bool) -> Result<Self, ConfigError> {
        if capacity == 0 {
            return Err(ConfigError("a registry needs room for at least one key"));
        }
        Ok(Self { capacity, idle, entries: Mutex::new(HashMap::new()) })
    }

    /// The guard of `key`; made by `make` if there is none. Concurrent callers get the same one,
    /// and `make` runs once.
    ///
    /// # Errors
    /// [`RegistryError`]; nothing is stored then.
    pub fn get_or_make(
        &self,
        key: &K,
        config: C,
        make: impl FnOnce(&C) -> Result<V, ConfigError>,
    ) -> Result<Arc<V>, RegistryError> {
        let (mut made, mut evicted) = (false, Vec::new());
        let outcome = self.find_or_make(key, config, make, &mut made, &mut evicted);
        if !evicted.is_empty() {
            event::registry_evicted(evicted.len());
        }
        if made {
            event::registry_made();
        }
        if let Err(RegistryError::Full { capacity }) = outcome {
            event::registry_full(capacity);
        }
        outcome
    }

    /// Tells whether the guard was made, and what made room, for the events after the lock.
    fn find_or_make(
        &self,
        key: &K,
        config: C,
        make: impl FnOnce(&C) -> Result<V, ConfigError>,
        made: &mut bool,
        evicted: &mut Vec<Arc<V>>,
    ) -> Result<Arc<V>, RegistryError> {
        let mut entries = lock(&self.entries);
        if let Some((known, value)) = entries.get(key) {
            return if *known == config {
                Ok(value.clone())
            } else {
                Err(RegistryError::Conflict { key: format!("{key:?}") })
            };
        }
        if entries.len() >= self.capacity {
            let idle = self.idle;
            let goes =
                |_: &K, (_, value): &mut (C, Arc<V>)| Arc::strong_count(value) == 1 && idle(value);
            evicted.extend(entries.extract_if(goes).map(|(_, (_, value))| value));
            if entries.len() >= self.capacity {
                return Err(RegistryError::Full { capacity: self.capacity });
            }
        }
        let value = Arc::new(make(&config)?);
        entries.insert(key.clone(), (config, value.clone()));
        *made = true;
        Ok(value)
    }

    /// The guard of `key`, if there is one.
    pub fn get(&self, key: &K) -> Option<Arc<V>> {
        lock(&self.entries).get(key).map(|(_, value)| value.clone())
    }

    /// Forgets `key`; holders keep the guard they have.
    pub fn remove(&self, key: &K) -> Option<Arc<V>> {
        lock(&self.entries).remove(key).map(|(_, value)| value)
    }

    /// Every key, in no particular order.
    pub fn keys(&self) -> Vec<K> {
        lock(&self.entries).keys().cloned().collect()
    }
}

#[cfg(all(test, not(any(feature = "loom", feature = "shuttle"))))]
mod tests {
    use super::*;

    #[test]
    fn one_guard_per_key_and_no_silent_difference() {
        let registry: Registry<&str, u32, u32> = Registry::new(2, |value| *value < 10).unwrap();
        let make = |config: &u32| Ok(*config);
        let first = registry.get_or_make(&"a", 1, make).unwrap();
        let again = registry.get_or_make(&"a", 1, |_| Err(ConfigError("made twice"))).unwrap();
        assert!(Arc::ptr_eq(&first, &again));
        let conflict = registry.get_or_make(&"a", 2, make).unwrap_err();
        assert_eq!(conflict.kind(), Kind::Conflict);

        drop(registry.get_or_make(&"busy", 10, make).unwrap());
        let full = registry.get_or_make(&"c", 3, make).unwrap_err();
        assert_eq!(full, RegistryError::Full { capacity: 2 }, "one is held, one is not idle");
        drop((first, again));
        assert!(registry.get_or_make(&"c", 3, make).is_ok(), "the idle one made room");
        assert!(registry.get(&"a").is_none());
        assert_eq!(registry.remove(&"c").as_deref(), Some(&3));
    }
}
