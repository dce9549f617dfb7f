//! The reference that people and editors read says what the code says.

use crate::sandbox::{Sandbox, repository};

fn check(file: &str, arguments: &[&str]) {
    let printed = Sandbox::new().ask(arguments);
    let written = std::fs::read_to_string(repository().join(file)).unwrap_or_default();
    assert!(
        printed == written,
        "{file} is not what the code says; update it with `cargo run -- {} > {file}`",
        arguments.join(" ")
    );
}

#[test]
fn the_manifest_reference_is_what_the_code_says() {
    check("docs/manifest.md", &["stages", "--markdown"]);
}

#[test]
fn the_schema_is_what_the_code_says() {
    check("docs/manifest.schema.json", &["schema"]);
}
