//! The edges between crates are those of the table, and no others.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::Finding;

/// Allowed edges by crate folder.
type Table = BTreeMap<String, BTreeSet<String>>;

/// The test kit: a dev-dependency of anyone, a dependency of nobody.
const TESTKIT: &str = "testkit";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `None` for a normal dependency, else `dev` or `build`.
    kind: Option<String>,
    path: Option<String>,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let page = root.join("crates/README.md");
    let text = std::fs::read_to_string(&page)
        .map_err(|error| format!("failed to read {}: {error}", page.display()))?;
    Ok(compare(&table(&text)?, &metadata(root)?))
}

fn metadata(root: &Path) -> Result<Metadata, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root)
        .output()
        .map_err(|error| format!("failed to start cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| format!("failed to read cargo metadata: {error}"))
}

/// Reads the rows ``| `crate` | what it owns | `edge`, `edge` |``.
fn table(text: &str) -> Result<Table, String> {
    let mut table = Table::new();
    for line in text.lines() {
        let cells: Vec<_> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [name, _, edges] = cells[..] else { continue };
        let Some(name) = name.strip_prefix('`').and_then(|name| name.strip_suffix('`')) else {
            continue;
        };
        let edges = edges.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        if table.insert(name.to_owned(), edges).is_some() {
            return Err(format!("crates/README.md lists {name} twice"));
        }
    }
    if table.is_empty() {
        return Err("crates/README.md has no table of crates".to_owned());
    }
    Ok(table)
}

fn compare(table: &Table, metadata: &Metadata) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for package in &metadata.packages {
        // Packages outside `crates/` may use anything.
        let Some(from) = folder(&package.manifest_path) else { continue };
        seen.insert(from.to_owned());
        let Some(allowed) = table.get(from) else {
            findings.push(Finding {
                place: package.manifest_path.clone(),
                what: format!("{} has no row in crates/README.md", package.name),
            });
            continue;
        };
        for dependency in &package.dependencies {
            let path = dependency.path.as_deref();
            let Some(to) =
                path.and_then(|path| folder(&format!("{path}/Cargo.toml")).map(str::to_owned))
            else {
                continue;
            };
            let dev = dependency.kind.as_deref() == Some("dev");
            // A crate may depend on itself for its own tests, with other features.
            let fine = allowed.contains(&to) || dev && (to == TESTKIT || to == from);
            if !fine {
                let kind = if dev { " as a dev-dependency" } else { "" };
                findings.push(Finding {
                    place: package.manifest_path.clone(),
                    what: format!(
                        "{from} uses {to} ({}){kind}: not an edge of the table",
                        dependency.name
                    ),
                });
            }
        }
    }
    for (name, edges) in table {
        let row = |what: String| Finding { place: "crates/README.md".to_owned(), what };
        if !seen.contains(name) {
            findings.push(row(format!("{name} is in the table and not in the workspace")));
        }
        for edge in edges {
            if edge == TESTKIT || !table.contains_key(edge) {
                findings.push(row(format!("{name} may not use {edge}")));
            }
        }
        if reaches(table, name, name) {
            findings.push(row(format!("{name} reaches itself: dependencies point downwards")));
        }
    }
    findings
}

/// Whether `target` can be reached from `start` over at least one edge.
fn reaches(table: &Table, start: &str, target: &str) -> bool {
    let mut open: Vec<&str> = vec![start];
    let mut seen = BTreeSet::new();
    while let Some(name) = open.pop() {
        for edge in table.get(name).into_iter().flatten() {
            if edge == target {
                return true;
            }
            if seen.insert(edge) {
                open.push(edge);
            }
        }
    }
    false
}

/// The folder below `crates/` that a manifest stands in.
fn folder(manifest: &str) -> Option<&str> {
    manifest.strip_suffix("/Cargo.toml")?.rsplit_once("/crates/").map(|(_, folder)| folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
| Crate | Owns | May use |
|---|---|---|
| `base` | words | – |
| `pool` | processes | `base` |
";

    fn findings(edges: &[(&str, &str, Option<&str>)]) -> Vec<String> {
        let package = |name: &str| Package {
            name: format!("snakehouse-{name}"),
            manifest_path: format!("/r/crates/{name}/Cargo.toml"),
            dependencies: edges
                .iter()
                .filter(|(from, ..)| *from == name)
                .map(|(_, to, kind)| Dependency {
                    name: format!("snakehouse-{to}"),
                    kind: kind.map(str::to_owned),
                    path: Some(format!("/r/crates/{to}")),
                })
                .collect(),
        };
        let metadata = Metadata { packages: vec![package("base"), package("pool")] };
        compare(&table(PAGE).unwrap(), &metadata).into_iter().map(|found| found.what).collect()
    }

    #[test]
    fn edges_of_the_table_and_testkit_for_tests_pass() {
        let edges = [
            ("pool", "base", None),
            ("base", "testkit", Some("dev")),
            ("pool", "pool", Some("dev")),
        ];
        assert_eq!(findings(&edges), [""; 0]);
    }

    #[test]
    fn any_other_edge_is_named() {
        assert_eq!(
            findings(&[("base", "pool", None)]),
            ["base uses pool (snakehouse-pool): not an edge of the table"]
        );
        assert_eq!(findings(&[("pool", "testkit", None)]).len(), 1);
    }

    #[test]
    fn a_table_with_a_cycle_or_an_unknown_crate_is_refused() {
        let page = "| `a` | x | `b` |\n| `b` | x | `a`, `c` |";
        let found = compare(&table(page).unwrap(), &Metadata { packages: Vec::new() });
        let found: Vec<_> = found.into_iter().map(|found| found.what).collect();
        assert!(found.iter().any(|what| what == "b may not use c"), "{found:?}");
        assert!(found.iter().any(|what| what.starts_with("a reaches itself")), "{found:?}");
    }
}
