//! Dimensions in another order.

use kernels::{permute, permute_any};
use proptest::prelude::*;

use super::{numbers, on_any_threads, on_every_tier};

/// Element by element, by its indices.
fn twin<T: Copy>(x: &[T], shape: &[usize], permutation: &[usize]) -> Vec<T> {
    let stride = |axis: usize| shape[axis + 1..].iter().product::<usize>();
    let place = |mut index: usize| {
        let mut place = 0;
        for &axis in permutation.iter().rev() {
            place += index % shape[axis] * stride(axis);
            index /= shape[axis];
        }
        place
    };
    (0..x.len()).map(|index| x[place(index)]).collect()
}

fn check(shape: &[usize], permutation: &[usize]) {
    let x = numbers(shape.iter().product(), 5);
    let y = on_every_tier(|cpu| {
        let mut y = vec![f32::NAN; x.len()];
        permute(cpu, &x, shape, permutation, &mut y);
        y
    });
    assert_eq!(y, twin(&x, shape, permutation), "{shape:?} {permutation:?}");
    let bytes: Vec<u8> = (0..x.len()).map(|index| index as u8).collect();
    let mut y = vec![0; x.len()];
    permute_any(&bytes, shape, permutation, &mut y);
    assert_eq!(y, twin(&bytes, shape, permutation), "{shape:?} {permutation:?}");
}

proptest! {
    #[test]
    fn any_order(
        (shape, permutation) in (0usize..6).prop_flat_map(|rank| {
            let axes: Vec<usize> = (0..rank).collect();
            (prop::collection::vec(0usize..12, rank), Just(axes).prop_shuffle())
        })
    ) {
        check(&shape, &permutation);
    }

    #[test]
    fn matrices(batch in 1usize..4, rows in 0usize..80, columns in 0usize..80) {
        check(&[batch, rows, columns], &[0, 2, 1]);
    }
}

#[test]
fn large_ones_do_not_depend_on_threads() {
    for (shape, permutation) in [
        (&[2, 3, 120, 70][..], &[0, 2, 3, 1][..]),
        (&[120, 70, 3], &[2, 0, 1]),
        (&[300, 250], &[1, 0]),
        (&[4, 50, 6, 40], &[0, 2, 1, 3]),
        (&[30, 40, 50], &[2, 1, 0]),
    ] {
        on_any_threads(|| {
            check(shape, permutation);
            Vec::<f32>::new()
        });
    }
}

#[test]
#[should_panic(expected = "permute: [1, 1] of [2, 2]")]
fn every_dimension_has_to_be_named() {
    permute(kernels::Cpu::best(), &[0.0; 4], &[2, 2], &[1, 1], &mut [0.0; 4]);
}
