//! Runs every rule over every source file, and the checks of edges, lints, codes and pages.

use std::path::{Path, PathBuf};

use crate::Finding;
use crate::codes;
use crate::docs;
use crate::edges;
use crate::lints;
use crate::rules::RULES;
use crate::source::Source;

/// Where our Rust sources are.
const ROOTS: [&str; 4] = ["crates", "system-tests", "xtask", "examples"];

/// Where tests in Python are.
const PYTHON_TESTS: &str = "python/tests";

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let mut files = Vec::new();
    for start in ROOTS {
        collect(&root.join(start), "rs", &mut files)?;
    }
    files.sort();
    let mut sources = Vec::new();
    for file in files {
        let path = file.strip_prefix(root).unwrap_or(&file).to_string_lossy().into_owned();
        sources.push(Source::new(&path, &read(&file)?));
    }
    let mut python = Vec::new();
    collect(&root.join(PYTHON_TESTS), "py", &mut python)?;
    let python = python.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?;
    let mut findings: Vec<_> = sources.iter().flat_map(audit).collect();
    findings.extend(edges::check(root)?);
    findings.extend(lints::check(root, &sources)?);
    for page in docs::PAGES {
        findings.extend(docs::missing(page, &read(&root.join(page))?, &sources, &python));
    }
    findings.extend(codes::untested(&sources, &python, &read(&root.join(codes::LIST))?));
    Ok(findings)
}

fn read(file: &Path) -> Result<String, String> {
    std::fs::read_to_string(file)
        .map_err(|error| format!("failed to read {}: {error}", file.display()))
}

fn audit(source: &Source) -> Vec<Finding> {
    RULES
        .iter()
        .flat_map(|rule| (rule.find)(source).into_iter().map(move |found| (rule.name, found)))
        .filter(|(rule, (n, _))| source.waiver(rule, *n).is_none())
        .map(|(rule, (n, what))| Finding {
            place: format!("{}:{}", source.path, n + 1),
            what: format!("[{rule}] {what}"),
        })
        .collect()
}

fn collect(directory: &Path, kind: &str, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(format!("failed to list {}: {error}", directory.display())),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                collect(&path, kind, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == kind) {
            files.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiver_silences_its_rule_only() {
        let text = "\
// audit(spawn): owned by the test
tokio::spawn(std::thread::sleep(x));
";
        let found: Vec<_> =
            audit(&Source::new("crates/a/src/a.rs", text)).into_iter().map(|f| f.what).collect();
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("[sleep]"));
    }
}
