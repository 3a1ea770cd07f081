//! How a chain's speed depends on its page length, and so on the memory that it cycles through.
//!
//! `cargo benchmark pool` sends over a channel between two threads. The receiver copies and reads
//! every payload. The page lengths alternate, so that noise of the machine affects all alike. The
//! figures are medians of the rounds.

use llmp::{Limits, Receiver, Sender};
use std::time::{Duration, Instant};

const ROUNDS: usize = 7;
const PAGES: [usize; 5] = [64 << 10, 256 << 10, 1 << 20, 2 << 20, 4 << 20];
const SIZES: [usize; 4] = [64, 1024, 8192, 65536];
const ROUND: Duration = Duration::from_millis(150);

pub fn run() {
    print!("{:>12}", "bytes");
    for page in PAGES {
        print!("  {:>8} KiB pages", page >> 10);
    }
    println!("   (M messages/s, GiB/s)");
    for len in SIZES {
        let mut rates = [const { Vec::new() }; PAGES.len()];
        for _ in 0..ROUNDS {
            for (rate, page_len) in rates.iter_mut().zip(PAGES) {
                rate.push(round(len, page_len));
            }
        }
        print!("{len:>12}");
        for mut rate in rates {
            rate.sort_by(f64::total_cmp);
            let median = rate[ROUNDS / 2];
            let gib = median * len as f64 / (1u64 << 30) as f64;
            print!("  {:>8.3} M {gib:>6.2}", median / 1e6);
        }
        println!();
    }
}

/// Messages per second over one fresh channel.
fn round(len: usize, page_len: usize) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("channel");
    let budget = Limits::DEFAULT_BUDGET.max(Limits::least_budget(page_len, 1 << 16));
    let limits = Limits::new(page_len, 1 << 16, budget).unwrap();
    let listener = Receiver::listen_with(&path, limits).unwrap();
    let sender = std::thread::spawn(move || {
        let mut sender = Sender::connect(&path).unwrap();
        let payload = vec![0x5a; len];
        // Ends when the receiver has hung up.
        while sender.send(1, &payload).is_ok() {}
    });
    let mut receiver = listener.accept().unwrap();
    // Until the pool has the size that it keeps.
    for _ in 0..2 * budget / len {
        receiver.recv().unwrap();
    }
    let start = Instant::now();
    let (mut messages, mut sum) = (0u64, 0u64);
    while start.elapsed() < ROUND {
        for _ in 0..64 {
            let message = receiver.recv().unwrap();
            sum += message.payload.iter().map(|b| u64::from(*b)).sum::<u64>();
            messages += 1;
        }
    }
    let rate = messages as f64 / start.elapsed().as_secs_f64();
    assert_eq!(sum, messages * len as u64 * 0x5a);
    drop(receiver);
    sender.join().unwrap();
    rate
}
