//! Writes reports on made-up runs, to look at them in a browser:
//! `cargo run -p reports --example fixture -- FOLDER`.

#[path = "../tests/fixture/mod.rs"]
mod fixture;

use std::path::PathBuf;

use reports::{Format, Inspections, Options, bundle, mlflow, render_sweeps, render_with};

const FORMATS: [(Format, &str); 4] = [
    (Format::Html, "html"),
    (Format::Markdown, "md"),
    (Format::Json, "json"),
    (Format::Csv, "csv"),
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = PathBuf::from(std::env::args_os().nth(1).ok_or("expected a folder to write to")?);
    let (inspected, digest, text) = fixture::inspected();
    let mut inspections = Inspections::default();
    inspections.insert(digest, text);
    let options = Options { inspections, ..Options::default() };
    let pages = [
        ("done", vec![fixture::done()]),
        ("inspected", vec![inspected.clone()]),
        ("several", vec![fixture::done(), fixture::other()]),
        ("seeds", fixture::seeds()),
        ("failed", vec![fixture::failed()]),
        ("running", vec![fixture::running()]),
        ("hostile", vec![fixture::hostile()]),
    ];
    for (name, runs) in &pages {
        for (format, extension) in FORMATS {
            let path = folder.join(name).with_extension(extension);
            std::fs::write(path, render_with(runs, &options, format)?)?;
        }
    }
    let sweeps = [
        ("sweep", vec![fixture::sweep()]),
        ("front", vec![fixture::front()]),
        ("young", vec![fixture::young()]),
        ("sweeps", vec![fixture::sweep(), fixture::front()]),
    ];
    for (name, sweeps) in &sweeps {
        for (format, extension) in FORMATS {
            let path = folder.join(name).with_extension(extension);
            std::fs::write(path, render_sweeps(sweeps, format)?)?;
        }
    }
    std::fs::write(folder.join("run.tar.zst"), bundle(&inspected, &options.inspections)?)?;
    let store = folder.join("mlruns");
    let location = format!("file://{}", std::path::absolute(&store)?.display());
    for (path, content) in mlflow(&fixture::seeds(), &options.inspections, &location)? {
        let path = store.join(path);
        std::fs::create_dir_all(path.parent().ok_or("a file lies in a folder")?)?;
        std::fs::write(path, content)?;
    }
    Ok(())
}
