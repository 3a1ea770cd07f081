//! The protocol without an operating system: a sender and a receiver on a bare aarch64 machine.
//!
//! `cargo run` in this directory builds the core of llmp for `aarch64-unknown-none` and runs it in
//! QEMU. The program owns all memory: pages and control regions come from its own allocator. It
//! sends messages through a chain of two pages, so that each page is reused many times, and checks
//! every byte that arrives.

#![no_std]
#![no_main]

extern crate alloc;

mod machine;

use alloc::vec::Vec;
use llmp::core::chain::{Announcement, Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::link::{Interest, Link};
use llmp::core::memory::Region;
use llmp::{Envelope, Limits};
use machine::{exit, print};

const MESSAGES: u32 = 10_000;

/// A zeroed region of the program's memory.
fn region(len: usize) -> Region {
    // SAFETY: each region goes to one writer or one control region, and the other handles to the
    // peer, on one thread.
    unsafe { Region::new_heap(len) }
}

/// Two ends of a channel, and the first page.
fn channel(limits: Limits) -> (Link<Region>, Link<Region>) {
    let control = || Control::create(region(control_len(1)), 1);
    let as_peer = |control: &Control<Region>| Control::check(control.memory().clone(), 0);
    let (ours, theirs) = (control(), control());
    theirs.give_place(0, 1);
    let (to_us, to_them) = (as_peer(&ours).unwrap(), as_peer(&theirs).unwrap());
    let first = region(limits.page_len());
    let writer = ChainWriter::new(1, limits, first.clone());
    let reader = ChainReader::from_beginning(limits, 1, first, theirs.clone(), 0).unwrap();
    let mut sender = Link::new(ours, to_them, Some((writer, 0)), None);
    sender.mark_sent();
    (sender, Link::new(theirs, to_us, None, Some(reader)))
}

/// The bytes of a message.
fn payload(n: u32) -> Vec<u8> {
    (0..n % 200).map(|i| (n + i) as u8).collect()
}

/// Sends one message if there is room, and hands new pages to the receiver.
fn send(sender: &mut Link<Region>, receiver: &mut Link<Region>, n: u32) -> bool {
    loop {
        match sender.send(Envelope::tagged(n), &payload(n)) {
            Ok(_) => return true,
            Err(Refused::Blocked(Blocked::Full)) => return false,
            Err(Refused::Blocked(Blocked::NeedPage(len))) => {
                sender.outbound_mut().unwrap().add_page(region(len));
            }
            Err(Refused::Blocked(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
        while let Some(announcement) = sender.announcement() {
            let inbound = receiver.inbound_mut().unwrap();
            match announcement {
                Announcement::Page(id) => {
                    let page = sender.outbound().unwrap().page(id).unwrap().clone();
                    inbound.add_page(id, page).unwrap();
                }
                Announcement::Forget(id) => inbound.forget_page(id).unwrap(),
            }
            sender.mark_sent();
        }
    }
}

/// Returns whether there is a message. `.ci/aarch64` checks the instructions of this load.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn load_commit_word(inbound: &ChainReader<Region>) -> bool {
    inbound.has_message()
}

/// Receives what is there. Returns how many messages.
fn receive(receiver: &mut Link<Region>, first: u32) -> u32 {
    let mut n = 0;
    if !load_commit_word(receiver.inbound().unwrap()) {
        return n;
    }
    loop {
        match receiver.poll().unwrap().0 {
            Event::Message(slot) => {
                let inbound = receiver.inbound_mut().unwrap();
                let mut found = alloc::vec![0; slot.payload_len()];
                inbound.read(&slot, &mut found);
                assert_eq!(inbound.envelope(&slot).tag.0, first + n);
                assert_eq!(found, payload(first + n));
                inbound.advance(&slot);
                n += 1;
            }
            Event::PageAdvanced => {}
            Event::Empty => {
                receiver.release();
                return n;
            }
            Event::Unknown(id) => panic!("page {id} was not announced"),
        }
    }
}

fn main() {
    let limits = Limits::new(4096, 1000, 8192).unwrap();
    let (mut sender, mut receiver) = channel(limits);
    let (mut sent, mut received) = (0, 0);
    while received < MESSAGES {
        while sent < MESSAGES && send(&mut sender, &mut receiver, sent) {
            sent += 1;
        }
        // A sleeper is rung once.
        let room = Interest { room: Some(64), ..Interest::default() };
        let asleep = sent < MESSAGES && sender.park(room).0;
        received += receive(&mut receiver, received);
        if asleep {
            sender.unpark();
        }
    }
    let stats = sender.outbound().unwrap().stats();
    assert!(stats.reuses > 100, "{stats:?}");
    print(&alloc::format!("{received} messages, {} pages reused\n", stats.reuses));
}

#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    print(&alloc::format!("{info}\n"));
    exit(1)
}
