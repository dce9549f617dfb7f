use std::collections::BTreeSet;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

fn source(name: &str) -> Source {
    Source {
        path: PathBuf::from(name),
        text: "text".to_owned(),
        label: "label".to_owned(),
        labels: vec!["good".to_owned(), "bad".to_owned()],
        split: None,
        validation: 0.2,
        test: Some(0.25),
        group: None,
        limit: None,
    }
}

fn declared() -> Source {
    Source { split: Some("split".to_owned()), test: None, ..source("rows.tsv") }
}

fn rows(n_rows: usize) -> String {
    let row =
        |index: usize| format!("text {index}\t{}\tg{}\n", ["good", "bad"][index % 2], index / 5);
    format!("text\tlabel\tgroup\n{}", (0..n_rows).map(row).collect::<String>())
}

fn load(content: impl AsRef<[u8]>, source: &Source) -> Dataset {
    Dataset::from_bytes(content.as_ref(), source).unwrap()
}

fn texts(rows: &[Row]) -> BTreeSet<&str> {
    rows.iter().map(|row| row.text.as_str()).collect()
}

/// Lines of the error that `content` gives.
fn errors(content: impl AsRef<[u8]>, source: &Source) -> Vec<String> {
    let error = Dataset::from_bytes(content.as_ref(), source).unwrap_err();
    error.to_string().lines().map(str::to_owned).collect()
}

#[test]
fn splits_have_exact_sizes_and_no_common_rows() {
    let dataset = load(rows(200), &source("rows.tsv"));
    assert_eq!((dataset.train.len(), dataset.validation.len(), dataset.test.len()), (120, 30, 50));
    let mut all = texts(&dataset.train);
    all.extend(texts(&dataset.validation));
    all.extend(texts(&dataset.test));
    assert_eq!(all.len(), 200);
    let counts = dataset.counts();
    assert_eq!(counts.train.iter().sum::<usize>(), 120);
    assert_eq!(counts.train[0] + counts.validation[0] + counts.test[0], 100);
}

#[test]
fn splits_depend_on_the_rows_and_not_on_their_order() {
    let content = rows(100);
    let mut lines: Vec<&str> = content.lines().collect();
    lines[1..].reverse();
    let one = load(&content, &source("rows.tsv"));
    let other = load(lines.join("\n"), &source("rows.tsv"));
    assert_eq!(texts(&one.validation), texts(&other.validation));
    assert_eq!(texts(&one.test), texts(&other.test));
}

#[test]
fn a_draw_has_the_lowest_hashes() {
    let dataset = load(rows(50), &source("rows.tsv"));
    let hash = |row: &Row| *blake3::hash(row.text.as_bytes()).as_bytes();
    let highest_test = dataset.test.iter().map(hash).max().unwrap();
    let lowest_other = dataset.train.iter().chain(&dataset.validation).map(hash).min().unwrap();
    assert!(highest_test < lowest_other);
}

#[test]
fn groups_and_equal_texts_stay_together() {
    let mut content = rows(200);
    for index in 0..40 {
        content.push_str(&format!("text {}\tgood\tother{index}\n", index * 5));
    }
    let source = Source { group: Some("group".to_owned()), ..source("rows.tsv") };
    let dataset = load(&content, &source);
    let part = |text: &str| {
        [&dataset.train, &dataset.validation, &dataset.test]
            .iter()
            .position(|rows| texts(rows).contains(text))
            .unwrap()
    };
    for index in 0..200 {
        assert_eq!(part(&format!("text {index}")), part(&format!("text {}", index / 5 * 5)));
    }
    assert_eq!(dataset.test.len() % 6, 0, "a group of five and the text it shares");
    let both = texts(&dataset.test).intersection(&texts(&dataset.train)).count();
    assert_eq!(both, 0);
}

#[test]
fn limit_keeps_whole_validation_and_test() {
    let all = load(rows(200), &source("rows.tsv"));
    let few = load(rows(200), &Source { limit: Some(7), ..source("rows.tsv") });
    assert_eq!(few.train.len(), 7);
    assert_eq!((&few.validation, &few.test), (&all.validation, &all.test));
    assert!(texts(&few.train).is_subset(&texts(&all.train)));
}

#[test]
fn a_split_column_decides_on_test_rows() {
    let row =
        |index: usize| format!("t{index}\tgood\t{}\n", if index < 10 { "test" } else { "train" });
    let content = format!("text\tlabel\tsplit\n{}", (0..30).map(row).collect::<String>());
    let dataset = load(content, &declared());
    assert_eq!(
        dataset.test.iter().map(|row| row.text.as_str()).collect::<Vec<_>>(),
        (0..10).map(|index| format!("t{index}")).collect::<Vec<_>>()
    );
    assert_eq!((dataset.train.len(), dataset.validation.len()), (16, 4));
}

#[test]
fn gzip_crlf_and_byte_order_mark_change_nothing() {
    let plain = load(rows(60), &source("rows.tsv"));
    let windows = format!("\u{feff}{}", rows(60).replace('\n', "\r\n"));
    assert_eq!(load(windows, &source("rows.tsv")), plain);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(rows(60).as_bytes()).unwrap();
    let packed = encoder.finish().unwrap();
    assert_eq!(load(&packed, &source("rows.tsv.gz")), plain);
    let cut = Dataset::from_bytes(&packed[..packed.len() / 2], &source("rows.tsv.gz")).unwrap_err();
    assert!(cut.to_string().starts_with("cannot read rows.tsv.gz: "), "{cut}");
}

#[test]
fn malformed_rows_are_listed_together() {
    let content = b"text\tlabel\tsplit\n\
        fine\tgood\ttrain\n\
        two columns\tgood\n\
        \tgood\ttrain\n\
        fine\tawful\tlater\n\
        nul\0\tgood\ttrain\n\
        caf\xe9\tgood\ttrain\n";
    assert_eq!(
        errors(content, &declared()),
        [
            "rows.tsv:3: expected 3 tab-separated columns as in the header, found 2",
            "rows.tsv:4: expected a text, found an empty one",
            "rows.tsv:5: expected one of the labels `bad`, `good`, found `awful`",
            "rows.tsv:5: expected the split `train` or `test`, found `later`",
            "rows.tsv:6: expected text, found a NUL character at byte 4 of the line",
            "rows.tsv:7: expected UTF-8, found byte 0xe9 at byte 4 of the line",
        ]
    );
}

#[test]
fn twenty_problems_are_listed_and_the_rest_counted() {
    let content = format!("text\tlabel\n{}", "x\tneither\n".repeat(33));
    let lines = errors(content, &source("rows.tsv"));
    assert_eq!((lines.len(), lines[20].as_str()), (21, "… and 13 more"));
}

#[test]
fn headers_are_checked() {
    let check = |content: &str, expected: &str| {
        assert_eq!(errors(content, &source("rows.tsv")), [expected])
    };
    check("", "rows.tsv:1: expected a header line, found an empty file");
    check(
        "text\tstars\nx\t1\n",
        "rows.tsv:1: expected a column `label` (`label`), found `text`, `stars`",
    );
    check("text\tlabel\ttext\n", "rows.tsv:1: expected one column `text` (`text`), found 2");
    check("text\tlabel\n", "rows.tsv:2: expected rows after the header, found none");
}

#[test]
fn declared_splits_may_not_overlap() {
    let content = "text\tlabel\tsplit\tgroup\n\
        same\tgood\ttrain\ta\n\
        other\tgood\ttrain\tb\n\
        same\tbad\ttest\tc\n\
        new\tbad\ttest\tb\n";
    let source = Source { group: Some("group".to_owned()), ..declared() };
    assert_eq!(
        errors(content, &source),
        [
            "rows.tsv:4: expected a text of one split only, found the text of line 2, which is in the other split",
            "rows.tsv:5: expected the group `b` in one split only, found line 3 of it in the other split",
        ]
    );
}

#[test]
fn contradicting_sources_are_refused() {
    let check = |source: Source, expected: &str| {
        let lines = errors(rows(20), &source);
        assert!(lines[0].contains(expected), "{lines:?}");
    };
    check(Source { labels: vec!["good".to_owned(); 2], ..source("x") }, "two different labels");
    check(Source { validation: f64::NAN, ..source("x") }, "`validation` between 0 and 1");
    check(Source { test: Some(1.0), ..source("x") }, "`test` between 0 and 1");
    check(Source { test: None, ..source("x") }, "exactly one of `split`");
    check(Source { limit: Some(0), ..source("x") }, "`limit` of at least 1");
    check(Source { validation: 0.001, ..source("x") }, "found none for validation");
}

#[test]
fn the_committed_reviews_load() {
    let source = Source {
        path: Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/finefoods.tsv.gz"),
        labels: vec!["other".to_owned(), "great".to_owned()],
        validation: 0.1,
        group: Some("product".to_owned()),
        ..declared()
    };
    let dataset = Dataset::load(&source).unwrap();
    let counts = dataset.counts();
    assert_eq!(counts.test, [338, 655]);
    assert_eq!(dataset.validation.len(), 398);
    assert_eq!(counts.train[0] + counts.validation[0], 1_395);
    assert_eq!(counts.train[1] + counts.validation[1], 2_584);
}
