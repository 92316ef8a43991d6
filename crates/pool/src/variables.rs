//! A worker's environment: its values may be secrets.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};

use serde::Serialize;

/// Variables by name. Printing them shows the names only.
#[derive(Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Variables(BTreeMap<String, String>);

impl Deref for Variables {
    type Target = BTreeMap<String, String>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Variables {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<(String, String)> for Variables {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self(variables.into_iter().collect())
    }
}

impl fmt::Debug for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use crate::interpreter::Interpreter;
    use crate::spec::WorkerSpec;

    #[test]
    fn a_printed_spec_shows_the_names_of_its_variables_and_no_value() {
        let python = Interpreter::find(None).expect("python3 is there");
        let spec = WorkerSpec::python("tools", python).env("API_KEY", "s3cret");
        let command = spec.command(std::path::Path::new("/worker.py")).expect("it is UTF-8");
        for text in [format!("{spec:?}"), format!("{command:?}")] {
            assert!(text.contains("API_KEY"), "{text}");
            assert!(!text.contains("s3cret"), "{text}");
        }
    }
}
