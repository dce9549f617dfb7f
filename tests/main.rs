//! End-to-end tests: what a user meets at the command line.

mod tidy;
