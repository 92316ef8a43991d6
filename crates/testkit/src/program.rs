//! Programs that a test writes and runs.

use std::path::Path;
use std::process::Command;

/// Makes an executable file with this text at `path`.
///
/// What is open for writing cannot be run (`ETXTBSY`), and a process that another test starts holds
/// for a moment whatever is open here. So another process writes it.
///
/// # Panics
/// If the file cannot be written, or there is no `/bin/sh`.
pub fn executable(path: &Path, text: &str) {
    let status = Command::new("/bin/sh")
        .args(["-ec", "printf %s \"$2\" > \"$1\"; chmod 755 \"$1\"", "sh"])
        .arg(path)
        .arg(text)
        .status()
        .expect("there is a shell");
    assert!(status.success(), "{} cannot be written: {status}", path.display());
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    #[test]
    fn it_runs_whatever_other_tests_start_meanwhile() {
        let directory = std::env::temp_dir().join(format!("program-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        crate::race(8, |n| {
            let path = directory.join(n.to_string());
            for round in 0..100 {
                super::executable(&path, &format!("#!/bin/sh\nexit {round}\n"));
                let status = Command::new(&path).status().unwrap();
                assert_eq!(status.code(), Some(round));
            }
        });
        std::fs::remove_dir_all(directory).unwrap();
    }
}
