//! Branches that run when they are chosen.

use graph::op::{Cast, Gather, If, Reduce, ReduceKind, Slice, Subgraph};
use graph::{DType, Dim, Graph, Op, Shape, Tensor, ValueId, reference};
use runtime::{CompileOptions, Level, compile};

use crate::loops::{Nodes, body};
use crate::{assert_close, fired, numbers, options, run};

fn branch(inputs: &[&str], nodes: Nodes<'_>, output: &str) -> Subgraph {
    body(inputs, nodes, &[output])
}

/// Inputs `x`, `f32[batch, 8]`, and truth values `a` and `b`; weights `w`, `f32[8, 8]`, and `v`.
fn inputs(graph: &mut Graph) -> [ValueId; 5] {
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 8.into()]).unwrap();
    let [a, b] = ["a", "b"].map(|name| graph.add_input(name, DType::Bool, Shape::new()).unwrap());
    let w = graph.add_weight("w", numbers(&[8, 8], 1, 0.5)).unwrap();
    let v = graph.add_weight("v", numbers(&[8, 8], 2, 0.5)).unwrap();
    [x, a, b, w, v]
}

/// `a ? (b ? relu(x·w) : x·w) + x : rows of tanh(x·v) that `rows` says`, and relu of all that.
fn nested() -> Graph {
    let mut graph = Graph::new("nested");
    let [x, a, b, w, v] = inputs(&mut graph);
    let rows = graph.add_input("rows", DType::I64, vec![Dim::symbol("batch")]).unwrap();
    let inner = Op::If(If {
        then_branch: branch(&["p"], &[("r", Op::Relu, &["p"])], "r"),
        else_branch: branch(&["q"], &[], "q"),
    });
    let then_nodes: [(&str, Op, &[&str]); 3] = [
        ("product", Op::MatMul, &["x", "w"]),
        ("inner", inner, &["b", "product", "product"]),
        ("sum", Op::Add, &["inner", "x"]),
    ];
    let else_nodes: [(&str, Op, &[&str]); 3] = [
        ("product", Op::MatMul, &["x", "v"]),
        ("tanh", Op::Tanh, &["product"]),
        ("taken", Op::Gather(Gather { axis: 0 }), &["tanh", "rows"]),
    ];
    let op = Op::If(If {
        then_branch: branch(&["x", "w", "b"], &then_nodes, "sum"),
        else_branch: branch(&["x", "v", "rows"], &else_nodes, "taken"),
    });
    let chosen = graph.add_node("chosen", op, &[a, x, w, b, x, v, rows]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[chosen]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

fn given(a: bool, b: bool, rows: [i64; 3]) -> [(&'static str, Tensor); 4] {
    let rows = Tensor::new(&[3], rows.to_vec()).unwrap();
    let x = numbers(&[3, 8], 7, 1.0);
    [("x", x), ("a", Tensor::scalar(a)), ("b", Tensor::scalar(b)), ("rows", rows)]
}

#[test]
fn branches_are_rewritten_planned_and_chosen() {
    let graph = nested();
    for level in [Level::O0, Level::O1, Level::O2, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        for (a, b) in [(true, true), (true, false), (false, true), (false, false)] {
            let inputs = given(a, b, [2, 0, 1]);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            assert_close(&run(&model, &inputs), &expected, 1e-5);
        }
        let explained = model.explain();
        let has = |kernel: &str| explained.nodes.iter().any(|node| node.kernel == kernel);
        assert_eq!((has("choose.copy"), has("reference")), (level > Level::O0, level == Level::O0));
        assert_eq!(fired(&model, "choices"), if level > Level::O0 { 2 } else { 0 });
        assert_eq!(has("linear.f32"), level >= Level::O2);
    }
}

/// A row that is not there is an error for who asks for it, and for no one else.
#[test]
fn what_is_not_chosen_does_not_run() {
    let model = compile(&nested(), &options(Level::O3)).unwrap();
    let run = |inputs: &[(&str, Tensor)]| {
        let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
        model.session().run(&borrowed).map(|_| ())
    };
    run(&given(true, true, [0, 99, 0])).unwrap();
    let error = run(&given(false, true, [0, 99, 0])).unwrap_err().to_string();
    assert!(error.contains("`chosen/else/taken`") && error.contains("99"), "{error}");
}

/// Without the pass the choice is its definition.
#[test]
fn the_pass_can_be_disabled() {
    let disabled_passes = vec!["choices".to_owned()];
    let options = CompileOptions { disabled_passes, ..options(Level::O3) };
    let model = compile(&nested(), &options).unwrap();
    let inputs = given(false, false, [1, 1, 0]);
    let expected = reference::evaluate(&nested(), &inputs).unwrap();
    assert_close(&run(&model, &inputs), &expected, 1e-5);
    assert!(model.explain().nodes.iter().any(|node| node.operation == "If"));
}

/// What two choices of one condition need is computed once; what its two sides need by itself is not, since
/// it would run always.
#[test]
fn work_is_shared_under_one_condition() {
    let mut graph = Graph::new("shared");
    let [x, a, b, w, _] = inputs(&mut graph);
    let nodes = |last: Op| -> [(&'static str, Op, &'static [&'static str]); 2] {
        [("product", Op::MatMul, &["x", "w"]), ("last", last, &["product"])]
    };
    let mut choice = |name: &str, [then_op, else_op]: [Op; 2]| {
        let op = Op::If(If {
            then_branch: branch(&["x", "w"], &nodes(then_op), "last"),
            else_branch: branch(&["x", "w"], &nodes(else_op), "last"),
        });
        graph.add_node(name, op, &[a, x, w, x, w]).unwrap()
    };
    let y = choice("y", [Op::Relu, Op::Tanh]);
    let z = choice("z", [Op::Tanh, Op::Relu]);
    graph.set_outputs(&[y, z, b]);
    let model = compile(&graph, &options(Level::O1)).unwrap();
    let products = model.explain().nodes.iter().filter(|node| node.operation == "MatMul").count();
    assert_eq!(products, 2);
    for holds in [true, false] {
        let inputs = [("x", numbers(&[2, 8], 3, 1.0)), ("a", Tensor::scalar(holds))];
        let inputs = [&inputs[..], &[("b", Tensor::scalar(holds))]].concat();
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        assert_close(&run(&model, &inputs), &expected, 1e-5);
    }
}

/// A part that is not there keeps no run from the other side.
#[test]
fn views_of_the_other_side_do_not_matter() {
    let mut graph = Graph::new("views");
    let [x, a, b, ..] = inputs(&mut graph);
    let second = Op::Slice(Slice { axis: 0, start: 1, end: Dim::Fixed(2) });
    let mean = Reduce {
        kind: ReduceKind::Mean,
        axes: Some(vec![0]),
        keep_dims: true,
        empty_means_none: false,
    };
    let op = Op::If(If {
        then_branch: branch(&["x"], &[("second", second, &["x"])], "second"),
        else_branch: branch(&["x"], &[("mean", Op::Reduce(mean), &["x"])], "mean"),
    });
    let y = graph.add_node("y", op, &[a, x, x]).unwrap();
    graph.set_outputs(&[y, b]);
    let model = compile(&graph, &options(Level::O3)).unwrap();
    for (holds, rows) in [(false, 1), (true, 2), (false, 3)] {
        let inputs = [
            ("x", numbers(&[rows, 8], 3, 1.0)),
            ("a", Tensor::scalar(holds)),
            ("b", Tensor::scalar(holds)),
        ];
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        assert_close(&run(&model, &inputs), &expected, 1e-5);
    }
}

/// A condition that folds leaves one side alone.
#[test]
fn choices_that_are_made_go() {
    let mut graph = Graph::new("made");
    let [x, a, b, w, v] = inputs(&mut graph);
    let yes = graph.add_weight("yes", Tensor::scalar(1f32)).unwrap();
    let to = Op::Cast(Cast { to: DType::Bool });
    let condition = graph.add_node("condition", to, &[yes]).unwrap();
    let product = [("product", Op::MatMul, &["x", "w"][..])];
    let op = Op::If(If {
        then_branch: branch(&["x", "w"], &product, "product"),
        else_branch: branch(&["x", "w"], &product, "product"),
    });
    let chosen = graph.add_node("chosen", op, &[condition, x, w, x, v]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[chosen]).unwrap();
    graph.set_outputs(&[y, a, b]);
    let model = compile(&graph, &options(Level::O1)).unwrap();
    let kinds: Vec<&str> =
        model.explain().nodes.iter().map(|node| node.operation.as_str()).collect();
    assert_eq!(kinds, ["MatMul", "Relu"]);
}

/// Branches of different sizes: nothing is planned then, and still only one side runs.
#[test]
fn sizes_may_depend_on_the_choice() {
    let mut graph = Graph::new("sizes");
    let [x, a, b, w, _] = inputs(&mut graph);
    let columns = Op::Slice(Slice { axis: 1, start: 2, end: Dim::Fixed(5) });
    let op = Op::If(If {
        then_branch: branch(&["x"], &[("columns", columns, &["x"])], "columns"),
        else_branch: branch(&["x", "w"], &[("product", Op::MatMul, &["x", "w"])], "product"),
    });
    let chosen = graph.add_node("chosen", op, &[a, x, x, w]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[chosen]).unwrap();
    graph.set_outputs(&[y, b]);
    let model = compile(&graph, &options(Level::O3)).unwrap();
    assert!(model.explain().dynamic && fired(&model, "choices") == 1);
    for holds in [true, false] {
        let inputs = [
            ("x", numbers(&[2, 8], 3, 1.0)),
            ("a", Tensor::scalar(holds)),
            ("b", Tensor::scalar(holds)),
        ];
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        assert_eq!(expected[0].shape(), [2, if holds { 3 } else { 8 }]);
        assert_close(&run(&model, &inputs), &expected, 1e-5);
    }
}
