//! Pages to read.

use axum::body::Body;
use axum::http::{Request, header};

use crate::Test;
use crate::project::Site;
use crate::toys::SCRIPT;

pub(crate) const TESTS: &[Test] = &[
    ("an_empty_project_says_what_to_do", an_empty_project_says_what_to_do),
    ("the_list_filters_sorts_and_pages", the_list_filters_sorts_and_pages),
    ("wrong_addresses_say_what_is_right", wrong_addresses_say_what_is_right),
    ("every_page_of_a_run_is_there_and_escaped", every_page_of_a_run_is_there_and_escaped),
    ("a_sweep_leads_to_the_runs_of_its_trials", a_sweep_leads_to_the_runs_of_its_trials),
    ("only_requests_for_this_server_are_answered", only_requests_for_this_server_are_answered),
];

fn an_empty_project_says_what_to_do() {
    let site = Site::new();
    assert!(site.page("/").contains("pipeline run MANIFEST"));
    assert_eq!(site.get("/runs/latest").status, 404);
    // The first run shows up without a restart.
    site.manifest("first", "content = \"a\"");
    site.run("first", &[]);
    assert!(site.page("/").contains("#1</a>"));
}

fn the_list_filters_sorts_and_pages() {
    let site = Site::with_runs();
    let listed = |query: &str| -> Vec<u32> {
        let page = site.page(&format!("/?{query}"));
        page.split("href=\"/runs/")
            .skip(2)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect()
    };
    let check = |query: &str, expected: &[u32]| assert_eq!(listed(query), expected, "{query}");
    check("", &[3, 2, 1]);
    check("order=ascending", &[1, 2, 3]);
    check("sort=manifest&order=ascending", &[1, 2, 3]);
    check("sort=manifest", &[3, 2, 1]);
    check("manifest=first", &[2, 1]);
    check("state=failed", &[2]);
    check("state=running", &[]);
    check("state=done&manifest=first", &[1]);
    check("text=SECOND.toml", &[3]);
    check("text=%23%32", &[2]);
    check("text=alert(", &[2]);
    check("text=%25", &[]);
    check("since=2020-01-01", &[3, 2, 1]);
    check("until=2020-01-01", &[]);
    check("page=2", &[]);
    assert_eq!(listed("sort=duration").len(), 3);
    site.post("/runs/1/notes", "author=Ben&verdict=approved&text=ship+it");
    check("text=ship+IT", &[1]);
    assert!(site.page("/?state=running").contains("No run fits these filters."));
    let page = site.page("/?sort=manifest&order=ascending&state=done");
    assert!(page.contains("<option selected>done</option>"));
    assert!(page.contains("aria-sort=\"ascending\""));
    assert!(page.contains("<span class=\"badge approved\">approved</span> 1 note"));
}

fn wrong_addresses_say_what_is_right() {
    let site = Site::with_runs();
    let cases = [
        ("/nowhere", 404, "no page at this address"),
        ("/runs/99", 404, "there is no run 99"),
        ("/runs/x", 404, "expected a number or `latest`"),
        ("/runs/99/report.md", 404, "there is no run 99"),
        ("/runs/1/logs/nothing", 404, "run 1 has no stage `nothing`"),
        ("/runs/2/logs/service", 404, "never ran"),
        ("/live/runs/99", 404, "there is no run 99"),
        ("/live/runs/1/logs/pack?from=x", 400, "the address is wrong"),
        ("/live/runs?state=dead", 400, "running, done, failed, interrupted"),
        ("/?state=dead", 400, "running, done, failed, interrupted"),
        ("/?sort=colour", 400, "id, manifest, duration"),
        ("/?order=up", 400, "ascending, descending"),
        ("/?since=tomorrow", 400, "a day such as"),
        ("/?page=0", 400, "a page from 1"),
        ("/?page=99999999999999999999", 400, "a page from 1"),
        ("/compare", 400, "found 0"),
        ("/compare?run=1", 400, "found 1"),
        ("/compare?run=1&run=1", 400, "found 1"),
        ("/compare?run=1&run=99", 404, "there is no run 99"),
    ];
    for (address, status, hint) in cases {
        let answer = site.get(address);
        let message = &answer.body;
        assert_eq!(answer.status, status, "{address}: {message}");
        assert!(message.contains(hint), "{address}: {message}");
        assert!(message.contains("<h1>"), "{address} is no page");
    }
    assert_eq!(site.get("/runs/1/notes").status, 405);
}

fn every_page_of_a_run_is_there_and_escaped() {
    let site = Site::with_runs();
    let note = format!("author={}&text={}", "%3Cb%3E", "%3Cscript%3Ealert(1)%3C/script%3E");
    assert_eq!(site.post("/runs/2/notes", &note).status, 303);
    let pages = [
        "/",
        "/runs/1",
        "/runs/2",
        "/runs/latest",
        "/runs/2/logs/pack",
        "/compare?run=1&run=2",
        "/?text=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
        "/runs/%3Cscript%3Ealert(1)",
        "/runs/2/report.html",
    ];
    for address in pages {
        let page = site.get(address).body;
        assert!(!page.contains(SCRIPT) && !page.contains("<script>"), "{address}: {page}");
        assert!(page.contains("<html lang=\"en\">"), "{address}");
    }
    let page = site.page("/runs/1");
    for part in ["Promote pack.package", "value=\"reviews\"", "value=\"Ann\"", "/runs/1/logs/pack"]
    {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains(site.token.text()), "no page tells the token");
    assert!(!site.page("/runs/2").contains("Promote"), "a failed stage has nothing to promote");
    assert!(site.page("/runs/2").contains("alert(1)"));
    let text = site.page("/runs/2/logs/pack/text");
    assert!(text.contains(SCRIPT), "{text}");
    let markdown = site.get("/runs/1/report.md");
    let disposition = markdown.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
    assert_eq!(disposition, "attachment; filename=\"run-1.md\"");
    assert!(site.page("/runs/1/report.json").contains("\"schema\": 1"));
    assert!(site.page("/style.css").contains("--paper"));
    assert!(site.page("/ui.js").contains("EventSource"));
}

fn a_sweep_leads_to_the_runs_of_its_trials() {
    let site = Site::new();
    assert!(site.page("/sweeps").contains("pipeline sweep MANIFEST"));
    site.sweep();
    let list = site.page("/sweeps");
    for part in ["href=\"/sweeps/1\"", "tries.toml", "2 of 2", "<span class=\"badge done\">"] {
        assert!(list.contains(part), "{part}: {list}");
    }
    let page = site.page("/sweeps/1");
    for part in ["href=\"/runs/1\"", "href=\"/compare?run=1&amp;run=2\"", "Best trials", "2.00 M"] {
        assert!(page.contains(part), "{part}: {page}");
    }
    assert!(!page.contains("data-run"), "it is over");
    assert_eq!(page.matches("<main").count(), 1, "a report in the frame of the pages");
    assert!(site.page("/compare?run=1&run=2").contains("2 seeds"));
    for (ending, part) in [("html", "<!DOCTYPE"), ("md", "# "), ("json", "{"), ("csv", "trial,")] {
        let answer = site.get(&format!("/sweeps/1/report.{ending}"));
        assert!(answer.body.contains(part), "{ending}: {}", answer.body);
        let disposition = answer.headers[header::CONTENT_DISPOSITION].to_str().unwrap();
        assert_eq!(disposition, format!("attachment; filename=\"sweep-1.{ending}\""));
    }
    let events = site.events("/live/sweeps/1", "over", || ());
    assert_eq!(events[0].data, "The sweep has ended: done");
    let events = site.events("/live/sweeps", "rows", || ());
    assert!(events[0].data.contains("/sweeps/1"), "{events:?}");
    for (address, hint) in [("/sweeps/9", "no sweep 9"), ("/sweeps/x", "number of a sweep")] {
        let answer = site.get(address);
        assert!(answer.status == 404 && answer.body.contains(hint), "{}", answer.body);
    }
}

fn only_requests_for_this_server_are_answered() {
    let site = Site::with_runs();
    let ask = |host: Option<&str>| {
        let mut request = Request::get("/").body(Body::empty()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host.parse().unwrap());
        }
        site.ask(request)
    };
    assert_eq!(ask(Some("localhost:4321")).status, 200);
    for host in [None, Some("evil.example"), Some("evil.example:4321"), Some("127.0.0.1:80")] {
        let answer = ask(host);
        assert_eq!(answer.status, 421, "{host:?}");
        assert!(!answer.body.contains("first.toml"), "{host:?}");
    }
    for address in ["/", "/runs/1", "/style.css", "/nowhere"] {
        let headers = site.get(address).headers;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("script-src 'self';"), "{address}: {policy}");
        assert_eq!(headers["x-content-type-options"], "nosniff", "{address}");
        assert_eq!(headers["cache-control"], "no-store", "{address}");
    }
}
