use proptest::prelude::*;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::*;

fn sample() -> BTreeMap<String, Tensor> {
    let tensors = [
        ("z", Tensor::from_fn(&[2, 3], |index| index as f32 - 2.5)),
        ("a", Tensor::from_fn(&[3], |index| index as i8 - 1)),
        ("m", Tensor::from_fn(&[2], |index| index as i64 - 1)),
        ("b", Tensor::from_fn(&[1, 5], |index| index as u8)),
        ("c", Tensor::scalar(7i32)),
        ("empty", Tensor::from_fn(&[0, 4], |_| 0f32)),
    ];
    tensors.map(|(name, tensor)| (name.to_owned(), tensor)).into()
}

fn named(tensors: &BTreeMap<String, Tensor>) -> impl Iterator<Item = (&str, &Tensor)> {
    tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
}

fn sample_bytes() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write(&path, named(&sample())).unwrap();
    std::fs::read(path).unwrap()
}

/// A file of this header and so many bytes of elements.
fn file_of(header: &str, elements: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [length.as_slice(), header.as_bytes(), &vec![0; elements]].concat()
}

fn error_of(bytes: &[u8]) -> String {
    parse(Path::new("w"), bytes, None).unwrap_err().to_string()
}

#[test]
fn what_is_written_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write(&path, named(&sample())).unwrap();
    assert_eq!(read(&path).unwrap(), sample());
    assert_eq!(parse(&path, &std::fs::read(&path).unwrap(), None).unwrap(), sample());
    let files = std::fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "no temporary file stays");
}

#[test]
fn bytes_depend_on_the_tensors_only() {
    let reversed: Vec<(String, Tensor)> = sample().into_iter().rev().collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    write(&path, reversed.iter().map(|(name, tensor)| (name.as_str(), tensor))).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), sample_bytes());
}

#[test]
fn the_published_reader_agrees() {
    let bytes = sample_bytes();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.len(), sample().len());
    for (name, tensor) in sample() {
        let view = file.tensor(&name).unwrap();
        assert_eq!((view.shape(), view.data()), (tensor.shape(), tensor.bytes()), "{name}");
    }
}

#[test]
fn half_precision_becomes_single() {
    let values = [0.0f32, -1.5, 65504.0, 0.000061035156, f32::INFINITY, 1.0e-7];
    let f16: Vec<u8> = values.iter().flat_map(|&x| f16::from_f32(x).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|&x| bf16::from_f32(x).to_le_bytes()).collect();
    let views = [
        ("half", TensorView::new(Dtype::F16, vec![2, 3], &f16).unwrap()),
        ("brain", TensorView::new(Dtype::BF16, vec![6], &bf16).unwrap()),
    ];
    let bytes = safetensors::serialize(views, None).unwrap();
    let tensors = parse(Path::new("w"), &bytes, None).unwrap();
    let expected = |convert: fn(f32) -> f32| values.map(convert);
    assert_eq!(tensors["half"].elements::<f32>().unwrap(), expected(|x| f16::from_f32(x).to_f32()));
    assert_eq!(
        tensors["brain"].elements::<f32>().unwrap(),
        expected(|x| bf16::from_f32(x).to_f32())
    );
}

#[test]
fn unaligned_elements_are_copied() {
    let header = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    assert_ne!(header.len() % 4, 0, "the elements must not be aligned");
    let mut bytes = file_of(header, 0);
    bytes.extend([1.5f32, -2.0].iter().flat_map(|x| x.to_le_bytes()));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weights.safetensors");
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read(&path).unwrap()["w"].elements::<f32>().unwrap(), [1.5, -2.0]);
}

#[test]
fn errors_say_what_was_expected_and_found() {
    let check = |header: &str, elements: usize, expected: &str| {
        assert_eq!(error_of(&file_of(header, elements)), expected, "{header}");
    };
    let one = r#"{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#;
    let at = 8 + one.len();
    check(
        one,
        7,
        &format!(
            "w: tensor `w` at byte {at}: expected elements to byte {}, found the end of the file \
             at {}: truncated",
            at + 8,
            at + 7
        ),
    );
    check(
        one,
        9,
        &format!("w: expected the last tensor to end at byte {}, found {}", at + 9, at + 8),
    );
    check(
        &one.replace("F32", "F64"),
        8,
        "w: tensor `w` at byte 62: expected elements of type F32, F16, BF16, I64, I32, I8, U8 or \
         BOOL, found F64; convert the file first",
    );
    check(
        &one.replace("[2]", "[3]"),
        8,
        "w: tensor `w` at byte 62: expected 12 bytes for shape [3], found 8",
    );
    check(
        r#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
        3,
        "w: tensor `b` at byte 114: overlaps the tensor before it, which ends at byte 115",
    );
    check(
        r#"{"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#,
        3,
        "w: tensor `b` at byte 62: expected no gap after byte 61, where elements end",
    );
    check(
        r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#,
        0,
        "w: the header is not what it should be: tensor `a` is there twice at line 1 column 56",
    );
    check(
        r#"{"a":{"dtype":"U8","shape":[9223372036854775808,4],"data_offsets":[0,0]}}"#,
        0,
        "w: tensor `a` at byte 81: shape [9223372036854775808, 4] is too large",
    );
    assert_eq!(
        error_of(b"short"),
        "w: expected a header length of 8 bytes, found 5 bytes: truncated"
    );
    assert_eq!(
        error_of(b"\x80\0\0\0\0\0\0\0{}"),
        "w: expected a header of 128 bytes, found 2: truncated"
    );
    assert_eq!(
        error_of(b"<!doctype html>"),
        "w: expected a header of at most 100000000 bytes, found 8104636974849335612: this is no \
         safetensors file"
    );
}

#[test]
fn a_missing_file_is_named() {
    let error = read(Path::new("no/such.safetensors")).unwrap_err().to_string();
    assert!(error.starts_with("cannot read no/such.safetensors: "), "{error}");
}

#[test]
fn every_truncation_is_noticed() {
    let bytes = sample_bytes();
    for length in 0..bytes.len() {
        assert!(parse(Path::new("w"), &bytes[..length], None).is_err(), "{length}");
    }
}

#[test]
fn numbers_must_be_finite() {
    let good = Tensor::from_fn(&[3], |index| index as f32);
    let bad = Tensor::new(&[3], vec![0.0, f32::NAN, f32::INFINITY]).unwrap();
    let integers = Tensor::scalar(3i8);
    assert_eq!(ensure_finite([("good", &good), ("integers", &integers)]), Ok(()));
    let error = ensure_finite([("good", &good), ("bad", &bad)]).unwrap_err();
    assert_eq!(error.to_string(), "tensor `bad`: expected finite numbers, found NaN at element 1");
    let mask = Tensor::new(&[3], vec![0.0, f32::NEG_INFINITY, -0.0]).unwrap();
    let hidden = Tensor::scalar(f32::NEG_INFINITY);
    assert_eq!(ensure_finite([("mask", &mask), ("hidden", &hidden)]), Ok(()));
    for diverged in [[1.0, f32::NEG_INFINITY], [0.0, f32::INFINITY], [f32::NEG_INFINITY; 2]] {
        let diverged = Tensor::new(&[2], diverged.to_vec()).unwrap();
        assert!(ensure_finite([("diverged", &diverged)]).is_err(), "{diverged:?}");
    }
    assert!(ensure_finite([("nothing", &Tensor::scalar(f32::NAN))]).is_err());
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(Path::new("w"), &bytes, None);
    }

    #[test]
    fn flipped_bytes_never_panic(position in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = sample_bytes();
        let position = position.index(bytes.len());
        bytes[position] = value;
        let _ = parse(Path::new("w"), &bytes, None);
    }

    #[test]
    fn hostile_headers_never_panic(
        dtype in "F32|I64|U8|F16",
        shape in proptest::collection::vec(prop_oneof![0usize..4, any::<usize>()], 0..4),
        start in prop_oneof![0usize..16, any::<usize>()],
        end in prop_oneof![0usize..16, any::<usize>()],
    ) {
        let header = format!(
            r#"{{"w":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{end}]}}}}"#
        );
        let _ = parse(Path::new("w"), &file_of(&header, 12), None);
    }
}
