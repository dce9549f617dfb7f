//! Writes reports on made-up runs, to look at them in a browser:
//! `cargo run -p reports --example fixture -- FOLDER`.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::PathBuf;

use reports::{Format, render};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("expected a folder to write to")?);
    let pages = [
        ("done", vec![fixture::done()]),
        ("several", vec![fixture::done(), fixture::other()]),
        ("failed", vec![fixture::failed()]),
        ("running", vec![fixture::running()]),
        ("hostile", vec![fixture::hostile()]),
    ];
    for (name, runs) in pages {
        for (format, extension) in
            [(Format::Html, "html"), (Format::Markdown, "md"), (Format::Json, "json")]
        {
            std::fs::write(folder.join(name).with_extension(extension), render(&runs, format)?)?;
        }
    }
    Ok(())
}
