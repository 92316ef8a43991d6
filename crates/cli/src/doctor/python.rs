//! Checks of the interpreter: whether it is there, new enough and whole, and how fast its codec is.

use std::path::Path;

use snakehouse_base::Coded;
use snakehouse_pool::{Abilities, Interpreter};

use super::Check;

/// The interpreter that would be used. One that is not there has no further checks.
pub(super) fn look(explicit: Option<&Path>) -> Vec<Check> {
    let python = match Interpreter::find(explicit) {
        Ok(python) => python,
        Err(error) => {
            let remedy = error.hint().unwrap_or_else(|| "install Python 3.11 or newer".to_owned());
            return vec![Check::problem("interpreter", error.to_string(), remedy)];
        }
    };
    let found = format!("Python {} at {}", python.version(), python.path().display());
    let mut checks = vec![Check::ok("interpreter", found)];
    checks.extend(whole(&python.abilities()));
    checks
}

fn whole(has: &Abilities) -> Vec<Check> {
    let library = match (has.ctypes, has.standard) {
        (true, true) => Check::ok("standard_library", "ctypes, mmap and resource are there"),
        (false, _) => Check::problem(
            "standard_library",
            "ctypes is missing: this Python was built without libffi",
            "use another interpreter (SNAKEHOUSE_PYTHON), or install libffi's headers and build \
             this one again",
        ),
        (true, false) => Check::problem(
            "standard_library",
            "mmap or resource is missing",
            "use an interpreter with the whole standard library (SNAKEHOUSE_PYTHON)",
        ),
    };
    let codec = match has.codec {
        true => Check::ok("codec", "a compiled MessagePack codec is there"),
        false => Check::note(
            "codec",
            "no compiled MessagePack codec: values are encoded in Python, which is slower",
            "if calls are small and many: `python -m pip install msgpack` for this interpreter",
        ),
    };
    vec![library, codec]
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::process::Command;

    use super::super::Status;
    use super::*;

    /// A program that answers like Python, or not. Another process writes it: what is open for
    /// writing here, a process that another test starts may hold for a moment, and it cannot be run.
    fn script(directory: &tempfile::TempDir, name: &str, body: &str) -> PathBuf {
        let path = directory.path().join(name);
        let write = r#"printf '#!/bin/sh\n%s\n' "$2" > "$1"; chmod 755 "$1""#;
        let mut shell = Command::new("/bin/sh");
        let written = shell.args(["-ec", write, "sh"]).arg(&path).arg(body).status().unwrap();
        assert!(written.success());
        path
    }

    fn first(path: &Path) -> Check {
        look(Some(path)).remove(0)
    }

    #[test]
    fn an_interpreter_that_does_not_do_is_replaced_as_told() {
        let dir = tempfile::tempdir().unwrap();
        let old = script(&dir, "old", "printf '/usr/bin/python3\\n3.10.12\\n'");
        let silent = script(&dir, "silent", "exit 3");
        for bad in [Path::new("/no/such/python"), &old, &silent] {
            let check = first(bad);
            assert_eq!((check.name, check.status), ("interpreter", Status::Problem));
            assert!(check.remedy.unwrap().contains("SNAKEHOUSE_PYTHON"));
        }
        let python = Interpreter::find(None).unwrap();
        let good = look(Some(python.path()));
        assert_eq!(good[0].status, Status::Ok, "the one that was named instead");
        assert_eq!(good.len(), 3);
    }

    #[test]
    fn an_interpreter_without_ctypes_or_a_codec_is_told_apart_from_a_whole_one() {
        let dir = tempfile::tempdir().unwrap();
        let real = Interpreter::find(None).unwrap();
        let real = real.path().display();
        // Hides modules from the question, and answers the one about the version.
        let hiding = |name: &str, hidden: &str| {
            let hide = format!("import sys; sys.modules.update({hidden}); exec(sys.argv[1])");
            let body = format!(
                "case \"$1\" in -E) printf '%s\\n3.11.0\\n' \"$0\";; \
                 *) exec {real} -P -c \"{hide}\" \"$3\";; esac"
            );
            script(&dir, name, &body)
        };
        let status = |path: &Path| {
            let checks = look(Some(path));
            assert_eq!(checks[0].status, Status::Ok, "{checks:?}");
            (checks[1].status, checks[2].status)
        };
        let none = "{'msgpack': None, 'msgpack._cmsgpack': None}";
        assert_eq!(status(&hiding("slow", none)), (Status::Ok, Status::Note));
        let there = "{'msgpack': sys, 'msgpack._cmsgpack': sys}";
        assert_eq!(status(&hiding("fast", there)), (Status::Ok, Status::Ok));
        let ctypes = "{'ctypes': None}";
        assert_eq!(status(&hiding("bare", ctypes)).0, Status::Problem);
        let resource = "{'resource': None}";
        assert_eq!(status(&hiding("half", resource)).0, Status::Problem);
    }
}
