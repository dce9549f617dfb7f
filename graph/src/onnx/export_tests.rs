use super::*;
use crate::DType;
use crate::bert::{self, BertConfig, BertLayer};
use crate::op::{Op, Slice, Unsqueeze};

fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 2, layer) };
    bert::build(&config, &mut bert::initial_weights(1)).unwrap()
}

fn decoded(graph: &Graph) -> proto::GraphMessage {
    let model = proto::Model::decode(export(graph).unwrap().as_slice()).unwrap();
    assert_eq!(model.ir_version, Some(IR_VERSION));
    assert_eq!(model.opset_import[0].version, Some(OPSET));
    model.graph.unwrap()
}

fn sliced(end: Dim) -> Graph {
    let mut graph = Graph::new("sliced");
    let shape = vec![Dim::symbol("batch"), Dim::symbol("sequence")];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let table = graph.add_weight("table", Tensor::from_fn(&[9], |index| index as f32)).unwrap();
    let slice = |end: Dim| Op::Slice(Slice { axis: 0, start: 0, end });
    let first = graph.add_node("first", slice(end.clone()), &[table]).unwrap();
    let second = graph.add_node("second", slice(end), &[table]).unwrap();
    let axes = |axis| Op::Unsqueeze(Unsqueeze { axes: vec![axis] });
    let sum = graph.add_node("sum", Op::Add, &[first, second]).unwrap();
    let wide = graph.add_node("wide", axes(0), &[sum]).unwrap();
    graph.set_outputs(&[x, wide]);
    graph
}

#[test]
fn every_node_and_weight_keeps_its_name() {
    let (graph, message) = (encoder(), decoded(&encoder()));
    let outputs: BTreeSet<&str> = message.node.iter().map(|node| node.output[0].as_str()).collect();
    assert!(graph.nodes().all(|(_, node)| outputs.contains(node.name.as_str())));
    let stored: BTreeMap<&str, &proto::TensorMessage> =
        message.initializer.iter().map(|tensor| (tensor.name(), tensor)).collect();
    for (id, weight) in graph.weights() {
        assert_eq!(stored[graph.value_name(id)].raw_data(), weight.bytes());
    }
}

#[test]
fn every_value_is_written_before_it_is_read() {
    let message = decoded(&encoder());
    let mut known: BTreeSet<&str> = message.input.iter().map(|input| input.name()).collect();
    known.extend(message.initializer.iter().map(|tensor| tensor.name()));
    for node in &message.node {
        assert!(node.input.iter().all(|input| known.contains(input.as_str())), "{node:?}");
        assert!(known.insert(&node.output[0]), "{} is written twice", node.output[0]);
    }
}

#[test]
fn the_size_of_a_named_dimension_is_read_once() {
    let message = decoded(&sliced(Dim::symbol("sequence")));
    let shapes: Vec<_> = message.node.iter().filter(|node| node.op_type() == "Shape").collect();
    assert_eq!(shapes.len(), 1);
    assert_eq!(
        (shapes[0].input.as_slice(), shapes[0].attribute[0].i()),
        (["x".to_owned()].as_slice(), 1)
    );
    let ends: BTreeSet<&str> = message
        .node
        .iter()
        .filter(|node| node.op_type() == "Slice")
        .map(|node| node.input[2].as_str())
        .collect();
    assert_eq!(ends, BTreeSet::from(["x/sequence"]));
}

#[test]
fn a_dimension_of_no_input_is_an_error() {
    let error = export(&sliced(Dim::symbol("other"))).unwrap_err().to_string();
    assert_eq!(error, "node `first`: dimension `other` is not one of any input");
}

#[test]
fn added_names_give_way_to_the_graphs() {
    let mut graph = sliced(3.into());
    let taken = graph.find("table").unwrap();
    graph.rename(taken, "wide/axes").unwrap();
    let message = decoded(&graph);
    let names: BTreeSet<&str> = message.initializer.iter().map(|tensor| tensor.name()).collect();
    assert_eq!(names.len(), message.initializer.len());
    assert!(names.contains("wide/axes'"));
}

#[test]
fn equal_graphs_have_equal_bytes() {
    assert_eq!(export(&encoder()).unwrap(), export(&encoder()).unwrap());
}
