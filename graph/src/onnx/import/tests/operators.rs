//! Single operators, with what is easily taken for something else.

use super::models::{floats, import, int, model, node, typed, with};
use crate::onnx::proto::{Attribute, DimensionValue, NodeMessage, TensorMessage};
use crate::{Dim, Graph, Tensor, reference};

pub(super) fn ints(name: &str, values: &[i64]) -> Attribute {
    Attribute { name: Some(name.to_owned()), ints: values.to_vec(), ..Default::default() }
}

pub(super) fn text(name: &str, value: &str) -> Attribute {
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

#[test]
fn parameters_say_how_long_an_unknown_dimension_is() {
    let run = |nodes: Vec<NodeMessage>| {
        let reshape = node("Reshape", &["x", "sizes"], &["rows"]);
        let inputs = vec![typed("x", 1, &[8]), typed("sizes", 7, &[2])];
        let mut model = model(inputs, [vec![reshape], nodes].concat(), &["y"]);
        let zeros = TensorMessage { data_type: Some(3), ..floats("zeros", &[4], &[]) };
        let zeros = TensorMessage { int32_data: vec![0; 4], ..zeros };
        let scale = floats("scale", &[4], &[1.0, 0.5, 2.0, 8.0]);
        model.graph.as_mut().unwrap().initializer.extend([scale, zeros]);
        let graph = import(&model).unwrap();
        let x = Tensor::from_fn(&[8], |index| (index % 4) as f32);
        let sizes = |list: [i64; 2]| Tensor::new(&[2], list.to_vec()).unwrap();
        let wrong = [("x", x.clone()), ("sizes", sizes([4, 2]))];
        assert!(reference::evaluate(&graph, &wrong).is_err());
        reference::evaluate(&graph, &[("x", x), ("sizes", sizes([2, 4]))]).unwrap()[0]
            .elements::<f32>()
            .unwrap()
            .to_vec()
    };
    let quantize =
        with(node("QuantizeLinear", &["rows", "scale", "zeros"], &["q"]), int("axis", 1));
    let dequantize =
        with(node("DequantizeLinear", &["q", "scale", "zeros"], &["y"]), int("axis", 1));
    let y = run(vec![quantize, dequantize]);
    assert_eq!(y[4..], [0.0, 1.0, 2.0, 0.0]);
    let normalize = node("LayerNormalization", &["rows", "scale"], &["y"]);
    let y = run(vec![normalize]);
    assert!((y[7] - 8.0 * 1.5 / 1.25f32.sqrt()).abs() < 1e-4, "{y:?}");
}

#[test]
fn slices_end_where_their_dimension_does() {
    let named = |name: &str, dim: &str| {
        let mut info = typed(name, 1, &[1]);
        let kind = info.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        kind.shape.as_mut().unwrap().dim[0].value = Some(DimensionValue::Symbol(dim.to_owned()));
        info
    };
    let size = node("Shape", &["w"], &["size"]);
    let slice = node("Slice", &["x", "zero", "size"], &["y"]);
    let mut model = model(vec![named("x", "a"), named("w", "b")], vec![size, slice], &["y"]);
    let zero = TensorMessage { data_type: Some(7), ..floats("zero", &[1], &[]) };
    let zero = TensorMessage { int64_data: vec![0], ..zero };
    model.graph.as_mut().unwrap().initializer.push(zero);
    let graph = import(&model).unwrap();
    let list = |length: usize| Tensor::from_fn(&[length], |index| index as f32);
    for (own, other) in [(2, 3), (3, 2)] {
        let y = reference::evaluate(&graph, &[("x", list(own)), ("w", list(other))]).unwrap();
        assert_eq!(y[0], list(2));
    }
}

/// What is computed in floats of 16 bits is computed in f32, from inputs to outputs.
#[test]
fn narrow_floats_are_computed_with_as_f32() {
    for (kind, ones) in [(10, 0x3c00), (16, 0x3f80)] {
        let cast = with(node("Cast", &["w"], &["narrow"]), int("to", kind));
        let nodes =
            vec![cast, node("Add", &["x", "narrow"], &["sum"]), node("Mul", &["sum", "c"], &["y"])];
        let inputs = vec![typed("x", kind as i32, &[1]), typed("w", 1, &[1])];
        let mut model = model(inputs, nodes, &["y"]);
        let constant = TensorMessage {
            data_type: Some(kind as i32),
            int32_data: vec![ones],
            ..floats("c", &[1], &[])
        };
        model.graph.as_mut().unwrap().initializer.push(constant);
        let graph = import(&model).unwrap();
        let one = |value: f32| Tensor::new(&[1], vec![value]).unwrap();
        let y = reference::evaluate(&graph, &[("x", one(2.0)), ("w", one(1e-6))]).unwrap();
        assert_eq!(y[0], one(2.0 + 1e-6));
    }
}
