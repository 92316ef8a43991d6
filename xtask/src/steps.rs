//! Takes the steps of the README as a newcomer does: word by word, in an empty directory.
//!
//! Between `<!-- steps: begin -->` and `<!-- steps: end -->` stand fenced blocks. `sh` is run where
//! the last one ended; `text` is what the last one must have printed; any other block is the file that
//! the line of prose before it names in backquotes.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use snakehouse_base::{Clock, SystemClock};

use crate::Finding;

const PAGE: &str = "README.md";
const BEGIN: &str = "<!-- steps: begin -->";
const END: &str = "<!-- steps: end -->";

/// What the page promises, the first build included.
const PROMISED: Duration = Duration::from_secs(300);

/// Says after a shell block where it ended.
const WHERE: &str = "\npwd > \"$STEPS_WHERE\"\n";

struct Block {
    language: String,
    text: String,
    /// The last name in backquotes before it.
    file: Option<String>,
}

pub(crate) fn check(root: &Path) -> Result<Vec<Finding>, String> {
    let page = fs::read_to_string(root.join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    let blocks = blocks(&page)?;
    // Outside of this workspace, or cargo takes the new program for a part of it.
    let place = tempfile::tempdir().map_err(|error| format!("a directory: {error}"))?;
    let outcome = take(root, &blocks, place.path());
    outcome.map(|finding| finding.into_iter().collect())
}

fn take(root: &Path, blocks: &[Block], place: &Path) -> Result<Option<Finding>, String> {
    let failed = |error| format!("{}: {error}", place.display());
    // The page says: beside this checkout.
    symlink(root, place.join("snakehouse")).map_err(failed)?;
    let clock = SystemClock;
    let began = clock.now();
    let (mut here, mut printed) = (place.to_owned(), String::new());
    for block in blocks {
        match block.language.as_str() {
            "sh" => {
                printed = shell(&here, &block.text, place)?;
                let end = fs::read_to_string(place.join("where")).map_err(failed)?;
                here = end.trim_end().into();
            }
            "text" if printed == block.text => {}
            "text" => {
                let what = format!("printed {printed:?} where the page has {:?}", block.text);
                return Ok(Some(Finding { place: PAGE.to_owned(), what }));
            }
            _ => {
                let name = block.file.as_deref().ok_or("a file's block has no name before it")?;
                fs::write(here.join(name), &block.text).map_err(failed)?;
            }
        }
    }
    let took = clock.now().saturating_duration_since(began);
    println!("{} steps in {:.0} s, the build included", blocks.len(), took.as_secs_f64());
    Ok((took > PROMISED).then(|| Finding {
        place: PAGE.to_owned(),
        what: format!("the steps took {took:?}, and the page promises {PROMISED:?}"),
    }))
}

/// What a block prints on standard output.
fn shell(here: &Path, text: &str, place: &Path) -> Result<String, String> {
    let output = Command::new("sh")
        .args(["-e", "-c", &format!("{text}{WHERE}")])
        .current_dir(here)
        .env("STEPS_WHERE", place.join("where"))
        // A newcomer has neither our target directory nor our toolchain's variables; versions are
        // those that were fetched for us, so that nothing here needs the network.
        .env_remove("CARGO_TARGET_DIR")
        .env("CARGO_NET_OFFLINE", "true")
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("sh: {error}"))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!("{} after\n{text}", output.status)),
    }
}

fn blocks(page: &str) -> Result<Vec<Block>, String> {
    let steps = page.split_once(BEGIN).and_then(|(_, rest)| rest.split_once(END));
    let (steps, _) = steps.ok_or(format!("{PAGE} has no steps between {BEGIN} and {END}"))?;
    let (mut blocks, mut file, mut open) = (Vec::new(), None, None::<Block>);
    for line in steps.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => block.text.extend([line, "\n"]),
            (None, Some(language)) => {
                let language = language.to_owned();
                open = Some(Block { language, text: String::new(), file: file.take() });
            }
            (None, None) => {
                let named = line.split('`').nth(1).map(str::to_owned);
                file = named.or(file);
            }
        }
    }
    match open {
        Some(_) => Err(format!("{PAGE} has a block of steps that does not end")),
        None => Ok(blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_language_text_and_file() {
        let page = format!(
            "```sh\nnot a step\n```\n{BEGIN}\nIn `a.py`: `x`.\n```python\nx = 1\n\n```\n```sh\nls\n```\n{END}"
        );
        let found = blocks(&page).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|block| (block.language.as_str(), block.text.as_str(), block.file.as_deref()))
            .collect();
        assert_eq!(found, [("python", "x = 1\n\n", Some("a.py")), ("sh", "ls\n", None)]);
        assert!(blocks("").is_err());
        assert!(blocks(&format!("{BEGIN}\n```sh\n{END}")).is_err());
    }
}
