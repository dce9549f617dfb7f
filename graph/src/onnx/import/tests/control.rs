//! Choice and repetition, there and back.

use prost::Message;

use super::models::{body, floats, graph_attribute, import, int, model, node, typed, value, with};
use crate::onnx::proto::{GraphMessage, Model, ValueInfo};
use crate::{DType, Dim, Graph, Tensor, ValueType, onnx, reference};

const FLOAT: i32 = 1;
const INT64: i32 = 7;
const BOOL: i32 = 9;

/// The graph of a model, which has to give the same answers once it was written and read again.
fn there_and_back(model: &Model, inputs: &[(&str, Tensor)]) -> (Graph, Vec<Tensor>) {
    let graph = import(model).unwrap();
    let outputs = reference::evaluate(&graph, inputs).unwrap();
    let bytes = onnx::export(&graph).unwrap();
    let back = super::import_bytes(&bytes, None, &super::ImportOptions::default()).unwrap();
    assert_eq!(reference::evaluate(&back, inputs).unwrap(), outputs);
    (graph, outputs)
}

/// `y` is `x + one` of an inner constant, or `-x` of the outer one.
fn choice(condition: Option<bool>) -> Model {
    let constants = vec![floats("one", &[1], &[1.0])];
    let then_branch = GraphMessage {
        initializer: constants,
        ..body(&[], vec![node("Add", &["x", "one"], &["inner"])], &["inner"])
    };
    let else_branch = body(&[], vec![node("Sub", &["zero", "x"], &["inner"])], &["inner"]);
    let choice = with(node("If", &["c"], &["y"]), graph_attribute("then_branch", then_branch));
    let choice = with(choice, graph_attribute("else_branch", else_branch));
    let mut inputs = vec![typed("x", FLOAT, &[2])];
    let mut nodes = vec![node("Relu", &["y"], &["z"]), choice];
    match condition {
        None => inputs.push(typed("c", BOOL, &[])),
        Some(value) => {
            let constant = with(node("Constant", &[], &["n"]), int("value_int", value.into()));
            nodes.push(constant);
            nodes.push(with(node("Cast", &["n"], &["c"]), int("to", BOOL.into())));
        }
    }
    let mut model = model(inputs, nodes, &["y", "z"]);
    model.graph.as_mut().unwrap().initializer.push(floats("zero", &[], &[0.0]));
    model
}

#[test]
fn one_branch_runs() {
    let x = || ("x", Tensor::new(&[2], vec![1f32, -5.0]).unwrap());
    for (condition, expected) in [(true, [2.0, -4.0]), (false, [-1.0, 5.0])] {
        let inputs = [x(), ("c", Tensor::scalar(condition))];
        let (graph, outputs) = there_and_back(&choice(None), &inputs);
        assert_eq!(outputs[0].elements::<f32>().unwrap(), expected);
        assert!(graph.nodes().any(|(_, node)| !node.op.subgraphs().is_empty()));
        // A known condition leaves only its branch.
        let (graph, outputs) = there_and_back(&choice(Some(condition)), &[x()]);
        assert_eq!(outputs[0].elements::<f32>().unwrap(), expected);
        assert!(graph.nodes().all(|(_, node)| node.op.subgraphs().is_empty()));
    }
}

/// Doubles `x` as often as `n` says, collects the states, and grows `g` by one entry each round.
fn repetition() -> Model {
    let nodes = vec![
        node("Add", &["s", "s"], &["s2"]),
        node("Concat", &["t", "t1"], &["t2"]),
        node("Identity", &["going"], &["still"]),
    ];
    let nodes = nodes
        .into_iter()
        .map(|node| if node.op_type() == "Concat" { with(node, int("axis", 0)) } else { node })
        .collect();
    let inner = body(&["round", "going", "s", "t"], nodes, &["still", "s2", "t2", "s2"]);
    let outer = node("Loop", &["n", "", "x", "g"], &["last", "grown", "all"]);
    let outer = with(outer, graph_attribute("body", inner));
    let inputs = vec![typed("n", INT64, &[]), typed("x", FLOAT, &[2]), typed("g", FLOAT, &[1])];
    let mut model = model(inputs, vec![outer], &["last", "grown", "all"]);
    model.graph.as_mut().unwrap().initializer.push(floats("t1", &[1], &[7.0]));
    model
}

#[test]
fn loops_carry_collect_and_grow() {
    let inputs = |rounds: i64| {
        [
            ("n", Tensor::scalar(rounds)),
            ("x", Tensor::new(&[2], vec![1f32, 3.0]).unwrap()),
            ("g", Tensor::new(&[1], vec![5f32]).unwrap()),
        ]
    };
    let (graph, outputs) = there_and_back(&repetition(), &inputs(3));
    assert_eq!(outputs[0].elements::<f32>().unwrap(), [8.0, 24.0]);
    assert_eq!(outputs[1].elements::<f32>().unwrap(), [5.0, 7.0, 7.0, 7.0]);
    assert_eq!(outputs[2].elements::<f32>().unwrap(), [2.0, 6.0, 4.0, 12.0, 8.0, 24.0]);
    let grown = ValueType { dtype: DType::F32, shape: vec![Dim::Unknown] };
    assert_eq!(graph.value_type(graph.outputs()[1]), &grown);
    let (_, outputs) = there_and_back(&repetition(), &inputs(0));
    assert_eq!(outputs[0].elements::<f32>().unwrap(), [1.0, 3.0]);
    assert!(outputs[2].is_empty());
}

/// onnxruntime reads no loop without them.
#[test]
fn what_a_body_is_given_has_types() {
    let exported = onnx::export(&import(&repetition()).unwrap()).unwrap();
    let exported = Model::decode(exported.as_slice()).unwrap().graph.unwrap();
    let kind = |info: &ValueInfo| {
        let kind = info.r#type.as_ref()?.tensor_type.as_ref()?;
        Some((kind.elem_type?, kind.shape.as_ref()?.dim.len()))
    };
    let loops = exported.node.iter().filter(|node| node.op_type() == "Loop");
    let bodies: Vec<_> = loops.map(|node| node.attribute[0].g.as_ref().unwrap()).collect();
    assert_eq!(bodies.len(), 3);
    for body in bodies {
        let types: Vec<_> = body.input.iter().map(kind).collect();
        assert_eq!(types, [(INT64, 0), (BOOL, 0), (FLOAT, 1), (FLOAT, 1)].map(Some));
    }
}

#[test]
fn graphs_with_loops_are_documents() {
    let graph = import(&repetition()).unwrap();
    let text = crate::document::write(&graph);
    let weights = graph.weights();
    let weights = weights.map(|(id, x)| (graph.value_name(id).to_owned(), x.clone())).collect();
    assert_eq!(crate::document::read(text.as_bytes(), weights).unwrap(), graph);
}

/// A running sum over the columns of `x`, backwards, collected as columns.
#[test]
fn scans_are_loops() {
    let nodes =
        vec![node("Add", &["sum", "entry"], &["next"]), node("Identity", &["next"], &["c"])];
    let inner = body(&["sum", "entry"], nodes, &["next", "c"]);
    let mut scan =
        with(node("Scan", &["first", "x"], &["total", "sums"]), int("num_scan_inputs", 1));
    for (name, number) in [
        ("scan_input_axes", 1),
        ("scan_input_directions", 1),
        ("scan_output_axes", 1),
        ("scan_output_directions", 1),
    ] {
        let mut list = int(name, 0);
        list.i = None;
        list.ints = vec![number];
        scan = with(scan, list);
    }
    let scan = with(scan, graph_attribute("body", inner));
    let inputs = vec![typed("first", FLOAT, &[2]), typed("x", FLOAT, &[2, 3])];
    let inputs_given = [
        ("first", Tensor::new(&[2], vec![0f32, 100.0]).unwrap()),
        ("x", Tensor::from_fn(&[2, 3], |index| index as f32)),
    ];
    let (graph, outputs) =
        there_and_back(&model(inputs, vec![scan], &["total", "sums"]), &inputs_given);
    assert_eq!(outputs[0].elements::<f32>().unwrap(), [3.0, 112.0]);
    let sums = [3.0, 3.0, 2.0, 112.0, 109.0, 105.0];
    assert_eq!(outputs[1].elements::<f32>().unwrap(), sums);
    let shape = &graph.value_type(graph.outputs()[1]).shape;
    assert_eq!(shape, &[Dim::Fixed(2), Dim::Fixed(3)]);
}

#[test]
fn branches_of_different_ranks_are_refused_by_name() {
    let mut model = choice(None);
    let nodes = &mut model.graph.as_mut().unwrap().node;
    let branch = nodes[1].attribute[1].g.as_mut().unwrap();
    branch.node[0] = node("Shape", &["x"], &["inner"]);
    let error = import(&model).unwrap_err();
    assert!(error.to_string().contains("(If)"), "{error}");
    branch_without_output(&mut model);
}

/// Where the condition follows from an integer that is given, only its branch is there.
#[test]
fn integers_that_are_given_decide() {
    let mut model = choice(None);
    let message = model.graph.as_mut().unwrap();
    let branch = message.node[1].attribute[1].g.as_mut().unwrap();
    branch.node[0] = node("Size", &["x"], &["inner"]);
    message.node.remove(0);
    message.node.push(with(node("Cast", &["n"], &["c"]), int("to", BOOL.into())));
    message.output.pop();
    message.input[1] = typed("n", INT64, &[]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.encode_to_vec()).unwrap();
    let read = |n: usize| {
        let numbers = [("n".to_owned(), n)].into_iter().collect();
        onnx::import(&path, &super::ImportOptions { numbers, ..Default::default() })
    };
    for (n, expected) in [(1, DType::F32), (0, DType::I64)] {
        let graph = read(n).unwrap();
        assert_eq!(graph.inputs().len(), 1);
        assert_eq!(graph.value_type(graph.outputs()[0]).dtype, expected);
    }
    // Without, the model is refused, and still says what it takes.
    assert!(import(&model).is_err());
    let inputs = onnx::import_inputs(&path).unwrap();
    let names: Vec<&str> = inputs.inputs().iter().map(|&id| inputs.value_name(id)).collect();
    assert_eq!(names, ["x", "n"]);
    assert_eq!(inputs.nodes().count(), 0);
}

/// An output that nothing writes is no panic.
fn branch_without_output(model: &mut Model) {
    let nodes = &mut model.graph.as_mut().unwrap().node;
    nodes[1].attribute[0].g.as_mut().unwrap().output = vec![value("nowhere")];
    let error = super::import_bytes(&model.encode_to_vec(), None, &super::ImportOptions::default());
    assert!(error.unwrap_err().to_string().contains("nowhere"));
}
