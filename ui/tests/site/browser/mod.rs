//! All pages in a real browser, served from a process of its own to which others write.

mod chromium;
mod server;

use serde_json::json;

use crate::Test;
use chromium::Chromium;
use server::Server;

pub(crate) use server::serve;

pub(crate) const TESTS: &[Test] =
    &[("people_read_and_act_in_a_browser", people_read_and_act_in_a_browser)];

const CONTRAST: &str = include_str!("contrast.js");
const STRUCTURE: &str = include_str!("structure.js");

/// A browser at the pages of a project with runs, or a reason why there is none.
fn browser_at_runs() -> Result<(Chromium, Server), String> {
    let program = chromium::program().ok_or("there is no chromium on the path")?;
    let site = Server::with_runs();
    let browser = Chromium::start(program, &site.path("profile"));
    Ok((browser, site))
}

fn people_read_and_act_in_a_browser() {
    let (mut browser, mut site) = match browser_at_runs() {
        Ok(both) => both,
        Err(reason) => {
            println!("skipped the test in a browser: {reason}");
            return;
        }
    };
    browser.resize(1280, 900);
    browser.prefer("light");
    browser.go(&site.address_to_write);
    assert_eq!(browser.value("location.hash"), "", "the token is not left in the address");

    every_page_is_sound(&mut browser, &site);
    themes_are_chosen_and_kept(&mut browser, &site);
    the_list_is_used_by_keyboard(&mut browser, &site);
    tables_are_sorted_by_keyboard(&mut browser, &site);
    a_run_is_approved_and_its_package_promoted(&mut browser, &site);
    another_process_is_followed(&mut browser, &site);
    a_sweep_appears_and_is_read(&mut browser, &site);
    reading_works_without_scripts(&mut browser, &site);
    assert_eq!(browser.complaints(), Vec::<String>::new());
    assert_eq!(site.stop(), Some(0), "Ctrl-C ends it cleanly");
}

/// Structure, contrast, width and console of every page, in both themes, wide and narrow.
fn every_page_is_sound(browser: &mut Chromium, site: &Server) {
    let pages = [
        ("list", "/"),
        ("none", "/?text=nothing+has+this"),
        ("run", "/runs/1"),
        ("failed", "/runs/3"),
        ("compare", "/compare?run=1&run=2"),
        ("log", "/runs/1/logs/teacher"),
        ("sweeps", "/sweeps"),
    ];
    these_pages_are_sound(browser, site, &pages);
    // A page that is not there says so; the browser's console does, too, and rightly.
    browser.go(&site.address("/runs/99"));
    assert_eq!(browser.value(STRUCTURE), json!([]));
    assert_eq!(
        browser.value("document.querySelector('.notice').innerText.includes('no run 99')"),
        true
    );
    browser.complaints();
}

fn these_pages_are_sound(browser: &mut Chromium, site: &Server, pages: &[(&str, &str)]) {
    for &(name, path) in pages {
        for theme in ["light", "dark"] {
            browser.prefer(theme);
            for (width, height) in [(1280, 900), (390, 844)] {
                browser.resize(width, height);
                browser.go(&site.address(path));
                browser.value(
                    "document.querySelectorAll('details').forEach((one) => one.open = true)",
                );
                let place = format!("{name}, {theme}, {width} px");
                assert_eq!(browser.value(STRUCTURE), json!([]), "{place}");
                assert_eq!(browser.value(CONTRAST), json!([]), "{place}");
                assert_eq!(browser.complaints(), Vec::<String>::new(), "{place}");
                if name != "run" {
                    site.keep(browser, &format!("{name}-{theme}-{width}"));
                    continue;
                }
                site.keep(browser, &format!("{name}-open-{theme}-{width}"));
                browser.go(&site.address(path));
                site.keep(browser, &format!("{name}-{theme}-{width}"));
            }
        }
    }
    browser.resize(1280, 900);
    browser.prefer("light");
}

fn a_sweep_appears_and_is_read(browser: &mut Chromium, site: &Server) {
    browser.go(&site.address("/sweeps"));
    assert_eq!(browser.value("document.querySelectorAll('#rows th').length"), 0);
    site.sweep();
    browser.wait("document.querySelectorAll('#rows th').length == 1");
    these_pages_are_sound(browser, site, &[("sweeps-one", "/sweeps"), ("sweep", "/sweeps/1")]);
    browser.go(&site.address("/sweeps"));
    focus(browser, "#rows a");
    browser.press("Enter");
    browser.wait_for_load();
    assert_eq!(browser.value("location.pathname"), "/sweeps/1");
    let links = "[...document.querySelectorAll('#runs a')].filter((a) => /^#/.test(a.textContent))";
    assert_eq!(browser.value(&format!("{links}.length")), 4, "two trials with two seeds");
}

fn themes_are_chosen_and_kept(browser: &mut Chromium, site: &Server) {
    browser.go(&site.address("/"));
    let paper = "getComputedStyle(document.body).backgroundColor";
    let light = browser.value(paper);
    browser.value("document.getElementById('theme-dark').click()");
    let dark = browser.value(paper);
    assert_ne!(light, dark);
    browser.go(&site.address("/runs/1"));
    assert_eq!(browser.value(paper), dark, "the next page has it, too");
    browser.value("document.getElementById('theme-light').click()");
    browser.prefer("dark");
    assert_eq!(browser.value(paper), light, "a choice counts for more than the system");
    browser.value("document.getElementById('theme-auto').click()");
    assert_eq!(browser.value(paper), dark);
    browser.prefer("light");
    assert_eq!(browser.value(paper), light);
}

fn the_list_is_used_by_keyboard(browser: &mut Chromium, site: &Server) {
    let numbers = "[...document.querySelectorAll('#rows th')].map((one) => one.textContent)";
    browser.go(&site.address("/"));
    assert_eq!(browser.value(numbers), json!(["#3", "#2", "#1"]));
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.className"), "skip");
    let outline = "getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.value(outline), "solid", "the focus is seen");
    browser.press("Enter");
    browser.press("Tab");
    assert_eq!(browser.value("document.activeElement.id"), "text", "navigation was skipped");
    browser.write("STRICT");
    browser.press("Enter");
    browser.wait_for_load();
    assert_eq!(browser.value(numbers), json!(["#3"]));

    browser.go(&site.address("/?state=done"));
    assert_eq!(browser.value(numbers), json!(["#2", "#1"]));
    focus(browser, "thead [aria-sort] a");
    browser.press("Enter");
    browser.wait_for_load();
    assert_eq!(browser.value(numbers), json!(["#1", "#2"]));
    let sorted = "document.querySelector('[aria-sort]').getAttribute('aria-sort')";
    assert_eq!(browser.value(sorted), "ascending");

    assert_eq!(browser.value("document.querySelector('#compare button').disabled"), true);
    for run in [1, 2] {
        focus(browser, &format!("#rows input[value='{run}']"));
        browser.press(" ");
    }
    assert_eq!(
        browser.value("document.querySelector('#compare button').textContent"),
        "Compare 2 runs"
    );
    focus(browser, "#compare button");
    browser.press("Enter");
    browser.wait_for_load();
    assert_eq!(browser.value("location.search"), "?run=1&run=2");
    let settings =
        "[...document.querySelectorAll('#comparison td.mono')].map((one) => one.textContent)";
    let settings = browser.value(settings);
    assert!(settings.as_array().is_some_and(|all| all.contains(&json!("epochs"))), "{settings}");
}

fn tables_are_sorted_by_keyboard(browser: &mut Chromium, site: &Server) {
    browser.go(&site.address("/runs/1"));
    let table = "document.querySelector('#measurements-1 table')";
    let names = format!("[...{table}.tBodies[0].rows].map((row) => row.cells[0].textContent)");
    let unsorted = browser.value(&names);
    focus(browser, "#measurements-1 thead th:first-child button");
    browser.press("Enter");
    let up = browser.value(&names);
    let mut expected: Vec<String> = serde_json::from_value(unsorted).expect("names");
    expected.sort();
    assert_eq!(up, json!(expected));
    browser.press(" ");
    expected.reverse();
    assert_eq!(browser.value(&names), json!(expected));
    let sorted = format!("{table}.querySelector('[aria-sort]').getAttribute('aria-sort')");
    assert_eq!(browser.value(&sorted), "descending");
    // Numbers go by what they mean, not by their digits.
    let texts = ["5 min 15 s", "22.6 M", "−0.9 pt", "1,749", "8.20 MB", "3 ms", "4 heads", "x"];
    let meant = [Some(315.0), Some(22.6e6), Some(-0.9), Some(1749.0), Some(8.2e6), Some(0.003)];
    let read = browser.value(&format!("{}.map((text) => amount(text))", json!(texts)));
    let read: Vec<Option<f64>> = serde_json::from_value(read).expect("numbers");
    for (index, expected) in meant.into_iter().chain([Some(4.0), None]).enumerate() {
        // The last digit may be off where a decimal is scaled.
        let close = |found: f64, expected: f64| (found - expected).abs() <= 1e-9 * expected.abs();
        let fits = match (read[index], expected) {
            (Some(found), Some(expected)) => close(found, expected),
            (found, expected) => found == expected,
        };
        assert!(fits, "{}: {:?}", texts[index], read[index]);
    }
}

fn a_run_is_approved_and_its_package_promoted(browser: &mut Chromium, site: &Server) {
    browser.go(&site.address("/runs/1"));
    focus(browser, "#say summary");
    browser.press("Enter");
    assert_eq!(browser.value("document.getElementById('note-token').checkVisibility()"), false);
    focus(browser, "#say input[value=approved]");
    browser.press(" ");
    focus(browser, "#note-text");
    browser.write("fast <b>enough</b>");
    focus(browser, "#say button");
    browser.press("Enter");
    browser.wait_for_load();
    let note = browser.value("document.querySelector('#notes-1').innerText");
    let note = note.as_str().expect("a note");
    assert!(note.contains("approved") && note.contains("fast <b>enough</b>"), "{note}");

    focus(browser, ".promotion summary");
    browser.press("Enter");
    assert_eq!(browser.value("document.getElementById('service-1').value"), "small");
    focus(browser, ".promotion button");
    browser.press("Enter");
    browser.wait_for_load();
    let notes =
        browser.value("document.querySelector('#notes-1')?.innerText ?? document.body.innerText");
    assert!(notes.as_str().is_some_and(|text| text.contains("version 1 is live")), "{notes}");
    let live = site.path("model-repository/small/live/package.toml");
    assert!(live.exists(), "the package is in the repository");
    site.keep(browser, "run-noted");
    browser.go(&site.address("/?text=enough"));
    assert_eq!(
        browser.value("document.querySelector('#rows .badge.approved').textContent"),
        "approved"
    );
}

fn another_process_is_followed(browser: &mut Chromium, site: &Server) {
    browser.go(&site.address("/"));
    focus(browser, "#run-2");
    let mut run = site.start_long_run();
    browser.wait("document.querySelector('#rows th').textContent === '#4'");
    browser.wait("document.querySelector('#rows .badge').textContent === 'running'");
    assert_eq!(browser.value("document.activeElement.id"), "run-2", "the focus stays");

    browser.go(&site.address("/runs/4"));
    browser.wait("document.querySelector('#panel progress')?.value > 0");
    browser.wait("document.getElementById('status').textContent.includes('running teacher')");
    let step = "Number(/step (\\d+) of/.exec(document.getElementById('panel').innerText)?.[1])";
    let first = browser.value(step).as_f64().expect("a step");
    browser.wait(&format!("{step} > {first}"));
    for theme in ["light", "dark"] {
        browser.prefer(theme);
        assert_eq!(browser.value(STRUCTURE), json!([]), "{theme}");
        assert_eq!(browser.value(CONTRAST), json!([]), "{theme}");
        site.keep(browser, &format!("live-{theme}"));
    }
    browser.prefer("light");
    browser.value("document.getElementById('say').open = true; document.getElementById('note-text').value = 'draft'");
    server::interrupt(&run);
    browser
        .wait("document.getElementById('status').textContent === 'The run has ended: interrupted'");
    browser.wait("document.querySelector('h1 .badge').textContent === 'interrupted'");
    assert_eq!(browser.value("document.getElementById('note-text').value"), "draft");
    assert!(run.wait().expect("it ends").success());
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

fn reading_works_without_scripts(browser: &mut Chromium, site: &Server) {
    browser.allow_scripts(false);
    browser.go(&site.address("/?state=failed"));
    let text = |browser: &mut Chromium| {
        let text = browser.value("document.body.innerText");
        text.as_str().expect("a page").to_owned()
    };
    assert!(text(browser).contains("#3") && !text(browser).contains("#1"));
    assert_eq!(browser.value("document.querySelector('#compare button').disabled"), false);
    focus(browser, "thead th a");
    browser.press("Enter");
    browser.wait_for_load();
    assert!(text(browser).contains("#3"));
    browser.go(&site.address("/runs/1"));
    assert!(text(browser).contains("Measurements"));
    assert_eq!(browser.value("document.getElementById('note-token').closest('p').hidden"), false);
    browser.go(&site.address("/runs/1/logs/teacher"));
    assert!(text(browser).len() > 200);
    browser.allow_scripts(true);
}

fn focus(browser: &mut Chromium, selector: &str) {
    let focused = format!(
        "(() => {{ const one = document.querySelector({selector:?}); one.focus(); return document.activeElement === one; }})()"
    );
    assert_eq!(browser.value(&focused), true, "{selector} takes the focus");
}
