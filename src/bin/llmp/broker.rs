//! `llmp broker`

use crate::arguments;
use crate::failure::{Failure, say};
use crate::values::human;
use llmp::{Broker, StopHandle};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    if let Some(bytes) = arguments.lend_from {
        builder = builder.lend_from(bytes);
    }
    if let Some(clients) = arguments.max_clients {
        builder = builder.max_clients(clients as usize);
    }
    raise_descriptor_limit();
    let broker = builder.bind(bus)?;
    stop_on_signals(broker.stop_handle())?;
    say(format_args!("bus '{bus}' listens at {}; Ctrl-C ends it", broker.path().display()));
    let report = broker.run().map_err(|error| {
        Failure::other(format!("the broker can't wait for its clients any more: {error}"))
    })?;
    let messages = report.broadcast.messages;
    let bytes = human(report.broadcast.payload_bytes);
    let llmp::Report { clients, faults, refused, .. } = report;
    say(format_args!(
        "bus '{bus}' has ended: clients {clients}, messages {messages} ({bytes}), faults {faults}, refused {refused}"
    ));
    Ok(())
}

/// Each client takes a descriptor, and each page: as many as the system allows this user.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If not, the limit stays what it is, and the broker refuses or waits.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// The first signal ends the broker in order, the next one at once.
fn stop_on_signals(stop: StopHandle) -> Result<(), Failure> {
    let signals = Signals::new([SIGINT, SIGTERM, SIGHUP]);
    let mut signals =
        signals.map_err(|error| Failure::other(format!("signals can't be caught: {error}")))?;
    std::thread::spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            if std::mem::replace(&mut asked, true) {
                std::process::exit(128 + signal);
            }
            stop.stop();
        }
    });
    Ok(())
}
