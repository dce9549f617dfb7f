//! Notes and promotion, and who may not.

use axum::http::header;

use crate::Test;
use crate::project::Site;

pub(crate) const TESTS: &[Test] = &[
    ("notes_are_stored_and_shown", notes_are_stored_and_shown),
    ("a_package_is_promoted_and_that_is_noted", a_package_is_promoted_and_that_is_noted),
    ("nobody_writes_without_the_token_or_from_elsewhere", nobody_writes_from_elsewhere),
];

fn notes_are_stored_and_shown() {
    let site = Site::with_runs();
    let answer = site.post("/runs/1/notes", "author=Ann&verdict=&text=one%0D%0Atwo");
    assert_eq!((answer.status, answer.location()), (303, "/runs/1#note-1"));
    let answer = site.post("/runs/latest/notes", "author=Ben&verdict=rejected");
    assert_eq!(answer.location(), "/runs/3#note-2");
    assert!(site.page("/runs/1").contains("one\ntwo"));
    assert!(site.page("/runs/3").contains("badge rejected"));
    assert!(site.page("/runs/1/report.json").contains("\"text\": \"one\\ntwo\""));
    assert!(site.page("/runs/1/report.md").contains("Ann"));
    let cases = [
        ("/runs/1/notes", "author=Ann", 400, "found neither"),
        ("/runs/1/notes", "author=&text=x", 400, "the name of the author"),
        ("/runs/1/notes", "author=Ann&verdict=maybe", 400, "`maybe`"),
        ("/runs/1/notes", "text=x", 422, "author"),
        ("/runs/9/notes", "author=Ann&text=x", 404, "there is no run 9"),
    ];
    for (address, form, status, hint) in cases {
        let answer = site.post(address, form);
        assert_eq!(answer.status, status, "{form}: {}", answer.body);
        assert!(answer.body.contains(hint), "{form}: {}", answer.body);
    }
    let long = format!("author=Ann&text={}", "x".repeat(10_001));
    assert_eq!(site.post("/runs/1/notes", &long).status, 400);
    let longer = format!("author=Ann&text={}", "x".repeat(300_000));
    assert_eq!(site.post("/runs/1/notes", &longer).status, 413);
}

fn a_package_is_promoted_and_that_is_noted() {
    let site = Site::with_runs();
    let form = "author=Ann&stage=pack&port=package&service=reviews";
    let answer = site.post("/runs/1/promote", form);
    assert_eq!((answer.status, answer.location()), (303, "/runs/1#note-1"), "{}", answer.body);
    let promoted = site.promoted.lock().unwrap().clone();
    assert_eq!(promoted.len(), 1);
    assert_eq!(promoted[0].repository, site.path("repository"));
    assert_eq!(std::fs::read_to_string(promoted[0].package.join("package.toml")).unwrap(), "a");
    assert!(site.page("/runs/1").contains("promoted pack.package to service reviews"));

    let cases = [
        (1, "stage=pack&port=package&service=broken", 409, "the self-test failed"),
        (1, "stage=pack&port=model&service=x", 404, "no finished package `pack.model`"),
        (1, "stage=nothing&port=package&service=x", 404, "no finished package"),
        (2, "stage=pack&port=package&service=x", 404, "no finished package"),
    ];
    for (run, form, status, hint) in cases {
        let answer = site.post(&format!("/runs/{run}/promote"), &format!("author=Ann&{form}"));
        assert_eq!(answer.status, status, "{form}: {}", answer.body);
        assert!(answer.body.contains(hint), "{form}: {}", answer.body);
    }
    site.post("/runs/1/notes", "author=Ben&verdict=rejected");
    let answer = site.post("/runs/1/promote", form);
    assert_eq!(answer.status, 409);
    assert!(answer.body.contains("Ben rejected run 1"), "{}", answer.body);
    site.post("/runs/1/notes", "author=Ben&verdict=approved");
    assert_eq!(site.post("/runs/1/promote", form).status, 303);

    // A package that was collected cannot go live.
    let trees = site.path(".pipeline/trees");
    std::fs::rename(&trees, site.path("moved")).unwrap();
    assert_eq!(site.post("/runs/1/promote", form).status, 409);
    assert!(site.page("/runs/1").contains("no longer in the store"));
    assert_eq!(site.promoted.lock().unwrap().len(), 2);
}

fn nobody_writes_from_elsewhere() {
    let site = Site::with_runs();
    let token = site.token.text().to_owned();
    let note = format!("author=Ann&text=x&token={token}");
    let promotion = "author=Ann&stage=pack&port=package&service=x";
    for (address, form) in [
        ("/runs/1/notes", "author=Ann&text=x".to_owned()),
        ("/runs/1/notes", "author=Ann&text=x&token=".to_owned()),
        ("/runs/1/notes", format!("author=Ann&text=x&token={}", &token[1..])),
        ("/runs/1/promote", promotion.to_owned()),
    ] {
        let answer = site.ask(site.form(address, form.as_str()));
        assert_eq!(answer.status, 403, "{form}");
        assert!(answer.body.contains("expected the write token"), "{}", answer.body);
    }
    for (name, value) in [
        (header::ORIGIN, "http://evil.example"),
        (header::ORIGIN, "null"),
        (header::ORIGIN, "http://localhost:4321"),
        (header::HOST, "evil.example:4321"),
    ] {
        let mut request = site.form("/runs/1/notes", note.as_str());
        request.headers_mut().insert(name.clone(), value.parse().unwrap());
        let answer = site.ask(request);
        assert!(matches!(answer.status, 403 | 421), "{name}: {value}: {}", answer.status);
    }
    let mut request = site.form("/runs/1/notes", note.as_str());
    request.headers_mut().remove(header::ORIGIN);
    request.headers_mut().insert("sec-fetch-site", "cross-site".parse().unwrap());
    assert_eq!(site.ask(request).status, 403);
    assert!(!site.page("/runs/1").contains("id=\"note-1\""), "nothing was stored");
    assert!(site.promoted.lock().unwrap().is_empty());

    // A program says the token in a header.
    let mut request = site.form("/runs/1/notes", "author=Ann&text=x");
    request.headers_mut().remove(header::ORIGIN);
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    assert_eq!(site.ask(request).status, 303);
}
