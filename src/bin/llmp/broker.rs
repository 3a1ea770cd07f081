//! `llmp broker`

use crate::arguments;
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::ready;
use crate::stderr;
use crate::values::human;
use llmp::Broker;
use rustix::process::{Resource, getrlimit, setrlimit};

/// Serves a bus until a signal ends it.
pub fn run(arguments: arguments::Broker) -> Result<(), Failure> {
    let bus = &arguments.place.bus;
    let mut builder = Broker::builder().access(arguments.access);
    if let Some(bytes) = arguments.page_len {
        builder = builder.page_len(bytes);
    }
    if let Some(bytes) = arguments.max_message_len {
        builder = builder.max_message_len(bytes);
    }
    if let Some(bytes) = arguments.chain_budget {
        builder = builder.chain_budget(bytes);
    }
    if let Some(bytes) = arguments.zero_copy_threshold {
        builder = builder.zero_copy_threshold(bytes);
    }
    if let Some(clients) = arguments.max_clients {
        builder = builder.max_clients(clients as usize);
    }
    builder = builder.when_slow(arguments.when_slow.into());
    if let Some(time) = arguments.slow_after {
        builder = builder.slow_after(time);
    }
    raise_descriptor_limit();
    let broker = builder.bind(bus)?;
    let stop = broker.stop_handle();
    let _interrupt = Interrupt::catch(move || {
        stop.stop();
        ready::tell_supervisor("STOPPING=1");
    })?;
    stderr::line(format_args!(
        "bus '{bus}' listens at {}; Ctrl-C ends it",
        broker.path().display()
    ));
    if let Some(fd) = arguments.ready_fd {
        ready::write_line(fd, broker.path())?;
    }
    ready::tell_supervisor("READY=1");
    let report = broker.run().map_err(|error| {
        Failure::other(format!("the broker can no longer wait for its clients: {error}"))
    })?;
    let messages = report.broadcast.messages;
    let bytes = human(report.broadcast.payload_bytes);
    let llmp::BrokerStats { clients, faults, refused, skipped, evicted, .. } = report;
    stderr::line(format_args!(
        "bus '{bus}' has ended: clients {clients}, messages {messages} ({bytes}), faults {faults}, refused {refused}, skipped {skipped}, evicted {evicted}"
    ));
    Ok(())
}

/// Raises the limit of descriptors as far as the system allows. Each client and each page takes a
/// descriptor.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If that fails, the limit stays, and the broker refuses clients or waits.
    let _ = setrlimit(Resource::Nofile, limit);
}
