//! Dropout (Srivastava et al. 2014, <https://jmlr.org/papers/v15/srivastava14a.html>), inverted:
//! what is kept is scaled up, so that nothing changes when nothing is dropped.

use burn::backend::flex::FlexTensor;
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, Operation};
use crate::device::Device;
use crate::random::{derive, mix};

/// Elements that one thread takes at once; a multiple of [`GROUP`].
const CHUNK: usize = 16 * 1024;

/// Elements decided by one 64-bit random number, 16 bits each.
const GROUP: usize = 4;

/// Which elements stay is a function of the seed and the position, so the backward pass finds the
/// same ones without a stored mask.
#[derive(Clone, Debug)]
struct Dropout {
    rate: f64,
    seed: u64,
}

impl Dropout {
    /// `x` where it is kept, scaled; 0 elsewhere.
    fn run(&self, x: &FlexTensor) -> FlexTensor {
        let elements = fused::elements(x);
        let mut y = vec![0f32; elements.len()];
        y.par_chunks_mut(CHUNK)
            .zip(elements.par_chunks(CHUNK))
            .enumerate()
            .for_each(|(chunk, (y, x))| self.fill(chunk * (CHUNK / GROUP), x, y));
        fused::tensor(&fused::shape(x), y)
    }

    fn fill(&self, first_group: usize, x: &[f32], y: &mut [f32]) {
        let threshold = (self.rate * 65_536.0).round() as u64;
        let factor = 1.0 / (1.0 - threshold as f32 / 65_536.0);
        for (group, (y, x)) in y.chunks_mut(GROUP).zip(x.chunks(GROUP)).enumerate() {
            let bits = mix(self.seed.wrapping_add((first_group + group) as u64));
            for (lane, (y, &x)) in y.iter_mut().zip(x).enumerate() {
                let dropped = (bits >> (16 * lane)) & 0xffff < threshold;
                *y = if dropped { 0.0 } else { x * factor };
            }
        }
    }
}

impl Operation<1> for Dropout {
    type Saved = ();

    fn forward(&self, [x]: &[FlexTensor; 1]) -> (FlexTensor, ()) {
        (self.run(x), ())
    }

    fn backward(&self, (): (), gradient: &FlexTensor, _: [bool; 1]) -> [Option<FlexTensor>; 1] {
        [Some(self.run(gradient))]
    }
}

/// Drops a part `rate` of the elements; `place` tells the places of one forward pass apart.
pub(super) fn dropout(
    fuse: bool,
    device: &Device,
    x: Floats,
    rate: f64,
    seed: u64,
    place: u64,
) -> Floats {
    let operation = Dropout { rate, seed: derive(seed, place) };
    if fuse {
        return Floats(fused::apply(&operation, [x.0]));
    }
    let shape = x.shape();
    let ones = vec![1f32; shape.iter().product()];
    let mut mask = vec![0f32; ones.len()];
    operation.fill(0, &ones, &mut mask);
    x.mul(Floats(device.upload(&shape, mask)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_about_the_rate_and_keeps_the_mean() {
        let device = Device::cpu();
        let ones = Floats(device.upload(&[100, 1000], vec![1f32; 100_000]));
        let y = dropout(true, &device, ones.clone(), 0.1, 7, 3).to_vec();
        let dropped = y.iter().filter(|&&y| y == 0.0).count();
        // Three standard deviations of a binomial with n = 100,000 and p = 0.1 are 285.
        assert!((9_700..10_300).contains(&dropped), "{dropped}");
        let mean = y.iter().sum::<f32>() / 100_000.0;
        assert!((mean - 1.0).abs() < 5e-3, "{mean}");
        assert_eq!(y, dropout(false, &device, ones.clone(), 0.1, 7, 3).to_vec());
        assert_ne!(y, dropout(true, &device, ones, 0.1, 8, 3).to_vec());
    }
}
