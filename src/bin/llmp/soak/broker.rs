//! A broker of a soak: it stands by, and serves the bus when its turn comes.

use super::record::{Record, Reporter};
use super::{GRACE_PERIOD, MAX_MESSAGE_LEN};
use crate::arguments;
use crate::failure::Failure;
use llmp::{BindError, Broker, Vacancy};

/// The memory of each chain. Slow receivers fill it within milliseconds.
const BUDGET: usize = 1 << 20;
const PAGE_LEN: usize = 64 << 10;

/// Serves the bus again and again, until it is ended.
pub fn run(arguments: &arguments::SoakBroker) -> Result<(), Failure> {
    super::client::end_with_the_parent()?;
    let mut reporter = Reporter::new().map_err(Failure::other)?;
    let bus = &arguments.socket;
    loop {
        let builder = Broker::builder()
            .page_len(PAGE_LEN)
            .max_message_len(MAX_MESSAGE_LEN)
            .chain_budget(BUDGET)
            .grace_period(GRACE_PERIOD);
        let broker = match builder.bind(bus) {
            Err(BindError::InUse { .. }) => {
                match Broker::wait_until_free(bus, None).map_err(BindError::from)? {
                    Vacancy::Closed => return Ok(()),
                    _ => continue,
                }
            }
            broker => broker?,
        };
        reporter.tell(Record::Serving).map_err(Failure::other)?;
        let report = broker.run().map_err(Failure::other)?;
        if report.faults > 0 {
            return Err(Failure::other(format!("{} clients were disconnected", report.faults)));
        }
        if !report.handed_over {
            return Ok(());
        }
        reporter.tell(Record::HandedOver).map_err(Failure::other)?;
    }
}
