//! Numbers whose range is part of their type, so that a manifest's error points at the very value.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

macro_rules! ranged {
    ($(#[$doc:meta])* $name:ident, $what:literal, $valid:expr, $schema:tt) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
        #[serde(transparent)]
        pub(crate) struct $name(f64);

        impl $name {
            /// A default; the test that reads every default back checks its range.
            pub(crate) const fn new(value: f64) -> Self {
                Self(value)
            }

            /// The number.
            pub(crate) const fn get(self) -> f64 {
                self.0
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl serde::de::Visitor<'_> for Visitor {
                    type Value = $name;
                    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                        formatter.write_str($what)
                    }
                    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<$name, E> {
                        let valid: fn(f64) -> bool = $valid;
                        if valid(value) {
                            return Ok($name(value));
                        }
                        Err(E::invalid_value(serde::de::Unexpected::Float(value), &self))
                    }
                    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<$name, E> {
                        self.visit_f64(value as f64)
                    }
                    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<$name, E> {
                        self.visit_f64(value as f64)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

ranged!(
    /// A number > 0.
    Positive, "a number > 0", |value| value.is_finite() && value > 0.0,
    { "type": "number", "exclusiveMinimum": 0 }
);
ranged!(
    /// A number ≥ 0.
    NonNegative, "a number ≥ 0", |value| value.is_finite() && value >= 0.0,
    { "type": "number", "minimum": 0 }
);
ranged!(
    /// A number in [0, 1].
    Fraction, "a number from 0 to 1", |value| (0.0..=1.0).contains(&value),
    { "type": "number", "minimum": 0, "maximum": 1 }
);
ranged!(
    /// A number in [0, 1).
    Share, "a number ≥ 0 and < 1", |value| (0.0..1.0).contains(&value),
    { "type": "number", "minimum": 0, "exclusiveMaximum": 1 }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_out_of_range_is_refused_with_the_range() {
        let error = serde_json::from_str::<Fraction>("1.5").unwrap_err().to_string();
        assert!(
            error.contains("invalid value: floating point `1.5`, expected a number from 0 to 1"),
            "{error}"
        );
        assert!(serde_json::from_str::<Positive>("0").is_err());
        assert_eq!(serde_json::from_str::<NonNegative>("0").unwrap().get(), 0.0);
        assert!(serde_json::from_str::<Share>("1.0").is_err());
    }
}
