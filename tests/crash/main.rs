//! Death at every step: a process kills itself with `SIGKILL` in front of each of its steps in
//! turn. A step is an access of shared memory or a call to the kernel (`src/sys/failpoint.rs`). The
//! others finish, nothing that was committed is lost, nothing comes twice, and everything of the
//! dead comes back.
//!
//! A failing test prints the step. `LLMP_CRASH_AT='send Page:2' cargo test --features crash --test
//! crash NAME` lets a process die in front of its third `send Page` alone.

#[path = "../common/mod.rs"]
mod common;

mod broker;
mod channels;
mod clients;
mod every_step;
mod victims;

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    victims::play();
}
