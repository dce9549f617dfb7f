//! Bundles: what goes in comes out, what was changed is named, what is hostile is refused.

mod fixture;

use std::collections::BTreeMap;
use std::io::Read as _;

use engine::history::RunRecord;
use reports::{BundleError, Inspections, Replay, bundle, verify};

type Entries = Vec<(String, Vec<u8>)>;

fn packed() -> (Vec<u8>, RunRecord, Inspections) {
    let (run, digest, text) = fixture::inspected();
    let mut inspections = Inspections::default();
    inspections.insert(digest, text);
    (bundle(&run, &inspections).expect("made up to be sound"), run, inspections)
}

fn entries(bundle: &[u8]) -> Entries {
    let tar = zstd::decode_all(bundle).expect("made up to be sound");
    let mut archive = tar::Archive::new(tar.as_slice());
    let read = |entry: std::io::Result<tar::Entry<'_, &[u8]>>| {
        let mut entry = entry.expect("made up to be sound");
        let name = String::from_utf8(entry.path_bytes().into_owned()).expect("made up to be sound");
        let mut content = Vec::new();
        entry.read_to_end(&mut content).expect("made up to be sound");
        (name, content)
    };
    archive.entries().expect("made up to be sound").map(read).collect()
}

/// Packs as a stranger would.
fn pack(entries: &[(&str, &[u8], tar::EntryType)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content, kind) in entries {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_entry_type(*kind);
        if *kind == tar::EntryType::Symlink {
            header.set_link_name("/etc/passwd").expect("made up to be sound");
        }
        // Names that `set_path` refuses.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).expect("made up to be sound");
    }
    zstd::encode_all(builder.into_inner().expect("made up to be sound").as_slice(), 3)
        .expect("made up to be sound")
}

fn repack(entries: &Entries) -> Vec<u8> {
    let list: Vec<_> = entries
        .iter()
        .map(|(name, content)| (name.as_str(), content.as_slice(), tar::EntryType::Regular))
        .collect();
    pack(&list)
}

#[test]
fn a_bundle_replays_and_is_the_same_twice() {
    let (first, run, inspections) = packed();
    assert_eq!(first, bundle(&run, &inspections).unwrap());
    let verified = verify(&first).unwrap();
    assert_eq!((verified.run, verified.replay), (12, Replay::Same));
    let names: Vec<String> = entries(&first).into_iter().map(|(name, _)| name).collect();
    let expected = ["digests", "lock.json", "manifest.toml", "record.json", "report.html"];
    assert_eq!(verified.entries, expected.len());
    assert_eq!(names[0], "digests");
    assert!(names[1].starts_with("inspections/"));
    assert_eq!(names[2..], expected[1..]);
}

#[test]
fn every_kind_of_run_can_be_bundled() {
    let runs = [fixture::done(), fixture::failed(), fixture::running(), fixture::hostile()];
    for run in runs {
        let packed = bundle(&run, &Inspections::default()).unwrap();
        assert_eq!(verify(&packed).unwrap().replay, Replay::Same);
    }
}

#[test]
fn paths_of_the_machine_stay_at_home() {
    let mut run = fixture::done();
    run.stages[0].log_path = Some("/home/someone/log".into());
    run.stages[0].artifacts[0].path = Some("/home/someone/store".into());
    let packed = bundle(&run, &Inspections::default()).unwrap();
    for (name, content) in entries(&packed) {
        assert!(!String::from_utf8_lossy(&content).contains("/home/someone"), "{name}");
    }
}

#[test]
fn a_flipped_byte_names_its_file() {
    let entries = entries(&packed().0);
    for index in 0..entries.len() {
        let mut changed = entries.clone();
        let (name, content) = &mut changed[index];
        let (name, middle) = (name.clone(), content.len() / 2);
        content[middle] ^= 1;
        let error = verify(&repack(&changed)).unwrap_err();
        let BundleError::Damaged { what } = &error else { panic!("{name}: {error}") };
        assert!(what.contains(name.as_str()), "{name}: {what}");
    }
}

#[test]
fn no_byte_of_a_bundle_can_change_unseen() {
    let (packed, ..) = packed();
    let original = zstd::decode_all(packed.as_slice()).unwrap();
    for at in (0..packed.len()).step_by(packed.len() / 97) {
        let mut changed = packed.clone();
        changed[at] ^= 0x10;
        // A few bits of a zstd frame mean nothing; then what comes out is the same.
        let means_nothing =
            || zstd::decode_all(changed.as_slice()).is_ok_and(|tar| tar == original);
        assert!(verify(&changed).is_err() || means_nothing(), "byte {at}");
    }
    for at in (0..original.len()).step_by(original.len() / 61) {
        let mut changed = original.clone();
        changed[at] ^= 0x10;
        let archive = zstd::encode_all(changed.as_slice(), 3).unwrap();
        assert!(verify(&archive).is_err(), "byte {at} of the archive");
    }
    for length in [0, 3, 40, packed.len() / 2, packed.len() - 1] {
        assert!(verify(&packed[..length]).is_err(), "cut to {length}");
    }
}

#[test]
fn what_the_report_does_not_follow_from_is_damage() {
    let mut changed: BTreeMap<String, Vec<u8>> = entries(&packed().0).into_iter().collect();
    let report = changed.get_mut("report.html").unwrap();
    *report = String::from_utf8_lossy(report).replace("84.7 %", "94.7 %").into_bytes();
    // A forger makes the digests fit.
    let digests = changed
        .iter()
        .filter(|(name, _)| *name != "digests")
        .map(|(name, content)| format!("{}  {name}\n", blake3::hash(content).to_hex()))
        .collect::<String>();
    changed.insert("digests".to_owned(), digests.into_bytes());
    let error = verify(&repack(&changed.into_iter().collect())).unwrap_err();
    assert!(
        error.to_string().contains("`report.html` does not follow from `record.json`"),
        "{error}"
    );
}

#[test]
fn hostile_archives_are_refused() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};

    let check = |archive: &[u8], expected: &str| {
        let error = verify(archive).unwrap_err();
        assert!(matches!(error, BundleError::Refused { .. }), "{error}");
        assert!(error.to_string().contains(expected), "{error}");
    };
    check(b"PK\x03\x04", "does not begin as a zstd file");
    check(&pack(&[("../../etc/cron.d/x", b"x", Regular)]), "../../etc/cron.d/x");
    check(&pack(&[("/etc/passwd", b"x", Regular)]), "/etc/passwd");
    check(&pack(&[("inspections/../digests", b"x", Regular)]), "inspections/../digests");
    check(&pack(&[("report.html", b"", Symlink)]), "no plain file");
    check(&pack(&[("report.html", b"", Link)]), "no plain file");
    check(&pack(&[("report.html", b"", Directory)]), "no plain file");
    check(&pack(&[("report.html", b"a", Regular), ("report.html", b"b", Regular)]), "twice");
    check(&pack(&[("report.html", b"a", Regular)]), "`digests` is missing");
    // A pax header could rename or resize what follows.
    check(
        &pack(&[("report.html", b"20 path=../../x\n", tar::EntryType::XHeader)]),
        "no plain file",
    );
}

#[test]
fn a_bomb_does_not_fill_the_memory() {
    let zeros = zstd::encode_all(std::io::repeat(0).take((512 << 20) + 4096), 1).unwrap();
    let error = verify(&zeros).unwrap_err();
    assert!(error.to_string().contains("when decompressed"), "{error}");
}
