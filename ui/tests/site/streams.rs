//! What a run of another process is doing, while it does it.

use crate::Test;
use crate::project::Site;
use crate::toys::SCRIPT;

pub(crate) const TESTS: &[Test] = &[
    ("a_run_is_followed_to_its_end", a_run_is_followed_to_its_end),
    ("the_list_follows_what_happens", the_list_follows_what_happens),
];

fn a_run_is_followed_to_its_end() {
    let site = Site::new();
    site.manifest("held", "content = \"a\", holds = true");
    let running = site.run_held("held");
    let page = site.page("/runs/1");
    for part in ["data-run=\"/live/runs/1\"", "of 100000 · loss 0.5000", "waiting &lt;i&gt;here"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(page.contains("packs &lt;") && !page.contains(SCRIPT), "{page}");
    assert!(page.contains("<progress max=\"100000\""), "{page}");
    assert!(site.page("/runs/1/logs/pack").contains("data-log=\"/live/runs/1/logs/pack?from="));

    let hold = site.path("hold");
    let events = site.events("/live/runs/1", "over", || std::fs::remove_file(hold).unwrap());
    let of = |name: &str| events.iter().filter(|event| event.name == name).collect::<Vec<_>>();
    assert!(of("panel")[0].data.contains("<progress"), "{events:?}");
    assert_eq!(of("status")[0].data, "0 stages ended, running pack");
    assert_eq!(of("status").last().unwrap().data, "The run has ended: done");
    assert!(!of("stages").is_empty());
    running.join().unwrap();

    let log = site.events("/live/runs/1/logs/pack?from=0", "over", || ());
    assert!(log[0].name == "lines" && log[0].data.contains(SCRIPT), "{log:?}");
    let page = site.page("/runs/1");
    assert!(!page.contains("data-run") && !page.contains("<progress"), "{page}");
    assert!(!site.path(".pipeline/logs/1/progress.json").exists());
}

fn the_list_follows_what_happens() {
    let site = Site::with_runs();
    let home = site.path(".pipeline");
    let note = engine::history::NewNote::new("Ann", None, "x").unwrap();
    let events = site.events("/live/runs?manifest=second", "rows", || ());
    assert!(events[0].data.contains("/runs/3") && !events[0].data.contains("/runs/1\""));
    // What another process writes shows up; the stream of all runs has it in its second event.
    let history = engine::history::History::open(&home).unwrap();
    history.add_note(1, &note).unwrap();
    let events = site.events("/live/runs", "rows", || ());
    assert!(events[0].data.contains("1 note"), "{events:?}");
}
