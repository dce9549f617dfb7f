//! Reports on made-up runs: what they say, that they hold together, that nobody breaks out.

mod fixture;

use std::collections::BTreeSet;

use engine::history::RunRecord;
use reports::{Format, Options, RenderError, Verdict, render, render_with, summary_table};
use serde_json::Value;

/// Elements without an end tag.
const VOID: [&str; 4] = ["meta", "link", "input", "br"];

fn pages() -> Vec<(&'static str, Vec<RunRecord>)> {
    vec![
        ("done", vec![fixture::done()]),
        ("several", vec![fixture::done(), fixture::other()]),
        ("inspected", vec![fixture::inspected().0]),
        ("failed", vec![fixture::failed()]),
        ("running", vec![fixture::running()]),
        ("hostile", vec![fixture::hostile()]),
    ]
}

#[test]
fn markdown_says_what_happened() {
    for (name, runs) in pages().into_iter().filter(|(name, _)| *name != "inspected") {
        insta::assert_snapshot!(
            format!("markdown_{name}"),
            render(&runs, Format::Markdown).unwrap()
        );
    }
}

#[test]
fn html_of_a_short_run() {
    let mut run = fixture::running();
    run.stages.truncate(1);
    for series in &mut run.stages[0].series {
        series.points.truncate(4);
    }
    let html = render(&[run], Format::Html).unwrap();
    // The style sheet is a file of its own; its text would hide the page.
    let (head, rest) = html.split_once("<style>").unwrap();
    let (_, body) = rest.split_once("</style>").unwrap();
    insta::assert_snapshot!(format!("{head}{body}"));
}

#[test]
fn the_summary_table_is_aligned() {
    insta::assert_snapshot!("table_done", summary_table(&fixture::done()).to_string());
    insta::assert_snapshot!("table_failed", summary_table(&fixture::failed()).to_string());
}

#[test]
fn changes_that_may_be_chance_are_no_verdict() {
    let change = |accuracy: f64, drop: Option<(f64, f64)>| {
        let mut run = fixture::done();
        let metrics = &mut run.stages.last_mut().unwrap().metrics;
        for metric in metrics.iter_mut() {
            match metric.name.as_str() {
                "bench/int8/test/accuracy" => metric.value = accuracy,
                "bench/int8/test/accuracy-drop" => {
                    metric.value = 0.847 - accuracy;
                    (metric.low, metric.high) = drop.unzip();
                }
                _ => {}
            }
        }
        let change = summary_table(&run).rows[3][3].change.clone().unwrap();
        (change.text, change.verdict)
    };
    let check = |accuracy, drop, text: &str, verdict| {
        assert_eq!(change(accuracy, drop), (text.to_owned(), verdict));
    };
    // Pairs decide where there are any, …
    check(0.838, Some((0.004, 0.014)), "−0.9 pt", Verdict::Worse);
    check(0.838, Some((-0.004, 0.022)), "−0.9 pt", Verdict::Same);
    check(0.859, Some((-0.020, -0.004)), "+1.2 pt", Verdict::Better);
    // … otherwise the interval of the teacher, 0.825 to 0.868.
    check(0.838, None, "−0.9 pt", Verdict::Same);
    check(0.790, None, "−5.7 pt", Verdict::Worse);
}

#[test]
fn accuracies_of_two_splits_are_never_in_one_column() {
    let mut run = fixture::done();
    let bench = run.stages.last_mut().unwrap();
    bench.metrics.retain(|metric| metric.name != "bench/student/test/accuracy");
    let table = summary_table(&run);
    assert_eq!(table.columns[3], "accuracy (test)");
    assert_eq!(table.rows[1][3].text, "–");
    assert_eq!(table.notes, ["accuracy of student: no stage of the run measured it"]);
}

#[test]
fn html_is_well_formed_and_needs_no_network() {
    for (name, runs) in pages() {
        let html = render(&runs, Format::Html).unwrap();
        assert_balanced(name, &html);
        for outside in ["src=", "url(", "@import", "href=\"http", "href=\"//", "<script"] {
            assert!(!html.contains(outside), "{name} has {outside}");
        }
        assert!(!html.contains("NaN") && !html.contains("inf "), "{name} prints a non-number");
        let ids: Vec<&str> =
            html.split(" id=\"").skip(1).filter_map(|s| s.split('"').next()).collect();
        let unique: BTreeSet<&str> = ids.iter().copied().collect();
        assert_eq!(ids.len(), unique.len(), "{name} has an id twice");
        for target in html.split("href=\"#").skip(1).filter_map(|s| s.split('"').next()) {
            assert!(unique.contains(target), "{name} links to #{target}, which is not there");
        }
    }
}

#[test]
fn kernels_and_memory_are_shown_or_said_to_be_missing() {
    let (mut run, digest, text) = fixture::inspected();
    let mut options = Options::default();
    options.inspections.insert(digest.clone(), text);
    let html = render_with(std::slice::from_ref(&run), &options, Format::Html).unwrap();
    assert_balanced("inspected", &html);
    assert_eq!(html.matches("class=\"block c").count(), 30);
    for expected in ["linear-i8-vnni", "arena (kB)", "latency against rate", "J&#x2f;inference"] {
        assert!(html.contains(expected), "{expected}");
    }
    // The store no longer has it.
    let html = render(std::slice::from_ref(&run), Format::Html).unwrap();
    assert!(html.contains("Unavailable for bench: it is no longer in the store."));
    options.inspections.insert(digest, "{\"schema\": 9, \"models\": {}}".to_owned());
    let html = render_with(std::slice::from_ref(&run), &options, Format::Html).unwrap();
    assert!(html.contains("expected version 1 of its layout, found 9"));
    let folder = std::env::temp_dir().join("reports-no-such-folder");
    run.stages.last_mut().unwrap().artifacts.last_mut().unwrap().path = Some(folder.join("x"));
    assert!(render(&[run], Format::Html).unwrap().contains("No such file"));
}

#[test]
fn time_savings_and_lineage_come_from_the_record() {
    let html = render(&[fixture::done()], Format::Html).unwrap();
    for expected in [
        "Critical path: teacher → search → student → pruned → int8 → bench",
        "The cache saved 10 min 12 s of work.",
        "<li>models.minilm</li><li>teacher</li><li>student</li><li>pruned</li><li>int8</li>",
    ] {
        assert!(html.contains(expected), "{expected}");
    }
}

#[test]
fn the_content_of_a_page_is_that_of_the_report() {
    for (name, runs) in pages() {
        let (html, content) = (render(&runs, Format::Html).unwrap(), reports::content(&runs));
        let content = content.unwrap();
        assert!(content.contains("<article") && html.contains(content.trim()), "{name}");
        assert_balanced(name, &content);
        assert!(!content.contains("<style") && !content.contains("<main"), "{name}");
    }
    assert!(matches!(reports::content(&[]), Err(RenderError::NoRuns)));
}

#[test]
fn a_run_that_is_going_says_so() {
    for format in [Format::Html, Format::Markdown] {
        let text = render(&[fixture::running()], format).unwrap();
        assert!(text.contains("This run is still going"), "{format:?}");
    }
}

#[test]
fn json_fields_are_stable() {
    let text = render(&[fixture::done(), fixture::failed()], Format::Json).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    // Records are the engine's to keep stable, parameters and key documents the stages'.
    let mut paths = BTreeSet::new();
    field_paths("", &document, &mut paths);
    let own: Vec<&String> = paths.iter().filter(|path| !path.contains(".record.")).collect();
    insta::assert_snapshot!(own.iter().map(|path| path.as_str()).collect::<Vec<_>>().join("\n"));

    let record: RunRecord = serde_json::from_value(document["runs"][1]["record"].clone()).unwrap();
    // Not the whole record: reading a decimal may be off by one in the last digit.
    assert_eq!(record.summary, fixture::failed().summary);
    assert_eq!(record.stages[3].attempts, fixture::failed().stages[3].attempts);
}

#[test]
fn the_same_records_give_the_same_text() {
    for (name, runs) in pages() {
        for format in [Format::Html, Format::Markdown, Format::Json, Format::Csv] {
            let twice = [(); 2].map(|()| render(&runs, format).unwrap());
            assert_eq!(twice[0], twice[1], "{name}");
        }
    }
}

#[test]
fn nothing_to_report_is_an_error() {
    assert!(matches!(render(&[], Format::Html), Err(RenderError::NoRuns)));
    let mut run = fixture::done();
    run.stages.clear();
    for format in [Format::Html, Format::Markdown, Format::Json] {
        render(&[run.clone()], format).unwrap();
    }
}

#[test]
fn formats_have_names() {
    assert_eq!("md".parse(), Ok(Format::Markdown));
    let error = "pdf".parse::<Format>().unwrap_err().to_string();
    assert_eq!(error, "expected a report format `html`, `md`, `json` or `csv`, found `pdf`");
}

/// Checks the contrast of the colours against WCAG 2.2, success criteria 1.4.3 and 1.4.11.
#[test]
fn colours_are_told_apart() {
    let style = include_str!("../src/templates/style.css");
    let colour = |name: &str, theme: usize| -> f64 {
        let (_, rest) = style.split_once(&format!("--{name}: light-dark(")).unwrap();
        let pair = rest.split_once(')').unwrap().0;
        luminance(pair.split(", ").nth(theme).unwrap())
    };
    let texts = [
        ("ink", &["paper", "raised", "warn-tint", "bad-tint"][..]),
        ("soft", &["paper", "raised", "calm-tint"]),
        ("accent", &["paper", "raised", "cached-tint"]),
        ("good", &["paper", "raised", "good-tint"]),
        ("bad", &["paper", "raised", "bad-tint"]),
        ("warn", &["paper", "warn-tint"]),
    ];
    let shapes = ["c0", "c1", "c2", "c3", "c4", "c5"].map(|name| (name, &["raised"][..]));
    for (pairs, least) in [(&texts[..], 4.5), (&shapes[..], 3.0)] {
        for (front, backs) in pairs {
            for (back, theme) in backs.iter().flat_map(|back| [(back, 0), (back, 1)]) {
                let (a, b) = (colour(front, theme), colour(back, theme));
                let contrast = (a.max(b) + 0.05) / (a.min(b) + 0.05);
                assert!(contrast >= least, "{front} on {back}, theme {theme}: {contrast:.2}");
            }
        }
    }
}

/// Relative luminance of `#rrggbb`, WCAG 2.2.
fn luminance(hex: &str) -> f64 {
    let channel = |start: usize| {
        let value = f64::from(
            u8::from_str_radix(&hex[start..start + 2], 16).expect("two hexadecimal digits"),
        ) / 255.0;
        if value <= 0.04045 { value / 12.92 } else { ((value + 0.055) / 1.055).powf(2.4) }
    };
    0.2126 * channel(1) + 0.7152 * channel(3) + 0.0722 * channel(5)
}

fn field_paths(path: &str, value: &Value, paths: &mut BTreeSet<String>) {
    match value {
        Value::Object(fields) => {
            let is_named_by_stages =
                ["measurements", "unavailable"].iter().any(|end| path.ends_with(end));
            for (name, field) in fields {
                let name = if is_named_by_stages { "NAME" } else { name };
                field_paths(&format!("{path}.{name}"), field, paths);
            }
        }
        Value::Array(items) => {
            for item in items {
                field_paths(&format!("{path}[]"), item, paths);
            }
        }
        _ => drop(paths.insert(path.to_owned())),
    }
}

/// Every tag is closed by its own end tag, in order.
fn assert_balanced(name: &str, html: &str) {
    let mut open: Vec<&str> = Vec::new();
    for tag in html.split('<').skip(1).filter_map(|rest| rest.split('>').next()) {
        let word = tag
            .trim_start_matches('/')
            .split([' ', '\n', '/'])
            .next()
            .expect("split gives at least one part");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(word), "{name} closes the wrong element");
        } else if !tag.starts_with('!') && !tag.ends_with('/') && !VOID.contains(&word) {
            open.push(word);
        }
    }
    assert!(open.is_empty(), "{name} leaves {open:?} open");
}
