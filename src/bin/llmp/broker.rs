//! `llmp broker`

use crate::arguments;
use crate::failure::Failure;
use crate::interrupt::{self, Interrupt};
use crate::ready;
use crate::respawn;
use crate::stderr;
use crate::values::human;
use llmp::{BindError, Broker, BrokerBuilder, ConnectError, Vacancy};
use rustix::process::{Resource, getrlimit, setrlimit};
use signal_hook::consts::SIGTERM;
use std::time::Duration;

/// How often a broker asks others to hand over. Each time, one that stands by may be faster.
const REPLACE_TRIES: u32 = 5;
const REPLACE_PAUSE: Duration = Duration::from_millis(20);
/// How long the other broker may take.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a bus until a signal ends it.
pub fn run(arguments: arguments::Broker) -> Result<(), Failure> {
    let bus = &arguments.place.bus;
    if arguments.respawn {
        return respawn::run(bus);
    }
    raise_descriptor_limit();
    // Until it has the bus, a signal ends this process as usual.
    interrupt::unblock();
    let Some(broker) = bind(&arguments)? else {
        stderr::line(format_args!("bus '{bus}' was ended, so this broker ends too"));
        return Ok(());
    };
    let stop = broker.stop_handle();
    let _interrupt = Interrupt::catch(move |signal| {
        match signal {
            // A supervisor also sends it when it starts the broker anew.
            SIGTERM if ready::is_supervised() => stop.hand_over(),
            SIGTERM => stop.resign(),
            _ => stop.stop(),
        }
        ready::tell_supervisor("STOPPING=1");
    })?;
    stderr::line(format_args!(
        "bus '{bus}' listens at {}; Ctrl-C ends it",
        broker.path().display()
    ));
    if let Some(fd) = arguments.ready_fd.filter(|_| !arguments.respawned) {
        ready::write_line(fd, broker.path())?;
    }
    ready::tell_supervisor("READY=1");
    let report = broker.run().map_err(|error| {
        Failure::other(format!("the broker can no longer wait for its clients: {error}"))
    })?;
    let messages = report.broadcast.messages;
    let bytes = human(report.broadcast.payload_bytes);
    let llmp::BrokerStats { clients, faults, refused, skipped, evicted, .. } = report;
    let how = if report.handed_over { "goes on without this broker" } else { "has ended" };
    stderr::line(format_args!(
        "bus '{bus}' {how}: clients {clients}, messages {messages} ({bytes}), faults {faults}, refused {refused}, skipped {skipped}, evicted {evicted}"
    ));
    Ok(())
}

/// Makes the bus. A standby first waits until no other process serves it. Returns `None` if the bus
/// was ended meanwhile.
fn bind(arguments: &arguments::Broker) -> Result<Option<Broker>, Failure> {
    let bus = &arguments.place.bus;
    let mut replaces = if arguments.replace && !arguments.respawned { REPLACE_TRIES } else { 0 };
    loop {
        let (path, process) = match builder(arguments).bind(bus) {
            Err(BindError::InUse { path, process }) => (path, process),
            result => return Ok(Some(result?)),
        };
        let named = process.map(|id| format!(" (process {id})")).unwrap_or_default();
        if replaces > 0 {
            replaces -= 1;
            stderr::line(format_args!("this broker replaces the one at {}{named}", path.display()));
            match Broker::request_hand_over(bus, REPLACE_TIMEOUT) {
                // It has ended by itself, or does not listen yet.
                Err(ConnectError::NoBus { .. } | ConnectError::Disconnected(_)) => {
                    std::thread::sleep(REPLACE_PAUSE);
                }
                asked => asked?,
            }
        } else if arguments.standby || arguments.respawned {
            stderr::line(format_args!(
                "there is a broker at {}{named}; this one waits until it ends",
                path.display()
            ));
            if Broker::wait_until_free(bus, None).map_err(BindError::from)? == Vacancy::Closed {
                return Ok(None);
            }
        } else {
            return Err(BindError::InUse { path, process }.into());
        }
    }
}

fn builder(arguments: &arguments::Broker) -> BrokerBuilder {
    let mut builder = Broker::builder().access(arguments.access.clone());
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
    if let Some(time) = arguments.slow_after {
        builder = builder.slow_after(time);
    }
    builder.when_slow(arguments.when_slow.into())
}

/// Raises the limit of descriptors as far as the system allows. Each client and each page takes a
/// descriptor.
fn raise_descriptor_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If that fails, the limit stays, and the broker refuses clients or waits.
    let _ = setrlimit(Resource::Nofile, limit);
}
