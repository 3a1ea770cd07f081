//! A benchmark that does not notice a lost or changed message measures nothing. Each workload that
//! verifies contents must fail when a sender spoils one, and pass when none does.

use std::process::Command;

/// Runs a workload with two of its peers. Returns its error when it fails.
fn run(arguments: &[&str], sabotage: Option<&str>) -> Result<(), String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_llmp-bench"));
    command.args(arguments).args(["--quick", "--runs=1"]);
    command.args(sabotage.map(|what| format!("--sabotage={what}")));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(()) } else { Err(said) }
}

#[test]
fn a_spoilt_message_fails_every_workload() {
    let bus = ["bus", "--only=3 clients, 256 B, yielding, every byte", "--peer"];
    let stream = ["p2p", "--only=64 B, every byte, one by one", "--peer"];
    let batches = ["p2p", "--only=64 B, every byte, in batches", "--peer"];
    let ping_pong = ["ping-pong", "--only=polling", "--peer"];
    let late = ["ping-pong", "--only=late answers", "--peer"];
    let memory = ["memory", "--only=default sizes", "--peer"];
    for workload in [&bus[..], &stream, &batches, &ping_pong, &late, &memory] {
        let arguments = [workload, &["llmp"]].concat();
        run(&arguments, None).unwrap();
        for (what, noticed) in [
            ("drop", "a message is missing"),
            ("repeat", "a message has come before"),
            ("corrupt", "a message has other bytes than were sent"),
        ] {
            let said = run(&arguments, Some(what)).expect_err(workload[0]);
            assert!(said.contains(noticed), "{workload:?} {what}: {said}");
        }
    }
}

/// Where the head alone is read, other bytes don't count, but the numbers do.
#[test]
fn lost_and_repeated_messages_fail_where_only_heads_are_read() {
    let bus = ["bus", "--only=3 clients, 256 B, yielding, head only", "--peer=llmp-borrow"];
    let one_by_one = ["p2p", "--only=64 B, head only, one by one", "--peer=llmp-borrow"];
    let batches = ["p2p", "--only=64 B, head only, in batches", "--peer=llmp-borrow"];
    let in_place = |peer| ["p2p", "--only=4 KiB, head only, in place", peer];
    let [ours, iceoryx, shmem] =
        ["--peer=llmp-borrow", "--peer=iceoryx2", "--peer=shmem-ipc"].map(in_place);
    for arguments in [bus, one_by_one, batches, ours, iceoryx, shmem] {
        run(&arguments, None).unwrap();
        for (what, noticed) in
            [("drop", "a message is missing"), ("repeat", "a message has come before")]
        {
            let said = run(&arguments, Some(what)).expect_err(arguments[1]);
            assert!(said.contains(noticed), "{arguments:?} {what}: {said}");
        }
    }
}

#[test]
fn every_peer_is_verified_alike() {
    for peer in [
        "llmp-borrow",
        "ll_mp",
        "iceoryx2",
        "ipmpsc",
        "shmem-ipc",
        "ipc-channel",
        "unix-stream",
        "unix-seqpacket",
        "pipe",
        "rtrb",
        "crossbeam",
    ] {
        let arguments = ["p2p", "--only=64 B, every byte, one by one", "--peer", peer];
        run(&arguments, None).unwrap();
        let said = run(&arguments, Some("drop")).expect_err(peer);
        assert!(said.contains("a message is missing"), "{peer}: {said}");
    }
}
