//! `pipeline`: arguments in, exit code out. What the verbs do lives in the crates; this one wires.

mod cli;
mod reference;

use std::process::ExitCode;

/// Training allocates and frees large tensors every step; mimalloc hands them back faster.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
