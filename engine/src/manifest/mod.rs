//! Manifests: what a pipeline is made of, read with every error in its place.

mod spec;

pub use spec::DatasetSpec;
