//! The broker of a demo, a process of its own.

use super::note::{BrokerReport, Chain, Note, or_tell, tell};
use crate::arguments;
use crate::failure::Failure;
use llmp::Broker;
use std::io::Read;

/// Serves the bus until standard input ends, which is when the parent wants it or has died.
pub fn run(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    or_tell(serve(arguments))
}

fn serve(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    let broker = Broker::bind(&arguments.socket)?;
    let stop = broker.stop_handle();
    std::thread::spawn(move || {
        // An error is an end as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.stop();
    });
    tell(&Note::Ready)?;
    let report = broker.run().map_err(Failure::other)?;
    // Made by the parent for this socket. If the parent has died, nobody else cleans it up; if
    // there is something else in it, it stays.
    if let Some(directory) = arguments.socket.parent() {
        let _ = std::fs::remove_dir(directory);
    }
    let chain = Chain { bytes_peak: report.shared_bytes_peak, ..report.broadcast.into() };
    tell(&Note::Broker(BrokerReport { faults: report.faults, chain }))
}
