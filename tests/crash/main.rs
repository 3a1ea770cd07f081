//! Death at every step: a process kills itself with `SIGKILL` before each of its steps, one after
//! the other. A step is an access of shared memory or a system call (`src/core/failpoint.rs`). The
//! other processes finish. No committed message is lost, none arrives twice, and all resources of
//! the dead process are released.
//!
//! A failing test prints the step. `LLMP_CRASH_AT='send Page:2' cargo test --features crash --test
//! crash NAME` lets a process die before its third `send Page` only.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../model/report.rs"]
mod report;

mod broker;
mod channels;
mod clients;
mod every_step;
mod succession;
mod victims;

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    victims::play();
}
