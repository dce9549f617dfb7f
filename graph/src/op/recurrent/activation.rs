//! The functions that gates of recurrent layers apply.

use serde::{Deserialize, Serialize};

/// A function of a gate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Which function.
    pub kind: ActivationKind,
    /// First parameter, where the function has one.
    pub alpha: f32,
    /// Second parameter, where the function has one.
    pub beta: f32,
}

/// ONNX's functions of gates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActivationKind {
    /// `max(x, 0)`
    Relu,
    /// `tanh x`
    Tanh,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// `αx + β`
    Affine,
    /// `x`, or `αx` below 0
    LeakyRelu,
    /// `x`, or 0 below `α`
    ThresholdedRelu,
    /// `α tanh βx`
    ScaledTanh,
    /// `min(max(αx + β, 0), 1)`
    HardSigmoid,
    /// `x`, or `α(eˣ − 1)` below 0
    Elu,
    /// `x / (1 + |x|)`
    Softsign,
    /// `ln(1 + eˣ)`
    Softplus,
}

impl ActivationKind {
    /// Name, and the parameters' defaults where the function has them.
    const ALL: [(Self, &'static str, Option<f32>, Option<f32>); 11] = [
        (Self::Relu, "Relu", None, None),
        (Self::Tanh, "Tanh", None, None),
        (Self::Sigmoid, "Sigmoid", None, None),
        (Self::Affine, "Affine", Some(1.0), Some(0.0)),
        (Self::LeakyRelu, "LeakyRelu", Some(0.01), None),
        (Self::ThresholdedRelu, "ThresholdedRelu", Some(1.0), None),
        (Self::ScaledTanh, "ScaledTanh", Some(1.0), Some(1.0)),
        (Self::HardSigmoid, "HardSigmoid", Some(0.2), Some(0.5)),
        (Self::Elu, "Elu", Some(1.0), None),
        (Self::Softsign, "Softsign", None, None),
        (Self::Softplus, "Softplus", None, None),
    ];

    fn entry(self) -> (Self, &'static str, Option<f32>, Option<f32>) {
        let entry = Self::ALL.into_iter().find(|(kind, ..)| *kind == self);
        entry.expect("the table has every function")
    }

    /// ONNX's name of the function.
    pub(super) fn name(self) -> &'static str {
        self.entry().1
    }

    /// The function of this ONNX name, whose letters' case does not matter.
    pub fn from_name(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, known, ..)| known.eq_ignore_ascii_case(name));
        found.map(|(kind, ..)| *kind)
    }

    /// Defaults of the parameters that the function has.
    pub fn defaults(self) -> (Option<f32>, Option<f32>) {
        let (_, _, alpha, beta) = self.entry();
        (alpha, beta)
    }
}

impl Activation {
    pub(super) fn apply(self, x: f64) -> f64 {
        let (alpha, beta) = (f64::from(self.alpha), f64::from(self.beta));
        match self.kind {
            ActivationKind::Relu => x.max(0.0),
            ActivationKind::Tanh => x.tanh(),
            ActivationKind::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            ActivationKind::Affine => alpha * x + beta,
            ActivationKind::LeakyRelu => {
                if x < 0.0 {
                    alpha * x
                } else {
                    x
                }
            }
            ActivationKind::ThresholdedRelu => {
                if x < alpha {
                    0.0
                } else {
                    x
                }
            }
            ActivationKind::ScaledTanh => alpha * (beta * x).tanh(),
            ActivationKind::HardSigmoid => (alpha * x + beta).clamp(0.0, 1.0),
            ActivationKind::Elu => {
                if x < 0.0 {
                    alpha * x.exp_m1()
                } else {
                    x
                }
            }
            ActivationKind::Softsign => x / (1.0 + x.abs()),
            // The large part apart, so that nothing overflows.
            ActivationKind::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_what_their_names_say() {
        let at = |kind: ActivationKind, x: f64| {
            let (alpha, beta) = kind.defaults();
            let (alpha, beta) = (alpha.unwrap_or(0.0), beta.unwrap_or(0.0));
            Activation { kind, alpha, beta }.apply(x)
        };
        let check = |kind, x, expected: f64| {
            assert!((at(kind, x) - expected).abs() < 1e-6, "{kind:?}: {}", at(kind, x));
        };
        check(ActivationKind::Sigmoid, 0.0, 0.5);
        check(ActivationKind::LeakyRelu, -2.0, -0.02);
        check(ActivationKind::ThresholdedRelu, 0.5, 0.0);
        check(ActivationKind::HardSigmoid, 1.0, 0.7);
        check(ActivationKind::Elu, -1.0, (-1f64).exp() - 1.0);
        check(ActivationKind::Softsign, -3.0, -0.75);
        check(ActivationKind::Softplus, 800.0, 800.0);
        check(ActivationKind::ScaledTanh, 0.5, 0.5f64.tanh());
        check(ActivationKind::Affine, 3.0, 3.0);
        assert_eq!(ActivationKind::from_name("tanh"), Some(ActivationKind::Tanh));
    }
}
