//! Sequences and optional values, of which only tensors are left.

use super::SEQUENCE_LIMIT;
use super::models::{
    body, call, floats, function, graph_attribute, import, int, model, node, typed, with,
};
use super::operators::ints;
use crate::onnx::proto::{Model, NodeMessage, TensorMessage};
use crate::{Tensor, reference};

fn numbers(name: &str, dims: &[i64], values: &[i64]) -> TensorMessage {
    TensorMessage { data_type: Some(7), int64_data: values.to_vec(), ..floats(name, dims, &[]) }
}

/// A model of `x`, of sizes 2 and 5, and `w`, of sizes 2 and 3.
fn of(nodes: Vec<NodeMessage>) -> Model {
    let inputs = vec![typed("x", 1, &[2, 5]), typed("w", 1, &[2, 3])];
    let mut model = model(inputs, nodes, &["y"]);
    let scalars = (-2..4).map(|n: i64| numbers(&format!("{n}"), &[], &[n]));
    let lists = [numbers("[1,4]", &[2], &[1, 4]), numbers("[1,3]", &[2], &[1, 3])];
    model.graph.as_mut().unwrap().initializer = scalars.chain(lists).collect();
    model
}

fn evaluate(nodes: Vec<NodeMessage>) -> Tensor {
    let graph = import(&of(nodes)).unwrap();
    let x = Tensor::from_fn(&[2, 5], |index| index as f32);
    let w = Tensor::from_fn(&[2, 3], |index| 10.0 + index as f32);
    reference::evaluate(&graph, &[("x", x), ("w", w)]).unwrap().remove(0)
}

fn refused(nodes: Vec<NodeMessage>) -> String {
    import(&of(nodes)).unwrap_err().to_string()
}

fn floats_of(tensor: &Tensor) -> Vec<f32> {
    tensor.elements::<f32>().unwrap().to_vec()
}

#[test]
fn what_is_put_in_is_taken_out() {
    let built = || {
        vec![
            node("SequenceEmpty", &[], &["s0"]),
            node("SequenceInsert", &["s0", "x"], &["s1"]),
            node("SequenceInsert", &["s1", "w", "0"], &["s2"]),
            node("Identity", &["s2"], &["s3"]),
        ]
    };
    let and = |last: NodeMessage| evaluate([built(), vec![last]].concat());
    assert_eq!(and(node("SequenceAt", &["s3", "0"], &["y"])).shape(), [2, 3]);
    assert_eq!(and(node("SequenceAt", &["s3", "-1"], &["y"])).shape(), [2, 5]);
    let length = and(node("SequenceLength", &["s3"], &["y"]));
    assert_eq!(length, Tensor::scalar(2i64));
    let joined = and(with(node("ConcatFromSequence", &["s3"], &["y"]), int("axis", -1)));
    assert_eq!(floats_of(&joined)[..5], [10.0, 11.0, 12.0, 0.0, 1.0]);
    let erase =
        vec![node("SequenceErase", &["s3"], &["t"]), node("SequenceAt", &["t", "-1"], &["y"])];
    assert_eq!(evaluate([built(), erase].concat()).shape(), [2, 3]);
    let outside = node("SequenceAt", &["s3", "2"], &["y"]);
    let outside = refused([built(), vec![outside]].concat());
    assert_eq!(outside, "node `y` (SequenceAt): place [2] is not one of 2");
}

#[test]
fn parts_have_the_sizes_asked_for() {
    let part = |inputs: &[&str], place: &str, keep: i64| {
        let split = with(node("SplitToSequence", inputs, &["s"]), ints("axis", &[]));
        let mut split = with(split, int("keepdims", keep));
        split.attribute[0] = int("axis", 1);
        evaluate(vec![split, node("SequenceAt", &["s", place], &["y"])])
    };
    assert_eq!(part(&["x", "2"], "0", 1).shape(), [2, 2]);
    assert_eq!(floats_of(&part(&["x", "2"], "-1", 1)), [4.0, 9.0]);
    assert_eq!(floats_of(&part(&["x", "[1,4]"], "0", 0)), [0.0, 5.0]);
    assert_eq!(part(&["x"], "3", 1).shape(), [2, 1]);
    assert_eq!(part(&["x"], "3", 0).shape(), [2]);
    assert_eq!(part(&["x", "1"], "3", 0).shape(), [2]);
    assert_eq!(part(&["x", "1"], "3", 1).shape(), [2, 1]);
    let wrong = with(node("SplitToSequence", &["x", "[1,3]"], &["s"]), int("axis", 1));
    assert!(refused(vec![wrong]).contains("do not fill 5 entries"));
    let zero = with(node("SplitToSequence", &["x", "0"], &["s"]), int("axis", 1));
    assert!(refused(vec![zero]).contains("at least 1"));
    // Joined again along a new axis.
    let split = with(node("SplitToSequence", &["x"], &["s"]), int("axis", 1));
    let join = with(node("ConcatFromSequence", &["s"], &["y"]), int("axis", 0));
    assert_eq!(evaluate(vec![split, with(join, int("new_axis", 1))]).shape(), [5, 2, 1]);
}

/// Into functions and branches, and out of what is written in their place.
#[test]
fn sequences_go_where_names_go() {
    let first = function("First", &["s"], &["y"], vec![node("SequenceAt", &["s", "zero"], &["y"])]);
    let pair = || node("SequenceConstruct", &["w", "x"], &["s"]);
    let mut called = of(vec![pair(), call("First", &["s"], &["y"])]);
    let mut first = first;
    let mut zero = node("Constant", &[], &["zero"]);
    zero.attribute.push(int("value_int", 0));
    first.node.insert(0, zero);
    called.functions.push(first);
    assert!(import(&called).is_ok());
    let pick = |place: &str| body(&[], vec![node("SequenceAt", &["s", place], &["p"])], &["p"]);
    let choice = |condition: &str| {
        let choice =
            with(node("If", &[condition], &["y"]), graph_attribute("then_branch", pick("0")));
        with(choice, graph_attribute("else_branch", pick("-1")))
    };
    let test = node("Greater", &["2", "1"], &["known"]);
    assert_eq!(evaluate(vec![pair(), test, choice("known")]).shape(), [2, 3]);
    let sum = with(node("ReduceSum", &["x"], &["sum"]), int("keepdims", 0));
    let zero = node("Sub", &["sum", "sum"], &["none"]);
    let test = node("Greater", &["sum", "none"], &["condition"]);
    assert_eq!(
        evaluate(vec![pair(), sum.clone(), zero.clone(), test.clone(), choice("condition")])
            .shape(),
        [2, 3]
    );
    let both = body(&[], vec![node("SequenceConstruct", &["x"], &["t"])], &["t"]);
    let whole =
        with(node("If", &["condition"], &["t"]), graph_attribute("then_branch", both.clone()));
    let whole = with(whole, graph_attribute("else_branch", both));
    let reason = refused(vec![sum, zero, test, whole]);
    assert_eq!(
        reason,
        "node `t` (If): a graph that gives a sequence or an optional value is not supported"
    );
}

#[test]
fn optional_values_are_there_or_not() {
    let has = |inputs: &[&str]| {
        let nodes =
            vec![node("Optional", inputs, &["o"]), node("OptionalHasElement", &["o"], &["y"])];
        evaluate(nodes).elements::<bool>().unwrap()[0]
    };
    assert!(has(&["x"]) && !has(&[]));
    let get = |inputs: &[&str]| {
        vec![node("Optional", inputs, &["o"]), node("OptionalGetElement", &["o"], &["y"])]
    };
    assert_eq!(evaluate(get(&["w"])).shape(), [2, 3]);
    assert!(refused(get(&[])).contains("empty optional value"));
}

#[test]
fn what_only_a_run_knows_is_named() {
    let pair = || node("SequenceConstruct", &["w", "x"], &["s"]);
    let place = node("NonZero", &["x"], &["places"]);
    let at = node("SequenceAt", &["s", "places"], &["y"]);
    let reason = refused(vec![pair(), place, at]);
    assert_eq!(
        reason,
        "node `y` (SequenceAt): input 1 that is computed by the model is not supported"
    );
    let reason = refused(vec![pair(), node("Relu", &["s"], &["y"])]);
    assert_eq!(reason, "node `y` (Relu): an input that is a sequence is not supported");
    let mut given = of(vec![node("SequenceConstruct", &["x"], &["y"])]);
    let reason = import(&given).unwrap_err().to_string();
    assert!(reason.contains("expected a tensor; sequences"), "{reason}");
    // Sequences that grow with each name are bounded.
    let grow = |index: usize| {
        let (from, to) = (format!("s{index}"), format!("s{}", index + 1));
        node("SequenceInsert", &[&from, "x"], &[&to])
    };
    let empty = node("SequenceEmpty", &[], &["s0"]);
    given.graph.as_mut().unwrap().node = [vec![empty], (0..2000).map(grow).collect()].concat();
    let error = import(&given).unwrap_err();
    assert!(matches!(error, super::ImportError::Limit { limit: SEQUENCE_LIMIT, .. }), "{error}");
    let split = with(node("SplitToSequence", &["z"], &["s"]), int("axis", 0));
    let many = model(vec![typed("z", 1, &[1 << 40])], vec![split], &["y"]);
    assert!(matches!(import(&many).unwrap_err(), super::ImportError::Limit { .. }));
}
