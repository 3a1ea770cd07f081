//! The cost of the memory abstraction: the protocol as it is, compared with the same protocol
//! written by hand on raw pointers, alternately within one run.
//!
//! `cargo benchmark abstraction` prints nanoseconds per message (medians) and the ratio of the
//! paired runs. One thread fills a chain and empties it again. No cache line changes its owner, so
//! every instruction counts.

use crate::regions::heap;
use llmp::core::chain::{Blocked, ChainReader, ChainWriter, Event, Refused};
use llmp::core::control::Control;
use llmp::core::layout::control_len;
use llmp::core::memory::Region;
use llmp::{Envelope, Limits};
use std::hint::black_box;
use std::time::Instant;

const ROUNDS: usize = 41;
const CHAIN_LEN: usize = 256 * 1024;

pub fn run() {
    println!(
        "{:>8}  {:>9} {:>9} {:>7}   {:>9} {:>9} {:>7}",
        "bytes", "send ns", "by hand", "ratio", "recv ns", "by hand", "ratio"
    );
    for len in [8, 64, 128, 136, 256, 1024, 4096, 65536] {
        let messages = (CHAIN_LEN / (len + 32)).min(2000);
        let payload = vec![0x5a; len];
        let mut ours = Ours::new(len);
        let mut by_hand = by_hand::Chain::new(CHAIN_LEN + 65536);
        let mut times = [const { Vec::new() }; 4];
        for _ in 0..ROUNDS {
            // Alternately, so that noise of the machine affects both alike.
            let mut measure = |i: usize, work: &mut dyn FnMut()| {
                let start = Instant::now();
                work();
                times[i].push(start.elapsed().as_nanos() as f64 / messages as f64);
            };
            measure(0, &mut || (0..messages).for_each(|_| ours.send(black_box(&payload))));
            measure(1, &mut || (0..messages).for_each(|_| by_hand.send(black_box(&payload))));
            measure(2, &mut || (0..messages).for_each(|_| _ = black_box(ours.receive())));
            measure(3, &mut || (0..messages).for_each(|_| _ = black_box(by_hand.receive())));
            by_hand.reset();
        }
        let ratio = |a: usize, b: usize| {
            median(times[a].iter().zip(&times[b]).map(|(a, b)| a / b).collect())
        };
        let (send, receive) = (ratio(0, 1), ratio(2, 3));
        let [a, b, c, d] = times.map(median);
        println!("{len:>8}  {a:>9.1} {b:>9.1} {send:>7.2}   {c:>9.1} {d:>9.1} {receive:>7.2}");
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// The protocol as it is.
struct Ours {
    sender: ChainWriter<Region>,
    receiver: ChainReader<Region>,
    buffer: Vec<u8>,
}

impl Ours {
    fn new(len: usize) -> Self {
        let page_len = CHAIN_LEN + 65536 + 4096;
        let limits = Limits::new(page_len, len, Limits::least_budget(page_len, len)).unwrap();
        let first = heap(page_len);
        let control = Control::create(heap(control_len(1)), 1);
        let mut sender = ChainWriter::new(1, limits, first.clone());
        sender.admit(0, control.clone(), 0);
        sender.mark_sent(0);
        let receiver = ChainReader::from_beginning(limits, 1, first, control, 0).unwrap();
        Ours { sender, receiver, buffer: vec![0; len] }
    }

    #[inline]
    fn send(&mut self, payload: &[u8]) {
        while let Err(refused) = self.sender.send(Envelope::tagged(7), payload) {
            let Refused::Blocked(Blocked::NeedPage(len)) = refused else { panic!("{refused:?}") };
            let page = heap(len);
            self.sender.add_page(page.clone());
            self.sender.mark_sent(0);
            self.receiver.add_page(1, page).unwrap();
        }
    }

    #[inline]
    fn receive(&mut self) -> u32 {
        loop {
            match self.receiver.poll().unwrap() {
                Event::Message(slot) => {
                    let envelope = self.receiver.envelope(&slot);
                    self.receiver.read(&slot, &mut self.buffer);
                    self.receiver.advance(&slot);
                    return envelope.tag.0 + u32::from(self.buffer[0]);
                }
                Event::PageAdvanced => drop(self.receiver.release()),
                event => panic!("{event:?}"),
            }
        }
    }
}

/// The same bytes and the same checks, written by hand.
mod by_hand {
    use std::sync::atomic::{AtomicU64, Ordering};

    pub struct Chain {
        page: Vec<u64>,
        /// As many pages as the chain goes round in, so that the caches see the same.
        other: Vec<u64>,
        written: usize,
        read: usize,
        buffer: Vec<u8>,
        limit: usize,
        next_message: u64,
        next_received: u64,
        payload_bytes: u64,
    }

    impl Chain {
        pub fn new(len: usize) -> Self {
            Chain {
                page: vec![0; len / 8],
                other: vec![0; len / 8],
                written: 0,
                read: 0,
                buffer: vec![0; 65536],
                limit: 65536,
                next_message: 0,
                next_received: 0,
                payload_bytes: 0,
            }
        }

        pub fn reset(&mut self) {
            (self.written, self.read) = (0, 0);
            std::mem::swap(&mut self.page, &mut self.other);
            self.page[0] = 0;
        }

        fn len(&self) -> usize {
            self.page.len() * 8
        }

        #[allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "that is its point")]
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        pub fn send(&mut self, payload: &[u8]) {
            let at = self.written;
            let slot = (payload.len() + 16 + 15) & !15;
            assert!(payload.len() <= self.limit && at + slot + 16 <= self.len());
            unsafe {
                let start = self.page.as_mut_ptr().cast::<u8>().add(at);
                start.add(8).cast::<u64>().write(7 | 1 << 32);
                std::ptr::copy_nonoverlapping(payload.as_ptr(), start.add(16), payload.len());
                AtomicU64::from_ptr(start.add(slot).cast()).store(0, Ordering::Relaxed);
                let commit = payload.len() as u64 | 1 << 32;
                AtomicU64::from_ptr(start.cast()).store(commit, Ordering::Release);
            }
            self.written += slot;
            self.next_message += 1;
            self.payload_bytes += payload.len() as u64;
        }

        #[allow(unsafe_code, clippy::undocumented_unsafe_blocks, reason = "that is its point")]
        #[allow(clippy::multiple_unsafe_ops_per_block)]
        pub fn receive(&mut self) -> u32 {
            let at = self.read;
            unsafe {
                let start = self.page.as_mut_ptr().cast::<u8>().add(at);
                let commit = AtomicU64::from_ptr(start.cast()).load(Ordering::Acquire);
                assert!(commit >> 32 == 1);
                let len = commit as u32 as usize;
                let slot = (len + 16 + 15) & !15;
                assert!(len <= self.limit && at + slot + 16 <= self.len());
                let tag = start.add(8).cast::<u64>().read() as u32;
                let buffer = &mut self.buffer[..len];
                std::ptr::copy_nonoverlapping(start.add(16), buffer.as_mut_ptr(), len);
                self.read += slot;
                self.next_received += 1;
                tag + u32::from(self.buffer[0])
            }
        }
    }
}
