use proptest::prelude::*;

use super::*;
use crate::bert::{self, BertConfig, BertLayer};
use crate::op::{Dequantize, Gather, LayerNorm, Quantize};

fn weights_of(graph: &Graph) -> BTreeMap<String, Tensor> {
    graph.weights().map(|(id, w)| (graph.value_name(id).to_owned(), w.clone())).collect()
}

fn bert() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 6 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(11, 4, 2, layer) };
    bert::build(&config, &mut bert::initial_weights(1)).unwrap()
}

fn small() -> Graph {
    let mut graph = Graph::new("small \"quoted\"");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 2.into()]).unwrap();
    let w = graph.add_weight("w", Tensor::from_fn(&[2, 3], |index| index as f32)).unwrap();
    let product = graph.add_node("product", Op::MatMul, &[x, w]).unwrap();
    let relu = graph.add_node("relu", Op::Relu, &[product]).unwrap();
    graph.set_outputs(&[relu]);
    graph
}

const SMALL: &str = r#"{
"version": 1,
"name": "small \"quoted\"",
"inputs": [
  {"name":"x","dtype":"f32","shape":["batch",2]}
],
"weights": [
  {"name":"w","dtype":"f32","shape":[2,3]}
],
"nodes": [
  {"name":"product","op":"mat-mul","inputs":["x","w"],"dtype":"f32","shape":["batch",3]},
  {"name":"relu","op":"relu","inputs":["product"],"dtype":"f32","shape":["batch",3]}
],
"outputs": [
  "relu"
]
}
"#;

#[test]
fn a_document_is_one_line_a_value() {
    assert_eq!(write(&small()), SMALL);
}

#[test]
fn what_is_written_is_read_again() {
    let mut quantized = small();
    let (x, w) = (quantized.find("x").unwrap(), quantized.find("w").unwrap());
    let scale = quantized.add_weight("s", Tensor::from_fn(&[3], |_| 0.1f32)).unwrap();
    let zero = quantized.add_weight("z", Tensor::from_fn(&[3], |_| 0i8)).unwrap();
    let op = Op::Quantize(Quantize { axis: Some(1) });
    let q = quantized.add_node("q", op, &[w, scale, zero]).unwrap();
    let op = Op::Dequantize(Dequantize { axis: Some(1) });
    let dq = quantized.add_node("dq", op, &[q, scale, zero]).unwrap();
    let op = Op::LayerNorm(LayerNorm { epsilon: 1e-12 });
    let y = quantized.add_node("y", Op::MatMul, &[x, dq]).unwrap();
    let norm = quantized.add_node("norm", op, &[y, scale, scale]).unwrap();
    quantized.set_outputs(&[norm, y]);
    for graph in [small(), bert(), quantized, Graph::new("")] {
        let text = write(&graph);
        let again = read(text.as_bytes(), weights_of(&graph)).unwrap();
        assert_eq!(again, graph);
        assert_eq!(write(&again), text);
    }
}

#[test]
fn errors_say_what_was_expected_and_found() {
    let check = |from: &str, to: &str, expected: &str| {
        assert!(SMALL.contains(from), "{from}");
        let text = SMALL.replacen(from, to, 1);
        let error = read(text.as_bytes(), weights_of(&small())).unwrap_err().to_string();
        assert_eq!(error, expected, "{from} → {to}");
    };
    check(
        "\"version\": 1",
        "\"version\": 2",
        "expected format version 1, found 2; read it with the version that wrote it",
    );
    check(
        "\"batch\",3]},\n",
        "\"batch\",4]},\n",
        "value `product`: declared as f32[batch, 4], but it is f32[batch, 3]",
    );
    check(
        "[\"product\"]",
        "[\"missing\"]",
        "node `relu` reads `missing`, but no value has this name",
    );
    check(
        "[\"x\",\"w\"]",
        "[\"x\",\"relu\"]",
        "node `product` reads `relu`, which only a later node writes: the nodes are cyclic or not \
         in order",
    );
    check(
        "\"name\":\"relu\"",
        "\"name\":\"product\"",
        "the name `product` is used twice; give each value a name of its own",
    );
    check(
        "  \"relu\"",
        "  \"logits\"",
        "the list of outputs reads `logits`, but no value has this name",
    );
    check("\"name\":\"w\"", "\"name\":\"v\"", "weight `v`: expected its tensor, found none");
    check("[2,3]", "[3,2]", "weight `w`: declared as f32[3, 2], but it is f32[2, 3]");
    check(
        "[\"x\",\"w\"]",
        "[\"w\",\"x\"]",
        "node `product` (MatMul): inner dimensions of [2, 3] and [batch, 2] differ: 3 and batch; \
         if `batch` is 3, give its size (--bind batch=3)",
    );
    check(
        "[\"batch\",2]",
        "[\"2\",2]",
        "value `x`: expected a dimension's name to begin with a letter: `2`",
    );
    check(
        "[\"batch\",2]",
        "[4611686018427387904,4,0]",
        "value `x`: sizes [4611686018427387904, 4, 0] are too large",
    );
    check(
        "[\"batch\",2]",
        "[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]",
        "value `x`: expected at most 16 dimensions, found 17",
    );
    check(
        "\"name\":\"x\"",
        "\"name\":\"\"",
        "value ``: expected a name of 1 to 1024 bytes, found 0",
    );
    let unbound = r#"{"slice":{"axis":1,"start":0,"end":"other"}}"#;
    check(
        "\"relu\",\"inputs\":[\"product\"],\"dtype\":\"f32\",\"shape\":[\"batch\",3]",
        &format!(
            "{unbound},\"inputs\":[\"product\"],\"dtype\":\"f32\",\"shape\":[\"batch\",\"other\"]"
        ),
        "value `relu`: dimension `other` is not one of any input",
    );
}

#[test]
fn unknown_operators_and_fields_have_line_and_column() {
    let check = |from: &str, to: &str, expected: &str| {
        let text = SMALL.replacen(from, to, 1);
        let error = read(text.as_bytes(), weights_of(&small())).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("\"mat-mul\"", "\"convolution\"", "unknown variant `convolution`, expected one of `add`");
    check("\"mat-mul\"", "\"convolution\"", "at line 11 column 38");
    check("\"mat-mul\"", "{\"softmax\":{\"axis\":0}}", "unknown field `axis`");
    check("\"dtype\":\"f32\"", "\"dtype\":\"f64\"", "unknown variant `f64`");
    check("\"name\"", "\"extra\": 1,\n\"name\"", "unknown field `extra`");
}

#[test]
fn weights_that_the_graph_does_not_name_are_refused() {
    let mut weights = weights_of(&small());
    weights.insert("stray".to_owned(), Tensor::scalar(0f32));
    let error = read(SMALL.as_bytes(), weights).unwrap_err().to_string();
    assert_eq!(error, "weight `stray`: the graph has no weight of this name");
}

#[test]
fn dimensions_that_double_are_stopped() {
    let mut graph = Graph::new("doubling");
    let mut x = graph.add_input("x", DType::I64, vec![1.into()]).unwrap();
    for index in 0..8 {
        let op = Op::Gather(Gather { axis: 0 });
        let wide = crate::op::Unsqueeze { axes: vec![0] };
        let table = graph.add_node(&format!("wide{index}"), Op::Unsqueeze(wide), &[x]).unwrap();
        x = graph.add_node(&format!("double{index}"), op, &[table, x]).unwrap();
    }
    graph.set_outputs(&[x]);
    let error = read(write(&graph).as_bytes(), BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("expected at most 16 dimensions"), "{error}");
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read(&bytes, BTreeMap::new());
    }

    #[test]
    fn changed_documents_never_panic(
        position in any::<prop::sample::Index>(),
        replacement in "[0-9]{1,20}|[\"\\[\\]{},:]|-|batch|relu|product|x",
        length in 0usize..12,
    ) {
        let start = position.index(SMALL.len());
        let end = (start + length).min(SMALL.len());
        let text = format!("{}{replacement}{}", &SMALL[..start], &SMALL[end..]);
        let _ = read(text.as_bytes(), weights_of(&small()));
    }

    #[test]
    fn changed_operators_never_panic(
        op in "\\{\"(gather|slice|reduce-sum|unsqueeze|reshape|transpose|quantize|dequantize|cast)\":\
               \\{\"(axis|axes|shape|permutation|to)\":(0|1|7|18446744073709551615|\\[1,0\\]|\
               \\[0,-1\\]|\\[9223372036854775807,2\\]|\\[-2\\]|\"i64\")(,\"start\":9,\"end\":3)?\\}\\}",
        inputs in "\"x\"|\"x\",\"w\"|\"w\",\"w\",\"w\"|",
    ) {
        let text = SMALL.replacen("\"mat-mul\"", &op, 1).replacen("\"x\",\"w\"", &inputs, 1);
        let _ = read(text.as_bytes(), weights_of(&small()));
    }
}
