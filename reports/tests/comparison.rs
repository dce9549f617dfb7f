//! Several runs against a baseline: what is said of seeds, of single runs, and of chance.

mod fixture;

use engine::history::RunRecord;
use reports::{Format, Options, RenderError, render, render_with};
use serde_json::Value;

fn document(runs: &[RunRecord], baseline: Option<i64>) -> Value {
    let options = Options { baseline, ..Options::default() };
    serde_json::from_str(&render_with(runs, &options, Format::Json).expect("made up to be sound"))
        .expect("made up to be sound")
}

/// The cell of a model's column in the group that is not the baseline.
fn cell<'a>(document: &'a Value, model: &str, column: &str) -> &'a Value {
    let versus = &document["comparison"];
    let columns = versus["columns"].as_array().expect("made up to be sound");
    let index = columns
        .iter()
        .position(|title| title.as_str().expect("made up to be sound").starts_with(column));
    let mut rows = versus["rows"].as_array().expect("made up to be sound").iter();
    let row = rows
        .find(|row| row["model"] == model && row["is-baseline"] == false)
        .expect("made up to be sound");
    &row["cells"][index.expect("made up to be sound")]
}

#[test]
fn runs_that_differ_only_in_seed_are_one_group() {
    let document = document(&fixture::seeds(), None);
    let rows = document["comparison"]["rows"].as_array().unwrap();
    // Two groups of four models.
    assert_eq!(rows.len(), 8);
    assert!(rows.iter().all(|row| row["seeds"] == 3));
    let note = document["comparison"]["notes"][0].as_str().unwrap();
    assert!(note.contains("runs 20, 21, 22") && note.contains("seeds 7, 8, 9"), "{note}");
}

#[test]
fn pairs_tell_what_seeds_hide() {
    // Seeds move accuracy by more than a point, the change is 0.6 points in each of them.
    let document = document(&fixture::seeds(), None);
    let accuracy = cell(&document, "int8", "accuracy");
    assert_eq!(accuracy["word"], "better", "{accuracy:#}");
    assert!(accuracy["detail"].as_str().unwrap().contains("3 seeds"), "{accuracy:#}");
    let size = cell(&document, "int8", "file size");
    assert_eq!((&size["change"], &size["word"]), (&"same".into(), &"".into()));
    // 1.2× slower in every seed.
    assert_eq!(cell(&document, "int8", "latency")["word"], "worse");
    assert_eq!(cell(&document, "student", "latency")["word"], "no difference shown");
}

#[test]
fn nothing_is_better_where_intervals_overlap() {
    let mut runs = vec![fixture::done(), fixture::other()];
    let set = |run: &mut RunRecord, name: &str, value: f64, ends: Option<(f64, f64)>| {
        let metrics = run.stages.iter_mut().flat_map(|stage| &mut stage.metrics);
        for metric in metrics.filter(|metric| metric.name == name) {
            (metric.value, metric.low, metric.high) =
                (value, ends.map(|ends| ends.0), ends.map(|ends| ends.1));
        }
    };
    let name = "bench/int8/test/accuracy";
    let mut check = |value, ends, word: &str, detail: &str| {
        set(&mut runs[1], name, value, ends);
        let document = document(&runs, None);
        let cell = cell(&document, "int8", "accuracy");
        assert_eq!((&cell["word"], &cell["detail"]), (&word.into(), &detail.into()), "{value}");
    };
    // The baseline has 81.6 to 85.9 %.
    check(0.86, Some((0.85, 0.87)), "no difference shown", "intervals overlap");
    check(0.89, Some((0.88, 0.90)), "better", "intervals do not overlap");
    check(0.79, Some((0.78, 0.80)), "worse", "intervals do not overlap");
    check(0.99, None, "no difference shown", "not tested: no interval of one run");
}

#[test]
fn the_baseline_is_a_choice() {
    let runs = fixture::seeds();
    let second = document(&runs, Some(24));
    assert_eq!(second["comparison"]["baseline"], "bert #23 … #25");
    assert_eq!(cell(&second, "int8", "accuracy")["word"], "worse");
    let options = Options { baseline: Some(99), ..Options::default() };
    let error = render_with(&runs[..2], &options, Format::Html).unwrap_err();
    assert!(matches!(error, RenderError::NoBaseline { .. }));
    let text = error.to_string();
    assert_eq!(
        text,
        "expected the baseline to be one of the runs 20, 21, found 99; name it among them"
    );
}

#[test]
fn a_repeated_seed_counts_once() {
    let mut runs = fixture::seeds();
    let mut again = runs[0].clone();
    again.summary.id = 40;
    runs.push(again);
    let document = document(&runs, None);
    let notes = document["comparison"]["notes"].to_string();
    assert!(notes.contains("Run 20 repeats a seed"), "{notes}");
    assert_eq!(document["comparison"]["rows"][0]["seeds"], 3);
}

#[test]
fn markdown_of_a_comparison_fits_a_pull_request() {
    let text = render(&fixture::seeds(), Format::Markdown).unwrap();
    let (head, _) = text.split_once("<details>").unwrap();
    insta::assert_snapshot!("markdown_seeds", head);
}

#[test]
fn csv_has_a_row_a_measurement() {
    let text = render(&[fixture::done()], Format::Csv).unwrap();
    let lines: Vec<&str> = text.split("\r\n").collect();
    assert_eq!(
        lines[0],
        "run,group,manifest,seed,stage,kind,state,metric,value,unit,split,samples,low,high"
    );
    let row = lines.iter().find(|line| line.contains("bench/int8/test/accuracy,")).unwrap();
    assert!(row.starts_with("12,bert #12,bert,7,bench,benchmark,ran,bench/int8/test/accuracy,0.838,fraction,test,994,0.8"), "{row}");
    assert!(text.contains("bench/int8/energy,,,,,,\r\n"), "what is unavailable has no value");
    assert!(lines.iter().all(|line| line.is_empty() || line.matches(',').count() >= 13));
}
