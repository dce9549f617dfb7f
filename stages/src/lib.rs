//! What a manifest may ask for: one file a stage kind, one line in [`STAGES`].
//!
//! A stage turns its parameters and inputs into calls of `graph`, `training` and `runtime`, and
//! reports what it measured. It knows nothing of other stages, of the database, or of who runs it.
//!
//! # Layout
//!
//! Stage kinds, in the order of a pipeline: `train-teacher`, `nas-search`, `distill`, `prune`,
//! `quantize`, `qat`, `export`, `deploy`, `benchmark`. What several of them need: `texts` (rows and
//! ids), `recipe` (optimizer settings), `watch` (progress), `score` (metrics), `predict` (answers of
//! the runtime), `teacher_logits` (learning from a teacher's answers), `importance` (what matters
//! most), `sparsity` (zeros that stay), `integer` (what both quantizing stages do).

mod architecture;
pub mod auto;
mod benchmark;
mod deploy;
mod distill;
mod export;
mod importance;
mod integer;
mod nas_search;
mod predict;
mod prune;
mod qat;
mod quantize;
mod range;
mod recipe;
mod score;
mod sparsity;
mod teacher_logits;
mod texts;
mod train_teacher;
mod watch;

pub use benchmark::serve_once;
pub use deploy::{Promoted, promote};

use engine::StageTable;

/// Every stage kind.
pub static STAGES: StageTable = &[
    &train_teacher::TrainTeacher,
    &nas_search::NasSearch,
    &distill::Distill,
    &prune::Prune,
    &quantize::Quantize,
    &qat::Qat,
    &export::Export,
    &deploy::Deploy,
    &benchmark::Benchmark,
];
