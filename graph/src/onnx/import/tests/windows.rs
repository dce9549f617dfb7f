//! Windows put back, bent, and cut out of the middle.

use super::models::{floats, import, int, model, node, typed, with};
use super::operators::ints;
use crate::onnx::proto::{Model, NodeMessage, TensorMessage, ValueInfo};
use crate::{Tensor, dim, onnx, reference};

fn numbers(name: &str, values: &[i64]) -> TensorMessage {
    let dims = [values.len() as i64];
    TensorMessage { data_type: Some(7), int64_data: values.to_vec(), ..floats(name, &dims, &[]) }
}

fn of(given: Vec<ValueInfo>, node: NodeMessage, constants: Vec<TensorMessage>) -> Model {
    let mut model = model(given, vec![node], &["y"]);
    model.graph.as_mut().unwrap().initializer = constants;
    model
}

fn evaluate(model: &Model, inputs: &[(&'static str, Tensor)]) -> Tensor {
    let graph = import(model).unwrap();
    let y = reference::evaluate(&graph, inputs).unwrap().remove(0);
    let bytes = onnx::export(&graph).unwrap();
    let back = onnx::import_bytes(&bytes, None, &onnx::ImportOptions::default()).unwrap();
    assert_eq!(reference::evaluate(&back, inputs).unwrap(), std::slice::from_ref(&y));
    y
}

#[test]
fn windows_are_put_back() {
    let fold = with(node("Col2Im", &["x", "image", "block"], &["y"]), ints("strides", &[1, 2]));
    let model = |image: &str| {
        let fold = NodeMessage {
            input: ["x", image, "block"].map(str::to_owned).to_vec(),
            ..fold.clone()
        };
        let given = vec![typed("x", 1, &[1, 2, 4]), typed("size", 7, &[2])];
        of(given, fold, vec![numbers("image", &[2, 4]), numbers("block", &[1, 2])])
    };
    let x = Tensor::from_fn(&[1, 2, 4], |index| index as f32);
    let size = Tensor::new(&[2], vec![2i64, 4]).unwrap();
    let given = [("x", x), ("size", size)];
    let y = evaluate(&model("image"), &given);
    assert_eq!(y.shape(), [1, 1, 2, 4]);
    assert_eq!(y.elements::<f32>().unwrap(), [0.0, 4.0, 1.0, 5.0, 2.0, 6.0, 3.0, 7.0]);
    // Sizes may be known at a run only.
    assert_eq!(evaluate(&model("size"), &given), y);
    let shape = |image| {
        let graph = import(&model(image)).unwrap();
        dim::display(&graph.value_type(graph.outputs()[0]).shape)
    };
    assert_eq!((shape("image").as_str(), shape("size").as_str()), ("[1, 1, 2, 4]", "[1, 1, ?, ?]"));
}

/// The examples of the operator's documentation.
#[test]
fn elements_go_back_to_where_a_pool_found_them() {
    let unpool = |inputs: &[&str]| {
        let unpool = with(node("MaxUnpool", inputs, &["y"]), ints("kernel_shape", &[2, 2]));
        let unpool = with(unpool, ints("strides", &[2, 2]));
        let given = vec![typed("x", 1, &[1, 1, 2, 2]), typed("at", 7, &[1, 1, 2, 2])];
        let model = of(given, unpool, vec![numbers("asked", &[1, 1, 5, 5])]);
        let graph = import(&model).unwrap();
        let x = Tensor::new(&[1, 1, 2, 2], vec![1f32, 2.0, 3.0, 4.0]).unwrap();
        let at = Tensor::new(&[1, 1, 2, 2], vec![5i64, 7, 13, 15]).unwrap();
        let y = evaluate(&model, &[("x", x), ("at", at)]);
        let shape = dim::display(&graph.value_type(graph.outputs()[0]).shape);
        let y = y.elements::<f32>().unwrap().to_vec();
        let places = (0..y.len()).filter(|&place| y[place] != 0.0);
        (shape, places.map(|place| (place, y[place])).collect::<Vec<_>>())
    };
    let (shape, found) = unpool(&["x", "at"]);
    assert_eq!(shape, "[1, 1, 4, 4]");
    assert_eq!(found, [(5, 1.0), (7, 2.0), (13, 3.0), (15, 4.0)]);
    let (shape, found) = unpool(&["x", "at", "asked"]);
    assert_eq!(shape, "[1, 1, 5, 5]");
    assert_eq!(found, [(6, 1.0), (8, 2.0), (16, 3.0), (18, 4.0)]);
}

#[test]
fn the_middle_is_kept_and_zeros_are_around_it() {
    let cut = |asked: &[i64], axes: &[i64]| {
        let cut = with(node("CenterCropPad", &["x", "asked"], &["y"]), ints("axes", axes));
        of(vec![typed("x", 6, &[2, 5])], cut, vec![numbers("asked", asked)])
    };
    let x = Tensor::from_fn(&[2, 5], |index| index as i32 + 1);
    let both = evaluate(&cut(&[5, 2], &[0, 1]), &[("x", x.clone())]);
    assert_eq!(both.shape(), [5, 2]);
    assert_eq!(both.elements::<i32>().unwrap(), [0, 0, 2, 3, 7, 8, 0, 0, 0, 0]);
    let wide = evaluate(&cut(&[8], &[-1]), &[("x", x)]);
    assert_eq!(wide.elements::<i32>().unwrap()[..8], [0, 1, 2, 3, 4, 5, 0, 0]);
    let error = import(&cut(&[8], &[0, 1])).unwrap_err().to_string();
    assert_eq!(error, "node `y` (CenterCropPad): expected a size for each of 2 axes");
}

#[test]
fn bent_windows_have_bias_and_mask_at_their_places() {
    let given = vec![
        typed("x", 1, &[1, 1, 2, 2]),
        typed("w", 1, &[1, 1, 1, 1]),
        typed("moves", 1, &[1, 2, 2, 2]),
        typed("mask", 1, &[1, 1, 2, 2]),
    ];
    let bent = node("DeformConv", &["x", "w", "moves", "", "mask"], &["y"]);
    let inputs = [
        ("x", Tensor::from_fn(&[1, 1, 2, 2], |index| index as f32)),
        ("w", Tensor::from_fn(&[1, 1, 1, 1], |_| 2f32)),
        ("moves", Tensor::from_fn(&[1, 2, 2, 2], |index| f32::from(u8::from(index >= 4)) / 2.0)),
        ("mask", Tensor::new(&[1, 1, 2, 2], vec![1f32, 1.0, 10.0, 0.0]).unwrap()),
    ];
    let y = evaluate(&of(given.clone(), bent, Vec::new()), &inputs);
    assert_eq!(y.elements::<f32>().unwrap(), [1.0, 1.0, 50.0, 0.0]);
    let none = with(node("DeformConv", &["x", "w", "moves"], &["y"]), int("offset_group", 0));
    assert!(import(&of(given, none, Vec::new())).is_err());
}
