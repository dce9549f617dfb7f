//! End-to-end tests: what a user meets at the command line.

mod bad_input;
mod chain;
mod checkpoint;
mod command;
mod concurrent;
mod database;
mod kill;
mod manifests;
mod models;
mod options;
mod reference;
mod sandbox;
mod schedule;
mod tidy;
mod ui;
