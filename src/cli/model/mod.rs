//! What the verbs about single models share: where a model comes from, how it is compiled, and
//! tensors from and to files.

mod compilation;
mod npy;
mod source;

pub(super) use compilation::{Compilation, failed_tiers, place};
pub(super) use npy::{NamedFile, read_npy, write_npy};
pub(super) use source::{Opened, Source, sizes};
