//! The operations whose instructions are counted. Each has the same preparation for any number of
//! repetitions, and stays within its first page.

use crate::peers::llmp::promise;
use crate::regions::heap;
use anyhow::{Result, bail, ensure};
use llmp::core::broker::{Core, Reserved};
use llmp::core::chain::ChainWriter;
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::Region;
use llmp::core::wire::Roles;
use llmp::{Envelope, Limits};
use std::hint::black_box;

/// Something that is done many times.
pub struct Operation {
    pub name: &'static str,
    /// Performs it this many times.
    pub perform: fn(usize) -> Result<()>,
    /// Repetitions in the two runs that are compared.
    pub times: [usize; 2],
}

pub const OPERATIONS: &[Operation] = &[
    Operation { name: "send 64 B", perform: |n| send(64, n), times: [1000, 2500] },
    Operation { name: "send 1 KiB", perform: |n| send(1024, n), times: [100, 200] },
    Operation { name: "send 64 B in batches of 64", perform: batches, times: [640, 2560] },
    Operation { name: "receive 64 B", perform: |n| receive(64, false, n), times: [1000, 2500] },
    Operation { name: "receive 1 KiB", perform: |n| receive(1024, false, n), times: [100, 200] },
    Operation { name: "borrow 64 B", perform: |n| receive(64, true, n), times: [1000, 2500] },
    Operation { name: "borrow 1 KiB", perform: |n| receive(1024, true, n), times: [100, 200] },
    Operation { name: "poll an empty chain", perform: poll_empty, times: [1024, 2048] },
    Operation { name: "forward 64 B of 3 clients", perform: forward, times: [SHARE, 3 * SHARE] },
    Operation {
        name: "cycle with 1 of 2 idle clients",
        perform: |n| idle(2, n),
        times: [200, 2200],
    },
    Operation {
        name: "cycle with 1 of 500 idle clients",
        perform: |n| idle(500, n),
        times: [1000, 2500],
    },
];

const TAG: u32 = 7;
const BATCH: usize = 64;
/// Messages that the broker consumes from three clients in one cycle.
const SHARE: usize = 3 * 256;

fn send(len: usize, times: usize) -> Result<()> {
    let (mut sender, _receiver) = llmp::channel()?;
    let payload = vec![0x5a; len];
    for _ in 0..times {
        sender.try_send(TAG, black_box(&payload))?;
    }
    ensure!(sender.stats().rollovers == 0, "it has left its first page");
    Ok(())
}

fn batches(times: usize) -> Result<()> {
    let (mut sender, _receiver) = llmp::channel()?;
    let payload = [0x5a; 64];
    for _ in 0..times / BATCH {
        let mut batch = sender.batch();
        for _ in 0..BATCH {
            batch.try_send(TAG, black_box(&payload))?;
        }
        batch.commit();
    }
    ensure!(sender.stats().rollovers == 0, "it has left its first page");
    Ok(())
}

fn receive(len: usize, borrow: bool, times: usize) -> Result<()> {
    let (mut sender, mut receiver) = llmp::channel()?;
    if borrow {
        receiver.borrow_payloads(promise());
    }
    let payload = vec![0x5a; len];
    for _ in 0..Limits::DEFAULT_PAGE_LEN / (len + 32) {
        sender.try_send(TAG, &payload)?;
    }
    ensure!(sender.stats().rollovers == 0, "it has left its first page");
    for _ in 0..times {
        let Some(message) = receiver.try_recv()? else { bail!("nothing is left") };
        ensure!(black_box(message.payload).len() == len, "another message");
    }
    Ok(())
}

/// A receiver that polls and finds nothing; its looks at the connection are part of it.
fn poll_empty(times: usize) -> Result<()> {
    let (_sender, mut receiver) = llmp::channel()?;
    for _ in 0..times {
        ensure!(receiver.try_recv()?.is_none(), "no message was sent");
    }
    Ok(())
}

/// A broker and its clients' chains, in memory of the heap.
struct Bus {
    core: Core<Region>,
    clients: Vec<ChainWriter<Region>>,
}

impl Bus {
    fn new(clients: usize) -> Result<Self> {
        let (limits, page_len) = (Limits::default(), Limits::DEFAULT_PAGE_LEN);
        let control = heap(control_len(clients));
        let mut core = Core::new(limits, control, clients, heap(page_len));
        let clients = (0..clients).map(|_| {
            let roles = Roles::SEND.and(Roles::RECEIVE);
            let Some(Reserved { client, cursor }) = core.reserve(roles) else { bail!("no place") };
            let control = Control::create(heap(control_len(1)), 1);
            core.join(client, control.memory().clone())?;
            let first = heap(page_len);
            let mut sender = ChainWriter::new(client.0, limits, first.clone());
            let ours = Control::check(core.control().clone(), cursor)?;
            sender.admit(0, ours, cursor);
            sender.mark_sent(0);
            core.page_arrived(client, llmp::core::chain::FIRST_PAGE, first)?;
            while core.announcement(client).is_some() {
                core.mark_sent(client);
            }
            Ok(sender)
        });
        let clients = clients.collect::<Result<_>>()?;
        Ok(Bus { core, clients })
    }
}

fn forward(times: usize) -> Result<()> {
    let mut bus = Bus::new(3)?;
    let each = bus.core.limits().page_len() / (64 + 32) / bus.clients.len();
    for client in &mut bus.clients {
        for _ in 0..each {
            ensure!(client.send(Envelope::tagged(TAG), &[0x5a; 64]).is_ok(), "no room");
        }
    }
    for _ in 0..times / SHARE {
        let turn = black_box(bus.core.cycle());
        ensure!(turn.consumed == SHARE && turn.blocked.is_none(), "another share: {turn:?}");
    }
    Ok(())
}

fn idle(clients: usize, times: usize) -> Result<()> {
    let mut bus = Bus::new(clients)?;
    for _ in 0..times / clients {
        ensure!(black_box(bus.core.cycle()).consumed == 0, "no message was sent");
    }
    Ok(())
}
