//! Pages on made-up sweeps.

mod fixture;

use reports::{Format, RenderError, render_sweeps};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

#[test]
fn markdown_says_what_a_sweep_found() {
    for (name, sweep) in
        [("sweep", fixture::sweep()), ("front", fixture::front()), ("young", fixture::young())]
    {
        let text = render_sweeps(&[sweep], Format::Markdown).unwrap();
        insta::assert_snapshot!(format!("markdown_{name}"), text);
    }
}

#[test]
fn importances_name_what_the_objective_depends_on() {
    let text = render_sweeps(&[fixture::sweep()], Format::Json).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    let importance = &document["sweeps"][0]["importances"][0];
    assert!(importance["r-squared"].as_f64().unwrap() > 0.1, "{importance:#}");
    let names: Vec<&str> = importance["values"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pair| pair[0].as_str())
        .collect();
    // The formula of the fixture.
    assert!(names[..2].contains(&"learning-rate"), "{importance:#}");
}

#[test]
fn a_used_budget_is_the_reason_of_an_early_end() {
    let mut sweep = fixture::young();
    sweep.summary.state = engine::history::SweepState::Done;
    sweep.summary.asked += 1;
    sweep.spec["budget"] = "1s".into();
    let html = render_sweeps(&[sweep], Format::Html).unwrap();
    assert!(html.contains("The budget of this sweep, 1s, is used up."));
}

#[test]
fn few_trials_rank_nothing() {
    let html = render_sweeps(&[fixture::young()], Format::Html).unwrap();
    assert!(html.contains("at least 16 measured trials are needed, found "));
    assert!(html.contains("still going") && html.contains("the loss is not finite"));
}

#[test]
fn every_trial_is_a_row_and_a_line() {
    let sweep = fixture::sweep();
    let html = render_sweeps(std::slice::from_ref(&sweep), Format::Html).unwrap();
    assert_eq!(html.matches("<th scope=\"row\" data-key=").count(), sweep.trials.len());
    let n_done = sweep.trials.iter().filter(|trial| trial.objectives[0].is_some()).count();
    assert_eq!(html.matches("<g class=\"trial ").count(), n_done);
    let csv = render_sweeps(std::slice::from_ref(&sweep), Format::Csv).unwrap();
    assert_eq!(csv.split("\r\n").count(), sweep.trials.len() + 2);
    assert!(csv.starts_with("sweep,trial,state,best,violation,runs,stages.student.params.temp"));
}

#[test]
fn the_only_script_is_ours() {
    let html = render_sweeps(&[fixture::sweep(), fixture::front()], Format::Html).unwrap();
    assert_eq!(html.matches("<script").count(), 1);
    let (_, rest) = html.split_once("<script>").unwrap();
    let (script, _) = rest.split_once("</script>").unwrap();
    let digest = base64(&Sha256::digest(script.as_bytes()));
    assert!(html.contains(&format!("script-src 'sha256-{digest}'")), "the hash is {digest}");
    for outside in ["src=", "url(", "@import", "href=\"http", "NaN"] {
        assert!(!html.contains(outside), "{outside}");
    }
}

#[test]
fn hostile_names_stay_text() {
    const SCRIPT: &str = "</title></svg><script>alert('x')</script>|`*_";
    let mut sweep = fixture::sweep();
    sweep.summary.manifest = SCRIPT.to_owned();
    sweep.space[0].name = SCRIPT.to_owned();
    sweep.objectives[0].metric = SCRIPT.to_owned();
    sweep.trials[0].error = Some(SCRIPT.to_owned());
    sweep.trials[1].params.insert(SCRIPT.to_owned(), SCRIPT.into());
    let html = render_sweeps(&[sweep], Format::Html).unwrap();
    assert_eq!(html.matches("<script").count(), 1);
}

#[test]
fn the_same_sweeps_give_the_same_text() {
    let sweeps = [fixture::sweep(), fixture::front()];
    for format in [Format::Html, Format::Markdown, Format::Json, Format::Csv] {
        let twice = [(); 2].map(|()| render_sweeps(&sweeps, format).unwrap());
        assert_eq!(twice[0], twice[1]);
    }
    assert!(matches!(render_sweeps(&[], Format::Html), Err(RenderError::NoSweeps)));
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(*chunk.get(i).unwrap_or(&0)));
        for place in 0..4 {
            let is_padding = place > chunk.len();
            let digit = DIGITS[bits >> (18 - 6 * place) & 63];
            text.push(if is_padding { '=' } else { char::from(digit) });
        }
    }
    text
}
