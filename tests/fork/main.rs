//! Forked children of a process that has handles of every kind.
//!
//! Each test starts a process of its own, which forks: nothing else runs there but the main thread
//! of the test harness, which sleeps.
#![allow(unsafe_code)]

#[path = "../common/mod.rs"]
mod common;
#[path = "../../examples/fork_server.rs"]
mod fork_server;

mod children;
mod deaths;
mod handles;
mod misuse;
mod roles;

use common::bus::Place;
use common::child::ROLE;
use common::roles::say;
use std::fmt::Display;
use std::path::Path;
use std::process::Command;

/// Not a test: the other tests' child processes begin here.
#[test]
fn child() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    let words: Vec<&str> = role.lines().collect();
    match words[..] {
        ["answers", path, way] => misuse::answers(Path::new(path), way),
        ["drops", path, way] => misuse::drops(Path::new(path), way),
        ["inbox", path] => roles::inbox(Path::new(path)),
        ["guards", path] => roles::guards(Path::new(path)),
        ["generations", path] => roles::generations(Path::new(path)),
        ["daemon", path] => roles::daemon(Path::new(path)),
        ["hook", path] => roles::hook(Path::new(path)),
        ["programs", path] => roles::programs(Path::new(path)),
        ["threads", path] => roles::threads(Path::new(path)),
        ["forking-receiver", path] => deaths::receiver(Path::new(path)),
        ["forking-broker", path] => deaths::broker(Path::new(path)),
        ["forking-channel-receiver", path] => deaths::channel_receiver(Path::new(path)),
        ["forking-channel-sender", path] => deaths::channel_sender(Path::new(path)),
        ["handed-over", path] => deaths::handed_over(Path::new(path)),
        ["other-user", path] => return deaths::other_user(Path::new(path)),
        ["example"] => fork_server::main().unwrap(),
        _ => return common::roles::play(),
    }
    say("over");
}

/// Starts a process that plays a role beside a broker, and waits until it is over.
#[track_caller]
fn play(role: &str, arguments: &[&dyn Display]) {
    let place = Place::new();
    let mut broker = place.broker(&[]);
    let mut child = place.child(role, arguments);
    child.says("over");
    assert!(child.wait().success());
    broker.tell("stop");
    let ended = broker.says("ended");
    assert!(ended.ends_with(" 0"), "a fault: {ended}");
}

// P12
#[test]
fn in_a_forked_child_every_operation_answers_that_it_is_forked() {
    play("answers", &[&"fork"]);
}

// P12
#[test]
fn in_a_cloned_child_every_operation_answers_that_it_is_forked() {
    play("answers", &[&"clone"]);
}

// P5, P7
#[test]
fn a_forked_child_that_drops_its_handles_harms_no_process() {
    play("drops", &[&"fork"]);
}

// P5, P7
#[test]
fn a_cloned_child_that_drops_its_handles_harms_no_process() {
    play("drops", &[&"clone"]);
}

// P3
#[test]
fn messages_in_the_inbox_at_a_fork_stay_with_the_parent() {
    play("inbox", &[]);
}

// P3
#[test]
fn a_guard_that_is_alive_across_a_fork_is_the_parents_alone() {
    play("guards", &[]);
}

// P1, P3
#[test]
fn children_and_grandchildren_connect_while_the_parent_goes_on() {
    play("generations", &[]);
}

#[test]
fn a_broker_that_was_bound_before_a_fork_says_where_to_bind() {
    play("daemon", &[]);
}

#[test]
fn a_broker_whose_hook_forks_does_not_serve_in_the_child() {
    play("hook", &[]);
}

// P3
#[test]
fn starting_a_program_harms_no_process() {
    play("programs", &[]);
}

// P3
#[test]
fn a_program_with_threads_forks_while_they_send_and_receive() {
    play("threads", &[]);
}

// P4
#[test]
fn the_fork_server_replaces_workers_that_crash() {
    let this = std::env::current_exe().unwrap();
    let mut server = Command::new(this);
    server.args(["--exact", "child", "--nocapture"]).env(ROLE, "example");
    let output = server.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    // Worker 1 crashes once after job 1, worker 2 twice after job 2.
    for (line, count) in [
        ("worker 0: job 3, attempt 0\n", 1),
        ("worker 1: job 1, attempt 0\n", 1),
        ("worker 1: job 2, attempt 0\n", 0),
        ("worker 1: job 3, attempt 1\n", 1),
        ("worker 2: job 2, attempt 1\n", 1),
        ("worker 2: job 3, attempt 2\n", 1),
        ("worker 1 has crashed; here is another one\n", 1),
        ("worker 2 has crashed; here is another one\n", 2),
    ] {
        assert_eq!(said.matches(line).count(), count, "{line}{said}");
    }
}
