//! The broker process of a demo.

use super::note::{BrokerReport, Chain, Note, or_tell, tell};
use crate::arguments;
use crate::failure::Failure;
use llmp::Broker;
use std::io::Read;

/// Serves the bus until standard input ends. The parent closes it to end the broker, or by dying.
pub fn run(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    or_tell(serve(arguments))
}

fn serve(arguments: &arguments::DemoChild) -> Result<(), Failure> {
    let broker = Broker::bind(&arguments.socket)?;
    let stop = broker.stop_handle();
    std::thread::spawn(move || {
        // An error ends the broker as well.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        stop.stop();
    });
    tell(&Note::Ready)?;
    let report = broker.run().map_err(Failure::other)?;
    // The parent made the directory for this socket. If the parent has died, only this call removes
    // it. It stays if it holds other files.
    if let Some(directory) = arguments.socket.parent() {
        let _ = std::fs::remove_dir(directory);
    }
    let chain = Chain { bytes_peak: report.shared_bytes_peak, ..report.broadcast.into() };
    tell(&Note::Broker(BrokerReport { faults: report.faults, chain }))
}
