//! `llmp stop`

use crate::arguments;
use crate::failure::Failure;
use crate::stderr;
use llmp::Broker;

/// Asks the broker of a bus to end the bus, and waits until it has.
pub fn run(arguments: &arguments::Stop) -> Result<(), Failure> {
    let bus = &arguments.place.bus;
    Broker::request_stop(bus, arguments.timeout)?;
    stderr::line(format_args!("bus '{bus}' has ended"));
    Ok(())
}
