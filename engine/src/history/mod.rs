//! What happened in earlier runs, as plain structs; nobody else writes SQL.

mod record;

pub use record::*;
