//! training
pub mod data;
pub mod loss;
pub mod metrics;
pub mod temperature;
pub mod tokenizer;
pub mod wordpiece;
