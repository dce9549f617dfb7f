//! The normal distribution, cut off at both ends, in logarithms. Exact to about 12 digits far into
//! the tails: kernels of an estimate are often narrow and far from where they are asked.

use std::f64::consts::{FRAC_1_SQRT_2, LN_2};

/// ln √(2π)
const LN_SQRT_2_PI: f64 = 0.918_938_533_204_672_8;

/// Logarithm of the density.
pub(super) fn ln_density(x: f64) -> f64 {
    -0.5 * x * x - LN_SQRT_2_PI
}

/// Logarithm of the mass below `x`.
pub(super) fn ln_below(x: f64) -> f64 {
    if x > 1.0 {
        return libm::log1p(-0.5 * libm::erfc(x * FRAC_1_SQRT_2));
    }
    if x > -30.0 {
        return libm::log(0.5 * libm::erfc(-x * FRAC_1_SQRT_2));
    }
    // Asymptotic series of the mass in the tail (Abramowitz & Stegun 26.2.12); at −30 the first
    // term that is left out is below 1e-15.
    let y = 1.0 / (x * x);
    let series = -y * (1.0 - 3.0 * y * (1.0 - 5.0 * y * (1.0 - 7.0 * y * (1.0 - 9.0 * y))));
    ln_density(x) - libm::log(-x) + libm::log1p(series)
}

/// Logarithm of the mass between `a` and `b`, `a` < `b`.
pub(super) fn ln_between(a: f64, b: f64) -> f64 {
    if a > 0.0 {
        return ln_between(-b, -a);
    }
    if b <= 0.0 {
        let (above, below) = (ln_below(b), ln_below(a));
        return above + libm::log1p(-libm::exp(below - above));
    }
    let outside = libm::erfc(-a * FRAC_1_SQRT_2) + libm::erfc(b * FRAC_1_SQRT_2);
    if outside > 1.0 {
        // Little is left between; differences of `erf` near 0 lose nothing.
        let inside = libm::erf(b * FRAC_1_SQRT_2) - libm::erf(a * FRAC_1_SQRT_2);
        return libm::log(0.5 * inside);
    }
    libm::log1p(-0.5 * outside)
}

/// Inverse of [`ln_below`] for `ln_mass` ≤ 0.
fn inverse_ln_below(ln_mass: f64) -> f64 {
    if ln_mass > -LN_2 {
        return -inverse_ln_below(libm::log(-libm::expm1(ln_mass)));
    }
    // Newton's method from a point that is below the solution, because the mass below −t is at most
    // exp(−t²/2) / 2. The logarithm of the mass is concave, so that no step goes too far.
    let mut x = -libm::sqrt(-2.0 * (ln_mass + LN_2).min(0.0));
    for _ in 0..100 {
        let ln_here = ln_below(x);
        let step = (ln_mass - ln_here) * libm::exp(ln_here - ln_density(x));
        x += step;
        if step.abs() <= 1e-13 * x.abs() {
            break;
        }
    }
    x
}

/// The place between `a` and `b` that has `share` (0 to 1) of the mass between them below it.
pub(super) fn quantile_between(a: f64, b: f64, share: f64) -> f64 {
    if a >= 0.0 {
        return -quantile_between(-b, -a, 1.0 - share);
    }
    if share <= 0.0 {
        return a;
    }
    let below = ln_below(a);
    let inside = libm::log(share) + ln_between(a, b);
    let (more, less) = (below.max(inside), below.min(inside));
    inverse_ln_below((more + libm::log1p(libm::exp(less - more))).min(0.0)).clamp(a, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(actual: f64, expected: f64, what: &str) {
        let tolerance = 1e-12 * expected.abs().max(1e-300);
        assert!((actual - expected).abs() <= tolerance, "{what}: {actual:e} is not {expected:e}");
    }

    /// Against mpmath 1.3 with 50 digits.
    #[test]
    fn mass_is_exact_far_into_the_tails() {
        for (x, expected) in LN_BELOW {
            check(ln_below(*x), *expected, &format!("ln_below({x})"));
        }
        for (a, b, expected) in LN_BETWEEN {
            check(ln_between(*a, *b), *expected, &format!("ln_between({a}, {b})"));
        }
    }

    const LN_BELOW: &[(f64, f64)] = &[
        (-200.0, -20006.21728089819),
        (-38.5, -745.695270290411),
        (-30.5, -469.4627373229121),
        (-29.5, -439.42947460915025),
        (-10.0, -53.23128515051247),
        (-1.0, -1.8410216450092636),
        (0.0, -LN_2),
        (0.5, -0.3689464152886564),
        (3.0, -0.0013508099647481938),
        (8.0, -6.220960574271786e-16),
    ];

    const LN_BETWEEN: &[(f64, f64, f64)] = &[
        (-1.0, 1.0, -0.38171514630212605),
        (-50.0, -45.0, -1017.2260942419524),
        (3.0, 3.5, -6.796868006683432),
        (8.0, 40.0, -35.01343715991455),
        (-1e-06, 2e-06, -13.635836802501338),
        (-9.0, 9.0, -2.257176811907681e-19),
        (-0.5, 30.0, -0.3689464152886564),
        (-2.0, -1.999, -9.825693812270254),
    ];

    #[test]
    fn quantiles_have_their_share_below_them() {
        for (a, b) in [(-1.0, 2.0), (-40.0, -35.0), (5.0, 9.0), (-0.01, 50.0), (-60.0, 0.1)] {
            assert_eq!(quantile_between(a, b, 0.0), a, "{a} {b}");
            for share in [1e-9, 0.01, 0.3, 0.5, 0.77, 0.999] {
                let place = quantile_between(a, b, share);
                assert!((a..=b).contains(&place), "{a} {b} {share}: {place}");
                let found = libm::exp(ln_between(a, place) - ln_between(a, b));
                // A place in the far tail has few digits left for its distance from the end.
                assert!(
                    (found - share).abs() <= 1e-9 * share.max(1e-3),
                    "{a} {b} {share}: {found}"
                );
            }
        }
    }
}
