use std::io::Write;

use proptest::prelude::*;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::*;

/// Writes pickles as `torch.save` does: protocol 2, every text and tuple memoized.
#[derive(Default)]
struct Writer {
    program: Vec<u8>,
    memo: u8,
}

impl Writer {
    fn put(&mut self) {
        self.program.extend([b'q', self.memo]);
        self.memo += 1;
    }

    fn text(&mut self, text: &str) {
        self.program.push(b'X');
        self.program.extend((text.len() as u32).to_le_bytes());
        self.program.extend(text.as_bytes());
        self.put();
    }

    fn global(&mut self, module: &str, name: &str) {
        self.program.extend(format!("c{module}\n{name}\n").bytes());
        self.put();
    }

    fn integers(&mut self, values: &[u32]) {
        self.program.push(b'(');
        for value in values {
            self.program.push(b'J');
            self.program.extend(value.to_le_bytes());
        }
        self.program.push(b't');
        self.put();
    }

    fn dictionary(&mut self) {
        self.global("collections", "OrderedDict");
        self.program.extend(b")R");
        self.put();
        self.program.push(b'(');
    }

    fn tensor(&mut self, entry: &Entry) {
        self.text(entry.name);
        self.global("torch._utils", "_rebuild_tensor_v2");
        self.program.extend(b"((");
        self.text("storage");
        self.global("torch", entry.class);
        self.text(entry.key);
        self.text("cpu");
        self.program.extend([b'K', entry.elements, b't']);
        self.put();
        self.program.extend([b'Q', b'K', entry.offset]);
        self.integers(entry.shape);
        self.integers(entry.strides);
        self.program.push(0x89);
        self.dictionary();
        self.program.pop(); // the mark: the hooks stay empty
        self.program.push(b't');
        self.put();
        self.program.push(b'R');
        self.put();
    }
}

struct Entry {
    name: &'static str,
    class: &'static str,
    key: &'static str,
    elements: u8,
    offset: u8,
    shape: &'static [u32],
    strides: &'static [u32],
}

const PLAIN: Entry = Entry {
    name: "plain",
    class: "FloatStorage",
    key: "0",
    elements: 6,
    offset: 0,
    shape: &[2, 3],
    strides: &[3, 1],
};

fn program(entries: &[Entry]) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.program.extend([0x80, 2]);
    writer.dictionary();
    for entry in entries {
        writer.tensor(entry);
    }
    writer.program.push(b'u');
    // Attributes of the dictionary, as state dictionaries have them.
    writer.program.push(b'}');
    writer.text("_metadata");
    writer.dictionary();
    writer.program.pop();
    writer.program.extend(b"sb.");
    writer.program
}

fn archive(program: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    zip.start_file("archive/data.pkl", options).unwrap();
    zip.write_all(program).unwrap();
    for (key, bytes) in storages {
        zip.start_file(format!("archive/data/{key}"), options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn floats() -> Vec<u8> {
    (0..6).flat_map(|index| (index as f32).to_le_bytes()).collect()
}

#[test]
fn tensors_are_read_with_their_strides_and_types() {
    let entries = [
        PLAIN,
        Entry { name: "transposed", shape: &[3, 2], strides: &[1, 3], ..PLAIN },
        Entry { name: "part", offset: 4, shape: &[2], strides: &[1], ..PLAIN },
        Entry { name: "scalar", offset: 5, shape: &[], strides: &[], ..PLAIN },
        Entry {
            name: "half",
            class: "HalfStorage",
            key: "1",
            elements: 2,
            shape: &[2],
            strides: &[1],
            ..PLAIN
        },
        Entry {
            name: "brain",
            class: "BFloat16Storage",
            key: "2",
            elements: 1,
            shape: &[1],
            strides: &[1],
            ..PLAIN
        },
        Entry {
            name: "ids",
            class: "LongStorage",
            key: "3",
            elements: 1,
            shape: &[1, 1],
            strides: &[1, 1],
            ..PLAIN
        },
    ];
    let half = [1.5f32, -2.0].iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let storages = [
        ("0", floats()),
        ("1", half),
        ("2", bf16::from_f32(3.0).to_le_bytes().to_vec()),
        ("3", (-9i64).to_le_bytes().to_vec()),
    ];
    let tensors = parse(&archive(&program(&entries), &storages)).unwrap();
    assert_eq!(tensors.len(), entries.len());
    let check = |name: &str, shape: &[usize], expected: &[f32]| {
        assert_eq!(tensors[name].shape(), shape, "{name}");
        assert_eq!(tensors[name].elements::<f32>().unwrap(), expected, "{name}");
    };
    check("plain", &[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    check("transposed", &[3, 2], &[0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    check("part", &[2], &[4.0, 5.0]);
    check("scalar", &[], &[5.0]);
    check("half", &[2], &[1.5, -2.0]);
    check("brain", &[1], &[3.0]);
    assert_eq!(tensors["ids"].elements::<i64>().unwrap(), [-9]);
}

#[test]
fn a_function_is_refused_and_named() {
    let program = b"\x80\x02cos\nsystem\nq\x00X\x02\x00\x00\x00lsq\x01\x85q\x02Rq\x03.";
    let error = parse(&archive(program, &[])).unwrap_err();
    assert_eq!(
        error,
        "data.pkl at byte 13: `os.system` is not part of a dictionary of tensors; it was not run"
    );
}

#[test]
fn tensors_outside_their_storage_are_refused() {
    let check = |entry: Entry, expected: &str| {
        let error = parse(&archive(&program(&[entry]), &[("0", floats())])).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(Entry { offset: 1, ..PLAIN }, "reaches outside its 6 stored elements");
    check(Entry { strides: &[u32::MAX >> 1, 1], ..PLAIN }, "reaches outside");
    check(Entry { shape: &[4, 3], strides: &[0, 1], ..PLAIN }, "expected at most 6 elements");
    check(Entry { shape: &[2], ..PLAIN }, "expected a stride a dimension");
    check(Entry { elements: 7, ..PLAIN }, "expected 28 bytes of elements, found 24: truncated");
    check(Entry { key: "9", ..PLAIN }, "`archive/data/9` in the zip");
    check(Entry { class: "ComplexFloatStorage", ..PLAIN }, "torch.ComplexFloatStorage are not");
}

#[test]
fn other_files_are_refused() {
    let check = |bytes: &[u8], expected: &str| {
        let error = parse(bytes).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
        "expected a zip as torch.save writes since 1.6",
    );
    check(&archive(b"", &[]), "data.pkl at byte 0: expected 1 more bytes: truncated");
    check(&archive(b"\x80\x02K\x01.", &[]), "expected a dictionary of tensors at the top");
    check(&archive(b"\x80\x07.", &[]), "expected pickle protocol 2 to 5, found 7");
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = archive(&program(&[PLAIN]), &[("0", floats())]);
    for length in 0..bytes.len() {
        assert!(parse(&bytes[..length]).is_err(), "{length}");
    }
}

proptest! {
    #[test]
    fn hostile_programs_never_panic(
        opcodes in proptest::collection::vec(
            prop_oneof![
                Just(b"(".to_vec()), Just(b"t".to_vec()), Just(b"}".to_vec()), Just(b"]".to_vec()),
                Just(b"u".to_vec()), Just(b"s".to_vec()), Just(b"a".to_vec()), Just(b"e".to_vec()),
                Just(b"R".to_vec()), Just(b"Q".to_vec()), Just(b"0".to_vec()), Just(b"b".to_vec()),
                Just(b"q\x00".to_vec()), Just(b"h\x00".to_vec()), Just(b"K\x05".to_vec()),
                Just(b"\x8a\x09123456789".to_vec()), Just(b"\x86".to_vec()), Just(b"\x93".to_vec()),
                Just(b"ctorch._utils\n_rebuild_tensor_v2\n".to_vec()),
                Just(b"ctorch\nFloatStorage\n".to_vec()), Just(b"X\x01\x00\x00\x000".to_vec()),
                Just(b"X\x07\x00\x00\x00storage".to_vec()), any::<u8>().prop_map(|byte| vec![byte]),
            ],
            0..40,
        ),
    ) {
        let _ = machine::tensors(&opcodes.concat());
    }

    #[test]
    fn flipped_bytes_never_panic(position in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = archive(&program(&[PLAIN]), &[("0", floats())]);
        let position = position.index(bytes.len());
        bytes[position] = value;
        let _ = parse(&bytes);
    }
}
