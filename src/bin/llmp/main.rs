//! The command line of llmp.
fn main() {}
