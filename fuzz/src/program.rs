//! The parts of the program `llmp` that read input of a user or of another program.
//!
//! They are the program's own files, which the library does not export.
#![allow(dead_code, reason = "the program uses the rest")]

#[path = "../../src/bin/llmp/arguments.rs"]
pub mod arguments;
#[path = "../../src/bin/llmp/failure.rs"]
pub mod failure;
#[path = "../../src/bin/llmp/format.rs"]
pub mod format;
#[path = "../../src/bin/llmp/lines.rs"]
pub mod lines;
#[path = "../../src/bin/llmp/values.rs"]
pub mod values;
