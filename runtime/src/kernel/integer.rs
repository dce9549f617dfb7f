//! int8 linear layers, one kernel a tier, sums of int8 values, and gathering from int8 tables.

use graph::{DType, Dim, Tensor};
use kernels::int8::{self, Input, Layer, Output, PackedWeights};
use kernels::peaks::Numbers;
use kernels::{Cpu, TableScales, Tier, gather_rows_int8};

use super::{Call, Kernel, KernelEntry, Prepared, Scratch, any, elements_mut, expect_type, run};
use crate::compile::Precision;
use crate::cost::{Parallel, Rate};
use crate::module::{InputScale, IntegerLinear, IntegerSum, Module, Node, Operation};

const fn linear(name: &'static str, tier: Tier, cost: u32) -> KernelEntry {
    KernelEntry {
        name,
        operation: "IntegerLinear",
        tier: Some(tier),
        cost,
        accepts: any,
        prepare: prepare_linear,
    }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    linear("integer-linear.portable", Tier::Portable, 200),
    linear("integer-linear.avx2", Tier::Avx2, 30),
    linear("integer-linear.avx512", Tier::Avx512, 15),
    linear("integer-linear.vnni", Tier::Vnni, 5),
    linear("integer-linear.amx", Tier::Amx, 1),
    KernelEntry {
        name: "integer-sum",
        operation: "IntegerSum",
        tier: None,
        cost: 1,
        accepts: any,
        prepare: |_, node, cpu| match node.operation {
            Operation::IntegerSum(sum) => run(Sum { cpu, sum }),
            _ => unreachable!("the table pairs this kernel with sums of integers"),
        },
    },
    KernelEntry {
        name: "integer-gather",
        operation: "IntegerGather",
        tier: None,
        cost: 1,
        accepts: |module, node| expect_type(module, node, 2, DType::I64),
        prepare: prepare_gather,
    },
];

/// The content of a constant that the passes made sure of.
fn constant<'a>(module: &'a Module, node: &Node, input: usize) -> &'a Tensor {
    module.constant(node.inputs[input]).expect("the integer passes take constants only")
}

/// The portable tier multiplies one number at a time; on tiles, sums take longer to finish than to
/// make.
pub(super) fn integer_rate(cpu: Cpu) -> Rate {
    let share = match cpu.tier() {
        Tier::Portable => 0.05,
        Tier::Amx => 0.12,
        Tier::Avx2 | Tier::Avx512 | Tier::Vnni => 0.7,
    };
    let parallel = Parallel::MultiplyAdds(int8::PARALLEL_WORK);
    Rate { numbers: Numbers::Int8, share, parallel }
}

struct PackedLinear {
    cpu: Cpu,
    layer: IntegerLinear,
    weights: PackedWeights,
    /// Scale of the input times scale of the column, where that of the input is given.
    scales: Vec<f32>,
    /// Whether the result lies in memory as bf16.
    rounds: bool,
    /// Whether the model was compiled for bf16, so that nothing holds it to what was trained.
    coarse: bool,
}

fn prepare_linear(module: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::IntegerLinear(layer) = &node.operation else {
        unreachable!("the table pairs this kernel with integer linear nodes")
    };
    let tensor = constant(module, node, 1);
    let &[k, n] = tensor.shape() else { unreachable!("the pass takes matrices only") };
    let elements = tensor.elements().expect("the pass takes int8 weights only");
    let weights = PackedWeights::new(elements, [k, n], [n, 1]);
    let input = layer.input.given().map(|input| input.scale);
    let scales = layer.weight_scales.iter().filter_map(|scale| Some(input? * scale)).collect();
    let rounds = module.value(node.output).as_bf16;
    let coarse = module.precision == Precision::Bf16;
    run(PackedLinear { cpu, layer: layer.clone(), weights, scales, rounds, coarse })
}

impl Kernel for PackedLinear {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let rows = call.inputs[0].shape.iter().rev().skip(1).product();
        let (to, scales) = match self.layer.input {
            InputScale::Given(to) => (to, self.scales.as_slice()),
            InputScale::OfRange => {
                let to = int8::range_quantization(self.cpu, call.inputs[0].elements());
                let scales: &mut [f32] = elements_mut(call.scratch);
                let columns = scales.iter_mut().zip(&self.layer.weight_scales);
                columns.for_each(|(scale, of_column)| *scale = to.scale * of_column);
                (to, &*scales)
            }
        };
        let layer = Layer {
            weights: &self.weights,
            scales,
            bias: call.inputs.get(2).map(|bias| bias.elements()),
            activation: self.layer.activation,
            coarse: self.coarse,
        };
        let output = match self.layer.output {
            Some(to) => Output::Int8(elements_mut(call.output), to),
            None if self.rounds => Output::Bf16(elements_mut(call.output)),
            None => Output::F32(elements_mut(call.output)),
        };
        let x = match call.inputs[0].dtype {
            DType::F32 => Input::F32 { x: call.inputs[0].elements(), to },
            _ => Input::Int8 { x: call.inputs[0].elements(), zero_point: to.zero_point },
        };
        int8::linear(self.cpu, x, rows, &layer, output);
        Ok(())
    }

    /// Scales of the columns, where a run finds them out.
    fn scratch(&self, _: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let columns = Dim::Fixed(self.layer.weight_scales.len());
        let scratch = Scratch { element_bytes: size_of::<f32>(), shape: vec![columns] };
        self.layer.input.given().is_none().then_some(scratch)
    }

    fn rate(&self) -> Rate {
        integer_rate(self.cpu)
    }

    fn packed_input(&self) -> Option<usize> {
        Some(1)
    }

    fn packed_bytes(&self) -> usize {
        self.weights.size_bytes() + size_of_val(self.scales.as_slice())
    }
}

struct Sum {
    cpu: Cpu,
    sum: IntegerSum,
}

impl Kernel for Sum {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let IntegerSum { inputs, activation, output } = self.sum;
        let addends = [0, 1].map(|input| (call.inputs[input].elements(), inputs[input]));
        int8::quantized_sum(self.cpu, addends, activation, elements_mut(call.output), output);
        Ok(())
    }
}

struct IntegerGather {
    cpu: Cpu,
    axis: Option<usize>,
}

fn prepare_gather(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let Operation::IntegerGather { axis } = node.operation else {
        unreachable!("the table pairs this kernel with integer gather nodes")
    };
    run(IntegerGather { cpu, axis })
}

impl Kernel for IntegerGather {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let &[rows, row_len] = call.inputs[0].shape else { return Err("expected a table".into()) };
        let (table, scale) = (call.inputs[0].elements(), call.f32(1));
        let indices = call.inputs[2].elements();
        let scales = match self.axis {
            None => TableScales::Table(scale[0]),
            Some(0) => TableScales::Rows(scale),
            Some(_) => TableScales::Columns(scale),
        };
        let output = elements_mut(call.output);
        gather_rows_int8(self.cpu, table, [rows, row_len], scales, indices, output)
            .map_err(|error| error.to_string())
    }
}
