//! Notes the compiler's version, which runs record.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=src/history/migrations");
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version = Command::new(rustc).arg("--version").output().map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    println!("cargo::rustc-env=ENGINE_RUSTC={version}");
}
