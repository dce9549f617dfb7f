//! Sequences that loops carry, add to and read, of which only tensors are left.

use super::models::{body, floats, graph_attribute, import, int, model, node, typed, with};
use crate::onnx::proto::{GraphMessage, Model, NodeMessage, TensorMessage};
use crate::{Dim, Tensor, reference};

const FLOAT: i32 = 1;
const INT64: i32 = 7;

fn integer(name: &str, value: i64) -> TensorMessage {
    TensorMessage { data_type: Some(7), int64_data: vec![value], ..floats(name, &[], &[]) }
}

/// A model of `x`, of sizes 2 and 3, and of `n` rounds.
fn of(nodes: Vec<NodeMessage>) -> Model {
    let inputs = vec![typed("x", FLOAT, &[2, 3]), typed("n", INT64, &[])];
    let mut model = model(inputs, nodes, &["y"]);
    let numbers = [integer("0", 0), integer("-1", -1)];
    model.graph.as_mut().unwrap().initializer = numbers.into();
    model
}

fn evaluate(nodes: Vec<NodeMessage>, rounds: i64) -> Tensor {
    let graph = import(&of(nodes)).unwrap();
    let x = Tensor::from_fn(&[2, 3], |index| index as f32);
    reference::evaluate(&graph, &[("x", x), ("n", Tensor::scalar(rounds))]).unwrap().remove(0)
}

fn refused(nodes: Vec<NodeMessage>) -> String {
    import(&of(nodes)).unwrap_err().to_string()
}

/// Doubles `x` each round and adds it to a list.
fn doubling() -> GraphMessage {
    let nodes = vec![
        node("Add", &["h", "h"], &["h2"]),
        node("SequenceInsert", &["list", "h2"], &["longer"]),
    ];
    body(&["round", "going", "h", "list"], nodes, &["going", "h2", "longer"])
}

/// A loop from `first` on, and what is read of its list.
fn looped(first: NodeMessage, body: GraphMessage, rest: Vec<NodeMessage>) -> Vec<NodeMessage> {
    let repeat = node("Loop", &["n", "", "x", "first"], &["last", "lists"]);
    [vec![first, with(repeat, graph_attribute("body", body))], rest].concat()
}

fn empty() -> NodeMessage {
    node("SequenceEmpty", &[], &["first"])
}

fn pair() -> NodeMessage {
    node("SequenceConstruct", &["x", "x"], &["first"])
}

fn join(axis: i64, new_axis: i64) -> NodeMessage {
    let join = with(node("ConcatFromSequence", &["lists"], &["y"]), int("axis", axis));
    with(join, int("new_axis", new_axis))
}

/// A list that is built, read in another loop, and joined.
pub(super) fn sample() -> Model {
    let nodes = vec![
        node("SequenceAt", &["lists", "round"], &["entry"]),
        node("Add", &["h", "entry"], &["h2"]),
        node("SequenceInsert", &["list", "h2"], &["longer"]),
    ];
    let inner = body(&["round", "going", "h", "list"], nodes, &["going", "h2", "longer"]);
    let again = node("Loop", &["n", "", "x", "lists"], &["", "sums"]);
    let rest = vec![
        with(again, graph_attribute("body", inner)),
        with(node("ConcatFromSequence", &["sums"], &["y"]), int("axis", 0)),
    ];
    let model = of(looped(pair(), doubling(), rest));
    assert!(import(&model).is_ok());
    model
}

#[test]
fn lists_that_loops_add_to_are_collected() {
    let joined = |first: NodeMessage, axis: i64, new_axis: i64, rounds: i64| {
        let y = evaluate(looped(first, doubling(), vec![join(axis, new_axis)]), rounds);
        (y.shape().to_vec(), y.elements::<f32>().unwrap().to_vec())
    };
    let (shape, values) = joined(empty(), 0, 1, 2);
    assert_eq!(shape, [2, 2, 3]);
    assert_eq!(values, [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 0.0, 4.0, 8.0, 12.0, 16.0, 20.0]);
    let (shape, values) = joined(empty(), -1, 1, 2);
    assert_eq!(shape, [2, 3, 2]);
    assert_eq!(values, [0.0, 0.0, 2.0, 4.0, 4.0, 8.0, 6.0, 12.0, 8.0, 16.0, 10.0, 20.0]);
    let (shape, values) = joined(empty(), 1, 0, 2);
    assert_eq!(shape, [2, 6]);
    assert_eq!(values, [0.0, 2.0, 4.0, 0.0, 4.0, 8.0, 6.0, 8.0, 10.0, 12.0, 16.0, 20.0]);
    let (shape, values) = joined(pair(), 0, 0, 1);
    assert_eq!(shape, [6, 3]);
    assert_eq!(values[..9], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 0.0, 1.0, 2.0]);
    assert_eq!(values[12..], [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
    // No rounds leave what was there.
    assert_eq!(joined(empty(), 0, 1, 0).0, [0, 2, 3]);
    assert_eq!(joined(empty(), 0, 0, 0).0, [0, 3]);
    assert_eq!(joined(pair(), 0, 1, 0).0, [2, 2, 3]);
}

#[test]
fn entries_that_a_run_counts_are_read() {
    let read = |first: NodeMessage, rest: Vec<NodeMessage>, rounds: i64| {
        evaluate(looped(first, doubling(), rest), rounds)
    };
    let length = || vec![node("SequenceLength", &["lists"], &["y"])];
    assert_eq!(read(empty(), length(), 3), Tensor::scalar(3i64));
    assert_eq!(read(pair(), length(), 3), Tensor::scalar(5i64));
    assert_eq!(read(empty(), length(), 0), Tensor::scalar(0i64));
    let at = |place: &str| vec![node("SequenceAt", &["lists", place], &["y"])];
    assert_eq!(read(empty(), at("0"), 3).elements::<f32>().unwrap()[5], 10.0);
    assert_eq!(read(empty(), at("-1"), 3).elements::<f32>().unwrap()[5], 40.0);
    assert_eq!(read(pair(), at("n"), 3).elements::<f32>().unwrap()[5], 20.0);
    // What is added behind a loop, and by a loop that goes on with the list.
    let mut more = vec![
        node("SequenceInsert", &["lists", "x"], &["added"]),
        node("Identity", &["added"], &["same"]),
        node("Loop", &["n", "", "x", "same"], &["", "all"]),
        node("SequenceLength", &["all"], &["y"]),
    ];
    more[2] = with(more[2].clone(), graph_attribute("body", doubling()));
    assert_eq!(read(empty(), more, 3), Tensor::scalar(7i64));
}

/// Rows of `x` summed in a loop that reads a list of them, from outside or handed on.
#[test]
fn lists_are_read_in_loops() {
    let split = || {
        let split = with(node("SplitToSequence", &["x"], &["rows"]), int("axis", 0));
        with(split, int("keepdims", 0))
    };
    let zero = || node("SequenceAt", &["rows", "0"], &["start"]);
    let sum = |list: &str| {
        vec![
            node("SequenceAt", &[list, "round"], &["row"]),
            node("Add", &["h", "row"], &["h2"]),
            node("Identity", &["list"], &["list2"]),
        ]
    };
    for (list, after) in [("rows", "list"), ("list", "list"), ("list", "list2")] {
        let inner = body(&["round", "going", "h", "list"], sum(list), &["going", "h2", after]);
        let repeat = node("Loop", &["n", "", "start", "rows"], &["sums", "handed"]);
        let repeat = with(repeat, graph_attribute("body", inner));
        let last = node("SequenceAt", &["handed", "-1"], &["one"]);
        let nodes = vec![split(), zero(), repeat, last, node("Add", &["sums", "one"], &["y"])];
        let graph = import(&of(nodes.clone())).unwrap();
        assert_eq!(graph.value_type(graph.outputs()[0]).shape, [Dim::Fixed(3)]);
        assert_eq!(evaluate(nodes, 2).elements::<f32>().unwrap(), [6.0, 10.0, 14.0]);
    }
}

/// As many parts as a dimension has entries, which the model does not say.
#[test]
fn dimensions_of_any_size_are_split() {
    let part = |keep: i64, axis: i64, place: &str| {
        let split = with(node("SplitToSequence", &["x"], &["s"]), int("axis", axis));
        let at = node("SequenceAt", &["s", place], &["y"]);
        let mut model = of(vec![with(split, int("keepdims", keep)), at]);
        model.graph.as_mut().unwrap().input[0] = typed("x", FLOAT, &[-1, -1]);
        let graph = import(&model).unwrap();
        let x = Tensor::from_fn(&[2, 3], |index| index as f32);
        let y = reference::evaluate(&graph, &[("x", x), ("n", Tensor::scalar(1i64))]);
        y.unwrap().remove(0)
    };
    let y = part(0, 0, "-1");
    assert_eq!((y.shape(), y.elements::<f32>().unwrap()), (&[3][..], &[3.0, 4.0, 5.0][..]));
    let y = part(1, 1, "n");
    assert_eq!((y.shape(), y.elements::<f32>().unwrap()), (&[2, 1][..], &[1.0, 4.0][..]));
}

#[test]
fn other_lists_in_loops_are_refused_by_name() {
    let with_body = |nodes: Vec<NodeMessage>, after: &str| {
        let inner = body(&["round", "going", "h", "list"], nodes, &["going", "h", after]);
        refused(looped(empty(), inner, vec![join(0, 1)]))
    };
    let insert = |inputs: &[&str], output: &str| node("SequenceInsert", inputs, &[output]);
    let one = "a sequence to which a round does not add one entry, at its end,";
    let expected = format!("node `last` (Loop): {one} is not supported");
    let twice = vec![insert(&["list", "h"], "l1"), insert(&["l1", "h"], "l2")];
    assert_eq!(with_body(twice, "l2"), expected);
    assert_eq!(with_body(vec![node("SequenceConstruct", &["h"], &["new"])], "new"), expected);
    let read = "reading a sequence in the loop that adds to it is not supported";
    let front = vec![insert(&["list", "h", "0"], "l1")];
    assert_eq!(with_body(front, "l1"), format!("node `l1` (SequenceInsert): {read}"));
    let look = vec![node("SequenceLength", &["list"], &["k"]), insert(&["list", "h"], "l1")];
    assert_eq!(with_body(look, "l1"), format!("node `k` (SequenceLength): {read}"));
    let erase = vec![insert(&["list", "h"], "l0"), node("SequenceErase", &["l0"], &["l1"])];
    assert_eq!(with_body(erase, "l1"), format!("node `l1` (SequenceErase): {read}"));
    let nested = node("Loop", &["n", "", "h", "list"], &["h2", "l1"]);
    let nested = vec![with(nested, graph_attribute("body", doubling()))];
    assert!(with_body(nested, "l1").contains(read));
    let inner = body(&[], vec![insert(&["list", "h"], "t")], &["t"]);
    let choice = with(node("If", &["going"], &["l1"]), graph_attribute("then_branch", inner));
    let other = body(&[], vec![], &["list"]);
    let choice = with(choice, graph_attribute("else_branch", other));
    assert!(with_body(vec![choice], "l1").contains(read));
    // A tensor for a list, a list for a tensor, a list for a number of rounds.
    assert_eq!(with_body(vec![], "h"), expected);
    let swapped = body(&["round", "going", "h", "list"], vec![], &["going", "list", "list"]);
    let gives = "a graph that gives a sequence or an optional value is not supported";
    assert!(refused(looped(empty(), swapped, vec![join(0, 1)])).contains(gives));
    let mut rounds = looped(empty(), doubling(), vec![join(0, 1)]);
    rounds[1].input[0] = "first".to_owned();
    assert!(refused(rounds).contains("found a sequence"));
    // Entries of several shapes at first, and at a place that a run says.
    let mut first =
        looped(node("SequenceConstruct", &["x", "n"], &["first"]), doubling(), vec![join(0, 1)]);
    assert!(refused(first.clone()).contains("a first sequence of entries of several shapes"));
    first[2] = node("SequenceAt", &["first", "n"], &["y"]);
    first.remove(1);
    assert!(refused(first).contains("input 1 that is computed by the model"));
    let missing = body(&["round", "going", "h", "list"], vec![], &["going", "h"]);
    assert!(refused(looped(empty(), missing, vec![join(0, 1)])).contains("no output 1"));
    let nothing = body(&["round", "going", "h", "list"], vec![], &[]);
    assert!(refused(looped(empty(), nothing, vec![join(0, 1)])).contains("no condition"));
}

/// Ranges from lists of a length that only a run says, one for each of the first dimensions, as they
/// are taken in the bodies of loops.
#[test]
fn as_many_dimensions_are_cut_as_a_run_says() {
    let nodes = vec![
        node("NonZero", &["marks"], &["places"]),
        node("Squeeze", &["places", "first"], &["starts"]),
        node("Add", &["starts", "1"], &["ends"]),
        node("Slice", &["x", "starts", "ends"], &["y"]),
    ];
    let mut model = of(nodes);
    let message = model.graph.as_mut().unwrap();
    message.input[1] = typed("marks", INT64, &[2]);
    message.initializer.push(TensorMessage { dims: vec![1], ..integer("first", 0) });
    message.initializer.push(integer("1", 1));
    let graph = import(&model).unwrap();
    let cut = |marks: [i64; 2]| {
        let x = Tensor::from_fn(&[2, 3], |index| index as f32);
        let marks = Tensor::new(&[2], marks.to_vec()).unwrap();
        reference::evaluate(&graph, &[("x", x), ("marks", marks)]).unwrap().remove(0)
    };
    assert_eq!(cut([0, 1]), Tensor::new(&[1, 3], vec![3f32, 4.0, 5.0]).unwrap());
    assert_eq!(cut([1, 1]), Tensor::new(&[1, 1], vec![1f32]).unwrap());
}
