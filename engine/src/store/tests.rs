use std::fs;
use std::os::unix::fs::symlink;

use proptest::prelude::*;

use super::*;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::create(folder.path()).unwrap();
    (folder, store)
}

fn write_tree(folder: &Path, files: &[(&str, &[u8])]) {
    for (name, content) in files {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
}

#[test]
fn equal_content_is_stored_once() {
    let (folder, store) = store();
    let source = folder.path().join("out");
    fs::write(&source, "hello").unwrap();
    let first = store.ingest(&source).unwrap();
    assert!(!source.exists());
    fs::write(&source, "hello").unwrap();
    assert_eq!(store.ingest(&source).unwrap(), first);
    write_tree(&source, &[("a", b"hello"), ("deep/b", b"hello"), ("c", b"")]);
    let tree = store.ingest(&source).unwrap();
    assert_eq!((tree.form, tree.size_bytes), (Form::Tree, 10));
    assert_eq!(fs::read(store.path(&tree).join("deep/b")).unwrap(), b"hello");
    store.verify(&tree).unwrap();
    let blobs = fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 2, "`hello` and the empty file");
    assert!(fs::metadata(store.path(&first)).unwrap().permissions().readonly());
}

#[test]
fn trees_differ_by_names_and_content() {
    let (folder, store) = store();
    let source = folder.path().join("out");
    let digest = |files: &[(&str, &[u8])]| {
        write_tree(&source, files);
        store.ingest(&source).unwrap().digest
    };
    let one = digest(&[("ab", b"c"), ("d", b"e")]);
    assert_eq!(one, digest(&[("d", b"e"), ("ab", b"c")]));
    assert_ne!(one, digest(&[("a", b"c"), ("d", b"e")]));
    assert_ne!(one, digest(&[("ab", b"e"), ("d", b"c")]));
}

#[test]
fn links_are_refused() {
    let (folder, store) = store();
    let source = folder.path().join("out");
    write_tree(&source, &[("a", b"x")]);
    symlink("/etc/passwd", source.join("link")).unwrap();
    let error = store.ingest(&source).unwrap_err().to_string();
    assert!(error.ends_with("it is a link or a special file; outputs consist of plain files and folders with UTF-8 names"), "{error}");
}

#[test]
fn every_damage_is_found() {
    let damage = |harm: fn(&Store, &Artifact)| {
        let (folder, store) = store();
        let source = folder.path().join("out");
        write_tree(&source, &[("a", b"one"), ("b", b"two")]);
        let tree = store.ingest(&source).unwrap();
        let mut action = Action::new(blake3::hash(b"key").into(), serde_json::json!({}), 1);
        action.outputs.insert("out".to_owned(), tree.clone());
        store.record(&action).unwrap();
        assert_eq!(store.verified_action(&action.key).unwrap(), Some(action.clone()));
        harm(&store, &tree);
        let found = store.verified_action(&action.key).unwrap_err();
        // Putting the same content in again heals everything.
        write_tree(&source, &[("a", b"one"), ("b", b"two")]);
        assert_eq!(store.ingest(&source).unwrap(), tree);
        assert_eq!(store.verified_action(&action.key).unwrap(), Some(action));
        found.reason
    };
    assert!(
        damage(|store, tree| fs::remove_file(store.listing(&tree.digest)).unwrap())
            .contains("No such file")
    );
    assert_eq!(
        damage(|store, tree| fs::remove_dir_all(store.path(tree)).unwrap()),
        "the folder does not hold the files of its listing"
    );
    assert_eq!(
        damage(|store, tree| fs::write(store.path(tree).join("extra"), "").unwrap()),
        "the folder does not hold the files of its listing"
    );
    assert_eq!(
        damage(|store, _| {
            let path = store.blob(&blake3::hash(b"one").into());
            fs::remove_file(&path).unwrap();
            fs::write(&path, "on").unwrap();
        }),
        "it has 2 bytes, expected 3"
    );
    assert!(
        damage(|store, _| {
            let path = store.blob(&blake3::hash(b"one").into());
            fs::remove_file(&path).unwrap();
            fs::write(&path, "eno").unwrap();
        })
        .starts_with("its content has digest ")
    );
    assert!(
        damage(|store, tree| fs::write(store.listing(&tree.digest), r#"{"entries":[]}"#).unwrap())
            .starts_with("its entries have digest ")
    );
}

#[test]
fn records_of_other_formats_count_as_absent() {
    let (_folder, store) = store();
    let action = Action::new(blake3::hash(b"key").into(), serde_json::json!({}), 1);
    store.record(&action).unwrap();
    assert!(store.action(&action.key).is_some());
    let path = store.action_path(&action.key);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    assert_eq!(store.action(&action.key), None);
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    assert_eq!(store.action(&action.key), None);
    store.forget(&action.key).unwrap();
    store.forget(&action.key).unwrap();
}

#[test]
fn collection_waits_for_runs() {
    let (_folder, store) = store();
    let LockAttempt::Taken(lock) = store.try_lock_in_use().unwrap() else {
        panic!("nobody collects");
    };
    let error = store.collect(CollectOptions::default()).unwrap_err().to_string();
    assert_eq!(error, "the state folder is in use by a run; try again when it has finished");
    drop(lock);
    store.collect(CollectOptions::default()).unwrap();
}

#[test]
fn size_limit_drops_the_least_recently_used() {
    let (folder, store) = store();
    let mut keys = Vec::new();
    for (age, content) in [(300, "aaaa"), (100, "bbbb"), (200, "cccc")] {
        let source = folder.path().join("out");
        fs::write(&source, content).unwrap();
        let mut action =
            Action::new(blake3::hash(content.as_bytes()).into(), serde_json::json!({}), 1);
        action.outputs.insert("out".to_owned(), store.ingest(&source).unwrap());
        store.record(&action).unwrap();
        let used = std::time::SystemTime::now() - std::time::Duration::from_secs(age);
        fs::File::open(store.action_path(&action.key)).unwrap().set_modified(used).unwrap();
        keys.push(action.key);
    }
    store.touch(&keys[0]);
    let options = CollectOptions { max_bytes: Some(9), ..CollectOptions::default() };
    let collected = store.collect(options).unwrap();
    assert_eq!((collected.actions, collected.freed_bytes, collected.kept_bytes), (1, 4, 8));
    let there: Vec<_> = keys.iter().map(|key| store.action(key).is_some()).collect();
    assert_eq!(there, [true, true, false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn trees_come_back_as_they_were(files in prop::collection::btree_map("[a-z]{1,4}(/[a-z]{5,8})?", prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
        let (folder, store) = store();
        let source = folder.path().join("out");
        fs::create_dir(&source).unwrap();
        let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        // A name can be a file or a folder, not both.
        let clash = |name: &str| files.iter().any(|(other, _)| other.starts_with(&format!("{name}/")));
        let files: Vec<_> = files.iter().copied().filter(|(name, _)| !clash(name)).collect();
        write_tree(&source, &files);
        let tree = store.ingest(&source).unwrap();
        store.verify(&tree).unwrap();
        for (name, content) in files {
            prop_assert_eq!(fs::read(store.path(&tree).join(name)).unwrap(), content);
        }
    }
}
