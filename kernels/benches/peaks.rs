//! Prints what this machine can do at most, see `kernels::peaks`.
//!
//! `cargo bench -p kernels --bench peaks`; `RAYON_NUM_THREADS` sets the threads of the last column.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use kernels::peaks::{Effort, LOOPS, read_rate};

fn main() {
    let threads = rayon::current_num_threads();
    println!("{:<34} {:>12} {:>9} threads", "G operations / s", "1 thread", threads);
    for candidate in LOOPS {
        let rate = |threads| candidate.rate(threads, Effort::THOROUGH);
        match (rate(1), rate(threads)) {
            (Some(one), Some(all)) => println!("{:<34} {one:>12.1} {all:>9.1}", candidate.name),
            _ => println!("{:<34} needs tier {}", candidate.name, candidate.tier),
        }
    }
    println!("{:<34} {:>12} {:>9} threads", "GB read / s", "1 thread", threads);
    for kib in [16, 256, 1024, 8 << 10, 32 << 10, 128 << 10, 512 << 10] {
        let rate = |threads| read_rate(kib << 10, threads, Effort::THOROUGH);
        let name = format!("{kib} KiB a thread");
        match (rate(1), rate(threads)) {
            (Some(one), Some(all)) => println!("{name:<34} {one:>12.1} {all:>9.1}"),
            _ => println!("{name:<34} not known for this CPU"),
        }
    }
}
