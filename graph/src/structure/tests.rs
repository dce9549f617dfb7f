use super::*;
use crate::bert::{BertConfig, Pooling};
use crate::op::{Gather, Gelu, LayerNorm, ReduceSum, Reshape, Softmax, Transpose};
use crate::rewrite::quantize::{self, QuantizeOptions};
use crate::rewrite::samples;
use crate::{DType, Dim, Tensor, bert};

fn name(graph: &Graph, value: ValueId) -> &str {
    graph.value_name(value)
}

/// A user's encoder: normalization before the blocks, scaled queries, no biases but one, ReLU,
/// names of its own, two heads of three in a width of four.
struct Foreign {
    graph: Graph,
}

impl Foreign {
    fn weight(&mut self, name: &str, shape: &[usize]) -> ValueId {
        self.graph.add_weight(name, bert::normal(3, name, shape, 0.4)).unwrap()
    }

    fn node(&mut self, name: &str, op: Op, inputs: &[ValueId]) -> ValueId {
        self.graph.add_node(name, op, inputs).unwrap()
    }

    fn norm(&mut self, name: &str, x: ValueId) -> ValueId {
        let scale = self.weight(&format!("{name}.g"), &[4]);
        let bias = self.weight(&format!("{name}.b"), &[4]);
        self.node(name, Op::LayerNorm(LayerNorm { epsilon: 1e-5 }), &[x, scale, bias])
    }

    fn product(&mut self, name: &str, x: ValueId, shape: [usize; 2]) -> ValueId {
        let weight = self.weight(&format!("W_{name}"), &shape);
        self.node(name, Op::MatMul, &[x, weight])
    }

    fn heads(&mut self, name: &str, x: ValueId, permutation: [usize; 4]) -> ValueId {
        let shape = vec![0, 0, 2, 3];
        let split = self.node(&format!("{name}_split"), Op::Reshape(Reshape { shape }), &[x]);
        let transpose = Transpose { permutation: permutation.to_vec() };
        self.node(&format!("{name}_heads"), Op::Transpose(transpose), &[split])
    }

    fn layer(&mut self, index: usize, x: ValueId) -> ValueId {
        let at = |part: &str| format!("{part}{index}");
        let read = self.norm(&at("first_norm"), x);
        let query = self.product(&at("q"), read, [4, 6]);
        let key = self.product(&at("k"), read, [4, 6]);
        let value = self.product(&at("v"), read, [4, 6]);
        let scale = self.graph.add_weight(&at("root"), Tensor::scalar(0.577f32)).unwrap();
        let query = self.node(&at("scaled"), Op::Mul, &[scale, query]);
        // The scale stands between the product and the split, where a bias might.
        let query = self.heads(&at("q"), query, [0, 2, 1, 3]);
        let key = self.heads(&at("k"), key, [0, 2, 3, 1]);
        let value = self.heads(&at("v"), value, [0, 2, 1, 3]);
        let scores = self.node(&at("scores"), Op::MatMul, &[query, key]);
        let softmax = self.node(&at("attention"), Op::Softmax(Softmax {}), &[scores]);
        let mixed = self.node(&at("mixed"), Op::MatMul, &[softmax, value]);
        let back = Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] });
        let mixed = self.node(&at("back"), back, &[mixed]);
        let merged =
            self.node(&at("merged"), Op::Reshape(Reshape { shape: vec![0, 0, 6] }), &[mixed]);
        let attended = self.product(&at("o"), merged, [6, 4]);
        let middle = self.node(&at("middle"), Op::Add, &[x, attended]);
        let read = self.norm(&at("second_norm"), middle);
        let up = self.product(&at("up"), read, [4, 5]);
        let bias = self.weight(&at("up_bias"), &[5]);
        let up = self.node(&at("up_biased"), Op::Add, &[bias, up]);
        let units = self.node(&at("units"), Op::Relu, &[up]);
        let down = self.product(&at("down"), units, [5, 4]);
        self.node(&at("out"), Op::Add, &[down, middle])
    }
}

pub(crate) fn foreign() -> Graph {
    let mut foreign = Foreign { graph: Graph::new("foreign") };
    let shape = vec![Dim::symbol("batch"), 4.into()];
    let ids = foreign.graph.add_input("tokens", DType::I64, shape).unwrap();
    let table = foreign.weight("words", &[9, 4]);
    let positions = foreign.weight("places", &[4, 4]);
    let looked = foreign.node("looked", Op::Gather(Gather { axis: 0 }), &[table, ids]);
    let mut x = foreign.node("placed", Op::Add, &[positions, looked]);
    for index in 0..2 {
        x = foreign.layer(index, x);
    }
    let pooled = foreign.node("pooled", Op::ReduceSum(ReduceSum { axis: 1 }), &[x]);
    let answer = foreign.product("answer", pooled, [4, 2]);
    foreign.graph.set_outputs(&[answer]);
    foreign.graph
}

#[test]
fn linears_of_bert_have_their_checkpoint_names() {
    let graph = samples::bert();
    let linears = linears(&graph);
    assert_eq!(linears.len(), 3 * 6 + 1);
    let up = linears.iter().find(|x| x.name == "encoder.layer.1.intermediate.dense").unwrap();
    assert_eq!(name(&graph, up.input), "encoder.layer.1.attention.output.LayerNorm");
    assert_eq!(name(&graph, up.weight), "encoder.layer.1.intermediate.dense.weight");
    assert_eq!(
        up.bias.map(|bias| name(&graph, bias)),
        Some("encoder.layer.1.intermediate.dense.bias")
    );
    assert_eq!(name(&graph, up.output), "encoder.layer.1.intermediate.dense");
    assert_eq!((up.inputs, up.outputs), (4, 6));
    assert_eq!(name(&graph, linears[18].output), "logits");
}

#[test]
fn encoder_layers_of_bert() {
    let graph = samples::bert();
    let layers = encoder_layers(&graph).unwrap();
    assert_eq!(layers.len(), 3);
    let layer = &layers[2];
    let attention = &layer.attention;
    assert_eq!((attention.heads, attention.head_size, layer.feed_forward.units), (2, 2, 6));
    let names = [
        layer.input,
        attention.scores,
        attention.probabilities,
        attention.context,
        layer.middle,
        layer.feed_forward.activation,
        layer.output,
    ];
    let expected = [
        "encoder.layer.1.output.LayerNorm",
        "encoder.layer.2.attention.self.scores",
        "encoder.layer.2.attention.self.probabilities",
        "encoder.layer.2.attention.self.context",
        "encoder.layer.2.attention.output.LayerNorm",
        "encoder.layer.2.intermediate",
        "encoder.layer.2.output.LayerNorm",
    ];
    assert_eq!(names.map(|value| name(&graph, value)), expected);
    assert_eq!(attention.key.name, "encoder.layer.2.attention.self.key");
}

#[test]
fn embedding_of_bert() {
    let graph = samples::bert();
    let embedding = word_embedding(&graph).unwrap();
    assert_eq!(embedding.name, "embeddings.word_embeddings");
    assert_eq!(name(&graph, embedding.ids), "input_ids");
    assert_eq!(name(&graph, embedding.output), "embeddings.LayerNorm");
    let positions = embedding.positions.map(|table| name(&graph, table));
    assert_eq!(positions, Some("embeddings.position_embeddings.weight"));
}

#[test]
fn quantization_is_looked_through() {
    let mut graph = samples::bert();
    let names = |graph: &Graph| -> Vec<String> {
        let layers = encoder_layers(graph).unwrap().into_iter();
        let streams = layers.map(|layer| name(graph, layer.output).to_owned());
        let embedding = word_embedding(graph).unwrap();
        let tables = [embedding.name, name(graph, embedding.output).to_owned()];
        linears(graph).into_iter().map(|linear| linear.name).chain(streams).chain(tables).collect()
    };
    let (float, config) = (names(&graph), BertConfig::of(&graph).unwrap());
    quantize::insert(&mut graph, &QuantizeOptions { float: vec![], embeddings: true }).unwrap();
    assert_eq!(names(&graph), float);
    quantize::fold(&mut graph).unwrap();
    assert_eq!(names(&graph), float);
    assert_eq!(BertConfig::of(&graph).unwrap(), config);
}

#[test]
fn another_encoder_is_understood() {
    let graph = foreign();
    let layers = encoder_layers(&graph).unwrap();
    assert_eq!(layers.len(), 2);
    let layer = &layers[1];
    let values = [layer.input, layer.middle, layer.feed_forward.activation, layer.output];
    assert_eq!(values.map(|value| name(&graph, value)), ["out0", "middle1", "units1", "out1"]);
    assert_eq!(layer.attention.query.name, "W_q1");
    assert_eq!((layer.attention.heads, layer.attention.head_size), (2, 3));
    assert_eq!(layer.feed_forward.up.bias.map(|bias| name(&graph, bias)), Some("up_bias1"));
    assert_eq!(layer.feed_forward.down.bias, None);
    let embedding = word_embedding(&graph).unwrap();
    assert_eq!(name(&graph, embedding.output), "placed");
    assert_eq!(embedding.positions.map(|table| name(&graph, table)), Some("places"));
    let error = BertConfig::of(&graph).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no Gelu found in graph `foreign`: at `units0`, expected a Gelu between the feed-forward products"
    );
}

#[test]
fn a_graph_without_attention_is_refused() {
    let mut graph = Graph::new("perceptron");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 3.into()]).unwrap();
    let w = graph.add_weight("w", Tensor::from_fn(&[3, 2], |i| i as f32)).unwrap();
    let y = graph.add_node("y", Op::MatMul, &[x, w]).unwrap();
    let p = graph.add_node("p", Op::Softmax(Softmax {}), &[y]).unwrap();
    graph.set_outputs(&[p]);
    assert_eq!(linears(&graph).len(), 1);
    assert_eq!(
        encoder_layers(&graph).unwrap_err().to_string(),
        "no encoder layer found in graph `perceptron`: at `p`, expected a Softmax before it whose result multiplies a computed value"
    );
    assert_eq!(
        word_embedding(&graph).unwrap_err().to_string(),
        "no word embedding found in graph `perceptron`: at `x`, expected a Gather along axis 0 of a constant matrix by this input"
    );
}

#[test]
fn a_broken_layer_is_refused_by_the_part_that_is_missing() {
    let check = |value: &str, what: &str| {
        let mut graph = samples::bert();
        let id = graph.producer_id(graph.find(value).unwrap()).unwrap();
        let input = graph.node(id).inputs[0];
        let output = graph.node(id).output;
        graph.replace_uses(output, input);
        graph.refresh().unwrap();
        assert_eq!(encoder_layers(&graph).unwrap_err().what, what, "without `{value}`");
    };
    check("encoder.layer.1.intermediate", "feed-forward block");
    check("encoder.layer.1.attention.output.sum", "residual sum");
    check("encoder.layer.1.output.sum", "residual sum");
    check("encoder.layer.1.attention.output.LayerNorm", "layer normalization");
}

#[test]
fn sizes_of_a_graph_are_those_it_was_built_with() {
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let mut config = samples::config();
        config.pooling = pooling;
        config.activation = Gelu::Tanh;
        config.labels = 3;
        config.layers[1].heads = 1;
        config.layers[2].intermediate = 5;
        assert_eq!(BertConfig::of(&samples::build(&config)).unwrap(), config);
    }
}
