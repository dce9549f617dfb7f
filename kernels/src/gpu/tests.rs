#![allow(clippy::unwrap_used, reason = "a test's own steps do not fail")]
//! Every kernel against its twin for CPUs: on a GPU in builds for one, else on CubeCL's CPU runtime.

mod attention;
mod images;
mod integers;
mod products;

use half::bf16;

use super::*;
use crate::int8::{self, Quantization};
use crate::{Activation, Cpu, Function, NoKeys, Products, float};

/// The device that kernels are tested on; nothing, with a word why, where there is none.
fn gpu() -> Option<Gpu> {
    Gpu::under_test().map_err(|reason| println!("skipped: {reason}")).ok()
}

/// A device of one unit a cube, one of as many as kernels want, and one of 4, which are more than
/// the cores that stand in for a GPU.
fn gpus() -> Vec<Gpu> {
    let all = gpu();
    let most_units = |gpu: &Gpu| [1, gpu.units(256), 4];
    let with = |gpu: Gpu| most_units(&gpu).map(|units| gpu.clone().with_units(units)).to_vec();
    all.map(with).unwrap_or_default()
}

/// Numbers around ±1 by position and seed.
fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0).collect()
}

fn integers(count: usize, seed: usize) -> Vec<i8> {
    (0..count).map(|i| ((i * 37 + seed * 11) % 255) as u8 as i8).collect()
}

trait Bytes: Copy {
    fn bytes(all: &[Self]) -> Vec<u8>;
    fn values(bytes: &[u8]) -> Vec<Self>;
}

macro_rules! bytes {
    ($($type:ty)*) => {$(
        impl Bytes for $type {
            fn bytes(all: &[Self]) -> Vec<u8> {
                all.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
            fn values(bytes: &[u8]) -> Vec<Self> {
                let (all, _) = bytes.as_chunks();
                all.iter().map(|bytes| Self::from_le_bytes(*bytes)).collect()
            }
        }
    )*};
}
bytes!(f32 bf16 i8 i32 i64);

fn in_bf16(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

fn in_f32(values: &[bf16]) -> Vec<f32> {
    values.iter().copied().map(bf16::to_f32).collect()
}

fn upload<T: Bytes>(gpu: &Gpu, values: &[T]) -> Buffer {
    gpu.upload(&T::bytes(values))
}

fn empty<T>(gpu: &Gpu, count: usize) -> Buffer {
    gpu.empty(count * size_of::<T>())
}

fn read<T: Bytes>(gpu: &Gpu, buffer: &Buffer) -> Vec<T> {
    T::values(&gpu.read(&[buffer]).unwrap()[0])
}

/// Within `tolerance·max(1, |expected|)`.
#[track_caller]
fn assert_close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (index, (a, b)) in found.iter().zip(expected).enumerate() {
        let close = (a - b).abs() <= tolerance * b.abs().max(1.0) || a.is_nan() && b.is_nan();
        assert!(close, "element {index}: expected {b}, found {a}");
    }
}

/// Within one step: where a number lies between two integers, one bit of a float decides.
#[track_caller]
fn assert_steps(found: &[i8], expected: &[i8]) {
    assert_eq!(found.len(), expected.len());
    for (index, (&a, &b)) in found.iter().zip(expected).enumerate() {
        assert!(a.abs_diff(b) <= 1, "element {index}: expected {b}, found {a}");
    }
    let different = found.iter().zip(expected).filter(|(a, b)| a != b).count();
    assert!(different <= 1 + found.len() / 100, "{different} of {} differ", found.len());
}

#[test]
fn kernels_read_and_write_parts_of_one_buffer() {
    let Some(gpu) = gpu() else { return };
    let values: Vec<f32> = (0..12).map(|i| i as f32 - 3.0).collect();
    let buffer = upload(&gpu, &values);
    activate(&gpu, Activation::Relu, &buffer.slice(8..24), &buffer.slice(28..44));
    activate(&gpu, Activation::Relu, &buffer.slice(28..32), &buffer.slice(0..4));
    let expected = [0.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 0.0, 0.0, 1.0, 2.0, 8.0];
    assert_eq!(read::<f32>(&gpu, &buffer), expected);
}

/// Every activation.
const ACTIVATIONS: [Activation; 21] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Tanh,
    Activation::Map(Function::Abs),
    Activation::Map(Function::Neg),
    Activation::Map(Function::Reciprocal),
    Activation::Map(Function::Floor),
    Activation::Map(Function::Ceil),
    Activation::Map(Function::Sqrt),
    Activation::Map(Function::Exp),
    Activation::Map(Function::Log),
    Activation::Map(Function::Erf),
    Activation::Map(Function::Sigmoid),
    Activation::Map(Function::Swish { alpha: 1.5 }),
    Activation::Map(Function::HardSigmoid { alpha: 0.2, beta: 0.5 }),
    Activation::Map(Function::HardSwish),
    Activation::Map(Function::LeakyRelu { alpha: 0.1 }),
    Activation::Map(Function::Elu { alpha: 0.7 }),
    Activation::Map(Function::Clip { low: -1.0, high: 2.0 }),
];

/// Activations that are the same to the bit on every device.
const EXACT: [Activation; 4] = [
    Activation::Identity,
    Activation::Relu,
    Activation::Map(Function::Clip { low: -0.5, high: 0.75 }),
    Activation::Map(Function::LeakyRelu { alpha: 0.1 }),
];

#[test]
fn memory_keeps_what_is_written() {
    let Some(gpu) = gpu() else { return };
    let buffer = upload(&gpu, &[1i32, 2, 3, 4, 5]);
    assert_eq!(read::<i32>(&gpu, &buffer.slice(4..12)), [2, 3]);
    gpu.write(&buffer.slice(8..16), &i32::bytes(&[7, 8]));
    assert_eq!(read::<i32>(&gpu, &buffer), [1, 2, 7, 8, 5]);
    assert!(read::<i32>(&gpu, &buffer.slice(4..4)).is_empty());
    assert!(read::<i32>(&gpu, &gpu.upload(&[])).is_empty());
    gpu.sync().unwrap();
}

#[test]
fn activations_match() {
    let Some(gpu) = gpu() else { return };
    let cpu = Cpu::best();
    for count in [0, 1, 301] {
        let mut x: Vec<f32> = numbers(count, 1).iter().map(|x| x * 6.0 + 0.01).collect();
        if let Some(x) = x.get_mut(5) {
            *x = f32::NAN;
        }
        for activation in ACTIVATIONS {
            let mut expected = vec![0.0; count];
            crate::activate(cpu, activation, &x, &mut expected);
            let y = empty::<f32>(&gpu, count);
            activate(&gpu, activation, &upload(&gpu, &x), &y);
            assert_close(&read(&gpu, &y), &expected, 2e-6);
        }
    }
}

#[test]
fn pairs_broadcast() {
    let Some(gpu) = gpu() else { return };
    for (of_a, of_b, shape) in [
        (&[2, 3, 5][..], &[3, 1][..], &[2, 3, 5][..]),
        (&[2, 1, 3, 1], &[4, 1, 7], &[2, 4, 3, 7]),
        (&[], &[3], &[3]),
        (&[], &[], &[]),
        (&[0, 3], &[3], &[0, 3]),
    ] {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let (a, b) = (numbers(count(of_a), 3), numbers(count(of_b), 4));
        let buffers = [upload(&gpu, &a), upload(&gpu, &b)];
        let y = empty::<f32>(&gpu, count(shape));
        for pair in [Pair::Add, Pair::Sub, Pair::Mul, Pair::Div] {
            let function = |a: f32, b: f32| match pair {
                Pair::Add => a + b,
                Pair::Sub => a - b,
                Pair::Mul => a * b,
                Pair::Div => a / b,
            };
            pairs(&gpu, pair, [(&buffers[0], of_a), (&buffers[1], of_b)], (&y, shape));
            let expected = |i| function(a[place(i, shape, of_a)], b[place(i, shape, of_b)]);
            let expected: Vec<f32> = (0..count(shape)).map(expected).collect();
            assert_eq!(read::<f32>(&gpu, &y), expected);
        }
    }
}

/// Where element `index` of a row-major `shape` lies in what broadcasts to it.
fn place(mut index: usize, shape: &[usize], own: &[usize]) -> usize {
    let (mut place, mut stride) = (0, 1);
    for axis in (0..shape.len()).rev() {
        let coordinate = index % shape[axis];
        index /= shape[axis];
        if let Some(size) = (axis + own.len()).checked_sub(shape.len()).map(|axis| own[axis]) {
            place += coordinate % size * stride;
            stride *= size;
        }
    }
    place
}

#[test]
fn copies_move_elements() {
    let Some(gpu) = gpu() else { return };
    let x: Vec<i32> = (0..24).collect();
    let (x, y) = (upload(&gpu, &x), empty::<i32>(&gpu, 24));
    // [2, 3, 4] transposed to [4, 2, 3].
    copy(&gpu, 4, &x, &Strided::new(&[4, 2, 3], &[1, 12, 4], 0), &y);
    let expected: Vec<i32> = (0..24).map(|i| i / 6 + i / 3 % 2 * 12 + i % 3 * 4).collect();
    assert_eq!(read::<i32>(&gpu, &y), expected);
    // Columns 1..3 of its rows.
    let part = empty::<i32>(&gpu, 12);
    copy(&gpu, 4, &x, &Strided::new(&[6, 2], &[4, 1], 1), &part);
    let expected: Vec<i32> = (0..12).map(|i| i / 2 * 4 + 1 + i % 2).collect();
    assert_eq!(read::<i32>(&gpu, &part), expected);
    let bytes = gpu.upload(&[1, 2, 3, 4, 5]);
    let two = gpu.empty(2);
    copy(&gpu, 1, &bytes, &Strided::new(&[2], &[2], 1), &two);
    assert_eq!(gpu.read(&[&two]).unwrap()[0], [2, 4]);
    let (long, y) = (upload(&gpu, &[1i64 << 40, -5, 6]), empty::<i64>(&gpu, 4));
    copy(&gpu, 8, &long, &Strided::new(&[2, 2], &[0, 2], 0), &y);
    assert_eq!(read::<i64>(&gpu, &y), [1 << 40, 6, 1 << 40, 6]);
    copy(&gpu, 4, &x, &Strided::new(&[0, 2], &[4, 1], 0), &gpu.empty(0));
    gpu.sync().unwrap();
}

#[test]
fn casts_match() {
    let Some(gpu) = gpu() else { return };
    let y = empty::<f32>(&gpu, 3);
    cast(&gpu, (&upload(&gpu, &[0i64, 1, -70_000]), Number::I64), (&y, Number::F32));
    assert_eq!(read::<f32>(&gpu, &y), [0.0, 1.0, -70_000.0]);
    let floats = upload(&gpu, &[1.9f32, -1.9, 3.0]);
    let y = empty::<i64>(&gpu, 3);
    cast(&gpu, (&floats, Number::F32), (&y, Number::I64));
    assert_eq!(read::<i64>(&gpu, &y), [1, -1, 3]);
    let same = empty::<i64>(&gpu, 3);
    cast(&gpu, (&y, Number::I64), (&same, Number::I64));
    assert_eq!(read::<i64>(&gpu, &same), [1, -1, 3]);
    let same = empty::<f32>(&gpu, 3);
    cast(&gpu, (&floats, Number::F32), (&same, Number::F32));
    assert_eq!(read::<f32>(&gpu, &same), [1.9, -1.9, 3.0]);
    cast(&gpu, (&gpu.empty(0), Number::F32), (&gpu.empty(0), Number::I64));
    gpu.sync().unwrap();
}

#[test]
fn sums_match() {
    let Some(gpu) = gpu() else { return };
    for [outer, size, inner] in [[2, 7, 3], [1, 1, 1], [300, 2, 1], [2, 0, 3], [0, 2, 3]] {
        let x = numbers(outer * size * inner, 5);
        let y = empty::<f32>(&gpu, outer * inner);
        reduce_rows(&gpu, &upload(&gpu, &x), [outer, size, inner], &y);
        let element = |i: usize, row: usize| x[(i / inner * size + row) * inner + i % inner];
        let sum = |i: usize| (0..size).map(|row| element(i, row)).sum::<f32>();
        let expected: Vec<f32> = (0..outer * inner).map(sum).collect();
        assert_close(&read(&gpu, &y), &expected, 1e-6);
    }
}

#[test]
fn gathers_match() {
    let Some(gpu) = gpu() else { return };
    let cpu = Cpu::best();
    let indices = [3i64, 0, -1, 4, 2];
    let device_indices = upload(&gpu, &indices);
    let size = [5, 7];
    let y = empty::<f32>(&gpu, 35);
    let mut expected = vec![0.0; 35];
    let table = numbers(35, 6);
    gather_rows(&gpu, &upload(&gpu, &table), size, &device_indices, &y);
    crate::gather_rows(&table, size, &indices, &mut expected).unwrap();
    assert_eq!(read::<f32>(&gpu, &y), expected);

    gather_rows(&gpu, &upload(&gpu, &table), size, &gpu.empty(0), &gpu.empty(0));

    let table = integers(35, 7);
    let device_table = upload(&gpu, &table);
    let [rows, columns] = [numbers(5, 8), numbers(7, 9)];
    let [device_rows, device_columns] = [&rows, &columns].map(|scales| upload(&gpu, scales));
    for (scales, device) in [
        (crate::TableScales::Table(rows[0]), TableScales::Table(&device_rows.slice(0..4))),
        (crate::TableScales::Rows(&rows), TableScales::Rows(&device_rows)),
        (crate::TableScales::Columns(&columns), TableScales::Columns(&device_columns)),
    ] {
        crate::gather_rows_int8(cpu, &table, size, scales, &indices, &mut expected).unwrap();
        gather_rows_int8(&gpu, &device_table, size, device, &device_indices, &y);
        assert_eq!(read::<f32>(&gpu, &y), expected);
    }
}

#[test]
fn quantization_matches() {
    let Some(gpu) = gpu() else { return };
    let cpu = Cpu::best();
    let steps = [
        Quantization::symmetric(0.05),
        Quantization { scale: 0.25, zero_point: -7, min: -127, max: 127 },
    ];
    for (to, count) in steps.into_iter().flat_map(|to| [0, 1, 97].map(|count| (to, count))) {
        let mut x: Vec<f32> = numbers(count, 10).iter().map(|x| x * 9.0).collect();
        for (x, odd) in x.iter_mut().skip(3).zip([f32::NAN, f32::INFINITY, -1e30, 0.125]) {
            *x = odd;
        }
        let (mut integers, mut floats) = (vec![0; x.len()], vec![0.0; x.len()]);
        int8::quantize(cpu, &x, to, &mut integers);
        int8::dequantize(cpu, &integers, to, &mut floats);
        let [y, z] = [x.len(), 4 * x.len()].map(|bytes| gpu.empty(bytes));
        quantize(&gpu, &upload(&gpu, &x), to, &y);
        dequantize(&gpu, &y, (&upload(&gpu, &[to.scale]), to.zero_point), &z);
        assert_eq!(read::<i8>(&gpu, &y), integers);
        assert_eq!(read::<f32>(&gpu, &z), floats);
    }
    let (x, scales) = (integers(21, 1), numbers(7, 1));
    let mut expected = vec![0.0; 21];
    int8::dequantize_columns(cpu, &x, &scales, &mut expected);
    let y = empty::<f32>(&gpu, 21);
    dequantize_columns(&gpu, &upload(&gpu, &x), &upload(&gpu, &scales), &y);
    assert_eq!(read::<f32>(&gpu, &y), expected);
}

#[test]
fn norms_match() {
    let cpu = Cpu::best();
    for gpu in gpus() {
        for (rows, columns) in [(0, 3), (1, 1), (3, 5), (6, 33), (5, 64), (2, 300), (2, 2052)] {
            let [x, residual] = [1, 2].map(|seed| numbers(rows * columns, seed));
            let [gamma, beta] = [3, 4].map(|seed| numbers(columns, seed));
            let [on_x, on_residual, on_gamma, on_beta] =
                [&x, &residual, &gamma, &beta].map(|values| upload(&gpu, values));
            let epsilon = 1e-5;
            let norm = crate::LayerNorm { gamma: &gamma, beta: &beta, epsilon };
            let on_norm = LayerNorm { gamma: &on_gamma, beta: &on_beta, epsilon };
            let mut expected = vec![0.0; x.len()];
            let y = empty::<f32>(&gpu, x.len());

            crate::layer_norm(cpu, &x, &norm, &mut expected);
            layer_norm(&gpu, &on_x, None, &on_norm, Floats::F32(&y));
            assert_close(&read(&gpu, &y), &expected, 1e-5);

            crate::residual_layer_norm(cpu, &x, &residual, &norm, &mut expected);
            let rounded = [0, 1].map(|_| empty::<bf16>(&gpu, x.len()));
            let both = Floats::Both { exact: &y, rounded: &rounded[0] };
            for (y, rounded) in [(both, &rounded[0]), (Floats::Bf16(&rounded[1]), &rounded[1])] {
                layer_norm(&gpu, &on_x, Some(&on_residual), &on_norm, y);
                assert_close(&in_f32(&read(&gpu, rounded)), &expected, 4e-3);
            }
            assert_close(&read(&gpu, &y), &expected, 1e-5);

            let row = numbers(columns, 5);
            crate::residual_layer_norm(cpu, &x, &row, &norm, &mut expected);
            layer_norm(&gpu, &on_x, Some(&upload(&gpu, &row)), &on_norm, Floats::F32(&y));
            assert_close(&read(&gpu, &y), &expected, 1e-5);

            crate::softmax_forward(cpu, &x, columns, &mut expected);
            softmax(&gpu, &on_x, columns, &y);
            assert_close(&read(&gpu, &y), &expected, 1e-6);
        }
    }
}

#[test]
fn a_recording_runs_again_on_new_values() {
    let Some(gpu) = gpu() else { return };
    let gpu = gpu.with_own_queue();
    let x = upload(&gpu, &[-1.0f32, 2.0, -3.0]);
    let [y, z] = [0, 1].map(|_| empty::<f32>(&gpu, 3));
    let launch = || {
        activate(&gpu, Activation::Map(Function::Neg), &x, &y);
        activate(&gpu, Activation::Relu, &y, &z);
    };
    let recording = match gpu.record(launch) {
        Ok(recording) => recording,
        Err(reason) if gpu.name() == "emulated" => {
            println!("skipped: {reason}");
            // What could not be recorded can be launched, into other buffers.
            activate(&gpu, Activation::Relu, &x, &empty::<f32>(&gpu, 3));
            return gpu.sync().unwrap();
        }
        Err(reason) => panic!("{reason}"),
    };
    for values in [[-1.0f32, 2.0, -3.0], [4.0, -5.0, 6.0]] {
        gpu.write(&x, &f32::bytes(&values));
        recording.replay().unwrap();
        assert_eq!(read::<f32>(&gpu, &z), values.map(|value| (-value).max(0.0)));
    }
}

#[test]
fn convolutions_match() {
    let slide = crate::Slide::fitting;
    for gpu in gpus() {
        for ([batch, channels, outputs, groups], windows) in [
            ([2, 3, 5, 1], [slide(7, 3, 2, 1, [1, 1]), slide(6, 3, 1, 2, [2, 0])]),
            ([1, 4, 6, 2], [crate::Slide::ONE, slide(19, 5, 1, 1, [2, 2])]),
            ([3, 2, 17, 1], [slide(5, 1, 1, 1, [0, 0]), slide(5, 1, 1, 1, [0, 0])]),
            ([0, 2, 3, 1], [slide(2, 2, 1, 1, [0, 0]), slide(2, 2, 1, 1, [0, 0])]),
        ] {
            let sizes = crate::Conv2d { batch, channels, outputs, groups, windows };
            let of = |f: fn(&crate::Slide) -> usize| windows.iter().map(f).product::<usize>();
            let x = numbers(batch * channels * of(|slide| slide.input), 1);
            let weight = numbers(outputs * (channels / groups) * of(|slide| slide.kernel), 2);
            let bias = numbers(outputs, 3);
            let mut expected = vec![0.0; batch * outputs * of(|slide| slide.output)];
            let activation = Activation::Relu;
            let filters = crate::Filters { weight: &weight, bias: Some(&bias), activation };
            let mut scratch = vec![0.0; sizes.scratch_len()];
            crate::conv2d(Cpu::best(), &sizes, &x, &filters, &mut expected, &mut scratch);
            let [on_x, on_weight, on_bias] = [&x, &weight, &bias].map(|all| upload(&gpu, all));
            let filters = Filters { weight: &on_weight, bias: &on_bias, activation };
            let y = empty::<f32>(&gpu, expected.len());
            conv2d(&gpu, &sizes, &on_x, &filters, &y);
            assert_close(&read(&gpu, &y), &expected, 1e-5);
        }
    }
}
