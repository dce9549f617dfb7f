//! Image networks on a GPU.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use graph::Tensor;
use graph::onnx::{ImportOptions, import};
use runtime::{CompileOptions, Device, Precision, compile};

use crate::measure;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/gpu/images.py");
const IMAGE: [usize; 3] = [3, 224, 224];

/// Prints a row for each network, batch and way.
pub(crate) fn run(
    python: &str,
    models: &str,
    batches: &[usize],
    device: Device,
    runs: usize,
) -> anyhow::Result<()> {
    println!("| network | batch | way | ours ms | PyTorch ms | greatest difference |");
    println!("|---|---|---|---|---|---|");
    let folder = tempfile::tempdir()?;
    for model in models.split(',') {
        let torch = if device == Device::Cpu { "cpu" } else { "cuda" };
        let peers = peers(python, torch, folder.path(), model, batches, runs)?;
        let graph =
            import(&folder.path().join(format!("{model}.onnx")), &ImportOptions::default())?;
        for (way, precision) in [("f32", Precision::F32), ("bf16", Precision::Bf16)] {
            let options =
                |device| CompileOptions { device, precision, ..CompileOptions::default() };
            let on_gpu = compile(&graph, &options(device))?;
            for (node, reason) in on_gpu.explain().fallbacks() {
                println!("{way}: `{}` runs on the CPU: {reason}", node.name);
            }
            let on_cpu = compile(&graph, &options(Device::Cpu))?;
            for &batch in batches {
                let shape = [&[batch][..], &IMAGE].concat();
                let x = Tensor::from_fn(&shape, |i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5);
                let (milliseconds, difference) =
                    measure(way, [&on_gpu, &on_cpu], &[("x", &x)], runs)?;
                let peer = peers.get(&format!("{way} {batch}")).context("PyTorch's time")?;
                println!(
                    "| {model} | {batch} | {way} | {milliseconds:.3} | {peer:.3} | {difference:.1e} |"
                );
            }
        }
    }
    Ok(())
}

/// Has the network written, and gives PyTorch's median milliseconds by way and batch.
fn peers(
    python: &str,
    device: &str,
    folder: &Path,
    model: &str,
    batches: &[usize],
    runs: usize,
) -> anyhow::Result<BTreeMap<String, f64>> {
    let output = Command::new(python)
        .args([SCRIPT, device])
        .arg(folder)
        .args([&runs.to_string(), model])
        .args(batches.iter().map(usize::to_string))
        .output()
        .context("starting PYTHON")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "images.py failed: {said}");
    let line = String::from_utf8_lossy(&output.stdout);
    let answer = line.lines().last().context("images.py printed nothing")?;
    serde_json::from_str(answer).context("reading the answer of images.py")
}
