//! A broker with clients and callers that are hostile or use the limits.

use llmp::{BindError, Broker, Client, Limits, Receiver};
use std::time::Duration;

#[test]
fn pages_smaller_than_the_kernels_stay_within_the_budget() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bus");
    let builder = Broker::builder().page_len(96).max_message_len(16).chain_budget(8288);
    let broker = builder.bind(&path).unwrap();
    let stop = broker.stop_handle();
    let thread = std::thread::spawn(move || broker.run());
    let mut sender = Client::connect_sender(&path).unwrap();
    let mut receiver = Client::connect_receiver(&path).unwrap();
    let patience = Duration::from_secs(20);
    for i in 0..10_000u32 {
        sender.send(i, &[1; 16]).unwrap();
        if i % 300 == 299 {
            for _ in 0..300 {
                assert!(receiver.recv_timeout(patience).unwrap().is_some());
            }
        }
    }
    assert!(sender.stats().page_bytes_peak <= 8288);
    stop.stop();
    let report = thread.join().unwrap().unwrap();
    assert!(report.broadcast.page_bytes_peak <= 8288);
    assert_eq!(report.faults, 0);
}

#[test]
fn lengths_that_can_not_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    for len in [0, 1, usize::MAX] {
        let bound = Broker::builder().page_len(len).bind(dir.path().join("bus"));
        assert!(matches!(bound.err(), Some(BindError::Limits(_))), "{len}");
    }
    let limits = Limits::new(96, 16, 384).unwrap();
    let listener = Receiver::listen_with(dir.path().join("bus"), limits);
    assert!(matches!(listener.err(), Some(BindError::Limits(_))));
}
