//! int8 layers, sums and tables, quantization and dequantization.

use graph::DType;
use kernels::gpu::{
    Buffer, Gpu, IntegerLayer, Output, TableScales, Weights, dequantize, dequantize_columns,
    gather_rows_int8, integer_linear, quantize, quantized_sum,
};
use kernels::int8::Quantization;

use super::float::{product_rows, zeros};
use super::movement::known_indices;
use super::{Call, GpuEntry, GpuKernel};
use crate::kernel::expect_type;
use crate::kernel::quantize::{accepts, accepts_columns, parameters};
use crate::module::{self, IntegerSum, Module, Node, Operation};

pub(super) const KERNELS: &[GpuEntry] = &[
    GpuEntry { name: "gpu.integer-linear", operation: "IntegerLinear", prepare: prepare_linear },
    GpuEntry {
        name: "gpu.integer-sum",
        operation: "IntegerSum",
        prepare: |_, _, node| match node.operation {
            Operation::IntegerSum(sum) => Ok(Box::new(Sum(sum))),
            _ => Err("takes sums of integers only".to_owned()),
        },
    },
    GpuEntry { name: "gpu.integer-gather", operation: "IntegerGather", prepare: prepare_gather },
    GpuEntry { name: "gpu.quantize", operation: "QuantizeLinear", prepare: prepare_quantize },
    GpuEntry {
        name: "gpu.dequantize-columns",
        operation: "DequantizeLinear",
        prepare: |_, module, node| {
            accepts_columns(module, node)?;
            expect_type(module, node, 0, DType::I8)?;
            Ok(Box::new(DequantizeColumns))
        },
    },
    GpuEntry { name: "gpu.dequantize", operation: "DequantizeLinear", prepare: prepare_dequantize },
];

/// Weights in int8 on the device, with what follows their sums.
pub(super) struct IntegerWeights {
    layer: module::IntegerLinear,
    input: Quantization,
    weights: Weights,
    column_sums: Buffer,
    scales: Buffer,
    no_bias: Buffer,
}

/// How the input of a layer is written, and the scale of each column of its sums.
///
/// # Errors
/// When a run finds out how its input is written.
pub(super) fn given_scales(
    layer: &module::IntegerLinear,
) -> Result<(Quantization, Vec<f32>), String> {
    let input = layer.input.given().ok_or("takes given scales only")?;
    Ok((input, layer.weight_scales.iter().map(|scale| input.scale * scale).collect()))
}

impl IntegerWeights {
    /// `column_sums`: of each column of the weights.
    pub(super) fn new(
        gpu: &Gpu,
        layer: &module::IntegerLinear,
        (input, scales): (Quantization, Vec<f32>),
        weights: Weights,
        column_sums: &[i32],
    ) -> Self {
        Self {
            layer: layer.clone(),
            input,
            weights,
            column_sums: gpu.upload(bytemuck::cast_slice(column_sums)),
            scales: gpu.upload(bytemuck::cast_slice(&scales)),
            no_bias: zeros(gpu, column_sums.len()),
        }
    }

    /// The parameters of a launch.
    pub(super) fn layer<'a>(&'a self, call: &'a Call<'_>) -> IntegerLayer<'a> {
        IntegerLayer {
            weights: &self.weights,
            column_sums: &self.column_sums,
            scales: &self.scales,
            bias: call.inputs.get(2).map_or(&self.no_bias, |bias| &bias.buffer),
            input: self.input,
            float_input: call.inputs[0].dtype == DType::F32,
            activation: self.layer.activation,
        }
    }

    pub(super) fn output<'a>(&self, call: &'a Call<'_>) -> Output<'a> {
        output(&self.layer, call)
    }

    pub(super) fn writes_bf16(&self) -> bool {
        self.layer.output.is_none() && self.weights.writes_bf16()
    }

    pub(super) fn bytes(&self) -> usize {
        let vectors = [&self.column_sums, &self.scales, &self.no_bias];
        self.weights.bytes() + vectors.map(Buffer::len).iter().sum::<usize>()
    }
}

/// Where the result of a layer goes.
pub(super) fn output<'a>(layer: &module::IntegerLinear, call: &'a Call<'_>) -> Output<'a> {
    match layer.output {
        Some(to) => Output::Int8(&call.output, to),
        None => Output::Floats(call.floats()),
    }
}

struct Linear(IntegerWeights);

fn prepare_linear(gpu: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let Operation::IntegerLinear(layer) = &node.operation else {
        return Err("takes integer linear nodes only".to_owned());
    };
    let given = given_scales(layer)?;
    let tensor = module.constant(node.inputs[1]).ok_or("takes constant weights only")?;
    let &[inner, columns] = tensor.shape() else { return Err("takes a matrix only".to_owned()) };
    let elements: &[i8] = tensor.elements().map_err(|error| error.to_string())?;
    let mut column_sums = vec![0i32; columns];
    for row in elements.chunks_exact(columns.max(1)) {
        column_sums.iter_mut().zip(row).for_each(|(sum, &weight)| *sum += i32::from(weight));
    }
    let weights = Weights::int8(gpu, elements, [inner, columns]);
    Ok(Box::new(Linear(IntegerWeights::new(gpu, layer, given, weights, &column_sums))))
}

impl GpuKernel for Linear {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let (x, rows) = (&call.inputs[0].buffer, product_rows(call));
        integer_linear(gpu, x, rows, &self.0.layer(call), self.0.output(call));
        Ok(())
    }

    fn writes_bf16(&self) -> bool {
        self.0.writes_bf16()
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.0.bytes()
    }
}

struct Sum(IntegerSum);

impl GpuKernel for Sum {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let IntegerSum { inputs, activation, output } = self.0;
        let addends = [0, 1].map(|input| (&call.inputs[input].buffer, inputs[input]));
        quantized_sum(gpu, addends, activation, (&call.output, output));
        Ok(())
    }
}

struct Gather {
    axis: Option<usize>,
}

fn prepare_gather(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    let Operation::IntegerGather { axis } = node.operation else {
        return Err("takes integer gather nodes only".to_owned());
    };
    expect_type(module, node, 2, DType::I64)?;
    known_indices(module, node, 2)?;
    Ok(Box::new(Gather { axis }))
}

impl GpuKernel for Gather {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let [table, scale, indices] = call.inputs else {
            return Err("expected a table, its scales and indices".to_owned());
        };
        let &[rows, row_len] = table.shape else { return Err("expected a table".to_owned()) };
        let scales = match self.axis {
            None => TableScales::Table(&scale.buffer),
            Some(0) => TableScales::Rows(&scale.buffer),
            Some(_) => TableScales::Columns(&scale.buffer),
        };
        let size = [rows, row_len];
        gather_rows_int8(gpu, &table.buffer, size, scales, &indices.buffer, &call.output);
        Ok(())
    }

    fn indices(&self) -> Option<usize> {
        Some(2)
    }
}

struct Quantize(Quantization);

fn prepare_quantize(_: &Gpu, module: &Module, node: &Node) -> Result<Box<dyn GpuKernel>, String> {
    accepts(module, node)?;
    Ok(Box::new(Quantize(parameters(module, node))))
}

impl GpuKernel for Quantize {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        quantize(gpu, &call.inputs[0].buffer, self.0, &call.output);
        Ok(())
    }
}

struct Dequantize {
    scale: Buffer,
    zero_point: i8,
}

fn prepare_dequantize(
    gpu: &Gpu,
    module: &Module,
    node: &Node,
) -> Result<Box<dyn GpuKernel>, String> {
    accepts(module, node)?;
    let Quantization { scale, zero_point, .. } = parameters(module, node);
    Ok(Box::new(Dequantize { scale: gpu.upload(&scale.to_ne_bytes()), zero_point }))
}

impl GpuKernel for Dequantize {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let from = (&self.scale, self.zero_point);
        dequantize(gpu, &call.inputs[0].buffer, from, &call.output);
        Ok(())
    }

    fn packed_bytes(&self) -> usize {
        self.scale.len()
    }
}

struct DequantizeColumns;

impl GpuKernel for DequantizeColumns {
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String> {
        let [x, scales] = [0, 1].map(|input| &call.inputs[input].buffer);
        dequantize_columns(gpu, x, scales, &call.output);
        Ok(())
    }
}
