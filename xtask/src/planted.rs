//! Plants known bugs, one at a time, and requires the named test to catch each.
//!
//! A bug is a patch in `crates/<crate>/tests/planted/`. Its first lines say what it breaks and which
//! test must fail. The patch is applied to a copy of the repository below `target/`, so the working
//! tree is never touched. The packages of the copy have another version, so
//! that what is built from it can never be taken for a build of the working tree, while compiled
//! third-party dependencies are shared.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::Finding;

struct Bug {
    name: String,
    krate: String,
    patch: PathBuf,
    /// Arguments of `cargo test` that select the one test.
    test: Vec<String>,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let bugs = bugs(root)?;
    if bugs.is_empty() {
        return Err("no planted bugs below crates/*/tests/planted".to_owned());
    }
    let copy = root.join("target/planted");
    let mut findings = Vec::new();
    for bug in &bugs {
        refresh(root, &copy)?;
        run(
            root,
            Command::new("git").arg("apply").arg("--directory=target/planted").arg(&bug.patch),
        )?;
        let output = test(root, &copy, bug)?;
        let text = String::from_utf8_lossy(&output.stdout);
        let complaint = if output.status.success() {
            Some("nobody caught it".to_owned())
        } else if !text.contains("1 failed") && !text.contains("running 1 test") {
            Some(format!("its test did not run:\n{}", String::from_utf8_lossy(&output.stderr)))
        } else {
            println!("{} caught by {}", bug.name, bug.test.last().map_or("", String::as_str));
            None
        };
        let place = bug.patch.display().to_string();
        findings.extend(complaint.map(|what| Finding { place, what }));
    }
    Ok(findings)
}

fn bugs(root: &Path) -> Result<Vec<Bug>, String> {
    let mut bugs = Vec::new();
    for krate in list(&root.join("crates"))? {
        let folder = krate.join("tests/planted");
        if !folder.is_dir() {
            continue;
        }
        for patch in list(&folder)? {
            let text = read(&patch)?;
            let test = text.lines().find_map(|line| line.strip_prefix("# caught by: "));
            let test = test.ok_or_else(|| format!("{} names no test", patch.display()))?;
            bugs.push(Bug {
                name: stem(&patch),
                krate: stem(&krate),
                test: test.split_whitespace().map(str::to_owned).collect(),
                patch,
            });
        }
    }
    bugs.sort_by(|a, b| (&a.krate, &a.name).cmp(&(&b.krate, &b.name)));
    Ok(bugs)
}

/// Makes the copy equal to the tracked files of the working tree.
fn refresh(root: &Path, copy: &Path) -> Result<(), String> {
    let listed = run(root, Command::new("git").args(["ls-files", "-z"]))?;
    for path in String::from_utf8_lossy(&listed.stdout).split('\0').filter(|path| !path.is_empty())
    {
        let (from, to) = (root.join(path), copy.join(path));
        let Ok(mut wanted) = std::fs::read(&from) else { continue };
        if path == "Cargo.toml" {
            wanted = rename(wanted)?;
        }
        // Unchanged files keep their time, so that nothing is compiled again for them.
        if std::fs::read(&to).is_ok_and(|there| there == wanted) {
            continue;
        }
        if let Some(folder) = to.parent() {
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        std::fs::write(&to, wanted)
            .map_err(|error| format!("failed to write {}: {error}", to.display()))?;
    }
    Ok(())
}

/// Gives every package of the workspace another version.
fn rename(manifest: Vec<u8>) -> Result<Vec<u8>, String> {
    const OURS: &str = "version = \"0.1.0\"";
    let text = String::from_utf8(manifest).map_err(|error| error.to_string())?;
    if !text.contains(OURS) {
        return Err(format!("the root manifest does not say {OURS}"));
    }
    Ok(text.replace(OURS, "version = \"0.1.0-planted\"").into_bytes())
}

fn test(root: &Path, copy: &Path, bug: &Bug) -> Result<Output, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    Command::new(cargo)
        .args(["test", "--offline", "--quiet", "--package"])
        .arg(format!("snakehouse-{}", bug.krate))
        .args(&bug.test)
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", root.join("target"))
        // A bug is a few lines, and its crate is built for each.
        .env("CARGO_INCREMENTAL", "1")
        .output()
        .map_err(|error| format!("failed to start cargo: {error}"))
}

fn run(root: &Path, command: &mut Command) -> Result<Output, String> {
    let output = command.current_dir(root).output();
    let output = output.map_err(|error| format!("failed to start {command:?}: {error}"))?;
    if output.status.success() {
        Ok(output)
    } else {
        Err(format!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = std::fs::read_dir(folder)
        .map_err(|error| format!("failed to list {}: {error}", folder.display()))?;
    Ok(entries.flatten().map(|entry| entry.path()).collect())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path)
        .map_err(|error| format!("failed to read {}: {error}", path.display()))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}
