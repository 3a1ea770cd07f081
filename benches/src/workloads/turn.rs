//! The cost of a cycle of a broker with many clients.
//!
//! In this process: the broker's core, without sockets, over the memory that it has in production.

use super::growth::allow_many_descriptors;
use crate::measure::{Cell, Figures};
use crate::placement::{cpus, pin};
use crate::regions::shared;
use crate::stats::Spread;
use anyhow::{Context, Result, bail};
use llmp::core::broker::Core;
use llmp::core::chain::{Announcement, Blocked, ChainWriter, FIRST_PAGE, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::Region;
use llmp::core::wire::Roles;
use llmp::{ClientId, Envelope, Limits};
use std::hint::black_box;
use std::time::Instant;

/// Cycles timed as one, and repetitions. The median counts.
const TURNS: u32 = 64;
const ROUNDS: usize = 100;
const PAYLOAD: [u8; 64] = [0x5a; 64];

pub fn cell(clients: usize) -> Cell {
    let case = format!("a cycle of the broker, {clients} clients");
    Cell::new(super::growth::NAME, case, "llmp", move |_| {
        let on = cpus()?[0];
        let turning = std::thread::spawn(move || {
            pin(on)?;
            measure(clients)
        });
        turning.join().unwrap_or_else(|_| bail!("the turning thread has failed"))
    })
    .anywhere()
}

fn measure(clients: usize) -> Result<Figures> {
    allow_many_descriptors()?;
    let mut bus = Bus::with_clients(clients)?;
    let idle = middle(|| {
        black_box(bus.core.cycle());
        Ok(())
    })?;
    let one_sends = middle(|| {
        bus.send()?;
        bus.turn()
    })?;
    Ok(vec![
        ("ns_idle", idle),
        ("ns_idle_per_client", idle / clients as f64),
        ("ns_one_sends", one_sends),
    ])
}

/// Returns nanoseconds for the work of one cycle.
fn middle(mut work: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for _ in 0..TURNS {
            work()?;
        }
        times.push(begun.elapsed().as_nanos() as f64 / f64::from(TURNS));
    }
    Ok(Spread::of(times).context("no cycle was timed")?.median)
}

/// A bus whose clients are awake and receive nothing. Only the last one ever sends.
struct Bus {
    core: Core<Region>,
    sender: ChainWriter<Region>,
    id: ClientId,
}

impl Bus {
    fn with_clients(clients: usize) -> Result<Self> {
        let limits = Limits::default();
        let control = shared("control", control_len(clients))?;
        let page = || shared("page", limits.page_len());
        let mut core = Core::new(limits, control.clone(), clients, page()?);
        let mut last = None;
        for _ in 0..clients {
            let reserved = core.reserve(Roles::SEND.and(Roles::RECEIVE)).context("no place")?;
            let peer = Control::create(shared("control", control_len(1))?, 1);
            core.join(reserved.client, peer.memory().clone())?;
            let first = page()?;
            last = Some((reserved, ChainWriter::new(reserved.client.0, limits, first.clone())));
            core.page_arrived(reserved.client, FIRST_PAGE, first)?;
        }
        let (reserved, mut sender) = last.context("no client")?;
        sender.admit(0, Control::check(control, reserved.cursor)?, reserved.cursor);
        sender.mark_sent(0);
        Ok(Bus { core, sender, id: reserved.client })
    }

    fn send(&mut self) -> Result<()> {
        loop {
            match self.sender.send(Envelope::tagged(1), &PAYLOAD) {
                Ok(()) => return Ok(()),
                Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                    let page = shared("page", len)?;
                    self.sender.add_page(page.clone());
                    while let Some(Announcement::Page(id)) = self.sender.announcement(0) {
                        self.core.page_arrived(self.id, id, page.clone())?;
                        self.sender.mark_sent(0);
                    }
                }
                Err(refused) => bail!("{refused:?}"),
            }
        }
    }

    /// No client reads the page, but all must receive its announcement before it is used.
    fn announce(&mut self) {
        let untold: Vec<ClientId> = self.core.has_unsent().collect();
        for client in untold {
            while self.core.announcement(client).is_some() {
                self.core.mark_sent(client);
            }
        }
    }

    /// A cycle that consumes something.
    fn turn(&mut self) -> Result<()> {
        loop {
            let turn = self.core.cycle();
            match turn.blocked {
                None if turn.consumed > 0 => return Ok(()),
                Some(Blocked::NeedPage(len)) => self.core.add_page(shared("page", len)?),
                Some(Blocked::Announce) => self.announce(),
                _ => bail!("{turn:?}"),
            }
        }
    }
}
