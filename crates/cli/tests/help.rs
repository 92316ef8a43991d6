//! What the command says about itself, word for word.
//!
//! After a wanted change: `SNAKEHOUSE_BLESS=1 cargo test -p snakehouse --test help`.

use std::path::Path;
use std::process::Command;

/// `snakehouse ARGS --help` equals `tests/help/NAME.txt`.
fn assert_help(name: &str, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_snakehouse"))
        .args(args)
        .arg("--help")
        .env_clear()
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let said = String::from_utf8(output.stdout).expect("help is text");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/help/{name}.txt"));
    if std::env::var_os("SNAKEHOUSE_BLESS").is_some() {
        std::fs::create_dir_all(file.parent().expect("the file has a directory"))
            .expect("the directory can be made");
        std::fs::write(&file, &said).expect("the text can be written");
    }
    let expected = std::fs::read_to_string(&file).expect("the expected text is committed");
    assert_eq!(said, expected, "help of {name} changed");
}

#[test]
fn every_command_explains_itself() {
    assert_help("snakehouse", &[]);
    for command in ["up", "demo", "doctor", "model", "pool", "worker", "bench", "config"] {
        assert_help(command, &[command]);
    }
    assert_help("pool-call", &["pool", "call"]);
    assert_help("pool-serve", &["pool", "serve"]);
    assert_help("worker-attach", &["worker", "attach"]);
    assert_help("bench-pool", &["bench", "pool"]);
    assert_help("bench-startup", &["bench", "startup"]);
    assert_help("bench-recovery", &["bench", "recovery"]);
}
