//! Dimensions of a value: a number, or a name that is bound when the graph runs.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One dimension: fixed, a symbol such as `batch` that a run binds to a number, or unknown until
/// the node that makes it has run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dim {
    /// A known number of elements; may be 0.
    Fixed(usize),
    /// A named dimension. Equal names are equal dimensions within one graph.
    Symbol(Arc<str>),
    /// A size that depends on values, not on sizes alone (the number of non-zero elements, …).
    /// Two unknown dimensions may differ.
    Unknown,
}

/// How an unknown dimension is written.
const UNKNOWN: &str = "?";

/// The dimensions of a value, outermost first.
pub type Shape = Vec<Dim>;

impl Dim {
    /// The dimension named `name`.
    pub fn symbol(name: &str) -> Self {
        Self::Symbol(name.into())
    }

    /// The number, when it is known without a binding.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Self::Fixed(size) => Some(*size),
            Self::Symbol(_) | Self::Unknown => None,
        }
    }

    /// Whether the size depends on values.
    pub fn is_unknown(&self) -> bool {
        *self == Self::Unknown
    }

    /// Whether the two can have the same size: only two different numbers cannot be equal for sure.
    pub fn may_equal(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unknown, _) | (_, Self::Unknown) => true,
            (a, b) => a == b,
        }
    }
}

impl From<usize> for Dim {
    fn from(size: usize) -> Self {
        Self::Fixed(size)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(formatter, "{size}"),
            Self::Symbol(name) => formatter.write_str(name),
            Self::Unknown => formatter.write_str(UNKNOWN),
        }
    }
}

impl Serialize for Dim {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Fixed(size) => serializer.serialize_u64(*size as u64),
            Self::Symbol(name) => serializer.serialize_str(name),
            Self::Unknown => serializer.serialize_str(UNKNOWN),
        }
    }
}

impl<'de> Deserialize<'de> for Dim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Dim;
            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a dimension: a number or a name")
            }
            fn visit_u64<E: de::Error>(self, size: u64) -> Result<Dim, E> {
                usize::try_from(size).map(Dim::Fixed).map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, size: i64) -> Result<Dim, E> {
                usize::try_from(size).map(Dim::Fixed).map_err(E::custom)
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Dim, E> {
                Ok(if name == UNKNOWN { Dim::Unknown } else { Dim::symbol(name) })
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Writes a shape as `[batch, 12, 32]`.
pub fn display(shape: &[Dim]) -> String {
    let dims: Vec<String> = shape.iter().map(Dim::to_string).collect();
    format!("[{}]", dims.join(", "))
}

/// What to do when two dimensions that have to be equal have different names; empty for two numbers.
pub(crate) fn how_to_bind(a: &Dim, b: &Dim) -> String {
    match (a, b) {
        (Dim::Symbol(a), Dim::Symbol(b)) => {
            format!("; if `{a}` and `{b}` are equal, give their sizes (--bind {a}=…,{b}=…)")
        }
        (Dim::Symbol(name), Dim::Fixed(size)) | (Dim::Fixed(size), Dim::Symbol(name)) => {
            format!("; if `{name}` is {size}, give its size (--bind {name}={size})")
        }
        _ => String::new(),
    }
}

/// The shape of known sizes.
pub fn fixed(sizes: &[usize]) -> Shape {
    sizes.iter().map(|&size| Dim::Fixed(size)).collect()
}

/// Numbers for the symbols of a graph, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bindings(BTreeMap<Arc<str>, usize>);

impl Bindings {
    /// Binds each name to its size.
    pub fn new<'a>(sizes: impl IntoIterator<Item = (&'a str, usize)>) -> Self {
        Self(sizes.into_iter().map(|(name, size)| (name.into(), size)).collect())
    }

    /// Binds one name to its size, in place of what it was bound to.
    #[must_use]
    pub fn with(mut self, name: &str, size: usize) -> Self {
        self.0.insert(name.into(), size);
        self
    }

    /// The names and their sizes, in alphabetical order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, usize)> {
        self.0.iter().map(|(name, size)| (&**name, *size))
    }

    /// Binds the symbols of `shape` to the sizes of `actual`.
    ///
    /// # Errors
    ///
    /// Says which dimension has another size than the shape, or than an earlier binding.
    pub fn bind(&mut self, shape: &[Dim], actual: &[usize]) -> Result<(), String> {
        if shape.len() != actual.len() {
            return Err(format!("expected {}, found {actual:?}", display(shape)));
        }
        for (dim, &size) in shape.iter().zip(actual) {
            let expected = match dim {
                Dim::Fixed(expected) => *expected,
                Dim::Symbol(name) => *self.0.entry(name.clone()).or_insert(size),
                Dim::Unknown => size,
            };
            if expected != size {
                return Err(format!(
                    "expected {} with {dim} = {expected}, found {actual:?}",
                    display(shape)
                ));
            }
        }
        Ok(())
    }

    /// The size of `dim`, or `None` for a symbol that is not bound and for an unknown one.
    pub fn size(&self, dim: &Dim) -> Option<usize> {
        match dim {
            Dim::Fixed(size) => Some(*size),
            Dim::Symbol(name) => self.0.get(name).copied(),
            Dim::Unknown => None,
        }
    }

    /// The sizes of `shape`.
    ///
    /// # Errors
    ///
    /// Names the first symbol that is not bound.
    pub fn sizes(&self, shape: &[Dim]) -> Result<Vec<usize>, String> {
        let size = |dim| self.size(dim).ok_or_else(|| format!("dimension `{dim}` is not bound"));
        shape.iter().map(size).collect()
    }
}
