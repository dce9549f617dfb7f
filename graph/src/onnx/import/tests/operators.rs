//! Single operators, with what is easily taken for something else.

use super::models::{import, int, model, node, typed, with};
use crate::onnx::proto::Attribute;
use crate::{Dim, Graph};

fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: values.to_vec(), ..Default::default() }
}

fn text(name: &str, value: &str) -> Attribute {
    let s = Some(value.as_bytes().to_vec());
    Attribute { name: Some(name.to_owned()), s, ..Default::default() }
}

/// Shape of the first output.
fn shape(graph: &Graph) -> Vec<Dim> {
    graph.value_type(graph.outputs()[0]).shape.clone()
}

#[test]
fn attention_with_a_window_is_refused() {
    let attention = |window: &str, size: i64| {
        let attention = with(node("Attention", &["x", "x", "x"], &["y"]), int(window, size));
        model(vec![typed("x", 1, &[1, 1, 3, 2])], vec![attention], &["y"])
    };
    for window in ["left_window_size", "right_window_size"] {
        assert!(import(&attention(window, -1)).is_ok());
        let error = import(&attention(window, 0)).unwrap_err().to_string();
        assert_eq!(error, format!("node `y` (Attention): {window} = 0 is not supported"));
    }
}

#[test]
fn pools_without_padding_keep_the_last_window() {
    let pool = |padding: &str| {
        let pool = with(node("MaxPool", &["x"], &["y"]), ints("kernel_shape", &[3]));
        let pool = with(with(pool, ints("strides", &[2])), int("ceil_mode", 1));
        let pool = with(pool, text("auto_pad", padding));
        shape(&import(&model(vec![typed("x", 1, &[1, 1, 6])], vec![pool], &["y"])).unwrap())
    };
    assert_eq!(pool("VALID")[2], Dim::Fixed(3));
    assert_eq!(pool("SAME_UPPER")[2], Dim::Fixed(3));
}
