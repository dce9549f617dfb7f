//! Functions of a model become their nodes.

use super::models::{
    call, floats, function, import, int, model, node, reference as refers, typed, with,
};
use crate::onnx::proto::{Attribute, Function, Model};
use crate::{Tensor, reference};

/// `y` of a model that calls `functions` with a 2×3 `x` of 0, 1, ….
fn run(model: &Model) -> Tensor {
    let graph = import(model).unwrap();
    let x = Tensor::from_fn(&[2, 3], |index| index as f32);
    reference::evaluate(&graph, &[("x", x)]).unwrap().remove(0)
}

fn calling(node: crate::onnx::proto::NodeMessage, functions: Vec<Function>) -> Model {
    Model { functions, ..model(vec![typed("x", 1, &[2, 3])], vec![node], &["y"]) }
}

/// Concatenates `a` with itself along its attribute `along`.
fn twice(defaults: Vec<Attribute>) -> Function {
    let concat = with(node("Concat", &["a", "a"], &["b"]), refers("axis", "along"));
    Function { attribute_proto: defaults, ..function("Twice", &["a"], &["b"], vec![concat]) }
}

#[test]
fn attributes_come_from_the_call_or_from_defaults() {
    let plain = call("Twice", &["x"], &["y"]);
    assert_eq!(run(&calling(plain.clone(), vec![twice(vec![int("along", 0)])])).shape(), [4, 3]);
    let given = with(plain, int("along", 1));
    assert_eq!(run(&calling(given.clone(), vec![twice(vec![int("along", 0)])])).shape(), [2, 6]);
    assert_eq!(run(&calling(given, vec![twice(vec![])])).shape(), [2, 6]);
}

#[test]
fn functions_call_functions_and_pass_attributes_on() {
    let inner = with(call("Twice", &["a"], &["t"]), refers("along", "outer"));
    let again = with(call("Twice", &["t"], &["b"]), refers("along", "outer"));
    let quadruple = function("Quadruple", &["a"], &["b"], vec![inner, again]);
    let outer = with(call("Quadruple", &["x"], &["y"]), int("outer", 1));
    let y = run(&calling(outer, vec![quadruple, twice(vec![])]));
    assert_eq!(y.shape(), [2, 12]);
    assert_eq!(y.elements::<f32>().unwrap()[..6], [0.0, 1.0, 2.0, 0.0, 1.0, 2.0]);
}

#[test]
fn names_of_a_function_are_its_own() {
    // `y` inside is not the model's, and `x` is not there.
    let own = function(
        "Own",
        &["a"],
        &["y"],
        vec![node("Relu", &["a"], &["x"]), node("Add", &["x", "a"], &["y"])],
    );
    let y = run(&calling(call("Own", &["x"], &["y"]), vec![own]));
    assert_eq!(y.elements::<f32>().unwrap(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    let stranger = function("Own", &["a"], &["y"], vec![node("Add", &["x", "a"], &["y"])]);
    let error = import(&calling(call("Own", &["x"], &["y"]), vec![stranger])).unwrap_err();
    assert!(error.to_string().contains("reads `x`"), "{error}");
}

#[test]
fn inputs_that_a_call_leaves_out_are_left_out_inside() {
    let clip = node("Clip", &["a", "low", "high"], &["b"]);
    let clip = function("Bound", &["a", "low", "high"], &["b"], vec![clip]);
    let outer =
        function("Outer", &["a", "high"], &["b"], vec![call("Bound", &["a", "", "high"], &["b"])]);
    let mut bounded = calling(call("Bound", &["x", "", "two"], &["y"]), vec![clip.clone()]);
    bounded.graph.as_mut().unwrap().initializer.push(floats("two", &[], &[2.0]));
    assert_eq!(run(&bounded).elements::<f32>().unwrap(), [0.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    let unbounded = calling(call("Outer", &["x"], &["y"]), vec![clip, outer]);
    assert_eq!(run(&unbounded).elements::<f32>().unwrap()[5], 5.0);
}

#[test]
fn recursion_and_explosion_are_refused() {
    let itself = function("Again", &["a"], &["b"], vec![call("Again", &["a"], &["b"])]);
    let error = import(&calling(call("Again", &["x"], &["y"]), vec![itself])).unwrap_err();
    assert!(error.to_string().contains("nested calls"), "{error}");
    // 12 levels of 4 calls each are 16 million nodes.
    let level = |depth: usize| {
        let inner = format!("Level{}", depth + 1);
        let calls = ["b", "c", "d", "e"].map(|output| match depth {
            12 => node("Relu", &["a"], &[output]),
            _ => call(&inner, &["a"], &[output]),
        });
        function(&format!("Level{depth}"), &["a"], &["b"], calls.to_vec())
    };
    let functions = (1..=12).map(level).collect();
    let error = import(&calling(call("Level1", &["x"], &["y"]), functions)).unwrap_err();
    assert!(error.to_string().contains("200000 nodes"), "{error}");
}

#[test]
fn a_missing_output_and_a_second_definition_are_refused() {
    let silent = function("Silent", &["a"], &["b"], vec![node("Relu", &["a"], &["c"])]);
    let error = import(&calling(call("Silent", &["x"], &["y"]), vec![silent])).unwrap_err();
    assert!(error.to_string().contains("does not write its output `b`"), "{error}");
    let twins = vec![twice(vec![]), twice(vec![])];
    let error = import(&calling(call("Twice", &["x"], &["y"]), twins)).unwrap_err();
    assert!(error.to_string().contains("`Twice` is there twice"), "{error}");
}
