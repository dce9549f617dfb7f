//! The ONNX project's own test cases, which its wheel `onnx==1.22.0` ships: every case of
//! `cases.txt` has to pass, but for those of `misses.txt`, which may only get fewer. A miss has to be
//! refused by name, never answered wrongly. Every case runs three ways: by the graph's own
//! definition, and compiled at both ends of the levels.
//!
//! `ONNX_CASES` names the wheel, or the folder `onnx/backend/test/data` of an installation;
//! without it the test says that it was skipped. `ONNX_CASE` picks the cases whose name has it.
#![allow(clippy::print_stderr, reason = "a test says what it skipped and what it found")]

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use graph::onnx::{ImportError, ImportOptions, import_bytes, read_tensor};
use graph::{Graph, Tensor, reference};
use runtime::{CompileOptions, Level, compile};

const CASES: &str = include_str!("cases.txt");
const MISSES: &str = include_str!("misses.txt");
/// Of the ONNX project's own runner.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;

#[test]
fn cases_pass() {
    let Some(source) = std::env::var_os("ONNX_CASES") else {
        eprintln!("skipped: ONNX_CASES names no onnx==1.22.0 wheel or test data folder");
        return;
    };
    let mut source = Source::open(Path::new(&source));
    let wanted = std::env::var("ONNX_CASE").unwrap_or_default();
    let misses: BTreeSet<&str> = MISSES.lines().collect();
    let (mut passed, mut wrong) = (0, Vec::new());
    for case in CASES.lines().filter(|case| case.contains(&wanted)) {
        match (run(&mut source, case), misses.contains(case)) {
            (Ok(()), false) => passed += 1,
            (Ok(()), true) => wrong.push(format!("{case}: passes now; take it off misses.txt")),
            (Err(Failure::Refused(reason)), true) => eprintln!("{case}: missed: {reason}"),
            (Err(failure), _) => wrong.push(format!("{case}: {failure:?}")),
        }
    }
    eprintln!("{passed} cases pass");
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

/// A model with a few wrong bytes is read or refused.
#[test]
fn damaged_models_are_no_panic() {
    let Some(source) = std::env::var_os("ONNX_CASES") else {
        eprintln!("skipped: ONNX_CASES names no onnx==1.22.0 wheel or test data folder");
        return;
    };
    let mut source = Source::open(Path::new(&source));
    // Knuth's linear congruential generator (MMIX).
    let mut state = 1u64;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize
    };
    for case in CASES.lines() {
        let model = source.read(&format!("{case}/model.onnx")).expect("the case has a model");
        for _ in 0..8 {
            let mut damaged = model.clone();
            for _ in 0..=next() % 4 {
                let place = next() % damaged.len();
                damaged[place] = next() as u8;
            }
            let _ = import_bytes(&damaged, None, &ImportOptions::default());
            damaged.truncate(next() % model.len());
            let _ = import_bytes(&damaged, None, &ImportOptions::default());
        }
    }
}

#[derive(Debug)]
enum Failure {
    /// Not supported, and said so.
    Refused(#[allow(dead_code, reason = "printed")] String),
    /// Anything else.
    Wrong(#[allow(dead_code, reason = "printed")] String),
}

fn run(source: &mut Source, case: &str) -> Result<(), Failure> {
    let wrong = |reason: String| Failure::Wrong(reason);
    let model = source.read(&format!("{case}/model.onnx")).expect("the case has a model");
    let graph =
        import_bytes(&model, None, &ImportOptions::default()).map_err(|error| match error {
            ImportError::Unsupported { .. } => Failure::Refused(error.to_string()),
            other => Failure::Wrong(other.to_string()),
        })?;
    for set in 0.. {
        let tensors = |source: &mut Source, kind: &str| -> Result<Vec<Tensor>, Failure> {
            let read = |index: usize| {
                source.read(&format!("{case}/test_data_set_{set}/{kind}_{index}.pb"))
            };
            let files = (0..).map(read).take_while(Option::is_some).flatten();
            files.map(|bytes| read_tensor(&bytes)).collect::<Result<_, _>>().map_err(wrong)
        };
        let (inputs, expected) = (tensors(source, "input")?, tensors(source, "output")?);
        if expected.is_empty() {
            return if set == 0 { Err(wrong("no test data".to_owned())) } else { Ok(()) };
        }
        let names = graph.inputs().iter().map(|&id| graph.value_name(id));
        let inputs: Vec<(&str, Tensor)> = names.zip(inputs).collect();
        let outputs = reference::evaluate(&graph, &inputs).map_err(|e| wrong(e.to_string()))?;
        compare_all(&outputs, &expected).map_err(|e| wrong(format!("reference: {e}")))?;
        for level in [Level::O0, Level::O3] {
            compiled(&graph, level, &inputs)
                .and_then(|outputs| compare_all(&outputs, &expected))
                .map_err(|e| wrong(format!("{level:?}: {e}")))?;
        }
    }
    Ok(())
}

fn compiled(graph: &Graph, level: Level, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, String> {
    let threads = NonZeroUsize::new(1);
    let options = CompileOptions { level, threads, ..CompileOptions::default() };
    let model = compile(graph, &options).map_err(|error| error.to_string())?;
    let inputs: Vec<(&str, &Tensor)> = inputs.iter().map(|(name, x)| (*name, x)).collect();
    model.session().run(&inputs).map_err(|error| error.to_string())
}

fn compare_all(found: &[Tensor], expected: &[Tensor]) -> Result<(), String> {
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        compare(found, expected).map_err(|error| format!("output {index}: {error}"))?;
    }
    Ok(())
}

fn compare(found: &Tensor, expected: &Tensor) -> Result<(), String> {
    if (found.dtype(), found.shape()) != (expected.dtype(), expected.shape()) {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    let (Ok(found), Ok(expected)) = (found.elements::<f32>(), expected.elements::<f32>()) else {
        return if found == expected {
            Ok(())
        } else {
            Err(format!("expected {:?}, found {:?}", expected.bytes(), found.bytes()))
        };
    };
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let (a, b) = (f64::from(found), f64::from(expected));
        let close = (a - b).abs() <= ABSOLUTE + RELATIVE * b.abs();
        if !(close || a == b || a.is_nan() && b.is_nan()) {
            return Err(format!("element {index}: expected {expected}, found {found}"));
        }
    }
    Ok(())
}

/// Where the files of the cases are.
enum Source {
    Folder(PathBuf),
    Wheel(Box<zip::ZipArchive<File>>),
}

impl Source {
    fn open(path: &Path) -> Self {
        if path.is_dir() {
            return Self::Folder(path.to_owned());
        }
        let file = File::open(path).expect("ONNX_CASES names a folder or a wheel");
        Self::Wheel(Box::new(zip::ZipArchive::new(file).expect("a wheel is a zip")))
    }

    fn read(&mut self, name: &str) -> Option<Vec<u8>> {
        match self {
            Self::Folder(folder) => std::fs::read(folder.join(name)).ok(),
            Self::Wheel(archive) => {
                let mut file = archive.by_name(&format!("onnx/backend/test/data/{name}")).ok()?;
                let mut bytes = Vec::new();
                file.read_to_end(&mut bytes).expect("the wheel is whole");
                Some(bytes)
            }
        }
    }
}
