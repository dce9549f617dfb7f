//! Float layers, norms, attention, sums.

use graph::{DType, Dim, Op};
use kernels::gpu::{
    Buffer, Gpu, Heads, Layer, LayerNorm, Mask, Output, Weights, attention, attention_takes_bf16,
    layer_norm, linear, reduce_rows, softmax, supports_head,
};
use kernels::{Activation, Attention, Products};

use super::{Call, GpuEntry, GpuKernel, Operand, operator};
use crate::compile::Precision;
use crate::kernel::attention::mask_strides;
use crate::kernel::{expect_type, floats};
use crate::module::{HeadPlace, HeadSplit, Module, Node, Operation};

pub(super) const KERNELS: &[GpuEntry] = &[
    GpuEntry { name: "gpu.linear", operation: "Linear", prepare: prepare_linear },
    GpuEntry { name: "gpu.layer-norm", operation: "LayerNormalization", prepare: prepare_norm },
    GpuEntry {
        name: "gpu.residual-layer-norm",
        operation: "ResidualLayerNorm",
        prepare: prepare_norm,
    },
    GpuEntry { name: "gpu.softmax", operation: "Softmax", prepare: prepare_softmax },
    GpuEntry { name: "gpu.attention", operation: "FusedAttention", prepare: prepare_attention },
    GpuEntry { name: "gpu.reduce-sum", operation: "ReduceSum", prepare: prepare_sum },
];

/// A vector of zeros for layers without a bias.
pub(super) fn zeros(gpu: &Gpu, count: usize) -> Buffer {
    gpu.upload(&vec![0; count * size_of::<f32>()])
}

/// Rows of a product.
pub(super) fn product_rows(call: &Call<'_>) -> usize {
    call.inputs[0].shape.iter().rev().skip(1).product()
}

struct Linear {
    weights: Weights,
    no_bias: Buffer,
    activation: Activation,
}

fn prepare_linear(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let Operation::Linear { activation } = node.operation else {
        return Err("takes linear nodes only".to_owned());
    };
    expect_type(module, node, 1, DType::F32)?;
    let tensor = module.constant(node.inputs[1]).ok_or("takes constant weights only")?;
    let &[inner, columns] = tensor.shape() else { return Err("takes a matrix only".to_owned()) };
    let elements = tensor.elements::<f32>().map_err(|error| error.to_string())?;
    let weights = match module.precision {
        Precision::Bf16 => Weights::bf16(gpu, elements, [inner, columns]),
        Precision::F32 => Weights::f32(gpu, elements, [inner, columns]),
    };
    Ok(Box::new(Linear { weights, no_bias: zeros(gpu, columns), activation }))
}

impl GpuKernel for Linear {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let layer = Layer {
            weights: &self.weights,
            bias: call.inputs.get(2).map_or(&self.no_bias, |bias| &bias.buffer),
            activation: self.activation,
        };
        linear(gpu, call.inputs[0].floats(), product_rows(call), &layer, call.floats());
        Ok(())
    }

    fn reads_bf16(&self, input: usize) -> bool {
        input == 0 && self.weights.reads_bf16()
    }

    fn writes_bf16(&self) -> bool {
        self.weights.writes_bf16()
    }

    fn writes_both(&self) -> bool {
        self.weights.writes_bf16()
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.bytes() + self.no_bias.len()
    }
}

struct Norm {
    epsilon: f32,
    residual: bool,
}

fn prepare_norm(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    let (epsilon, residual) = match &node.operation {
        Operation::Graph(Op::LayerNorm(op)) => (op.epsilon, false),
        Operation::ResidualLayerNorm { epsilon } => (*epsilon, true),
        _ => return Err("takes layer norms only".to_owned()),
    };
    Ok(Box::new(Norm { epsilon, residual }))
}

impl GpuKernel for Norm {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let parameters = 1 + usize::from(self.residual);
        let [gamma, beta] = [0, 1].map(|offset| &call.inputs[parameters + offset].buffer);
        let norm = LayerNorm { gamma, beta, epsilon: self.epsilon };
        let residual = self.residual.then(|| &call.inputs[1].buffer);
        layer_norm(gpu, &call.inputs[0].buffer, residual, &norm, call.floats());
        Ok(())
    }

    fn writes_bf16(&self) -> bool {
        true
    }

    fn writes_both(&self) -> bool {
        true
    }
}

struct Softmax;

fn prepare_softmax(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    Ok(Box::new(Softmax))
}

impl GpuKernel for Softmax {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let columns = call.shape.last().copied().unwrap_or(1);
        softmax(gpu, &call.inputs[0].buffer, columns, &call.output);
        Ok(())
    }
}

struct Fused {
    split: HeadSplit,
    /// Where q, k and v start in rows of tokens.
    columns: [usize; 3],
    products: Products,
    takes_bf16: bool,
}

fn prepare_attention(
    gpu: &Gpu,
    module: &Module,
    node: &Node,
) -> Result<Box<dyn GpuKernel>, String> {
    let Operation::Attention(split) = &node.operation else {
        return Err("takes attentions only".to_owned());
    };
    supports_head(split.head_size)?;
    let columns = columns(split)?;
    let products = match module.precision {
        Precision::F32 => Products::F32,
        Precision::Bf16 => Products::Bf16,
    };
    let width = match module.value(node.inputs[0]).shape.last() {
        Some(Dim::Fixed(width)) => Some(*width),
        _ => None,
    };
    let one_input = node.inputs[..3].iter().all(|input| *input == node.inputs[0]);
    let takes_bf16 =
        width.filter(|_| one_input && products == Products::Bf16).is_some_and(|width| {
            let places = [&columns[..], &[width]].concat();
            attention_takes_bf16(gpu, split.head_size, &places)
        });
    Ok(Box::new(Fused { split: split.clone(), columns, products, takes_bf16 }))
}

/// Where q, k and v start in rows of tokens.
fn columns(split: &HeadSplit) -> Result<[usize; 3], String> {
    let column = |place: &HeadPlace| match *place {
        HeadPlace::InRows { column } if split.sharing == 1 => Some(column),
        _ => None,
    };
    match split.places.each_ref().map(column) {
        [Some(q), Some(k), Some(v)] => Ok([q, k, v]),
        _ => Err("takes heads side by side in rows, one for each query's".to_owned()),
    }
}

impl GpuKernel for Fused {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let HeadSplit { heads, head_size, scale, no_keys, output, .. } = self.split;
        let tokens = |input: usize| call.inputs[input].shape[1];
        let batch = call.inputs[0].shape[0];
        let (queries, keys) = (tokens(0), tokens(1));
        let products = self.products;
        let sizes = Attention { batch, heads, queries, keys, head_size, scale, no_keys, products };
        let qkv = [0, 1, 2].map(|part| Heads {
            data: call.inputs[part].floats(),
            start: self.columns[part],
            row_stride: call.inputs[part].shape[2],
        });
        let output = match output {
            Some(to) => Output::Int8(&call.output, to),
            None => Output::Floats(call.floats()),
        };
        attention(gpu, &sizes, qkv, call.inputs.get(3).map(mask), output);
        Ok(())
    }

    fn reads_bf16(&self, input: usize) -> bool {
        input < 3 && self.takes_bf16
    }

    fn writes_bf16(&self) -> bool {
        self.takes_bf16 && self.split.output.is_none()
    }
}

fn mask<'a>(operand: &'a Operand<'_>) -> Mask<'a> {
    Mask { data: &operand.buffer, strides: mask_strides(operand.shape) }
}

struct Sum {
    axis: usize,
}

fn prepare_sum(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    floats(module, node)?;
    match operator(node) {
        Some(Op::ReduceSum(op)) => Ok(Box::new(Sum { axis: op.axis })),
        _ => Err("takes sums only".to_owned()),
    }
}

impl GpuKernel for Sum {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        let outer = x.shape[..self.axis].iter().product();
        let inner = x.shape[self.axis + 1..].iter().product();
        reduce_rows(gpu, &x.buffer, [outer, x.shape[self.axis], inner], &call.output);
        Ok(())
    }
}
