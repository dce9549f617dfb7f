//! Images whose channels are last, and images of another size.

use super::windows::area;
use super::*;
use crate::channels_last::{self, Filters as Last, PackedFilters};
use crate::{Conv2d, Pooling, Sample, Slide};

/// Batch, channels, outputs and groups, and the windows.
fn convolutions() -> Vec<Conv2d> {
    let square = |slide: Slide| [slide; 2];
    [
        ([2, 3, 5, 1], [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 3, 1, 2, [2, 0])]),
        ([1, 8, 12, 1], [Slide::ONE, Slide::fitting(19, 5, 1, 1, [2, 2])]),
        ([2, 16, 8, 1], square(Slide::fitting(5, 1, 1, 1, [0, 0]))),
        ([2, 16, 24, 1], square(Slide::fitting(9, 3, 2, 1, [1, 0]))),
        ([3, 24, 17, 1], square(Slide::fitting(6, 1, 2, 1, [0, 0]))),
        ([0, 2, 3, 1], square(Slide::fitting(2, 2, 1, 1, [0, 0]))),
        ([2, 8, 8, 8], [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 3, 1, 2, [2, 0])]),
        ([1, 5, 5, 5], square(Slide::fitting(6, 5, 1, 1, [2, 2]))),
        ([2, 16, 24, 2], square(Slide::fitting(5, 3, 1, 1, [1, 1]))),
    ]
    .map(|([batch, channels, outputs, groups], windows)| Conv2d {
        batch,
        channels,
        outputs,
        groups,
        windows,
    })
    .to_vec()
}

#[test]
fn convolutions_of_channels_last_match() {
    for gpu in gpus() {
        for conv in convolutions() {
            let Conv2d { batch, channels, outputs, groups, windows } = conv;
            let taps = area(&windows, |slide| slide.kernel);
            let seen = channels / groups;
            let elements = batch * outputs * area(&windows, |slide| slide.output);
            let x = numbers(batch * channels * area(&windows, |slide| slide.input), 1);
            let weight = numbers(outputs * seen * taps, 2);
            let [bias, addend] = [numbers(outputs, 3), numbers(elements, 4)];
            let activation = Activation::Relu;
            let expected = |weight: &[f32], x: &[f32], addend: Option<&[f32]>| {
                let packed = PackedFilters::new(weight, [outputs, seen, taps], groups);
                let filters = Last { weight: &packed, bias: Some(&bias), addend, activation };
                let mut scratch = vec![0.0; channels_last::scratch_len(&conv)];
                let mut y = vec![0.0; elements];
                channels_last::conv2d(Cpu::best(), &conv, x, &filters, &mut y, &mut scratch);
                y
            };
            let [on_x, on_bias, on_addend] = [&x, &bias, &addend].map(|all| upload(&gpu, all));
            let rounded = |values: &[f32]| in_f32(&in_bf16(values));
            for (in_bf16, added) in [(false, false), (false, true), (true, false), (true, true)] {
                let (seen_x, seen_weight) = match in_bf16 {
                    true => (rounded(&x), rounded(&weight)),
                    false => (x.clone(), weight.clone()),
                };
                let on_addend = added.then_some(&on_addend);
                let expected = expected(&seen_weight, &seen_x, added.then_some(&addend));
                let y = empty::<f32>(&gpu, elements);
                let launch = |x: Floats<'_>, y: Floats<'_>| {
                    let sizes = [outputs, seen, taps];
                    if groups == 1 {
                        let weights = Weights::filters(&gpu, &weight, sizes, in_bf16);
                        let layer = Layer { weights: &weights, bias: &on_bias, activation };
                        linear_of_windows(&gpu, &conv, x, &layer, on_addend, y);
                        return weights.reads_bf16();
                    }
                    let filters = GroupFilters::new(&gpu, &weight, sizes, Some(&bias), in_bf16);
                    conv2d_of_groups(&gpu, &conv, x, &filters, activation, on_addend, y);
                    in_bf16
                };
                let reads_bf16 = launch(Floats::F32(&on_x), Floats::F32(&y));
                assert_close(&read(&gpu, &y), &expected, 2e-5);
                if reads_bf16 {
                    let on_x = upload(&gpu, &super::in_bf16(&x));
                    let y = empty::<bf16>(&gpu, elements);
                    launch(Floats::Bf16(&on_x), Floats::Bf16(&y));
                    assert_close(&in_f32(&read(&gpu, &y)), &expected, 5e-3);
                }
            }
        }
    }
}

#[test]
fn pools_match() {
    let cpu = Cpu::best();
    for gpu in gpus() {
        for (batch, channels, windows) in [
            (2, 5, [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 2, 1, 2, [1, 0])]),
            (1, 8, [Slide::ONE, Slide::fitting(9, 3, 3, 1, [0, 0])]),
            (1, 3, [Slide { output: 4, after: 2, ..Slide::fitting(6, 3, 2, 1, [1, 1]) }; 2]),
            (0, 4, [Slide::fitting(2, 2, 1, 1, [0, 0]); 2]),
        ] {
            let elements = batch * channels * area(&windows, |slide| slide.output);
            let mut x = numbers(batch * channels * area(&windows, |slide| slide.input), 1);
            if let Some(first) = x.first_mut() {
                *first = f32::NAN;
            }
            let on_x = upload(&gpu, &x);
            for pooling in [Pooling::Max, Pooling::Average, Pooling::AverageWithPadding] {
                let mut expected = vec![0.0; elements];
                let sizes = [batch, channels];
                channels_last::pool2d(cpu, pooling, sizes, &windows, &x, &mut expected);
                let y = empty::<f32>(&gpu, elements);
                pool2d(&gpu, pooling, sizes, &windows, &on_x, &y);
                assert_close(&read(&gpu, &y), &expected, 1e-6);
            }
        }
        for sizes in [[2, 21, 37], [1, 1, 5], [3, 9, 64], [0, 4, 4]] {
            let mut x = numbers(sizes.iter().product(), 1);
            for index in [0, sizes[2] * 3 + 1] {
                if sizes[1] > 3 && index < x.len() {
                    x[index] = f32::NAN;
                }
            }
            let on_x = upload(&gpu, &x);
            for pooling in [Pooling::Max, Pooling::Average] {
                let mut expected = vec![0.0; sizes[0] * sizes[2]];
                channels_last::global_pool(cpu, pooling, sizes, &x, &mut expected);
                let y = empty::<f32>(&gpu, expected.len());
                global_pool(&gpu, pooling, sizes, &on_x, &y);
                assert_close(&read(&gpu, &y), &expected, 1e-6);
            }
        }
    }
}

#[test]
fn transposed_convolutions_match() {
    for gpu in gpus() {
        for ([batch, channels, outputs], windows) in [
            ([2, 3, 5], [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 3, 1, 2, [2, 0])]),
            ([1, 4, 6], [Slide::ONE, Slide::fitting(19, 5, 2, 1, [2, 2])]),
            ([1, 2, 3], [Slide::fitting(4, 2, 2, 1, [0, 0]); 2]),
        ] {
            // Of the convolution that it is the transpose of, from y to x.
            let conv = Conv2d { batch, channels: outputs, outputs: channels, groups: 1, windows };
            let taps = area(&windows, |slide| slide.kernel);
            let x = numbers(batch * channels * area(&windows, |slide| slide.output), 1);
            let weight = numbers(channels * outputs * taps, 2);
            let bias = numbers(outputs, 3);
            let mut expected = vec![0.0; batch * outputs * area(&windows, |slide| slide.input)];
            let packed = channels_last::pack_transposed(&weight, [channels, outputs, taps]);
            let mut scratch = vec![0.0; channels_last::transposed_scratch_len(&conv)];
            channels_last::conv_transpose2d(
                Cpu::best(),
                &conv,
                &x,
                &packed,
                Some(&bias),
                &mut expected,
                &mut scratch,
            );
            let filters =
                TransposedFilters::new(&gpu, &weight, [channels, outputs, taps], Some(&bias));
            let y = empty::<f32>(&gpu, expected.len());
            conv_transpose2d(&gpu, &conv, &upload(&gpu, &x), &filters, &y);
            assert_close(&read(&gpu, &y), &expected, 1e-5);
        }
    }
}

#[test]
fn scaling_by_channel_matches() {
    let Some(gpu) = gpu() else { return };
    let (x, scale, shift) = (numbers(7 * 5, 1), numbers(5, 2), numbers(5, 3));
    let mut expected = vec![0.0; x.len()];
    let cpu = Cpu::best();
    channels_last::scale_shift(cpu, &x, &scale, &shift, Activation::Relu, &mut expected);
    let [on_x, on_scale, on_shift] = [&x, &scale, &shift].map(|all| upload(&gpu, all));
    let y = empty::<f32>(&gpu, x.len());
    scale_shift(&gpu, &on_x, [&on_scale, &on_shift], Activation::Relu, &y);
    assert_close(&read(&gpu, &y), &expected, 1e-6);
}

#[test]
fn resampling_matches() {
    let Some(gpu) = gpu() else { return };
    let weighted = |weights: &[(usize, f32)]| Sample::Weighted(weights.to_vec());
    let first =
        [weighted(&[(2, 1.0)]), Sample::Fill(0.5), weighted(&[(0, 0.25), (1, 0.5), (2, 0.25)])];
    let second = [weighted(&[(0, 0.5), (1, 0.5)]), weighted(&[]), Sample::Fill(-2.0)];
    let x = numbers(2 * 3 * 2 * 5, 1);
    let (mut between, mut expected) = (vec![0.0; 2 * 3 * 2 * 5], vec![0.0; 2 * 3 * 3 * 5]);
    let cpu = Cpu::best();
    crate::resample(cpu, &x, [2, 3, 10], &first, &mut between);
    crate::resample(cpu, &between, [6, 2, 5], &second, &mut expected);
    let [first, second] = [&first, &second].map(|samples| Samples::new(&gpu, samples));
    let y = empty::<f32>(&gpu, expected.len());
    resample(&gpu, &upload(&gpu, &x), [2, 3, 2, 5], [&first, &second], &y);
    assert_close(&read(&gpu, &y), &expected, 1e-6);
}

#[test]
fn parts_lie_side_by_side() {
    let Some(gpu) = gpu() else { return };
    let y = empty::<i32>(&gpu, 2 * 5);
    copy_part(&gpu, 4, &upload(&gpu, &[1i32, 2, 3, 4, 5, 6]), 3, &y, [5, 0]);
    copy_part(&gpu, 4, &upload(&gpu, &[7i32, 8, 9, 10]), 2, &y, [5, 3]);
    assert_eq!(read::<i32>(&gpu, &y), [1, 2, 3, 7, 8, 4, 5, 6, 9, 10]);
}
